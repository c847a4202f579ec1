"""Videos as users pass them: one or many, as files or as frames, with or without metadata, or already prepared."""

import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata

from ..reading.limits import ReadingLimits
from ..reading.picture_files import head_of, is_base64_picture, is_picture
from ..reading.pictures import rgb_frames, rgb_video
from ..reading.video_metadata import VariableRateMetadata
from ..reading.video_sources import is_value_of_column, is_video_source, plain_source


@dataclass
class ProcessedVideo:
    """A video that is already read and prepared. The processor takes it wherever it takes a video.

    Args:
        pixel_values (`torch.Tensor` of shape (frames, 3, height, width)): the model's input. A tensor on the meta
            device, which has no values, is enough to write prompts.
        metadata (`VideoMetadata`): of the file, with the indices of the frames.
    """

    pixel_values: torch.Tensor
    metadata: VideoMetadata


@dataclass
class GivenVideo:
    """A video as it was passed to a call, until it is read.

    Args:
        source: a file, or frames.
        metadata: passed with frames; set for every video when it is read.
        choose: chooses frames by the metadata; None takes all.
        own_scale, layout: of the values of frames, see `rgb_video`.
        device: where frames are prepared.
    """

    source: Any
    metadata: VideoMetadata | dict | None
    choose: Callable | None
    own_scale: bool
    layout: str | None
    device: torch.device | str | None = None


def as_list_of_videos(videos) -> list:
    """A flat list of videos from whatever users pass: one video, a list, or a list per prompt.

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
            "a decoder of torchcodec, an array (frames, height, width, 3), or a list of frames."
        )
    if len(videos) == 0:
        raise ValueError("The video processor got an empty list where a video or its frames were expected.")
    if all(is_frame(item) for item in videos):
        return [list(videos)]
    return [video for item in videos for video in as_list_of_videos(item)]


def flatten(items) -> list:
    """A flat list of the items in a list or nested lists, or of a single item."""
    return [inner for item in items for inner in flatten(item)] if isinstance(items, list | tuple) else [items]


def is_frame(value) -> bool:
    """Whether `value` is one picture: a PIL image, an array of 2 or 3 dimensions, the path of an image file, its bytes
    (also in a `BytesIO`) or base64, or a path or bytes in `{"bytes": ..., "path": ...}`."""
    value = plain_source(value) if is_value_of_column(value) else value
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
    """Frames that a user passed, all or (with `choose`) some of them, as RGB (frames, 3, height, width), and their
    metadata."""
    if 0 in getattr(video, "shape", ()):
        raise ValueError(
            f"The video processor got a video of shape {list(video.shape)}, which has no frames or no pixels."
        )
    given = dict(metadata or {})
    given["total_num_frames"] = given.get("total_num_frames") or len(video)
    times = getattr(metadata, "times_of_all_frames", None)
    metadata = VideoMetadata(**given) if times is None else VariableRateMetadata(times, **given)
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
    to_rgb = rgb_frames if isinstance(video, list) else rgb_video
    return to_rgb(video, limits, own_scale, layout, indices), metadata
