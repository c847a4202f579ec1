"""Compare this package with transformers' built-in and with what else a user has: `python -m benchmarks`.

Without names every comparison is run, in 20 minutes on two idle cores; with names only these. The table is
printed and, with the plot, written next to this file.
"""

import argparse
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks import absolute, answers, importing, long_files, pixels, reading, report, tracing, vision
from benchmarks.clips import DEFAULT_FOLDER
from benchmarks.comparison import Comparison, Setting, peak_of, run
from benchmarks.ffmpeg_of_pyav import link_libraries


MODULES = (reading, long_files, pixels, vision, answers, importing)
COMPARISONS: dict[str, Comparison] = {c.name: c for module in MODULES for c in module.COMPARISONS}
TRACING = "tracing"


def lend_ffmpeg_to_torchcodec():
    """Start again with the FFmpeg of PyAV's wheel where torchcodec finds it."""
    links = DEFAULT_FOLDER / "ffmpeg-of-pyav"
    paths = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    if find_spec("torchcodec") is None or str(links) in paths or link_libraries(links) is None:
        return
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [*paths, str(links)]))
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*COMPARISONS, TRACING]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of a comparison: {', '.join(names)}")
    parser.add_argument("--clips", type=Path, default=DEFAULT_FOLDER, help="where clips are made and kept")
    parser.add_argument(
        "--num-frames",
        type=int,
        default=32 if torch.cuda.is_available() else 2,
        help="of videos that questions are asked about, and of vision features if more than 8 (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, help="the table; `results.md` beside this file when all are run")
    parser.add_argument("--tiny", action="store_true", help="tiny models and clips, one round: does everything run?")
    parser.add_argument("--peak", metavar="SIDE", help=argparse.SUPPRESS)  # used by `peak_in_fresh_process`
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.names) - set(names)):
        parser.error(f"there is no comparison {unknown[0]!r}; choose from {', '.join(names)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    setting = Setting(args.tiny, args.clips, device, args.num_frames)
    if args.peak is not None:
        print(peak_of(COMPARISONS[args.names[0]], args.peak, setting))
        return

    start = time.monotonic()
    rows, tables = [], []
    for name in args.names or names:
        print(f"{time.monotonic() - start:5.0f} s  {name}", file=sys.stderr, flush=True)
        if name == TRACING:
            tables.append(tracing.table(setting))
        else:
            rows += run(COMPARISONS[name], setting)
    if setting.device == "cuda" and not args.names:
        tables.append(absolute.table(setting))
    page = report.markdown(rows, setting.device, (time.monotonic() - start) / 60, tables)
    print(page)
    output = args.output or (None if args.names or args.tiny else Path(__file__).parent / "results.md")
    if output is not None:
        output.write_text(page)
        if rows and not report.plot(rows, output.with_suffix(".svg")):
            print("No plot: matplotlib is not installed.", file=sys.stderr)


if __name__ == "__main__":
    lend_ffmpeg_to_torchcodec()
    main()
