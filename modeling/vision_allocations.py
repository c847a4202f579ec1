"""How much memory the vision tower takes at a time. What is computed stays the same, to the last bit.

On a CPU new memory is slow when it is used for the first time: allocators return tensors of tens of megabytes to the
system when they are freed, and every layer asks for them again.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import QuickGELUActivation


# The largest tensor of a layer on a CPU: this size stays in the cache and in the allocator. It is one frame of
# CLIP-L/14-336 in float32, and two in bfloat16, whose products are slower with the rows of one.
CPU_BYTES = 10 * 2**20
# Rows of all frames in one call elsewhere: 14 frames of CLIP-L/14-336. More make matrix products no faster.
DEVICE_ROWS = 8192


def frames_at_once(config: PreTrainedConfig, weight: torch.Tensor) -> int:
    """How many frames or tiles go through a tower at once, where the configuration does not say.

    Args:
        config: of the tower.
        weight: one of the tower's, for its device and dtype. Offloaded weights, on the device "meta", are loaded for
            every call, which is then worth more frames.
    """
    rows = (config.image_size // config.patch_size) ** 2 + 1  # of one frame
    if weight.device.type != "cpu":
        return max(1, DEVICE_ROWS // rows)
    return max(1, CPU_BYTES // (rows * max(config.intermediate_size, config.hidden_size) * weight.dtype.itemsize))


class OneBufferQuickGELU(QuickGELUActivation):
    """`x * sigmoid(1.702 * x)`, to the same bits, with one new tensor in place of three."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)  # compilers need no help, and gradients need what would be overwritten
        return (1.702 * input).sigmoid_().mul_(input)


def use_one_buffer(tower: nn.Module):
    """Replace the activations of a new tower. They have no weights."""
    for layer in tower.encoder.layers:  # pyright: ignore[reportGeneralTypeIssues]
        if type(layer.mlp.activation_fn) is QuickGELUActivation:
            layer.mlp.activation_fn = OneBufferQuickGELU()
