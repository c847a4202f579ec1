"""Which frames of a video are used: plain functions of numbers that return sorted 0-based frame indices.

Sources: `load_video` in playground/demo/video_demo.py of LLaVA-NeXT for the rules of the original;
`default_sample_indices_fn` in transformers/video_utils.py for `legacy`.
"""

from typing import Literal

import numpy as np


SamplingRule = Literal["uniform", "uniform_repeated", "fps_capped", "legacy"]


def uniform_indices(num_frames_in_video: int, num_frames: int) -> np.ndarray:
    """`num_frames` indices spread evenly from the first to the last frame, both included, rounded down.

    A video with fewer frames gives each of them once.

    >>> uniform_indices(100, 4).tolist(), uniform_indices(3, 4).tolist()
    ([0, 33, 66, 99], [0, 1, 2])
    """
    if num_frames_in_video <= num_frames:
        return np.arange(num_frames_in_video)
    return uniform_repeated_indices(num_frames_in_video, num_frames)


def uniform_repeated_indices(num_frames_in_video: int, num_frames: int) -> np.ndarray:
    """As `uniform_indices`, but always `num_frames` of them: a video with fewer frames gives some more than once.

    >>> uniform_repeated_indices(100, 4).tolist(), uniform_repeated_indices(3, 4).tolist()
    ([0, 33, 66, 99], [0, 0, 1, 2])
    """
    return np.linspace(0, num_frames_in_video - 1, num_frames).astype(int)


def fps_capped_indices(num_frames_in_video: int, fps_of_video: float, num_frames: int, fps: float = 1.0) -> np.ndarray:
    """`fps` frames a second, starting with the first, in steps of a whole number of frames; `uniform_indices` when that
    is more than `num_frames`.

    >>> fps_capped_indices(75, 25.0, 4).tolist(), fps_capped_indices(250, 25.0, 4).tolist()
    ([0, 25, 50], [0, 83, 166, 249])
    """
    indices = np.arange(0, num_frames_in_video, whole_step(fps_of_video, fps))
    return indices if len(indices) <= num_frames else uniform_indices(num_frames_in_video, num_frames)


def whole_step(fps_of_video: float, fps: float) -> int:
    """Frames from one chosen frame to the next, at `fps` frames a second; rounded as in the original (12.5 to 12)."""
    return max(round(min(fps_of_video / fps, 1e9)), 1)


def legacy_indices(num_frames_in_video: int, num_frames: int) -> np.ndarray:
    """The built-in's rule: `num_frames` indices, each at the start of an equal share; never the last frame.

    >>> legacy_indices(100, 4).tolist()
    [0, 25, 50, 75]
    """
    if num_frames_in_video <= num_frames:
        return np.arange(num_frames_in_video)
    return np.floor(np.arange(num_frames) * num_frames_in_video / num_frames).astype(int)


# Rules that need only the number of frames.
RULES = {"uniform": uniform_indices, "uniform_repeated": uniform_repeated_indices, "legacy": legacy_indices}


def time_instruction(indices, num_frames_in_video: int, fps_of_video: float, one_per_second: bool) -> str:
    """The original's sentence about the times of the frames that were chosen.

    Args:
        indices: of the chosen frames.
        num_frames_in_video, fps_of_video: of the whole video.
        one_per_second: whether `fps_capped_indices` took one frame a second; the times are then whole seconds, even if
            the video has 29.97 frames a second and not 30. (Below half a frame a second the original fails.)

    >>> time_instruction([0, 25], 30, 25.0, one_per_second=True)[:60]
    'The video lasts for 1.20 seconds, and 2 frames are uniformly'
    """
    rate = (one_per_second and round(fps_of_video)) or fps_of_video
    return time_sentence([index / rate for index in indices], num_frames_in_video / fps_of_video)


def time_sentence(times_of_frames, duration: float) -> str:
    """The sentence itself, from the times of the frames and the length of the video in seconds."""
    times = ",".join(f"{time:.2f}s" for time in times_of_frames)
    return (
        f"The video lasts for {duration:.2f} seconds, and {len(times_of_frames)} frames are "
        f"uniformly sampled from it. These frames are located at {times}."
        "Please answer the following questions related to this video."
    )


def fps_indices(num_frames_in_video: int, fps_of_video: float, fps: float) -> np.ndarray:
    """`fps` frames for each second of video, starting with the first; every frame once when the video has fewer.

    >>> fps_indices(100, 25.0, 1).tolist()
    [0, 25, 50, 75]
    """
    step = min(max(fps_of_video / fps, 1.0), num_frames_in_video)
    # The small constant keeps a product such as 2.9999999999999996 from losing a frame.
    count = int(np.ceil(num_frames_in_video / step - 1e-6))
    return np.floor(np.arange(count) * step + 1e-6).astype(int)


def fps_indices_by_time(times: np.ndarray, fps: float) -> np.ndarray:
    """As `fps_indices`, for a video of variable rate: what is on the screen at 0, 1/fps, 2/fps, ... seconds.

    Args:
        times: of all frames in seconds, ascending from 0.

    >>> fps_indices_by_time(np.array([0, 1, 2, 2.1, 2.2, 2.9, 3]), 1).tolist()
    [0, 1, 2, 6]
    """
    # A higher rate finds the same frames, as nothing changes between two of them.
    fps = min(fps, 1 / max(np.diff(times).min(), 1e-6))
    moments = np.arange(np.floor(times[-1] * fps + 1e-6) + 1) / fps
    return np.unique(np.searchsorted(times, moments + 1e-6, side="right") - 1)
