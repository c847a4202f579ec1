"""Read chosen frames with a decoder of torchcodec that the caller has made, within limits.

A decoder whose file is known, such as one that the library `datasets` made, is not used: its file is read like any
other (`video_sources.py`).
"""

from collections.abc import Iterator
from itertools import chain
from threading import Lock

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from .chosen_frames import ChooseFrames, FrameTaker, chosen_indices, hand_over
from .errors import Unreadable
from .limits import ReadingLimits
from .picture_values import channels_first
from .video_metadata import VariableRateMetadata


FRAMES_AT_ONCE = 8
LOCK = Lock()  # a decoder has a position in its file: two threads that use it would get each other's frames


def read_with_decoder(
    decoder, choose_frames: ChooseFrames | None, limits: ReadingLimits, taker: FrameTaker
) -> VideoMetadata:
    """Read frames with a `torchcodec.decoders.VideoDecoder`, or what works like one.

    `limits` apply to its frames, their pixels, the result and the time between frames; not to the file, which is open
    already.

    Returns:
        The metadata of the video, with the indices of the frames that were handed over.

    Raises:
        Unreadable: it has no frames, or cannot decode one; `OverLimit` when it would cost more than `limits` allow.
    """
    with LOCK:
        deadline = limits.deadline_of_decoding()
        metadata = metadata_of_decoder(decoder, limits)
        indices = chosen_indices(choose_frames, metadata)
        times = np.full(metadata.total_num_frames, np.nan)  # in seconds from the first frame
        pictures = pictures_at(decoder, indices, times)
        first = next(pictures)  # (h, w, 3)
        shape = len(indices), *first.shape[:2]
        hand_over(chain([first], pictures), lambda picture: picture, shape, deadline, limits, taker)
    metadata = with_own_times(metadata, times, indices)
    metadata.frames_indices = indices
    metadata.height, metadata.width = shape[1:]
    return metadata


def metadata_of_decoder(decoder, limits: ReadingLimits) -> VideoMetadata:
    """What a decoder knows of its video before it decodes."""
    described, num_frames = decoder.metadata, len(decoder)
    limits.check_num_frames(num_frames)
    if num_frames == 0:
        raise Unreadable("its video stream has no frames")
    if described.height and described.width:
        limits.check_pixels(described.height, described.width)
    fps = described.average_fps or None
    return VideoMetadata(
        total_num_frames=num_frames,
        fps=fps,
        width=described.width,
        height=described.height,
        duration=num_frames / fps if fps else None,
        video_backend="torchcodec",
    )


def pictures_at(decoder, indices: list[int], times: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the frame of each index, (h, w, 3), and note when it is shown."""
    pieces = [indices[:1], *(indices[at : at + FRAMES_AT_ONCE] for at in range(1, len(indices), FRAMES_AT_ONCE))]
    size = None
    for piece in pieces:
        try:
            batch = decoder.get_frames_at(piece)
            times[piece] = batch.pts_seconds.numpy() - (decoder.metadata.begin_stream_seconds or 0)
            pictures = channels_first(batch.data.cpu(), 4)  # (n, 3, h, w)
        except Exception as error:  # errors of FFmpeg, for which torchcodec has no class
            raise Unreadable(f"its decoder failed at the frames {piece}: {error!s:.500}") from error
        if pictures.is_floating_point():  # 0..1, as `output_dtype=torch.float32` has them
            pictures = (pictures * 255).round().clamp(0, 255).to(torch.uint8)
        size = size or pictures.shape[-2:]
        if pictures.shape[-2:] != size:
            raise Unreadable("its decoder returns frames of different sizes; pass the path or the bytes of the file")
        yield from pictures.movedim(1, -1).numpy()


def with_own_times(metadata: VideoMetadata, times: np.ndarray, indices: list[int]) -> VideoMetadata:
    """The metadata with the times of the frames that were read, where the rate is not even. Times of other frames are
    not known: NaN."""
    if metadata.fps is None or np.abs(times[indices] - np.array(indices) / metadata.fps).max() <= 1 / metadata.fps:
        return metadata
    fields = ("total_num_frames", "fps", "width", "height", "duration", "video_backend")
    return VariableRateMetadata(times, **{name: getattr(metadata, name) for name in fields})
