"""Sources and their limits, and a server on this machine that does what servers should not."""

import base64
import contextlib
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest

from llava_next_video import ReadingLimits, VideoLimitError, VideoReadError, read_video
from llava_next_video.processing import video_sources
from llava_next_video.processing.video_sources import is_public, open_source
from tests.tiny import number_of, write_video


HERE = ReadingLimits(allow_private_addresses=True, max_fetch_seconds=20)
HURRIED = ReadingLimits(allow_private_addresses=True, max_fetch_seconds=0.5)


class Server(BaseHTTPRequestHandler):
    """What it does is in the path. `seen` are the paths it was asked for."""

    protocol_version = "HTTP/1.1"
    data = b""
    seen: list[str] = []
    closing = threading.Event()

    def do_GET(self):
        self.seen.append(self.path)
        self.close_connection = True
        name, _, rest = self.path[1:].partition("/")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
            getattr(self, name.removesuffix(".mp4"))(rest)

    def answer(self, status: int = 200, length: int | None = None, **headers):
        self.send_response(status)
        if length is not None:
            headers["Content-Length"] = str(length)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()

    def clip(self, _):
        self.answer(length=len(self.data))
        self.wfile.write(self.data)

    def status(self, code):
        self.answer(int(code), length=4)
        self.wfile.write(b"oops")

    def redirect(self, to):
        """To /clip.mp4, to itself, or to a whole address."""
        to = {"": "/clip.mp4", "again": "/redirect/again"}.get(to, to)
        self.answer(302, Location=to)
        self.endless_bytes()

    def redirect_without_address(self, _):
        self.answer(302, length=0)

    def silent(self, _):
        self.closing.wait(20)

    def stall(self, _):
        self.answer(length=len(self.data))
        self.wfile.write(self.data[:100])
        self.closing.wait(20)

    def drip(self, what):
        if what == "body":
            self.answer(length=len(self.data))
        dripping = self.data if what == "body" else b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000
        for byte in dripping:
            self.wfile.write(bytes([byte]))
            if self.closing.wait(0.05):
                return

    def announce(self, length):
        """Say that there are so many more or fewer bytes than there are."""
        self.answer(length=len(self.data) + int(length))
        self.wfile.write(self.data)

    def endless(self, how):
        self.answer(**{"Transfer-Encoding": "chunked"} if how == "chunks" else {})
        self.endless_bytes(b"10000\r\n%b\r\n" % bytes(0x10000) if how == "chunks" else bytes(0x10000))

    def endless_bytes(self, piece: bytes = bytes(0x10000)):
        while not self.closing.is_set():
            self.wfile.write(piece)

    def drop(self, _):
        self.answer(length=len(self.data))
        self.wfile.write(self.data[:1000])
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()  # with a reset

    def broken_chunks(self, _):
        self.answer(**{"Transfer-Encoding": "chunked"})
        self.wfile.write(b"ffff\r\n" + bytes(100))

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", g="10")


def serve(address: str):
    server = ThreadingHTTPServer((address, 0), Server)
    server.daemon_threads = True
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
    return server


