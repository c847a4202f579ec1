"""The warning about prompts that are longer than what the language model was trained on."""

from dataclasses import replace

import pytest
import torch

from llava_next_video import LlavaNextVideoForConditionalGeneration, rope_factor_for
from llava_next_video.conversion.settings import plan_settings
from llava_next_video.conversion.vision_towers import find_vision_tower
from tests.golden_data import Recording


RECORDING = Recording("llama_notoken_avg_before")


def load(**changes):
    options = {"recipe": replace(RECORDING.recipe, **changes), "vision_tower": RECORDING.vision_tower}
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(RECORDING.checkpoint, **options)
    model.config.text_config.max_position_embeddings = 20
    return model


@pytest.mark.parametrize(
    ("factor", "length", "warns"), [(1.0, 20, False), (1.0, 21, True), (2.0, 39, False), (2.0, 41, True)]
)
def test_warning_when_a_prompt_exceeds_the_trained_context(caplog, factor, length, warns):
    model = load(rope_factor=factor)
    model(input_ids=torch.full((1, length), 5))
    assert (
        f"A prompt has more than the {int(20 * factor)} tokens that the language model was trained on" in caplog.text
    ) == warns
    if warns:
        assert "Use fewer frames (num_frames), or stretch the positions" in caplog.text


def test_generating_on_past_the_context_does_not_warn_at_every_token(caplog):
    load().generate(input_ids=torch.full((1, 18), 5), max_new_tokens=6)
    assert "language model was trained on" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "factor"),
    [
        ({"num_frames": 64}, 1.0),  # 64 * 13 * 13 + 1000 = 11,816 tokens
        ({"num_frames": 64, "spatial_pool_mode": "bilinear", "video_newline_position": "grid"}, 2.0),  # 14,440
        ({"num_frames": 65, "video_newline_position": "frame"}, 2.0),  # 12,050
        ({"num_frames": 65}, 1.0),  # 11,985
        ({"num_frames": 64, "video_newline_position": "grid", "slow_frame_stride": 4}, 1.0),  # 16 slow frames
    ],
)
def test_stretch_is_what_all_tokens_of_the_video_need(arguments, factor):
    """Newlines, and the rounding up of bilinear pooling, were not counted."""
    assert rope_factor_for(spatial_pool_stride=2, patches_per_side=27, context_length=12000, **arguments) == factor


def test_stretch_of_a_conversion_counts_newlines():
    tower = find_vision_tower(RECORDING.vision_tower).config
    side = tower["image_size"] // tower["patch_size"] // 2
    # Room for 6 frames and a question, and for half of the newlines.
    facts = {"num_frames": 6, "rope_factor": "auto", "context_length": 1000 + 6 * side * side + 3 * side}
    for position, factor in (("no_token", 1.0), ("grid", 2.0)):
        recipe = replace(RECORDING.recipe, **facts, video_newline_position=position)
        assert plan_settings(str(RECORDING.checkpoint), recipe, RECORDING.vision_tower).recipe.rope_factor == factor
