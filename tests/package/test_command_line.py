import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForImageTextToText

from llava_next_video import DEMO_CHECKPOINT, VideoTextToTextPipeline
from llava_next_video.__main__ import main
from tests.tiny import write_video


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


def test_help_and_usage_errors_come_at_once():
    """Half a second of processor time is spent long before torch is imported."""
    for arguments, status in ((["--help"], 0), (["ask", "--help"], 0), (["convert", "--help"], 0), (["ask"], 2)):
        code = f"""
import sys
from llava_next_video.__main__ import main
try:
    main({arguments})
except SystemExit as stopped:
    assert stopped.code == {status}, stopped.code
assert not {{"torch", "transformers", "av", "PIL", "numpy"}} & set(sys.modules)
"""
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
