"""Writes frames as a video file: the one writer of demonstration clips, tests and benchmarks."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np


def write_clip(
    file: str | Path | BinaryIO,
    frames: Iterable[np.ndarray],
    fps: int | Fraction,
    codec: str = "libx264",
    milliseconds: Iterable[int] | None = None,
    pixels: str = "rgb24",
    rotation: int = 0,
    container: str | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Encode frames as yuv420p.

    Args:
        file: a path, whose ending names the container, or a file object, with `container`.
        frames: uint8, (height, width, 3); with `pixels="yuv420p"` planes, (height * 3 / 2, width).
        milliseconds: when each frame is shown; makes the frame rate variable.
        rotation: in degrees, stored beside the pictures.
        options: of the codec.
    """
    pictures = (av.VideoFrame.from_ndarray(frame, format=pixels) for frame in frames)
    first = next(pictures)
    moments = None if milliseconds is None else iter(milliseconds)
    with av.open(str(file) if isinstance(file, str | Path) else file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width, stream.pix_fmt = first.height, first.width, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        if moments is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for picture in chain([first], pictures):
            if moments is not None:
                picture.pts, picture.time_base = int(next(moments)), Fraction(1, 1000)
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
