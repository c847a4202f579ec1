"""Reading from files of strangers: what decoders see of a file that can seek, and bytes of one that cannot."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO

from .errors import OverLimit, Unreadable
from .limits import Deadline, ReadingLimits


CHUNK_BYTES = 2**18


class GuardedFile:
    """What FFmpeg and Pillow see of a file: its bytes, without a name to guess from, until the deadline."""

    def __init__(self, file: BinaryIO, deadline: Deadline):
        self.file = file
        self.deadline = deadline
        self.failure = None
        self.watch = None
        self.hides_size = False  # whether nobody can seek from the end of the file

    def read(self, size: int) -> bytes:
        # FFmpeg stops at the end of a file on every path; errors it may try to read past. `check` tells why.
        if self.failure is not None or self.deadline.passed:
            return b""
        try:
            data = self.file.read(size)
            if not isinstance(data, bytes) or len(data) > size:
                raise TypeError(f"read({size}) returned {len(data)} characters or bytes, not bytes and no more")
            if self.watch is not None:
                self.watch(data)
            return data
        except Exception as error:  # of the user's file object
            self.failure = error
            return b""

    def read_at(self, position: int, size: int) -> bytes:
        self.seek(position)
        return self.read(size)

    @contextmanager
    def watched(self, watch: Callable[[bytes], None]) -> Iterator[None]:
        """Inside, `watch` gets everything that is read, and may raise `OverLimit`."""
        self.watch = watch
        try:
            yield
        finally:
            self.watch = None

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence and self.hides_size:
            return -1
        try:
            return self.file.seek(offset, whence)
        except Exception as error:
            self.failure = error
            return -1

    def tell(self) -> int:
        return self.file.tell()

    def check(self):
        """Raise what ended the file early, if something did."""
        if isinstance(self.failure, OverLimit):
            raise self.failure
        if self.failure is not None:
            raise Unreadable(f"reading its file object failed: {self.failure!r}") from self.failure
        self.deadline.check()


def read_into_memory(read: Callable[[int], bytes], limits: ReadingLimits, deadline: Deadline | None = None) -> BytesIO:
    """Read a stream to its end, counting what arrives."""
    data = BytesIO()
    while chunk := read(CHUNK_BYTES):
        limits.check_bytes(data.tell() + len(chunk))
        if deadline is not None:
            deadline.check()
        data.write(chunk)
    return data
