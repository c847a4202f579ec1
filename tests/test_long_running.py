"""A slice of `python -m benchmarks.long_running`: files, threads and what the pipeline remembers do not grow."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import transformers

from benchmarks import long_running
from llava_next_video import DEMO_CHECKPOINT


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="open files and threads are counted through /proc")


def test_files_threads_and_memory_of_videos_do_not_grow():
    pipe = transformers.pipeline("video-text-to-text", model=DEMO_CHECKPOINT, device="cpu", remembered_videos=3)
    [*_, warm] = long_running.run(pipe, 10, seed=1)
    [*_, last] = long_running.run(pipe, 50, seed=2)
    assert not last.holds_more_than(warm), (warm, last)
    assert len(pipe.memory.videos) <= 3
    assert len(pipe.memory.conversation) <= 1


def leak_a_file(kept: ExitStack):
    kept.enter_context(open("/dev/null"))  # noqa: SIM115 - and closed by `kept`


def leak_a_thread(kept: ExitStack):
    timer = threading.Timer(600, lambda: None)
    timer.start()
    kept.callback(timer.cancel)


@pytest.mark.parametrize("leak", [leak_a_file, leak_a_thread])
def test_growth_is_found(leak, monkeypatch, capsys):
    with ExitStack() as kept:
        monkeypatch.setattr(long_running, "CALLS", (lambda pipe, chance: leak(kept),))
        assert long_running.main(["--calls", "8"]) == 1
        monkeypatch.setattr(long_running, "CALLS", (lambda pipe, chance: None,))
        assert long_running.main(["--calls", "8"]) == 0
    assert "| 8 | " in capsys.readouterr().out


@pytest.fixture
def impatient_threads():
    """Take turns as often as Python can, so that threads meet in the middle of everything."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.parametrize("remembered_videos", [1, 8])
def test_threads_get_the_answers_they_get_alone(impatient_threads, remembered_videos):
    """Good and bad videos, single and in batches, asked about in another order by each of four threads."""
    pipe = transformers.pipeline(
        "video-text-to-text", model=DEMO_CHECKPOINT, device="cpu", remembered_videos=remembered_videos
    )
    options = {"num_frames": 2, "max_new_tokens": 3, "on_error": "return"}
    videos = [str(long_running.SAMPLES[0]), long_running.SAMPLES[1].read_bytes(), "missing.mp4"]
    calls = [(video, text) for video in videos for text in ("What shape is it?", ["Where is it?", "What is it?"])]

    def answers(number: int) -> dict[int, str]:
        """The answers to all calls, by their position; `number` says with which the thread begins."""
        order = [*range(number, len(calls)), *range(number)]
        return {position: repr(pipe(*calls[position], batch_size=2, **options)) for position in order}

    alone = answers(0)
    assert "there is no such file" in alone[4]
    pipe.forget()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(answers, range(4))) == [alone] * 4
    assert len(pipe.memory.videos) == min(remembered_videos, 2)
