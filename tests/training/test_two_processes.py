"""`DistributedDataParallel` on two processes gives the gradients of one process on all rows."""

import pytest
from torch.multiprocessing.spawn import ProcessRaisedException

from tests.training.two_processes import Case, largest_differences


pytestmark = pytest.mark.slow
CASES = [
    Case(rows, checkpointing=checkpointing)
    for rows in [("short video", "long video"), ("long video", "text"), ("image", "text")]
    for checkpointing in (False, True)
]
CASES.append(Case(("long video", "text"), dummy_visuals=(), find_unused_parameters=True))


@pytest.fixture(scope="module")
def differences():
    return largest_differences(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(str, CASES))
def test_gradients_are_those_of_one_process(number, differences):
    assert differences[number] <= 1e-5


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
        largest_differences([case])
