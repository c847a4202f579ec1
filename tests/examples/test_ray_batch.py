"""The example for many machines: what it asks, what it writes, and that it goes on where it was interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from demo_model.clips import Clip, write_mp4
from llava_next_video import DEMO_CHECKPOINT


pyarrow = pytest.importorskip("pyarrow")
pyarrow.parquet = pytest.importorskip("pyarrow.parquet")
import pyarrow.csv  # noqa: E402


ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "ray_batch.py"
SAMPLES = ROOT / "demo_model" / "samples"
CIRCLE, SQUARE = (str(SAMPLES / f"{name}.mp4") for name in ("red_circle_moves_left", "blue_square_moves_up"))
QUESTION = "Which way does it move?"


@pytest.fixture(scope="module")
def example():
    spec = spec_from_file_location("ray_batch", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def answerer(example):
    args = example.parse_arguments(["unused", "--out", "unused", "--max-new-tokens", "16", "--batch-size", "2"])
    return example.Answerer(args, gpus=0)


def part_of(rows: list[tuple[str, str]]) -> dict:
    return {"videos": [video for video, _ in rows], "questions": [question for _, question in rows]}


def written(out: Path) -> list[dict]:
    return pyarrow.parquet.read_table(str(out)).to_pylist()


def test_rows_of_a_folder(example, tmp_path):
    (tmp_path / "deeper").mkdir()
    for name in ("b.mp4", "a 1%.MOV", "deeper/c.webm", "notes.txt", "b.mp4.json"):
        (tmp_path / name).write_bytes(b"")
    expected = [(str(tmp_path / name), QUESTION) for name in ("a 1%.MOV", "b.mp4", "deeper/c.webm")]
    assert example.rows_of(str(tmp_path), QUESTION) == expected
    by_uri = [(f"file://{path}", QUESTION) for path, _ in expected]
    assert example.rows_of(f"file://{tmp_path}", QUESTION) == by_uri
    assert example.rows_of(f"file://{tmp_path}/", QUESTION) == by_uri
    assert all(example.fetch(uri) == b"" for uri, _ in by_uri)


def test_names_in_a_bucket(example, monkeypatch):
    """The path of a bucket's root, in its file system, is the name of the bucket."""
    bucket = pyarrow.fs.SubTreeFileSystem(str(SAMPLES.parent), pyarrow.fs.LocalFileSystem()), "samples"
    monkeypatch.setattr(example, "opened", {"s3://samples/": bucket}.__getitem__)
    rows = example.rows_of("s3://samples", QUESTION)
    assert len(rows) == 6
    assert ("s3://samples/red_circle_moves_left.mp4", QUESTION) in rows
    assert example.fetch("s3://samples/red_circle_moves_left.mp4") == Path(CIRCLE).read_bytes()


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_rows_of_a_table(example, tmp_path, ending):
    table = {
        "video": ["b.mp4", "/clips/a.mp4", "b.mp4", "s3://bucket/c.mp4"],
        "question": ["What?", "Who?", "What?", "Why?"],
    }
    path = tmp_path / f"table{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    elif ending == ".csv":
        pyarrow.csv.write_csv(pyarrow.table(table), path)
    else:
        path.write_text("".join(json.dumps(dict(zip(table, row))) + "\n" for row in zip(*table.values())))
    expected = [("/clips/a.mp4", "Who?"), (str(tmp_path / "b.mp4"), "What?"), ("s3://bucket/c.mp4", "Why?")]
    assert example.rows_of(str(path), None) == expected
    assert example.rows_of(str(path), QUESTION) == [(video, QUESTION) for video, _ in expected]


def test_errors_of_what_is_to_be_asked(example, tmp_path):
    with pytest.raises(SystemExit, match=r"What is to be asked about .*\? Pass --question"):
        example.rows_of(str(SAMPLES), None)
    with pytest.raises(SystemExit, match="There are no videos in"):
        example.rows_of(str(tmp_path), QUESTION)
    (tmp_path / "table.csv").write_text("path,label\na.mp4,1\n")
    with pytest.raises(SystemExit, match=r"columns \['path', 'label'\], and no video and no question"):
        example.rows_of(str(tmp_path / "table.csv"), None)
    pyarrow.parquet.write_table(
        pyarrow.table({"video": ["a.mp4", None], "question": ["?", "?"]}), tmp_path / "t.parquet"
    )
    with pytest.raises(SystemExit, match="has rows without a video or a question"):
        example.rows_of(str(tmp_path / "t.parquet"), None)
    with pytest.raises(SystemExit):
        example.parse_arguments(["clips", "--out", "answers", "--batch-size", "0"])


