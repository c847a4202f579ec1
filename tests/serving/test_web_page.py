"""The page in the browser as programs see it: what strangers may send, and what they get.

What a person does at it is in `test_web_browser.py`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from llava_next_video.__main__ import main
from tests.serving.running_page import LongAnswer, Visitor, file_data, files_in, require_gradio, showing_page
from tests.serving.running_server import CIRCLE, SAMPLES, serving_files


require_gradio()
from llava_next_video.serving import web_layout  # noqa: E402
from llava_next_video.serving.web_answers import Answer  # noqa: E402


CLIP = (SAMPLES / CIRCLE[0]).read_bytes()


@pytest.fixture(scope="module")
def page():
    with showing_page("--limit", "max_fetched_bytes=200KB") as port:
        yield port


@pytest.fixture(scope="module")
def uploads(page):
    return os.environ["GRADIO_TEMP_DIR"]


@pytest.fixture
def visitor(page):
    return Visitor(page)


def with_video(visitor: Visitor) -> Visitor:
    status, path = visitor.upload(CLIP)
    assert status == 200
    frames, said, chat = visitor.take(path)["data"]
    assert frames.count("<img") == 8
    assert "frame 74  00:02.96" in frames
    assert (said, chat) == ("", [])
    return visitor


def texts(chat) -> list[str]:
    return [message["content"][0]["text"] for message in chat]


def test_a_video_is_sent_and_asked_about_twice(visitor):
    with_video(visitor)
    chat, _, said = visitor.ask(CIRCLE[1])["data"]
    assert texts(chat) == [CIRCLE[1], CIRCLE[2]]
    assert "video encoded in" in said
    chat, _, said = visitor.ask("What shape is it?")["data"]
    assert texts(chat) == [CIRCLE[1], CIRCLE[2], "What shape is it?", "It is a circle."]
    assert "video encoded before" in said


def test_answers_come_in_pieces(visitor):
    with_video(visitor)
    messages = [each["msg"] for each in visitor.events("ask", "click", CIRCLE[1], 8, "uniform", 40, 0, 1)]
    assert messages.count("process_generating") > 3


def test_settings_are_used(visitor):
    with_video(visitor)
    frames, said = visitor.result("num_frames", "release", 3, "uniform")["data"]
    assert (frames.count("<img"), said) == (3, "")
    _, _, said = visitor.ask(CIRCLE[1], 3, "uniform", 2, 0, 1)["data"]
    assert "2 tokens in" in said
    assert "video encoded in" in said
    # Frames of a video that was encoded before are shown again.
    assert visitor.result("num_frames", "release", 3, "uniform")["data"][0].count("<img") == 3
    chat, _, _ = visitor.ask(CIRCLE[1], 3, "uniform", 40, 1.5, 0.9)["data"]
    assert len(chat) == 4


@pytest.mark.parametrize("settings", [(0, "uniform", 40, 0, 1), (8, "other", 40, 0, 1), (8, "uniform", 10**9, 0, 1)])
def test_impossible_settings_are_refused(visitor, settings):
    with_video(visitor)
    assert visitor.ask(CIRCLE[1], *settings)["error"]


def test_a_new_chat_keeps_the_video(visitor):
    with_video(visitor)
    visitor.ask(CIRCLE[1])
    assert visitor.result("anew", "click")["data"] == [[], ""]
    chat, _, said = visitor.ask("What shape is it?")["data"]
    assert texts(chat) == ["What shape is it?", "It is a circle."]
    assert "video encoded before" in said


def test_a_wrong_file_is_a_sentence_with_its_name(visitor):
    _, path = visitor.upload(b"this is no video", "notes.txt")
    frames, said, chat = visitor.take(path)["data"]
    assert (frames, chat) == ("", [])
    assert "Could not read the video &#x27;notes.txt&#x27;: Invalid data found" in said
    assert "/tmp" not in said
    chat, question, said = visitor.ask("What?")["data"]
    assert "Could not read the video &#x27;notes.txt&#x27;" in said
    assert (chat, question) == ([], "What?")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("What?", "There is no video yet, or it has expired. Drop, record or link one first."),
        (" ", "There is no question yet. Write one, then ask."),
        (None, "There is no question yet."),
        ("x" * 4001, "The question has 4001 characters. Ask with 4000 or fewer."),
    ],
)
def test_a_question_that_cannot_be_asked_is_a_sentence(visitor, question, message):
    chat, _, said = visitor.ask(question)["data"]
    assert message in said
    assert chat == []


def test_a_model_that_fails_is_a_sentence_and_the_next_question_is_answered(visitor, monkeypatch, capsys):
    with_video(visitor)
    monkeypatch.setattr(Answer, "compute", lambda self: 1 / 0)
    assert "The model failed with ZeroDivisionError: division by zero" in visitor.ask(CIRCLE[1])["data"][2]
    monkeypatch.undo()
    assert texts(visitor.ask(CIRCLE[1])["data"][0]) == [CIRCLE[1], CIRCLE[2]]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_two_visitors_have_their_own_videos_and_chats(page):
    first, second = with_video(Visitor(page)), Visitor(page)
    assert "There is no video yet" in second.ask("What?")["data"][2]
    _, path = second.upload((SAMPLES / "green_triangle_moves_right.mp4").read_bytes())
    second.take(path)
    assert texts(second.ask("What is moving?")["data"][0])[-1] == "A green triangle."
    assert texts(first.ask("What is moving?")["data"][0]) == ["What is moving?", "A red circle."]


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc/passwd"},
        {"path": "/etc/passwd", "is_stream": True},
        {"path": "http://169.254.169.254/latest"},
        {"path": "x", "url": "http://169.254.169.254/latest"},
        {"path": str(SAMPLES / CIRCLE[0])},
        {"path": "{uploads}/../videos"},
        {"path": "{uploads}"},
        {"path": "\0"},
    ],
    ids=str,
)
def test_no_file_is_taken_but_those_that_browsers_sent(visitor, uploads, file):
    before = files_in(uploads)
    file["path"] = file["path"].format(uploads=uploads)
    assert "The video has expired. Send it again." in visitor.take(**file)["error"]
    assert files_in(uploads) == before
    assert "There is no video yet" in visitor.ask("What?")["data"][2]


def test_an_upload_that_expires_while_it_is_taken_is_a_sentence(visitor, monkeypatch):
    """The sentence went into the chat, and the chat into its place."""
    _, path = visitor.upload(CLIP)
    link = os.link
    monkeypatch.setattr(os, "link", lambda file, own: (os.unlink(file), link(file, own)))
    frames, said, chat = visitor.take(path)["data"]
    assert (frames, chat) == ("", [])
    assert "it has expired; send it again" in said


def test_files_lie_where_nobody_guesses_them(visitor, uploads):
    _, path = visitor.upload(CLIP)
    assert path.startswith(uploads)
    assert len(path.removeprefix(uploads).split("/")[1]) == 64  # a hash with a secret
    assert visitor.get(f"/gradio_api/file={path}") == (200, CLIP)
    assert visitor.get("/gradio_api/file=/etc/passwd")[0] == 404
    assert os.stat(uploads).st_mode & 0o077 == 0


def test_uploads_are_limited(visitor, uploads):
    before = files_in(uploads)
    status, message = visitor.upload(bytes(10**6))
    assert status == 413
    assert "Send videos of up to 200000 bytes." in message
    assert visitor.upload(bytes(200_001))[0] == 413
    assert files_in(uploads) == before
    assert visitor.upload(bytes(200_000))[0] == 200


def test_addresses_are_read_within_the_rules(page, visitor):
    with serving_files() as (web, asked):
        address = f"{web}/{CIRCLE[0]}"
        _, said = visitor.result("fetch", "click", address)["data"]
        assert "Could not read the video" in said
        assert "this machine&#x27;s own" in said
        assert asked == []
    for address in ("file:///etc/passwd", "/etc/passwd", "data:video/mp4;base64,AAAA", "ftp://example.org/x", "", None):
        _, said = visitor.result("fetch", "click", address)["data"]
        assert "is not the address of a video: it begins with https://." in said


def test_a_linked_video_is_taken():
    with serving_files() as (web, _), showing_page("--allow-private-addresses") as port:
        visitor = Visitor(port)
        file, said = visitor.result("fetch", "click", f"{web}/{CIRCLE[0]}")["data"]
        assert said == ""
        assert file["orig_name"] == CIRCLE[0]
        assert visitor.take(file["path"])["data"][0].count("<img") == 8
        assert texts(visitor.ask(CIRCLE[1])["data"][0])[-1] == CIRCLE[2]
        assert "404" in visitor.result("fetch", "click", f"{web}/none.mp4")["data"][1]


@pytest.mark.parametrize("name", web_layout.EXAMPLES)
def test_examples_are_answered(visitor, name):
    button = name.removesuffix(".mp4").replace("_", " ")
    file, question = visitor.result(button, "click")["data"]
    visitor.take(file["path"])
    said = texts(visitor.ask(question)["data"][0])[-1]
    assert said in ("The circle moves left.", "A green triangle.", "The blue star appears first.")


@pytest.fixture
def long_answers(monkeypatch) -> list[LongAnswer]:
    """Answers are long from now on: those that were begun."""
    monkeypatch.setattr(web_layout, "Answer", LongAnswer)
    monkeypatch.setattr(LongAnswer, "made", [])
    return LongAnswer.made


def begin_question(visitor: Visitor):
    """Ask, and wait until the answer comes."""
    events = visitor.events("ask", "click", CIRCLE[1], 8, "uniform", 40, 0, 1)
    assert sum(next(events)["msg"] == "process_generating" for _ in range(8)) > 1
    return events


def test_who_leaves_in_the_middle_ends_the_answer(visitor, long_answers):
    events = begin_question(with_video(visitor))
    events.close()  # and with it the connection
    assert long_answers[0].is_over()
    assert long_answers[0].was_stopped
    assert long_answers[0].streamer.num_tokens < 400


def test_stop_ends_the_answer_and_keeps_what_was_said(visitor, long_answers, monkeypatch):
    events = begin_question(with_video(visitor))
    visitor.join("stop", "click")
    *_, last = (each for each in events if each["msg"] == "process_completed" and each["output"]["data"])
    assert long_answers[0].streamer.num_tokens < 400
    said = texts(last["output"]["data"][0])[-1]
    assert said.endswith(" *(stopped)*")
    assert said.startswith(CIRCLE[2])
    monkeypatch.undo()
    chat, _, _ = visitor.ask("What shape is it?")["data"]
    assert texts(chat)[1] + " *(stopped)*" == said
    assert len(chat) == 4


def test_another_video_ends_the_answer_about_the_last_one(visitor, long_answers, monkeypatch):
    events = begin_question(with_video(visitor))
    _, path = visitor.upload((SAMPLES / "green_triangle_moves_right.mp4").read_bytes())
    visitor.join("video", "change", file_data(path), 8, "uniform")
    list(events)
    assert long_answers[0].was_stopped
    monkeypatch.undo()
    assert texts(visitor.ask("What is moving?")["data"][0]) == ["What is moving?", "A green triangle."]


@pytest.mark.parametrize("path", ["/gradio_api/info", "/monitoring", "/gradio_api/runs", "/docs", "/openapi.json"])
def test_nothing_beside_the_page_is_there(visitor, path):
    assert visitor.get(path)[0] == 404


def test_nothing_is_told_to_gradio(page, visitor):
    import gradio

    assert not gradio.analytics.analytics_enabled()
    assert visitor.config["analytics_enabled"] is False
    page = visitor.get("/")[1].decode()
    assert "fonts.googleapis.com" not in page
    assert "cdnjs" not in page


def test_the_folder_is_removed_at_the_end():
    with showing_page() as port:
        folder = os.path.dirname(os.environ["GRADIO_TEMP_DIR"])
        with_video(Visitor(port))
        assert files_in(folder)
    assert not os.path.exists(folder)


def test_a_page_that_is_told_to_stop_leaves_nothing_behind(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llava_next_video", "web", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with suppress(OSError):
                with_video(Visitor(port))
                break
            time.sleep(0.1)
        [folder] = tmp_path.iterdir()
        assert files_in(folder)
        process.terminate()
        assert process.wait(600) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_limit_is_told_before_a_model_is_loaded(capsys):
    assert main(["web", "--model", "no/such-checkpoint", "--limit", "max_speed=3"]) == 1
    assert "There is no limit 'max_speed'" in capsys.readouterr().err
