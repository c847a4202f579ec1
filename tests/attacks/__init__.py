"""What strangers may send, to break a service: each file has the attacks of one door (addresses, pictures, messages).

A file defines `attacks(folder)`, which writes what it needs into a folder, starts the servers it needs on this machine,
and returns a list of `Attack`. `test_attacks.py` runs every file in a small process of its own
(`python -m tests.attacks FILE`): every attack has to end as it says, within its time and within the process's memory.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """One attempt.

    Args:
        name: what is tried, in a few words.
        run: does it.
        error: what it has to end in; `None` where it has to be answered without harm.
        match: a regular expression that is found in the error's message.
        seconds: it may take, on two busy processors.
        shows: the longest that the error's message may be.
    """

    name: str
    run: Callable[[], object]
    error: type[Exception] | tuple[type[Exception], ...] | None
    match: str = ""
    seconds: float = 20
    shows: int = 10**5
