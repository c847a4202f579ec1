"""One door for pictures: whatever a picture is given as, it becomes RGB, within limits, or a documented error.

Values are on one of these scales: uint8 is 0..255, uint16 is 0..65535, booleans are black and white, floats are 0..1
where their largest is at most 1 and 0..255 otherwise, and other integers are 0..255. Transparency is dropped: a pixel
keeps its colour, whatever its opacity.
"""

import math
from base64 import b64decode
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .video_reading import GuardedFile, check_num_frames, check_pixels, check_result
from .video_sources import (
    DEFAULT_LIMITS,
    Deadline,
    OverLimit,
    ReadingLimits,
    Unreadable,
    VideoLimitError,
    VideoSource,
    check_size,
    hold,
    is_video_source,
    named_errors,
    open_source,
    scheme_of,
)


# What Pillow may open: nothing that runs another program, as EPS does.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "AVIF", "PPM")
TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT = 322, 323
HEAD_BYTES = 32
BASE64_HEAD_CHARACTERS = 44  # of a picture's first `HEAD_BYTES`


def read_picture(source: VideoSource, limits: ReadingLimits = DEFAULT_LIMITS) -> Image.Image:
    """Read a picture, in RGB and upright; of an animation, its first frame.

    Args:
        source: a path, an http(s) URL, a data URI, the bytes of a file, a binary file object, or the bytes of a file
            as base64 text.
        limits: how much it may cost.

    Raises:
        VideoReadError: it is missing, damaged or of no format in `FORMATS`; `VideoLimitError` when it would cost more
            than `limits` allow.
        TypeError: `source` is none of the above.
    """
    picture = open_picture(source, limits, decoding_deadline(limits))
    with named_errors(source, ValueError):
        values = picture_values(picture)  # (c, h, w)
        rgb = rounded(on_8_bit_scale(three_channels(values)))  # (3, h, w)
    return Image.fromarray(rgb.movedim(0, -1).contiguous().numpy())


def decoding_deadline(limits: ReadingLimits) -> Deadline:
    return Deadline(limits.max_decode_seconds, "max_decode_seconds", "reading it")


def open_picture(source: VideoSource, limits: ReadingLimits, deadline: Deadline) -> Image.Image:
    """Read a picture, upright, in the mode that its file has."""
    if is_base64_picture(source):
        with named_errors(source):
            source = decode_base64(str(source), limits)
    file = open_source(source, limits)
    try:
        # Pillow's readers of formats raise whatever they stumble over.
        with named_errors(source, Exception):
            return decode_picture(PictureFile(file, limits, deadline), limits)
    finally:
        if file is not source:
            file.close()


class PictureFile(GuardedFile):
    """What Pillow sees of a file: its bytes, until the deadline."""

    def __init__(self, file, limits: ReadingLimits, deadline: Deadline):
        super().__init__(file, limits)
        self.limits, self.deadline = limits, deadline

    def read(self, size: int = -1) -> bytes:
        return hold(super().read, self.limits).getvalue() if size < 0 else super().read(size)


def decode_picture(file: PictureFile, limits: ReadingLimits) -> Image.Image:
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if head[:4] == b"RIFF" and head[12:16] == b"VP8X":  # Pillow takes memory for this canvas when it opens the file
        check_pixels(*(1 + int.from_bytes(head[at : at + 3], "little") for at in (27, 24)), limits)
    file.seek(0)
    Image.init()
    try:
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            check_pixels(picture.height, picture.width, limits)
            check_tiles(picture, limits)
            picture.load()
            return ImageOps.exif_transpose(picture)
    except Exception as error:
        file.check()
        if isinstance(error, Image.UnidentifiedImageError):
            raise Unreadable(f"it is damaged, or no picture of these formats: {', '.join(FORMATS)}") from error
        raise


