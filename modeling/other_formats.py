"""Checkpoints in formats other than ours, which `from_pretrained` of our classes reads too.

The package adds the format of the original code (`package/registration.py`), as a function that imports the class that
reads it, so that this happens when the first checkpoint is loaded. Code exported with a checkpoint adds none.
"""

from collections.abc import Callable


IMPORTERS: list[Callable[[], type]] = []


def format_of(source, kwargs: dict) -> type | None:
    """The other format that a folder or repository has, or None if it has ours or cannot be read.

    Args:
        source: as for `from_pretrained`.
        kwargs: its arguments; those for the Hub are used.
    """
    formats = (importer() for importer in IMPORTERS)
    return next((each for each in formats if each.recognises(source, kwargs)), None)
