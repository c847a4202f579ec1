"""Resizes and crops the frames of a file as they are decoded: one full-size frame is in memory while the next one is
decoded."""

from collections.abc import Callable

import numpy as np
import torch


class FramesToSize:
    """Takes frames from the reader, and keeps them resized and cropped: `frames` (num_frames, 3, height, width).

    Args:
        to_size: resizes and crops a frame (1, 3, h, w), uint8 -> (1, 3, height, width).
        check: gets the number of frames, height and width, and raises an error where they would cost too much.
        device: where frames are resized and kept.
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
