"""`ask --questions FILE --answers FILE`: many questions about many videos, from JSON lines to JSON lines.

    {"id": "a17", "video": "clip.mp4", "question": "What happens?"}       (`id` may be left out; `video` may be a list)
    {"line": 1, "id": "a17", "video": "clip.mp4", "question": "What happens?", "answer": "...", "model": "...", ...}

Each line is answered by one line, in order. Where that fails, `answer` is null and `error` says why. A run that was
killed and is started again continues: the answers in the file are compared with the questions first.
"""

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from llava_next_video.commands import STANDARD_INPUT
from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline
from llava_next_video.model_for_answers import load_pipeline, sampling_arguments, tell
from llava_next_video.modeling.error_texts import shortened
from llava_next_video.reading.limits import ReadingLimits
from llava_next_video.registration import DEMO_CHECKPOINT
from llava_next_video.waiting import is_shown


try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

# Options that answers depend on.
SETTINGS = ("num_frames", "max_new_tokens", "dtype", "quantize", "attn_implementation")


@dataclass(frozen=True)
class Row:
    """One line of questions: its number, counted from 1, and its fields, or what is wrong with it."""

    line: int
    fields: dict
    error: str | None = None

    def record(self, settings: dict, answer: str | None, error: str | None = None) -> dict:
        """The line of its answer."""
        reason = {} if error is None else {"error": error}
        return {"line": self.line, **self.fields, "answer": answer, **reason, **settings}


def answer_questions(args: argparse.Namespace):
    """Answer the questions that are not answered yet."""
    settings = settings_of(args)
    with ExitStack() as stack:
        questions = stack.enter_context(open_questions(args.questions))
        rows = rows_of(questions)
        answers, num_done = sys.stdout.buffer, 0
        if args.answers is not None:
            answers = stack.enter_context(open_answers(args.answers, args.questions))
            num_done = skip_answered(answers, args.answers, rows, settings)
        if (first := next(rows, None)) is None:
            tell(f"nothing is left to answer: {num_done} answers are there")
            return
        limits = ReadingLimits(allow_private_addresses=args.allow_private_addresses)
        pipe = load_pipeline(args, limits)
        num_failed = 0
        arguments = {
            "batch_size": args.batch_size or 1,
            "max_new_tokens": args.max_new_tokens,
            **sampling_arguments(args),
        }
        if args.questions == STANDARD_INPUT:
            arguments["read_ahead"] = 0  # a program that writes the lines may wait for each answer
        records = answered(pipe, chain([first], rows), settings, arguments)
        for record in tqdm(
            records, initial=num_done, total=num_lines(args.questions), unit="question", disable=not is_shown()
        ):
            num_failed += "error" in record
            # A surrogate cannot be encoded, and is written as JSON's escape.
            answers.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            answers.flush()
    if num_failed:
        tell(f"{num_failed} questions could not be answered: `error` in their lines says why")


def settings_of(args: argparse.Namespace) -> dict:
    """The fields of every answer about how it was made."""
    given = {name: getattr(args, name) for name in SETTINGS}
    return {
        **facts_of_model(args),
        "settings": {name: value for name, value in given.items() if value not in (None, "auto")},
    }


def facts_of_model(args: argparse.Namespace) -> dict:
    """The fields of every answer about the model."""
    return {"model": DEMO_CHECKPOINT, "demo": True} if args.model is None else {"model": args.model}


def answered(pipe: VideoTextToTextPipeline, rows: Iterable[Row], settings: dict, arguments: dict) -> Iterator[dict]:
    """The record of each row, in order. Rows wait for their answers, as the pipeline may take several at a time. A row
    without a question goes through the pipeline too, as an input that it refuses, so that its record comes in order."""
    waiting: deque[Row] = deque()

    def inputs() -> Iterator[dict]:
        for row in rows:
            waiting.append(row)
            yield {"videos": row.fields["video"], "text": row.fields["question"]} if row.error is None else {}

    for [result] in pipe(inputs(), on_error="return", return_full_text=False, **arguments):
        row = waiting.popleft()
        error = row.error or result.get("error")
        text = None if error is None else " ".join(str(error).split())
        yield row.record(settings, result["generated_text"], text)


