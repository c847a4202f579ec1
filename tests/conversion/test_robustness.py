"""Runs that are killed, sources that are damaged or hostile, destinations that cannot be written."""

import contextlib
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoProcessor

from llava_next_video import (
    DEMO_CHECKPOINT,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    export_for_hub,
)
from llava_next_video.__main__ import main
from llava_next_video.conversion import writing
from llava_next_video.conversion.convert import convert
from llava_next_video.conversion.original_config import grid_pinpoints
from llava_next_video.conversion.plan import plan_conversion
from llava_next_video.conversion.to_original import plan_conversion_to_original
from llava_next_video.hub import destination, pickled_tensors
from llava_next_video.hub.checkpoint_folders import SETTINGS_FILES
from llava_next_video.hub.stored_tensors import stored_tensors
from llava_next_video.modeling.checkpoint_settings import CheckpointError, UntrustedCheckpoint
from tests.golden_data import Recording


SHARDED, PICKLED = Recording("qwen_grid_avg"), Recording("llama_notoken_avg_before")


@pytest.fixture
def little_memory():
    """Let this process take 1 GiB more than it has, so that what takes memory without limit fails in another way than
    it has to."""
    [size] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize")]
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(size.split()[1]) * 1024 + 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


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


def write_header(file: Path, header: dict | bytes, num_bytes: int = 0):
    """Make a safetensors file of a header, and of `num_bytes` zeros behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(file, 8 + len(text) + num_bytes)  # the zeros take no room on the disk


def entry(shape: list, start: int, stop: int) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


def headers(**entries) -> Callable[[Path], None]:
    return lambda file: write_header(file, entries, num_bytes=8)


def change_config(**changes) -> Callable[[Path], None]:
    return lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def store_as(dtype: str) -> Callable[[Path], None]:
    """Say that a tensor has another dtype; how many bytes an element of it takes is not known."""

    def change(file: Path):
        size = int.from_bytes(file.read_bytes()[:8], "little")
        text, values = file.read_bytes()[8 : 8 + size], file.read_bytes()[8 + size :]
        header = json.loads(text)
        header["model.image_newline"]["dtype"] = dtype
        write_header(file, header)
        file.write_bytes(file.read_bytes() + values)

    return change


TWICE = json.dumps(entry([2], 0, 8)).encode()


def many_tensors(file: Path):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    write_header(file, json.dumps({hex(number)[2:]: entry for number in range(2**18 + 1)}, separators=",:").encode())


def name_another_file(name: str) -> Callable[[Path], None]:
    def change(index: Path):
        weight_map = json.loads(index.read_text())["weight_map"]
        index.write_text(json.dumps({"weight_map": weight_map | {"lm_head.weight": name.format(index.parent)}}))

    return change


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
        (LAST, Path.unlink, f"names the file '{LAST}', which is not in"),
        (LAST, drop_from_shard, "names 1 tensors that its files do not hold, the first is 'lm_head.weight'"),
        (FIRST, headers(a=entry([1], 0, 4), b=entry([2], 0, 8)), "'b' begins at byte 0 after a tensor that ends at"),
        (FIRST, headers(a=entry([1], 4, 8)), "'a' begins at byte 4 after a tensor that ends at byte 0"),
        (FIRST, headers(a=entry([1], 0, 4)), "its tensors take"),
        (FIRST, headers(a=entry([10**6, 10**12], 0, 8)), "'a' of shape [1000000, 1000000000000] does not take 8 bytes"),
        (FIRST, headers(a=entry([10**30, 0], 0, 0), b=entry([2**46, 4], 0, 8)), "'a' has the impossible shape"),
        (FIRST, headers(a=entry([2**47, 0], 0, 0), b=entry([2**46, 4], 0, 8)), "does not take 8 bytes"),
        (FIRST, headers(a=entry([9] * 800_000, 0, 8)), "'a' has 800000 dimensions, more than 8"),  # took minutes
        (FIRST, headers(a=entry([2**48], 0, 8)), "'a' has the impossible shape [281474976710656]"),
        (FIRST, headers(a=entry([2], 0, 8.0)), "'a' of shape [2] does not take 8.0 bytes"),
        (FIRST, headers(a=entry([2], 0.0, 8)), "'a' begins at byte 0.0 after"),
        (FIRST, headers(a={**entry([2], 0, -8), "dtype": "F8_E4M3"}), "'a' of shape [2] does not take -8 bytes"),
        (FIRST, lambda file: write_header(file, b'{"a": %s, "a": %s}' % ((TWICE,) * 2), 8), "it names 'a' twice"),
        (FIRST, many_tensors, "it names 262145 tensors, more than 262144"),
        (FIRST, headers(a=entry([-1, -2], 0, 8)), "'a' has the impossible shape [-1, -2]"),
        (FIRST, headers(a=entry([2.0], 0, 8)), "'a' has the impossible shape [2.0]"),
        (FIRST, store_as("F8_E4M3"), "'model.image_newline' is stored as F8_E4M3 in"),
        (FIRST, store_as("F128"), "which cannot be converted; the dtypes that can be are F64, F32, "),
        (FIRST, headers(a={**entry([8], 0, 8), "dtype": ["F32"]}), "is damaged or not complete: unhashable type"),
        (FIRST, lambda file: write_header(file, b"[" * 10**6), "is damaged or not complete"),
        (FIRST, lambda file: write_header(file, b"{}" + b" " * 2**24), "its header has 16777218 bytes, more than"),
        (INDEX, lambda file: file.write_text("{"), f"{INDEX} is damaged: "),
        (INDEX, lambda file: file.write_text("[" * 10**6), f"{INDEX} is damaged: "),
        (INDEX, lambda file: file.write_text('{"weight_map": ["a"]}'), "does not say which file holds"),
        (
            INDEX,
            lambda file: file.write_text('{"weight_map": {"a": {}}}'),
            "does not say which file holds which weight",
        ),
        (INDEX, lambda file: os.truncate(file, 2**25), "it has 33554432 bytes, more than 16777216"),
        (INDEX, lambda file: file.write_text("{}"), "does not say which file holds which weight"),
        (INDEX, lambda file: file.write_text('{"weight_map": {"a": "b", "a": "c"}}'), "it names 'a' twice"),
        (
            INDEX,
            name_another_file(f"../source/{FIRST}"),
            f"names the file '../source/{FIRST}', which is not in its folder, and was not opened",
        ),
        (INDEX, name_another_file(f"{{}}/{FIRST}"), "which is not in its folder"),
        (INDEX, name_another_file(".."), "names the file '..', which is not in its folder"),
        ("config.json", lambda file: file.write_text("{"), "config.json is damaged"),
        ("config.json", Path.unlink, "is not a checkpoint: it has no config.json"),
        ("config.json", lambda file: file.write_text("[" * 10**6), "config.json is damaged"),
        ("config.json", change_config(hidden_size=10**9), "its configuration asks for (1000000000,)"),
        ("config.json", change_config(hidden_size=10**12), "asks for weights that cannot exist"),
        ("config.json", change_config(vocab_size=10**9), "its configuration asks for (1000000000, 64)"),
        ("config.json", change_config(num_attention_heads=10**9), "asks for weights that cannot exist"),
        (
            "config.json",
            change_config(num_hidden_layers=900),
            "promises a qwen2 of 900 layers; the checkpoint",
        ),
        (
            "config.json",
            change_config(num_hidden_layers=10**7),
            "num_hidden_layers is 10000000; it has to be a whole number from 1 to 1000",
        ),
        ("config.json", change_config(image_grid_pinpoints="(1x1),...,(9999x9999)"), "nor a range of tiles"),
        ("config.json", change_config(image_grid_pinpoints="(" * 10**6), "nor a range of tiles"),
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
def test_damaged_checkpoint_is_one_clear_error(tmp_path, capsys, little_memory, file, damage, message):
    source = copy_of(SHARDED, tmp_path)
    damage(source / file)
    assert message in fails(capsys, source, tmp_path / "made", SHARDED.vision_tower)


def cache_of_the_hub(checkpoint: Path, folder: Path) -> Path:
    """A checkpoint as the Hub's cache has it: links to files that are called after their contents."""
    blobs, snapshot = folder / "models--a--b" / "blobs", folder / "models--a--b" / "snapshots" / "0123abcd"
    for made in (blobs, snapshot, folder / "models--a--b" / "refs"):
        made.mkdir(parents=True)
    (folder / "models--a--b" / "refs" / "main").write_text("0123abcd")
    for number, file in enumerate(filter(Path.is_file, checkpoint.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    return snapshot


def test_links_of_the_cache_of_the_hub_are_followed(tmp_path):
    snapshot = cache_of_the_hub(SHARDED.checkpoint, tmp_path)
    assert list(stored_tensors(snapshot)) == list(stored_tensors(SHARDED.checkpoint))
    plan = plan_conversion(str(snapshot), vision_tower=SHARDED.vision_tower)
    assert convert(plan, tmp_path / "made").num_tensors == len(plan.tensors)
    assert not any(path.is_symlink() for path in (tmp_path / "made").rglob("*"))
    (tmp_path / "link").symlink_to(snapshot)
    LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path / "link", vision_tower=SHARDED.vision_tower)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_secret.txt", "config.json", FIRST, "original"])
@pytest.mark.parametrize("how", ["convert", "model", "processor"])
def test_links_to_outside_the_checkpoint_are_not_followed(tmp_path, name, how):
    """A link in SRC was copied as a file into DST, from where it would have been uploaded."""
    source = copy_of(SHARDED, tmp_path)
    secret = tmp_path / "secret"
    secret.mkdir() if name == "original" else secret.write_text("password")
    if (source / name).exists():
        (source / name).rename(secret)
    (source / name).symlink_to(secret)
    load = {
        "convert": lambda: convert(plan_conversion(str(source), vision_tower=SHARDED.vision_tower), tmp_path / "made"),
        "model": lambda: LlavaNextVideoForConditionalGeneration.from_pretrained(source),
        "processor": lambda: LlavaNextVideoProcessor.from_pretrained(source),
    }
    with pytest.raises(
        UntrustedCheckpoint, match=f"{name} is a link to .*secret, outside the checkpoint's folder, and was not"
    ):
        load[how]()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("format", ["ours", "original", "additional_chat_templates"])
def test_links_in_checkpoints_of_ours_are_not_followed(tmp_path, format):
    source = Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "source"))
    (tmp_path / "secret").write_text("password")
    if format != "ours":
        (source / format).mkdir()
        (source / format / "tokenizer.json").symlink_to(tmp_path / "secret")
    else:
        (source / "generation.jinja").symlink_to(tmp_path / "secret")
    for attempt in (
        lambda: export_for_hub(source, tmp_path / "made"),
        lambda: plan_conversion_to_original(str(source), vision_tower="a/b"),
        lambda: AutoProcessor.from_pretrained(source),
        lambda: LlavaNextVideoConfig.from_pretrained(source),
        lambda: LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path, subfolder="source"),
    ):
        with pytest.raises(UntrustedCheckpoint, match="outside the checkpoint's folder, and was not opened"):
            attempt()


