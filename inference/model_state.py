"""Has a model changed? What a pipeline remembers is valid only for the model that computed it."""

import sys
import weakref
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules import module as torch_module


NUMBERS_SAMPLED = 64  # of each weight, evenly spread


class ModelState:
    """Everything that a model's answers depend on, at one moment, to be compared with a later one.

    It notices changed weights (in place, replaced, on another device or in another dtype), adapters that are added,
    switched, scaled or merged, hooks (global ones too), another `forward`, changed numbers and texts among a module's
    attributes, a changed configuration, dropout switched on and autocast. A change that autograd does not see
    (`weight.data.copy_(...)`) shows in the numbers only, of which it compares `NUMBERS_SAMPLED` for each weight: it can
    miss a change of a few numbers.

    Takes some milliseconds, more for models with more layers.
    """

    def __init__(self, model: nn.Module):
        weights = [*model.parameters(), *model.buffers()]
        # The id of a deleted weight may be given to another.
        self.alive = [weakref.ref(weight) for weight in weights if not weight.is_meta]
        self.seen = (
            [identity(weight) for weight in weights],
            list(sampled_numbers(weights)),
            [part for module in model.modules() for part in settings_of(module)],
            configuration_of(model),
            precision(),
            (*torch_module._global_forward_hooks, *torch_module._global_forward_pre_hooks),
        )

    def __eq__(self, other) -> bool:
        return (
            isinstance(other, ModelState) and self.seen == other.seen and all(ref() is not None for ref in self.alive)
        )


def is_plain(weight: torch.Tensor) -> bool:
    """Whether its numbers can be read from memory: sharded and quantized weights are of other classes, and offloaded
    ones on the device "meta"."""
    return type(weight) in (torch.Tensor, nn.Parameter) and not weight.is_meta


def identity(weight: torch.Tensor) -> tuple:
    if weight.is_meta:  # offloaded: a new object after every use, whose values do not change
        return tuple(weight.shape), weight.dtype
    version = None if weight.is_inference() else weight._version  # counts changes in place
    return id(weight), weight.data_ptr() if is_plain(weight) else None, version, weight.dtype, weight.device


def sampled_numbers(weights: list[torch.Tensor]) -> Iterator[bytes]:
    """Some numbers of every plain weight, joined for each device and dtype."""
    samples = {}
    for weight in weights:
        if is_plain(weight) and weight.is_contiguous() and weight.numel():
            count = min(weight.numel(), NUMBERS_SAMPLED)
            sample = weight.detach().as_strided((count,), (weight.numel() // count,))  # (count,)
            samples.setdefault((weight.device, weight.dtype), []).append(sample)
    for parts in samples.values():
        yield torch.cat(parts).cpu().view(torch.uint8).numpy().tobytes()


def settings_of(module: nn.Module) -> tuple:
    """What the outputs of a module depend on besides its weights."""
    hooks = (*module._forward_hooks, *module._forward_pre_hooks)
    peft = sys.modules.get("peft")
    is_adapter = peft is not None and type(module).__module__.startswith("peft.")
    own = vars(module)
    plain = [  # not those that begin with "_", which `generate` changes
        (name, value) for name, value in own.items() if type(value) in (bool, int, float, str) and name[0] != "_"
    ]
    return type(module), id(own.get("forward")), hooks, plain_values(own) if is_adapter else plain


def plain_values(value):
    """The numbers, texts and flags in nested dictionaries and lists, as nested tuples."""
    if isinstance(value, dict):
        return tuple((name, plain_values(item)) for name, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(map(plain_values, value))
    return value if isinstance(value, bool | int | float | str) else None


def configuration_of(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    parts = (config, getattr(config, "text_config", None), getattr(config, "vision_config", None))
    attention = [getattr(part, "_attn_implementation", None) for part in parts]
    return f"{attention} {config.to_json_string(use_diff=False) if config is not None else ''}"


def precision() -> tuple:
    accelerator = torch.accelerator.current_accelerator()
    devices = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    autocast = [torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) for device in devices]
    return autocast, torch.get_float32_matmul_precision()
