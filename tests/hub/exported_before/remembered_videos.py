"""What a pipeline keeps of the videos it was asked about, so that another question costs less.

* The visual tokens of the last few videos (`max_videos`): asked again, a video is neither read nor encoded. When a new
  video comes and the memory is full, the one that was not asked about for longest goes.
* The keys and values of the last prompt and its answer: a prompt that begins like it, with the same videos (the next
  turn of a chat, another question about the video), runs the language model on what is new only. A prompt about another
  video drops them before it runs, so there are never two.

Threads may share a memory: what one thread has taken, another does not find, and prepares again.
"""

import copy
import hashlib
import os
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Cache


@dataclass(eq=False)
class RememberedVideo:
    """One video, on its way from the processor to the language model.

    Args:
        key: tells it from other videos, frames chosen included; `None` when that is not possible.
        processed: what the processor made of it, a `ProcessedVideo`, without its pixels: enough to write prompts with.
        pixels (`torch.Tensor` of shape (F, 3, H, W), *optional*): these, until it is encoded.
        tokens (`torch.Tensor` of shape (N, D), *optional*): its visual tokens, once it is encoded.
    """

    key: Hashable
    processed: object
    pixels: torch.Tensor | None
    tokens: torch.Tensor | None = None


@dataclass
class Conversation:
    """What was said last about some videos, as the language model keeps it.

    Args:
        token_ids (`torch.Tensor` of shape (L,)): prompt and answer.
        videos: keys of the videos in it.
        visual_length: tokens up to the end of the last video.
        cache: keys and values of the first tokens, at most L of them.
    """

    token_ids: torch.Tensor
    videos: list[Hashable]
    visual_length: int
    cache: Cache


class VideoMemory:
    """Remembers up to `max_videos` videos, and the last conversation about some of them."""

    def __init__(self, max_videos: int):
        if max_videos < 0:
            raise ValueError(
                f"The pipeline was to remember {max_videos} videos; remembered_videos has to be 0 or more."
            )
        self.max_videos = max_videos
        self.forget()

    def forget(self):
        self.videos: dict[Hashable, RememberedVideo] = {}  # the one asked about last stands last
        self.conversation: deque[Conversation] = deque(maxlen=1)  # taking from it is safe between threads

    def find(self, key: Hashable) -> RememberedVideo | None:
        video = self.videos.pop(key, None) if key is not None else None
        if video is not None:
            self.videos[key] = video
        return video

    def keep(self, video: RememberedVideo):
        if video.key is None:
            return
        self.videos[video.key] = video
        for key in list(self.videos)[: max(len(self.videos) - self.max_videos, 0)]:
            self.videos.pop(key, None)

    def take_conversation(self, token_ids: torch.Tensor, videos: list[Hashable]) -> Conversation | None:
        """Take the last conversation, cut to what a prompt of these tokens (L,) and videos has in common with it; or
        drop it, when that does not reach beyond its videos."""
        try:
            last = self.conversation.pop()
        except IndexError:
            return None
        length = common_length([last.token_ids[: last.cache.get_seq_length()], token_ids])
        if last.videos != videos[: len(last.videos)] or length < last.visual_length:
            return None
        last.cache.crop(length - last.cache.get_seq_length())
        return last

    def keep_conversation(self, conversation: Conversation):
        self.conversation.append(conversation)


def common_length(rows: Sequence[torch.Tensor]) -> int:
    """How many tokens several rows, each (L,), have in common at their start.

    >>> common_length([torch.tensor([5, 6, 7]), torch.tensor([5, 6, 8, 9])])
    2
    """
    shortest = min(map(len, rows))
    alike = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)
    return int(alike.int().cumprod(0).sum())


def repeated(cache: Cache, times: int) -> Cache:
    """A cache with every row `times` times, which leaves the given one as it is."""
    result = copy.copy(cache)
    result.layers = [copy.copy(layer) for layer in cache.layers]  # repeating puts new tensors into a layer
    result.batch_repeat_interleave(times)
    return result


def key_of(video, processor_kwargs: dict) -> Hashable:
    """What tells a video, read with these arguments, from others: a file by its path, size and time of change, a URL by
    itself, data by its contents. `None` for what cannot be told, as a file object."""
    content = fingerprint(video)
    if content is None or "video_metadata" in processor_kwargs:
        return None
    return content, repr(sorted(processor_kwargs.items()))


def fingerprint(video) -> Hashable:
    if isinstance(video, str | Path):
        text = str(video)
        if text.startswith(("http://", "https://", "data:")):
            return text
        try:
            status = os.stat(text)
        except OSError:
            return None
        return os.path.realpath(text), status.st_size, status.st_mtime_ns
    if isinstance(video, bytes | bytearray | memoryview):
        return digest(video)
    if isinstance(video, torch.Tensor):
        values = video.detach().cpu().flatten().view(torch.uint8).numpy()
        return str(video.dtype), tuple(video.shape), digest(values)
    if isinstance(video, np.ndarray):
        return str(video.dtype), video.shape, digest(np.ascontiguousarray(video))
    if isinstance(video, Image.Image):
        return video.mode, video.size, digest(video.tobytes())
    if isinstance(video, list | tuple):
        prints = tuple(fingerprint(frame) for frame in video)
        return None if None in prints else prints
    return None


def digest(data) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
