"""Sources and their limits, and a server on this machine that does what servers should not."""

import base64
import contextlib
import gc
import gzip
import itertools
import math
import shutil
import socket
import ssl
import subprocess
import threading
import time
import warnings
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import SimpleNamespace

import pytest

from llava_next_video import ReadingLimits, VideoLimitError, VideoReadError, read_video
from llava_next_video.reading import downloads, limits
from llava_next_video.reading.addresses import is_own, is_public
from llava_next_video.reading.pictures import read_picture
from llava_next_video.reading.video_sources import open_source
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

    def endless_chunk(self, size):
        self.answer(**{"Transfer-Encoding": "chunked"})
        self.wfile.write(f"{size.replace('long', '0' * 70_000)}\r\n".encode())
        self.endless_bytes()

    def endless_headers(self, _):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.endless_bytes(b"X-More: 1\r\n")

    def packed(self, _):
        self.answer(length=len(self.data), **{"Content-Encoding": "gzip"})
        self.wfile.write(gzip.compress(bytes(len(self.data)))[:1000].ljust(len(self.data)))

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
def nothing_seen(monkeypatch):
    Server.seen.clear()
    for scheme in ("http", "https", "all", "no"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)


def frame(source, limits=HERE) -> int:
    frames, _ = read_video(source, lambda metadata: [3], limits)
    return number_of(frames[0])


@pytest.mark.parametrize("path", ["/clip.mp4", "/redirect/", "/clip.mp4#t=3", "/clip.mp4?name=a b\u00e9"])
def test_url_is_read(server, path):
    assert frame(server + path.replace("/clip.mp4?", "/clip.mp4/?")) == 3


def test_limits_on_time_may_be_infinite(server):
    limits = ReadingLimits(allow_private_addresses=True, max_fetch_seconds=math.inf, max_decode_seconds=math.inf)
    assert frame(server + "/clip.mp4", limits) == 3


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
        ("/endless_chunk/ffffffffffffffffffff", "max_fetched_bytes", "over max_fetched_bytes=1000000"),
        # http.client takes a size of -1 for "read all".
        ("/endless_chunk/-1", "max_fetched_bytes", "over max_fetched_bytes=1000000"),
        ("/endless_chunk/long", None, "it cannot be fetched: got more than 65536 bytes when reading chunk size"),
        ("/endless_headers", None, "it cannot be fetched: got more than 100 headers"),
        ("/packed", None, "Invalid data found"),
    ],
)
def test_bad_server_ends_in_the_documented_error(server, path, limit, message):
    limits = {"max_fetch_seconds": {"max_fetch_seconds": 0.5}, "max_fetched_bytes": {}}.get(limit, {})
    if limit == "max_fetched_bytes" and path.startswith("/endless"):
        limits = {"max_fetched_bytes": 1_000_000, "max_fetch_seconds": 5}
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


@pytest.mark.parametrize("host", ["a" * 70, ".", "a..b", "\u00fc" * 70, "[::1", "[", "[]"])
def test_error_when_no_host_has_such_a_name(host):
    with pytest.raises(VideoReadError, match=r"Could not read the video 'http://.*it cannot be fetched"):
        read_video(f"http://{host}/")


NOT_AUTHORITIES = ["", ":80", "a:b", "::1", "[fe80::1%25lo]", "user@{}", "user:pass@{}", "%40{}"]
NOT_AUTHORITIES += [
    "a b",
    "a\tb",
    "{}\n",
    "a%0d%0ab",
    "a%00",
    "%20{}",
    "%",
    "\uff05",
    "a\uff20{}",
    "a%2fb",
    "a\\b",
    "{}%3f",
    "\u2028",
]
NOT_AUTHORITIES += [
    "a:65536",
    f"a:{'9' * 30}",
    f"a:{'9' * 5000}",
    "a:-1",
    "a:+80",
    "a:8_0",
    "a:\uff18\uff10",
    "a" * 256,
]


