"""Inputs of the model: frames and tiles are joined into one batch, arguments and prompts are checked.

Shape letters: B batch, L sequence, K scored positions, F frames, T image tiles, D channels, N tokens.
"""

from collections.abc import Sequence

import torch
from transformers import Cache, PreTrainedConfig
from transformers.utils import logging


logger = logging.get_logger(__name__)


def check_arguments(input_ids, inputs_embeds, pixel_values, pixel_values_videos, image_sizes, mm_encoder_outputs):
    """Raise a ValueError about arguments of `forward` that exclude or need each other."""
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
    if pixel_values is not None and image_sizes is None:
        raise ValueError("The model got `pixel_values` without `image_sizes`; pass both as the processor returns them.")


def join_frames(pixel_values_videos: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """All frames of all videos, (sum of F, 3, H, W); the argument as in [`LlavaNextVideoModel.get_video_features`]."""
    if isinstance(pixel_values_videos, torch.Tensor):
        return pixel_values_videos.flatten(0, 1)
    return torch.cat(tuple(pixel_values_videos))


def join_tiles(
    pixel_values: torch.Tensor | Sequence[torch.Tensor], num_tiles: list[int], image_sizes: list[tuple[int, int]]
) -> torch.Tensor:
    """All tiles of all images without padding, (sum of `num_tiles`, 3, H, W).

    Args:
        pixel_values: as in [`LlavaNextVideoModel.get_image_features`].
        num_tiles: tiles of each image, the overview included.
        image_sizes: height and width of each image before processing, for the error.

    Raises:
        ValueError: there are more or fewer tiles.
    """
    if isinstance(pixel_values, torch.Tensor) and pixel_values.ndim == 4:
        images, expected = [pixel_values], [sum(num_tiles)]
    else:
        images, expected = list(pixel_values), num_tiles
        if len(images) == len(expected):
            images = [image[:count] for image, count in zip(images, num_tiles)]  # each (T, 3, H, W)
    if [len(image) for image in images] != expected:
        raise ValueError(
            f"Images of sizes {image_sizes} (height, width) are cut into {expected} tiles, overviews included, but "
            f"pixel_values holds {[len(image) for image in images]}. The image processor's `image_grid_pinpoints`, "
            "`size` and `image_aspect_ratio` have to be those of the model's config."
        )
    return torch.cat(images)


def is_empty(cache: Cache | None) -> bool:
    return cache is None or cache.get_seq_length() == 0


def check_placeholders(mask: torch.Tensor, tokens: torch.Tensor, modality: str):
    """Raise a ValueError unless the prompt has one placeholder, `mask` (B, L) bool, for each row of `tokens` (N, D).

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


def check_no_placeholders(mask: torch.Tensor, cache: Cache | None, modality: str):
    """Raise a ValueError when a prompt that came without features has placeholders, `mask` (B, L) bool.

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


def warn_of_learned_placeholders(labels: torch.Tensor, input_ids: torch.Tensor | None, token_ids: dict[str, int]):
    """Warn, once, about labels (B, L) that are placeholders: a model that learns to say them forgets to answer. Not in
    a compiled graph, which cannot look at numbers."""
    if input_ids is None or torch.compiler.is_compiling() or labels.is_meta or labels.shape != input_ids.shape:
        return
    for modality, token_id in token_ids.items():
        if ((labels == token_id) & (input_ids == token_id)).any():
            logger.warning_once(
                f"Some of the labels are <{modality}> placeholders, which the model learns to say. Labels are what the "
                "assistant says, and -100 elsewhere: use llava_next_video's `LlavaNextVideoCollator`, or set "
                f"`labels[input_ids == {token_id}] = -100`."
            )


def context_length(text_config: PreTrainedConfig) -> int | None:
    """The number of tokens that the language model was trained on, times the linear stretch of its positions; None
    where there is no limit."""
    rope = getattr(text_config, "rope_parameters", None) or {}  # not every language model has rotary positions,
    context = getattr(text_config, "max_position_embeddings", None)  # or a limit
    if context is not None and rope.get("rope_type") == "linear":
        context = int(context * rope["factor"])
    return context


def warn_beyond_context(num_tokens: int, text_config: PreTrainedConfig):
    """Warn, once, about a prompt that is longer than what the language model was trained on."""
    if torch.compiler.is_compiling():
        return
    context = context_length(text_config)
    if context is not None and num_tokens > context:
        logger.warning_once(
            f"A prompt has more than the {context} tokens that the language model was trained on; answers get worse "
            "or stay empty beyond. Use fewer frames (num_frames), or stretch the positions: llava_next_video's "
            "`rope_factor_for` says how much, config.text_config.rope_parameters or `convert --rope-factor` does it."
        )


def select_positions(states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The rows of `states` (B, L, D) whose next tokens are scored, (B, K, D), or (K, D) with a mask. transformers has
    it since 5.23 as `slice_logits_to_keep`."""
    if isinstance(logits_to_keep, int):
        return states[:, -logits_to_keep:]  # 0: all
    if logits_to_keep.ndim == 1:
        return states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return states[logits_to_keep]  # (K, D)
    return torch.take_along_dim(states, logits_to_keep[..., None], dim=1)
