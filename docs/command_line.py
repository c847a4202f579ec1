"""Writes the lists of commands and options into command_line.md, made from the parsers: `python docs/command_line.py`.

What stands above the mark there is written by hand. A test compares the rest.
"""

import argparse
from pathlib import Path

from llava_next_video.commands import COMMANDS, make_parsers


PAGE = Path(__file__).with_suffix(".md")
MARK = "<!-- From here on made of the parsers by docs/command_line.py. -->\n"


def page(text: str) -> str:
    """The page, with what it says about the parsers made anew."""
    parser, parsers = make_parsers()
    sections = [section(name, parsers[name], COMMANDS[name].description) for name in COMMANDS]
    return "\n".join([text.partition(MARK)[0] + MARK, *sections, everywhere(parser)])


def section(name: str, parser: argparse.ArgumentParser, description: str) -> str:
    lines = [f"## {name}\n", f"{description}\n", "```text", *usages(parser), "```\n", "| | |", "|---|---|"]
    for group in parser._action_groups:  # argparse has no public way to its groups
        hidden = [action for action in group._group_actions if action.help == argparse.SUPPRESS]
        actions = [action for action in group._group_actions if action not in hidden]
        if group.title not in ("positional arguments", "options"):
            lines += [f"\n### {name}: {group.title}\n"]
            lines += [f"{sentence(group.description)}\n"] if group.description else []
            lines += ["| | |", "|---|---|"]
        lines += [row(action) for action in actions if not isinstance(action, argparse._HelpAction)]
    return "\n".join([*lines, ""])


def usages(parser: argparse.ArgumentParser) -> list[str]:
    """How a command is called: as the parser says, or by its arguments that are no options."""
    if parser.usage:
        return [line.strip() for line in parser.usage.splitlines()]
    places = [action for action in parser._actions if not action.option_strings]
    return [" ".join([parser.prog, "[options]", *(usage_of(action) for action in places)])]


def usage_of(action: argparse.Action) -> str:
    return {"?": "[{}]", "+": "{0} [{0} ...]"}.get(action.nargs, "{}").format(action.metavar or action.dest)


def row(action: argparse.Action) -> str:
    names = " or ".join(f"`{name}`" for name in action.option_strings if name != "-h") or f"`{action.metavar}`"
    if action.option_strings and action.nargs != 0:
        choices = [str(choice) for choice in action.choices or ()]
        value = action.metavar or (f"one of {', '.join(choices)}" if choices else action.dest.upper())
        several = " ..." if action.nargs == "+" else ""
        names += f" {value}" if choices and not action.metavar else f" `{value}{several}`"
    return f"| {names} | {' '.join(action.help.split())} |".replace("<", "\\<")


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def everywhere(parser: argparse.ArgumentParser) -> str:
    options = [action for action in parser._actions if action.option_strings]
    rows = [row(action) for action in options if not isinstance(action, argparse._HelpAction)]
    return "\n".join(
        [
            "## Without a command\n",
            "| | |",
            "|---|---|",
            *rows,
            "| `--help` | print the commands; behind a command, its options |",
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
