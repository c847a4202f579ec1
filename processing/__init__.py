"""From videos, images and text to tensors."""

from pathlib import Path

from .image_processing_llava_next_video import LlavaNextVideoImageProcessor
from .processing_llava_next_video import LlavaNextVideoProcessor
from .video_processing_llava_next_video import LlavaNextVideoVideoProcessor


CHAT_TEMPLATES = Path(__file__).parent / "chat_templates"
"""Folder of the Jinja templates of the original code's conversations, named as it names them."""

__all__ = ["CHAT_TEMPLATES", "LlavaNextVideoImageProcessor", "LlavaNextVideoProcessor", "LlavaNextVideoVideoProcessor"]
