"""LLaVA-NeXT-Video: a vision tower and a language model, joined by tokens.

Frames and image tiles become visual tokens (`get_video_features`, `get_image_features`, which use
`visual_encoding.py`), are put into the prompt in the place of their placeholders (`replace_placeholders`), and read by
the language model (`forward`) and its head.

Parameter names are those of the transformers built-in, so its checkpoints load as they are. The tower and the language
model come from `AutoModel`; attention kernels, gradient checkpointing and parallelism of both are transformers'.

Shape letters: B batch, L sequence, F frames, T image tiles, D channels of the language model, N tokens.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, Cache, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .checkpoint_settings import SETTINGS_ERRORS, read_weight_map
from .configuration_llava_next_video import LlavaNextVideoConfig
from .error_texts import reason_of
from .generation_llava_next_video import LlavaNextVideoGenerationMixin
from .model_inputs import (
    check_arguments,
    check_no_placeholders,
    check_placeholders,
    join_frames,
    select_positions,
    warn_beyond_context,
    warn_of_learned_placeholders,
)
from .model_outputs import CACHE_NAME, LlavaNextVideoCausalLMOutputWithPast, LlavaNextVideoModelOutputWithPast
from .older_weight_names import forget_unused_renamings, register_older_weight_names, rename_older_weights
from .other_formats import format_of
from .placement import check_heads, with_vectors_in_memory
from .projector import LlavaNextVideoMultiModalProjector, LlavaNextVideoPooler
from .visual_encoding import VisualEncodingMixin


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
        device_map = with_vectors_in_memory(kwargs.pop("device_map", None))
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, device_map=device_map, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple where loading_info was asked for
        check_heads(model)
        forget_unused_renamings(model)
        model.base_model.freeze_what_never_runs()  # loading puts new parameters in
        return loaded

    def post_init(self):
        super().post_init()
        # accelerate's FSDP stops at a class that is not in the model, and CLIP's list has one of its text model.
        parts = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = parts.intersection(self._no_split_modules or ())

    def enable_input_require_grads(self):
        super().enable_input_require_grads()  # also called by gradient checkpointing
        self._require_grads_hooks.append(self.base_model.vision_tower.keep_frozen())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LlavaNextVideoModel):
            std = 1 / math.sqrt(self.config.text_config.hidden_size)
            init.normal_(module.image_newline, mean=0.0, std=std)
            if module.faster_token is not None:
                init.normal_(module.faster_token, mean=0.0, std=std)


class LlavaNextVideoModel(LlavaNextVideoPreTrainedModel, VisualEncodingMixin):
    """Vision tower, projector, pooling, newlines and language model, without the language-model head."""

    def __init__(self, config: LlavaNextVideoConfig):
        from .vision_tower import make_vision_tower  # as in `register_older_weight_names`

        super().__init__(config)
        self.vocab_size, width = config.text_config.vocab_size, config.text_config.hidden_size
        try:
            self.vision_tower = make_vision_tower(config.vision_config)
            self.multi_modal_projector = LlavaNextVideoMultiModalProjector(config)
            self.vision_resampler = LlavaNextVideoPooler(config)
            self.image_newline = nn.Parameter(torch.empty(width))
            self.faster_token = None if config.slow_frame_stride is None else nn.Parameter(torch.empty(width))
            self.language_model = AutoModel.from_config(config.text_config)
        except torch.OutOfMemoryError:
            raise  # the configuration may be right
        except (*SETTINGS_ERRORS, RuntimeError) as error:
            raise ValueError(
                f"The configuration asks for weights that cannot exist: {reason_of(error)}. vision_config and "
                "text_config have to be what transformers' models of their `model_type` accept. Download "
                "config.json again."
            ) from error
        self.freeze_what_never_runs()
        self.post_init()

    def _adjust_missing_and_unexpected_keys(self, loading_info):
        super()._adjust_missing_and_unexpected_keys(loading_info)
        # Checkpoints have a head, which is no surprise here. Not by `_keys_to_ignore_on_load_unexpected`: vLLM builds
        # this class, puts a head of its own on it, and drops the weights that the model says to ignore.
        loading_info.unexpected_keys = {name for name in loading_info.unexpected_keys if "lm_head." not in name}

    def freeze_what_never_runs(self):
        """Ask for no gradients of the tower's layers and head that `vision_feature_layer` leaves out."""
        self.vision_tower.freeze_what_never_runs(self.config.vision_states())

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

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
            output_hidden_states, output_attentions: also return the tower's, see below.

        Returns:
            `pooler_output`: a tuple with one (N, D) tensor per video. `last_hidden_state` is not set: frames are
            encoded in chunks that are dropped, and the tower's last layer is not run. Asked for hidden states or
            attentions, the whole tower runs once more on all frames at once, and its output is returned with this
            `pooler_output`.
        """
        frames = join_frames(pixel_values_videos)  # (sum of F, 3, H, W)
        features = self.encode_pixels(frames, 0, vision_feature_layer, vision_feature_select_strategy)
        tokens = self.lay_out_videos(features, [len(video) for video in pixel_values_videos])
        return self.vision_tower.output_with_features(tokens, frames, **kwargs)

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
            output_hidden_states, output_attentions: also return the tower's, see below.

        Returns:
            `pooler_output`: a tuple with one (N, D) tensor per image. `last_hidden_state` is not set: tiles are encoded
            in chunks that are dropped, and the tower's last layer is not run. Asked for hidden states or attentions,
            the whole tower runs once more on all tiles at once, and its output is returned with this `pooler_output`.

        Raises:
            ValueError: the tiles are not those of images of these sizes.
        """
        tiles, sizes = self.join_images(pixel_values, image_sizes)
        [features] = self.encode_pixels(tiles, len(tiles), vision_feature_layer, vision_feature_select_strategy)
        tokens = self.lay_out_images(features, sizes)
        return self.vision_tower.output_with_features(tokens, tiles, **kwargs)

    def get_features_together(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor],
        image_sizes: torch.Tensor | Sequence[Sequence[int]],
        pixel_values_videos: torch.Tensor | Sequence[torch.Tensor],
        layers: int | list[int] | None,
        strategy: str | None,
    ) -> dict[str, BaseModelOutputWithPooling]:
        """`get_image_features` and `get_video_features` by one call of the tower."""
        tiles, sizes = self.join_images(pixel_values, image_sizes)
        frames = join_frames(pixel_values_videos)  # (sum of F, 3, H, W)
        of_tiles, *of_frames = self.encode_pixels(torch.cat([tiles, frames]), len(tiles), layers, strategy)
        images = self.lay_out_images(of_tiles, sizes)
        videos = self.lay_out_videos(of_frames, [len(video) for video in pixel_values_videos])
        return {
            "image": self.vision_tower.output_with_features(images, tiles),
            "video": self.vision_tower.output_with_features(videos, frames),
        }

    def placeholder_ids(self) -> dict[str, int]:
        return {"image": self.config.image_token_index, "video": self.config.video_token_index}

    def get_placeholder_mask(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, token_id: int
    ) -> torch.Tensor:
        """Where `token_id` stands, (B, L) bool; found by its embedding when only `inputs_embeds` (B, L, D) is given."""
        if input_ids is not None:
            return input_ids == token_id
        token = torch.tensor(token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def replace_placeholders(
        self, input_ids: torch.Tensor | None, embeddings: torch.Tensor, features: dict, cache: Cache | None
    ) -> tuple[torch.Tensor, dict]:
        """Put visual tokens in the place of placeholders in an embedded prompt (B, L, D). `features` as
        `mm_encoder_outputs`.

        Returns:
            The embeddings (B, L, D), and the fields of [`LlavaNextVideoModelOutputWithPast`] for the visual tokens.
        """
        visual_outputs = {}
        for modality, token_id in self.placeholder_ids().items():
            if features.get(modality) is not None:
                mask = self.get_placeholder_mask(input_ids, embeddings, token_id)  # (B, L)
                tokens = torch.cat(tuple(features[modality].pooler_output)).to(embeddings)  # (N, D)
                check_placeholders(mask, tokens, modality)
                embeddings = embeddings.masked_scatter(mask[..., None].to(embeddings.device), tokens)
                visual_outputs |= {f"{modality}_hidden_states": tokens, f"{modality}_outputs": features[modality]}
            elif input_ids is not None:
                check_no_placeholders(input_ids == token_id, cache, modality)
        return embeddings, visual_outputs

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
        check_arguments(input_ids, inputs_embeds, pixel_values, pixel_values_videos, image_sizes, mm_encoder_outputs)
        past_key_values = cache if past_key_values is None else past_key_values
        # Before the tower runs: the backward pass is then through with the tower, and has dropped what was kept for it,
        # when it makes the gradient of all embeddings.
        embeddings = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds  # (B, L, D)
        features = dict(mm_encoder_outputs or {})
        selection = (vision_feature_layer, vision_feature_select_strategy)
        if pixel_values is not None and pixel_values_videos is not None and self.takes_one_call():
            features = self.get_features_together(pixel_values, image_sizes, pixel_values_videos, *selection)
        else:
            if pixel_values is not None:
                features["image"] = self.get_image_features(pixel_values, image_sizes, *selection, return_dict=True)
            if pixel_values_videos is not None:
                features["video"] = self.get_video_features(pixel_values_videos, *selection, return_dict=True)

        embeddings, visual_outputs = self.replace_placeholders(input_ids, embeddings, features, past_key_values)
        warn_beyond_context(embeddings.shape[1], self.config.text_config)
        outputs = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE_NAME: past_key_values},
            **kwargs,
        )
        return LlavaNextVideoModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
            **visual_outputs,
        )


class LlavaNextVideoForConditionalGeneration(LlavaNextVideoPreTrainedModel, LlavaNextVideoGenerationMixin):
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
        if config.tie_word_embeddings:
            # The head is divided among processes, and so is the matrix that it shares. transformers 5.20 divides it
            # only where `text_config` says that it is shared.
            self._tp_plan.setdefault("model.language_model.embed_tokens", "embedding_rowwise")

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
        logits = self.lm_head(select_positions(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            if self.training:
                warn_of_learned_placeholders(labels, input_ids, self.model.placeholder_ids())
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        others = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return LlavaNextVideoCausalLMOutputWithPast(loss=loss, logits=logits, **others)
