"""Videos and pictures that clients of a server name: which of them may be opened, and how they are read.

A client is a stranger. It may send media as data URIs and name web addresses. On the server's disk it may name only
files in one folder, if the server allows one. Media are read within the processor's limits, and prompts are made, in
threads of their own: a slow video holds up only its own client.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image
from transformers import BatchFeature

from llava_next_video.modeling.error_texts import quoted
from llava_next_video.processing.chat_messages import checked_conversation, with_media
from llava_next_video.processing.processing_llava_next_video import LlavaNextVideoProcessor, processed_side
from llava_next_video.processing.video_inputs import ProcessedVideo
from llava_next_video.reading.addresses import is_web_address, scheme_of
from llava_next_video.reading.errors import PartNeeded, VideoReadError, describe, named_errors
from llava_next_video.reading.limits import ReadingLimits
from llava_next_video.reading.pictures import read_picture
from llava_next_video.reading.ranged_file import RangedFile
from llava_next_video.reading.video_sources import open_source


MAX_MEDIA = 32  # videos and pictures in one request
MAX_PICTURES_OF_FULL_SIZE = 4  # or more smaller ones: their pixels are in memory until the prompt is made
MAX_CHARACTERS = 1_000_000  # of the rest of a request: more than any context holds, and tokenized in a second
DOWNLOADS_AT_ONCE = 32  # each holds up to `max_fetched_bytes`
READERS_AT_ONCE = max(2, min(os.cpu_count() or 1, 8))  # each decodes in several threads


@dataclass
class RequestMedia:
    """The videos and pictures of one request, on their way.

    Args:
        sources: of each the kind, the name for errors, and what is read of it.
        read: the first ones, once they are read.
        seconds: spent on reading.
    """

    sources: list[tuple] = field(default_factory=list)
    read: list[ProcessedVideo | Image.Image] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, kind: str, name: str, source, limits: ReadingLimits):
        if isinstance(source, RangedFile):
            source.fetch_apart()
        self.sources.append((kind, name, source))
        self.check_fetched(limits)

    def check_fetched(self, limits: ReadingLimits):
        """Check all downloads of the request together."""
        num_bytes = 0
        for _, name, source in self.sources:
            if isinstance(source, RangedFile | BytesIO):
                num_bytes += source.num_fetched if isinstance(source, RangedFile) else source.getbuffer().nbytes
                with named_errors(name):
                    limits.check_bytes(num_bytes)


class ClientMedia:
    """Turns chats that clients send into inputs of the model.

    Args:
        processor: reads and prepares videos and pictures, by its settings and within its limits.
        context: most tokens of prompt and answer together; None for no limit.
        allowed_folder: the folder whose files clients may name, or None.
    """

    def __init__(self, processor: LlavaNextVideoProcessor, context: int | None, allowed_folder: Path | None = None):
        self.processor, self.context = processor, context
        self.limits = processor.video_processor.limits
        self.allowed_folder = None if allowed_folder is None else allowed_folder.resolve(strict=True)
        self.downloads = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self.readers = asyncio.Semaphore(READERS_AT_ONCE)

    async def inputs_of(self, messages: list[dict], sampling: dict, tools: list[dict] | None) -> BatchFeature:
        """The model's inputs for a chat. They leave room for at least one token of an answer.

        Args:
            messages: the chat as the client sent it, in a form of OpenAI's interfaces or of transformers.
            sampling: arguments of the processor for its videos, such as `num_frames`.
            tools: in the form of transformers' chat templates.

        Raises:
            ValueError: the chat has another shape, or names something that may not be opened, which is checked before
                anything is opened; or the template cannot write it, or the prompt is too long.
            VideoReadError: a video or picture cannot be read within the limits.
        """
        named: list[tuple[str, object]] = []
        messages = with_media(
            checked_conversation(messages),
            picture=lambda source: named.append(("image", source)),
            video=lambda source: named.append(("video", source)),
        )
        if len(named) > MAX_MEDIA:
            raise ValueError(f"The chat has {len(named)} videos and pictures. Send {MAX_MEDIA} or fewer.")
        check_number_of_characters([messages, tools])
        sources = [(kind, name, self.checked_source(name)) for kind, name in named]
        media = RequestMedia()
        for kind, name, source in sources:
            if isinstance(source, str) and is_web_address(source):
                # Apart from reading, because waiting for a slow address keeps no processor busy.
                in_parts = kind == "video" and not self.limits.always_scan
                source = await in_thread(self.downloads, open_source, source, self.limits, in_parts)
            media.add(kind, name, source, self.limits)
        while True:
            try:
                return await in_thread(self.readers, self.read_and_apply, messages, media, sampling, tools)
            except PartNeeded as needed:  # of a large file
                with named_errors(needed.file):
                    await in_thread(self.downloads, needed.fetch)
                media.check_fetched(self.limits)

    def read_and_apply(
        self, messages: list[dict], media: RequestMedia, sampling: dict, tools: list[dict] | None
    ) -> BatchFeature:
        """The model's inputs for a chat. Its videos and pictures are read one after another, until they are too much
        for one prompt.

        Raises:
            PartNeeded: a part of one has to be fetched, and this to be called again.
        """
        deadline, began = self.limits.deadline_of_decoding(), time.monotonic()
        deadline.extend(-media.seconds)
        try:
            for kind, name, source in media.sources[len(media.read) :]:
                with named_errors(name):
                    deadline.check()
                media.read.append(self.read_one(kind, name, source, sampling))
                check_context(sum(map(self.count_tokens, media.read)), self.context)
                pictures = [picture for picture in media.read if isinstance(picture, Image.Image)]
                check_pixels_of_pictures(sum(picture.height * picture.width for picture in pictures), self.limits)
        finally:
            media.seconds += time.monotonic() - began
        remaining = iter(media.read)
        messages = with_media(messages, picture=lambda _: next(remaining), video=lambda _: next(remaining))
        inputs = self.processor.apply_chat_template(
            messages,
            tools=tools,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=dict(sampling),  # to which it adds
        )
        check_context(inputs["input_ids"].shape[-1], self.context)
        return inputs

    def read_one(self, kind: str, name: str, source, sampling: dict) -> ProcessedVideo | Image.Image:
        """Read a video or a picture; errors call it by `name`, as the client did."""
        try:
            if kind == "image":
                return read_picture(source, self.limits)
            [video] = self.processor.process_videos(source, **sampling)
            return video
        except VideoReadError as error:
            raise type(error)(describe(name), error.reason) from error

    def count_tokens(self, media: ProcessedVideo | Image.Image) -> int:
        processor = self.processor
        if isinstance(media, ProcessedVideo):
            return processor.count_video_tokens(len(media.pixel_values), media.pixel_values.shape[-1])
        return processor.count_image_tokens((media.height, media.width), processed_side(processor.image_processor, {}))

    def checked_source(self, source) -> str | Path:
        """The source that a client named, in a form that the reader takes.

        Raises:
            ValueError: it may not be opened.
        """
        if not isinstance(source, str):
            raise ValueError(
                f"A video or picture is {quoted(source)}. The server takes one as a data: or http(s): URL; frames "
                "are sent as several pictures."
            )
        if scheme_of(source) == "data" or is_web_address(source):
            return source
        if scheme_of(source) not in (None, "file"):
            raise ValueError(
                f"The server was asked to open {quoted(source)}. It reads addresses with data:, http: and https:."
            )
        # The reader takes everything else for a path.
        return self.allowed_file(source)

    def allowed_file(self, source: str) -> Path:
        """The file of a path or `file:` URL, links followed.

        Raises:
            ValueError: there is no allowed folder, or it is outside of it.
        """
        if self.allowed_folder is None:
            raise ValueError(
                f"The server was asked to open {quoted(source)}, which is neither a data: nor a http(s): URL, and "
                "it opens no files of its disk for clients. Send the file itself, as a data: URL; whoever runs the "
                "server can allow one folder: --allowed-media-folder."
            )
        try:
            file = (self.allowed_folder / path_of(source)).resolve()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
            file = None
        if file is None or not file.is_relative_to(self.allowed_folder):
            raise ValueError(
                f"The server was asked to open {quoted(source)}, which is outside of the folder whose files it "
                "opens for clients. Name a file in it, by a path relative to it, or send the file as a data: URL."
            )
        return file


def path_of(source: str) -> str:
    """The path that a path or a `file:` URL means.

    >>> path_of("clips/cat.mp4"), path_of("file:///data/my%20cat.mp4")
    ('clips/cat.mp4', '/data/my cat.mp4')
    """
    if scheme_of(source) != "file":
        return source
    address = urlsplit(source)
    if address.netloc not in ("", "localhost"):
        raise ValueError("a file: URL of another machine")
    return unquote(address.path)


def check_number_of_characters(chat):
    """Check the length of a chat without its videos and pictures, because all of it is tokenized before tokens are
    counted."""
    num_characters = len(json.dumps(chat))
    if num_characters > MAX_CHARACTERS:
        raise ValueError(
            f"The request has {num_characters} characters beside its videos and pictures. Send {MAX_CHARACTERS} or "
            "fewer."
        )


def check_context(num_tokens: int, context: int | None):
    """Check that a prompt of `num_tokens` leaves room for one more."""
    if context is not None and num_tokens >= context:
        raise ValueError(
            f"The prompt has {num_tokens} tokens or more, and prompt and answer together may have {context}. Send "
            "fewer or shorter videos and texts, or take fewer frames: 'chat_template_kwargs': {'num_frames': ...}."
        )


def check_pixels_of_pictures(num_pixels: int, limits: ReadingLimits):
    """Check the pixels of pictures that are in memory together."""
    most = MAX_PICTURES_OF_FULL_SIZE * limits.max_frame_pixels
    if num_pixels > most:
        raise ValueError(
            f"The pictures of the request have {num_pixels} pixels or more, and {most} are allowed together "
            f"({MAX_PICTURES_OF_FULL_SIZE} times max_frame_pixels). Send fewer or smaller pictures."
        )


async def in_thread(slots: asyncio.Semaphore, function: Callable, *args, **kwargs):
    """Call a function in a thread when one of the slots is free. It keeps the slot until the function returns, also
    after its client has left.

    The thread is a daemon, so that a server that is told to stop does not wait for a stranger's video.
    """
    loop = asyncio.get_running_loop()
    await slots.acquire()
    future = loop.create_future()

    def finish(value, error):
        slots.release()
        if not future.cancelled():
            future.set_exception(error) if error is not None else future.set_result(value)

    def run():
        value = failure = None
        try:
            value = function(*args, **kwargs)
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the server has stopped, and its loop with it
            loop.call_soon_threadsafe(finish, value, failure)

    threading.Thread(target=run, name="client-media", daemon=True).start()
    return await future
