"""Which frames of a video are read, and what takes them: the same for all readers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from transformers.utils.logging import tqdm
from transformers.video_utils import VideoMetadata

from .errors import Unreadable
from .guarded_file import GuardedFile
from .limits import Deadline, ReadingLimits


ChooseFrames = Callable[[VideoMetadata], Sequence[int]]


def chosen_indices(choose_frames: ChooseFrames | None, metadata: VideoMetadata) -> list[int]:
    """Indices of the frames to read: all of them without `choose_frames`.

    Raises:
        ValueError: it returned frames that the video does not have, none, or not in order.
    """
    num_frames = metadata.total_num_frames
    indices = [int(index) for index in (choose_frames(metadata) if choose_frames else range(num_frames))]
    if not indices or indices != sorted(indices) or indices[0] < 0 or indices[-1] >= num_frames:
        raise ValueError(
            f"Frames {indices} were chosen from a video of {num_frames} frames; choose at least one, "
            f"in ascending order, from 0 to {num_frames - 1}."
        )
    return indices


def counted_frames(frames: Iterable, indices: list[int]) -> Iterator:
    """Yield the frame of each index, in ascending order, by counting from the first one."""
    numbered, number, frame = enumerate(frames), -1, None
    for index in indices:
        while number < index:
            number, frame = next(numbered, (None, None))
            if number is None:
                raise Unreadable("it had fewer frames when it was decoded a second time")
        yield frame


class FrameTaker(Protocol):
    """What takes the chosen frames, one after another, as soon as they are decoded."""

    def begin(self, num_frames: int, height: int, width: int) -> None:
        """Announces `num_frames` frames of this size. When it is called again, all of them come once more.

        Raises:
            OverLimit, VideoLimitError: they would cost too much.
        """
        ...

    def take(self, position: int, picture: np.ndarray) -> None:
        """Take one frame (height, width, 3), uint8, RGB, upright; its memory is used again afterwards."""
        ...


class FullFrames:
    """Keeps frames as they are: `frames` (num_frames, height, width, 3), uint8."""

    def __init__(self, limits: ReadingLimits):
        self.limits = limits
        self.frames = np.empty((0, 0, 0, 3), dtype=np.uint8)

    def begin(self, num_frames: int, height: int, width: int):
        self.limits.check_result(num_frames, height, width)
        self.frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)

    def take(self, position: int, picture: np.ndarray):
        self.frames[position] = picture


def hand_over(
    frames: Iterable,
    picture_of: Callable[[Any], np.ndarray],
    shape: tuple[int, int, int],
    file: GuardedFile | Deadline,
    limits: ReadingLimits,
    taker: FrameTaker,
):
    """Hand frames to `taker`, each in a second thread while the next is decoded, with a progress bar if it takes long.

    Args:
        picture_of: makes a picture (height, width, 3) of a frame.
        shape: number of frames, height and width of their pictures.
        file: what they are read from, or just its deadline; checked before each frame.
    """
    limits.check_pixels(*shape[1:])
    taker.begin(*shape)
    progress = tqdm(frames, desc="Reading video", total=shape[0], delay=2, leave=False, disable=None, unit="frame")
    before = None
    with ThreadPoolExecutor(1) as thread:
        for position, frame in enumerate(progress):
            file.check()
            if before is not None:
                before.result()
            before = thread.submit(lambda position, frame: taker.take(position, picture_of(frame)), position, frame)
        if before is not None:
            before.result()
