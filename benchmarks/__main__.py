"""Compare this package with transformers' built-in and with what else a user has: `python -m benchmarks`.

Without names every comparison is run, in 20 minutes on two idle cores; with names only these. The table is
printed and, with the plot, written next to this file. On a GPU (`--device cuda`) it is what a GPU changes, in less than
9 minutes, making the models included.
"""

import argparse
import os
import re
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks import (
    absolute,
    answers,
    importing,
    long_files,
    pixels,
    reading,
    reading_ahead,
    report,
    tracing,
    training,
    vision,
)
from benchmarks.clips import DEFAULT_FOLDER
from benchmarks.comparison import Comparison, Row, Setting, peak_of, run
from benchmarks.ffmpeg_of_pyav import link_libraries


MODULES = (reading, long_files, pixels, vision, answers, reading_ahead, importing)
OF_ALL: dict[str, Comparison] = {c.name: c for module in MODULES for c in module.COMPARISONS}
COMPARISONS = {**OF_ALL, **{c.name: c for c in [*reading_ahead.ON_A_DEVICE, *training.COMPARISONS]}}
TRACING, ABSOLUTE = "tracing", "absolute"
# Everything that is run on a GPU, in this order; what there is no time for is left out.
ON_A_DEVICE = [
    "first_question",
    "eight_videos",
    "eight_questions",
    "second_question",
    "vision",
    "vision_siglip",
    ABSOLUTE,
]
SECONDS_ON_A_DEVICE = 480


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
    names = [*COMPARISONS, TRACING, ABSOLUTE]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of a comparison: {', '.join(names)}")
    parser.add_argument("--clips", type=Path, default=DEFAULT_FOLDER, help="where clips are made and kept")
    parser.add_argument(
        "--num-frames",
        type=int,
        help="of videos that questions are asked about, and of vision features if more than 8 (default: 2 on a CPU, 32 "
        "on a GPU)",
    )
    parser.add_argument("--rounds", type=int, help="how often each side is measured, if not what the comparison says")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="of models and pixels (default: a GPU if there is one)"
    )
    parser.add_argument("--output", type=Path, help="the table; `results.md` beside this file when all are run")
    parser.add_argument("--tiny", action="store_true", help="tiny models and clips, one round: does everything run?")
    parser.add_argument("--peak", metavar="SIDE", help=argparse.SUPPRESS)  # used by `peak_in_fresh_process`
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.names) - set(names)):
        parser.error(f"there is no comparison {unknown[0]!r}; choose from {', '.join(names)}")
    has_gpu = torch.cuda.is_available()
    if args.device == "cuda" and not has_gpu:
        parser.error("torch finds no GPU here; leave --device out")
    device = args.device or ("cuda" if has_gpu else "cpu")
    num_frames = args.num_frames or (32 if device == "cuda" else 2)
    setting = Setting(args.tiny, args.clips, device, num_frames, rounds=args.rounds)
    if args.peak is not None:
        print(peak_of(COMPARISONS[args.names[0]], args.peak, setting))
        return

    rows, tables, minutes = measure(args.names or names_of_all(device), setting)
    page = report.markdown(rows, setting.device, minutes, tables)
    print(page)
    in_full = not (args.names or args.tiny)
    output = args.output or (Path(__file__).parent / file_of(device) if in_full else None)
    if output is not None:
        output.write_text(page)
        if rows and not report.plot(rows, output.with_suffix(".svg")):
            print("No plot: matplotlib is not installed.", file=sys.stderr)


def names_of_all(device: str) -> list[str]:
    """What is run where nothing is named."""
    return ON_A_DEVICE if device == "cuda" else [*OF_ALL, TRACING]


def file_of(device: str) -> str:
    """Of the results; those of a GPU have the name of the card."""
    if device == "cpu":
        return "results.md"
    return f"results_{re.sub(r'[^a-z0-9]+', '_', torch.cuda.get_device_name().lower())}.md"


def measure(names: list[str], setting: Setting) -> tuple[list[Row], list[list[str]], float]:
    """Run comparisons. On a GPU no new one is begun after `SECONDS_ON_A_DEVICE`.

    Returns:
        Their rows; other tables, as lines; the minutes that they took.
    """
    start = time.monotonic()
    rows, tables, left_out = [], [], []

    def in_time() -> bool:
        return setting.device == "cpu" or time.monotonic() - start < SECONDS_ON_A_DEVICE

    for name in names:
        print(f"{time.monotonic() - start:5.0f} s  {name}", file=sys.stderr, flush=True)
        if not in_time():
            left_out.append(name)
        elif name == TRACING:
            tables.append(tracing.table(setting))
        elif name == ABSOLUTE:
            tables += absolute.tables(setting, in_time)
        else:
            rows += run(COMPARISONS[name], setting)
    if left_out:
        tables.append([f"Left out for want of time: {', '.join(left_out)}."])
    return rows, tables, (time.monotonic() - start) / 60


if __name__ == "__main__":
    lend_ffmpeg_to_torchcodec()
    main()
