"""Known released checkpoints: what each was made of, and how its authors run it.

A configuration of the original code does not have all of this (the conversation template, where videos are pooled, how
frames are chosen), because its demo takes it from the command line. `Recipe` has it, and a converted checkpoint stores
it in its files. Unknown facts are `None` here and named in `unknown`; `resolve` takes them from the checkpoint's own
configuration, or else from what is usual for its language model.

Sources are given per fact: `demo` is playground/demo/video_demo.py, `docs/...` are files of LLaVA-NeXT, `#N` is an
issue of it.
"""

from dataclasses import dataclass, field, fields, replace


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is used. `None` leaves a fact to the checkpoint's configuration or to what is usual.

    Args:
        chat_template: name of a file in processing/chat_templates/.
        spatial_pool_mode, spatial_pool_stride, spatial_pool_position, video_newline_position: as in
            `LlavaNextVideoConfig`.
        num_frames, frame_sampling, time_instruction: as in `LlavaNextVideoVideoProcessor`.
        rope_factor: linear stretch of the language model's positions; 1.0 for none, "auto" for as much as `num_frames`
            frames need (`rope_factor_for`).
        context_length: tokens the language model was trained on, before any stretch.
    """

    chat_template: str | None = None
    spatial_pool_mode: str | None = None
    spatial_pool_stride: int | None = None
    spatial_pool_position: str | None = None
    video_newline_position: str | None = None
    num_frames: int | None = None
    frame_sampling: str | None = None
    time_instruction: bool | None = None
    rope_factor: float | str | None = None
    context_length: int | None = None


FACTS = tuple(fact.name for fact in fields(Recipe))
# Those that are settings of the model, and of its video processor.
MODEL_FACTS = ("spatial_pool_mode", "spatial_pool_stride", "spatial_pool_position", "video_newline_position")
VIDEO_FACTS = ("num_frames", "frame_sampling", "time_instruction")


@dataclass(frozen=True)
class Released:
    """A released checkpoint.

    Args:
        language_model, vision_tower: that it was initialised from.
        recipe: how its authors run it.
        image_token_id, video_token_id: ids of `<image>` and `<video>`, the first free ones of its tokenizer.
        sources: of each fact.
        unknown: facts that could not be found out.
    """

    language_model: str
    vision_tower: str
    recipe: Recipe
    image_token_id: int
    video_token_id: int
    sources: dict[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


# Other names of templates, and the string that ends an answer with each template.
SAME_TEMPLATE = {"chatml_direct": "mistral_direct"}
STOP_STRINGS = {
    "vicuna_v1": "</s>",
    "qwen_1_5": "<|im_end|>",
    "mistral_direct": "<|im_end|>",
    "mistral_instruct": "</s>",
    "plain": "\n",
}

CLIP, SIGLIP = "openai/clip-vit-large-patch14-336", "google/siglip-so400m-patch14-384"

# The April 2024 models, as the branch they came with (`video_inference`) runs them, with the demo's stretch.
VICUNA = Recipe("vicuna_v1", "average", 2, "before_projector", "no_token", 32, "uniform_repeated", False, "auto", 4096)
VICUNA_SOURCES = {
    "chat_template": "#24; docs/LLaVA-NeXT-Video.md",
    "spatial_pool_mode": "docs/LLaVA-NeXT-Video.md",
    "spatial_pool_stride": "docs/LLaVA-NeXT-Video.md",
    "spatial_pool_position": "llava_arch.py of branch `video_inference`; as in transformers",
    "video_newline_position": "docs/LLaVA-NeXT-Video.md",
    "num_frames": "docs/LLaVA-NeXT-Video.md",
    "frame_sampling": "demo of branch `video_inference`: always evenly spread",
    "time_instruction": "no such option when it was released",
    "rope_factor": "demo: ceil((num_frames * 12**2 + 1000) / 4096) for names with 'vicuna': 2 for 32 frames",
    "context_length": "#58",
}
VICUNA_UNKNOWN = (
    "spatial_pool_position in training: the documentation of July 2024 pools after the projector, the code of the "
    "release and transformers pool before it",
)
YI = replace(VICUNA, chat_template="mistral_direct", rope_factor=1.0)
YI_SOURCES = {
    **VICUNA_SOURCES,
    "chat_template": "docs/LLaVA-NeXT-Video.md",
    "rope_factor": "demo: only names with 'vicuna' are stretched",
    "context_length": "configuration of Nous-Hermes-2-Yi-34B",
}
VIDEO_178K = Recipe(
    "qwen_1_5", "bilinear", 2, "after_projector", "grid", 64, "uniform_repeated", True, 1.0, context_length=32768
)
VIDEO_178K_SOURCES = {
    "chat_template": "docs/LLaVA_Video_1003.md",
    "spatial_pool_mode": "#408",
    "spatial_pool_stride": "get_2dPool in llava_arch.py",
    "spatial_pool_position": "llava_arch.py since June 2024",
    "video_newline_position": "docs/LLaVA_Video_1003.md",
    "num_frames": "docs/LLaVA_Video_1003.md",
    "frame_sampling": "docs/LLaVA_Video_1003.md: force_sample=True",
    "time_instruction": "docs/LLaVA_Video_1003.md",
    "rope_factor": "llava_qwen.py sets rope_scaling to None",
    "context_length": "docs/LLaVA_Video_1003.md",
}

# Each has a sibling that went through DPO, and is used like it.
VICUNA_7B = Released("lmsys/vicuna-7b-v1.5", CLIP, VICUNA, 32001, 32000, VICUNA_SOURCES, VICUNA_UNKNOWN)
YI_34B = Released("NousResearch/Nous-Hermes-2-Yi-34B", CLIP, YI, 64001, 64000, YI_SOURCES, VICUNA_UNKNOWN)

RELEASED = {
    "LLaVA-NeXT-Video-7B": VICUNA_7B,
    "LLaVA-NeXT-Video-7B-DPO": VICUNA_7B,
    "LLaVA-NeXT-Video-7B-32K": Released(
        "mistralai/Mistral-7B-Instruct-v0.2",
        CLIP,
        replace(VICUNA, chat_template="mistral_direct", rope_factor=1.0, context_length=32768),
        32001,
        32000,
        {
            **VICUNA_SOURCES,
            "chat_template": "#54, although transformers' checkpoint uses [INST]",
            "rope_factor": "llava_mistral.py sets rope_scaling to None",
            "context_length": "#17",
        },
        VICUNA_UNKNOWN,
    ),
    "LLaVA-NeXT-Video-34B": YI_34B,
    "LLaVA-NeXT-Video-34B-DPO": YI_34B,
    "LLaVA-NeXT-Video-32B-Qwen": Released(
        "Qwen/Qwen1.5-32B-Chat",
        SIGLIP,
        Recipe("qwen_1_5", "average", 2, "after_projector", "grid", 32, "fps_capped", False, 1.0, 32768),
        151646,
        151647,
        {
            "language_model": "docs/LLaVA-NeXT-Video_0716.md: initialised from llava-next-qwen-32b, on Qwen-1.5 32B",
            "frame_sampling": "demo: one frame a second, evenly spread 32 where that is more",
            "time_instruction": "demo: False unless the configuration says otherwise",
            "rope_factor": "llava_qwen.py sets rope_scaling to None",
            "context_length": "configuration of Qwen1.5-32B-Chat",
            **dict.fromkeys(
                (
                    "chat_template",
                    "num_frames",
                    "spatial_pool_stride",
                    "spatial_pool_mode",
                    "spatial_pool_position",
                    "video_newline_position",
                ),
                "docs/LLaVA-NeXT-Video_0716.md of branch `inference`: qwen_1_5 32 2 average after grid",
            ),
        },
        ("its config.json, which is nowhere to be read",),
    ),
    "LLaVA-Video-7B-Qwen2": Released(
        "Qwen2 7B", SIGLIP, VIDEO_178K, 151646, 151647, VIDEO_178K_SOURCES, ("spatial_pool_mode in config",)
    ),
    "LLaVA-Video-72B-Qwen2": Released(
        "Qwen2 72B", SIGLIP, VIDEO_178K, 151646, 151647, VIDEO_178K_SOURCES, ("its config.json",)
    ),
    "llava-next-qwen-32b": Released(
        "Qwen/Qwen1.5-32B-Chat",
        SIGLIP,
        Recipe(chat_template="qwen_1_5", rope_factor=1.0, context_length=32768),
        151646,
        151647,
        {
            "chat_template": "docs/LLaVA-NeXT.md gives it for llava-next-72b",
            "rope_factor": "llava_qwen.py sets rope_scaling to None",
            "context_length": "configuration of Qwen1.5-32B-Chat",
        },
        ("its config.json", "everything about videos: it is an image model"),
    ),
}

# The usual facts for a language model, where neither the recipe nor the checkpoint's configuration has them. Sources:
# `prepare_inputs_labels_for_multimodal` in llava_arch.py and the demo, of main (Qwen) and `video_inference` (others).
# Llama models with "vicuna" in their name are stretched for their number of frames, as in the demo.
DEFAULT_RECIPES = {
    "qwen2": Recipe("qwen_1_5", "average", 2, "after_projector", "one_token", 32, "fps_capped", False, 1.0),
    "llama": Recipe("vicuna_v1", "average", 2, "before_projector", "no_token", 32, "uniform_repeated", False, 1.0),
    "mistral": Recipe(
        "mistral_direct", "average", 2, "before_projector", "no_token", 32, "uniform_repeated", False, 1.0
    ),
}
FROM_DEFAULTS = "what is usual for its language model"  # the origin of these facts, in reports


def find_released(name: str) -> Released | None:
    """The released checkpoint with the name of a Hub id or folder, if there is one.

    >>> find_released("lmms-lab/LLaVA-NeXT-Video-32B-Qwen").recipe.spatial_pool_position
    'after_projector'
    """
    last = str(name).rstrip("/").rsplit("/", 1)[-1].lower()
    return next((released for known, released in RELEASED.items() if known.lower() == last), None)


def recipe_named(name: str) -> Recipe:
    """The recipe of a released checkpoint.

    Raises:
        ValueError: there is no checkpoint of that name in the table.
    """
    released = find_released(name)
    if released is None:
        raise ValueError(f"There is no recipe {name!r}; the recipes are {', '.join(RELEASED)}.")
    return released.recipe


def resolve(choices: list[tuple[str, Recipe]]) -> tuple[Recipe, dict[str, str]]:
    """Take each fact from the first of several recipes that has it.

    Args:
        choices: recipes in order of preference, each with a name.

    Returns:
        The recipe, and for each fact the name of the recipe that it was taken from, if any has it.
    """
    facts, origins = {}, {}
    for name, recipe in choices:
        for fact in FACTS:
            if fact not in facts and getattr(recipe, fact) is not None:
                facts[fact], origins[fact] = getattr(recipe, fact), name
    return Recipe(**facts), origins
