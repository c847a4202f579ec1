"""Checkpoints of the original code at full size: every name, shape and configuration key, with files that take no room
because nothing is written in them (sparse)."""

import json
import shutil
from pathlib import Path

from tests.golden_data import GOLDEN


CLIP = {"name": "openai/clip-vit-large-patch14-336", "width": 1024, "mlp": 4096, "layers": 24, "patches": 577}
SIGLIP = {"name": "google/siglip-so400m-patch14-384", "width": 1152, "mlp": 4304, "layers": 26, "patches": 729}
LLAMA_TOKENIZER, QWEN_TOKENIZER = "llama_notoken_avg_before", "qwen_grid_avg"

# name: model_type, tokenizer, tower, hidden, mlp, layers, heads, key-value heads, vocabulary, context, rope theta
LAYOUTS = {
    "LLaVA-NeXT-Video-7B": ("llava", LLAMA_TOKENIZER, CLIP, 4096, 11008, 32, 32, 32, 32000, 4096, 1e4),
    "LLaVA-NeXT-Video-7B-32K": ("llava_mistral", LLAMA_TOKENIZER, CLIP, 4096, 14336, 32, 32, 8, 32000, 32768, 1e6),
    "LLaVA-NeXT-Video-34B": ("llava_llama", LLAMA_TOKENIZER, CLIP, 7168, 20480, 60, 56, 8, 64000, 4096, 5e6),
    "LLaVA-NeXT-Video-32B-Qwen": ("llava_qwen", QWEN_TOKENIZER, SIGLIP, 5120, 27392, 64, 40, 8, 152064, 32768, 1e6),
    "LLaVA-Video-7B-Qwen2": ("llava_qwen", QWEN_TOKENIZER, SIGLIP, 3584, 18944, 28, 28, 4, 152064, 32768, 1e6),
    "LLaVA-Video-72B-Qwen2": ("llava_qwen", QWEN_TOKENIZER, SIGLIP, 8192, 29568, 80, 64, 8, 152064, 32768, 1e6),
}


def tower_shapes(tower: dict) -> dict[str, tuple[int, ...]]:
    """Weights of a vision tower, without a prefix."""
    width, mlp = tower["width"], tower["mlp"]
    clip = tower is CLIP
    shapes = {
        "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "embeddings.position_embedding.weight": (tower["patches"], width),
        **({"embeddings.class_embedding": (width,)} if clip else {"embeddings.patch_embedding.bias": (width,)}),
    }
    for norm in ("pre_layrnorm", "post_layernorm") if clip else ("post_layernorm",):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for layer in range(tower["layers"]):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"encoder.layers.{layer}.self_attn.{name}", width, width)
        shapes |= linear(f"encoder.layers.{layer}.mlp.fc1", mlp, width)
        shapes |= linear(f"encoder.layers.{layer}.mlp.fc2", width, mlp)
        for norm in ("layer_norm1", "layer_norm2"):
            name = f"encoder.layers.{layer}.{norm}"
            shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def linear(name: str, rows: int, columns: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def original_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released checkpoint, with what its branch leaves in it besides."""
    kind, _, tower, width, mlp, layers, heads, kv_heads, vocabulary, _, _ = LAYOUTS[name]
    qwen, kv_width = kind == "llava_qwen", width // heads * kv_heads
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "lm_head.weight": (vocabulary, width)}
    shapes |= {"model.norm.weight": (width,), "model.image_newline": (width,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for part, rows in (("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width)):
            shapes |= linear(f"{prefix}.self_attn.{part}", rows, width, bias=qwen)
        shapes |= linear(f"{prefix}.self_attn.o_proj", width, width, bias=False)
        shapes |= linear(f"{prefix}.mlp.gate_proj", mlp, width, bias=False)
        shapes |= linear(f"{prefix}.mlp.up_proj", mlp, width, bias=False)
        shapes |= linear(f"{prefix}.mlp.down_proj", width, mlp, bias=False)
        shapes[f"{prefix}.input_layernorm.weight"] = shapes[f"{prefix}.post_attention_layernorm.weight"] = (width,)
        if not qwen:
            shapes[f"{prefix}.self_attn.rotary_emb.inv_freq"] = (width // heads // 2,)
    shapes |= {f"model.vision_tower.vision_tower.vision_model.{key}": s for key, s in tower_shapes(tower).items()}
    projectors = ("model.mm_projector",) if qwen else ("model.mm_projector", "model.vision_resampler.mm_projector")
    for projector in projectors:
        shapes |= linear(f"{projector}.0", width, tower["width"]) | linear(f"{projector}.2", width, width)
    return shapes


def original_config(name: str) -> dict:
    """Configuration of a released checkpoint, as far as it is known."""
    kind, _, tower, width, mlp, layers, heads, kv_heads, vocabulary, context, theta = LAYOUTS[name]
    return {
        "model_type": kind,
        "architectures": ["LlavaLlamaForCausalLM"] if kind == "llava" else [],
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "rope_theta": theta,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "mm_vision_tower": tower["name"],
        "mm_hidden_size": tower["width"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    }


def write_sparse(file: Path, shapes: dict[str, tuple[int, ...]]):
    """A safetensors file of bfloat16 zeros that takes no room on the disk."""
    header, position = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + position)


def write_original(folder: Path, name: str) -> Path:
    """A released checkpoint in the original's format, at full size and without contents; folder/NAME is returned."""
    target = folder / name
    target.mkdir()
    (target / "config.json").write_text(json.dumps(original_config(name)))
    for file in (GOLDEN / LAYOUTS[name][1] / "checkpoint").iterdir():
        if file.name not in ("config.json", "pytorch_model.bin") and not file.name.startswith("model"):
            shutil.copyfile(file, target / file.name)
    write_sparse(target / "model.safetensors", original_shapes(name))
    return target
