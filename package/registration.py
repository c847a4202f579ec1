"""Makes transformers use this package's classes, as late as possible.

Importing our classes imports most of transformers, which takes seconds that a program may not have to spend. So every
part waits for the module of transformers that it is registered with. When that is imported, ours is imported too; when
both are there, in whichever order they came, they are introduced to each other.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from wrapt import register_post_import_hook

from llava_next_video.modeling import other_formats


DEMO_CHECKPOINT = str(Path(__file__).parent / "demo_checkpoint")
"""Folder of the embedded demonstration checkpoint, which knows only moving coloured shapes."""


def introduce(theirs: str, ours: str, introduction: Callable[[ModuleType, ModuleType], None]):
    """Have a module of ours imported with one of transformers, and call `introduction` with both."""
    arrived = {}

    def arrives(module: ModuleType):
        arrived[module.__name__] = module
        if len(arrived) == 2:
            introduction(arrived[theirs], arrived[ours])

    register_post_import_hook(arrives, ours)
    register_post_import_hook(arrives, theirs)
    # Ours may be what imports theirs: then it is not complete yet, and arrives later.
    register_post_import_hook(lambda module: import_module(ours), theirs)


def register():
    """Make transformers' Auto classes and pipelines use this package for `model_type: llava_next_video`, and our own
    classes read checkpoints of the original code."""
    other_formats.IMPORTERS.append(original_format)
    auto = "transformers.models.auto"
    configuration = "llava_next_video.modeling.configuration_llava_next_video"
    introduce(f"{auto}.configuration_auto", configuration, register_configuration)
    introduce(f"{auto}.modeling_auto", "llava_next_video.modeling.modeling_llava_next_video", register_models)
    introduce(f"{auto}.video_processing_auto", "llava_next_video.processing", register_video_processor)
    introduce(f"{auto}.image_processing_auto", "llava_next_video.processing", register_image_processor)
    introduce(f"{auto}.processing_auto", "llava_next_video.processing", register_processor)
    introduce("transformers.pipelines", "llava_next_video.inference.pipeline_video_text_to_text", register_pipeline)


def original_format() -> type:
    from llava_next_video.conversion.direct_loading import OriginalFormat

    return OriginalFormat


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

    auto.AutoVideoProcessor.register(LlavaNextVideoConfig, ours.LlavaNextVideoVideoProcessor, exist_ok=True)


def register_image_processor(auto: ModuleType, ours: ModuleType):
    """For files that name our class, or none. Most name the built-in's, `LlavaNextImageProcessor`, and get it: under
    that name ours would replace it for every LLaVA-NeXT model."""
    from llava_next_video import LlavaNextVideoConfig

    classes = {"torchvision": ours.LlavaNextVideoImageProcessor}
    auto.AutoImageProcessor.register(LlavaNextVideoConfig, image_processor_classes=classes, exist_ok=True)


def register_processor(auto: ModuleType, ours: ModuleType):
    from llava_next_video import LlavaNextVideoConfig

    auto.AutoProcessor.register(LlavaNextVideoConfig, ours.LlavaNextVideoProcessor, exist_ok=True)
    # AutoProcessor looks up processors by class name, its own before registered ones, and has no public way round it.
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
