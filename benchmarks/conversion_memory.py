"""Memory and speed of a conversion: `python benchmarks/conversion_memory.py FOLDER [--gigabytes 6] [--pickled]`.

Makes a checkpoint of the original code with random weights in shards of 1 GB in FOLDER (kept for the next run),
converts it in a process of its own, and copies the same files with plain reads and writes for comparison. Prints the
largest resident memory of the converting process above that of an interpreter that has imported torch, and both times.
Linux only: the memory is what /proc says.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llava_next_video.conversion.convert import convert
from llava_next_video.conversion.plan import plan_conversion


GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "qwen_grid_avg"
HIDDEN, MLP, VOCABULARY, SHARD_BYTES = 2048, 8192, 64000, 10**9
BASELINE = "import torch; print(open('/proc/self/status').read())"


def layer_shapes(layer: int) -> dict[str, tuple[int, ...]]:
    """One Qwen2 layer of the checkpoint."""
    prefix = f"model.layers.{layer}."
    shapes = {f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {f"{prefix}self_attn.{name}_proj.bias": (HIDDEN,) for name in "qkv"}
    shapes |= {f"{prefix}mlp.{name}_proj.weight": (MLP, HIDDEN) for name in ("gate", "up")}
    shapes |= {f"{prefix}mlp.down_proj.weight": (HIDDEN, MLP)}
    return shapes | {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}


def make_checkpoint(folder: Path, num_bytes: int, pickled: bool):
    """Write a checkpoint of about that size, shard by shard: the tower of the recorded one, and a larger model."""
    folder.mkdir(parents=True)
    config = json.loads((GOLDEN / "checkpoint" / "config.json").read_text())
    bytes_per_layer = 2 * sum(torch.Size(shape).numel() for shape in layer_shapes(0).values())
    num_layers = (num_bytes - 4 * VOCABULARY * HIDDEN) // bytes_per_layer
    config |= {
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": num_layers,
        "torch_dtype": "bfloat16",
    }
    config |= {"vocab_size": VOCABULARY, "num_attention_heads": 16, "num_key_value_heads": 16}
    (folder / "config.json").write_text(json.dumps(config))
    for file in (GOLDEN / "checkpoint").iterdir():
        if file.name != "config.json" and not file.name.startswith("model"):
            shutil.copyfile(file, folder / file.name)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    for layer in range(num_layers):
        shapes |= layer_shapes(layer)
    width = config["mm_hidden_size"]
    shapes |= {"model.norm.weight": (HIDDEN,), "model.image_newline": (HIDDEN,)}
    shapes |= {"model.mm_projector.0.weight": (HIDDEN, width), "model.mm_projector.0.bias": (HIDDEN,)}
    shapes |= {"model.mm_projector.2.weight": (HIDDEN, HIDDEN), "model.mm_projector.2.bias": (HIDDEN,)}
    write_shards(folder, shapes, pickled)


def write_shards(folder: Path, shapes: dict[str, tuple[int, ...]], pickled: bool):
    """Random tensors of these shapes, and the recorded tower, in shards with an index."""
    weight_map, shard, number = {}, {}, 0
    for file in sorted((GOLDEN / "checkpoint").glob("*.safetensors")):
        shard |= {name: tensor for name, tensor in load_file(file).items() if ".vision_tower." in name}
    names = list(shapes)
    for name in names:
        shard[name] = torch.randn(shapes[name], dtype=torch.bfloat16)
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES * 0.95 or name == names[-1]:
            number += 1
            file = f"pytorch_model-{number:05d}.bin" if pickled else f"model-{number:05d}.safetensors"
            (torch.save if pickled else save_file)(shard, folder / file)
            weight_map |= dict.fromkeys(shard, file)
            shard = {}
    index = "pytorch_model.bin.index.json" if pickled else "model.safetensors.index.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def copy_files(source: Path, destination: Path) -> float:
    """Seconds that it takes to read and write the same bytes without doing anything with them."""
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir()
    start = time.monotonic()
    for file in source.iterdir():
        with open(file, "rb") as reader, open(destination / file.name, "wb") as writer:
            shutil.copyfileobj(reader, writer, 32 * 2**20)
    return time.monotonic() - start


def convert_once(source: Path, destination: Path):
    """In a process of its own: convert, and print the seconds and what the system says about the process."""
    report = convert(plan_conversion(str(source), vision_tower=str(GOLDEN / "vision_tower")), destination)
    print(report.seconds)
    print(Path("/proc/self/status").read_text())


def largest_resident(status: str) -> int:
    """Bytes, from the text of /proc/self/status."""
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def measure(folder: Path, gigabytes: float, pickled: bool):
    source, converted, copied = folder / f"source-{gigabytes}-{pickled}", folder / "converted", folder / "copied"
    if not source.exists():
        make_checkpoint(source, int(gigabytes * 10**9), pickled)
    num_bytes = sum(file.stat().st_size for file in source.iterdir())
    copy_seconds = copy_files(source, copied)
    shutil.rmtree(copied)
    shutil.rmtree(converted, ignore_errors=True)
    baseline = largest_resident(subprocess.check_output([sys.executable, "-c", BASELINE], text=True))
    arguments = [sys.executable, __file__, "--convert", str(source), str(converted)]
    output = subprocess.check_output(arguments, text=True)
    seconds, above = float(output.split()[0]), (largest_resident(output) - baseline) / 1e9
    shutil.rmtree(converted)
    print(f"{num_bytes / 1e9:.2f} GB in {'pickled' if pickled else 'safetensors'} shards of 1 GB")
    print(f"resident above an interpreter with torch: {above:.2f} GB (that one: {baseline / 1e9:.2f} GB)")
    print(f"converted and verified in {seconds:.1f} s, copied in {copy_seconds:.1f} s: ", end="")
    print(f"{seconds / copy_seconds:.2f} times as long as a copy")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--gigabytes", type=float, default=6)
    parser.add_argument("--pickled", action="store_true", help="in .bin files")
    parser.add_argument("--convert", type=Path, nargs=2, metavar=("SOURCE", "DESTINATION"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.convert:
        convert_once(*args.convert)
    else:
        measure(args.folder, args.gigabytes, args.pickled)
