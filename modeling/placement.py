"""Weights in several places: parts of a model on a disk (`device_map`), layers divided among processes (`tp_plan`),
weights of which every process has a piece (FSDP, ZeRO-3)."""

import torch
from torch import nn
from transformers import PreTrainedModel


LEARNED_VECTORS = ("image_newline", "faster_token")


def with_vectors_in_memory(device_map):
    """A `device_map` with learned vectors in memory that it had on the disk, by themselves.

    accelerate reads a part from the disk when the `forward` of its module begins, and a vector has none. They take a
    few kilobytes.
    """
    if not isinstance(device_map, dict):
        return device_map
    on_disk = {name for name, device in device_map.items() if device == "disk"}
    return device_map | {name: "cpu" for name in on_disk if name.rpartition(".")[2] in LEARNED_VECTORS}


def check_heads(model: PreTrainedModel):
    """Raise a ValueError when the attention heads cannot be divided evenly among the processes. Loading would succeed,
    and the first question would fail with an error about a tensor's shape."""
    processes = model.tp_size or 1
    for part, config in (("language_model", model.config.text_config), ("vision_tower", model.config.vision_config)):
        divided = any(f"{part}." in rule and rule.endswith("k_proj") for rule in model.tp_plan)
        groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        if divided and isinstance(groups, int) and groups % processes:
            raise ValueError(
                f"The model was to be divided among {processes} processes, but its {part} has {groups} key-value "
                f"heads, which do not divide evenly. Start a number of processes that divides {groups} "
                "(`torchrun --nproc-per-node`), or load the model into one process with device_map='auto'."
            )


def gathers_weights(*modules: nn.Module) -> bool:
    """Whether calling one of these, or a part of it, gathers weights from other processes, which then have to call it
    just as often: FSDP (1 or 2) or ZeRO-3 of DeepSpeed."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(
        isinstance(part, (FSDPModule, FullyShardedDataParallel)) for module in modules for part in module.modules()
    ) or any(hasattr(weight, "ds_id") for module in modules for weight in module.parameters())
