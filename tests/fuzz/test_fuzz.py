"""A short slice of the fuzzer, and what its long runs found. The long run: `python -m tests.fuzz --mutants 20000`."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_next_video import VideoReadError, read_video
from tests.fuzz import fuzzer
from tests.fuzz.corpus import make_corpus
from tests.fuzz.fuzzer import Fuzzer, Outcome, mutant


FOUND = Path(__file__).parent / "found"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fuzzer watches processes through /proc")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return [path.read_bytes() for path in make_corpus(tmp_path_factory.mktemp("corpus")).values()]


def test_mutants_end_in_frames_or_the_documented_error(corpus, tmp_path):
    with Fuzzer(corpus) as running:
        kinds = running.run(range(400), save_to=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert set(kinds) <= {"frames", "VideoReadError", "VideoLimitError"}
    assert min(kinds["frames"], kinds["VideoReadError"]) > 50  # changes are neither lost nor always deadly


def test_number_makes_the_same_mutant_again(corpus):
    assert mutant(corpus, 5) == mutant(corpus, 5)
    assert len({mutant(corpus, number) for number in range(50)}) == 50


@pytest.mark.slow
def test_claims_are_tried_and_what_they_take_is_told():
    command = [sys.executable, "-m", "tests.fuzz.claims", ".swf"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("flash.swf: ")
    assert " MiB, at byte " in result.stdout


@pytest.mark.parametrize("file", sorted(FOUND.iterdir()), ids=lambda file: file.stem)
def test_found_file_is_read(file):
    """`stream_that_appears_late`: PyAV raised IndexError behind the last packet, sometimes."""
    for _ in range(20):
        with contextlib.suppress(VideoReadError):
            read_video(file.read_bytes())


def misbehave(data: bytes, number: int = 0) -> Outcome:
    """Stands in for `read`: what the fuzzer has to notice, by the first byte."""
    match data[:1]:
        case b"c":
            os.abort()
        case b"h":
            time.sleep(60)
        case b"m":
            len(b"x" * (2 * fuzzer.MEMORY_BYTES))  # written to: memory that is only reserved does not count
        case b"o":
            os.dup(0)
    return Outcome("frames")


def work(corpus, pipe):
    fuzzer.read, fuzzer.MEMORY_BYTES = misbehave, 2**26
    fuzzer.work(corpus, pipe)


@pytest.mark.slow
def test_fuzzer_notices_crashes_hangs_memory_and_open_files(monkeypatch):
    monkeypatch.setattr(fuzzer, "SECONDS_PER_FILE", 10)
    with Fuzzer([], target=work) as running:
        outcomes = [running.read(data) for data in (b"fine", b"crash", b"hang", b"memory", b"open", b"fine")]
    assert [outcome.kind for outcome in outcomes] == ["frames", "crash", "hang", "memory", "left open", "frames"]
    assert outcomes[1].problem == "the process ended with exit code -6"
