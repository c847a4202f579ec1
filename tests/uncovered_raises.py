"""Which `raise` does no test reach? `python -m tests.uncovered_raises [arguments of pytest]`.

Runs the tests and prints the package's `raise` statements that never ran; exit status 1 when there are any, and
pytest's own when a test fails. That their messages are compared (`match=`) is for the reader of the tests to see.

The package is compiled with a mark before each `raise`, which costs nothing until it is reached; to watch every line
would make the tests take half as long again.
"""

import ast
import builtins
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path

import pytest

from setup import ROOMS


ROOT = Path(__file__).parents[1]
NEED_AN_ENGINE = {"serving/web_layout.py": "gradio"}  # `.ci/engines` runs their tests
MARK = "__raise_is_reached__"


class Marks(ast.NodeTransformer):
    """Puts a mark before the `raise` statements of a file, except those that pass an error on."""

    def __init__(self, path: Path):
        self.name, self.lines = str(path.relative_to(ROOT)), []

    def visit_Raise(self, node: ast.Raise):
        if node.exc is None:
            return node
        self.lines.append(node.lineno)
        mark = ast.parse(f"{MARK}(({self.name!r}, {node.lineno}))").body[0]
        return [ast.copy_location(mark, node), node]


def marked(path: Path) -> tuple[ast.Module, list[int]]:
    """A file with its marks, and the lines that have one."""
    marks = Marks(path)
    return ast.fix_missing_locations(marks.visit(ast.parse(path.read_text()))), marks.lines


def mark_what_is_imported():
    """Compile the package's files with marks, from now on."""
    usual = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str):
        path = Path(loader.path)
        if path.parent.parent != ROOT or path.parent.name not in ROOMS:
            return usual(loader, name)
        return compile(marked(path)[0], str(path), "exec", dont_inherit=True)

    SourceFileLoader.get_code = get_code


def main(arguments: list[str]) -> int:
    reached = set()
    setattr(builtins, MARK, reached.add)
    mark_what_is_imported()
    status = pytest.main(arguments)
    files = {path.relative_to(ROOT): path for room in ROOMS for path in sorted(ROOT.glob(f"{room}/*.py"))}
    never = [
        f"{name}:{line}"
        for name, path in files.items()
        if find_spec(NEED_AN_ENGINE.get(str(name), "sys"))
        for line in marked(path)[1]
        if (str(name), line) not in reached
    ]
    print(f"\n{len(reached)} raise statements were reached.")
    if never:
        print(f"\n{len(never)} raise statements that no test reaches:", *never, sep="\n  ")
    return status or bool(never)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
