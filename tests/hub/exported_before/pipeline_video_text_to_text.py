"""`pipeline("video-text-to-text")`: answer questions about videos.

What it takes and returns follows transformers' `ImageTextToTextPipeline` (pipelines/image_text_to_text.py).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import BatchFeature, DynamicCache, GenerationConfig, Pipeline
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.chat_template_utils import Chat, is_valid_message
from transformers.video_utils import is_valid_video

from .remembered_videos import Conversation, RememberedVideo, VideoMemory, common_length, key_of, repeated


PROCESSOR_ARGUMENTS = ("num_frames", "fps", "frame_sampling", "do_sample_frames")
SEQUENCES_THAT_ARE_NO_COLUMNS = (list, tuple, str, bytes, bytearray, memoryview)
VIDEO_KEYS = ("video", "url", "path")  # of a video in a message
# Ways of generating that keep keys and values elsewhere, or take and leave them otherwise.
OTHER_WAYS = (
    "assistant_early_exit",
    "assistant_model",
    "cache_implementation",
    "constraints",
    "custom_generate",
    "force_words_ids",
    "guidance_scale",
    "past_key_values",
    "penalty_alpha",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
)


@dataclass
class Sample:
    """One prompt on its way through the pipeline.

    Args:
        prompt: what the user passed, a question, a prompt with placeholders or the messages of a chat.
        is_question: whether it was put into a chat template for the user, so that only the answer is returned.
        inputs: what the processor made of it, a batch of one, without its videos.
        videos: these, in order.
        error: why there are no inputs, with `on_error="return"`.
        sequences (`torch.Tensor` of shape (answers, L)): prompt and answer tokens, after `generate`.
        num_prompt_tokens: how many of them are the prompt, padding included.
    """

    prompt: str | list[dict]
    is_question: bool = False
    inputs: BatchFeature | None = None
    videos: Sequence[RememberedVideo] = ()
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

    # Writes everything but the weights, code included; set by the package (hub_export.py). Code that was exported with
    # a checkpoint copies itself.
    write_settings = None

    def __init__(self, *args, remembered_videos: int = 8, **kwargs):
        super().__init__(*args, **kwargs)
        self.memory = VideoMemory(remembered_videos)

    def forget(self):
        """Drop what is kept of the videos asked about: their visual tokens, and the keys and values of the last prompt.

        Needed when the model's weights change, or what is behind a URL; or for the memory."""
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
        if self.write_settings is None:
            self.processor.save_pretrained(save_directory)
            custom_object_save(self, save_directory)
        else:
            self.write_settings(Path(save_directory), self.model.config, self.model.generation_config, self.processor)

    def __call__(self, videos=None, text=None, **kwargs):
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
            return super().__call__(videos, **kwargs)
        if not isinstance(text, str) and len(text) > 0 and not isinstance(text[0], str):
            if videos is not None:
                raise ValueError(
                    "The pipeline got `videos` and a chat. Put the videos into the chat's messages, as "
                    "{'type': 'video', 'video': ...} in their `content`."
                )
            return super().__call__(text, **kwargs)
        if isinstance(text, str):
            return super().__call__({"videos": videos, "text": text}, **kwargs)
        one_video_for_all = not isinstance(videos, list | tuple) or is_valid_video(videos)
        videos = [videos] * len(text) if one_video_for_all else videos
        if len(videos) != len(text):
            raise ValueError(
                f"The pipeline got {len(text)} texts and {len(videos)} videos. Pass one video, or one for each text."
            )
        return super().__call__([{"videos": v, "text": t} for v, t in zip(videos, text)], **kwargs)

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
        try:
            return {"samples": self.prepare(inputs, processor_kwargs or {}, continue_final_message)}
        except (ValueError, TypeError, OSError) as error:
            if on_error == "raise":
                raise
            error.__cause__ = error.__context__ = None  # they, and tracebacks, would hold on to the video
            prompt = inputs.messages if isinstance(inputs, Chat) else inputs
            return {"samples": Sample(prompt, error=error.with_traceback(None))}

    def prepare(self, inputs, processor_kwargs: dict, continue_final_message: bool | None) -> Sample:
        """Make a sample of one input; its videos are read unless they are remembered."""
        prompt, videos = unpack(inputs)
        is_question = isinstance(prompt, str) and not self.is_complete(prompt)
        if isinstance(prompt, str) and not is_question:
            videos = as_list(videos)
            self.processor.validate_inputs(text=[prompt], videos=videos)  # before they are read
            known = [self.remember(video, processor_kwargs) for video in videos]
            processed = [video.processed for video in known] or None
            model_inputs = self.processor(text=prompt, videos=processed, **processor_kwargs)
        else:
            messages = as_chat(prompt, videos) if is_question else prompt
            messages, known = self.with_known_videos(messages, processor_kwargs)
            carry_on = ends_with_assistant(messages) if continue_final_message is None else continue_final_message
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
        key = key_of(video, processor_kwargs) if self.memory.max_videos else None
        known = self.memory.find(key)
        if known is None:
            [processed] = self.processor.process_videos(video, **processor_kwargs)
            pixels, processed.pixel_values = processed.pixel_values, processed.pixel_values.to("meta")
            known = RememberedVideo(key, processed, pixels)
            self.memory.keep(known)
        return known

    def with_known_videos(
        self, messages: list[dict], processor_kwargs: dict
    ) -> tuple[list[dict], list[RememberedVideo]]:
        """The messages, with videos in them that need no more reading, and these videos."""
        result, known = [], []
        for message in messages:
            content = message.get("content")
            if isinstance(content, list):
                content = list(content)
                for position, part in enumerate(content):
                    if part.get("type") == "video":
                        source = next((part[name] for name in VIDEO_KEYS if part.get(name) is not None), None)
                        known.append(self.remember(source, processor_kwargs))
                        content[position] = {"type": "video", "video": known[-1].processed}
            result.append({**message, "content": content})
        return result, known

    def is_complete(self, prompt: str) -> bool:
        """Whether a text is a whole prompt: it has placeholders, or there is no chat template to put it into."""
        processor = self.processor
        return processor.chat_template is None or processor.video_token in prompt or processor.image_token in prompt

    def _forward(self, model_inputs: dict, generate_kwargs: dict | None = None) -> dict:
        samples = model_inputs["samples"]
        samples = samples if isinstance(samples, list) else [samples]
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
        for sample in samples:
            for video in sample.videos:
                self.encode(video)
        rows = [sample.inputs["input_ids"][0] for sample in samples]
        shared = self.shared_length(rows, samples, generate_kwargs)
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs, return_dict_in_generate=False)
        inputs = self.ensure_tensor_on_device(**self.join([sample.inputs for sample in samples], shared))
        if shared:
            sequences = self.continue_conversation(inputs, shared, samples, generate_kwargs)
        else:
            videos = [video for sample in samples for video in sample.videos]
            sequences = self.model.generate(**inputs, **as_features(videos), **generate_kwargs)
        for sample, of_sample in zip(samples, sequences.unflatten(0, (len(samples), -1)).cpu()):
            sample.sequences, sample.num_prompt_tokens = of_sample, inputs["input_ids"].shape[1]

    def encode(self, video: RememberedVideo):
        """Make a video's visual tokens; its pixels are not needed afterwards."""
        pixels = video.pixels  # read before the tokens are looked for: another thread may be doing the same
        if video.tokens is None:
            known = self.memory.find(video.key)  # another object, when videos are prepared in worker processes
            if known is not None and known.tokens is not None:
                video.tokens = known.tokens
            else:
                [video.tokens] = self.model.get_video_features([pixels.to(self.device, self.dtype)]).pooler_output
            video.pixels = None
            self.memory.keep(video)

    def shared_length(self, rows: list[torch.Tensor], samples: list[Sample], generate_kwargs: dict) -> int:
        """How many tokens at the start of all prompts are run once, and kept for the next ones; 0 when the prompts are
        not about the same videos, or are answered in a way that has its own keys and values."""
        settings = self._get_set_generation_params(generate_kwargs)
        usual = not any(settings.get(name) for name in OTHER_WAYS) and settings.get("use_cache") is not False
        single = all(settings.get(name) in (None, 1) for name in ("num_beams", "num_return_sequences"))
        keys = samples[0].keys
        same = all(sample.keys == keys and "pixel_values" not in sample.inputs for sample in samples)
        if not (usual and single and same and keys) or None in keys:
            return 0
        length = len(rows[0]) if len(rows) == 1 else min(common_length(rows), *(len(row) - 1 for row in rows))
        return length if length >= self.visual_length(rows[0]) else 0

    def visual_length(self, token_ids: torch.Tensor) -> int:
        """Tokens (L,) up to the end of the last video."""
        return int((token_ids == self.processor.video_token_id).nonzero().max()) + 1

    def continue_conversation(
        self, inputs: dict, shared: int, samples: list[Sample], generate_kwargs: dict
    ) -> torch.Tensor:
        """Generate from where the last conversation can be taken up, and keep what is said now for the next time.

        Prompts that are one batch begin with the same `shared` tokens, which are run once."""
        token_ids, videos, keys = inputs["input_ids"], samples[0].videos, samples[0].keys
        visual_length = self.visual_length(token_ids[0, :shared])
        # One token at least is left to be run, to have something to continue.
        known = self.memory.take_conversation(token_ids[0, : min(shared, token_ids.shape[1] - 1)].cpu(), keys)
        if known is None:
            cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        else:
            cache, videos = known.cache, videos[len(known.videos) :]
        features = as_features(videos)
        if len(samples) == 1:
            sequences = self.model.generate(**inputs, **features, past_key_values=cache, **generate_kwargs)
            said = sequences[0].cpu()
        else:
            if cache.get_seq_length() < shared:
                new = token_ids[:1, cache.get_seq_length() : shared]
                self.model(input_ids=new, **features, past_key_values=cache, use_cache=True, logits_to_keep=1)
            copies = repeated(cache, len(samples))
            sequences = self.model.generate(**inputs, past_key_values=copies, **generate_kwargs)
            said = token_ids[0, :shared].cpu()
        if not any(cache.is_sliding):  # a window cannot be taken back
            self.memory.keep_conversation(Conversation(said, keys, visual_length, cache))
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


