"""Videos as a command line names them: paths, URLs, and - for standard input. Each is opened before a model is loaded,
and fetched once, as far as it is needed."""

import sys
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from tqdm import tqdm

from llava_next_video.commands import STANDARD_INPUT
from llava_next_video.reading.addresses import is_web_address
from llava_next_video.reading.errors import VideoReadError
from llava_next_video.reading.limits import ReadingLimits
from llava_next_video.reading.ranged_file import RangedFile
from llava_next_video.reading.video_reading import read_video
from llava_next_video.reading.video_sources import open_source
from llava_next_video.waiting import is_shown


TYPED_LIMITS = ReadingLimits(allow_private_addresses=True)  # whoever types an address means it


@dataclass(frozen=True, kw_only=True)
class ShownLimits(ReadingLimits):
    """Limits that show on a bar how much has been fetched: the reader asks them about every piece that arrives, and
    before that, in a download of a whole file, about the size that the server announces, 0 for an unknown one."""

    bar: tqdm

    def check_bytes(self, num_bytes: int):
        super().check_bytes(num_bytes)
        if num_bytes <= self.bar.n:  # the first piece, and the number before was the size
            self.bar.total = self.bar.n or None
        self.bar.update(num_bytes - self.bar.n)


def opened_videos(names: list[str]) -> list[str | bytes | BinaryIO]:
    """What a pipeline can read of each name, after its first frame has been read.

    Raises:
        VideoReadError: it is missing, cannot be fetched, or is no video.
        ValueError: standard input is a terminal.
    """
    return [opened_video(name) for name in names]


def opened_video(name: str) -> str | bytes | BinaryIO:
    if is_web_address(name):
        return fetched(name)
    video = of_standard_input() if name == STANDARD_INPUT else name
    check_first_frame(video, "on standard input" if name == STANDARD_INPUT else None)
    return video


def check_first_frame(video: str | bytes | BinaryIO, shown: str | None):
    """Raise a VideoReadError for what is no video; it is called `shown` there."""
    try:
        read_video(video, lambda metadata: [0], TYPED_LIMITS)
    except VideoReadError as error:
        if shown is None:
            raise
        raise type(error)(shown, error.reason) from error


def fetched(address: str) -> bytes | BinaryIO:
    """The bytes behind a URL; where a large file is given out in parts, a file of which each is fetched once. A URL
    would be fetched at every turn of a chat, and might lead to another video by then."""
    with tqdm(unit="B", unit_scale=True, desc="Fetching the video", delay=1, disable=not is_shown()) as bar:
        file = open_source(address, ShownLimits(allow_private_addresses=True, bar=bar), in_parts=True)
        if isinstance(file, RangedFile):
            file.keep_pieces()
        video = file.getvalue() if isinstance(file, BytesIO) else file
        check_first_frame(video, repr(address))
    return video


def of_standard_input() -> bytes | BinaryIO:
    """The bytes that come through a pipe; of a file, the open file."""
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError(
            "- stands for a video on standard input, which is a terminal. Send one there, as in "
            '`llava-next-video ask - "What happens?" < clip.mp4`.'
        )
    file = open_source(sys.stdin.buffer)
    return file if file is sys.stdin.buffer else file.getvalue()
