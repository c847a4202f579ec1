"""What preparing pixels may cost: settings that take for ever, pictures that are long and thin, videos in pieces."""

import numpy as np
import pytest
import torch
from transformers.image_utils import SizeDict

from llava_next_video import (
    LlavaNextVideoImageProcessor,
    LlavaNextVideoVideoProcessor,
    ReadingLimits,
    VideoLimitError,
)
from llava_next_video.processing.pixel_bounds import largest_sides
from tests.tiny import make_model, make_processor, random_frames, write_video


SIDE = 16
SQUARE = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
THIN = np.zeros((2, 40, 3), dtype=np.uint8)  # resized by its shorter side: 16x320


def images(**settings):
    return LlavaNextVideoImageProcessor(**{**SQUARE, "image_grid_pinpoints": [[16, 32]], **settings})


def videos(**settings):
    return LlavaNextVideoVideoProcessor(**{**SQUARE, **settings})


@pytest.mark.parametrize("exact_pixels", [False, True])
def test_thin_pictures_are_refused_before_they_are_resized(exact_pixels):
    """126 bytes of PNG, 16000x1 pixels, took 5.4 GB."""
    square = images(image_aspect_ratio="square", exact_pixels=exact_pixels)
    square.limits = ReadingLimits(max_frame_pixels=16 * 320 // 4)
    assert square(THIN, return_tensors="pt")["pixel_values"].shape == (1, 1, 3, SIDE, SIDE)
    square.limits = ReadingLimits(max_frame_pixels=16 * 320 // 4 - 1)
    with pytest.raises(VideoLimitError, match="picture of 16x320 pixels, more than 4 times max_frame_pixels=1279"):
        square(THIN)
    video = videos(exact_pixels=exact_pixels)
    video.limits = square.limits
    with pytest.raises(VideoLimitError, match=r"of 2x40 pixels: preparing it takes a picture of 16x320 pixels"):
        video(THIN[None])


def test_squares_of_long_pictures_are_refused_before_they_are_padded():
    pad = images(image_aspect_ratio="pad")
    pad.limits = ReadingLimits(max_frame_pixels=400)
    assert pad(THIN, return_tensors="pt")["pixel_values"].shape == (1, 1, 3, SIDE, SIDE)
    pad.limits = ReadingLimits(max_frame_pixels=399)
    with pytest.raises(VideoLimitError, match="a picture of 40x40 pixels, more than 4 times max_frame_pixels=399"):
        pad(THIN)


def test_result_of_a_video_is_bounded_before_it_is_prepared():
    video = videos()
    video.limits = ReadingLimits(max_result_bytes=10 * SIDE * SIDE * 3)
    assert len(video(np.zeros((10, 4, 4, 3), np.uint8), return_tensors="pt")["pixel_values_videos"][0]) == 10
    with pytest.raises(
        VideoLimitError, match="of 11x16x16 pixels: the pixels prepared of it are 8448 bytes, more than"
    ):
        video(np.zeros((11, 4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_resize": False},
        {"do_center_crop": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"exact_pixels": True},
        {"exact_pixels": True, "do_rescale": False},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_of_a_video_in_pieces_are_those_of_the_whole(settings, dtype):
    frames = random_frames(5, height=30, width=50).astype(dtype)
    if dtype == np.float32 and settings.get("exact_pixels") and "do_rescale" in settings:
        pytest.skip("refused, see below")
    whole, pieces = videos(**settings), videos(**settings)
    pieces.limits = ReadingLimits(max_frame_pixels=2 * 30 * 50)
    expected = whole(frames, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(pieces(frames, return_tensors="pt")["pixel_values_videos"], expected)


def test_exact_pixels_that_are_not_rescaled():
    """The levels themselves, as PIL resizes them."""
    frames = random_frames(2)
    settings = {"exact_pixels": True, "do_normalize": False}
    levels = videos(**settings, do_rescale=False)(frames, return_tensors="pt")["pixel_values_videos"]
    scaled = videos(**settings)(frames, return_tensors="pt")["pixel_values_videos"]
    assert levels.dtype == torch.uint8
    assert torch.equal((levels.double() * (1 / 255)).float(), scaled)
    normalized = videos(exact_pixels=True, do_rescale=False, image_mean=[1, 2, 3], image_std=[2, 2, 2])
    expected = (levels - torch.tensor([1.0, 2, 3])[:, None, None]) / 2
    assert torch.equal(normalized(frames, return_tensors="pt")["pixel_values_videos"], expected)


def test_error_for_exact_pixels_of_floats_that_are_not_rescaled():
    values = random_frames(1).astype(np.float32) / 100
    for processor in (videos(exact_pixels=True, do_rescale=False), images(exact_pixels=True, do_rescale=False)):
        with pytest.raises(ValueError, match=r"exact_pixels=True got torch\.float32 and do_rescale=False"):
            processor(values)


def test_size_may_be_one_number():
    frames = random_frames(2)
    expected = videos(do_center_crop=False)(frames, return_tensors="pt")["pixel_values_videos"]
    assert expected.shape[-2:] == (16, 21)
    by_number = LlavaNextVideoVideoProcessor(size=SIDE, do_center_crop=False)
    assert torch.equal(by_number(frames, return_tensors="pt")["pixel_values_videos"], expected)
    assert torch.equal(
        videos(do_center_crop=False)(frames, size=SIDE, return_tensors="pt")["pixel_values_videos"], expected
    )


def test_largest_sides_of_every_kind_of_size():
    assert largest_sides(10, 40, SizeDict(shortest_edge=20)) == (20, 80)
    assert largest_sides(10, 40, SizeDict(height=5, width=6)) == (5, 6)
    assert largest_sides(10, 40, SizeDict(shortest_edge=20, longest_edge=30)) == (30, 30)
    assert largest_sides(10, 40, SizeDict(max_height=7, max_width=8)) == (7, 8)


WRONG = [
    (videos, {"num_frames": 3 * 10**8}, "num_frames=300000000; it has to be a whole number from 1 to 1000000"),
    (videos, {"num_frames": "4"}, "num_frames=4; it has to be a whole number"),
    (
        videos,
        {"size": {"shortest_edge": 10**5}},
        r"size\['shortest_edge'\]=100000; it has to be pixels, of which a square",
    ),
    (images, {"size": {"height": 10**5, "width": 16}}, r"size\['height'\]=100000"),
    (images, {"size": {"shortest_edge": "16"}}, r"size\['shortest_edge'\]=16; it has to be pixels"),
    (images, {"crop_size": {"height": 0, "width": 16}}, r"crop_size\['height'\]=0"),
    (videos, {"crop_size": {"height": 16, "width": 10**5}}, r"crop_size\['width'\]=100000"),
    (
        videos,
        {"fps": 0},
        "fps=0; it has to be a number greater than 0|fps=0; it has to be greater than 0",
    ),  # was a ZeroDivisionError
    (videos, {"fps": float("inf")}, "fps=inf; it has to be a number greater than 0"),
    (videos, {"resample": 99}, "resample=99; it has to be a number of PIL.Image.Resampling, 0 to 5"),  # KeyError
    (images, {"resample": -1}, "resample=-1; it has to be a number of PIL.Image.Resampling"),
    (videos, {"rescale_factor": 0}, "rescale_factor=0; it has to be a number other than 0"),
    (videos, {"image_std": [1, 1, 0]}, r"image_std=\[1, 1, 0\]; it has to be three numbers, .*, greater than 0"),
    (images, {"image_mean": [1, 1]}, r"image_mean=\[1, 1\]; it has to be three numbers, one for each colour"),
    (images, {"image_mean": [float("nan")] * 3}, "image_mean="),
    (
        images,
        {"image_grid_pinpoints": [[16, 16]] * 10**6},
        "image_grid_pinpoints=1000000 entries; it has to be 1 to 1000",
    ),
    (images, {"image_grid_pinpoints": []}, "image_grid_pinpoints=0 entries"),
    (images, {"image_grid_pinpoints": 7}, "image_grid_pinpoints=7"),
    (images, {"image_grid_pinpoints": [[16]]}, r"image_grid_pinpoints=\[16\]; it has to be sizes \[height, width\]"),
    (images, {"image_grid_pinpoints": [[16, -1]]}, r"image_grid_pinpoints=\[16, -1\]"),
    (images, {"image_aspect_ratio": "round"}, "image_aspect_ratio=round; it has to be 'anyres'"),
    (images, {"image_aspect_ratio": "padded"}, "image_aspect_ratio=padded; it has to be 'anyres'"),  # was a square
    (images, {"image_aspect_ratio": "anyres_max_0"}, "image_aspect_ratio=anyres_max_0; it has to be 'anyres'"),
]


@pytest.mark.parametrize(("make", "settings", "message"), WRONG)
def test_error_for_settings_that_cannot_be(make, settings, message):
    """Where they come from a checkpoint, are assigned, or passed to a call."""
    with pytest.raises(ValueError, match=message):
        make(**settings)(random_frames(1))
    processor = make()
    [(name, value)] = settings.items()
    setattr(processor, name, SizeDict(**value) if isinstance(value, dict) else value)
    with pytest.raises(ValueError, match=message):
        processor(random_frames(1))


def test_error_for_too_many_tiles():
    processor = images(
        size={"shortest_edge": 2}, crop_size={"height": 2, "width": 2}, image_grid_pinpoints=[[128, 128]]
    )
    with pytest.raises(ValueError, match="tiles of 2x2, which are more than 1000"):
        processor(random_frames(1)[0])


def test_processor_of_videos_takes_videos_alone(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", num_frames=6)
    processed = make_processor(make_model().config)(videos=[clip, clip], num_frames=4)
    assert processed["pixel_values_videos"].shape[:2] == (2, 4)
    assert "input_ids" not in processed
