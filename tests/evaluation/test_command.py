"""`llava-next-video evaluate`: arithmetic of the table, checks of the data, and what the command asks lmms-eval for."""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from llava_next_video.__main__ import main, parse_arguments
from llava_next_video.evaluation import command, data_check
from llava_next_video.evaluation.lmms_eval_entry import manifest
from llava_next_video.evaluation.published_table import NEXTQA, PERCEPTIONTEST, TABLES, VIDEOMME
from llava_next_video.evaluation.score_table import as_json, as_markdown, score_of, wilson_interval


RECIPE = {
    "checkpoint": "some-checkpoint",
    "dtype": "bfloat16",
    "attn_implementation": "sdpa",
    "frames": {"num_frames": 32, "fps": None, "frame_sampling": "uniform_repeated"},
    "versions": {"torch": "2.14"},
}
COLUMNS = {column.task: column for table in TABLES.values() for column in table}


def samples(scores: list[float], no_option=(), **more) -> list[dict]:
    rows = [
        {"doc_id": number, "arguments": [f"Question {number}?", {}], "accuracy": score, **more}
        for number, score in enumerate(scores)
    ]
    for number in range(len(rows)):
        rows[number]["no_option_found"] = float(number in no_option)
    return rows[::-1]  # as several processes leave them


def test_interval_contains_the_right_part_in_95_of_100_cases():
    """Of all 1001 scores that 1000 questions with a true part can have, weighted by their probability."""
    from math import comb

    for part in (0.02, 0.5, 0.6085, 0.97):
        inside = 0.0
        for right in range(1001):
            low, high = wilson_interval(right, 1000)
            if low <= 100 * part <= high:
                inside += comb(1000, right) * part**right * (1 - part) ** (1000 - right)
        assert inside == pytest.approx(0.95, abs=0.02)


def test_interval_stays_within_0_and_100():
    assert wilson_interval(0, 3)[0] == 0
    assert wilson_interval(3, 3)[1] == 100


def test_a_score_counts_questions_right_answers_and_those_without_an_option():
    failures = {"july2024_videomme, document 3": "gone", "july2024_videomme_subtitles, document 3": "gone"}
    score = score_of(COLUMNS["july2024_videomme"], samples([1, 0, 1, 0, 0], no_option=[1, 3]), failures)
    assert (score.questions, score.right, score.without_option, score.unasked) == (5, 2, 2, 1)
    assert score.percent == 40
    assert score.interval == wilson_interval(2, 5)


def test_prompts_hash_depends_on_every_prompt_and_not_on_their_order():
    first, *rest = rows = samples([1, 0, 1])
    column = COLUMNS["july2024_videomme"]
    before = score_of(column, rows, {}).prompts_sha256
    assert score_of(column, [*rest, first], {}).prompts_sha256 == before
    changed = {**first, "arguments": ["Question 2? ", {}]}
    assert score_of(column, [*rest, changed], {}).prompts_sha256 != before


@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        ("nextqa_mc_test", {"exact_match": True}, {"exact_match": False}),
        ("videomme", {"videomme_perception_score": {"score": 1.0}}, {"videomme_perception_score": {"score": 0.0}}),
        (
            "egoschema_subset",
            {"score": {"pred": 2, "ground_truth": "2"}},
            {"score": {"pred": -1, "ground_truth": "2"}},
        ),
        ("perceptiontest_val_mc", {"accuracy": {"correct": 1}}, {"accuracy": {"correct": 0}}),
    ],
)
def test_scores_of_lmms_evals_own_tasks(task, right, wrong):
    rows = [{"doc_id": n, "arguments": ["?"], **row} for n, row in enumerate([right, wrong, right])]
    score = score_of(COLUMNS[task], rows, {})
    assert (score.right, score.questions, score.without_option) == (2, 3, None)


