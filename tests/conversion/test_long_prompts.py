"""The warning about prompts that are longer than what the language model was trained on."""

from dataclasses import replace

import pytest
import torch

from llava_next_video import LlavaNextVideoForConditionalGeneration
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
