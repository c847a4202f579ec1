"""Decides which requests reach Gradio's application, by their path, their size and the page that they come from.

Gradio has routes that download what a client names, list the application's functions or connect to other services. The
page needs a dozen routes, which are listed here. A header tells the browser to connect only to this server, so that
nothing is loaded from elsewhere and nothing is sent there.
"""

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from llava_next_video.serving.web_visits import Visits


PATHS = {
    "GET": {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/startup-events"}
    | {"/gradio_api/queue/data", "/gradio_api/upload_progress"},
    "POST": {"/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/upload"},
}
FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")  # of GET
FILE = "/gradio_api/file="
MAX_BODY_BYTES = 10**6  # of everything but an upload
FORM_BYTES = 10**5  # around the file in an upload
STORED = 40  # times the largest upload: most bytes on the disk at once
OWN_NAMES = {"localhost", "127.0.0.1", "::1"}
HEADERS = {
    "content-security-policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A request that does not reach the application: its status, and why."""


class Door:
    """An ASGI application in front of another one.

    Args:
        visits: has the folder of uploads.
        host: where the server listens.
        max_upload_bytes: size of the largest video that is sent.
    """

    def __init__(self, app: Callable, visits: Visits, host: str, max_upload_bytes: int):
        self.app, self.visits, self.max_upload_bytes = app, visits, max_upload_bytes
        # A page of another site whose name resolves to this machine would send that name as its host.
        self.hosts = {*OWN_NAMES, host} if is_this_machine(host) else None
        self.arriving = 0  # bytes of uploads under way

    async def __call__(self, scope: dict, receive: Callable, send: Callable):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page opens no web sockets
            return await send({"type": "websocket.close", "code": 1008})
        try:
            num_bytes = self.checked(scope)
        except Refused as refused:
            return await answer(send, *refused.args)

        async def send_with_headers(message: dict):
            if message["type"] == "http.response.start":
                message = {**message, "headers": with_headers(scope["path"], message.get("headers", []))}
            await send(message)

        self.arriving += num_bytes
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            self.arriving -= num_bytes

    def checked(self, scope: dict) -> int:
        """The size of an upload, or 0 for another request.

        Raises:
            Refused: the request may not go on.
        """
        path, method = scope["path"], scope["method"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts is not None and urlsplit(f"//{host}").hostname not in self.hosts:
            raise Refused(403, f"This page is at this machine only, and was asked for as {host[:100]!r}.")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(403, "Pages of other sites may not ask this one.")
        if not self.is_known(method, path):
            raise Refused(404, "There is nothing here.")
        if method != "POST":
            return 0
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()):
            raise Refused(411, "Say how long the request is.")
        is_upload = path == "/gradio_api/upload"
        if int(length) > (self.max_upload_bytes + FORM_BYTES if is_upload else MAX_BODY_BYTES):
            most = f"Send videos of up to {self.max_upload_bytes} bytes."
            raise Refused(413, f"The request has {length} bytes. {most if is_upload else ''}".strip())
        if not is_upload:
            return 0
        if self.visits.stored_bytes() + self.arriving + int(length) > STORED * self.max_upload_bytes:
            raise Refused(507, "There is no room for another video now. Videos expire; try again later.")
        return int(length)

    def is_known(self, method: str, path: str) -> bool:
        method = "GET" if method == "HEAD" else method
        if path in PATHS.get(method, ()):
            return True
        if method != "GET" or ".." in PurePosixPath(path).parts:
            return False
        if path.startswith(FILE):
            return self.visits.is_upload(path.removeprefix(FILE))
        return path.startswith(FOLDERS)


def is_this_machine(host: str) -> bool:
    """Whether a server that listens at `host` can be reached from this machine only.

    >>> is_this_machine("localhost"), is_this_machine("127.0.0.2"), is_this_machine("0.0.0.0")
    (True, True, False)
    """
    try:
        return host in OWN_NAMES or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def with_headers(path: str, headers: list) -> list:
    """The headers of a response, with ours. Browsers may cache the files that come with Gradio."""
    own = {name: value for name, value in HEADERS.items() if name != "cache-control" or not path.startswith(FOLDERS)}
    kept = [(name, value) for name, value in headers if name.decode("latin-1").lower() not in own]
    return [*kept, *((name.encode(), value.encode()) for name, value in own.items())]


async def answer(send: Callable, status: int, reason: str):
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
