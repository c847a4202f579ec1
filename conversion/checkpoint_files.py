"""Reading checkpoints: which tensors a folder holds, and their values a piece at a time.

Safetensors files are read without mapping them into memory, so that what is resident does not grow with the file.
Pickled files (`.bin`) are read with `weights_only=True`: they hold tensors or are refused.

Source of the format: https://huggingface.co/docs/safetensors
"""

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import snapshot_download


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Formats, the better one first, and the file that a checkpoint in one piece has.
WHOLE_FILES = {"*.safetensors": "model.safetensors", "*.bin": "pytorch_model.bin"}
PIECE_BYTES = 32 * 2**20


class CheckpointError(ValueError):
    """A checkpoint's files cannot be read, or are not complete."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its name there, and for safetensors the position of its first byte (-1 in a `.bin`)."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    position: int

    @property
    def num_elements(self) -> int:
        return torch.Size(self.shape).numel()

    def pieces(self) -> Iterator[torch.Tensor]:
        """The values in order, in flat pieces of whole rows."""
        row = self.num_elements // self.shape[0] if self.shape and self.shape[0] else 1
        step = max(PIECE_BYTES // self.dtype.itemsize // max(row, 1), 1) * max(row, 1)
        if self.position < 0:
            yield from load_pickle(self.file)[self.name].detach().contiguous().view(-1).split(step)
            return
        with open(self.file, "rb") as file:
            file.seek(self.position)
            for start in range(0, self.num_elements, step):
                data = bytearray(min(step, self.num_elements - start) * self.dtype.itemsize)
                if file.readinto(data) != len(data):
                    raise CheckpointError(f"{self.file} ends in the middle of the tensor {self.name!r}.")
                yield torch.frombuffer(data, dtype=self.dtype)


def local_folder(source: str | Path, patterns: list[str], **download) -> Path:
    """A folder, or the local copy of a Hub repository with its files that match `patterns`.

    Args:
        download: `revision`, `cache_dir`, `token` and the like, as for `huggingface_hub.snapshot_download`.

    Raises:
        FileNotFoundError: it is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns, **download))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"{str(source)!r} is not a folder, and could not be fetched from the Hugging Face Hub: {reason}"
        ) from error


def folder_with_weights(source: str | Path, **download) -> Path:
    """As `local_folder`, for the files of weights; of a repository with both formats only safetensors are fetched."""
    for pattern in WHOLE_FILES:
        folder = local_folder(source, [pattern, f"{pattern}.index.json"], **download)
        if any(folder.glob(pattern)):
            break
    return folder


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint, in the order of its files and of their contents.

    Raises:
        CheckpointError: there are no weights, a file is missing or damaged, or index and files disagree.
    """
    for pattern, whole_file in WHOLE_FILES.items():
        for index in sorted(folder.glob(f"{pattern}.index.json")):
            return indexed_tensors(folder, index)
        if (folder / whole_file).is_file():
            return list_tensors(folder / whole_file)
    raise CheckpointError(
        f"{folder} holds no weights: it has none of {[*WHOLE_FILES.values()]}, and no index of several files."
    )


def indexed_tensors(folder: Path, index: Path) -> dict[str, StoredTensor]:
    """Every tensor that an index names, from the files that it names."""
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{index} is not an index of weights: {error!r}. Download it again.") from error
    tensors = {}
    for name in sorted(set(weight_map.values())):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{index.name} names the file {name}, which is not in {folder}. Download the checkpoint again."
            )
        tensors |= list_tensors(folder / name)
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise CheckpointError(
            f"{index.name} names {len(missing)} tensors that its files do not hold, the first is {missing[0]!r}. "
            "Download the checkpoint again."
        )
    return tensors


def list_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, without their values, in the order in which they lie there."""
    if file.suffix == ".safetensors":
        return list_safetensors(file)
    return {
        name: StoredTensor(name, file, value.dtype, tuple(value.shape), -1) for name, value in load_pickle(file).items()
    }


def list_safetensors(file: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file and compare it with the file's size."""
    size = file.stat().st_size
    try:
        with open(file, "rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            if size < 8 or header_bytes > size - 8:
                raise ValueError(f"the header says it has {header_bytes} bytes, the file has {size}")
            header = json.loads(stream.read(header_bytes))
        header.pop("__metadata__", None)
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        tensors = {
            name: StoredTensor(
                name, file, DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + header_bytes + entry["data_offsets"][0]
            )
            for name, entry in entries
        }
        end = 8 + header_bytes + max((entry["data_offsets"][1] for _, entry in entries), default=0)
        if end != size:
            raise ValueError(f"its tensors take {end} bytes, the file has {size}")
        for name, entry in entries:
            start, stop = entry["data_offsets"]
            if stop - start != tensors[name].num_elements * tensors[name].dtype.itemsize:
                raise ValueError(f"{name!r} of shape {entry['shape']} does not take {stop - start} bytes")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged or not complete: {error}. Download it again.") from error
    return tensors


@lru_cache(maxsize=1)
def load_pickle(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.bin` file, mapped from it; only the file asked for last is kept."""
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip(file))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than tensors and was not opened, because it could run code of its own: "
            f"{str(error).splitlines()[0]} Ask its author for safetensors files."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{file} is damaged or not complete: {reason}. Download it again.") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise CheckpointError(f"{file} is not a dictionary of tensors, which a checkpoint has to be.")
    return tensors


def is_zip(file: Path) -> bool:
    """Whether a `.bin` file has PyTorch's present format, which can be mapped."""
    with open(file, "rb") as stream:
        return stream.read(4) == b"PK\x03\x04"
