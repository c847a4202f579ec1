"""The house: a room uses the rooms below it and none above, and no files go round in a circle.

`setup.py` lists the rooms from the lowest to the highest. In rooms whose files are exported with a checkpoint, imports
are written so that one rule makes them flat (`inference/code_export.py`).
"""

import ast
from graphlib import TopologicalSorter

import pytest

from setup import ROOMS
from tests.imports_of_the_package import FILES, ROOT, file_of, imports_of, room_of


NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]
each_file = pytest.mark.parametrize("path", FILES, ids=NAMES)
# Rooms whose files are copied beside a checkpoint; of `inference/` only those that the pipeline needs.
EXPORTED = ("modeling", "reading", "processing")
LONGEST_FILE = 450  # lines


@each_file
def test_no_import_runs_upwards(path):
    floor = ROOMS.index(path.parent.name)
    upwards = [f"line {node.lineno}: {name}" for node, name in imports_of(path) if ROOMS.index(room_of(name)) > floor]
    assert not upwards


def test_no_import_runs_in_a_circle():
    graph = {path: {file_of(name) for _, name in imports_of(path)} - {None, path} for path in FILES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@each_file
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) < LONGEST_FILE


def test_names_of_exported_files_differ():
    names = [path.name for path in FILES if path.parent.name in (*EXPORTED, "inference") and path.stem != "__init__"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name in EXPORTED and path.stem != "__init__"])
def test_imports_of_exported_files_are_relative_and_one_a_line(path):
    """`from .name import ...` in the same room, `from ..room.name import ...` below; nothing else becomes flat."""
    for node, name in imports_of(path):
        assert isinstance(node, ast.ImportFrom), f"line {node.lineno}"
        assert (node.level, len((node.module or "").split("."))) in ((1, 1), (2, 2)), f"line {node.lineno}"
        assert node.module, f"line {node.lineno}"
        assert room_of(name) != path.parent.name or node.level == 1, f"line {node.lineno}"
