"""Starting an interpreter and importing the package: over torch and transformers alone, and over the parts of
transformers that a program imports sooner or later."""

import subprocess
import sys

from benchmarks.comparison import HERE, Comparison, Setting


ALONE = "import torch, transformers"
USED = "import torch; from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline"


def importing(statements: str):
    def prepare(setting: Setting):
        return lambda: subprocess.run([sys.executable, "-c", statements], check=True)

    return prepare


def with_and_without_package(statements: str) -> dict:
    return {
        HERE: importing(f"{statements}; import llava_next_video"),
        "without the package": importing(statements),
    }


COMPARISONS = [
    Comparison(
        "import",
        "import torch, transformers and the package",
        with_and_without_package(ALONE),
        most_extra_seconds=0.3,
    ),
    Comparison(
        "import_used",
        "import torch, Auto classes and `pipeline` of transformers, and the package",
        with_and_without_package(USED),
        warm_up=False,
    ),
]
