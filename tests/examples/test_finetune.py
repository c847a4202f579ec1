"""The example of fine-tuning in miniature: a few steps, an interruption, and a checkpoint that answers as it was tuned.

That it teaches something is seen in `finetune_run.py`, by hand.
"""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoCollator
from tests.examples.finetuning import load_example
from tests.training.test_trainer import StopsAfter, difference


pytest.importorskip("trl")
MANY = ["--batch-size", "4", "--accumulate", "1", "--learning-rate", "0.003", "--save-every", "2", "--workers", "0"]


@pytest.fixture(scope="module")
def example():
    return load_example("finetune")


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lesson")
    load_example("finetune_data").main([str(folder), "--clips", "16", "--asked", "4"])
    return folder


def command(lesson, out, *more: str) -> list[str]:
    files = ["--eval", str(lesson / "new.jsonl"), str(lesson / "old.jsonl")]
    return [str(lesson / "train.jsonl"), "--out", str(out), *files, *MANY, *more]


@pytest.fixture(scope="module")
def tuned(example, lesson, tmp_path_factory):
    """What a run without a break leaves."""
    out = tmp_path_factory.mktemp("tuned")
    example.main(command(lesson, out))
    return out


def weights_in(out) -> dict[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(out / "model").state_dict()


def test_a_whole_checkpoint_answers_what_its_adapters_answered(example, lesson, tuned):
    answers = json.loads((tuned / "answers.json").read_text())
    assert [answer["file"] for answer in answers] == ["new"] * 4 + ["old"] * 4
    assert all(answer["before"] == answer["wanted"] for answer in answers if answer["file"] == "old")
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    base = AutoModelForImageTextToText.from_pretrained(DEMO_CHECKPOINT)
    collate = LlavaNextVideoCollator(processor, last_turn_only=True)
    rows = [row for name in ("new", "old") for row in example.read_rows(lesson / f"{name}.jsonl")]
    assert example.answers_of(base, collate, rows, 40) == [answer["before"] for answer in answers]
    adapted = PeftModel.from_pretrained(base, tuned / "adapter")
    assert example.answers_of(adapted, collate, rows, 40) == [answer["after"] for answer in answers]
    pipe = pipeline("video-text-to-text", model=str(tuned / "model"))
    for answer in answers[::4]:
        assert pipe(*answer["videos"], answer["question"])[0]["generated_text"] == answer["after"]


def test_training_changed_the_language_model_and_nothing_else(tuned):
    before, after = AutoModelForImageTextToText.from_pretrained(DEMO_CHECKPOINT).state_dict(), weights_in(tuned)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 4 * 7  # of 4 layers all 7 matrices
    assert all("language_model" in name and name.endswith("_proj.weight") for name in changed)
    assert (
        AutoProcessor.from_pretrained(tuned / "model").to_dict()
        == AutoProcessor.from_pretrained(DEMO_CHECKPOINT).to_dict()
    )


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_to_the_same_weights(method, example, lesson, tuned, tmp_path, monkeypatch, capsys):
    arguments = command(lesson, tmp_path / "broken", "--method", method)
    if method == "full":
        example.main(command(lesson, tmp_path / "whole", "--method", "full"))
    make_trainer = example.make_trainer

    def breaks(*args):
        trainer = make_trainer(*args)
        trainer.add_callback(Interrupts(3))
        return trainer

    with monkeypatch.context() as patched:
        patched.setattr(example, "make_trainer", breaks)
        with pytest.raises(KeyboardInterrupt):
            example.main(arguments)
    (tmp_path / "broken" / "run" / "checkpoint-3").mkdir()  # cut off while it was written
    capsys.readouterr()
    example.main(arguments)
    printed = capsys.readouterr().out
    assert "checkpoint-2" in printed
    assert "before:" not in printed
    assert (
        difference(weights_in(tuned if method == "lora" else tmp_path / "whole"), weights_in(tmp_path / "broken"))
        == 0.0
    )


class Interrupts(StopsAfter):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.steps:
            raise KeyboardInterrupt


def test_a_finished_run_is_asked_again_and_not_trained(example, lesson, tuned, capsys, monkeypatch):
    monkeypatch.setattr(example, "train", None)
    example.main(command(lesson, tuned))
    printed = capsys.readouterr().out
    assert "after: old: " in printed
    assert f"{tuned / 'model'} is the tuned checkpoint" in printed


def test_another_run_needs_another_folder(example, lesson, tuned, tmp_path):
    with pytest.raises(SystemExit, match=r"holds a run with other rank\. Pass another --out"):
        example.main(command(lesson, tuned, "--rank", "4"))
    shutil.copytree(lesson, tmp_path / "lesson")
    with (tmp_path / "lesson" / "train.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(SystemExit, match=r"holds a run with other rows\. Pass another --out"):
        example.main(command(tmp_path / "lesson", tuned))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"rows.jsonl has no rows"),
        ("{}\n{'a': 1}", r"rows.jsonl, line 2 is not JSON"),
        ('\n["a"]', r"rows.jsonl, line 2 is '\[\"a\"\]'; it has to be an object"),
        ('{"videos": ["gone.mp4"]}', r"rows.jsonl, line 1 names .*gone.mp4, which does not exist"),
    ],
)
def test_files_that_cannot_be_used(example, text, message, tmp_path):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(SystemExit, match=message):
        example.read_rows(tmp_path / "rows.jsonl")


def test_rows_are_checked_before_anything_is_loaded(example, lesson, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "load_model", None)
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello"}]}')
    with pytest.raises(ValueError, match=r"Row 1 of the 1 cannot be used. The row has no message of the assistant"):
        example.main([str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "0"], "--rank is 0; it has to be 1 or more"),
        (["--eval", "a/rows.jsonl", "b/rows.jsonl"], "two --eval files have the same name"),
    ],
)
def test_impossible_arguments(example, arguments, message, capsys):
    with pytest.raises(SystemExit):
        example.parse_arguments(["rows.jsonl", "--out", "out", *arguments])
    assert message in capsys.readouterr().err


def test_it_is_for_one_process(example, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        example.parse_arguments(["rows.jsonl", "--out", "out"])
    assert "this example is for one process" in capsys.readouterr().err


def test_paths_count_from_the_file(example, lesson, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = example.read_rows(lesson / "new.jsonl")
    assert rows[0]["videos"] == [str(lesson / "new" / "0.mp4")]
    (tmp_path / "a.png").touch()
    (tmp_path / "rows.jsonl").write_text('{"videos": ["https://example.com/a.mp4"], "images": null, "image": "a.png"}')
    [row] = example.read_rows(tmp_path / "rows.jsonl")
    assert row == {"videos": ["https://example.com/a.mp4"], "images": None, "image": str(tmp_path / "a.png")}


def test_the_last_turn_of_a_row(example):
    parts = [{"type": "video"}, {"type": "text", "text": "What?"}]
    row = {"prompt": [{"role": "user", "content": parts}], "completion": [{"role": "assistant", "content": " A cat. "}]}
    assert example.last_turn(row) == ("What?", "A cat.")
    assert example.count_right(["a cat.", "a dog"], [row, row]) == 1
