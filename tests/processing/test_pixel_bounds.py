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
    VideoReadError,
)
from llava_next_video.processing.pixel_bounds import check_preparation, largest_sides
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
    video.limits = ReadingLimits(max_result_bytes=10 * SIDE * SIDE * 3 * 4)
    assert len(video(np.zeros((10, 4, 4, 3), np.uint8), return_tensors="pt")["pixel_values_videos"][0]) == 10
    with pytest.raises(
        VideoLimitError, match="prepared as 11x16x16 pixels: 11 frames of 16x16 pixels are 33792 bytes, more than"
    ):
        video(np.zeros((11, 4, 4, 3), np.uint8))


def test_result_of_a_picture_is_bounded_before_it_is_prepared():
    """Each tile is resized to `size`: 36 tiles of 5900x5900 pixels were 15 GB."""
    picture = images()
    picture.limits = ReadingLimits(max_result_bytes=3 * SIDE * SIDE * 3 * 4)  # an overview and two tiles
    assert picture(THIN, return_tensors="pt")["pixel_values"].shape == (1, 3, 3, SIDE, SIDE)
    picture.limits = ReadingLimits(max_result_bytes=3 * SIDE * SIDE * 3 * 4 - 1)
    with pytest.raises(
        VideoLimitError, match="prepared as 3x16x16 pixels: 3 frames of 16x16 pixels are 9216 bytes, more than"
    ):
        picture(THIN)


def test_what_people_prepare_is_far_below_the_default_limit():
    sides = {"size": SizeDict(shortest_edge=384), "crop_size": SizeDict(height=384, width=384)}
    settings = {"do_resize": True, "do_center_crop": True, **sides}
    for num_frames in (32, 512, 2000):
        check_preparation(num_frames, (2160, 3840), ReadingLimits(), **settings)
    large = {**settings, "do_center_crop": False, "size": SizeDict(height=5900, width=5900)}
    with pytest.raises(VideoLimitError, match="prepared as 32x5900x5900 pixels"):
        check_preparation(32, (720, 1280), ReadingLimits(), **large)


def take_too_much(*args, **kwargs):
    torch.empty(2**55, dtype=torch.uint8)


def raise_memory_error(*args, **kwargs):
    raise MemoryError


def raise_another_error(*args, **kwargs):
    raise RuntimeError("of another kind")


@pytest.mark.parametrize("make", [videos, images])
def test_error_when_memory_runs_out(make, monkeypatch):
    """RuntimeError of torch, or MemoryError."""
    processor = make()
    for fail in (take_too_much, raise_memory_error):
        monkeypatch.setattr(processor, "rescale_and_normalize", fail)
        with pytest.raises(
            VideoReadError, match=r"given to the .* processor: there is not enough memory for its pixels"
        ):
            processor(random_frames(1)[0])
    monkeypatch.setattr(processor, "rescale_and_normalize", raise_another_error)
    with pytest.raises(RuntimeError, match="of another kind"):
        processor(random_frames(1)[0])


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


def test_largest_sides_of_every_kind_of_size():
    assert largest_sides(10, 40, SizeDict(shortest_edge=20)) == (20, 80)
    assert largest_sides(10, 40, SizeDict(height=5, width=6)) == (5, 6)
    assert largest_sides(10, 40, SizeDict(shortest_edge=20, longest_edge=30)) == (30, 30)
    assert largest_sides(10, 40, SizeDict(max_height=7, max_width=8)) == (7, 8)


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
