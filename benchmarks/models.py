"""Models of real sizes with random weights, and their processors: ours, and the built-in with the same weights.

Speed and memory do not depend on what the weights are. Everything is made once in a process and stays in memory.
"""

from functools import cache
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.initialization import no_init_weights
from transformers.models.llava_next_video import (
    LlavaNextVideoConfig as BuiltinConfig,
)
from transformers.models.llava_next_video import (
    LlavaNextVideoProcessor as BuiltinProcessor,
)
from transformers.models.llava_next_video import (
    LlavaNextVideoVideoProcessor as BuiltinVideoProcessor,
)

import llava_next_video
from benchmarks.comparison import BUILTIN, HERE, Setting
from llava_next_video.conversion.vision_towers import KNOWN
from llava_next_video.hub.recipes import CLIP, SIGLIP


QWEN2_HALF_BILLION = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
QWEN1_5_32_BILLION = {
    **QWEN2_HALF_BILLION,
    "hidden_size": 5120,
    "intermediate_size": 27392,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
SIGLIP_WITHOUT_HEAD = {**KNOWN[SIGLIP], "vision_use_head": False}
# Tower and language model of each kind of model.
PARTS = {
    "clip": (KNOWN[CLIP], QWEN2_HALF_BILLION),
    "siglip": (SIGLIP_WITHOUT_HEAD, QWEN2_HALF_BILLION),
    "32B-Qwen": (SIGLIP_WITHOUT_HEAD, QWEN1_5_32_BILLION),
}
# Heads of 32 channels, the fewest that vLLM's attention on CPUs has.
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
TINY_TOWER = {**TINY, "image_size": 28, "patch_size": 7}
TINY_TEXT = {**TINY, "num_key_value_heads": 2, "vocab_size": 2000}


@cache
def dtype(device: str) -> torch.dtype:
    """bfloat16 where there are instructions for it, which is what these models are released in; else float32."""
    flags = Path("/proc/cpuinfo").read_text() if device == "cpu" else "amx_bf16"
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


@cache
def demo_processor() -> ProcessorMixin:
    """For its tokenizer and chat template."""
    return AutoProcessor.from_pretrained(llava_next_video.DEMO_CHECKPOINT)


def configuration(tower: str, tiny: bool) -> dict:
    """Arguments that both configuration classes understand."""
    demo = demo_processor()
    vision, text = PARTS[tower]
    vision, text = {**vision, **(TINY_TOWER if tiny else {})}, {**text, **(TINY_TEXT if tiny else {})}
    return {
        "vision_config": vision,
        "text_config": {**text, "eos_token_id": demo.tokenizer.eos_token_id},
        "image_token_index": demo.image_token_id,
        "video_token_index": demo.video_token_id,
        "vision_feature_select_strategy": "default" if tower == "clip" else "full",
        "image_grid_pinpoints": [[vision["image_size"], 2 * vision["image_size"]]],
        "tie_word_embeddings": text["tie_word_embeddings"],
    }


def new_model(side: str, tower: str, setting: Setting, weights: dict | None = None) -> PreTrainedModel:
    """The model of one side, in eval mode, with these weights, which it does not copy, or with random ones."""
    arguments = configuration(tower, setting.tiny)
    config = (BuiltinConfig if side == BUILTIN else llava_next_video.LlavaNextVideoConfig)(**arguments)
    data_type = torch.float32 if setting.float32 else dtype(setting.device)
    with no_init_weights(), torch.device(setting.device):
        made = AutoModelForImageTextToText.from_config(config, dtype=data_type).eval()
    if weights is not None:
        made.load_state_dict(weights, assign=True)
    else:
        for parameter in made.parameters():
            parameter.data.normal_(std=0.02)
    made.tie_weights()  # which no_init_weights leaves out
    made.generation_config.pad_token_id = demo_processor().tokenizer.pad_token_id
    return made


@cache
def model(side: str, tower: str, setting: Setting) -> PreTrainedModel:
    """The model of one side, in eval mode; both sides share their weights."""
    return new_model(side, tower, setting, model(HERE, tower, setting).state_dict() if side == BUILTIN else None)


@cache
def processor(side: str, tower: str, setting: Setting) -> ProcessorMixin:
    """The processor of one side, which makes as many placeholders as the model makes tokens."""
    arguments = configuration(tower, setting.tiny)
    vision = arguments["vision_config"]
    side_pixels = vision["image_size"]
    square = {"size": {"shortest_edge": side_pixels}, "crop_size": {"height": side_pixels, "width": side_pixels}}
    demo = demo_processor()
    if side == HERE:
        config = llava_next_video.LlavaNextVideoConfig(**arguments)
        return llava_next_video.LlavaNextVideoProcessor.for_model(
            config, demo.tokenizer, chat_template=demo.chat_template
        )
    return BuiltinProcessor(
        BuiltinVideoProcessor(**square),
        transformers.LlavaNextImageProcessor(**square),
        tokenizer=demo.tokenizer,
        chat_template=demo.chat_template,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        num_additional_image_tokens=1 if tower == "clip" else 0,
    )
