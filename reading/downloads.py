"""Download a video over http: or https:, within limits.

Bytes are counted as they arrive, whatever the header announces. A URL, and each redirect, leads to public addresses
only. Python's own client is used with sockets of ours: so every read ends at the deadline, and the address that was
checked is the one that is connected to.
"""

import re
import socket
import ssl
import string
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, responses
from io import BytesIO
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
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

from .addresses import is_own, is_public
from .errors import MAX_CHARACTERS, OverLimit, Unreadable
from .guarded_file import read_into_memory
from .limits import Deadline, ReadingLimits


# What may stand in front of a URL's path, escapes undone: no user name, and nothing that a proxy could read as its own.
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s\0-\x20\x7f%@:/\\?#\[\]]{1,255})(?::([0-9]{0,5}))?", re.IGNORECASE)


def download(url: str, limits: ReadingLimits, deadline: Deadline | None = None) -> BytesIO:
    """Download a video into memory, until `deadline` if one is running already."""
    deadline = deadline or limits.deadline_of_fetching("fetching it")
    with open_url(url, limits, deadline) as response:
        return read_body(response, limits, deadline)


def read_body(response: HTTPResponse, limits: ReadingLimits, deadline: Deadline) -> BytesIO:
    announced = response.length or 0
    limits.check_bytes(announced)
    # Not `read`, which takes a chunk of -1 bytes for everything that may ever come.
    data = read_into_memory(response.read1, limits, deadline)
    if data.tell() < announced:
        raise Unreadable(f"the connection was closed after {data.tell()} of {announced} bytes")
    return data


class PartRefused(Unreadable):
    """The server does not give out this part of a file."""


@contextmanager
def open_url(url: str, limits: ReadingLimits, deadline: Deadline, part: str | None = None) -> Iterator[HTTPResponse]:
    """Connect to a server. Errors, those inside the block too, become `Unreadable`.

    Args:
        part: value of the header `Range`, to ask for some bytes only; a server may still send the whole file.
    """
    opener = OpenerDirector()  # with these handlers and no other: no ftp:, no file:
    web = WebHandler(deadline, limits.allow_private_addresses)
    errors = (UnknownHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor())
    for handler in (ProxyHandler(), web, Redirects(), *errors):
        opener.add_handler(handler)
    try:
        with opener.open(WebRequest(url, part)) as response:
            yield response
    except HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise Unreadable("it redirects in circles, too often, or to nowhere") from error
        phrase = responses.get(error.code, "an error")
        kind = PartRefused if part and error.code == 416 else Unreadable
        raise kind(f"the server {urlsplit(error.url).netloc} answered {error.code} {phrase}") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not an address
        deadline.check()
        raise Unreadable(f"it cannot be fetched: {getattr(error, 'reason', error) or repr(error)}") from error


class WebRequest(Request):
    """A request that knows whether it goes to a proxy."""

    def __init__(self, url: str, part: str | None = None):
        super().__init__(quote(url, safe=string.punctuation), headers={"Range": part} if part else {})
        self.part = part
        self.host = plain_authority(self.host or "")
        self.through_proxy = False

    def set_proxy(self, host: str, type: str):
        """Called by `ProxyHandler` only: from then on `host`, which is connected to, is the proxy."""
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
            f"its address has {authority[:MAX_CHARACTERS]!r} where a host, or a host and a port, is expected; user "
            "names and passwords are not sent: download it with another tool, and pass the path"
        )
    return authority


class Redirects(HTTPRedirectHandler):
    """Follows up to ten redirects, to http: and https: only. Each is a new request: except for the part that is asked
    for, no header is sent again, such as the password of a proxy."""

    def redirect_request(self, request, response, code, message, headers, url):
        return WebRequest(url, request.part)

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
        return self.do_open(Connection, request, **self.rules(request))

    def https_open(self, request):
        context = ssl.create_default_context()
        context.sslsocket_class = TimedTLSSocket
        return self.do_open(TLSConnection, request, context=context, **self.rules(request))

    def rules(self, request: WebRequest) -> dict:
        """The rules of a connection for this request."""
        # A proxy is the operator's choice, wherever it is; it is the proxy that has to refuse what lies behind it.
        return {"deadline": self.deadline, "allow_private": self.allow_private or request.through_proxy}


class ConnectionWithRules:
    """Mixin for a connection: every read ends at the deadline, and addresses are checked."""

    def __init__(self, *args, deadline: Deadline, allow_private: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.deadline, self.allow_private, self.is_checked = deadline, allow_private, False
        self._create_connection = self.connect_checked  # what `HTTPConnection.connect` calls, before anything is sent

    def connect_checked(self, host_and_port: tuple[str, int], *_) -> "TimedSocket":
        self.is_checked = True
        return connect(host_and_port, self.deadline, self.allow_private)

    def connect(self):
        super().connect()
        if not self.is_checked:
            self.close()
            raise RuntimeError(
                "Python's http.client connected to an address that was not checked; this version of Python cannot be "
                "used for URLs."
            )
        self.sock.deadline = self.deadline  # the module ssl makes its sockets itself, around ours


class Connection(ConnectionWithRules, HTTPConnection):
    pass


class TLSConnection(ConnectionWithRules, HTTPSConnection):
    pass


class Timed:
    """Mixin for a socket: every read ends at the deadline, however little arrives at a time."""

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


def connect(host_and_port: tuple[str, int], deadline: Deadline, allow_private: bool) -> TimedSocket:
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
