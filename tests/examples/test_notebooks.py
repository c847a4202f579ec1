"""The code of the notebooks prints and shows what stands in them, and their pages in the documentation are the same.

`docs/notebooks.py` runs them with Jupyter and writes the pages.
"""

import ast
import base64
import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_docs import blocks_of


ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[tuple[str, str, dict]]:
    """Of each cell with code: the code, what it prints, and what it shows by kind."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return [("".join(cell["source"]), *outputs_of(cell)) for cell in cells]


def outputs_of(cell: dict) -> tuple[str, dict]:
    printed = [text for output in cell["outputs"] for text in output.get("text", ())]
    shown = [output["data"] for output in cell["outputs"] if "data" in output]
    return "".join(printed), shown[0] if shown else {}


def run(code: str, namespace: dict):
    """Run a cell as Jupyter does; returns the value of the expression at its end, if there is one."""
    *statements, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        statements, last = [*statements, last], ast.Expr(ast.Constant(None))
    exec(compile(ast.Module(statements, type_ignores=[]), "cell", "exec"), namespace)
    return eval(compile(ast.Expression(ast.fix_missing_locations(last.value)), "cell", "eval"), namespace)


@each_notebook
def test_code_prints_and_shows_what_stands_in_the_notebook(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    namespace = {}
    for code, printed, shown in cells_of(path):
        prints = io.StringIO()
        with contextlib.redirect_stdout(prints):
            value = run(code, namespace)
        assert prints.getvalue() == printed
        if "image/png" in shown:
            picture = Image.open(io.BytesIO(base64.b64decode("".join(shown["image/png"]))))
            assert value.size == picture.size
            assert np.abs(np.subtract(value, picture.convert("RGB"), dtype=float)).mean() < 2  # of 255
        else:
            assert (repr(value) if value is not None else "") == "".join(shown.get("text/plain", ""))


@each_notebook
def test_page_is_the_notebook(path):
    page = ROOT / "docs" / "notebooks" / f"{path.stem}.md"
    cells = cells_of(path)
    assert [block.text.strip() for block in blocks_of(page, "python")] == [code for code, _, _ in cells]
    pictures = [base64.b64decode("".join(shown["image/png"])) for _, _, shown in cells if "image/png" in shown]
    assert pictures
    assert sorted(pictures) == sorted(picture.read_bytes() for picture in page.parent.glob(f"{path.stem}_*.png"))
    for _, printed, shown in cells:
        for line in (printed or "".join(shown.get("text/plain", "") if "image/png" not in shown else "")).splitlines():
            assert f"    {line}" in page.read_text()


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 2
