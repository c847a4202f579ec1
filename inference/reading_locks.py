"""Locks for threads that read videos: one thread reads a video, and the others find it remembered."""

import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakValueDictionary


class ReadingLocks:
    """A lock for each name. A forked process gets new locks, as a thread of its parent may hold one."""

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
        """Let no two threads into blocks of the same name at a time; `None` locks nothing."""
        if name is None:
            yield
            return
        if self.process != os.getpid():
            self.begin()
        with self.guard:
            lock = self.locks.setdefault(name, Lock())
        with lock:
            yield
