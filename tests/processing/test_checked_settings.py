"""Settings of the image and the video processor that cannot be, wherever they come from."""

import pytest
import torch
from transformers.image_utils import SizeDict

from llava_next_video import LlavaNextVideoVideoProcessor
from tests.processing.test_pixel_bounds import SIDE, images, videos
from tests.tiny import random_frames


def test_size_may_be_one_number():
    frames = random_frames(2)
    expected = videos(do_center_crop=False)(frames, return_tensors="pt")["pixel_values_videos"]
    assert expected.shape[-2:] == (16, 21)
    by_number = LlavaNextVideoVideoProcessor(size=SIDE, do_center_crop=False)
    assert torch.equal(by_number(frames, return_tensors="pt")["pixel_values_videos"], expected)
    assert torch.equal(
        videos(do_center_crop=False)(frames, size=SIDE, return_tensors="pt")["pixel_values_videos"], expected
    )


def test_one_number_is_the_mean_of_all_colours():
    """It was a TypeError in the image processor, and an IndexError with exact pixels."""
    frames = random_frames(1)
    for make in (videos, images):
        for exact_pixels in (False, True):
            expected = make(image_mean=[0.25] * 3, exact_pixels=exact_pixels)(frames[0])
            for mean in (0.25, [0.25]):
                again = make(image_mean=mean, exact_pixels=exact_pixels)(frames[0])
                assert torch.equal(next(iter(again.values()))[0], next(iter(expected.values()))[0])


def test_long_settings_are_quoted_shortened():
    for make, settings in ((videos, {"frame_sampling": "x" * 10**6}), (images, {"image_mean": [0.5] * 10**6})):
        with pytest.raises(ValueError, match="it has to be") as caught:
            make(**settings)
        assert len(str(caught.value)) < 500


WRONG = [
    (videos, {"num_frames": 3 * 10**8}, "num_frames is 300000000; it has to be a whole number from 1 to 1000000"),
    (videos, {"num_frames": "4"}, "num_frames is '4'; it has to be a whole number"),
    (
        videos,
        {"size": {"shortest_edge": 10**5}},
        r"size\['shortest_edge'\] is 100000; it has to be pixels, of which a square",
    ),
    (images, {"size": {"height": 10**5, "width": 16}}, r"size\['height'\] is 100000"),
    (images, {"size": {"shortest_edge": "16"}}, r"size\['shortest_edge'\] is '16'; it has to be pixels"),
    (images, {"crop_size": {"height": 0, "width": 16}}, r"crop_size\['height'\] is 0"),
    (videos, {"crop_size": {"height": 16, "width": 10**5}}, r"crop_size\['width'\] is 100000"),
    (
        videos,
        {"fps": 0},
        "fps is 0; it has to be a number greater than 0",
    ),  # was a ZeroDivisionError
    (videos, {"fps": float("inf")}, "fps is inf; it has to be a number greater than 0"),
    (videos, {"resample": 99}, "resample is 99; it has to be a number of PIL.Image.Resampling, 0 to 5"),  # KeyError
    (images, {"resample": -1}, "resample is -1; it has to be a number of PIL.Image.Resampling"),
    (videos, {"rescale_factor": 0}, "rescale_factor is 0; it has to be a number other than 0"),
    (videos, {"image_std": [1, 1, 0]}, r"image_std is \[1, 1, 0\]; it has to be three numbers, .*, greater than 0"),
    (images, {"image_mean": [1, 1]}, r"image_mean is \[1, 1\]; it has to be three numbers, one for each colour"),
    (images, {"image_mean": [float("nan")] * 3}, "image_mean is "),
    (
        images,
        {"image_grid_pinpoints": [[16, 16]] * 10**6},
        "image_grid_pinpoints is .*; it has to be 1 to 1000",
    ),
    (images, {"image_grid_pinpoints": []}, r"image_grid_pinpoints is \[\]"),
    (images, {"image_grid_pinpoints": 7}, "image_grid_pinpoints is 7"),
    (
        images,
        {"image_grid_pinpoints": [[16]]},
        r"image_grid_pinpoints is \[\[16\]\]; it has to be 1 to 1000 sizes \[height, width\]",
    ),
    (images, {"image_grid_pinpoints": [[16, -1]]}, r"image_grid_pinpoints is \[\[16, -1\]\]"),
    # These ended in KeyError, TypeError, IndexError, OverflowError or RuntimeError, most of them in a call.
    (videos, {"frame_sampling": "nope"}, "frame_sampling is 'nope'; it has to be one of .'uniform'"),
    (videos, {"frame_sampling": ["x"]}, r"frame_sampling is \['x'\]; it has to be one of"),
    (videos, {"fps": 10**400}, "fps is 1000000.*; it has to be a number"),
    (videos, {"do_rescale": []}, r"do_rescale is \[\]; it has to be True or False"),
    (images, {"do_normalize": ["a"]}, r"do_normalize is \['a'\]; it has to be True or False"),
    (images, {"rescale_factor": 10**400}, "rescale_factor is 1000000.*; it has to be a number"),
    (images, {"image_mean": []}, r"image_mean is \[\]; it has to be three numbers"),
    (images, {"size": []}, r"size is \[\]; it has to be a number of pixels, \[height, width\], or sides by name"),
    (videos, {"crop_size": ["x"]}, r"crop_size is \['x'\]; it has to be a number of pixels"),
    (images, {"input_data_format": []}, r"input_data_format is \[\]; it has to be one of"),
    (images, {"image_aspect_ratio": "round"}, "image_aspect_ratio is 'round'; it has to be 'anyres'"),
    (images, {"image_aspect_ratio": "padded"}, "image_aspect_ratio is 'padded'; it has to be 'anyres'"),  # was a square
    (images, {"image_aspect_ratio": "anyres_max_0"}, "image_aspect_ratio is 'anyres_max_0'; it has to be 'anyres'"),
]


@pytest.mark.parametrize(("make", "settings", "message"), WRONG)
def test_error_for_settings_that_cannot_be(make, settings, message):
    """Where they come from a checkpoint, are assigned, or passed to a call."""
    with pytest.raises(ValueError, match=message):
        make(**settings)
    processor = make()
    [(name, value)] = settings.items()
    setattr(processor, name, SizeDict(**value) if isinstance(value, dict) else value)
    with pytest.raises(ValueError, match=message):
        processor(random_frames(1))
