"""A video over http: or https: of which only the parts that are needed are fetched, where the server gives out parts.

Each part is a request of its own, under the rules of `downloads.py`. Parts share the limits of the video: together they
have up to `max_fetched_bytes` and take up to `max_fetch_seconds`. They are few: what is read one behind the other is
fetched in pieces that grow, and what chosen frames need, in one piece for each run of frames (`plan`).
"""

import re
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPResponse
from io import SEEK_CUR, SEEK_END, BytesIO
from typing import BinaryIO

from .downloads import PartRefused, download, open_url, read_body
from .errors import PartNeeded, Unreadable, WholeFileNeeded
from .guarded_file import CHUNK_BYTES
from .limits import Deadline, ReadingLimits
from .read_pieces import ReadPieces


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
            if part is None or part[0] != 0 or part[1] > FIRST_PIECE or not has_version(response):
                return download(url, limits, deadline)
            file = RangedFile(url, response, limits, part[2])
            limits.check_bytes(part[1])
            file.take(part, response, deadline)
    except PartRefused:
        return download(url, limits, deadline)
    file.seconds = time.monotonic() - began
    if file.size == len(file.piece):
        return BytesIO(file.piece)
    if file.size <= SMALL_FILE:
        return download(url, limits, file.deadline())
    return file  # pyright: ignore[reportReturnType]


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

    def __init__(self, url: str, response: HTTPResponse, limits: ReadingLimits, size: int):
        self.url, self.url_of_parts = url, response.url
        self.limits, self.size = limits, size
        self.in_parts = True  # until the whole file is needed
        self.is_fetched_apart = False
        self.version = version_of(response)
        self.position = self.start = 0  # of the next byte that is read; of the piece
        self.piece: bytearray | memoryview = bytearray()
        self.kept: ReadPieces | None = None
        self.identity: object = None  # of what is read of it, where that stays the same
        self.next_size = FIRST_PIECE
        self.planned: list[tuple[int, int]] = []
        self.num_requests = self.num_fetched = 0
        self.seconds = 0.0  # spent on fetching
        self.decoding: Deadline | None = None  # a limit that does not run meanwhile

    def read(self, size: int) -> bytes:
        size = min(size, self.size - self.position)
        if size <= 0:
            return b""
        data = b"" if self.kept is None else self.kept.find(self.position, size)
        if not data:
            if not self.start <= self.position < self.start + len(self.piece):
                self.call(partial(self.fetch, self.position, size))
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
        self.piece, self.kept = bytearray(), None

    def keep_pieces(self):
        """Keep everything that is fetched from here on, up to `max_fetched_bytes`: reading it again fetches nothing,
        and gives the same."""
        self.kept, self.identity = ReadPieces(self.limits.max_fetched_bytes), object()
        self.kept.add(self.start, self.piece)

    def fetch_apart(self):
        """From here on reading fetches nothing, but ends in `PartNeeded` where something is lacking. Whoever reads can
        so give way to others meanwhile."""
        self.keep_pieces()
        self.is_fetched_apart = True

    def call(self, fetch: Callable[[], None]):
        """Fetch what is lacking, now or apart from reading."""
        if self.is_fetched_apart:
            raise PartNeeded(self, fetch)
        fetch()

    def plan(self, ranges: list[tuple[int, int]]):
        """Say which bytes, from and to, will be read. Those that lie together are fetched together.

        Raises:
            WholeFileNeeded: that is most of the file, or in too many places.
            PartNeeded: it is fetched apart, and something is lacking.
        """
        self.planned = []
        if self.kept is not None:
            ranges = [(start, end) for start, end in ranges if not self.kept.holds(start, end)]
        for start, end in sorted(ranges):
            if self.planned and start - self.planned[-1][1] < NEAR:
                self.planned[-1] = (self.planned[-1][0], max(end, self.planned[-1][1]))
            else:
                self.planned.append((start, end))
        num_bytes = sum(end - start for start, end in self.planned)
        most = len(self.planned) + self.num_requests > MAX_REQUESTS or num_bytes > self.size // 2
        if most and self.size <= self.limits.max_fetched_bytes:
            raise WholeFileNeeded
        if self.is_fetched_apart and self.planned:
            raise PartNeeded(self, self.fetch_planned)

    def fetch_planned(self):
        for start, end in self.planned:
            while start < end:
                self.fetch(start, 1)
                start = self.start + len(self.piece)

    def fetch(self, start: int, size: int):
        """Fetch the piece from `start` on: as far as was planned, or at least `size` bytes."""
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
        if self.kept is not None:
            self.kept.add(self.start, self.piece)

    def deadline(self) -> Deadline:
        """For what has to be fetched yet."""
        deadline = self.limits.deadline_of_fetching("fetching it")
        deadline.extend(-self.seconds)
        return deadline

    def fetch_whole(self):
        """Fetch all of it, now or apart from reading."""
        self.call(self.fetch_all)

    def fetch_all(self):
        """Fetch all of it, in the version that there is now: from here on it is a file in memory."""
        self.close()
        self.piece = download(self.url, self.limits, self.deadline()).getbuffer()
        self.start, self.size, self.in_parts = 0, len(self.piece), False
        self.num_fetched += self.size


def has_version(response: HTTPResponse) -> bool:
    """Whether the server says by what two parts are known to be of one version of a file, byte for byte."""
    tag, changed = version_of(response)
    return changed is not None or (tag is not None and not tag.startswith("W/"))


def version_of(response: HTTPResponse) -> tuple[str | None, str | None]:
    return response.headers.get("ETag"), response.headers.get("Last-Modified")
