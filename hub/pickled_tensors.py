"""Tensors in pickled files (`.bin`). Files that hold anything else are refused.

A pickle can call any function when it is read. So before `torch.load` reads one (with `weights_only=True`), every name
in it is compared with the few that a dictionary of tensors needs.
"""

import pickle
import pickletools
import re
import zipfile
from functools import lru_cache
from pathlib import Path

import torch

from llava_next_video.modeling.checkpoint_settings import MAX_INDEX_BYTES, CheckpointError
from llava_next_video.modeling.error_texts import first_line


# The names in the pickle of a dictionary of tensors. `torch.load` allows more with `weights_only=True`, and some of
# those, such as `bytearray`, can take any amount of memory.
NAMES_IN_PICKLES = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)


@lru_cache(maxsize=1)
def load_pickle(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.bin` file, mapped from it; only the last file is kept.

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
        raise CheckpointError(f"{file} is damaged or not complete: {first_line(error)}. Download it again.") from error
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
        zipfile.BadZipFile: it is not an archive, or not a whole one.
    """
    with zipfile.ZipFile(file) as archive:
        pickles = [record for record in archive.infolist() if record.filename.lower().endswith("data.pkl")]
        packed = any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist())
        if packed or any(record.file_size > MAX_INDEX_BYTES for record in pickles):
            raise CheckpointError(
                f"{file} was not opened: it is compressed, or its list of tensors has more than {MAX_INDEX_BYTES} "
                "bytes, neither of which PyTorch writes for a checkpoint. Ask its author for safetensors files."
            )
        operations = [operation for record in pickles for operation in pickletools.genops(archive.read(record))]
    named = [argument or opcode.name for opcode, argument, _ in operations if "GLOBAL" in opcode.name]
    if strangers := sorted({name for name in named if not NAMES_IN_PICKLES.fullmatch(name)}):
        raise CheckpointError(
            f"{file} holds more than tensors and was not opened, because it could run code of its own: it names "
            f"{', '.join(strangers[:3])}. Ask its author for safetensors files."
        )
