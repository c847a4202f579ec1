"""Batches: what they lose and give, what stops them, and workers that make them."""

import copy
import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from llava_next_video import LlavaNextVideoCollator, VideoReadError
from tests.tiny import make_model, write_video
from tests.training.rows import (
    IMAGE,
    TEMPLATES,
    VIDEO,
    learned_texts,
    processor_of,
    rows_for,
    says,
    user,
    video_row,
)


PICTURE = Image.new("RGB", (20, 30), "red")
IMAGE_ROW = {"messages": [user(IMAGE, "Color?"), says("It is red.")], "images": [PICTURE]}
TEXT_ROW = {"messages": [user("Hello"), says("Hi."), user("And?"), says("Nothing.")]}
MIXED = [video_row("Which way?", "Left.", 2), IMAGE_ROW, TEXT_ROW, video_row("And this?", "It moves up.", 5, seed=1)]


@pytest.fixture(scope="module")
def model():
    return make_model(video_newline_position="grid")


@pytest.fixture
def processor():
    return processor_of("qwen_1_5", video_newline_position="grid")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_loss_of_a_batch_is_that_of_its_rows_by_tokens(model, template, side):
    rows = rows_for(template)
    collate = LlavaNextVideoCollator(processor_of(template, video_newline_position="grid"), padding_side=side)
    batch = collate(rows)
    assert (batch["attention_mask"] == 0).any()
    total = count = 0
    for row in rows:
        alone = collate([row])
        tokens = int((alone["labels"] != -100).sum())
        total, count = total + model(**alone).loss * tokens, count + tokens
    assert torch.allclose(model(**batch).loss, total / count, atol=1e-5)
    assert count == int((batch["labels"] != -100).sum())


def test_everything_else_is_what_the_processor_makes(processor):
    batch = LlavaNextVideoCollator(processor)(MIXED)
    assert list(batch) == [
        "input_ids",
        "attention_mask",
        "labels",
        "pixel_values",
        "image_sizes",
        "pixel_values_videos",
    ]
    assert [len(video) for video in batch["pixel_values_videos"]] == [2, 5]
    expected = processor(text="<video>", videos=MIXED[3]["videos"])["pixel_values_videos"][0]
    assert torch.equal(batch["pixel_values_videos"][1], expected)
    assert torch.equal(batch["pixel_values"], processor(text="<image>", images=PICTURE)["pixel_values"])
    assert "pixel_values" not in LlavaNextVideoCollator(processor)([TEXT_ROW])


def test_arguments_of_the_processor_are_used(processor, tmp_path):
    row = {"messages": [user(VIDEO), says("Yes.")], "videos": [str(write_video(tmp_path / "clip.mp4"))]}
    batch = LlavaNextVideoCollator(processor, processor_kwargs={"num_frames": 3})([row])
    assert len(batch["pixel_values_videos"][0]) == 3
    size = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    batch = LlavaNextVideoCollator(processor, processor_kwargs=size, dummy_visuals=("image", "video"))([TEXT_ROW])
    assert batch["pixel_values_videos"].shape[-1] == batch["pixel_values"].shape[-1] == 8


def test_videos_given_in_every_way_are_the_same(processor, tmp_path):
    path = write_video(tmp_path / "clip.mp4", num_frames=4)
    collate = LlavaNextVideoCollator(processor)
    given = [
        str(path),
        path,
        path.read_bytes(),
        {"path": str(path), "bytes": None},
        {"bytes": path.read_bytes(), "path": "x"},
    ]
    batch = collate([{"messages": [user(VIDEO), says("Yes.")], "videos": [video]} for video in given])
    assert all(torch.equal(video, batch["pixel_values_videos"][0]) for video in batch["pixel_values_videos"])


