"""Checks that the index of an AVI agrees with the headers of all of its packets.

FFmpeg reads the packets of an AVI one after another, by the name and the size in the header of each; the index (`idx1`)
repeats both. The index is trusted where its packets fill the list of packets (`movi`) from beginning to end, it is the
last thing in the file, and each packet's header is what the index says. Only these headers are read, 8 bytes each.

Source: the documents on RIFF and AVI by Microsoft, and libavformat/avidec.c.
"""

from collections.abc import Callable

import numpy as np


ReadAt = Callable[[int, int], bytes]  # returns up to so many bytes (second argument) from a position (first argument)

HEADER = 8  # bytes of the name and the size of a chunk
MAX_CHUNKS = 100  # in front of the list of packets
KINDS = (b"dc", b"db", b"wb")  # of packets: compressed and other pictures, sound


def lists_all_packets(read_at: ReadAt, entries_of_streams: list[np.ndarray], size_of_file: int) -> bool:
    """Whether an index is complete and right.

    Args:
        entries_of_streams: position of the header, and size in bytes, of each packet of each stream: (n, 2), int64.
    """
    bounds = bounds_of_packets(read_at, size_of_file)
    positions, sizes = np.concatenate([np.zeros((0, 2), np.int64), *entries_of_streams]).T
    if bounds is None or not len(positions):
        return False
    order = np.argsort(positions, kind="stable")
    ends = (positions + HEADER + sizes + sizes % 2)[order]  # each begins at an even position
    if not np.array_equal(positions[order], [bounds[0], *ends[:-1]]) or ends[-1] != bounds[1]:
        return False
    return all(
        are_in_front(read_at, b"%02d" % number, entries.tolist())
        for number, entries in enumerate(entries_of_streams)
        if len(entries)
    )


def bounds_of_packets(read_at: ReadAt, size_of_file: int) -> tuple[int, int] | None:
    """First byte of the packets and the one after the last; None where the index does not follow them as the last chunk
    of the file."""
    start = read_at(0, 12)
    if start[:4] != b"RIFF" or start[8:] != b"AVI ":
        return None
    at = 12
    for _ in range(MAX_CHUNKS):
        header = read_at(at, 12)
        if len(header) < 12:
            return None
        end = at + HEADER + int.from_bytes(header[4:8], "little")
        end += end % 2
        if header[:4] == b"LIST" and header[8:] == b"movi":
            break
        at = end
    else:
        return None
    index = read_at(end, HEADER)
    if index[:4] != b"idx1" or end + HEADER + int.from_bytes(index[4:], "little") != size_of_file:
        return None
    return at + 12, end


def are_in_front(read_at: ReadAt, stream: bytes, entries: list) -> bool:
    """Whether the headers of these packets (position, size) have the stream's number, one kind, and their sizes."""
    kind = read_at(entries[0][0], 4)[2:]
    name = stream + kind
    return kind in KINDS and all(
        read_at(position, HEADER) == name + size.to_bytes(4, "little") for position, size in entries
    )
