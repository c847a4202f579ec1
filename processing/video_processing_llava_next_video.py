"""Videos for LLaVA-NeXT-Video: read files, choose frames, and turn them into pixel values."""

import mimetypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from ..modeling.own_code import forget_exported_code
from ..reading.pictures import head_of, is_base64_picture, is_own_scale, is_picture, largest_of, rgb_frames, rgb_video
from ..reading.video_reading import read_video
from ..reading.video_sources import LimitsMixin, ReadingLimits, is_video_source
from .exact_pixels import ExactPixelsMixin
from .frame_sampling import (
    fps_capped_indices,
    fps_indices,
    fps_indices_by_time,
    legacy_indices,
    time_instruction,
    time_sentence,
    uniform_indices,
    uniform_repeated_indices,
    whole_step,
)
from .pixel_bounds import check_on_the_way, check_prepared, check_settings, largest_sides, pieces


# Each is decoded in as many threads as there are processors, and holds the frames it needs for that.
MOST_VIDEOS_TOGETHER = 8
SamplingRule = Literal["uniform", "uniform_repeated", "fps_capped", "legacy"]
SAMPLING_RULES = get_args(SamplingRule)


@dataclass
class ProcessedVideo:
    """A video that was read and prepared before; it can stand wherever the processor takes a video.

    Args:
        pixel_values (`torch.Tensor` of shape (frames, 3, height, width)): what the model takes. On the meta device,
            without values, it is enough to write prompts with.
        metadata (`VideoMetadata`): of the file, with the indices of the frames.
    """

    pixel_values: torch.Tensor
    metadata: VideoMetadata


class LlavaNextVideoVideoProcessorKwargs(VideosKwargs, total=False):
    """
    frame_sampling (`str`): how `num_frames` frames are chosen: `"uniform"` from the first to the last frame,
        `"uniform_repeated"` so too, with short videos giving frames more than once, `"fps_capped"` one a second (or
        `fps`) and `"uniform"` when those are more than `num_frames`, `"legacy"` as the built-in.
    time_instruction (`bool`): whether prompts say how long the video is and when its frames were taken.
    """

    frame_sampling: SamplingRule
    time_instruction: bool


