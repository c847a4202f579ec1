"""From frames to pixel values, resized, cropped and normalised, in torchvision on both sides."""

import numpy as np

from benchmarks.comparison import BUILTIN, HERE, Comparison, Setting
from benchmarks.models import processor


def frames(setting: Setting) -> np.ndarray:
    """32 frames of 720p, as a reader returns them."""
    shape = (4, 72, 128, 3) if setting.tiny else (32, 720, 1280, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def prepare_pixels(side: str):
    def prepare(setting: Setting):
        video, video_processor = frames(setting), processor(side, "clip", setting).video_processor
        return lambda: video_processor(video, return_tensors="pt", device=setting.device)

    return prepare


SIDES = {side: prepare_pixels(side) for side in (HERE, BUILTIN)}
COMPARISONS = [
    Comparison("pixels", "prepare pixels, 32 frames of 720p to 336x336", SIDES, least={BUILTIN: 1.2}, rounds=9),
    Comparison("pixels_memory", "memory of preparing these pixels", SIDES, measure="peak", rounds=1),
]
