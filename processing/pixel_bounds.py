"""What preparing pixels may cost, decided by arithmetic before memory is taken.

A picture on its way, resized by its shorter side or padded to a square, may have `ENLARGEMENT` times
`max_frame_pixels`; what is returned for a video may have `max_result_bytes` as 8-bit pixels.
"""

import math

import torch
from transformers.image_utils import SizeDict

from ..reading.video_sources import ReadingLimits, VideoLimitError
from .exact_pixels import resized_sides


ENLARGEMENT = 4


def check_on_the_way(height: int, width: int, original: tuple[int, int], limits: ReadingLimits):
    """Check the size of a picture before its final crop.

    Raises:
        VideoLimitError: it has more than `ENLARGEMENT` times `max_frame_pixels`.
    """
    most = ENLARGEMENT * limits.max_frame_pixels
    if height * width > most:
        raise VideoLimitError(
            describe_sizes(*original),
            f"preparing it takes a picture of {height}x{width} pixels, more than {ENLARGEMENT} times "
            f"max_frame_pixels={limits.max_frame_pixels}; crop what is so long and thin, or raise this limit",
        )


def describe_sizes(*sizes: int) -> str:
    """How messages name a picture or video of which only the sizes are known."""
    return f"of {'x'.join(map(str, sizes))} pixels"


def largest_sides(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """Height and width that a picture is resized to, at most."""
    if size.longest_edge is not None:
        return size.longest_edge, size.longest_edge
    if size.max_height is not None and size.max_width is not None:
        return size.max_height, size.max_width
    return resized_sides(height, width, size)


def check_prepared(num_frames: int, height: int, width: int, limits: ReadingLimits):
    """Check the size of a video that is returned.

    Raises:
        VideoLimitError: its pixels as bytes are over `max_result_bytes`.
    """
    num_bytes = num_frames * height * width * 3
    if num_bytes > limits.max_result_bytes:
        raise VideoLimitError(
            describe_sizes(num_frames, height, width),
            f"the pixels prepared of it are {num_bytes} bytes, more than "
            f"max_result_bytes={limits.max_result_bytes}; choose fewer frames, or raise this limit",
        )


def pieces(frames: torch.Tensor, resized: tuple[int, int], limits: ReadingLimits) -> tuple[torch.Tensor, ...]:
    """Frames (n, 3, h, w) in pieces: as many frames together as have `max_frame_pixels`, before and after they are
    resized, but at least one."""
    pixels = max(math.prod(frames.shape[-2:]), math.prod(resized))
    return frames.split(max(1, limits.max_frame_pixels // pixels))
