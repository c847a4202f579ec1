"""Every comparison runs, with tiny models and clips; what it measures then means nothing."""

import copy
import re
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as command
from benchmarks import absolute, checkpoint_sizes, clips, reading, reading_ahead, tracing, vision
from benchmarks.__main__ import COMPARISONS, ON_A_DEVICE, main
from benchmarks.comparison import (
    BUILTIN,
    HERE,
    Comparison,
    Row,
    Setting,
    Unavailable,
    peak_in_fresh_process,
    peak_of,
    run,
)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting(tiny=True, clips=tmp_path_factory.mktemp("clips"))


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_side_of_every_comparison_runs(name, setting):
    for side, prepare in COMPARISONS[name].sides.items():
        try:
            prepare(setting)()
        except Unavailable:
            if side in (HERE, BUILTIN):
                raise


@pytest.mark.parametrize("name", ["60s-720p-keyframes-30", "10min-480p", "60s-360p-vfr"])
def test_clips_are_read_whole(name, setting):
    frames = reading.here(name)(setting)()[0]
    assert frames.shape == (32, 64, 96, 3)
    num_frames = reading.read_video(clips.clip(name, setting.clips, tiny=True))[1].total_num_frames
    assert num_frames == (100 if name.startswith("10min") else 50)


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(setting):
    pixels = COMPARISONS["pixels_memory"].sides[HERE](setting)()["pixel_values_videos"]
    assert pixels.nbytes <= peak_in_fresh_process(COMPARISONS["pixels_memory"], HERE, setting) <= 2**26


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
def test_peak_is_what_a_side_takes_above_what_was_there(setting):
    sides = {HERE: lambda setting: lambda: None, BUILTIN: lambda setting: lambda: len(b"x" * 2**27)}
    comparison = Comparison("memory", "take memory and give it back", sides, measure="peak")
    assert peak_of(comparison, HERE, setting) < 2**20
    assert abs(peak_of(comparison, BUILTIN, setting) - 2**27) < 2**20


def test_ours_traces_as_one_graph(setting):
    assert tracing.graphs_of_two_prefills(HERE, setting) == "1 graph for two videos"


def test_what_is_run_on_a_gpu_ends_with_tables_of_every_kernel_and_model(setting):
    rows, tables, _ = command.measure(ON_A_DEVICE, setting)
    assert {row.comparison for row in rows} == {name for name in ON_A_DEVICE if name != "absolute"}
    assert [len(table) for table in tables] == [2 + 1 + len(absolute.kernels()) + 1] * 2
    assert [table[0].split(",")[0] for table in tables] == ["| clip", "| 32B-Qwen"]


def test_on_a_gpu_what_there_is_no_time_for_is_left_out(setting, monkeypatch):
    monkeypatch.setattr(command, "SECONDS_ON_A_DEVICE", 0)
    on_a_gpu = replace(setting, device="cuda")
    rows, [note], _ = command.measure(ON_A_DEVICE, on_a_gpu)
    assert not rows
    assert note == [f"Left out for want of time: {', '.join(ON_A_DEVICE)}."]
    assert absolute.tables(setting, lambda: False) == [["clip: no time was left."], ["32B-Qwen: no time was left."]]


def test_a_large_model_is_measured_only_where_it_fits(setting):
    assert absolute.fits("clip", replace(setting, tiny=False))
    assert not absolute.fits("32B-Qwen", replace(setting, tiny=False))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_error_without_a_gpu(capsys):
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "torch finds no GPU here; leave --device out" in capsys.readouterr().err


def test_operations_are_those_that_torch_counts(setting):
    whole = copy.deepcopy(vision.model(HERE, "clip", setting))
    whole.set_attn_implementation("eager")  # torch does not count what `sdpa` does on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        whole.get_video_features(torch.randn(1, 3, 3, 28, 28).to(whole.dtype))
    assert vision.operations(whole.config, 3) == counter.get_total_flops()


def test_waiting_model_reads_ahead(setting):
    """A wait that ends when the next video is being read."""
    pipe, begun = reading_ahead.waiting_pipeline(setting, 0.0), []
    find, answered = pipe.find_or_read, []
    pipe.find_or_read = lambda *args: begun.append(1) or find(*args)
    wait_until = time.monotonic() + 60

    def answer(samples, generate_kwargs):
        answered.append(1)
        while len(begun) <= len(answered) < reading_ahead.NUM_VIDEOS and time.monotonic() < wait_until:
            time.sleep(0.001)
        reading_ahead.Waiting.answer(pipe, samples, generate_kwargs)

    pipe.answer = answer
    pipe(reading_ahead.eight_videos(setting), num_frames=4)
    assert len(answered) == reading_ahead.NUM_VIDEOS
    assert time.monotonic() < wait_until


def test_command_writes_a_table_and_a_plot(tmp_path, setting, capsys):
    output = tmp_path / "results.md"
    main(["pixels", "--tiny", "--clips", str(setting.clips), "--output", str(output)])
    page = output.read_text()
    assert "| prepare pixels, 32 frames of 720p to 336x336 | built-in |" in page
    assert page in capsys.readouterr().out
    assert output.with_suffix(".svg").exists() == bool(find_spec("matplotlib"))
    assert (tmp_path / "results_short.svg").exists() == bool(find_spec("matplotlib"))


def test_error_for_an_unknown_comparison(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "there is no comparison 'speed'; choose from read_keyframes_30" in capsys.readouterr().err


def test_sides_that_cannot_run_are_said_to_and_others_are_measured(setting):
    def not_there(setting):
        raise Unavailable("it is not installed")

    sides = {HERE: lambda setting: lambda: sum(range(1000)), "a": not_there, "b": lambda setting: lambda: None}
    missing, measured = run(Comparison("sums", "add numbers", sides, least={"a": 1, "b": 1}), setting)
    assert (missing.side, missing.note, missing.holds) == ("a", "it is not installed", None)
    assert measured.ratio < 1
    assert measured.holds is False


def test_extra_seconds_are_a_difference():
    row = Row("import", "import", "without", "seconds", here=5.2, other=5.0, ratios=[0.96], most_extra_seconds=0.3)
    assert row.holds
    assert not Row("import", "import", "without", "seconds", 5.4, 5.0, [0.92], most_extra_seconds=0.3).holds


def test_speeds_in_the_readme_are_those_of_the_results():
    """A number before "times" is a measured ratio, rounded as it is."""
    root = Path(__file__).parents[2]
    results = [(root / "benchmarks" / name).read_text() for name in ("results.md", "results_32_frames.md")]
    rows = [line.split(" | ") for text in results for line in text.splitlines() if line.count(" | ") > 6]
    ratios = [float(row[4]) for row in rows if re.fullmatch(r"[0-9.]+", row[4])]
    told = re.findall(r"((?:[0-9.]+ and )?[0-9.]+) times", (root / "README.md").read_text())
    numbers = [number for numbers in told for number in numbers.split(" and ")]
    assert len(numbers) > 8
    for number in numbers:
        places = len(number.partition(".")[2])
        assert float(number) in {round(ratio, places) for ratio in ratios}, f"nothing is {number} times as fast"


def test_readme_has_the_table_of_checkpoints():
    assert checkpoint_sizes.table() in (Path(__file__).parents[2] / "README.md").read_text()
