"""Generating from where the last conversation ended: the language model runs only on the tokens that are new.

Where that could change an answer it is not done, see `reuse_rule.py`.

Shape letters: B batch, L sequence.
"""

import copy

import torch
from transformers import Cache, PreTrainedModel

from ..modeling.model_outputs import CACHE_NAME
from .pipeline_samples import Sample, encoder_outputs
from .remembered_videos import Conversation, VideoMemory, common_prefix_length
from .reuse_rule import may_reuse, new_cache


def shared_length(model: PreTrainedModel, samples: list[Sample], generate_kwargs: dict) -> int:
    """How many tokens at the start of all prompts are run once and kept for the next prompts; 0 when the prompts are
    not about the same videos, or have to be run as a whole."""
    keys = samples[0].video_keys
    same_media = all(sample.video_keys == keys and "pixel_values" not in sample.inputs for sample in samples)
    masks = [sample.inputs.get("attention_mask") for sample in samples]
    unpadded = all(mask is not None and mask.all() for mask in masks)  # by the processor
    if not (keys and same_media and unpadded) or None in keys or not may_reuse(model, generate_kwargs, len(samples)):
        return 0
    rows = [sample.inputs["input_ids"][0] for sample in samples]  # each (L,)
    length = len(rows[0]) if len(rows) == 1 else min(common_prefix_length(rows), *(len(row) - 1 for row in rows))
    return length if length >= samples[0].visual_length else 0


def continue_conversation(
    model: PreTrainedModel,
    memory: VideoMemory,
    samples: list[Sample],
    inputs: dict,
    shared: int,
    times_forgotten: int,
    generate_kwargs: dict,
) -> torch.Tensor:
    """Generate, with the keys and values of the last conversation where it fits, and keep the new one.

    Args:
        samples: all about the same videos, which are encoded.
        inputs: the batch made of them. All prompts begin with the same `shared` tokens, which are run once.
        times_forgotten: of the memory, when the samples began.

    Returns:
        The sequences of `generate`, (answers, L).
    """
    token_ids, videos, keys = inputs["input_ids"], samples[0].videos, samples[0].video_keys  # (B, L)
    # At least one token is left to run: `generate` continues from its scores.
    last = memory.take_conversation(token_ids[0, : min(shared, token_ids.shape[1] - 1)].cpu(), keys)
    if last is None:
        cache = new_cache(model)
    else:
        cache, videos = last.cache, videos[len(last.videos) :]
    features = encoder_outputs(videos)
    if len(samples) == 1:
        sequences = model.generate(**inputs, **features, **{CACHE_NAME: cache}, **generate_kwargs)
        kept_ids = sequences[0].cpu()
    else:
        if cache.get_seq_length() < shared:
            new_ids = token_ids[:1, cache.get_seq_length() : shared]  # (1, new tokens)
            model(input_ids=new_ids, **features, **{CACHE_NAME: cache}, use_cache=True, logits_to_keep=1)
        copies = repeat_rows(cache, len(samples))
        sequences = model.generate(**inputs, **{CACHE_NAME: copies}, **generate_kwargs)
        kept_ids = token_ids[0, :shared].cpu()
    memory.keep_conversation(Conversation(kept_ids, keys, samples[0].visual_length, cache), times_forgotten)
    return sequences


def repeat_rows(cache: Cache, times: int) -> Cache:
    """A copy of a cache of plain layers, with every row repeated."""
    result = copy.copy(cache)
    result.layers = [copy.copy(layer) for layer in cache.layers]  # repeating puts new tensors into a layer
    result.batch_repeat_interleave(times)
    return result
