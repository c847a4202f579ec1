"""MP4 files of a few kilobytes whose headers claim millions of frames."""

import struct
import zlib
from functools import partial
from pathlib import Path

from llava_next_video import VideoLimitError, VideoReadError, read_video
from tests.attacks import Attack
from tests.attacks.videos import LIMITS


CLAIMED = 100_000_000


def box(name: bytes, *contents: bytes) -> bytes:
    data = b"".join(contents)
    return struct.pack(">I", 8 + len(data)) + name + data


def large_box(name: bytes, *contents: bytes) -> bytes:
    """With its size in 8 bytes."""
    data = b"".join(contents)
    return struct.pack(">I4sQ", 1, name, 16 + len(data)) + data


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


PICTURES = box(b"mp4v", bytes(6), b"\0\1", bytes(16), struct.pack(">HH", 64, 64), bytes(50))
HEVC = box(b"hvc1", bytes(6), b"\0\1", bytes(16), struct.pack(">HH", 64, 64), bytes(50))
PCM = box(b"sowt", bytes(6), b"\0\1", bytes(8), struct.pack(">HHHHI", 1, 16, 0, 0, 48000 << 16))
NO_TABLES = [
    box(b"stts", numbers(0, 0)),
    box(b"stsc", numbers(0, 0)),
    box(b"stsz", numbers(0, 0, 0)),
    box(b"stco", numbers(0, 0)),
]


def track(*tables: bytes, kind: bytes = b"vide", entry: bytes = PICTURES, number: int = 1, edits: bytes = b"") -> bytes:
    header = box(b"tkhd", numbers(7, 0, 0, number, 0, 1000), bytes(60))
    handler = box(b"hdlr", numbers(0, 0), kind, bytes(13))
    table = box(b"stbl", box(b"stsd", numbers(0, 1), entry), *tables)
    media = box(b"mdia", box(b"mdhd", numbers(0, 0, 0, 1000, 1000, 0)), handler, box(b"minf", table))
    return box(b"trak", header, edits, media)


def tables(count: int, sample_count: int | None = None, sizes: bytes = b"", stsc: int | None = None, chunks: int = 1):
    """Tables that claim samples of one byte."""
    return [
        box(b"stts", numbers(0, 1, count, 1)),
        box(b"stsc", numbers(0, 1, 1, count if stsc is None else stsc, 1)),
        sizes or box(b"stsz", numbers(0, 1, count if sample_count is None else sample_count)),
        box(b"stco", numbers(0, chunks, *[700] * chunks)),
    ]


def film(*boxes: bytes, behind: bytes = b"") -> bytes:
    moov = box(b"moov", box(b"mvhd", numbers(0, 0, 0, 1000, 1000), bytes(80)), *boxes)
    return box(b"ftyp", b"isom", numbers(512), b"isom") + moov + box(b"mdat", bytes(1000)) + behind


def fragment(count: int, make=box) -> bytes:
    parts = box(b"traf", box(b"tfhd", numbers(0, 1)), make(b"trun", numbers(0, count)))
    return box(b"moof", box(b"mfhd", numbers(0, 1)), parts)


def hidden_fragment(count: int) -> bytes:
    """A file in which an index of fragments (`sidx`) points to one inside of `mdat`."""
    start = film(track(*NO_TABLES), box(b"mvex", box(b"trex", numbers(0, 1, 1, 1, 1, 0))))
    start = start[: start.rindex(b"mdat") - 4]
    first = fragment(1) + box(b"mdat", bytes(50))
    pictures = box(b"mdat", bytes(100), fragment(count), bytes(500))
    sizes = len(first) + 108, len(pictures) - 108
    index = numbers(0, 1, 1000, 0, 0), struct.pack(">HH", 0, 2), numbers(sizes[0], 1000, 0, sizes[1], 1000, 0)
    return start + box(b"sidx", *index) + first + pictures


def claims(count: int) -> dict[str, bytes]:
    """Files whose headers make FFmpeg keep so many entries."""
    fragmented = (track(*NO_TABLES), box(b"mvex", box(b"trex", numbers(0, 1, 1, 1, 1, 0))))
    plain = film(track(*tables(count)))
    at = plain.index(b"moov") - 4
    size = int.from_bytes(plain[at : at + 4], "big")
    packed = box(b"cmvd", numbers(size), zlib.compress(plain[at : at + size]))
    edits = box(b"edts", box(b"elst", numbers(0, 100, *[10**9, 0, 65536] * 100)))
    sync = box(b"sgpd", b"\1\0\0\0sync", numbers(1, 1), b"\x15") + box(
        b"sbgp", numbers(0), b"sync", numbers(1, count, 1)
    )
    return {
        "stsz": plain,
        "stsz with a size of 8 bytes": film(track(*tables(count, sizes=large_box(b"stsz", numbers(0, 1, count))))),
        "stsz in many tracks": film(*(track(*tables(count // 50), number=n + 1) for n in range(50))),
        "stz2": film(track(*tables(count, sizes=box(b"stz2", numbers(0, 8, count), bytes(1000))))),
        "trun": film(*fragmented, behind=fragment(count)),
        "trun with a size of 8 bytes": film(*fragmented, behind=fragment(count, large_box)),
        "trun in many fragments": film(*fragmented, behind=fragment(count // 50) * 50),
        "chunks of PCM": film(track(*tables(1000, stsc=1024 * count // 100, chunks=100), kind=b"soun", entry=PCM)),
        "sound that is called video": film(track(*tables(count), kind=b"soun", entry=PCM).replace(b"soun", b"vide")),
        "sound with a second kind": film(
            track(*tables(count), box(b"hdlr", numbers(0, 0), b"vide", bytes(13)), kind=b"soun", entry=PCM)
        ),
        "edits": film(track(*tables(count // 100), edits=edits)),
        "open groups of pictures": film(
            track(box(b"ctts", numbers(0, 1, 8 * count, 5)), sync, *tables(10), entry=HEVC)
        ),
        "a packed header": plain[:at] + box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), packed)) + plain[at + size :],
        "fragments of many tracks": film(
            *(track(number=n + 1) for n in range(300)),
            behind=box(b"moof", box(b"mfhd", numbers(0, 1))) * (count // 600),
        ),
        "items": box(b"ftyp", b"mif1", numbers(0), b"mif1")
        + box(b"meta", numbers(0), box(b"iloc", b"\2\0\0\0\0\0", numbers(count), bytes(1000))),
    }


def attacks(folder: Path) -> list[Attack]:
    return [
        Attack(f"claims of {name}", partial(read_video, data, limits=LIMITS), VideoLimitError, "its header", 5)
        for name, data in claims(CLAIMED).items()
    ] + [Attack("a fragment in mdat", partial(read_video, hidden_fragment(CLAIMED), limits=LIMITS), VideoReadError)]
