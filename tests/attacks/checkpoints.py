"""Weights, indexes, headers and links of checkpoints from strangers."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from llava_next_video import (
    DEMO_CHECKPOINT,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    export_for_hub,
)
from llava_next_video.conversion.convert import convert
from llava_next_video.conversion.plan import plan_conversion
from llava_next_video.modeling.checkpoint_settings import CheckpointError, UntrustedCheckpoint
from tests.attacks import Attack
from tests.golden_data import Recording


ORIGINAL = Recording("qwen_grid_avg")
FIRST, INDEX = "model-00001-of-00004.safetensors", "model.safetensors.index.json"
DAMAGED = "is damaged or not complete"


def with_header(header: bytes, num_bytes: int = 8) -> Callable[[Path], None]:
    def write(file: Path):
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        os.truncate(file, 8 + len(header) + num_bytes)

    return write


def header(shape: list, stop: object = 8, dtype: object = "F32") -> bytes:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, stop]}}).encode()


def with_text(text: str) -> Callable[[Path], None]:
    return lambda file: file.write_text(text)


def with_names(name: str) -> Callable[[Path], None]:
    return with_text(json.dumps({"weight_map": {"a": name}}))


def with_pickle(contents: object) -> Callable[[Path], None]:
    return lambda file: torch.save(contents, file)


def bomb(file: Path):
    """A megabyte that unpacks to a gigabyte."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as record:
        for _ in range(2**10):
            record.write(bytes(2**20))


def pipe(file: Path):
    """Reading it waits for ever."""
    file.unlink()
    os.mkfifo(file)


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(folder: Path) -> list[Attack]:
    secret = folder / "secret"
    secret.write_text("password")
    (folder / "tower").mkdir()
    made = 0

    def source(of: Path | str, name: str, change: Callable[[Path], object]) -> Path:
        nonlocal made
        made += 1
        copy = Path(shutil.copytree(of, folder / f"source-{made}"))
        change(copy / name)
        return copy

    def converted(name: str, change: Callable[[Path], object]) -> Callable:
        def run():
            plan = plan_conversion(str(source(ORIGINAL.checkpoint, name, change)), vision_tower=ORIGINAL.vision_tower)
            convert(plan, folder / "converted")

        return run

    def pickled(change: Callable[[Path], object]) -> Callable:
        def without_others(file: Path):
            for other in file.parent.glob("*.safetensors*"):
                other.unlink()
            change(file)

        return converted("pytorch_model.bin", without_others)

    def opened(name: str, change: Callable[[Path], object], how: str) -> Callable:
        def run():
            copy = source(DEMO_CHECKPOINT, name, change)
            return {
                "export": lambda: export_for_hub(copy, folder / "exported"),
                "model": lambda: LlavaNextVideoForConditionalGeneration.from_pretrained(copy),
                "processor": lambda: LlavaNextVideoProcessor.from_pretrained(copy),
            }[how]()

        return run

    def link_to(target: Path) -> Callable[[Path], None]:
        def link(file: Path):
            file.unlink(missing_ok=True)
            file.symlink_to(target)

        return link

    deep = b"[" * 10**6
    bad_files = [
        ("a shape of 800,000 factors", FIRST, with_header(header([9] * 800_000)), f"{DAMAGED}: 'a' has 800000 dim"),
        ("factors of many digits", FIRST, with_header(header([10**4000] * 8)), "has the impossible shape"),
        ("a side of many digits", FIRST, with_header(b'{"a": {"shape": [' + b"9" * 10**6 + b"]}}"), DAMAGED),
        ("a header of nested lists", FIRST, with_header(deep), DAMAGED),
        ("nested lists in a shape", FIRST, with_header(header([]).replace(b"[]", deep)), DAMAGED),
        ("a header of lists to sort", FIRST, with_header(b'{"a": {"data_offsets": 7}, "b": []}'), DAMAGED),
        ("offsets that are fractions", FIRST, with_header(header([2], 8.0)), DAMAGED),
        ("an end before the beginning", FIRST, with_header(header([2], -8, "F8_E4M3")), DAMAGED),
        ("an end beyond the file", FIRST, with_header(header([2**40], 2**42)), DAMAGED),
        ("a dtype that is a list", FIRST, with_header(header([2], 8, ["F32"])), DAMAGED),
        ("a tensor named twice", FIRST, with_header(header([2])[:-1] + b"," + header([2])[1:]), "names 'a' twice"),
        (
            "names of which the last is there twice",
            FIRST,
            with_header(json.dumps(dict.fromkeys(map(str, range(150_000)), 1)).encode()[:-1] + b', "149999": 1}'),
            "names '149999' twice",
        ),
        ("a header of a gigabyte", FIRST, with_header(b"{}", 0), "."),
        ("an index of nested lists", INDEX, with_text("[" * 10**6), "is damaged: "),
        ("an index without a map", INDEX, with_text("{}"), "does not say which file holds which weight"),
        (
            "an index of a folder above",
            INDEX,
            with_names("../secret"),
            "which is not in its folder, and was not opened",
        ),
        (
            "an index of an absolute path",
            INDEX,
            with_names(str(secret)),
            "which is not in its folder, and was not opened",
        ),
        ("an index of a name with a zero", INDEX, with_names("a\0b"), "which is not in"),
        ("an index of 32 MB", INDEX, lambda file: os.truncate(file, 2**25), "more than 16777216"),
        ("weights that are a link", FIRST, link_to(secret), "outside the checkpoint's folder"),
        (
            "weights that are a pipe",
            FIRST,
            lambda file: (file.unlink(), os.mkfifo(file)),
            "neither a file nor a folder",
        ),
        ("weights that are a device", FIRST, link_to(Path("/dev/zero")), "outside the checkpoint's folder"),
        ("a tokenizer that is a link", "tokenizer.json", link_to(secret), "outside the checkpoint's folder"),
        ("a link called like a tokenizer", "tokenizer_x", link_to(secret), "outside the checkpoint's folder"),
        ("a link to nowhere", "tokenizer_x", link_to(folder / "nothing"), "outside the checkpoint's folder"),
    ]
    bad_pickles = [
        ("a pickle that runs code", with_pickle({"a": Calls(os.mkdir, str(folder / "ran"))}), "could run code"),
        ("a pickle that takes memory", with_pickle({"a": Calls(bytearray, 2**34)}), "could run code"),
        ("a pickle that unpacks to a gigabyte", bomb, "it is compressed"),
        ("a tensor of one number, many times", with_pickle({"a": torch.ones(1).expand(10**6, 10**6)}), "takes 4000000"),
        ("a pickle of zeros", lambda file: file.write_bytes(bytes(2**20)), "has the format of before"),
    ]
    links = ["config.json", "model.safetensors", "tokenizer.json", "more.txt"]
    return [
        *(
            Attack(name, converted(file, change), (CheckpointError, UntrustedCheckpoint), match)
            for name, file, change, match in bad_files
        ),
        *(Attack(name, pickled(change), CheckpointError, match) for name, change, match in bad_pickles),
        *(
            Attack(
                f"{file} that is a link, {how}", opened(file, link_to(secret), how), UntrustedCheckpoint, "outside the"
            )
            for file in links
            for how in ("export", "model", "processor")
        ),
        *(
            Attack(
                f"an index that is {text[:9]}, model",
                opened(INDEX, with_text(text), "model"),
                CheckpointError,
                "damaged: |does not say",
            )
            for text in ("{}", "[]", "7", '{"weight_map": {"a": {}}}', "[" * 10**6)
        ),
        Attack("nothing ran", (folder / "ran").rmdir, FileNotFoundError),
    ]
