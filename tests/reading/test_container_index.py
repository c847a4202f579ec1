"""Frames found by the index of the container are those found by reading every packet, and cost what they alone cost."""

import re
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from demo_model.clip_writing import write_clip
from llava_next_video import ReadingLimits, read_video
from llava_next_video.reading import video_reading
from llava_next_video.reading.chosen_frames import FullFrames
from llava_next_video.reading.container_index import PredictedPackets
from llava_next_video.reading.guarded_file import GuardedFile
from llava_next_video.reading.mp4_times import delays_of_track, times_of_tracks
from llava_next_video.reading.packet_index import PACKET, PacketsAreNotFrames
from llava_next_video.reading.read_pieces import ReadPieces
from tests.attacks.indexes import box, film, numbers, tables, track
from tests.fuzz.corpus import CLIPS, make_corpus
from tests.fuzz.fuzzer import described
from tests.tiny import number_of, numbered_frame


SCAN = ReadingLimits(always_scan=True)
WITH_INDEX = [name for name in CLIPS if Path(name).suffix in (".mp4", ".mov", ".3gp", ".3g2", ".m4v", ".avi")]
NOT_USED = {"h264_fragments.mp4"}  # lists its frames fragment by fragment
IN_ANOTHER_ORDER = {"mpeg4.avi"}  # frames are shown in another order than the index of an AVI has them
NUM_FRAMES, GROUP = 60, 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), WITH_INDEX)


@pytest.fixture
def tried(monkeypatch):
    """What came of each try to read by the index: "index", "none" or "wrong"."""
    results = []

    def index_of_container(video, times):
        try:
            index = real(video, times)
        except PacketsAreNotFrames:
            results.append("wrong")
            raise
        results.append("none" if index is None else "index")
        return index

    real = video_reading.index_of_container
    monkeypatch.setattr(video_reading, "index_of_container", index_of_container)
    return results


@pytest.fixture
def scanned(monkeypatch):
    """Paths of files, once for each time their packets were listed."""
    times = []
    real = video_reading.index_of_packets
    monkeypatch.setattr(video_reading, "index_of_packets", lambda video: times.append(video) or real(video))
    return times


def both_ways(source, choose):
    frames, metadata = read_video(source, choose)
    expected, expected_metadata = read_video(source, choose, SCAN)
    assert np.array_equal(frames, expected)
    assert described(metadata) == described(expected_metadata)
    return frames, metadata


def some(*numbers: int):
    return lambda metadata: [number % metadata.total_num_frames for number in numbers]


@pytest.mark.parametrize("name", WITH_INDEX)
def test_index_and_packets_give_the_same_frames(name, corpus, tried, scanned):
    for choose in (some(0, -1), some(7), some(5, 5, 6, 11), None):
        frames, _ = both_ways(corpus[name], choose)
        assert len(frames)
    expected = "none" if name in NOT_USED else "wrong" if name in IN_ANOTHER_ORDER else "index"
    assert tried == [expected] * 4
    assert len(scanned) == (4 if expected == "index" else 8)  # four were asked for


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten groups of noise, every picture of which takes kilobytes, and B-frames."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_noise(path, range(NUM_FRAMES))
    return path


def write_noise(path: Path, numbers, seed: int = 0, brightest: int = 255):
    rng = np.random.default_rng(seed)
    frames = []
    for number in numbers:
        frame = rng.integers(0, brightest + 1, (96, 128, 3), np.uint8)
        frame[:48] = numbered_frame(number, 96, 128)[:48]
        frames.append(frame)
    options = {"g": str(GROUP), "bf": "2", "x264-params": "scenecut=0:threads=1"}
    write_clip(path, frames, 25, options=options)


