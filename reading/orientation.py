"""Turn frames upright, as the display matrix in the side data of a decoded frame says."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import Type as SideDataType


def upright(frame: av.VideoFrame) -> Callable[[np.ndarray], np.ndarray]:
    """A function that turns and mirrors pictures (h, w, 3) by a frame's display matrix, to the nearest quarter turn.

    Returns:
        The function; what it returns is a view, (h, w, 3) or (w, h, 3).
    """
    # Of a small copy, because asking a frame for its side data makes a reference cycle, which would keep the decoder's
    # threads alive.
    small = without_exif(frame.reformat(width=16, height=16, format="rgb24"))
    try:
        display_matrix = small.side_data[SideDataType.DISPLAYMATRIX]  # pyright: ignore  # PyAV's stub knows only names
        matrix = np.frombuffer(bytes(display_matrix), dtype=np.int32)
    except KeyError:
        return lambda picture: picture
    except ValueError:  # PyAV does not know one of the entries; then only the angle is known, not the mirroring
        return partial(np.rot90, k=round(frame.rotation / 90))
    a, b, _, c, d = matrix[:5].tolist()  # a pixel at (x, y) is shown at (a * x + c * y, b * x + d * y), and shifted
    is_turned = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if is_turned else (a, d)

    def turned(picture: np.ndarray) -> np.ndarray:
        picture = picture.swapaxes(0, 1) if is_turned else picture  # (w, h, 3)
        return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]

    return turned


def without_exif(frame: av.VideoFrame) -> av.VideoFrame:
    """A copy without EXIF: with this kind of side data PyAV 18 lists no other."""
    graph = av.filter.Graph()
    size = {"width": frame.width, "height": frame.height}
    start = graph.add_buffer(**size, format=frame.format.name, time_base=Fraction(1))
    graph.link_nodes(start, graph.add("sidedata", "mode=delete:type=31"), graph.add("buffersink")).configure()
    start.push(frame)
    return graph.vpull()
