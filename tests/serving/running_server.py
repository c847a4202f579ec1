"""A server of `llava-next-video serve` in this process, and requests to it."""

import base64
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.utils.import_utils import is_serve_available

from llava_next_video.__main__ import parse_arguments
from llava_next_video.serving.transformers_serve import server_of
from tests.local_server import local_server
from tests.serving.starting import started


SAMPLES = Path(__file__).parents[2] / "demo_model" / "samples"
# What is asked about each sample, and the right answer.
CIRCLE = ("red_circle_moves_left.mp4", "Which way does the circle move?", "The circle moves left.")
QUESTIONS = (
    CIRCLE,
    ("green_triangle_moves_right.mp4", "Which way does the triangle move?", "The triangle moves right."),
    ("blue_square_moves_up.mp4", "Which way does the square move?", "The square moves up."),
    ("yellow_star_moves_down.mp4", "Which way does the star move?", "The star moves down."),
)


def require_server():
    """Leave out a module of tests where transformers' server is not installed; it is where the tests decide."""
    if not is_serve_available() and not os.environ.get("CI"):
        pytest.skip("pip install 'llava-next-video[serve]'", allow_module_level=True)


def data_url(name: str | Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode((SAMPLES / name).read_bytes()).decode()


def video_part(url) -> dict:
    return {"type": "video_url", "video_url": {"url": url}}


def question(video, text: str = CIRCLE[1]) -> list[dict]:
    """A chat of one question about a video, named by a URL or as a part of a message."""
    part = video if isinstance(video, dict) else video_part(video)
    return [{"role": "user", "content": [part, {"type": "text", "text": text}]}]


def picture_url(side: int = 64) -> str:
    """A red square, `side` pixels high and wide."""
    file = BytesIO()
    Image.fromarray(np.full((side, side, 3), (200, 30, 30), np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def picture_part(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


@contextmanager
def serving_files() -> Iterator[tuple[str, list[str]]]:
    """The address of a web server on this machine that has the samples, and what was asked for."""
    asked = []

    class Files(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    with local_server(partial(Files, directory=SAMPLES)) as address:
        yield address, asked


@dataclass
class RunningServer:
    """The port of a server on this machine."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body, headers: dict | None = None, timeout: float = 60) -> tuple[int, dict]:
        """Send a body, as JSON unless it is bytes (or pieces of them): the status and the JSON of the answer."""
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": "application/json"} if headers is None else headers
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def chat(self, messages, **fields) -> tuple[int, str]:
        """Ask in a chat: the status, and the answer or what is said of the error."""
        status, answer = self.post("/v1/chat/completions", {"model": "demo", "messages": messages, **fields})
        return status, answer["choices"][0]["message"]["content"] if status == 200 else answer["error"]["message"]

    def leave_after(self, body: dict, num_bytes: int, timeout: float = 60):
        """Send a chat, read some of the answer, and go."""
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
            received = 0
            while received < num_bytes:
                received += len(connection.recv(1000))


@contextmanager
def running(*arguments: str) -> Iterator[RunningServer]:
    """A server with these arguments of the command, on the embedded checkpoint unless they name another."""
    place = ("--host", "127.0.0.1", "--port", "0", "--device", "cpu")
    with started(server_of(parse_arguments(["serve", *place, *arguments]))) as port:
        yield RunningServer(port)
