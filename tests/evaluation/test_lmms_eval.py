"""The real lmms-eval on the miniature: `.ci/engines lmms-eval` makes its environment and runs this there.

Every process has a socket that connects to this machine only, and notes every other attempt.
"""

import json
import random
import subprocess
import time
from pathlib import Path

import pytest

from llava_next_video import DEMO_CHECKPOINT
from tests.evaluation.lmms_eval_runs import (
    ACCELERATE,
    CURRENT,
    SECONDS,
    TORCHRUN,
    documents_of,
    environment_of,
    plain_answers,
    run_lmms_eval,
    run_table,
    table_command,
)
from tests.evaluation.miniature import write_miniature


pytest.importorskip("lmms_eval", reason="runs in the environment that tests/evaluation/lmms_eval_environment.sh makes")
pytestmark = pytest.mark.slow

LIKELIHOOD = ("egoschema_subset_mcppl",)  # the one of the others, perceptiontest_val_mcppl, fails at any model
JULY = ("nextqa_mc", "videomme", "videomme_subtitles", "egoschema_subset", "egoschema", "perceptiontest_mc")
PRETRAINED = f"pretrained={DEMO_CHECKPOINT}"
TASKS = (*CURRENT, *(f"july2024_{name}" for name in JULY))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_miniature(folder)
    return folder


@pytest.fixture(scope="module")
def environment(home, tmp_path_factory) -> dict:
    return environment_of(home, tmp_path_factory.mktemp("refusing"))


