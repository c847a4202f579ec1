"""The `model_type`s of the original code, which `AutoConfig` knows when the package is imported.

A plain `model_type: llava` is not among them: it stays with transformers' own `Llava`, and only our own classes
recognise such originals. The code that translates a configuration is imported when one is loaded.
"""

from transformers import PreTrainedConfig


class OriginalConfig(PreTrainedConfig):
    """What `AutoConfig` finds for a `model_type` of the original code. It makes a `LlavaNextVideoConfig`."""

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        from llava_next_video.conversion.direct_loading import PLAN_OPTIONS
        from llava_next_video.conversion.direct_loading import config_dict as translated_config
        from llava_next_video.modeling.configuration_llava_next_video import LlavaNextVideoConfig

        source, revision = kwargs.pop("name_or_path"), config_dict.get("_commit_hash")
        options = {name: kwargs[name] for name in PLAN_OPTIONS if name in kwargs}
        translated, _ = translated_config(source, {**options, "revision": revision})
        # `recipe` and `vision_tower` stay among the unused arguments: the model is loaded with them next.
        return LlavaNextVideoConfig.from_dict(translated, name_or_path=source, **kwargs)


class LlavaQwenConfig(OriginalConfig):
    model_type = "llava_qwen"


class LlavaLlamaConfig(OriginalConfig):
    model_type = "llava_llama"


class LlavaMistralConfig(OriginalConfig):
    model_type = "llava_mistral"


ORIGINAL_CONFIGS = (LlavaQwenConfig, LlavaLlamaConfig, LlavaMistralConfig)
