"""The real lmms-eval asks `llava-next-video serve`: the answers are a pipeline's. Run by `.ci/engines lmms-eval`."""

import json
from pathlib import Path

import pytest

from tests.evaluation.lmms_eval_runs import CURRENT, environment_of, plain_answers, run_lmms_eval, run_table
from tests.evaluation.miniature import write_miniature
from tests.serving.running_server import running


pytest.importorskip("lmms_eval", reason="runs in the environment that tests/evaluation/lmms_eval_environment.sh makes")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_miniature(folder)
    return folder


@pytest.fixture
def environment(home, tmp_path, monkeypatch) -> dict:
    monkeypatch.setenv("HF_HOME", str(home))  # where plain answers look for videos
    return environment_of(home, tmp_path)


@pytest.fixture(scope="module")
def address(home):
    with running("--allowed-media-folder", str(home)) as server:
        yield f"{server.url}/v1"


@pytest.mark.parametrize(("table", "asking"), [("july2024", ["--batch-size", "4"]), ("current", ["--send-videos"])])
def test_the_answers_of_a_server_are_a_pipelines(environment, address, tmp_path, table, asking):
    words = ["--table", table, "--server", address, *asking]
    served = run_table(environment, tmp_path / "out", *words, checkpoint="demo")
    for score in served["scores"]:
        path = tmp_path / "out" / "samples" / f"{score['task']}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        assert len(rows) == score["questions"] > 0
        answers = plain_answers(score["task"], [row["arguments"][0] for row in rows])
        assert [row["filtered_resps"] for row in rows] == [[answer] for answer in answers]
    assert served["recipe"]["server"] == address
    assert f"asked of the server {address} (llava-next-video)" in (tmp_path / "out" / "table.md").read_text()
    assert not Path(environment["CONNECTIONS"]).exists()


def test_lmms_evals_own_client_gets_a_pipelines_answers(environment, address, tmp_path):
    arguments = f"model=demo,base_url={address},api_key=none,pass_video_url=True,max_frames_num=8"
    ran = run_lmms_eval(environment, tmp_path / "out", CURRENT, arguments, model="openai")
    for task in CURRENT:
        answers = plain_answers(task, [sample["input"] for sample in ran[task]])
        assert [sample["filtered_resps"] for sample in ran[task]] == answers, task
