"""Teach the embedded checkpoint a colour with `examples/finetune.py`, and write what came of it to
`finetune_METHOD_last_run.txt`: `python -m tests.examples.finetune_run lora`, or `full`.

It is trained, killed on the way and started again; merged and exported; and asked again in a process that has no
llava_next_video. Every step is a process of its own, as a user would start it.
"""

import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from tests.examples.finetuning import EXAMPLES


FOLDER = Path(__file__).parent
VERSIONS = ("trl", "peft", "transformers", "torch", "llava-next-video")
SETTINGS = {
    "lora": ["--new-words", "--learning-rate", "2e-3"],
    "full": ["--method", "full", "--learning-rate", "1e-3"],
}
COMMON = ["--epochs", "3", "--batch-size", "16", "--accumulate", "1", "--save-every", "50", "--max-new-tokens", "40"]
QUESTIONS = 40  # about the new colour, and as many about what was known


class Clock:
    """Seconds, and seconds of processor time of child processes, since it was made."""

    def __init__(self):
        self.wall, self.processor = time.monotonic(), self.of_children()

    @staticmethod
    def of_children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def __str__(self) -> str:
        wall, processor = time.monotonic() - self.wall, self.of_children() - self.processor
        return f"{wall:.0f} s, {processor:.0f} s of processor time"


def settings_of(method: str) -> list[str]:
    return [*COMMON, "--questions", str(QUESTIONS), *SETTINGS[method]]


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
    return done.stdout


def run_and_kill(command: list[str], checkpoint: Path):
    """Kill a run as soon as it has written a checkpoint and gone on for a while."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not checkpoint.exists():
            if running.poll() is not None:
                raise RuntimeError("the run ended before it was interrupted")
            time.sleep(0.1)
        time.sleep(3)
        running.send_signal(signal.SIGKILL)


def shares(printed: str, when: str) -> dict[str, float]:
    """The share of right answers, for each file that was asked about."""
    found = re.findall(rf"^{when}: (\w+): (\d+) of (\d+) answers", printed, re.MULTILINE)
    return {name: int(right) / int(asked) for name, right, asked in found}


def teach(method: str, lesson: Path, folder: Path) -> list[str]:
    """What to write about one method.

    Raises:
        RuntimeError: a process failed, or did not do what it has to.
    """
    out, exported = folder / method, folder / f"{method}-exported"
    files = [str(lesson / "train.jsonl"), "--eval", str(lesson / "new.jsonl"), str(lesson / "old.jsonl")]
    command = [sys.executable, str(EXAMPLES / "finetune.py"), *files, "--out", str(out), *settings_of(method)]
    clock = Clock()
    run_and_kill(command, out / "run" / "checkpoint-50" / "trainer_state.json")
    printed = run(*command)
    lines = [line for line in printed.splitlines() if re.match(r"(goes on|step|before|after|new|old|    wanted)", line)]
    lines.append(f"training, with the break: {clock}")
    before, after = (out / "before.json").read_text(), shares(printed, "after")
    run(sys.executable, "-m", "llava_next_video", "export", str(out / "model"), str(exported))
    without = [sys.executable, str(FOLDER / "answer_without_package.py"), str(exported), str(out / "answers.json")]
    same = run(*without, HF_HUB_OFFLINE="1", HF_HOME=str(folder / "hf")).split("\n")[-2]
    lines.append(f"exported, in a process without the package: {same} answers are the same")
    if "pink" in before or after["new"] < 0.9 or after["old"] < 0.95 or same != f"{2 * QUESTIONS} of {2 * QUESTIONS}":
        raise RuntimeError(f"{method} did not learn what it has to:\n" + "\n".join(lines))
    return [line.replace(f"{folder}/", "") for line in lines]


def main(method: str):
    written = [", ".join(f"{name} {version(name)}" for name in VERSIONS)]
    with tempfile.TemporaryDirectory() as temporary:
        folder, clock = Path(temporary), Clock()
        run(sys.executable, str(EXAMPLES / "finetune_data.py"), str(folder / "lesson"))
        written += [f"the clips: {clock}", f"finetune.py {' '.join(settings_of(method))}"]
        written += teach(method, folder / "lesson", folder)
    text = "\n".join([*written, ""])
    print(text)
    (FOLDER / f"finetune_{method}_last_run.txt").write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
