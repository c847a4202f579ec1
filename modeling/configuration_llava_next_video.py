"""Configuration of LLaVA-NeXT-Video: every key of the transformers built-in with its meaning and default, and the
keys that the built-in lacks, whose defaults are the built-in's behaviour."""

import copy
import os
import re
from typing import Literal

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .checkpoint_settings import SETTINGS_ERRORS, reading_settings
from .error_texts import quoted, reason_of
from .other_formats import format_of
from .own_code import forget_exported_code


# Values of the settings with these names; checks read them with `typing.get_args`.
PoolMode = Literal["average", "max", "bilinear", "conv"]
PoolPosition = Literal["before_projector", "after_projector"]
NewlinePosition = Literal["no_token", "one_token", "frame", "grid"]
ASPECT_RATIO = re.compile(r"anyres(?:_max_([1-9]\d{0,5}))?|pad|square")  # `image_aspect_ratio`

# Vision towers that we can run layer by layer, and whether their output starts with a class token.
HAS_CLASS_TOKEN = {"clip_vision_model": True, "siglip_vision_model": False}

# Settings with which the built-in computes what this package computes. It ignores these keys (and stops at an unknown
# `spatial_pool_mode`), so it would load a checkpoint with other values and answer wrongly.
BUILT_IN_SETTINGS = {
    "image_aspect_ratio": ["anyres"],
    "spatial_pool_mode": ["average", "max", "conv"],
    "spatial_pool_position": ["before_projector"],
    "video_newline_position": ["no_token"],  # slow-fast videos need newlines, so they are covered
}
# With other values, `config.json` has a text that begins with this in place of `vision_feature_select_strategy`: every
# version of the built-in accepts only the two values of that key and shows any other in its error.
REFUSAL = "This checkpoint is not for the llava_next_video built into transformers"

# More than any model has: a configuration with larger numbers is damaged, or hostile.
MAX_PATCHES_PER_SIDE, MAX_GRID_PINPOINTS, MAX_TILES, MAX_TOKEN_ID = 256, 1000, 1000, 2**31
LARGEST_VALUES = {"num_hidden_layers": 1000, "num_labels": 2**14} | dict.fromkeys(
    (
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "projection_dim",
        "vocab_size",
        "max_position_embeddings",
        "image_size",
        "patch_size",
        "num_channels",
    ),
    2**63 - 1,  # weights of an impossible size are noticed when they are made or read
)
# Settings that every model has, and their types once a configuration is made.
ALLOWED_TYPES = {"dtype": (torch.dtype, dict), "_attn_implementation": (str, dict)} | dict.fromkeys(
    ("base_model_ep_plan", "base_model_fsdp_plan", "base_model_pp_plan", "base_model_tp_plan"), dict
)


def is_size(value) -> bool:
    """Whether this is a size [height, width] in pixels."""
    return (
        isinstance(value, (list, tuple)) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    )


def check_numbers(owner: str, settings: dict):
    """Raise a ValueError when `settings` of `owner` have a number that no model has. Some take memory as soon as a
    configuration is made."""
    for name, largest in LARGEST_VALUES.items():
        value = settings.get(name)
        # Some language models have a list where others have a number; their own configuration knows.
        if value is not None and not isinstance(value, list) and not (type(value) is int and 1 <= value <= largest):
            raise ValueError(
                f"{owner}.{name} is {quoted(value)}; it has to be a whole number from 1 to {largest}. "
                "Download config.json again, from someone you trust."
            )


def check_types(owner: str, config: PreTrainedConfig):
    """Raise a ValueError when a setting that transformers uses without a check has the wrong type."""
    for name, types in ALLOWED_TYPES.items():
        value = getattr(config, name, None)  # not every version of transformers has all
        if value is not None and not isinstance(value, types):
            raise ValueError(
                f"{owner}.{name.removeprefix('_')} is {quoted(value)}, which no model can use. Leave it out, or "
                "download config.json again."
            )


