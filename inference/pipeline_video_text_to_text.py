"""`pipeline("video-text-to-text")`: answer questions about videos.

What it takes and returns follows transformers' `ImageTextToTextPipeline` (pipelines/image_text_to_text.py).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BatchFeature,
    GenerationConfig,
    Pipeline,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.chat_template_utils import Chat
from transformers.video_utils import is_valid_video

from ..modeling.modeling_llava_next_video import CACHE
from ..processing.chat_messages import checked_conversation, with_media
from .code_export import write_code
from .pipeline_inputs import (
    Given,
    as_chat,
    as_list,
    ends_in_text,
    ends_with_assistant,
    packed,
    prompt_and_videos,
    with_prompt,
    without_datasets,
)
from .remembered_videos import Conversation, RememberedVideo, VideoMemory, common_length, key_of, repeated
from .reuse_rule import may_reuse, new_cache


PROCESSOR_ARGUMENTS = ("num_frames", "fps", "frame_sampling", "do_sample_frames")
# What the pipeline itself passes to `generate`, or does before it.
OWN_ARGUMENTS = {
    "attention_mask",
    "image_sizes",
    "input_ids",
    "inputs",
    "inputs_embeds",
    "mm_encoder_outputs",
    "pixel_values",
    "pixel_values_videos",
    "vision_feature_layer",
    "vision_feature_select_strategy",
}


@dataclass
class Sample:
    """One prompt on its way through the pipeline.

    Args:
        prompt: what the user passed, a question, a prompt with placeholders or the messages of a chat.
        is_question: whether it was put into a chat template for the user, so that only the answer is returned.
        inputs: what the processor made of it, a batch of one, without its videos.
        videos: these, in order.
        again: arguments of `preprocess` to prepare it with once more, should the model change before it is answered;
            `None` where nothing was taken from memory.
        forgotten: how often the memory had been dropped before; once it is dropped again, what was taken is outdated.
        error: why the inputs are empty, with `on_error="return"`.
        sequences (`torch.Tensor` of shape (answers, L)): prompt and answer tokens, after `generate`.
        num_prompt_tokens: how many of them are the prompt, padding included.
    """

    prompt: str | list[dict]
    is_question: bool = False
    inputs: BatchFeature = field(default_factory=BatchFeature)
    videos: Sequence[RememberedVideo] = ()
    again: tuple | None = None
    forgotten: int = 0
    error: Exception | None = None
    sequences: torch.Tensor | None = None
    num_prompt_tokens: int = 0

    @property
    def keys(self) -> list[Hashable]:
        """What tells its videos from others."""
        return [video.key for video in self.videos]


class VideoTextToTextPipeline(Pipeline):
    """Answers questions about videos, continues chats about them, or continues prompts that contain `<video>`.

    >>> from transformers import pipeline
    >>> import llava_next_video
    >>> pipe = pipeline("video-text-to-text", model=llava_next_video.DEMO_CHECKPOINT)
    >>> pipe("demo_model/samples/red_circle_moves_left.mp4", "Which way does the circle move?")
    [{'input_text': 'Which way does the circle move?', 'generated_text': 'The circle moves left.'}]
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(self, model, *args, remembered_videos: int = 8, **kwargs):
        if isinstance(assistant := kwargs.get("assistant_model"), str | Path):
            kwargs.update(load_assistant(str(assistant), model))
        super().__init__(model, *args, **kwargs)
        self.memory = VideoMemory(remembered_videos)

    def forget(self):
        """Drop what is kept of the videos asked about: their visual tokens, and the keys and values of the last prompt.

        For the memory that they take; and after a change of the model that is not noticed (`model_state.py` says which
        are)."""
        self.memory.forget()

    def save_pretrained(self, save_directory, **kwargs):
        """Save model and processor with the code that loads them, for `pipeline(..., trust_remote_code=True)` without
        this package; `kwargs` as of the model's `save_pretrained`.

        Raises:
            ValueError: with `push_to_hub`, which would upload the model alone.
        """
        if kwargs.get("push_to_hub"):
            raise ValueError("The pipeline was to be saved with push_to_hub=True; call its push_to_hub(repository).")
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        write_code(save_directory)

    def __call__(self, videos=None, text=None, **kwargs) -> Any:
        """Answer one question, or many.

        Args:
            videos: a path, URL, bytes, file object, array (frames, height, width, 3) or list of frames; or a list of
                videos. In place of `videos` and `text`: a chat (list of messages), a list of chats, or a list,
                generator or dataset (of torch, or of the library `datasets`) of `{"videos": ..., "text": ...}`,
                `(video, question)` pairs or chats.
            text (`str` or `list[str]`): a question, which is put behind the video into the checkpoint's chat template;
                or a prompt that has its own `<video>` placeholders, which is used as it is. Several questions come
                with as many videos, or with one that they all ask about. One question with several videos asks about
                all of them at once.
            num_frames, fps, frame_sampling, do_sample_frames: which frames are read, instead of the checkpoint's rule.
            processor_kwargs (`dict`): anything else for the processor.
            generate_kwargs (`dict`): arguments of `generate`; they can be passed directly too, `streamer` included.
            return_full_text (`bool`): whether `generated_text` holds the prompt (for a chat: the messages) as well.
                By default it does for chats and prompts, and is the answer alone for questions.
            return_tensors (`bool`): return `generated_token_ids`, prompt included, in place of `generated_text`.
            skip_special_tokens (`bool`, defaults to `True`): leave special tokens out of the text.
            continue_final_message (`bool`): continue the last message of a chat; by default when it is the assistant's.
            on_error (`str`, defaults to `"raise"`): `"raise"` stops at the first prompt or video that cannot be used;
                `"return"` goes on, with `"generated_text": None` and the exception under `"error"` in its place.
            batch_size (`int`, defaults to 1): how many prompts of a list are answered at once.

        Returns:
            A list with one `{"input_text": ..., "generated_text": ...}` for each answer (more than one with
            `num_return_sequences`); for many prompts, a list of these lists, or an iterator for generators and
            datasets.
        """
        if videos is None and text is None:
            raise ValueError("The pipeline got neither `videos` nor `text`; pass a video and a question, or a chat.")
        videos, text = without_datasets(videos), without_datasets(text)
        if text is None:
            return super().__call__(packed(videos), **kwargs)
        if isinstance(text, str) or not isinstance(text, list | tuple):
            return super().__call__(packed({"videos": videos, "text": text}), **kwargs)
        if len(text) > 0 and not isinstance(text[0], str):
            if videos is not None:
                raise ValueError(
                    "The pipeline got `videos` and a chat. Put the videos into the chat's messages, as "
                    "{'type': 'video', 'video': ...} in their `content`."
                )
            return super().__call__(packed(text), **kwargs)
        one_video_for_all = not isinstance(videos, list | tuple) or is_valid_video(videos)
        videos = [videos] * len(text) if one_video_for_all else videos
        if len(videos) != len(text):
            raise ValueError(
                f"The pipeline got {len(text)} texts and {len(videos)} videos. Pass one video, or one for each text."
            )
        return super().__call__(packed([{"videos": v, "text": t} for v, t in zip(videos, text)]), **kwargs)

    def _sanitize_parameters(
        self,
        processor_kwargs: dict | None = None,
        generate_kwargs: dict | None = None,
        return_full_text: bool | None = None,
        return_tensors: bool | None = None,
        skip_special_tokens: bool | None = None,
        continue_final_message: bool | None = None,
        on_error: str | None = None,
        **kwargs,
    ) -> tuple[dict, dict, dict]:
        processor_kwargs = dict(processor_kwargs or {})
        processor_kwargs.update({name: kwargs.pop(name) for name in PROCESSOR_ARGUMENTS if name in kwargs})
        if twice := sorted(kwargs.keys() & (generate_kwargs or {}).keys()):
            raise ValueError(f"The pipeline got {twice} directly and in `generate_kwargs`; pass each once.")
        if return_full_text is not None and return_tensors:
            raise ValueError("The pipeline got `return_full_text` and `return_tensors`; token ids are never cut.")
        generate_kwargs = {**(generate_kwargs or {}), **kwargs}
        if own := sorted(OWN_ARGUMENTS & generate_kwargs.keys()):
            raise ValueError(
                f"The pipeline got {own}, which it makes itself of the video and the question. Leave them out; which "
                "features of the vision tower are used is said in model.config. Or call model.generate."
            )
        if isinstance(assistant := generate_kwargs.get("assistant_model"), str | Path):
            raise ValueError(
                f"The pipeline got assistant_model={str(assistant)!r} in a call; a call takes a model that is loaded. "
                "Pass the folder or name to `pipeline(..., assistant_model=...)`, which loads it once."
            )
        if "stop_strings" in generate_kwargs:
            generate_kwargs["tokenizer"] = self.processor.tokenizer
        chosen = {
            "return_full_text": return_full_text,
            "return_tensors": return_tensors,
            "skip_special_tokens": skip_special_tokens,
        }
        postprocess = {name: value for name, value in chosen.items() if value is not None}
        preprocess = {}
        if continue_final_message is not None:
            preprocess["continue_final_message"] = postprocess["continue_final_message"] = continue_final_message
        if on_error is not None:
            if on_error not in ("raise", "return"):
                raise ValueError(f"The pipeline got on_error={on_error!r}; it is 'raise' or 'return'.")
            preprocess["on_error"] = on_error
        if processor_kwargs:
            preprocess["processor_kwargs"] = processor_kwargs
        return preprocess, {"generate_kwargs": generate_kwargs} if generate_kwargs else {}, postprocess

    def preprocess(
        self,
        inputs,
        processor_kwargs: dict | None = None,
        continue_final_message: bool | None = None,
        on_error: str = "raise",
    ) -> dict:
        inputs = inputs.value if isinstance(inputs, Given) else inputs
        forgotten = self.memory.forgotten
        try:
            sample = self.prepare(inputs, processor_kwargs or {}, continue_final_message)
            sample.forgotten = forgotten
            if any(video.pixels is None for video in sample.videos):
                sample.again = (inputs, processor_kwargs, continue_final_message, on_error)
            return {"samples": sample}
        except (ValueError, TypeError, OSError) as error:
            if on_error == "raise":
                raise
            error.__cause__ = error.__context__ = None  # they, and tracebacks, would hold on to the video
            prompt = inputs.messages if isinstance(inputs, Chat) else inputs
            return {"samples": Sample(prompt, error=error.with_traceback(None))}

    def prepare(self, inputs, processor_kwargs: dict, continue_final_message: bool | None) -> Sample:
        """Make a sample of one input; its videos are read unless they are remembered."""
        prompt, videos = prompt_and_videos(inputs)
        is_question = isinstance(prompt, str) and not self.is_complete(prompt)
        if isinstance(prompt, str) and not is_question:
            videos = as_list(videos)
            self.processor.validate_inputs(text=[prompt], videos=videos)  # before they are read
            known = [self.remember(video, processor_kwargs) for video in videos]
            processed = [video.processed for video in known] or None
            model_inputs = self.processor(text=prompt, videos=processed, **processor_kwargs)
        else:
            messages = checked_conversation(as_chat(prompt, videos) if is_question else prompt)
            messages, known = self.with_known_videos(messages, processor_kwargs)
            carry_on = ends_with_assistant(messages) if continue_final_message is None else continue_final_message
            if carry_on and not ends_in_text(messages):
                raise ValueError(
                    "The last message of the chat was to be continued, but it does not end in a text. Give it a last "
                    "part {'type': 'text', 'text': ...}, or pass continue_final_message=False."
                )
            model_inputs = self.processor.apply_chat_template(
                messages,
                add_generation_prompt=not carry_on,
                continue_final_message=carry_on,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=dict(processor_kwargs),
            )
        model_inputs.pop("pixel_values_videos", None)
        return Sample(prompt, is_question, model_inputs.to(dtype=self.dtype), known)

    def remember(self, video, processor_kwargs: dict) -> RememberedVideo:
        """A video that is remembered, or else read now."""
        key = None
        if self.memory.max_videos:
            video_processor, contents = self.processor.video_processor, video
            if isinstance(video, str) and video.lower().startswith(("http://", "https://")):
                video = video_processor.open_source(address := video)  # what is there may have changed
                video.name = address  # for errors
                contents = video.getbuffer()
            key = key_of(contents, processor_kwargs, video_processor)
        in_worker = get_worker_info() is not None  # whose memory is a copy
        known = None if in_worker else self.memory.find(key)
        if known is None:
            [processed] = self.processor.process_videos(video, **processor_kwargs)
            pixels, processed.pixel_values = processed.pixel_values, processed.pixel_values.to("meta")
            known = RememberedVideo(key, processed, pixels)
            if not in_worker:
                self.memory.keep(known)
        return known

    def with_known_videos(
        self, messages: list[dict], processor_kwargs: dict
    ) -> tuple[list[dict], list[RememberedVideo]]:
        """The messages of a checked chat, with videos in them that need no more reading, and these videos."""
        known = []

        def remembered(source):
            known.append(self.remember(source, processor_kwargs))
            return known[-1].processed

        return with_media(messages, video=remembered), known

    def is_complete(self, prompt: str) -> bool:
        """Whether a text is a whole prompt: it has placeholders, or there is no chat template to put it into."""
        processor = self.processor
        return processor.chat_template is None or processor.video_token in prompt or processor.image_token in prompt

    def _forward(self, model_inputs: dict, generate_kwargs: dict | None = None) -> dict:
        samples = model_inputs["samples"]
        samples = samples if isinstance(samples, list) else [samples]
        if self.memory.max_videos and any(sample.videos for sample in samples):
            self.memory.drop_if_changed(self.model)
            samples = [self.up_to_date(sample) for sample in samples]
        if answerable := [sample for sample in samples if sample.error is None]:
            self.answer(answerable, generate_kwargs or {})
        return {"samples": samples}

    def answer(self, samples: list[Sample], generate_kwargs: dict):
        """Generate, and put the sequences into the samples."""
        if self.assistant_model is not None:
            generate_kwargs = {"assistant_model": self.assistant_model, **generate_kwargs}
            if self.assistant_tokenizer is not None:
                generate_kwargs = {
                    "tokenizer": self.tokenizer, "assistant_tokenizer": self.assistant_tokenizer, **generate_kwargs
                }  # fmt: skip
        forgotten = self.memory.forgotten
        for sample in samples:
            for video in sample.videos:
                self.encode(video, forgotten)
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs, return_dict_in_generate=False)
        shared = self.shared_length(samples, generate_kwargs)
        inputs = self.ensure_tensor_on_device(**self.join([sample.inputs for sample in samples], shared))
        if shared:
            sequences = self.continue_conversation(inputs, shared, samples, generate_kwargs, forgotten)
        else:
            videos = [video for sample in samples for video in sample.videos]
            sequences = self.model.generate(**inputs, **as_features(videos), **generate_kwargs)
        for sample, of_sample in zip(samples, sequences.unflatten(0, (len(samples), -1)).cpu()):
            sample.sequences, sample.num_prompt_tokens = of_sample, inputs["input_ids"].shape[1]

    def up_to_date(self, sample: Sample) -> Sample:
        """The sample; with its videos read once more where the visual tokens taken from memory are those of a model
        that has changed since. A video that cannot be read any more is treated as `preprocess` treats it."""
        outdated = sample.again is not None and sample.forgotten != self.memory.forgotten
        return self.preprocess(*sample.again)["samples"] if outdated else sample

    def encode(self, video: RememberedVideo, forgotten: int):
        """Make a video's visual tokens; its pixels are not needed afterwards. `forgotten` as in `VideoMemory.keep`."""
        pixels = video.pixels  # read before the tokens are looked for: another thread may be doing the same
        if video.tokens is None:
            known = self.memory.find(video.key)  # another object, when videos are prepared in worker processes
            if known is not None and known.tokens is not None:
                video.tokens = known.tokens
            else:
                [video.tokens] = self.model.get_video_features([pixels.to(self.device, self.dtype)]).pooler_output
            video.pixels = None
            self.memory.keep(video, forgotten)

    def shared_length(self, samples: list[Sample], generate_kwargs: dict) -> int:
        """How many tokens at the start of all prompts are run once, and kept for the next ones; 0 when the prompts are
        not about the same videos, or are answered in a way that has to run all of them."""
        keys = samples[0].keys
        same = all(sample.keys == keys and "pixel_values" not in sample.inputs for sample in samples)
        masks = [sample.inputs.get("attention_mask") for sample in samples]
        whole = all(mask is not None and mask.all() for mask in masks)  # no padding of the processor's
        if not (keys and same and whole) or None in keys or not may_reuse(self.model, generate_kwargs, len(samples)):
            return 0
        rows = [sample.inputs["input_ids"][0] for sample in samples]
        length = len(rows[0]) if len(rows) == 1 else min(common_length(rows), *(len(row) - 1 for row in rows))
        return length if length >= self.visual_length(rows[0]) else 0

    def visual_length(self, token_ids: torch.Tensor) -> int:
        """Tokens (L,) up to the end of the last video."""
        return int((token_ids == self.processor.video_token_id).nonzero().max()) + 1

    def continue_conversation(
        self, inputs: dict, shared: int, samples: list[Sample], generate_kwargs: dict, forgotten: int
    ) -> torch.Tensor:
        """Generate from where the last conversation can be taken up, and keep what is said now for the next time.

        Prompts that are one batch begin with the same `shared` tokens, which are run once."""
        token_ids, videos, keys = inputs["input_ids"], samples[0].videos, samples[0].keys
        visual_length = self.visual_length(token_ids[0, :shared])
        # One token at least is left to be run, to have something to continue.
        known = self.memory.take_conversation(token_ids[0, : min(shared, token_ids.shape[1] - 1)].cpu(), keys)
        if known is None:
            cache = new_cache(self.model)
        else:
            cache, videos = known.cache, videos[len(known.videos) :]
        features = as_features(videos)
        if len(samples) == 1:
            sequences = self.model.generate(**inputs, **features, **{CACHE: cache}, **generate_kwargs)
            said = sequences[0].cpu()
        else:
            if cache.get_seq_length() < shared:
                new = token_ids[:1, cache.get_seq_length() : shared]
                self.model(input_ids=new, **features, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
            copies = repeated(cache, len(samples))
            sequences = self.model.generate(**inputs, **{CACHE: copies}, **generate_kwargs)
            said = token_ids[0, :shared].cpu()
        self.memory.keep_conversation(Conversation(said, keys, visual_length, cache), forgotten)
        return sequences

    def join(self, inputs: list[BatchFeature], shared: int = 0) -> dict:
        """Make one batch of the inputs of several prompts: token rows padded on the left, or behind the first `shared`
        tokens; images one after another."""
        if len(inputs) == 1:
            return dict(inputs[0])
        batch = {}
        longest = max(row["input_ids"].shape[1] for row in inputs)
        for name in dict.fromkeys(name for row in inputs for name in row):
            values = [row[name] for row in inputs if name in row]
            if name in self.processor.tokenizer.model_input_names:
                pad = self.processor.tokenizer.pad_token_id if name == "input_ids" else 0
                batch[name] = torch.cat(
                    [
                        torch.cat([v[:, :shared], v.new_full((1, longest - v.shape[1]), pad), v[:, shared:]], dim=1)
                        for v in values
                    ]
                )
            else:
                items = [item for value in values for item in value]
                alike = len({item.shape for item in items}) == 1
                batch[name] = torch.stack(items) if alike else items
        return batch

    def postprocess(
        self,
        model_outputs: dict,
        return_full_text: bool | None = None,
        return_tensors: bool = False,
        skip_special_tokens: bool = True,
        continue_final_message: bool | None = None,
    ) -> list[dict]:
        samples = model_outputs["samples"]
        sample = samples[0] if isinstance(samples, list) else samples
        if sample.error is not None:
            return [{"input_text": sample.prompt, "generated_text": None, "error": sample.error}]
        if return_tensors:
            return [{"input_text": sample.prompt, "generated_token_ids": ids} for ids in sample.sequences]
        whole = not sample.is_question if return_full_text is None else return_full_text
        # Decoded with the prompt in front, so that an answer keeps the space it may begin with.
        decode = self.processor.tokenizer.decode
        prompt = decode(sample.sequences[0, : sample.num_prompt_tokens], skip_special_tokens=skip_special_tokens)
        records = []
        for ids in sample.sequences:
            answer = decode(ids, skip_special_tokens=skip_special_tokens)[len(prompt) :]
            if sample.is_question:
                answer = answer.strip()
            text = with_prompt(sample.prompt, answer, continue_final_message) if whole else answer
            records.append({"input_text": sample.prompt, "generated_text": text})
        return records


def load_assistant(source: str, model: PreTrainedModel) -> dict:
    """Arguments of a pipeline of `model` for an assistant model in a folder or on the Hub. transformers finds it by
    itself, unless it is one of ours: for the name of its class transformers has the built-in's."""
    if AutoConfig.from_pretrained(source).model_type != model.config.model_type:
        return {"assistant_model": source}
    assistant = AutoModelForImageTextToText.from_pretrained(source).to(model.device, model.dtype).eval()
    return {"assistant_model": assistant, "assistant_tokenizer": AutoTokenizer.from_pretrained(source)}


def as_features(videos: Sequence[RememberedVideo]) -> dict:
    """Encoded videos, as the model takes them."""
    if not videos:
        return {}
    tokens = tuple(video.tokens for video in videos)
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=tokens)}}
