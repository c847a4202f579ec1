"""What vLLM relies on, without vLLM: a change that would break serving is seen here.

vLLM's Transformers backend builds the model without its head and finds the weights by their names; it tokenizes a
prompt as it is, with one placeholder a video or image, and puts in its place the ids of what the processor says
replaces it, tokenized alone. Both are played here, in our words; `test_vllm.py` runs the real one.
"""

import re
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor
from llava_next_video.processing import CHAT_TEMPLATES
from llava_next_video.reading.errors import VideoLimitError, VideoReadError
from llava_next_video.serving.vllm_prompts import (
    check_says_no_times,
    ids_joined_with,
    is_followed_by,
    says_times,
    with_first_token,
)
from llava_next_video.serving.vllm_videos import (
    CheckpointDefaults,
    VideoReader,
    reading_settings_of,
    with_times,
)
from tests.package.test_registration import NAMING_STYLES, renamed
from tests.serving.recipes import RECIPES, model_of, processor_of
from tests.tiny import number_of, random_frames, write_video


TEMPLATES = sorted(path.stem for path in CHAT_TEMPLATES.glob("*.jinja"))


def name_in_vllm(name: str, model) -> str | None:
    """The parameter of vLLM's model that a weight of a checkpoint goes to; None, it is dropped."""
    if any(re.search(pattern, name) for pattern in model._keys_to_ignore_on_load_unexpected or ()):
        return None
    renamings = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]
    name, _ = rename_source_key(name, renamings, [])
    parts = {name for name, _ in [*model.named_children(), *model.named_parameters(recurse=False)]}
    if name.split(".")[0] in parts:
        name = f"model.{name}"
    elif name.startswith("model.") and name.split(".")[1] not in parts:
        name = name.removeprefix("model.")
    return name[name.index("lm_head.") :] if "lm_head." in name else name


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_weight_of_a_checkpoint_finds_its_place(recipe, tmp_path):
    """`lm_head` was dropped, silently, and every answer was `!!!!`."""
    model = model_of(recipe)
    model.save_pretrained(tmp_path)
    saved = list(load_file(tmp_path / "model.safetensors"))
    own = [name for name, _ in model.named_parameters()]
    with torch.device("meta"):
        in_vllm = AutoModel.from_config(model.config)
    wanted = {f"model.{name}" for name, _ in in_vllm.named_parameters()} | {"lm_head.weight"}
    if model.config.tie_word_embeddings:
        wanted.remove("lm_head.weight")  # it is not saved; vLLM ties it
    for names in (saved, *([renamed(name, style) for name in own] for style in NAMING_STYLES)):
        assert {name_in_vllm(name, in_vllm) for name in names} == wanted


def test_a_head_is_no_surprise_to_the_model_without_one(tmp_path):
    model = model_of("clip, no newline, spaces, anyres")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"mystery": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report["unexpected_keys"] == {"mystery"}


def conversations() -> list[tuple[list[dict], list, list]]:
    """Messages, with the videos and the images in them."""
    long, short = random_frames(5, seed=1), random_frames(2, seed=2)
    wide, tall = Image.new("RGB", (90, 40)), Image.new("RGB", (17, 61))
    video, image, text = {"type": "video"}, {"type": "image"}, {"type": "text", "text": "What is this?"}
    answered = [{"role": "assistant", "content": "It moves."}, {"role": "user", "content": "Where to?"}]
    return [
        (user(text), [], []),
        (user(video, text), [long], []),
        (user(text, video), [long], []),
        (user(video, video, text), [long, short], []),
        (user(image, text), [], [wide]),
        (user(image, video, image, text), [short], [tall, wide]),
        ([*user(video, text), *answered], [long], []),
        ([*user(video, text), answered[0], *user(image, text)], [long], [tall]),
    ]


def user(*parts: dict) -> list[dict]:
    return [{"role": "user", "content": list(parts)}]


def media_of(processor, videos: list, images: list) -> dict:
    """Arguments of the processor; videos are frames whose times are known."""
    metadata = [{"fps": 2.0, "total_num_frames": len(frames), "duration": len(frames) / 2} for frames in videos]
    known = {"videos": videos, "video_metadata": metadata, "do_sample_frames": False}
    return (known if videos else {}) | ({"images": images} if images else {})