def test_pipeline_does_not_go_on_with_the_builtin(tmp_path):
    """transformers tries one class after the other, and the built-in's read the weights behind the link."""
    source = Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "source"))
    (source / "model.safetensors").rename(tmp_path / "weights")
    (source / "model.safetensors").symlink_to(tmp_path / "weights")
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    with pytest.raises(UntrustedCheckpoint, match=r"model.safetensors is a link to .*weights, outside"):
        transformers.pipeline("video-text-to-text", model=str(source), processor=processor)


def test_auto_processor_does_not_go_on_with_a_tokenizer(tmp_path):
    source = copy_of(SHARDED, tmp_path)
    (tmp_path / "secret").write_text("{}")
    (source / "added_tokens.json").unlink(missing_ok=True)
    (source / "added_tokens.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UntrustedCheckpoint, match=r"added_tokens.json is a link to .*secret, outside"):
        AutoProcessor.from_pretrained(source, vision_tower=SHARDED.vision_tower)


def test_pipes_are_not_opened(tmp_path):
    source = copy_of(SHARDED, tmp_path)
    os.mkfifo(source / "tokenizer.model")  # reading it waits for ever
    with pytest.raises(UntrustedCheckpoint, match="is neither a file nor a folder, and was not opened"):
        plan_conversion(str(source), vision_tower=SHARDED.vision_tower)


def test_folders_called_like_a_tokenizer_are_not_copied(tmp_path):
    source = copy_of(SHARDED, tmp_path)
    (source / "tokenizer_files").mkdir()
    convert(plan_conversion(str(source), vision_tower=SHARDED.vision_tower), tmp_path / "made")
    assert not (tmp_path / "made" / "original" / "tokenizer_files").exists()


def test_tower_outside_the_checkpoint_is_opened_only_when_the_user_names_it(tmp_path, monkeypatch):
    source = copy_of(SHARDED, tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SHARDED.vision_tower, tmp_path / "some" / "tower")
    for name in (SHARDED.vision_tower, "../some/tower", "some/tower", "..", "~/tower", ""):
        change_config(mm_vision_tower=name)(source / "config.json")
        if name == "":
            continue
        with pytest.raises(
            CheckpointError, match=r"neither a Hub id nor a folder inside the checkpoint, and was not opened\. If it is"
        ):
            plan_conversion(str(source))
    assert plan_conversion(str(source), vision_tower="some/tower").tensors
    (source / "tower").symlink_to(tmp_path / "some" / "tower")
    change_config(mm_vision_tower="tower")(source / "config.json")
    with pytest.raises(UntrustedCheckpoint, match=r"tower is a link to .*, outside the checkpoint's folder"):
        plan_conversion(str(source))
    (source / "tower").unlink()
    shutil.copytree(SHARDED.vision_tower, source / "tower")
    assert (
        plan_conversion(str(source)).tower.config
        == plan_conversion(str(source), vision_tower="some/tower").tower.config
    )


def test_index_of_a_variant_is_not_taken(tmp_path):
    """Of two indexes the first by name was read."""
    source = copy_of(SHARDED, tmp_path)
    (source / "model.fp16.safetensors.index.json").write_text('{"weight_map": {"a": "model.fp16.safetensors"}}')
    assert list(stored_tensors(source)) == list(stored_tensors(SHARDED.checkpoint))
    (source / INDEX).unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        stored_tensors(source)


def test_weights_of_fewer_bits_are_exported_as_they_are(tmp_path):
    """They were called damage; an export copies files, whatever their tensors are."""
    source = Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    eight_bits = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
    save_file(eight_bits, source / "model.safetensors")
    export_for_hub(source, tmp_path / "made")
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"is stored as F8_E4M3 in .*, which cannot be converted"):
        plan_conversion_to_original(str(source), vision_tower="a/b")


