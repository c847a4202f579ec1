"""What a pipeline keeps of the videos it was asked about, so that another question costs less.

* The visual tokens of the last few videos (`max_videos`): asked again, a video is neither decoded nor encoded. When a
  new video comes and the memory is full, the one that was not asked about for longest goes.
* The keys and values of the last prompt and its answer: a prompt that begins like it, with the same videos (the next
  turn of a chat, another question about the video), runs the language model on what is new only. A prompt about another
  video drops them before it runs, so there are never two. Where that would change an answer it is not done, see
  `reuse_rule.py`.

An answer is that of a pipeline that remembers nothing. So a video is found only when it was read with the settings of
now (`key_of`), and everything is dropped when the model is not what it was (`drop_if_changed`).

Threads may share a memory: what one thread has taken, another does not find, and prepares again.
"""

import copy
import hashlib
import os
import pickle
import stat
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import Cache

from ..reading.addresses import is_web_address, scheme_of
from .model_state import ModelState


# A file that was changed so lately may change again without another time of change: the clocks of file systems tick
# slowly, and some keep whole seconds.
TICK_NANOSECONDS, WHOLE_SECONDS_NANOSECONDS = 50 * 10**6, 2 * 10**9


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
        self.model_state = None
        self.forgotten = 0
        self.forget()

    def __getstate__(self) -> dict:
        # Data loaders that start their workers afresh pickle the pipeline; there it is about another model.
        return {"max_videos": self.max_videos}

    def __setstate__(self, state: dict):
        self.__init__(**state)

    def forget(self):
        self.forgotten += 1  # how often: what another thread began before is not kept
        self.videos: dict[Hashable, RememberedVideo] = {}  # the one asked about last stands last
        self.conversation: deque[Conversation] = deque(maxlen=1)  # taking from it is safe between threads

    def drop_if_changed(self, model: nn.Module) -> bool:
        """Forget everything if the model is not what it was when this was asked last, and tell whether that is so."""
        before, self.model_state = self.model_state, ModelState(model)
        changed = before is not None and before != self.model_state
        if changed:
            self.forget()
        return changed

    def find(self, key: Hashable) -> RememberedVideo | None:
        video = self.videos.pop(key, None) if key is not None else None
        if video is not None:
            self.videos[key] = video
        return video

    def keep(self, video: RememberedVideo, forgotten: int | None = None):
        """Keep a video; with `forgotten` as it was when its tokens were begun, only if nothing was forgotten since."""
        if video.key is None or forgotten not in (None, self.forgotten):
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

    def keep_conversation(self, conversation: Conversation, forgotten: int):
        """Keep a conversation, if nothing was forgotten since it began, with `forgotten` as it was then."""
        if forgotten == self.forgotten:
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
    """A cache of plain layers with every row `times` times, which leaves the given one as it is."""
    result = copy.copy(cache)
    result.layers = [copy.copy(layer) for layer in cache.layers]  # repeating puts new tensors into a layer
    result.batch_repeat_interleave(times)
    return result


def key_of(video, processor_kwargs: dict, video_processor) -> Hashable:
    """What tells a video, read with these arguments by this processor, from others: a file by its path and what the
    file system says of it, data by its contents; and every setting. `None` for what cannot be told, as a file object
    or settings that cannot be pickled, and for what the processor will refuse."""
    if isinstance(video, list | tuple | Image.Image) and will_be_refused(video, video_processor.limits):
        return None
    content = fingerprint(video)
    if content is None:
        return None
    try:
        # Apart: a text that is in both is pickled as a reference when it is the same object, and not when it is equal.
        settings = pickle.dumps(vars(video_processor)), pickle.dumps(sorted(processor_kwargs.items()))
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    return content, type(video_processor), digest(b"".join(settings))


def will_be_refused(video, limits) -> bool:
    """Whether PIL images are over the limits, or start Ghostscript: Pillow decodes them when their contents are asked
    for."""
    frames = [video] if isinstance(video, Image.Image) else video
    pictures = [frame for frame in frames if isinstance(frame, Image.Image)]
    return len(frames) > limits.max_frames or any(
        picture.height * picture.width > limits.max_frame_pixels or picture.format == "EPS" for picture in pictures
    )


def fingerprint(video) -> Hashable:
    if isinstance(video, str | Path):
        text = str(video)
        if is_web_address(text):
            return None  # who knows what is there now
        return ("data:", digest(text.encode())) if scheme_of(text) == "data" else fingerprint_of_file(text)
    if isinstance(video, bytes | bytearray | memoryview):
        return digest(bytes(video) if isinstance(video, memoryview) else video)
    if isinstance(video, torch.Tensor):
        values = video.detach().cpu().flatten().view(torch.uint8).numpy()
        return str(video.dtype), str(video.device), tuple(video.shape), digest(values)
    if isinstance(video, np.ndarray):
        return None if video.dtype.hasobject else (str(video.dtype), video.shape, digest(np.ascontiguousarray(video)))
    if isinstance(video, Image.Image):
        looks = repr((video.getpalette("RGBA") if video.mode in ("P", "PA") else None, video.info.get("transparency")))
        return video.mode, video.size, digest(video.tobytes() + looks.encode() + video.getexif().tobytes())
    if isinstance(video, list | tuple):
        prints = tuple(fingerprint(frame) for frame in video)
        return None if None in prints else prints
    return None


def fingerprint_of_file(path: str) -> Hashable:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    tick = TICK_NANOSECONDS if status.st_ctime_ns % 10**9 else WHOLE_SECONDS_NANOSECONDS
    if not stat.S_ISREG(status.st_mode) or time.time_ns() - status.st_ctime_ns < tick:
        return None
    # The time of change of the inode can, unlike that of the contents, not be set by anyone.
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return os.path.realpath(path), facts


def digest(data) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
