"""Facts for a model card that the checkpoint's other files do not show: `model_card.json` beside the weights.

    {
      "title": "Moving coloured shapes",               where the card is not of a repository with a name
      "license": "apache-2.0",                         as the Hub abbreviates it; "other" comes with a "license_name"
      "license_name": "my-license",                    and, if there is one, a "license_link"
      "language": ["en"],                              of questions and answers
      "base_model": ["owner/name"],                    Hub ids of what the weights were made from
      "subject": "videos of moving coloured shapes",   what it answers questions about
      "limits": ["It knows four shapes.", "..."],      what it cannot do, a sentence each
      "origin": "It was trained from nothing on ...",  where the weights come from
      "images": false                                  whether it was trained on pictures too
    }

Every key is optional. An export keeps the file, so that exporting it again gives the same card.
"""

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from llava_next_video.modeling.checkpoint_settings import read_json
from llava_next_video.modeling.error_texts import quoted


FACTS_FILE = "model_card.json"
MAX_CHARACTERS, MAX_ENTRIES = 500, 50  # of a text, and of a list
# Characters with a meaning in Markdown, anywhere and at the beginning of a line.
MARKS = re.compile(r"[\\`*_{}\[\]<>#|!~$&]")
MARKS_AT_THE_START = re.compile(r"^([-+=:]|\d+(?=[.)]))")


@dataclass(frozen=True)
class CardFacts:
    """The facts of a checkpoint, as above."""

    title: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    base_model: tuple[str, ...] = ()
    subject: str = "videos"
    limits: tuple[str, ...] = ()
    origin: str | None = None
    images: bool = True

    @property
    def said(self) -> dict:
        """The facts that differ from the defaults, as the file stores them."""
        defaults = asdict(CardFacts())
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}


def facts_of(folder: str | Path) -> CardFacts:
    """The facts in a checkpoint's folder; the defaults if it has no such file.

    Raises:
        CheckpointError: the file is damaged.
        ValueError: it has an unknown key, or an impossible value.
    """
    path = Path(folder) / FACTS_FILE
    return with_facts(CardFacts(), read_json(path), str(path)) if path.is_file() else CardFacts()


def with_facts(facts: CardFacts, said: dict, where: str) -> CardFacts:
    """Facts with those in `said` replaced, except where these are `None`; errors call their source `where`.

    Raises:
        ValueError: one of them is unknown or impossible.
    """
    kinds = {field.name: type(field.default) if field.default is not None else str for field in fields(CardFacts)}
    if unknown := sorted(said.keys() - kinds.keys()):
        raise ValueError(
            f"{where} says {quoted(unknown[0])} of a checkpoint, which a model card has no place for; it has one for "
            f"{', '.join(kinds)}."
        )
    checked = {name: checked_fact(name, value, kinds[name], where) for name, value in said.items() if value is not None}
    return replace(facts, **checked)


def checked_fact(name: str, value, kind: type, where: str):
    """A fact, if it is of its kind: yes or no, a text, or texts, as a list or a single one.

    Raises:
        ValueError: it is something else, or too long.
    """
    values = [value] if kind is tuple and isinstance(value, str) else value
    if (kind is bool and isinstance(value, bool)) or (kind is str and is_text(value)):
        return value
    if kind is tuple and isinstance(values, list | tuple) and len(values) <= MAX_ENTRIES and all(map(is_text, values)):
        return tuple(values)
    expected = {
        bool: "true or false",
        str: f"a line of up to {MAX_CHARACTERS} characters",
        tuple: f"up to {MAX_ENTRIES} lines of up to {MAX_CHARACTERS} characters",
    }[kind]
    raise ValueError(f"The model card cannot say {name}: {quoted(value)}, as in {where}; it has to be {expected}.")


def is_text(value) -> bool:
    return isinstance(value, str) and value.isprintable() and value.strip() != "" and len(value) <= MAX_CHARACTERS


def write_facts(folder: Path, facts: CardFacts):
    """Write the facts into a checkpoint's folder, if there are any."""
    if facts.said:
        text = json.dumps(facts.said, indent=2, ensure_ascii=False) + "\n"
        (folder / FACTS_FILE).write_text(text, encoding="utf-8")


def plain(text: str) -> str:
    r"""A text with everything escaped that means something in Markdown.

    >>> print(plain("# <b>4</b> shapes"), plain("1. [x](y)"))
    \# \<b\>4\</b\> shapes 1\. \[x\](y)
    """
    text = MARKS.sub(r"\\\g<0>", " ".join(text.split()))
    return MARKS_AT_THE_START.sub(lambda mark: f"{mark[0]}\\" if mark[0].isdigit() else f"\\{mark[0]}", text)
