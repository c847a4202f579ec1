"""The time limit on a file that is slow: nothing is read from it any more once the limit has passed."""

import time
from io import BytesIO
from types import SimpleNamespace

import pytest

from llava_next_video import ReadingLimits, VideoLimitError, read_video
from llava_next_video.reading import limits
from tests.tiny import write_video


class Clock:
    """The seconds that tests say have gone by."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class SlowFile(BytesIO):
    """Every read takes a second."""

    def __init__(self, data: bytes, clock: Clock):
        super().__init__(data)
        self.clock = clock
        self.seconds = 0

    def read(self, size=-1):
        self.seconds += 1
        self.clock.now += 1
        return super().read(size)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(limits, "time", SimpleNamespace(**{**vars(time), "monotonic": clock.monotonic}))
    return clock


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts", "clip.avi"])
def test_a_slow_file_is_left_alone_when_the_time_is_over(name, clock, tmp_path):
    data = write_video(tmp_path / name).read_bytes()
    whole = SlowFile(data, clock)
    frames, _ = read_video(whole, limits=ReadingLimits(max_decode_seconds=1e6))
    assert len(frames) == 40
    for seconds in range(1, whole.seconds):
        file = SlowFile(data, clock)
        with pytest.raises(VideoLimitError, match="took longer than max_decode_seconds"):
            read_video(file, limits=ReadingLimits(max_decode_seconds=seconds - 0.5))
        assert file.seconds <= seconds
