"""The table of scores next to the published ones, with the number of questions, intervals, and settings."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from llava_next_video.evaluation.published_table import Column


NORMAL_95 = 1.959963984540054  # 97.5 % of a normal distribution are below


@dataclass(frozen=True)
class Score:
    """One measured column.

    Args:
        name, task, published: as in `Column`.
        questions: how many were asked.
        right: how many were answered right; `None` if only a server knows.
        without_option: how many answers have no option that the scoring finds; `None` if the scoring does not tell.
        unasked: how many could not be asked, and count as empty answers.
        prompts_sha256: of all prompts, one after another in the order of the data.
    """

    name: str
    task: str
    published: float | None
    questions: int
    right: int | None
    without_option: int | None
    unasked: int
    prompts_sha256: str

    @property
    def percent(self) -> float | None:
        return None if self.right is None else 100 * self.right / self.questions

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the score, in percent."""
        return None if self.right is None else wilson_interval(self.right, self.questions)


def wilson_interval(right: int, questions: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a proportion, in percent, as if the questions were independent.

    >>> [round(bound, 2) for bound in wilson_interval(6021, 10000)]
    [60.06, 61.2]
    >>> [round(bound, 2) for bound in wilson_interval(0, 9)]
    [0.0, 29.91]
    """
    part, spread = right / questions, NORMAL_95**2 / questions
    centre = (part + spread / 2) / (1 + spread)
    half = math.sqrt(part * (1 - part) * spread + spread**2 / 4) / (1 + spread)
    return 100 * max(centre - half, 0.0), 100 * min(centre + half, 1.0)


def score_of(column: Column, samples: list[dict], failures: dict[str, str]) -> Score:
    """The score of a column from the samples that lmms-eval logs, and the names of questions that got no answer."""
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample["arguments"][0].encode("utf-8", "surrogatepass") + b"\0")
    found = [sample["no_option_found"] for sample in samples if "no_option_found" in sample]
    return Score(
        column.name,
        column.task,
        column.published,
        questions=len(samples),
        right=None if column.is_right is None else sum(map(column.is_right, samples)),
        without_option=int(sum(found)) if found else None,
        unasked=sum(name.startswith(f"{column.task}, document ") for name in failures),
        prompts_sha256=digest.hexdigest(),
    )


def as_markdown(scores: list[Score], recipe: dict, notes: list[str]) -> str:
    """The table with the recipe and notes, as Markdown."""
    lines = [
        "| | score | 95 % | published (32B-Qwen) | questions | no option found | not asked |",
        "|---|---|---|---|---|---|---|",
    ]
    for score in scores:
        percent = "" if score.percent is None else f"{score.percent:.2f}"
        interval = "" if score.interval is None else "{:.2f} to {:.2f}".format(*score.interval)
        published = "" if score.published is None else str(score.published)
        without = "" if score.without_option is None else str(score.without_option)
        cells = (score.name, percent, interval, published, score.questions, without, score.unasked)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    versions = ", ".join(f"{name} {version}" for name, version in recipe["versions"].items())
    frames = ", ".join(f"{name} {value}" for name, value in recipe["frames"].items() if value is not None)
    if "server" in recipe:
        how = f"asked of the server {recipe['server']} ({recipe['owner']})"
    else:
        how = f"{recipe['dtype']}, {recipe['attn_implementation']}"
    facts = [f"{recipe['checkpoint']}, {how}", frames or "frames as the server chooses them", versions]
    lines += ["", f"{'; '.join(facts)}.", "", "Hashes of the prompts (SHA-256):", ""]
    lines += [f"- {score.task}: {score.prompts_sha256}" for score in scores]
    return "\n".join([*lines, *(f"\n{note}" for note in notes), ""])


def as_json(scores: list[Score], recipe: dict, notes: list[str], failures: dict[str, str]) -> str:
    """The table for programs, with every question that could not be asked."""
    rows = [asdict(score) | {"percent": score.percent, "interval_95": score.interval} for score in scores]
    return json.dumps({"scores": rows, "recipe": recipe, "notes": notes, "not_asked": failures}, indent=1) + "\n"


def write_samples(folder: Path, samples: dict[str, list[dict]]):
    """Write each task's questions, answers and scores, one a line, into TASK.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, rows in samples.items():
        rows = sorted(rows, key=lambda row: row["doc_id"])
        lines = [json.dumps(row, default=str, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
