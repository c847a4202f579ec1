"""Large files on servers that give out parts: few are fetched, under the rules and limits of a download, each."""

# ruff: noqa: F811  # fixtures of another file
from types import SimpleNamespace

import av
import numpy as np
import pytest

from llava_next_video import ReadingLimits, VideoLimitError, VideoReadError, read_video
from llava_next_video.reading import downloads, limits, ranged_file
from llava_next_video.reading.errors import WholeFileNeeded, describe
from llava_next_video.reading.ranged_file import RangedFile
from llava_next_video.reading.video_sources import open_source
from tests.fuzz.corpus import make_corpus
from tests.reading.server_of_parts import Server, address, clip, server  # noqa: F401  # fixtures
from tests.reading.test_container_index import some
from tests.tiny import number_of, numbered_frame


HERE = ReadingLimits(allow_private_addresses=True, max_fetch_seconds=20)


def numbers(frames) -> list[int]:
    return [number_of(frame) for frame in frames]


def test_parts_of_a_file_give_the_frames_of_the_whole(server, clip):
    frames, metadata = read_video(f"{server}/give", some(0, 31), HERE)
    expected, known = read_video(clip, some(0, 31))
    assert np.array_equal(frames, expected)
    assert vars(metadata) == vars(known)
    assert None not in Server.parts
    assert len(Server.parts) < 12
    assert sum(end - start for start, end in Server.parts) < 0.5 * len(Server.data)


def test_each_run_of_frames_is_one_request(server):
    read_video(f"{server}/give", some(0), HERE)
    alone = len(Server.parts)
    Server.parts.clear()
    read_video(f"{server}/give", some(0, 15, 17, 45), HERE)
    assert len(Server.parts) == alone + 2


def test_whole_file_is_fetched_at_once_where_most_of_it_is_needed(server, clip):
    frames, _ = read_video(f"{server}/give", limits=HERE)
    assert numbers(frames) == list(range(60))
    assert Server.parts[-1] is None
    assert len(Server.parts) < 12


def test_small_files_are_fetched_at_once(server, clip, monkeypatch):
    monkeypatch.setattr(ranged_file, "SMALL_FILE", 2**24)
    assert numbers(read_video(f"{server}/give", some(31), HERE)[0]) == [31]
    assert Server.parts == [(0, 2**13), None]
    Server.parts.clear()
    monkeypatch.setattr(ranged_file, "FIRST_PIECE", 2**24)
    assert numbers(read_video(f"{server}/give", some(31), HERE)[0]) == [31]
    assert Server.parts == [(0, clip.stat().st_size)]


@pytest.mark.parametrize("limits", [HERE, ReadingLimits(allow_private_addresses=True, always_scan=True)])
@pytest.mark.parametrize("name", ["h264_fragments.mp4", "h264.flv", "animated.webp", "mpeg4_groups.avi"])
def test_files_without_an_index_at_one_place_are_fetched_whole(name, limits, server, tmp_path):
    Server.data = make_corpus(tmp_path, [name])[name].read_bytes()
    assert numbers(read_video(f"{server}/give", some(0, 5), limits)[0]) == [0, 5]
    assert len(Server.parts) <= 4
    assert (Server.parts == [None]) == limits.always_scan


def test_error_for_an_index_of_too_many_frames(server):
    with pytest.raises(VideoLimitError, match="max_frames=10"):
        read_video(f"{server}/give", some(0), ReadingLimits(allow_private_addresses=True, max_frames=10))


def test_file_whose_index_is_wrong_is_fetched_whole(server, clip):
    data = bytearray(clip.read_bytes())
    at = data.index(b"ctts") + 16
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + 512).to_bytes(4, "big")
    Server.data = bytes(data)
    expected, _ = read_video(bytes(data), some(0, 5), ReadingLimits(always_scan=True))
    assert np.array_equal(read_video(f"{server}/give", some(0, 5), HERE)[0], expected)


