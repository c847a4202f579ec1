"""A check for garbage answers: does the model compute with NaN or infinity, and where do they first appear?"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel


@contextmanager
def check_finite(model: PreTrainedModel) -> Iterator[None]:
    """Raise an error at the first NaN or infinite number of a model: in its weights, its inputs or what it computes.

    The weights are checked when the block begins, and inside it every input of the model, the pixels and the output of
    every layer. This is slow and meant for debugging; outside such a block nothing is checked. Check a model before you
    compile it with `torch.compile`.

    Args:
        model: any of this package; that of a pipeline is `pipe.model`.

    Raises:
        FloatingPointError: names the weights, the input, or the first layer with a finite input and an output that is
            not.

    >>> from transformers import pipeline
    >>> import llava_next_video
    >>> pipe = pipeline("video-text-to-text", model=llava_next_video.DEMO_CHECKPOINT)
    >>> with llava_next_video.check_finite(pipe.model):
    ...     pipe("demo_model/samples/red_circle_moves_left.mp4", "What shape is in the video?")
    [{'input_text': 'What shape is in the video?', 'generated_text': 'It is a circle.'}]
    """
    check_weights(model)
    with ExitStack() as hooks:
        # `generate` and pipelines pass pixels to `get_video_features`, not to the model's `forward`.
        for module in (model, model.base_model.vision_tower.embeddings):
            hooks.callback(module.register_forward_pre_hook(check_inputs, with_kwargs=True).remove)
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(partial(check_output, name)).remove)
        yield


def check_weights(model: nn.Module):
    """Raise a FloatingPointError that names the weights and buffers with numbers that are not finite."""
    weights = [*model.named_parameters(), *model.named_buffers()]
    # Weights that accelerate has offloaded are on the device "meta".
    bad = [name for name, weight in weights if not weight.is_meta and not is_finite(weight)]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise FloatingPointError(
            f"{len(bad)} of the model's {len(weights)} weights are not finite (NaN, inf): {', '.join(bad[:3])}{more}. "
            "The checkpoint is damaged, or its numbers do not fit into the dtype: download it again, or load it with "
            "dtype=torch.float32."
        )


def check_inputs(module: nn.Module, args: tuple, kwargs: dict):
    """Raise a FloatingPointError that names the argument of a module's `forward` that is not finite."""
    arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    for name, value in {**arguments, **arguments.get("kwargs", {})}.items():
        if name == "attention_mask":  # may contain -inf, where it is added to scores
            continue
        if not all(map(is_finite, tensors_in(value))):
            raise FloatingPointError(
                f"{name}, an input of the {type(module).__name__}, is not finite (NaN, inf). The cause is not in the "
                "model: look at the pixel_values_videos, pixel_values or features that are passed, at the frames they "
                "are made from, and at image_std of the processor, by which pixels are divided."
            )


def check_output(name: str, module: nn.Module, args: tuple, output):
    """Raise a FloatingPointError that names a module if its output is not finite; `name` is its own in the model."""
    for tensor in tensors_in(output):
        if not is_finite(tensor):
            raise FloatingPointError(
                f"{name or 'The model'} ({type(module).__name__}) is the first layer whose output is not "
                f"finite (NaN, inf), in {tensor.dtype}; its input was. In torch.float16 the numbers were too "
                "large: load the model with dtype=torch.bfloat16 or torch.float32."
            )


def tensors_in(value) -> Iterator[torch.Tensor]:
    """The tensors in nested dictionaries (outputs of transformers among them), lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether every number of a tensor is finite. Only 8-bit floats, which torch cannot compare, are copied."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    values = tensor.detach()
    smallest, largest = torch.aminmax(values.float() if values.itemsize == 1 else values)  # NaN if there is one
    return bool(torch.isfinite(smallest) & torch.isfinite(largest))
