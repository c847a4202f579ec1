"""Large files on servers that give out parts: few are fetched, under the rules and limits of a download, each."""

import contextlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from llava_next_video import ReadingLimits, VideoLimitError, VideoReadError, read_video
from llava_next_video.reading import downloads, limits, ranged_file
from llava_next_video.reading.errors import WholeFileNeeded
from llava_next_video.reading.ranged_file import RangedFile
from tests.fuzz.corpus import make_corpus
from tests.reading.test_container_index import clip, some  # noqa: F401  # a fixture
from tests.tiny import number_of


HERE = ReadingLimits(allow_private_addresses=True, max_fetch_seconds=20)


class Server(BaseHTTPRequestHandler):
    """Gives out `data`; the path says from which request on it does what."""

    data = b""
    parts: list[tuple[int, int] | None] = []  # of each request; None for the whole
    seen: list[str] = []

    def do_GET(self):
        name, _, number = self.path[1:].partition("/")
        self.seen.append(self.path)
        asked = self.headers["Range"]
        first, last = (int(end) for end in asked.removeprefix("bytes=").split("-")) if asked else (0, 10**12)
        last = min(last, len(self.data) - 1)
        self.parts.append((first, last + 1) if asked else None)
        is_time = len(self.parts) > int(number or 0)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, name if is_time and asked else "give")(first, last, bool(asked))

    def give(self, first, last, is_part, shown=None, size=None, etag='"1"'):
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", shown or f"bytes {first}-{last}/{size or len(self.data)}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(self.data[first : last + 1])

    def whole(self, first, last, is_part):
        self.give(0, len(self.data) - 1, False)

    def less(self, first, last, is_part):
        self.give(first, first + (last - first) // 3, True)

    def more(self, first, last, is_part):
        self.give(first, last + 1000, True)

    def elsewhere(self, first, last, is_part):
        self.give(first + 1, last, True)

    def nonsense(self, first, last, is_part):
        self.give(first, last, True, shown=f"bytes {first}-{last}/*")

    def changed(self, first, last, is_part):
        self.give(first, last, True, etag='"2"')

    def grown(self, first, last, is_part):
        self.give(first, last, True, size=len(self.data) + 1)

    def refused(self, first, last, is_part):
        self.send_error(416)

    def gone(self, first, last, is_part):
        self.send_error(404)

    def cut(self, first, last, is_part):
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.data)}")
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(self.data[first : (first + last) // 2])

    def endless(self, first, last, is_part):
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.data)}")
        self.send_header("ETag", '"1"')
        self.end_headers()
        while True:
            self.wfile.write(self.data[first : last + 1])

    def redirect(self, first, last, is_part):
        self.send_response(302)
        self.send_header("Location", "/give")
        self.end_headers()

    def away(self, first, last, is_part):
        self.send_response(302)
        self.send_header("Location", f"http://127.0.0.2:{self.server.server_port}/give")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.daemon_threads = True
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def server(address, clip, monkeypatch):  # noqa: F811
    """A file of half a megabyte is a large one here."""
    for name, number in {"SMALL_FILE": 0, "FIRST_PIECE": 2**13, "LARGEST_PIECE": 2**15, "NEAR": 2**10}.items():
        monkeypatch.setattr(ranged_file, name, number)
    monkeypatch.setattr("llava_next_video.reading.first_packets.KEPT_BYTES", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Server.data = clip.read_bytes()
    Server.parts.clear()
    Server.seen.clear()
    return address


def numbers(frames) -> list[int]:
    return [number_of(frame) for frame in frames]


def test_parts_of_a_file_give_the_frames_of_the_whole(server, clip):  # noqa: F811
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


def test_whole_file_is_fetched_at_once_where_most_of_it_is_needed(server, clip):  # noqa: F811
    frames, _ = read_video(f"{server}/give", limits=HERE)
    assert numbers(frames) == list(range(60))
    assert Server.parts[-1] is None
    assert len(Server.parts) < 12


def test_small_files_are_fetched_at_once(server, clip, monkeypatch):  # noqa: F811
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


def test_file_whose_index_is_wrong_is_fetched_whole(server, clip):  # noqa: F811
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
