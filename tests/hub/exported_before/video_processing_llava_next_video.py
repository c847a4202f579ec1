"""Videos for LLaVA-NeXT-Video: read files, choose frames, and turn them into pixel values."""

import mimetypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

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
    infer_channel_dimension_format,
)
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .exact_pixels import ExactPixelsMixin
from .frame_sampling import (
    fps_capped_indices,
    fps_indices,
    legacy_indices,
    time_instruction,
    uniform_indices,
    uniform_repeated_indices,
    whole_step,
)
from .local_code import LocalCodeMixin
from .video_reading import read_picture, read_video
from .video_sources import LimitsMixin, ReadingLimits, is_video_source


# Each is decoded in as many threads as there are processors, and holds the frames it needs for that.
MOST_VIDEOS_TOGETHER = 8
SAMPLING_RULES = ("uniform", "uniform_repeated", "fps_capped", "legacy")


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


class LlavaNextVideoVideosKwargs(VideosKwargs, total=False):
    """
    frame_sampling (`str`): how `num_frames` frames are chosen: `"uniform"` from the first to the last frame,
        `"uniform_repeated"` so too, with short videos giving frames more than once, `"fps_capped"` one a second (or
        `fps`) and `"uniform"` when those are more than `num_frames`, `"legacy"` as the built-in.
    time_instruction (`bool`): whether prompts say how long the video is and when its frames were taken.
    """

    frame_sampling: Literal[SAMPLING_RULES]
    time_instruction: bool


class LlavaNextVideoVideoProcessor(LocalCodeMixin, LimitsMixin, ExactPixelsMixin, BaseVideoProcessor):
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

    valid_kwargs = LlavaNextVideoVideosKwargs

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
        metadata = kwargs.pop("video_metadata", None)
        metadata = [metadata] if isinstance(metadata, dict | VideoMetadata) else metadata or [None] * len(videos)
        if len(metadata) != len(videos):
            raise ValueError(
                f"The video processor got {len(videos)} videos and video_metadata of {len(metadata)}; pass one each."
            )

        def frames_of(video, known) -> tuple[np.ndarray | torch.Tensor, VideoMetadata]:
            if is_video_source(video):
                return read_video(video, choose if sample_files else None, self.limits)
            return sample_array(video, known, choose if sample_arrays else None, self.limits)

        frames_and_metadata = in_parallel(frames_of, videos, metadata)
        return super().preprocess(
            [channels_first(frames) for frames, _ in frames_and_metadata],
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
            return fps_indices(total, metadata.fps, fps)
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
        seconds = list(range(0, metadata.total_num_frames, whole_step(metadata.fps, 1.0)))
        one_per_second = (frame_sampling or self.frame_sampling) == "fps_capped" and (
            list(metadata.frames_indices) == seconds
        )
        return time_instruction(
            metadata.frames_indices, metadata.total_num_frames, metadata.fps, one_per_second=one_per_second
        )

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
            if do_resize:
                frames = self.resize(frames, size, resample=resample)
            if do_center_crop:
                frames = self.center_crop(frames, crop_size)
            # Rows of a channel lie together from here on, as the tower wants them; as bytes that is a small copy.
            frames = frames.contiguous()
            processed.append(
                self.rescale_and_normalize(frames, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            )
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


def is_frame(value) -> bool:
    """Whether `value` is one picture: a PIL image, an array of 3 dimensions or the path of an image file."""
    if isinstance(value, str | Path):
        kind = mimetypes.guess_type(str(value))[0] or ""
        return kind.startswith("image/") and kind != "image/gif"
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 3)


def sample_array(video, metadata, choose, limits: ReadingLimits) -> tuple[np.ndarray | torch.Tensor, VideoMetadata]:
    """Frames given by the user, all or (with `choose`) some of them, as one array, and their metadata."""
    if isinstance(video, list):
        frames = [read_picture(frame, limits) if isinstance(frame, str | Path) else frame for frame in video]
        frames = [torch.as_tensor(np.array(f) if isinstance(f, Image.Image) else f) for f in frames]
        shapes = {tuple(frame.shape) for frame in frames}
        if len(shapes) > 1:
            raise ValueError(f"The frames of one video have to be of one size, but they are {sorted(shapes)}.")
        video = torch.stack(frames)
    if 0 in video.shape:
        raise ValueError(
            f"The video processor got a video of shape {list(video.shape)}, which has no frames or no pixels."
        )
    given = dict(metadata or {})
    metadata = VideoMetadata(**{**given, "total_num_frames": given.get("total_num_frames") or len(video)})
    if metadata.frames_indices is None:
        metadata.frames_indices = list(range(len(video)))
    if choose is None:
        return video, metadata
    if metadata.total_num_frames != len(video):
        raise ValueError(
            f"Frames are to be chosen from a video of {len(video)} frames, but its video_metadata says "
            f"{metadata.total_num_frames}. Pass the metadata of these frames, or do_sample_frames=False."
        )
    indices = choose(metadata)
    metadata.frames_indices = [metadata.frames_indices[index] for index in indices]
    return video[indices], metadata


def channels_first(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """(frames, height, width, 3) or (frames, 3, height, width) -> (frames, 3, height, width), without copying pixels:
    colours that lie side by side, as the reader returns them, are what resizing is fastest on."""
    frames = torch.as_tensor(np.ascontiguousarray(frames) if isinstance(frames, np.ndarray) else frames)
    return frames.movedim(-1, 1) if infer_channel_dimension_format(frames) == ChannelDimension.LAST else frames
