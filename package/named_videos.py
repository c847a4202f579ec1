"""Videos as a command line names them: paths, URLs, and - for standard input. Each is opened before a model is loaded,
and fetched once."""

import sys
from dataclasses import dataclass, field
from typing import BinaryIO

from tqdm import tqdm

from llava_next_video.commands import STANDARD_INPUT
from llava_next_video.reading.addresses import is_web_address
from llava_next_video.reading.errors import VideoReadError
from llava_next_video.reading.limits import ReadingLimits
from llava_next_video.reading.video_reading import read_video
from llava_next_video.reading.video_sources import open_source
from llava_next_video.waiting import is_shown


TYPED_LIMITS = ReadingLimits(allow_private_addresses=True)  # whoever types an address means it


@dataclass(frozen=True, kw_only=True)
class ShownLimits(ReadingLimits):
    """Limits that show on a bar how much has been fetched: the reader asks them about every piece that arrives.

    The first number that it asks about is the size that the server announces, 0 for an unknown one.
    """

    bar: tqdm
    announced: list[int] = field(default_factory=list)

    def check_bytes(self, num_bytes: int):
        super().check_bytes(num_bytes)
        if self.announced:
            self.bar.update(num_bytes - self.bar.n)
        else:
            self.announced.append(num_bytes)
            self.bar.total = num_bytes or None


def opened_videos(names: list[str]) -> list[str | bytes | BinaryIO]:
    """What a pipeline can read of each name, after its first frame has been read.

    Raises:
        VideoReadError: it is missing, cannot be fetched, or is no video.
        ValueError: standard input is a terminal.
    """
    return [opened_video(name) for name in names]


def opened_video(name: str) -> str | bytes | BinaryIO:
    video = name
    if name == STANDARD_INPUT:
        video = of_standard_input()
    elif is_web_address(name):
        video = fetched(name)
    try:
        read_video(video, lambda metadata: [0], TYPED_LIMITS)
    except VideoReadError as error:
        if video is name:
            raise
        shown = "on standard input" if name == STANDARD_INPUT else repr(name)
        raise type(error)(shown, error.reason) from error
    return video


def fetched(address: str) -> bytes:
    """The bytes behind a URL: a file object would be read, and a URL fetched, at every turn of a chat."""
    with tqdm(unit="B", unit_scale=True, desc="Fetching the video", delay=1, disable=not is_shown()) as bar:
        return open_source(address, ShownLimits(allow_private_addresses=True, bar=bar)).getvalue()


def of_standard_input() -> bytes | BinaryIO:
    """The bytes that come through a pipe; of a file, the open file."""
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError(
            "- stands for a video on standard input, which is a terminal. Send one there, as in "
            '`llava-next-video ask - "What happens?" < clip.mp4`.'
        )
    file = open_source(sys.stdin.buffer)
    return file if file is sys.stdin.buffer else file.getvalue()
