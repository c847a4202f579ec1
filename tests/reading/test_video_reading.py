"""Frames are exact, whatever the container, the codec and the header: numbered clips, read back and compared."""

import base64
import gc
import os
import pickle
import re
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO
from itertools import product
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image, ImageOps

from benchmarks.clips import encode
from demo_model.clip_writing import write_clip
from llava_next_video import ReadingLimits, VideoLimitError, VideoReadError, read_video
from llava_next_video.reading import orientation
from llava_next_video.reading.frame_seeking import FrameSeeker
from llava_next_video.reading.guarded_file import GuardedFile
from llava_next_video.reading.open_video import FORMATS, OpenVideo, open_video
from llava_next_video.reading.orientation import upright
from llava_next_video.reading.packet_index import FrameIndex, PacketsAreNotFrames, index_of_packets
from llava_next_video.reading.pictures import read_picture
from tests.fuzz.corpus import CLIPS as CORPUS
from tests.fuzz.corpus import NUM_FRAMES, PICTURES, make_corpus
from tests.tiny import number_of, numbered_frame, write_video


CLIPS = {
    "one_keyframe.mp4": {"g": "250"},
    "keyframe_every_10.mp4": {"g": "10"},
    "open_gop.mp4": {"x264-params": "open-gop=1:keyint=10:scenecut=0"},
    "no_b_frames.mkv": {"bf": "0"},
    "hidden_frames_vp8.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16"},
    "hidden_frames_vp9.webm": {"codec": "libvpx-vp9", "auto-alt-ref": "1", "lag-in-frames": "16"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "stream.ts": {"g": "10"},
    "no_timestamps.h264": {},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25, "g": "12"},
    "variable_rate.mp4": {"timestamps": [3 * n * n for n in range(40)]},
}
CHOICES = [[0], [39], [0, 13, 26, 39], [5, 5, 6, 38], [20, 21], list(range(40))]


def choosing(indices: list[int]):
    return lambda metadata: indices


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", g="10")


@pytest.mark.parametrize("name", CLIPS)
def test_chosen_frames_are_those_of_a_plain_decode(name, tmp_path):
    path = write_video(tmp_path / name, **CLIPS[name])
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [number_of(frame) for frame in expected] == list(range(40))
    for indices in CHOICES:
        frames, metadata = read_video(path, choosing(indices))
        assert metadata.total_num_frames == 40
        assert metadata.frames_indices == indices
        assert (frames == np.stack([expected[index] for index in indices])).all()


def test_metadata_says_what_the_file_holds_not_what_its_header_says(tmp_path):
    path = write_video(tmp_path / "clip.webm", codec="libvpx", num_frames=30, fps=10)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0  # webm does not store a number of frames
    frames, metadata = read_video(path)
    assert frames.shape == (30, 48, 64, 3)
    assert frames.dtype == np.uint8
    assert (metadata.total_num_frames, metadata.fps, metadata.height, metadata.width) == (30, 10.0, 48, 64)
    assert metadata.duration == pytest.approx(3.0, abs=0.1)
    assert metadata.video_backend == "pyav"


SHOWN = {"h264_rotated_90.mp4", "h264_rotated_180.mov", "h264_rotated_270.mp4", "h264_mirrored.mp4"}
SHOWN |= {"h264_mirrored_rotated.mp4", "h264_odd_size.mkv", "h264_cut.ts", *(n for n in PICTURES if "picture" in n)}


@pytest.mark.parametrize("name", sorted({*CORPUS, *PICTURES} - SHOWN))
def test_every_frame_of_every_kind_of_file_is_read(name, tmp_path):
    """Alpha, palettes, gray, 10 bits, full range, interlaced, fragments, animations, several streams, ..."""
    path = make_corpus(tmp_path, [name])[name]
    frames, metadata = read_video(path)
    num_frames = CORPUS[name].num_frames if name in CORPUS else NUM_FRAMES
    assert [number_of(frame) for frame in frames] == list(range(num_frames))
    assert metadata.total_num_frames == num_frames
    assert metadata.fps == pytest.approx(13 if "variable" in name else CORPUS[name].fps if name in CORPUS else 10, 0.01)
    assert metadata.duration == pytest.approx(num_frames / metadata.fps)


