"""Servers that answer with what no server should, slowly, or without an end."""

import gzip
import itertools
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

from llava_next_video import ReadingLimits, VideoLimitError, VideoReadError, read_video
from tests.attacks import Attack


LIMITS = ReadingLimits(max_fetched_bytes=2_000_000, max_fetch_seconds=1, allow_private_addresses=True)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PIECE = bytes(0x10000)
PACKED = gzip.compress(bytes(10**7))
NUMBERS = ["0x10", "1_0", "+5", "-5", "-1", "1e9", "9" * 20, "\u0663", "5,5", "nan"]

TOO_LONG = "took longer than max_fetch_seconds=1"
TOO_MUCH = "over max_fetched_bytes=2000000"
NO_END = f"{TOO_LONG}|cannot be fetched"  # newer versions of Python count what older ones read for ever


def drip(data: bytes) -> Iterable[bytes]:
    """A byte at a time."""
    for position in range(len(data)):
        time.sleep(0.05)
        yield data[position : position + 1]


def forever(piece: bytes, first: bytes = b"") -> Iterable[bytes]:
    return itertools.chain([first], itertools.repeat(piece))


def silence(first: bytes = b"") -> Iterable[bytes]:
    """The answer's beginning, and then nothing, without closing."""
    yield first
    time.sleep(30)


def redirect(location: str, *more: bytes) -> list[bytes]:
    return [b"HTTP/1.1 302 Found\r\nLocation: %b\r\n" % location.encode("latin-1"), b"\r\n", *more]


