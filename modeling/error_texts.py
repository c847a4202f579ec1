"""How errors show what strangers' files hold, and other errors: shortened, because either may be a megabyte."""

import reprlib


def reason_of(error: Exception) -> str:
    """Kind and message of an error, in one line."""
    return f"{type(error).__name__}: {shortened(' '.join(str(error).split()), 300)}"


def quoted(value: object) -> str:
    """A value from a stranger's file."""
    return shortened(repr(value[:101]), 100) if isinstance(value, str) else reprlib.repr(value)


def shortened(text: str, length: int) -> str:
    """The beginning of a text that is too long to be shown whole.

    >>> shortened("a long text", 6)
    'a long...'
    """
    return text if len(text) <= length else f"{text[:length]}..."
