"""Writing a checkpoint's weights: tensors stream into safetensors shards, which are read back and compared."""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from llava_next_video.conversion.planned_tensors import PlannedTensor
from llava_next_video.hub.destination import WritingError
from llava_next_video.hub.stored_tensors import DTYPE_NAMES, list_safetensors


def split_into_shards(tensors: Sequence[PlannedTensor], max_shard_bytes: int) -> dict[str, list[PlannedTensor]]:
    """File names and their tensors, in order; no file is larger than `max_shard_bytes` unless one tensor is.

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
    """The beginning of a safetensors file: length of the header, then names, dtypes, shapes and positions."""
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
