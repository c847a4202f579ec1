import io
import json
import re
import resource
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, pipeline
from transformers.utils.import_utils import is_serve_available

from llava_next_video import DEMO_CHECKPOINT, VideoTextToTextPipeline, model_for_answers
from llava_next_video.__main__ import main
from llava_next_video.commands import COMMANDS, parse_arguments
from llava_next_video.hub import loading
from llava_next_video.named_videos import opened_video
from llava_next_video.reading.limits import ReadingLimits
from llava_next_video.serving import web_page
from llava_next_video.serving.transformers_serve import server_of
from tests.tiny import write_video


SAMPLE = str(Path(__file__).parents[2] / "demo_model" / "samples" / "red_circle_moves_left.mp4")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("clip") / "clip.mp4"))


def test_ask_streams_the_answer(clip, capsys):
    assert main(["ask", clip, "What is moving?", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip()


def test_json_is_one_line_with_the_same_answer(clip, capsys):
    assert main(["ask", clip, "What is moving?", "--device", "cpu"]) == 0
    streamed = capsys.readouterr().out.strip()
    assert main(["ask", clip, "What is moving?", "--device", "cpu", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["video"], record["question"], record["answer"]) == (clip, "What is moving?", streamed)


def test_every_option_arrives(clip, capsys, monkeypatch):
    calls = {}

    def spy(name, original):
        def call(*args, **kwargs):
            calls[name] = args, kwargs
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr(
        AutoModelForImageTextToText, "from_pretrained", spy("model", AutoModelForImageTextToText.from_pretrained)
    )
    monkeypatch.setattr(VideoTextToTextPipeline, "__call__", spy("call", VideoTextToTextPipeline.__call__))
    options = f"--model {DEMO_CHECKPOINT} --num-frames 3 --max-new-tokens 2 --device cpu --dtype bfloat16"
    assert main(["ask", clip, "Why?", *options.split(), "--attn-implementation", "eager", "--json"]) == 0
    asked_for = {"dtype": "bfloat16", "attn_implementation": "eager", "device_map": {"": "cpu"}}
    assert calls["model"] == ((DEMO_CHECKPOINT,), {**asked_for, "quantization_config": None})
    pipe, video, question = calls["call"][0]
    arguments = {"num_frames": 3, "max_new_tokens": 2, "return_full_text": False}
    assert (video, question, calls["call"][1]) == (clip, "Why?", arguments)
    assert (pipe.model.dtype, pipe.model.config._attn_implementation) == (torch.bfloat16, "eager")
    assert json.loads(capsys.readouterr().out)["model"] == DEMO_CHECKPOINT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mp4", "What?"], "error: Could not read the video 'none.mp4': there is no such file."),
        (
            ["CLIP", "What?", "--num-frames", "999999999"],
            "error: The processor's num_frames is 999999999; it has to be",
        ),
        (["CLIP", "What?", "--model", "no/such/folder"], "error: There is no folder 'no/such/folder'. Give the folder"),
        (["CLIP", "What?", "--model", __file__], f"error: {__file__!r} is a file, and a checkpoint is a folder"),
        (["CLIP", "What?", "--attn-implementation", "nonsense"], 'error: Specified `attn_implementation="nonsense"`'),
    ],
)
def test_mistake_of_the_user_is_one_line_and_status_1(clip, arguments, message, capsys):
    assert main(["ask", *[clip if argument == "CLIP" else argument for argument in arguments]]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("option", "message"),
    [("--dtype", "argument --dtype: invalid choice: 'nonsense'"), ("--device", "torch knows no device 'nonsense'")],
)
def test_unknown_value_of_an_option_is_status_2(clip, option, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["ask", clip, "What?", option, "nonsense"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_limit_without_a_number_is_status_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--limit", "max_frames"])
    assert stopped.value.code == 2
    assert "'max_frames' is not a limit; write it like max_decode_seconds=20" in capsys.readouterr().err


def test_a_wrong_path_is_told_before_the_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *args, **kwargs: pytest.fail("loaded"))
    assert main(["ask", "none.mp4", "What?"]) == 1
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_python_m_runs_it(clip):
    command = [sys.executable, "-m", "llava_next_video", "ask", clip, "What is moving?", "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        *(([command, "--help"], 0) for command in COMMANDS),
        ([], 2),
        (["ask"], 2),
        (["ask", "clip.mp4", "What?", "--device", "nonsense"], 2),
        (["ask", "none.mp4", "What?"], 1),
        (["chat", "clip.mp4", "--model", "./nosuchdir"], 1),
        (["ask", "--questions", "none.jsonl"], 1),
        (["export", "./nosuchdir", "export"], 1),
        (["convert", "./nosuchdir", "converted"], 1),
        (["serve", "--port", "65536"], 2),
        (["web", "--host", "192.0.2.1"], 1),
        (["evaluate", "some/model", "--device-map", "nonsense"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_help_and_mistakes_come_at_once(arguments, status):
    """Half a second of processor time is spent long before torch is imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run([sys.executable, "-m", "llava_next_video", *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == status
    assert "Traceback" not in process.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_version_names_what_it_runs_on(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    expected = [f"{name} {version(name)}" for name in ("llava-next-video", "transformers", "torch", "av")]
    assert capsys.readouterr().out == f"{', '.join(expected)}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "clip.mp4"], "a video and a question are needed, as in"),
        (["ask", "clip.mp4", "What?", "--num-frames", "0"], "argument --num-frames: '0' is not a whole number from 1"),
        (["serve", "--num-frames", "0"], "argument --num-frames: '0' is not a whole number from 1"),
        (["serve", "--port", "65536"], "argument --port: '65536' is not a port, which is a whole"),
        (["ask", "clip.mp4", "What?", "--max-new-tokens", "many"], "argument --max-new-tokens: 'many' is not a whole"),
        (["ask", "clip.mp4", "What?", "--device", "cpu", "--device-map", "auto"], "not allowed with argument --device"),
        (
            ["ask", "a.mp4", "b.mp4", "What?", "--save-frames", "x.png"],
            "shows the frames of one video, and 2 are given",
        ),
        (["ask", "-", "-", "What?"], "standard input holds one video"),
        (["ask", "a.mp4", "What?", "--questions", "q.jsonl"], "--questions brings videos and questions along"),
        (["ask", "--questions", "q.jsonl", "--save-frames", "x.png"], "shows the frames of one video, and --questions"),
        (["ask", "a.mp4", "What?", "--answers", "a.jsonl"], "--answers belongs to --questions"),
        (["ask", "a.mp4", "What?", "--batch-size", "2"], "--batch-size belongs to --questions"),
        (["ask", "a.mp4", "What?", "--allow-private-addresses"], "--allow-private-addresses belongs to --questions"),
        (["chat", "-"], "chat reads questions from standard input, which cannot hold the video too"),
    ],
)
def test_arguments_that_do_not_go_together_are_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_demonstration_model_says_what_it_is_where_nobody_named_it_and_pipes_get_no_progress(clip):
    arguments = ["ask", clip, "What is moving?", "--device", "cpu", "--json", "--max-new-tokens", "2"]
    process = subprocess.run([sys.executable, "-m", "llava_next_video", *arguments], capture_output=True, text=True)
    assert process.stderr == (
        "llava-next-video: no --model was named: the demonstration model answers, which knows only moving coloured "
        "shapes\n"
    )
    assert json.loads(process.stdout)["demo"] is True


def test_named_model_answers_without_a_word_where_output_is_no_terminal(clip):
    arguments = ["ask", clip, "What is moving?", "--model", DEMO_CHECKPOINT, "--json", "--max-new-tokens", "2"]
    process = subprocess.run([sys.executable, "-m", "llava_next_video", *arguments], capture_output=True, text=True)
    assert process.stderr == ""
    assert "demo" not in json.loads(process.stdout)


def test_several_videos_are_asked_about_together(clip, capsys):
    assert main(["ask", clip, SAMPLE, "What is moving?", "--json", "--max-new-tokens", "2"]) == 0
    record = json.loads(capsys.readouterr().out)
    pipe = pipeline("video-text-to-text", model=DEMO_CHECKPOINT)
    [answer] = pipe([clip, SAMPLE], "What is moving?", max_new_tokens=2)
    assert (record["video"], record["answer"]) == ([clip, SAMPLE], answer["generated_text"])


class Piped(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_):
        raise OSError("a pipe")


@pytest.mark.parametrize("kind", [Piped, io.BytesIO])
def test_video_comes_through_standard_input(kind, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(kind(Path(SAMPLE).read_bytes())))
    assert main(["ask", "-", "Which way does the circle move?", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["video"], record["answer"]) == ("-", "The circle moves left.")


def test_standard_input_that_is_no_video_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Piped(b"a text")))
    assert main(["ask", "-", "What?"]) == 1
    assert "error: Could not read the video on standard input: Invalid data found" in capsys.readouterr().err


def test_error_when_standard_input_is_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    with pytest.raises(
        ValueError, match=r"- stands for a video on standard input, which is a terminal\. Send one there"
    ):
        opened_video("-")


def test_what_is_no_video_is_told_before_the_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *args, **kwargs: pytest.fail("loaded"))
    for command in (["ask", __file__, "What?"], ["chat", __file__]):
        assert main(command) == 1
        assert f"error: Could not read the video {__file__!r}: " in capsys.readouterr().err


def test_earlier_name_of_save_frames_still_works():
    assert parse_arguments(["ask", "clip.mp4", "What?", "--frames", "sheet.png"]).save_frames == "sheet.png"


@pytest.mark.parametrize("command", ["serve", "web"])
def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(command, monkeypatch, capsys):
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *args, **kwargs: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([command, "--host", "127.0.0.1", "--port", str(port)]) == 1
    message = f"error: The server cannot listen at 127.0.0.1, port {port}: Address already in use."
    assert message in capsys.readouterr().err


def test_record_of_json_is_as_documented(capsys):
    page = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()
    documented = json.loads(re.search(r'^\{"video": .*"demo": true\}$', page, re.MULTILINE)[0])
    assert main(["ask", SAMPLE, documented["question"], "--device", "cpu", "--json"]) == 0
    paths = {"video": SAMPLE, "model": DEMO_CHECKPOINT}
    assert json.loads(capsys.readouterr().out) == documented | paths


@pytest.mark.parametrize("command", ["ask clip.mp4 What?", "chat clip.mp4", "serve", "web"])
def test_commands_that_answer_load_a_model_alike(command, monkeypatch):
    if command == "serve" and not is_serve_available():
        pytest.skip("pip install 'llava-next-video[serve]'")
    calls = []

    def load(checkpoint, **kwargs):
        calls.append(kwargs)
        raise OSError("no weights")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", load)
    for options in (["--quantize", "4bit", "--device", "cpu"], ["--device-map", "sequential", "--dtype", "bfloat16"]):
        args = parse_arguments([*command.split(), *options])
        with pytest.raises(OSError, match="no weights"):
            {"serve": server_of, "web": lambda args: web_page.load_pipeline(args, ReadingLimits())}.get(
                args.command, lambda args: model_for_answers.load_pipeline(args, ReadingLimits())
            )(args)
    rounded, spread = calls
    assert (rounded["device_map"], rounded["dtype"]) == ({"": "cpu"}, "bfloat16")
    assert rounded["quantization_config"].load_in_4bit
    assert rounded["quantization_config"].llm_int8_skip_modules == loading.KEPT_AS_STORED
    assert (spread["device_map"], spread["dtype"]) == ("sequential", "bfloat16")
    assert spread["quantization_config"] is None


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_language_model_alone_is_quantized(bits, clip, monkeypatch, capsys):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    models = []
    call = VideoTextToTextPipeline.__call__
    monkeypatch.setattr(
        VideoTextToTextPipeline,
        "__call__",
        lambda self, *args, **kw: models.append(self.model) or call(self, *args, **kw),
    )
    assert main(["ask", SAMPLE, "Which way does the circle move?", "--quantize", bits]) == 0
    assert capsys.readouterr().out == "The circle moves left.\n"
    kind = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}[bits]
    rounded = {name for name, module in models[0].named_modules() if isinstance(module, kind)}
    of_the_layers = {name for name, module in models[0].named_modules() if isinstance(module, torch.nn.Linear)}
    assert rounded == {name for name in of_the_layers if ".language_model.layers." in name} != set()


@pytest.mark.parametrize("command", [["ask", SAMPLE, "What?"], ["serve"], ["web"]])
def test_error_when_bitsandbytes_is_not_installed(command, monkeypatch, capsys):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    assert main([*command, "--quantize", "4bit"]) == 1
    assert "error: --quantize needs bitsandbytes, which is not installed: pip install" in capsys.readouterr().err