@pytest.mark.parametrize("authority", NOT_AUTHORITIES)
def test_error_when_the_url_has_no_plain_host_and_port(authority, server):
    url = f"http://{authority.format(server.removeprefix('http://'))}/clip.mp4"
    with pytest.raises(VideoReadError, match=r"its address has '.*' where a host, or a host and a port, is expected"):
        read_video(url, limits=HERE)
    if authority and authority.isprintable():
        with pytest.raises(VideoReadError, match=r"where a host, or a host and a port|it cannot be fetched"):
            read_video(f"{server}/redirect/{url}", limits=HERE)


def test_address_of_any_length_is_named_in_a_message_of_some_lines(server):
    with pytest.raises(VideoReadError, match=r"/a{900,}'… \(10\d+ characters\): it redirects") as raised:
        read_video(f"{server}/redirect_without_address/{'a' * 10_000}", limits=HERE)
    assert len(str(raised.value)) < 1200
    with pytest.raises(VideoReadError) as raised:
        read_video(f"http://{'a' * 10_000}/")
    assert len(str(raised.value)) < 2500


def test_name_of_a_host_may_have_any_letters(server, monkeypatch):
    asked = []
    port = int(server.rpartition(":")[2])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or found)
    monkeypatch.setattr(Server, "silent", lambda self, _: (asked.append(self.headers["Host"]), self.clip("")))
    for host in ("b\u00fccher.example", "b%C3%BCcher.example", "\u4f8b\u3048.example"):
        assert frame(f"http://{host}:{port}/silent") == 3
    german, japanese = "xn--bcher-kva.example", "xn--r8jz45g.example"
    assert asked == [german, f"{german}:{port}"] * 2 + [japanese, f"{japanese}:{port}"]


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
    with pytest.raises(VideoReadError, match=r"127\.0\.0\.1 is at 127\.0\.0\.1, which is not a public address, or"):
        read_video(f"{server}/clip.mp4")
    assert Server.seen == []


SPELLINGS = "127.0.0.%31 %6cocalhost %31%32%37.0.0.1 localhost LocalHost 127.1 0x7f.1 2130706433 017700000001 0"
SPELLINGS += " \uff11\uff12\uff17.0.0.1 127\u30020\u30020\u30021 [::ffff:127.0.0.1] [::ffff:7f00:1] %5b::ffff:7f00:1%5d"


@pytest.mark.parametrize("host", SPELLINGS.split())
@pytest.mark.parametrize("colon", [":", "%3a", "%3A"])
def test_error_however_a_private_address_is_spelled(host, colon, server):
    port = server.rpartition(":")[2]
    with pytest.raises(VideoReadError, match=r"which is not a public address, or this machine's own; if"):
        read_video(f"http://{host}{colon}{port}/clip.mp4")
    assert Server.seen == []


