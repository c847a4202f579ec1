"""From frames, or a file, to pixel values: resized, cropped and normalised, in torchvision on all sides."""

import numpy as np

from benchmarks.clips import clip
from benchmarks.comparison import BUILTIN, HERE, Comparison, Setting
from benchmarks.models import processor
from benchmarks.reading import torchcodec


def frames(setting: Setting) -> np.ndarray:
    """32 frames of 720p, as a reader returns them."""
    shape = (4, 72, 128, 3) if setting.tiny else (32, 720, 1280, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def prepare_pixels(side: str):
    def prepare(setting: Setting):
        video, video_processor = frames(setting), processor(side, "clip", setting).video_processor
        return lambda: video_processor(video, return_tensors="pt", device=setting.device)

    return prepare


def file_to_pixels(name: str):
    def prepare(setting: Setting):
        path, video_processor = (
            clip(name, setting.clips, setting.tiny),
            processor(HERE, "clip", setting).video_processor,
        )
        return lambda: video_processor(path, return_tensors="pt", device=setting.device)

    return prepare


def torchcodec_and_builtin(name: str):
    def prepare(setting: Setting):
        read = torchcodec(name, dimension_order="NCHW")(setting)
        video_processor = processor(BUILTIN, "clip", setting).video_processor
        return lambda: video_processor(read().data, return_tensors="pt", device=setting.device)

    return prepare


def take_memory(num_bytes: int):
    """What is asked for, as a side."""
    return lambda setting: lambda: len(b"x" * num_bytes)


THEIRS, MOST = "torchcodec and built-in", "at most 260 MB"
SIDES = {side: prepare_pixels(side) for side in (HERE, BUILTIN)}


def from_file(name: str) -> dict:
    return {HERE: file_to_pixels(name), THEIRS: torchcodec_and_builtin(name)}


COMPARISONS = [
    Comparison("pixels", "prepare pixels, 32 frames of 720p to 336x336", SIDES, least={BUILTIN: 1.2}, rounds=9),
    Comparison("pixels_memory", "memory of preparing these pixels", SIDES, measure="peak", rounds=1),
    Comparison(
        "file_pixels_30",
        "from a file to pixels, 32 frames of 720p, keyframe every 30",
        from_file("60s-720p-keyframes-30"),
        least={THEIRS: 1.4},
    ),
    Comparison(
        "file_pixels_250",
        "the same, keyframe every 250",
        from_file("60s-720p-keyframes-250"),
        least={THEIRS: 1.7},
    ),
    Comparison("file_pixels_4k", "from a file to pixels, 32 frames of 4K", from_file("3s-4k"), least={THEIRS: 1.2}),
    Comparison(
        "file_pixels_4k_memory",
        "memory of the same",
        {**from_file("3s-4k"), MOST: take_memory(260_000_000)},
        measure="peak",
        least={MOST: 1},
        rounds=1,
    ),
]
