"""Carrying out a conversion: original checkpoint to ours, or back.

Weights are streamed: whatever the size of the model, only tens of megabytes of it are in memory (for `.bin` files, also
what the operating system caches of the current one).
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from llava_next_video.conversion.plan import Plan
from llava_next_video.conversion.to_original import PlanToOriginal
from llava_next_video.conversion.tokenizer import TOKENIZER_FILES
from llava_next_video.conversion.writing import split_into_shards, verify, write_tensors
from llava_next_video.hub.checkpoint_folders import ORIGINAL_FOLDER, check_entries
from llava_next_video.hub.destination import appearing_at_once, check_destination, readable_size
from llava_next_video.hub.pickled_tensors import load_pickle


DEFAULT_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Report:
    """The result of a conversion."""

    destination: Path
    num_tensors: int
    num_bytes: int
    num_shards: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.destination}: {self.num_tensors} tensors, {readable_size(self.num_bytes)} in {self.num_shards} "
            f"file{'s' if self.num_shards > 1 else ''}, written and verified in {self.seconds:.0f} s"
        )


def convert(
    plan: Plan | PlanToOriginal, destination: str | Path, max_shard_bytes: int = DEFAULT_SHARD_BYTES, show: bool = False
) -> Report:
    """Write a planned conversion to a new folder.

    Args:
        plan: made by `plan_conversion` or `plan_conversion_to_original`.
        destination: a folder that does not exist yet, or is empty.
        max_shard_bytes: largest file of weights.
        show: whether to draw progress bars.

    Raises:
        WritingError: the destination exists, the disk is too small, or what was written does not read back the same.
        CheckpointError: a file of the source is damaged.
    """
    start = time.monotonic()
    num_bytes = sum(tensor.num_bytes for tensor in plan.tensors)
    destination = check_destination(destination, num_bytes)
    shards = split_into_shards(plan.tensors, max_shard_bytes)
    try:
        with appearing_at_once(destination) as folder:
            checksums = write_tensors(folder, shards, show)
            verify(folder, shards, checksums, show)
            if isinstance(plan, Plan):
                write_settings(plan, folder)
            else:
                write_original_settings(plan, folder)
    finally:
        load_pickle.cache_clear()
    return Report(destination, len(plan.tensors), num_bytes, len(shards), time.monotonic() - start)


def write_settings(plan: Plan, folder: Path):
    kept = folder / ORIGINAL_FOLDER
    kept.mkdir()
    copy_matching(plan.folder, kept, TOKENIZER_FILES)
    plan.processor.save_pretrained(folder)
    plan.generation_config.save_pretrained(folder)
    plan.config.save_pretrained(folder)


def write_original_settings(plan: PlanToOriginal, folder: Path):
    kept = plan.folder / ORIGINAL_FOLDER
    copy_matching(kept if kept.is_dir() else plan.folder, folder, TOKENIZER_FILES)
    (folder / "config.json").write_text(json.dumps(plan.config, indent=2, sort_keys=True))


def copy_matching(source: Path, destination: Path, patterns: list[str]):
    """Copy the files of a folder whose names match."""
    check_entries(source)
    for pattern in patterns:
        for file in filter(Path.is_file, source.glob(pattern)):
            shutil.copyfile(file, destination / file.name)
