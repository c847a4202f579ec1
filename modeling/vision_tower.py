"""The vision towers of transformers, with a `forward` that stops at the last hidden state that is wanted.

Which state a model wants stands in its configuration (`vision_feature_layer`); most want the last but one. Weights,
their names and `config.json` are those of transformers' classes, whose names these have behind `LlavaNextVideo`.

Shape letters: F frames or tiles, P rows of the tower (with CLIP the class token, then the patches), D channels.
"""

from collections.abc import Sequence

import torch
from transformers import CLIPVisionModel, PreTrainedConfig, PreTrainedModel, SiglipVisionModel


class StopsEarly:
    """What is added to a vision model of transformers."""

    def forward(self, pixel_values: torch.Tensor, wanted_states: Sequence[int] | None = None, **kwargs):
        """Encode pixels, (F, 3, H, W).

        Args:
            wanted_states: which hidden states to return, counted as in `hidden_states` from 0, the embeddings. Layers
                behind the last of them are not run, and no other state is kept. None: transformers' own forward.

        Returns:
            A tuple of (F, P, D) tensors in the order of `wanted_states`, or (None) transformers' own output.
        """
        if wanted_states is None:
            return super().forward(pixel_values, **kwargs)
        states = self.embed(pixel_values)  # (F, P, D)
        kept = {0: states}
        for number, layer in enumerate(self.encoder.layers[: max(wanted_states)], start=1):
            states = layer(states, None)
            if number in wanted_states:
                kept[number] = states
        return tuple(kept[number] for number in wanted_states)

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Hidden state 0."""
        return self.embeddings(pixel_values)

    def freeze_what_never_runs(self, wanted_states: Sequence[int]):
        """Ask for no gradients of what `forward` with these states leaves out: it would never get one, for which
        `DistributedDataParallel` waits in vain."""
        for part in [self.post_layernorm, *self.encoder.layers[max(wanted_states) :]]:
            part.requires_grad_(False)


class LlavaNextVideoCLIPVisionModel(StopsEarly, CLIPVisionModel):
    """CLIP."""

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.pre_layrnorm(self.embeddings(pixel_values))


class LlavaNextVideoSiglipVisionModel(StopsEarly, SiglipVisionModel):
    """SigLIP, whose pooling head is not used either."""

    def freeze_what_never_runs(self, wanted_states: Sequence[int]):
        super().freeze_what_never_runs(wanted_states)
        if self.use_head:
            self.head.requires_grad_(False)


TOWERS = {
    "clip_vision_model": LlavaNextVideoCLIPVisionModel,
    "siglip_vision_model": LlavaNextVideoSiglipVisionModel,
}


def make_vision_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """A tower with new weights, as `AutoModel.from_config` makes it."""
    return TOWERS[config.model_type]._from_config(config)
