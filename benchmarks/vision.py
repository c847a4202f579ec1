"""Vision features: tower, projector and pooling, of models of real sizes, next to the built-in's and next to a large
product of matrices, which is what the machine can do."""

from dataclasses import replace
from functools import partial

import torch

from benchmarks.comparison import BUILTIN, HERE, Comparison, Setting
from benchmarks.models import configuration, dtype, model


PRODUCT = "a large product"
# What is asked for on a CPU, in this dtype.
LEAST = {torch.float32: {BUILTIN: 1.08, PRODUCT: 0.92}, torch.bfloat16: {BUILTIN: 1.15, PRODUCT: 0.80}}


def features(side: str, tower: str, num_frames: int | None, float32: bool):
    def prepare(setting: Setting):
        setting = replace(setting, float32=float32)
        side_pixels = configuration(tower, setting.tiny)["vision_config"]["image_size"]
        pixels = torch.randn(1, num_frames or setting.num_vision_frames, 3, side_pixels, side_pixels)
        encoder = model(side, tower, setting)
        pixels = pixels.to(encoder.device, encoder.dtype)

        @torch.inference_mode()
        def encode():
            return encoder.get_video_features(pixels)

        return encode

    return prepare


def product(tower: str, num_frames: int | None, float32: bool):
    """As many operations as the features take, in products of square matrices."""

    def prepare(setting: Setting):
        setting = replace(setting, float32=float32)
        encoder = model(HERE, tower, setting)
        size = 128 if setting.tiny else 8192 if setting.device == "cuda" else 3072
        matrix = torch.randn(size, size, device=encoder.device, dtype=encoder.dtype)
        times = round(operations(encoder.config, num_frames or setting.num_vision_frames) / (2 * size**3)) or 1

        @torch.inference_mode()
        def multiply():
            for _ in range(times):
                matrix @ matrix

        return multiply

    return prepare


def operations(config, num_frames: int) -> int:
    """Multiplications and additions of the products in the tower, attention included, and in the projector."""
    tower, width = config.vision_config, config.text_config.hidden_size
    patches = config.patches_per_side**2
    rows = patches + (config.vision_feature_select_strategy == "default")
    embedding = patches * tower.hidden_size * 3 * tower.patch_size**2
    weights = 4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.intermediate_size
    layer = rows * weights + 2 * rows**2 * tower.hidden_size
    tokens = (config.patches_per_side // config.spatial_pool_stride) ** 2
    projector = tokens * (tower.hidden_size * width + width**2)
    return 2 * num_frames * (embedding + max(config.vision_states()) * layer + projector)


def both(tower: str, num_frames: int | None = None, float32: bool = False) -> dict:
    return {side: features(side, tower, num_frames, float32) for side in (HERE, BUILTIN)}


def least(setting: Setting, float32: bool = False) -> dict[str, float]:
    return LEAST[torch.float32 if float32 else dtype("cpu")] if setting.device == "cpu" else {}


def least_of_siglip(setting: Setting) -> dict[str, float]:
    return {BUILTIN: 1.1} if setting.device == "cpu" and dtype("cpu") == torch.bfloat16 else {}


# A frame takes more than a second on two cores: few are measured, and memory once.
COMPARISONS = [
    Comparison(
        "vision",
        "vision features, {setting.num_vision_frames} frames, CLIP-L/14-336",
        {**both("clip"), PRODUCT: product("clip", None, False)},
        least=least,
    ),
    Comparison(
        "vision_memory",
        "memory of vision features, 32 frames, CLIP-L/14-336",
        both("clip", 32),
        measure="peak",
        least={BUILTIN: 1 / 0.35},
        rounds=1,
    ),
    Comparison(
        "vision_siglip", "vision features, 2 frames, SigLIP-so400m/14-384", both("siglip", 2), least=least_of_siglip
    ),
]
if dtype("cpu") != torch.float32:
    COMPARISONS.append(
        Comparison(
            "vision_float32",
            "vision features, {setting.num_vision_frames} frames, CLIP-L/14-336, in float32",
            {**both("clip", float32=True), PRODUCT: product("clip", None, True)},
            least=partial(least, float32=True),
        )
    )
