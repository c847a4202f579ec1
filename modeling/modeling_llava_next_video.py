"""LLaVA-NeXT-Video: frames and image tiles go through a vision tower, are projected and (videos) pooled into tokens,
laid out with newlines, and take the place of the `<image>` and `<video>` placeholders in front of a language model.

Parameter names are those of the transformers built-in, so its checkpoints load as they are. The tower and the language
model come from `AutoModel`; attention kernels, gradient checkpointing and parallelism of both are transformers'.

Shape letters: B batch, L sequence, F frames, T image tiles, P patches, h x w grid of patches, D channels, N tokens.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModel,
    Cache,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    SuppressTokensLogitsProcessor,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    get_model_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .checkpoint_settings import UNUSABLE, read_weight_map, reason_of
from .configuration_llava_next_video import LlavaNextVideoConfig
from .other_formats import format_of
from .visual_grid import tile_grid
from .visual_tokens import lay_out_image, lay_out_slow_fast_video, lay_out_video, pool_grid


logger = logging.get_logger(__name__)

# What language models call the keys and values they are given and return; transformers 5.24 renamed it. Our own
# `forward` takes both names.
CACHE = "cache" if hasattr(BaseModelOutputWithPast, "cache") else "past_key_values"


@cache
def register_older_weight_names():
    """Let transformers rename the weights of older checkpoints (`language_model.model.*`, ...) for our classes too.

    Its renamings lead to our parameter names, but are applied to classes outside the library only where they are
    registered. Listing them compiles a thousand patterns of all its models, so this waits for the first model.
    """
    from .vision_tower import TOWERS  # its base classes import `transformers.models.auto`, which may be importing us

    towers = {tower.__name__: tower.__name__.removeprefix("LlavaNextVideo") for tower in TOWERS.values()}
    for ours, theirs in ({LlavaNextVideoConfig.model_type: LlavaNextVideoConfig.model_type} | towers).items():
        register_checkpoint_conversion_mapping(ours, get_checkpoint_conversion_mapping(theirs), overwrite=True)


def rename_older_weights(module: PreTrainedModel, state_dict: dict, prefix: str, *_):
    """Let `load_state_dict` take the names that `from_pretrained` takes. `save_pretrained` writes them, and `Trainer`
    loads its checkpoints with `load_state_dict`, which would leave out what it does not know."""
    own = {prefix + name: True for name in module.state_dict(keep_vars=True)}
    if not (unknown := [name for name in state_dict if name.startswith(prefix) and name not in own]):
        return
    renamings = [each for each in get_model_conversion_mapping(module) if isinstance(each, WeightRenaming)]
    for name in unknown:
        renamed, _ = rename_source_key(name.removeprefix(prefix), renamings, [])
        for candidate in (prefix + renamed, prefix + renamed.removeprefix(f"{module.base_model_prefix}.")):
            if candidate in own:
                state_dict[candidate] = state_dict.pop(name)
                break


@dataclass
class LlavaNextVideoModelOutputWithPast(BaseModelOutputWithPast):
    """Output of [`LlavaNextVideoModel`].

    Args:
        image_hidden_states (`torch.Tensor` of shape (N, D), *optional*): image tokens put into the prompt, all images.
        video_hidden_states (`torch.Tensor` of shape (N, D), *optional*): video tokens put into the prompt, all videos.
        image_outputs, video_outputs (`BaseModelOutputWithPooling`, *optional*): what they come from, as the feature
            getters return it.
    """

    image_hidden_states: torch.Tensor | None = None
    video_hidden_states: torch.Tensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class LlavaNextVideoCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of [`LlavaNextVideoForConditionalGeneration`].

    Args:
        loss (`torch.Tensor` of shape (), *optional*): next-token loss, when `labels` are given.
        logits (`torch.Tensor` of shape (B, L, vocabulary)): scores before the softmax.
        past_key_values (`Cache`, *optional*): keys and values of the sequence so far; `cache` since transformers 5.24.
        hidden_states, attentions (`tuple`, *optional*): of the language model, when asked for.
        image_hidden_states, video_hidden_states, image_outputs, video_outputs: as in
            [`LlavaNextVideoModelOutputWithPast`].
    """

    image_hidden_states: torch.Tensor | None = None
    video_hidden_states: torch.Tensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None
    video_outputs: BaseModelOutputWithPooling | None = None