def check_tiles(picture: Image.Image, limits: ReadingLimits):
    """A TIFF file is unpacked by tiles, which may be larger than the picture."""
    tags = getattr(picture, "tag_v2", {})
    height, width = (tags.get(tag, 0) for tag in (TIFF_TILE_HEIGHT, TIFF_TILE_WIDTH))
    if height or width:
        check_pixels(height, width, limits)


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so is a still picture, of the formats that can be told apart so."""
    return (
        head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"\0\0\0\x0cjP  "))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP" and not (head[12:16] == b"VP8X" and head[20] & 2))
        or (head[4:8] == b"ftyp" and head[8:12] == b"avif")
    )


def is_base64_picture(source) -> bool:
    """Whether a text is neither a path nor an address, but a picture's file in base64."""
    if not isinstance(source, str) or len(source) < BASE64_HEAD_CHARACTERS or scheme_of(source) is not None:
        return False
    try:
        head = b64decode("".join(source[: 2 * BASE64_HEAD_CHARACTERS].split())[:BASE64_HEAD_CHARACTERS], validate=True)
    except ValueError:
        return False
    return (is_picture(head) or head.startswith(b"GIF8")) and not (len(source) < 4096 and Path(source).is_file())


def decode_base64(text: str, limits: ReadingLimits) -> bytes:
    check_size(len(text) * 3 // 4 - 2, limits)
    try:
        return b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise Unreadable("its base64 is broken; encode the file again") from error


def head_of(source) -> bytes:
    """The first bytes of a file that is held in memory; empty for anything else."""
    if type(source) is BytesIO:
        source = source.getbuffer()
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(memoryview(source)[:HEAD_BYTES])
    return b""


def picture_values(picture) -> torch.Tensor:
    """The values of a PIL image of any mode: (3, h, w), uint8, or (1, h, w) where greys have more than 8 bits."""
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint16)
    elif picture.mode in ("I", "F"):
        values = np.array(picture)
    else:
        picture = picture.convert("LA") if picture.mode == "La" else picture
        return torch.from_numpy(np.array(picture.convert("RGB"))).movedim(-1, 0)
    return torch.from_numpy(values)[None]


