"""Short videos of busy pictures without any shape, still or moved as by a camera: there is nothing to tell of them.

Like `stranger_clips.py` they share no code with what the embedded demonstration checkpoint has learned from.
"""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageFilter


KINDS = ("cells", "stripes", "waves", "dots", "static")
QUESTIONS = (
    "Describe the video.",
    "What happens in the video?",
    "What do you see?",
    "What is moving?",
    "What shape is it?",
    "What colour is it?",
    "Which way does it move?",
    "Is there a red circle?",
)
SIZES = ((240, 320), (360, 640), (180, 320), (480, 270))  # height, width
ROOM = 100  # pixels that the picture is larger than a frame
NUM_FRAMES = 40


def picture(seed: int) -> Image.Image:
    """The whole picture, of the kind that is the seed's turn: a frame shows all of it but `ROOM`."""
    chance = np.random.default_rng(seed)
    height, width = (side + ROOM for side in SIZES[seed // 5 % 4])
    y, x = np.mgrid[:height, :width].astype(np.float32) / min(height, width)
    kind = KINDS[seed % 5]
    if kind == "cells":
        rows, columns = ((9, 16), (12, 20), (15, 25), (30, 50))[seed // 5 % 4]
        cells = chance.integers(0, 256, (rows, columns, chance.choice((1, 3))), dtype=np.uint8)
        method = Image.Resampling(chance.choice((Image.Resampling.NEAREST, Image.Resampling.BICUBIC)))
        drawn = Image.fromarray(np.broadcast_to(cells, (rows, columns, 3)).copy()).resize((width, height), method)
    elif kind == "stripes":
        along = np.cos(chance.uniform(0, np.pi)) * x + np.sin(chance.uniform(0, np.pi)) * y
        band = np.floor(along * chance.uniform(4, 20)).astype(int)
        drawn = Image.fromarray(chance.integers(0, 256, (64, 3), dtype=np.uint8)[band % 64])
    elif kind == "waves":
        angles = chance.uniform(-9, 9, (2, 5, 3)).astype(np.float32)
        waves = np.sin(np.tensordot(np.stack([y, x], -1), angles, 1) + chance.uniform(0, 6, (5, 3)))
        drawn = Image.fromarray((128 + 50 * waves.sum(2)).clip(0, 255).astype(np.uint8))
    elif kind == "dots":
        few = chance.random((height // 2, width // 2, 1)) < 0.02
        dots = np.where(few, chance.integers(0, 256, (height // 2, width // 2, 3)), chance.integers(0, 256, 3))
        drawn = Image.fromarray(dots.astype(np.uint8)).resize((width, height))
    else:
        drawn = Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return drawn.filter(ImageFilter.GaussianBlur(chance.uniform(0, 4)))


def frames(seed: int) -> Iterator[np.ndarray]:
    """Each frame, (height, width, 3), uint8. Every other video stands still."""
    drawn = np.asarray(picture(seed))
    height, width = SIZES[seed // 5 % 4]
    for number in range(NUM_FRAMES):
        down, right = (number, 2 * number) if seed % 2 else (0, 0)
        yield np.ascontiguousarray(drawn[down : down + height, right : right + width])


def write(seed: int, path: str | Path) -> None:
    """Writes the video of a seed as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width = SIZES[seed // 5 % 4]
        stream.pix_fmt = "yuv420p"
        for frame in frames(seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
