"""A server on this machine that gives out parts of a file, and does otherwise where it is asked to."""

import contextlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llava_next_video.reading import ranged_file
from tests.reading.test_container_index import NUM_FRAMES, clip, write_noise  # noqa: F401  # a fixture


class Server(BaseHTTPRequestHandler):
    """Gives out `data`; the path says what it does, from which request for this path on, and may end in anything:
    `cut/3/first client`."""

    data = b""
    version: dict[str, str] = {}  # headers
    later: tuple[bytes, dict] = b"", {}  # data and version, once `swapped`
    parts: list[tuple[int, int] | None] = []  # of each request; None for the whole
    seen: list[str] = []
    stalled = 0  # requests
    goes_on = threading.Event()

    def do_GET(self):
        name, number, *_ = [*self.path[1:].split("/"), ""]
        self.seen.append(self.path)
        asked = self.headers["Range"]
        first, last = (int(end) for end in asked.removeprefix("bytes=").split("-")) if asked else (0, 10**12)
        last = min(last, len(self.data) - 1)
        self.parts.append((first, last + 1) if asked else None)
        is_time = self.seen.count(self.path) > int(number or 0)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, name if is_time and asked else "give")(first, last, bool(asked))

    def give(self, first, last, is_part, shown=None, size=None, version=None):
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", shown or f"bytes {first}-{last}/{size or len(self.data)}")
        for name, value in (self.version if version is None else version).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(self.data[first : last + 1])

    def whole(self, first, last, is_part):
        self.give(0, len(self.data) - 1, False)

    def less(self, first, last, is_part):
        self.give(first, first + (last - first) // 3, True)

    def more(self, first, last, is_part):
        self.give(first, last + 1000, True)

    def elsewhere(self, first, last, is_part):
        self.give(first + 1, last, True)

    def nonsense(self, first, last, is_part):
        self.give(first, last, True, shown=f"bytes {first}-{last}/*")

    def changed(self, first, last, is_part):
        self.give(first, last, True, version={"ETag": '"2"'})

    def swapped(self, first, last, is_part):
        """Another file has taken its place."""
        Server.data, Server.version = self.later
        self.give(first, min(last, len(self.data) - 1), True)

    def unnamed(self, first, last, is_part):
        self.give(first, last, True, version={})

    def weakly_named(self, first, last, is_part):
        self.give(first, last, True, version={"ETag": 'W/"1"'})

    def grown(self, first, last, is_part):
        self.give(first, last, True, size=len(self.data) + 1)

    def refused(self, first, last, is_part):
        self.send_error(416)

    def gone(self, first, last, is_part):
        self.send_error(404)

    def begin_part(self, first, last):
        """The head of an answer without a length."""
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.data)}")
        self.send_header("ETag", '"1"')
        self.end_headers()

    def cut(self, first, last, is_part):
        self.begin_part(first, last)
        self.wfile.write(self.data[first : (first + last) // 2])

    def stalls(self, first, last, is_part):
        self.cut(first, last, is_part)
        Server.stalled += 1
        self.goes_on.wait(60)

    def endless(self, first, last, is_part):
        self.begin_part(first, last)
        while True:
            self.wfile.write(self.data[first : last + 1])

    def redirect(self, first, last, is_part):
        self.send_response(302)
        self.send_header("Location", "/give")
        self.end_headers()

    def away(self, first, last, is_part):
        self.send_response(302)
        self.send_header("Location", f"http://127.0.0.2:{self.server.server_port}/give")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.daemon_threads = True
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def server(address, clip, monkeypatch):  # noqa: F811
    """A file of half a megabyte is a large one here."""
    for name, number in {"SMALL_FILE": 0, "FIRST_PIECE": 2**13, "LARGEST_PIECE": 2**15, "NEAR": 2**10}.items():
        monkeypatch.setattr(ranged_file, name, number)
    monkeypatch.setattr("llava_next_video.reading.first_packets.KEPT_BYTES", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Server.data, Server.version = clip.read_bytes(), {"ETag": '"1"'}
    Server.parts.clear()
    Server.seen.clear()
    Server.goes_on.clear()
    Server.stalled = 0
    yield address
    Server.goes_on.set()


@pytest.fixture(scope="module")
def other_clip(tmp_path_factory, clip):  # noqa: F811
    """As large as `clip` to the byte, its frames are numbered from 100 on."""
    path = tmp_path_factory.mktemp("other") / "clip.mp4"
    size = clip.stat().st_size
    write_noise(path, range(100, 100 + NUM_FRAMES), seed=1, brightest=200)
    padding = size - path.stat().st_size
    with open(path, "ab") as file:
        file.write(padding.to_bytes(4, "big") + b"free" + bytes(padding - 8))
    return path