def test_second_wall_around_pickles(tmp_path, monkeypatch):
    """If names of functions got past the first check, `torch.load` itself would still refuse to call them."""
    monkeypatch.setattr(pickled_tensors, "check_archive", lambda file: None)
    monkeypatch.chdir(tmp_path)
    torch.save(RUNS_CODE, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is damaged or not complete: Weights only load failed"):
        pickled_tensors.load_pickle(tmp_path / "pytorch_model.bin")
    assert not Path("pickle-was-here").exists()


DEEP = "[" * 10**5


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        *[
            (name, lambda file: file.write_text(DEEP), f"{name} is damaged: .*Download it again")
            for name in SETTINGS_FILES
        ],
        ("config.json", lambda file: file.write_text("[]"), "it holds a list instead of names and values"),
        ("config.json", lambda file: os.truncate(file, 2**25), "it has 33554432 bytes, more than 4194304"),
        ("config.json", lambda file: file.write_bytes(b"\xff\xfe{"), "config.json is damaged"),
        ("tokenizer_config.json", lambda file: file.write_text("7"), "it holds a int instead of names and values"),
        ("tokenizer.json", lambda file: file.write_text("{}"), "The settings of .* cannot be used: "),
        ("tokenizer.json", lambda file: file.write_text(DEEP), "The settings of .* cannot be used: "),
        ("config.json", change_config(rope_scaling="x"), "cannot be used: AttributeError"),
        ("config.json", change_config(rope_scaling={"type": "linear"}), ""),
        ("config.json", change_config(num_hidden_layers="5"), "num_hidden_layers is '5'; it has to be a whole number"),
        ("config.json", change_config(max_position_embeddings=None), "cannot be used: TypeError"),
        ("config.json", change_config(_name_or_path=7), ""),
        ("config.json", change_config(model_type=["a"]), "cannot be used: TypeError"),
        ("config.json", change_config(mm_spatial_pool_stride=0), "cannot be used|spatial_pool_stride"),
        ("config.json", change_config(mm_spatial_pool_mode=["max"]), "cannot be used"),
        ("config.json", change_config(mm_newline_position="x"), "cannot be used: StrictDataclass.* got x"),
        ("config.json", change_config(mm_pooling_position="x"), "cannot be used: KeyError: 'x'"),
        ("config.json", change_config(hidden_act="x"), "asks for weights that cannot exist: KeyError: 'x'"),
        ("config.json", change_config(vocab_size="many"), "cannot be used: TypeError"),
        ("config.json", change_config(add_faster_video=True), "cannot be used: KeyError: 'faster_token_stride'"),
        ("config.json", change_config(torch_dtype="float99"), ""),
    ],
)
def test_damaged_settings_of_an_original_are_one_clear_error(tmp_path, file, damage, message):
    """They ended in RecursionError, TypeError, AttributeError, KeyError and others."""
    source = copy_of(SHARDED, tmp_path)
    damage(source / file)
    attempts = [
        lambda: plan_conversion(str(source), vision_tower=SHARDED.vision_tower),
        lambda: LlavaNextVideoForConditionalGeneration.from_pretrained(source, vision_tower=SHARDED.vision_tower),
    ]
    if "weights" not in message:  # a processor has none
        attempts.append(lambda: LlavaNextVideoProcessor.from_pretrained(source, vision_tower=SHARDED.vision_tower))
    for attempt in attempts:
        expected = pytest.raises((ValueError, OSError), match=message) if message else contextlib.suppress(ValueError)
        with expected:
            attempt()