def ids_in_vllm(processor, prompt: str, videos: list, images: list) -> list[int]:
    """The ids that vLLM makes of a prompt: it shows the processor the media with a text of placeholders alone."""
    tokenizer = processor.tokenizer
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if not videos and not images:
        return ids
    ids = with_first_token(ids, tokenizer)
    text = processor.image_token * len(images) + processor.video_token * len(videos)
    outputs = processor(text=text, **media_of(processor, videos, images), return_text_replacement_offsets=True)
    replacements = {"image": [], "video": []}
    for entry in outputs["text_replacement_offsets"][0]:
        replacements[entry["type"]].append(tokenizer(entry["replacement"], add_special_tokens=False)["input_ids"])
    kinds = {processor.image_token_id: "image", processor.video_token_id: "video"}
    newline = tokenizer.encode("\n", add_special_tokens=False)
    expanded, position = [], 0
    while position < len(ids):
        token = ids[position]
        if token not in kinds:
            expanded.append(token)
        else:
            replacement = replacements[kinds[token]].pop(0)
            if processor.video_processor.time_instruction and is_followed_by(ids, position, newline):
                replacement = ids_joined_with("\n", replacement, token, tokenizer)
                position += len(newline)
            expanded += replacement
        position += 1
    return expanded


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_replacements_encoded_alone_give_the_processors_ids(recipe, template):
    processor = processor_of(recipe)
    processor.chat_template = (CHAT_TEMPLATES / f"{template}.jinja").read_text()
    for messages, videos, images in conversations():
        if template == "plain" and len(messages) > 1:
            continue  # it has no second turn
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        begin = {} if videos or images else {"add_special_tokens": False}
        inputs = processor(text=prompt, **media_of(processor, videos, images), **begin)
        assert ids_in_vllm(processor, prompt, videos, images) == inputs["input_ids"][0].tolist(), prompt


def test_a_full_stop_and_the_new_line_after_it_are_one_token_of_qwen():
    """What `ids_joined_with` is for; without it there was one token too many."""
    processor = processor_of("siglip, times, one frame a second")
    tokenizer, video = processor.tokenizer, processor.video_token_id
    apart = tokenizer.encode("<video><video>\nThe end.", add_special_tokens=False)
    together = tokenizer.encode("<video><video>\nThe end.\nWhat?", add_special_tokens=False)
    what = tokenizer.encode("What?", add_special_tokens=False)
    assert [*apart, *tokenizer.encode("\nWhat?", add_special_tokens=False)] != together
    assert [*ids_joined_with("\n", apart, video, tokenizer), *what] == together
    assert is_followed_by([1, 2, 3], 0, [2, 3])
    assert not is_followed_by([1, 2, 3], 1, [2, 3])
    assert not is_followed_by([1, 2, 3], 2, [2])


def test_prompts_begin_as_the_tokenizer_begins_texts():
    """vLLM left out the first token of chats, and every answer of a Vicuna or Mistral checkpoint was another one."""
    vicuna, qwen = processor_of("clip, times, spaces").tokenizer, processor_of("siglip, slow and fast frames").tokenizer
    assert with_first_token([5, 6], vicuna) == [vicuna.bos_token_id, 5, 6]
    assert with_first_token([vicuna.bos_token_id, 5], vicuna) == [vicuna.bos_token_id, 5]
    assert with_first_token([5, 6], qwen) == [5, 6]


def test_times_in_one_request_alone_are_refused():
    processor = processor_of("siglip, slow and fast frames")
    check_says_no_times(processor, {"time_instruction": False})
    with pytest.raises(ValueError, match="vLLM keeps the times of videos only where all requests need them"):
        check_says_no_times(processor, {"videos_kwargs": {"time_instruction": True}})
    assert says_times(processor_of("clip, times, spaces"), {})


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", num_frames=40, fps=10)


@pytest.mark.parametrize(
    ("checkpoint", "given", "frames"),
    [
        ({}, {}, np.linspace(0, 39, 32)),
        ({"num_frames": 4}, {}, [0, 13, 26, 39]),
        ({"num_frames": 4}, {"num_frames": 3}, [0, 19, 39]),
        ({"num_frames": 4}, {"fps": 1}, [0, 10, 20, 30]),
        ({"num_frames": 4}, {"fps": 1, "num_frames": 2}, [0, 39]),
        ({"num_frames": 4}, {"num_frames": -1}, range(40)),
        ({"fps": 2}, {}, range(0, 40, 5)),
        ({"fps": 2}, {"num_frames": 2}, [0, 39]),
        ({"num_frames": 6, "frame_sampling": "fps_capped"}, {}, [0, 10, 20, 30]),
        ({"num_frames": 3, "frame_sampling": "fps_capped"}, {}, [0, 19, 39]),
        ({"num_frames": 3, "fps": 2, "frame_sampling": "fps_capped"}, {}, [0, 19, 39]),
        ({"num_frames": 3, "fps": 2, "frame_sampling": "fps_capped"}, {"num_frames": 9}, range(0, 40, 5)),
        ({"num_frames": 3, "fps": 2, "frame_sampling": "fps_capped"}, {"fps": 2}, range(0, 40, 5)),
        ({"num_frames": 4, "frame_sampling": "legacy"}, {}, [0, 10, 20, 30]),
        ({"num_frames": 4}, {"frame_sampling": "legacy"}, [0, 10, 20, 30]),
    ],
)
def test_the_reader_of_vllm_takes_the_checkpoints_frames_or_those_asked_for(checkpoint, given, frames, video):
    processor = LlavaNextVideoVideoProcessor(**checkpoint)
    settings = reading_settings_of(processor, given)
    assert settings.pop("video_backend") == "llava_next_video"  # vLLM takes this one out
    pictures, metadata = VideoReader.load_bytes(video.read_bytes(), **settings)
    assert [number_of(picture) for picture in pictures] == metadata["frames_indices"]
    assert metadata["frames_indices"] == [int(frame) for frame in frames]
    assert metadata["do_sample_frames"] is False
    if not given:
        of_the_path = processor(str(video), return_tensors="pt")["pixel_values_videos"]
        assert torch.equal(processor(pictures, return_tensors="pt")["pixel_values_videos"], of_the_path)


