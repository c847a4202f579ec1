"""`pipeline("video-text-to-text")`: answer questions about videos.

A call goes through `preprocess` (read the videos, write the prompt), `_forward` (encode the videos, generate) and
`postprocess` (decode the answer); the videos of later prompts are read meanwhile (`read_ahead.py`). What it takes and
returns follows transformers' `ImageTextToTextPipeline` (pipelines/image_text_to_text.py).
"""

from collections.abc import Hashable, Sized
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import get_worker_info
from transformers import GenerationConfig, Pipeline
from transformers.utils.chat_template_utils import Chat

from ..processing.chat_messages import checked_conversation, with_media
from .code_export import write_code
from .continued_conversation import continue_conversation, shared_lengths
from .offloaded_models import without_disk
from .pipeline_inputs import (
    as_chat,
    as_list,
    ends_in_text,
    ends_with_assistant,
    inputs_of_call,
    load_assistant,
    prompt_and_videos,
    sort_arguments,
    unpacked,
    with_prompt,
)
from .pipeline_samples import ReadPrompt, Sample, encoder_outputs, join_inputs
from .read_ahead import DEFAULT_READ_AHEAD, Answers, BeingRead, ReadAheadItems, ReadAheadStream
from .remembered_videos import RememberedVideo, VideoMemory
from .video_fingerprints import key_of_what_was_read, video_key


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
        with without_disk(model):
            super().__init__(model, *args, **kwargs)
        self.memory = VideoMemory(remembered_videos)

    def forget(self):
        """Drop what is kept of earlier videos: their visual tokens, and the keys and values of the last prompt.

        This frees their memory. It is also needed after a change of the model that is not noticed (`model_state.py`
        says which are)."""
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
        if self.model.should_save_on_this_rank(kwargs.get("is_main_process", True)):  # as the model does
            self.processor.save_pretrained(save_directory)
            write_code(save_directory)

    def __call__(self, videos=None, text=None, **kwargs) -> Any:
        """Answer one question, or many.

        Args:
            videos: a path, URL, bytes, file object, array (frames, height, width, 3) or list of frames; or a list of
                videos. In place of `videos` and `text`: a chat (list of messages), a list of chats, or a list,
                generator or dataset (of torch, or of the library `datasets`) of `{"videos": ..., "text": ...}`,
                `(video, question)` pairs or chats.
            text (`str` or `list[str]`): a question, which goes after the video into the checkpoint's chat template;
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
            read_ahead (`int`, defaults to 4, or `batch_size` if that is more): of how many prompts of a list, generator
                or dataset the videos are read, by threads, before it is their turn; 0 reads them when it is. A
                generator is asked for its items that much earlier.

        Returns:
            A list with one `{"input_text": ..., "generated_text": ...}` for each answer (more than one with
            `num_return_sequences`); for many prompts, a list of these lists, or an iterator for generators and
            datasets.
        """
        return super().__call__(inputs_of_call(videos, text), **kwargs)

    def _sanitize_parameters(self, **kwargs) -> tuple[dict, dict, dict]:
        return sort_arguments(self.processor, **kwargs)

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        preprocess_params = dict(preprocess_params)
        ahead = preprocess_params.pop("read_ahead", max(DEFAULT_READ_AHEAD, batch_size))
        params = (num_workers, batch_size, preprocess_params, forward_params, postprocess_params)
        if ahead == 0 or num_workers > 0:  # processes read ahead by themselves
            return super().get_iterator(inputs, *params)
        read = partial(self.read, processor_kwargs=preprocess_params.get("processor_kwargs"))
        inputs = (ReadAheadItems if isinstance(inputs, Sized) else ReadAheadStream)(inputs, read, ahead)
        return Answers(super().get_iterator(inputs, *params), inputs)

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        preprocess_params = {name: value for name, value in preprocess_params.items() if name != "read_ahead"}
        return super().run_single(inputs, preprocess_params, forward_params, postprocess_params)

    def preprocess(
        self,
        inputs,
        processor_kwargs: dict | None = None,
        continue_final_message: bool | None = None,
        on_error: str = "raise",
    ) -> dict:
        if isinstance(inputs, BeingRead):
            inputs, read = inputs.result()
        else:
            read = partial(self.read, inputs, processor_kwargs)
        inputs = unpacked(inputs)
        try:
            sample = self.write(read(), processor_kwargs, continue_final_message)
            if any(pixels is None for pixels in sample.pixels):
                sample.preprocess_arguments = (inputs, processor_kwargs, continue_final_message, on_error)
            return {"samples": sample}
        except (ValueError, TypeError, OSError) as error:
            if on_error == "raise":
                raise
            error.__cause__ = error.__context__ = None  # they, and tracebacks, would keep the video in memory
            prompt = inputs.messages if isinstance(inputs, Chat) else inputs
            return {"samples": Sample(prompt, error=error.with_traceback(None))}

    def read(self, inputs, processor_kwargs: dict | None = None) -> ReadPrompt:
        """Read the videos of one input, unless they are remembered. Several threads may do so at a time."""
        times_forgotten = self.memory.times_forgotten
        prompt, videos = prompt_and_videos(unpacked(inputs))
        is_question = isinstance(prompt, str) and not self.is_complete(prompt)
        read = ReadPrompt(prompt, is_question, times_forgotten=times_forgotten)

        def read_video(source):
            video = self.find_or_read(source, processor_kwargs or {})
            read.add(video, source)
            return video.processed

        if isinstance(prompt, str) and not is_question:
            videos = as_list(videos)
            self.processor.validate_inputs(text=[prompt], videos=videos)  # before they are read
            for video in videos:
                read_video(video)
        else:
            messages = as_chat(prompt, videos) if is_question else prompt
            read.messages = with_media(checked_conversation(messages), video=read_video)
        return read

    def write(self, read: ReadPrompt, processor_kwargs: dict | None, continue_final_message: bool | None) -> Sample:
        """Write a prompt for the model, in the caller's thread: a tokenizer is used by one at a time."""
        processor_kwargs = processor_kwargs or {}
        if read.messages is None:
            processed = [video.processed for video in read.videos] or None
            model_inputs = self.processor(text=read.prompt, videos=processed, **processor_kwargs)
        else:
            model_inputs = self.write_chat(read.messages, processor_kwargs, continue_final_message)
        model_inputs.pop("pixel_values_videos", None)
        [positions] = (model_inputs["input_ids"][0] == self.processor.video_token_id).nonzero(as_tuple=True)
        return Sample(
            read.prompt,
            read.is_question,
            inputs=model_inputs.to(dtype=self.dtype),
            videos=read.videos,
            pixels=read.pixels,
            visual_length=int(positions.max()) + 1 if len(positions) else 0,
            times_forgotten=read.times_forgotten,
        )

    def write_chat(self, messages: list[dict], processor_kwargs: dict, continue_final_message: bool | None):
        """Model inputs (`BatchFeature`) of a chat whose videos are processed."""
        continues = ends_with_assistant(messages) if continue_final_message is None else continue_final_message
        if continues and not ends_in_text(messages):
            raise ValueError(
                "The last message of the chat was to be continued, but it does not end in a text. Give it a last "
                "part {'type': 'text', 'text': ...}, or pass continue_final_message=False."
            )
        return self.processor.apply_chat_template(
            messages,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=dict(processor_kwargs),
        )

    def find_or_read(self, video, processor_kwargs: dict) -> RememberedVideo:
        """A video that is remembered, or else read now. Threads read different files at the same time, and other
        videos, such as file objects, one after another."""
        with self.memory.only_reader(None if isinstance(video, str | Path | bytes) else "all that are no files"):
            remembers = self.memory.max_videos > 0
            key = video_key(video, processor_kwargs, self.processor.video_processor) if remembers else None
            if key is None or get_worker_info() is not None:  # a worker is a process, whose memory is a copy
                return self.read_video(video, key, processor_kwargs)
            with self.memory.only_reader(key):
                remembered = self.memory.find(key)
                if remembered is None:
                    remembered = self.read_video(video, key, processor_kwargs)
                    self.memory.keep(remembered)
                return remembered

    def read_video(self, video, key: Hashable, processor_kwargs: dict) -> RememberedVideo:
        [processed] = self.processor.process_videos(video, **processor_kwargs)
        if key is None and self.memory.max_videos > 0:  # so that, if such a video was encoded, that is found
            key = key_of_what_was_read(processed)
        pixels, processed.pixel_values = processed.pixel_values, processed.pixel_values.to("meta")
        return RememberedVideo(key, processed, pixels)

    def is_complete(self, prompt: str) -> bool:
        """Whether a text is a complete prompt: it has placeholders, or there is no chat template to put it into."""
        processor = self.processor
        return processor.chat_template is None or processor.video_token in prompt or processor.image_token in prompt

    def _forward(self, model_inputs: dict, generate_kwargs: dict | None = None) -> dict:
        samples = model_inputs["samples"]
        samples = samples if isinstance(samples, list) else [samples]
        if self.memory.max_videos and any(sample.videos for sample in samples):
            self.memory.forget_if_changed(self.model)
            samples = [self.refreshed(sample) for sample in samples]
        if answerable := [sample for sample in samples if sample.error is None]:
            self.answer(answerable, generate_kwargs or {})
        return {"samples": samples}

    def refreshed(self, sample: Sample) -> Sample:
        """The sample, without the visual tokens that its videos may have of a model that has changed since. They are
        read again if their pixels are gone; one that can no longer be read is treated as in `preprocess`."""
        if sample.times_forgotten == self.memory.times_forgotten:
            return sample
        if sample.preprocess_arguments is not None:
            return self.preprocess(*sample.preprocess_arguments)["samples"]
        sample.videos = [
            RememberedVideo(video.key, video.processed, pixels) for video, pixels in zip(sample.videos, sample.pixels)
        ]
        return sample

    def answer(self, samples: list[Sample], generate_kwargs: dict):
        """Generate, and put the sequences into the samples."""
        times_forgotten = self.memory.times_forgotten
        videos = [video for sample in samples for video in sample.videos]
        for video in videos:
            self.encode(video, times_forgotten)
        for sample in samples:
            sample.pixels = ()
        generate_kwargs = {**self.assistant_arguments(), **generate_kwargs}
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs, return_dict_in_generate=False)
        shared = shared_lengths(self.model, samples, generate_kwargs)
        inputs = join_inputs([sample.inputs for sample in samples], shared, self.processor.tokenizer)
        inputs = self.ensure_tensor_on_device(**inputs)
        if any(shared):
            sequences = continue_conversation(
                self.model, self.memory, samples, inputs, shared, times_forgotten, generate_kwargs
            )
        else:
            sequences = self.model.generate(**inputs, **encoder_outputs(videos), **generate_kwargs)
        sequences = sequences.unflatten(0, (len(samples), -1)).cpu()  # (B, answers, L)
        for sample, of_sample in zip(samples, sequences):
            sample.sequences, sample.num_prompt_tokens = of_sample, inputs["input_ids"].shape[1]

    def assistant_arguments(self) -> dict:
        """Arguments of `generate` for the assistant model that the pipeline was made with."""
        if self.assistant_model is None:
            return {}
        if self.assistant_tokenizer is None:
            return {"assistant_model": self.assistant_model}
        tokenizers = {"tokenizer": self.tokenizer, "assistant_tokenizer": self.assistant_tokenizer}
        return {"assistant_model": self.assistant_model, **tokenizers}

    def encode(self, video: RememberedVideo, times_forgotten: int):
        """Make a video's visual tokens; its pixels are not needed afterwards. `times_forgotten` as in `VideoMemory`."""
        pixels = video.pixels  # read before the tokens are looked up: another thread may be doing the same
        if video.tokens is None:
            remembered = self.memory.find(video.key)  # another object, when videos are prepared in worker processes
            if remembered is not None and remembered.tokens is not None:
                video.tokens = remembered.tokens
            else:
                [video.tokens] = self.model.get_video_features([pixels.to(self.device, self.dtype)]).pooler_output
            video.pixels = None
            self.memory.keep(video, times_forgotten)

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
        with_full_text = not sample.is_question if return_full_text is None else return_full_text
        # Decoded with the prompt in front, so that an answer keeps the space it may begin with.
        decode = self.processor.tokenizer.decode
        prompt = decode(sample.sequences[0, : sample.num_prompt_tokens], skip_special_tokens=skip_special_tokens)
        records = []
        for ids in sample.sequences:
            answer = decode(ids, skip_special_tokens=skip_special_tokens)[len(prompt) :]
            if sample.is_question:
                answer = answer.strip()
            text = with_prompt(sample.prompt, answer, continue_final_message) if with_full_text else answer
            records.append({"input_text": sample.prompt, "generated_text": text})
        return records
