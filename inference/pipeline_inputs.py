"""What users may pass to the pipeline: videos and questions, prompts, chats, tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType

from torch.utils.data import Dataset
from transformers.utils.chat_template_utils import Chat
from transformers.video_utils import is_valid_video


SEQUENCES_THAT_ARE_NO_COLUMNS = (list, tuple, str, bytes, bytearray, memoryview)


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


@dataclass(frozen=True)
class Given:
    """One input, packed: the base class would look into chats, and one malformed chat would stop all others."""

    value: object


def packed(values):
    """One input, or each of a list or generator of them, packed; a data set as it is."""
    if isinstance(values, GeneratorType):
        return (Given(value) for value in values)
    if isinstance(values, list) and not is_chat(values):
        return [Given(value) for value in values]
    return values if isinstance(values, Dataset) else Given(values)


def is_chat(value) -> bool:
    """Whether a value is meant as a chat: a list that begins with what could be a message."""
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
    what = repr(inputs) if isinstance(inputs, str) else type(inputs).__name__
    what = f"the keys {sorted(map(str, inputs))}" if isinstance(inputs, Mapping) else what
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


def ends_with_assistant(messages: list[dict]) -> bool:
    return messages[-1]["role"] == "assistant"


def ends_in_text(messages: list[dict]) -> bool:
    content = messages[-1].get("content")  # none beside calls of tools
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
