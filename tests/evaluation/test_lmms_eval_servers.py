"""The real lmms-eval asks `llava-next-video serve`: the answers are a pipeline's. Run by `.ci/engines lmms-eval`."""

import json
from pathlib import Path

import pytest

from tests.evaluation.lmms_eval_runs import environment_of, run_lmms_eval, run_table
from tests.evaluation.miniature import write_miniature
from tests.serving.running_server import running


pytest.importorskip("lmms_eval", reason="runs in the environment that tests/evaluation/lmms_eval_environment.sh makes")
pytestmark = pytest.mark.slow

CURRENT = ("nextqa_mc_test", "videomme", "videomme_w_subtitle", "egoschema_subset", "perceptiontest_val_mc")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_miniature(folder)
    return folder


@pytest.fixture(scope="module")
def environment(home, tmp_path_factory) -> dict:
    return environment_of(home, tmp_path_factory.mktemp("refusing"))


@pytest.fixture(scope="module")
def address(home):
    with running("--allowed-media-folder", str(home)) as server:
        yield f"{server.url}/v1"


def samples_in(output: Path) -> dict[str, list]:
    """Of each task, the prompts and answers in the output folder of a table."""
    return {
        path.stem: [(row["input"], row["filtered_resps"]) for row in map(json.loads, path.open(encoding="utf-8"))]
        for path in (output / "samples").iterdir()
    }


@pytest.mark.parametrize(("table", "asking"), [("july2024", ["--batch-size", "4"]), ("current", ["--send-videos"])])
def test_the_table_of_a_server_is_a_pipelines(environment, address, tmp_path, table, asking):
    plain = run_table(environment, tmp_path / "plain", "--table", table)
    words = ["--table", table, "--server", address, *asking]
    served = run_table(environment, tmp_path / "served", *words, checkpoint="demo")
    assert samples_in(tmp_path / "served") == samples_in(tmp_path / "plain")
    assert served["scores"] == plain["scores"]
    assert served["recipe"]["server"] == address
    assert f"asked of the server {address} (llava-next-video)" in (tmp_path / "served" / "table.md").read_text()
    assert not Path(environment["CONNECTIONS"]).exists()


def test_lmms_evals_own_model_of_a_server_gives_the_same_answers(environment, address, tmp_path):
    arguments = f"model=demo,base_url={address},api_key=none,pass_video_url=True,timeout=600"
    theirs = run_lmms_eval(environment, tmp_path / "theirs", CURRENT, arguments, model="openai")
    ours = run_lmms_eval(environment, tmp_path / "ours", CURRENT, f"pretrained=demo,server={address}", batch_size=4)
    for task in CURRENT:
        answers = [sample["filtered_resps"] for sample in ours[task]]
        assert [sample["filtered_resps"] for sample in theirs[task]] == answers
        assert all(answers)