@pytest.mark.parametrize("name", [name for name in PICTURES if "picture" in name])
def test_picture_is_a_video_of_one_frame(name, tmp_path):
    frames, metadata = read_video(make_corpus(tmp_path, [name])[name])
    assert number_of(frames[0]) == 0
    assert frames.shape == (1, 48, 64, 3)
    assert metadata.total_num_frames == 1


def test_odd_size_is_kept(tmp_path):
    frames, metadata = read_video(make_corpus(tmp_path, ["h264_odd_size.mkv"])["h264_odd_size.mkv"])
    assert frames.shape == (12, 47, 63, 3)
    assert (metadata.height, metadata.width) == (47, 63)


def test_recording_that_begins_in_the_middle_starts_at_its_first_keyframe(tmp_path):
    path = make_corpus(tmp_path, ["h264_cut.ts"])["h264_cut.ts"]
    numbers = [number_of(frame) for frame in read_video(path)[0]]
    assert numbers[0] % 5 == 0  # where the keyframes are
    assert numbers == list(range(numbers[0], 24))
    frames, metadata = read_video(path, choosing([10]))
    assert metadata.total_num_frames == len(numbers)
    assert number_of(frames[0]) == numbers[10]


def test_frames_that_an_edit_list_cuts_off_do_not_count(tmp_path):
    with av.open(str(tmp_path / "clip.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("libx264", rate=20, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number))
            frame.pts, frame.time_base = number - 7, Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames, metadata = read_video(tmp_path / "clip.mp4", choosing([0, 4, 32]))
    assert metadata.total_num_frames == 33
    assert [number_of(frame) for frame in frames] == [7, 11, 39]


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    """Two recordings one after the other, whose timestamps begin anew."""
    data = b""
    for begin, side in ((0, 48), (10, 96)):
        with av.open(str(tmp_path / "part.ts"), "w") as container:
            stream = container.add_stream("libx264", rate=20)
            stream.width, stream.height, stream.pix_fmt = side * 4 // 3, side, "yuv420p"
            for number in range(begin, begin + 10):
                frame = av.VideoFrame.from_ndarray(numbered_frame(number, side, side * 4 // 3))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        data += (tmp_path / "part.ts").read_bytes()
    frames, metadata = read_video(data)
    assert frames.shape == (20, 48, 64, 3)
    assert [number_of(frame) for frame in frames] == list(range(20))
    assert metadata.total_num_frames == 20


def test_frame_rate_is_measured_where_the_header_is_wrong(tmp_path):
    path = write_video(tmp_path / "clip.mkv", fps=20)
    lie = path.read_bytes().replace(bytes.fromhex("23e38384") + (50_000_000).to_bytes(4, "big"), b"", 1)
    assert len(lie) == path.stat().st_size - 8
    stated = bytes.fromhex("23e38384") + (1_000_000).to_bytes(4, "big")  # a thousand frames a second
    lie = path.read_bytes().replace(bytes.fromhex("23e38384") + (50_000_000).to_bytes(4, "big"), stated, 1)
    with av.open(BytesIO(lie)) as container:
        assert container.streams.video[0].average_rate == 1000
    _, metadata = read_video(lie)
    assert metadata.fps == pytest.approx(20)
    assert metadata.duration == pytest.approx(2)


def test_length_in_the_header_is_not_believed(tmp_path):
    """An AVI that claims to have four billion frames."""
    data = bytearray(write_video(tmp_path / "clip.avi", codec="mpeg4", fps=20).read_bytes())
    for position in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        assert data[position : position + 4] == (40).to_bytes(4, "little")
        data[position : position + 4] = b"\xff\xff\xff\xff"
    frames, metadata = read_video(data)
    assert len(frames) == metadata.total_num_frames == 40
    assert metadata.duration == 2


def with_cover(path, video: bool):
    """A song, or a video, with a picture attached."""
    with av.open(str(path), "w") as container:
        if video:
            stream = container.add_stream("libx264", rate=20)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        else:
            stream = container.add_stream("libmp3lame", rate=48000, layout="mono")
        cover = container.add_stream("png", rate=20)
        cover.width, cover.height, cover.pix_fmt = 640, 480, "rgb24"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_frame(99, 480, 640))))
        container.mux(cover.encode())
        for number in range(10):
            if video:
                frame = av.VideoFrame.from_ndarray(numbered_frame(number))
            else:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
                frame.rate, frame.pts = 48000, number * 1152
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert [bool(s.disposition & Disposition.attached_pic) for s in container.streams.video][-1]
    return path


def test_cover_is_not_the_video(tmp_path):
    frames, _ = read_video(with_cover(tmp_path / "clip.mp4", video=True))
    assert [number_of(frame) for frame in frames] == list(range(10))
    with pytest.raises(VideoReadError, match="it has no video stream"):
        read_video(with_cover(tmp_path / "song.mp3", video=False))


@pytest.mark.parametrize(
    ("rotation", "horizontally", "vertically"), list(product([0, 90, 180, 270], [False, True], [False, True]))
)
def test_turned_and_mirrored_video_is_shown_as_players_do(rotation, horizontally, vertically, tmp_path):
    """Beside the picture is stored how it is to be turned, counter-clockwise, and then mirrored."""
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(rotation, hflip=horizontally, vflip=vertically)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(5))))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    expected = np.rot90(stored, rotation // 90)
    expected = expected[:, ::-1] if horizontally else expected
    expected = expected[::-1] if vertically else expected
    frames, metadata = read_video(tmp_path / "clip.mp4")
    assert (frames[0] == expected).all()
    assert (metadata.height, metadata.width) == frames.shape[1:3]


@pytest.mark.parametrize(("rotation", "quarters"), [(10, 0), (80, 1), (-100, 3), (170, 2)])
def test_odd_angle_is_taken_to_the_nearest_quarter_turn(rotation, quarters, tmp_path):
    path = write_video(tmp_path / "clip.mp4", rotation=rotation, num_frames=2)
    stored, _ = read_video(write_video(tmp_path / "stored.mp4", num_frames=2))
    assert (read_video(path)[0] == np.rot90(stored, quarters, axes=(1, 2))).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_of_a_camera_is_upright(orientation, suffix, tmp_path):
    picture = Image.fromarray(numbered_frame(5))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / f"picture{suffix}", exif=exif, quality=95)
    with Image.open(tmp_path / f"picture{suffix}") as saved:
        expected = np.asarray(ImageOps.exif_transpose(saved).convert("RGB"))
    frames, _ = read_video(tmp_path / f"picture{suffix}")
    assert np.abs(frames[0].astype(int) - expected).mean() < 2
    assert (np.asarray(read_picture(tmp_path / f"picture{suffix}")) == expected).all()


