"""Labels are what the assistant says with its stop token: for every template, every tokenizer and either padding."""

import pytest
import torch

from llava_next_video import LlavaNextVideoCollator, training_chat_template
from llava_next_video.training.labels import IGNORED, learned_tokens
from tests.training.rows import AROUND, TEMPLATES, TOKENIZERS, processor_of, rows_for


def runs_of(labels: torch.Tensor) -> list[tuple[int, int]]:
    """Where labels stand, as (start, end)."""
    learned = torch.cat([torch.zeros(1, dtype=torch.bool), labels != IGNORED, torch.zeros(1, dtype=torch.bool)])
    return list(
        zip(
            *(
                (learned[1:] & ~learned[:-1]).nonzero()[:, 0].tolist(),
                (learned[:-1] & ~learned[1:]).nonzero()[:, 0].tolist(),
            )
        )
    )


def expected_texts(row: dict, template: str) -> list[str]:
    before, stop = AROUND[template]
    said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    said = [content if isinstance(content, str) else content[-1]["text"] for content in said]
    return [before + words + stop for words in said]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_labels_decode_to_the_words_of_the_assistant(template, tokenizer, side):
    processor = processor_of(template, tokenizer)
    rows = rows_for(template)
    batch = LlavaNextVideoCollator(processor, padding_side=side)(rows)
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"]):
        assert torch.equal(labels[labels != IGNORED], ids[labels != IGNORED])
        got = [processor.tokenizer.decode(labels[start:end]) for start, end in runs_of(labels)]
        expected = expected_texts(row, template)
        if tokenizer.startswith("llama"):  # whose decoder drops the first space
            expected = [text.removeprefix(" ") for text in expected]
        assert got == expected


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "plain"])
def test_before_labels_stands_what_is_given_when_generating(template, tokenizer):
    """Token by token: the prompt that the model gets when it is asked is what it was trained to go on from."""
    processor = processor_of(template, tokenizer)
    collate = LlavaNextVideoCollator(processor)
    for row in rows_for(template):
        batch = collate([row])
        messages = with_media_filled_in(row)
        starts = [start for start, _ in runs_of(batch["labels"][0])]
        asked = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        for start, number in zip(starts, asked, strict=True):
            given = processor.apply_chat_template(
                messages[:number], add_generation_prompt=True, tokenize=True, return_dict=True
            )
            assert given["input_ids"][0].tolist() == batch["input_ids"][0, :start].tolist()


def with_media_filled_in(row: dict) -> list[dict]:
    """The messages of a row with its videos and images in their places."""
    media = {"video": iter(row.get("videos", [])), "image": iter(row.get("images", []))}

    def filled(part: dict) -> dict:
        kind = part["type"]
        return part if kind == "text" else {**part, kind: next(media[kind])}

    return [
        {**message, "content": [filled(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in row["messages"]
    ]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_transformers_masks_the_same_tokens_with_the_marked_template(template, tokenizer, side):
    processor = processor_of(template, tokenizer)
    rows = rows_for(template)
    batch = LlavaNextVideoCollator(processor, padding_side=side)(rows)
    inputs = processor.apply_chat_template(
        [with_media_filled_in(row) for row in rows],
        chat_template=training_chat_template(processor),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": side},
    )
    assert inputs["input_ids"].tolist() == batch["input_ids"].tolist()
    assert torch.as_tensor(inputs["assistant_masks"]).bool().tolist() == (batch["labels"] != IGNORED).tolist()


def test_one_of_the_tokenizers_puts_spaces_after_visuals():
    assert [processor_of("qwen_1_5", tokenizer).space_after_visuals for tokenizer in TOKENIZERS] == [False, False, True]


def test_a_token_that_begins_before_the_answer_is_not_learned():
    """A tokenizer may join the line end before an answer with one that the answer begins with."""
    offsets = torch.tensor([[0, 0], [0, 4], [4, 6], [6, 8], [8, 9], [9, 9]])
    assert learned_tokens([(5, 9)], [], offsets).tolist() == [False, False, False, True, True, False]


def test_spans_move_with_the_placeholders_before_them():
    offsets = torch.tensor([[0, 20], [20, 22], [22, 30], [30, 31]])
    replacements = [{"span": (0, 7), "new_span": (0, 20)}, {"span": (9, 16), "new_span": (22, 30)}]
    assert learned_tokens([(7, 9)], replacements, offsets).tolist() == [False, True, False, False]
    assert learned_tokens([(16, 17)], replacements, offsets).tolist() == [False, False, False, True]
