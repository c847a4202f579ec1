"""Every example does what its first lines say: the commands there run, and print what stands below them."""

import ast
import re
import runpy
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.golden_data import Recording
from tests.serving.running_server import require_server, running


ROOT = Path(__file__).parents[2]
EXAMPLES = {
    path.stem: ast.get_docstring(ast.parse(path.read_text()), clean=False) for path in (ROOT / "examples").glob("*.py")
}
COMMAND = re.compile(r"^ *python (examples/.*)\n((?: *# .*\n)*)", re.MULTILINE)
WITH_A_FILE_OF_TESTS = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
NEED_A_CHECKPOINT_OR_SERVER = {"original_checkpoint", "streaming_client"}  # tested below
NEEDED = {"quantized": "bitsandbytes"}


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs an example in a folder that has the samples; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo_model").symlink_to(ROOT / "demo_model")

    def run(script: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capfd.readouterr()
        runpy.run_path(str(ROOT / script), run_name="__main__")
        return capfd.readouterr().out

    return run


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - WITH_A_FILE_OF_TESTS - NEED_A_CHECKPOINT_OR_SERVER))
def test_commands_of_an_example_print_what_it_says(name, run):
    if name in NEEDED and find_spec(NEEDED[name]) is None:
        pytest.skip(f"needs {NEEDED[name]}")
    commands = COMMAND.findall(EXAMPLES[name])
    assert commands
    for command, expected in commands:
        assert run(*shlex.split(command)) == re.sub("^ *# ", "", expected, flags=re.MULTILINE)


def test_original_checkpoint(run):
    original = Recording("qwen_grid_avg")
    arguments = [str(original.checkpoint), "saved", "--vision-tower", original.vision_tower]
    first, second = run("examples/original_checkpoint.py", *arguments).split("saved: ")
    assert first.removeprefix("as it is: ") == second
    assert Path("saved/model.safetensors").exists()


def test_streaming_client():
    require_server()
    with running() as server:
        client = [sys.executable, "examples/streaming_client.py", "--url", f"{server.url}/v1"]
        question = ["demo_model/samples/red_circle_moves_left.mp4", "What happens in the video?"]
        assert subprocess.check_output([*client, *question], cwd=ROOT, text=True) == "A red circle moves left.\n"


def test_page_of_examples_has_all():
    page = (ROOT / "docs" / "examples.md").read_text()
    assert set(re.findall(r"^\| \[?`(\w+)\.py`", page, re.MULTILINE)) == EXAMPLES.keys()
