"""Read animated WebP, which FFmpeg does not decode, with Pillow."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from PIL import Image
from transformers.video_utils import VideoMetadata

from .chosen_frames import ChooseFrames, FrameTaker, chosen_indices, counted_frames, hand_over
from .errors import Unreadable
from .guarded_file import GuardedFile, read_into_memory
from .limits import ReadingLimits
from .packet_index import index_of_frames
from .video_metadata import metadata_of


HEADER_BYTES = 30
TIME_BASE = Fraction(1, 1000)  # seconds in a unit of its timestamps
PILLOW_ERRORS = (OSError, EOFError, SyntaxError)  # for broken files


def is_animated_webp(header: bytes) -> bool:
    """Whether a file that begins with these bytes, `HEADER_BYTES` or more, is an animation."""
    is_extended = len(header) >= HEADER_BYTES and header[:4] == b"RIFF" and header[8:16] == b"WEBPVP8X"
    return is_extended and bool(header[20] & 2)


def check_webp_canvas(header: bytes, limits: ReadingLimits):
    """Check the canvas of a WebP, for which Pillow takes memory when it opens the file; other files pass."""
    if header[:4] == b"RIFF" and header[12:16] == b"VP8X":
        limits.check_pixels(*(1 + int.from_bytes(header[at : at + 3], "little") for at in (27, 24)))


def read_animated_webp(
    file: GuardedFile, choose_frames: ChooseFrames | None, limits: ReadingLimits, taker: FrameTaker
) -> VideoMetadata:
    """Decode all frames twice, once to count them and once to choose; returns what `read_frames` does."""
    file.seek(0)
    data = read_into_memory(file.read, limits)
    file.check()
    check_webp_canvas(bytes(data.getbuffer()[:HEADER_BYTES]), limits)
    try:
        with Image.open(data, formats=["WEBP"]) as animation:
            timestamps = (frame.info["timestamp"] for frame in decoded_frames(animation, file))
            index = index_of_frames(timestamps, limits)
            metadata = metadata_of(index, animation.height, animation.width, TIME_BASE, stated_fps=None)
            metadata.frames_indices = chosen_indices(choose_frames, metadata)
            chosen = counted_frames(decoded_frames(animation, file), metadata.frames_indices)
            # Copies, made before the next frame is decoded into the same picture.
            pictures = (frame.convert("RGB") for frame in chosen)
            shape = len(metadata.frames_indices), animation.height, animation.width
            hand_over(pictures, np.array, shape, file, limits, taker)  # each (h, w, 3)
    except (*PILLOW_ERRORS, MemoryError) as error:
        raise Unreadable(str(error) or repr(error)) from error
    return metadata


def decoded_frames(animation: Image.Image, file: GuardedFile) -> Iterator[Image.Image]:
    """Decode one frame after another into `animation`, and yield it each time."""
    for number in range(animation.n_frames):
        file.check()
        animation.seek(number)
        animation.load()
        yield animation
