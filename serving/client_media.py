"""Videos and pictures that clients of a server name: which of them may be opened, and how they are read.

A client is a stranger. It may send media itself, as data URIs, and name web addresses; files of the server's disk it
may name only inside one folder, if the server has such a folder. All are read within the processor's limits, in threads
of their own, so that a video that takes long holds up nobody but its client.
"""

import asyncio
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image

from llava_next_video.processing.chat_messages import checked_conversation, shortened, with_media
from llava_next_video.processing.processing_llava_next_video import LlavaNextVideoProcessor
from llava_next_video.processing.video_inputs import ProcessedVideo
from llava_next_video.reading.addresses import is_web_address, scheme_of
from llava_next_video.reading.errors import VideoReadError, describe
from llava_next_video.reading.pictures import read_picture
from llava_next_video.reading.video_sources import open_source


MOST_MEDIA = 32  # videos and pictures in one request
MOST_CHARACTERS = 1_000_000  # of everything else in a request: more than any context holds, and a second of tokenizing
DOWNLOADS_AT_ONCE = 32  # each holds up to `max_fetched_bytes`
READERS_AT_ONCE = max(2, min(os.cpu_count() or 1, 8))  # each decodes in several threads


class ClientMedia:
    """Reads the media of chats that clients send.

    Args:
        processor: reads and prepares videos, by its settings and within its limits.
        allowed_folder: the folder whose files clients may name, or None.
    """

    def __init__(self, processor: LlavaNextVideoProcessor, allowed_folder: Path | None = None):
        self.processor = processor
        self.allowed_folder = None if allowed_folder is None else allowed_folder.resolve(strict=True)
        self.downloads = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self.readers = asyncio.Semaphore(READERS_AT_ONCE)

    async def read(self, messages: list[dict], sampling: dict) -> list[dict]:
        """Check a chat, and put what was read in the place of its videos (`ProcessedVideo`) and pictures (PIL images).

        Args:
            messages: the chat as the client sent it, in the forms of either of OpenAI's interfaces or of transformers.
            sampling: arguments of the processor for its videos, such as `num_frames`.

        Returns:
            New messages, as transformers' server takes them: a part has the type `text`, `video_url` or `image_url`,
            and where a URL would be it has what was read.

        Raises:
            ValueError: the chat has another shape, or names what may not be opened; before anything is opened.
            VideoReadError: a video or picture cannot be read within the limits.
        """
        named: list[tuple[str, object]] = []
        messages = with_media(
            checked_conversation(messages),
            picture=lambda source: named.append(("image", source)),
            video=lambda source: named.append(("video", source)),
        )
        if len(named) > MOST_MEDIA:
            raise ValueError(f"The chat has {len(named)} videos and pictures. Send {MOST_MEDIA} or fewer.")
        check_number_of_characters(messages)
        sources = [(kind, source, self.checked_source(source)) for kind, source in named]
        media = iter(await asyncio.gather(*(self.read_one(*source, sampling) for source in sources)))
        return [
            {**message, "content": [with_url(part, media) for part in message["content"]]}
            if isinstance(message.get("content"), list)
            else message
            for message in messages
        ]

    def checked_source(self, source) -> str | Path:
        """What a client named, as the reader takes it, if it may be opened."""
        if not isinstance(source, str):
            raise ValueError(
                f"A video or picture is {shortened(source)}. The server takes one as a data: or http(s): URL; frames "
                "are sent as several pictures."
            )
        if scheme_of(source) == "data" or is_web_address(source):
            return source
        if scheme_of(source) not in (None, "file"):
            raise ValueError(
                f"The server was asked to open {shortened(source)}. It reads addresses with data:, http: and https:."
            )
        # Everything else is a path, whatever it looks like: the reader would open it as one.
        return self.allowed_file(source)

    def allowed_file(self, source: str) -> Path:
        """A path, or `file:` URL, as the path of a file inside the allowed folder, links followed."""
        if self.allowed_folder is None:
            raise ValueError(
                f"The server was asked to open {shortened(source)}, which is neither a data: nor a http(s): URL, and "
                "it opens no files of its disk for clients. Send the file itself, as a data: URL; whoever runs the "
                "server can allow one folder: --allowed-media-folder."
            )
        try:
            file = (self.allowed_folder / path_of(source)).resolve()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
            file = None
        if file is None or not file.is_relative_to(self.allowed_folder):
            raise ValueError(
                f"The server was asked to open {shortened(source)}, which is outside of the folder whose files it "
                "opens for clients. Name a file in it, by a path relative to it, or send the file as a data: URL."
            )
        return file

    async def read_one(self, kind: str, name: str, source: str | Path, sampling: dict) -> ProcessedVideo | Image.Image:
        """Read a video or a picture; `name` is what the client called it, and what it is called in errors."""
        try:
            return await (self.read_picture(source) if kind == "image" else self.read_video(source, sampling))
        except VideoReadError as error:
            raise type(error)(describe(name), error.reason) from error

    async def read_picture(self, source: str | Path) -> Image.Image:
        slots = self.downloads if is_download(source) else self.readers
        return await in_thread(slots, read_picture, source, self.processor.image_processor.limits)

    async def read_video(self, source: str | Path, sampling: dict) -> ProcessedVideo:
        if is_download(source):
            # Apart from decoding: who waits for a slow address keeps no processor busy.
            source = await in_thread(self.downloads, open_source, source, self.processor.video_processor.limits)
        [video] = await in_thread(self.readers, self.processor.process_videos, source, **sampling)
        return video


def is_download(source: str | Path) -> bool:
    return isinstance(source, str) and is_web_address(source)


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


def with_url(part: dict, media) -> dict:
    """A part of a message with the next one of `media` in it, unless it is a text."""
    kind = part["type"]
    if kind == "text":
        return part
    return {"type": f"{kind}_url", f"{kind}_url": {"url": next(media)}}


def check_number_of_characters(messages):
    """Check how long a chat is without its videos and pictures: all of it is tokenized before it is counted."""
    num_characters = len(json.dumps(messages))
    if num_characters > MOST_CHARACTERS:
        raise ValueError(
            f"The request has {num_characters} characters beside its videos and pictures. Send {MOST_CHARACTERS} or "
            "fewer."
        )


async def in_thread(slots: asyncio.Semaphore, function: Callable, *args, **kwargs):
    """Call a function in a thread when one of the slots is free; it keeps its slot until the function returns, also
    when nobody waits for it any more.

    The thread is a daemon's: a server that is told to stop does not wait for what a stranger lets it read.
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
