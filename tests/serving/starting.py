"""Servers of uvicorn in this process."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import uvicorn


@contextmanager
def started(server: "uvicorn.Server") -> Iterator[int]:
    """Run a server in a thread until the block ends; its port."""
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        [listening] = [sock for each in server.servers for sock in each.sockets][:1]
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
