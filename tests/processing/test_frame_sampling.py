"""The rules for frames where floating point and extreme numbers would go wrong; usual numbers are tested elsewhere."""

from fractions import Fraction
from math import ceil

import pytest

from llava_next_video.processing.frame_sampling import fps_capped_indices, fps_indices


@pytest.mark.parametrize(("fps_of_video", "fps"), [("23.976", 9), ("23.976", 3), ("29.97", 9), ("12.5", 5), ("30", 7)])
def test_frames_per_second_are_those_of_exact_arithmetic(fps_of_video, fps):
    step = Fraction(fps_of_video) / fps
    for num_frames in range(1, 700):
        exact = [int(number * step) for number in range(ceil(num_frames / step))]
        assert fps_indices(num_frames, float(fps_of_video), fps).tolist() == exact, num_frames


def test_hardly_any_frames_a_second_are_the_first_frame():
    assert fps_indices(100, 25.0, 5e-324).tolist() == [0]
    assert fps_capped_indices(100, 25.0, 4, fps=5e-324).tolist() == [0]
