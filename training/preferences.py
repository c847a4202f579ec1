"""From rows with preferred answers to a batch for TRL's `DPOTrainer`: `LlavaNextVideoPreferenceCollator`."""

from collections.abc import Mapping, Sequence

from transformers import BatchFeature

from llava_next_video.modeling.error_texts import quoted
from llava_next_video.training.collator import LlavaNextVideoCollator, errors_in_row
from llava_next_video.training.labels import IGNORED


class LlavaNextVideoPreferenceCollator(LlavaNextVideoCollator):
    """Makes a batch from rows with two answers each, one of which is preferred, for TRL's `DPOTrainer`.

    A row has `prompt`, `chosen` and `rejected`, three lists of messages, and `videos` and `images` as in
    [`LlavaNextVideoCollator`], whose arguments it takes. Each video is read once for either answer.

    Without a column `images`, `DPOTrainer` tries to read videos itself, and fails. Give the rows one, with empty lists
    where there are no images, and pass `remove_unused_columns=False`.

    Raises:
        ValueError: as [`LlavaNextVideoCollator`]; a row lacks one of the answers.

    >>> from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoProcessor
    >>> collate = LlavaNextVideoPreferenceCollator(LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT))
    >>> question = [{"role": "user", "content": "Hello"}]
    >>> chosen, rejected = ([{"role": "assistant", "content": words}] for words in ("Hi.", "What?"))
    >>> batch = collate([{"prompt": question, "chosen": chosen, "rejected": rejected}])
    >>> [collate.processor.decode(ids[mask == 1]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"])]
    ['Hi.<|im_end|>', 'What?<|im_end|>']
    """

    def __call__(self, rows: list[dict]) -> BatchFeature:
        """Make a batch.

        Returns:
            As [`LlavaNextVideoCollator`], for B chosen answers and then B rejected ones; in place of `labels` it has
            `completion_mask`, (2 B, L) int64, 1 for the tokens of the answers.
        """
        pairs = []
        for number, row in enumerate(rows):
            with errors_in_row(number, len(rows)):
                pairs.append(with_answers(row))
        chosen, rejected = zip(*pairs)
        batch = super().__call__([*chosen, *rejected])
        batch["completion_mask"] = (batch.pop("labels") != IGNORED).long()
        return batch

    def errors_in_row(self, number: int, num_rows: int):
        """As in [`LlavaNextVideoCollator`], where the batch has each row twice, with its chosen and rejected answer."""
        return errors_in_row(number % (num_rows // 2), num_rows // 2)

    def check(self, rows: Sequence[dict]):
        """As [`LlavaNextVideoCollator.check`]."""
        for number, row in enumerate(rows):
            with errors_in_row(number, len(rows), where=""):
                for with_answer in with_answers(row):
                    self.read(with_answer)


def with_answers(row: dict) -> tuple[dict, dict]:
    """A row with its chosen answer as `completion`, and the same with the rejected one.

    Raises:
        ValueError: the prompt or one of the answers is missing.
    """
    needed = ("prompt", "chosen", "rejected")
    if not isinstance(row, Mapping) or any(row.get(name) is None for name in needed):
        raise ValueError(
            f"A row of preferences is {quoted(row)}; it has to be a dictionary with 'prompt', 'chosen' and "
            "'rejected', each a list of messages."
        )
    media = {name: value for name, value in row.items() if name not in needed}
    chosen, rejected = ({**media, "prompt": row["prompt"], "completion": row[name]} for name in needed[1:])
    return chosen, rejected
