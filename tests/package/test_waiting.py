"""Signs of life: on a terminal after a while, and nowhere else."""

import io
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from llava_next_video import DEMO_CHECKPOINT, waiting
from llava_next_video.__main__ import main
from llava_next_video.named_videos import opened_video
from llava_next_video.waiting import AnswerStreamer, Waiting
from tests.package.test_command_line import SAMPLE


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_at_once(monkeypatch) -> Terminal:
    """Make standard error a terminal. No fixture: pytest puts its own standard error back after those."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(waiting, "DELAY", 0)
    monkeypatch.setattr(waiting, "REFRESH", 0.01)
    return sys.stderr


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_terminal_sees_what_is_done_and_for_how_long(monkeypatch):
    terminal = terminal_at_once(monkeypatch)
    with Waiting("reading the video") as line:
        until(lambda: "reading the video, 00:0" in terminal.getvalue())
        line.doing = "reading the prompt"
        until(lambda: "reading the prompt, 00:0" in terminal.getvalue())
        line.stop()
        assert terminal.getvalue().endswith("\r")  # the line is empty again
        before = terminal.getvalue()
    assert terminal.getvalue() == before
    assert not line.thread.is_alive()


def test_what_is_quick_is_not_announced(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Waiting("reading the video"):
        pass
    assert sys.stderr.getvalue() == ""


def test_pipe_sees_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(waiting, "DELAY", 0)
    with Waiting("reading the video") as line:
        assert not line.thread.is_alive()
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(("prints", "doing"), [(True, "reading the prompt"), (False, "answering, 3 tokens")])
def test_streamer_tells_prompt_from_answer(prints, doing, capsys):
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    line = Waiting("reading the video")
    streamer = AnswerStreamer(tokenizer, line, prints)
    streamer.put(torch.tensor([[1, 2, 3]]))
    assert (line.doing, line.stopped.is_set()) == ("reading the prompt", False)
    for token in tokenizer.encode("A red circle", add_special_tokens=False)[:3]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert (line.doing, line.stopped.is_set()) == (doing, prints)
    assert bool(capsys.readouterr().out.strip()) == prints


def test_answer_of_json_is_counted_on_a_terminal_and_the_same(monkeypatch, capsys):
    terminal_at_once(monkeypatch)
    counted = []
    put = AnswerStreamer.put
    monkeypatch.setattr(
        AnswerStreamer, "put", lambda self, value: put(self, value) or counted.append(self.waiting.doing)
    )
    assert main(["ask", SAMPLE, "Which way does the circle move?", "--json"]) == 0
    assert '"answer": "The circle moves left."' in capsys.readouterr().out
    assert counted[0] == "reading the prompt"
    assert counted[1:] == [f"answering, {number} tokens" for number in range(1, len(counted))] != []


@pytest.fixture
def address():
    """A URL of the sample, on this machine, that is counted when it is fetched."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            data = Path(SAMPLE).read_bytes() if self.path.endswith(".mp4") else b"a text"
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_download_is_shown_and_happens_once(address, monkeypatch):
    terminal_at_once(monkeypatch)
    bars = []
    update = waiting.tqdm.update
    monkeypatch.setattr(
        waiting.tqdm, "update", lambda self, n=1: bars.append((self.total, self.n + n)) or update(self, n)
    )
    url, asked = address
    data = Path(SAMPLE).read_bytes()
    assert opened_video(f"{url}/clip.mp4") == data
    assert asked == ["/clip.mp4"]
    assert bars[-1] == (len(data), len(data))


def test_video_behind_a_url_that_is_none_is_named(address):
    url, _ = address
    with pytest.raises(ValueError, match=rf"^Could not read the video '{url}/notes': Invalid data found"):
        opened_video(f"{url}/notes")
