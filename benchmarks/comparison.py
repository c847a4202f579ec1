"""What a comparison is, and how it is measured.

Seconds are measured in one process, the sides in turn (A B C, A B C, ...), so that a machine that gets slower does so
for all. Memory is the peak of a fresh process above what it held when everything was loaded.
"""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import torch


HERE, BUILTIN = "here", "built-in"


class Unavailable(Exception):
    """A side cannot run on this machine; the message says why."""


@dataclass(frozen=True)
class Setting:
    """Where and how large everything is run.

    Args:
        tiny: whether models and clips are so small that all comparisons take seconds, and their numbers mean nothing.
        clips: folder of the clips, which are made when they are missing.
        device: of models and pixels, `"cpu"` or `"cuda"`.
        num_frames: of a video that questions are asked about.
        float32: whether models are in float32 where bfloat16 would be faster.
        rounds: how often each side is measured, instead of what each comparison says.
    """

    tiny: bool
    clips: Path
    device: str = "cpu"
    num_frames: int = 2
    float32: bool = False
    rounds: int | None = None

    @property
    def num_vision_frames(self) -> int:
        """Of the vision features that are timed: more, as the built-in gets slower by the frame."""
        return 3 if self.tiny else max(self.num_frames, 8)


@dataclass
class Comparison:
    """The same work done in several ways.

    Args:
        name: on the command line.
        what: the work, in the words of the table; `{setting...}` is filled in.
        sides: for each way a function that prepares it, and returns the function to be measured; the first is `HERE`.
            Preparing raises `Unavailable` where a way does not exist.
        measure: `"seconds"`, the `"peak"` of memory in bytes, or a number that the function returns: of `"bytes"`, or a
            `"count"`.
        least: for sides that have a target, the least ratio of theirs to ours that is asked for; or a function of the
            setting that returns this.
        most_extra_seconds: or how many seconds longer than theirs ours may take.
        rounds: how often each side is measured.
    """

    name: str
    what: str
    sides: dict[str, Callable[[Setting], Callable[[], object]]]
    measure: Literal["seconds", "peak", "bytes", "count"] = "seconds"
    least: dict[str, float] | Callable[[Setting], dict[str, float]] = field(default_factory=dict)
    most_extra_seconds: float | None = None
    rounds: int = 5


@dataclass
class Row:
    """One side of a comparison next to ours.

    Args:
        here, other: medians, in seconds or bytes; None where the side could not run, `note` then says why.
        ratios: theirs to ours, round by round; more than 1 is in favour of this package.
        cpu_ratio: the same of the processor time of all threads, over all rounds.
    """

    comparison: str
    what: str
    side: str
    measure: str
    here: float
    other: float | None = None
    ratios: list[float] = field(default_factory=list)
    cpu_ratio: float | None = None
    least: float | None = None
    most_extra_seconds: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None where there is none, or the side could not run."""
        if self.other is None or (self.least is None and self.most_extra_seconds is None):
            return None
        if self.most_extra_seconds is not None:
            return self.here - self.other <= self.most_extra_seconds
        return self.ratio >= self.least


def run(comparison: Comparison, setting: Setting) -> list[Row]:
    """Measure a comparison, one row for each side next to ours."""
    rounds = 1 if setting.tiny else setting.rounds or comparison.rounds
    runs, missing = {}, {}
    for side, prepare in comparison.sides.items():
        try:
            if comparison.measure == "peak":
                runs[side] = lambda side=side: peak_in_fresh_process(comparison, side, setting)
                continue
            runs[side] = prepare(setting)
        except Unavailable as reason:
            missing[side] = str(reason)
    values = {side: [] for side in runs}
    cpu_seconds = dict.fromkeys(runs, 0.0)
    for number in range(rounds):
        # Every other round backwards: the first after another side finds less of its memory at hand.
        for side, function in list(runs.items())[:: -1 if number % 2 else 1]:
            before = cpu_seconds_so_far()
            is_timed = comparison.measure == "seconds"
            values[side].append(seconds_of(function, setting) if is_timed else function())
            cpu_seconds[side] += cpu_seconds_so_far() - before

    ours = values.pop(HERE)
    least = comparison.least(setting) if callable(comparison.least) else comparison.least
    rows = []
    for side in comparison.sides:
        if side == HERE:
            continue
        what = comparison.what.format(setting=setting)
        row = Row(comparison.name, what, side, comparison.measure, median(ours))
        row.least, row.most_extra_seconds = least.get(side), comparison.most_extra_seconds
        if side in missing:
            row.note = missing[side]
        else:
            row.other = median(values[side])
            row.ratios = [other / here for other, here in zip(values[side], ours)]
            if comparison.measure == "seconds" and cpu_seconds[HERE]:
                row.cpu_ratio = cpu_seconds[side] / cpu_seconds[HERE]
        rows.append(row)
    return rows


def seconds_of(function: Callable[[], object], setting: Setting) -> float:
    start = time.perf_counter()
    function()
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def cpu_seconds_so_far() -> float:
    """Of this process, all its threads and the processes it waited for."""
    return sum(os.times()[:4])


def peak_in_fresh_process(comparison: Comparison, side: str, setting: Setting) -> int:
    """Bytes; the process is this module's `__main__`, with `--peak`."""
    arguments = ["--peak", side, comparison.name, "--clips", str(setting.clips), "--device", setting.device]
    arguments += ["--tiny"] * setting.tiny
    output = subprocess.check_output([sys.executable, "-m", "benchmarks", *arguments], text=True)
    return int(output.split()[-1])


def peak_of(comparison: Comparison, side: str, setting: Setting) -> int:
    """Bytes of resident memory (Linux), and of the GPU, that running a side takes above what was there when it was
    prepared."""
    function = comparison.sides[side](setting)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed while preparing would be used again, and not be counted
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = resident_bytes("VmRSS")
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before += torch.cuda.memory_allocated()
    function()
    on_device = torch.cuda.max_memory_allocated() if setting.device == "cuda" else 0
    return resident_bytes("VmHWM") + on_device - before


def resident_bytes(name: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def as_record(row: Row) -> dict:
    return {**asdict(row), "holds": row.holds}
