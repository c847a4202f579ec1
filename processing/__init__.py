"""From videos, images and text to tensors."""

from .image_processing_llava_next_video import LlavaNextVideoImageProcessor
from .processing_llava_next_video import LlavaNextVideoProcessor
from .video_processing_llava_next_video import LlavaNextVideoVideoProcessor


__all__ = ["LlavaNextVideoImageProcessor", "LlavaNextVideoProcessor", "LlavaNextVideoVideoProcessor"]