def test_part_is_answered_and_written(example, answerer, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = [
        (CIRCLE, QUESTION),
        (f"file://{SQUARE}", QUESTION),
        (str(tmp_path / "broken.mp4"), QUESTION),
        ("file:///nowhere/clip.mp4", QUESTION),
        ("unknown://bucket/clip.mp4", QUESTION),
        (CIRCLE, "What is moving?"),
    ]
    answerer.out = str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    for _ in range(2):  # as when Ray asks again
        assert answerer(part_of(rows)) == {"rows": 6, "errors": 3}
    assert len(list((tmp_path / "out").iterdir())) == 1
    records = written(tmp_path / "out")
    assert [(record["video"], record["question"]) for record in records] == rows
    assert [record["answer"] for record in records] == [
        "It moves left.",
        "It moves up.",
        None,
        None,
        None,
        "A red circle.",
    ]
    errors = [record["error"] for record in records]
    assert [error is None for error in errors] == [True, True, False, False, False, True]
    assert "broken.mp4': Invalid data found" in errors[2]
    assert "'file:///nowhere/clip.mp4'" in errors[3]
    assert "'unknown://bucket/clip.mp4'" in errors[4]
    assert example.answered(answerer.out) == set(rows)


def test_video_that_is_too_large_to_be_fetched(example, monkeypatch):
    monkeypatch.setattr(example, "ReadingLimits", lambda: type("Limits", (), {"max_fetched_bytes": 1000}))
    assert "it has more than 1000 bytes; store it where" in str(example.fetch(f"file://{CIRCLE}"))
    assert example.fetch(CIRCLE) == CIRCLE


def test_videos_are_fetched_ahead_in_order_and_not_all_at_once(example, monkeypatch):
    started = []
    monkeypatch.setattr(example, "fetch", lambda video: started.append(video) or video)
    fetched = example.fetch_ahead([str(number) for number in range(20)], 3)
    assert next(fetched) == "0"
    time.sleep(0.1)
    assert len(started) <= 4
    assert list(fetched) == [str(number) for number in range(1, 20)]


def test_file_that_was_not_finished_does_not_count(example, answerer, tmp_path, monkeypatch):
    answerer.out = str(tmp_path)
    local = pyarrow.fs.LocalFileSystem

    class Killed(Exception):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(example, "filesystem_of", lambda where: (type("Dying", (local,), {"move": die})(), where))
        with pytest.raises(Killed):
            example.write_part(str(tmp_path), [(CIRCLE, QUESTION)], ["It moves left."], [None])
    assert len(list(tmp_path.iterdir())) == 1
    assert example.answered(str(tmp_path)) == set()
    (tmp_path / "cut off.parquet").write_bytes(b"PAR1")
    assert example.answered(str(tmp_path)) == set()
    assert not list(tmp_path.iterdir())
    example.write_part(str(tmp_path), [(CIRCLE, QUESTION)], ["It moves left."], [None])
    assert example.answered(str(tmp_path)) == {(CIRCLE, QUESTION)}


def test_answers_of_another_checkpoint_are_not_mixed(example, tmp_path):
    def args(*more: str):
        return example.parse_arguments([str(SAMPLES), "--out", str(tmp_path / "out"), *more])

    example.check_settings(args("--checkpoint", "misspelt"), has_answers=False)
    example.check_settings(args(), has_answers=False)
    example.check_settings(args("--batch-size", "4", "--actors", "2"), has_answers=True)
    with pytest.raises(
        SystemExit, match=r"has answers with .*'num_frames': None.* not .*'num_frames': 4.*another --out"
    ):
        example.check_settings(args("--num-frames", "4"), has_answers=True)


@pytest.mark.parametrize(
    ("arguments", "resources", "parts", "expected"),
    [
        ([], {"CPU": 2.0}, 100, (2, 1, 0)),
        ([], {"CPU": 2.0}, 1, (1, 1, 0)),
        (["--actors", "4"], {"CPU": 2.0}, 100, (4, 0.5, 0)),
        ([], {"CPU": 16.0, "GPU": 2.0}, 100, (2, 1, 1)),
        (["--gpus-per-actor", "0.5"], {"CPU": 16.0, "GPU": 2.0}, 100, (4, 1, 0.5)),
        (["--gpus-per-actor", "2"], {"CPU": 16.0, "GPU": 8.0}, 100, (4, 1, 2)),
        (["--gpus-per-actor", "0"], {"CPU": 3.0, "GPU": 8.0}, 100, (3, 1, 0)),
        (["--actors", "8"], {"CPU": 4.0, "GPU": 8.0}, 100, (8, 0.5, 1)),
    ],
)
def test_pool_fits_into_the_cluster(example, arguments, resources, parts, expected):
    args = example.parse_arguments([str(SAMPLES), "--out", "out", *arguments])
    assert example.size_of_pool(args, resources, parts) == expected


def test_error_for_more_gpus_than_there_are(example):
    args = example.parse_arguments([str(SAMPLES), "--out", "out", "--gpus-per-actor", "1"])
    with pytest.raises(SystemExit, match="to have 1 GPUs, but the cluster has 0"):
        example.size_of_pool(args, {"CPU": 2.0}, 5)
    args.actors = 3
    with pytest.raises(SystemExit, match="3 actors with 1 GPUs each are more than the cluster's 2 GPUs"):
        example.size_of_pool(args, {"CPU": 8.0, "GPU": 2.0}, 5)


def test_nothing_is_started_when_all_is_answered(example, tmp_path, capsys):
    rows = example.rows_of(str(SAMPLES), QUESTION)
    example.write_part(str(tmp_path), rows, ["Left."] * len(rows), [None] * len(rows))
    example.main([str(SAMPLES), "--question", QUESTION, "--out", str(tmp_path)])
    assert capsys.readouterr().out == "6 questions, 6 of them answered before\n"


# --- with Ray ---

with_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed; `.ci/engines ray` runs this")
NUM_CLIPS, NUM_BAD = 50, 2


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """50 clips that the demonstration model knows, of which 2 are broken."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(NUM_CLIPS - NUM_BAD):
        write_mp4(Clip.from_seed(seed, num_shapes=1, moves=True, clear=True), folder / f"{seed:03}.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut off.mp4").write_bytes((folder / "000.mp4").read_bytes()[:300])
    return folder


def command(clips: Path, out: Path, *more: str) -> list[str]:
    options = ["--checkpoint", DEMO_CHECKPOINT, "--out", str(out), "--max-new-tokens", "16", *more]
    return [sys.executable, str(SCRIPT), str(clips), "--question", QUESTION, *options]


def run_to_the_end(arguments: list[str], **environment: str) -> str:
    ended = subprocess.run(
        arguments, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=540
    )
    assert ended.returncode == 0, ended.stderr[-5000:]
    return ended.stdout


def check_answers(out: Path, of_bytes: bool = False):
    """Each clip once, with the right answer or its error."""
    records = written(out)
    assert Counter(Path(record["video"]).name for record in records).most_common(1)[0][1] == 1
    assert len(records) == NUM_CLIPS
    for record in records:
        name = Path(record["video"]).stem
        if name.isdigit():
            [mover] = Clip.from_seed(int(name), num_shapes=1, moves=True, clear=True).movers
            assert (record["answer"], record["error"]) == (f"It moves {mover.direction}.", None)
        else:
            assert record["answer"] is None
            by_path = f"Could not read the video '{record['video']}'"
            assert record["error"].startswith("Could not read the video given as" if of_bytes else by_path)


@with_ray
@pytest.mark.slow
def test_run_that_is_killed_and_started_again_answers_every_clip_once(clips, tmp_path):
    """Two actors on two processors: nothing else needs one."""
    out = tmp_path / "answers"
    arguments = command(clips, out, "--rows-per-file", "4", "--batch-size", "4", "--actors", "2")
    with open(tmp_path / "log", "w") as log:
        killed = subprocess.Popen(arguments, stdout=log, stderr=log)
        deadline = time.monotonic() + 500
        while len(list(out.glob("*.parquet"))) < 3:
            assert killed.poll() is None, (tmp_path / "log").read_text()[-5000:]
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-5000:]
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    first = {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    before = len(written(out))
    assert 12 <= before < NUM_CLIPS
    (out / ".half.parquet.part").write_bytes(b"PAR1")
    printed = run_to_the_end(arguments)
    assert f"50 questions, {before} of them answered before" in printed or before < len(written(out))
    assert "of them with errors" in printed
    assert not list(out.glob(".*"))
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first
    check_answers(out)


@with_ray
@pytest.mark.slow
def test_cluster_that_runs_already(clips, tmp_path):
    """Found by RAY_ADDRESS; videos by URI, as from a bucket, and more actors than processors."""
    holds_a_cluster = (
        "import ray, sys; print(ray.init(num_cpus=1, include_dashboard=False).address_info['address'], flush=True); "
        "sys.stdin.read()"
    )
    with_token = {"RAY_AUTH_MODE": "token"}  # what Ray's local clusters ask for
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, **with_token}
    with subprocess.Popen([sys.executable, "-c", holds_a_cluster], env=environment, **pipes) as cluster:
        address = next(line.strip() for line in cluster.stdout if re.fullmatch(r"[\d.]+:\d+\n", line))
        arguments = command(clips, tmp_path / "answers", "--actors", "2", "--rows-per-file", "25", "--batch-size", "8")
        arguments[2] = f"file://{clips}"
        try:
            printed = run_to_the_end(arguments, RAY_ADDRESS=address, **with_token)
        finally:
            cluster.stdin.close()
    assert "2 actors with 0.5 processors and 0 GPUs each" in printed
    assert "50 answered now, 2 of them with errors" in printed
    check_answers(tmp_path / "answers", of_bytes=True)
