"""Writing a checkpoint: tensors stream into safetensors shards in a hidden folder, which is read back and compared, and
only then gets its name. A run that is killed leaves that hidden folder, which cannot be loaded and which the next run
removes.
"""

import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from llava_next_video.conversion.checkpoint_files import DTYPE_NAMES, list_safetensors
from llava_next_video.conversion.planned_tensors import PlannedTensor


# Room on the disk for tokenizer and configurations.
OTHER_FILES_BYTES = 64 * 2**20


class WritingError(OSError):
    """A checkpoint could not be written, or does not read back as it was written."""


def split_into_shards(tensors: Sequence[PlannedTensor], max_shard_bytes: int) -> dict[str, list[PlannedTensor]]:
    """File names and their tensors, in order; no file is larger than asked unless one tensor is.

    Names are those of transformers: model.safetensors, or model-00001-of-00002.safetensors and so on.
    """
    shards, used = [[]], 0
    for tensor in tensors:
        if shards[-1] and used + tensor.num_bytes > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.num_bytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    count = len(shards)
    return {f"model-{number:05d}-of-{count:05d}.safetensors": shard for number, shard in enumerate(shards, start=1)}


def check_destination(destination: Path, num_bytes: int):
    """Raise a WritingError if something is in the way or the disk is too small."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise WritingError(f"{destination} exists already; name another destination, or delete it.")
    parent = next(folder for folder in (destination, *destination.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < num_bytes + OTHER_FILES_BYTES:
        raise WritingError(
            f"The result takes {readable(num_bytes)}, and {parent} has {readable(free)} free. "
            "Make room, or name a destination on another disk."
        )


def readable(num_bytes: int) -> str:
    """
    >>> readable(65_530_000_000), readable(740_000), readable(2_090)
    ('65.53 GB', '0.74 MB', '2.1 kB')
    """
    if num_bytes >= 10**8:
        return f"{num_bytes / 1e9:.2f} GB"
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes >= 10**5 else f"{num_bytes / 1e3:.1f} kB"


@contextmanager
def appearing_at_once(destination: Path) -> Iterator[Path]:
    """A folder to write into that becomes `destination` when the block ends, and is removed when it fails."""
    work = destination.with_name(f".{destination.name}.incomplete")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        if destination.exists():
            destination.rmdir()  # an empty folder, as `check_destination` has seen to
        work.rename(destination)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def write_tensors(folder: Path, shards: dict[str, list[PlannedTensor]], show: bool) -> dict[str, int]:
    """Stream tensors into their shards, and write the index.

    Args:
        show: whether to draw a progress bar of bytes, with the rate and the time left.

    Returns:
        A CRC-32 of each tensor's bytes.
    """
    checksums = {}
    num_bytes = sum(tensor.num_bytes for shard in shards.values() for tensor in shard)
    with tqdm(total=num_bytes, unit="B", unit_scale=True, desc="Writing", disable=not show) as bar:
        for name, shard in shards.items():
            with open(folder / name, "wb") as file:
                file.write(safetensors_header(shard))
                for tensor in shard:
                    checksums[tensor.name] = stream(tensor.pieces(), file.write, bar.update)
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
        index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return checksums


def safetensors_header(shard: list[PlannedTensor]) -> bytes:
    """The beginning of a safetensors file: length of the header, and names, dtypes, shapes and positions."""
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for tensor in shard:
        end = position + tensor.num_bytes
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def stream(pieces: Iterator[torch.Tensor], write: Callable[[memoryview], int], advance: Callable[[int], object]) -> int:
    """Write flat pieces as bytes and return their CRC-32."""
    checksum = 0
    for piece in pieces:
        data = memoryview(piece.view(torch.uint8).numpy())
        write(data)
        advance(len(data))
        checksum = zlib.crc32(data, checksum)
    return checksum


def verify(folder: Path, shards: dict[str, list[PlannedTensor]], checksums: dict[str, int], show: bool):
    """Read a written checkpoint back and compare it with the plan.

    Raises:
        WritingError: a tensor is missing, or has another dtype, shape or checksum.
    """
    num_bytes = sum(tensor.num_bytes for shard in shards.values() for tensor in shard)
    with tqdm(total=num_bytes, unit="B", unit_scale=True, desc="Verifying", disable=not show) as bar:
        for name, shard in shards.items():
            stored = list_safetensors(folder / name)
            for tensor in shard:
                found = stored.pop(tensor.name, None)
                read = found and (found.dtype, found.shape, stream(found.pieces(), len, bar.update))
                if read != (tensor.dtype, tensor.shape, checksums[tensor.name]):
                    raise WritingError(
                        f"{tensor.name!r} does not read back from {name} as it was written: {read} instead of "
                        f"{(tensor.dtype, tensor.shape, checksums[tensor.name])} (dtype, shape, CRC-32). The disk may "
                        "be failing; nothing was kept."
                    )
            if stored:
                raise WritingError(f"{name} holds tensors that were not planned: {sorted(stored)[:3]}.")
