import copy
import gc
import json
from itertools import product

import pytest
import torch
import transformers
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from llava_next_video import LlavaNextVideoProcessor
from llava_next_video.conversion.tokenizer import begins_words_with_space, prepare_tokenizer, read_template
from llava_next_video.modeling.visual_grid import image_token_count
from tests.golden_data import Recording
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


# --- prompts without videos ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("videos", [[], [[]], (), [[], []], None])
@pytest.mark.parametrize("images", [[], [[]], None])
def test_an_empty_list_is_no_video_and_no_image(processor, videos, images):
    inputs = processor(text=["a", "b"], videos=videos, images=images)
    assert sorted(inputs) == ["attention_mask", "input_ids"]


def test_a_prompt_of_a_batch_may_have_no_video_or_image(processor):
    video, image = random_frames(2), Image.new("RGB", (9, 9))
    inputs = processor(
        text=["<video>", "a", "<image>"], videos=[[video], [], []], images=[[], [], [image]], padding=True
    )
    assert inputs["pixel_values_videos"].shape[:2] == (1, 2)
    assert len(inputs["pixel_values"]) == 1
    with pytest.raises(ValueError, match="have 2 <video> placeholders, but 1 videos were passed"):
        processor(text=["<video>", "<video>"], videos=[[video], []])


# --- what replaces a placeholder -------------------------------------------------------------------------------------


def of_recording(name: str) -> LlavaNextVideoProcessor:
    recording = Recording(name)
    options = {"recipe": recording.recipe, "vision_tower": recording.vision_tower}
    return LlavaNextVideoProcessor.from_pretrained(recording.checkpoint, **options)


@pytest.fixture(scope="module")
def vicuna():
    """A processor with a Llama tokenizer, which begins every text with a space."""
    return of_recording("llama_notoken_avg_before")


MEDIA = {
    "image": {"images": [Image.new("RGB", (40, 30))]},
    "video": {"videos": [random_frames(2)], "video_metadata": [{"fps": 2.0, "total_num_frames": 2}]},
}


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("told", [False, True])
def test_what_replaces_a_placeholder_is_complete(vicuna, kind, told):
    """Serving engines ask about a prompt of placeholders alone, and put the ids of the replacement into ids that they
    made of the prompt themselves. The answer used to lack the space."""
    arguments = {**MEDIA[kind], "time_instruction": told, "return_text_replacement_offsets": True}
    tokenizer = vicuna.tokenizer
    [[visual]] = vicuna(text=f"<{kind}>", **arguments)["text_replacement_offsets"]
    alone = tokenizer(visual["replacement"], add_special_tokens=False).input_ids
    inputs = vicuna(text=f"A: <{kind}>\nWhat?", **arguments)
    ids = []
    for token in tokenizer(f"A: <{kind}>\nWhat?").input_ids:
        ids += alone if token == tokenizer.convert_tokens_to_ids(f"<{kind}>") else [token]
    assert inputs["input_ids"][0].tolist() == ids


def test_engines_have_two_tokens_where_the_time_sentence_ends():
    """docs/differences.md says so: in the prompt, the full stop and the line break behind it are one token of Qwen."""
    qwen = of_recording("qwen_siglip_grid_bilinear")
    arguments = {**MEDIA["video"], "time_instruction": True, "return_text_replacement_offsets": True}
    inputs = qwen(text="<video>\nWhat?", **arguments)
    [[visual]] = inputs["text_replacement_offsets"]
    apart = qwen.tokenizer(visual["replacement"]).input_ids + qwen.tokenizer("\nWhat?").input_ids
    assert len(apart) == inputs["input_ids"].shape[1] + 1
    assert qwen.tokenizer.decode(apart) == qwen.tokenizer.decode(inputs["input_ids"][0])


def test_offsets_say_where_the_replacements_are(vicuna):
    text, offsets = vicuna.get_text_with_replacements(
        ["A <image>\n<video></s><video>", "<video>b"], ["<image><image> "], ["<video> ", "<video><video> ", "<video> "]
    )
    assert text == ["A <image><image> \n<video></s><video><video>", "<video> b"]
    spans = [[visual["new_span"] for visual in of_prompt] for of_prompt in offsets]
    assert [[prompt[slice(*span)] for span in of_prompt] for prompt, of_prompt in zip(text, spans)] == [
        ["<image><image> ", "<video>", "<video><video>"], ["<video> "]
    ]  # fmt: skip


