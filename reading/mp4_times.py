"""When the frames of an MP4 are shown, by its header.

FFmpeg's index of a file has the times at which frames are decoded. The box `ctts` says how much later each is shown,
in runs of frames. It is trusted where a track is built as the standard says, with no box twice: then FFmpeg, which may
find boxes where none belongs, has read the same one.

Sources: ISO/IEC 14496-12, 8.6.1.3 (`ctts`) and 8.6.6 (`elst`); `mov_read_ctts` and `mov_fix_index` in
libavformat/mov.c.
"""

import numpy as np

from .mp4_boxes import box_size, children, number


TimesOfTracks = dict[int, np.ndarray]
# A track has exactly one of each of these, and at most one of each in `OPTIONAL_BOXES`.
BOXES_OF_TRACK = (b"tkhd", b"mdia", b"minf", b"stbl", b"stsd", b"stts", b"stsc")
TABLES = (b"stsd", b"stts", b"stsc")  # in `stbl`
OPTIONAL_BOXES = (b"ctts", b"edts", b"elst", b"stss", b"stps")
LARGEST_DELAY = 2**28  # with a larger one FFmpeg drops the whole table


def times_of_tracks(moov: bytes) -> TimesOfTracks:
    """How much later the frames of each track are shown than decoded.

    Returns:
        Rows (number of frames, delay in units of the track's time scale) by the number of the track, (n, 2), int32; no
        rows where they are shown when they are decoded. Tracks that are not built as the standard says are left out.
    """
    times, doubtful = {}, set()
    _, start = box_size(moov, 4)
    for track_start, track_end in children(moov, start, len(moov), b"trak"):
        track = moov[track_start:track_end]
        track_id = number_of_track(track)
        if track_id in times:
            doubtful.add(track_id)
        rows = delays_of_track(track)
        if rows is not None:
            times[track_id] = rows
    return {track_id: rows for track_id, rows in times.items() if track_id not in doubtful}


def number_of_track(track: bytes) -> int | None:
    """The track's number, from the contents of a `trak`; FFmpeg has it as the stream's `id`."""
    for start, _ in children(track, 0, len(track), b"tkhd"):
        return number(track, start + (20 if track[start : start + 1] == b"\1" else 12))
    return None


def delays_of_track(track: bytes) -> np.ndarray | None:
    """Rows (frames, delay) of the contents of a `trak`; None where it is not built as the standard says, or has more
    than one edit."""
    if any(track.count(name) != 1 for name in BOXES_OF_TRACK) or any(track.count(name) > 1 for name in OPTIONAL_BOXES):
        return None
    table = only_box(track, b"mdia", b"minf", b"stbl")
    if table is None or None in (only_box(track, b"tkhd"), *(within(track, table, name) for name in TABLES)):
        return None
    if b"elst" in track and num_shown_parts(track, only_box(track, b"edts", b"elst")) != 1:
        return None
    if b"ctts" not in track:
        return np.zeros((0, 2), np.int32)
    found = within(track, table, b"ctts")
    if found is None:
        return None
    start, end = found
    num_rows = number(track, start + 4)
    if end - start != 8 + 8 * num_rows:
        return None
    # Delays may be negative. So are counts of 2**31 and more, read like this.
    rows = np.frombuffer(track, ">i4", 2 * num_rows, start + 8).reshape(-1, 2).astype(np.int32)
    if (rows[:, 0] < 1).any() or (rows[:, 1] <= -LARGEST_DELAY).any() or (rows[:, 1] >= LARGEST_DELAY).any():
        return None
    return rows


def within(data: bytes, box: tuple[int, int], name: bytes) -> tuple[int, int] | None:
    """Start and end of the contents of the only box of this name in a box; None where there is not exactly one."""
    found = list(children(data, *box, name))
    return found[0] if len(found) == 1 else None


def only_box(data: bytes, *path: bytes) -> tuple[int, int] | None:
    box = (0, len(data))
    for name in path:
        box = within(data, box, name)
        if box is None:
            return None
    return box


def num_shown_parts(data: bytes, box: tuple[int, int] | None) -> int:
    """Number of parts of a track that an `elst` lists, without empty ones; 0 where it breaks the standard."""
    if box is None:
        return 0
    start, end = box
    size_of_time = 8 if data[start : start + 1] == b"\1" else 4
    row, num_rows = 2 * size_of_time + 4, number(data, start + 4)  # duration, time and rate of a part
    if end - start != 8 + row * num_rows:
        return 0
    times = [start + 8 + row * position + size_of_time for position in range(num_rows)]
    return sum(data[at : at + size_of_time] != b"\xff" * size_of_time for at in times)
