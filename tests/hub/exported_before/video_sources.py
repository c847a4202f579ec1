"""Open whatever a video is given as, within limits: a path, a URL, a data URI, bytes or a file object.

Videos come from strangers. What is fetched is counted while it arrives, whatever its header announces; a URL leads to
public addresses only, each redirect included; and everything ends in one family of errors.
"""

import re
import socket
import ssl
import string
import time
from base64 import b64decode
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection, responses
from io import BytesIO
from ipaddress import IPv4Address, IPv6Network, ip_address
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import quote, unquote_to_bytes, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
)


VideoSource = str | Path | bytes | bytearray | memoryview | BinaryIO

CHUNK_BYTES = 2**18
NAT64 = IPv6Network("64:ff9b::/96")  # IPv4 addresses behind a translator, RFC 6052


@dataclass(frozen=True, kw_only=True)
class ReadingLimits:
    """How much one video may cost. Whoever meets a limit gets a `VideoLimitError` that names it.

    Args:
        max_fetched_bytes: largest video that is held in memory: fetched from a URL, in a data URI, given as bytes, or
            read from a file object that cannot seek. Files on disk are read where they are and may be larger.
        max_fetch_seconds: longest download, redirects included, from the first connection to the last byte.
        max_frame_pixels: height times width of the largest frame. A decoder holds up to some thirty frames.
        max_frames: most frames in a video, sampled or not.
        max_result_bytes: size of the frames that are returned: frames * height * width * 3.
        max_decode_seconds: longest time from opening the file to the last frame. It is looked at between reads,
            packets and frames: one packet or frame cannot be interrupted.
        allow_private_addresses: whether URLs, redirects included, may lead to addresses that are not public:
            this machine, the local network, the metadata service of a cloud.

    >>> ReadingLimits(max_decode_seconds=20).max_decode_seconds
    20
    """

    max_fetched_bytes: int = 2**30
    max_fetch_seconds: float = 300
    max_frame_pixels: int = 8192 * 4320  # 8K
    max_frames: int = 1_000_000  # nine hours of 30 frames per second
    max_result_bytes: int = 2**32
    max_decode_seconds: float = 600
    allow_private_addresses: bool = False


DEFAULT_LIMITS = ReadingLimits()


class LimitsMixin:
    """Goes in front of an image or video processor: its limits belong to whoever runs it, not to the checkpoint."""

    limits = DEFAULT_LIMITS

    def to_dict(self) -> dict:
        return {name: value for name, value in super().to_dict().items() if name != "limits"}

    @classmethod
    def from_dict(cls, settings: dict, *args, **kwargs):
        return super().from_dict({name: value for name, value in settings.items() if name != "limits"}, *args, **kwargs)


class VideoReadError(ValueError):
    """A video could not be read.

    Args:
        video: the video as messages name it: its path or URL, or what kind of data it is.
        reason: what was found, and what to do where something can be done.
    """

    def __init__(self, video: str, reason: str):
        super().__init__(video, reason)
        self.video, self.reason = video, reason

    def __str__(self) -> str:
        return f"Could not read the video {self.video}: {self.reason}."


class VideoLimitError(VideoReadError):
    """A video was not read because it would cost more than `ReadingLimits` allow."""


class Unreadable(Exception):
    """Why a video cannot be read; `read_video` adds its name."""


class OverLimit(Unreadable):
    """Which limit a video meets."""


class Deadline:
    """The moment when a limit on time is reached."""

    def __init__(self, seconds: float, limit: str, doing: str):
        self.moment = time.monotonic() + seconds
        self.reason = f"{doing} took longer than {limit}={seconds:g}; raise this limit if the video is to be trusted"

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.moment

    def check(self):
        if self.passed:
            raise OverLimit(self.reason)

    def seconds_left(self) -> float:
        self.check()
        return max(self.moment - time.monotonic(), 0.001)


def is_video_source(value) -> bool:
    """Whether `value` is something `read_video` opens, rather than frames."""
    return isinstance(value, str | Path | bytes | bytearray | memoryview) or hasattr(value, "read")


