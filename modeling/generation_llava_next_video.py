"""What `generate` of transformers needs to know about placeholders and visual tokens.

Shape letters: B batch, L sequence, D channels, N tokens.
"""

import copy
from functools import wraps

import torch
from packaging.version import Version
from transformers import GenerationMixin, LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers import __version__ as transformers_version
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .model_inputs import is_empty
from .model_outputs import CACHE_NAME


# With `prefill_chunk_size`, which also did not say which chunk is the first.
CHUNKS_GET_NO_FEATURES = Version(transformers_version) < Version("5.23")


class LlavaNextVideoGenerationMixin(GenerationMixin):
    """`generate` of [`LlavaNextVideoForConditionalGeneration`]."""

    @wraps(GenerationMixin.generate)
    def generate(self, *args, **kwargs):
        # transformers writes features of pixels, and features repeated for beams, into the objects it is given.
        if (features := kwargs.get("mm_encoder_outputs")) is not None:
            kwargs["mm_encoder_outputs"] = {modality: copy.copy(output) for modality, output in features.items()}
        return super().generate(*args, **kwargs)

    @wraps(GenerationMixin._prefill)
    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration: bool = True):
        chunk_size = generation_config.prefill_chunk_size
        loses_features = CHUNKS_GET_NO_FEATURES and is_first_iteration and chunk_size is not None
        if loses_features and any((input_ids == token_id).any() for token_id in self.model.placeholder_ids().values()):
            raise ValueError(
                f"A prompt with videos or images was passed with prefill_chunk_size={chunk_size}, but transformers "
                f"{transformers_version} gives chunks no features, so the answer would have nothing to do with them. "
                "Leave prefill_chunk_size out, or install transformers 5.23 or later."
            )
        return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)

    @wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, *args, is_first_iteration: bool | None = False, **kwargs):
        # Two later steps come with the whole sequence and an empty cache: each step without a cache, where the answer
        # so far may contain a placeholder's id, and the first step of an assistant (`assistant_model`), which
        # transformers does not call the first. It passes on no features then. Whether the prompt has all it needs was
        # checked at the first step.
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        ids = inputs.get("input_ids")
        if not is_first_iteration and ids is not None and ids.shape[1] > 1 and is_empty(inputs.get(CACHE_NAME)):
            inputs.pop("mm_encoder_outputs", None)
            embeddings = self.embed_prompt_and_answer(ids, kwargs.get("mm_encoder_outputs") or {})
            inputs |= {"input_ids": None, "inputs_embeds": embeddings}
        return inputs

    def embed_prompt_and_answer(
        self, input_ids: torch.Tensor, features: dict[str, BaseModelOutputWithPooling | None]
    ) -> torch.Tensor:
        """Embed a prompt and its answer so far, (B, L) -> (B, L, D), with features at the prompt's placeholders.

        A placeholder's id in an answer is a word like any other. Features of another width than D, which are another
        model's, are left out.
        """
        embeddings = self.get_input_embeddings()(input_ids)  # (B, L, D)
        for modality, token_id in self.model.placeholder_ids().items():
            if features.get(modality) is None:
                continue
            tokens = torch.cat(tuple(features[modality].pooler_output))  # (N, D)
            if tokens.shape[-1] == embeddings.shape[-1]:
                mask = input_ids == token_id  # (B, L)
                # All N stand in front of the answers, which begin at one column in all rows.
                mask &= mask.sum(0).cumsum(0) <= len(tokens)
                embeddings = embeddings.masked_scatter(mask[..., None].to(embeddings.device), tokens.to(embeddings))
        return embeddings

    def _get_candidate_generator(self, *, logits_processor: LogitsProcessorList, **kwargs):
        # Prompt lookup proposes the words that followed the same words earlier in the prompt, which may be
        # placeholders; at the first step, which brings the features, there would be more placeholders than features.
        # This keeps them out of proposals only: what the model itself may answer does not change.
        placeholders = [self.config.image_token_index, self.config.video_token_index]
        no_placeholders = SuppressTokensLogitsProcessor(placeholders, device=self.device)
        return super()._get_candidate_generator(
            logits_processor=LogitsProcessorList([*logits_processor, no_placeholders]), **kwargs
        )
