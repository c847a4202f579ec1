"""Which frames of a video are read, and the array they are put into: the same for all readers."""

from collections.abc import Callable, Iterable, Iterator, Sequence

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


def stack_pictures(
    pictures: Iterable[np.ndarray], shape: tuple[int, int, int], file: GuardedFile | Deadline, limits: ReadingLimits
) -> np.ndarray:
    """Put pictures (h, w, 3) into one array as they are decoded, and show a bar when that takes long.

    Args:
        shape: number of pictures, their height and width.
        file: what they are read from, or only until when; checked before each.
    """
    limits.check_pixels(*shape[1:])
    limits.check_result(*shape)
    frames = np.empty((*shape, 3), dtype=np.uint8)  # (n, h, w, 3)
    progress = tqdm(pictures, desc="Reading video", total=shape[0], delay=2, leave=False, disable=None, unit="frame")
    for position, picture in enumerate(progress):
        file.check()
        frames[position] = picture
    return frames