@pytest.fixture
def first_is_public(monkeypatch):
    """127.0.0.1 counts as a public address, so that the server can stand for one of the internet."""
    monkeypatch.setattr(downloads, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(downloads, "is_own", lambda family, address: False)


def test_error_when_a_url_leads_back_to_this_machine(server, monkeypatch):
    """A machine with a public address is behind its own firewall there."""
    monkeypatch.setattr(downloads, "is_public", lambda address: True)
    with pytest.raises(VideoReadError, match="which is not a public address, or this machine's own; if"):
        read_video(f"{server}/clip.mp4")
    assert Server.seen == []


def test_only_addresses_of_this_machine_are_its_own():
    assert is_own(socket.AF_INET, ("127.0.0.1", 80))
    assert not is_own(socket.AF_INET, ("192.0.2.1", 80))  # documentation: nobody's
    assert not is_own(socket.AF_INET6, ("ff00::", 80, 0, 0))  # nothing leads there


@pytest.mark.usefixtures("first_is_public")
def test_error_when_a_redirect_leads_to_a_private_address(server):
    with serve("127.0.0.2") as private:
        url = f"{server}/redirect/http://127.0.0.2:{private.server_port}/clip.mp4"
        with pytest.raises(VideoReadError, match=r"127\.0\.0\.2 is at 127\.0\.0\.2, which is not a public address"):
            read_video(url)
        assert [path.split("/")[1] for path in Server.seen] == ["redirect"]
        assert frame(url) == 3  # where private addresses are allowed
        private.shutdown()


SECOND = ["127.0.0.%32", "%31%32%37.0.0.2", "127.2", "0x7f.2", "2130706434", "017700000002"]


@pytest.mark.usefixtures("first_is_public")
@pytest.mark.parametrize("host", SECOND)
@pytest.mark.parametrize("colon", [":", "%3a"])
def test_error_however_a_redirect_spells_a_private_address(host, colon, server):
    url = f"{server}/redirect/http://{host}{colon}{server.rpartition(':')[2]}/clip.mp4"
    with pytest.raises(VideoReadError, match=r"is at 127\.0\.0\.2, which is not a public address"):
        read_video(url)
    assert len(Server.seen) == 1


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


def test_a_python_that_connects_to_addresses_of_its_own_is_not_used(server, monkeypatch):
    """Where `http.client` no longer calls what checks the address, nothing is read."""

    def connect(connection):
        connection.sock = socket.create_connection((connection.host, connection.port))

    monkeypatch.setattr(downloads.HTTPConnection, "connect", connect)
    with pytest.raises(RuntimeError, match="connected to an address that was not checked"):
        frame(f"{server}/clip.mp4")
    assert not Server.seen


@pytest.mark.usefixtures("first_is_public")
def test_other_addresses_of_a_name_are_tried(server, monkeypatch):
    port = int(server.rpartition(":")[2])
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", 9)), (*kind, ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    assert frame("http://several.example/clip.mp4", ReadingLimits()) == 3


PRIVATE = "127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255"
PRIVATE += " 240.0.0.1 192.0.0.9 192.0.0.192 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 239.1.2.3"
PRIVATE += " 192.88.99.1 100.127.255.255 172.31.255.255 168.63.129.16 34.118.224.1"
PRIVATE += (
    " ::1 :: fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 ff0e::1 2001:db8::1 3fff::1 100::1 5f00::1 4000::1"
)
PRIVATE += " ::ffff:127.0.0.1 ::ffff:168.63.129.16 64:ff9b::a9fe:a9fe 64:ff9b:1::7f00:1 64:ff9b:1::808:808 ::127.0.0.1"
PRIVATE += " ::8.8.8.8 2002:7f00:1:: 2002:808:808::1 2001:0:808:808::f7f7:f7f7 2001:0:4136:e378:8000:63bf:80ff:fffe"
PRIVATE += " ::ffff:0:127.0.0.1 2606:4700::5efe:127.0.0.1 2606:4700::200:5efe:a00:1 2001:20::1"


@pytest.mark.parametrize("address", PRIVATE.split())
def test_address_is_not_public(address):
    assert not is_public(address)


PUBLIC = "8.8.8.8 1.1.1.1 168.63.129.15 168.63.129.17 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 192.0.1.1"
PUBLIC += " 198.17.0.1 198.20.0.1 11.0.0.1 128.0.0.1 223.255.255.255 34.118.240.1 ::ffff:8.8.8.8 64:ff9b::808:808"
PUBLIC += " 2606:4700::1111 2001:200::1 2001:4860:4860::8888 2003::1 2a00:1450::1 2000::1 2606:4700::5eff:808:808"


@pytest.mark.parametrize("address", PUBLIC.split())
def test_address_is_public(address):
    assert is_public(address)


class Proxy(BaseHTTPRequestHandler):
    """Answers with a video, or with a redirect to `target`; opens tunnels to the port of `target`."""

    seen: list[tuple[str, str, str | None]] = []  # method, address and password of each request
    data = b""
    target: str | None = None

    def do_GET(self):
        self.seen.append((self.command, self.path, self.headers["Proxy-Authorization"]))
        self.send_response(302 if self.target else 200)
        if self.target:
            self.send_header("Location", self.target)
        self.end_headers()
        self.wfile.write(self.data)

    def do_CONNECT(self):
        self.close_connection = True
        self.seen.append((self.command, self.path, self.headers["Proxy-Authorization"]))
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as behind:
            back = threading.Thread(target=self.copy, args=(behind, self.connection))
            back.start()
            self.copy(self.connection, behind)
            back.join()

    def copy(self, source: socket.socket, to: socket.socket):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)

    def log_message(self, *args):
        pass


