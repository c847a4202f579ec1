"""Everything about a converted checkpoint except its weights: configuration, processor, recipe."""

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import GenerationConfig

from llava_next_video.conversion.original_config import (
    default_recipe,
    is_original,
    our_config,
    recipe_in,
    slow_frame_stride,
)
from llava_next_video.conversion.tokenizer import (
    TOKENIZER_FILES,
    begins_words_with_space,
    prepare_tokenizer,
    read_template,
)
from llava_next_video.conversion.vision_towers import VisionTower, find_vision_tower, tower_of_checkpoint
from llava_next_video.hub.checkpoint_folders import local_folder, read_config
from llava_next_video.hub.recipes import FROM_DEFAULTS, VIDEO_FACTS, Recipe, find_released, resolve
from llava_next_video.modeling.checkpoint_settings import CheckpointError, reading_settings
from llava_next_video.modeling.configuration_llava_next_video import LlavaNextVideoConfig
from llava_next_video.modeling.error_texts import quoted
from llava_next_video.modeling.visual_grid import rope_factor_for
from llava_next_video.processing import LlavaNextVideoProcessor


@dataclass
class Settings:
    """Everything about a converted checkpoint except its weights.

    Args:
        folder: where the original lies on this machine.
        config, processor, generation_config: of the result.
        tower: the original's vision tower.
        recipe, origins: how the result is used, and the source of each fact.
    """

    folder: Path
    config: LlavaNextVideoConfig
    processor: LlavaNextVideoProcessor
    generation_config: GenerationConfig
    tower: VisionTower
    recipe: Recipe
    origins: dict[str, str]


def read_original_config(folder: Path) -> dict:
    """The configuration of an original checkpoint.

    Raises:
        CheckpointError: there is none, or it is not one of the original code's.
    """
    config = read_config(folder)
    if not is_original(config):
        raise CheckpointError(
            f"{folder} is not a checkpoint of the original code: its config.json has model_type "
            f"{quoted(config.get('model_type'))} and no mm_vision_tower. If it is one of transformers or of this "
            "package, it needs no conversion; to turn it into an original one, use --to-original."
        )
    return config


def choose_recipe(source: str, config: dict, recipe: Recipe | None) -> tuple[Recipe, dict[str, str]]:
    """Complete a recipe: facts from the user come first, then those of a released checkpoint of this name, then those
    in the configuration, then what is usual for the language model."""
    released = [name for name in (source, config.get("_name_or_path", "")) if find_released(name)][:1]
    return resolve(
        [
            ("you", recipe or Recipe()),
            *((f"the table, {name}", find_released(name).recipe) for name in released),
            ("its config.json", recipe_in(config)),
            (FROM_DEFAULTS, default_recipe(config)),
        ]
    )


def plan_settings(source: str, recipe: Recipe | None = None, vision_tower: str | None = None, **download) -> Settings:
    """Configuration and processor for an original checkpoint; see `plan_conversion`."""
    folder = local_folder(source, TOKENIZER_FILES, **download)
    original = read_original_config(folder)
    with reading_settings(source):
        return translate_settings(source, folder, original, recipe, vision_tower)


def translate_settings(
    source: str, folder: Path, original: dict, recipe: Recipe | None, vision_tower: str | None
) -> Settings:
    """Configuration and processor from an original configuration, the tower's and the tokenizer's files."""
    recipe, origins = choose_recipe(source, original, recipe)
    tower = (
        find_vision_tower(vision_tower) if vision_tower else tower_of_checkpoint(folder, original["mm_vision_tower"])
    )
    if recipe.rope_factor == "auto":
        factor = rope_factor_for(
            recipe.num_frames,
            recipe.spatial_pool_stride,
            tower.config["image_size"] // tower.config["patch_size"],
            recipe.context_length,
            spatial_pool_mode=recipe.spatial_pool_mode,
            video_newline_position=recipe.video_newline_position,
            slow_frame_stride=slow_frame_stride(original),
        )
        recipe = replace(recipe, rope_factor=factor)

    released = find_released(source)
    video_first = released.video_token_id < released.image_token_id if released else recipe.chat_template != "qwen_1_5"
    max_length = int(recipe.context_length * recipe.rope_factor)  # pyright: ignore  # `resolve` has filled both in
    tokenizer = prepare_tokenizer(folder, recipe.chat_template, max_length, video_first)
    settings = our_config(original, recipe, recipe.rope_factor, tower.config)
    text = settings["text_config"]
    text["vocab_size"] = max(text["vocab_size"], len(tokenizer))
    config = LlavaNextVideoConfig(
        **settings,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )
    processor = LlavaNextVideoProcessor.for_model(
        config,
        tokenizer,
        pixels=tower.processor_settings,
        videos={name: getattr(recipe, name) for name in VIDEO_FACTS},
        chat_template=read_template(recipe.chat_template),
        space_after_visuals=begins_words_with_space(tokenizer),
    )
    # Greedy, as in the original's demo, until the template's stop token.
    special_tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation_config = GenerationConfig(do_sample=False, **special_tokens)
    return Settings(folder, config, processor, generation_config, tower, recipe, origins)
