"""The one door for pictures: whatever a picture is given as, it becomes RGB, within limits, or a documented error.

* `read_picture`: a file, as a PIL image.
* `rgb_picture`: a PIL image or array, as a tensor (3, h, w).
* `rgb_frames`: a list of any of these that are the frames of one video, as (n, 3, h, w).
* `rgb_video`: a video as one array, as (n, 3, h, w).

The last three take the same steps: to a tensor with channels first, to three channels, and to one scale (`scaled` in
`picture_values.py`). They differ in which floats share a scale: those of one picture, or of all frames of a video.
"""

import numpy as np
import torch
from PIL import Image

from .errors import named_errors, named_limits
from .limits import DEFAULT_LIMITS, ReadingLimits
from .picture_files import check_is_read, open_picture
from .picture_values import array_values, channels_first, largest_float, pil_values, scaled, three_channels
from .video_sources import VideoSource, is_video_source


GIVEN_AS_ARRAYS = "given as pictures or arrays"  # how messages name pictures that are not files


def read_picture(source: VideoSource, limits: ReadingLimits = DEFAULT_LIMITS) -> Image.Image:
    """Read a picture, in RGB and upright; of an animation, its first frame.

    Args:
        source: a path, an http(s) URL, a data URI, the bytes of a file, a binary file object, the bytes of a file as
            base64 text, or `{"bytes": ..., "path": ...}`.
        limits: how much it may cost.

    Raises:
        VideoReadError: it is missing, damaged or of no format in `FORMATS`; `VideoLimitError` when it would cost more
            than `limits` allow.
        TypeError: `source` is none of the above.
    """
    picture = open_picture(source, limits, limits.deadline_of_decoding())
    with named_errors(source, ValueError):
        rgb = rgb_picture(picture, limits)  # (3, h, w)
    return Image.fromarray(rgb.movedim(0, -1).contiguous().numpy())  # (h, w, 3)


def rgb_picture(picture, limits: ReadingLimits, own_scale: bool = False, layout: str | None = None) -> torch.Tensor:
    """A PIL image, array or tensor as RGB: (3, h, w), on the scale 0..255 unless it is `own_scale`.

    Raises:
        VideoReadError: a PIL image cannot be decoded; `VideoLimitError`, it is larger than `limits` allow.
        ValueError: its shape, dtype or values are not those of a picture.
    """
    values = values_within(picture, limits, layout)  # (3, h, w)
    return scaled(values, own_scale, from_pil=isinstance(picture, Image.Image))


@named_limits(GIVEN_AS_ARRAYS)
def values_within(picture, limits: ReadingLimits, layout: str | None = None) -> torch.Tensor:
    """A PIL image, array or tensor as a tensor (3, h, w), on its own scale."""
    if 0 in (shape := picture.size if isinstance(picture, Image.Image) else picture.shape):
        raise ValueError(
            f"A picture was given with the sides {list(shape)}, which has no pixels. Leave it out, or read it again."
        )
    if isinstance(picture, Image.Image):
        with named_errors(picture, Exception):
            limits.check_pixels(picture.height, picture.width)
            check_is_read(picture)
            return three_channels(pil_values(picture))
    values = channels_first(array_values(picture), 3, layout)  # (c, h, w)
    limits.check_pixels(*values.shape[-2:])
    return three_channels(values)


@named_limits(GIVEN_AS_ARRAYS)
def rgb_frames(
    pictures: list, limits: ReadingLimits, own_scale: bool = False, layout: str | None = None, indices=None
) -> torch.Tensor:
    """The frames of one video at `indices` as RGB: (n, 3, h, w). Each picture is a source of `read_picture`, a PIL
    image or an array.

    Raises:
        VideoReadError, ValueError: as `rgb_picture`; or they differ in size.
    """
    arrays = (array_values(picture) for picture in pictures if isinstance(picture, np.ndarray | torch.Tensor))
    largest = max((largest_float(values) or 0 for values in arrays), default=0)
    chosen = pictures if indices is None else [pictures[index] for index in indices]
    deadline = limits.deadline_of_decoding()
    limits.check_num_frames(len(chosen))
    frames, shapes, from_pil = [], set(), []
    for picture in chosen:
        deadline.check()
        if is_video_source(picture):
            picture = open_picture(picture, limits, deadline)
        values = values_within(picture, limits, layout)  # (3, h, w)
        shapes.add(tuple(values.shape))
        if len(shapes) > 1:
            raise ValueError(f"The frames of one video have to be of one size, but they are {sorted(shapes)}.")
        limits.check_result(len(chosen), *values.shape[-2:])
        from_pil.append(isinstance(picture, Image.Image))
        if own_scale or not values.is_floating_point():
            values = scaled(values, own_scale, from_pil=from_pil[-1])
        else:  # waits until the largest float of all frames is known
            largest = max(largest, largest_float(values) or 0)
        frames.append(values)
    for position, values in enumerate(frames):
        if not own_scale and values.is_floating_point():
            frames[position] = scaled(values, own_scale, largest, from_pil[position])
    return stack_frames(frames)


def stack_frames(frames: list[torch.Tensor]) -> torch.Tensor:
    """Tensors (3, h, w) -> (n, 3, h, w), colours side by side; the list is emptied on the way, to save memory."""
    dtype = frames[0].dtype
    for values in frames[1:]:
        dtype = torch.promote_types(dtype, values.dtype)
    _, height, width = frames[0].shape
    # (n, h, w, 3) in memory, seen as (n, 3, h, w)
    stacked = torch.empty((len(frames), height, width, 3), dtype=dtype, device=frames[0].device).movedim(-1, 1)
    for position, values in enumerate(frames):
        stacked[position] = values
        frames[position] = None
    return stacked


@named_limits(GIVEN_AS_ARRAYS)
def rgb_video(
    frames: np.ndarray | torch.Tensor,
    limits: ReadingLimits,
    own_scale: bool = False,
    layout: str | None = None,
    indices=None,
) -> torch.Tensor:
    """The frames of one video, an array (n, h, w, c) or (n, c, h, w), at `indices` as RGB: (n, 3, h, w), without a copy
    where they are 8-bit RGB already."""
    values = three_channels(channels_first(array_values(frames), 4, layout))  # (n, 3, h, w)
    limits.check_pixels(*values.shape[-2:])
    limits.check_num_frames(len(values))
    if indices is not None:
        limits.check_result(len(indices), *values.shape[-2:])
    largest = None if own_scale else largest_float(values)
    values = values if indices is None else values[indices]
    if values.dtype == torch.uint8:
        return values
    return stack_frames([scaled(one, own_scale, largest) for one in values])
