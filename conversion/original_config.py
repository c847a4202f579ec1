"""Configurations: the original code's keys on the left, ours on the right, in both directions.

Sources, in LLaVA-NeXT: `LlavaMetaModel` and `LlavaMetaForCausalLM` in llava/model/llava_arch.py, the configurations in
llava/model/language_model/, `get_anyres_image_grid_shape` in llava/mm_utils.py.
"""

import ast
import re

from llava_next_video.hub.recipes import DEFAULT_RECIPES, MODEL_FACTS, Recipe
from llava_next_video.modeling.configuration_llava_next_video import ASPECT_RATIO, MAX_GRID_PINPOINTS
from llava_next_video.modeling.error_texts import quoted


# The language model's type, and what the original calls a model with it.
ORIGINAL_TYPES = {"qwen2": "llava_qwen", "llama": "llava_llama", "mistral": "llava_mistral"}
ARCHITECTURES = {
    "qwen2": "LlavaQwenForCausalLM",
    "llama": "LlavaLlamaForCausalLM",
    "mistral": "LlavaMistralForCausalLM",
}
# Back from a model_type; or from the architecture, where the model_type is only "llava".
LANGUAGE_MODELS = {name: kind for names in (ORIGINAL_TYPES, ARCHITECTURES) for kind, name in names.items()}

# Keys of the language model, which are the same in our `text_config`.
TEXT_KEYS = (
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
)

# Facts of the recipe that a configuration may have: original key, our fact, and our value for each original one.
RECIPE_KEYS = {
    "mm_spatial_pool_mode": ("spatial_pool_mode", None),
    "mm_spatial_pool_stride": ("spatial_pool_stride", None),
    "mm_newline_position": ("video_newline_position", None),
    "mm_pooling_position": ("spatial_pool_position", {"before": "before_projector", "after": "after_projector"}),
    "mm_resampler_location": ("spatial_pool_position", {"before": "before_projector", "after": "after_projector"}),
    "force_sample": ("frame_sampling", {True: "uniform_repeated", False: None}),
    "add_time_instruction": ("time_instruction", None),
}

# Values that our model supports; any other value of these keys stops the conversion.
SUPPORTED = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": ("spatial_unpad",),
    "mm_vision_select_feature": ("patch", None),
    "mm_use_im_start_end": (False, None),
    "mm_use_im_patch_token": (False, None),
    "mm_resampler_type": ("spatial_pool", None),
    "image_aspect_ratio": (ASPECT_RATIO, None),
}


def is_original(config: dict) -> bool:
    """Whether a `config.json` was written by the original code, whatever its `model_type` says.

    >>> is_original({"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336"})
    True
    >>> is_original({"model_type": "llava", "vision_config": {}, "text_config": {}})
    False
    """
    return "mm_vision_tower" in config and "vision_config" not in config


def language_model_type(config: dict) -> str:
    """Type of the language model of an original configuration: "qwen2", "llama" or "mistral".

    Raises:
        ValueError: it is none of them.
    """
    names = [config.get("model_type"), *(config.get("architectures") or [])]
    known = [LANGUAGE_MODELS[name] for name in names if name in LANGUAGE_MODELS]
    if known:
        return known[0]
    if names == ["llava"]:
        return "llama"  # the first LLaVA had no other language model
    raise ValueError(
        f"The original configuration says model_type {quoted(config.get('model_type'))} and architectures "
        f"{quoted(config.get('architectures'))}; the language models that can be converted are "
        f"{sorted(LANGUAGE_MODELS)}."
    )


def check_supported(config: dict):
    """Raise a ValueError if the original configuration asks for something that our model does not have."""
    for key, allowed in SUPPORTED.items():
        value = config.get(key)
        if not any(a.fullmatch(value or "") if isinstance(a, re.Pattern) else value == a for a in allowed):
            expected = [a.pattern if isinstance(a, re.Pattern) else a for a in allowed]
            raise ValueError(
                f"The original configuration says {key} = {quoted(value)}; what can be converted is {expected}. "
                "Other values were never part of a released video checkpoint."
            )


def recipe_in(config: dict) -> Recipe:
    """The facts of a recipe in an original configuration."""
    facts = {}
    for key, (fact, values) in RECIPE_KEYS.items():
        value = config.get(key)
        if value is not None:
            facts[fact] = values[value] if values else value
    scaling = config.get("rope_scaling") or {}
    # The original's Qwen and Mistral classes ignore the key.
    if scaling.get("type") == "linear" and language_model_type(config) == "llama":
        facts["rope_factor"] = scaling["factor"]
    return Recipe(**facts)


def default_recipe(config: dict) -> Recipe:
    """The usual recipe for the language model of an original configuration."""
    kind = language_model_type(config)
    facts = {"context_length": config["max_position_embeddings"]}
    if kind == "llama" and "vicuna" in config.get("_name_or_path", "").lower():
        facts["rope_factor"] = "auto"
    return Recipe(**{**vars(DEFAULT_RECIPES[kind]), **facts})