class LlavaNextVideoPooler(nn.Module):
    """Pools the patches of video frames, (F, h, w, D) -> (F, h', w', D). Only `"conv"` has parameters."""

    def __init__(self, config: LlavaNextVideoConfig):
        super().__init__()
        self.mode, self.stride = config.spatial_pool_mode, config.spatial_pool_stride
        if self.mode == "conv":
            before = config.spatial_pool_position == "before_projector"
            width = config.vision_config.hidden_size if before else config.text_config.hidden_size
            self.pool = nn.Conv2d(width, width, kernel_size=self.stride, stride=self.stride)

    def forward(self, features: torch.Tensor, times: int = 1) -> torch.Tensor:
        """Pool with the stride of the config, or (slow-fast videos) with `times` that stride."""
        if self.mode == "conv":
            return self.pool(features.movedim(-1, 1)).movedim(1, -1)
        return pool_grid(features, self.mode, self.stride * times)


class LlavaNextVideoMultiModalProjector(nn.Module):
    """Two linear layers from the tower's channels to the language model's, (..., D_vision) -> (..., D)."""

    def __init__(self, config: LlavaNextVideoConfig):
        super().__init__()
        layers = config.vision_feature_layer
        vision_width = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
        text_width, bias = config.text_config.hidden_size, config.multimodal_projector_bias
        self.linear_1 = nn.Linear(vision_width, text_width, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(text_width, text_width, bias=bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(features)))


class LlavaNextVideoPreTrainedModel(PreTrainedModel):
    """What the classes below share: configuration, weight initialisation and what transformers may do with them."""

    config: LlavaNextVideoConfig
    config_class = LlavaNextVideoConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ("past_key_values", "cache")
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: LlavaNextVideoConfig):
        register_older_weight_names()
        super().__init__(config)
        self.register_load_state_dict_pre_hook(rename_older_weights)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        if other := format_of(pretrained_model_name_or_path, kwargs):
            return other.model(cls, pretrained_model_name_or_path, *args, **kwargs)
        if pretrained_model_name_or_path is not None:
            for index in Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "").glob("*.index.json"):
                read_weight_map(index)  # transformers would open whatever files it names
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple where loading_info was asked for
        model.base_model.freeze_what_never_runs()  # loading puts new parameters in
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LlavaNextVideoModel):
            std = 1 / math.sqrt(self.config.text_config.hidden_size)
            init.normal_(module.image_newline, mean=0.0, std=std)
            if module.faster_token is not None:
                init.normal_(module.faster_token, mean=0.0, std=std)


