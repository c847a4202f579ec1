"""LLaVA-NeXT-Video for transformers.

Importing this package makes transformers use its classes for every `llava_next_video` checkpoint: `AutoConfig`, the
`AutoModel...` classes, `AutoProcessor` and `AutoVideoProcessor` return the classes below, and
`pipeline("video-text-to-text")` exists.
"""

from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForPreTraining,
    AutoProcessor,
    AutoVideoProcessor,
)
from transformers.models.auto import processing_auto
from transformers.pipelines import PIPELINE_REGISTRY

from llava_next_video.chat import VideoChat
from llava_next_video.conversion.direct_loading import register_original_format
from llava_next_video.conversion.rope import rope_factor_for
from llava_next_video.finite import check_finite
from llava_next_video.frame_sheet import draw_frame_sheet
from llava_next_video.hub_export import CUSTOM_PIPELINES, RegisteredPipelines, export_for_hub, write_settings
from llava_next_video.modeling import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoModel,
    LlavaNextVideoPreTrainedModel,
)
from llava_next_video.pipeline_video_text_to_text import VideoTextToTextPipeline
from llava_next_video.processing import (
    LlavaNextVideoImageProcessor,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    ReadingLimits,
    VideoLimitError,
    VideoReadError,
    read_video,
)


DEMO_CHECKPOINT = str(Path(__file__).parent / "demo_checkpoint")
"""Folder of the embedded demonstration checkpoint, which knows only moving coloured shapes."""


def register():
    """Make transformers' Auto classes and pipelines use this package for `model_type: llava_next_video`."""
    AutoConfig.register("llava_next_video", LlavaNextVideoConfig, exist_ok=True)
    AutoModel.register(LlavaNextVideoConfig, LlavaNextVideoModel, exist_ok=True)
    for auto_class in (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForPreTraining):
        auto_class.register(LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration, exist_ok=True)
    AutoVideoProcessor.register(LlavaNextVideoConfig, LlavaNextVideoVideoProcessor, exist_ok=True)
    AutoProcessor.register(LlavaNextVideoConfig, LlavaNextVideoProcessor, exist_ok=True)
    register_original_format()
    # AutoProcessor looks up processors by class name, its own before registered ones, and has no public way round it.
    processing_auto.PROCESSOR_MAPPING_NAMES.pop("llava_next_video", None)
    PIPELINE_REGISTRY.register_pipeline(
        "video-text-to-text",
        pipeline_class=VideoTextToTextPipeline,
        pt_model=(AutoModelForImageTextToText, AutoModelForMultimodalLM),
        default={"model": (DEMO_CHECKPOINT, "main")},
        type="multimodal",
    )
    VideoTextToTextPipeline.write_settings = staticmethod(write_settings)
    LlavaNextVideoConfig.custom_pipelines = RegisteredPipelines(CUSTOM_PIPELINES)


register()

__all__ = [
    "DEMO_CHECKPOINT",
    "LlavaNextVideoConfig",
    "LlavaNextVideoForConditionalGeneration",
    "LlavaNextVideoImageProcessor",
    "LlavaNextVideoModel",
    "LlavaNextVideoPreTrainedModel",
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
    "read_video",
    "rope_factor_for",
]
