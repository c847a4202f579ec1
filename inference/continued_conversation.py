"""Generating from where the last conversation ended: the language model runs only on new tokens.

This is not done where it could change an answer, see `reuse_rule.py`.

Shape letters: B batch, L sequence.
"""

import copy

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from ..modeling.model_outputs import CACHE_NAME
from .pipeline_samples import Sample, encoder_outputs
from .remembered_videos import Conversation, VideoMemory, common_prefix_length
from .reuse_rule import may_reuse, new_cache


def shared_lengths(model: PreTrainedModel, samples: list[Sample], generate_kwargs: dict) -> list[int]:
    """For each prompt, how many tokens at its start are run once for all prompts about the same videos. All zeros when
    no two prompts are about the same videos, or prompts must run as a whole. A single prompt shares all its tokens with
    the next one."""
    groups = {}
    for sample in samples:
        groups.setdefault(tuple(sample.video_keys), []).append(sample)
    whole = [0] * len(samples)
    alone = 1 < len(samples) == len(groups)
    if alone or not all(map(is_reusable, samples)) or not may_reuse(model, generate_kwargs, len(samples)):
        return whole
    lengths = {}
    for keys, group in groups.items():
        rows = [sample.inputs["input_ids"][0] for sample in group]  # each (L,)
        # At least one token is left to run with the others of a batch.
        longest = min(len(row) for row in rows) - (len(samples) > 1)
        lengths[keys] = min(common_prefix_length(rows), longest)
        if lengths[keys] < group[0].visual_length:
            return whole
    return [lengths[tuple(sample.video_keys)] for sample in samples]


def is_reusable(sample: Sample) -> bool:
    """Whether a prompt has videos that can be identified, no images and no padding."""
    mask = sample.inputs.get("attention_mask")
    unpadded = mask is not None and bool(mask.all())  # by the processor
    return bool(sample.videos) and None not in sample.video_keys and "pixel_values" not in sample.inputs and unpadded


def continue_conversation(
    model: PreTrainedModel,
    memory: VideoMemory,
    samples: list[Sample],
    inputs: dict,
    shared: list[int],
    times_forgotten: int,
    generate_kwargs: dict,
) -> torch.Tensor:
    """Generate with the keys and values of the last conversation where it fits, and keep the new one. Where prompts are
    about different videos, neither is done.

    Args:
        samples: about videos that are encoded.
        inputs: the batch made of them.
        shared: result of `shared_lengths`.
        times_forgotten: of the memory, when the samples were begun.

    Returns:
        The sequences of `generate`, (answers, L).
    """
    keys = samples[0].video_keys
    if any(sample.video_keys != keys for sample in samples):
        memory.conversation.clear()  # there are never two
        cache = run_beginnings(model, samples, inputs, max(shared))
        return model.generate(**inputs, **{CACHE_NAME: cache}, **generate_kwargs)
    token_ids, videos, [length, *_] = inputs["input_ids"], samples[0].videos, shared  # (B, L)
    # At least one token is left to run: `generate` continues from its scores.
    last = memory.take_conversation(token_ids[0, : min(length, token_ids.shape[1] - 1)].cpu(), keys)
    if last is None:
        cache = new_cache(model)
    else:
        cache, videos = last.cache, videos[len(last.videos) :]
    features = encoder_outputs(videos)
    if len(samples) == 1:
        sequences = model.generate(**inputs, **features, **{CACHE_NAME: cache}, **generate_kwargs)
        kept_ids = sequences[0].cpu()
    else:
        if cache.get_seq_length() < length:
            new_ids = token_ids[:1, cache.get_seq_length() : length]  # (1, new tokens)
            model(input_ids=new_ids, **features, **{CACHE_NAME: cache}, use_cache=True, logits_to_keep=1)
        copies = repeat_rows(cache, len(samples))
        sequences = model.generate(**inputs, **{CACHE_NAME: copies}, **generate_kwargs)
        kept_ids = token_ids[0, :length].cpu()
    memory.keep_conversation(Conversation(kept_ids, keys, samples[0].visual_length, cache), times_forgotten)
    return sequences


def run_beginnings(model: PreTrainedModel, samples: list[Sample], inputs: dict, width: int) -> DynamicCache:
    """Keys and values of the first `width` columns of a batch, (B, ...). The common start of prompts about the same
    videos is run once."""
    keys = [tuple(sample.video_keys) for sample in samples]
    groups = list(dict.fromkeys(keys))
    rows = [keys.index(group) for group in groups]
    mask = inputs["attention_mask"][rows, :width]  # (groups, width)
    cache = new_cache(model)
    model(
        input_ids=inputs["input_ids"][rows, :width],
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        **encoder_outputs([video for row in rows for video in samples[row].videos]),
        **{CACHE_NAME: cache},
        use_cache=True,
        logits_to_keep=1,
    )
    cache.batch_select_indices(torch.tensor([groups.index(key) for key in keys], device=mask.device))
    return cache


def repeat_rows(cache: Cache, times: int) -> Cache:
    """A copy of a cache of plain layers, with every row repeated."""
    result = copy.copy(cache)
    result.layers = [copy.copy(layer) for layer in cache.layers]  # repeating puts new tensors into a layer
    result.batch_repeat_interleave(times)
    return result
