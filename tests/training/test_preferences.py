"""Batches for `DPOTrainer`: chosen answers, then rejected ones, with masks of what was said."""

import pytest
import torch

from llava_next_video import LlavaNextVideoCollator, LlavaNextVideoPreferenceCollator
from tests.tiny import random_frames
from tests.training.rows import TEMPLATES, VIDEO, processor_of, says, user


GREETING = [user("Hello"), says("Hi."), user("And?")]
ROWS = [
    {
        "prompt": [user(VIDEO, "Which way?")],
        "chosen": [says("Left.")],
        "rejected": [says("It is a matter of taste.")],
        "videos": [random_frames(3)],
    },
    {"prompt": GREETING, "chosen": [says("Nothing.")], "rejected": [says("No.")], "videos": []},
]


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "plain"])  # which writes no prompts
def test_a_batch_has_the_chosen_answers_and_then_the_rejected_ones(template):
    processor = processor_of(template)
    batch = LlavaNextVideoPreferenceCollator(processor)(ROWS)
    answers = [{**row, "completion": row[name]} for name in ("chosen", "rejected") for row in ROWS]
    expected = LlavaNextVideoCollator(processor)(
        [{k: row[k] for k in ("prompt", "completion", "videos")} for row in answers]
    )
    assert list(batch) == ["input_ids", "attention_mask", "pixel_values_videos", "completion_mask"]
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert batch["completion_mask"].dtype == torch.int64
    assert torch.equal(batch["completion_mask"].bool(), expected["labels"] != -100)
    first, second = batch["pixel_values_videos"]
    assert torch.equal(first, second)
    assert len(first) == 3


def test_arguments_are_those_of_the_other_collator():
    collate = LlavaNextVideoPreferenceCollator(processor_of("qwen_1_5"), padding_side="left", dummy_visuals=("image",))
    batch = collate(ROWS)
    assert "pixel_values" in batch
    assert (batch["attention_mask"][:, 0] == 0).any()


@pytest.mark.parametrize("name", ["prompt", "chosen", "rejected"])
def test_rows_need_both_answers(name):
    collate = LlavaNextVideoPreferenceCollator(processor_of("qwen_1_5"))
    row = {**ROWS[0], name: None}
    with pytest.raises(ValueError, match=r"Row 2 of the 2 in the batch .* A row of preferences is .* 'rejected', each"):
        collate([ROWS[0], row])
    with pytest.raises(ValueError, match=r"Row 2 of the 2 cannot be used. A row of preferences is"):
        collate.check([ROWS[0], row])
    with pytest.raises(ValueError, match=r"A row of preferences is \['a'\]"):
        collate([["a"]])


def test_errors_count_rows_and_not_answers(tmp_path):
    collate = LlavaNextVideoPreferenceCollator(processor_of("qwen_1_5"))
    with pytest.raises(ValueError, match=r"^Row 2 of the 2 in the batch cannot be used. The row has no message"):
        collate([ROWS[1], {**ROWS[0], "rejected": [user("a")]}])
    with pytest.raises(
        ValueError, match=r"^Row 2 of the 2 in the batch cannot be used. Could not read the video .*gone"
    ):
        collate([ROWS[1], {**ROWS[0], "videos": [str(tmp_path / "gone.mp4")]}])


def test_rows_are_checked_with_both_answers():
    collate = LlavaNextVideoPreferenceCollator(processor_of("qwen_1_5"))
    collate.check(ROWS)
    with pytest.raises(ValueError, match=r"Row 1 of the 1 cannot be used. The row has no message of the assistant"):
        collate.check([{**ROWS[0], "rejected": [user("a")]}])