def mutated(seed: int) -> list[bytes]:
    """A right answer with some bytes changed, left out, doubled."""
    chance = random.Random(seed)
    answer = bytearray(chance.choice([CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", OK + b"Content-Length: 5\r\n\r\nhello"]))
    for _ in range(chance.randint(1, 8)):
        position = chance.randrange(len(answer))
        odd = chance.choice([b"", b"\0", b"\r\n", b"\n", b"\xff", b"-", b"0" * 300, b" ", b":", b"9" * 20, b"\t", b"A"])
        answer[position : position + chance.randint(0, 3)] = odd
    return [bytes(answer)]


# What a server says, and what the message has to say.
ANSWERS: dict[str, tuple[Callable[[], Iterable[bytes]], str]] = {
    "nothing, and closes": (lambda: [], "closed connection without response"),
    "nothing, and does not close": (silence, TOO_LONG),
    "half a status line": (lambda: silence(b"HTTP/1."), TOO_LONG),
    "a byte at a time": (lambda: drip(OK + b"X: y\r\n" * 10_000), TOO_LONG),
    "a body, a byte at a time": (lambda: itertools.chain([OK, b"\r\n"], drip(PIECE)), TOO_LONG),
    "chunks, a byte at a time": (lambda: itertools.chain([CHUNKED], drip(b"1\r\nx\r\n" * 10_000)), TOO_LONG),
    "zeros without an end": (lambda: forever(PIECE), "got more than 65536 bytes"),
    "lines without an end": (lambda: forever(b"\r\n" * 1000), "cannot be fetched"),
    "a status line without an end": (lambda: forever(PIECE, b"HTTP/1.1 200 "), "more than 65536 bytes"),
    "headers without an end": (lambda: forever(b"X: y\r\n" * 1000, OK), "more than 100 headers"),
    "a header without an end": (lambda: forever(PIECE, OK + b"X: "), "more than 65536 bytes"),
    "folded lines without an end": (lambda: forever(b" y\r\n" * 1000, OK + b"X: y\r\n"), "100 headers"),
    "hundred large headers": (lambda: [OK, (b"X: " + b"y" * 65_000 + b"\r\n") * 99, b"\r\n"], "not a video"),
    "100 Continue without an end": (lambda: forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), NO_END),
    "100 Continue with large headers": (
        lambda: forever(b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 65_000 + b"\r\n\r\n"),
        NO_END,
    ),
    "early hints without an end": (lambda: forever(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000), "answered 103"),
    "101 Switching Protocols": (lambda: [b"HTTP/1.1 101 x\r\n\r\n"], "answered 101"),
    "204 with a body": (lambda: forever(PIECE, b"HTTP/1.1 204 x\r\n\r\n"), "not a video"),
    "304": (lambda: [b"HTTP/1.1 304 x\r\n\r\n"], "redirects in circles"),
    "404 without an end": (lambda: forever(PIECE, b"HTTP/1.1 404 x\r\n\r\n"), "answered 404"),
    "a status of 4 digits": (lambda: [b"HTTP/1.1 2000 x\r\n\r\n"], "cannot be fetched"),
    "a negative status": (lambda: [b"HTTP/1.1 -20 x\r\n\r\n"], "cannot be fetched"),
    "another protocol": (lambda: [b"SSH-2.0-OpenSSH_9\r\n"], "cannot be fetched"),
    "a radio station": (lambda: forever(PIECE, b"ICY 200 OK\r\n\r\n"), "cannot be fetched"),
    "HTTP/9": (lambda: forever(PIECE, b"HTTP/9.9 200 OK\r\n\r\n"), "cannot be fetched"),
    "a body without an end": (lambda: forever(PIECE, OK + b"\r\n"), TOO_MUCH),
    "chunks without an end": (lambda: forever(b"10000\r\n%b\r\n" % PIECE, CHUNKED), TOO_MUCH),
    "small chunks without an end": (lambda: forever(b"1\r\nx\r\n" * 5000, CHUNKED), f"{TOO_MUCH}|{TOO_LONG}"),
    "a chunk as large as can be said": (lambda: forever(PIECE, CHUNKED + b"f" * 65_000 + b"\r\n"), TOO_MUCH),
    "a chunk of -1 bytes": (lambda: forever(PIECE, CHUNKED + b"-1\r\n"), TOO_MUCH),
    "a chunk of -8 bytes": (lambda: forever(PIECE, CHUNKED + b"-8\r\n"), TOO_MUCH),
    "a chunk of -0 bytes": (lambda: forever(PIECE, CHUNKED + b"-0\r\n"), "cannot be fetched"),
    "a chunk of 0x_f bytes": (lambda: [CHUNKED + b"0xf\r\n"], "cannot be fetched"),
    "a chunk's size without an end": (lambda: forever(b"0" * 0x10000, CHUNKED), "cannot be fetched"),
    "a chunk's extension without an end": (lambda: forever(PIECE, CHUNKED + b"5;"), "cannot be fetched"),
    "a chunk that is no number": (lambda: [CHUNKED + b"hello\r\n"], "IncompleteRead"),
    "trailers without an end": (lambda: forever(b"X: y\r\n" * 1000, CHUNKED + b"1\r\nx\r\n0\r\n"), NO_END),
    "a length without a body": (lambda: [OK + b"Content-Length: 9\r\n\r\n"], "after 0 of 9 bytes"),
    "a length of many digits": (
        lambda: forever(PIECE, OK + b"Content-Length: " + b"9" * 60_000 + b"\r\n\r\n"),
        TOO_MUCH,
    ),
    "two lengths": (
        lambda: forever(PIECE, OK + b"Content-Length: 9\r\nContent-Length: 99999999\r\n\r\n"),
        "not a video",
    ),
    "a packed body, which is not unpacked": (
        lambda: [OK + b"Content-Encoding: gzip\r\n\r\n", PACKED],
        "not a video",
    ),
    "a packed transfer": (
        lambda: [OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", PACKED],
        "not a video",
    ),
    "a redirect to itself": (lambda: redirect("/"), "redirects in circles"),
    "a redirect to nowhere": (lambda: redirect(""), "redirects in circles"),
    "a redirect that grows": (lambda: redirect("x" * 60_000 + "/"), "redirects in circles"),
    "a redirect with a body without an end": (
        lambda: itertools.chain(redirect("/"), itertools.repeat(PIECE)),
        "redirects in circles",
    ),
    "a redirect of an old kind": (lambda: [b"HTTP/1.1 302 x\r\nURI: ftp://a/\r\n\r\n"], "type: ftp"),
    "a redirect with two addresses": (
        lambda: [b"HTTP/1.1 302 x\r\nLocation: /\r\nLocation: file:///etc/passwd\r\n\r\n"],
        "redirects in circles",
    ),
    **{
        f"a redirect to {location!r}": (partial(redirect, location), match)
        for location, match in {
            "file:///etc/passwd": "with file:",
            "FILE:/etc/passwd": "with file:",
            "ftp://127.0.0.1/": "with ftp:",
            "data:video/mp4,x": "with data:",
            "gopher://127.0.0.1/": "with gopher:",
            "javascript:x": "with javascript:",
            "\tfile:///etc/passwd": "with file:|or to nowhere",
            "fi\tle:///etc/passwd": "with file:|or to nowhere",
            "//[": "cannot be fetched",
            "http://": "or to nowhere|where a host",
            "http:127.0.0.1": "or to nowhere|cannot be fetched|where a host",
            "http://u:p@127.0.0.1/": "where a host",
            "http://127.0.0.1:99999999999999999999/": "where a host",
            "http://127.0.0.1%0d%0aX: y/": "where a host",
            "http://\xff\xfe/": "cannot be fetched|where a host",
            "<URL:file:///etc/passwd>": "or to nowhere|with",
        }.items()
    },
    **{
        f"a length of {number}": (
            lambda number=number: forever(PIECE, OK + f"Content-Length: {number}\r\n\r\n".encode()),
            "",
        )
        for number in NUMBERS
    },
    **{f"mutant {seed}": (partial(mutated, seed), "") for seed in range(100)},
}


class Server(BaseRequestHandler):
    """Gives the answer whose number is the path; the last one again where a redirect names none."""

    answers = [answer for answer, _ in ANSWERS.values()]
    last = 0

    def handle(self):
        try:
            with self.request.makefile("rb") as request:
                found = re.match(rb"GET /(\d+) ", request.readline())
            Server.last = int(found[1]) if found else Server.last
            for piece in self.answers[Server.last]():
                self.request.sendall(piece)
            self.request.shutdown(socket.SHUT_WR)
            self.request.settimeout(1)
            while self.request.recv(2**17):  # or unread bytes become a reset
                pass
        except OSError:  # the client had enough
            pass


class Silent(BaseRequestHandler):
    def handle(self):
        time.sleep(30)


class SlowReader(BaseRequestHandler):
    """Reads a request over TLS as slowly as it can without being given up."""

    context: ssl.SSLContext

    def handle(self):
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            secure = self.context.wrap_socket(self.request, server_side=True)
            while secure.recv(2**14):
                time.sleep(0.1)
        except OSError:
            pass


def serve(handler: type[BaseRequestHandler]) -> int:
    """Start a server on this machine, and return its port."""
    server = ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
    return server.server_address[1]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    files = folder / "certificate.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def attacks(folder: Path) -> list[Attack]:
    port, silent = serve(Server), serve(Silent)

    def attack(name: str, url: str, match: str) -> Attack:
        error = VideoLimitError if match in (TOO_LONG, TOO_MUCH) else VideoReadError
        return Attack(name, partial(read_video, url, limits=LIMITS), error, match, seconds=10)

    found = [
        attack(name, f"http://127.0.0.1:{port}/{number}", match)
        for number, (name, (_, match)) in enumerate(ANSWERS.items())
    ]
    found.append(attack("a TLS handshake without an answer", f"https://127.0.0.1:{silent}/", TOO_LONG))
    found.append(attack("TLS expected, something else there", f"https://127.0.0.1:{port}/0", "cannot be fetched"))
    if shutil.which("openssl"):
        chain, key = certificate(folder)
        SlowReader.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        SlowReader.context.load_cert_chain(chain, key)
        os.environ["SSL_CERT_FILE"] = str(chain)
        url = f"https://localhost:{serve(SlowReader)}/{'a' * 20_000_000}"
        found.append(attack("a long address, read slowly", url, TOO_LONG))
    return found
