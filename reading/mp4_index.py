"""How many entries the header of an MP4 makes FFmpeg keep, counted before FFmpeg reads it.

FFmpeg keeps some 35 bytes for each frame of each track (MP4 calls it a sample), and boxes claim any number of them in a
few bytes: `stsz` and `trun` with samples of one size, `stsc` with samples in a chunk, `elst` with parts that are listed
again, and so on. The boxes of a file follow one another from its first byte on. FFmpeg looks into all of them but
`mdat`, and may find a box where none belongs. So outside of `mdat` names are searched for as bytes, wherever they
stand, and their claims are added up.

Sources: ISO/IEC 14496-12 for the boxes; libavformat/mov.c for what FFmpeg makes of them.
"""

import zlib
from collections.abc import Callable, Iterator

import numpy as np

from .errors import OverLimit
from .limits import ReadingLimits
from .mp4_boxes import box_size, children, contents, number
from .mp4_times import TimesOfTracks, times_of_tracks
from .open_video import PROBED_BYTES


ENTRIES_PER_FRAME = 20  # of video, and those of its sound, edits, fragments; real files have up to 5
FEWEST_FRAMES = 100_000  # for which there is always room; a lower `max_frames` has an error of its own
MAX_MP4_HEADER_BYTES = 2**28
# FFmpeg recognises an MP4 by one of these, if boxes follow one another from the first byte up to it.
BOXES_OF_MP4 = frozenset(
    (
        b"moov",
        b"mdat",
        b"pnot",
        b"udta",
        b"ftyp",
        b"ediw",
        b"wide",
        b"free",
        b"junk",
        b"pict",
        b"skip",
        b"uuid",
        b"prfl",
    )
)
# Where in a box, after its name, its number of entries stands, and how much memory each takes, in units of 32 bytes.
COUNTS = {
    b"stsz": (8, 1),
    b"stz2": (8, 1),
    b"trun": (4, 1),
    b"senc": (4, 6),  # FFmpeg keeps 170 bytes for each encrypted sample
    b"keys": (4, 1),
}
PCM_FRAME = 1024  # most samples of PCM, all of one chunk, that FFmpeg lists as one
HANDLERS_BESIDE_SOUND = (b"alis", b"url ", b"mdir", b"mdta")  # these do not say what a track is


def check_index(read_at: Callable[[int, int], bytes], limits: ReadingLimits) -> "Index | None":
    """Refuse an MP4 whose header claims too much.

    Args:
        read_at: takes a position in the file and a number of bytes, and returns up to so many.
        limits: of these `max_frames`.

    Returns:
        What the header claims; None for a file that FFmpeg does not take for an MP4.

    Raises:
        OverLimit: the header has, or makes FFmpeg keep, more than `MAX_MP4_HEADER_BYTES` or
            `ENTRIES_PER_FRAME * limits.max_frames`.
    """
    if not is_mp4(read_at):
        return None
    index, most = Index(), ENTRIES_PER_FRAME * max(limits.max_frames, FEWEST_FRAMES)
    for box in boxes_but_mdat(read_at):
        index.add(box)
        index.note_times(box)
        if index.entries > most:
            raise OverLimit(
                f"its header claims {index.entries} frames, samples and fragments, more than {most}, which are "
                f"{ENTRIES_PER_FRAME} for each of max_frames={limits.max_frames}; encode it again, or raise "
                "this limit"
            )
    return index


def is_mp4(read_at: Callable[[int, int], bytes]) -> bool:
    """Whether FFmpeg may take the file for an MP4."""
    at = 0
    while at < PROBED_BYTES:  # FFmpeg looks no further
        header = read_at(at, 16)
        if len(header) < 8:
            break
        if header[4:8] in BOXES_OF_MP4:
            return True
        size, start = box_size(header, 4)
        if size == 0:
            break
        at += size if size >= start else 4
    return False


