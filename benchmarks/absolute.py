"""Numbers of this device alone, for GPUs: time to first token, tokens per second and share of the device's measured
matrix rate, with every attention kernel that is installed, and with `torch.compile` and a static cache.

The operations counted are multiplications and additions of matrices with weights, in the tower and in the language
model; attention comes on top and is not counted.
"""

import time
from functools import partial
from statistics import median

import torch
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from benchmarks.answers import tokens
from benchmarks.comparison import HERE, Setting
from benchmarks.models import model, processor


def synchronize(setting: Setting):
    if setting.device == "cuda":
        torch.cuda.synchronize()


def seconds(function, setting: Setting, rounds: int = 5) -> float:
    """Median, after one run to warm up."""
    times = []
    for _ in range(rounds + 1):
        synchronize(setting)
        start = time.perf_counter()
        function()
        synchronize(setting)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def matrix_rate(setting: Setting) -> float:
    """Operations per second of one large product in the models' dtype."""
    side = 256 if setting.tiny else 8192
    matrix = torch.randn(side, side, device=setting.device, dtype=model(HERE, "clip", setting).dtype)
    return 2 * side**3 / seconds(lambda: matrix @ matrix, setting)


def kernels() -> list[str]:
    available = {
        "eager": True,
        "sdpa": True,
        "flex_attention": torch.cuda.is_available(),  # on a CPU it compiles for every length
        "flash_attention_2": is_flash_attn_2_available(),
        "flash_attention_3": is_flash_attn_3_available(),
    }
    return [name for name, there in available.items() if there]


def weight_operations(setting: Setting, inputs) -> float:
    """Operations of a prefill: two for each weight and row that goes through it."""
    whole = model(HERE, "clip", setting)
    tower, text = whole.model.vision_tower, whole.model.language_model
    frames, patches = inputs["pixel_values_videos"].shape[1], tower.embeddings.position_embedding.num_embeddings
    used = tower.encoder.layers[: whole.config.vision_feature_layer + 1 + len(tower.encoder.layers)]
    in_tower = sum(p.numel() for layer in used for p in layer.parameters()) * frames * patches
    in_text = sum(p.numel() for p in text.layers.parameters()) * inputs["input_ids"].numel()
    return 2 * (in_tower + in_text)


def measure(setting: Setting) -> list[dict]:
    """One record for each way of running the same prompt."""
    whole, of_side = model(HERE, "clip", setting), processor(HERE, "clip", setting)
    side = 40 if setting.tiny else 360
    frames = torch.randint(256, (setting.num_frames, 3, side, side), dtype=torch.uint8)
    inputs = of_side(text=f"{of_side.video_token}\nWhat happens?", videos=[frames], return_tensors="pt")
    inputs = inputs.to(whole.device, whole.dtype)
    rate, operations = matrix_rate(setting), weight_operations(setting, inputs)
    usual = whole.config._attn_implementation
    new_tokens = 4 if setting.tiny else 128
    records = []
    for attention, arguments in [
        *((kernel, {}) for kernel in kernels()),
        # `generate` compiles the decoding step by itself with a static cache, on GPUs.
        (usual, {"cache_implementation": "static"}),
    ]:
        whole.set_attn_implementation(attention)
        first, full = (
            seconds(partial(generate, whole, inputs, number, arguments), setting) for number in (1, new_tokens)
        )
        records.append(
            {
                "attention": f"{attention}, static cache, compiled" if arguments else attention,
                "ms to first token": 1000 * first,
                "tokens/s": (new_tokens - 1) / max(full - first, 1e-9),
                "share of matrix rate in prefill": operations / first / rate,
            }
        )
    whole.set_attn_implementation(usual)
    return records


def generate(whole, inputs, new_tokens: int, arguments: dict):
    return whole.generate(**inputs, **arguments, **tokens(new_tokens))


def table(setting: Setting) -> list[str]:
    """Lines of Markdown."""
    records = measure(setting)
    lines = ["| " + " | ".join(records[0]) + " |", "|---" * len(records[0]) + "|"]
    for record in records:
        lines.append("| " + " | ".join(v if isinstance(v, str) else f"{v:.3g}" for v in record.values()) + " |")
    return lines
