"""What the models return: the outputs of transformers' language models, and the visual tokens put into the prompt.

Shape letters: B batch, L sequence, D channels of the language model, N tokens.
"""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast


# What language models call the keys and values that they are given and return; transformers 5.24 renamed it. Our own
# `forward` takes both names.
CACHE_NAME = "cache" if hasattr(BaseModelOutputWithPast, "cache") else "past_key_values"


@dataclass
class LlavaNextVideoModelOutputWithPast(BaseModelOutputWithPast):
    """Output of [`LlavaNextVideoModel`].

    Args:
        image_hidden_states (`torch.Tensor` of shape (N, D), *optional*): image tokens put into the prompt, all images.
        video_hidden_states (`torch.Tensor` of shape (N, D), *optional*): video tokens put into the prompt, all videos.
        image_outputs, video_outputs (`BaseModelOutputWithPooling`, *optional*): the outputs of `get_image_features` and
            `get_video_features` that they come from.
    """

    image_hidden_states: torch.Tensor | None = None
    video_hidden_states: torch.Tensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class LlavaNextVideoCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of [`LlavaNextVideoForConditionalGeneration`].

    Args:
        loss (`torch.Tensor` of shape (), *optional*): next-token loss, when `labels` are given.
        logits (`torch.Tensor` of shape (B, L, vocabulary)): scores before the softmax.
        past_key_values (`Cache`, *optional*): keys and values of the sequence so far; `cache` since transformers 5.24.
        hidden_states, attentions (`tuple`, *optional*): of the language model, when asked for.
        image_hidden_states, video_hidden_states, image_outputs, video_outputs: as in
            [`LlavaNextVideoModelOutputWithPast`].
    """

    image_hidden_states: torch.Tensor | None = None
    video_hidden_states: torch.Tensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None
