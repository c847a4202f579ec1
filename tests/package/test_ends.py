"""How a command ends when something goes wrong: one line, and a status that scripts can use."""

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from llava_next_video import __main__, ask_and_chat
from llava_next_video.__main__ import check_checkpoint, main
from llava_next_video.error_lines import line_of
from llava_next_video.hub import free_memory
from llava_next_video.hub.free_memory import check_device


SAMPLE = str(Path(__file__).parents[2] / "demo_model" / "samples" / "red_circle_moves_left.mp4")


@pytest.fixture
def run(monkeypatch):
    """Runs `ask` with a function in its place."""

    def run(function) -> int:
        monkeypatch.setattr(ask_and_chat, "ask", function)
        return main(["ask", SAMPLE, "What?"])

    return run


def raising(error: BaseException):
    def function(args):
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to\nallocate 20 GiB."),
            "The memory of this machine or device",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
            "The memory of this",
        ),
        (
            MemoryError(),
            "The memory of this machine or device is not enough: MemoryError. Less memory is taken by fewer",
        ),
        (
            RuntimeError("Found no NVIDIA driver on your system."),
            "The device cannot be used: Found no NVIDIA driver on",
        ),
        (AssertionError("Torch not compiled with CUDA enabled"), "The device cannot be used: Torch not compiled with"),
        (ValueError("two\n  lines"), "two lines"),
        (OSError(), "OSError"),
    ],
)
def test_what_a_machine_lacks_is_one_line_and_status_1(error, line, run, capsys):
    assert run(raising(error)) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"llava-next-video: error: {line}")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not fit"), AssertionError("x"), KeyError("x"), TypeError("x")]
)
def test_a_bug_keeps_its_traceback(error, run):
    assert line_of(error) is None
    with pytest.raises(type(error)):
        run(raising(error))


def test_ctrl_c_is_one_line_and_status_130(run, capsys):
    assert run(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "llava-next-video: stopped\n"


def test_output_that_nobody_reads_ends_without_a_word(run, capsys):
    assert run(raising(BrokenPipeError())) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="it looks into /proc for what a process has imported")
def test_ctrl_c_while_modules_are_imported_is_one_line_and_status_130():
    """It was a traceback of the module that happened to be imported."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llava_next_video", "ask", SAMPLE, "What?"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "libtorch" not in maps.read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "llava-next-video: stopped\n")


def test_ctrl_c_while_the_package_itself_is_imported_is_one_line_and_status_130(tmp_path):
    """The installed command: from the first line of ours on, which comes before the package."""
    (tmp_path / "llava_next_video.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    process = subprocess.run(
        [sys.executable, "-c", "import llava_next_video_program; llava_next_video_program.program()", "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "llava-next-video: stopped\n")


def test_ctrl_c_while_an_error_is_told_is_one_line_and_status_130():
    """It was a traceback: the error was caught, and its line was being made."""
    code = """
import sys
from types import ModuleType
from llava_next_video import __main__
def line_of(error):
    raise KeyboardInterrupt
sys.modules["llava_next_video.error_lines"] = ModuleType("error_lines")
sys.modules["llava_next_video.error_lines"].line_of = line_of
__main__.program()
"""
    process = subprocess.run([sys.executable, "-c", code, "ask", "none.mp4", "What?"], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "llava-next-video: stopped\n")


def test_command_is_the_module_outside_the_package():
    [command] = entry_points(group="console_scripts", name="llava-next-video")
    assert command.value == "llava_next_video_program:program"


def test_program_that_is_to_go_on_at_ctrl_c_goes_on():
    """`nohup` and shells ignore Ctrl-C for what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with __main__.stopping_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handler_of_ctrl_c_is_the_one_before_afterwards():
    with __main__.stopping_at_once():
        assert signal.getsignal(signal.SIGINT) is __main__.stop_at_once
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("name", ["xpu:99", "cuda:99"])
def test_error_when_the_machine_has_no_such_device(name):
    with pytest.raises(
        ValueError, match=rf"was to run on {name}, but this machine has .* that torch .* can use\. Take "
    ):
        check_device(name)


def test_error_when_torch_has_no_such_backend(monkeypatch):
    monkeypatch.setattr(free_memory, "devices_here", lambda: ["cuda:0"])
    with pytest.raises(
        ValueError, match=r"knows no device 'musa'\. Take cuda:0 or cpu, or leave --device out for cuda:0"
    ):
        check_device("musa")


def test_device_that_is_there_passes():
    check_device("cpu")


def test_absent_device_is_told_before_anything_is_loaded(capsys):
    assert main(["ask", SAMPLE, "What?", "--device", "xpu:99"]) == 1
    assert "error: The model was to run on xpu:99" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "~/none", "no/such/folder", "none/", "", "a\\b"])
def test_error_when_a_folder_is_not_there(name):
    with pytest.raises(FileNotFoundError, match="There is no folder "):
        check_checkpoint(name)


def test_error_when_a_checkpoint_is_a_file():
    with pytest.raises(NotADirectoryError, match="is a file, and a checkpoint is a folder"):
        check_checkpoint(__file__)


def test_names_of_the_hub_and_folders_pass(tmp_path):
    for name in ("llava-hf/LLaVA-NeXT-Video-7B-hf", "gpt2", str(tmp_path), os.curdir):
        check_checkpoint(name)