class LlavaNextVideoModel(LlavaNextVideoPreTrainedModel):
    """Vision tower, projector, pooling, newlines and language model, without the language-model head."""

    _keys_to_ignore_on_load_unexpected = (r"lm_head\.",)

    def __init__(self, config: LlavaNextVideoConfig):
        from .vision_tower import make_vision_tower  # as in `register_older_weight_names`

        super().__init__(config)
        width = config.text_config.hidden_size
        self.vocab_size = config.text_config.vocab_size
        try:
            self.vision_tower = make_vision_tower(config.vision_config)
            self.multi_modal_projector = LlavaNextVideoMultiModalProjector(config)
            self.vision_resampler = LlavaNextVideoPooler(config)
            self.image_newline = nn.Parameter(torch.empty(width))
            self.faster_token = None if config.slow_frame_stride is None else nn.Parameter(torch.empty(width))
            self.language_model = AutoModel.from_config(config.text_config)
        except torch.OutOfMemoryError:
            raise  # the configuration may be right
        except (*UNUSABLE, RuntimeError) as error:
            raise ValueError(
                f"The configuration asks for weights that cannot exist: {reason_of(error)}. vision_config and "
                "text_config have to be what transformers' models of their `model_type` accept. Download "
                "config.json again."
            ) from error
        self.freeze_what_never_runs()
        self.post_init()

    def freeze_what_never_runs(self):
        """Ask for no gradients of the tower's layers and head that `vision_feature_layer` leaves out."""
        self.vision_tower.freeze_what_never_runs(self.config.vision_states())

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def own_vectors(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`image_newline` and `faster_token`, (D,). accelerate, where it keeps them on disk, brings them for `forward`
        alone, and `generate` calls the feature getters before."""
        vectors, hook = (self.image_newline, self.faster_token), getattr(self, "_hf_hook", None)
        if hook is not None and self.image_newline.device.type == "meta":
            hook.pre_forward(self)
            vectors = (self.image_newline, self.faster_token)
            hook.post_forward(self, None)
        return vectors

    def encode_frames(
        self, pixel_values: torch.Tensor, layers: int | list[int] | None = None, strategy: str | None = None
    ) -> torch.Tensor:
        """Run one chunk through the vision tower, (F, 3, H, W) -> (F, h, w, D_vision).

        Only the layers up to the last one needed are run, and no other hidden state is kept.

        Raises:
            ValueError: the pixels are not (F, 3, H, W) with the tower's image size.
        """
        side, patch_size = self.config.vision_config.image_size, self.config.vision_config.patch_size
        if pixel_values.ndim != 4 or pixel_values.shape[-2:] != (side, side):
            raise ValueError(
                f"The vision tower got pixel values of shape {tuple(pixel_values.shape)}; it takes (frames, channels, "
                f"{side}, {side}). Use the checkpoint's processor, or give it that `size` and `crop_size`."
            )
        layers = self.config.vision_feature_layer if layers is None else layers
        strategy = self.config.vision_feature_select_strategy if strategy is None else strategy
        states = self.vision_tower(pixel_values, wanted_states=self.config.vision_states(layers))
        features = torch.cat(states, dim=-1) if len(states) > 1 else states[0]  # (F, P, D_vision)
        if strategy == "default":
            features = features[:, 1:]
        return features.unflatten(1, (side // patch_size, -1))

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor],
        image_sizes: torch.Tensor | Sequence[Sequence[int]],
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling | tuple:
        """Turn images into the tokens that replace their `<image>` placeholders, newlines included.

        Args:
            pixel_values (`torch.Tensor` of shape (images, T, 3, H, W), or a list of (T, 3, H, W), or one tensor of all
                tiles (sum of T, 3, H, W)): overview and tiles of each image; in the first form images with fewer tiles
                are padded at the end, and the padding is not used.
            image_sizes (`torch.Tensor` of shape (images, 2)): height and width of each image before processing, pixels.
            vision_feature_layer, vision_feature_select_strategy: override the config's.
            output_hidden_states, output_attentions: also return what the tower makes on the way, see below.

        Returns:
            `pooler_output`: a tuple with one (N, D) tensor per image. `last_hidden_state` is not set: tiles are encoded
            in chunks that are dropped, and the tower's last layer is not run. Asked for hidden states or attentions,
            the whole tower runs once more on all tiles at once, and its output is returned with this `pooler_output`.

        Raises:
            ValueError: the tiles are not those of images of these sizes.
        """
        sizes = [tuple(size) for size in (image_sizes.tolist() if hasattr(image_sizes, "tolist") else image_sizes)]
        side, ratio = self.config.vision_config.image_size, self.config.image_aspect_ratio
        grids = [tile_grid(size, side, self.config.image_grid_pinpoints, ratio) for size in sizes]
        num_tiles = [rows * columns + 1 for rows, columns in grids]

        if isinstance(pixel_values, torch.Tensor) and pixel_values.ndim == 4:
            images, expected = [pixel_values], [sum(num_tiles)]
        else:
            images, expected = list(pixel_values), num_tiles
            if len(images) == len(expected):
                images = [image[:count] for image, count in zip(images, num_tiles)]
        if [len(image) for image in images] != expected:
            raise ValueError(
                f"Images of sizes {sizes} (height, width) are cut into {expected} tiles, overviews included, but "
                f"pixel_values holds {[len(image) for image in images]}. The image processor's `image_grid_pinpoints`, "
                "`size` and `image_aspect_ratio` have to be those of the model's config."
            )
        tiles = torch.cat(images)

        features = torch.cat(
            [
                self.multi_modal_projector(
                    self.encode_frames(chunk, vision_feature_layer, vision_feature_select_strategy)
                )
                for chunk in tiles.split(self.config.vision_chunk_size)
            ]
        )
        newline, _ = self.own_vectors()
        tokens = tuple(
            lay_out_image(image, newline, size, grid, self.config.image_aspect_ratio)
            for image, size, grid in zip(features.split(num_tiles), sizes, grids)
        )
        return self.with_tower_outputs(tokens, tiles, kwargs)

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | Sequence[torch.Tensor],
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling | tuple:
        """Turn videos into the tokens that replace their `<video>` placeholders, newlines included.

        Args:
            pixel_values_videos (`torch.Tensor` of shape (videos, F, 3, H, W), or a list of (F, 3, H, W)): frames of
                each video; in a list the videos may differ in their number of frames.
            vision_feature_layer, vision_feature_select_strategy: override the config's.
            output_hidden_states, output_attentions: also return what the tower makes on the way, see below.

        Returns:
            `pooler_output`: a tuple with one (N, D) tensor per video. `last_hidden_state` is not set: frames are
            encoded in chunks that are dropped, and the tower's last layer is not run. Asked for hidden states or
            attentions, the whole tower runs once more on all frames at once, and its output is returned with this
            `pooler_output`.
        """
        num_frames = [len(video) for video in pixel_values_videos]
        frames = (
            pixel_values_videos.flatten(0, 1)
            if isinstance(pixel_values_videos, torch.Tensor)
            else torch.cat(list(pixel_values_videos))
        )
        slow_fast = self.config.slow_frame_stride is not None
        slow, fast = [], []
        for chunk in frames.split(self.config.vision_chunk_size):
            features = self.encode_frames(chunk, vision_feature_layer, vision_feature_select_strategy)
            slow.append(self.pool_and_project(features))
            if slow_fast:
                fast.append(self.pool_and_project(features, times=2))
        newline, faster_token = self.own_vectors()
        slow_videos = torch.cat(slow).split(num_frames)  # each (F, h', w', D)
        if slow_fast:
            tokens = tuple(
                lay_out_slow_fast_video(*video, newline, faster_token, self.config.slow_frame_stride)
                for video in zip(slow_videos, torch.cat(fast).split(num_frames))
            )
        else:
            tokens = tuple(lay_out_video(video, newline, self.config.video_newline_position) for video in slow_videos)
        return self.with_tower_outputs(tokens, frames, kwargs)

    def with_tower_outputs(
        self, tokens: tuple[torch.Tensor, ...], pixel_values: torch.Tensor, kwargs: dict
    ) -> BaseModelOutputWithPooling:
        """`tokens` as a model output; with the tower's own output for `pixel_values` (F, 3, H, W), if that is asked for
        in `kwargs` or in its configuration."""
        asked = ("output_hidden_states", "output_attentions")
        if not any(kwargs.get(name, getattr(self.vision_tower.config, name)) for name in asked):
            return BaseModelOutputWithPooling(pooler_output=tokens)
        outputs = self.vision_tower(pixel_values, **kwargs, return_dict=True)
        outputs.pooler_output = tokens
        return outputs

    def pool_and_project(self, features: torch.Tensor, times: int = 1) -> torch.Tensor:
        """(F, h, w, D_vision) -> (F, h', w', D), in the order of the config; `times` as in the pooler."""
        if self.config.spatial_pool_position == "before_projector":
            return self.multi_modal_projector(self.vision_resampler(features, times))
        return self.vision_resampler(self.multi_modal_projector(features), times)

    def get_placeholder_mask(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, token_id: int
    ) -> torch.Tensor:
        """Where `token_id` stands, (B, L) bool; found by its embedding when only `inputs_embeds` (B, L, D) is given."""
        if input_ids is not None:
            return input_ids == token_id
        token = torch.tensor(token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def embed_prompt_and_answer(
        self, input_ids: torch.Tensor, features: dict[str, BaseModelOutputWithPooling | None]
    ) -> torch.Tensor:
        """Embed a prompt and what was answered so far, (B, L) -> (B, L, D), with features at the prompt's placeholders.

        A placeholder's id in an answer is a word like any other. Features of another width than D, which are another
        model's, are left out.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        for modality, token_id in self.placeholder_ids().items():
            if features.get(modality) is None:
                continue
            tokens = torch.cat(tuple(features[modality].pooler_output))  # (N, D)
            if tokens.shape[-1] == embeddings.shape[-1]:
                mask = input_ids == token_id
                # All N stand in front of the answers, which begin at one column in all rows.
                mask &= mask.sum(0).cumsum(0) <= len(tokens)
                embeddings = embeddings.masked_scatter(mask[..., None].to(embeddings.device), tokens.to(embeddings))
        return embeddings

    def placeholder_ids(self) -> dict[str, int]:
        return {"image": self.config.image_token_index, "video": self.config.video_token_index}

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
        pixel_values_videos: torch.Tensor | Sequence[torch.Tensor] | None = None,
        image_sizes: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues]  # has position_ids too
    ) -> LlavaNextVideoModelOutputWithPast | tuple:
        """Arguments as in [`LlavaNextVideoForConditionalGeneration.forward`], without `labels`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                f"The model got {'neither' if input_ids is None else 'both'} of `input_ids` and `inputs_embeds`; "
                "it takes exactly one."
            )
        has_pixels = pixel_values is not None or pixel_values_videos is not None
        if has_pixels and mm_encoder_outputs is not None:
            raise ValueError(
                "The model got pixels and `mm_encoder_outputs`; it takes the pixels or the features made of them."
            )
        past_key_values = cache if past_key_values is None else past_key_values
        features = dict(mm_encoder_outputs or {})
        selection = (vision_feature_layer, vision_feature_select_strategy)
        if pixel_values is not None:
            if image_sizes is None:
                raise ValueError(
                    "The model got `pixel_values` without `image_sizes`; pass both as the processor returns them."
                )
            features["image"] = self.get_image_features(pixel_values, image_sizes, *selection, return_dict=True)
        if pixel_values_videos is not None:
            features["video"] = self.get_video_features(pixel_values_videos, *selection, return_dict=True)

        embeddings = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        merged = {}
        for modality, token_id in self.placeholder_ids().items():
            if features.get(modality) is not None:
                mask = self.get_placeholder_mask(input_ids, inputs_embeds, token_id)
                tokens = torch.cat(tuple(features[modality].pooler_output)).to(embeddings)
                check_placeholders(mask, tokens, modality)
                embeddings = embeddings.masked_scatter(mask[..., None].to(embeddings.device), tokens)
                merged |= {f"{modality}_hidden_states": tokens, f"{modality}_outputs": features[modality]}
            elif input_ids is not None:
                check_nothing_is_missing(input_ids == token_id, past_key_values, modality)

        if not torch.compiler.is_compiling():
            warn_beyond_context(embeddings.shape[1], self.config.text_config)
        outputs = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE: past_key_values},
            **kwargs,
        )
        return LlavaNextVideoModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: getattr(outputs, CACHE)},
            **merged,
        )


def warn_beyond_context(num_tokens: int, text_config: PreTrainedConfig):
    """Warn, once, about a prompt that is longer than what the language model was trained on."""
    rope = getattr(text_config, "rope_parameters", None) or {}  # not every language model has rotary positions,
    context = getattr(text_config, "max_position_embeddings", None)  # or a limit
    if context is not None and rope.get("rope_type") == "linear":
        context = int(context * rope["factor"])
    if context is not None and num_tokens > context:
        logger.warning_once(
            f"A prompt has more than the {context} tokens that the language model was trained on; answers get worse "
            "or stay empty beyond. Use fewer frames (num_frames), or stretch the positions: llava_next_video's "
            "`rope_factor_for` says how much, config.text_config.rope_parameters or `convert --rope-factor` does it."
        )


def check_placeholders(mask: torch.Tensor, tokens: torch.Tensor, modality: str):
    """Raise a ValueError unless the prompt has one placeholder for each row of `tokens` (N, D).

    In a compiled graph, which cannot look at numbers, a mismatch is an assertion that fails on the device.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(mask.sum() == len(tokens), f"The prompt's <{modality}> placeholders and features differ.")
    elif (num_placeholders := int(mask.sum())) != len(tokens):
        raise ValueError(
            f"The prompt has {num_placeholders} <{modality}> placeholders but the {modality} features are "
            f"{len(tokens)} tokens. Usual causes: the prompt was truncated (`max_length`), it was not made by this "
            "checkpoint's processor, or the processor's pooling, newline or patch settings are not those of the "
            "model's config."
        )


