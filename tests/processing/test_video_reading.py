"""Frames are exact: numbered clips in many containers and codecs, read back and compared with a plain decode."""

import base64
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO

import av
import numpy as np
import pytest

from llava_next_video import VideoReadError, read_video
from tests.tiny import number_of, write_video


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


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_video_is_turned_upright(rotation, tmp_path):
    """`rotation` degrees counter-clockwise are stored beside the picture; players turn it by as much."""
    path = write_video(tmp_path / "clip.mp4", rotation=rotation, num_frames=2)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    frames, metadata = read_video(path)
    assert (frames[0] == np.rot90(stored, rotation // 90)).all()
    assert (metadata.height, metadata.width) == frames.shape[1:3]


def test_every_kind_of_source_gives_the_same_frames(clip):
    data = clip.read_bytes()
    expected, _ = read_video(str(clip), choosing([7, 31]))
    assert [number_of(frame) for frame in expected] == [7, 31]
    uri = "data:video/mp4;base64," + base64.b64encode(data).decode()
    with clip.open("rb") as file:
        for source in (clip, data, bytearray(data), memoryview(data), BytesIO(data), file, uri):
            assert (read_video(source, choosing([7, 31]))[0] == expected).all()


class OneFile(BaseHTTPRequestHandler):
    data = b""

    def do_GET(self):
        self.send_response(200 if self.path == "/clip.mp4" else 404)
        self.end_headers()
        self.wfile.write(self.data if self.path == "/clip.mp4" else b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(clip):
    OneFile.data = clip.read_bytes()
    with HTTPServer(("127.0.0.1", 0), OneFile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_url_is_read(server, clip):
    frames, _ = read_video(f"{server}/clip.mp4", choosing([3]))
    assert number_of(frames[0]) == 3


def test_error_names_the_url_that_failed(server):
    with pytest.raises(VideoReadError, match=rf"Could not read the video '{server}/none.mp4': .*404"):
        read_video(f"{server}/none.mp4")


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_error_when_there_is_no_such_file(tmp_path):
    with pytest.raises(VideoReadError, match=r"Could not read the video '.*none.mp4': there is no such file"):
        read_video(tmp_path / "none.mp4")


def test_error_when_it_is_a_folder(tmp_path):
    with pytest.raises(VideoReadError, match="it is a folder"):
        read_video(tmp_path)


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


def test_error_when_base64_is_broken():
    with pytest.raises(VideoReadError, match="given as a data URI of 30 characters: its base64 is broken"):
        read_video("data:video/mp4;base64,????????")


def test_error_when_the_source_is_of_no_known_kind():
    with pytest.raises(TypeError, match="A video cannot be read from int"):
        read_video(3)