def test_times_of_an_uneven_video_reach_the_prompt(tmp_path):
    times = [0, 100, 300, 350, 900, 1600, 1700, 3100, 3400]
    path = write_video(tmp_path / "uneven.mp4", len(times), timestamps=times)
    processor = processor_of("clip, times, spaces")
    frames, described = VideoReader.load_bytes(path.read_bytes(), num_frames=5)
    from_vllm = with_times({name: value for name, value in described.items() if name != "do_sample_frames"})
    prompt = processor(text="<video>\nWhen?", videos=[frames], video_metadata=[from_vllm], do_sample_frames=False)
    assert prompt["input_ids"].tolist() == processor(text="<video>\nWhen?", videos=[str(path)])["input_ids"].tolist()


def test_a_bad_video_is_the_readers_error(video):
    with pytest.raises(VideoReadError, match="Could not read the video given as 9 bytes"):
        VideoReader.load_bytes(b"not video")
    with pytest.raises(VideoLimitError, match="max_frames=20"):
        VideoReader.load_bytes(video.read_bytes(), limits={"max_frames": 20})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_duration": 5}, r"have \['max_duration'\], which LLaVA-NeXT-Video's reader does not know"),
        ({"limits": {"frames": 5}}, "limits that ReadingLimits cannot be made of.*'frames'"),
        ({"limits": 5}, "limits that ReadingLimits cannot be made of"),
        ({"num_frames": 0}, "num_frames is 0; it has to be a whole number from 1"),
        ({"fps": -2}, "fps is -2; it has to be a number greater than 0"),
        ({"frame_sampling": "some"}, "frame_sampling is 'some'"),
    ],
)
def test_impossible_settings_are_refused_at_the_start_and_in_a_request(given, message, video):
    with pytest.raises(ValueError, match=message):
        reading_settings_of(LlavaNextVideoVideoProcessor(), given)
    with pytest.raises(ValueError, match=message):
        VideoReader.load_bytes(video.read_bytes(), **given)


def model_config(**media_io_kwargs) -> SimpleNamespace:
    settings = SimpleNamespace(media_io_kwargs=media_io_kwargs)
    return SimpleNamespace(model=DEMO_CHECKPOINT, revision=None, multimodal_config=settings)


def test_defaults_of_the_checkpoint_fill_in_what_the_user_did_not_say():
    config = model_config(image={"image_mode": "RGB"})
    CheckpointDefaults.verify_and_update_model_config(config)
    processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT).video_processor
    assert config.multimodal_config.media_io_kwargs == {
        "image": {"image_mode": "RGB"},
        "video": {"num_frames": processor.num_frames, "frame_sampling": "uniform", "video_backend": "llava_next_video"},
    }


def test_another_reader_of_vllm_keeps_its_settings():
    config = model_config(video={"video_backend": "opencv", "max_duration": 5})
    CheckpointDefaults.verify_and_update_model_config(config)
    assert config.multimodal_config.media_io_kwargs == {"video": {"video_backend": "opencv", "max_duration": 5}}


def test_a_configuration_without_media_is_left_alone():
    CheckpointDefaults.verify_and_update_model_config(SimpleNamespace(multimodal_config=None))


def test_vllm_finds_the_plug_in_and_gets_what_it_needs(monkeypatch):
    """With stand-ins for the three tables of vLLM's that it writes into."""
    models, readers = {}, {}
    names = ("vllm", "vllm.model_executor", "vllm.model_executor.models", "vllm.multimodal")
    modules = {
        name: ModuleType(name) for name in (*names, "vllm.model_executor.models.config", "vllm.multimodal.video")
    }
    modules["vllm"].ModelRegistry = SimpleNamespace(register_model=models.__setitem__)
    modules["vllm.model_executor.models.config"].MODELS_CONFIG_MAP = {}
    modules["vllm.multimodal.video"].VIDEO_LOADER_REGISTRY = SimpleNamespace(
        register=lambda name, video_processor: lambda reader: readers.update({video_processor: (name, reader)})
    )
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    [plugin] = entry_points(group="vllm.general_plugins", name="llava_next_video")
    plugin.load()()
    module, _, class_name = models["LlavaNextVideoForConditionalGeneration"].partition(":")
    assert f"class {class_name}(" in Path(find_spec(module).origin).read_text()
    hooks = modules["vllm.model_executor.models.config"].MODELS_CONFIG_MAP
    assert hooks == {"LlavaNextVideoForConditionalGeneration": CheckpointDefaults}
    assert readers == {LlavaNextVideoVideoProcessor.__name__: ("llava_next_video", VideoReader)}
