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
from ipaddress import IPv4Address, ip_address, ip_network
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
    Request,
    UnknownHandler,
)


VideoSource = str | Path | bytes | bytearray | memoryview | BinaryIO

CHUNK_BYTES = 2**18
MOST_CHARACTERS = 1000  # of a path or URL in a message
LONGEST_WAIT = 86_400  # seconds; sockets take no infinity

# What may stand in front of a URL's path, escapes undone: no user name, and nothing that a proxy could read as its own.
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s\0-\x20\x7f%@:/\\?#\[\]]{1,255})(?::([0-9]{0,5}))?", re.IGNORECASE)

# Connecting to one of these is connecting to the IPv4 address in its last 32 bits.
IPV4_IN_IPV6 = [ip_network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96")]  # mapped; NAT64, RFC 6052
# The other ways to put IPv4 into IPv6 (6to4, Teredo, "compatible", ISATAP, local NAT64) lead wherever a tunnel or
# translator of this network takes them, and nobody serves videos there: they are not public at all.
ISATAP = 0x5EFE  # bits 64 to 95 of an address, but for the one that says whether the IPv4 address is unique
GLOBAL_UNICAST = ip_network("2000::/3")
# The registries of special-purpose addresses, https://www.iana.org/assignments/iana-ipv4-special-registry and
# iana-ipv6-special-registry; a table, because `is_global` differs between versions of Python. Added are the addresses
# which clouds give to services that only their own machines reach.
NOT_PUBLIC = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "34.118.224.0/20",  # services inside a cluster of Google Kubernetes Engine
        "100.64.0.0/10",  # behind a provider's translator; the metadata of Alibaba Cloud
        "127.0.0.0/8",
        "168.63.129.16/32",  # the platform of Azure
        "169.254.0.0/16",  # link-local; the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocols; the metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # protocols; Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]


@dataclass(frozen=True, kw_only=True)
class ReadingLimits:
    """How much one video may cost. Whoever meets a limit gets a `VideoLimitError` that names it.

    Args:
        max_fetched_bytes: largest video that is held in memory: fetched from a URL, in a data URI, given as bytes, or
            read from a file object that cannot seek. Files on disk are read where they are and may be larger.
        max_fetch_seconds: longest download, redirects included, from the first connection to the last byte; and longest
            time that a file object that cannot seek may take to its end, looked at between reads.
        max_frame_pixels: height times width of the largest frame. A decoder holds up to some thirty frames.
        max_frames: most frames in a video, sampled or not.
        max_result_bytes: size of the frames that are returned: frames * height * width * 3.
        max_decode_seconds: longest time from opening the file to the last frame. It is looked at between reads,
            packets and frames: one packet or frame cannot be interrupted.
        max_packet_units: most units (NAL units, OBUs, slices, scans) in one packet, of which a decoder keeps some
            kilobytes each.
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
    max_packet_units: int = 10_000  # a slice for every 16x16 pixels of 1080p
    allow_private_addresses: bool = False


DEFAULT_LIMITS = ReadingLimits()


class LimitsMixin:
    """Goes in front of an image or video processor: its limits belong to whoever runs it, not to the checkpoint."""

    limits = DEFAULT_LIMITS

    def open_source(self, source: VideoSource) -> BinaryIO:
        """[`open_source`] within the limits of this processor."""
        return open_source(source, self.limits)

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
        return min(max(self.moment - time.monotonic(), 0.001), LONGEST_WAIT)


def is_video_source(value) -> bool:
    """Whether `value` is something `read_video` opens, rather than frames."""
    return isinstance(value, str | Path | bytes | bytearray | memoryview) or hasattr(value, "read")


def describe(source) -> str:
    """Name a source in a message: the path or URL, or what kind of data it is."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"given as {memoryview(source).nbytes} bytes"
    if isinstance(source, str | Path):
        text = str(source)
        if scheme_of(text) == "data":
            return f"given as a data URI of {len(text)} characters"
        if len(text) > MOST_CHARACTERS:
            return f"{text[:MOST_CHARACTERS]!r}… ({len(text)} characters)"
        return repr(text)
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
        deadline = Deadline(limits.max_fetch_seconds, "max_fetch_seconds", "reading its file object to the end")
        return file if can_seek else hold(file.read, limits, deadline)
    except Unreadable:
        raise
    except Exception as error:  # whatever the user's class raises
        raise Unreadable(f"reading its file object failed: {error!r}") from error


def hold(read: Callable[[int], bytes], limits: ReadingLimits, deadline: Deadline | None = None) -> BytesIO:
    """Read a stream to its end, into memory."""
    held = BytesIO()
    while chunk := read(CHUNK_BYTES):
        check_size(held.tell() + len(chunk), limits)
        if deadline is not None:
            deadline.check()
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
    errors = (UnknownHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor())
    for handler in (ProxyHandler(), web, Redirects(), *errors):
        opener.add_handler(handler)
    try:
        with opener.open(WebRequest(url)) as response:
            announced = response.length or 0
            check_size(announced, limits)
            # Not `read`, which takes a chunk of -1 bytes for everything that may ever come.
            held = hold(response.read1, limits, deadline)
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


class WebRequest(Request):
    """A request that knows whether it goes to a proxy."""

    through_proxy = False

    def __init__(self, url: str):
        super().__init__(quote(url, safe=string.punctuation))
        self.host = plain_authority(self.host or "")

    def set_proxy(self, host: str, type: str):
        """What `ProxyHandler`, and nobody else, calls: from here on `host`, which is connected to, is the proxy."""
        super().set_proxy(host, type)
        self.through_proxy = True


def plain_authority(authority: str) -> str:
    """The host, and the port if there is one, in ASCII."""
    found = AUTHORITY.fullmatch(authority)
    if found and not authority.isascii():
        authority = found[1].encode("idna").decode() + authority[found.end(1) :]
        found = AUTHORITY.fullmatch(authority)  # again, because full-width signs have become those they look like
    if found is None or int(found[2] or 0) > 65535:
        raise Unreadable(
            f"its address has {authority[:MOST_CHARACTERS]!r} where a host, or a host and a port, is expected; user "
            "names and passwords are not sent: download it with another tool, and pass the path"
        )
    return authority


class Redirects(HTTPRedirectHandler):
    """Follows ten redirects, to http: and https: only. Each is a request of its own: no header goes along, such as the
    password of a proxy."""

    def redirect_request(self, request, response, code, message, headers, url):
        return WebRequest(url)

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

    def connect_for(self, request: WebRequest) -> Callable[..., "TimedSocket"]:
        # A proxy is the operator's choice, wherever it is; what lies behind it is the proxy's to refuse.
        return partial(connect, deadline=self.deadline, allow_private=self.allow_private or request.through_proxy)


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
    def send(self, *args):  # once for each 16 KB of a long address
        self.settimeout(self.deadline.seconds_left())
        return super().send(*args)


def connect(host_and_port: tuple[str, int], *_, deadline: Deadline, allow_private: bool) -> TimedSocket:
    """Like `socket.create_connection`; the addresses that are checked are the very ones connected to."""
    host, port = host_and_port
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = [info for info in found if allow_private or (is_public(info[4][0]) and not is_own(info[0], info[4]))]
    if not allowed:
        raise Unreadable(
            f"{host} is at {found[0][4][0]}, which is not a public address, or this machine's own; if videos may come "
            "from there, set ReadingLimits(allow_private_addresses=True)"
        )
    failure = OSError()
    for family, kind, protocol, _, address in allowed:
        connection = TimedSocket(family, kind, protocol)
        connection.deadline = deadline
        try:
            connection.settimeout(deadline.seconds_left())
            connection.connect(address)
            connection.settimeout(deadline.seconds_left())  # of sending, and of a TLS handshake
            return connection
        except (OSError, OverLimit) as error:
            connection.close()
            failure = error
    raise failure


def is_public(address: str) -> bool:
    """Whether an address, IPv4 or IPv6, is one that the whole internet reaches under this number."""
    ip = ip_address(address.partition("%")[0])
    if any(ip in network for network in IPV4_IN_IPV6):
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.version == 6 and (ip not in GLOBAL_UNICAST or int(ip) >> 32 & 0xFDFFFFFF == ISATAP):
        return False
    return not any(ip in network for network in NOT_PUBLIC)


def is_own(family: int, address: tuple) -> bool:
    """Whether an address is this machine's, which then sends to it from there, too; nothing is sent to find out."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return ip_address(probe.getsockname()[0]) == ip_address(address[0])
    except OSError:  # no way leads there
        return False
