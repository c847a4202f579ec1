"""The network and its configuration."""

from .configuration_llava_next_video import LlavaNextVideoConfig
from .modeling_llava_next_video import (
    LlavaNextVideoCausalLMOutputWithPast,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoModel,
    LlavaNextVideoModelOutputWithPast,
    LlavaNextVideoPreTrainedModel,
)


__all__ = [
    "LlavaNextVideoCausalLMOutputWithPast",
    "LlavaNextVideoConfig",
    "LlavaNextVideoForConditionalGeneration",
    "LlavaNextVideoModel",
    "LlavaNextVideoModelOutputWithPast",
    "LlavaNextVideoPreTrainedModel",
]
