"""ZeRO-3 of DeepSpeed on two processes gives the loss and the gradients of one process on all rows."""

import os

import pytest
import torch

from tests.processes import run_in_two_processes
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
