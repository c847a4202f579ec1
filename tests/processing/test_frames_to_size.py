"""Frames of files are resized and cropped as they are decoded, to the same bits as full-size frames afterwards."""

import threading
import time

import numpy as np
import pytest
import torch

from llava_next_video import LlavaNextVideoVideoProcessor, ReadingLimits, VideoLimitError, read_video
from llava_next_video.reading.chosen_frames import FullFrames, hand_over
from llava_next_video.reading.limits import Deadline
from tests.fuzz.corpus import make_corpus
from tests.tiny import random_frames, write_video


SIDE = 20
SQUARE = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
NAMES = ["h264.mp4", "h264_odd_size.mkv", "h264_rotated_90.mp4", "h264_rotated_180.mov", "h264_mirrored_rotated.mp4"]
NAMES += [
    "h264_rgb.mkv",
    "h264_gray.mp4",
    "h264_two_streams.mkv",
    "raw.avi",
    "animated.webp",
    "picture.png",
    "h264.h264",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"exact_pixels": True},
        {"size": {"height": 30, "width": 25}},
        {"do_center_crop": False},
        {"do_resize": False},
        {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False},
        {"crop_size": {"height": 70, "width": 90}, "exact_pixels": True},
    ],
    ids=str,
)
def test_pixels_of_a_file_are_those_of_its_full_size_frames(name, settings, corpus):
    processor = LlavaNextVideoVideoProcessor(**{**SQUARE, **settings})
    read = processor(corpus[name], num_frames=5, return_tensors="pt", return_metadata=True)
    indices = read["video_metadata"][0].frames_indices
    frames, metadata = read_video(corpus[name], lambda _: indices)
    expected = processor(np.ascontiguousarray(frames), return_tensors="pt")["pixel_values_videos"]
    assert read["pixel_values_videos"].dtype == expected.dtype
    assert torch.equal(read["pixel_values_videos"], expected)
    assert dict(read["video_metadata"][0]) == dict(metadata)


def test_frames_are_prepared_on_the_device_that_is_asked_for(corpus):
    pixels = LlavaNextVideoVideoProcessor(**SQUARE)(corpus["h264.mp4"], num_frames=2, device="meta")
    assert pixels["pixel_values_videos"][0].device.type == "meta"


def test_result_is_bounded_by_its_own_size_and_not_by_that_of_the_frames(corpus):
    """Full-size frames are not kept: they counted before."""
    processor = LlavaNextVideoVideoProcessor(**SQUARE)
    processor.limits = ReadingLimits(max_result_bytes=12 * SIDE * SIDE * 3 * 4)
    assert 12 * SIDE * SIDE * 3 * 4 < 12 * 48 * 64 * 3
    assert len(processor(corpus["h264.mp4"])["pixel_values_videos"][0]) == 12
    processor.limits = ReadingLimits(max_result_bytes=12 * SIDE * SIDE * 3 * 4 - 1)
    with pytest.raises(VideoLimitError, match="prepared as 12x20x20 pixels: 12 frames of 20x20 pixels are 57600 bytes"):
        processor(corpus["h264.mp4"])
    processor.limits = ReadingLimits(max_frames=5)
    with pytest.raises(VideoLimitError, match="max_frames=5"):
        processor(corpus["picture.png"], num_frames=6, frame_sampling="uniform_repeated")


class Slow(FullFrames):
    """Takes a while for each frame, and notes what was decoded by then."""

    def __init__(self, decoded):
        super().__init__(ReadingLimits())
        self.decoded, self.seen = decoded, []

    def take(self, position, picture):
        time.sleep(0.05)
        self.seen.append(len(self.decoded))
        assert threading.current_thread() is not threading.main_thread()
        super().take(position, picture)


def test_next_frame_is_decoded_while_one_is_taken_and_no_more():
    pictures, decoded = random_frames(6), []
    taker = Slow(decoded)
    frames = (decoded.append(number) or picture for number, picture in enumerate(pictures))
    deadline = Deadline(60, "max_decode_seconds", "reading it")
    hand_over(frames, np.asarray, (6, 24, 32), deadline, ReadingLimits(), taker)
    assert taker.seen == [2, 3, 4, 5, 6, 6]
    assert (taker.frames == pictures).all()


def test_error_while_a_frame_is_taken_ends_the_reading(tmp_path, monkeypatch):
    clip = write_video(tmp_path / "clip.mp4", num_frames=6)
    processor = LlavaNextVideoVideoProcessor(**SQUARE)

    def fail(*args, **kwargs):
        raise RuntimeError("of another kind")

    monkeypatch.setattr(processor, "resize", fail)
    with pytest.raises(RuntimeError, match="of another kind"):
        processor(clip)
