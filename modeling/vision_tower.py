"""The vision towers of transformers, with a `forward` that stops at the last hidden state that is needed.

The configuration of a model says which it needs (`vision_feature_layer`); for most it is the last but one. Weights,
their names and `config.json` are those of transformers' classes, whose names follow `LlavaNextVideo` in ours.

Shape letters: F frames or tiles, P rows of the tower (with CLIP the class token, then the patches), D channels.
"""

from collections.abc import Sequence

import torch
from torch.utils.hooks import RemovableHandle
from transformers import CLIPVisionModel, PreTrainedConfig, PreTrainedModel, SiglipVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .vision_allocations import frames_at_once, use_one_buffer


class StopsEarly:
    """Mixin for a vision model of transformers whose `forward` can stop at a hidden state."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        use_one_buffer(self)

    def frames_at_once(self) -> int:
        """[`frames_at_once`] of this tower."""
        return frames_at_once(self.config, self.embeddings.position_embedding.weight)

    def forward(self, pixel_values: torch.Tensor, wanted_states: Sequence[int] | None = None, **kwargs):
        """Encode pixels, (F, 3, H, W).

        Args:
            wanted_states: which hidden states to return, counted as in `hidden_states` from 0, the embeddings. Layers
                after the last of them do not run, and no other state is kept. None: transformers' own forward.

        Returns:
            A tuple of (F, P, D) tensors in the order of `wanted_states`, or (None) transformers' own output.

        Raises:
            ValueError: the pixels are not (F, 3, H, W) with the tower's image size.
        """
        if wanted_states is None:
            return super().forward(pixel_values, **kwargs)
        side = self.config.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[-2:] != (side, side):
            raise ValueError(
                f"The vision tower got pixel values of shape {tuple(pixel_values.shape)}; it takes (frames, channels, "
                f"{side}, {side}). Use the checkpoint's processor, or give it that `size` and `crop_size`."
            )
        states = self.embed(pixel_values)  # (F, P, D)
        kept = {0: states}
        for number, layer in enumerate(self.encoder.layers[: max(wanted_states)], start=1):
            states = layer(states, None)  # (F, P, D)
            if number in wanted_states:
                kept[number] = states
        return tuple(kept[number] for number in wanted_states)

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Hidden state 0."""
        return self.embeddings(pixel_values)

    def output_with_features(self, features: tuple, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """A model output with `features`, each (N, D), as `pooler_output`.

        If `kwargs` or the configuration ask for hidden states or attentions, the whole tower runs on the pixels
        (F, 3, H, W), and the rest of the output is what transformers' own forward returns.
        """
        requests = ("output_hidden_states", "output_attentions")
        if not any(kwargs.get(name, getattr(self.config, name)) for name in requests):
            return BaseModelOutputWithPooling(pooler_output=features)
        output = self(pixel_values, **kwargs, return_dict=True)
        output.pooler_output = features
        return output

    def keep_frozen(self) -> RemovableHandle:
        """Undo what `enable_input_require_grads` of transformers does, while nothing of the tower is trained: every
        layer would be kept, run again by gradient checkpointing and differentiated, for gradients that nobody needs."""

        def detach(module, args, patches: torch.Tensor) -> torch.Tensor:
            is_trained = args[0].requires_grad or any(weight.requires_grad for weight in self.parameters())
            return patches if is_trained else patches.detach()

        return self.embeddings.patch_embedding.register_forward_hook(detach)

    def freeze_what_never_runs(self, wanted_states: Sequence[int]):
        """Ask for no gradients of the parts that `forward` with these states leaves out: they would never get one, and
        `DistributedDataParallel` would wait for them."""
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
