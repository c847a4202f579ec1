"""Vision features: tower, projector and pooling, of models of real sizes."""

import torch

from benchmarks.comparison import BUILTIN, HERE, Comparison, Setting
from benchmarks.models import configuration, model


def features(side: str, tower: str, num_frames: int | None):
    def prepare(setting: Setting):
        side_pixels = configuration(tower, setting.tiny)["vision_config"]["image_size"]
        pixels = torch.randn(1, num_frames or setting.num_vision_frames, 3, side_pixels, side_pixels)
        encoder = model(side, tower, setting)
        pixels = pixels.to(encoder.device, encoder.dtype)

        @torch.inference_mode()
        def encode():
            return encoder.get_video_features(pixels)

        return encode

    return prepare


def both(tower: str, num_frames: int | None = None) -> dict:
    return {side: features(side, tower, num_frames) for side in (HERE, BUILTIN)}


# A frame takes more than a second on two cores: few are measured, and memory once.
COMPARISONS = [
    Comparison(
        "vision",
        "vision features, {setting.num_vision_frames} frames, CLIP-L/14-336",
        both("clip"),
        least={BUILTIN: 1 / 0.97},
    ),
    Comparison(
        "vision_memory",
        "memory of vision features, 32 frames, CLIP-L/14-336",
        both("clip", 32),
        measure="peak",
        least={BUILTIN: 1 / 0.35},
        rounds=1,
    ),
    Comparison("vision_siglip", "vision features, 1 frame, SigLIP-so400m/14-384", both("siglip", 1)),
]