@pytest.mark.parametrize("tower", [None, ["a"], 7, {}, "a\0b", "a" * 5000, "a/" * 2500, "\ud800"])
def test_tower_that_cannot_be_a_name_is_one_clear_error(tmp_path, tower):
    source = copy_of(SHARDED, tmp_path)
    change_config(mm_vision_tower=tower)(source / "config.json")
    with pytest.raises(CheckpointError, match="neither a Hub id nor a folder inside the checkpoint") as caught:
        plan_conversion(str(source))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name", ["config.json", "processor_config.json", "generation_config.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("text", [DEEP, "[]", "{", '{"a": 1', "7", "null"])
def test_damaged_settings_of_ours_are_one_clear_error(tmp_path, name, text):
    source = Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "source"))
    (source / name).write_text(text)
    for attempt in (
        lambda: export_for_hub(source, tmp_path / "made"),
        lambda: plan_conversion_to_original(str(source), vision_tower="a/b"),
        lambda: LlavaNextVideoForConditionalGeneration.from_pretrained(source),
        lambda: LlavaNextVideoProcessor.from_pretrained(source),
    ):
        with pytest.raises(ValueError, match=f"{name} is damaged: .*Download it again"):
            attempt()


OUR_CLASSES = (LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor)


@pytest.mark.parametrize(
    "name", ["config.json", "processor_config.json", "generation_config.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("text", [DEEP, "[]", "null"])
def test_damaged_settings_from_the_hub_and_in_a_subfolder_are_one_clear_error(tmp_path, name, text):
    """Only the settings of a folder were looked at; these ended in RecursionError, TypeError and AttributeError."""
    snapshot = cache_of_the_hub(Path(DEMO_CHECKPOINT), tmp_path)
    (snapshot / name).write_text(text)
    folder = shutil.copytree(snapshot, tmp_path / "folder" / "inner").parent
    for loaded in OUR_CLASSES:
        with pytest.raises(CheckpointError, match=f"{name} is damaged: .*Download it again"):
            loaded.from_pretrained("a/b", cache_dir=tmp_path, local_files_only=True)
        with pytest.raises(CheckpointError, match=f"{name} is damaged: .*Download it again"):
            loaded.from_pretrained(folder, subfolder="inner")


def test_checkpoint_in_the_cache_of_the_hub_loads(tmp_path):
    snapshot = cache_of_the_hub(Path(DEMO_CHECKPOINT), tmp_path)
    for loaded in OUR_CLASSES:
        loaded.from_pretrained("a/b", cache_dir=tmp_path, local_files_only=True)
    (snapshot / "inner").mkdir()
    for file in [file for file in snapshot.iterdir() if file.is_file()]:
        (snapshot / "inner" / file.name).symlink_to(os.path.realpath(file))
        file.unlink()
    for loaded in OUR_CLASSES:
        loaded.from_pretrained("a/b", cache_dir=tmp_path, local_files_only=True, subfolder="inner")


@pytest.mark.parametrize("contents", [DEEP.encode(), b"null", b"[]", b"{}", bytes(range(256)) * 4])
def test_damaged_tokenizer_of_ours_is_one_clear_error(tmp_path, contents):
    """They ended in RecursionError, AttributeError, TypeError, KeyError and the tokenizers library's `Exception`."""
    source = Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "source"))
    (source / "tokenizer.json").write_bytes(contents)
    for load in (LlavaNextVideoProcessor.from_pretrained, AutoProcessor.from_pretrained):
        with pytest.raises(ValueError, match=r"The settings of .* cannot be used: "):
            load(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": 5}, "The settings of .* cannot be used: AttributeError"),
        ({"attn_implementation": 5}, "config.attn_implementation is 5, which no model can use"),
        ({"base_model_tp_plan": 5}, "config.base_model_tp_plan is 5, which no model can use"),
        ({"dtype": 1e308}, "config.dtype is 1e\\+308, which no model can use"),
        ({"dtype": "nn"}, "config.dtype is module, which no model can use"),
        ({"dtype": "x" * 10**6}, "configuration cannot be made: AttributeError: module 'torch' has no attribute 'xx"),
        ({"spatial_pool_mode": "x" * 10**6}, "The settings of .* cannot be used: StrictDataclass.*'spatial_pool_mode'"),
        ({"image_aspect_ratio": "x" * 10**6}, "The settings of .* cannot be used: StrictDataclass.*image_aspect_ratio"),
    ],
)
def test_setting_of_ours_that_transformers_does_not_look_at_is_one_clear_error(tmp_path, changes, message):
    """They ended in AttributeError, IndexError and TypeError, or in a message of a megabyte."""
    source = Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "source"))
    change_config(**changes)(source / "config.json")
    for load in (LlavaNextVideoForConditionalGeneration.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match=message) as caught:
            load(source)
        assert len(str(caught.value)) < 2000