def test_video_with_side_data_of_an_unknown_kind_is_turned(monkeypatch):
    class Unknown:
        def __getitem__(self, kind):
            raise ValueError("99 is not a valid Type")

    monkeypatch.setattr(orientation, "without_exif", lambda frame: SimpleNamespace(side_data=Unknown()))
    frame = SimpleNamespace(rotation=-90, reformat=lambda **kwargs: None)
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert (upright(frame)(picture) == np.rot90(picture, 3)).all()


def test_every_kind_of_source_gives_the_same_frames(clip):
    data = clip.read_bytes()
    expected, _ = read_video(str(clip), choosing([7, 31]))
    assert [number_of(frame) for frame in expected] == [7, 31]
    uri = "data:video/mp4;base64," + base64.b64encode(data).decode()
    with clip.open("rb") as file:
        for source in (clip, data, bytearray(data), memoryview(data), BytesIO(data), file, uri):
            assert (read_video(source, choosing([7, 31]))[0] == expected).all()


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_error_when_it_is_no_video(tmp_path):
    (tmp_path / "clip.mp4").write_text("hello")
    with pytest.raises(VideoReadError, match=r"clip\.mp4': Invalid data found"):
        read_video(tmp_path / "clip.mp4")
    with pytest.raises(VideoReadError, match="given as 5 bytes: Invalid data found"):
        read_video(b"hello")