@pytest.fixture
def proxy(clip, monkeypatch):
    """Host and port of a proxy, which is at a private address."""
    monkeypatch.setattr(Proxy, "data", clip.read_bytes())
    Proxy.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


PASSWORD = "Basic " + base64.b64encode(b"user:pass").decode()


@pytest.mark.parametrize("setting", ["http://{}", "http://{}/", "{}", "http://user:pass@{}", "http://us%65r:pass@{}/"])
def test_proxy_of_the_environment_is_used_wherever_it_is(setting, proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", setting.format(proxy))
    assert frame("http://video.example/any.mp4", ReadingLimits()) == 3
    assert Proxy.seen == [("GET", "http://video.example/any.mp4", PASSWORD if "@" in setting else None)]


@pytest.mark.parametrize("host", ["127.0.0.1:9", "127.0.0.%31:9", "[::1]:9"])
def test_address_behind_a_proxy_is_left_to_the_proxy(host, proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy)
    assert frame(f"http://{host}/any.mp4", ReadingLimits()) == 3
    assert Proxy.seen == [("GET", f"http://{host}/any.mp4", None)]


@pytest.mark.parametrize("setting", ["http://{}", "http://user:pass@{}"])
def test_proxy_for_https_makes_a_tunnel(setting, proxy, tls_server, monkeypatch):
    url, certificate = tls_server
    monkeypatch.setenv("https_proxy", setting.format(proxy))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert frame(f"{url}/clip.mp4", ReadingLimits()) == 3
    assert Proxy.seen == [("CONNECT", url.removeprefix("https://"), PASSWORD if "@" in setting else None)]


NOT_BEHIND = [("the host is excepted", "http", True), ("the proxy is for the other scheme", "https", True)]
NOT_BEHIND += [(reason, scheme, False) for reason, _, _ in NOT_BEHIND for scheme in ("http", "https")]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.%31"])
@pytest.mark.parametrize(("reason", "scheme", "redirected"), NOT_BEHIND)
def test_error_when_a_private_address_is_not_behind_the_proxy(
    host, scheme, redirected, reason, proxy, server, monkeypatch
):
    if reason == "the host is excepted":
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("https_proxy", proxy)
    else:
        monkeypatch.setenv("http_proxy" if scheme == "https" else "https_proxy", proxy)
    url = f"{scheme}://{host}:{server.rpartition(':')[2]}/clip.mp4"
    if redirected:
        monkeypatch.setattr(Proxy, "target", url)
    with pytest.raises(VideoReadError, match=r"127\.0\.0\.1 is at 127\.0\.0\.1, which is not a public address"):
        read_video("http://video.example/any.mp4" if redirected else url)
    assert Server.seen == []
    assert len(Proxy.seen) == redirected


def test_password_of_a_proxy_does_not_follow_a_redirect(proxy, server, monkeypatch):
    """urllib takes every header along, to whomever the redirect leads."""
    got = []

    def clip(self, _):
        got.append(self.headers["Proxy-Authorization"])
        self.answer(length=0)

    monkeypatch.setattr(Server, "clip", clip)
    monkeypatch.setattr(Proxy, "target", f"{server}/clip.mp4")
    monkeypatch.setenv("http_proxy", f"http://user:pass@{proxy}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(VideoReadError):
        read_video("http://video.example/any.mp4", limits=HERE)
    assert [password for *_, password in Proxy.seen] == [PASSWORD]
    assert got == [None]


def test_error_when_the_proxy_is_of_another_kind(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(VideoReadError, match="it cannot be fetched: unknown url type: socks5"):
        read_video("http://video.example/any.mp4")


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


def test_error_when_a_tls_handshake_has_no_end():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and says nothing
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/clip.mp4"
        with pytest.raises(VideoLimitError, match="max_fetch_seconds"):
            read_video(url, limits=HURRIED)


@pytest.fixture
def nothing_left_open():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


ENDINGS = "/clip.mp4 /redirect/ /redirect/again /redirect/http://a@b/ /status/404 /status/299 /stall /drop"
ENDINGS += " /announce/2000000000 /broken_chunks /endless_headers"


@pytest.mark.usefixtures("nothing_left_open")
@pytest.mark.parametrize("path", ENDINGS.split())
def test_connections_are_closed_however_a_download_ends(path, server):
    with contextlib.suppress(VideoReadError):
        read_video(server + path, limits=HURRIED)


@pytest.mark.usefixtures("nothing_left_open")
@pytest.mark.parametrize("num_looks", range(1, 8))
def test_connection_is_closed_whenever_its_time_is_over(num_looks, server, monkeypatch):
    clock = itertools.chain([0] * num_looks, itertools.repeat(1))
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(VideoLimitError, match="max_fetch_seconds"):
        read_video(server + "/clip.mp4", limits=HURRIED)


@pytest.mark.usefixtures("nothing_left_open")
@pytest.mark.parametrize("good", [True, False])
def test_files_are_closed(good, clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes() if good else b"this is no video")
    with contextlib.suppress(VideoReadError):
        read_video(path)
    with contextlib.suppress(VideoReadError):
        read_picture(path)


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


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, `now`, unless a test moves it."""
    clock = SimpleNamespace(now=0)
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


class Slow(BytesIO):
    """Gives a hundred bytes at a time, and needs a second for them."""

    def __init__(self, data: bytes, clock):
        super().__init__(data)
        self.clock, self.num_reads = clock, 0

    def read(self, size=-1):
        self.clock.now += 1
        self.num_reads += 1
        return super().read(min(size, 100))


class SlowStream(Slow, Stream):
    pass


@pytest.mark.parametrize(
    ("kind", "limit", "doing"),
    [
        (Slow, "max_decode_seconds", "reading it"),
        (SlowStream, "max_fetch_seconds", "reading its file object to the end"),
    ],
)
def test_error_when_a_file_object_passes_the_limit_on_time_in_the_middle(kind, limit, doing, clip, clock):
    file = kind(clip.read_bytes(), clock)
    with pytest.raises(VideoLimitError, match=f"given as {kind.__name__}: {doing} took longer than {limit}=5; raise"):
        read_video(file, limits=ReadingLimits(**{limit: 5}))
    assert file.num_reads == 5
    assert frame(kind(clip.read_bytes(), clock), ReadingLimits()) == 3  # where there is enough time


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


class OneTooMany(BytesIO):
    def read(self, size=-1):
        return super().read(size) if size > 100_000 else super().read(size).ljust(size + 1)


class Failing(BytesIO):
    def read(self, size=-1):
        if self.tell() > 500:
            raise RuntimeError("the disk is gone")
        return super().read(min(size, 501))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Overfull, r"read\(\d+\) returned \d+ characters or bytes, not bytes and no more"),
        (OneTooMany, r"read\(30\) returned 31 characters or bytes"),
        (Failing, "the disk is gone"),
    ],
)
def test_error_when_a_file_object_breaks_its_word(kind, message, clip):
    with pytest.raises(VideoReadError, match=f"given as {kind.__name__}: reading its file object failed: .*{message}"):
        read_video(kind(clip.read_bytes()))


def test_file_objects_of_the_caller_stay_open(clip):
    with clip.open("rb") as file:
        read_video(file)
        assert not file.closed