def test_rows_of_a_table_are_those_of_a_list(processor, tmp_path):
    """Where every part has every key, and files of a `Video` and an `Image` column are dictionaries and pictures."""
    datasets = pytest.importorskip("datasets")
    clips = [str(write_video(tmp_path / f"{number}.mp4", num_frames=number)) for number in (4, 9)]
    PICTURE.save(tmp_path / "red.png")

    def row(question: list[dict], answer: str, videos: list[str], images: list[str]) -> dict:
        answered = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        return {"messages": [{"role": "user", "content": question}, answered], "videos": videos, "images": images}

    rows = [
        row([{"type": "video"}, {"type": "text", "text": "Which way?"}], "Left.", clips[:1], []),
        row([{"type": "image"}, {"type": "text", "text": "Color?"}], "Red.", [], [str(tmp_path / "red.png")]),
        row([{"type": "text", "text": "Hello"}], "Hi.", [], []),
        row([{"type": "video"}, {"type": "image"}], "No.", clips[1:], [str(tmp_path / "red.png")]),
    ]
    table = datasets.Dataset.from_list(rows)
    table = table.cast_column("videos", datasets.List(datasets.Video(decode=False)))
    table = table.cast_column("images", datasets.List(datasets.Image()))
    assert isinstance(table[1]["images"][0], Image.Image)
    assert table[0]["messages"][0]["content"][0] == {"type": "video", "text": None}
    collate = LlavaNextVideoCollator(processor)
    collate.check(table)
    batch, expected = collate([table[number] for number in range(4)]), collate(rows)
    assert batch.keys() == expected.keys()
    for name in ("input_ids", "labels", "pixel_values"):
        assert torch.equal(batch[name], expected[name])
    for video, other in zip(batch["pixel_values_videos"], expected["pixel_values_videos"], strict=True):
        assert torch.equal(video, other)


def test_rows_are_checked_without_opening_a_file(processor):
    collate = LlavaNextVideoCollator(processor, max_length=3)
    row = {"messages": [user(VIDEO), says("Yes.")], "videos": ["there is no such.mp4"]}
    collate.check([row, TEXT_ROW])
    with pytest.raises(ValueError, match=r"^Row 3 of the 3 cannot be used. The row has 0 videos in its columns"):
        collate.check([row, TEXT_ROW, {**row, "videos": []}])


def test_pictures_of_a_video_are_its_frames(processor):
    """And two videos of one picture each are two videos."""
    collate = LlavaNextVideoCollator(processor)
    batch = collate([{"messages": [user(VIDEO), says("Yes.")], "videos": [[PICTURE, PICTURE]]}])
    assert [len(video) for video in batch["pixel_values_videos"]] == [2]
    batch = collate([{"messages": [user(VIDEO, VIDEO), says("Yes.")], "videos": [PICTURE, PICTURE]}])
    assert [len(video) for video in batch["pixel_values_videos"]] == [1, 1]


def test_last_turn_only(processor):
    collate = LlavaNextVideoCollator(processor, last_turn_only=True)
    assert learned_texts(collate, collate([TEXT_ROW, IMAGE_ROW])) == ["Nothing.<|im_end|>", "It is red.<|im_end|>"]


def test_of_prompt_and_completion_the_completion_is_learned(processor):
    messages = TEXT_ROW["messages"]
    collate = LlavaNextVideoCollator(processor)
    rows = [{"prompt": messages[:end], "completion": messages[end:]} for end in (1, 3)]
    assert learned_texts(collate, collate(rows)) == ["Hi.<|im_end|>Nothing.<|im_end|>", "Nothing.<|im_end|>"]


def test_answers_that_are_marked_as_one_piece_cannot_be_told_apart():
    collate = LlavaNextVideoCollator(processor_of("mistral_instruct"), last_turn_only=True)
    with pytest.raises(ValueError, match=r"Row 2 of the 2 .* marks 1 pieces where the assistant says 2 messages"):
        collate([TEXT_ROW, {"messages": [user("a"), says("b"), says("c")]}])


