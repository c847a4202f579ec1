"""Rows of a data set as conversations: `messages`, or `prompt` and `completion`, with the columns of their media.

Rows have the form of TRL and `datasets`. In tables every part of a message has every key, `None` where it is not used.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llava_next_video.modeling.error_texts import quoted
from llava_next_video.processing.chat_messages import checked_conversation


KINDS = ("image", "video")
COLUMNS = {"image": ("images", "image"), "video": ("videos", "video")}


@dataclass
class Conversation:
    """A row that was read.

    Args:
        messages: as from `checked_conversation`, but parts of images and videos have only their type.
        sources: the images under `"image"` and the videos under `"video"`, in the order of their placeholders.
        num_given: how many of the assistant's messages belong to the prompt and are not learned.
    """

    messages: list[dict]
    sources: dict[str, list]
    num_given: int


def read_row(row, tokens: dict[str, str]) -> Conversation:
    """Read a row; no file is opened.

    Args:
        row: as in `LlavaNextVideoCollator`. Without placeholders, images go before videos, as in TRL. Other columns
            are ignored.
        tokens: the placeholder of each kind.

    Raises:
        ValueError: the row has another shape, or placeholders and media differ in number.
    """
    if not isinstance(row, Mapping):
        raise ValueError(
            f"A row is {quoted(row)}; it has to be a dictionary with 'messages', or 'prompt' and 'completion'."
        )
    prompt, messages = read_messages(row)
    columns = {kind: media_of(row, kind) for kind in KINDS}
    messages = [as_parts(message) for message in messages]
    if not any(placeholders_in(part, tokens) for message in messages for part in message["content"]):
        messages = with_media_first(messages, columns)
    waiting = {kind: list(media) for kind, media in columns.items()}
    sources = {kind: [] for kind in KINDS}
    missing = dict.fromkeys(KINDS, 0)
    for message in messages:
        for part in message["content"]:
            for kind in placeholders_in(part, tokens):
                own = part["type"] == kind and kind in part
                missing[kind] += not own
                sources[kind] += [part[kind]] if own else waiting[kind][:1]
                waiting[kind] = waiting[kind] if own else waiting[kind][1:]
    for kind in KINDS:
        if missing[kind] != len(columns[kind]):
            raise ValueError(
                f"The row has {len(columns[kind])} {kind}s in its columns and {missing[kind]} placeholders for them: "
                f"parts {{'type': '{kind}'}} without a source, and {tokens[kind]} in texts. Give it as many of both."
            )
    if not any(message["role"] == "assistant" for message in messages[len(prompt) :]):
        raise ValueError(
            "The row has no message of the assistant to learn. Its roles are "
            f"{[message['role'] for message in messages]}; answers have the role 'assistant', and with 'prompt' they "
            "are in 'completion'."
        )
    num_given = sum(message["role"] == "assistant" for message in prompt)
    return Conversation([without_sources(message) for message in messages], sources, num_given)


def read_messages(row: Mapping) -> tuple[list[dict], list[dict]]:
    """The messages of `prompt`, which are not learned, and all messages; the first list is empty with `messages`.

    Raises:
        ValueError: the row has other columns, or a text in place of messages.
    """
    given = [name for name in ("messages", "prompt", "completion") if row.get(name) is not None]
    if given not in (["messages"], ["prompt", "completion"]):
        raise ValueError(
            f"The row has the columns {list(row)}. It has to have either 'messages', or 'prompt' and 'completion'; "
            "rename the column of the conversation."
        )
    parts = []
    for name in given:
        if isinstance(row[name], str):
            raise ValueError(
                f"The row's {name!r} is a text, {quoted(row[name])}. It has to be a list of messages: "
                "[{'role': 'user', 'content': ...}]; answers have the role 'assistant'."
            )
        parts.append(checked_conversation(row[name], need_sources=False, name=name))
    return (parts[0] if len(parts) == 2 else []), [message for part in parts for message in part]


def media_of(row: Mapping, kind: str) -> list:
    """The images or videos in a row's columns.

    Raises:
        ValueError: it has a list of them and also a single one.
    """
    several, single = COLUMNS[kind]
    given = [name for name in (several, single) if row.get(name) is not None]
    if len(given) == 2:
        raise ValueError(f"The row has both {several!r} and {single!r}. Put all its {kind}s into {several!r}.")
    if not given:
        return []
    value = row[given[0]]
    return list(value) if given == [several] and isinstance(value, list | tuple) else [value]


def as_parts(message: dict) -> dict:
    """A checked message with its content as a list of parts."""
    content = message.get("content")
    return {**message, "content": content if isinstance(content, list) else [{"type": "text", "text": content or ""}]}


def placeholders_in(part: dict, tokens: dict[str, str]) -> list[str]:
    """The kinds of a part's placeholders, in order: its own, or those in its text."""
    if part["type"] != "text":
        return [part["type"]]
    kinds = {token: kind for kind, token in tokens.items()}
    return [kinds[token] for token in re.findall("|".join(map(re.escape, kinds)), part["text"])]


def with_media_first(messages: list[dict], columns: dict[str, list]) -> list[dict]:
    """The messages with placeholders for all media before the text of the user's first one."""
    parts = [{"type": kind} for kind in KINDS for _ in columns[kind]]
    first = next((number for number, message in enumerate(messages) if message["role"] == "user"), None)
    if first is None:
        return messages
    message = {**messages[first], "content": parts + messages[first]["content"]}
    return [*messages[:first], message, *messages[first + 1 :]]


def without_sources(message: dict) -> dict:
    """A message whose images and videos are reduced to their type, so that templates see nothing else."""
    return {
        **message,
        "content": [{key: value for key, value in part.items() if key not in KINDS} for part in message["content"]],
    }
