"""`evaluate --fetch` with the real lmms-eval, from a Hub on this machine. Run by `.ci/engines lmms-eval`."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.evaluation.fake_hub import repositories, serving
from tests.evaluation.lmms_eval_runs import SECONDS, environment_of, run_table, table_command


pytest.importorskip("lmms_eval", reason="runs in the environment that tests/evaluation/lmms_eval_environment.sh makes")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    return repositories(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def environment(tmp_path) -> dict:
    (tmp_path / "home").mkdir()
    variables = environment_of(tmp_path / "home", tmp_path)
    variables.pop("HF_HUB_OFFLINE")
    return {name: value for name, value in variables.items() if name != "HF_TOKEN"}


def run(environment: dict, output: Path, *words: str) -> subprocess.CompletedProcess:
    command = table_command(output, *words)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)


def test_everything_is_fetched_once_and_then_it_is_here(contents, environment, tmp_path):
    with serving(contents) as (address, fetched):
        table = run_table({**environment, "HF_ENDPOINT": address}, tmp_path / "out", "--fetch")
    assert [score["questions"] for score in table["scores"]] == [9, 9, 9, 2, 3, 9]
    assert Counter(fetched) == Counter(f"{name}/{file}" for name, files in contents.items() for file in files)
    assert run_table(environment, tmp_path / "again") == table  # from here: the address leads nowhere now


def test_a_disk_that_is_too_small_is_an_error_before_anything_is_fetched(contents, environment, tmp_path):
    with serving(contents, claimed_bytes=10**15) as (address, fetched):
        words = ["--fetch", "--tasks", "july2024_nextqa_mc"]
        process = run({**environment, "HF_ENDPOINT": address}, tmp_path / "out", *words)
    assert process.returncode == 1
    [line] = [line for line in process.stderr.splitlines() if line.startswith("llava-next-video: ")]
    assert "The data of these benchmarks needs 2000000.0 GB" in line
    assert not fetched
    assert not any((tmp_path / "home").iterdir())


def test_what_is_not_there_is_said_with_its_size(contents, environment, tmp_path):
    with serving(contents, claimed_bytes=10**9) as (address, fetched):
        process = run({**environment, "HF_ENDPOINT": address}, tmp_path / "out", "--tasks", "july2024_nextqa_mc")
    assert process.returncode == 1
    assert "lmms-eval/NExTQA: 1.0 GB. Run again with --fetch" in process.stderr
    assert not fetched


def test_why_data_cannot_be_loaded_is_said_in_one_line(contents, environment, tmp_path):
    """lmms-eval's own tasks want a login, which there is not."""
    with serving(contents) as (address, _):
        words = ["--fetch", "--table", "current", "--tasks", "nextqa_mc_test"]
        process = run({**environment, "HF_ENDPOINT": address}, tmp_path / "out", *words)
    assert process.returncode == 1
    assert "error: lmms-eval could not load the data of a task: LocalTokenNotFoundError: " in process.stderr
    assert "Traceback" not in process.stderr
    assert "Loading weights" not in process.stderr  # no model was loaded for that
