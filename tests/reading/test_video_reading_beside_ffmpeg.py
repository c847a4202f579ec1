"""Every file of the corpus is read by FFmpeg's own program too: as many frames, the same frames, the same way up."""

import shutil
import subprocess

import av
import numpy as np
import pytest

from llava_next_video import read_video
from tests.fuzz.corpus import CLIPS, PICTURES, make_corpus


UNKNOWN_TO_FFMPEG = ["animated.webp", "animated.avif"]  # that is, to version 5.1, of Debian 12
FFMPEG = shutil.which("ffmpeg")
pytestmark = pytest.mark.skipif(FFMPEG is None, reason="needs FFmpeg's program")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def decode(path, *options: str) -> list[np.ndarray]:
    """All frames as FFmpeg's program decodes them, unchanged, and then converted as `read_video` does."""
    raw = path.with_name(f"{path.name}.nut")
    command = [FFMPEG, "-v", "error", "-y", *options, "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough"]
    subprocess.run([*command, "-c:v", "rawvideo", raw], check=True, capture_output=True)
    pixels = CLIPS[path.name].pixels if path.name in CLIPS else "yuvj" if path.suffix == ".jpg" else ""
    colours = {"src_color_range": "JPEG"} if pixels.startswith("yuvj") else {}  # which raw frames do not tell
    with av.open(str(raw)) as container:
        return [frame.to_ndarray(format="rgb24", **colours) for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", [name for name in [*CLIPS, *PICTURES] if name not in UNKNOWN_TO_FFMPEG])
def test_same_frames_as_ffmpeg(name, corpus):
    expected = decode(corpus[name], "-noautorotate")
    assert len(expected) > 0
    for indices in (range(len(expected)), [len(expected) - 1], [0, len(expected) // 2]):
        frames, metadata = read_video(corpus[name], lambda metadata, indices=indices: indices)
        assert metadata.total_num_frames == len(expected)
        stored = unturned(name, frames)
        assert [frame.tobytes() for frame in stored] == [expected[index].tobytes() for index in indices]


def unturned(name: str, frames: np.ndarray) -> np.ndarray:
    """Frames as they are stored, from frames that were turned upright."""
    clip = CLIPS.get(name)
    if clip is None:
        return frames
    frames = frames[:, :, ::-1] if clip.flip.get("hflip") else frames
    frames = frames[:, ::-1] if clip.flip.get("vflip") else frames
    return np.rot90(frames, k=-clip.rotation // 90, axes=(1, 2))


@pytest.mark.parametrize("name", [name for name, clip in CLIPS.items() if clip.rotation or clip.flip])
def test_same_way_up_as_ffmpeg(name, corpus):
    expected = np.stack(decode(corpus[name]))  # which turns frames itself
    frames, _ = read_video(corpus[name])
    assert frames.shape == expected.shape
    # Colours are stored at half the resolution, and blur a little differently when they are turned first.
    assert np.abs(frames.astype(int) - expected).mean() < 2
