"""Many questions: an answer for each line, in order, whatever happens on the way."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_next_video import DEMO_CHECKPOINT, question_files
from llava_next_video.__main__ import main
from llava_next_video.question_files import checked_fields, open_answers, rows_of


SAMPLES = Path(__file__).parents[2] / "demo_model" / "samples"
CIRCLE, SQUARE = (str(SAMPLES / name) for name in ("red_circle_moves_left.mp4", "blue_square_moves_up.mp4"))
LINES = [
    {"id": "a", "video": CIRCLE, "question": "Which way does the circle move?", "answer": "left", "more": [1]},
    "{not json",
    {"video": "none.mp4", "question": "What?"},
    "",
    {"video": SQUARE, "question": "half \ud800 a character"},
    {"id": 7, "video": [SQUARE], "question": "Which way does the square move?"},
    {"video": SQUARE},
]


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in LINES))
    return path


def ask(questions: Path | str, answers: Path, *options: str) -> int:
    return main(["ask", "--questions", str(questions), "--answers", str(answers), "--device", "cpu", *options])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The answers of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "questions.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in LINES))
    assert ask(path, folder / "answers.jsonl") == 0
    return (folder / "answers.jsonl").read_bytes()


def test_every_line_is_answered_in_order(whole):
    records = [json.loads(line) for line in whole.splitlines()]
    assert [record["line"] for record in records] == [1, 2, 3, 5, 6, 7]
    first, broken, missing, half, list_of_one, incomplete = records
    settings = {"model": DEMO_CHECKPOINT, "demo": True, "settings": {"max_new_tokens": 256}}
    asked = {"line": 1, "id": "a", "video": CIRCLE, "question": "Which way does the circle move?"}
    assert first == {**asked, "answer": "The circle moves left.", **settings}
    assert list_of_one["answer"] == "The square moves up."
    assert (list_of_one["id"], list_of_one["video"]) == (7, [SQUARE])
    for record, reason in (
        (broken, "line 2 is not a question: Expecting property name"),
        (missing, "Could not read the video 'none.mp4': there is no such file."),
        (half, "its text has half a character"),
        (incomplete, "line 7 is not a question: its `question` has to be a text"),
    ):
        assert record["answer"] is None
        assert reason in record["error"]
    assert half["question"] == LINES[4]["question"]


@pytest.mark.parametrize("cut", [0, 10, 300, 700, -1])
def test_run_that_was_cut_off_anywhere_goes_on(cut, whole, questions, tmp_path, capsys):
    answers = tmp_path / "answers.jsonl"
    answers.write_bytes(whole[:cut])
    assert ask(questions, answers, "--batch-size", "3") == 0
    assert answers.read_bytes() == whole
    assert "questions could not be answered: `error` in their lines says why" in capsys.readouterr().err


def test_what_is_complete_loads_no_model(whole, questions, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(question_files, "load_pipeline", lambda *args: pytest.fail("loaded"))
    (tmp_path / "answers.jsonl").write_bytes(whole)
    assert ask(questions, tmp_path / "answers.jsonl") == 0
    assert "nothing is left to answer: 6 answers are there" in capsys.readouterr().err


def test_answered_questions_are_not_asked_again(whole, questions, tmp_path, monkeypatch):
    asked = []
    answered = question_files.answered

    def spy(pipe, rows, *arguments):
        rows = list(rows)
        asked.extend(row.line for row in rows)
        return answered(pipe, iter(rows), *arguments)

    monkeypatch.setattr(question_files, "answered", spy)
    (tmp_path / "answers.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:4]) + b'{"line": 6, "vid')
    assert ask(questions, tmp_path / "answers.jsonl") == 0
    assert asked == [6, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: lines[::-1],
            r"line 1 of '.*' does not answer the question in that place, line 1\. Name another",
        ),
        (
            lambda lines: [*lines, lines[-1]],
            r"line 7 of '.*' does not answer the question in that place\. Name another",
        ),
        (lambda lines: [b"nonsense\n"], r"line 1 of '.*' does not answer the question in that place, line 1"),
    ],
)
def test_error_when_answers_are_those_of_other_questions(change, message, whole, questions, tmp_path, capsys):
    answers = tmp_path / "answers.jsonl"
    answers.write_bytes(b"".join(change(whole.splitlines(keepends=True))))
    before = answers.read_bytes()
    with pytest.raises(ValueError, match=message):
        continued(answers, questions)
    assert answers.read_bytes() == before


@pytest.mark.parametrize("options", [["--num-frames", "4"], ["--max-new-tokens", "5"], ["--model", DEMO_CHECKPOINT]])
def test_error_when_answers_were_made_in_another_way(options, whole, questions, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_bytes(whole.replace(b'"demo": true', b'"demo": false') if "--model" in options else whole)
    with pytest.raises(ValueError, match=r"line 1 of '.*' was made with another model or other settings than"):
        continued(answers, questions, *([] if "--model" in options else options))


def continued(answers: Path, questions: Path, *options: str):
    args = question_files_arguments(answers, questions, *options)
    question_files.answer_questions(args)


def question_files_arguments(answers: Path, questions: Path, *options: str):
    from llava_next_video.commands import parse_arguments

    return parse_arguments(["ask", "--questions", str(questions), "--answers", str(answers), *options])


def test_error_when_another_run_writes_the_same_answers(questions, tmp_path):
    answers = tmp_path / "answers.jsonl"
    with (
        open_answers(answers, "-"),
        pytest.raises(ValueError, match=r"Another run has the answers '.*answers\.jsonl' open"),
    ):
        continued(answers, questions)


def test_error_when_questions_and_answers_are_one_file(questions):
    before = questions.read_bytes()
    with pytest.raises(ValueError, match=r"--questions and --answers are one file"):
        continued(questions, questions)
    assert questions.read_bytes() == before


def test_questions_may_come_through_a_pipe_and_answers_go_to_one(questions, whole, monkeypatch, capsysbinary):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(questions.read_bytes())))
    assert main(["ask", "--questions", "-", "--device", "cpu"]) == 0
    assert capsysbinary.readouterr().out == whole


def test_line_on_standard_input_is_answered_before_the_next_is_read(monkeypatch, capsysbinary):
    """Whoever asks the next question only after an answer would have waited for ever."""
    answers = []

    def lines():
        for line in (json.dumps(LINES[0]), LINES[1], json.dumps(LINES[0])):
            yield line.encode()
            answers.append(capsysbinary.readouterr().out)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=lines()))
    assert main(["ask", "--questions", "-", "--device", "cpu"]) == 0
    assert [json.loads(answer)["answer"] for answer in answers] == [
        "The circle moves left.",
        None,
        "The circle moves left.",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", r'it has to be \{"video"'),
        (b'{"question": "What?"}', "its `video` has to be a path or URL"),
        (b'{"video": [], "question": "What?"}', "its `video` has to be"),
        (b'{"video": ["a", 3], "question": "What?"}', "its `video` has to be"),
        (b'{"video": "a", "question": " "}', "its `question` has to be a text"),
        (b'{"video": "a", "question": "b", "id": {}}', "its `id` has to be a text or a whole number"),
        (b'{"video": "a", "question": "b", "x": NaN}', "NaN is not JSON"),
        (b"\xff", "decode"),
    ],
)
def test_error_when_a_line_is_no_question(line, message):
    with pytest.raises(ValueError, match=message):
        checked_fields(line)


def test_line_of_endless_brackets_loses_its_own_place_only():
    rows = list(rows_of([b"[" * 100_000, b'{"video": "a", "question": "b"}']))
    assert [row.error is None for row in rows] == [False, True]
    assert len(rows[0].error) < 400


def test_addresses_of_a_file_are_public_ones_unless_allowed(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"video": "http://127.0.0.1:9/a.mp4", "question": "What?"}\n')
    reasons = []
    for number, options in enumerate(([], ["--allow-private-addresses"])):
        assert ask(path, tmp_path / f"{number}.jsonl", *options) == 0
        reasons.append(json.loads((tmp_path / f"{number}.jsonl").read_text())["error"])
    assert "which is not a public address" in reasons[0]
    assert "Connection refused" in reasons[1]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_goes_on_where_it_was(stop, tmp_path):
    questions, answers, whole = (tmp_path / name for name in ("questions.jsonl", "answers.jsonl", "whole.jsonl"))
    line = json.dumps({"video": CIRCLE, "question": "Which way does the circle move?"})
    questions.write_text(f"{line}\n" * 40)
    command = [
        sys.executable,
        "-m",
        "llava_next_video",
        "ask",
        "--questions",
        str(questions),
        "--answers",
        str(answers),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (answers.exists() and answers.read_bytes().count(b"\n") > 3):
        time.sleep(0.01)
    process.send_signal(stop)
    told = process.communicate()[1]
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in told
    assert 0 < answers.read_bytes().count(b"\n") < 40
    assert ask(questions, answers) == ask(questions, whole) == 0
    assert answers.read_bytes() == whole.read_bytes()
