"""The model in vLLM: vLLM's own wrapper for models of transformers, with what it does not know about videos.

That is the number of frames to plan memory for (vLLM plans for 16), and sentences about the times of frames, which need
metadata and are tokenized together with the text after them. vLLM imports this module by name (`vllm_plugin.py`). It
uses parts of vLLM that may change: docs/guides/serving.md lists the versions that were run.
"""

from bisect import bisect_right
from functools import cached_property

from vllm.model_executor.models.transformers import (  # pyright: ignore[reportMissingImports]
    TransformersMultiModalForCausalLM,
)
from vllm.model_executor.models.transformers.multimodal import (  # pyright: ignore[reportMissingImports]
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY  # pyright: ignore[reportMissingImports]
from vllm.multimodal.processing import PromptUpdateDetails  # pyright: ignore[reportMissingImports]

from llava_next_video.serving.vllm_prompts import (
    check_says_no_times,
    ids_joined_with,
    is_followed_by,
    says_times,
    with_first_token,
)
from llava_next_video.serving.vllm_videos import with_times


class ProcessingInfo(MultiModalProcessingInfo):
    """Answers vLLM's questions about videos before it gets any."""

    @cached_property
    def says_times(self) -> bool:
        return says_times(self.get_hf_processor(), self.ctx.get_merged_mm_kwargs({}))

    @cached_property
    def _video_needs_metadata(self) -> bool:
        return self.says_times or super()._video_needs_metadata

    def get_num_frames_with_most_features(self, seq_len, mm_counts) -> int:
        """The number of frames that vLLM plans memory for: as many as are read of a video, but no more than fit into a
        prompt."""
        num_frames = self.ctx.get_mm_config().media_io_kwargs.get("video", {}).get("num_frames", -1)
        longest = seq_len // max(mm_counts.get("video", 0), 1)
        most = num_frames if num_frames > 0 else longest  # a frame is one token or more
        return max(1, bisect_right(range(1, most + 1), longest, key=self._get_max_video_tokens_for_frames))


class DummyInputsBuilder(MultiModalDummyInputsBuilder):
    """The videos that vLLM makes up to measure memory."""

    def get_dummy_mm_data(self, *args, **kwargs):
        data = super().get_dummy_mm_data(*args, **kwargs)
        if self.info.says_times and "video" in data:
            # One frame a second: the checkpoint may have no `fps`, and without one frames have no times.
            data["video"] = [
                (frames, {**metadata, "fps": 1.0, "duration": float(len(frames))}) for frames, metadata in data["video"]
            ]
        return data


class Processor(MultiModalProcessor):
    """Passes videos and their times to our processor, and puts its replacements into prompts."""

    def _get_hf_mm_inputs(self, mm_items, hf_kwargs):
        inputs = super()._get_hf_mm_inputs(mm_items, hf_kwargs)
        if not self.info.says_times:
            check_says_no_times(self.info.get_hf_processor(), hf_kwargs)
        if metadata := inputs.hf_data.get("video_metadata"):
            inputs.hf_data["video_metadata"] = [with_times(each) for each in metadata]
        return inputs

    def _get_mm_prompt_updates(self, *args):
        """Put features where placeholders are. vLLM takes the most frequent token of a replacement for the placeholder,
        but in a short video's replacement the sentence about times may have more full stops."""
        processor = self.info.get_hf_processor()
        tokens = {"image": processor.image_token_id, "video": processor.video_token_id}
        return {
            modality: [
                [update.with_content(with_features(update.content.full, tokens[modality])) for update in updates]
                for updates in items
            ]
            for modality, items in super()._get_mm_prompt_updates(*args).items()
        }

    def _postprocess_prompt(self, prompt):
        return with_first_token(prompt, self.info.get_tokenizer())

    def _apply_token_matches_with_placeholders(self, token_ids, mm_prompt_updates):
        """Where the end of a sentence about times and the newline after it are one token, replace both."""
        if self.info.says_times and "video" in mm_prompt_updates:
            videos = self._updates_with_newlines(token_ids, mm_prompt_updates["video"])
            mm_prompt_updates = {**mm_prompt_updates, "video": videos}
        return super()._apply_token_matches_with_placeholders(token_ids, mm_prompt_updates)

    def _updates_with_newlines(self, token_ids, updates_of_videos):
        tokenizer = self.info.get_tokenizer()
        token = self.info.get_hf_processor().video_token_id
        newline = tokenizer.encode("\n", add_special_tokens=False)
        positions = [index for index, each in enumerate(token_ids) if each == token]
        changed = []
        for number, updates in enumerate(updates_of_videos):
            if number < len(positions) and is_followed_by(token_ids, positions[number], newline):
                joined = [ids_joined_with("\n", update.content.full, token, tokenizer) for update in updates]
                updates = [
                    update.with_target([token, *newline]).with_content(with_features(ids, token))
                    for update, ids in zip(updates, joined)
                ]
            changed.append(updates)
        return changed


def with_features(replacement: list[int], placeholder: int) -> PromptUpdateDetails:
    """Ids that replace a video or image, with features in place of every `placeholder`."""
    return PromptUpdateDetails.select_token_id(replacement, placeholder)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=ProcessingInfo, dummy_inputs=DummyInputsBuilder)
class LlavaNextVideoForVllm(TransformersMultiModalForCausalLM):
    """LLaVA-NeXT-Video in vLLM."""
