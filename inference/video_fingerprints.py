"""Is this the video that was asked about before? A key says so: equal keys, equal pixels for the model.

Most videos have one before they are read. The others get one of what was read: where equal pixels and metadata come
out, nothing is left that could make a difference.
"""

import hashlib
import os
import pickle
import stat
import time
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..processing.video_inputs import ProcessedVideo
from ..reading.addresses import is_web_address, scheme_of
from ..reading.ranged_file import RangedFile
from ..reading.video_sources import is_decoder, plain_source


# A file that was changed a moment ago may change again and keep its time of change: the clocks of file systems tick
# slowly, and some count whole seconds.
TICK_NANOSECONDS, WHOLE_SECONDS_NANOSECONDS = 50 * 10**6, 2 * 10**9


def video_key(video, processor_kwargs: dict, video_processor) -> Hashable:
    """Identify a video that this processor reads with these arguments, before it is read: its fingerprint, and every
    setting.

    `None` for what cannot be identified, such as a URL, a file object or settings that cannot be pickled, and for what
    the processor would refuse.
    """
    if isinstance(video, list | tuple | Image.Image) and would_be_refused(video, video_processor.limits):
        return None
    content = fingerprint(video)
    if content is None:
        return None
    try:
        # Pickled one by one: in one pickle, a text that is in both is written as a reference if it is the same object,
        # but in full if it is only equal.
        settings = pickle.dumps(vars(video_processor)), pickle.dumps(sorted(processor_kwargs.items()))
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    return content, type(video_processor), digest(b"".join(settings))


def key_of_what_was_read(video: ProcessedVideo) -> Hashable:
    """Identify a video by its pixels, and by its metadata, of which prompts may tell; `None` for metadata of a caller
    that cannot be pickled."""
    try:
        metadata = pickle.dumps((type(video.metadata), vars(video.metadata)))
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    return "read", fingerprint(video.pixel_values), digest(metadata)


def would_be_refused(video, limits) -> bool:
    """Whether PIL images exceed the limits, or would start Ghostscript. Pillow decodes an image when its contents are
    read, so this comes before they are hashed."""
    frames = [video] if isinstance(video, Image.Image) else video
    pictures = [frame for frame in frames if isinstance(frame, Image.Image)]
    return len(frames) > limits.max_frames or any(
        picture.height * picture.width > limits.max_frame_pixels or picture.format == "EPS" for picture in pictures
    )


def fingerprint(video) -> Hashable:
    """Identify the contents of a video: a file by its path and what the file system knows of it, data by a hash; a
    decoder by the stream and the file that it is known to have been made of; an open file of a server by itself, if it
    keeps what it fetches. `None` for what cannot be identified."""
    if is_decoder(video):
        held = plain_source(video)
        content = None if is_decoder(held) else fingerprint(held)
        return None if content is None else (getattr(video, "stream_index", None), content)
    video = plain_source(video)
    if isinstance(video, str | Path):
        text = str(video)
        if is_web_address(text):
            return None  # its contents may have changed
        return ("data:", digest(text.encode())) if scheme_of(text) == "data" else fingerprint_of_file(text)
    if isinstance(video, RangedFile):
        return video.identity
    if isinstance(video, bytes | bytearray | memoryview):
        return digest(bytes(video) if isinstance(video, memoryview) else video)
    if isinstance(video, torch.Tensor):
        values = video.detach().cpu().flatten().view(torch.uint8).numpy()
        return str(video.dtype), str(video.device), tuple(video.shape), digest(values)
    if isinstance(video, np.ndarray):
        return None if video.dtype.hasobject else (str(video.dtype), video.shape, digest(np.ascontiguousarray(video)))
    if isinstance(video, Image.Image):
        appearance = repr(
            (video.getpalette("RGBA") if video.mode in ("P", "PA") else None, video.info.get("transparency"))
        )
        return video.mode, video.size, digest(video.tobytes() + appearance.encode() + video.getexif().tobytes())
    if isinstance(video, list | tuple):
        fingerprints = tuple(fingerprint(frame) for frame in video)
        return None if None in fingerprints else fingerprints
    return None


def fingerprint_of_file(path: str) -> Hashable:
    """`None` for a file that is missing, not a regular one, or was changed a moment ago."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    tick = TICK_NANOSECONDS if status.st_ctime_ns % 10**9 else WHOLE_SECONDS_NANOSECONDS
    if not stat.S_ISREG(status.st_mode) or time.time_ns() - status.st_ctime_ns < tick:
        return None
    # Programs can set the time when the contents changed (mtime), but not the one when the inode changed (ctime).
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return os.path.realpath(path), facts


def digest(data) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
