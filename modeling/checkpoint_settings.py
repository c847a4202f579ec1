"""Settings of a checkpoint, and its index of weights: read within limits, with one error for whatever is wrong.

They come from strangers. A file is measured before it is read, and what transformers and the tokenizers library raise
at impossible settings (`TypeError`, `RecursionError`, `Exception` itself) becomes a `CheckpointError` that says what to
do.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .error_texts import quoted, reason_of


# Real files of settings have a few kilobytes; with a thousand added tokens, a megabyte.
MAX_SETTINGS_BYTES = 4 * 2**20
MAX_INDEX_BYTES = 16 * 2**20  # of names of weights; a real index or header has 1 MB for ten thousand of them
# What transformers raises, beside ValueError, at settings that it cannot use.
SETTINGS_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError)


class CheckpointError(ValueError):
    """A checkpoint's files cannot be read, or are not complete."""


class UntrustedCheckpoint(Exception):
    """A checkpoint's folder leads to something outside of it, which was not opened.

    It is neither a `ValueError` nor an `OSError`, because after those transformers' Auto classes and pipelines try
    other classes, the built-in's among them, which would open it.
    """


@contextmanager
def reading_settings(source: str | Path) -> Iterator[None]:
    """Turn the errors that damaged settings cause, in transformers and elsewhere, into one error.

    Raises:
        CheckpointError: the block failed, and not with an error that says what to do.
    """
    try:
        yield
    except Exception as error:  # the tokenizers library raises `Exception` itself
        is_unclear = isinstance(error, (json.JSONDecodeError, UnicodeError))
        if isinstance(error, (ValueError, OSError, ImportError, UntrustedCheckpoint)) and not is_unclear:
            raise
        raise CheckpointError(
            f"The settings of {source} cannot be used: {reason_of(error)}. Its config.json, its "
            "tokenizer or other files of settings are damaged, or do not belong together. Download them again."
        ) from error


def read_json(path: Path, max_bytes: int = MAX_SETTINGS_BYTES, **options) -> dict:
    """Read a JSON file that holds names and values; `options` are those of `json.loads`.

    Raises:
        CheckpointError: it is too large, not JSON, or not a dictionary.
    """
    try:
        if (size := path.stat().st_size) > max_bytes:
            raise ValueError(f"it has {size} bytes, more than {max_bytes}")
        settings = json.loads(path.read_bytes(), **options)
        if not isinstance(settings, dict):
            raise ValueError(f"it holds a {type(settings).__name__} instead of names and values")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Download it again.") from error
    return settings


def read_weight_map(index: Path) -> dict[str, str]:
    """Names of weights, and the files of the index's folder that hold them.

    Raises:
        CheckpointError: the file is not an index of weights, or leads out of its folder.
    """
    weight_map = read_json(index, MAX_INDEX_BYTES, object_pairs_hook=no_name_twice).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index} does not say which file holds which weight. Download it again.")
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file or file == "..":
            raise CheckpointError(
                f"{index} names the file {quoted(file)}, which is not in its folder, and was not opened. Download the "
                "checkpoint again, from someone you trust."
            )
    return weight_map


def no_name_twice(pairs: list[tuple[str, object]]) -> dict:
    """For `json.loads`: refuse two entries of the same name, because another program may take the other one.

    Raises:
        ValueError: a name is there twice.
    """
    entries = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"it names {quoted(name)} twice")
        entries[name] = value
    return entries
