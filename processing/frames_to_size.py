"""Frames of a file are brought to the size that the model takes as soon as they are decoded: one full-size frame is in
memory, and the next one is decoded meanwhile."""

from collections.abc import Callable

import numpy as np
import torch


class FramesToSize:
    """Takes frames from the reader, and keeps them resized and cropped: `frames` (num_frames, 3, height, width).

    Args:
        to_size: resizes and crops a frame (1, 3, h, w), uint8 -> (1, 3, height, width).
        check: of so many frames of a height and width; raises an error where they would cost too much.
        device: where that is done, and `frames` are.
    """

    def __init__(
        self,
        to_size: Callable[[torch.Tensor], torch.Tensor],
        check: Callable[[int, int, int], object],
        device: torch.device | str | None = None,
    ):
        self.to_size, self.check, self.device = to_size, check, device
        self.num_frames = 0
        self.frames = torch.empty((0, 3, 0, 0), dtype=torch.uint8)

    def begin(self, num_frames: int, height: int, width: int):
        self.check(num_frames, height, width)
        self.num_frames, self.frames = num_frames, self.frames[:0]

    def take(self, position: int, picture: np.ndarray):
        frame = torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0)[None]  # (1, 3, h, w)
        frame = self.to_size(frame if self.device is None else frame.to(self.device))  # (1, 3, height, width)
        if not len(self.frames):
            self.frames = frame.new_empty((self.num_frames, *frame.shape[1:]))
        self.frames[position] = frame[0]