@pytest.mark.parametrize("side", ["right", "left"])
def test_max_length_cuts_the_end(processor, side):
    whole = LlavaNextVideoCollator(processor)([TEXT_ROW])
    length = whole["input_ids"].shape[1] - 5
    collate = LlavaNextVideoCollator(processor, max_length=length, padding_side=side)
    batch = collate([TEXT_ROW, {"messages": [user("a"), says("b")]}])
    assert batch["input_ids"].shape == (2, length)
    assert batch["input_ids"][0].tolist() == whole["input_ids"][0, :length].tolist()
    assert learned_texts(collate, batch) == ["Hi.<|im_end|>Nothi", "b<|im_end|>"]


def test_max_length_cuts_no_visuals(processor):
    collate = LlavaNextVideoCollator(processor, max_length=100)
    with pytest.raises(
        ValueError, match=r"Row 2 of the 2 .* 30 of them of images and videos, and max_length=100 would"
    ):
        collate([TEXT_ROW, {**video_row("a", "b", 5), "messages": [user("x" * 50, VIDEO), says("b")]}])
    with pytest.raises(
        ValueError, match=r"Row 1 of the 1 .* Nothing of the row is learned: of its .* the first 100 are"
    ):
        collate([{"messages": [user("x" * 50), says("b")]}])


def test_columns_are_a_multiple(processor):
    collate = LlavaNextVideoCollator(processor, pad_to_multiple_of=32)
    assert collate([TEXT_ROW])["labels"].shape[1] % 32 == 0
    assert collate([TEXT_ROW])["input_ids"][0, -1] == processor.tokenizer.pad_token_id


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("rows", [[TEXT_ROW], [TEXT_ROW, IMAGE_ROW], MIXED], ids=["text", "image", "mixed"])
def test_dummies_change_neither_loss_nor_gradients(model, processor, rows, side):
    plain = LlavaNextVideoCollator(processor, padding_side=side)(rows)
    batch = LlavaNextVideoCollator(processor, dummy_visuals=("image", "video"), padding_side=side)(rows)
    assert {"pixel_values", "pixel_values_videos"} < set(batch)
    assert batch["attention_mask"][:, 0 if side == "right" else -1].all()
    found = []
    for each in (plain, batch):
        model.zero_grad()
        loss = model(**each).loss
        loss.backward()
        found.append((loss, {name: weight.grad for name, weight in model.named_parameters()}))
    (loss, gradients), (loss_with_dummies, with_dummies) = found
    assert torch.allclose(loss, loss_with_dummies, atol=1e-5)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert with_dummies[name] is not None, name  # all parts run
            without = torch.zeros_like(weight) if gradients[name] is None else gradients[name]
            assert torch.allclose(with_dummies[name], without, atol=1e-5), name


def test_dummies_are_for_batches_without(processor):
    collate = LlavaNextVideoCollator(processor, dummy_visuals=("video",))
    assert len(collate([MIXED[0], TEXT_ROW])["pixel_values_videos"]) == 1
    assert "pixel_values" not in collate([TEXT_ROW])


@pytest.mark.parametrize(
    "arguments",
    [
        {"fps": 2.0, "videos_kwargs": {"frame_sampling": "fps_capped"}},
        {"num_frames": 4, "frame_sampling": "uniform_repeated", "do_sample_frames": True},
    ],
)
def test_a_dummy_is_one_frame_whatever_is_sampled(processor, arguments):
    processor.video_processor.time_instruction = True
    batch = LlavaNextVideoCollator(processor, processor_kwargs=arguments, dummy_visuals=("video",))([TEXT_ROW])
    assert batch["pixel_values_videos"].shape[:2] == (1, 1)
    assert int((batch["input_ids"] == processor.video_token_id).sum()) == 6  # 2 x 2 pooled, a newline a row


def test_a_slow_fast_dummy_has_a_slow_and_a_fast_frame():
    """So that all processes of ZeRO-3 run the same parts of the model, forward and backward."""
    of_slow_fast = processor_of("qwen_1_5", tower="siglip", video_newline_position="grid", slow_frame_stride=2)
    batch = LlavaNextVideoCollator(of_slow_fast, dummy_visuals=("video",))([TEXT_ROW])
    assert batch["pixel_values_videos"].shape[:2] == (1, 2)


