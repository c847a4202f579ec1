"""What preparing pixels may cost, decided by arithmetic before memory is taken; and the settings that decide it.

A picture on its way, resized by its shorter side or padded to a square, may have `ENLARGEMENT` times
`max_frame_pixels`; what is returned for a video may have `max_result_bytes` as 8-bit pixels.
"""

import math
from numbers import Integral, Real

import torch
from transformers.image_utils import SizeDict, pil_torch_interpolation_mapping

from ..modeling.configuration_llava_next_video import ASPECT_RATIO
from ..reading.video_sources import ReadingLimits, VideoLimitError
from .exact_pixels import resized_sides


ENLARGEMENT = 4
MOST_FRAMES = 1_000_000
MOST_TILES = 1000  # as in the configuration: of a grid, and grids; the largest of a released checkpoint has 36


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


def check_settings(limits: ReadingLimits, settings: dict):
    """Check the settings of an image or video processor, from a checkpoint or a call, that decide what it costs.

    Raises:
        ValueError: one of them is impossible, or so large that it is damaged.
    """
    for name in ("size", "crop_size"):
        for side in ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width"):
            check_side(f"{name}[{side!r}]", getattr(settings.get(name), side, None), limits)
    factor = settings.get("rescale_factor")
    if factor is not None and not (is_number(factor) and factor != 0):
        refuse("rescale_factor", factor, "a number other than 0; 1/255 for pixels of 0..255")
    for name, least in (("image_mean", -math.inf), ("image_std", 0)):
        values = settings.get(name)
        values = values if isinstance(values, list | tuple) else [] if values is None else [values]
        if len(values) not in (0, 1, 3) or not all(is_number(value) and value > least for value in values):
            above = "" if least else ", greater than 0"
            refuse(name, list(values), f"three numbers, one for each colour{above}")
    num_frames = settings.get("num_frames")
    if num_frames is not None and not (is_whole(num_frames) and 0 < num_frames <= MOST_FRAMES):
        refuse("num_frames", num_frames, f"a whole number from 1 to {MOST_FRAMES}")
    fps = settings.get("fps")
    if fps is not None and not (is_number(fps) and fps > 0):
        refuse("fps", fps, "a number greater than 0")
    resample = settings.get("resample")
    if is_whole(resample) and resample not in pil_torch_interpolation_mapping:
        refuse("resample", resample, "a number of PIL.Image.Resampling, 0 to 5")
    check_grids(settings.get("image_grid_pinpoints"))
    ratio = settings.get("image_aspect_ratio")
    if ratio is not None and not (isinstance(ratio, str) and ASPECT_RATIO.fullmatch(ratio)):
        refuse("image_aspect_ratio", ratio, "'anyres', 'anyres_max_N', 'pad' or 'square'")


def check_side(name: str, side, limits: ReadingLimits):
    if side is not None and not (is_whole(side) and side > 0 and side**2 <= limits.max_frame_pixels):
        refuse(name, side, f"pixels, of which a square has up to max_frame_pixels={limits.max_frame_pixels}")


def check_grids(grids):
    if grids is None:
        return
    if not isinstance(grids, list | tuple) or not 0 < len(grids) <= MOST_TILES:
        count = f"{len(grids)} entries" if isinstance(grids, list | tuple) else grids
        refuse("image_grid_pinpoints", count, f"1 to {MOST_TILES} sizes [height, width] in pixels")
    for grid in grids:
        if not (
            isinstance(grid, list | tuple) and len(grid) == 2 and all(is_whole(side) and side > 0 for side in grid)
        ):
            refuse("image_grid_pinpoints", grid, "sizes [height, width] in pixels")


def is_whole(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def refuse(name: str, value, expected: str):
    raise ValueError(
        f"The processor was to be used with {name}={str(value)[:200]}; it has to be {expected}. Correct the "
        "checkpoint's preprocessor settings, or what you passed."
    )
