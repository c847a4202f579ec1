"""Bring the values of pictures to RGB, on one of the scales that the processors know.

uint8 is 0..255, uint16 is 0..65535, booleans are black and white, floats are 0..1 where their largest is at most 1 and
0..255 otherwise, and other integers are 0..255. Transparency is dropped: a pixel keeps its colour, whatever its
opacity.
"""

import math

import numpy as np
import torch
from PIL import Image


def pil_values(picture: Image.Image) -> torch.Tensor:
    """The values of a PIL image of any mode: (3, h, w), uint8, or (1, h, w) where greys have more than 8 bits."""
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint16)
    elif picture.mode in ("I", "F"):
        values = np.array(picture)
    else:
        picture = picture.convert("LA") if picture.mode == "La" else picture
        return torch.from_numpy(np.array(picture.convert("RGB"))).movedim(-1, 0)  # (3, h, w)
    return torch.from_numpy(values)[None]  # (1, h, w)


def array_values(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """An array as a tensor, without a copy where there can be one."""
    if isinstance(array, np.ndarray) and array.dtype.kind in "buif":
        wide = array.dtype.itemsize > 8  # long double, which torch does not have
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
        return values.unsqueeze(-3)  # (..., 1, h, w)
    axis = {"channels_first": -3, "channels_last": -1}.get(getattr(layout, "value", layout))
    axes = [axis] if axis is not None else [-3, -1]
    for count in (3, 4, 1):
        for axis in axes:
            if values.ndim == num_dimensions and values.shape[axis] == count:
                return values.movedim(axis, -3)  # (..., c, h, w)
    raise ValueError(
        f"Pictures were given as an array of shape {list(values.shape)}, in which no axis has 3 (RGB), 4 (RGBA) or 1 "
        "(grey) entries. Pass (height, width, 3), or (3, height, width)."
    )


def three_channels(values: torch.Tensor) -> torch.Tensor:
    """(..., c, h, w) with 1, 3 or 4 channels -> (..., 3, h, w), a view: greys three times, without transparency."""
    if values.shape[-3] == 1:
        return values.expand(*values.shape[:-3], 3, *values.shape[-2:])  # (..., 3, h, w)
    return values[..., :3, :, :]


def scaled(values: torch.Tensor, own_scale: bool, largest: float | None = None, from_pil: bool = False) -> torch.Tensor:
    """Values as the processors take them: on the scale 0..255, unless the caller has scaled them already.

    Args:
        own_scale: whether it has, see `is_own_scale`.
        largest: of the floats that share a scale; by default, of `values`.
        from_pil: whether they are those of a PIL image, which becomes uint8 whatever its mode.

    Raises:
        ValueError: as `on_8_bit_scale` and `on_own_scale`.
    """
    if own_scale:
        return on_own_scale(values)
    values = on_8_bit_scale(values, largest)
    if from_pil and values.is_floating_point():
        values = values.round()
    return values.to(torch.uint8) if from_pil else values


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
    if not (low >= 0 and high <= 255):  # as for NaN
        raise ValueError(
            f"A picture has values from {low:.10g} to {high:.10g} ({values.dtype}), which are not pixel values. "
            "Pass uint8 of 0..255, uint16 of 0..65535, or floats of 0..1 or 0..255; pixels that are normalized already "
            "go with do_rescale=False and do_normalize=False."
        )
    if values.is_floating_point() and (high if largest is None else largest) <= 1:
        return (values.float() * 255).round().to(torch.uint8)
    return values


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
