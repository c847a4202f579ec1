"""Runs that are killed, sources that are damaged, destinations that cannot be written."""

import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_next_video import LlavaNextVideoForConditionalGeneration
from llava_next_video.__main__ import main
from llava_next_video.conversion import writing
from llava_next_video.conversion.checkpoint_files import stored_tensors
from llava_next_video.conversion.convert import convert
from llava_next_video.conversion.plan import plan_conversion
from tests.golden_data import Recording


SHARDED, PICKLED = Recording("qwen_grid_avg"), Recording("llama_notoken_avg_before")


def copy_of(recording: Recording, folder: Path) -> Path:
    return Path(shutil.copytree(recording.checkpoint, folder / "source"))


def fingerprint(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def fails(capsys, source: Path, destination: Path, tower: str) -> str:
    """Run the command on a broken source: one line of error, the source untouched, nothing written."""
    before = fingerprint(source)
    assert main(["convert", str(source), str(destination), "--vision-tower", tower]) == 1
    message = capsys.readouterr().err
    assert message.startswith("llava-next-video: error: ")
    assert message.count("\n") == 1
    assert fingerprint(source) == before
    assert not destination.exists()
    assert [path.name for path in destination.parent.iterdir()] == ["source"]
    return message


def change_tensors(file: Path, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def truncate(file: Path):
    os.truncate(file, file.stat().st_size - 100)


def overwrite_header(file: Path):
    with open(file, "r+b") as stream:
        stream.seek(8)
        stream.write(b"not json")


def claim_a_huge_header(file: Path):
    with open(file, "r+b") as stream:
        stream.write((10**12).to_bytes(8, "little"))


def drop_from_shard(file: Path):
    change_tensors(file, lambda tensors: tensors.pop("lm_head.weight"))


FIRST, LAST = "model-00001-of-00004.safetensors", "model-00004-of-00004.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (FIRST, truncate, "is damaged or not complete: its tensors take"),
        (FIRST, overwrite_header, "is damaged or not complete"),
        (FIRST, claim_a_huge_header, "the header says it has 1000000000000 bytes, the file has"),
        (FIRST, lambda file: file.write_bytes(b""), "is damaged or not complete"),
        (LAST, Path.unlink, f"names the file {LAST}, which is not in"),
        (LAST, drop_from_shard, "names 1 tensors that its files do not hold, the first is 'lm_head.weight'"),
        (INDEX, lambda file: file.write_text("{"), "is not an index of weights"),
        ("config.json", lambda file: file.write_text("{"), "config.json is damaged"),
        ("config.json", Path.unlink, "is not a checkpoint: it has no config.json"),
        (
            "config.json",
            lambda file: file.write_text('{"model_type": "llama"}'),
            "not a checkpoint of the original code",
        ),
        (
            LAST,
            lambda file: change_tensors(file, lambda t: t.update({"model.mystery.weight": torch.ones(2)})),
            "The weight 'model.mystery.weight' meets no rules",
        ),
        (
            FIRST,
            lambda file: change_tensors(file, lambda t: t.update({"model.image_newline": torch.ones(7)})),
            "The weight 'model.image_newline' has shape (7,); its configuration asks for (64,)",
        ),
    ],
)
def test_damaged_checkpoint_is_one_clear_error(tmp_path, capsys, file, damage, message):
    source = copy_of(SHARDED, tmp_path)
    damage(source / file)
    assert message in fails(capsys, source, tmp_path / "made", SHARDED.vision_tower)


def test_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    source = copy_of(SHARDED, tmp_path)
    last = list(stored_tensors(source).values())[-1]
    truncate(last.file)
    with pytest.raises(ValueError, match=f"ends in the middle of the tensor '{last.name}'"):
        list(last.pieces())


def test_missing_weight_is_one_clear_error(tmp_path, capsys):
    source = copy_of(SHARDED, tmp_path)
    drop_from_shard(source / LAST)
    index = json.loads((source / INDEX).read_text())
    del index["weight_map"]["lm_head.weight"]
    (source / INDEX).write_text(json.dumps(index))
    message = fails(capsys, source, tmp_path / "made", SHARDED.vision_tower)
    assert "1 weights are missing ['lm_head.weight'], 0 are left over" in message


def test_two_names_of_one_weight_with_different_values_are_one_clear_error(tmp_path, capsys):
    source = copy_of(PICKLED, tmp_path)
    weights = torch.load(source / "pytorch_model.bin", weights_only=True)
    weights["model.mm_projector.0.bias"] = weights["model.mm_projector.0.bias"] + 1
    torch.save(weights, source / "pytorch_model.bin")
    message = fails(capsys, source, tmp_path / "made", PICKLED.vision_tower)
    assert (
        "holds 'model.mm_projector.0.bias' and 'model.vision_resampler.mm_projector.0.bias' with different" in message
    )


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("pickle-was-here",)


