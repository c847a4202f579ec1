"""The boxes that an MP4 consists of: their sizes, and where those of a name begin.

Source: ISO/IEC 14496-12; libavformat/mov.c for boxes that break its rules.
"""

from collections.abc import Iterator


def box_size(data: bytes, name: int) -> tuple[int, int]:
    """The size that stands before (or, where it takes 8 bytes, after) the name of a box, and the length of both."""
    size = number(data, name - 4)
    return (number(data, name + 4, 8), 16) if size == 1 else (size, 8)


def number(data: bytes, at: int, length: int = 4) -> int:
    """Beyond the end of a file FFmpeg reads zeros."""
    return int.from_bytes(data[at : at + length].ljust(length, b"\0"), "big")


def contents(data: bytes, name: bytes) -> Iterator[int]:
    """Where the contents of boxes of this name begin."""
    at = data.find(name)
    while at >= 0:
        # After a size of 8 bytes. Of `cmvd` FFmpeg does not read the size.
        yield at + (12 if name != b"cmvd" and at >= 4 and number(data, at - 4) == 1 else 4)
        at = data.find(name, at + 1)


def children(data: bytes, at: int, end: int, name: bytes) -> Iterator[tuple[int, int]]:
    """Contents, from and to, of boxes of this name; none where boxes do not end with what they are in."""
    found = []
    while at + 8 <= end:
        size, start = box_size(data, at + 4)
        if size < start or at + size > end:
            return
        if data[at + 4 : at + 8] == name:
            found.append((at + start, at + size))
        at += size
    yield from found