def test_errors_name_the_row(processor, tmp_path):
    collate = LlavaNextVideoCollator(processor)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    row = {"messages": [user(VIDEO), says("a")]}
    with pytest.raises(
        ValueError, match=r"Row 2 of the 3 in the batch cannot be used. Could not read the video .*broken"
    ):
        collate([TEXT_ROW, {**row, "videos": [str(broken)]}, TEXT_ROW])
    with pytest.raises(ValueError, match=r"Row 1 of the 1 .*broken") as caught:
        collate([{**row, "videos": [str(broken)]}])
    assert isinstance(caught.value.__cause__, VideoReadError)
    with pytest.raises(ValueError, match=r"Row 3 of the 3 in the batch cannot be used. A video cannot be made of int"):
        collate([TEXT_ROW, TEXT_ROW, {**row, "videos": [3]}])
    with pytest.raises(ValueError, match=r"Row 1 of the 2 in the batch cannot be used. The row has the columns \[\]"):
        collate([{}, TEXT_ROW])
    with pytest.raises(
        ValueError, match=r"Row 2 of the 2 .* The chat template cannot write this chat: The plain template"
    ):
        LlavaNextVideoCollator(processor_of("plain"))([{"messages": [says("a")]}, TEXT_ROW])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"processor_kwargs": {"max_length": 3, "truncation": True}}, r"has \['max_length', 'truncation'\], which the"),
        ({"dummy_visuals": "video"}, r"dummy_visuals is 'video'; it has to be a tuple"),
        ({"dummy_visuals": ("sound",)}, r"dummy_visuals is \('sound',\)"),
        ({"padding_side": "middle"}, r"padding_side is 'middle'"),
        ({"chat_template": "vicuna"}, r"does not mark what the assistant says"),
    ],
)
def test_impossible_settings(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        LlavaNextVideoCollator(processor, **arguments)


def test_a_tokenizer_has_to_pad(processor):
    processor.tokenizer = copy.deepcopy(processor.tokenizer)
    processor.tokenizer.pad_token = None
    with pytest.raises(ValueError, match="The tokenizer has no token to pad with"):
        LlavaNextVideoCollator(processor)


def test_a_pickled_collator_makes_the_same_batches(processor):
    collate = LlavaNextVideoCollator(processor, dummy_visuals=("image",))
    batch, again = collate(MIXED[:1]), pickle.loads(pickle.dumps(collate))(MIXED[:1])
    assert batch.keys() == again.keys()
    assert torch.equal(batch["labels"], again["labels"])


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_worker_processes_prefetch_the_same_batches(processor, method, tmp_path):
    path = str(write_video(tmp_path / "clip.mp4", num_frames=4))
    rows = [*MIXED, {"messages": [user(VIDEO), says("a")], "videos": [path]}] * 2
    collate = LlavaNextVideoCollator(processor)
    workers = {"num_workers": 1, "prefetch_factor": 3, "multiprocessing_context": method}
    loaded = list(DataLoader(rows, batch_size=2, collate_fn=collate, **workers))
    assert len(loaded) == 5
    for batch, number in zip(loaded, range(0, 10, 2)):
        expected = collate(rows[number : number + 2])
        assert torch.equal(batch["labels"], expected["labels"])
        for video, other in zip(batch.get("pixel_values_videos", []), expected.get("pixel_values_videos", [])):
            assert torch.equal(video, other)


def test_errors_in_worker_processes_say_the_row(processor):
    loader = DataLoader([TEXT_ROW, {}], batch_size=2, collate_fn=LlavaNextVideoCollator(processor), num_workers=1)
    with pytest.raises(ValueError, match="Row 2 of the 2 in the batch cannot be used"):
        list(loader)
