"""The page of `llava-next-video web` in this process, and a visitor of it without a browser."""

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from importlib.util import find_spec

import pytest

from llava_next_video.__main__ import parse_arguments
from llava_next_video.serving.web_answers import Answer
from llava_next_video.serving.web_page import page_of
from tests.serving.starting import started


def require_gradio():
    """Leave out a module of tests where Gradio is not installed; `.ci/engines web` installs it."""
    if find_spec("gradio") is None:
        pytest.skip("pip install 'llava-next-video[web]'; run by .ci/engines web", allow_module_level=True)


@contextmanager
def showing_page(*arguments: str) -> Iterator[int]:
    """The port of a page on the embedded checkpoint, with these arguments of the command."""
    page = page_of(parse_arguments(["web", "--port", "0", "--device", "cpu", *arguments]))
    with page as server, started(server) as port:
        yield port


class Visitor:
    """Somebody at the page, who speaks as the page's own code does in a browser.

    Args:
        port: of the page.
        name: of the session, which browsers make up.
    """

    def __init__(self, port: int, name: str | None = None):
        self.port, self.name = port, name or secrets.token_hex(8)
        self.config = json.loads(self.get("/config")[1])

    def request(self, method: str, path: str, body: bytes | None = None, **headers) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        return self.request("GET", path)

    def upload(self, content: bytes, name: str = "clip.mp4") -> tuple[int, str]:
        """Send a file: the status, and where the page has put it, or what it says."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--x--\r\n"
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        status, answer = self.request("POST", "/gradio_api/upload", body, **form)
        return status, json.loads(answer)[0] if status == 200 else answer.decode()

    def number_of(self, component: str, event: str) -> int:
        """The number of what happens at an event of a component, which is named by its `elem_id`, type or text."""
        found = [
            each["id"]
            for each in self.config["components"]
            if component in (each["props"].get("elem_id"), each["props"].get("value"))
        ]
        return next(each["id"] for each in self.config["dependencies"] if [found[0], event] in each["targets"])

    def events(self, component: str, event: str, *data) -> Iterator[dict]:
        """Have something happen, and what the page says of it."""
        self.join(component, event, *data)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.name}")
            response = connection.getresponse()
            while line := response.readline():
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    yield message
                    if message["msg"] == "close_stream":
                        return
        finally:
            connection.close()

    def join(self, component: str, event: str, *data):
        """Have something happen."""
        body = {"fn_index": self.number_of(component, event), "data": data, "session_hash": self.name}
        body = json.dumps({**body, "event_data": None, "trigger_id": None}).encode()
        json_body = {"Content-Type": "application/json"}
        status, answer = self.request("POST", "/gradio_api/queue/join", body, **json_body)
        assert status == 200, answer

    def result(self, component: str, event: str, *data) -> dict:
        """What the page shows at last, or `{"error": ...}`."""
        *_, last = (each for each in self.events(component, event, *data) if each["msg"] == "process_completed")
        return last["output"]

    def take(self, path: str, *, num_frames: int = 8, rule: str = "uniform", **file) -> dict:
        """Have a file that was sent taken as the video."""
        return self.result("video", "change", file_data(path, **file), num_frames, rule)

    def ask(self, question: str, *settings) -> dict:
        settings = settings or (8, "uniform", 40, 0, 1)
        return self.result("ask", "click", question, *settings)


class LongAnswer(Answer):
    """An answer of 400 tokens, which the embedded checkpoint would not give, at a leisurely pace."""

    made: list["LongAnswer"] = []

    def __init__(self, pipe, messages, sampling, generation):
        super().__init__(pipe, messages, sampling, {**generation, "max_new_tokens": 400, "min_new_tokens": 400})
        put = self.streamer.put
        self.streamer.put = lambda value: (time.sleep(0.02), put(value))
        self.made.append(self)

    def is_over(self, seconds: float = 60) -> bool:
        self.thread.join(seconds)
        return not self.thread.is_alive()


def file_data(path: str, **others) -> dict:
    """A file as browsers name it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **others}


def files_in(folder) -> list[str]:
    return sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
