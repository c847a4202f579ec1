"""Reading ahead: while the model answers, threads read the videos of the next prompts of a list, generator or data set.

Threads do nothing but `read`. Prompts are written, and generators are asked for their items, in the caller's thread and
in order. So errors arrive in order too.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from threading import Lock


DEFAULT_READ_AHEAD = 4
MAX_THREADS = 4  # each decodes in as many threads as there are processors
MAX_BYTES_AHEAD = 2**30


class BeingRead:
    """Stands in for an input that a thread reads, on its way through the pipeline. `get_input` returns the input."""

    def __init__(self, get_input: Callable[[], object]):
        self.get_input = get_input
        self.future: Future | None = None

    def result(self) -> tuple[object, Callable[[], object]]:
        """The input, and a function that returns what was read, or raises the error of reading.

        Raises whatever a data set or generator raised when it was asked for the input.
        """
        given, read, error = self.future.result()

        def what_was_read():
            if error is not None:
                raise error
            return read

        return given, what_was_read


def get_and_read(get_input: Callable[[], object], read: Callable[[object], object]) -> tuple:
    """What a thread runs. Returns the input, what was read, and the error if it could not be read."""
    given = get_input()
    try:
        return given, read(given), None
    except Exception as error:
        return given, None, error


class ReadAhead:
    """Reads inputs in threads, a limited number of them before they are asked for.

    The first input is read alone, with all processors, and the next ones after it. A forked process does not have the
    threads, and reads again what they had begun.

    Args:
        inputs: a list or data set (`ReadAheadItems`), or something to iterate over (`ReadAheadStream`).
        read: reads one input; returns an object with `num_bytes`.
        ahead: how many inputs are read before they are asked for; fewer when they take more than `MAX_BYTES_AHEAD`.
    """

    def __init__(self, inputs: Sequence | Iterable, read: Callable[[object], object], ahead: int):
        self.inputs, self.read, self.ahead = inputs, read, ahead
        self.threads: ThreadPoolExecutor | None = None
        self.process = os.getpid()
        self.largest = 0  # bytes of one input

    def start(self, being_read: BeingRead):
        """Have a thread read an input, unless one does already."""
        if being_read.future is not None and not being_read.future.cancelled():
            return
        if self.threads is None:
            number = min(self.ahead, os.cpu_count() or 1, MAX_THREADS)
            self.threads = ThreadPoolExecutor(number, thread_name_prefix="reading-ahead")
        being_read.future = self.threads.submit(get_and_read, being_read.get_input, self.read)

    def finish(self, being_read: BeingRead):
        """Wait until an input is read, or has failed."""
        self.start(being_read)
        wait([being_read.future])
        if being_read.future.exception() is None and (read := being_read.future.result()[1]) is not None:
            self.largest = max(self.largest, read.num_bytes)

    @property
    def allowed(self) -> int:
        """How many inputs may be read ahead now."""
        return min(self.ahead, MAX_BYTES_AHEAD // self.largest) if self.largest else self.ahead

    def notice_fork(self) -> bool:
        """Whether this process was forked since the last call."""
        if self.process == os.getpid():
            return False
        self.process, self.threads = os.getpid(), None
        return True

    def close(self):
        """Stop reading ahead. Threads end when they have finished their current input."""
        if self.threads is not None and self.process == os.getpid():
            self.threads.shutdown(wait=False, cancel_futures=True)
        self.threads = None

    def __del__(self):
        self.close()


class ReadAheadItems(ReadAhead):
    """Reads ahead in a list or data set. Threads ask it for items, one thread at a time."""

    def __init__(self, inputs: Sequence, read: Callable[[object], object], ahead: int):
        super().__init__(inputs, read, ahead)
        self.waiting: dict[int, BeingRead] = {}  # by their index
        self.asking = Lock()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> BeingRead:
        if self.notice_fork():
            self.waiting, self.asking = {}, Lock()
        current = self.waiting.get(index) or self.item(index)
        self.finish(current)
        following = range(index + 1, min(index + 1 + self.allowed, len(self)))
        self.waiting = {number: self.waiting.get(number) or self.item(number) for number in following}
        for being_read in self.waiting.values():
            self.start(being_read)
        return current

    def item(self, index: int) -> BeingRead:
        inputs, asking = self.inputs, self.asking  # not `self`: threads would keep the object alive that closes them

        def get_input():
            with asking:
                return inputs[index]  # pyright: ignore[reportIndexIssue]

        return BeingRead(get_input)


class ReadAheadStream(ReadAhead):
    """Reads ahead in a generator or another iterable. A new iteration continues where the last one ended."""

    def __init__(self, inputs: Iterable, read: Callable[[object], object], ahead: int):
        super().__init__(inputs, read, ahead)
        self.items, self.waiting = map(BeingRead, functions_of(inputs)), deque()

    def __iter__(self) -> Iterator[BeingRead]:
        while True:
            # Two items at a time, with the current one: a slow generator must not hold up the first answer.
            most = 2
            if not self.waiting:
                self.waiting.extend(islice(self.items, 1))
                most = 1
            if not self.waiting:
                return
            if self.notice_fork():
                for being_read in self.waiting:
                    being_read.future = None
            current = self.waiting.popleft()
            self.finish(current)
            self.waiting.extend(islice(self.items, max(min(most, self.allowed - len(self.waiting)), 0)))
            for being_read in self.waiting:
                self.start(being_read)
            yield current


def functions_of(items: Iterable) -> Iterator[Callable[[], object]]:
    """Functions that return the items. If the iteration fails, the last function raises its error."""
    try:
        for item in items:
            yield lambda item=item: item
    except Exception as error:
        failure = error

        def fail():
            raise failure

        yield fail


class Answers:
    """The answers of a call, one after another. An error, and the end, stop the reading ahead."""

    def __init__(self, iterator: Iterator, inputs: ReadAhead):
        self.iterator, self.inputs = iterator, inputs

    def __len__(self) -> int:
        return len(self.iterator)

    def __iter__(self) -> Iterator:
        iter(self.iterator)
        return self

    def __next__(self):
        try:
            return next(self.iterator)
        except BaseException:
            self.inputs.close()
            raise