def array_values(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """An array as a tensor, without a copy where there can be one."""
    if isinstance(array, np.ndarray) and array.dtype.kind in "buif":
        wide = array.dtype.itemsize > 8  # long double
        array = np.ascontiguousarray(array, dtype=np.float64 if wide else array.dtype.newbyteorder("="))
        array = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch warns of the others
    if isinstance(array, np.ndarray) or array.is_complex():
        raise ValueError(
            f"A picture was given as an array of {array.dtype}, which has no brightness. Pass uint8 of 0..255."
        )
    return array.to(torch.int64) if array.dtype in (torch.uint32, torch.uint64) else array


def channels_first(values: torch.Tensor, num_dimensions: int, layout: str | None = None) -> torch.Tensor:
    """(..., h, w), (..., h, w, c) or (..., c, h, w) -> (..., c, h, w), a view.

    Args:
        num_dimensions: of the result.
        layout: `"channels_first"`, `"channels_last"`, or `"none"` for pictures without channels; by default the axis
            that has 3, else 4, else 1 entries.

    Raises:
        ValueError: there is no such axis.
    """
    if values.ndim == num_dimensions - 1:
        return values.unsqueeze(-3)
    axis = {"channels_first": -3, "channels_last": -1}.get(getattr(layout, "value", layout))
    axes = [axis] if axis is not None else [-3, -1]
    for count in (3, 4, 1):
        for axis in axes:
            if values.ndim == num_dimensions and values.shape[axis] == count:
                return values.movedim(axis, -3)
    raise ValueError(
        f"Pictures were given as an array of shape {list(values.shape)}, in which no axis has 3 (RGB), 4 (RGBA) or 1 "
        "(grey) entries. Pass (height, width, 3), or (3, height, width)."
    )


def three_channels(values: torch.Tensor) -> torch.Tensor:
    """(..., c, h, w) with 1, 3 or 4 channels -> (..., 3, h, w), a view: greys thrice, without transparency."""
    if values.shape[-3] == 1:
        return values.expand(*values.shape[:-3], 3, *values.shape[-2:])
    return values[..., :3, :, :]


def largest_of(pictures: list) -> float:
    """The largest float of those pictures that are arrays; 0 without any."""
    arrays = [array_values(one) for one in pictures if isinstance(one, np.ndarray | torch.Tensor)]
    return max((largest_float(values) or 0 for values in arrays), default=0)


def largest_float(values: torch.Tensor) -> float | None:
    return values.max().item() if values.is_floating_point() and values.numel() else None


def on_8_bit_scale(values: torch.Tensor, largest: float | None = None) -> torch.Tensor:
    """Bring values to the scale 0..255: as uint8, or as they are where they are other numbers of that scale.

    Args:
        largest: of the floats that share a scale; by default, of `values`.

    Raises:
        ValueError: they are on no scale (see the top of this file), or not finite.
    """
    if values.dtype == torch.uint8 or not values.numel():
        return values
    if values.dtype == torch.bool:
        return values.to(torch.uint8) * 255
    if values.dtype == torch.uint16:
        return ((values.to(torch.int32) + 128) // 257).to(torch.uint8)
    low, high = (value.item() for value in values.aminmax())
    if not (low >= 0 and high <= 255):  # NaN is not either
        raise ValueError(
            f"A picture has values from {low:.10g} to {high:.10g} ({values.dtype}), which is no brightness. Pass "
            "uint8 of 0..255, uint16 of 0..65535, or floats of 0..1 or 0..255; pixels that are normalized already go "
            "with do_rescale=False and do_normalize=False."
        )
    if values.is_floating_point() and (high if largest is None else largest) <= 1:
        return (values.float() * 255).round().to(torch.uint8)
    return values


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Values of 0..255 as uint8: what a PIL image becomes, whatever its mode."""
    return (values.round() if values.is_floating_point() else values).to(torch.uint8)


def on_own_scale(values: torch.Tensor) -> torch.Tensor:
    """Values that the caller has scaled already (`do_rescale=False`): any finite numbers.

    Raises:
        ValueError: they are not finite.
    """
    if values.dtype in (torch.bool, torch.uint16):
        return values.to(torch.uint8 if values.dtype == torch.bool else torch.int32)
    if values.is_floating_point() and not torch.isfinite(values).all():
        raise ValueError(
            "A picture has values that are not finite (NaN, inf). Pass numbers; the computation that made the picture "
            "may have divided by 0."
        )
    return values


def is_own_scale(do_rescale, rescale_factor) -> bool:
    """Whether settings say that values are not on the scale 0..255."""
    return not do_rescale or (rescale_factor is not None and not math.isclose(rescale_factor, 1 / 255, rel_tol=1e-6))


def rgb_values(picture, limits: ReadingLimits, own_scale: bool = False, layout: str | None = None) -> torch.Tensor:
    """A PIL image, array or tensor as RGB: (3, h, w), on the scale 0..255 unless it is `own_scale`.

    Raises:
        VideoReadError: a PIL image cannot be decoded; `VideoLimitError`, it is larger than `limits` allow.
        ValueError: it is no picture: its shape, dtype or values.
    """
    values = three_channels(values_within(picture, limits, layout))
    if own_scale:
        return on_own_scale(values)
    values = on_8_bit_scale(values)
    return rounded(values) if isinstance(picture, Image.Image) else values


def values_within(picture, limits: ReadingLimits, layout: str | None = None) -> torch.Tensor:
    """A PIL image, array or tensor as a tensor (c, h, w)."""
    if 0 in (shape := picture.size if isinstance(picture, Image.Image) else picture.shape):
        raise ValueError(
            f"A picture was given with the sides {list(shape)}, which has no pixels. Leave it out, or read it again."
        )
    if isinstance(picture, Image.Image):
        with named_errors(picture, Exception):
            check_pixels(picture.height, picture.width, limits)
            check_unread(picture)
            return picture_values(picture)
    values = channels_first(array_values(picture), 3, layout)
    with limits_of_arrays():
        check_pixels(*values.shape[-2:], limits)
    return values


def check_unread(picture: Image.Image):
    """Pillow reads the file of a picture that was opened when its pixels are asked for, and EPS by another program."""
    if picture.format == "EPS" and getattr(picture, "tile", None):
        raise Unreadable(f"it was opened from EPS and not read yet, and is none of these: {', '.join(FORMATS)}")


@contextmanager
def limits_of_arrays():
    """Names what meets a limit inside."""
    try:
        yield
    except OverLimit as problem:
        raise VideoLimitError(describe_arrays(), str(problem)) from problem


def describe_arrays() -> str:
    """How messages name pictures that are no files."""
    return "given as pictures or arrays"


def rgb_frames(
    pictures: list, limits: ReadingLimits, own_scale: bool = False, layout: str | None = None, largest: float = 0
) -> torch.Tensor:
    """Pictures, each a source of `read_picture`, a PIL image or an array, as the frames of one video: (n, 3, h, w).

    Args:
        largest: of the video's floats that are known already; floats of one video share their scale.

    Raises:
        VideoReadError, ValueError: as `rgb_values`; or they differ in size.
    """
    deadline = decoding_deadline(limits)
    with limits_of_arrays():
        check_num_frames(len(pictures), limits)
    frames, shapes, of_pillow = [], set(), []
    for picture in pictures:
        with limits_of_arrays():
            deadline.check()
        if is_video_source(picture):
            picture = open_picture(picture, limits, deadline)
        values = three_channels(values_within(picture, limits, layout))
        shapes.add(tuple(values.shape))
        if len(shapes) > 1:
            raise ValueError(f"The frames of one video have to be of one size, but they are {sorted(shapes)}.")
        with limits_of_arrays():
            check_result(len(pictures), *values.shape[-2:], limits)
        if own_scale:
            values = on_own_scale(values)
        elif values.is_floating_point():
            largest = max(largest, largest_float(values) or 0)
        else:
            values = on_8_bit_scale(values)
            values = rounded(values) if isinstance(picture, Image.Image) else values
        frames.append(values)
        of_pillow.append(isinstance(picture, Image.Image))
    for position, values in enumerate(frames):
        if not own_scale and values.is_floating_point():
            values = on_8_bit_scale(values, largest)
            frames[position] = rounded(values) if of_pillow[position] else values
    return stack_frames(frames)


def stack_frames(frames: list[torch.Tensor]) -> torch.Tensor:
    """Tensors (3, h, w) -> (n, 3, h, w), colours side by side; the list is emptied on the way, to save memory."""
    dtype = frames[0].dtype
    for values in frames[1:]:
        dtype = torch.promote_types(dtype, values.dtype)
    _, height, width = frames[0].shape
    stacked = torch.empty((len(frames), height, width, 3), dtype=dtype, device=frames[0].device).movedim(-1, 1)
    for position, values in enumerate(frames):
        stacked[position] = values
        frames[position] = None
    return stacked


def rgb_video(
    frames: np.ndarray | torch.Tensor,
    limits: ReadingLimits,
    own_scale: bool = False,
    layout: str | None = None,
    indices=None,
) -> torch.Tensor:
    """The frames of an array (n, h, w, c) or (n, c, h, w) at `indices` as RGB: (n, 3, h, w), without a copy where they
    are 8-bit RGB already."""
    values = three_channels(channels_first(array_values(frames), 4, layout))
    with limits_of_arrays():
        check_pixels(*values.shape[-2:], limits)
        check_num_frames(len(values), limits)
        if indices is not None:
            check_result(len(indices), *values.shape[-2:], limits)
    largest = None if own_scale else largest_float(values)
    values = values if indices is None else values[indices]
    if values.dtype == torch.uint8:
        return values
    return stack_frames([on_own_scale(one) if own_scale else on_8_bit_scale(one, largest) for one in values])
