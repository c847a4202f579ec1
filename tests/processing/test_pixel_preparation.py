"""How frames become pixel values: the built-in's numbers, without its copies."""

import numpy as np
import pytest
import torch
from transformers.models.llava_next_video import LlavaNextVideoVideoProcessor as BuiltinVideoProcessor

from llava_next_video import LlavaNextVideoVideoProcessor
from tests.tiny import random_frames


SQUARE = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"do_resize": False},
        {"do_center_crop": False},
        {"do_resize": False, "do_center_crop": False, "image_mean": [0.1, 0.2, 0.3]},
        {"return_tensors": "np"},
    ],
)
@pytest.mark.parametrize("layout", ["frames as read", "channels first"])
def test_pixels_are_those_of_the_builtin(settings, layout):
    frames = random_frames(3, height=30, width=50)
    if layout == "channels first":
        frames = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
    settings = {"return_tensors": "pt", **settings}
    ours = LlavaNextVideoVideoProcessor(**SQUARE)(frames, **settings)["pixel_values_videos"]
    builtin = BuiltinVideoProcessor(**SQUARE)(frames, **settings)["pixel_values_videos"]
    assert type(ours) is type(builtin)
    assert ours.dtype == builtin.dtype
    assert np.array_equal(np.asarray(ours), np.asarray(builtin))


def test_full_size_frames_are_resized_where_they_lie(monkeypatch):
    """Frames are 15 times as large before resizing as after it: a copy of them costs more than all the rest."""
    frames = random_frames(3)
    resized = []
    resize = LlavaNextVideoVideoProcessor.resize

    def remember(self, image, *args, **kwargs):
        resized.append(image)
        return resize(self, image, *args, **kwargs)

    monkeypatch.setattr(LlavaNextVideoVideoProcessor, "resize", remember)
    LlavaNextVideoVideoProcessor(**SQUARE)(frames, return_tensors="pt")
    assert [image.data_ptr() for image in resized] == [frames.ctypes.data]
    assert resized[0].dtype == torch.uint8


def test_pixels_are_prepared_on_the_device_that_is_named():
    """The meta device stands for a GPU: nothing comes back from it."""
    frames = random_frames(3)
    pixels = LlavaNextVideoVideoProcessor(**SQUARE)(frames, device="meta", return_tensors="pt")["pixel_values_videos"]
    assert pixels.device.type == "meta"
    assert pixels.shape == (1, 3, 3, 16, 16)
