"""How large released checkpoints are, by arithmetic: `python -m benchmarks.checkpoint_sizes` prints the README's table.

Weights are counted on the meta device, which takes no memory. In 4 bits (NF4) are the matrices of the language model's
layers; the rest stays in 16. Keys and values are those of a prompt with the checkpoint's own frames, in 16 bits.
"""

import torch
from torch import nn
from transformers.initialization import no_init_weights

from llava_next_video import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration
from llava_next_video.conversion.vision_towers import KNOWN
from llava_next_video.hub.recipes import CLIP, RELEASED, Released
from llava_next_video.modeling.visual_grid import video_token_count


# From their config.json; the vocabulary is as large as the embeddings of the released checkpoints.
LANGUAGE_MODELS = {
    "lmsys/vicuna-7b-v1.5": ("llama", 4096, 11008, 32, 32, 32, 32064),
    "mistralai/Mistral-7B-Instruct-v0.2": ("mistral", 4096, 14336, 32, 32, 8, 32064),
    "NousResearch/Nous-Hermes-2-Yi-34B": ("llama", 7168, 20480, 60, 56, 8, 64064),
    "Qwen/Qwen1.5-32B-Chat": ("qwen2", 5120, 27392, 64, 40, 8, 152064),
    "Qwen2 7B": ("qwen2", 3584, 18944, 28, 28, 4, 152064),
    "Qwen2 72B": ("qwen2", 8192, 29568, 80, 64, 8, 152064),
}
NAMES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
BYTES_OF_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # a weight, with scales of 64 and, in 8 bits, of 256 of these


def model_of(released: Released) -> LlavaNextVideoForConditionalGeneration:
    """The model of a checkpoint, without numbers."""
    recipe = released.recipe
    clip = released.vision_tower == CLIP
    config = LlavaNextVideoConfig(
        vision_config={**KNOWN[released.vision_tower], **({} if clip else {"vision_use_head": False})},
        text_config=dict(zip(NAMES, LANGUAGE_MODELS[released.language_model])),
        vision_feature_select_strategy="default" if clip else "full",
        vision_feature_layer=-2 if clip else -1,
        spatial_pool_mode=recipe.spatial_pool_mode,
        spatial_pool_stride=recipe.spatial_pool_stride,
        spatial_pool_position=recipe.spatial_pool_position,
        video_newline_position=recipe.video_newline_position,
    )
    with no_init_weights(), torch.device("meta"):
        return LlavaNextVideoForConditionalGeneration(config)


def tokens_of_video(config: LlavaNextVideoConfig, num_frames: int) -> int:
    return video_token_count(
        num_frames,
        config.patches_per_side,
        config.spatial_pool_stride,
        config.spatial_pool_mode,
        config.video_newline_position,
    )


def row(names: list[str], released: Released) -> str:
    """A row of the table: of checkpoints that differ in their numbers only."""
    model, recipe = model_of(released), released.recipe
    config, text = model.config, model.config.text_config
    weights = sum(weight.numel() for weight in model.parameters())
    layers = model.model.language_model.layers.modules()
    in_4_bits = sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear))
    tokens = tokens_of_video(config, recipe.num_frames)
    head_size = text.hidden_size // text.num_attention_heads
    kept = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * head_size * tokens
    sizes = [2 * weights, 2 * (weights - in_4_bits) + BYTES_OF_NF4 * in_4_bits, kept]
    cells = [", ".join(names), f"{weights / 1e9:.1f}", *(f"{size / 1e9:.1f} GB" for size in sizes)]
    return " | ".join(["", *cells, f"{recipe.num_frames}, {tokens:,}", recipe.chat_template, ""]).strip()


def table() -> str:
    """Of all released checkpoints for videos."""
    alike = {}
    for name, released in RELEASED.items():
        if released.recipe.num_frames is not None:
            key = released.language_model, released.recipe
            alike.setdefault(key, ([], released))[0].append(name)
    head = "checkpoint | billion weights | in bfloat16 | in 4 bits | keys and values | frames, tokens | template"
    return "\n".join([f"| {head} |", "|---" * 7 + "|", *(row(*each) for each in alike.values())])


if __name__ == "__main__":
    print(table())
