"""`ask` and `chat` about a video on a server: what they fetch of it, once, and that they answer as about the file."""

# ruff: noqa: F811  # fixtures of other files
import io
import json
import sys

import pytest

from llava_next_video.__main__ import main
from tests.reading.server_of_parts import Server, address, clip, server  # noqa: F401  # fixtures
from tests.reading.test_container_index import write_noise


QUESTIONS = ["What shape is in the video?", "Which way does it move?"]
OPTIONS = ["--num-frames", "2", "--device", "cpu"]  # a fifth of `clip`


def output(capsys, *words: str) -> str:
    assert main([*words, *OPTIONS]) == 0
    return capsys.readouterr().out


def places() -> list[int]:
    """Every byte that the server was asked for, as often as it was."""
    return [place for part in Server.parts for place in range(*(part or (0, len(Server.data))))]


@pytest.fixture
def questions(monkeypatch):
    return lambda: monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(QUESTIONS)))


def test_ask_fetches_each_part_once(server, clip, tmp_path, capsys):
    expected = output(capsys, "ask", str(clip), QUESTIONS[0])
    sheet = tmp_path / "frames.png"
    assert output(capsys, "ask", f"{server}/give", QUESTIONS[0], "--save-frames", str(sheet)) == expected
    assert sheet.exists()
    assert None not in Server.parts
    assert len(Server.parts) < 12
    assert len(places()) == len(set(places())) < 0.5 * len(Server.data)


def test_chat_fetches_each_part_once(server, clip, questions, capsys):
    questions()
    expected = output(capsys, "chat", str(clip))
    questions()
    assert output(capsys, "chat", f"{server}/give") == expected
    assert len(expected.splitlines()) == len(QUESTIONS)
    assert len(Server.parts) < 12
    assert len(places()) == len(set(places())) < 0.5 * len(Server.data)


def test_file_without_an_index_is_fetched_whole_and_once(server, tmp_path, questions, capsys):
    path = tmp_path / "clip.mkv"
    write_noise(path, range(12))
    Server.data = path.read_bytes()
    questions()
    expected = output(capsys, "chat", str(path))
    questions()
    assert output(capsys, "chat", f"{server}/give") == expected
    assert Server.parts.count(None) == 1
    assert len(Server.parts) <= 3


@pytest.mark.parametrize("number", [1, 2])  # before the model is loaded, and when it asks for more
def test_error_of_a_later_part_names_the_address(number, server, capsys):
    url = f"{server}/cut/{number}"
    assert main(["ask", url, QUESTIONS[0], *OPTIONS]) == 1
    assert f"error: Could not read the video '{url}': the connection was closed after" in capsys.readouterr().err


def test_questions_of_a_file_about_addresses_fetch_parts(server, clip, tmp_path, capsys):
    urls = [f"{server}/give", f"{server}/gone", f"{server}/redirect", str(clip)]
    lines = [json.dumps({"video": url, "question": QUESTIONS[0]}) for url in urls]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    options = ["--questions", str(tmp_path / "questions.jsonl"), "--allow-private-addresses"]
    records = [json.loads(line) for line in output(capsys, "ask", *options).splitlines()]
    answers = [record["answer"] for record in records]
    assert answers == [answers[3], None, answers[3], answers[3]]
    assert "answered 404 Not Found" in records[1]["error"]
    assert None not in Server.parts
    assert len(places()) < 2 * 0.5 * len(Server.data)
