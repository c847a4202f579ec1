"""What a pipeline remembers of the videos it was asked about, so that the next question costs less.

* The visual tokens of the last few videos (`max_videos`): a video that is asked about again is neither decoded nor
  encoded. When the memory is full, a new video replaces the least recently used one.
* The keys and values of the last prompt and its answer: for a prompt with the same videos and the same beginning (the
  next turn of a chat, another question about the video), the language model runs only on new tokens
  (`continued_conversation.py`). A prompt about another video drops them before it runs, so there are never two.

Answers are those of a pipeline that remembers nothing. So a video is found only if it was read with the same settings
(`video_fingerprints.py`), and everything is dropped when the model has changed (`model_state.py`).

Threads may share a memory. While one of them uses the conversation, the others do not find it and run whole prompts.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Cache

from .model_state import ModelState
from .reading_locks import ReadingLocks


@dataclass(eq=False)
class RememberedVideo:
    """One video, on its way from the processor to the language model.

    Args:
        key: identifies it, its sampled frames included; `None` when that is not possible.
        processed: a `ProcessedVideo` without its pixels, enough to write prompts.
        pixels (`torch.Tensor` of shape (F, 3, H, W), *optional*): until it is encoded.
        tokens (`torch.Tensor` of shape (N, D), *optional*): its visual tokens, once it is encoded.
    """

    key: Hashable
    processed: object
    pixels: torch.Tensor | None
    tokens: torch.Tensor | None = None


@dataclass
class Conversation:
    """The last prompt about some videos with its answer, and the language model's keys and values for it.

    Args:
        token_ids (`torch.Tensor` of shape (L,)): prompt and answer.
        videos: keys of its videos.
        visual_length: number of tokens up to the end of the last video.
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
        self.only_reader = ReadingLocks()
        self.model_state = None
        self.times_forgotten = 0  # a result that was begun before the last time is not kept
        self.forget()

    def __getstate__(self) -> dict:
        # Data loaders that spawn their workers pickle the pipeline, and the copy's model is another object.
        return {"max_videos": self.max_videos}

    def __setstate__(self, state: dict):
        self.__init__(**state)

    def forget(self):
        self.times_forgotten += 1
        self.videos: OrderedDict[Hashable, RememberedVideo] = OrderedDict()  # in the order of their last questions
        self.conversation: deque[Conversation] = deque(maxlen=1)  # threads can safely take from a deque

    def forget_if_changed(self, model: nn.Module):
        """Forget everything if the model is not what it was at the last call."""
        before, self.model_state = self.model_state, ModelState(model)
        if before is not None and before != self.model_state:
            self.forget()

    def find(self, key: Hashable) -> RememberedVideo | None:
        video = self.videos.get(key) if key is not None else None
        if video is not None:
            with suppress(KeyError):  # another thread has just removed it
                self.videos.move_to_end(key)
        return video

    def keep(self, video: RememberedVideo, times_forgotten: int | None = None):
        """Keep a video; given the `times_forgotten` from before its encoding, only if nothing was forgotten since."""
        if video.key is None or times_forgotten not in (None, self.times_forgotten):
            return
        self.videos[video.key] = video
        for key in list(self.videos)[: max(len(self.videos) - self.max_videos, 0)]:
            self.videos.pop(key, None)

    def take_conversation(self, token_ids: torch.Tensor, videos: list[Hashable]) -> Conversation | None:
        """Take out the last conversation, cut to the tokens at its start that it shares with a prompt, `token_ids` (L,)
        with these videos. Drop it, and return None, if it shares less than all of its videos."""
        try:
            last = self.conversation.pop()
        except IndexError:
            return None
        length = common_prefix_length([last.token_ids[: last.cache.get_seq_length()], token_ids])
        if last.videos != videos[: len(last.videos)] or length < last.visual_length:
            return None
        last.cache.crop(length - last.cache.get_seq_length())
        return last

    def keep_conversation(self, conversation: Conversation, times_forgotten: int):
        """Keep a conversation, if nothing was forgotten since it began, when the count was `times_forgotten`."""
        if times_forgotten == self.times_forgotten:
            self.conversation.append(conversation)


def common_prefix_length(rows: Sequence[torch.Tensor]) -> int:
    """How many tokens several rows, each (L,), share at their start.

    >>> common_prefix_length([torch.tensor([5, 6, 7]), torch.tensor([5, 6, 8, 9])])
    2
    """
    shortest = min(map(len, rows))
    equal = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)  # (shortest,)
    return int(equal.int().cumprod(0).sum())
