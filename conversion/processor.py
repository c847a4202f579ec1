"""The processor of an original checkpoint: its tokenizer, its vision tower's preprocessing and its recipe."""

from transformers import PreTrainedTokenizerBase

from llava_next_video.conversion.tokenizer import begins_words_with_space, read_template
from llava_next_video.conversion.vision_towers import VisionTower
from llava_next_video.hub.recipes import Recipe
from llava_next_video.modeling.configuration_llava_next_video import LlavaNextVideoConfig
from llava_next_video.processing import (
    LlavaNextVideoImageProcessor,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
)


def make_processor(
    config: LlavaNextVideoConfig, recipe: Recipe, tower: VisionTower, tokenizer: PreTrainedTokenizerBase
) -> LlavaNextVideoProcessor:
    """Build the processor that goes with a model of `config`, and carries `recipe`."""
    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(
            **tower.processor_settings,
            num_frames=recipe.num_frames,
            frame_sampling=recipe.frame_sampling,
            time_instruction=recipe.time_instruction,
        ),
        image_processor=LlavaNextVideoImageProcessor(
            **tower.processor_settings,
            image_grid_pinpoints=config.image_grid_pinpoints,
            image_aspect_ratio=config.image_aspect_ratio,
        ),
        tokenizer=tokenizer,
        chat_template=read_template(recipe.chat_template),
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(config.vision_feature_select_strategy == "default"),
        spatial_pool_mode=config.spatial_pool_mode,
        spatial_pool_stride=config.spatial_pool_stride,
        video_newline_position=config.video_newline_position,
        slow_frame_stride=config.slow_frame_stride,
        space_after_visuals=begins_words_with_space(tokenizer),
    )
