"""Memory of fine-tuning the released sizes, by arithmetic: `python -m benchmarks.finetuning_memory`.

Counts the weights of models on the meta device, which take no memory, and adds up what one step of AdamW needs on one
GPU, with gradient checkpointing and one row at a time, as `examples/finetune.py` trains:

- `full`: weights, gradients and two moments of each in float32, computed with in bfloat16;
- `lora`: weights in bfloat16, and the same four of the adapters alone, in float32;
- `qlora`: as `lora`, with the matrices of the language model's layers in 4 bits.

`tests/benchmarks/test_finetuning_memory.py` compares the formulas with what tiny models really hold.
"""

import argparse
import re
from dataclasses import dataclass, fields

from torch import nn

from benchmarks.checkpoint_sizes import BYTES_OF_NF4, model_of, tokens_of_video
from llava_next_video.hub.recipes import RELEASED


METHODS = ("full", "lora", "qlora")
ADAPTED = r".*\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
SIZES = {"7B": "LLaVA-NeXT-Video-7B", "32B": "LLaVA-NeXT-Video-32B-Qwen"}


@dataclass(frozen=True)
class Memory:
    """Of one step, in bytes.

    Args:
        weights: of the whole model, and of adapters.
        gradients, optimizer: of what is trained.
        between_layers: what checkpointing keeps, the input of every layer.
        in_a_layer: what one layer keeps while its gradients are computed.
        logits: of all tokens, and their gradients; TRL computes them in pieces and holds next to nothing.
    """

    weights: float
    gradients: float
    optimizer: float
    between_layers: float
    in_a_layer: float
    logits: float

    @property
    def total(self) -> float:
        return sum(getattr(self, each.name) for each in fields(self))


def memory_of_step(model: nn.Module, method: str, num_tokens: int, num_frames: int, rank: int = 16) -> Memory:
    """What one step needs.

    Args:
        model: may be on the meta device.
        num_tokens: of the row, those of the video included.
        num_frames: of the row's video.
        rank: of the adapters.
    """
    text, vision = model.config.text_config, model.config.vision_config
    matrices = [module for name, module in model.named_modules() if re.fullmatch(ADAPTED, name)]
    num_weights = sum(weight.numel() for weight in model.parameters())
    num_in_matrices = sum(module.weight.numel() for module in matrices)
    num_in_adapters = sum(rank * (module.in_features + module.out_features) for module in matrices)
    trained = {
        "full": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "lora": num_in_adapters,
        "qlora": num_in_adapters,
    }[method]
    weights = {
        "full": 4 * num_weights,
        "lora": 2 * num_weights + 4 * num_in_adapters,
        "qlora": 2 * (num_weights - num_in_matrices) + BYTES_OF_NF4 * num_in_matrices + 4 * num_in_adapters,
    }[method]
    bytes_of_state = 4 if method == "full" else 2  # autocast computes in bfloat16, and adds up in the weights' format
    between = text.num_hidden_layers * num_tokens * text.hidden_size * bytes_of_state
    if method == "full":  # the tower learns too
        num_patches = num_frames * (vision.image_size // vision.patch_size) ** 2
        between += vision.num_hidden_layers * num_patches * vision.hidden_size * bytes_of_state
    return Memory(
        weights=weights,
        gradients=4 * trained,
        optimizer=8 * trained,
        between_layers=between,
        in_a_layer=num_tokens * bytes_in_a_layer(text),
        logits=num_tokens * text.vocab_size * (2 + 4 + 4 + 2),  # bfloat16 and float32, and the gradients of both
    )


def bytes_in_a_layer(text) -> int:
    """What a layer of a Llama, Mistral or Qwen2 keeps of each token for its gradients, computing in bfloat16."""
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    keys = text.num_key_value_heads * head_dim
    queries = text.num_attention_heads * head_dim
    norms = 2 * text.hidden_size * (4 + 2)  # what goes in, in float32, and what comes out
    attention = 2 * (2 * queries + 2 * keys + 2 * head_dim)  # queries and what comes out, keys, values, their turns
    mlp = 2 * 4 * text.intermediate_size  # gate, its activation, up, and their product
    return norms + attention + mlp


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-frames", type=int, default=32, help="of the video (default: %(default)s)")
    parser.add_argument("--text-tokens", type=int, default=512, help="of the conversation (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters (default: %(default)s)")
    args = parser.parse_args(arguments)
    names = [each.name for each in fields(Memory)]
    print("GB:".ljust(12), *(f"{name.replace('_', ' '):>15}" for name in [*names, "total", "with TRL"]))
    for size, name in SIZES.items():
        model = model_of(RELEASED[name])
        num_tokens = tokens_of_video(model.config, args.num_frames) + args.text_tokens
        for method in METHODS:
            memory = memory_of_step(model, method, num_tokens, args.num_frames, args.rank)
            parts = [*(getattr(memory, name) for name in names), memory.total, memory.total - memory.logits]
            print(f"{size} {method}".ljust(12), *(f"{part / 1e9:15.1f}" for part in parts))
        print(
            f"  {sum(weight.numel() for weight in model.parameters()) / 1e9:.2f} billion weights, {num_tokens} tokens"
        )


if __name__ == "__main__":
    main()