class Counted(BytesIO):
    """Counts what is read of it; no `BytesIO` to the reader, which keeps nothing of one."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self.places = np.zeros(len(data), bool)

    def read(self, size=-1):
        position = self.tell()
        data = super().read(size)
        self.places[position : position + len(data)] = True
        return data


def test_only_groups_with_chosen_frames_are_read(clip, monkeypatch):
    """But for the first packets, which are looked at before FFmpeg sees them."""
    monkeypatch.setattr("llava_next_video.reading.first_packets.KEPT_BYTES", 0)
    file = Counted(clip.read_bytes())
    frames, metadata = read_video(file, some(0, 31))
    assert [number_of(frame) for frame in frames] == [0, 31]
    assert metadata.total_num_frames == NUM_FRAMES
    by_index = file.places.sum()
    file = Counted(clip.read_bytes())
    read_video(file, some(0, 31), SCAN)
    assert by_index < 0.5 * file.places.sum()
    assert file.places.mean() > 0.99


def test_nothing_is_read_behind_the_last_frame_of_a_run(clip, monkeypatch):
    """The decoder is emptied: it used to be fed until it gave the frame by itself."""
    given = []
    real = video_reading.OpenVideo.packets
    monkeypatch.setattr(
        video_reading.OpenVideo, "packets", lambda self: (given.append(packet) or packet for packet in real(self))
    )
    frames, _ = read_video(clip, some(12, 13, 30))
    assert [number_of(frame) for frame in frames] == [12, 13, 30]
    assert len(given) < 1 + GROUP + 2


def test_files_are_opened_several_times_and_read_once(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    with path.open("rb") as file:
        guarded = GuardedFile(file, ReadingLimits().deadline_of_decoding())
        video_reading.read_frames(guarded, some(0), ReadingLimits(), FullFrames(ReadingLimits()))
        assert guarded.num_bytes_read < 1.2 * path.stat().st_size
        assert guarded.pieces is None


def test_pieces_are_read_whole_where_their_beginning_is_kept(clip):
    """A header of which 16 bytes were kept was counted by those alone."""
    with clip.open("rb") as file:
        guarded = GuardedFile(file, ReadingLimits().deadline_of_decoding())
        guarded.keep_pieces()
        assert len(guarded.read_at(100, 16)) == 16
        assert guarded.read_at(100, 1000) == clip.read_bytes()[100:1100]
        assert guarded.read_at(110, 100) == clip.read_bytes()[110:210]
        assert guarded.read_at(clip.stat().st_size - 5, 100) == clip.read_bytes()[-5:]


def test_pieces_have_a_limit():
    pieces = ReadPieces(10)
    pieces.add(5, b"abcde")
    pieces.add(10, b"fgh")
    pieces.add(0, b"too much")
    assert [pieces.find(5, 3), pieces.find(9, 9), pieces.find(13, 1), pieces.find(0, 9)] == [b"abc", b"efgh", b"", b""]
    pieces.add(0, b"zz")
    assert pieces.find(0, 9) == b"zz"


def change(data: bytes, name: bytes, at: int, value: int) -> bytes:
    """Overwrite 4 bytes, `at` bytes behind the name of the only box of this name."""
    assert data.count(name) == 1
    position = data.index(name) + 4 + at
    return data[:position] + value.to_bytes(4, "big") + data[position + 4 :]


LIES = {
    "a frame is said to be a keyframe": (b"stss", 8 + 4, 4),
    "a frame is said to be decoded earlier": (b"stts", 12, 300),
    "a frame is said to be shown later": (b"ctts", 12, 0x10000),
    "frames are in another chunk": (b"stsc", 16, 7),
    "a frame is larger": (b"stsz", 12 + 4 * 20, 5_000),
    "a frame is empty": (b"stsz", 12 + 4 * 20, 0),
    "a frame lies behind the end of the file": (b"stsz", 12 + 4 * 59, 10_000_000),
    "frames lie elsewhere": (b"stco", 8, 1000),
    "delays are of fewer frames": (b"ctts", 8, 3),
    "an edit cuts frames off": (b"elst", 12, 12_000),
}


@pytest.mark.parametrize("lie", LIES)
def test_index_that_lies_gives_what_the_packets_give(lie, clip):
    data = change(clip.read_bytes(), *LIES[lie])
    for choose in (some(0), some(20), some(4, 31), some(50), None):
        results = []
        for limits in (ReadingLimits(), SCAN):
            try:
                frames, metadata = read_video(data, choose, limits)
                results.append((frames.tobytes(), described(metadata)))
            except ValueError as error:
                results.append((type(error), str(error)))
        assert results[0] == results[1]


def packets_of_avi(data: bytes) -> list[int]:
    """Where the packets of the video begin."""
    movi = data.index(b"movi")
    return [at for at in range(movi, data.index(b"idx1")) if data.startswith(b"00dc", at)]


@pytest.mark.parametrize("field", ["dts", "pts", "size", "pos", "is_keyframe", "is_discard"])
def test_every_packet_has_to_be_as_predicted(field):
    predicted = np.array([(0, 0, 10, 100, True), (1, 2, 10, 110, False), (2, 1, 10, 120, False)], PACKET)
    names = ("dts", "pts", "size", "pos", "is_keyframe")
    packets = [SimpleNamespace(is_discard=False, **dict(zip(names, row))) for row in predicted.tolist()]
    end = SimpleNamespace(size=0)
    assert len(list(PredictedPackets(predicted).checked([*packets[1:], end]))) == 3
    with pytest.raises(PacketsAreNotFrames):
        list(PredictedPackets(predicted).checked([*packets[:2], end]))
    with pytest.raises(PacketsAreNotFrames):
        list(PredictedPackets(predicted[:2]).checked([*packets, end]))
    setattr(packets[1], field, getattr(packets[1], field) + 1)
    with pytest.raises(PacketsAreNotFrames):
        list(PredictedPackets(predicted).checked(packets))


AVI_LIES = {
    "a packet is something else": lambda data, at: data[:at] + b"JUNK" + data[at + 4 :],
    "a packet is of the sound": lambda data, at: data[:at] + b"01wb" + data[at + 4 :],
    "a packet is shorter": lambda data, at: data[: at + 4] + b"\4" + data[at + 5 :],
    "the index is cut off": lambda data, at: data[:-200],
    "a packet is not in the index": lambda data, at: data[: (i := data.index(b"idx1") + 8 + 16 * 20)] + data[i + 16 :],
    "the index has another name": lambda data, at: data.replace(b"idx1", b"JUNK"),
    "something follows the index": lambda data, at: data + b"RIFF\4\0\0\0AVIX",
    "the list of packets has another name": lambda data, at: data.replace(b"movi", b"more", 1),
    "it is cut off in its header": lambda data, at: data[: data.index(b"movi") - 4],
    "many chunks come first": lambda data, at: (
        data[: (i := data.index(b"movi") - 8)] + b"JUNK\0\0\0\0" * 101 + data[i:]
    ),
}


@pytest.mark.parametrize("lie", AVI_LIES)
def test_index_of_an_avi_that_does_not_say_what_packets_say_is_not_used(lie, corpus, tried):
    data = corpus["mpeg4_groups.avi"].read_bytes()
    both_ways(data, some(0, 25))
    data = AVI_LIES[lie](data, packets_of_avi(data)[12])
    try:
        both_ways(data, some(0, 25))
    except ValueError as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            read_video(data, some(0, 25), SCAN)
    assert tried in (["index", "none"], ["index"])


def rows(*pairs) -> bytes:
    return numbers(0, len(pairs), *(value & 0xFFFFFFFF for pair in pairs for value in pair))


def contents_of(made: bytes) -> bytes:
    return made[8:]


def test_delays_are_read_from_tracks_built_as_the_standard_says():
    delays = box(b"ctts", rows((3, 1024), (1, -512)))
    assert delays_of_track(contents_of(track(*tables(4), delays))).tolist() == [[3, 1024], [1, -512]]
    assert delays_of_track(contents_of(track(*tables(4)))).shape == (0, 2)
    once = box(b"edts", box(b"elst", numbers(0, 2, 5, 0xFFFFFFFF, 65536, 9, 0, 65536)))
    assert delays_of_track(contents_of(track(*tables(4), edits=once))).shape == (0, 2)
    long = box(b"edts", box(b"elst", b"\1\0\0\0", numbers(1, 0, 9, 0, 7, 65536)))
    assert delays_of_track(contents_of(track(*tables(4), edits=long))).shape == (0, 2)
    moov = film(track(*tables(4), delays), track(*tables(4), number=2))
    moov = moov[moov.index(b"moov") - 4 :]
    assert {number: len(rows) for number, rows in times_of_tracks(moov).items()} == {1: 2, 2: 0}
    twice = film(track(*tables(4)), track(*tables(4)))
    assert times_of_tracks(twice[twice.index(b"moov") - 4 :]) == {}


ODD_TRACKS = {
    "two tables of delays": track(*tables(4), box(b"ctts", rows((4, 1))), box(b"ctts", rows((4, 2)))),
    "delays in a place where none belong": track(*tables(4), edits=box(b"edts", box(b"ctts", rows((4, 1))))),
    "more rows than there are": track(*tables(4), box(b"ctts", numbers(0, 9, 4, 1))),
    "no frames in a row": track(*tables(4), box(b"ctts", rows((4, 1), (0, 1)))),
    "negative frames in a row": track(*tables(4), box(b"ctts", rows((4, 1), (-1, 1)))),
    "a delay that FFmpeg does not believe": track(*tables(4), box(b"ctts", rows((4, -(2**28))))),
    "two parts": track(*tables(4), edits=box(b"edts", box(b"elst", numbers(0, 2, 5, 0, 65536, 9, 0, 65536)))),
    "parts in a place where none belong": track(*tables(4), box(b"elst", numbers(0, 1, 5, 0, 65536))),
    "fewer parts than are said": track(*tables(4), edits=box(b"edts", box(b"elst", numbers(0, 2, 5, 0, 65536)))),
    "a table beside the others": track(*tables(4)[1:], edits=tables(4)[0]),
    "two tables of times": track(*tables(4), tables(4)[0]),
    "no header": track(*tables(4)).replace(b"tkhd", b"free"),
}


@pytest.mark.parametrize("kind", ODD_TRACKS)
def test_delays_of_tracks_that_are_built_in_another_way_are_not_read(kind):
    assert delays_of_track(contents_of(ODD_TRACKS[kind])) is None
