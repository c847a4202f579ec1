"""A video over http: or https: of which only the parts that are needed are fetched, where the server gives out parts.

Each part is a request of its own, under the rules of `downloads.py`. Parts share the limits of the video: together they
have up to `max_fetched_bytes` and take up to `max_fetch_seconds`. They are few: what is read one behind the other is
fetched in pieces that grow, and what chosen frames need, in one piece for each run of frames (`plan`).
"""

import re
import time
from http.client import HTTPResponse
from io import SEEK_CUR, SEEK_END, BytesIO
from typing import BinaryIO

from .downloads import PartRefused, download, open_url, read_body
from .errors import Unreadable, WholeFileNeeded
from .guarded_file import CHUNK_BYTES
from .limits import Deadline, ReadingLimits


FIRST_PIECE, LARGEST_PIECE = 2**19, 2**22  # bytes
SMALL_FILE = 2**24  # bytes; not worth more than two requests
LARGEST_PLANNED = 2**26
MAX_REQUESTS = 200
NEAR = 2**18  # bytes between two pieces that are fetched as one
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


def open_in_parts(url: str, limits: ReadingLimits) -> BinaryIO:
    """Open a video: in parts, or the whole of it in memory where it is small or the server gives out no parts."""
    began, deadline = time.monotonic(), limits.deadline_of_fetching("fetching it")
    try:
        with open_url(url, limits, deadline, f"bytes=0-{FIRST_PIECE - 1}") as response:
            if response.status != 206:
                return read_body(response, limits, deadline)
            part = part_of(response)
            if part is None or part[0] != 0 or part[1] > FIRST_PIECE:
                return download(url, limits, deadline)
            file = RangedFile(url, response, limits, part[2])
            limits.check_bytes(part[1])
            file.take(part, response, deadline)
    except PartRefused:
        return download(url, limits, deadline)
    file.seconds = time.monotonic() - began
    if file.size == len(file.piece):
        return BytesIO(file.piece)
    return file if file.size > SMALL_FILE else file.whole()  # pyright: ignore[reportReturnType]


def part_of(response: HTTPResponse) -> tuple[int, int, int] | None:
    """First byte, the one after the last, and size of the whole, as an answer with a part of a file says; None where it
    does not."""
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or found is None:
        return None
    first, last, size = map(int, found.groups())
    return (first, last + 1, size) if first <= last < size else None


class RangedFile:
    """A file object that fetches what is read of it, and holds the piece that was fetched last.

    Args:
        response: the answer to the first request, from wherever redirects led.
        size: of the whole, in bytes.
    """

    in_parts = True

    def __init__(self, url: str, response: HTTPResponse, limits: ReadingLimits, size: int):
        self.url, self.url_of_parts = url, response.url
        self.limits, self.size = limits, size
        self.version = version_of(response)
        self.position = self.start = 0  # of the next byte that is read; of the piece
        self.piece = bytearray()
        self.next_size = FIRST_PIECE
        self.planned: list[tuple[int, int]] = []
        self.num_requests = self.num_fetched = 0
        self.seconds = 0.0  # spent on fetching
        self.decoding: Deadline | None = None  # a limit that does not run meanwhile

    def read(self, size: int) -> bytes:
        size = min(size, self.size - self.position)
        if size <= 0:
            return b""
        if not self.start <= self.position < self.start + len(self.piece):
            self.fetch(size)
        at = self.position - self.start
        data = bytes(memoryview(self.piece)[at : at + size])
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = max(0, offset + {SEEK_CUR: self.position, SEEK_END: self.size}.get(whence, 0))
        return self.position

    def tell(self) -> int:
        return self.position

    def close(self):
        self.piece = bytearray()

    def plan(self, ranges: list[tuple[int, int]]):
        """Say which bytes, from and to, will be read. Those that lie together are fetched together.

        Raises:
            WholeFileNeeded: that is most of the file, or in too many places.
        """
        self.planned = []
        for start, end in sorted(ranges):
            if self.planned and start - self.planned[-1][1] < NEAR:
                self.planned[-1] = (self.planned[-1][0], max(end, self.planned[-1][1]))
            else:
                self.planned.append((start, end))
        num_bytes = sum(end - start for start, end in self.planned)
        most = len(self.planned) + self.num_requests > MAX_REQUESTS or num_bytes > self.size // 2
        if most and self.size <= self.limits.max_fetched_bytes:
            raise WholeFileNeeded

    def fetch(self, size: int):
        """Fetch the piece from `position` on: as far as was planned, or at least `size` bytes."""
        start = self.position
        end = next((end for first, end in self.planned if first <= start < end), 0)
        if not end:
            follows = start == self.start + len(self.piece)
            self.next_size = min(2 * self.next_size, LARGEST_PIECE) if follows else FIRST_PIECE
            end = start + max(size, self.next_size)
        end = min(end, start + max(size, LARGEST_PLANNED), self.size)
        self.limits.check_bytes(self.num_fetched + end - start)
        if self.num_requests >= MAX_REQUESTS:
            raise WholeFileNeeded
        began, deadline = time.monotonic(), self.deadline()
        try:
            with open_url(self.url_of_parts, self.limits, deadline, f"bytes={start}-{end - 1}") as response:
                part = part_of(response)
                if part is None or part[0] != start or part[1] > end:
                    raise WholeFileNeeded  # the server has changed its mind
                if part[2] != self.size or version_of(response) != self.version:
                    raise WholeFileNeeded  # or the file has changed, or servers take turns that do not agree on it
                self.take(part, response, deadline)
        finally:
            self.seconds += (elapsed := time.monotonic() - began)
            if self.decoding is not None:
                self.decoding.extend(elapsed)

    def take(self, part: tuple[int, int, int], response: HTTPResponse, deadline: Deadline):
        """Read the answer to a request."""
        self.num_requests += 1
        size, piece = part[1] - part[0], bytearray()
        # Not `read`, which takes a chunk of -1 bytes for everything that may ever come.
        while len(piece) < size and (data := response.read1(min(CHUNK_BYTES, size - len(piece)))):
            deadline.check()
            piece += data
        self.num_fetched += len(piece)
        if len(piece) < size:
            raise Unreadable(f"the connection was closed after {len(piece)} of {size} bytes")
        self.start, self.piece = part[0], piece

    def deadline(self) -> Deadline:
        """For what has to be fetched yet."""
        deadline = self.limits.deadline_of_fetching("fetching it")
        deadline.extend(-self.seconds)
        return deadline

    def whole(self) -> BytesIO:
        """The file in memory."""
        self.close()
        return download(self.url, self.limits, self.deadline())


def version_of(response: HTTPResponse) -> tuple[str | None, str | None]:
    return response.headers.get("ETag"), response.headers.get("Last-Modified")
