"""Reading checkpoints: which tensors a folder holds, and their values a piece at a time.

Safetensors files are read without mapping them into memory, so that what is resident does not grow with the file.
Pickled files (`.bin`) hold tensors or are refused: before `torch.load` reads one (with `weights_only=True`), every name
in its pickle is compared with the few that a dictionary of tensors needs.

Files come from strangers: nothing that they claim is believed before it is compared with the file's own size, so that
no memory is taken for what is not there. A folder that holds links to files outside of it is refused, except for the
Hub's cache, which consists of links to its own `blobs`; an index names files of its own folder only.

Source of the format: https://huggingface.co/docs/safetensors
"""

import json
import math
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from llava_next_video.modeling.checkpoint_settings import (
    CheckpointError,
    UntrustedCheckpoint,
    no_name_twice,
    quoted,
    read_json,
    read_weight_map,
)


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
# Sides and numbers of them that no weight has: multiplying thousands of numbers takes for ever.
MAX_DIMENSIONS, MAX_SIDE, MAX_TENSORS = 8, 2**48, 2**18
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Formats, the better one first, and the file that a checkpoint in one piece has.
WHOLE_FILES = {"*.safetensors": "model.safetensors", "*.bin": "pytorch_model.bin"}
PIECE_BYTES = 32 * 2**20
# Largest list of names, dtypes and shapes of a file; a real one has 1 MB where a file holds ten thousand tensors.
MAX_HEADER_BYTES = 16 * 2**20
# What the pickle of a dictionary of tensors names. `torch.load` lets more names through with `weights_only=True`; some
# take any amount of memory, as `bytearray` does.
NAMES_IN_PICKLES = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)


# Files of settings that Python reads; `tokenizer.json` and vocabularies are not among them.
SETTINGS_FILES = (
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)

FOLDERS = ("original", "additional_chat_templates")  # in a checkpoint's folder, whose files are read too


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its name there, and for safetensors the position of its first byte (-1 in a `.bin`).

    A `dtype` that is text is one that cannot be converted, such as "F8_E4M3".
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
                    raise CheckpointError(f"{self.file} ends in the middle of the tensor {self.name!r}.")
                yield torch.frombuffer(data, dtype=self.dtype)


def local_folder(source: str | Path, patterns: Sequence[str], subfolder: str = "", **download) -> Path:
    """A folder, or the local copy of a Hub repository with its files that match `patterns`; its files are checked.

    Args:
        subfolder: where in the folder or repository the checkpoint lies.
        download: `revision`, `cache_dir`, `token` and the like, as for `huggingface_hub.snapshot_download`.

    Raises:
        FileNotFoundError: it is neither.
        CheckpointError: its settings are damaged.
        UntrustedCheckpoint: it holds links to files outside of it.
    """
    folder = Path(source)
    if not folder.is_dir():
        patterns = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns]
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=patterns, **download))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(
                f"{str(source)!r} is not a folder, and could not be fetched from the Hugging Face Hub: {reason}"
            ) from error
    check_entries(folder / subfolder)
    return folder / subfolder


def check_entries(folder: Path):
    """Check that what lies in a checkpoint's folder is its own, and that its settings are JSON.

    Raises:
        UntrustedCheckpoint: something is a link to outside the folder, or neither file nor folder (a pipe, a device).
        CheckpointError: settings are damaged.
    """
    own = Path(os.path.realpath(folder))
    # A snapshot in the Hub's cache: REPOSITORY/snapshots/REVISION/FILE is a link to REPOSITORY/blobs/HASH.
    homes = [own, *(place.with_name("blobs") for place in own.parents if place.name == "snapshots")]
    inner = [folder / name for name in FOLDERS if (folder / name).is_dir()]
    for path in (entry for place in (folder, *inner) if place.is_dir() for entry in place.iterdir()):
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(home) for home in homes):
            raise UntrustedCheckpoint(
                f"{path} is a link to {target}, outside the checkpoint's folder, and was not opened. Copy the file "
                "there if you trust it, or delete the link."
            )
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise UntrustedCheckpoint(f"{path} is neither a file nor a folder, and was not opened. Delete it.")
    for name in SETTINGS_FILES:
        if (folder / name).is_file():
            read_json(folder / name)


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
    """As `stored_tensors`, where the values are needed.

    Raises:
        CheckpointError: also if a tensor has a dtype that cannot be converted, as weights that were quantised have.
    """
    tensors = stored_tensors(folder)
    for tensor in tensors.values():
        if isinstance(tensor.dtype, str):
            raise CheckpointError(
                f"{tensor.name!r} is stored as {tensor.dtype} in {tensor.file}, which cannot be converted; what can be "
                f"is {', '.join(DTYPES)}. Take the checkpoint from before it was quantised, or save it as bfloat16."
            )
    return tensors


