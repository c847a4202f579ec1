"""How much preparing pixels may cost, computed before memory is taken.

A picture before its final crop, resized by its shorter side or padded to a square, may have `MAX_ENLARGEMENT` times
`max_frame_pixels`; the result for one video or picture may have `max_result_bytes`.
"""

import math
from contextlib import contextmanager

import torch
from transformers.image_utils import SizeDict

from ..reading.errors import VideoLimitError, VideoReadError, named_limits
from ..reading.limits import ReadingLimits
from .exact_pixels import resized_sides


MAX_ENLARGEMENT = 4


def check_intermediate_size(height: int, width: int, original: tuple[int, int], limits: ReadingLimits):
    """Check the size of a picture before its final crop.

    Raises:
        VideoLimitError: it has more than `MAX_ENLARGEMENT` times `max_frame_pixels`.
    """
    most = MAX_ENLARGEMENT * limits.max_frame_pixels
    if height * width > most:
        raise VideoLimitError(
            f"of {original[0]}x{original[1]} pixels",
            f"preparing it takes a picture of {height}x{width} pixels, more than {MAX_ENLARGEMENT} times "
            f"max_frame_pixels={limits.max_frame_pixels}; crop what is so long and thin, or raise this limit",
        )


def largest_sides(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """The largest height and width that a picture may be resized to."""
    if size.longest_edge is not None:
        return size.longest_edge, size.longest_edge
    if size.max_height is not None and size.max_width is not None:
        return size.max_height, size.max_width
    return resized_sides(height, width, size)


def check_preparation(
    num_pictures: int,
    original: tuple[int, int],
    limits: ReadingLimits,
    do_resize: bool,
    size: SizeDict,
    do_center_crop: bool,
    crop_size: SizeDict,
    **kwargs,
) -> tuple[int, int]:
    """Check how much preparing pictures of the size `original` takes, with these settings of a processor.

    Returns:
        The largest height and width that they are resized to.

    Raises:
        VideoLimitError: one is too large before its crop, or the result is larger than `max_result_bytes`.
    """
    resized = largest_sides(*original, size) if do_resize else original
    check_intermediate_size(*resized, original, limits)
    height, width = (crop_size.height, crop_size.width) if do_center_crop else resized
    with named_limits(f"prepared as {num_pictures}x{height}x{width} pixels"):
        limits.check_result(num_pictures, height, width, bytes_per_value=4)
    return resized


def split_by_pixels(frames: torch.Tensor, resized: tuple[int, int], limits: ReadingLimits) -> tuple[torch.Tensor, ...]:
    """Frames (n, 3, h, w) in pieces of at most `max_frame_pixels` before and after resizing, but at least one frame."""
    pixels = max(math.prod(frames.shape[-2:]), math.prod(resized))
    return frames.split(max(1, limits.max_frame_pixels // pixels))


@contextmanager
def memory_errors(name: str):
    """Turn running out of memory in the block into a `VideoReadError` about `name`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has no class of its own for the memory of the CPU.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise VideoReadError(
            name,
            f"there is not enough memory for its pixels ({str(error) or 'MemoryError':.1000}); pass "
            "fewer videos or pictures at a time, choose fewer frames (num_frames) or a smaller size",
        ) from error
