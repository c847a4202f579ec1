"""Builds the site from these pages: `python docs/build.py` (packages: `pip install ".[docs]"`) writes it into site/.

The generator, Zensical, reads docstrings from source files with mkdocstrings and griffe; the package is not imported.
Our docstrings are Markdown in the style of transformers, and are rewritten on the way: argument lists become lists,
examples code blocks, and [`Name`] a link.
"""

import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from textwrap import dedent

import griffe


ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))
from setup import FOLDERS  # noqa: E402


SOURCES = ROOT / "build" / "docs" / "llava_next_video"  # `paths` in zensical.toml is the folder above

SECTION = re.compile(r"^(Args|Returns|Raises|Yields):\n((?:    .*\n?|\n(?=    ))+)", re.MULTILINE)
ENTRY = re.compile(r"^(\w+(?:, \w+)*)((?: \((?s:.*?)\))?:) ", re.MULTILINE)
EXAMPLE = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)
REFERENCE = re.compile(r"\[`([\w.]+)`\](?![\[(])")


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it is collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs):
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """A docstring of this project as plain Markdown."""
    text = SECTION.sub(as_list, docstring)
    text = EXAMPLE.sub(lambda example: f"```pycon\n{example[0].rstrip()}\n```\n", text)
    return REFERENCE.sub(r"[`\1`][\1]", text)


def as_list(section: re.Match) -> str:
    """One item for each entry of a section; text that names nothing stays text."""
    entries = ENTRY.sub(r"\n- **\1**\2 ", dedent(section[2])).strip()
    return f"**{section[1]}**\n\n{entries}\n\n"


def put_sources_under_their_import_names():
    """As setup.py does when the package is installed."""
    rmtree(SOURCES, ignore_errors=True)
    for name, folder in FOLDERS.items():
        target = SOURCES.parent / name.replace(".", "/")
        copytree(ROOT / folder, target, ignore=ignore_patterns("demo_checkpoint", "__pycache__"), dirs_exist_ok=True)


if __name__ == "__main__":
    put_sources_under_their_import_names()
    # `--clean`, because pages are cached, and a changed docstring does not change its page.
    sys.exit(subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT).returncode)
