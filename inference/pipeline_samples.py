"""One prompt on its way through the pipeline, and several as one batch for the model."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .remembered_videos import RememberedVideo


@dataclass
class ReadPrompt:
    """One prompt whose videos are read, before it is written for the model.

    Args:
        prompt: as the user passed it: a question, a prompt with placeholders, or the messages of a chat.
        is_question: whether it is put into a chat template for the user, so that only the answer is returned.
        messages: of the chat that is put into the template, with their videos processed; `None` for a complete prompt.
        videos: of the prompt, in order.
        pixels: of each video, (F, 3, H, W); `None` where it was encoded before.
        num_bytes: of the pixels, and of their sources that are in memory.
        times_forgotten: of the memory, before the videos were looked up.
    """

    prompt: str | list[dict]
    is_question: bool
    messages: list[dict] | None = None
    videos: list[RememberedVideo] = field(default_factory=list)
    pixels: list[torch.Tensor | None] = field(default_factory=list)
    num_bytes: int = 0
    times_forgotten: int = 0

    def add(self, video: RememberedVideo, source):
        """Add a video that was read from a source."""
        self.videos.append(video)
        self.pixels.append(video.pixels)
        self.num_bytes += bytes_in_memory(self.pixels[-1]) + bytes_in_memory(source)


@dataclass
class Sample:
    """One prompt, from `preprocess` to `postprocess`.

    Args:
        prompt, is_question, videos: as in `ReadPrompt`.
        inputs: of the model, a batch of one, without the videos.
        pixels: of each video, in case the model changes before the sample is answered; dropped then.
        visual_length: number of tokens up to the end of the last video.
        preprocess_arguments: of the call of `preprocess` that made it, to repeat it in case the model changes before
            the sample is answered; `None` where all pixels are there.
        times_forgotten: of the memory, before the sample was made; if it differs later, remembered videos are outdated.
        error: why the inputs are empty, with `on_error="return"`.
        sequences (`torch.Tensor` of shape (answers, L)): prompt and answer tokens, after `generate`.
        num_prompt_tokens: how many of them are the prompt, padding included.
    """

    prompt: str | list[dict]
    is_question: bool = False
    inputs: BatchFeature = field(default_factory=BatchFeature)
    videos: Sequence[RememberedVideo] = ()
    pixels: Sequence[torch.Tensor | None] = ()
    visual_length: int = 0
    preprocess_arguments: tuple | None = None
    times_forgotten: int = 0
    error: Exception | None = None
    sequences: torch.Tensor | None = None
    num_prompt_tokens: int = 0

    @property
    def video_keys(self) -> list[Hashable]:
        return [video.key for video in self.videos]


def join_inputs(inputs: list[BatchFeature], shared: list[int], tokenizer: PreTrainedTokenizerBase) -> dict:
    """Make one batch of the inputs of several prompts.

    Rows of tokens are padded on the left, to (B, L). The first `shared` tokens of each prompt, which are run before the
    others, are padded by themselves, so that the others begin in one column. Images come one after another.
    """
    if len(inputs) == 1:
        return dict(inputs[0])
    batch = {}
    lengths = [row["input_ids"].shape[1] for row in inputs]
    width = max(shared)
    longest = width + max(length - first for length, first in zip(lengths, shared))
    for name in dict.fromkeys(name for row in inputs for name in row):
        values = [row[name] for row in inputs if name in row]
        if name in tokenizer.model_input_names:
            pad = tokenizer.pad_token_id if name == "input_ids" else 0
            batch[name] = values[0].new_full((len(inputs), longest), pad)  # (B, L)
            for row, value, first in zip(batch[name], values, shared):
                row[width - first : width] = value[0, :first]
                row[longest - len(value[0]) + first :] = value[0, first:]
        else:
            items = [item for value in values for item in value]
            same_shape = len({item.shape for item in items}) == 1
            batch[name] = torch.stack(items) if same_shape else items
    return batch


def bytes_in_memory(value) -> int:
    """Bytes of pixels, of a file's contents or of a list of frames; 0 for a path or URL.

    >>> bytes_in_memory([torch.zeros(3, 2, 2), b"1234", "clip.mp4"])
    52
    """
    if isinstance(value, bytes | bytearray):
        return len(value)
    if isinstance(value, Image.Image):
        return value.height * value.width * len(value.getbands())
    if isinstance(value, list | tuple):
        return sum(map(bytes_in_memory, value))
    return getattr(value, "nbytes", 0)


def encoder_outputs(videos: Sequence[RememberedVideo]) -> dict:
    """Encoded videos, as an argument of the model."""
    if not videos:
        return {}
    tokens = tuple(video.tokens for video in videos)  # each (N, D)
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=tokens)}}