def test_labels_that_take_all_memory_are_refused_by_the_processor_too(tmp_path, little_memory):
    """AutoTokenizer went on after the configuration was refused, and made a billion names."""
    source = Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "source"))
    change_config(num_labels=10**9)(source / "config.json")
    with pytest.raises(ValueError, match=r"config.num_labels is 1000000000; it has to be a whole number"):
        LlavaNextVideoProcessor.from_pretrained(source)


@pytest.mark.parametrize("written", [[[336, 336]] * 10**6, "(" * 10**6, [[336, "a"]] * 1001])
def test_too_many_pinpoints_are_not_walked(written):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"image_grid_pinpoints = .*neither a list of \[width, height\]") as caught:
        grid_pinpoints({"image_grid_pinpoints": written}, 336)
    assert time.monotonic() - start < 0.1
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["{}", "[]", DEEP, '{"weight_map": 7}', '{"weight_map": {"a": []}}', "{"])
def test_index_of_our_format_that_is_none_is_one_clear_error(tmp_path, text):
    LlavaNextVideoConfig.from_pretrained(DEMO_CHECKPOINT).save_pretrained(tmp_path)
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(
        CheckpointError, match=r"(does not say which file holds which weight|is damaged: .*)\. Download it again"
    ):
        LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("changes", [{"vocab_size": "many"}, {"mm_vision_tower": 7}, {}, {"vocab_size": None}])