def test_a_task_whose_answers_are_not_known_has_no_score():
    score = score_of(COLUMNS["july2024_egoschema"], samples([0, 0], no_option=[0]), {})
    assert (score.percent, score.interval, score.questions, score.published) == (None, None, 2, 60.85)


def test_the_table_as_markdown_and_json():
    scores = [
        score_of(COLUMNS["july2024_nextqa_mc"], samples([1, 0, 1, 1], no_option=[1]), {}),
        score_of(COLUMNS["july2024_egoschema"], samples([0, 0]), {}),
    ]
    text = as_markdown(scores, RECIPE, ["A note."])
    assert "| NExT-QA (MC) | 75.00 | 30.06 to 95.44 | 77.31 | 4 | 1 | 0 |" in text
    assert "| EgoSchema |  |  | 60.85 | 2 | 0 | 0 |" in text
    assert "some-checkpoint, bfloat16, sdpa; num_frames 32, frame_sampling uniform_repeated; torch 2.14." in text
    assert text.endswith("\n\nA note.\n")
    read = json.loads(as_json(scores, RECIPE, ["A note."], {"x, document 1": "gone"}))
    assert read["scores"][0]["percent"] == 75
    assert len(read["scores"][0]["prompts_sha256"]) == 64
    assert (read["recipe"], read["not_asked"]) == (RECIPE, {"x, document 1": "gone"})


def test_the_published_figures_are_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "guides" / "evaluating.md").read_text()
    [row] = re.findall(r"^\| \*\*LLaVA-NeXT-Video-32B-Qwen\*\* \|(.*)\|$", page, re.MULTILINE)
    assert [float(cell) for cell in row.split("|")] == [
        column.published for column in TABLES["july2024"] if column.published is not None
    ]


def parsed(*words: str):
    return parse_arguments(["evaluate", "checkpoint", *words])


def test_columns_are_the_tables_or_the_named_ones():
    assert [column.task for column in command.chosen_columns("july2024", None)] == [
        column.task for column in TABLES["july2024"]
    ]
    assert not any(column.task == "egoschema" for column in COLUMNS.values())  # it sends answers to a server
    named = command.chosen_columns("current", "videomme, nextqa_mc_test,videomme")
    assert [column.task for column in named] == ["videomme", "nextqa_mc_test"]
    with pytest.raises(
        ValueError, match=r"--tasks names mmmu, which the table current does not have. It has nextqa_mc_"
    ):
        command.chosen_columns("current", "mmmu,videomme")


def test_without_lmms_eval_the_error_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["evaluate", "checkpoint"]) == 1
    assert "The evaluation needs lmms-eval, which is not installed." in capsys.readouterr().err