@pytest.mark.parametrize("number", [0, 2, 4])
@pytest.mark.parametrize("what", ["whole", "less", "more", "elsewhere", "nonsense", "changed", "grown", "redirect"])
def test_servers_that_do_otherwise_are_read(what, number, server):
    """The whole file is fetched where a part is another than was asked for, or of another version."""
    assert numbers(read_video(f"{server}/{what}/{number}", some(0, 31), HERE)[0]) == [0, 31]


@pytest.mark.parametrize("what", ["unnamed", "weakly_named"])
def test_parts_of_a_file_without_a_version_are_not_put_together(what, server):
    """They may be of two files: no header tells."""
    assert numbers(read_video(f"{server}/{what}", some(0, 31), HERE)[0]) == [0, 31]
    assert Server.parts == [(0, 2**13), None]


def write_packets_of_one_size(path, numbers):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuvj420p"
        for number in numbers:
            for encoded in stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number, 96, 128), format="rgb24")):
                packet = av.Packet(bytes(encoded).ljust(8000, b"\0"))
                packet.stream, packet.time_base, packet.is_keyframe = stream, encoded.time_base, True
                packet.pts = packet.dts = encoded.pts
                output.mux(packet)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"ETag": '"1"'}, {"ETag": '"2"'}),
        ({"ETag": '"1"'}, {}),
        ({"Last-Modified": "Sat, 28 Nov 2026 10:00:00 GMT"}, {"Last-Modified": "Sat, 28 Nov 2026 10:00:01 GMT"}),
    ],
)
def test_file_that_changes_between_two_parts_gives_the_frames_of_one_version(before, after, server, tmp_path):
    """After each number of requests, a file whose packets lie in the same places: only its version tells."""
    paths = [tmp_path / "before.mov", tmp_path / "after.mov"]
    for path, first in zip(paths, (0, 100)):
        write_packets_of_one_size(path, range(first, first + 60))
    data, changed = (path.read_bytes() for path in paths)
    assert len(data) == len(changed)
    Server.later = changed, after
    found = []
    for number in range(1, 9):
        Server.data, Server.version = data, before
        Server.parts.clear()
        found.append(numbers(read_video(f"{server}/swapped/{number}", some(0, 31), HERE)[0]))
    assert Server.data == data  # there are no eight requests
    assert [frames for frames in found if frames not in ([0, 31], [100, 131])] == []
    assert found[0] == [100, 131]


@pytest.mark.parametrize("what", ["refused"])
def test_server_that_refuses_the_first_part_is_asked_for_the_whole(what, server):
    assert numbers(read_video(f"{server}/{what}", some(0, 31), HERE)[0]) == [0, 31]
    assert len(Server.parts) == 2


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut", r"the connection was closed after \d+ of \d+ bytes"),
        ("gone", "answered 404 Not Found"),
        ("refused", "answered 416"),
    ],
)
def test_error_when_a_later_part_is_not_to_be_had(what, message, server):
    with pytest.raises(VideoReadError, match=message):
        read_video(f"{server}/{what}/3", some(0, 31), HERE)


@pytest.mark.parametrize("number", [1, 3])
def test_error_when_the_server_stops_in_the_middle(number, server):
    short = ReadingLimits(allow_private_addresses=True, max_fetch_seconds=1)
    with pytest.raises(VideoLimitError, match=f"'{server}/stalls/{number}': fetching it took longer than max_fetch_s"):
        read_video(f"{server}/stalls/{number}", some(0, 31), short)


def test_file_that_is_kept_open_is_fetched_once(server):
    """Its parts, and the whole of it where that is needed."""
    file = open_source(f"{server}/give", HERE, in_parts=True)
    file.keep_pieces()
    frames = [numbers(read_video(file, some(0, 31), HERE)[0]) for _ in range(2)]
    assert frames == [[0, 31], [0, 31]]
    places = [place for part in Server.parts for place in range(*part)]
    assert len(places) == len(set(places)) < 0.5 * len(Server.data)
    for _ in range(2):
        assert numbers(read_video(file, limits=HERE)[0]) == list(range(60))
    assert Server.parts.count(None) == 1
    assert describe(file) == repr(f"{server}/give")