@pytest.fixture(scope="module")
def finished(environment, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("finished")
    result = run_lmms_eval(
        environment, folder / "out", TASKS, f"{PRETRAINED},journal={folder / 'journal'}", batch_size=2
    )
    return {**result, "journal": folder / "journal", "output": folder / "out"}


def answers_of(run: dict, tasks=TASKS) -> dict:
    return {task: [sample["filtered_resps"] for sample in run[task]] for task in tasks}


def test_all_tasks_run_and_send_nothing(finished, environment):
    assert [len(finished[task]) for task in TASKS] == [9, 9, 9, 2, 9, 9, 9, 9, 2, 3, 9]
    assert set(TASKS) <= set(finished["results"])
    assert not Path(environment["CONNECTIONS"]).exists()


def test_answers_are_a_plain_pipelines(finished):
    for task in TASKS:
        samples = finished[task]
        answers = plain_answers(task, [sample["input"] for sample in samples])
        assert [sample["filtered_resps"] for sample in samples] == answers, task


@pytest.fixture(autouse=True)
def home_for_paths(home, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(home))


def test_prompts_are_lmms_evals(finished):
    """Byte for byte, for every row: what the functions of its tasks return, called here without its harness."""
    from lmms_eval.tasks.egoschema.utils import egoschema_doc_to_text
    from lmms_eval.tasks.nextqa.utils import nextqa_doc_to_text_mc
    from lmms_eval.tasks.perceptiontest.val.utils import perceptiontest_val_doc_to_text
    from lmms_eval.tasks.videomme.utils import videomme_doc_to_text

    letter = {"pre_prompt": "", "post_prompt": "\nAnswer with the option's letter from the given choices directly."}
    functions = {
        "nextqa_mc_test": (nextqa_doc_to_text_mc, {"pre_prompt": "", "post_prompt": ""}),
        "videomme": (videomme_doc_to_text, letter),
        "egoschema_subset": (egoschema_doc_to_text, letter),
        "perceptiontest_val_mc": (perceptiontest_val_doc_to_text, letter),
    }
    for task, (function, arguments) in functions.items():
        prompts = [function(document, arguments) for document in documents_of(task)]
        assert [sample["input"] for sample in finished[task]] == prompts
        assert any("\u2028" in prompt for prompt in prompts)  # a row with unusual characters


def test_prompts_that_did_not_change_are_lmms_evals(finished):
    pairs = {
        "nextqa_mc_test": "nextqa_mc",
        "egoschema_subset": "egoschema_subset",
        "perceptiontest_val_mc": "perceptiontest_mc",
    }
    for current, july in pairs.items():
        for sample, of_july in zip(finished[current], finished[f"july2024_{july}"]):
            assert sample["input"] == of_july["input"]


def test_subtitles_are_lmms_evals(finished):
    """Only the options and what stands around them changed."""
    seen = set()
    rows = zip(
        finished["videomme_w_subtitle"], finished["july2024_videomme_subtitles"], documents_of("videomme"), strict=True
    )
    for sample, of_july, document in rows:
        options = document["options"]
        assert of_july["input"] == sample["input"].replace("\n".join(options), str(options))
        seen.add(of_july["input"].split("\nSelect")[0])
    assert {"This video's subtitles are listed below: \nNo subtitles available"} < seen
    assert any("Word 0\nWord 1\nWord 2" in text for text in seen)


def test_a_second_run_asks_nothing_and_scores_the_same(finished, environment, tmp_path):
    files = {path: path.read_bytes() for path in finished["journal"].iterdir()}
    again = run_lmms_eval(environment, tmp_path, TASKS[5:], f"{PRETRAINED},journal={finished['journal']}", batch_size=1)
    assert {path: path.read_bytes() for path in finished["journal"].iterdir()} == files
    assert answers_of(again, TASKS[5:]) == answers_of(finished, TASKS[5:])
    for task in TASKS[5:]:
        assert again["results"][task] == finished["results"][task]


@pytest.mark.parametrize("launch", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_ranks_answer_and_score_as_one(finished, environment, tmp_path, launch):
    tasks = TASKS[5:]
    journal = tmp_path / "journal"
    two = run_lmms_eval(environment, tmp_path / "out", tasks, f"{PRETRAINED},journal={journal}", launch)
    assert answers_of(two, tasks) == answers_of(finished, tasks)
    for task in tasks:
        for metric in ("accuracy,none", "no_option_found,none"):
            assert two["results"][task].get(metric) == finished["results"][task].get(metric)
    assert len(list(journal.iterdir())) == 2


def test_likelihoods_find_the_answer(environment, tmp_path):
    run = run_lmms_eval(environment, tmp_path, LIKELIHOOD)
    for sample in run["egoschema_subset_mcppl"]:
        losses = [float(loss) for loss, _ in sample["filtered_resps"]]  # in the file they are texts
        assert losses.index(min(losses)) == int(documents_of("egoschema_subset")[sample["doc_id"]]["answer"])


def test_a_missing_video_is_an_empty_answer_that_is_named(environment, home, tmp_path):
    video = home / "videomme" / "data" / "clip11.mp4"
    video.rename(tmp_path / "hidden.mp4")
    try:
        run = run_lmms_eval(environment, tmp_path, ["july2024_videomme", "videomme"], f"{PRETRAINED},on_error=empty")
    finally:
        (tmp_path / "hidden.mp4").rename(video)
    for task in ("july2024_videomme", "videomme"):
        empty = [sample["doc_id"] for sample in run[task] if sample["filtered_resps"] == ""]
        assert [documents_of(task)[number]["videoID"] for number in empty] == ["clip11"] * 3
    assert "6 questions got an empty answer, because they could not be asked" in run["text"]
    assert "july2024_videomme, document 3: There is no video" in run["text"]
    assert "clip11.mp4 does not exist" in run["text"]


def test_a_submission_is_written_and_not_sent(finished):
    written = json.loads((finished["output"] / "submissions" / "july2024_egoschema.json").read_text())
    assert set(written) == {"clip3", "clip11", "clip25"}


@pytest.fixture(scope="module")
def table(environment, tmp_path_factory) -> dict:
    return run_table(environment, tmp_path_factory.mktemp("table"), "--batch-size", "2")


def test_one_command_makes_the_table_and_sends_nothing(table, finished, environment):
    assert [score["task"] for score in table["scores"]] == [f"july2024_{name}" for name in JULY]
    for score in table["scores"]:
        of_task = finished["results"][score["task"]]
        assert score["questions"] == len(finished[score["task"]])
        assert score["without_option"] == round(of_task["no_option_found,none"] * score["questions"])
        if score["task"] != "july2024_egoschema":
            assert score["percent"] == pytest.approx(100 * of_task["accuracy,none"])
    assert table["not_asked"] == {}
    assert not Path(environment["CONNECTIONS"]).exists()


def test_the_table_with_todays_prompts(finished, environment, tmp_path):
    table = run_table(environment, tmp_path, "--table", "current")
    assert [score["task"] for score in table["scores"]] == list(CURRENT)
    videomme = table["scores"][1]
    assert videomme["percent"] == pytest.approx(finished["results"]["videomme"]["videomme_perception_score,none"])
    assert not Path(environment["CONNECTIONS"]).exists()


def test_two_processes_make_the_same_table(table, environment, tmp_path):
    assert run_table(environment, tmp_path, launch=TORCHRUN) == table


def test_killed_five_times_it_asks_nothing_twice_and_makes_the_same_table(table, environment, tmp_path):
    journal = tmp_path / "answers" / "answers-0.jsonl"
    tasks = [f"july2024_{name}" for name in JULY]
    for most in sorted(random.Random(0).sample(range(1, 38), 5)):
        process = subprocess.Popen(
            table_command(tmp_path), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 600
        while not journal.exists() or journal.read_bytes().count(b"\n") < most:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
    before = journal.read_text()
    assert run_table(environment, tmp_path) == table
    assert journal.read_text().startswith(before)
    keys = [json.loads(line)["key"] for line in journal.read_text().split("\n") if line]
    # Of 41 questions, those of EgoSchema's subset are among all of its questions.
    assert len(keys) == len(set(keys)) == sum(score["questions"] for score in table["scores"]) - 2
    assert [score["task"] for score in table["scores"]] == tasks


def test_a_video_that_is_missing_stops_the_command_before_anything_is_asked(environment, home, tmp_path):
    video = home / "nextqa" / "NExTVideo" / "clip3.mp4"
    video.rename(tmp_path / "hidden.mp4")
    try:
        command = table_command(tmp_path / "out", "--tasks", "july2024_nextqa_mc")
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
        table = run_table(environment, tmp_path / "out", "--tasks", "july2024_nextqa_mc", "--on-error", "empty")
    finally:
        (tmp_path / "hidden.mp4").rename(video)
    assert process.returncode == 1
    [line] = [line for line in process.stderr.splitlines() if line.startswith("llava-next-video: error: ")]
    assert "july2024_nextqa_mc, document 0, could not be asked: There is no video" in line
    [score] = table["scores"]
    assert score["unasked"] == len(table["not_asked"]) == 3