def test_error_when_there_is_no_video_stream(tmp_path):
    with pytest.raises(VideoReadError, match="it has no video stream"):
        read_video(write_audio(tmp_path / "sound.m4a"))


def test_error_when_the_file_is_cut_off(clip):
    with pytest.raises(VideoReadError, match="Could not read the video given as 900 bytes"):
        read_video(clip.read_bytes()[:900])


def test_error_when_the_stream_has_no_frames(tmp_path):
    with av.open(str(tmp_path / "clip.mp4"), "w", options={"movflags": "empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        container.start_encoding()
    with pytest.raises(VideoReadError, match="its video stream has no frames"):
        read_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize("indices", [[], [-1], [40], [3, 2]])
def test_error_when_frames_are_chosen_that_cannot_be_read(indices, clip):
    with pytest.raises(ValueError, match=r"were chosen from a video of 40 frames; choose at least one, .* 0 to 39"):
        read_video(clip, choosing(indices))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_frames": 39}, "it has more frames than max_frames=39; cut it, or raise this limit"),
        ({"max_frame_pixels": 3000}, "its frames of 48x64 pixels are over max_frame_pixels=3000; make it smaller, or"),
        (
            {"max_result_bytes": 300_000},
            "40 frames of 48x64 pixels are 368640 bytes, more than max_result_bytes=300000;",
        ),
        (
            {"max_decode_seconds": 0},
            "reading it took longer than max_decode_seconds=0; raise this limit if you trust the video",
        ),
    ],
)
@pytest.mark.parametrize("name", ["clip.mp4", "no_timestamps.h264", "animated.webp"])
def test_error_names_the_limit_that_is_met(name, limits, message, tmp_path):
    if name == "animated.webp":
        frames = [Image.fromarray(numbered_frame(number)) for number in range(40)]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50)
    else:
        write_video(tmp_path / name)
    assert len(read_video(tmp_path / name)[0]) == 40
    with pytest.raises(VideoLimitError, match=message):
        read_video(tmp_path / name, limits=ReadingLimits(**limits))


def test_chosen_frames_count_for_the_size_of_the_result(clip):
    frames, _ = read_video(clip, choosing([0, 39]), ReadingLimits(max_result_bytes=2 * 48 * 64 * 3))
    assert len(frames) == 2


