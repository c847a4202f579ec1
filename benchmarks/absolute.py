"""Numbers of this device alone, for GPUs: time to first token, tokens per second and share of the device's measured
matrix rate, of the built-in and of ours with every attention kernel that is installed, and with `torch.compile` and a
static cache; of a model with 0.5B, and of the shapes of the 32B-Qwen where the device holds them.

The operations counted are multiplications and additions of matrices with weights, in the tower and in the language
model; attention comes on top and is not counted.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from benchmarks.answers import tokens
from benchmarks.comparison import BUILTIN, HERE, Setting
from benchmarks.models import model, processor


BYTES_OF_32B = 75 * 10**9  # weights in bfloat16, and what a prompt takes


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


def fits(tower: str, setting: Setting) -> bool:
    """Whether the device holds this model beside what is on it."""
    if tower != "32B-Qwen" or setting.tiny:
        return True
    return setting.device == "cuda" and torch.cuda.mem_get_info()[0] > BYTES_OF_32B


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


def weight_operations(whole, inputs) -> float:
    """Operations of a prefill: two for each weight and row that goes through it."""
    tower, text = whole.model.vision_tower, whole.model.language_model
    frames, patches = inputs["pixel_values_videos"].shape[1], tower.embeddings.position_embedding.num_embeddings
    used = tower.encoder.layers[: whole.config.vision_feature_layer + 1 + len(tower.encoder.layers)]
    in_tower = sum(p.numel() for layer in used for p in layer.parameters()) * frames * patches
    in_text = sum(p.numel() for p in text.layers.parameters()) * inputs["input_ids"].numel()
    return 2 * (in_tower + in_text)


def ways(attention: str) -> Iterator[tuple[str, str, str, dict]]:
    """Name, side, attention kernel and arguments of `generate`, where this is the kernel by default."""
    yield BUILTIN, BUILTIN, attention, {}
    for kernel in kernels():
        yield f"here, {kernel}", HERE, kernel, {}
    # `generate` compiles the decoding step by itself with a static cache, on GPUs.
    yield f"here, {attention}, static cache, compiled", HERE, attention, {"cache_implementation": "static"}


def measure(tower: str, setting: Setting, in_time: Callable[[], bool]) -> list[dict]:
    """One record for each way of running the same prompt; fewer when the time is over."""
    whole, of_side = model(HERE, tower, setting), processor(HERE, tower, setting)
    side = 40 if setting.tiny else 360
    frames = torch.randint(256, (setting.num_frames, 3, side, side), dtype=torch.uint8)
    inputs = of_side(text=f"{of_side.video_token}\nWhat happens?", videos=[frames], return_tensors="pt")
    inputs = inputs.to(whole.device, whole.dtype)
    rate, operations = matrix_rate(setting), weight_operations(whole, inputs)
    large = tower == "32B-Qwen"
    new_tokens, rounds = (4, 1) if setting.tiny else (32, 3) if large else (128, 5)
    records = []
    for name, of_model, attention, arguments in ways(whole.config._attn_implementation):
        if not in_time():
            break
        run = model(of_model, tower, setting)
        usual = run.config._attn_implementation
        run.set_attn_implementation(attention)
        first, full = (
            seconds(partial(generate, run, inputs, number, arguments), setting, rounds) for number in (1, new_tokens)
        )
        run.set_attn_implementation(usual)
        records.append(
            {
                f"{tower}, {setting.num_frames} frames": name,
                "ms to first token": 1000 * first,
                "tokens/s": (new_tokens - 1) / max(full - first, 1e-9),
                "share of matrix rate in prefill": operations / first / rate,
            }
        )
    return records


def generate(whole, inputs, new_tokens: int, arguments: dict):
    return whole.generate(**inputs, **arguments, **tokens(new_tokens))


def tables(setting: Setting, in_time: Callable[[], bool] = lambda: True) -> list[list[str]]:
    """For each model lines of Markdown, or of why there are none."""
    found = []
    for tower in ("clip", "32B-Qwen"):
        if not fits(tower, setting):
            found.append([f"{tower}: the device has less than {BYTES_OF_32B / 1e9:.0f} GB left."])
        elif not in_time() or not (records := measure(tower, setting, in_time)):
            found.append([f"{tower}: no time was left."])
        else:
            found.append(as_table(records))
    return found


def as_table(records: list[dict]) -> list[str]:
    lines = ["| " + " | ".join(records[0]) + " |", "|---" * len(records[0]) + "|"]
    for record in records:
        lines.append("| " + " | ".join(v if isinstance(v, str) else f"{v:.3g}" for v in record.values()) + " |")
    return lines
