"""Stand-ins for the pictures and videos on the Hub that the shared tests name."""

from pathlib import Path

import numpy as np
from PIL import Image

from demo_model.clip_writing import write_clip


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
    write_clip(path, map(frame, range(num_frames)), fps=30)
