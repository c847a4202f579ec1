"""How much memory do headers that lie take? `python -m tests.fuzz.claims [ENDING ...]`, on Linux.

In one file of each ending of the corpus every four bytes of its beginning and its end are set to a large number, one
after another, and the file is read in a process of its own. Prints, for each file, the most memory that one of these
took on top of what was there before; exit status 1 when that is more than `MAX_MIB`.
"""

import re
import sys
import tempfile
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

from llava_next_video import ReadingLimits, read_video
from tests.fuzz.corpus import CLIPS, PICTURES, make_corpus


BEGINNING, END = 600, 200  # bytes
LARGE_NUMBERS = (b"\x7f\xff\xff\xff", b"\xff\xff\xff\x0f")  # in either order of bytes
MAX_MIB = 512
LIMITS = ReadingLimits(max_decode_seconds=20, max_frame_pixels=1920 * 1080, max_result_bytes=2**28, max_frames=100_000)


def peak_mib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def most_taken(path: Path) -> tuple[int, int]:
    """The most MiB that a number takes, and its position in the file."""
    data = path.read_bytes()
    most = (0, 0)
    for position in [*range(min(BEGINNING, len(data) - 3)), *range(max(BEGINNING, len(data) - END), len(data) - 3)]:
        for number in LARGE_NUMBERS:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before = peak_mib()
            with suppress(ValueError):
                read_video(data[:position] + number + data[position + 4 :], lambda metadata: [0], LIMITS)
            most = max(most, (peak_mib() - before, position))
    return most


def main(endings: list[str]) -> int:
    first_of_ending = {}
    for name in (*CLIPS, *PICTURES):
        first_of_ending.setdefault(Path(name).suffix, name)
    names = [name for ending, name in first_of_ending.items() if not endings or ending in endings]
    worst = 0
    with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for path in make_corpus(Path(folder), names).values():
            mib, position = pool.apply(most_taken, (path,))
            worst = max(worst, mib)
            print(f"{path.name}: {mib} MiB, at byte {position}", flush=True)
    return int(worst > MAX_MIB)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
