import io
import json
import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata

from llava_next_video import (
    LlavaNextVideoImageProcessor,
    LlavaNextVideoVideoProcessor,
    ReadingLimits,
    VideoLimitError,
    VideoReadError,
)
from tests.tiny import random_frames, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=100, fps=25)


@pytest.fixture
def processor():
    return LlavaNextVideoVideoProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def chosen(processor, videos, **kwargs) -> list[int]:
    [metadata] = processor(videos, return_metadata=True, **kwargs)["video_metadata"]
    return list(metadata.frames_indices)


def test_path_and_nothing_else_gives_32_frames_from_first_to_last(processor, clip):
    indices = chosen(processor, str(clip))
    assert indices == np.linspace(0, 99, 32).astype(int).tolist()
    assert processor(clip, return_tensors="pt")["pixel_values_videos"].shape == (1, 32, 3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"num_frames": 4}, [0, 33, 66, 99]),
        ({"num_frames": 4, "frame_sampling": "legacy"}, [0, 25, 50, 75]),
        ({"num_frames": 3, "frame_sampling": "fps_capped"}, [0, 49, 99]),
        ({"num_frames": 4, "frame_sampling": "fps_capped"}, [0, 25, 50, 75]),
        ({"fps": 2}, [0, 12, 25, 37, 50, 62, 75, 87]),
        ({"fps": 1000}, list(range(100))),
        ({"num_frames": 1000}, list(range(100))),
        ({"num_frames": 1000, "frame_sampling": "legacy"}, list(range(100))),
        ({"do_sample_frames": False}, list(range(100))),
    ],
)
def test_call_overrides_the_checkpoints_sampling(processor, clip, arguments, expected):
    assert chosen(processor, clip, **arguments) == expected


def test_sampling_of_the_checkpoint_is_saved_and_used(processor, clip, tmp_path):
    processor.num_frames, processor.frame_sampling = 5, "fps_capped"
    processor.save_pretrained(tmp_path)
    again = LlavaNextVideoVideoProcessor.from_pretrained(tmp_path)
    assert chosen(again, clip) == [0, 25, 50, 75]


@pytest.mark.parametrize(
    ("rule", "arguments", "expected"),
    [
        ("uniform", {}, [0, 12, 25, 37, 50, 62, 75, 87]),
        ("uniform", {"num_frames": 3}, [0, 49, 99]),
        ("fps_capped", {}, [0, 24, 49, 74, 99]),  # as the original, whose number of frames is always a limit
        ("fps_capped", {"num_frames": 9}, [0, 12, 24, 36, 48, 60, 72, 84, 96]),  # of 25 / 2 frames rounded: every 12th
        ("fps_capped", {"fps": 3}, [0, 8, 16, 25, 33, 41, 50, 58, 66, 75, 83, 91]),
    ],
)
def test_fps_of_the_checkpoint_is_used(processor, clip, rule, arguments, expected):
    processor.num_frames, processor.fps, processor.frame_sampling = 5, 2, rule
    assert chosen(processor, clip, **arguments) == expected


def test_limits_hold_for_every_call_and_are_not_of_the_checkpoint(processor, clip, tmp_path):
    processor.limits = ReadingLimits(max_frames=99)
    with pytest.raises(VideoLimitError, match="it has more frames than max_frames=99"):
        processor(clip)
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert "limits" not in settings
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({**settings, "limits": {"max_frames": 1}}))
    assert LlavaNextVideoVideoProcessor.from_pretrained(tmp_path).limits == ReadingLimits()


def test_error_for_an_unknown_rule_where_frames_are_chosen(processor):
    """It was a KeyError."""
    metadata = VideoMetadata(total_num_frames=9, fps=1.0)
    assert processor.sample_frames(metadata, num_frames=3).tolist() == [0, 4, 8]
    with pytest.raises(ValueError, match="frame_sampling is 'nope'; it has to be one of"):
        processor.sample_frames(metadata, num_frames=3, frame_sampling="nope")