@pytest.fixture(scope="module")
def server(clip):
    Server.data = clip.read_bytes()
    with serve("127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.server_port}"
        Server.closing.set()
        server.shutdown()
    Server.closing.clear()


@pytest.fixture(autouse=True)
def nothing_seen():
    Server.seen.clear()


def frame(source, limits=HERE) -> int:
    frames, _ = read_video(source, lambda metadata: [3], limits)
    return number_of(frames[0])


@pytest.mark.parametrize("path", ["/clip.mp4", "/redirect/", "/clip.mp4#t=3", "/clip.mp4?name=a b\u00e9"])
def test_url_is_read(server, path):
    assert frame(server + path.replace("/clip.mp4?", "/clip.mp4/?")) == 3


def test_scheme_is_read_in_capitals(server):
    assert frame(server.replace("http", "HTTP") + "/clip.mp4") == 3


@pytest.mark.parametrize(
    ("path", "limit", "message"),
    [
        ("/status/404", None, r"the server 127\.0\.0\.1:\d+ answered 404 Not Found"),
        ("/status/500", None, "answered 500 Internal Server Error"),
        ("/status/299", None, "Invalid data found"),
        ("/redirect/again", None, "it redirects in circles, too often, or to nowhere"),
        ("/redirect_without_address", None, "it redirects in circles, too often, or to nowhere"),
        ("/redirect/file:///etc/passwd", None, "it redirects to an address with file:, and only http: and https: are"),
        ("/redirect/ftp://127.0.0.1/clip.mp4", None, "it redirects to an address with ftp:"),
        ("/redirect/data:video/mp4,x", None, "it redirects to an address with data:"),
        ("/silent", "max_fetch_seconds", r"fetching it took longer than max_fetch_seconds=0\.5; raise this limit"),
        ("/stall", "max_fetch_seconds", "fetching it took longer"),
        ("/drip/body", "max_fetch_seconds", "fetching it took longer"),
        ("/drip/headers", "max_fetch_seconds", "fetching it took longer"),
        ("/announce/1000", None, r"the connection was closed after \d+ of \d+ bytes"),
        ("/announce/-1000", None, "Could not read the video"),  # half a file
        (
            "/announce/2000000000",
            "max_fetched_bytes",
            r"its 2\d{9} bytes or more are over max_fetched_bytes=1073741824",
        ),
        ("/endless/", "max_fetched_bytes", r"bytes or more are over max_fetched_bytes=1000000; store it on disk"),
        ("/endless/chunks", "max_fetched_bytes", "over max_fetched_bytes=1000000"),
        ("/drop", None, "it cannot be fetched: .*reset"),
        ("/broken_chunks", None, "it cannot be fetched: IncompleteRead"),
    ],
)
def test_bad_server_ends_in_the_documented_error(server, path, limit, message):
    limits = {"max_fetch_seconds": {"max_fetch_seconds": 0.5}, "max_fetched_bytes": {}}.get(limit, {})
    if path.startswith("/endless"):
        limits = {"max_fetched_bytes": 1_000_000}
    began = time.monotonic()
    with pytest.raises(VideoReadError, match=message) as raised:
        read_video(server + path, limits=ReadingLimits(allow_private_addresses=True, **limits))
    assert time.monotonic() - began < 10
    assert isinstance(raised.value, VideoLimitError) == (limit is not None)
    assert raised.value.video == repr(server + path)


def test_error_when_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(VideoReadError, match=r"it cannot be fetched: .*refused"):
        read_video(f"http://127.0.0.1:{port}/clip.mp4", limits=HERE)


def test_error_when_the_name_is_not_known():
    with pytest.raises(VideoReadError, match="it cannot be fetched"):
        read_video("http://no-such-host.invalid/clip.mp4")


@pytest.mark.parametrize("url", ["http://", "http://:80/", "http://a:b/", "http://[::1", f"http://{'a' * 70}.com/"])
def test_error_when_the_url_is_none(url):
    with pytest.raises(VideoReadError, match=r"Could not read the video 'http://.*it cannot be fetched"):
        read_video(url)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b.mp4", "rtsp://a/b", "concat://a", "FILE:///etc/passwd"]
)
def test_error_when_the_scheme_is_not_of_the_web(url):
    scheme = url.partition(":")[0].lower()
    with pytest.raises(VideoReadError, match=f"addresses with {scheme}: are not read; pass a path, or a URL with http"):
        read_video(url)


@pytest.mark.parametrize(
    "text", ["concat:clip.mp4|clip.mp4", "subfile,,start,0,end,9,,:clip.mp4", "file:clip.mp4", "-"]
)
def test_protocols_of_ffmpeg_are_names_of_files(text, clip, monkeypatch):
    monkeypatch.chdir(clip.parent)
    with pytest.raises(VideoReadError, match="there is no such file"):
        read_video(text)


def test_error_when_a_url_leads_to_a_private_address(server):
    with pytest.raises(VideoReadError, match=r"127\.0\.0\.1 is at 127\.0\.0\.1, which is not a public address; if"):
        read_video(f"{server}/clip.mp4")
    assert Server.seen == []


@pytest.fixture
def first_is_public(monkeypatch):
    """127.0.0.1 counts as a public address, so that the server can stand for one of the internet."""
    monkeypatch.setattr(video_sources, "is_public", lambda address: address == "127.0.0.1")


@pytest.mark.usefixtures("first_is_public")
def test_error_when_a_redirect_leads_to_a_private_address(server):
    with serve("127.0.0.2") as private:
        url = f"{server}/redirect/http://127.0.0.2:{private.server_port}/clip.mp4"
        with pytest.raises(VideoReadError, match=r"127\.0\.0\.2 is at 127\.0\.0\.2, which is not a public address"):
            read_video(url)
        assert [path.split("/")[1] for path in Server.seen] == ["redirect"]
        assert frame(url) == 3  # where private addresses are allowed
        private.shutdown()


@pytest.mark.usefixtures("first_is_public")
def test_address_that_is_checked_is_the_one_connected_to(server, monkeypatch):
    """A name server that answers first with a public address and then with a private one gains nothing."""
    port = int(server.rpartition(":")[2])
    answers = itertools.chain(["127.0.0.1"], itertools.repeat("127.0.0.2"))
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [(*kind, (next(answers), port))])
    assert frame(f"http://rebinding.example:{port}/clip.mp4", ReadingLimits()) == 3
    with pytest.raises(VideoReadError, match=r"rebinding\.example is at 127\.0\.0\.2, which is not a public address"):
        read_video(f"http://rebinding.example:{port}/clip.mp4")


@pytest.mark.usefixtures("first_is_public")
def test_other_addresses_of_a_name_are_tried(server, monkeypatch):
    port = int(server.rpartition(":")[2])
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", 9)), (*kind, ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    assert frame("http://several.example/clip.mp4", ReadingLimits()) == 3


PRIVATE = "127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255"
PRIVATE += " ::1 :: fe80::1%eth0 fc00::1 ff02::1 ::ffff:127.0.0.1 64:ff9b::a9fe:a9fe"