class Rows(Dataset):
    """A dataset of the library `datasets`, as torch has them."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        return self.rows[index]


def without_datasets(values):
    """What the base class takes, for a table or a column of the library `datasets`; everything else as it is."""
    if hasattr(values, "column_names"):
        return Rows(values) if hasattr(values, "__len__") else (row for row in values)
    column = isinstance(values, Sequence) and not isinstance(values, SEQUENCES_THAT_ARE_NO_COLUMNS)
    return list(values) if column else values


def unpack(inputs) -> tuple[str | list[dict], object]:
    """Split one input of the pipeline into its prompt (text or messages) and its videos, or None."""
    if isinstance(inputs, Chat):
        return list(inputs.messages), None
    if isinstance(inputs, list | tuple) and inputs and is_valid_message(inputs[0]):
        return list(inputs), None
    if isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[1], str):
        return inputs[1], inputs[0]
    if isinstance(inputs, Mapping) and isinstance(inputs.get("text"), str):
        unknown = sorted(inputs.keys() - {"text", "video", "videos"})
        if not unknown and not {"video", "videos"} <= inputs.keys():
            return inputs["text"], inputs.get("videos", inputs.get("video"))
    what = repr(inputs) if isinstance(inputs, str) else type(inputs).__name__
    what = f"the keys {sorted(inputs)}" if isinstance(inputs, Mapping) else what
    raise ValueError(
        f"The pipeline got {what} where a prompt was expected. Pass a video and a question, "
        "{'videos': ..., 'text': ...}, or a chat: [{'role': 'user', 'content': [...]}]."
    )


def as_list(videos) -> list:
    """The videos of one prompt: none, one, a list of them, or an array (videos, frames, height, width, 3)."""
    if videos is None:
        return []
    if isinstance(videos, list | tuple) and not videos:
        raise ValueError("The pipeline got an empty list where a video was expected. Pass a video, or `text` alone.")
    several = isinstance(videos, list | tuple) and not is_valid_video(videos)
    return list(videos) if several or getattr(videos, "ndim", 0) == 5 else [videos]


def as_chat(question: str, videos) -> list[dict]:
    """Put a question behind its videos into a chat of one message."""
    media = [{"type": "video", "video": video} for video in as_list(videos)]
    return [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]


def as_features(videos: Sequence[RememberedVideo]) -> dict:
    """Encoded videos, as the model takes them."""
    if not videos:
        return {}
    tokens = tuple(video.tokens for video in videos)
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=tokens)}}


def ends_with_assistant(messages: list[dict]) -> bool:
    return messages[-1]["role"] == "assistant"


def with_prompt(prompt: str | list[dict], answer: str, continue_final_message: bool | None) -> str | list[dict]:
    """A prompt followed by its answer: text after text; in a chat a new message, or a longer last message."""
    if isinstance(prompt, str):
        return prompt + answer
    if not (ends_with_assistant(prompt) if continue_final_message is None else continue_final_message):
        return [*prompt, {"role": "assistant", "content": answer}]
    *earlier, last = prompt
    content = last["content"]
    if isinstance(content, str):
        content = content + answer
    else:
        content = [*content[:-1], {**content[-1], "text": content[-1]["text"] + answer}]
    return [*earlier, {**last, "content": content}]
