"""A journal of answers: a run that was killed continues with the answers it had.

The journal is a folder with one file for each rank, with one line of JSON for each answer. The line is on the disk
before the next question is asked. The number of ranks may change between runs. An answer is found only under everything
that it depends on: the question, its media, and the model with its settings (`recipe`).
"""

import hashlib
import json
import os
from pathlib import Path


class Journal:
    """The answers of earlier runs, and those of this one.

    Args:
        folder: created if it does not exist; `None` keeps answers in memory only.
        recipe: what all answers depend on, in types of JSON: checkpoint, versions, frames, dtype.
        rank: of this process.
    """

    def __init__(self, folder: str | Path | None, recipe: dict, rank: int = 0):
        self.answers: dict[str, object] = {}
        self.recipe, self.path = recipe, None
        if folder is None:
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("answers-*.jsonl")):
            self.answers.update(read_answers(path))
        self.path = folder / f"answers-{rank}.jsonl"
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):  # killed while it wrote
            self.append("")

    def __contains__(self, key: list | None) -> bool:
        return key is not None and self.hashed(key) in self.answers

    def __getitem__(self, key: list):
        return self.answers[self.hashed(key)]

    def write(self, key: list | None, name: str, answer):
        """Keep an answer in types of JSON; the question's `name` is for people who read the file."""
        if key is None:
            return
        self.answers[self.hashed(key)] = answer
        if self.path is not None:
            record = {"key": self.hashed(key), "question": name, "answer": answer}
            self.append(json.dumps(record, ensure_ascii=False))

    def append(self, line: str):
        """Write a line, and wait until it is on the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def hashed(self, key: list) -> str:
        return hashlib.sha256(json.dumps([self.recipe, key], sort_keys=True).encode()).hexdigest()


def read_answers(path: Path) -> dict[str, object]:
    """The answers in a file by their keys, without incomplete lines."""
    answers = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
            answers[record["key"]] = record["answer"]
        except (ValueError, KeyError, TypeError):
            continue
    return answers