def is_empty(cache: Cache | None) -> bool:
    return cache is None or cache.get_seq_length() == 0


def check_nothing_is_missing(mask: torch.Tensor, cache: Cache | None, modality: str):
    """Raise a ValueError when the prompt has placeholders, `mask` (B, L) bool, that nothing will replace.

    Only where a prompt begins: later the model itself may have answered with a placeholder's id. In a compiled graph
    it is an assertion, and only where there is no cache, so that a compiled step of decoding has none.
    """
    if torch.compiler.is_compiling():
        if cache is None:
            torch._assert_async(~mask.any(), f"The prompt has <{modality}> placeholders and no {modality} features.")
    elif not mask.is_meta and is_empty(cache) and (num_placeholders := int(mask.sum())):
        name = "pixel_values" if modality == "image" else "pixel_values_videos"
        raise ValueError(
            f"The prompt has {num_placeholders} <{modality}> placeholders and came without {modality}s, so the answer "
            f"would have nothing to do with any. Pass the processor's `{name}` on, or features as "
            f"`mm_encoder_outputs`. Trainers drop them unless told otherwise: `remove_unused_columns=False`, and a "
            "collator that calls the processor."
        )


def keep_positions(states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The rows of `states` (B, L, D) that are to be scored, (B, K, D), or (K, D) with a mask; as in transformers, where
    `slice_logits_to_keep` has stood since 5.23."""
    if isinstance(logits_to_keep, int):
        return states[:, -logits_to_keep:]
    if logits_to_keep.ndim == 1:
        return states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return states[logits_to_keep]
    return torch.take_along_dim(states, logits_to_keep[..., None], dim=1)


class LlavaNextVideoForConditionalGeneration(LlavaNextVideoPreTrainedModel, GenerationMixin):
    """LLaVA-NeXT-Video with its language-model head: videos, images and a question in, an answer out.

    >>> from llava_next_video import DEMO_CHECKPOINT
    >>> model = LlavaNextVideoForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT)
    >>> model.config.video_newline_position
    'grid'
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: LlavaNextVideoConfig):
        super().__init__(config)
        self.model = LlavaNextVideoModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(self, *args, **kwargs) -> BaseModelOutputWithPooling | tuple:
        """[`LlavaNextVideoModel.get_image_features`]."""
        return self.model.get_image_features(*args, **kwargs)

    def get_video_features(self, *args, **kwargs) -> BaseModelOutputWithPooling | tuple:
        """[`LlavaNextVideoModel.get_video_features`]."""
        return self.model.get_video_features(*args, **kwargs)

    @can_return_tuple
    @merge_with_config_defaults
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
        pixel_values_videos: torch.Tensor | Sequence[torch.Tensor] | None = None,
        image_sizes: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],  # pyright: ignore[reportGeneralTypeIssues]  # has position_ids too
    ) -> LlavaNextVideoCausalLMOutputWithPast | tuple:
        """Score the next token at every position.

        Args:
            input_ids (`torch.Tensor` of shape (B, L), int64): token ids; every `image_token_index` and
                `video_token_index` is replaced by one visual token, in order.
            pixel_values, image_sizes: images of the whole batch, as in [`LlavaNextVideoModel.get_image_features`].
            pixel_values_videos: videos of the whole batch, as in [`LlavaNextVideoModel.get_video_features`].
            attention_mask (`torch.Tensor` of shape (B, L), *optional*): 1 for tokens, 0 for padding on either side.
            position_ids, past_key_values, use_cache: as in every transformers language model. `cache` is the name of
                `past_key_values` since transformers 5.24.
            inputs_embeds (`torch.Tensor` of shape (B, L, D), *optional*): instead of `input_ids`.
            vision_feature_layer, vision_feature_select_strategy: override the config's.
            labels (`torch.Tensor` of shape (B, L), int64, *optional*): target ids; -100 is ignored. Shifted inside.
            logits_to_keep (`int` or `torch.Tensor`): score only that many last positions (0: all); or these, (K,) for
                all rows or (B, K) for each; or, (B, L) bool, where True, which gives logits (K, vocabulary).
            mm_encoder_outputs (`dict`, *optional*): outputs of `get_image_features` under `"image"` and of
                `get_video_features` under `"video"`, instead of pixels; not changed.

        Raises:
            ValueError: placeholders and features differ in number, or a prompt with placeholders came without any;
                pixels and features are both given.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_sizes=image_sizes,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache if past_key_values is None else past_key_values,
            inputs_embeds=inputs_embeds,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        logits = self.lm_head(keep_positions(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return LlavaNextVideoCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: getattr(outputs, CACHE)},
            image_hidden_states=outputs.image_hidden_states,
            video_hidden_states=outputs.video_hidden_states,
            image_outputs=outputs.image_outputs,
            video_outputs=outputs.video_outputs,
        )

    @wraps(GenerationMixin.generate)
    def generate(self, *args, **kwargs):
        # transformers puts features of pixels, and features repeated for beams, into the objects it is given.
        if (features := kwargs.get("mm_encoder_outputs")) is not None:
            kwargs["mm_encoder_outputs"] = {modality: copy.copy(output) for modality, output in features.items()}
        return super().generate(*args, **kwargs)

    @wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, *args, is_first_iteration: bool | None = False, **kwargs):
        # The whole sequence comes again at a later step without a cache, where the model may have answered with a
        # placeholder's id, and at the first step of an assistant (`assistant_model`), which transformers does not call
        # the first, and gives no features. What a prompt has to come with was checked at the first step.
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        ids = inputs.get("input_ids")
        if not is_first_iteration and ids is not None and ids.shape[1] > 1 and is_empty(inputs.get(CACHE)):
            inputs.pop("mm_encoder_outputs", None)
            embeddings = self.model.embed_prompt_and_answer(ids, kwargs.get("mm_encoder_outputs") or {})
            inputs |= {"input_ids": None, "inputs_embeds": embeddings}
        return inputs

    def _get_candidate_generator(self, *, logits_processor: LogitsProcessorList, **kwargs):
        # Prompt lookup proposes what followed the same words earlier in the prompt, which may be placeholders; in the
        # first step, which brings the features, those would be more placeholders than features. This keeps them out
        # of proposals only: what the model itself may answer is not touched.
        placeholders = [self.config.image_token_index, self.config.video_token_index]
        no_placeholders = SuppressTokensLogitsProcessor(placeholders, device=self.device)
        return super()._get_candidate_generator(
            logits_processor=LogitsProcessorList([*logits_processor, no_placeholders]), **kwargs
        )