def test_mask_of_the_assistants_tokens_is_in_place_behind_visuals(vicuna):
    """It used to be shifted by a character for each visual."""
    template = (
        "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
        "{% endgeneration %}{% else %}{% for part in message.content %}{{ part.text if part.type == 'text' else "
        "'<' ~ part.type ~ '>\n' }}{% endfor %}{% endif %}|{% endfor %}"
    )
    media = [{"type": "image", "image": image} for image in MEDIA["image"]["images"] * 3]
    messages = [
        {"role": "user", "content": [*media, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": [{"type": "video", "video": random_frames(2)}, {"type": "text", "text": "And?"}]},
        {"role": "assistant", "content": "A cat."},
    ]
    inputs = vicuna.apply_chat_template(
        messages, template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    said = inputs["input_ids"][0][torch.as_tensor(inputs["assistant_masks"][0]).bool()]
    assert vicuna.tokenizer.decode(said) == "A dog.A cat."


PIECES = ("<image>", "</s>", "\n", "a", " a")


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_text_between_visuals_has_the_ids_of_the_original(vicuna, length):
    """The original tokenizes each piece of text on its own. There used to be a space in front of special tokens and at
    the end of a prompt."""
    tokenizer = vicuna.tokenizer
    for pieces in product(PIECES, repeat=length):
        prompt = "".join(pieces)
        # Blanks there are not tokenized by transformers as by SentencePiece, which the original uses.
        if "<image>" not in pieces or "<image> " in prompt or "</s> " in prompt:
            continue
        first, *others = (tokenizer(text).input_ids for text in prompt.split("<image>"))
        expected = sum(([vicuna.image_token_id, *ids[1:]] for ids in others), first)
        [text], _ = vicuna.get_text_with_replacements([prompt], ["<image> "] * pieces.count("<image>"))
        assert tokenizer(text).input_ids == expected, prompt


def test_no_space_in_front_of_the_end_of_a_turn(vicuna):
    # As Yi with mistral_direct: `<|im_end|>` is one token, and the template puts it behind the content.
    processor = copy.deepcopy(vicuna)
    processor.tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    processor.chat_template = read_template("mistral_direct")
    prompt = processor.apply_chat_template([{"role": "user", "content": "What is this?\n<image>"}])
    ids = processor(text=prompt, **MEDIA["image"])["input_ids"][0].tolist()
    assert processor.tokenizer.convert_ids_to_tokens(ids)[-2:] == ["<image>", "<|im_end|>"]


@pytest.mark.parametrize("legacy", [True, False])
def test_space_is_put_where_the_tokenizer_does_not(tmp_path, legacy):
    """Tokenizers of Llama's older kind begin the text behind a special token with a space themselves."""
    source = Recording("llama_notoken_avg_before").checkpoint
    for name in ("tokenizer.model", "special_tokens_map.json"):
        (tmp_path / name).symlink_to(source / name)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": legacy}))
    tokenizer = prepare_tokenizer(tmp_path, "vicuna_v1", 100, video_first=True)
    assert begins_words_with_space(tokenizer) != legacy
    space = " " * begins_words_with_space(tokenizer)
    assert tokenizer.tokenize(f"<image>{space}\na") == ["<image>", "▁", "<0x0A>", "a"]


def test_rows_of_pixels_of_an_image_are_told_to_serving_engines(processor):
    """One row of `pixel_values` belongs to each image, however many tiles it has."""
    images = [Image.new("RGB", size) for size in ((9, 9), (90, 20), (50, 50))]
    inputs = processor(text="<image>" * 3, images=images)
    counts = processor._get_num_multimodal_tokens(image_sizes=[image.size[::-1] for image in images])
    assert len(inputs["pixel_values"]) == sum(counts["num_image_patches"])
    assert counts["num_image_patches"] == [1, 1, 1]
    assert sum(counts["num_image_tokens"]) == (inputs["input_ids"] == processor.image_token_id).sum()
    assert counts["num_video_tokens"] is None


def test_tokens_that_the_original_loses_to_rounding():
    """docs/differences.md names these counts."""
    side, tile = 27, 384  # SigLIP
    pinpoints = [[tile * rows, tile * columns] for rows in range(1, 7) for columns in range(1, 7)]
    image_height, image_width = 832, 1872
    assert image_token_count((image_height, image_width), side, tile, pinpoints, "anyres") == 9025
    grid_height, grid_width = (length // tile * side for length in select_best_resolution((832, 1872), pinpoints))
    rows = int(image_height * (grid_width / image_width))  # as the original does
    assert round(image_height * (grid_width / image_width), 7) == rows + 1
    rows = grid_height - 2 * ((grid_height - rows) // 2)
    assert side**2 + rows * (grid_width + 1) == 8753


# --- damaged settings ------------------------------------------------------------------------------------------------


DAMAGED = {
    "patch_size": (0, -14, 14.0, "14", True, [14], {}, float("nan")),
    "spatial_pool_stride": (0, -1, None, "2", 2.0, True, [2]),
    "slow_frame_stride": (0, -1, "4", 1.5, False),
    "num_additional_image_tokens": (-1, None, "1", True),
    "spatial_pool_mode": ("avg", "", None, 5, ["average"], {"a": 1}),
    "video_newline_position": ("row", None, 0, ["grid"]),
    "vision_feature_select_strategy": ("patch", 0, ["default"]),
    "space_after_visuals": (None, 1, "true", []),
    "image_processor": (None, 5, "x", []),
    "video_processor": (None, 5, "x", []),
    "video_token": (None, 5, ["<video>"]),
    "image_token": (None, 5),
    "chat_template": (5, ["a"], {"default": 5}),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in DAMAGED.items() for value in values])
def test_damaged_settings_are_refused_when_the_processor_is_made(processor, tmp_path, name, value):
    """They used to end in ZeroDivisionError, TypeError, KeyError, when the first prompt was written."""
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, name: value}))
    message = rf"The processor's {name} is .*; it has to be .*. Correct the checkpoint's processor_config.json"
    if name == "chat_template":  # which is read from its own file
        with pytest.raises(ValueError, match=message):
            type(processor)(processor.video_processor, processor.image_processor, processor.tokenizer, value)
        return
    with pytest.raises(ValueError, match=message):
        type(processor).from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["[]", "5", "null", '"x"', "[" * 10**5, '{"a": ' * 10**5, '{"audio_tokenizer": 5}'])
