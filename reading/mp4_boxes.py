"""The boxes of an MP4: their sizes, and where boxes of a given name begin.

Source: ISO/IEC 14496-12; libavformat/mov.c for boxes that break its rules.
"""

from collections.abc import Iterator


def box_size(data: bytes, name: int) -> tuple[int, int]:
    """Size of a box, and length of its header: the size stands before its name, or after it where it has 8 bytes."""
    size = number(data, name - 4)
    return (number(data, name + 4, 8), 16) if size == 1 else (size, 8)


def number(data: bytes, at: int, length: int = 4) -> int:
    """A number in big-endian order. Beyond the end of the data it has zeros, as FFmpeg reads them."""
    return int.from_bytes(data[at : at + length].ljust(length, b"\0"), "big")


def contents(data: bytes, name: bytes) -> Iterator[int]:
    """Where the contents of boxes of this name begin."""
    at = data.find(name)
    while at >= 0:
        # 8 bytes later where the size has 8 bytes; FFmpeg does not read the size of `cmvd`.
        yield at + (12 if name != b"cmvd" and at >= 4 and number(data, at - 4) == 1 else 4)
        at = data.find(name, at + 1)


def children(data: bytes, at: int, end: int, name: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of the contents of boxes of this name; none where a box reaches beyond the one around it."""
    found = []
    while at + 8 <= end:
        size, start = box_size(data, at + 4)
        if size < start or at + size > end:
            return
        if data[at + 4 : at + 8] == name:
            found.append((at + start, at + size))
        at += size
    yield from found
