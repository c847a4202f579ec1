"""Recipes of checkpoints, small and random, that the tests of serving share: every way to lay out tokens, both towers,
both kinds of tokenizers (byte-level as Qwen's, SentencePiece as Vicuna's), and the templates that go with them."""

from functools import cache

from transformers import PreTrainedTokenizerBase

from llava_next_video import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
)
from llava_next_video.processing import CHAT_TEMPLATES
from tests.golden_data import Recording
from tests.tiny import config_arguments, make_model


# Heads of 32 channels, the fewest that vLLM's attention on CPUs has.
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
}
TOKENIZERS = {"qwen": "qwen_grid_avg", "vicuna": "llama_notoken_avg_before"}

# Of each: the model's recipe, what is set of videos, tokenizer, template, the language model.
RECIPES = {
    "clip, no newline, spaces, anyres": (
        {"tower": "clip", "image_aspect_ratio": "anyres"},
        {"num_frames": 4},
        ("vicuna", "vicuna_v1", "llama"),
    ),
    "siglip, newline of a grid, bilinear, anyres_max": (
        {"tower": "siglip", "grid": 5, "spatial_pool_mode": "bilinear", "video_newline_position": "grid"}
        | {"spatial_pool_position": "after_projector", "image_aspect_ratio": "anyres_max_3"},
        {"num_frames": 5},
        ("qwen", "qwen_1_5", "qwen2"),
    ),
    "siglip, slow and fast frames": (
        {"tower": "siglip", "grid": 7, "video_newline_position": "grid", "slow_frame_stride": 2}
        | {"spatial_pool_mode": "average", "spatial_pool_position": "after_projector"},
        {"num_frames": 6, "frame_sampling": "uniform_repeated"},
        ("qwen", "qwen_1_5", "qwen2"),
    ),
    "clip, newline of a frame, convolution, tied": (
        {"spatial_pool_mode": "conv", "video_newline_position": "frame", "tie_word_embeddings": True},
        {"num_frames": 5},
        ("qwen", "qwen_1_5", "llama"),
    ),
    "clip, one newline, maximum, spaces, mistral": (
        {"spatial_pool_mode": "max", "video_newline_position": "one_token", "image_aspect_ratio": "pad"},
        {"num_frames": 4, "frame_sampling": "legacy"},
        ("vicuna", "mistral_instruct", "mistral"),
    ),
    "siglip, times, one frame a second": (
        {"tower": "siglip", "video_newline_position": "grid", "image_aspect_ratio": "square"},
        {"num_frames": 6, "frame_sampling": "fps_capped", "time_instruction": True},
        ("qwen", "qwen_1_5", "qwen2"),
    ),
    "clip, times, spaces": (
        {"video_newline_position": "no_token"},
        {"num_frames": 5, "time_instruction": True},
        ("vicuna", "vicuna_v1", "llama"),
    ),
}


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerBase:
    """A cut-down tokenizer of an original checkpoint."""
    recording = Recording(TOKENIZERS[kind])
    options = {"recipe": recording.recipe, "vision_tower": recording.vision_tower}
    return LlavaNextVideoProcessor.from_pretrained(recording.checkpoint, **options).tokenizer


def arguments_of(name: str) -> dict:
    """Arguments of the configuration."""
    recipe, _, (tokenizer_kind, _, text) = RECIPES[name]
    tokenizer = tokenizer_of(tokenizer_kind)
    words = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    ids = {
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "video_token_index": tokenizer.convert_tokens_to_ids("<video>"),
    }
    return {"tower": "clip", "text_config": {"model_type": text, **TEXT, **words}, **ids, **recipe}


def processor_of(name: str) -> LlavaNextVideoProcessor:
    _, videos, (tokenizer_kind, template, _) = RECIPES[name]
    return LlavaNextVideoProcessor.for_model(
        LlavaNextVideoConfig(**config_arguments(**arguments_of(name))),
        tokenizer_of(tokenizer_kind),
        videos=videos,
        chat_template=(CHAT_TEMPLATES / f"{template}.jinja").read_text(),
        space_after_visuals=tokenizer_kind == "vicuna",
    )


def model_of(name: str) -> LlavaNextVideoForConditionalGeneration:
    model = make_model(**arguments_of(name))
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    return model


def save_checkpoint(name: str, folder) -> LlavaNextVideoForConditionalGeneration:
    """A checkpoint of a recipe, and the model that is in it."""
    model = model_of(name)
    model.save_pretrained(folder)
    processor_of(name).save_pretrained(folder)
    return model