def test_error_when_the_settings_are_no_settings(processor, tmp_path, text):
    processor.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(text)
    if text != '{"audio_tokenizer": 5}':
        with pytest.raises(ValueError, match=r"processor_config\.json is damaged: .*\. Download it again"):
            type(processor).from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"The settings of .* cannot be used: "):
        type(processor).get_processor_dict(tmp_path)  # where the package is not, but its exported code


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("file", ["processor_config.json", "audio_tokenizer_config.json"])
def test_no_other_model_is_loaded_because_a_checkpoint_says_so(processor, tmp_path, monkeypatch, file):
    """transformers loads what these settings name, from any folder or repository."""

    def load(*args, **kwargs):
        raise AssertionError(f"{args} is loaded")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", load)
    processor.save_pretrained(tmp_path)
    sound = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "/somewhere/else"}
    if file == "processor_config.json":
        sound = {**json.loads((tmp_path / file).read_text()), "audio_tokenizer": sound}
    (tmp_path / file).write_text(json.dumps(sound))
    with pytest.raises(
        ValueError, match=r"load a model of the class 'DacModel', for sound, .* Nothing was loaded; remove"
    ):
        type(processor).from_pretrained(tmp_path)
    gc.collect()  # transformers leaves the second file open


def test_settings_at_their_bounds_are_accepted(processor):
    parts = (processor.video_processor, processor.image_processor, processor.tokenizer)
    settings = {"patch_size": 1, "spatial_pool_stride": 1, "slow_frame_stride": 1, "num_additional_image_tokens": 0}
    again = LlavaNextVideoProcessor(*parts, chat_template={"default": "a", "b": "b"}, **settings)
    assert {name: getattr(again, name) for name in settings} == settings
    assert LlavaNextVideoProcessor(*parts, patch_size=None, vision_feature_select_strategy=None).chat_template is None


def test_videos_alone_become_pixels_alone(processor):
    videos = [random_frames(3), random_frames(3, seed=1)]
    alone = processor(videos=videos)
    beside_text = processor(text=["<video>", "<video>"], videos=videos)
    assert set(alone) == {"pixel_values_videos"}
    assert torch.equal(alone["pixel_values_videos"], beside_text["pixel_values_videos"])
