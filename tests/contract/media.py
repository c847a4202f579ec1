"""Stand-ins for the pictures and videos on the Hub that the shared tests name."""

from pathlib import Path

import av
import numpy as np
from PIL import Image


def frame(number: int) -> np.ndarray:
    """(240, 320, 3), uint8."""
    return np.random.default_rng(number).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def sample(url: str, folder: Path) -> str:
    """The path of a file of the kind that `url` names; the URL itself where there is nothing to stand in (sound)."""
    path = folder / url.rpartition("/")[2]
    if path.exists():
        return str(path)
    if path.suffix in (".jpg", ".png"):
        Image.fromarray(frame(0)).save(path)
    elif path.suffix == ".mp4":
        write_video(path, num_frames=11)  # as many as `tiny_video_320x240.mp4` has
    else:
        return url
    return str(path)


def write_video(path: Path, num_frames: int):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")))
        container.mux(stream.encode())
