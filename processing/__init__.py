"""From videos, images and text to tensors."""

from .image_processing_llava_next_video import LlavaNextVideoImageProcessor
from .processing_llava_next_video import LlavaNextVideoProcessor
from .video_processing_llava_next_video import LlavaNextVideoVideoProcessor
from .video_reading import read_video
from .video_sources import ReadingLimits, VideoLimitError, VideoReadError


__all__ = [
    "LlavaNextVideoImageProcessor",
    "LlavaNextVideoProcessor",
    "LlavaNextVideoVideoProcessor",
    "ReadingLimits",
    "VideoLimitError",
    "VideoReadError",
    "read_video",
]