def test_videos_are_fetched_within_the_limits(processor, clip):
    """transformers' own `fetch_videos` reads any address, and needs torchcodec."""
    frames, metadata = processor.fetch_videos(str(clip), lambda metadata: [0, 99])
    assert (len(frames), frames.shape[-1], frames.dtype) == (2, 3, np.uint8)
    assert list(metadata.frames_indices) == [0, 99]
    both, of_both = processor.fetch_videos([clip, clip.read_bytes()])
    assert [len(frames) for frames in both] == [len(metadata.frames_indices) for metadata in of_both] == [100, 100]
    with pytest.raises(VideoReadError, match=r"127\.0\.0\.1, which is not a public address"):
        processor.fetch_videos("http://127.0.0.1:9/clip.mp4")
    processor.limits = ReadingLimits(max_frames=99)
    with pytest.raises(VideoLimitError, match="max_frames=99"):
        processor.fetch_videos([str(clip)])


@pytest.mark.parametrize("processor_class", [LlavaNextVideoVideoProcessor, LlavaNextVideoImageProcessor])
@pytest.mark.parametrize(("name", "value"), [("device", "meta"), ("device", "cuda:9"), ("resize", 5), ("backend", "x")])
def test_a_checkpoint_decides_neither_the_device_nor_a_method(processor_class, tmp_path, name, value):
    """Pixels had no values, or the first call ended in RuntimeError, TypeError, AttributeError."""
    made = processor_class(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    made.save_pretrained(tmp_path)
    [file] = tmp_path.glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    processor = processor_class.from_pretrained(tmp_path)
    expected = next(iter(made(random_frames(1)[0]).values()))
    assert torch.equal(next(iter(processor(random_frames(1)[0]).values()))[0], expected[0])
    assert processor_class.from_pretrained(tmp_path, device="cpu").device == "cpu"
    assert "device" not in processor_class(device="cpu").to_dict()


def test_limits_hold_for_pictures_that_are_frames(processor, tmp_path):
    Image.fromarray(random_frames(1)[0]).save(tmp_path / "frame.png")
    processor.limits = ReadingLimits(max_frame_pixels=24 * 32 - 1)
    with pytest.raises(VideoLimitError, match="its frames of 24x32 pixels are over max_frame_pixels=767"):
        processor([str(tmp_path / "frame.png")])
    processor.limits = ReadingLimits()
    with pytest.raises(VideoReadError, match=r"127\.0\.0\.1, which is not a public address"):
        processor(["http://127.0.0.1:9/frame.png"])


def test_frames_are_taken_as_they_are_unless_sampling_is_asked_for(processor):
    frames = random_frames(50)
    assert len(chosen(processor, frames)) == 50
    assert len(chosen(processor, frames, num_frames=None, fps=None)) == 50
    assert chosen(processor, frames, num_frames=3) == [0, 24, 49]
    assert chosen(processor, frames, fps=1, video_metadata={"fps": 25.0, "total_num_frames": 50}) == [0, 25]


def test_every_form_of_frames_gives_the_same_pixels(processor, tmp_path):
    frames = random_frames(4)
    paths = []
    for number, frame in enumerate(frames):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(frame).save(paths[-1])
    expected = processor(frames, return_tensors="pt")["pixel_values_videos"]
    forms = [
        torch.from_numpy(frames),
        torch.from_numpy(frames).movedim(-1, 1),
        [frames],
        frames[None],
        list(frames),
        [Image.fromarray(frame) for frame in frames],
        [[Image.fromarray(frame) for frame in frames]],
        paths,
        [[paths]],
    ]
    for form in forms:
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values_videos"], expected)


class MeetingFile(io.BytesIO):
    """A file that can be read only while others are."""

    def __init__(self, data: bytes, others: threading.Barrier):
        super().__init__(data)
        self.others, self.met = others, False

    def read(self, size: int = -1) -> bytes:
        if not self.met:
            self.met = True
            self.others.wait()
        return super().read(size)


def test_videos_of_a_batch_are_read_at_the_same_time(processor, clip, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    others = threading.Barrier(3, timeout=20)
    files = [MeetingFile(clip.read_bytes(), others) for _ in range(3)]
    expected = processor(clip, num_frames=4)["pixel_values_videos"][0]
    for video in processor(files, num_frames=4)["pixel_values_videos"]:
        assert torch.equal(video, expected)


def test_the_first_bad_video_of_a_batch_is_the_one_that_is_told(processor, clip, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with pytest.raises(VideoReadError, match="first"):
        processor([str(clip), "first.mp4", str(clip), "second.mp4"])


def test_one_picture_is_a_video_of_one_frame(processor):
    for picture in (random_frames(1)[0], Image.fromarray(random_frames(1)[0])):
        assert processor(picture, return_tensors="pt")["pixel_values_videos"].shape == (1, 1, 3, 16, 16)


def test_batch_may_mix_files_arrays_and_lengths(processor, clip):
    channels_first = torch.from_numpy(random_frames(2)).movedim(-1, 1)
    videos = [clip, random_frames(5), channels_first, [Image.new("RGB", (30, 40))]]
    pixels = processor(videos, num_frames=3, return_tensors="pt")["pixel_values_videos"]
    assert [tuple(video.shape) for video in pixels] == [(n, 3, 16, 16) for n in (3, 3, 2, 1)]
    alone = processor(channels_first, return_tensors="pt")["pixel_values_videos"][0]
    assert torch.equal(pixels[2], alone)


@pytest.mark.parametrize(
    ("videos", "arguments", "error", "message"),
    [
        ("none.mp4", {}, VideoReadError, "'none.mp4': there is no such file"),
        ([["what", "is"]], {}, VideoReadError, "'what': there is no such file"),
        ([], {}, ValueError, "got an empty list where a video or its frames were expected"),
        ([[]], {}, ValueError, "got an empty list"),
        (7, {}, TypeError, "A video cannot be made of int. Pass a path"),
        (np.zeros((4, 4)), {}, TypeError, r"A video cannot be made of ndarray\[4, 4\]"),
        (np.zeros((0, 4, 4, 3)), {}, ValueError, r"a video of shape \[0, 4, 4, 3\], which has no frames"),
        (np.zeros((1, 0, 4, 3)), {}, ValueError, r"a video of shape \[1, 0, 4, 3\], which has no frames or no pixels"),
        (random_frames(4), {"num_frames": 0}, ValueError, "num_frames is 0; it has to be a whole number from 1"),
        (random_frames(4), {"fps": float("nan")}, ValueError, "fps is nan; it has to be a number greater than 0"),
        (random_frames(4), {"frame_sampling": "other"}, ValueError, "frame_sampling is 'other'; it has to be one of"),
        (["broken.png"], {}, VideoReadError, "'broken.png': there is no such file"),
        (random_frames(4), {"fps": -1}, ValueError, "fps is -1; it has to be a number greater than 0"),
        (random_frames(4), {"fps": 1, "num_frames": 2}, ValueError, "num_frames=2 and fps=1; both choose the frames"),
        (random_frames(4), {"fps": 1}, ValueError, "by time here, but the frame rate of the video is not known"),
        (random_frames(4), {"video_metadata": [{}, {}]}, ValueError, "1 videos and video_metadata of 2"),
        (
            random_frames(4),
            {"num_frames": 2, "video_metadata": {"total_num_frames": 9}},
            ValueError,
            "a video of 4 frames, but its video_metadata says 9",
        ),
        ([random_frames(1)[0], random_frames(1, 9, 9)[0]], {}, ValueError, "of one size, but they are"),
    ],
)
def test_error_for_wrong_input(processor, videos, arguments, error, message):
    with pytest.raises(error, match=message):
        processor(videos, **arguments)
