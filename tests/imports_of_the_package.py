"""Who imports whom in the package, read from the source: for `test_rooms.py` and for the picture of the rooms."""

import ast
from pathlib import Path

from setup import FOLDERS, ROOMS


ROOT = Path(__file__).parents[1]
FILES = [path for room in ROOMS for path in sorted(ROOT.glob(f"{room}/*.py*")) if path.is_file()]


def imports_of(path: Path) -> list[tuple[ast.stmt, str]]:
    """Every import of this package's own modules in a file, functions included, with the full name of the module."""
    room = path.parent.name
    package = next(name for name, folder in FOLDERS.items() if folder == room)
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            # `from package import name` may name a module.
            found += [(node, f"{module}.{alias.name}") for alias in node.names]
    return [(node, name) for node, name in found if name.split(".")[0] == "llava_next_video"]


def file_of(name: str) -> Path | None:
    """The file that defines a full name of this package; None for a room as a whole."""
    parts = name.split(".")[1:]
    room = parts.pop(0) if parts and parts[0] in ROOMS else "package"
    candidates = [ROOT / room / f"{parts[0]}.py"] if parts else []
    return next((path for path in candidates if path.is_file()), None)


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "package"
