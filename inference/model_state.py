"""Whether a model is still what it was: what a pipeline keeps belongs to the model that it was computed with."""

import sys
import weakref
from collections.abc import Iterator
from itertools import chain

import torch
from torch import nn
from torch.nn.modules import module as every_module


NUMBERS_LOOKED_AT = 64  # of each weight, evenly spread


class ModelState:
    """What the answers of a model depend on, at one moment: compare it with a later one.

    It notices other weights (in place, replaced, on another device or in another dtype), adapters that are added,
    switched, scaled or merged, hooks (those of all modules too), another `forward`, numbers and texts that are
    attributes of a module, changes of the configuration, dropout switched on and autocast. Of weights that are changed
    behind autograd's back (`weight.data.copy_(...)`), the only sign are the numbers themselves, of which it looks at
    `NUMBERS_LOOKED_AT` in each: a change of few numbers can escape it.

    Looking at a language model of 64 layers takes 15 ms.
    """

    def __init__(self, model: nn.Module):
        weights = [*model.parameters(), *model.buffers()]
        self.alive = [weakref.ref(weight) for weight in weights]  # ids mean nothing once their objects are gone
        self.seen = (
            [identity(weight) for weight in weights],
            list(sampled_numbers(weights)),
            [part for module in model.modules() for part in settings_of(module)],
            configuration_of(model),
            precision(model),
            (*every_module._global_forward_hooks, *every_module._global_forward_pre_hooks),
        )

    def __eq__(self, other) -> bool:
        return (
            isinstance(other, ModelState) and self.seen == other.seen and all(ref() is not None for ref in self.alive)
        )


def is_plain(weight: torch.Tensor) -> bool:
    """Whether its numbers lie in memory as they are: sharded and quantized weights are of classes of their own, and
    offloaded ones on the device "meta"."""
    return type(weight) in (torch.Tensor, nn.Parameter) and weight.device.type != "meta"


def identity(weight: torch.Tensor) -> tuple:
    version = None if weight.is_inference() else weight._version  # counts changes in place
    return id(weight), weight.data_ptr() if is_plain(weight) else None, version, weight.dtype, weight.device


def sampled_numbers(weights: list[torch.Tensor]) -> Iterator[bytes]:
    """Some numbers of every plain weight, together for each device and dtype."""
    samples = {}
    for weight in weights:
        if is_plain(weight) and weight.is_contiguous() and weight.numel():
            count = min(weight.numel(), NUMBERS_LOOKED_AT)
            sample = weight.detach().as_strided((count,), (weight.numel() // count,))
            samples.setdefault((weight.device, weight.dtype), []).append(sample)
    for parts in samples.values():
        yield torch.cat(parts).cpu().view(torch.uint8).numpy().tobytes()


def settings_of(module: nn.Module) -> tuple:
    """What changes the outputs of a module besides its weights."""
    hooks = (*module._forward_hooks, *module._forward_pre_hooks)
    peft = sys.modules.get("peft")
    is_adapter = peft is not None and type(module).__module__.startswith("peft.")
    own = vars(module)
    plain = [  # `generate` notes things under names that begin with "_"
        (name, value) for name, value in own.items() if type(value) in (bool, int, float, str) and name[0] != "_"
    ]
    return type(module), id(own.get("forward")), hooks, plain_values(own) if is_adapter else plain


def plain_values(value):
    """The numbers, texts and flags in nested dictionaries and lists, in an order that can be compared."""
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


def precision(model: nn.Module) -> tuple:
    device = next(chain(model.parameters(), model.buffers())).device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return autocast, torch.get_float32_matmul_precision()
