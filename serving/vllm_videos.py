"""Videos in vLLM: read exactly and within limits, with the checkpoint's number of frames.

vLLM reads videos before the processor gets them, with settings from `--media-io-kwargs` under "video".
`CheckpointDefaults` adds the checkpoint's to what its user has set, and `VideoReader` reads with them.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from llava_next_video.processing import LlavaNextVideoVideoProcessor
from llava_next_video.processing.checked_settings import check_pixel_settings
from llava_next_video.reading.limits import ReadingLimits
from llava_next_video.reading.video_metadata import VariableRateMetadata
from llava_next_video.reading.video_reading import read_video


READER = "llava_next_video"
"""Name of `VideoReader` in vLLM, its `video_backend`."""

ALL = -1
"""The value of vLLM's settings `num_frames` and `fps` for "all" and "not given"."""


class VideoReader:
    """Reads videos that vLLM gets as files. The settings are those of `--media-io-kwargs`."""

    @classmethod
    def load_bytes(cls, data: bytes, **settings: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Read one video.

        Args:
            data: the file.
            settings: `num_frames`, `fps`, `frame_sampling` and `limits`, as in `frame_chooser` and `limits_of`.

        Returns:
            Frames (frames, height, width, 3), uint8, RGB; and their metadata, in vLLM's form.

        Raises:
            VideoReadError: it cannot be read; `VideoLimitError` if it would cost more than the limits allow.
            ValueError: a setting is impossible.
        """
        limits = limits_of(settings.pop("limits", None))
        frames, metadata = read_video(bytes(data), frame_chooser(**checked_names(settings)), limits)
        described = {**metadata, "do_sample_frames": False}  # the frames were chosen here
        if isinstance(metadata, VariableRateMetadata):
            described["times_of_all_frames"] = metadata.times_of_all_frames
        return frames, described


def with_times(metadata: dict[str, Any]) -> dict[str, Any] | VariableRateMetadata:
    """Metadata from `VideoReader` in the form that our processor takes."""
    if "times_of_all_frames" not in metadata:
        return metadata
    fields = dict(metadata)
    return VariableRateMetadata(fields.pop("times_of_all_frames"), **fields)


class CheckpointDefaults:
    """vLLM's hooks with which an architecture changes vLLM's configuration (`MODELS_CONFIG_MAP`)."""

    @staticmethod
    def verify_and_update_model_config(model_config):
        """Put the checkpoint's settings for frames into those of the reader.

        Raises:
            ValueError: a setting of `--media-io-kwargs` is unknown or impossible.
        """
        if model_config.multimodal_config is None:
            return
        given = model_config.multimodal_config.media_io_kwargs.get("video", {})
        if given.get("video_backend", READER) != READER:
            return  # another reader, with its own settings
        processor = LlavaNextVideoVideoProcessor.from_pretrained(model_config.model, revision=model_config.revision)
        model_config.multimodal_config.media_io_kwargs["video"] = reading_settings_of(processor, given)

    @staticmethod
    def verify_and_update_config(vllm_config):
        """Nothing; vLLM calls this hook too."""


def reading_settings_of(processor: LlavaNextVideoVideoProcessor, given: dict[str, Any]) -> dict[str, Any]:
    """Settings of the reader: those in `given`, and the checkpoint's for frames where these are not given.

    >>> reading_settings_of(LlavaNextVideoVideoProcessor(num_frames=8), {})
    {'num_frames': 8, 'frame_sampling': 'uniform', 'video_backend': 'llava_next_video'}
    """
    is_capped = given.get("frame_sampling", processor.frame_sampling) == "fps_capped"
    own = {} if processor.fps is None else {"fps": processor.fps}
    if is_capped or not own:
        own["num_frames"] = processor.num_frames
    asked = {name: given[name] for name in ("num_frames", "fps") if name in given}
    frames = own | asked if is_capped and "fps" not in asked else asked or own
    # vLLM reads 32 where `num_frames` is not there.
    settings = {"num_frames": ALL, **frames, "frame_sampling": processor.frame_sampling, "video_backend": READER}
    settings |= given
    checked = {name: value for name, value in settings.items() if name != "video_backend"}
    limits_of(checked.pop("limits", None))
    frame_chooser(**checked_names(checked))
    return settings


def checked_names(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings for frames.

    Raises:
        ValueError: one is unknown.
    """
    known = ("num_frames", "fps", "frame_sampling")
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(
            f"The media_io_kwargs of videos have {unknown}, which LLaVA-NeXT-Video's reader does not know. It knows "
            f"{[*known, 'limits']}; name another reader as 'video_backend' for settings of that one."
        )
    return settings


def frame_chooser(
    num_frames: int = ALL, fps: float = ALL, frame_sampling: str | None = None
) -> Callable[..., np.ndarray] | None:
    """The function that chooses the frames of a video by its metadata; None for all frames.

    Args:
        num_frames: as many frames, by the rule `frame_sampling`; `ALL` for every frame, or as `fps` says.
        fps: as many frames a second; with `num_frames`, frames are evenly spread where these would be more.
        frame_sampling: a rule of the video processor.
    """
    count, rate = (None if value == ALL else value for value in (num_frames, fps))
    check_pixel_settings({"num_frames": count, "fps": rate, "frame_sampling": frame_sampling})
    if count is None and rate is None:
        return None
    rule = "fps_capped" if count is not None and rate is not None else frame_sampling
    return partial(default_video_processor().sample_frames, num_frames=count, fps=rate, frame_sampling=rule)


@cache
def default_video_processor() -> LlavaNextVideoVideoProcessor:
    """Only its rules for choosing frames are used, not its settings."""
    return LlavaNextVideoVideoProcessor()


def limits_of(given: dict[str, Any] | None) -> ReadingLimits:
    """The limits that a user set by name, or the default ones.

    Raises:
        ValueError: they are not fields of `ReadingLimits`.
    """
    try:
        return ReadingLimits(**(given or {}))
    except TypeError as error:
        raise ValueError(
            f"The media_io_kwargs of videos have limits that ReadingLimits cannot be made of: {error}. Pass an object "
            "of its fields, such as {'max_decode_seconds': 20}."
        ) from error
