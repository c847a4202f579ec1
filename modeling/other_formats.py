"""Checkpoints in formats other than ours, which `from_pretrained` of our classes reads too.

The package adds the format of the original code (`package/registration.py`) by the name of the module that reads it,
which is imported when the first checkpoint is loaded. Code exported with a checkpoint adds none.
"""

from importlib import import_module
from types import ModuleType


MODULES: list[str] = []


def format_of(source, kwargs: dict) -> ModuleType | None:
    """The module that reads a folder or repository of another format, or None if it has ours or cannot be read.

    Such a module has the functions `recognises`, `config_dict`, `model` and `processor`.

    Args:
        source: as for `from_pretrained`.
        kwargs: its arguments; those for the Hub are used.
    """
    return next((each for each in map(import_module, MODULES) if each.recognises(source, kwargs)), None)
