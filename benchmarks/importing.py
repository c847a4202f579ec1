"""Starting an interpreter: importing the package over torch and transformers alone, and answering on the command line
over importing what every program that loads a model imports."""

import subprocess
import sys

from benchmarks.comparison import HERE, Comparison, Setting


ALONE = "import torch, transformers"
AUTO_CLASSES = "import torch; from transformers import AutoModelForImageTextToText, AutoProcessor"
SAMPLE = "demo_model/samples/red_circle_moves_left.mp4"
ASK = ["-m", "llava_next_video", "ask", SAMPLE, "Which way does the circle move?", "--device", "cpu"]


def python(*arguments: str):
    def prepare(setting: Setting):
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    return prepare


COMPARISONS = [
    Comparison(
        "import",
        "import torch, transformers and the package",
        {HERE: python("-c", f"{ALONE}, llava_next_video"), "without the package": python("-c", ALONE)},
        most_extra_seconds=0.3,
    ),
    Comparison(
        "ask",
        "an answer about a sample on the command line",
        {HERE: python(*ASK), "importing torch and Auto classes alone": python("-c", AUTO_CLASSES)},
        most_extra_seconds=0.5,
    ),
]
