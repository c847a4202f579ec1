"""LoRA on the vision tower learns, and asks for no gradients where the tower never runs."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llava_next_video import LlavaNextVideoCollator
from tests.tiny import make_model
from tests.training.rows import processor_of
from tests.training.test_collator import MIXED


@pytest.mark.parametrize(("reentrant", "compiled"), [(None, False), (None, True), (False, False), (True, False)])
def test_adapters_of_layers_that_run_get_gradients(reentrant, compiled):
    model = make_model(video_newline_position="grid")
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False)).train()
    model.model.freeze_what_never_runs()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if compiled:
        torch.compiler.reset()
        model.model.vision_tower.compile(fullgraph=True, backend="eager")
    adapted(**LlavaNextVideoCollator(processor_of("qwen_1_5", video_newline_position="grid"))(MIXED)).loss.backward()
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in trained.values())
    layers = {int(name.split(".layers.")[1].split(".")[0]) for name in trained if "vision_tower" in name}
    assert layers == {0, 1, 2}  # of 4: the last one never runs
