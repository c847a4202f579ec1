"""What a machine has to compute with, and whether a checkpoint fits: known before the checkpoint is loaded."""

from collections.abc import Iterator
from contextlib import suppress
from math import prod
from pathlib import Path

import psutil
import torch
from huggingface_hub import get_safetensors_metadata
from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError
from huggingface_hub.utils import HfHubHTTPError, HFValidationError, httpx

from llava_next_video.hub.destination import readable_size
from llava_next_video.hub.stored_tensors import DTYPES, stored_tensors
from llava_next_video.modeling.checkpoint_settings import CheckpointError


BYTES_QUANTIZED = {"4bit": 0.5, "8bit": 1.0}  # of a weight


def check_device(name: str):
    """Raise a ValueError unless torch can compute on the device here."""
    try:
        device = torch.device(name)
    except RuntimeError:  # a backend that another package adds
        raise ValueError(f"This torch, {torch.__version__}, knows no device {name!r}. {advice()}") from None
    if device.type == "cpu":
        return
    count = len(devices_here()) if accelerator_here() == device.type else 0
    if (device.index or 0) >= count:
        raise ValueError(
            f"The model was to run on {name}, but this machine has {count or 'no'} {device.type} device"
            f"{'s' if count > 1 else ''} that torch {torch.__version__} can use. {advice()}"
        )


def advice() -> str:
    here = devices_here()
    return f"Take {' or '.join([*here, 'cpu'])}, or leave --device out for {here[0] if here else 'cpu'}."


def accelerator_here() -> str | None:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else None


def devices_here() -> list[str]:
    """The accelerators of this machine, as in "cuda:0"."""
    kind = accelerator_here()
    return [f"{kind}:{index}" for index in range(torch.accelerator.device_count())] if kind else []


def device_of_model(device: str | None) -> str:
    """Where a model is put for which nothing, or this device, was said."""
    return device or next(iter(devices_here()), "cpu")


def warning_of_memory(model: str, places: list[str], dtype: str, quantize: str | None) -> str | None:
    """A sentence that a checkpoint's weights are larger than the free memory of these devices together; `None` if they
    are not, or it cannot be known.

    Args:
        model: folder or Hub id.
        places: devices, as in "cpu" and "cuda:1".
        dtype: "auto" (as stored) or the dtype that weights of floats get.
        quantize: "4bit" or "8bit" for the layers of the language model.
    """
    needed = sum(num_bytes_loaded(name, shape, stored, dtype, quantize) for name, shape, stored in weights_of(model))
    free = [free_bytes(place) for place in places]
    if None in free or needed <= sum(free):
        return None
    return (
        f"The weights of {model} take {readable_size(needed)}, and {' and '.join(places)} "
        f"{'has' if len(places) == 1 else 'have'} {readable_size(sum(free))} of memory free. If loading fails: "
        "--dtype bfloat16, --quantize 4bit, or --device-map auto."
    )


def weights_of(model: str) -> Iterator[tuple[str, tuple[int, ...], torch.dtype | str]]:
    """Name, shape and dtype of each weight of a checkpoint, from the headers of its safetensors files; of one on the
    Hub that is not here yet, too, before it is fetched. Nothing where they cannot be read: loading says why."""
    folder = Path(model)
    if folder.is_dir():
        if any(folder.glob("*.safetensors")):  # reading a `.bin` is loading it
            with suppress(CheckpointError, OSError):
                for name, tensor in stored_tensors(folder).items():
                    yield name, tensor.shape, tensor.dtype
        return
    unknown = (NotASafetensorsRepoError, SafetensorsParsingError, HFValidationError, HfHubHTTPError, httpx.HTTPError)
    with suppress(*unknown, OSError):
        for file in get_safetensors_metadata(model).files_metadata.values():
            for name, tensor in file.tensors.items():
                yield name, tuple(tensor.shape), DTYPES.get(tensor.dtype, tensor.dtype)


def num_bytes_loaded(
    name: str, shape: tuple[int, ...], stored: torch.dtype | str, dtype: str, quantize: str | None
) -> float:
    """How much memory a weight takes, once it is loaded."""
    if quantize and len(shape) == 2 and ".layers." in name and "vision" not in name:
        return prod(shape) * BYTES_QUANTIZED[quantize]
    if isinstance(stored, str):  # fp8 and the like
        return prod(shape)
    if dtype != "auto" and stored.is_floating_point:
        return prod(shape) * getattr(torch, dtype).itemsize
    return prod(shape) * stored.itemsize


def free_bytes(place: str) -> int | None:
    """Free memory of a device; `None` where torch does not tell."""
    device = torch.device(place)
    if device.type in ("cpu", "mps"):  # which have it in common
        return psutil.virtual_memory().available
    tell = getattr(torch.get_device_module(device), "mem_get_info", None)
    return tell(device)[0] if tell is not None else None
