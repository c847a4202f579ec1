"""Metadata of a video from the index of its frames, not from the header: number of frames, rate and times."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from transformers.video_utils import VideoMetadata

from .errors import Unreadable
from .packet_index import FrameIndex


class VariableRateMetadata(VideoMetadata):
    """Metadata of a video with a variable frame rate: `timestamps` are those of the file."""

    def __init__(self, times_of_all_frames: np.ndarray, **fields):
        super().__init__(**fields)
        self.times_of_all_frames = times_of_all_frames  # in seconds from the first; not a field, as the base has none

    @property
    def timestamps(self) -> list[float]:
        return self.times_of_all_frames[self.frames_indices].tolist()


def metadata_of(
    index: FrameIndex, height: int, width: int, time_base: Fraction | None, stated_fps: float | None
) -> VideoMetadata:
    """Describe a video.

    Args:
        time_base: seconds in a unit of the index's timestamps.
        stated_fps: frames per second in the file's header.

    Raises:
        Unreadable: it has no frames.
    """
    if index.num_frames == 0:
        raise Unreadable("its video stream has no frames")
    times = variable_times(index.timestamps, time_base)
    is_even = times is None
    fps = average_fps(index.timestamps, time_base, stated_fps) if is_even else (index.num_frames - 1) / times[-1]
    fields = {
        "total_num_frames": index.num_frames,
        "fps": fps,
        "width": width,
        "height": height,
        "duration": index.num_frames / fps if fps else None,
        "video_backend": "pyav",
    }
    return VideoMetadata(**fields) if is_even else VariableRateMetadata(times, **fields)


def average_fps(timestamps: Sequence[int], time_base: Fraction | None, stated: float | None) -> float | None:
    """Frames per second on average: what the header states, unless the timestamps differ from it by a tenth."""
    ticks = timestamps[-1] - timestamps[0] if timestamps else 0
    if not ticks or not time_base:
        return stated
    measured = float((len(timestamps) - 1) / (ticks * time_base))
    # The header's is exact where it is right: timestamps are rounded, and do not say how long the last frame is.
    return stated if stated and abs(stated - measured) < 0.1 * measured else measured


def variable_times(timestamps: Sequence[int], time_base: Fraction | None) -> np.ndarray | None:
    """Times in seconds from the first frame, where one lies off an even rate by more than the time of a frame."""
    if len(timestamps) < 3 or not time_base or timestamps[-1] == timestamps[0]:
        return None
    ticks = np.asarray(timestamps) - timestamps[0]
    per_frame = ticks[-1] / (len(ticks) - 1)
    if np.abs(ticks - np.arange(len(ticks)) * per_frame).max() <= per_frame:
        return None
    return ticks * float(time_base)
