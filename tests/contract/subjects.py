"""Whose classes are tested, and with which settings."""

from dataclasses import dataclass, field
from importlib import import_module


BUILTIN, OURS = "built-in", "ours"
MODULES = {BUILTIN: "transformers.models.llava_next_video", OURS: "llava_next_video"}
# The built-in has no image processor of its own.
IMAGE_PROCESSORS = {
    BUILTIN: ("transformers.models.llava_next", "LlavaNextImageProcessor"),
    OURS: ("llava_next_video", "LlavaNextVideoImageProcessor"),
}


class Classes:
    """The classes of one side, by what they are.

    transformers exchanges `sys.modules["transformers"]` when its first model is imported, and importing our package
    changes what its Auto classes return: one process tests one side, and every class is asked where it comes from.
    """

    def __init__(self, side: str):
        module = import_module(MODULES[side])
        image_module, image_class = IMAGE_PROCESSORS[side]
        self.homes = tuple(f"{name}." for name in (MODULES[side], image_module))
        self.config = module.LlavaNextVideoConfig
        self.model = module.LlavaNextVideoModel
        self.generator = module.LlavaNextVideoForConditionalGeneration
        self.processor = module.LlavaNextVideoProcessor
        self.video_processor = module.LlavaNextVideoVideoProcessor
        self.image_processor = getattr(import_module(image_module), image_class)
        for cls in (
            self.config,
            self.model,
            self.generator,
            self.processor,
            self.video_processor,
            self.image_processor,
        ):
            assert self.owns(cls), f"{cls} is not of {self.homes}"

    def owns(self, cls: type) -> bool:
        return cls.__module__.startswith(self.homes)


@dataclass(frozen=True)
class Recipe:
    """Settings of a model, and the numbers of tokens that they make; see `suites.ModelTester`."""

    config: dict
    text_config: dict
    vision_config: dict
    num_frames: int
    num_image_tokens: int  # of one image, tiled in 2 x 2, with its overview and newlines
    num_video_tokens: int
    processor: dict = field(default_factory=dict)  # settings of the processor that the built-in has not


TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 580,
    "pad_token_id": 2,
    "bos_token_id": 3,  # not a placeholder's, because `generate` begins with it where it gets no prompt
}
VISION = {
    "patch_size": 4,
    "num_channels": 3,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}

RECIPES = {
    # What the built-in's own tests use.
    "Llama + CLIP": Recipe(
        config={"vision_feature_select_strategy": "default", "vision_feature_layer": -1},
        text_config={"model_type": "llama", "hidden_act": "gelu", **TEXT},
        vision_config={"model_type": "clip_vision_model", "image_size": 8, "projection_dim": 32, **VISION},
        num_frames=8,
        num_image_tokens=2 * 2 + 4 * (4 + 1),
        num_video_tokens=8,
    ),
    # Everything that the 32B-Qwen recipe has and the built-in has not.
    "Qwen2 + SigLIP, grid": Recipe(
        config={
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
            "spatial_pool_mode": "bilinear",
            "spatial_pool_position": "after_projector",
            "video_newline_position": "grid",
            "tie_word_embeddings": True,
        },
        text_config={"model_type": "qwen2", "tie_word_embeddings": True, **TEXT},
        vision_config={"model_type": "siglip_vision_model", "image_size": 12, "vision_use_head": False, **VISION},
        num_frames=4,
        num_image_tokens=3 * 3 + 6 * (6 + 1),
        num_video_tokens=4 * 2 * (2 + 1),
        processor={"spatial_pool_mode": "bilinear", "video_newline_position": "grid"},
    ),
}
# The built-in cannot run the second.
RUNS = [(BUILTIN, "Llama + CLIP"), (OURS, "Llama + CLIP"), (OURS, "Qwen2 + SigLIP, grid")]
