"""What can go wrong while a video or picture is read, and how messages name what was read.

Inside this package a problem is raised as `Unreadable` or `OverLimit`, with a reason only. `named_errors` adds the name
of the video, and turns it into the error that users catch.
"""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from .addresses import scheme_of


MAX_CHARACTERS = 1000  # of a path or URL in a message


class VideoReadError(ValueError):
    """A video could not be read.

    Args:
        video: the video as messages name it: its path or URL, or what kind of data it is.
        reason: what was found, and what to do where something can be done.
    """

    def __init__(self, video: str, reason: str):
        super().__init__(video, reason)
        self.video, self.reason = video, reason

    def __str__(self) -> str:
        return f"Could not read the video {self.video}: {self.reason}."


class VideoLimitError(VideoReadError):
    """A video was not read because it would cost more than `ReadingLimits` allow."""


class Unreadable(Exception):
    """Why a video cannot be read, without its name."""


class OverLimit(Unreadable):
    """Which limit a video exceeds, without its name."""


class WholeFileNeeded(Exception):
    """The parts of a file that were fetched are not enough: it has to be fetched whole."""


class PartNeeded(Exception):
    """A file that is fetched apart from being read has to be read again from its start, once `fetch` was called."""

    def __init__(self, file, fetch: Callable[[], None]):
        super().__init__()
        self.file, self.fetch_part = file, fetch

    def fetch(self):
        """Fetch what is lacking, or the whole file where parts of it are of no use.

        Raises:
            Unreadable: it cannot be fetched within the limits.
        """
        try:
            self.fetch_part()
        except WholeFileNeeded:
            self.file.fetch_all()


def describe(source) -> str:
    """Name a source in a message: the path or URL, or what kind of data it is."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"given as {memoryview(source).nbytes} bytes"
    if isinstance(getattr(source, "in_parts", None), bool):  # a `RangedFile`
        source = source.url
    if isinstance(source, str | Path):
        text = str(source)
        if scheme_of(text) == "data":
            return f"given as a data URI of {len(text)} characters"
        if len(text) > MAX_CHARACTERS:
            return f"{text[:MAX_CHARACTERS]!r}… ({len(text)} characters)"
        return repr(text)
    return f"given as {type(source).__name__} {getattr(source, 'name', '')}".rstrip()


@contextmanager
def named_errors(source, *also: type[Exception]):
    """Turn problems inside the block, and errors of the types `also`, into a `VideoReadError` that names `source`."""
    try:
        yield
    except OverLimit as problem:
        raise VideoLimitError(describe(source), str(problem)) from problem
    except Unreadable as problem:
        raise VideoReadError(describe(source), str(problem)) from problem
    except (OSError, *also) as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise VideoReadError(describe(source), reason.rstrip(".")) from error


@contextmanager
def named_limits(name: str):
    """Turn an `OverLimit` inside into a `VideoLimitError` about something that is not a source."""
    try:
        yield
    except OverLimit as problem:
        raise VideoLimitError(name, str(problem)) from problem
