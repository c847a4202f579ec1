"""Runs notebooks of examples/, and makes pages of them: `python docs/notebooks.py [NAME ...]` (packages: `pip install
".[docs]"`).

It writes their outputs into them, and docs/notebooks/ with the pictures. tests/examples/test_notebooks.py runs their
code without Jupyter, and compares.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, ExecutePreprocessor


ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "notebooks"
NOT_RUN = "<!-- not run: tests/examples/test_notebooks.py runs it -->"


def run(notebook: nbformat.NotebookNode):
    """Execute the cells, and keep of it what is the same wherever they run."""
    ExecutePreprocessor().preprocess(notebook, {"metadata": {"path": ROOT / "examples"}})
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]  # bars of progress
            for data in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
                data.pop("image/jpeg", None)  # PIL shows its pictures twice
    CoalesceStreamsPreprocessor().preprocess(notebook, {})


def write_page(notebook: nbformat.NotebookNode, name: str):
    """Its cells as Markdown, with a link to it, and pictures beside it."""
    page, resources = MarkdownExporter().from_notebook_node(notebook, {"unique_key": name})
    page = re.sub("^```python$", f"{NOT_RUN}\n```python", page.strip(), flags=re.MULTILINE)
    page = re.sub(r"\n(?: *\n){3,}", "\n\n", page)
    page = re.sub(r"^!\[png\]\((.+)\)$", r"![What the cell shows](\1)", page, flags=re.MULTILINE)
    title, _, rest = page.partition("\n")
    source = f"This is a notebook, `examples/{name}.ipynb`, to be opened with Jupyter from a checkout."
    (PAGES / f"{name}.md").write_text(f"{title}\n\n{source}\n{rest}\n", encoding="utf-8")
    for picture, content in resources["outputs"].items():
        (PAGES / picture).write_bytes(content)


if __name__ == "__main__":
    names = sys.argv[1:] or [path.stem for path in (ROOT / "examples").glob("*.ipynb")]
    for path in (ROOT / "examples" / f"{name}.ipynb" for name in names):
        notebook = nbformat.read(path, as_version=4)
        run(notebook)
        nbformat.write(notebook, path)
        write_page(notebook, path.stem)
