"""Between the vision tower and the language model: the projector, and the pooler of video frames.

Shape letters: F frames, h x w grid of patches, h' x w' the pooled grid, D channels.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_llava_next_video import LlavaNextVideoConfig
from .visual_tokens import pool_grid


def features_width(config: LlavaNextVideoConfig) -> int:
    """D_vision: the channels of each hidden state in `vision_feature_layer`, joined."""
    layers = config.vision_feature_layer
    return config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))


class LlavaNextVideoMultiModalProjector(nn.Module):
    """Two linear layers from the tower's channels to the language model's, (..., D_vision) -> (..., D).

    When the model is divided among processes (`tp_plan`), each has a whole projector. It is a small part of the
    weights, and adding up the results of all processes would take about as long as dividing it saves (numbers:
    docs/guides/many_machines.md).
    """

    def __init__(self, config: LlavaNextVideoConfig):
        super().__init__()
        text_width, bias = config.text_config.hidden_size, config.multimodal_projector_bias
        self.linear_1 = nn.Linear(features_width(config), text_width, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(text_width, text_width, bias=bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(features)))  # (..., D)


class LlavaNextVideoPooler(nn.Module):
    """Pools the patches of video frames, (F, h, w, D) -> (F, h', w', D). Only `"conv"` has parameters."""

    def __init__(self, config: LlavaNextVideoConfig):
        super().__init__()
        self.mode, self.stride = config.spatial_pool_mode, config.spatial_pool_stride
        if self.mode == "conv":
            before_projector = config.spatial_pool_position == "before_projector"
            width = features_width(config) if before_projector else config.text_config.hidden_size
            self.pool = nn.Conv2d(width, width, kernel_size=self.stride, stride=self.stride)

    def forward(self, features: torch.Tensor, stride_factor: int = 1) -> torch.Tensor:
        """Pool with the stride of the config, or (slow-fast videos) with a multiple of it."""
        if self.mode == "conv":
            pooled = self.pool(features.movedim(-1, 1))  # (F, D, h', w')
            return pooled.movedim(1, -1)  # (F, h', w', D)
        return pool_grid(features, self.mode, self.stride * stride_factor)
