"""The tensors in a checkpoint's files, and their values one piece at a time.

Safetensors files are read without mapping them, so that resident memory does not grow with the file. They come from
strangers: the sizes that they claim are compared with the file's own before any memory is taken. An index may name only
files in its own folder.

Source of the format: https://huggingface.co/docs/safetensors
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from llava_next_video.hub.checkpoint_folders import WHOLE_FILES
from llava_next_video.hub.pickled_tensors import load_pickle
from llava_next_video.modeling.checkpoint_settings import (
    MAX_INDEX_BYTES,
    CheckpointError,
    no_name_twice,
    read_weight_map,
)
from llava_next_video.modeling.error_texts import quoted, shortened


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
# More than any weights have. Multiplying the sides of a shape with very many dimensions would take too long.
MAX_DIMENSIONS, MAX_SIDE, MAX_TENSORS = 8, 2**48, 2**18
PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, with its name there, and the position of its first byte (-1 in a `.bin`).

    A `dtype` that torch or the conversion does not have is a text, such as "F8_E4M3".
    """

    name: str
    file: Path
    dtype: torch.dtype | str
    shape: tuple[int, ...]
    position: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

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
                    raise CheckpointError(f"{self.file} ends in the middle of the tensor {quoted(self.name)}.")
                yield torch.frombuffer(data, dtype=self.dtype)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint, in the order of its files and of their contents.

    Raises:
        CheckpointError: there are no weights, a file is missing or damaged, or index and files disagree.
    """
    for whole_file in WHOLE_FILES.values():
        if (folder / whole_file).is_file():  # before an index, as transformers does it
            return list_tensors(folder / whole_file)
        # Other indexes are those of variants, such as model.fp16.safetensors.index.json.
        if (folder / f"{whole_file}.index.json").is_file():
            return indexed_tensors(folder, folder / f"{whole_file}.index.json")
    raise CheckpointError(
        f"{folder} holds no weights: it has none of {[*WHOLE_FILES.values()]}, and no index of several files."
    )


def convertible_tensors(folder: Path) -> dict[str, StoredTensor]:
    """As `stored_tensors`, for reading values.

    Raises:
        CheckpointError: also if a tensor has a dtype that cannot be converted, as quantised weights have.
    """
    tensors = stored_tensors(folder)
    for tensor in tensors.values():
        if isinstance(tensor.dtype, str):
            raise CheckpointError(
                f"{quoted(tensor.name)} is stored as {shortened(tensor.dtype, 100)} in {tensor.file}, which cannot be "
                f"converted; the dtypes that can be are {', '.join(DTYPES)}. Take the checkpoint from before it was "
                "quantised, or save it as bfloat16."
            )
    return tensors


def indexed_tensors(folder: Path, index: Path) -> dict[str, StoredTensor]:
    """Every tensor in the files that an index names, which have to be in the folder itself."""
    weight_map = read_weight_map(index)
    files = {file.name: file for file in folder.iterdir() if file.is_file()}
    tensors = {}
    for name in sorted(set(weight_map.values())):
        if name not in files:
            raise CheckpointError(
                f"{index.name} names the file {quoted(name)}, which is not in {folder}. Download the checkpoint again."
            )
        tensors |= list_tensors(files[name])
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise CheckpointError(
            f"{index.name} names {len(missing)} tensors that its files do not hold, the first is {quoted(missing[0])}. "
            "Download the checkpoint again."
        )
    return tensors


def list_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, without their values, in the file's order."""
    if file.suffix == ".safetensors":
        return list_safetensors(file)
    return {
        name: StoredTensor(name, file, value.dtype, tuple(value.shape), -1) for name, value in load_pickle(file).items()
    }


def list_safetensors(file: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file and compare it with the file's size.

    Raises:
        CheckpointError: tensors overlap, leave gaps or do not fill the file, or their shapes are not those of their
            bytes.
    """
    size = file.stat().st_size
    try:
        header, values_start = read_header(file, size)
        tensors, end = {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if type(start) is not int or start != end:
                raise ValueError(f"{quoted(name)} begins at byte {start} after a tensor that ends at byte {end}")
            check_shape(name, shape)
            tensors[name] = StoredTensor(name, file, DTYPES.get(dtype, dtype), tuple(shape), values_start + end)
            if type(stop) is not int or stop < start or num_bytes(tensors[name]) not in (None, stop - start):
                raise ValueError(f"{quoted(name)} of shape {quoted(shape)} does not take {stop - start} bytes")
            end = stop
        if values_start + end != size:
            raise ValueError(f"its tensors take {values_start + end} bytes, the file has {size}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged or not complete: {error}. Download it again.") from error
    return tensors


def read_header(file: Path, size: int) -> tuple[dict, int]:
    """Dtype, shape and offsets of each tensor of a safetensors file of `size` bytes, and where their values begin.

    Raises:
        ValueError: the header is longer than the file or than any real one, not JSON, or names too many tensors.
    """
    with open(file, "rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_bytes > size - 8:
            raise ValueError(f"the header says it has {header_bytes} bytes, the file has {size}")
        if header_bytes > MAX_INDEX_BYTES:
            raise ValueError(f"its header has {header_bytes} bytes, more than {MAX_INDEX_BYTES}")
        header = json.loads(stream.read(header_bytes), object_pairs_hook=no_name_twice)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ValueError(f"it names {len(header)} tensors, more than {MAX_TENSORS}")
    return header, 8 + header_bytes


def check_shape(name: str, shape: list[int]):
    """Raise a ValueError if a shape is not possible for a weight."""
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{quoted(name)} has {len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    if not all(type(side) is int and 0 <= side < MAX_SIDE for side in shape):
        raise ValueError(f"{quoted(name)} has the impossible shape {quoted(shape)}")


def num_bytes(tensor: StoredTensor) -> int | None:
    """How many bytes a tensor takes; None where nothing is known of its dtype."""
    return None if isinstance(tensor.dtype, str) else tensor.num_elements * tensor.dtype.itemsize
