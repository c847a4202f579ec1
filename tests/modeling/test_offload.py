"""Parts of a model on a disk (`device_map`): the model and its pipeline give what they give in memory."""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from llava_next_video import LlavaNextVideoForConditionalGeneration, check_finite
from tests.golden_data import Recording
from tests.tiny import make_model, make_processor, random_frames


OPTIONS = {"max_new_tokens": 4, "do_sample": False, "return_tensors": True}
RECIPES = {
    "slow_fast": {"video_newline_position": "grid", "slow_frame_stride": 2},
    "conv": {"spatial_pool_mode": "conv", "video_newline_position": "frame"},
    "siglip_qwen2": {"tower": "siglip", "text": "qwen2", "video_newline_position": "one_token"},
}
VIDEO_PARTS = ["model.vision_tower", "model.multi_modal_projector", "model.image_newline", "model.faster_token"]
ON_DISK = {
    "everything": ([""], "slow_fast"),
    "all but the head": (["model"], "slow_fast"),
    "all that video features need": (VIDEO_PARTS, "slow_fast"),
    "vision tower": (["model.vision_tower"], "slow_fast"),
    "parts of the tower": (["model.vision_tower.embeddings", "model.vision_tower.encoder.layers.1"], "siglip_qwen2"),
    "projector": (["model.multi_modal_projector"], "slow_fast"),
    "pooler": (["model.vision_resampler"], "conv"),
    "newline": (["model.image_newline"], "conv"),
    "language model": (["model.language_model"], "slow_fast"),
    "a layer of the language model": (["model.language_model.layers.1"], "siglip_qwen2"),
    "embeddings": (["model.language_model.embed_tokens"], "conv"),
    "head": (["lm_head"], "conv"),
}
IMAGE = Image.fromarray(random_frames(1, 30, 50)[0])


def map_to_disk(model: torch.nn.Module, on_disk: list[str]) -> dict[str, str]:
    """A device map of the largest modules that have nothing on the disk, and of these parts."""
    device_map = dict.fromkeys(on_disk, "disk")

    def add(name: str, module: torch.nn.Module):
        if name in device_map:
            return
        if name and not any(part.startswith(f"{name}.") for part in on_disk):
            device_map[name] = "cpu"
            return
        prefix = f"{name}." if name else ""
        for own, _ in module.named_parameters(recurse=False):
            device_map.setdefault(prefix + own, "cpu")
        for own, child in module.named_children():
            add(prefix + own, child)

    add("", model)
    return device_map


def load(folder, **options) -> LlavaNextVideoForConditionalGeneration:
    return LlavaNextVideoForConditionalGeneration.from_pretrained(folder, **options)


def make_pipeline(model, **options):
    processor = make_processor(model.config)
    return transformers.pipeline("video-text-to-text", model=model, processor=processor, **options)


def answers(pipe) -> list:
    """Of a question, another about the same video, one about a picture, and a batch."""
    picture = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "x"}]}]
    clips = [random_frames(frames) for frames in (2, 3, 2)]
    results = [
        pipe(clips[1], "What?", **OPTIONS),
        pipe(clips[1], "What else?", **OPTIONS),
        pipe(text=picture, **OPTIONS),
        *pipe(clips, ["a", "b", "<video>c"], batch_size=3, **OPTIONS),
    ]
    return [record["generated_token_ids"].tolist() for [record] in results]


def make_inputs(processor) -> list[dict]:
    processor.tokenizer.padding_side = "left"
    clips = [random_frames(frames) for frames in (5, 3, 4)]
    return [
        processor(text="Hello there"),
        processor(text="<video>a<image>?", videos=clips[:1], images=[IMAGE]),
        processor(text=["<video>?", "<video>and a longer one<video>"], videos=clips, padding=True),
    ]


@dataclass
class InMemory:
    """A model in memory, and what it answers."""

    model: LlavaNextVideoForConditionalGeneration
    inputs: list[dict]
    logits: list[torch.Tensor]
    tokens: list[torch.Tensor]
    answers: list


@cache
def in_memory(recipe: str) -> InMemory:
    model = make_model(**RECIPES[recipe])
    inputs = make_inputs(make_processor(model.config))
    pipe_answers = answers(make_pipeline(model, device="cpu"))
    return InMemory(model, inputs, *run_all(model, inputs), pipe_answers)


@torch.no_grad()
def run_all(model, inputs: list[dict]) -> tuple[list, list]:
    """Logits and tokens."""
    tokens = [model.generate(**values, max_new_tokens=4, do_sample=False).tolist() for values in inputs]
    return [model(**values).logits for values in inputs], tokens