def grid_pinpoints(config: dict, tile_side: int) -> list[list[int]] | None:
    """`image_grid_pinpoints` of an original configuration as [height, width] pairs in pixels, in its order; None where
    it has none, because its images are not tiled.

    The original writes [width, height], and takes the first of two equally good sizes.

    Raises:
        ValueError: they are written in another way, or are too many.

    >>> grid_pinpoints({"image_grid_pinpoints": "[(336, 672), (672, 336)]"}, 336)
    [[672, 336], [336, 672]]
    >>> grid_pinpoints({"image_grid_pinpoints": "(1x1),...,(1x2)"}, 384)
    [[384, 384], [768, 384]]
    """
    written = config.get("image_grid_pinpoints")
    if not written:
        return None
    try:
        if len(written) > (MAX_GRID_PINPOINTS * 64 if isinstance(written, str) else MAX_GRID_PINPOINTS):
            raise ValueError  # before they are parsed
        if ends := re.fullmatch(r"\((\d\d?)x(\d\d?)\),.*\((\d\d?)x(\d\d?)\)", str(written)[:100]):
            first_columns, first_rows, last_columns, last_rows = map(int, ends.groups())
            pinpoints = [
                [columns * tile_side, rows * tile_side]
                for columns in range(first_columns, last_columns + 1)
                for rows in range(first_rows, last_rows + 1)
            ]
        else:
            pinpoints = ast.literal_eval(written) if isinstance(written, str) else written
        return [[int(height), int(width)] for width, height in pinpoints]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"The original configuration says image_grid_pinpoints = {quoted(written)}, which is neither a list of "
            "[width, height] in pixels nor a range of tiles like '(1x1),...,(6x6)'. It is damaged."
        ) from error


def text_config(config: dict, rope_factor: float) -> dict:
    """Our `text_config` for an original configuration."""
    kind = language_model_type(config)
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)}
    scaling = config.get("rope_scaling") or {}
    if rope_factor > 1:
        rope.update(rope_type="linear", factor=float(rope_factor))
    elif kind == "llama" and scaling.get("type", "linear") != "linear":
        rope.update({"rope_type": scaling["type"], **{k: v for k, v in scaling.items() if k != "type"}})
    known = {key: config[key] for key in TEXT_KEYS if key in config}
    return {"model_type": kind, "rope_parameters": rope, **known}


def slow_frame_stride(config: dict) -> int | None:
    """Our `slow_frame_stride` for an original configuration; None where its videos are not slow-fast."""
    return config["faster_token_stride"] if config.get("add_faster_video") else None


def our_config(config: dict, recipe: Recipe, rope_factor: float, vision_config: dict) -> dict:
    """Our configuration for an original one, without token ids and size of the vocabulary, which the tokenizer decides.

    Raises:
        ValueError: the original configuration asks for something that our model does not have.
    """
    check_supported(config)
    is_siglip = vision_config["model_type"] == "siglip_vision_model"
    return {
        "model_type": "llava_next_video",
        "architectures": ["LlavaNextVideoForConditionalGeneration"],
        "dtype": config.get("torch_dtype") or config.get("dtype") or "float16",
        "text_config": text_config(config, rope_factor),
        "vision_config": vision_config,
        # The original cuts the last layer off a SigLIP tower and takes what is left, whatever the key says.
        "vision_feature_layer": -1 if is_siglip else config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "full" if is_siglip else "default",
        "image_aspect_ratio": config.get("image_aspect_ratio") or "square",
        "image_grid_pinpoints": grid_pinpoints(config, vision_config["image_size"]),
        **{fact: getattr(recipe, fact) for fact in MODEL_FACTS},
        "slow_frame_stride": slow_frame_stride(config),
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
    }


def original_config(config, vision_tower: str, base: dict) -> dict:
    """The original's configuration for one of ours.

    Args:
        config: a `LlavaNextVideoConfig`.
        vision_tower: value of `mm_vision_tower`.
        base: the configuration that the checkpoint was converted from, or an empty one; its other keys are kept.
    """
    text = config.text_config
    known = {key: getattr(text, key) for key in TEXT_KEYS if hasattr(text, key)}
    rope = text.rope_parameters
    linear = rope["rope_type"] == "linear"
    return {
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
        **(base or known),
        "vocab_size": min(base["vocab_size"], text.vocab_size) if base else text.vocab_size,
        "model_type": ORIGINAL_TYPES[text.model_type],
        "architectures": [ARCHITECTURES[text.model_type]],
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "linear", "factor": rope["factor"]} if linear else None,
        "mm_vision_tower": vision_tower,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_select_layer": base.get("mm_vision_select_layer", -2),
        "image_aspect_ratio": config.image_aspect_ratio,
        "image_grid_pinpoints": [[width, height] for height, width in config.image_grid_pinpoints],
        "mm_spatial_pool_mode": config.spatial_pool_mode,
        "mm_spatial_pool_stride": config.spatial_pool_stride,
        "mm_pooling_position": config.spatial_pool_position.removesuffix("_projector"),
        "mm_newline_position": config.video_newline_position,
        "add_faster_video": config.slow_frame_stride is not None,
        **({"faster_token_stride": config.slow_frame_stride} if config.slow_frame_stride else {}),
    }