def indexed_tensors(folder: Path, index: Path) -> dict[str, StoredTensor]:
    """Every tensor that an index names, from the files that it names, which have to lie in the folder itself."""
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
    """Read the header of a safetensors file and compare it with the file's size.

    Raises:
        CheckpointError: tensors overlap, leave gaps or do not fill the file, or their shapes are not those of their
            bytes.
    """
    size = file.stat().st_size
    try:
        with open(file, "rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            if size < 8 or header_bytes > size - 8:
                raise ValueError(f"the header says it has {header_bytes} bytes, the file has {size}")
            if header_bytes > MAX_HEADER_BYTES:
                raise ValueError(f"its header has {header_bytes} bytes, more than {MAX_HEADER_BYTES}")
            header = json.loads(stream.read(header_bytes), object_pairs_hook=no_name_twice)
        header.pop("__metadata__", None)
        if len(header) > MAX_TENSORS:
            raise ValueError(f"it names {len(header)} tensors, more than {MAX_TENSORS}")
        tensors, end = {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if type(start) is not int or start != end:
                raise ValueError(f"{name!r} begins at byte {start} behind a tensor that ends at byte {end}")
            check_shape(name, shape)
            tensors[name] = StoredTensor(name, file, DTYPES.get(dtype, dtype), tuple(shape), 8 + header_bytes + end)
            if type(stop) is not int or stop < start or num_bytes(tensors[name]) not in (None, stop - start):
                raise ValueError(f"{name!r} of shape {shape} does not take {stop - start} bytes")
            end = stop
        if 8 + header_bytes + end != size:
            raise ValueError(f"its tensors take {8 + header_bytes + end} bytes, the file has {size}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged or not complete: {error}. Download it again.") from error
    return tensors


def check_shape(name: str, shape: list[int]):
    """Raise a ValueError if no weight can have a shape."""
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{name!r} has {len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    if not all(type(side) is int and 0 <= side < MAX_SIDE for side in shape):
        raise ValueError(f"{name!r} has the impossible shape {shape}")


def num_bytes(tensor: StoredTensor) -> int | None:
    """How many bytes a tensor takes; None where nothing is known of its dtype."""
    return None if isinstance(tensor.dtype, str) else tensor.num_elements * tensor.dtype.itemsize


@lru_cache(maxsize=1)
def load_pickle(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.bin` file, mapped from it; only the file asked for last is kept.

    Raises:
        CheckpointError: the file is not what `torch.save` makes of a dictionary of tensors, or it is not complete.
    """
    try:
        check_archive(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{file} is not complete, or has the format of before PyTorch 1.6 (2020), which is not read: {error}. "
            "Download it again, or save it again with torch.save."
        ) from error
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise CheckpointError(f"{file} is damaged or not complete: {reason}. Download it again.") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise CheckpointError(f"{file} is not a dictionary of tensors, which a checkpoint has to be.")
    size = file.stat().st_size
    for name, tensor in tensors.items():
        if tensor.nbytes > size:  # the same bytes again and again, by strides of 0
            raise CheckpointError(
                f"{file} is damaged or not complete: {name!r} of shape {list(tensor.shape)} takes {tensor.nbytes} "
                f"bytes, the file has {size}. Download it again."
            )
    return tensors


def check_archive(file: Path):
    """Check that a `.bin` file is an archive without compression, whose pickle names nothing but parts of tensors.

    Raises:
        CheckpointError: it names something else, or is compressed, as `torch.save` never does.
        zipfile.BadZipFile: it is no archive, or not a whole one.
    """
    with zipfile.ZipFile(file) as archive:
        pickles = [record for record in archive.infolist() if record.filename.lower().endswith("data.pkl")]
        packed = any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist())
        if packed or any(record.file_size > MAX_HEADER_BYTES for record in pickles):
            raise CheckpointError(
                f"{file} was not opened: it is compressed, or its list of tensors has more than {MAX_HEADER_BYTES} "
                "bytes, neither of which PyTorch writes for a checkpoint. Ask its author for safetensors files."
            )
        operations = [operation for record in pickles for operation in pickletools.genops(archive.read(record))]
    named = [argument or opcode.name for opcode, argument, _ in operations if "GLOBAL" in opcode.name]
    if strangers := sorted({name for name in named if not NAMES_IN_PICKLES.fullmatch(name)}):
        raise CheckpointError(
            f"{file} holds more than tensors and was not opened, because it could run code of its own: it names "
            f"{', '.join(strangers[:3])}. Ask its author for safetensors files."
        )
