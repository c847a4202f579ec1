"""Locks for threads that read videos: a video is read by one of them, and the others find it remembered."""

import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakValueDictionary


class ReadingLocks:
    """A lock for each name. A forked process has its own, as a thread of its parent may be holding one."""

    def __init__(self):
        self.begin()

    def begin(self):
        self.process, self.guard, self.locks = os.getpid(), Lock(), WeakValueDictionary()

    def __getstate__(self) -> dict:
        return {}  # locks cannot be copied

    def __setstate__(self, state: dict):
        self.begin()

    @contextmanager
    def __call__(self, name: Hashable | None) -> Iterator[None]:
        """In the block no other thread is in a block of the same name, unless that is `None`."""
        if name is None:
            yield
            return
        if self.process != os.getpid():
            self.begin()
        with self.guard:
            lock = self.locks.setdefault(name, Lock())
        with lock:
            yield
