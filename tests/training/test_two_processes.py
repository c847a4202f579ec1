"""One step on two processes gives the loss and the gradients of one process on all rows."""

from functools import cache

import pytest
import torch

from tests.processes import run_in_two_processes
from tests.training.two_processes import Case, Result, run_cases, step_of_one_process


pytestmark = pytest.mark.slow
ROWS = [("short video", "long video"), ("long video", "text"), ("image", "text"), ("image", "long video")]
CASES = [
    Case(wrapper, rows, checkpointing)
    for wrapper in ("DDP", "FSDP2, parts", "FSDP2, layers")
    for rows in ROWS
    for checkpointing in (None, False, True)
]
# Where the tower is frozen it goes on in chunks, unless its weights are gathered at each call.
CASES += [
    Case(wrapper, rows, parts=("projector", "newlines", "language_model"))
    for wrapper in ("DDP", "FSDP2, parts", "FSDP2, layers")
    for rows in ROWS[:2]
]
CASES += [
    Case(wrapper, ("image", "long video"), recipe=tuple(recipe.items()))
    for wrapper in ("DDP", "FSDP2, parts", "FSDP2, layers")
    for recipe in (
        {"spatial_pool_mode": "conv"},
        {
            "tower": "siglip",
            "text": "qwen2",
            "spatial_pool_position": "after_projector",
            "video_newline_position": "grid",
            "slow_frame_stride": 2,
            "tie_word_embeddings": True,
        },
    )
]
CASES.append(Case("DDP, find_unused_parameters", ("long video", "text"), dummy_visuals=()))
FAILING = [
    Case(
        "DDP", ("long video", "short video"), dummy_visuals=(), recipe=(("video_newline_position", "no_token"),)
    ),  # newlines that videos do not use
    Case("DDP", ("long video", "text"), dummy_visuals=()),  # a rank without visuals
]


@pytest.fixture(scope="module")
def results():
    return run_in_two_processes(run_cases, CASES, FAILING)


@cache
def expected_of(rows: tuple[str, str], parts: tuple[str, ...], recipe: tuple) -> Result:
    return step_of_one_process(Case("", rows, parts=parts, recipe=recipe))


@pytest.mark.parametrize("case", CASES, ids=map(str, CASES))
def test_loss_and_gradients_are_those_of_one_process(case, results):
    expected = expected_of(case.rows, case.parts, case.recipe)
    for of_rank in results:
        found = of_rank[case]
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
        assert found.evaluated == pytest.approx(expected.loss, abs=1e-5)
        assert largest_difference(expected.gradients, found.gradients) <= 1e-5


@pytest.mark.parametrize("case", [case for case in CASES if case.dummy_visuals], ids=str)
def test_processes_call_the_tower_as_often_as_each_other(case, results):
    """Where its weights are gathered from both. Otherwise a frozen tower goes on in chunks, which save memory."""
    calls = [of_rank[case].tower_calls for of_rank in results]
    if "FSDP" in case.wrapper or "vision_tower" in case.parts:
        assert calls == [1, 1]
    else:
        assert calls[case.rows.index("long video")] > 1


def largest_difference(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> float:
    """Of gradients; a dummy gives zeros to what one process leaves alone."""
    zero = torch.tensor(0.0)
    names = expected.keys() | found.keys()
    return max(float((found.get(name, zero) - expected.get(name, zero)).abs().max()) for name in names)


@pytest.mark.parametrize("case", FAILING, ids=["newlines that videos do not use", "a rank without visuals"])
def test_torch_stops_where_a_rank_leaves_out_what_is_trained(case, results):
    assert "Expected to have finished reduction" in results[1][case]