def describe(source) -> str:
    """Name a source in a message: the path or URL, or what kind of data it is."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"given as {memoryview(source).nbytes} bytes"
    if isinstance(source, str | Path):
        text = str(source)
        return f"given as a data URI of {len(text)} characters" if scheme_of(text) == "data" else repr(text)
    return f"given as {type(source).__name__} {getattr(source, 'name', '')}".rstrip()


@contextmanager
def named_errors(source: VideoSource, *also: type[Exception]):
    """Turn what goes wrong inside, `also` errors of these types, into a `VideoReadError` that names `source`."""
    try:
        yield
    except OverLimit as problem:
        raise VideoLimitError(describe(source), str(problem)) from problem
    except Unreadable as problem:
        raise VideoReadError(describe(source), str(problem)) from problem
    except (OSError, *also) as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise VideoReadError(describe(source), reason.rstrip(".")) from error


def open_source(source: VideoSource, limits: ReadingLimits = DEFAULT_LIMITS) -> BinaryIO:
    """Turn a source into a file object that can seek; a file object that can is returned itself.

    Raises:
        VideoReadError: it is missing or cannot be fetched; `VideoLimitError`, that would take more than `limits` allow.
        TypeError: `source` is nothing a video can be read from.
    """
    if not is_video_source(source):
        raise TypeError(
            f"A video cannot be read from {type(source).__name__}. "
            "Pass a path, a URL, a data URI, bytes, a binary file object, or frames."
        )
    with named_errors(source):
        if isinstance(source, bytes | bytearray | memoryview):
            check_size(memoryview(source).nbytes, limits)
            return BytesIO(source)
        if not isinstance(source, str | Path):
            return open_file_object(source, limits)
        match scheme_of(str(source)):
            case "http" | "https":
                return fetch(str(source), limits)
            case "data":
                return decode_data_uri(str(source), limits)
            case None:
                return open_path(Path(source))
            case scheme:
                raise Unreadable(f"addresses with {scheme}: are not read; pass a path, or a URL with http: or https:")


def scheme_of(text: str) -> str | None:
    """The scheme of a URL, or None for a path."""
    found = re.match(r"(data):|([a-z][a-z0-9+.-]*)://", text, re.IGNORECASE)
    return found and (found[1] or found[2]).lower()


def open_path(path: Path) -> BinaryIO:
    if not path.is_file():
        if path.is_dir():
            raise Unreadable("it is a folder")
        raise Unreadable("it is not a regular file" if path.exists() else "there is no such file")
    return path.open("rb")


def decode_data_uri(uri: str, limits: ReadingLimits) -> BinaryIO:
    header, _, data = uri.partition(",")
    in_base64 = header.lower().endswith(";base64")
    check_size(len(data) * 3 // 4 - data.count("=", -2) if in_base64 else len(data) - 2 * data.count("%"), limits)
    try:
        return BytesIO(b64decode(data, validate=True) if in_base64 else unquote_to_bytes(data))
    except ValueError as error:
        raise Unreadable(f"its {'base64' if in_base64 else 'text'} is broken") from error


def open_file_object(file: BinaryIO, limits: ReadingLimits) -> BinaryIO:
    try:
        can_seek = hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable())
        return file if can_seek else hold(file.read, limits)
    except Unreadable:
        raise
    except Exception as error:  # whatever the user's class raises
        raise Unreadable(f"reading its file object failed: {error!r}") from error


def hold(read: Callable[[int], bytes], limits: ReadingLimits) -> BytesIO:
    """Read a stream to its end, into memory."""
    held = BytesIO()
    while chunk := read(CHUNK_BYTES):
        check_size(held.tell() + len(chunk), limits)
        held.write(chunk)
    return held


def check_size(num_bytes: int, limits: ReadingLimits):
    if num_bytes > limits.max_fetched_bytes:
        raise OverLimit(
            f"its {num_bytes} bytes or more are over max_fetched_bytes={limits.max_fetched_bytes}; "
            "store it on disk and pass the path, or raise this limit"
        )


def fetch(url: str, limits: ReadingLimits) -> BytesIO:
    """Download a video into memory."""
    deadline = Deadline(limits.max_fetch_seconds, "max_fetch_seconds", "fetching it")
    opener = OpenerDirector()  # with these handlers and no other: no ftp:, no file:
    web = WebHandler(deadline, limits.allow_private_addresses)
    for handler in (ProxyHandler(), web, Redirects(), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)
    try:
        with opener.open(quote(url, safe=string.punctuation)) as response:
            announced = response.length or 0
            check_size(announced, limits)
            held = hold(response.read, limits)
            if held.tell() < announced:
                raise Unreadable(f"the connection was closed after {held.tell()} of {announced} bytes")
            return held
    except HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise Unreadable("it redirects in circles, too often, or to nowhere") from error
        phrase = responses.get(error.code, "an error")
        raise Unreadable(f"the server {urlsplit(error.url).netloc} answered {error.code} {phrase}") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an address that is none
        deadline.check()
        raise Unreadable(f"it cannot be fetched: {getattr(error, 'reason', error) or repr(error)}") from error


class Redirects(HTTPRedirectHandler):
    """Follows ten redirects, to http: and https: only."""

    def http_error_302(self, request, response, code, message, headers):
        response.close()  # its body is of no use, and may have no end
        scheme = urlsplit(headers.get("location", "")).scheme.lower()
        if scheme not in ("", "http", "https"):
            raise Unreadable(f"it redirects to an address with {scheme}:, and only http: and https: are followed")
        return super().http_error_302(request, response, code, message, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class WebHandler(HTTPHandler, HTTPSHandler):
    """Makes connections that stop at the deadline, to addresses that are allowed."""

    def __init__(self, deadline: Deadline, allow_private: bool):
        super().__init__()
        self.deadline, self.allow_private = deadline, allow_private

    def http_open(self, request):
        return self.do_open(Connection, request, connect=self.connect_for(request))

    def https_open(self, request):
        context = ssl.create_default_context()
        context.sslsocket_class = TimedTLSSocket
        return self.do_open(TLSConnection, request, connect=self.connect_for(request), context=context)

    def connect_for(self, request) -> Callable[..., "TimedSocket"]:
        # A proxy is the operator's choice, wherever it is; what lies behind it is the proxy's to refuse.
        through_proxy = request.host != urlsplit(request.full_url).netloc
        return partial(connect, deadline=self.deadline, allow_private=self.allow_private or through_proxy)


class Guarded:
    """A connection made by a function of ours, whose every read has an end."""

    def __init__(self, *args, connect: Callable[..., "TimedSocket"], **kwargs):
        super().__init__(*args, **kwargs)
        self._create_connection = connect  # what `HTTPConnection.connect` calls, before anything is sent

    def connect(self):
        super().connect()
        self.sock.deadline = self._create_connection.keywords["deadline"]


class Connection(Guarded, HTTPConnection):
    pass


class TLSConnection(Guarded, HTTPSConnection):
    pass


class Timed:
    """A socket whose every read ends at the deadline, however little arrives at a time."""

    deadline: Deadline

    def recv_into(self, *args):
        self.settimeout(self.deadline.seconds_left())
        return super().recv_into(*args)


class TimedSocket(Timed, socket.socket):
    pass


class TimedTLSSocket(Timed, ssl.SSLSocket):
    pass


def connect(host_and_port: tuple[str, int], *_, deadline: Deadline, allow_private: bool) -> TimedSocket:
    """Like `socket.create_connection`; the addresses that are checked are the very ones connected to."""
    host, port = host_and_port
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = [info for info in found if allow_private or is_public(info[4][0])]
    if not allowed:
        raise Unreadable(
            f"{host} is at {found[0][4][0]}, which is not a public address; if videos may come from there, set "
            "ReadingLimits(allow_private_addresses=True)"
        )
    failure = OSError()
    for family, kind, protocol, _, address in allowed:
        connection = TimedSocket(family, kind, protocol)
        connection.deadline = deadline
        try:
            connection.settimeout(deadline.seconds_left())
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


def is_public(address: str) -> bool:
    ip = ip_address(address.partition("%")[0])
    if ip.version == 6 and ip in NAT64:
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.is_global and not ip.is_multicast
