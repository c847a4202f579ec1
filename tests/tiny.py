"""Tiny configurations, processors and videos that the tests share. Everything is random and runs in milliseconds."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from demo_model.clip_writing import write_clip
from llava_next_video import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
)
from llava_next_video.processing import CHAT_TEMPLATES


TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 264,
}
TEXT_CONFIGS = {name: {"model_type": name, **TEXT} for name in ("llama", "mistral", "qwen2")}
IMAGE_TOKEN_ID, VIDEO_TOKEN_ID = 259, 260


def vision_config(tower: str = "clip", grid: int = 4, patch_size: int = 4) -> dict:
    """A tower of 4 layers over `grid` x `grid` patches."""
    config = {
        "model_type": f"{tower}_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": grid * patch_size,
        "patch_size": patch_size,
    }
    return config | ({"projection_dim": 8} if tower == "clip" else {"vision_use_head": False})


def pinpoints(side: int) -> list[list[int]]:
    """The default `image_grid_pinpoints`, for tiles of `side` pixels instead of 336."""
    return [[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [3 * side, side], [side, 3 * side]]


def config_arguments(tower: str = "clip", text: str = "llama", grid: int = 4, **recipe) -> dict:
    """Arguments of a configuration that the built-in understands too, unless `recipe` says otherwise."""
    vision = vision_config(tower, grid)
    return {
        "vision_config": vision,
        "text_config": TEXT_CONFIGS[text],
        "image_token_index": IMAGE_TOKEN_ID,
        "video_token_index": VIDEO_TOKEN_ID,
        "vision_feature_select_strategy": "default" if tower == "clip" else "full",
        "image_grid_pinpoints": pinpoints(vision["image_size"]),
        **recipe,
    }


def make_model(seed: int = 0, **arguments) -> LlavaNextVideoForConditionalGeneration:
    """A random model in eval mode, float32, with weights large enough that answers depend on the pixels. Few frames go
    through its tower at once; by rule all that tests have would."""
    torch.manual_seed(seed)
    config = LlavaNextVideoConfig(**config_arguments(**{"vision_chunk_size": 4, **arguments}))
    model = LlavaNextVideoForConditionalGeneration(config).eval()
    return enliven(model)


def enliven(model: torch.nn.Module) -> torch.nn.Module:
    """Scale the matrices up: freshly initialised models answer nearly the same whatever they are shown."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model


@cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens of Qwen's chat format."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: number for number, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
    )


def make_processor(config: LlavaNextVideoConfig, cls=LlavaNextVideoProcessor, **arguments) -> LlavaNextVideoProcessor:
    """The processor that goes with a configuration; `cls` may be the built-in's, with its own sub-processors."""
    template = (CHAT_TEMPLATES / "qwen_1_5.jinja").read_text()
    if cls is LlavaNextVideoProcessor:
        return cls.for_model(config, make_tokenizer(), chat_template=template, **arguments)
    from transformers import LlavaNextImageProcessor
    from transformers.models.llava_next_video import LlavaNextVideoVideoProcessor

    side = config.vision_config.image_size
    square = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return cls(
        video_processor=LlavaNextVideoVideoProcessor(**square),
        image_processor=LlavaNextImageProcessor(**square, image_grid_pinpoints=config.image_grid_pinpoints),
        tokenizer=make_tokenizer(),
        chat_template=template,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1 if config.vision_feature_select_strategy == "default" else 0,
        **arguments,
    )


def labels_of(input_ids: torch.Tensor) -> torch.Tensor:
    """Labels that ask for every token of a prompt but its placeholders."""
    placeholders = (input_ids == IMAGE_TOKEN_ID) | (input_ids == VIDEO_TOKEN_ID)
    return input_ids.masked_fill(placeholders, -100)


def random_frames(num_frames: int, height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    """(num_frames, height, width, 3), uint8."""
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def numbered_frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame whose top bars, bright or dark, spell its number in binary, so that a decoded frame can be told."""
    frame = np.full((height, width, 3), 128, dtype=np.uint8)
    for bit in range(8):
        frame[: height // 2, bit * width // 8 : (bit + 1) * width // 8] = 235 if number >> bit & 1 else 20
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that a decoded `numbered_frame` shows."""
    height, width = frame.shape[:2]
    bars = frame[: height // 2].mean(axis=(0, 2)).reshape(8, width // 8).mean(axis=1)
    return sum(1 << bit for bit, brightness in enumerate(bars) if brightness > 128)


def write_video(
    path: Path,
    num_frames: int = 40,
    fps: int = 20,
    codec: str = "libx264",
    timestamps: list[int] | None = None,
    rotation: int = 0,
    **options: str,
) -> Path:
    """Encode numbered frames. `timestamps` (in 1/1000 s) makes the frame rate variable; `options` go to the codec."""
    frames = map(numbered_frame, range(num_frames))
    write_clip(path, frames, fps, codec, timestamps, rotation=rotation, options=options)
    return path