def boxes_but_mdat(read_at: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """The boxes of the file with their headers, all but `mdat`."""
    at = num_bytes = 0
    while len(header := read_at(at, 16)) >= 8:
        size, start = box_size(header, 4)
        if header[4:8] != b"mdat":
            box = read_at(at, min(size or MAX_MP4_HEADER_BYTES + 1, MAX_MP4_HEADER_BYTES + 1))
            num_bytes += len(box)
            if num_bytes > MAX_MP4_HEADER_BYTES:
                raise OverLimit(f"its header has more than {MAX_MP4_HEADER_BYTES} bytes; encode the video again")
            yield box
        if not start <= size < 2**63:  # the last one: it reaches to the end, or FFmpeg stops at it
            break
        at += size


class Index:
    """The claims of the boxes that were added."""

    def __init__(self):
        self.samples = self.edits = self.fragments = self.tracks = self.chunks = self.frames_of_chunk = 0
        self.has_fragment_index = False  # `sidx`, with which FFmpeg would read boxes later
        self.headers = 0  # number of boxes `moov`, packed ones included
        self.times: TimesOfTracks = {}  # times of the tracks, from the last one

    @property
    def is_complete(self) -> bool:
        """Whether FFmpeg knows all frames when it has read the header: there is one, and there are no fragments."""
        return self.headers == 1 and not self.fragments

    @property
    def entries(self) -> int:
        # It is not known which chunk has which size, nor which edits list which samples: the worst case counts.
        listed = self.samples + self.chunks * self.frames_of_chunk
        return listed * max(1, self.edits) + 2 * self.fragments * self.tracks

    def add(self, data: bytes, compressed: bool = False):
        """Add a box with all that is in it."""
        done = self.add_pcm(data) if data[4:8] == b"moov" else set()
        for name, (field, weight) in COUNTS.items():
            for start in contents(data, name):
                if start not in done:
                    self.samples += weight * number(data, start + field)
        for start in contents(data, b"iinf"):
            self.samples += number(data, start + 4, 4 if data[start : start + 1] > b"\0" else 2)
        for start in contents(data, b"iloc"):
            self.samples += number(data, start + 6, 4 if data[start : start + 1] > b"\1" else 2)
        for start in contents(data, b"saiz"):
            self.samples += 6 * number(data, start + (13 if number(data, start) & 1 else 5))
        for start in contents(data, b"ctts"):
            self.samples += repeated(data, start + 4) // 8  # 4 bytes for each
        for start in contents(data, b"sbgp"):
            if data[start + 4 : start + 8] == b"sync":
                self.samples += repeated(data, start + (12 if data[start : start + 1] == b"\1" else 8)) // 8
        for name in (b"stco", b"co64"):
            for start in contents(data, name):
                if start not in done:
                    self.chunks = max(self.chunks, number(data, start + 4))
        for start in contents(data, b"stsc"):
            if start not in done:
                self.frames_of_chunk += int(frames_of_pcm(chunk_runs(data, start)[:, 1]).max(initial=0))
        for start in contents(data, b"elst"):
            self.edits = max(self.edits, num_edits(data, start))
        for start in contents(data, b"sidx"):
            self.fragments += number(data, start + (30 if data[start : start + 1] > b"\0" else 22), 2)
            self.has_fragment_index = True
        for start in contents(data, b"tfra"):
            self.fragments += number(data, start + 12)
        self.fragments += data.count(b"moof")
        self.tracks += data.count(b"trak")
        for start in contents(data, b"cmvd"):
            self.add_compressed(data, start, compressed)

    def note_times(self, box: bytes):
        self.headers += box.count(b"moov") + box.count(b"mvex") + box.count(b"cmov")
        if box[4:8] == b"moov":
            self.times = times_of_tracks(box)

    def add_compressed(self, data: bytes, start: int, compressed: bool):
        """Add a header that is packed with zlib; its unpacked size stands before it."""
        try:
            unpacked = zlib.decompressobj().decompress(data[start + 4 :], MAX_MP4_HEADER_BYTES + 1)
        except zlib.error:  # FFmpeg cannot unpack it either
            return
        if compressed or len(unpacked) > MAX_MP4_HEADER_BYTES:
            raise OverLimit(f"its header has more than {MAX_MP4_HEADER_BYTES} bytes, packed; encode the video again")
        self.add(unpacked, compressed=True)

    def add_pcm(self, moov: bytes) -> set[int]:
        """Add tracks of PCM as FFmpeg lists them, up to `PCM_FRAME` samples at a time. Returns where their boxes begin,
        which are not counted again."""
        done = set()
        for start, end in children(moov, box_size(moov, 4)[1], len(moov), b"trak"):
            boxes = sample_table_of_pcm(moov, start, end)
            if not boxes:
                continue
            _, chunks, runs = boxes
            num_chunks = number(moov, chunks + 4)
            table = chunk_runs(moov, runs)
            lengths = np.diff(table[:, 0], append=num_chunks + 1)  # chunks of each row
            if (lengths < 0).any():
                continue
            self.samples += int((lengths * frames_of_pcm(table[:, 1])).sum())
            done.update(boxes)
        return done


def repeated(data: bytes, at: int) -> int:
    """Sum of the counts in a table of pairs (count, value); the table's length stands before it."""
    pairs = np.frombuffer(data[at + 4 : at + 4 + 8 * number(data, at)], dtype=np.uint8)
    counts = pairs[: len(pairs) // 8 * 8].view(">u4")[::2]
    return int(counts[counts < 2**31].sum(dtype=np.int64))  # FFmpeg ignores larger ones


def chunk_runs(data: bytes, start: int) -> np.ndarray:
    """Rows (first chunk, samples in a chunk) of `stsc`."""
    table = np.frombuffer(data[start + 8 : start + 8 + 12 * number(data, start + 4)], dtype=np.uint8)
    return table[: len(table) // 12 * 12].view(">u4").reshape(-1, 3)[:, :2].astype(np.int64)


def frames_of_pcm(num_samples: np.ndarray) -> np.ndarray:
    return -(-num_samples // PCM_FRAME)


def num_edits(data: bytes, start: int) -> int:
    """Number of parts of a track that `elst` lists, without empty ones, as FFmpeg reads it."""
    name = start - 12 if data[start - 12 : start - 8] == b"elst" else start - 4
    size, _ = box_size(data, name)
    length = 20 if data[start : start + 1] == b"\1" else 12
    end = len(data) if size == 0 else min(len(data), name - 4 + size)
    times = range(start + 8 + length // 3, end - length + length // 3 + 1, length)
    empty = b"\xff" * 4 if length == 12 else b"\xff" * 8
    return sum(data[at : at + len(empty)] != empty for at in times)


def sample_table_of_pcm(data: bytes, start: int, end: int) -> tuple[int, int, int] | None:
    """Where `stsz`, `stco` (or `co64`) and `stsc` of a track begin; None unless it can only be read as sound with one
    unit of time for each sample."""
    track = data[start:end]
    handlers = [track[at + 8 : at + 12] for at in contents(track, b"hdlr")]
    if set(handlers) - {b"soun", *HANDLERS_BESIDE_SOUND} or any(
        len(list(contents(track, name))) != 1 for name in (b"stts", b"stsz", b"stsc")
    ):
        return None
    path = [(start, end)]
    for name in (b"mdia", b"minf", b"stbl"):
        path = [child for parent in path for child in children(data, *parent, name)]
        if len(path) != 1:
            return None
        if name == b"mdia" and [data[at + 8 : at + 12] for at, _ in children(data, *path[0], b"hdlr")] != [b"soun"]:
            return None
    tables = [
        [child for name in names for child in children(data, *path[0], name)]
        for names in ((b"stts",), (b"stsz",), (b"stco", b"co64"), (b"stsc",))
    ]
    if any(len(boxes) != 1 for boxes in tables):
        return None
    times, sizes, chunks, runs = (boxes[0][0] for boxes in tables)
    is_pcm = number(data, times + 4) == 1 and number(data, times + 12) == 1
    return (sizes, chunks, runs) if is_pcm else None