@contextmanager
def open_questions(name: str) -> Iterator[BinaryIO]:
    """The file of questions, or standard input."""
    if name == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    with open(name, "rb") as file:
        yield file


def num_lines(name: str) -> int | None:
    """The number of lines in a file that are not empty; `None` for standard input."""
    if name == STANDARD_INPUT:
        return None
    with open(name, "rb") as file:
        return sum(not line.isspace() for line in file)


def rows_of(lines: Iterable[bytes]) -> Iterator[Row]:
    """Read lines of questions; empty ones are skipped."""
    for number, line in enumerate(lines, start=1):
        if not line.isspace():
            try:
                yield Row(number, checked_fields(line))
            except (ValueError, RecursionError) as error:
                yield Row(number, {}, f"line {number} is not a question: {shortened(str(error), 300)}")


def checked_fields(line: bytes) -> dict:
    """The fields of one line that are used.

    Raises:
        ValueError: it is not JSON, has no video or question, or an `id` of another type.
    """
    fields = json.loads(line, parse_constant=no_number)
    if not isinstance(fields, dict):
        raise ValueError('it has to be {"video": ..., "question": ...}')
    videos = fields.get("video")
    videos = videos if isinstance(videos, list) else [videos]
    if not videos or not all(isinstance(video, str) and video for video in videos):
        raise ValueError("its `video` has to be a path or URL, or a list of them")
    if not isinstance(fields.get("question"), str) or not fields["question"].strip():
        raise ValueError("its `question` has to be a text")
    if not isinstance(fields.get("id", ""), str | int):
        raise ValueError("its `id` has to be a text or a whole number")
    return {name: fields[name] for name in ("id", "video", "question") if name in fields}


def no_number(name: str):
    raise ValueError(f"{name} is not JSON")


@contextmanager
def open_answers(path: Path, questions: str) -> Iterator[BinaryIO]:
    """The file of answers, created if there is none; no other run may have it open.

    Raises:
        ValueError: another run writes there, or the questions are in it.
    """
    if questions != STANDARD_INPUT and path.exists() and os.path.samefile(path, questions):
        raise ValueError(f"--questions and --answers are one file, {str(path)!r}; name another one for the answers.")
    with open(path, "a+b") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"Another run has the answers {str(path)!r} open; wait until it ends, or name another file."
                ) from None
        yield file


def skip_answered(answers: BinaryIO, path: Path, rows: Iterator[Row], settings: dict) -> int:
    """Skip the rows that are answered already, and cut off an answer that a killed run did not finish.

    Returns:
        The number of answered rows.

    Raises:
        ValueError: an answer is to another question, or was made with another model or other settings.
    """
    answers.seek(0)
    end = num_done = 0
    for line in answers:
        if not line.endswith(b"\n"):
            break
        end += len(line)
        num_done += 1
        row, record = next(rows, None), read_record(line)
        if row is None or any(record.get(name) != value for name, value in {"line": row.line, **row.fields}.items()):
            raise ValueError(
                f"The answers could not be continued: line {num_done} of {str(path)!r} does not answer the question "
                f"in that place{'' if row is None else f', line {row.line}'}. Name another file for the answers."
            )
        if any(record.get(name) != value for name, value in settings.items()):
            raise ValueError(
                f"The answers could not be continued: line {num_done} of {str(path)!r} was made with another model or "
                f"other settings than {json.dumps(settings)}. Use the same, or name another file for the answers."
            )
    answers.truncate(end)
    return num_done


def read_record(line: bytes) -> dict:
    """The fields of an answer's line; empty for any other line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
