"""ZeRO-3 of DeepSpeed on two processes gives the loss and the gradients of one process on all rows, and `Trainer` saves
with it what was trained, under the names of the file that was loaded."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from llava_next_video import LlavaNextVideoCollator, LlavaNextVideoForConditionalGeneration
from tests.processes import run_in_two_processes
from tests.training.rows import processor_of
from tests.training.test_trainer import RECIPE, ROWS, from_older_names, full
from tests.training.test_two_processes import expected_of, largest_difference
from tests.training.two_processes import Case, Result, batch_of_process, sum_of_processes


os.environ["DS_ACCELERATOR"] = "cpu"
pytest.importorskip("deepspeed")
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_allow_untested_optimizer": True,
    # Every weight is in pieces, also those that DeepSpeed would leave whole, as they are small.
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}
LANGUAGE_MODEL = ("projector", "newlines", "language_model")
SLOW_FAST = (
    ("tower", "siglip"),
    ("text", "qwen2"),
    ("spatial_pool_position", "after_projector"),
    ("video_newline_position", "grid"),
    ("slow_frame_stride", 2),
)
CASES = [
    Case("ZeRO-3", ("short video", "long video")),
    Case("ZeRO-3", ("long video", "text")),
    Case("ZeRO-3", ("image", "text")),
    Case("ZeRO-3", ("image", "long video"), checkpointing=True),
    Case("ZeRO-3", ("short video", "long video"), parts=LANGUAGE_MODEL),
    Case("ZeRO-3", ("image", "long video"), recipe=SLOW_FAST),
]


def use_no_extension():
    """Communication in C++, which DeepSpeed would compile first, takes minutes."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def step_with_zero_3(case: Case) -> Result:
    """The second of two steps on the row of this process."""
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    use_no_extension()
    model, batch, calls = case.model(), batch_of_process(case), []
    if case.checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": case.checkpointing})
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.SGD(trained.values(), lr=0.0),
        config=CONFIG,
    )
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        calls.clear()
        loss = engine(**batch).loss  # the share of this process
        engine.backward(2 * loss)  # gradients are divided by the number of processes
        num_calls = len(calls)
        gradients = {name: safe_get_full_grad(weight).clone() for name, weight in trained.items()}
        engine.step()
    engine.eval()
    with torch.no_grad():
        evaluated = engine(**batch).loss
    return Result(sum_of_processes(loss), gradients, num_calls, sum_of_processes(evaluated))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradients_are_those_of_one_process(case):
    expected = expected_of(case.rows, case.parts, case.recipe)
    for found in run_in_two_processes(step_with_zero_3, case):  # each in new ones: engines remember earlier engines
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
        assert found.evaluated == pytest.approx(expected.loss, abs=1e-5)
        assert largest_difference(expected.gradients, found.gradients) <= 1e-5
        assert found.tower_calls == 1


TRAINER_CONFIG = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}


def train_with_zero_3(source: Path, saved: Path) -> dict[str, torch.Tensor]:
    """The weights after two steps, as they are in both processes."""
    from deepspeed import zero

    use_no_extension()
    arguments = TrainingArguments(
        str(saved.parent / "out"),
        deepspeed=TRAINER_CONFIG,
        use_cpu=True,
        max_steps=2,
        per_device_train_batch_size=1,
        optim="sgd",
        learning_rate=0.1,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
    )
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    collator = LlavaNextVideoCollator(processor_of("qwen_1_5", **RECIPE))
    trainer = Trainer(model, arguments, train_dataset=ROWS[:2], data_collator=collator)
    trainer.train()
    trainer.save_model(str(saved))
    weights = {}
    for name, weight in model.named_parameters():
        with zero.GatheredParameters([weight]):
            weights[name] = weight.detach().clone()
    return weights


@pytest.mark.parametrize("make", [full, from_older_names])
def test_trainer_saves_what_was_trained_under_the_names_of_the_file(make, tmp_path):
    """Names were `language_model.model.model.norm.weight` and the like."""
    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir()
    make(source).save_pretrained(source)
    before = LlavaNextVideoForConditionalGeneration.from_pretrained(source).state_dict()
    trained, _ = run_in_two_processes(train_with_zero_3, source, saved)
    assert any((trained[name] != before[name]).any() for name in trained)
    assert load_file(saved / "model.safetensors").keys() == load_file(source / "model.safetensors").keys()
    loaded, info = LlavaNextVideoForConditionalGeneration.from_pretrained(saved, output_loading_info=True)
    assert not info["missing_keys"]
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, trained[name]), name
