"""A web server on this machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from threading import Thread


@contextmanager
def local_server(handler: Callable) -> Iterator[str]:
    """Answer requests with a handler until the block ends; the address, as in "http://127.0.0.1:8000"."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