def test_arguments_of_the_model():
    assert command.model_arguments(parsed())["frame_sampling"] == "uniform_repeated"
    assert command.model_arguments(parsed("--table", "current"))["frame_sampling"] is None
    assert command.model_arguments(parsed("--fps", "1"))["frame_sampling"] is None
    words = "--batch-size 4 --num-frames 8 --frame-sampling legacy --dtype bfloat16 --device cpu --device-map auto"
    options = "--attn-implementation eager --on-error empty --output some/folder"
    assert command.model_arguments(parsed(*words.split(), *options.split())) == {
        "batch_size": 4,
        "device": "cpu",
        "device_map": "auto",
        "dtype": "bfloat16",
        "attn_implementation": "eager",
        "num_frames": 8,
        "fps": None,
        "frame_sampling": "legacy",
        "journal": "some/folder/answers",
        "on_error": "empty",
        "server": None,
        "send_videos": False,
    }
    words = parsed("--server", "http://localhost:8000/v1", "--send-videos")
    assert command.model_arguments(words)["server"] == "http://localhost:8000/v1"
    assert command.model_arguments(words)["send_videos"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """NExT-QA's data, and Video-MME's questions without videos."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for variable in ("HF_DATASETS_CACHE", "LMMS_EVAL_DATASETS_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # the command changes it
    for repository, configuration in ((NEXTQA.repository, "MC"), (VIDEOMME.repository, "videomme")):
        folder = tmp_path / "datasets" / data_check.folder_of(repository) / configuration / "0.0.0" / "hash"
        folder.mkdir(parents=True)
        (folder / "test.arrow").touch()
    for videos in (NEXTQA.videos, VIDEOMME.videos):
        (tmp_path / videos).mkdir(parents=True)
    (tmp_path / NEXTQA.videos / "1.mp4").touch()
    return tmp_path


def test_missing_data_is_named_with_its_size(data, monkeypatch):
    data_check.check_data([NEXTQA])
    files = [SimpleNamespace(size=90 * 10**9), SimpleNamespace(size=2 * 10**9), SimpleNamespace(size=None)]
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, name, **kwargs: SimpleNamespace(siblings=files)
    )
    with pytest.raises(FileNotFoundError, match=r"GB are free: lmms-eval/Video-MME: 92.0 GB\. Run again with --fetch"):
        data_check.check_data([NEXTQA, VIDEOMME])


def test_the_command_asks_the_hub_for_sizes_before_it_goes_offline(data, monkeypatch, capsys):
    def size(self, name, **kwargs):
        assert os.environ["HF_HUB_OFFLINE"] == "0"
        return SimpleNamespace(siblings=[SimpleNamespace(size=3 * 10**9)])

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", size)
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    assert main(["evaluate", "checkpoint"]) == 1
    error = capsys.readouterr().err
    assert "lmms-eval/Video-MME: 3.0 GB" in error
    assert "lmms-eval/egoschema: 3.0 GB" in error
    assert "NExTQA" not in error


def test_without_a_connection_the_size_is_not_known(data, monkeypatch):
    def fails(self, name, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fails)
    with pytest.raises(FileNotFoundError, match=r"PerceptionTest_Val: size not known, the Hub was not reached"):
        data_check.check_data([PERCEPTIONTEST])


def sized(num_bytes: int):
    """In place of what the Hub says of a data set."""
    return lambda self, name, **kwargs: SimpleNamespace(siblings=[SimpleNamespace(size=num_bytes)])


@pytest.fixture
def free(monkeypatch):
    """Sets how much of the disk is free."""

    def set_free(num_bytes: int):
        usage = SimpleNamespace(free=num_bytes)
        monkeypatch.setattr(data_check.shutil, "disk_usage", lambda place: usage)

    return set_free


def test_what_will_be_fetched_is_said_if_the_disk_holds_it(data, monkeypatch, free):
    """Archives, and what is unpacked from them: twice the size; but what an earlier run fetched is there."""
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", sized(4 * 10**9))
    wanted = [NEXTQA, PERCEPTIONTEST]  # of which one is here
    free(8 * 10**9)
    assert data_check.check_fetching(wanted) == ["fetching lmms-eval/PerceptionTest_Val: 4.0 GB"]
    free(8 * 10**9 - 1)
    with pytest.raises(OSError, match=r"needs 8.0 GB in .*, and 8.0 GB are free: fetching lmms-eval/Perc.* Make room"):
        data_check.check_fetching(wanted)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(data / "hub"))
    blobs = data / "hub" / "datasets--lmms-eval--PerceptionTest_Val" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "some").write_bytes(b"1")
    assert data_check.check_fetching(wanted)
    assert data_check.check_fetching([NEXTQA]) == []


def test_a_folder_without_videos_would_not_be_fetched(data, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", sized(1))
    with pytest.raises(
        FileExistsError, match=r"but .*videomme exists and has no videos in videomme/data: .* Remove the"
    ):
        data_check.check_fetching([VIDEOMME])


def test_a_hub_that_is_not_reached_is_an_error_before_fetching(data, monkeypatch):
    def fails(self, name, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fails)
    with pytest.raises(ConnectionError, match=r"PerceptionTest_Val was to be fetched, but the Hub did not say"):
        data_check.check_fetching([PERCEPTIONTEST])


def test_several_processes_do_not_fetch(data, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", sized(1))
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    monkeypatch.setattr(command, "evaluated", lambda args, tasks: (None, {}, {}))
    words = ["evaluate", "checkpoint", "--fetch", "--tasks", "july2024_perceptiontest_mc"]
    assert main(words) == 0
    assert "llava-next-video: fetching lmms-eval/PerceptionTest_Val: 0.0 GB" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words) == 1
    assert "--fetch was given to several processes." in capsys.readouterr().err
    assert main([*words[:-1], "july2024_nextqa_mc"]) == 0  # nothing to fetch


def test_data_that_lmms_eval_cannot_load_is_one_error(monkeypatch):
    class RetryError(Exception):
        last_attempt = SimpleNamespace(exception=lambda: KeyError("no split"))

    monkeypatch.setitem(sys.modules, "tenacity", SimpleNamespace(RetryError=RetryError))  # comes with lmms-eval
    with (
        pytest.raises(OSError, match=r"lmms-eval could not load the data of a task: KeyError: 'no split'"),
        command.errors_of_data(),
    ):
        raise RetryError


@pytest.mark.parametrize("variable", ["HF_DATASETS_CACHE", "LMMS_EVAL_DATASETS_CACHE"])
def test_tables_may_lie_elsewhere(data, tmp_path, monkeypatch, variable):
    (data / "datasets").rename(tmp_path / "elsewhere")
    assert not data_check.is_here(NEXTQA)
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    assert data_check.is_here(NEXTQA)


def test_names_of_prepared_data_sets():
    assert data_check.folder_of("lmms-eval/NExTQA") == "lmms-eval___n_ex_tqa"
    assert data_check.folder_of("lmms-eval/Video-MME") == "lmms-eval___video-mme"
    assert data_check.folder_of("lmms-eval/PerceptionTest_Val") == "lmms-eval___perception_test_val"


def test_the_command_writes_table_samples_and_notes(data, tmp_path, monkeypatch, capsys):
    """All but lmms-eval itself, whose results are made up."""
    rows = {"july2024_nextqa_mc": samples([1, 0, 1], no_option=[1])}
    failures = {"july2024_nextqa_mc, document 1": "gone"}
    monkeypatch.setattr(command, "evaluated", lambda args, tasks: ({"samples": rows}, RECIPE, failures))
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    monkeypatch.setattr(command, "version", lambda name: "0.7.3")
    output = tmp_path / "out"
    words = ["--tasks", "july2024_nextqa_mc", "--limit", "3", "--output", str(output)]
    assert main(["evaluate", "checkpoint", *words]) == 0
    printed = capsys.readouterr().out
    assert (output / "table.md").read_text() + "\n" == printed
    assert "| NExT-QA (MC) | 66.67 |" in printed
    assert "Only the first 3 questions of each task were asked: this is not a score." in printed
    assert "in NExT-QA each is a guess" in printed
    assert json.loads((output / "table.json").read_text())["recipe"]["versions"]["lmms-eval"] == "0.7.3"
    lines = (output / "samples" / "july2024_nextqa_mc.jsonl").read_text().splitlines()
    assert [json.loads(line)["doc_id"] for line in lines] == [0, 1, 2]


def test_other_processes_write_nothing(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "evaluated", lambda args, tasks: (None, {}, {}))
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    assert main(["evaluate", "x", "--tasks", "july2024_nextqa_mc", "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out").exists()


def test_the_entry_point_names_a_class_of_ours():
    pytest.importorskip("lmms_eval")
    found = manifest()
    assert (found.model_id, found.chat_class_path) == ("llava_next_video", None)
    assert found.simple_class_path == "llava_next_video.evaluation.lmms_eval_model.LlavaNextVideoForLmmsEval"
