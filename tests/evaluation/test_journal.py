"""The journal: answers survive, are found again under everything they depend on, and a torn line costs one of them."""

import json

import pytest

from llava_next_video.evaluation.generation_arguments import generation_arguments, up_to_stop_string
from llava_next_video.evaluation.journal import Journal
from llava_next_video.evaluation.questions import Question


KEY = Question("task", 1, "What?", list, ("a.mp4", 3, 4), arguments={"max_new_tokens": 16}).key()


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path, {"checkpoint": "one"})


def reopened(tmp_path, recipe=None, rank=0) -> Journal:
    return Journal(tmp_path, recipe or {"checkpoint": "one"}, rank)


def test_answers_are_found_by_any_rank_as_soon_as_they_are_written(journal, tmp_path):
    for number, answer in enumerate(("B", "", "two\nlines\u2028é", [0.5, True], [float("inf"), False])):
        journal.write([*KEY, number], "task, document 1", answer)
        assert reopened(tmp_path, rank=3)[[*KEY, number]] == answer


@pytest.mark.parametrize(
    "other",
    [
        Question("task", 1, "What?", list, ("a.mp4", 3, 5), arguments={"max_new_tokens": 16}),
        Question("task", 1, "What??", list, ("a.mp4", 3, 4), arguments={"max_new_tokens": 16}),
        Question("task", 1, "What?", list, ("a.mp4", 3, 4), arguments={"max_new_tokens": 17}),
        Question("task", 1, "What?", list, ("a.mp4", 3, 4), arguments={"max_new_tokens": 16}, option="A"),
        Question("task", 1, "What?", list, ("a.mp4", 3, 4), arguments={"max_new_tokens": 16}, occurrence=1),
    ],
)
def test_an_answer_to_another_question_is_not_taken(journal, other):
    journal.write(KEY, "task, document 1", "B")
    assert KEY in journal
    assert other.key() not in journal


def test_an_answer_of_another_recipe_is_not_taken(journal, tmp_path):
    journal.write(KEY, "task, document 1", "B")
    assert KEY in reopened(tmp_path)
    assert KEY not in reopened(tmp_path, {"checkpoint": "two"})


def test_the_same_question_in_another_task_has_the_same_answer():
    assert Question("other", 7, "What?", list, ("a.mp4", 3, 4), arguments={"max_new_tokens": 16}).key() == KEY


def test_what_cannot_be_identified_is_not_kept(journal, tmp_path):
    for question in (Question("task", 1, "What?", media_id=None), Question("task", 1, "What?", error=OSError("gone"))):
        assert question.key() is None
        journal.write(question.key(), question.name, "B")
        assert question.key() not in journal
    assert not list(tmp_path.iterdir())


def test_a_line_that_was_cut_off_costs_one_answer_and_no_later_one(journal, tmp_path):
    for number in range(3):
        journal.write([*KEY, number], "task, document 1", "B")
    path = tmp_path / "answers-0.jsonl"
    text = path.read_text()
    for cut, is_left in ((1, True), (2, False), (40, False), (len(text.splitlines()[-1]), False)):
        path.write_text(text[:-cut])
        again = Journal(tmp_path, {"checkpoint": "one"})
        assert [[*KEY, number] in again for number in range(3)] == [True, True, is_left]
        again.write([*KEY, 2], "task, document 1", "C")
        assert reopened(tmp_path)[[*KEY, 2]] == "C"


def test_lines_are_json_with_the_question(journal, tmp_path):
    journal.write(KEY, "task, document 1", "B")
    record = json.loads((tmp_path / "answers-0.jsonl").read_text())
    assert (record["question"], record["answer"], len(record["key"])) == ("task, document 1", "B", 64)


def test_without_a_folder_answers_are_in_memory():
    journal = Journal(None, {})
    journal.write(KEY, "task, document 1", "B")
    assert journal[KEY] == "B"


@pytest.mark.parametrize(
    ("of_task", "expected"),
    [
        ({}, {}),
        ({"until": None, "do_sample": False}, {}),
        ({"until": "x", "temperature": 0}, {"stop_strings": ["x"]}),
        ({"until": ["", "x"], "top_p": None}, {"stop_strings": ["x"]}),
        ({"temperature": 0.2, "top_p": 0.9}, {"temperature": 0.2, "top_p": 0.9, "do_sample": True}),
        ({"temperature": 0.2, "do_sample": False}, {}),
        ({"max_new_tokens": 3, "num_beams": 4}, {"max_new_tokens": 3, "num_beams": 4}),
    ],
)
def test_arguments_of_the_generation(of_task, expected):
    assert generation_arguments(of_task) == ({"max_new_tokens": 1024, "do_sample": False} | expected, set())


def test_unknown_arguments_of_the_generation_are_named():
    assert generation_arguments({"image_aspect_ratio": "original"})[1] == {"image_aspect_ratio"}


def test_the_first_stop_string_counts():
    assert up_to_stop_string("B because. So C", [". ", "be"]) == "B "
    assert up_to_stop_string("B", ["x"]) == "B"
