"""A mutation fuzzer: change bytes of real videos, read them in a process of its own, and watch that process.

Every mutant has a number, and the same number makes the same mutant of the same corpus. What may come out is frames or
a `VideoReadError`; a crash, another exception, a read that takes too long or too much memory, and threads or files left
open are failures, and the mutant is saved.
"""

import multiprocessing
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from llava_next_video import ReadingLimits, VideoReadError, read_video


SECONDS_PER_FILE = 30  # on a busy machine; the reader's own limit is below
MEMORY_BYTES = 2**30  # above what the process takes before it reads anything
TRIES = 5  # to find that both ways of reading give the same
LIMITS = ReadingLimits(max_decode_seconds=10, max_frame_pixels=2**22, max_frames=10_000, max_result_bytes=2**28)

# Where containers list their frames: names of boxes and chunks, after which numbers follow.
INDEXES = [b"stts", b"ctts", b"stsz", b"stco", b"stsc", b"stss", b"elst", b"mdhd", b"tkhd", b"idx1", b"strh", b"avih"]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


@dataclass
class Outcome:
    """What reading one mutant came to; `problem` is None when it was frames or the documented error."""

    kind: str
    problem: str | None = None


def mutant(corpus: list[bytes], number: int) -> bytes:
    """The mutant with this number: one file of the corpus after one to six changes."""
    chance = random.Random(number)
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.choice([1, 1, 2, 3, 6])):
        if not data:
            break
        # Headers are short, and matter much.
        end = len(data) if chance.random() < 0.7 else min(len(data), 512)
        at = chance.randrange(end)
        length = min(chance.choice([1, 2, 4, 16, 64, 1024]), len(data) - at)
        match chance.choice(["flip", "number", "random", "cut", "remove", "repeat", "zero", "splice", "swap", "index"]):
            case "flip":
                data[at] ^= 1 << chance.randrange(8)
            case "number":
                size = chance.choice([1, 2, 4, 8])
                value = chance.choice(NUMBERS) & (1 << 8 * size) - 1
                data[at : at + size] = value.to_bytes(size, chance.choice(["big", "little"]))
            case "random":
                data[at : at + length] = chance.randbytes(length)
            case "cut":
                del data[at:]
            case "remove":
                del data[at : at + length]
            case "repeat":
                data[at:at] = data[at : at + length] * chance.choice([1, 2, 50])
            case "zero":
                data[at : at + length] = bytes(length)
            case "splice":
                other = chance.choice(corpus)
                start = chance.randrange(len(other))
                data[at : at + length] = other[start : start + length]
            case "swap":
                other = chance.randrange(len(data))
                data[at], data[other] = data[other], data[at]
            case "index":
                lie(data, chance)
    return bytes(data)


def lie(data: bytearray, chance: random.Random):
    """Change a number in an index: a little, or to any other."""
    places = (
        [at for name in INDEXES for at in range(len(data)) if data.startswith(name, at)] if len(data) < 2**16 else []
    )
    if not places:
        return
    at = chance.choice(places) + 4 * chance.randint(1, 40)
    order = "little" if data.startswith(b"RIFF") else "big"
    number = int.from_bytes(data[at : at + 4], order)
    number = chance.choice([number + 1, number - 1, number * 2, number ^ 1 << chance.randrange(32), *NUMBERS[:-2]])
    data[at : at + 4] = (number & 0xFFFFFFFF).to_bytes(4, order)