@strict
class LlavaNextVideoConfig(PreTrainedConfig):
    """Configuration of [`LlavaNextVideoModel`] and [`LlavaNextVideoForConditionalGeneration`].

    A `config.json` of the built-in `llava_next_video` means the same here. Keys marked (new) are ours; the name in
    brackets is the one in configurations of the original code.

    Args:
        vision_config (`dict` or `PreTrainedConfig`): the vision tower, CLIP or SigLIP; CLIP-L/14-336 by default.
        text_config (`dict` or `PreTrainedConfig`): the language model; a 7B Llama by default.
        image_token_index (`int`, defaults to 32001): id of the placeholder that image features replace.
        video_token_index (`int`, defaults to 32000): id of the placeholder that video features replace.
        projector_hidden_act (`str`, defaults to `"gelu"`): activation between the projector's two linear layers.
        multimodal_projector_bias (`bool`, defaults to `True`): whether those layers have a bias.
        vision_feature_select_strategy (`"default"` or `"full"`, defaults to `"default"`): `"default"` drops the class
            token and is for CLIP; `"full"` keeps every row and is for SigLIP, which has none
            (`mm_vision_select_feature`).
        vision_feature_layer (`int` or `list[int]`, defaults to -2): the hidden state of the tower that is projected,
            counted as in `hidden_states` (0 is the embeddings, -1 the last layer); several are concatenated
            (`mm_vision_select_layer`). Later layers are never run.
        image_grid_pinpoints (`list[list[int]]`): sizes (height, width) in pixels that an image may be padded to before
            it is cut into tiles.
        image_aspect_ratio (`str`, defaults to `"anyres"`): (new) `"anyres"` tiles plus an overview; `"anyres_max_N"`
            the same, shrunk when it exceeds N tiles' worth of features; `"pad"` one square, padded; `"square"` one
            square, squashed or cropped (`image_aspect_ratio`).
        spatial_pool_mode (`str`, defaults to `"average"`): how video features are pooled: `"average"`, `"max"`,
            `"conv"`, or (new) `"bilinear"` (`mm_spatial_pool_mode`). Images are never pooled.
        spatial_pool_stride (`int`, defaults to 2): side of the square of patches that becomes one token
            (`mm_spatial_pool_stride`). Odd grids lose their last row and column, except with `"bilinear"`.
        spatial_pool_position (`str`, defaults to `"before_projector"`): (new) or `"after_projector"`, where the
            July 2024 release pools (`mm_pooling_position`).
        video_newline_position (`str`, defaults to `"no_token"`): (new) where the learned newline goes in a video:
            `"no_token"`, `"one_token"` at the end of the video, `"frame"` after each frame, `"grid"` after each row
            of each frame (`mm_newline_position`).
        slow_frame_stride (`int`, *optional*): (new) slow-fast videos: frames 0, n, 2n, ... keep `spatial_pool_stride`,
            the others are pooled twice as coarsely, and each frame is closed by a learned token. Needs grid newlines
            (`add_faster_video` with `faster_token_stride`).
        vision_chunk_size (`int`, *optional*): (new) how many frames or image tiles go through the tower at once; by
            default what the device is fast with, one on a CPU, some more elsewhere. Peak memory grows with it, not with
            the length of a video. When the tower is trained, or divided by FSDP or ZeRO-3, everything goes through at
            once.
        image_seq_length, video_seq_length (`int`): kept for readers of the built-in's configuration; not used.
        tie_word_embeddings (`bool`, defaults to `False`): whether `lm_head` is the embedding matrix.

    Raises:
        ValueError, or `huggingface_hub.errors.StrictDataclassError`, when a value is impossible; they name the key, the
        value and what is allowed.

    >>> config = LlavaNextVideoConfig(video_newline_position="grid", spatial_pool_position="after_projector")
    >>> config.vision_config.image_size, config.spatial_pool_stride
    (336, 2)
    """

    model_type = "llava_next_video"
    attribute_map = {"image_token_id": "image_token_index", "video_token_id": "video_token_index"}
    # What `Trainer` would gather with the logits, of all rows that it evaluates.
    keys_to_ignore_at_inference = [
        "past_key_values",
        "cache",
        "image_hidden_states",
        "video_hidden_states",
        "image_outputs",
        "video_outputs",
    ]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="clip_vision_model",
            init_kwargs={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 336,
                "patch_size": 14,
                "projection_dim": 768,
                "vocab_size": 32000,
            },
        ),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_index: int = 32001
    video_token_index: int = 32000
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True
    vision_feature_select_strategy: str = "default"
    vision_feature_layer: int | list[int] = -2
    image_grid_pinpoints: list | None = None
    image_aspect_ratio: str = "anyres"
    spatial_pool_mode: PoolMode = "average"
    spatial_pool_stride: int = 2
    spatial_pool_position: PoolPosition = "before_projector"
    video_newline_position: NewlinePosition = "no_token"
    slow_frame_stride: int | None = None
    vision_chunk_size: int | None = None
    image_seq_length: int = 576
    video_seq_length: int = 288
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        forget_exported_code(self, kwargs)
        check_numbers("config", kwargs)
        for name in ("vision_config", "text_config"):
            if isinstance(part := getattr(self, name), dict):
                check_numbers(name, part)
        try:
            super().__post_init__(**kwargs)
        except SETTINGS_ERRORS as error:
            raise ValueError(
                f"The configuration cannot be made: {reason_of(error)}. vision_config and text_config "
                "have to be what transformers' configurations of their `model_type` accept. Download config.json again."
            ) from error
        check_types("config", self)
        for name in ("vision_config", "text_config"):
            part = getattr(self, name)
            check_numbers(name, vars(part))
            check_types(name, part)
        if self.vision_feature_select_strategy.startswith(REFUSAL):
            self.vision_feature_select_strategy = self.strategy_of_the_tower
        if self.image_grid_pinpoints is None:
            self.image_grid_pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
        # Checkpoints with tied embeddings may say so in `text_config` only.
        tied_in_text = getattr(self.text_config, "tie_word_embeddings", False)
        self.tie_word_embeddings = self.tie_word_embeddings or tied_in_text

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict, dict]:
        if other := format_of(pretrained_model_name_or_path, kwargs):
            return other.config_dict(pretrained_model_name_or_path, kwargs)
        return super().get_config_dict(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        with reading_settings(kwargs.get("name_or_path", "the checkpoint")):
            return super().from_dict(config_dict, **kwargs)

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True):
        """Write `config.json`. If the built-in would answer wrongly with it, it is refused there; see `REFUSAL`."""
        written = copy.copy(self)
        if beyond := self.settings_beyond_built_in:
            settings = ", ".join(f"{name}={value!r}" for name, value in beyond.items())
            written.vision_feature_select_strategy = (
                f"{REFUSAL}, which has no {settings} and would answer wrongly. Install the package llava-next-video "
                "and import llava_next_video first; or pass trust_remote_code=True, if the checkpoint comes with code."
            )
        super(LlavaNextVideoConfig, written).to_json_file(json_file_path, use_diff)

    @property
    def settings_beyond_built_in(self) -> dict:
        """The settings with which transformers' own `llava_next_video` does not compute what this package does."""
        chosen = {name: getattr(self, name) for name in BUILT_IN_SETTINGS}
        return {name: value for name, value in chosen.items() if value not in BUILT_IN_SETTINGS[name]}

    @property
    def strategy_of_the_tower(self) -> str:
        """The `vision_feature_select_strategy` that the vision tower needs."""
        return "default" if HAS_CLASS_TOKEN.get(self.vision_config.model_type) else "full"

    @property
    def patches_per_side(self) -> int:
        """Rows (and columns) of vision patches in one frame or tile."""
        return self.vision_config.image_size // self.vision_config.patch_size

    def vision_states(self, layers: int | list[int] | None = None) -> list[int]:
        """The hidden states of the tower that are projected, counted from 0. `layers` overrides
        `vision_feature_layer`."""
        layers = self.vision_feature_layer if layers is None else layers
        num_states = self.vision_config.num_hidden_layers + 1
        return [layer % num_states for layer in ([layers] if isinstance(layers, int) else layers)]

    def validate_vision_tower(self):
        tower = self.vision_config.model_type
        if tower not in HAS_CLASS_TOKEN:
            raise ValueError(f"vision_config.model_type is {quoted(tower)}; the towers are {sorted(HAS_CLASS_TOKEN)}.")
        expected = self.strategy_of_the_tower
        if self.vision_feature_select_strategy != expected:
            raise ValueError(
                f"vision_feature_select_strategy is {quoted(self.vision_feature_select_strategy)}; with a {tower} "
                f"tower it has to be {expected!r}, because that tower has {'a' if HAS_CLASS_TOKEN[tower] else 'no'} "
                "class token."
            )
        if not 1 <= self.patches_per_side <= MAX_PATCHES_PER_SIDE:
            raise ValueError(
                f"vision_config has image_size {self.vision_config.image_size} and patch_size "
                f"{self.vision_config.patch_size}, which makes {self.patches_per_side} patches on a side; it has to be "
                f"1 to {MAX_PATCHES_PER_SIDE}."
            )
        num_layers = self.vision_config.num_hidden_layers
        layers = self.vision_feature_layer
        if not isinstance(layers, int) and not 1 <= len(layers) <= num_layers + 1:
            raise ValueError(
                f"vision_feature_layer is a list of {len(layers)}; it has to name 1 to {num_layers + 1} hidden states "
                f"of a tower of {num_layers} layers."
            )
        for layer in [layers] if isinstance(layers, int) else layers:
            if not -num_layers - 1 <= layer <= num_layers:
                raise ValueError(
                    f"vision_feature_layer is {layers}; a tower of {num_layers} layers has hidden states "
                    f"0 to {num_layers}, or {-num_layers - 1} to -1 from the end."
                )
        if self.vision_chunk_size is not None and self.vision_chunk_size < 1:
            raise ValueError(f"vision_chunk_size is {self.vision_chunk_size}; it has to be None or at least 1.")

    def validate_placeholders(self):
        for name in ("image_token_index", "video_token_index"):
            if not 0 <= getattr(self, name) < MAX_TOKEN_ID:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be a token id, 0 to {MAX_TOKEN_ID - 1}.")
        if self.image_token_index == self.video_token_index:
            raise ValueError(
                f"image_token_index and video_token_index are both {self.image_token_index}; they have to differ."
            )

    def validate_images(self):
        sizes, side = self.image_grid_pinpoints or [], self.vision_config.image_size
        if not 1 <= len(sizes) <= MAX_GRID_PINPOINTS or not all(map(is_size, sizes)):
            raise ValueError(
                f"image_grid_pinpoints is {quoted(sizes)}; it has to be a list of sizes [height, width] in "
                f"pixels, 1 to {MAX_GRID_PINPOINTS} of them."
            )
        for height, width in sizes:
            if (height // side) * (width // side) > MAX_TILES:
                raise ValueError(
                    f"image_grid_pinpoints has the size {[height, width]}, which is more than {MAX_TILES} tiles of "
                    f"{side}x{side} pixels. Leave out sizes that no image needs."
                )
        if not ASPECT_RATIO.fullmatch(self.image_aspect_ratio):
            raise ValueError(
                f"image_aspect_ratio is {quoted(self.image_aspect_ratio)}; "
                "it has to be 'anyres', 'anyres_max_N' with N tiles, 'pad' or 'square'."
            )

    def validate_video_pooling(self):
        grid = self.patches_per_side
        if not 1 <= self.spatial_pool_stride <= grid:
            raise ValueError(
                f"spatial_pool_stride is {self.spatial_pool_stride}; a frame has {grid}x{grid} patches, "
                f"so it has to be 1 to {grid}."
            )
        if self.slow_frame_stride is None:
            return
        if self.slow_frame_stride < 1:
            raise ValueError(f"slow_frame_stride is {self.slow_frame_stride}; it has to be None or at least 1.")
        if self.video_newline_position != "grid":
            raise ValueError(
                f"slow_frame_stride is {self.slow_frame_stride} and video_newline_position is "
                f"{self.video_newline_position!r}; slow-fast videos need 'grid' newlines."
            )
        if self.spatial_pool_mode == "conv":
            raise ValueError(
                f"slow_frame_stride is {self.slow_frame_stride} and spatial_pool_mode is 'conv'; a convolution has one "
                "stride, so slow-fast videos need 'average', 'max' or 'bilinear'."
            )
        if 2 * self.spatial_pool_stride > grid:
            raise ValueError(
                f"slow_frame_stride is {self.slow_frame_stride} and spatial_pool_stride {self.spatial_pool_stride}; "
                f"fast frames are pooled with twice that stride, which has to fit into {grid}x{grid} patches."
            )
