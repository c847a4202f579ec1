"""Videos that come as decoders of torchcodec."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.ffmpeg_of_pyav import link_libraries
from llava_next_video import VideoReadError, read_video
from llava_next_video.reading.pictures import read_picture


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("torchcodec") and find_spec("datasets")), reason="torchcodec and datasets are not installed"
)
def test_with_torchcodec(tmp_path):
    """torchcodec finds its FFmpeg when a process starts, so its tests have one of their own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if links := link_libraries(tmp_path / "ffmpeg"):
        environment["LD_LIBRARY_PATH"] = f"{links}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    tests = ["tests/reading/with_torchcodec.py", "-p", "no:cacheprovider", "-q"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *tests], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-10_000:] + ended.stderr[-3000:]


class Decoder:
    """A decoder that does what torchcodec's may, without an FFmpeg."""

    def __init__(self, *sizes: tuple[int, int], damaged: bool = False):
        self.sizes, self.damaged = sizes, damaged
        self.stream_index = 0
        self.metadata = SimpleNamespace(height=8, width=8, average_fps=25.0, begin_stream_seconds=0.0)

    def __len__(self):
        return len(self.sizes)

    def get_frames_at(self, indices):
        if self.damaged:
            raise RuntimeError("Could not push packet to decoder")
        frames = [torch.full((3, *self.sizes[index]), index, dtype=torch.uint8) for index in indices]
        return SimpleNamespace(data=torch.stack(frames), pts_seconds=torch.tensor(indices, dtype=torch.float64) / 25)


def test_what_works_like_a_decoder_is_one():
    frames, metadata = read_video(Decoder(*[(8, 8)] * 20), lambda metadata: [0, 7, 19])
    assert frames[:, 0, 0, 0].tolist() == [0, 7, 19]
    assert np.allclose(metadata.timestamps, [0, 0.28, 0.76])


def test_decoder_that_fails_is_an_error_of_the_video():
    with pytest.raises(
        VideoReadError, match=r"given as Decoder: its decoder failed at the frames \[0\]: Could not push"
    ):
        read_video(Decoder((8, 8), damaged=True))


def test_decoder_without_frames():
    with pytest.raises(VideoReadError, match="its video stream has no frames"):
        read_video(Decoder())


def test_decoder_whose_frames_differ_in_size():
    with pytest.raises(VideoReadError, match="frames of different sizes; pass the path or the bytes"):
        read_video(Decoder(*[(8, 8)] * 9, *[(4, 4)] * 8))


def test_decoder_is_no_picture():
    with pytest.raises(TypeError, match="A video cannot be read from Decoder"):
        read_picture(Decoder((8, 8)))
