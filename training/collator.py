"""From rows of a data set to a batch with labels: `LlavaNextVideoCollator`.

Shape letters: B rows, L tokens of the longest.
"""

from collections.abc import Sequence
from contextlib import contextmanager

import torch
from transformers import BatchFeature

from llava_next_video.processing import LlavaNextVideoProcessor
from llava_next_video.training.dummy_visuals import MAKERS, DummyVisual
from llava_next_video.training.labels import IGNORED, learned_tokens, padded
from llava_next_video.training.marked_templates import training_chat_template, write_chat
from llava_next_video.training.rows import KINDS, Conversation, read_row


MEDIA = {"image": ("pixel_values", "image_sizes"), "video": ("pixel_values_videos",)}  # arguments of the model
# Arguments of the processor that depend on the batch, or that the collator has itself.
OWN_ARGUMENTS = (
    "add_special_tokens",
    "audio",
    "images",
    "max_length",
    "pad_to_multiple_of",
    "padding",
    "padding_side",
    "return_offsets_mapping",
    "return_tensors",
    "return_text_replacement_offsets",
    "text",
    "text_kwargs",
    "truncation",
    "video_metadata",
    "videos",
)


class LlavaNextVideoCollator:
    """Makes a batch from rows, with labels on what the assistant says and its stop tokens, and on nothing else.

    For `Trainer` and TRL's `SFTTrainer` (with `remove_unused_columns=False`), and for any `DataLoader`, in worker
    processes too. Rows with videos, with images and with text alone may be mixed, and videos may differ in their number
    of frames. A row is a dictionary with

    - `messages`, a list of messages with `role` and `content`; or `prompt` and `completion`, two such lists, of which
      only the second is learned;
    - `videos` and `images`, lists of what the processor takes (paths, URLs, bytes, frames, PIL images, files of
      `datasets`), or a single `video` or `image`. They fill, in order, the parts `{"type": "video"}` and
      `{"type": "image"}` without a source and each `<video>` and `<image>` in texts. Without any of these they go
      before the text of the user's first message.

    Args:
        processor ([`LlavaNextVideoProcessor`]): of the checkpoint.
        processor_kwargs (`dict`, *optional*): arguments of the processor for reading and preparing videos and images,
            such as `{"num_frames": 8}`.
        chat_template (`str`, *optional*): the name of one of this package's templates, or a template with
            `{% generation %}`; by default the processor's.
        last_turn_only (`bool`): learn only the last answer of each row.
        dummy_visuals (tuple of `"image"` and `"video"`): a batch without any of these gets a black one, which no token
            attends to and nothing is learned from, so that all processes run the same parts of the model.
        max_length (`int`, *optional*): longer rows lose their end. It is an error if a row would lose tokens of an
            image or video, or all that is learned.
        padding_side (`"right"` or `"left"`): does not change the loss.
        pad_to_multiple_of (`int`, *optional*): the number of columns becomes a multiple of this.

    Raises:
        ValueError: the chat template does not mark what is learned; a setting is impossible; in a call, a row cannot be
            used. Rows are counted from 1.

    >>> from llava_next_video import DEMO_CHECKPOINT
    >>> processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)
    >>> collate = LlavaNextVideoCollator(processor)
    >>> batch = collate([{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]}])
    >>> processor.decode(batch["labels"][batch["labels"] != -100])
    'Hi.<|im_end|>'
    """

    def __init__(
        self,
        processor: LlavaNextVideoProcessor,
        *,
        processor_kwargs: dict | None = None,
        chat_template: str | None = None,
        last_turn_only: bool = False,
        dummy_visuals: tuple[str, ...] = (),
        max_length: int | None = None,
        padding_side: str = "right",
        pad_to_multiple_of: int | None = None,
    ):
        processor_kwargs = processor_kwargs or {}
        if own := [name for name in OWN_ARGUMENTS if name in processor_kwargs]:
            raise ValueError(
                f"processor_kwargs has {own}, which the collator decides itself. It takes max_length, padding_side "
                "and pad_to_multiple_of as arguments of its own, and media from rows."
            )
        if isinstance(dummy_visuals, str) or not set(dummy_visuals) <= set(KINDS):
            raise ValueError(f"dummy_visuals is {dummy_visuals!r}; it has to be a tuple of some of {list(KINDS)}.")
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is {padding_side!r}; it has to be 'left' or 'right'.")
        if processor.tokenizer.pad_token_id is None:
            raise ValueError(
                "The tokenizer has no token to pad with. Set `processor.tokenizer.pad_token`, to its `unk_token` for "
                "example."
            )
        self.processor, self.processor_kwargs = processor, processor_kwargs
        self.chat_template = training_chat_template(processor, chat_template)
        self.last_turn_only, self.max_length = last_turn_only, max_length
        self.padding_side, self.pad_to_multiple_of = padding_side, pad_to_multiple_of
        self.dummies = {kind: MAKERS[kind](processor, processor_kwargs) for kind in dummy_visuals}

    def __call__(self, rows: list[dict]) -> BatchFeature:
        """Make a batch.

        Returns:
            `input_ids`, `attention_mask` and `labels`, (B, L) int64, labels -100 where nothing is learned. With images
            `pixel_values` and `image_sizes`, with videos `pixel_values_videos`, as from the processor.
        """
        chats, texts, spans = [], [], []
        for number, row in enumerate(rows):
            with self.errors_in_row(number, len(rows)):
                chat, text, learned = self.read(row)
            chats.append(chat)
            texts.append(text)
            spans.append(learned)

        inputs = self.process(chats, texts)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        replacements = inputs.get("text_replacement_offsets") or [[] for _ in rows]
        ids, labels = [], []
        for number, length in enumerate(lengths):
            tokens = inputs["input_ids"][number, :length]
            learned = learned_tokens(spans[number], replacements[number], inputs["offset_mapping"][number, :length])
            with self.errors_in_row(number, len(rows)):
                ids.append(self.cut(tokens, learned))
            labels.append(tokens.where(learned, IGNORED)[: len(ids[-1])])
        media = {name: inputs[name] for names in MEDIA.values() for name in names if name in inputs}
        dummies = [self.dummies[kind] for kind in self.dummies if MEDIA[kind][0] not in media]
        return self.batch(ids, labels, media, dummies)

    def check(self, rows: Sequence[dict]):
        """Check that all rows of a data set can be read, before hours of training stop at one that cannot. No video or
        image is opened, and `max_length` is not checked.

        Raises:
            ValueError: a row cannot be used; it is numbered from 1.
        """
        for number, row in enumerate(rows):
            with errors_in_row(number, len(rows), where=""):
                self.read(row)

    def read(self, row: dict) -> tuple[Conversation, str, list[tuple[int, int]]]:
        """A row as a conversation and as a text, and the learned parts of the text, as (start, end) in characters."""
        placeholders = {"image": self.processor.image_token, "video": self.processor.video_token}
        chat = read_row(row, placeholders)
        text, answers = write_chat(chat.messages, self.chat_template, self.processor.tokenizer.special_tokens_map)
        return chat, text, self.learned_spans(chat, answers)

    def errors_in_row(self, number: int, num_rows: int):
        """A context that adds the row in the batch to errors."""
        return errors_in_row(number, num_rows)

    def learned_spans(self, chat: Conversation, answers: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The answers of a chat that are learned, as (start, end) in characters.

        Raises:
            ValueError: the chat template does not mark each answer in one piece.
        """
        if not (chat.num_given or self.last_turn_only):
            return answers
        num_answers = sum(message["role"] == "assistant" for message in chat.messages)
        if len(answers) != num_answers:
            raise ValueError(
                f"The chat template marks {len(answers)} pieces where the assistant says {num_answers} messages, so "
                "it is not known which of them is the last, or of the prompt. Let it mark each answer in one piece, "
                "and let answers stand apart from each other."
            )
        return answers[-1:] if self.last_turn_only else answers[chat.num_given :]

    def process(self, chats: list[Conversation], texts: list[str]) -> BatchFeature:
        """The processor's output for chats, padded on the right, with offsets.

        Raises:
            ValueError: a row fails; which one is found by processing them again, one by one.
        """
        try:
            return self.call_processor(chats, texts)
        except (ValueError, TypeError):
            for number, (chat, text) in enumerate(zip(chats, texts)):
                with self.errors_in_row(number, len(chats)):
                    self.call_processor([chat], [text])
            raise

    def call_processor(self, chats: list[Conversation], texts: list[str]) -> BatchFeature:
        bos = self.processor.tokenizer.bos_token
        kwargs = {
            "padding": True,
            "padding_side": "right",
            "return_tensors": "pt",
            "return_offsets_mapping": True,
            "return_text_replacement_offsets": True,
            "add_special_tokens": bos is None or not texts[0].startswith(bos),  # as in `apply_chat_template`
        }
        images = [chat.sources["image"] for chat in chats]
        # Each in its own list: a list of pictures would be the frames of one video.
        videos = [[[video] for video in chat.sources["video"]] for chat in chats]
        return self.processor(
            text=texts,
            images=images if any(images) else None,
            videos=videos if any(videos) else None,
            **kwargs,
            **self.processor_kwargs,
        )

    def cut(self, ids: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
        """The tokens of a row, (L,), without the end if there are more than `max_length`.

        Raises:
            ValueError: tokens of images or videos, or all that is learned, would be cut off.
        """
        kept = ids[: self.max_length]
        visual_ids = torch.tensor([self.processor.image_token_id, self.processor.video_token_id])
        visual, visual_kept = (int(torch.isin(tokens, visual_ids).sum()) for tokens in (ids, kept))
        if visual_kept < visual:
            raise ValueError(
                f"The row has {len(ids)} tokens, {visual} of them of images and videos, and max_length={len(kept)} "
                f"would leave {visual_kept} of these. Raise max_length, or take fewer frames: "
                "processor_kwargs={'num_frames': ...}."
            )
        if not learned[: len(kept)].any():
            raise ValueError(
                f"Nothing of the row is learned: of its {len(ids)} tokens the first {len(kept)} are kept, and the "
                "assistant says none of them. Raise max_length, or leave the row out."
            )
        return kept

    def batch(
        self, ids: list[torch.Tensor], labels: list[torch.Tensor], media: dict, dummies: list[DummyVisual]
    ) -> BatchFeature:
        """Rows of tokens, each (L,), and pixels as a batch."""
        masks = [torch.ones_like(row) for row in ids]
        for dummy in dummies:
            shortest = min(range(len(ids)), key=lambda number: len(ids[number]))
            unseen = torch.zeros_like(dummy.placeholders)
            ids[shortest] = self.beside(ids[shortest], dummy.placeholders)
            masks[shortest] = self.beside(masks[shortest], unseen)
            labels[shortest] = self.beside(labels[shortest], unseen + IGNORED)
            media = media | dummy.pixels
        multiple = self.pad_to_multiple_of or 1
        width = -(-max(map(len, ids)) // multiple) * multiple
        pad_token_id = self.processor.tokenizer.pad_token_id
        return BatchFeature(
            {
                "input_ids": padded(ids, pad_token_id, self.padding_side, width),
                "attention_mask": padded(masks, 0, self.padding_side, width),
                "labels": padded(labels, IGNORED, self.padding_side, width),
                **media,
            }
        )

    def beside(self, tokens: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        """Tokens with more of them on the side of the padding."""
        return torch.cat([tokens, more] if self.padding_side == "right" else [more, tokens])


@contextmanager
def errors_in_row(number: int, num_rows: int, where: str = " in the batch"):
    """Add the row to an error; `number` counts from 0."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"Row {number + 1} of the {num_rows}{where} cannot be used. {error}") from error