@pytest.mark.parametrize("address", PRIVATE.split())
def test_address_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_address_is_public(address):
    assert is_public(address)


def test_proxy_of_the_environment_is_used_wherever_it_is(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setattr(Server, "do_GET", lambda self: (self.seen.append(self.path), self.clip("")))
    assert frame("http://video.example/any.mp4", ReadingLimits()) == 3
    assert Server.seen == ["http://video.example/any.mp4"]


@pytest.fixture
def tls_server(server, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        threading.Thread(target=partial(secure.serve_forever, poll_interval=0.02), daemon=True).start()
        yield f"https://localhost:{secure.server_port}", tmp_path / "certificate.pem"
        secure.shutdown()


def test_certificates_and_time_are_checked_on_https(tls_server, monkeypatch):
    url, certificate = tls_server
    with pytest.raises(VideoReadError, match=r"it cannot be fetched: .*CERTIFICATE_VERIFY_FAILED"):
        read_video(f"{url}/clip.mp4", limits=HERE)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert frame(f"{url}/clip.mp4") == 3
    with pytest.raises(VideoLimitError, match="max_fetch_seconds"):
        read_video(f"{url}/drip/body", limits=HURRIED)


@pytest.mark.parametrize("form", ["bytes", "bytearray", "memoryview", "data URI", "text URI", "stream"])
def test_everything_held_in_memory_has_the_same_limit(form, clip):
    data = clip.read_bytes()
    source = {
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "data URI": "data:video/mp4;base64," + base64.b64encode(data).decode(),
        "text URI": "data:video/mp4," + "".join(f"%{byte:02x}" for byte in data),
        "stream": Stream(data),
    }[form]
    assert frame(source, ReadingLimits(max_fetched_bytes=len(data))) == 3
    if form == "stream":
        source = Stream(data)
    with pytest.raises(
        VideoLimitError, match=r"bytes or more are over max_fetched_bytes=\d+; store it on disk and pass"
    ):
        read_video(source, limits=ReadingLimits(max_fetched_bytes=len(data) - 1))


def test_files_on_disk_may_be_larger(clip):
    assert frame(clip, ReadingLimits(max_fetched_bytes=1)) == 3


class Stream(BytesIO):
    def seekable(self):
        return False


class Endless(Stream):
    def read(self, size=-1):
        return bytes(size)


def test_error_when_a_stream_has_no_end():
    with pytest.raises(VideoLimitError, match=r"given as Endless: its .* over max_fetched_bytes=5000000"):
        read_video(Endless(), limits=ReadingLimits(max_fetched_bytes=5_000_000))


def test_error_when_base64_is_broken():
    with pytest.raises(VideoReadError, match="given as a data URI of 30 characters: its base64 is broken"):
        read_video("data:video/mp4;base64,????????")
    with pytest.raises(VideoReadError, match="its text is broken"):
        read_video("data:video/mp4,\ud800")


def test_error_when_the_source_is_of_no_known_kind():
    with pytest.raises(TypeError, match="A video cannot be read from int"):
        open_source(3)


def test_error_when_there_is_no_such_file(tmp_path):
    for name in ("none.mp4", "n\0ne.mp4"):
        with pytest.raises(VideoReadError, match=r"Could not read the video '.*n.*ne.mp4': there is no such file"):
            read_video(tmp_path / name)
    with pytest.raises(VideoReadError, match="File name too long"):
        read_video(tmp_path / ("a" * 300))


def test_error_when_it_is_a_folder_or_no_regular_file(tmp_path):
    with pytest.raises(VideoReadError, match="it is a folder"):
        read_video(tmp_path)
    with pytest.raises(VideoReadError, match="'/dev/zero': it is not a regular file"):
        read_video("/dev/zero")


def test_error_when_a_file_object_fails(clip):
    closed = BytesIO(clip.read_bytes())
    closed.close()
    with pytest.raises(VideoReadError, match=r"given as BytesIO: reading its file object failed: ValueError.*closed"):
        read_video(closed)
    with (
        clip.open(encoding="latin-1") as text,
        pytest.raises(VideoReadError, match=r"returned \d+ characters or bytes"),
    ):
        read_video(text)


class Overfull(BytesIO):
    """Returns more than it was asked for, which PyAV would write behind the end of a buffer."""

    def read(self, size=-1):
        return super().read(size) + bytes(100_000)


class Failing(BytesIO):
    def read(self, size=-1):
        if self.tell() > 500:
            raise RuntimeError("the disk is gone")
        return super().read(min(size, 501))


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Overfull, r"read\(\d+\) returned \d+ characters or bytes, not bytes and no more"), (Failing, "the disk is gone")],
)
def test_error_when_a_file_object_breaks_its_word(kind, message, clip):
    with pytest.raises(VideoReadError, match=f"given as {kind.__name__}: reading its file object failed: .*{message}"):
        read_video(kind(clip.read_bytes()))


def test_file_objects_of_the_caller_stay_open(clip):
    with clip.open("rb") as file:
        read_video(file)
        assert not file.closed
