"""Results as a Markdown table and a plot."""

import os
import platform
import subprocess
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.comparison import BUILTIN, Row
from benchmarks.models import dtype


INK = "#808080"  # of the plot: seen on a white page and on a black one
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
# What the README's first picture shows, next to the built-in.
IN_SHORT = {
    "second_question": "another question about the same video",
    "read_hour": "32 frames of an hour of video",
    "eight_questions": "eight questions about a video",
    "read_keyframes_30": "32 frames of a minute of video",
    "pixels": "pixel values of 32 frames",
    "first_question": "file and question to an answer",
    "vision": "vision features",
}
LIBRARIES = ("transformers", "torch", "torchvision", "av", "torchcodec", "opencv-python-headless")


def machine(device: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    text = f"{', '.join(names) or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {gibibytes:.0f} GiB, "
    text += f"{torch.get_num_threads()} threads in torch"
    if device == "cuda":
        text += f"; {torch.cuda.get_device_name()}"
    return f"{text}; models in {str(dtype(device)).removeprefix('torch.')}"


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for library in LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def commit() -> str:
    """Of the checkout, marked where files differ from it."""
    root = Path(__file__).parents[1]
    try:
        output = subprocess.check_output(["git", "describe", "--always", "--dirty"], text=True, cwd=root)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return output.strip()


def amount(value: float, measure: str) -> str:
    if measure == "count":
        return f"{value:.0f}"
    if measure in ("peak", "bytes"):
        return f"{value / 1e6:.0f} MB"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def asked(row: Row) -> str:
    if row.most_extra_seconds is not None:
        return f"+{row.most_extra_seconds} s"
    return "" if row.least is None else f"{row.least:.2f}"


def markdown(rows: list[Row], device: str, minutes: float, more: list[list[str]] = ()) -> str:
    """The whole page: where it was measured, the table of ratios, and other tables."""
    lines = [
        "# Results",
        "",
        f"{date.today()}, commit {commit()}; it took {minutes:.0f} minutes, with a load of {os.getloadavg()[1]:.1f} "
        "in the last five.",
        "",
        machine(device) + ".",
        versions() + ".",
        "",
        "A ratio is theirs to ours, more than 1 in favour of this package: median, and smallest to largest of the "
        "rounds. CPU is the same of the processor time of all threads. Memory is above what was loaded.",
        "",
        "| work | next to | here | there | ratio | spread | CPU | asked | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        here = amount(row.here, row.measure)
        if row.other is None:
            lines.append(f"| {row.what} | {row.side} | {here} | {row.note} | | | | {asked(row)} | |")
            continue
        spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}" if len(row.ratios) > 1 else "one round"
        cpu = "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}"
        holds = {True: "yes", False: "**no**", None: ""}[row.holds]
        lines.append(
            f"| {row.what} | {row.side} | {here} | {amount(row.other, row.measure)} | {row.ratio:.2f} | {spread} "
            f"| {cpu} | {asked(row)} | {holds} |"
        )
    for table in more:
        lines += ["", *table]
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], path: Path) -> bool:
    """Draw the ratios with their spread, and beside that picture a short one, `..._short.svg`, of some that are next to
    the built-in. False where matplotlib is not installed."""
    try:
        from matplotlib import rc_context
    except ImportError:
        return False
    rows = [row for row in rows if row.other is not None]
    short = {row.comparison: row.ratio for row in rows if row.side == BUILTIN and row.comparison in IN_SHORT}
    with rc_context(dict.fromkeys(INKED, INK)):
        _plot_all(rows, path)
        if short:
            _plot_short(short, path.with_stem(f"{path.stem}_short"))
    return True


def _plot_all(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(reversed(rows)):
        colour = "tab:red" if row.holds is False else "tab:blue"
        axes.plot([min(row.ratios), max(row.ratios)], [height, height], color=colour, linewidth=5, alpha=0.4)
        axes.plot(row.ratio, height, "o", color=colour)
        if row.least is not None:
            axes.plot(row.least, height, "|", color=INK, markersize=14)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [f"{row.comparison}: {row.side}" for row in reversed(rows)])
    axes.set_xlabel("theirs to ours, right of 1 in our favour: median, rounds, and what was asked for (grey)")
    figure.savefig(path, transparent=True)


def _plot_short(ratios: dict[str, float], path: Path) -> None:
    from matplotlib.figure import Figure

    names = sorted(ratios, key=ratios.get)
    figure = Figure(figsize=(7, 0.5 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    beyond = [ratios[name] - 1 for name in names]
    bars = axes.barh([IN_SHORT[name] for name in names], beyond, left=1, color="tab:blue")
    axes.bar_label(bars, [f"{ratios[name]:.3g}\N{MULTIPLICATION SIGN}" for name in names], padding=4)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(0.9 * min(1, *ratios.values()), 2 * max(ratios.values()))
    axes.set_title("times as fast as the built-in", fontsize="medium")
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    figure.savefig(path, transparent=True)