def test_damaged_settings_that_were_kept_of_the_original(tmp_path, changes):
    source = Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "source"))
    (source / "original").mkdir()
    (source / "original" / "config.json").write_text(json.dumps(changes))
    with pytest.raises(CheckpointError, match=r"cannot be used|is none of"):
        plan_conversion_to_original(str(source))


def test_evil_chat_template_runs_no_code(tmp_path):
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    processor.chat_template = "{{ cycler.__init__.__globals__.os.mkdir('%s') }}" % (tmp_path / "template-was-here")
    processor.save_pretrained(tmp_path / "evil")
    evil = AutoProcessor.from_pretrained(tmp_path / "evil")
    with pytest.raises(ValueError, match=r"cannot write this chat: access to attribute '__init__' .* is unsafe"):
        evil.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": "What?"}]}])
    assert not (tmp_path / "template-was-here").exists()


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


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


RUNS_CODE = {"lm_head.weight": Calls(os.mkdir, "pickle-was-here")}


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (
            lambda file: torch.save(RUNS_CODE, file),
            "holds more than tensors and was not opened, because it could run code of its own: it names posix mkdir",
        ),
        (lambda file: torch.save(RUNS_CODE, file, pickle_protocol=4), "it names STACK_GLOBAL"),
        (
            lambda file: file.write_bytes(pickle.dumps(RUNS_CODE)),
            "before PyTorch 1.6 (2020), which is not read: File is not a zip file",
        ),
    ],
)
def test_pickle_that_runs_code_is_refused(tmp_path, capsys, monkeypatch, save, message):
    source = copy_of(PICKLED, tmp_path)
    save(source / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path / "source")
    assert message in fails(capsys, source, tmp_path / "made", PICKLED.vision_tower)
    assert not Path("pickle-was-here").exists()


