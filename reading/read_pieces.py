"""Keeps pieces of a file that were read, so that opening it three times reads it once."""

from bisect import bisect_right


class ReadPieces:
    """Bytes by their position in a file, up to `most_bytes` of them."""

    def __init__(self, most_bytes: int):
        self.most_bytes = most_bytes
        self.num_bytes = 0
        self.starts: list[int] = []  # of the pieces, ascending
        self.pieces: list[bytearray] = []

    def find(self, position: int, size: int) -> bytes:
        """Up to `size` bytes from a position on; none where it was not read."""
        number = bisect_right(self.starts, position) - 1
        if number < 0:
            return b""
        at = position - self.starts[number]
        return bytes(self.pieces[number][at : at + size])

    def holds(self, start: int, end: int) -> bool:
        """Whether all bytes from and to these places are in one piece."""
        number = bisect_right(self.starts, start) - 1
        return number >= 0 and end <= self.starts[number] + len(self.pieces[number])

    def add(self, position: int, data: bytes | bytearray | memoryview):
        """Keep what was read at a position, if there is room."""
        if not data or self.num_bytes + len(data) > self.most_bytes:
            return
        self.num_bytes += len(data)
        number = bisect_right(self.starts, position) - 1
        if number >= 0 and self.starts[number] + len(self.pieces[number]) == position:
            self.pieces[number] += data
        else:
            self.starts.insert(number + 1, position)
            self.pieces.insert(number + 1, bytearray(data))
