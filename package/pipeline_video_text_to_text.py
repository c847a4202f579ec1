"""`pipeline("video-text-to-text")`: answer questions about videos.

What it takes and returns follows transformers' `ImageTextToTextPipeline` (pipelines/image_text_to_text.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import BatchFeature, GenerationConfig, Pipeline
from transformers.utils.chat_template_utils import Chat, is_valid_message
from transformers.video_utils import is_valid_video


PROCESSOR_ARGUMENTS = ("num_frames", "fps", "frame_sampling", "do_sample_frames")


@dataclass
class Sample:
    """One prompt on its way through the pipeline.

    Args:
        prompt: what the user passed, a question, a prompt with placeholders or the messages of a chat.
        is_question: whether it was put into a chat template for the user, so that only the answer is returned.
        inputs: what the processor made of it, a batch of one.
        sequences (`torch.Tensor` of shape (answers, L)): prompt and answer tokens, after `generate`.
        num_prompt_tokens: how many of them are the prompt, padding included.
    """

    prompt: str | list[dict]
    is_question: bool
    inputs: BatchFeature
    sequences: torch.Tensor | None = None
    num_prompt_tokens: int = 0


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

    def __call__(self, videos=None, text=None, **kwargs):
        """Answer one question, or many.

        Args:
            videos: a path, URL, bytes, file object, array (frames, height, width, 3) or list of frames; or a list of
                videos. In place of `videos` and `text`: a chat (list of messages), a list of chats, or a list,
                generator or dataset of `{"videos": ..., "text": ...}`, `(video, question)` pairs or chats.
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
            batch_size (`int`, defaults to 1): how many prompts of a list are answered at once.

        Returns:
            A list with one `{"input_text": ..., "generated_text": ...}` for each answer (more than one with
            `num_return_sequences`); for many prompts, a list of these lists, or an iterator for generators and
            datasets.
        """
        if videos is None and text is None:
            raise ValueError("The pipeline got neither `videos` nor `text`; pass a video and a question, or a chat.")
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
        if processor_kwargs:
            preprocess["processor_kwargs"] = processor_kwargs
        return preprocess, {"generate_kwargs": generate_kwargs} if generate_kwargs else {}, postprocess

    def preprocess(self, inputs, processor_kwargs: dict | None = None, continue_final_message: bool | None = None):
        prompt, videos = unpack(inputs)
        is_question = isinstance(prompt, str) and not self.is_complete(prompt)
        if isinstance(prompt, str) and not is_question:
            model_inputs = self.processor(text=prompt, videos=videos, **(processor_kwargs or {}))
        else:
            messages = as_chat(prompt, videos) if is_question else prompt
            carry_on = ends_with_assistant(messages) if continue_final_message is None else continue_final_message
            model_inputs = self.processor.apply_chat_template(
                messages,
                add_generation_prompt=not carry_on,
                continue_final_message=carry_on,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=dict(processor_kwargs or {}),
            )
        return {"samples": Sample(prompt, is_question, model_inputs.to(dtype=self.dtype))}

    def is_complete(self, prompt: str) -> bool:
        """Whether a text is a whole prompt: it has placeholders, or there is no chat template to put it into."""
        processor = self.processor
        return processor.chat_template is None or processor.video_token in prompt or processor.image_token in prompt

    def _forward(self, model_inputs: dict, generate_kwargs: dict | None = None) -> dict:
        samples = model_inputs["samples"]
        samples = samples if isinstance(samples, list) else [samples]
        inputs = samples[0].inputs if len(samples) == 1 else self.join([sample.inputs for sample in samples])
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs or {}, return_dict_in_generate=False)
        sequences = self.model.generate(**self.ensure_tensor_on_device(**inputs), **generate_kwargs)
        for sample, of_sample in zip(samples, sequences.unflatten(0, (len(samples), -1)).cpu()):
            sample.sequences, sample.num_prompt_tokens = of_sample, inputs["input_ids"].shape[1]
        return {"samples": samples}

    def join(self, inputs: list[BatchFeature]) -> dict:
        """Make one batch of the inputs of several prompts: token rows padded on the left, media one after another."""
        batch = {}
        longest = max(row["input_ids"].shape[1] for row in inputs)
        for name in dict.fromkeys(name for row in inputs for name in row):
            values = [row[name] for row in inputs if name in row]
            if name in self.processor.tokenizer.model_input_names:
                pad = self.processor.tokenizer.pad_token_id if name == "input_ids" else 0
                padded = [torch.nn.functional.pad(v, (longest - v.shape[1], 0), value=pad) for v in values]
                batch[name] = torch.cat(padded)
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


def as_chat(question: str, videos) -> list[dict]:
    """Put a question behind its videos into a chat of one message."""
    if videos is None:
        videos = []
    elif not isinstance(videos, list | tuple) or is_valid_video(videos):
        videos = [videos]
    media = [{"type": "video", "video": video} for video in videos]
    return [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]


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
