"""What users may pass to the pipeline: videos and questions, prompts, chats, tables, arguments, an assistant model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import GeneratorType

from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel, ProcessorMixin
from transformers.utils.chat_template_utils import Chat
from transformers.video_utils import is_valid_video

from ..processing.video_inputs import is_frame
from .dataset_rows import without_datasets


PREPROCESS_ARGUMENTS = ("continue_final_message", "on_error", "read_ahead")
POSTPROCESS_ARGUMENTS = ("return_full_text", "return_tensors", "skip_special_tokens", "continue_final_message")
PROCESSOR_ARGUMENTS = ("num_frames", "fps", "frame_sampling", "do_sample_frames")
# Arguments of `generate` that the pipeline makes itself, or that take effect before `generate`.
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


@dataclass(frozen=True)
class PackedInput:
    """One input, hidden from the base class, which would look into chats and stop all of them at a malformed one."""

    value: object


def pack(values):
    """Pack one input, or each of a list or generator of them; a data set stays as it is."""
    if isinstance(values, GeneratorType):
        return (PackedInput(value) for value in values)
    if isinstance(values, list) and not is_chat(values):
        return [PackedInput(value) for value in values]
    return values if isinstance(values, Dataset) else PackedInput(values)


def unpacked(value):
    return value.value if isinstance(value, PackedInput) else value


def inputs_of_call(videos, text):
    """The inputs of a call of the pipeline with these arguments, packed.

    Raises:
        ValueError: the arguments do not go together.
    """
    if videos is None and text is None:
        raise ValueError("The pipeline got neither `videos` nor `text`; pass a video and a question, or a chat.")
    videos, text = without_datasets(videos), without_datasets(text)
    if text is None:
        return pack(videos)
    if isinstance(text, str) or not isinstance(text, list | tuple):
        return pack({"videos": videos, "text": text})
    if len(text) > 0 and not isinstance(text[0], str):
        if videos is not None:
            raise ValueError(
                "The pipeline got `videos` and a chat. Put the videos into the chat's messages, as "
                "{'type': 'video', 'video': ...} in their `content`."
            )
        return pack(text)
    one_video_for_all = not isinstance(videos, list | tuple) or is_valid_video(videos)
    videos = [videos] * len(text) if one_video_for_all else videos
    if len(videos) != len(text):
        raise ValueError(
            f"The pipeline got {len(text)} texts and {len(videos)} videos. Pass one video, or one for each text."
        )
    return pack([{"videos": v, "text": t} for v, t in zip(videos, text)])


def sort_arguments(
    processor: ProcessorMixin, processor_kwargs: dict | None = None, generate_kwargs: dict | None = None, **kwargs
) -> tuple[dict, dict, dict]:
    """Check the arguments of a call, and sort them into those of `preprocess`, `_forward` and `postprocess`.

    Raises:
        ValueError: one is impossible, or is given twice.
    """
    own = {name: kwargs.pop(name) for name in {*PREPROCESS_ARGUMENTS, *POSTPROCESS_ARGUMENTS} & kwargs.keys()}
    own = {name: value for name, value in own.items() if value is not None}
    processor_kwargs = dict(processor_kwargs or {})
    processor_kwargs.update({name: kwargs.pop(name) for name in PROCESSOR_ARGUMENTS if name in kwargs})
    if twice := sorted(kwargs.keys() & (generate_kwargs or {}).keys()):
        raise ValueError(f"The pipeline got {twice} directly and in `generate_kwargs`; pass each once.")
    if "return_full_text" in own and own.get("return_tensors"):
        raise ValueError("The pipeline got `return_full_text` and `return_tensors`; token ids are never cut.")
    generate_kwargs = {**(generate_kwargs or {}), **kwargs}
    check_generate_arguments(generate_kwargs)
    if "stop_strings" in generate_kwargs:
        generate_kwargs["tokenizer"] = processor.tokenizer
    if own.get("on_error", "raise") not in ("raise", "return"):
        raise ValueError(f"The pipeline got on_error={own['on_error']!r}; it is 'raise' or 'return'.")
    if not isinstance(ahead := own.get("read_ahead", 0), int) or ahead < 0:
        raise ValueError(
            f"The pipeline got read_ahead={ahead!r}; it is the number of prompts whose videos are read before it is "
            "their turn, 0 or more."
        )
    preprocess = {name: own[name] for name in PREPROCESS_ARGUMENTS if name in own}
    if processor_kwargs:
        preprocess["processor_kwargs"] = processor_kwargs
    postprocess = {name: own[name] for name in POSTPROCESS_ARGUMENTS if name in own}
    return preprocess, {"generate_kwargs": generate_kwargs} if generate_kwargs else {}, postprocess


def check_generate_arguments(generate_kwargs: dict):
    """Raise a ValueError when arguments of `generate` cannot be passed to a call of the pipeline."""
    if own := sorted(OWN_ARGUMENTS & generate_kwargs.keys()):
        raise ValueError(
            f"The pipeline got {own}, which it makes itself from the video and the question. Leave them out; "
            "model.config says which features of the vision tower are used. Or call model.generate."
        )
    if isinstance(assistant := generate_kwargs.get("assistant_model"), str | Path):
        raise ValueError(
            f"The pipeline got assistant_model={str(assistant)!r} in a call, which takes only a loaded model. "
            "Pass the folder or name to `pipeline(..., assistant_model=...)`, which loads it once."
        )


def load_assistant(source: str, model: PreTrainedModel) -> dict:
    """The pipeline's arguments for an assistant model in a folder or on the Hub. transformers loads it itself, unless
    it is one of ours: then transformers would use the built-in class."""
    if AutoConfig.from_pretrained(source).model_type != model.config.model_type:
        return {"assistant_model": source}
    assistant = AutoModelForImageTextToText.from_pretrained(source).to(model.device, model.dtype).eval()
    return {"assistant_model": assistant, "assistant_tokenizer": AutoTokenizer.from_pretrained(source)}


def is_chat(value) -> bool:
    """Whether a value looks like a chat: a list that begins with something like a message."""
    first = value[0] if isinstance(value, list | tuple) and value else None
    return hasattr(first, "role") or (isinstance(first, Mapping) and ("role" in first or "content" in first))


def prompt_and_videos(inputs) -> tuple[str | list[dict], object]:
    """Split one input of the pipeline into its prompt (text or messages) and its videos, or None."""
    if isinstance(inputs, Chat):
        return list(inputs.messages), None
    if is_chat(inputs):
        return list(inputs), None
    if isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[1], str):
        return inputs[1], inputs[0]
    if isinstance(inputs, Mapping) and isinstance(inputs.get("text"), str):
        unknown = inputs.keys() - {"text", "video", "videos"}
        if not unknown and not {"video", "videos"} <= inputs.keys():
            return inputs["text"], inputs.get("videos", inputs.get("video"))
    found = repr(inputs) if isinstance(inputs, str) else type(inputs).__name__
    found = f"the keys {sorted(map(str, inputs))}" if isinstance(inputs, Mapping) else found
    raise ValueError(
        f"The pipeline got {found} where a prompt was expected. Pass a video and a question, "
        "{'videos': ..., 'text': ...}, or a chat: [{'role': 'user', 'content': [...]}]."
    )


def as_list(videos) -> list:
    """The videos of one prompt as a list: of none, one, a list, or an array (videos, frames, height, width, 3).

    Raises:
        ValueError: the list is empty.
    """
    if videos is None:
        return []
    if isinstance(videos, list | tuple) and not videos:
        raise ValueError("The pipeline got an empty list where a video was expected. Pass a video, or `text` alone.")
    several = isinstance(videos, list | tuple) and not is_valid_video(videos) and not all(map(is_frame, videos))
    return list(videos) if several or getattr(videos, "ndim", 0) == 5 else [videos]


def as_chat(question: str, videos) -> list[dict]:
    """A chat of one message: the videos, then the question about them."""
    media = [{"type": "video", "video": video} for video in as_list(videos)]
    return [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]


def ends_with_assistant(messages: list[dict]) -> bool:
    return messages[-1]["role"] == "assistant"


def ends_in_text(messages: list[dict]) -> bool:
    content = messages[-1].get("content")  # missing next to tool calls
    return isinstance(content, str) or (content is not None and content[-1]["type"] == "text")


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
