"""Rows of a batch answer as they do alone, whatever stands beside them."""

import pytest
import torch
from PIL import Image

from tests.tiny import make_model, make_processor, random_frames


RECIPES = {
    "builtin": {},
    "grid": {
        "tower": "siglip",
        "text": "qwen2",
        "spatial_pool_position": "after_projector",
        "video_newline_position": "grid",
    },
    "slow_fast": {"text": "mistral", "video_newline_position": "grid", "slow_frame_stride": 3},
}
ROWS = [
    {"text": "<video>\nWhat happens?", "videos": [random_frames(8, seed=1)]},
    {"text": "And <video> here, in more words?", "videos": [random_frames(5, seed=2)]},
    {"text": "<video>", "videos": [random_frames(1, seed=3)]},
    {"text": "Is <image> a cat?", "images": [Image.fromarray(random_frames(1, 20, 70, seed=4)[0])]},
    {"text": "Hello."},
]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_ragged_batch_gives_what_its_rows_give_alone(recipe, padding_side):
    model = make_model(**RECIPES[recipe])
    processor = make_processor(model.config)
    batch = processor(
        text=[row["text"] for row in ROWS],
        videos=[row.get("videos", []) for row in ROWS[:3]],
        images=[row["images"] for row in ROWS if "images" in row],
        padding=True,
        text_kwargs={"padding_side": padding_side},
    )
    assert [len(video) for video in batch["pixel_values_videos"]] == [8, 5, 1]
    with torch.no_grad():
        logits = model(**batch).logits
        answers = model.generate(**batch, max_new_tokens=6, do_sample=False) if padding_side == "left" else None
        for index, row in enumerate(ROWS):
            alone = processor(**row)
            real = batch["attention_mask"][index].bool()
            assert (logits[index, real] - model(**alone).logits[0]).abs().max() <= 1e-5
            if answers is not None:
                expected = model.generate(**alone, max_new_tokens=6, do_sample=False)[0, -6:]
                assert processor.tokenizer.decode(answers[index, -6:]) == processor.tokenizer.decode(expected)


def test_videos_and_images_in_any_order_land_in_their_places():
    model = make_model()
    processor = make_processor(model.config)
    videos = [random_frames(2, seed=seed) for seed in (1, 2)]
    images = [Image.fromarray(random_frames(1, 20, size, seed=size)[0]) for size in (30, 50)]
    inputs = processor(text="<image>a<video>b<video>c<image>", videos=videos, images=images)
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
        embeddings = outputs.hidden_states[0][0]
        for token_id, single in (("video", videos), ("image", images)):
            expected = [processor(text=f"<{token_id}>", **{f"{token_id}s": [medium]}) for medium in single]
            expected = [model(**one, output_hidden_states=True).hidden_states[0][0] for one in expected]
            mask = inputs["input_ids"][0] == getattr(model.config, f"{token_id}_token_id")
            assert torch.allclose(embeddings[mask], torch.cat(expected), atol=1e-6)


def test_list_and_tensor_of_videos_are_the_same():
    model = make_model()
    videos = torch.randn(2, 3, 3, 16, 16)
    as_tensor = model.get_video_features(videos).pooler_output
    as_list = model.get_video_features(list(videos)).pooler_output
    assert all(torch.equal(a, b) for a, b in zip(as_tensor, as_list))


@torch.no_grad()
def test_chunks_of_any_size_give_the_same_features():
    model = make_model()
    videos = [torch.randn(frames, 3, 16, 16) for frames in (5, 2)]
    images, sizes = torch.randn(2, 5, 3, 16, 16), torch.tensor([[40, 44], [16, 60]])
    results = []
    for size in (1, 3, 100, None):
        model.config.vision_chunk_size = size
        results.append(
            model.get_video_features(videos).pooler_output + model.get_image_features(images, sizes).pooler_output
        )
    for other in results[1:]:
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(results[0], other))


def test_beams_and_several_answers_of_a_ragged_batch():
    model = make_model()
    processor = make_processor(model.config)
    processor.tokenizer.padding_side = "left"
    batch = processor(text=["<video>a", "<video>"], videos=[random_frames(3), random_frames(1)], padding=True)
    beams = model.generate(**batch, max_new_tokens=4, num_beams=3, num_return_sequences=2, do_sample=False)
    alone = processor(text="<video>", videos=[random_frames(1)])
    expected = model.generate(**alone, max_new_tokens=4, num_beams=3, num_return_sequences=2, do_sample=False)
    assert beams.shape[0] == 4
    assert beams[2:, -4:].tolist() == expected[:, -4:].tolist()


def test_inputs_embeds_give_the_logits_of_their_ids():
    model = make_model(video_newline_position="frame")
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    expected = model(**inputs).logits
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.allclose(model(**inputs, inputs_embeds=embeds).logits, expected, atol=1e-6)
