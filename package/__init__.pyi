"""The public names, and where they come from; imported when they are used."""

from .hub.export import export_for_hub
from .inference.chat import VideoChat
from .inference.finite import check_finite
from .inference.frame_sheet import draw_frame_sheet
from .inference.pipeline_video_text_to_text import VideoTextToTextPipeline
from .modeling.configuration_llava_next_video import LlavaNextVideoConfig
from .modeling.modeling_llava_next_video import (
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoModel,
    LlavaNextVideoPreTrainedModel,
)
from .modeling.visual_grid import rope_factor_for
from .processing.image_processing_llava_next_video import LlavaNextVideoImageProcessor
from .processing.processing_llava_next_video import LlavaNextVideoProcessor
from .processing.video_processing_llava_next_video import LlavaNextVideoVideoProcessor
from .reading.errors import VideoLimitError, VideoReadError
from .reading.limits import ReadingLimits
from .reading.video_reading import read_video
from .training.collator import LlavaNextVideoCollator
from .training.marked_templates import training_chat_template
from .training.preferences import LlavaNextVideoPreferenceCollator
from .training.trained_parts import parameter_groups, train_only

DEMO_CHECKPOINT: str
__version__: str

__all__ = [
    "DEMO_CHECKPOINT",
    "LlavaNextVideoCollator",
    "LlavaNextVideoConfig",
    "LlavaNextVideoForConditionalGeneration",
    "LlavaNextVideoImageProcessor",
    "LlavaNextVideoModel",
    "LlavaNextVideoPreTrainedModel",
    "LlavaNextVideoPreferenceCollator",
    "LlavaNextVideoProcessor",
    "LlavaNextVideoVideoProcessor",
    "ReadingLimits",
    "VideoChat",
    "VideoLimitError",
    "VideoReadError",
    "VideoTextToTextPipeline",
    "check_finite",
    "draw_frame_sheet",
    "export_for_hub",
    "parameter_groups",
    "read_video",
    "rope_factor_for",
    "train_only",
    "training_chat_template",
]