class LlavaNextVideoVideoProcessor(LimitsMixin, ExactPixelsMixin, BaseVideoProcessor):
    """Turns videos into `pixel_values_videos`: (videos, frames, 3, height, width), float32, or a list of
    (frames, 3, height, width) when the videos differ in their number of frames.

    A video is a path, a URL, a data URI, bytes or a binary file object, which is read and sampled; or frames: an array
    or tensor (frames, height, width, 3) or (frames, 3, height, width) of 0..255, or a list of PIL images, arrays or
    paths of images, which are taken as they are. One call may mix them.

    `num_frames` frames of a file are taken by the rule `frame_sampling`; with `fps`, that many frames per second.
    Passing either to a call overrides the checkpoint's choice and samples frames given as arrays too;
    `do_sample_frames=False` takes every frame of a file. Short videos give each frame once, except by the rule
    `"uniform_repeated"`.

    `exact_pixels=True`, given to `from_pretrained`, computes pixels to the last bit as the original does, more slowly.

    `limits` are how much reading one video may cost. They belong to whoever runs the processor and are not saved:
    `processor.video_processor.limits = ReadingLimits(max_decode_seconds=20)`.
    """

    valid_kwargs = LlavaNextVideoVideoProcessorKwargs

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = False  # of frames given as arrays; files are sampled unless a call says otherwise
    num_frames = 32
    frame_sampling = "uniform"
    time_instruction = False

    def __init__(self, **kwargs):
        forget_exported_code(self, kwargs)
        super().__init__(**kwargs)

    def preprocess(self, videos, **kwargs) -> BatchFeature:
        num_frames, fps = kwargs.get("num_frames"), kwargs.get("fps")
        frame_sampling = kwargs.get("frame_sampling", self.frame_sampling)
        both = num_frames is not None and fps is not None
        if both and frame_sampling != "fps_capped":
            raise ValueError(
                f"The video processor got num_frames={num_frames} and fps={fps}; both choose the frames, pass one."
            )
        for name, value in (("num_frames", num_frames), ("fps", fps)):
            if value is not None and not value > 0:  # NaN is not either
                raise ValueError(f"The video processor got {name}={value}; it has to be greater than 0.")
        if frame_sampling not in SAMPLING_RULES:
            raise ValueError(
                f"The video processor got frame_sampling={frame_sampling!r}; it has to be one of {SAMPLING_RULES}."
            )
        asked_for = num_frames is not None or fps is not None
        if not asked_for:
            num_frames, fps = self.num_frames, self.fps
        check_settings(self.limits, {"num_frames": num_frames, "fps": fps})
        sample_files = kwargs.pop("do_sample_frames", None)
        sample_arrays = sample_files
        if sample_files is None:
            sample_files = True
            sample_arrays = self.do_sample_frames or asked_for
        choose = partial(
            self.sample_frames,
            num_frames=num_frames if fps is None or both else None,
            fps=fps,
            frame_sampling=frame_sampling,
        )

        videos = as_list_of_videos(videos)
        metadata = as_list_of_metadata(kwargs.pop("video_metadata", None)) or [None] * len(videos)
        if len(metadata) != len(videos):
            raise ValueError(
                f"The video processor got {len(videos)} videos and video_metadata of {len(metadata)}; pass one each."
            )

        own_scale = is_own_scale(*(kwargs.get(name, getattr(self, name)) for name in ("do_rescale", "rescale_factor")))
        layout = kwargs.get("input_data_format")

        def frames_of(video, known) -> tuple[np.ndarray | torch.Tensor, VideoMetadata]:
            if is_video_source(video):
                frames, described = read_video(video, choose if sample_files else None, self.limits)
                return rgb_video(frames, self.limits), described
            frames, described = sample_array(
                video, known, choose if sample_arrays else None, self.limits, own_scale, layout
            )
            self.check_exact(frames, own_scale)
            return frames, described

        frames_and_metadata = in_parallel(frames_of, videos, metadata)
        return super().preprocess(
            [frames for frames, _ in frames_and_metadata],
            video_metadata=[described for _, described in frames_and_metadata],
            do_sample_frames=False,
            **{**kwargs, "input_data_format": ChannelDimension.FIRST},
        )

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
        if (fps is not None or frame_sampling == "fps_capped") and metadata.fps is None:
            raise ValueError(
                "Frames are to be chosen by time, but the frame rate of the video is not known. Pass "
                "video_metadata={'fps': ..., 'total_num_frames': ...}, or choose by num_frames with "
                "frame_sampling='uniform'."
            )
        if num_frames is None:
            times = getattr(metadata, "times_of_all_frames", None)
            return fps_indices(total, metadata.fps, fps) if times is None else fps_indices_by_time(times, fps)
        if frame_sampling == "fps_capped":
            return fps_capped_indices(total, metadata.fps, num_frames, fps or 1.0)
        rules = {"legacy": legacy_indices, "uniform_repeated": uniform_repeated_indices, "uniform": uniform_indices}
        return rules[frame_sampling](total, num_frames)

    def describe_times(self, metadata: VideoMetadata, frame_sampling: str | None = None) -> str:
        """The original's sentence about the length of a video and the times of the frames chosen from it.

        Raises:
            ValueError: the frame rate of the video is not known.
        """
        if metadata.fps is None:
            raise ValueError(
                "The prompt is to say when the frames were taken, but the frame rate of the video is not known. Pass "
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

    def _standardize_kwargs(self, **kwargs) -> dict:
        settings = super()._standardize_kwargs(**kwargs)
        check_settings(self.limits, settings)
        return settings

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        return_tensors=None,
        **kwargs,
    ) -> BatchFeature:
        # One video after another: videos are rarely alike, and stacking them would copy every full-size frame.
        processed = []
        for frames in videos:  # (frames, 3, height, width)
            sides = tuple(frames.shape[-2:])
            resized = largest_sides(*sides, size) if do_resize else sides
            check_on_the_way(*resized, sides, self.limits)
            height, width = (crop_size.height, crop_size.width) if do_center_crop else resized
            check_prepared(len(frames), height, width, self.limits)
            prepared = []
            for piece in pieces(frames, resized, self.limits):
                if do_resize:
                    piece = self.resize(piece, size, resample=resample)
                if do_center_crop:
                    piece = self.center_crop(piece, crop_size)
                # Rows of a channel lie together from here on, as the tower wants them; as bytes that is a small copy.
                piece = piece.contiguous()
                prepared.append(
                    self.rescale_and_normalize(piece, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
                )
            processed.append(prepared[0] if len(prepared) == 1 else torch.cat(prepared))
        if len(processed) == 1 and return_tensors is not None:
            return BatchFeature({"pixel_values_videos": processed[0][None]}, tensor_type=return_tensors)
        ragged = len({len(video) for video in processed}) > 1
        return BatchFeature({"pixel_values_videos": processed}, tensor_type=None if ragged else return_tensors)


def in_parallel(function: Callable, *arguments: Sequence) -> list:
    """As `list(map(function, *arguments))`, several at a time: decoding lets go of Python's lock."""
    together = min(len(arguments[0]), os.cpu_count() or 1, MOST_VIDEOS_TOGETHER)
    if together == 1:
        return list(map(function, *arguments))
    with ThreadPoolExecutor(together) as threads:
        return list(threads.map(function, *arguments))


def as_list_of_videos(videos) -> list:
    """Flatten whatever users pass (one video, a list, a list per prompt) into a list of single videos.

    Raises:
        ValueError: a list is empty.
        TypeError: something in it is not a video.
    """
    if is_base64_picture(videos):
        return [[videos]]
    if is_video_source(videos) or isinstance(videos, ProcessedVideo):
        return [videos]
    if isinstance(videos, np.ndarray | torch.Tensor):
        if videos.ndim in (3, 4):
            return [videos if videos.ndim == 4 else videos[None]]
        videos = list(videos) if videos.ndim == 5 else videos
    if isinstance(videos, Image.Image):
        return [[videos]]
    if not isinstance(videos, list | tuple):
        raise TypeError(
            f"A video cannot be made of {type(videos).__name__}"
            f"{list(videos.shape) if hasattr(videos, 'shape') else ''}. Pass a path, a URL, bytes, a file object, "
            "an array (frames, height, width, 3), or a list of frames."
        )
    if len(videos) == 0:
        raise ValueError("The video processor got an empty list where a video or its frames were expected.")
    if all(is_frame(item) for item in videos):
        return [list(videos)]
    return [video for item in videos for video in as_list_of_videos(item)]


def as_list_of_metadata(metadata) -> list:
    """One dictionary or `VideoMetadata`, a list of them, or a list per prompt, as a list."""
    if metadata is None:
        return []
    if isinstance(metadata, dict | VideoMetadata):
        return [metadata]
    return [
        one for item in metadata for one in (as_list_of_metadata(item) if isinstance(item, list | tuple) else [item])
    ]


def is_frame(value) -> bool:
    """Whether `value` is one picture: a PIL image, an array of 2 or 3 dimensions, the path of an image file, or such a
    file's bytes (in a `BytesIO`, too) or base64."""
    if isinstance(value, str | Path):
        kind = mimetypes.guess_type(str(value))[0] or ""
        return (kind.startswith("image/") and kind != "image/gif") or is_base64_picture(value)
    if isinstance(value, Image.Image):
        return True
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.ndim in (2, 3)
    return is_picture(head_of(value))


def sample_array(
    video, metadata, choose, limits: ReadingLimits, own_scale: bool = False, layout: str | None = None
) -> tuple[torch.Tensor, VideoMetadata]:
    """Frames given by the user, all or (with `choose`) some of them, as RGB (frames, 3, height, width), and their
    metadata."""
    if 0 in getattr(video, "shape", ()):
        raise ValueError(
            f"The video processor got a video of shape {list(video.shape)}, which has no frames or no pixels."
        )
    given = dict(metadata or {})
    metadata = VideoMetadata(**{**given, "total_num_frames": given.get("total_num_frames") or len(video)})
    if metadata.frames_indices is None:
        metadata.frames_indices = list(range(len(video)))
    indices = None
    if choose is not None:
        if metadata.total_num_frames != len(video):
            raise ValueError(
                f"Frames are to be chosen from a video of {len(video)} frames, but its video_metadata says "
                f"{metadata.total_num_frames}. Pass the metadata of these frames, or do_sample_frames=False."
            )
        indices = choose(metadata)
        metadata.frames_indices = [metadata.frames_indices[index] for index in indices]
    if not isinstance(video, list):
        return rgb_video(video, limits, own_scale, layout, indices), metadata
    chosen = video if indices is None else [video[index] for index in indices]
    return rgb_frames(chosen, limits, own_scale, layout, largest_of(video)), metadata
