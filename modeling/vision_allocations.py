"""How much memory the vision tower takes at a time: what is computed stays the same, to the last bit.

New memory is slow where a processor hands it out for the first time: allocators give tensors of some tens of megabytes
back to the system when they are freed, and every layer asks for them again.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import QuickGELUActivation


# On a CPU, for the largest tensor of a layer: it stays in the cache and with the allocator.
CPU_BYTES = 8 * 2**20
# Elsewhere, rows of all frames of a call: 14 frames of CLIP-L/14-336. Products of so many are as fast as they get.
DEVICE_ROWS = 8192


def frames_at_once(config: PreTrainedConfig, weight: torch.Tensor) -> int:
    """How many frames or tiles go through a tower at once, by rule.

    Args:
        config: of the tower.
        weight: one of the tower's, for its device and dtype. Weights that are not in memory, on the device "meta", are
            loaded for every call: then a call is worth more frames.
    """
    rows = (config.image_size // config.patch_size) ** 2 + 1  # of one frame
    if weight.device.type != "cpu":
        return max(1, DEVICE_ROWS // rows)
    return max(1, CPU_BYTES // (rows * max(config.intermediate_size, config.hidden_size) * weight.dtype.itemsize))


class OneBufferQuickGELU(QuickGELUActivation):
    """`x * sigmoid(1.702 * x)` with one new tensor in place of three; to the same bits."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)  # compilers need no help, and gradients need what would be overwritten
        return (1.702 * input).sigmoid_().mul_(input)


def use_one_buffer(tower: nn.Module):
    """Replace the activations of a new tower. They have no weights."""
    for layer in tower.encoder.layers:  # pyright: ignore[reportGeneralTypeIssues]
        if type(layer.mlp.activation_fn) is QuickGELUActivation:
            layer.mlp.activation_fn = OneBufferQuickGELU()
