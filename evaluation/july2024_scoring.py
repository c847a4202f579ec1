"""The scoring of the table's benchmarks as it was in July 2024. Source: as in `july2024_prompts.py`.

Each function gets a document and a list with the answer, and returns whether it is right (`accuracy`, 0 or 1) and
whether no option was found in it (`no_option_found`). Such an answer is wrong; only NExT-QA guesses then: at random in
July, here always the same for the same question.
"""

import hashlib
import json
import re
from pathlib import Path


LETTERS = "ABCDE"
NONE = -1  # number of no option


def scored(is_right: bool, is_found: bool) -> dict[str, float]:
    return {"accuracy": float(is_right), "no_option_found": float(not is_found)}


def nextqa(document: dict, answers: list[str]) -> dict[str, float]:
    number = nextqa_option(document, answers[0])
    chosen = guess(document) if number == NONE else number
    return scored(chosen == document["answer"], number != NONE)


def nextqa_option(document: dict, answer: str) -> int:
    """The option that an answer names: by `(A)`, else by `A `, else by `A.`, else, in answers of more than five words,
    by its text. Of several options the last one counts.

    `A ` and `A.` may be the end of a longer word. If several letters are found like this, only their last place as a
    separate word counts, and the first letter wins if none has one.
    """
    for character in ",.!?;:'":
        answer = answer.strip(character)
    answer = f" {answer} "
    texts = [document[f"a{number}"].strip().lower() for number in range(len(LETTERS))]
    ways = (
        ([f"({letter})" for letter in LETTERS], [f"({letter})" for letter in LETTERS], answer),
        ([f"{letter} " for letter in LETTERS], [f" {letter} " for letter in LETTERS], answer),
        ([f"{letter}." for letter in LETTERS], [f" {letter} " for letter in LETTERS], answer),
        (texts, texts, answer.lower() if len(answer.split()) > 5 else None),
    )
    for wanted, placed, text in ways:
        if text is not None and (found := [number for number, mark in enumerate(wanted) if mark in text]):
            return max(found, key=lambda number: text.rfind(placed[number]))
    return NONE


def guess(document: dict) -> int:
    """An option that depends on nothing but the question."""
    name = f"{document['video']} {document['qid']} {document['question']}"
    return hashlib.sha256(name.encode()).digest()[0] % len(LETTERS)


def videomme(document: dict, answers: list[str]) -> dict[str, float]:
    """The first A, B, C or D anywhere in the answer, also as part of a word."""
    match = re.search("[ABCD]", answers[0])
    return scored(match is not None and match[0] == document["answer"], match is not None)


def egoschema(document: dict, answers: list[str]) -> dict[str, float]:
    number = egoschema_option(document, answers[0])
    return scored(str(number) == str(document["answer"]), number != NONE)


def egoschema_submission(document: dict, answers: list[str]) -> dict:
    """For questions whose answers only a server knows: the submission for that server."""
    number = egoschema_option(document, answers[0])
    return {"submission": {document["video_idx"]: number}, "no_option_found": float(number == NONE)}


def egoschema_option(document: dict, answer: str) -> int:
    """The option that an answer is equal to: `A. The text.`, else `The text.`, else `A`.

    A text with several sentences is cut before the first one's full stop.
    """
    options = [option if option.endswith(".") else f"{option}." for option in document["option"]]
    halves = [option.split(". ") if ". " in option else [option, option] for option in options]
    texts, letters = [half[1] for half in halves], [half[0] for half in halves]
    for candidates in (options, texts):
        if answer in candidates:
            return candidates.index(answer)
    for number, letter in enumerate(letters):
        if answer in (letter, letter.replace(".", "")):
            return number
    return NONE


def perceptiontest(document: dict, answers: list[str]) -> dict[str, float]:
    """The answer is nothing but a letter."""
    number = {"A": 0, "B": 1, "C": 2}.get(answers[0], NONE)
    return scored(str(number) == str(document["answer_id"]), number != NONE)


def write_submission(submissions: list[dict[str, int]], args) -> int:
    """Write a submission to EgoSchema's server, as one file in the output folder; nothing is sent. Returns how many
    answers name an option."""
    folder = Path(getattr(args, "output_path", None) or ".") / "submissions"
    folder.mkdir(parents=True, exist_ok=True)
    answers = {video: number for submission in submissions for video, number in submission.items()}
    (folder / "july2024_egoschema.json").write_text(json.dumps(answers, indent=1))
    return sum(number != NONE for number in answers.values())
