"""Videos of variable rate: frames are chosen by time where time is asked for, and their true times are told."""

from fractions import Fraction

import numpy as np
import pytest

from demo_model.clip_writing import write_clip
from llava_next_video import LlavaNextVideoVideoProcessor, read_video
from llava_next_video.reading.video_reading import variable_times
from tests.tiny import numbered_frame


SLOW_THEN_FAST = [*range(0, 60_000, 1000), *(60_000 + round(1000 * n / 30) for n in range(180))]  # milliseconds


def write_with_timestamps(path, milliseconds, rate=25):
    options = {"preset": "ultrafast", "bf": "0", "threads": "1"}
    frames = (numbered_frame(number % 200) for number in range(len(milliseconds)))
    write_clip(path, frames, rate, milliseconds=milliseconds, options=options)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_with_timestamps(tmp_path_factory.mktemp("clip") / "clip.mkv", SLOW_THEN_FAST)


@pytest.fixture
def processor():
    return LlavaNextVideoVideoProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def metadata_of(processor, video, **settings):
    [metadata] = processor(video, return_metadata=True, **settings)["video_metadata"]
    return metadata


def test_one_frame_a_second_of_a_variable_rate_is_one_a_second(processor, clip):
    """60 s at one frame a second and 6 s at 30: the times were 0, 3, 7, ..., 66.1, 66.2."""
    metadata = metadata_of(processor, clip, fps=1)
    assert metadata.timestamps == list(range(66))
    assert metadata.frames_indices == [*range(60), *range(60, 240, 30)]
    assert metadata_of(processor, clip, fps=0.5).timestamps == list(range(0, 66, 2))
    assert len(metadata_of(processor, clip, fps=10**9).frames_indices) == 240


def test_times_of_a_variable_rate_are_those_of_the_file(processor, clip):
    """A frame at 3 s was said to be at 0.78 s."""
    metadata = metadata_of(processor, clip, num_frames=5)
    assert metadata.frames_indices == [0, 59, 119, 179, 239]  # as in the original: by number
    assert metadata.timestamps == [0, 59, 61.967, 63.967, 65.967]
    sentence = processor.describe_times(metadata)
    assert sentence.startswith("The video lasts for 66.24 seconds, and 5 frames are uniformly sampled from it.")
    assert "located at 0.00s,59.00s,61.97s,63.97s,65.97s." in sentence
    assert processor.describe_times(metadata_of(processor, clip, num_frames=100, frame_sampling="fps_capped"))


def test_metadata_of_a_variable_rate_is_that_of_the_builtin(clip):
    _, metadata = read_video(clip, lambda _: [0, 3])
    assert set(metadata) == {
        "total_num_frames", "fps", "width", "height", "duration", "video_backend", "frames_indices"
    }  # fmt: skip
    assert metadata.fps == pytest.approx(239 / 65.967)


def test_even_rates_are_described_by_number(processor, tmp_path):
    """Milliseconds round the times of 30000/1001 frames a second; the rate is exact, and times are computed."""
    clip = write_with_timestamps(
        tmp_path / "clip.mkv", [round(n * 1001 / 30) for n in range(90)], rate=Fraction(30000, 1001)
    )
    metadata = metadata_of(processor, clip, fps=1)
    assert metadata.fps == 30000 / 1001
    assert not hasattr(metadata, "times_of_all_frames")
    assert metadata.frames_indices == [0, 29, 59, 89]
    assert metadata.timestamps == [index / (30000 / 1001) for index in metadata.frames_indices]


def test_rate_is_variable_where_a_frame_is_off_by_more_than_a_frame():
    assert variable_times([0, 10, 20, 30], Fraction(1, 10)) is None
    assert variable_times([0, 10, 29, 30, 40], Fraction(1, 10)) is None
    assert variable_times([0, 1, 2, 30], Fraction(1, 10)).tolist() == pytest.approx([0, 0.1, 0.2, 3])
    assert variable_times([0, 10], Fraction(1, 10)) is None
    assert variable_times([5, 5, 5], Fraction(1, 10)) is None
    assert variable_times([0, 1, 30], None) is None


def test_metadata_may_be_nested_as_prompts_are(processor):
    """As the built-in takes it: a list for each prompt."""
    video = np.zeros((10, 16, 16, 3), dtype=np.uint8)
    for form in ([[{"fps": 5.0, "total_num_frames": 10}]], [({"fps": 5.0, "total_num_frames": 10},)]):
        assert metadata_of(processor, video, fps=1, video_metadata=form).frames_indices == [0, 5]


def test_frames_by_time_include_the_last_that_begins():
    """The built-in takes 3 of these: 11 / 30 seconds at 10 a second, rounded down."""
    processor = LlavaNextVideoVideoProcessor()
    [metadata] = processor(
        np.zeros((11, 16, 16, 3), np.uint8),
        fps=10,
        video_metadata={"fps": 30.0, "total_num_frames": 11},
        return_metadata=True,
    )["video_metadata"]
    assert metadata.frames_indices == [0, 3, 6, 9]
