"""The page of the command line says what the parsers do, and they say something about everything."""

import argparse
import runpy
from pathlib import Path

from llava_next_video.commands import make_parsers


DOCS = Path(__file__).parents[2] / "docs"


def test_page_is_what_the_parsers_say():
    script = runpy.run_path(str(DOCS / "command_line.py"))
    text = (DOCS / "command_line.md").read_text()
    assert script["MARK"] in text
    assert script["page"](text) == text, "run python docs/command_line.py"


def test_page_has_every_command_and_option():
    text = (DOCS / "command_line.md").read_text()
    for name, parser in make_parsers()[1].items():
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
                assert action.help, f"{name} {action.dest} has no help"
                for option in action.option_strings or [action.metavar]:
                    assert f"`{option}`" in section, f"{name} {option}"