@pytest.mark.parametrize("save", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))])
def test_pickle_that_runs_code_is_refused(tmp_path, capsys, monkeypatch, save):
    source = copy_of(PICKLED, tmp_path)
    save({"lm_head.weight": RunsCode()}, source / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path / "source")
    message = fails(capsys, source, tmp_path / "made", PICKLED.vision_tower)
    assert "holds more than tensors and was not opened, because it could run code of its own" in message
    assert not Path("pickle-was-here").exists()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: os.truncate(file, 1000), "pytorch_model.bin is damaged or not complete"),
        (lambda file: torch.save([torch.ones(2)], file), "is not a dictionary of tensors"),
        (Path.unlink, "holds no weights: it has none of ['model.safetensors', 'pytorch_model.bin'], and no index"),
    ],
)
def test_damaged_pickle_is_one_clear_error(tmp_path, capsys, write, message):
    source = copy_of(PICKLED, tmp_path)
    write(source / "pytorch_model.bin")
    assert message in fails(capsys, source, tmp_path / "made", PICKLED.vision_tower)


def test_unreachable_source_is_one_clear_error(tmp_path, capsys, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("llava_next_video.conversion.checkpoint_files.snapshot_download", no_network)
    assert main(["convert", "someone/something", str(tmp_path / "made")]) == 1
    assert (
        "'someone/something' is not a folder, and could not be fetched from the Hugging Face Hub: no network"
        in capsys.readouterr().err
    )


def test_existing_destination_is_left_alone(tmp_path, capsys):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    arguments = [str(SHARDED.checkpoint), str(tmp_path / "made"), "--vision-tower", SHARDED.vision_tower]
    assert main(["convert", *arguments]) == 1
    assert "made exists already; name another destination, or delete it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["mine.txt"]


def test_full_disk_is_noticed_before_anything_is_written(tmp_path, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 10**6)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: usage)
    source = copy_of(SHARDED, tmp_path)
    message = fails(capsys, source, tmp_path / "made", SHARDED.vision_tower)
    assert "The result takes 0.74 MB, and" in message
    assert "has 1.00 MB free. Make room, or name a destination on another disk." in message


def test_what_does_not_read_back_is_not_kept(tmp_path, capsys, monkeypatch):
    write = writing.write_tensors

    def failing_disk(folder, shards, show):
        checksums = write(folder, shards, show)
        with open(folder / "model.safetensors", "r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(b"\x7f")
        return checksums

    monkeypatch.setattr("llava_next_video.conversion.convert.write_tensors", failing_disk)
    source = copy_of(SHARDED, tmp_path)
    message = fails(capsys, source, tmp_path / "made", SHARDED.vision_tower)
    assert "does not read back from model.safetensors as it was written" in message


def test_tensors_that_were_not_planned_are_noticed(tmp_path):
    plan = plan_conversion(str(SHARDED.checkpoint), vision_tower=SHARDED.vision_tower)
    checksums = writing.write_tensors(tmp_path, {"model.safetensors": plan.tensors}, show=False)
    with pytest.raises(writing.WritingError, match="holds tensors that were not planned"):
        writing.verify(tmp_path, {"model.safetensors": plan.tensors[1:]}, checksums, show=False)


def enlarge(source: Path):
    """Give a checkpoint a vocabulary that takes a while to write."""
    config = json.loads((source / "config.json").read_text())
    config["vocab_size"] = 200_000
    (source / "config.json").write_text(json.dumps(config))
    for file, name in ((FIRST, "model.embed_tokens.weight"), (LAST, "lm_head.weight")):
        change_tensors(source / file, lambda tensors, name=name: tensors.update({name: torch.rand(200_000, 64)}))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_runs_leave_nothing_that_loads_and_the_next_run_succeeds(tmp_path):
    source = copy_of(SHARDED, tmp_path)
    enlarge(source)
    plan = plan_conversion(str(source), vision_tower=SHARDED.vision_tower)
    start = time.monotonic()
    convert(plan, tmp_path / "timed")
    seconds = time.monotonic() - start
    moments = random.Random(0)
    destination, interrupted = tmp_path / "made", 0
    while interrupted < 20:
        child = os.fork()
        if child == 0:
            convert(plan, destination)
            os._exit(0)
        moment = moments.uniform(0, seconds)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if destination.exists():  # it was quicker than the signal, and then it is complete
            assert fingerprint_of_weights(destination) == fingerprint_of_weights(tmp_path / "timed")
            shutil.rmtree(destination)
            seconds = moment
            continue
        interrupted += 1
        with pytest.raises((OSError, ValueError)):
            LlavaNextVideoForConditionalGeneration.from_pretrained(destination)
    convert(plan, destination)
    assert fingerprint_of_weights(destination) == fingerprint_of_weights(tmp_path / "timed")
    LlavaNextVideoForConditionalGeneration.from_pretrained(destination)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source", "timed"]


def fingerprint_of_weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
