"""Turn frames upright, as the display matrix in the side data of a decoded frame says."""

from fractions import Fraction

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import Type as SideDataType


def upright(frames: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turn and mirror frames (n, h, w, 3) as the display matrix of one of them says, to the nearest quarter turn.

    Returns:
        A view, (n, h, w, 3) or (n, w, h, 3).
    """
    # Asking for its side data ties a frame into a cycle: a small copy, which does not keep the decoder's threads alive.
    small = without_exif(frame.reformat(width=16, height=16, format="rgb24"))
    try:
        display_matrix = small.side_data[SideDataType.DISPLAYMATRIX]  # pyright: ignore  # PyAV's stub knows only names
        matrix = np.frombuffer(bytes(display_matrix), dtype=np.int32)
    except KeyError:
        return frames
    except ValueError:  # one entry is of a kind that PyAV does not know; then only the angle is known, no mirroring
        return np.rot90(frames, k=round(frame.rotation / 90), axes=(1, 2))
    a, b, _, c, d = matrix[:5].tolist()  # a pixel at (x, y) is shown at (a * x + c * y, b * x + d * y), and shifted
    if abs(b) + abs(c) > abs(a) + abs(d):
        frames, a, d = frames.swapaxes(1, 2), c, b  # (n, w, h, 3)
    return frames[:, :: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def without_exif(frame: av.VideoFrame) -> av.VideoFrame:
    """A copy without EXIF, a kind of side data beside which PyAV 18 lists none."""
    graph = av.filter.Graph()
    size = {"width": frame.width, "height": frame.height}
    start = graph.add_buffer(**size, format=frame.format.name, time_base=Fraction(1))
    graph.link_nodes(start, graph.add("sidedata", "mode=delete:type=31"), graph.add("buffersink")).configure()
    start.push(frame)
    return graph.vpull()
