"""Makes transformers use this package's classes, as late as possible.

Import hooks (`wrapt`) register each part when both its module and transformers' are imported. That has two benefits:
`import llava_next_video` and `--help` do not wait for most of transformers to be imported, which takes seconds, and the
Auto classes work whichever of the two packages is imported first.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from wrapt import register_post_import_hook

from llava_next_video.modeling import other_formats


DEMO_CHECKPOINT = str(Path(__file__).parent / "demo_checkpoint")
"""Folder of the embedded demonstration checkpoint, which knows only moving coloured shapes."""


def when_both_imported(theirs: str, ours: str, register_with: Callable[[ModuleType, ModuleType], None]):
    """Import one of our modules when a module of transformers is imported, and call `register_with` with both."""
    imported = {}

    def note(module: ModuleType):
        imported[module.__name__] = module
        if len(imported) == 2:
            register_with(imported[theirs], imported[ours])

    register_post_import_hook(note, ours)
    register_post_import_hook(note, theirs)
    # If ours imports theirs, it is not complete at this point, and is noted when it is.
    register_post_import_hook(lambda module: import_module(ours), theirs)


def register():
    """Make transformers' Auto classes and pipelines use this package for `model_type: llava_next_video`, and our own
    classes read checkpoints of the original code."""
    other_formats.MODULES.append("llava_next_video.conversion.direct_loading")
    auto = "transformers.models.auto"
    configuration = "llava_next_video.modeling.configuration_llava_next_video"
    when_both_imported(f"{auto}.configuration_auto", configuration, register_configuration)
    when_both_imported(f"{auto}.modeling_auto", "llava_next_video.modeling.modeling_llava_next_video", register_models)
    when_both_imported(f"{auto}.video_processing_auto", "llava_next_video.processing", register_video_processor)
    when_both_imported(f"{auto}.image_processing_auto", "llava_next_video.processing", register_image_processor)
    when_both_imported(f"{auto}.processing_auto", "llava_next_video.processing", register_processor)
    when_both_imported(
        "transformers.pipelines", "llava_next_video.inference.pipeline_video_text_to_text", register_pipeline
    )


def register_configuration(auto: ModuleType, ours: ModuleType):
    from llava_next_video.conversion.original_model_types import ORIGINAL_CONFIGS

    for config_class in (ours.LlavaNextVideoConfig, *ORIGINAL_CONFIGS):
        auto.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def register_models(auto: ModuleType, ours: ModuleType):
    auto.AutoModel.register(ours.LlavaNextVideoConfig, ours.LlavaNextVideoModel, exist_ok=True)
    for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForPreTraining"):
        auto_class = getattr(auto, name)
        auto_class.register(ours.LlavaNextVideoConfig, ours.LlavaNextVideoForConditionalGeneration, exist_ok=True)


def register_video_processor(auto: ModuleType, ours: ModuleType):
    from llava_next_video import LlavaNextVideoConfig

    # `AutoVideoProcessor.register` would load the built-in's class, which may be what is being imported.
    classes = {"torchvision": ours.LlavaNextVideoVideoProcessor}
    auto.VIDEO_PROCESSOR_MAPPING.register(LlavaNextVideoConfig, classes, exist_ok=True)


def register_image_processor(auto: ModuleType, ours: ModuleType):
    """For checkpoints that name our class, or none. Most name the built-in's, `LlavaNextImageProcessor`, and get that
    one: with that name, ours would replace it for every LLaVA-NeXT model."""
    from llava_next_video import LlavaNextVideoConfig

    classes = {"torchvision": ours.LlavaNextVideoImageProcessor}
    auto.IMAGE_PROCESSOR_MAPPING.register(LlavaNextVideoConfig, classes, exist_ok=True)


def register_processor(auto: ModuleType, ours: ModuleType):
    from llava_next_video import LlavaNextVideoConfig

    auto.AutoProcessor.register(LlavaNextVideoConfig, ours.LlavaNextVideoProcessor, exist_ok=True)
    # AutoProcessor prefers its own class for a model type to a registered one, and has no public way to change that.
    auto.PROCESSOR_MAPPING_NAMES.pop("llava_next_video", None)


def register_pipeline(pipelines: ModuleType, ours: ModuleType):
    from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM

    pipelines.PIPELINE_REGISTRY.register_pipeline(
        "video-text-to-text",
        pipeline_class=ours.VideoTextToTextPipeline,
        pt_model=(AutoModelForImageTextToText, AutoModelForMultimodalLM),
        default={"model": (DEMO_CHECKPOINT, "main")},
        type="multimodal",
    )
