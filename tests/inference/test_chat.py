"""`llava-next-video chat`; what `VideoChat` costs and remembers is in test_remembered_videos.py."""

import io
import sys

import pytest

from llava_next_video import VideoChat
from llava_next_video.__main__ import main
from llava_next_video.inference import chat


CLIP = "demo_model/samples/red_circle_moves_left.mp4"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def type_in(monkeypatch, text: str, terminal: bool = False):
    monkeypatch.setattr(sys, "stdin", Terminal(text) if terminal else io.StringIO(text))


def test_questions_of_a_pipe_are_answered_line_by_line(monkeypatch, capsys):
    type_in(monkeypatch, "Which way does the circle move?\n\nWhat colour is it?\n")
    assert main(["chat", CLIP, "--device", "cpu"]) == 0
    moves, colour = capsys.readouterr().out.strip().splitlines()
    assert "left" in moves
    assert "red" in colour


@pytest.mark.parametrize("ending", ["", "\nNot asked any more?\n"])
def test_terminal_is_told_how_to_leave_and_an_empty_line_leaves(monkeypatch, capsys, ending):
    type_in(monkeypatch, "What shape is it?\n" + ending, terminal=True)
    assert main(["chat", CLIP, "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "Ctrl-D or an empty line ends" in captured.err
    assert captured.out.count("> ") == 2
    assert captured.out.count("circle") == 1


def test_ctrl_c_stops_an_answer_but_not_the_chat(monkeypatch, capsys):
    answer, asked = VideoChat.ask, []

    def ask(self, question, **kwargs):
        asked.append(question)
        if len(asked) == 2:
            kwargs["streamer"].put = interrupt
        return answer(self, question, **kwargs)

    def interrupt(value):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoChat, "ask", ask)
    type_in(monkeypatch, "What shape is it?\nWhat colour is it?\nWhich way does it move?\n")
    assert main(["chat", CLIP, "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "Stopped: the question and its answer are forgotten." in captured.err
    shape, moves = captured.out.strip().splitlines()
    assert "circle" in shape
    assert "left" in moves


def test_ctrl_c_at_the_prompt_leaves(monkeypatch):
    def interrupt(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    assert list(chat.typed_lines()) == []


def test_options_reach_the_pipeline(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setattr(VideoChat, "ask", lambda self, question, **kwargs: seen.append((self.kwargs, question)))
    type_in(monkeypatch, "What?\n")
    sheet = tmp_path / "sheet.png"
    options = ["--num-frames", "3", "--max-new-tokens", "5", "--save-frames", str(sheet)]
    assert main(["chat", CLIP, "--device", "cpu", *options]) == 0
    assert seen == [({"num_frames": 3, "max_new_tokens": 5}, "What?")]
    assert sheet.is_file()


def test_wrong_path_is_one_line(capsys):
    assert main(["chat", "none.mp4"]) == 1
    assert "error: Could not read the video 'none.mp4': there is no such file." in capsys.readouterr().err


def test_the_video_stands_in_the_first_question_alone():
    asked = []

    def pipe(messages, **_):
        asked.append(messages)
        return [{"generated_text": "Yes."}]

    talk = VideoChat(pipe, CLIP)
    talk.ask("Is it red?")
    talk.ask("Is it round?")
    kinds = [[part["type"] for part in message["content"]] for message in asked[1]]
    assert kinds == [["video", "text"], ["text"], ["text"]]
    assert len(talk.messages) == 4
