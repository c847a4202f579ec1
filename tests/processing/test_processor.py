import copy

import pytest
import torch
from PIL import Image

from tests.tiny import make_model, make_processor, random_frames, write_video


@pytest.fixture(scope="module")
def processor():
    return make_processor(make_model().config)


def test_chat_template_reads_the_video_and_puts_a_placeholder_in_front_of_the_question(processor, tmp_path):
    path = write_video(tmp_path / "clip.mp4")
    chat = [{"role": "user", "content": [{"type": "video", "path": str(path)}, {"type": "text", "text": "What?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<video>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    )
    arguments = {"tokenize": True, "return_dict": True}
    assert processor.apply_chat_template(chat, **arguments)["pixel_values_videos"].shape[:2] == (1, 32)
    sampled = processor.apply_chat_template(chat, **arguments, processor_kwargs={"num_frames": 3})
    assert sampled["pixel_values_videos"].shape[:2] == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "<video><video>", "videos": [random_frames(2)]}, "have 2 <video> placeholders, but 1 videos were"),
        ({"text": "hello", "videos": [random_frames(2)]}, "have 0 <video> placeholders, but 1 videos .* Write one"),
        ({"text": "<video>"}, "have 1 <video> placeholders, but 0 videos were passed"),
        ({"text": "<image>"}, "have 1 <image> placeholders, but 0 images were passed"),
        ({"text": "a", "images": [[Image.new("RGB", (9, 9))]]}, "have 0 <image> placeholders, but 1 images"),
        ({"text": ["a", 3]}, "got a `text` that is neither a string nor a list of strings"),
        ({}, "got nothing to process"),
        ({"text": "a", "audio": [0.0]}, "got `audio`, which LLaVA-NeXT-Video does not hear"),
    ],
)
def test_error_for_wrong_input(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_error_when_the_patch_size_is_not_known():
    processor = make_processor(make_model().config)
    processor.patch_size = None
    with pytest.raises(ValueError, match="does not know the vision tower's patch size"):
        processor(text="<video>", videos=[random_frames(2)])


def test_error_when_an_image_does_not_divide_into_tiles(processor):
    with pytest.raises(ValueError, match=r"padded to 30x30 pixels, .* tiles of 16x16, but that does not divide"):
        processor(text="<image>", images=Image.new("RGB", (20, 20)), image_grid_pinpoints=[[30, 30]])


def test_error_when_truncation_cuts_placeholders(processor):
    processor = copy.deepcopy(processor)  # a fast tokenizer keeps the truncation it was last called with
    with pytest.raises(ValueError, match="Mismatch in `video` token count"):
        processor(text="<video>", videos=[random_frames(2)], truncation=True, max_length=5)


def test_recipe_is_saved_with_the_processor(tmp_path):
    recipe = {"spatial_pool_mode": "bilinear", "spatial_pool_stride": 3, "video_newline_position": "grid"}
    processor = make_processor(make_model(**recipe, slow_frame_stride=None, image_aspect_ratio="anyres_max_2").config)
    processor.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in recipe} == recipe
    assert again.image_processor.image_aspect_ratio == "anyres_max_2"
    case = {"text": "<video>", "videos": [random_frames(3)]}
    assert again(**case)["input_ids"].tolist() == processor(**case)["input_ids"].tolist()


def test_videos_alone_become_pixels_alone(processor):
    videos = [random_frames(3), random_frames(3, seed=1)]
    alone = processor(videos=videos)
    beside_text = processor(text=["<video>", "<video>"], videos=videos)
    assert set(alone) == {"pixel_values_videos"}
    assert torch.equal(alone["pixel_values_videos"], beside_text["pixel_values_videos"])
