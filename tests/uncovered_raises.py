"""Which `raise` does no test reach? `python -m tests.uncovered_raises [arguments of pytest]`.

Runs the tests and prints how many of the package's lines ran, and its `raise` statements that never did; exit status 1
when there are any, and pytest's own when a test fails. That their messages are compared (`match=`) is for the reader of
the tests to see.
"""

import ast
import io
import sys
from importlib.util import find_spec
from pathlib import Path

import coverage
import pytest

from setup import ROOMS


ROOT = Path(__file__).parents[1]
NEED_AN_ENGINE = {"serving/web_layout.py": "gradio"}  # `.ci/engines` runs their tests


def raises_in(path: Path) -> set[int]:
    """Lines of the `raise` statements in a file, except those that pass an error on."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.lineno for node in nodes if isinstance(node, ast.Raise) and node.exc is not None}


def lines_covered(watch: coverage.Coverage) -> float:
    """Percentage of the lines that ran, of the package's files that were imported."""
    return watch.report(file=io.StringIO())


def main(arguments: list[str]) -> int:
    watch = coverage.Coverage(data_file=None, include=[f"{ROOT}/{room}/*.py" for room in ROOMS])
    watch.start()
    status = pytest.main(arguments)
    watch.stop()
    data = watch.get_data()
    print(f"\n{lines_covered(watch):.1f} % of the package's lines ran")
    never = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ROOMS
        for path in sorted(ROOT.glob(f"{room}/*.py"))
        if find_spec(NEED_AN_ENGINE.get(f"{room}/{path.name}", "sys"))
        for line in sorted(raises_in(path) - set(data.lines(str(path)) or ()))
    ]
    if never:
        print(f"\n{len(never)} raise statements that no test reaches:", *never, sep="\n  ")
    return status or bool(never)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
