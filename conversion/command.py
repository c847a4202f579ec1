"""`python -m llava_next_video convert SRC DST`."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from llava_next_video.conversion.convert import convert
from llava_next_video.conversion.plan import Plan, plan_conversion
from llava_next_video.conversion.planned_tensors import PlannedTensor
from llava_next_video.conversion.to_original import PlanToOriginal, plan_conversion_to_original
from llava_next_video.conversion.writing import split_into_shards
from llava_next_video.hub.destination import readable_size
from llava_next_video.hub.recipes import FACTS, Recipe, recipe_named
from llava_next_video.hub.upload import upload


def run(args: argparse.Namespace):
    """Convert a checkpoint of the original LLaVA-NeXT code to this package's format, or back."""
    dtype = getattr(torch, args.dtype) if args.dtype else None
    if args.to_original:
        if chosen_recipe(args) != Recipe():
            raise ValueError("--to-original takes no recipe: an original checkpoint has nowhere to keep one.")
        plan = plan_conversion_to_original(args.source, args.vision_tower, dtype)
    else:
        plan = plan_conversion(args.source, chosen_recipe(args), args.vision_tower, dtype)
    print(describe(plan, args.destination, args.max_shard_size, every_name=args.dry_run))
    if args.dry_run:
        return
    report = convert(plan, args.destination, args.max_shard_size, show=sys.stderr.isatty())
    print(report)
    if args.push_to_hub:
        print(upload(report.destination, args.push_to_hub))


def chosen_recipe(args: argparse.Namespace) -> Recipe:
    """The facts that the command line gives."""
    recipe = recipe_named(args.recipe) if args.recipe else Recipe()
    given = {fact: getattr(args, fact) for fact in FACTS if getattr(args, fact) is not None}
    return replace(recipe, **given)


def describe(plan: Plan | PlanToOriginal, destination: Path, max_shard_bytes: int, every_name: bool) -> str:
    """What a plan will do, as text."""
    shards = split_into_shards(plan.tensors, max_shard_bytes)
    lines = [f"{plan.source} -> {destination}: {size_of(plan.tensors)}"]
    if isinstance(plan, Plan):
        lines += [f"  {fact} = {getattr(plan.recipe, fact)!r}, from {origin}" for fact, origin in plan.origins.items()]
    for name, tensors in shards.items():
        lines.append(f"  {name}: {size_of(tensors)}")
        if every_name:
            lines += [f"    {t.source.name} -> {t.name} {list(t.shape)} {t.dtype}" for t in tensors]
    if every_name and isinstance(plan, Plan):
        lines += [f"  left out: {name} ({reason})" for name, reason in plan.dropped.items()]
    return "\n".join(lines)


def size_of(tensors: list[PlannedTensor]) -> str:
    return f"{len(tensors)} tensors, {readable_size(sum(tensor.num_bytes for tensor in tensors))}"
