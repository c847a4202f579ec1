"""Files of strangers: what decoders see of a file that can seek, and reading one that cannot into memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from typing import BinaryIO

from .errors import Unreadable, WholeFileNeeded
from .limits import Deadline, ReadingLimits
from .read_pieces import ReadPieces


CHUNK_BYTES = 2**18
KEPT_BYTES = 2**24  # the header of a film of hours, and the first packets


class GuardedFile:
    """What FFmpeg and Pillow see of a file: its bytes, without a name to guess from, until the deadline."""

    def __init__(self, file: BinaryIO, deadline: Deadline):
        self.file = file
        self.deadline = deadline
        self.failure = None
        self.watch = None
        self.hides_size = False  # whether seeking from the end of the file fails
        self.pieces = None  # what was read already, while it is kept
        self.num_bytes_read = 0
        self.in_parts = getattr(file, "in_parts", None) is True  # a `RangedFile`, which is fetched as it is read

    def read(self, size: int) -> bytes:
        # FFmpeg always stops at the end of a file, and may read on after errors. `check` raises them.
        if self.failure is not None or self.deadline.passed:
            return b""
        try:
            data = self.read_kept(size) or self.read_from_file(size)
            if self.watch is not None:
                self.watch(data)
            return data
        except Exception as error:  # of the user's file object
            self.failure = error
            return b""

    def read_kept(self, size: int) -> bytes:
        """Bytes that were read before and are kept; none where there are none."""
        if self.pieces is None:
            return b""
        data = self.pieces.find(position := self.file.tell(), size)
        if data:
            self.file.seek(position + len(data))
        return data

    def read_from_file(self, size: int) -> bytes:
        position = None if self.pieces is None else self.file.tell()
        data = self.file.read(size)
        if not isinstance(data, bytes) or len(data) > size:
            raise TypeError(f"read({size}) returned {len(data)} characters or bytes, not bytes and no more")
        self.num_bytes_read += len(data)
        if self.pieces is not None:
            self.pieces.add(position, data)
        return data

    def keep_pieces(self):
        """Keep what is read from here on, up to `KEPT_BYTES`, until `forget_pieces`: it is not read again."""
        if not isinstance(self.file, BytesIO):
            self.pieces = ReadPieces(KEPT_BYTES)

    def forget_pieces(self):
        self.pieces = None

    def plan(self, ranges: list[tuple[int, int]]):
        """Tell a file that is fetched in parts which bytes will be read, as (first, one after the last)."""
        if self.in_parts:
            self.file.plan(ranges)

    def read_at(self, position: int, size: int) -> bytes:
        """`size` bytes from `position` on, fewer only at the end of the file."""
        self.seek(position)
        data = self.read(size)
        while len(data) < size and (more := self.read(size - len(data))):
            data += more
        return data

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

    def size(self) -> int:
        """Size of the file in bytes, 0 where it cannot be found out. The position does not change."""
        try:
            position = self.file.tell()
            size = self.file.seek(0, SEEK_END)
            self.file.seek(position)
            return size
        except Exception:  # of the user's file object, which may not seek from its end
            return 0

    def check(self):
        """Raise the error that ended reading early, if there was one."""
        if isinstance(self.failure, Unreadable | WholeFileNeeded):
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