def test_pickle_that_runs_code_is_refused_by_models_of_our_format(tmp_path, monkeypatch):
    LlavaNextVideoConfig.from_pretrained(DEMO_CHECKPOINT).save_pretrained(tmp_path)
    torch.save(RUNS_CODE, tmp_path / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path)
    assert not Path("pickle-was-here").exists()


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/tmp/model.safetensors"])
def test_index_of_our_format_names_files_of_its_folder_only(tmp_path, name):
    LlavaNextVideoConfig.from_pretrained(DEMO_CHECKPOINT).save_pretrained(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ValueError, match="which is not in its folder, and was not opened"):
        LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path)
    (tmp_path / "inner").mkdir()
    (tmp_path / INDEX).rename(tmp_path / "inner" / INDEX)
    with pytest.raises(ValueError, match="which is not in its folder, and was not opened"):
        LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path, subfolder="inner")


def rewritten(file: Path, change=lambda data: data, compression: int = zipfile.ZIP_STORED):
    """Write a `.bin` file again, with a changed pickle or compressed."""
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def zip_bomb(file: Path):
    """0.1 MB that unpack to 100 MB."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as record:
        record.write(bytes(10**8))


def claim_more_than_there_is(file: Path):
    torch.save({"lm_head.weight": torch.ones(1000)}, file)
    rewritten(file, lambda data: data.replace(b"M\xe8\x03", b"J\xff\xff\xff\x3f"))  # 1000, 2**30 - 1


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: os.truncate(file, 1000), "pytorch_model.bin is not complete, or has the format of before"),
        (lambda file: torch.save([torch.ones(2)], file), "is not a dictionary of tensors"),
        (lambda file: torch.save({7: torch.ones(2)}, file), "is not a dictionary of tensors"),
        (lambda file: torch.save({"a": Calls(bytearray, 2**33)}, file), "was not opened, because it could run code"),
        (zip_bomb, "was not opened: it is compressed, or its list of tensors has more than 16777216 bytes"),
        (lambda file: rewritten(file, compression=zipfile.ZIP_DEFLATED), "was not opened: it is compressed, or"),
        (lambda file: torch.save({"a" * 2**25: torch.ones(1)}, file), "has more than 16777216 bytes"),
        (lambda file: rewritten(file, lambda data: data[:99]), "pytorch_model.bin is damaged or not complete"),
        (claim_more_than_there_is, "pytorch_model.bin is damaged or not complete"),
        (
            lambda file: torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, file),
            "'a' of shape [1000000, 1000000] takes 4000000000000 bytes, the file has",
        ),
        (Path.unlink, "holds no weights: it has none of ['model.safetensors', 'pytorch_model.bin'], and no index"),
    ],
)
def test_damaged_pickle_is_one_clear_error(tmp_path, capsys, little_memory, write, message):
    source = copy_of(PICKLED, tmp_path)
    write(source / "pytorch_model.bin")
    assert message in fails(capsys, source, tmp_path / "made", PICKLED.vision_tower)


def test_unreachable_source_is_one_clear_error(tmp_path, capsys, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("llava_next_video.hub.checkpoint_folders.snapshot_download", no_network)
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
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda path: usage)
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


@pytest.mark.slow
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
            # tqdm's is shared with the parent, who would wait forever for what a killed child holds.
            tqdm.set_lock(threading.RLock())
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
