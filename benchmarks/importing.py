"""Starting an interpreter and importing the package, over torch and transformers alone."""

import subprocess
import sys

from benchmarks.comparison import HERE, Comparison, Setting


ALONE = "import torch, transformers"


def importing(statements: str):
    def prepare(setting: Setting):
        return lambda: subprocess.run([sys.executable, "-c", statements], check=True)

    return prepare


COMPARISONS = [
    Comparison(
        "import",
        "import torch, transformers and the package",
        {HERE: importing(f"{ALONE}, llava_next_video"), "without the package": importing(ALONE)},
        most_extra_seconds=0.3,
    ),
]
