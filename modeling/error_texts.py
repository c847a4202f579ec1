"""How errors show values from strangers, and other errors: shortened, because either may be megabytes long."""

import reprlib
from numbers import Number


def reason_of(error: Exception) -> str:
    """Kind and message of an error, in one line."""
    return f"{type(error).__name__}: {shortened(' '.join(str(error).split()), 300)}"


def first_line(error: Exception) -> str:
    """The first line of an error's message; its kind, where it has none."""
    return next(iter(str(error).splitlines()), repr(error))


def quoted(value: object) -> str:
    """A value from a stranger's file or call: the beginning of plain data, the type of anything else.

    >>> quoted("a" * 200) == "'" + "a" * 99 + "...", quoted(object())
    (True, 'object')
    """
    if isinstance(value, str | bytes):
        return shortened(repr(value[:101]), 100)
    is_plain = value is None or isinstance(value, Number | list | tuple | dict)
    return reprlib.repr(value) if is_plain else type(value).__name__


def shortened(text: str, length: int) -> str:
    """The beginning of a text that is too long to be shown whole.

    >>> shortened("a long text", 6)
    'a long...'
    """
    return text if len(text) <= length else f"{text[:length]}..."
