"""Starting an interpreter and importing the package, next to importing what everyone who uses it imports."""

import subprocess
import sys

from benchmarks.comparison import HERE, Comparison, Setting


ALONE = "import torch; from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline"


def importing(statements: str):
    def prepare(setting: Setting):
        return lambda: subprocess.run([sys.executable, "-c", statements], check=True)

    return prepare


COMPARISONS = [
    Comparison(
        "import",
        "import torch, Auto classes and `pipeline` of transformers, and the package",
        {HERE: importing(f"{ALONE}; import llava_next_video"), "without the package": importing(ALONE)},
        most_extra_seconds=0.3,
    )
]