def choice_of(number: int) -> Callable:
    """Which frames of a mutant are read: all, some as a model would, or one."""

    def choose(metadata):
        total = metadata.total_num_frames
        if number % 3 == 2:
            return [number // 3 % total]
        return np.linspace(0, total - 1, min(total, 4)).astype(int) if number % 3 else range(total)

    return choose


def has_index(data: bytes) -> bool:
    return data[4:8] in (b"ftyp", b"moov", b"mdat") or data[:4] == b"RIFF"


def read(data: bytes, number: int = 0) -> Outcome:
    """Read a file: some frames of it or all; by its index and by all packets, which has to be the same."""
    outcome, *found = read_once(data, number, LIMITS)
    if outcome.problem is not None or not has_index(data):
        return outcome
    # What decoders make of damage may differ from time to time.
    for _ in range(TRIES):
        scanned, *by_packets = read_once(data, number, replace(LIMITS, always_scan=True))
        if scanned.kind == outcome.kind and are_equal(*found, *by_packets):
            return outcome
    return Outcome("index differs", f"{outcome.kind} by the index, {scanned.kind} by all packets")


def are_equal(frames, metadata, other_frames, other_metadata) -> bool:
    if frames is None or other_frames is None:
        return frames is other_frames
    return np.array_equal(frames, other_frames) and described(metadata) == described(other_metadata)


def described(metadata) -> dict:
    return {name: np.asarray(value).tolist() for name, value in vars(metadata).items()}


def read_once(data: bytes, number: int, limits: ReadingLimits) -> tuple:
    total = None

    def some(metadata):
        nonlocal total
        total = metadata.total_num_frames
        return choose(metadata)

    choose = choice_of(number)
    try:
        frames, metadata = read_video(data, some, limits)
    except VideoReadError as error:
        return Outcome(type(error).__name__), None, None
    except Exception as error:
        return Outcome("other error", f"{type(error).__name__}: {error}"), None, None
    expected = (len(some(metadata)), metadata.height, metadata.width, 3)
    fine = frames.dtype == np.uint8 and frames.shape == expected and metadata.total_num_frames == total
    problem = None if fine else f"frames {frames.shape} where {expected} were expected"
    return Outcome("frames", problem), frames, metadata


def work(corpus: list[bytes], pipe: Connection):
    """Read mutants whose numbers, or whose bytes, come through the pipe; answer with their outcomes."""
    for data in corpus:
        read(data)
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + 4 * MEMORY_BYTES,) * 2)
    before, files, threads = status("VmRSS"), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    pipe.send(None)
    while (task := pipe.recv()) is not None:
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest VmRSS so far
        outcome = read(task) if isinstance(task, bytes) else read(mutant(corpus, task), task)
        taken = status("VmHWM") - before
        if outcome.problem is None and taken > MEMORY_BYTES:
            outcome = Outcome("memory", f"{taken} bytes of memory were taken")
        for _ in range(100):  # a thread that was joined may be listed for a moment
            left = len(os.listdir("/proc/self/fd")) - files, len(os.listdir("/proc/self/task")) - threads
            if left == (0, 0):
                break
            time.sleep(0.01)
        if outcome.problem is None and left != (0, 0):
            outcome = Outcome("left open", f"{left[0]} files and {left[1]} threads were left open")
            files, threads = files + left[0], threads + left[1]
        pipe.send(outcome)


def status(name: str) -> int:
    """A figure of this process in bytes, by its name in /proc/self/status."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


class Fuzzer:
    """Hands mutants to a process that reads them, and starts another one when that dies or hangs."""

    def __init__(self, corpus: list[bytes], target: Callable = work):
        self.corpus, self.target = corpus, target
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=self.target, args=(self.corpus, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def read(self, task: int | bytes) -> Outcome:
        """What reading the mutant with this number, or a file with these bytes, comes to."""
        if self.process is None:
            self.start()
        self.pipe.send(task)
        try:
            if self.pipe.poll(SECONDS_PER_FILE):
                return self.pipe.recv()
            outcome = Outcome("hang", f"still reading after {SECONDS_PER_FILE} seconds")
        except (EOFError, ConnectionResetError):
            self.process.join()
            outcome = Outcome("crash", f"the process ended with exit code {self.process.exitcode}")
        self.stop()
        return outcome

    def run(self, numbers: range, save_to: Path) -> Counter:
        """Read these mutants, save those that are a problem, and count the outcomes by kind."""
        kinds = Counter()
        for number in numbers:
            outcome = self.read(number)
            kinds[outcome.kind] += 1
            if outcome.problem is not None:
                save_to.mkdir(parents=True, exist_ok=True)
                (save_to / f"mutant_{number}.bin").write_bytes(mutant(self.corpus, number))
                print(f"mutant {number}: {outcome.kind}: {outcome.problem}", flush=True)
        return kinds
