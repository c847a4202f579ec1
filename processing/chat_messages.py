"""The one door for chats: the shape of messages is checked before anything in them is read or fetched.

In a checked chat every part is a text, `{"type": "text", "text": ...}`, or has one picture or video under one key,
`{"type": "image", "image": ...}` or `{"type": "video", "video": ...}`. These go through transformers' chat templates as
`Sealed`, because transformers would open some kinds of them without limits.
"""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image

from ..modeling.error_texts import quoted
from ..reading.addresses import scheme_of
from ..reading.video_sources import is_value_of_column, is_video_source, plain_source
from .video_inputs import ProcessedVideo


# Types of parts, with the names of both of OpenAI's interfaces, and the kind of each.
KINDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
}
SOUND = ("audio", "input_audio", "audio_url")
# The keys under which a part of each kind may have its text, picture or video.
KEYS = {
    "text": ("text",),
    "image": ("image", "url", "path", "base64", "image_url"),
    "video": ("video", "url", "path", "base64", "video_url"),
}
KEYS_OF_PARTS = tuple(dict.fromkeys(key for keys in KEYS.values() for key in keys)) + SOUND
# Keys that other libraries write beside the content of a message, where templates do not look.
KEYS_OUTSIDE_PARTS = ("image", "images", "video", "videos", "audios", *SOUND, "image_url", "video_url")
MAX_LEVELS = 50


class Malformed(Exception):
    """What is wrong with a message or a part, without its place."""


def checked_conversation(messages, need_sources: bool = True, name: str = "chat") -> list[dict]:
    """Check the shape of one chat, without reading anything it names.

    Args:
        messages: a list of messages: dictionaries with a text as `role`, and as `content` a text or a list of parts. A
            part is a dictionary with a `type`: `text`, `image`, `video`, or OpenAI's `input_text`, `output_text`,
            `image_url`, `input_image`, `video_url`. An object with such a list as `messages`, and dataclasses and
            pydantic models in place of dictionaries, are taken too.
        need_sources: whether parts need their picture or video; else a part may be `{"type": "video"}`.
        name: of the chat, in errors.

    Returns:
        New messages, in which a part is `{"type": "text", "text": str}`, `{"type": "image", "image": source}` or
        `{"type": "video", "video": source}`. Keys that are `None` are left out; others (`cache_control`) are kept.

    Raises:
        ValueError: the chat has another shape; names the message and the part, counted from 1.
    """
    messages = getattr(messages, "messages", messages)
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(
            f"The {name} is {quoted(messages)}. It has to be a list of one message or more: "
            "[{'role': 'user', 'content': [{'type': 'text', 'text': ...}]}]."
        )
    return [
        checked_message(message, f"{name}, message {number}", need_sources) for number, message in numbered(messages)
    ]


def checked_conversations(conversation, need_sources: bool = True) -> tuple[list[list[dict]], bool]:
    """Check one chat or a batch (a list) of them; returns a list of chats, and whether it was a batch."""
    first = conversation[0] if isinstance(conversation, list | tuple) and conversation else None
    if not isinstance(first, list | tuple) and not hasattr(first, "messages"):
        return [checked_conversation(conversation, need_sources)], False
    return [checked_conversation(chat, need_sources, f"chat {number}") for number, chat in numbered(conversation)], True


