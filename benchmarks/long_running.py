"""Does a process that answers thousands of questions grow? `python -m benchmarks.long_running --calls 2000`.

The pipeline of the embedded checkpoint gets good and bad input, mixed: files, bytes, arrays, chats and batches; broken
and missing files, wrong types, prompts that do not fit. After the warm-up (a quarter of the calls) the resident memory
may grow by 5 %, and the number of open files and threads not at all; otherwise the exit status is 1. Linux only.
"""

import argparse
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import pipeline

import demo_model
from benchmarks.comparison import resident_bytes
from llava_next_video import DEMO_CHECKPOINT, VideoTextToTextPipeline


SAMPLES = sorted(Path(demo_model.__file__).parent.glob("samples/*.mp4"))
QUESTIONS = ("What shape is in the video?", "Which way does it move?", "What color is it?")
ALLOWED_GROWTH = 1.05
NUM_REPORTS = 12


@dataclass(frozen=True)
class Usage:
    """What this process holds at one moment."""

    resident_bytes: int
    open_files: int
    threads: int

    @classmethod
    def now(cls) -> "Usage":
        return cls(resident_bytes("VmRSS"), *(len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task")))

    def holds_more_than(self, before: "Usage") -> bool:
        """Whether there are more files or threads than before; threads of what ran earlier may have ended."""
        return self.open_files > before.open_files or self.threads > before.threads


def video_of_any_kind(chance: random.Random):
    """A readable video; arrays and cut bytes are never the same twice."""
    path = chance.choice(SAMPLES)
    kinds = (
        lambda: str(path),
        lambda: path.read_bytes(),
        lambda: np.random.default_rng(chance.getrandbits(32)).integers(
            0, 256, (chance.randint(1, 12), chance.randint(16, 200), chance.randint(16, 200), 3), dtype=np.uint8
        ),
    )
    return chance.choice(kinds)()


def unreadable_video(chance: random.Random):
    path = chance.choice(SAMPLES)
    kinds = (
        lambda: path.read_bytes()[: chance.randint(0, 2000)],
        lambda: chance.randbytes(5000),
        lambda: f"missing-{chance.getrandbits(32)}.mp4",
        lambda: object(),
    )
    return chance.choice(kinds)()


def question_of(chance: random.Random) -> str:
    """Half of the questions were never asked before."""
    return chance.choice(QUESTIONS) + (f" ({chance.getrandbits(32)})" if chance.random() < 0.5 else "")


def ask(pipe: VideoTextToTextPipeline, chance: random.Random):
    sampling = {} if chance.random() < 0.5 else {"num_frames": chance.randint(1, 12)}
    pipe(video_of_any_kind(chance), question_of(chance), max_new_tokens=chance.randint(1, 8), **sampling)


def ask_several(pipe: VideoTextToTextPipeline, chance: random.Random):
    pipe(video_of_any_kind(chance), [question_of(chance) for _ in range(3)], batch_size=2, max_new_tokens=2)


def chat_without_video(pipe: VideoTextToTextPipeline, chance: random.Random):
    pipe([{"role": "user", "content": [{"type": "text", "text": question_of(chance)}]}], max_new_tokens=2)


def ask_batch_with_errors(pipe: VideoTextToTextPipeline, chance: random.Random):
    makers = [video_of_any_kind, unreadable_video, video_of_any_kind]
    pairs = [(make(chance), question_of(chance)) for make in makers]
    results = pipe(pairs, batch_size=chance.randint(1, 3), on_error="return", max_new_tokens=2)
    if [("error" in result) for [result] in results] != [False, True, False]:
        raise RuntimeError(f"The second of three videos was broken, and the results are {results}.")


def fail(pipe: VideoTextToTextPipeline, chance: random.Random):
    mistakes: tuple[Callable, ...] = (
        lambda: pipe(unreadable_video(chance), question_of(chance)),
        lambda: pipe(video_of_any_kind(chance), "<video><video> What?"),
        lambda: pipe(video_of_any_kind(chance), question_of(chance), num_frames=0),
        lambda: pipe(chance.getrandbits(32)),
    )
    try:
        chance.choice(mistakes)()
    except (ValueError, TypeError, OSError):
        return
    raise RuntimeError("The pipeline answered a question that it cannot answer.")


CALLS = (ask, ask, ask, ask_several, chat_without_video, ask_batch_with_errors, fail, fail)


def run(pipe: VideoTextToTextPipeline, calls: int, seed: int = 0) -> Iterator[Usage]:
    """Call the pipeline, and tell after each call what the process holds."""
    chance = random.Random(seed)
    for _ in range(calls):
        chance.choice(CALLS)(pipe, chance)
        yield Usage.now()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_running",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--calls", type=int, default=2000)
    args = parser.parse_args(arguments)
    pipe = pipeline("video-text-to-text", model=DEMO_CHECKPOINT, device="cpu")
    print("| calls | resident memory, MB | open files | threads |\n|---|---|---|---|")
    warm_up, after_warm_up = args.calls // 4, None
    for number, usage in enumerate(run(pipe, args.calls), start=1):
        if number == warm_up:
            after_warm_up = usage
        if number in (warm_up, args.calls) or number % max(args.calls // NUM_REPORTS, 1) == 0:
            megabytes = usage.resident_bytes / 1e6
            print(f"| {number} | {megabytes:.1f} | {usage.open_files} | {usage.threads} |", flush=True)
    growth = usage.resident_bytes / after_warm_up.resident_bytes
    print(f"\nAfter the warm-up of {warm_up} calls the memory grew by {growth - 1:.1%}.")
    return int(growth > ALLOWED_GROWTH or usage.holds_more_than(after_warm_up))


if __name__ == "__main__":
    sys.exit(main())