class Recording(BytesIO):
    """A recording that goes on for ever, its timestamps too."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self.position = 0

    def read(self, size=-1):
        data = self.getvalue()
        begin = self.position % len(data)
        piece = data[begin : begin + size]
        self.position += len(piece)
        return piece

    def seek(self, offset, whence=0):
        self.position = offset
        return offset

    def tell(self):
        return self.position


@pytest.mark.parametrize("limits", [{"max_decode_seconds": 1}, {"max_frames": 2000}])
def test_recording_without_end_meets_a_limit(limits, tmp_path):
    data = write_video(tmp_path / "clip.ts", g="10").read_bytes()
    with pytest.raises(VideoLimitError, match=f"{next(iter(limits))}={next(iter(limits.values()))}"):
        read_video(Recording(data), limits=ReadingLimits(**limits))


def png(height: int, width: int) -> bytes:
    """A black picture of any size, in black and white."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\1\0\0\0\0"
    pixels = zlib.compress(bytes(1 + (width + 7) // 8) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_formats_that_are_not_listed_are_not_opened(tmp_path, monkeypatch):
    """A NUT of a kilobyte may claim any number of frames, and FFmpeg believes it."""
    frames = [np.zeros((48, 64, 3), np.uint8)] * 3
    write_clip(tmp_path / "clip.nut", frames, 25, codec="mpeg4")
    with pytest.raises(VideoReadError, match=r"Invalid argument, .*or its format is not read; it is da"):
        read_video(tmp_path / "clip.nut")
    monkeypatch.setattr("llava_next_video.reading.open_video.FORMATS", (*FORMATS, "nut"))
    assert read_video(tmp_path / "clip.nut")[0].shape == (3, 48, 64, 3)


def test_bomb_is_not_unpacked(tmp_path):
    """30 kilobytes that would be 768 megabytes."""
    assert read_video(png(100, 200))[0].shape == (1, 100, 200, 3)
    refused = (
        "Invalid argument, or its frames are over max_frame_pixels=35389440, or its format is not read; it is damaged"
    )
    with pytest.raises(VideoReadError, match=refused):
        read_video(png(16000, 16000))
    (tmp_path / "bomb.png").write_bytes(png(8000, 9000))
    with pytest.raises(VideoLimitError, match="its frames of 8000x9000 pixels are over max_frame_pixels=35389440"):
        read_picture(tmp_path / "bomb.png")
    (tmp_path / "bomb.png").write_bytes(png(16000, 16000))
    with pytest.raises(VideoReadError, match=r"Image size .* could be decompression bomb DOS attack\.$"):
        read_picture(tmp_path / "bomb.png")


def test_animation_with_a_giant_canvas_takes_no_memory_for_it(tmp_path):
    frames = [Image.fromarray(numbered_frame(number)) for number in range(2)]
    frames[0].save(tmp_path / "clip.webp", save_all=True, append_images=frames[1:])
    data = bytearray((tmp_path / "clip.webp").read_bytes())
    data[24:30] = (16382).to_bytes(3, "little") * 2
    with pytest.raises(VideoLimitError, match="its frames of 16383x16383 pixels are over max_frame_pixels"):
        read_video(data)


def test_error_when_an_animation_is_cut_off(tmp_path):
    frames = [Image.fromarray(numbered_frame(number)) for number in range(4)]
    frames[0].save(tmp_path / "clip.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(VideoReadError, match="given as 60 bytes: "):
        read_video((tmp_path / "clip.webp").read_bytes()[:60])


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{target}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile {target}\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 0 RTP/AVP 33\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("form", ["path", "file", "bytes"])
def test_playlist_opens_no_other_file(name, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = write_video(tmp_path / "target.ts")
    list_of_files = tmp_path / name
    list_of_files.write_text(PLAYLISTS[name].format(target=target.name))
    if name != "list.sdp":  # FFmpeg left alone reads what the list names
        with av.open(str(list_of_files)) as container:
            assert len(list(container.decode(video=0))) == 40
    with list_of_files.open("rb") as file:
        source = {"path": list_of_files, "file": file, "bytes": list_of_files.read_bytes()}[form]
        with pytest.raises(VideoReadError, match="it is damaged, cut off or not a video"):
            read_video(source)


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat"])
def test_playlist_opens_no_address(name, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/target.ts"
        (tmp_path / name).write_text(PLAYLISTS[name].format(target=address))
        with pytest.raises(VideoReadError, match="it is damaged, cut off or not a video"):
            read_video(tmp_path / name)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "Invalid data found"),
        (png(10, 10)[:60], "Could not read the video"),
        ("cut", "Could not read the video"),
        ("limit", "max_frames"),
        ("playlist", "Invalid data found"),
        ("fine", None),
    ],
)
def test_nothing_stays_open(data, message, clip, tmp_path):
    """Neither files nor threads, without waiting for the garbage collector."""
    path = tmp_path / "clip.mp4"
    given = {"cut": clip.read_bytes()[:900], "playlist": PLAYLISTS["list.m3u8"].encode()}
    path.write_bytes(clip.read_bytes() if data in ("limit", "fine") else given.get(data, data))
    limits = ReadingLimits(max_frames=5) if data == "limit" else ReadingLimits()

    def read():
        if message is None:
            read_video(path, limits=limits)
            return
        with pytest.raises(VideoReadError, match=message):
            read_video(path, limits=limits)

    read()
    gc.collect()
    gc.disable()
    try:
        before = os.listdir("/proc/self/fd"), len(os.listdir("/proc/self/task")), threading.active_count()
        for _ in range(5):
            read()
        assert (os.listdir("/proc/self/fd"), len(os.listdir("/proc/self/task")), threading.active_count()) == before
    finally:
        gc.enable()


def test_threads_read_the_same_frames_as_one_alone(tmp_path):
    paths = list(make_corpus(tmp_path, ["h264.mp4", "mpeg4.avi", "vp9.webm", "animated.webp", "h264_cut.ts"]).values())
    expected = [read_video(path)[0] for path in paths]
    with ThreadPoolExecutor(4) as pool:
        for number, (frames, _) in enumerate(pool.map(read_video, paths * 8)):
            assert (frames == expected[number % len(paths)]).all()


def test_error_can_be_sent_to_another_process(clip):
    with pytest.raises(VideoLimitError, match="max_frames") as raised:
        read_video(clip, limits=ReadingLimits(max_frames=5))
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), again.video, again.reason) == (VideoLimitError, repr(str(clip)), raised.value.reason)
    assert str(again) == str(raised.value)
    assert re.fullmatch(r"Could not read the video '.*clip\.mp4': it has more frames .*\.", str(again))