@pytest.mark.parametrize("case", ON_DISK)
def test_model_with_parts_on_disk_answers_the_same(case, tmp_path):
    """With everything there, and with the newline alone, newlines were copied from nowhere."""
    on_disk, recipe = ON_DISK[case]
    expected = in_memory(recipe)
    expected.model.save_pretrained(tmp_path / "model")
    device_map = map_to_disk(expected.model, on_disk)
    model = load(tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "disk")
    assert any(weight.is_meta for weight in model.parameters()) or case == "newline"  # which is kept in memory
    logits, tokens = run_all(model, expected.inputs)
    assert all(map(torch.equal, logits, expected.logits))
    assert tokens == expected.tokens

    pipe = make_pipeline(model)  # 'disk' was taken for a device
    assert pipe.device.type == "cpu"
    assert answers(pipe) == expected.answers

    model.save_pretrained(tmp_path / "saved")
    weights, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "saved"))
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], value) for name, value in weights.items())


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_pipeline_puts_on_disk_what_memory_does_not_hold(share, tmp_path):
    model = in_memory("slow_fast").model
    make_pipeline(model, device="cpu").save_pretrained(tmp_path / "model")
    num_bytes = sum(weight.nbytes for weight in model.parameters())
    limits = {"max_memory": {"cpu": int(share * num_bytes)}, "offload_folder": tmp_path / "disk"}
    pipe = transformers.pipeline(
        "video-text-to-text", model=str(tmp_path / "model"), device_map="auto", model_kwargs=limits
    )
    bytes_in_memory = sum(weight.nbytes for weight in pipe.model.parameters() if not weight.is_meta)
    assert bytes_in_memory <= share * num_bytes
    assert answers(pipe) == answers(make_pipeline(model, device="cpu"))
    pipe.save_pretrained(tmp_path / "saved")
    assert answers(transformers.pipeline("video-text-to-text", model=str(tmp_path / "saved"), device="cpu")) == answers(
        pipe
    )


def load_on_disk(tmp_path, change=lambda weights: None) -> LlavaNextVideoForConditionalGeneration:
    in_memory("slow_fast").model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    return load(tmp_path, device_map={"": "disk"})


def test_video_is_remembered_while_its_model_is_on_disk(tmp_path, monkeypatch):
    """Weights on the disk are other objects after each use: the model seemed to have changed."""
    model = load_on_disk(tmp_path)
    pipe, encoded = make_pipeline(model), []
    encode = model.get_video_features
    monkeypatch.setattr(model, "get_video_features", lambda videos: encoded.append(1) or encode(videos))
    for question in ("What?", "What else?", "And then?"):
        pipe(random_frames(3), question, **OPTIONS)
    assert len(encoded) == 1
    assert pipe.memory.conversation  # keys and values too
    model.lm_head.register_forward_hook(lambda *_: None)
    pipe(random_frames(3), "What now?", **OPTIONS)
    assert len(encoded) == 2


def test_check_of_numbers_passes_on_disk(tmp_path):
    model, inputs = load_on_disk(tmp_path), in_memory("slow_fast").inputs[1]
    with check_finite(model):
        model.generate(**inputs, max_new_tokens=1)


def test_numbers_that_are_not_finite_are_found_on_disk(tmp_path):
    def damage(weights):
        [name] = [name for name in weights if name.endswith("multi_modal_projector.linear_2.weight")]
        weights[name][0, 0] = torch.nan

    model = load_on_disk(tmp_path, damage)
    inputs = in_memory("slow_fast").inputs[1]
    with (
        pytest.raises(FloatingPointError, match=r"model\.multi_modal_projector\.linear_2 .* is the first layer"),
        check_finite(model),
    ):
        model.generate(**inputs, max_new_tokens=1)


def test_original_checkpoint_with_parts_on_disk(tmp_path):
    recording = Recording("qwen_grid_avg")
    options = {"recipe": recording.recipe, "vision_tower": recording.vision_tower}
    expected, ids = load(recording.checkpoint, **options), torch.arange(9)[None]
    device_map = map_to_disk(expected, ["model.vision_tower.encoder", "model.image_newline", "lm_head"])
    model = load(recording.checkpoint, device_map=device_map, offload_folder=tmp_path, **options)
    assert sum(weight.is_meta for weight in model.parameters()) > 10
    pixels = torch.ones(1, 2, 3, *[model.config.vision_config.image_size] * 2)
    features, expected_features = (each.get_video_features(pixels).pooler_output[0] for each in (model, expected))
    assert torch.equal(features, expected_features)
    assert torch.equal(model(ids).logits, expected(ids).logits)