def test_no_more_is_taken_than_was_asked_for(server):
    """The server sends a part over and over."""
    assert numbers(read_video(f"{server}/endless/1", some(0, 31), HERE)[0]) == [0, 31]


def test_parts_together_have_the_limit_on_bytes(server):
    small = ReadingLimits(allow_private_addresses=True, max_fetched_bytes=len(Server.data) // 2)
    assert numbers(read_video(f"{server}/give", some(0, 31), small)[0]) == [0, 31]  # larger than may be fetched
    with pytest.raises(VideoLimitError, match=r"its \d+ bytes or more are over max_fetched_bytes"):
        read_video(f"{server}/give", limits=small)
    tiny = ReadingLimits(allow_private_addresses=True, max_fetched_bytes=2**13 - 1)
    with pytest.raises(VideoLimitError, match="over max_fetched_bytes=8191"):
        read_video(f"{server}/give", some(0), tiny)


@pytest.mark.parametrize("most", [1, 3])
def test_requests_have_a_limit(most, server, monkeypatch):
    monkeypatch.setattr(ranged_file, "MAX_REQUESTS", most)
    assert numbers(read_video(f"{server}/give", some(0, 31), HERE)[0]) == [0, 31]
    assert Server.parts[-1] is None
    assert len(Server.parts) <= 4


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    for module in (limits, ranged_file):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_parts_share_the_time_of_a_download_and_take_none_from_decoding(server, clock, monkeypatch):
    def give(self, *args):
        clock.now += 10
        self.give(*args)

    monkeypatch.setattr(Server, "slowly", give, raising=False)
    fast = ReadingLimits(allow_private_addresses=True, max_fetch_seconds=1000, max_decode_seconds=5)
    assert numbers(read_video(f"{server}/slowly", some(0, 31), fast)[0]) == [0, 31]
    num_requests = len(Server.parts)
    Server.parts.clear()
    with pytest.raises(VideoLimitError, match="fetching it took longer than max_fetch_seconds=25; raise this limit"):
        read_video(f"{server}/slowly", some(0, 31), ReadingLimits(allow_private_addresses=True, max_fetch_seconds=25))
    assert len(Server.parts) == 3 < num_requests


@pytest.mark.parametrize("number", [0, 3])
def test_each_part_comes_from_an_address_that_is_allowed(number, server, monkeypatch):
    """Also where a later request is redirected, or a name leads elsewhere by then."""
    monkeypatch.setattr(downloads, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(downloads, "is_own", lambda family, address: False)
    with pytest.raises(VideoReadError, match=r"127\.0\.0\.2 is at 127\.0\.0\.2, which is not a public address"):
        read_video(f"{server}/away/{number}", some(0, 31))
    asked = []
    monkeypatch.setattr(downloads, "is_public", lambda address: asked.append(address) or len(asked) <= 3)
    with pytest.raises(VideoReadError, match=r"127\.0\.0\.1 is at 127\.0\.0\.1, which is not a public address"):
        read_video(f"{server}/give", some(0, 31))
    assert len(asked) == 4


def test_what_lies_together_is_planned_together():
    response = SimpleNamespace(url="http://a/", headers={})
    file = RangedFile("http://a/", response, ReadingLimits(), size=10**9)
    file.plan([(5_000_000, 6_000_000), (0, 100), (200_000, 300_000)])
    assert file.planned == [(0, 300_000), (5_000_000, 6_000_000)]
    with pytest.raises(WholeFileNeeded):
        file.plan([(0, 600_000_000)])
    with pytest.raises(WholeFileNeeded):
        file.plan([(number * 10**6, number * 10**6 + 1) for number in range(ranged_file.MAX_REQUESTS + 1)])
    file.size = 10**10  # more than may be fetched whole
    file.plan([(0, 6 * 10**9)])
    assert [file.seek(5), file.seek(3, 1), file.seek(-4, 2), file.tell()] == [5, 8, 10**10 - 4, 10**10 - 4]