class Forgetful(BytesIO):
    """A quarter of it is gone when its frames were counted."""

    times_begun = 0

    def seek(self, offset, whence=0):
        self.times_begun += offset == 0
        if self.times_begun == 7:  # the last time, to decode what was counted
            self.truncate(len(self.getvalue()) * 3 // 4)
        return super().seek(offset, whence)


def test_error_when_a_file_changes_while_it_is_read(tmp_path):
    data = write_video(tmp_path / "clip.h264").read_bytes()
    with pytest.raises(VideoReadError, match="it had fewer frames when it was decoded a second time"):
        read_video(Forgetful(data))


def test_error_when_there_is_no_decoder(tmp_path):
    data = write_video(tmp_path / "clip.mkv").read_bytes()
    assert b"V_MPEG4/ISO/AVC" in data
    with pytest.raises(VideoReadError, match="this build of PyAV has no decoder for its video stream"):
        read_video(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"))


def test_file_in_which_one_cannot_seek_is_counted():
    class Container:
        def seek(self, *args, **kwargs):
            raise av.error.PermissionError(1, "Operation not permitted")

    with pytest.raises(PacketsAreNotFrames):
        FrameSeeker(OpenVideo(None, ReadingLimits(), Container(), None), FrameIndex(1, [0], [0])).packets_after_seek(0)


def test_keyframes_of_a_variable_rate_are_found(tmp_path):
    """FFmpeg looks for them in MP4 by times that are later than the frames', and would stop one keyframe too early."""
    path = tmp_path / "variable.mp4"
    encode(path, height=64, width=96, seconds=8, keyframe_interval=50, variable_rate=True, seed=0)
    with path.open("rb") as file:
        limits = ReadingLimits()
        with open_video(GuardedFile(file, limits.deadline_of_decoding()), limits) as video:
            index = index_of_packets(video)
            seeker, keyframes = FrameSeeker(video, index), index.keyframes
            assert len(keyframes) == 4
            plainly = [seeker.packets_after_seek(keyframe)[0].pts for keyframe in keyframes]
            assert plainly != keyframes
            for keyframe in keyframes:
                target = index.timestamps[index.timestamps.index(keyframe) + 10]
                assert next(seeker.packets_from(keyframe, target)).pts == keyframe
            # A frame too near to its keyframe leads nowhere better: decoding begins earlier.
            late = max(number for number, landed in enumerate(plainly) if landed != keyframes[number])
            packets = seeker.packets_from(keyframes[late], keyframes[late])
            assert next(packets).pts == plainly[late]
