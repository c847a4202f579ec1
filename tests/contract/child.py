"""One side with one recipe, in a process of its own: `python -m tests.contract.child SIDE RECIPE TESTS RESULTS`.

TESTS is a folder `tests` of transformers; RESULTS is written: `{test: [outcome, why]}`, as JSON.
"""

import importlib
import importlib.machinery
import importlib.util
import json
import random
import sys
import traceback
import types
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers.testing_utils
from _pytest.outcomes import Skipped

from tests.contract import media
from tests.contract.subjects import RECIPES, Classes


PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"

PACKAGE = "tests_of_transformers"  # `tests` is ours
# What the shared tests import and the source distribution has not; a checkout of transformers has them.
ABSENT = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},
}


def add_module(name: str, path: list[str] | None = None, **contents):
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=path is not None)
    if path is not None:
        module.__path__ = path
    sys.modules[name] = module


def introduce_tests(folder: Path, samples: Path):
    """Make transformers' folder of tests importable as `PACKAGE`, with stubs for what is not in it."""
    add_module(PACKAGE, [str(folder)])
    for name, contents in ABSENT.items():
        subfolder, _ = name.split(".")
        if not (folder / f"{name.replace('.', '/')}.py").exists():
            add_module(f"{PACKAGE}.{subfolder}", [])
            add_module(f"{PACKAGE}.{name}", **contents)
    add_module("tests.exporters", [str(folder / "exporters")])  # the tests of generation call it so
    # Their videos and pictures are on the Hub; what they are asked about is only their sizes.
    add_module("fetch_hub_objects_for_ci", url_to_local_path=lambda url: media.sample(url, samples))
    # Our classes need no torchcodec to read videos, so the tests that ask for it run.
    transformers.testing_utils.is_torchcodec_available = lambda: True


def shared_tests(name: str) -> types.ModuleType:
    return importlib.import_module(f"{PACKAGE}.test_{name}_common")


def seed(modules: list[types.ModuleType]):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    for module in modules:
        if hasattr(module, "global_rng"):
            module.global_rng.seed(0)


class Outcomes(unittest.TestResult):
    """How each test ended, and the last line of why."""

    def __init__(self, modules: list[types.ModuleType]):
        super().__init__()
        self.modules = modules
        self.of_tests = {}

    def startTest(self, test):
        super().startTest(test)
        seed(self.modules)

    def note(self, test, outcome: str, why: str = ""):
        if outcome == FAILED or self.of_tests.get(test.id(), [PASSED])[0] == PASSED:
            self.of_tests[test.id()] = [outcome, why]

    def addSuccess(self, test):
        self.note(test, PASSED)

    def addSkip(self, test, reason):
        self.note(test, SKIPPED, reason)

    def addFailure(self, test, error):
        if isinstance(error[1], Skipped):
            self.note(test, SKIPPED, str(error[1]))
        else:
            self.note(test, FAILED, "".join(traceback.format_exception(*error)[-12:]))

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.addFailure(test, error)


def main(side: str, recipe: str, folder: str, results: str):
    torch.set_num_threads(1)
    with TemporaryDirectory() as samples:
        introduce_tests(Path(folder), Path(samples))
        modules = {name: shared_tests(name) for name in ("modeling", "configuration", "processing")}
        modules |= {name: shared_tests(name) for name in ("video_processing", "image_processing")}
        suites = importlib.import_module("tests.contract.suites").suites(modules, Classes(side), RECIPES[recipe])
        outcomes = Outcomes(list(modules.values()))
        for suite in suites:
            unittest.defaultTestLoader.loadTestsFromTestCase(suite).run(outcomes)
    Path(results).write_text(json.dumps(outcomes.of_tests))


if __name__ == "__main__":
    main(*sys.argv[1:])
