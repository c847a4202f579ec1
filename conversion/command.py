"""`python -m llava_next_video convert SRC DST`."""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from llava_next_video.conversion.back import BackPlan, plan_back
from llava_next_video.conversion.convert import DEFAULT_SHARD_BYTES, convert, convert_to_original
from llava_next_video.conversion.plan import Plan, plan_conversion
from llava_next_video.conversion.tokenizer import SAME_TEMPLATE, STOP_STRINGS
from llava_next_video.conversion.writing import split_into_shards
from llava_next_video.hub.destination import readable
from llava_next_video.hub.recipes import FACTS, RELEASED, Recipe, recipe_named
from llava_next_video.hub.upload import upload


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def add_arguments(parser: argparse.ArgumentParser):
    """Describe the command line of `convert`."""
    parser.add_argument("source", metavar="SRC", help="folder or Hub id of the checkpoint")
    parser.add_argument("destination", metavar="DST", type=Path, help="folder to make")
    parser.add_argument("--to-original", action="store_true", help="turn one of our checkpoints into an original one")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done: files, sizes, renamings")
    parser.add_argument("--dtype", choices=DTYPES, help="of the result (default: as stored)")
    parser.add_argument(
        "--max-shard-size", type=parse_size, default=DEFAULT_SHARD_BYTES, help="largest file of weights (default: 5GB)"
    )
    parser.add_argument("--vision-tower", help="folder or Hub id of the vision tower (default: the one named in SRC)")
    parser.add_argument("--push-to-hub", metavar="REPOSITORY", help="upload the result to this Hub repository")
    recipe = parser.add_argument_group(
        "recipe", "how the checkpoint is used; default: what is known of SRC's name, its config.json, the usual"
    )
    recipe.add_argument("--recipe", choices=RELEASED, help="a released checkpoint whose recipe is meant")
    recipe.add_argument("--chat-template", choices=sorted({*STOP_STRINGS, *SAME_TEMPLATE}))
    recipe.add_argument("--spatial-pool-mode", choices=["average", "max", "bilinear", "conv"])
    recipe.add_argument("--spatial-pool-stride", type=int)
    recipe.add_argument("--spatial-pool-position", choices=["before_projector", "after_projector"])
    recipe.add_argument("--video-newline-position", choices=["no_token", "one_token", "frame", "grid"])
    recipe.add_argument("--num-frames", type=int)
    recipe.add_argument("--frame-sampling", choices=["uniform", "uniform_repeated", "fps_capped", "legacy"])
    recipe.add_argument(
        "--time-instruction",
        action=argparse.BooleanOptionalAction,
        help="whether prompts say when the frames were taken",
    )
    recipe.add_argument(
        "--rope-factor", type=parse_factor, help="stretch of the positions, or 'auto': what frames need"
    )
    recipe.add_argument("--context-length", type=int, help="tokens the language model was trained on")


def run(args: argparse.Namespace):
    """Convert a checkpoint of the original LLaVA-NeXT code to this package's format, or back."""
    dtype = DTYPES.get(args.dtype)
    if args.to_original:
        if chosen_recipe(args) != Recipe():
            raise ValueError("--to-original takes no recipe: an original checkpoint has nowhere to keep one.")
        plan = plan_back(args.source, args.vision_tower, dtype)
    else:
        plan = plan_conversion(args.source, chosen_recipe(args), args.vision_tower, dtype)
    print(describe(plan, args.destination, args.max_shard_size, every_name=args.dry_run))
    if args.dry_run:
        return
    carry_out = convert_to_original if args.to_original else convert
    print(carry_out(plan, args.destination, args.max_shard_size, show=sys.stderr.isatty()))
    if args.push_to_hub:
        print(upload(args.destination, args.push_to_hub))


def chosen_recipe(args: argparse.Namespace) -> Recipe:
    """The facts that the command line gives."""
    recipe = recipe_named(args.recipe) if args.recipe else Recipe()
    given = {fact: getattr(args, fact) for fact in FACTS if getattr(args, fact) is not None}
    return replace(recipe, **given)


def describe(plan: Plan | BackPlan, destination: Path, max_shard_bytes: int, every_name: bool) -> str:
    """What a plan will do, as text."""
    shards = split_into_shards(plan.tensors, max_shard_bytes)
    lines = [f"{plan.source} -> {destination}: {len(plan.tensors)} tensors, {readable(plan.num_bytes)}"]
    if isinstance(plan, Plan):
        lines += [f"  {fact} = {getattr(plan.recipe, fact)!r}, from {origin}" for fact, origin in plan.origins.items()]
    for name, tensors in shards.items():
        lines.append(f"  {name}: {len(tensors)} tensors, {readable(sum(t.num_bytes for t in tensors))}")
        if every_name:
            lines += [f"    {t.source.name} -> {t.name} {list(t.shape)} {t.dtype}" for t in tensors]
    if every_name and isinstance(plan, Plan):
        lines += [f"  left out: {name} ({reason})" for name, reason in plan.dropped.items()]
    return "\n".join(lines)


def parse_size(text: str) -> int:
    """A number of bytes, with or without a unit.

    >>> parse_size("5GB"), parse_size("200 MiB")
    (5000000000, 209715200)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B|)", text.strip().upper())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write it like 5GB or 200MiB")
    return int(float(match[1]) * SIZES[match[2]])


def parse_factor(text: str) -> float | str:
    """A number of at least 1, or "auto"."""
    if text == "auto":
        return text
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if factor < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a factor; write 'auto' or a number of at least 1")
    return factor
