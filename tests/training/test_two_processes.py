"""`DistributedDataParallel` on two processes gives the gradients of one process on all rows."""

import pytest
from torch.multiprocessing.spawn import ProcessRaisedException

from tests.training.two_processes import Case, largest_difference


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rows", [("short video", "long video"), ("long video", "text"), ("image", "text")])
def test_gradients_are_those_of_one_process(rows, checkpointing):
    assert largest_difference(Case(rows, checkpointing=checkpointing)) <= 1e-5


def test_without_dummies_unused_parts_have_to_be_looked_for():
    case = Case(("long video", "text"), dummy_visuals=(), find_unused_parameters=True)
    assert largest_difference(case) <= 1e-5


@pytest.mark.parametrize(
    "case",
    [
        Case(("long video", "text"), dummy_visuals=()),
        Case(("long video", "short video"), dummy_visuals=(), video_newline_position="no_token"),
    ],
    ids=["a rank without visuals", "newlines that videos do not use"],
)
def test_torch_stops_where_a_rank_leaves_out_what_is_trained(case):
    with pytest.raises(ProcessRaisedException, match="Expected to have finished reduction"):
        largest_difference(case)
