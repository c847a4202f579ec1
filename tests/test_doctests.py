"""Every example in a docstring of the package runs and prints what it says."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import llava_next_video
import llava_next_video.conversion
import llava_next_video.modeling
import llava_next_video.processing
import llava_next_video.training


PACKAGES = (
    llava_next_video,
    llava_next_video.conversion,
    llava_next_video.modeling,
    llava_next_video.processing,
    llava_next_video.training,
)
MODULES = [
    f"{package.__name__}.{module.name}"
    for package in PACKAGES
    for module in pkgutil.iter_modules(package.__path__)
    if not module.ispkg and module.name != "__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])  # examples name the sample clips by their path in the repository
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    examples = sum(
        len(test.examples) for name in MODULES for test in doctest.DocTestFinder().find(importlib.import_module(name))
    )
    assert examples > 20