def with_media(messages: list[dict], picture: Callable | None = None, video: Callable | None = None) -> list[dict]:
    """The messages of a checked chat, with a function applied to each picture and one to each video, in order. Without
    a function they stay as they are, and so do parts without a source."""
    functions = {"image": picture, "video": video}

    def changed(part: dict) -> dict:
        kind = part["type"]
        change = functions.get(kind)
        return part if change is None or kind not in part else {**part, kind: change(part[kind])}

    return [
        {**message, "content": [changed(part) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


class Sealed:
    """A picture or video on its way through transformers' chat templates. transformers cannot open it, and a template
    cannot look into it, because the attribute's name begins with an underscore."""

    __slots__ = ("_source",)

    def __init__(self, source):
        self._source = source


def unsealed(media):
    """Media as the processor's `__call__` gets them, with each `Sealed` replaced by its source."""
    if isinstance(media, list | tuple) and any(isinstance(item, Sealed | list | tuple) for item in media):
        return [unsealed(item) for item in media]
    return media._source if isinstance(media, Sealed) else media


def with_template_errors(apply_chat_template: Callable, tokenize: bool):
    """Call a function that writes a chat by its template and, with `tokenize`, makes model inputs from it.

    Templates are programs of strangers and can raise anything, and so can the rest of the call. To tell the two apart,
    the chat is written once more as text alone.

    Raises:
        ValueError: the template cannot write the chat.
    """
    try:
        return apply_chat_template(tokenize=tokenize)
    except ValueError:
        raise
    except Exception as error:
        if tokenize and not fails(apply_chat_template):
            raise
        reason = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__} {error}"
        raise ValueError(
            f"The chat template cannot write this chat: {reason.rstrip(' .'):.1000}. Send messages in the roles and "
            "the order that the checkpoint was trained with; or the template is damaged."
        ) from error


def fails(apply_chat_template: Callable) -> bool:
    """Whether a chat cannot even be written as text."""
    try:
        apply_chat_template(tokenize=False)
    except Exception:
        return True
    return False


@contextmanager
def errors_at(place: str):
    """Add the place to what is wrong with a message or a part."""
    try:
        yield
    except Malformed as problem:
        raise ValueError(f"In the {place}: {problem}.") from None


def checked_message(message, place: str, need_sources: bool) -> dict:
    with errors_at(place):
        message = as_dict(message, "a message is a dictionary with 'role' and 'content'")
        check_levels(message)
        check_text(message.get("role"), "role")
        if outside := [key for key in KEYS_OUTSIDE_PARTS if key in message]:
            raise Malformed(f"it has {outside} beside its content. Put pictures and videos into the content, as parts")
        content = message.get("content")
        if not content and content != "" and "tool_calls" in message:
            return message
        if not isinstance(content, list | tuple | str) or content in ([], ()):
            raise Malformed(f"its content is {quoted(content)}. It has to be a text or a list of parts")
        if isinstance(content, str):
            check_text(content, "content")
            return message
    parts = [checked_part(part, f"{place}, part {number}", need_sources) for number, part in numbered(content)]
    return {**message, "content": parts}


def checked_part(part, place: str, need_sources: bool) -> dict:
    with errors_at(place):
        part = as_dict(part, "a part is a dictionary such as {'type': 'text', 'text': ...}")
        kind = kind_of(part)
        if kind != "text" and isinstance(part.get("text"), str) and not part["text"]:
            del part["text"]  # rows of a table have every column
        given = [key for key in KEYS_OF_PARTS if key in part]
        if any(key not in KEYS[kind] for key in given) or len(given) > 1:
            raise Malformed(f"it has {given}, and a part of type {part['type']!r} has one of {list(KEYS[kind])}")
        if not given and (need_sources or kind == "text"):
            raise Malformed(f"it has no {kind}. Name it under one of the keys {list(KEYS[kind])}")
        found = {kind: source_of(part, kind, given[0])} if given else {}
    rest = {key: value for key, value in part.items() if key not in KEYS_OF_PARTS}
    return {**rest, "type": kind, **found}


def kind_of(part: dict) -> str:
    type_of_part = part.get("type")
    if isinstance(type_of_part, str) and type_of_part in SOUND:
        raise Malformed(f"its type is {type_of_part!r}, and LLaVA-NeXT-Video hears nothing. Leave it out")
    if not isinstance(type_of_part, str) or type_of_part not in KINDS:
        raise Malformed(f"its type is {quoted(type_of_part)}. It has to be one of {list(KINDS)}")
    return KINDS[type_of_part]


def source_of(part: dict, kind: str, key: str):
    """The text, picture or video that a part has under `key`."""
    value = part[key]
    if kind == "text":
        check_text(value, "text")
        return value
    if key.endswith("_url"):
        url = value.get("url") if isinstance(value, Mapping) else value
        # OpenAI's interfaces have no paths.
        if not isinstance(url, str) or scheme_of(url) is None:
            raise Malformed(f"its {key} is {quoted(url)}, which is not a URL. A file goes under 'path'")
        return url
    if key == "base64":
        return data_uri(value)
    several = kind == "video" and isinstance(value, list | tuple)
    frames = [out_of_column(frame) for frame in (value if several else [value])]
    if not frames or not all(is_source(frame, kind) for frame in frames):
        raise Malformed(
            f"its {key} is {quoted(value)}. It has to be a path, a URL, bytes, a file object, or pixels: an array, "
            "a PIL image, or for a video a list of such frames"
        )
    return frames if several else frames[0]


def out_of_column(value):
    """The bytes or path in `{"bytes": ..., "path": ...}`, as in columns of `datasets`; anything else unchanged."""
    try:
        return plain_source(value) if is_value_of_column(value) else value
    except ValueError as problem:
        raise Malformed(str(problem).rstrip(".")) from None


def data_uri(value) -> str:
    """Base64 as a data URI, which the reader decodes within its limits."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    check_text(value, "base64")
    return value if scheme_of(value) == "data" else f"data:;base64,{''.join(value.split())}"


def is_source(value, kind: str) -> bool:
    """Whether a value is a picture or video that the reader or the processors take."""
    pixels = isinstance(value, Image.Image | np.ndarray | torch.Tensor)
    return pixels or is_video_source(value) or (kind == "video" and isinstance(value, ProcessedVideo))


def as_dict(value, expected: str) -> dict:
    """A dictionary, dataclass or pydantic model as a new dictionary, without what is `None`."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif callable(getattr(value, "model_dump", None)):
        value = value.model_dump()
    if not isinstance(value, Mapping):
        raise Malformed(f"it is {quoted(value)}, and {expected}")
    return {key: item for key, item in value.items() if item is not None}


def check_levels(value):
    """Check that a message is not nested too deeply, or in itself: templates may walk through all of it."""
    level = [value]
    for _ in range(MAX_LEVELS):
        inside = [item for outer in level for item in (outer.values() if isinstance(outer, Mapping) else outer)]
        # Each once: a list may contain the same one many times.
        level = list({id(item): item for item in inside if isinstance(item, Mapping | list | tuple)}.values())
        if not level:
            return
    raise Malformed(f"lists and dictionaries in it are nested more than {MAX_LEVELS} levels deep. Flatten them")


def check_text(value, name: str):
    if not isinstance(value, str):
        raise Malformed(f"its {name} is {quoted(value)}. It has to be a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed(f"its {name} has half a character, a lone surrogate. Decode it with errors='replace'") from None


def numbered(items) -> enumerate:
    return enumerate(items, start=1)
