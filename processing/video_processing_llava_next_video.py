"""Videos for LLaVA-NeXT-Video: read files, choose frames, and turn them into pixel values."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from transformers import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from ..reading.picture_values import is_own_scale
from ..reading.video_reading import read_into, read_video
from ..reading.video_sources import is_video_source
from .checked_settings import PixelSettingsMixin, check_pixel_settings
from .exact_pixels import ExactPixelsMixin
from .frame_sampling import (
    RULES,
    SamplingRule,
    fps_capped_indices,
    fps_indices,
    fps_indices_by_time,
    time_instruction,
    time_sentence,
    whole_step,
)
from .frames_to_size import FramesToSize
from .pixel_bounds import check_preparation, memory_errors, split_by_pixels
from .video_inputs import GivenVideo, as_list_of_videos, flatten, sample_array


# Each is decoded in as many threads as there are processors, and every thread holds frames.
MAX_VIDEOS_AT_ONCE = 8
SIZE_IS_RIGHT = {"do_resize": False, "do_center_crop": False}


class LlavaNextVideoVideoProcessorKwargs(VideosKwargs, total=False):
    """
    frame_sampling (`str`): how `num_frames` frames are chosen: `"uniform"` from the first to the last frame,
        `"uniform_repeated"` the same, but short videos give frames more than once, `"fps_capped"` one a second (or
        `fps`), or `"uniform"` when those are more than `num_frames`, `"legacy"` as the built-in.
    time_instruction (`bool`): whether prompts say how long the video is and when its frames were taken.
    """

    frame_sampling: SamplingRule
    time_instruction: bool


class LlavaNextVideoVideoProcessor(PixelSettingsMixin, ExactPixelsMixin, BaseVideoProcessor):
    """Turns videos into `pixel_values_videos`: (videos, frames, 3, height, width), float32, or a list of
    (frames, 3, height, width) when the videos differ in their number of frames.

    A video is a path, a URL, a data URI, bytes or a binary file object, which is read and sampled; or frames: an array
    or tensor (frames, height, width, 3) or (frames, 3, height, width) of 0..255, or a list of PIL images, arrays or
    paths of images, which are taken as they are. One call may mix them.

    `num_frames` frames of a file are taken by the rule `frame_sampling`; with `fps`, that many frames per second, which
    only the rule `"fps_capped"` limits to `num_frames`. Passing either to a call overrides the checkpoint's choice and
    samples frames given as arrays too; `do_sample_frames=False` takes every frame of a file. Short videos give each
    frame once, except by the rule `"uniform_repeated"`.

    `exact_pixels=True`, given to `from_pretrained`, computes pixels to the last bit as the original does, more slowly.

    `limits` say how much reading one video may cost. They belong to whoever runs the processor and are not saved:
    `processor.video_processor.limits = ReadingLimits(max_decode_seconds=20)`.
    """

    valid_kwargs = LlavaNextVideoVideoProcessorKwargs

    do_sample_frames = False  # of frames given as arrays; files are sampled unless a call says otherwise
    num_frames = 32
    frame_sampling = "uniform"
    time_instruction = False

    def preprocess(self, videos, **kwargs) -> BatchFeature:
        """Read and prepare videos.

        Raises:
            VideoReadError: one cannot be read, or memory runs out; `VideoLimitError` if it would cost more than the
                limits allow.
            ValueError, TypeError: one is not a video, or a setting is impossible.
        """
        check_pixel_settings(kwargs)
        sampling = (kwargs.get(name) for name in ("num_frames", "fps", "frame_sampling", "do_sample_frames"))
        choose = dict(zip((True, False), self.frame_choosers(*sampling)))  # by whether it is a file
        videos = as_list_of_videos(videos)
        given = kwargs.pop("video_metadata", None)  # for one video, a list, or a list per prompt
        metadata = flatten([] if given is None else given) or [None] * len(videos)
        if len(metadata) != len(videos):
            raise ValueError(
                f"The video processor got {len(videos)} videos and video_metadata of {len(metadata)}; pass one each."
            )
        own_scale = is_own_scale(*(kwargs.get(name, getattr(self, name)) for name in ("do_rescale", "rescale_factor")))
        layout = kwargs.get("input_data_format")
        given = [
            GivenVideo(video, known, choose[is_video_source(video)], own_scale, layout)
            for video, known in zip(videos, metadata)
        ]
        with memory_errors("given to the video processor"):
            processed = super().preprocess(given, **{**kwargs, "do_sample_frames": False})
        if "video_metadata" in processed:
            processed["video_metadata"] = [video.metadata for video in given]
        return processed

    def _decode_and_sample_videos(self, videos: list[GivenVideo], *args, **kwargs) -> tuple[list[GivenVideo], None]:
        return videos, None  # they are read in `_preprocess`, which knows their final size

    def _prepare_input_videos(self, videos: list[GivenVideo], device=None, **kwargs) -> list[GivenVideo]:
        for video in videos:
            video.device = device
        return videos

    def frame_choosers(
        self, num_frames: int | None, fps: float | None, frame_sampling: str | None, do_sample_frames: bool | None
    ) -> tuple[Callable | None, Callable | None]:
        """For a call with these arguments, the function that chooses the frames of files by their metadata, and the one
        for arrays; `None` takes every frame."""
        frame_sampling = frame_sampling or self.frame_sampling
        is_capped = frame_sampling == "fps_capped"
        if num_frames is not None and fps is not None and not is_capped:
            raise ValueError(
                f"The video processor got num_frames={num_frames} and fps={fps}; both choose the frames, pass one."
            )
        asked_for = num_frames is not None or fps is not None
        if not asked_for:
            num_frames, fps = self.num_frames, self.fps
        elif is_capped and fps is None:
            fps = self.fps
        # Before anything is read; attributes may have been set since the processor was made.
        check_pixel_settings({"num_frames": num_frames, "fps": fps, "frame_sampling": frame_sampling})
        num_frames = num_frames if fps is None or is_capped else None
        choose = partial(self.sample_frames, num_frames=num_frames, fps=fps, frame_sampling=frame_sampling)
        sample_arrays = self.do_sample_frames or asked_for if do_sample_frames is None else do_sample_frames
        return None if do_sample_frames is False else choose, choose if sample_arrays else None

    def fetch_videos(self, video_url_or_urls, sample_indices_fn: Callable | None = None):
        """Read a video in any form that the processor takes, within the limits: its frames (frames, height, width, 3),
        uint8, and its metadata. For a list of videos: a tuple of all frames, and one of all metadata."""
        if isinstance(video_url_or_urls, list | tuple):
            return list(zip(*[self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls]))
        return read_video(video_url_or_urls, sample_indices_fn, self.limits)

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        frame_sampling: str | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Choose frame indices (ascending, 0-based) of a video with this metadata, by `num_frames` or by `fps`; or by
        both, where the rule is `"fps_capped"`."""
        total = metadata.total_num_frames
        frame_sampling = frame_sampling or self.frame_sampling
        check_pixel_settings({"num_frames": num_frames, "fps": fps, "frame_sampling": frame_sampling})
        if (fps is not None or frame_sampling == "fps_capped") and metadata.fps is None:
            raise ValueError(
                "Frames are chosen by time here, but the frame rate of the video is not known. Pass "
                "video_metadata={'fps': ..., 'total_num_frames': ...}, or choose by num_frames with "
                "frame_sampling='uniform'."
            )
        if num_frames is None:
            times = getattr(metadata, "times_of_all_frames", None)
            return fps_indices(total, metadata.fps, fps) if times is None else fps_indices_by_time(times, fps)
        if frame_sampling == "fps_capped":
            return fps_capped_indices(total, metadata.fps, num_frames, fps or 1.0)
        return RULES[frame_sampling](total, num_frames)

    def describe_times(self, metadata: VideoMetadata, frame_sampling: str | None = None) -> str:
        """The original's sentence about the length of a video and the times of the frames chosen from it.

        Raises:
            ValueError: the frame rate of the video is not known.
        """
        if metadata.fps is None:
            raise ValueError(
                "The prompt should say when the frames were taken, but the frame rate of the video is not known. Pass "
                "video_metadata={'fps': ..., 'total_num_frames': ...}, or time_instruction=False."
            )
        if getattr(metadata, "times_of_all_frames", None) is not None:
            return time_sentence(metadata.timestamps, metadata.duration)
        seconds = list(range(0, metadata.total_num_frames, whole_step(metadata.fps, 1.0)))
        one_per_second = (frame_sampling or self.frame_sampling) == "fps_capped" and (
            list(metadata.frames_indices) == seconds
        )
        return time_instruction(
            metadata.frames_indices, metadata.total_num_frames, metadata.fps, one_per_second=one_per_second
        )

    def _preprocess(self, videos: list[GivenVideo], return_tensors=None, **settings) -> BatchFeature:
        frames = in_parallel(lambda video: self.read_frames(video, settings), videos)
        # One video after another: they rarely have the same size, and stacking them would copy every full-size frame.
        processed = []  # (frames, 3, height, width) of each
        for position, video in enumerate(videos):
            done = SIZE_IS_RIGHT if is_video_source(video.source) else {}
            processed.append(self.prepare_frames(frames[position], {**settings, **done}))
            frames[position] = None
        if len(processed) == 1 and return_tensors is not None:
            processed = processed[0][None]  # (1, frames, 3, height, width), a view
        ragged = len({len(video) for video in processed}) > 1
        return BatchFeature({"pixel_values_videos": processed}, tensor_type=None if ragged else return_tensors)

    def read_frames(self, video: GivenVideo, settings: dict) -> torch.Tensor:
        """The chosen frames of a video, (frames, 3, height, width); those of a file in their final size. Sets
        `video.metadata`."""
        if is_video_source(video.source):

            def check(num_frames: int, height: int, width: int):
                self.limits.check_num_frames(num_frames)
                check_preparation(num_frames, (height, width), self.limits, **settings)

            frames = FramesToSize(partial(self.to_size, **settings), check, video.device)
            video.metadata = read_into(frames, video.source, video.choose, self.limits)
            return frames.frames
        frames, video.metadata = sample_array(
            video.source, video.metadata, video.choose, self.limits, video.own_scale, video.layout
        )
        self.check_exact(frames, video.own_scale)
        return frames if video.device is None else frames.to(video.device)

    def prepare_frames(self, frames: torch.Tensor, settings: dict) -> torch.Tensor:
        """Frames (frames, 3, h, w) as the model takes them: (frames, 3, height, width), float32."""
        resized = check_preparation(len(frames), tuple(frames.shape[-2:]), self.limits, **settings)
        first, *others = split_by_pixels(frames, resized, self.limits)
        first = self.prepare_pixels(first, **settings)  # (frames of the piece, 3, height, width)
        if not others:
            return first
        prepared = first.new_empty((len(frames), *first.shape[1:]))  # (frames, 3, height, width)
        prepared[: len(first)], done = first, len(first)
        for piece in others:
            prepared[done : done + len(piece)] = self.prepare_pixels(piece, **settings)
            done += len(piece)
        return prepared


def in_parallel(function: Callable, items: Sequence) -> list:
    """As `list(map(function, items))`, several at a time: decoding releases Python's lock."""
    together = min(len(items), os.cpu_count() or 1, MAX_VIDEOS_AT_ONCE)
    if together == 1:
        return list(map(function, items))
    with ThreadPoolExecutor(together) as threads:
        return list(threads.map(function, items))
