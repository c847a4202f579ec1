"""Original checkpoints through `from_pretrained`, the Auto classes and the pipeline."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaConfig,
    pipeline,
)

from llava_next_video import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoModel,
    LlavaNextVideoProcessor,
)
from llava_next_video.conversion.convert import convert
from llava_next_video.conversion.direct_loading import recognises
from llava_next_video.conversion.plan import plan_conversion
from tests.golden_data import VARIANTS, Recording


LLAMA = Recording("llama_notoken_avg_before")


def options(recording: Recording) -> dict:
    return {"recipe": recording.recipe, "vision_tower": recording.vision_tower}


@pytest.mark.parametrize("variant", VARIANTS)
def test_auto_classes_load_the_original_as_ours(variant):
    recording = Recording(variant)
    ours = LlavaNextVideoForConditionalGeneration.from_pretrained(recording.checkpoint, **options(recording))
    config = AutoConfig.from_pretrained(recording.checkpoint, **options(recording))
    assert type(config) is LlavaNextVideoConfig
    model = AutoModelForImageTextToText.from_pretrained(recording.checkpoint, **options(recording))
    assert type(model) is LlavaNextVideoForConditionalGeneration
    assert model.config.to_dict() == ours.config.to_dict()
    assert all(torch.equal(weight, ours.state_dict()[name]) for name, weight in model.state_dict().items())
    assert model.generation_config.eos_token_id == ours.generation_config.eos_token_id
    processor = AutoProcessor.from_pretrained(recording.checkpoint, **options(recording))
    assert type(processor) is LlavaNextVideoProcessor
    assert processor.video_processor.num_frames == recording.recipe.num_frames


def test_base_model_and_arguments_of_from_pretrained():
    arguments = {**options(LLAMA), "dtype": torch.bfloat16, "attn_implementation": "eager"}
    base = AutoModel.from_pretrained(LLAMA.checkpoint, **arguments)
    assert type(base) is LlavaNextVideoModel
    assert base.dtype == torch.bfloat16
    assert base.config._attn_implementation == "eager"
    model, info = LlavaNextVideoForConditionalGeneration.from_pretrained(
        LLAMA.checkpoint, **options(LLAMA), output_loading_info=True
    )
    assert not any(info.values())
    assert model.dtype == torch.float32
    assert torch.equal(base.image_newline, model.model.image_newline.bfloat16())
    assert model.config.name_or_path == str(LLAMA.checkpoint)


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_afterwards_it_is_in_our_format(tmp_path, variant):
    recording = Recording(variant)
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(recording.checkpoint, **options(recording))
    processor = LlavaNextVideoProcessor.from_pretrained(recording.checkpoint, **options(recording))
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    convert(plan_conversion(str(recording.checkpoint), **options(recording)), tmp_path / "converted")
    for file in ("config.json", "processor_config.json", "chat_template.jinja", "generation_config.json"):
        saved, converted = ((tmp_path / kind / file).read_text() for kind in ("saved", "converted"))
        assert saved == converted
    with (
        safe_open(tmp_path / "saved" / "model.safetensors", "pt") as saved,
        safe_open(tmp_path / "converted" / "model.safetensors", "pt") as converted,
    ):
        assert sorted(saved.keys()) == sorted(converted.keys())
        assert all(torch.equal(saved.get_tensor(name), converted.get_tensor(name)) for name in saved.keys())  # noqa: SIM118
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")) is type(model)


def plain_llava(folder) -> str:
    """The checkpoint with the `model_type` that the released 7B has."""
    target = shutil.copytree(LLAMA.checkpoint, folder / "plain")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    return str(target)


def test_plain_llava_configuration_that_is_an_original_is_recognised_by_our_classes(tmp_path):
    source = plain_llava(tmp_path)
    named = LlavaNextVideoForConditionalGeneration.from_pretrained(LLAMA.checkpoint, **options(LLAMA))
    plain = LlavaNextVideoForConditionalGeneration.from_pretrained(source, **options(LLAMA))
    assert all(torch.equal(weight, named.state_dict()[name]) for name, weight in plain.state_dict().items())
    assert LlavaNextVideoConfig.from_pretrained(source, **options(LLAMA)).text_config.model_type == "llama"
    assert LlavaNextVideoProcessor.from_pretrained(source, **options(LLAMA)).video_processor.num_frames == 4


def test_built_in_llava_is_not_disturbed(tmp_path):
    LlavaConfig(image_seq_length=7).save_pretrained(tmp_path / "built-in")
    config = AutoConfig.from_pretrained(tmp_path / "built-in")
    assert type(config) is LlavaConfig
    assert config.image_seq_length == 7
    assert not recognises(tmp_path / "built-in", {})
    assert type(AutoConfig.for_model("llava")) is LlavaConfig


def test_settings_are_changed_while_loading():
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(
        LLAMA.checkpoint, **options(LLAMA), vision_chunk_size=2, text_config={"attention_dropout": 0.5}, dtype="auto"
    )
    assert model.config.vision_chunk_size == 2
    assert model.config.text_config.attention_dropout == 0.5
    assert model.config.text_config.vocab_size == 402
    assert model.dtype == torch.float32
    config = AutoConfig.from_pretrained(LLAMA.checkpoint, **options(LLAMA), vision_chunk_size=2)
    assert config.vision_chunk_size == 2
    processor = AutoProcessor.from_pretrained(LLAMA.checkpoint, **options(LLAMA), exact_pixels=True, num_frames=9)
    assert processor.video_processor.exact_pixels
    assert processor.image_processor.exact_pixels
    assert processor.video_processor.num_frames == 9


def test_assumptions_are_named(caplog):
    LlavaNextVideoForConditionalGeneration.from_pretrained(LLAMA.checkpoint, vision_tower=LLAMA.vision_tower)
    assert "says nothing about chat_template, spatial_pool_position, num_frames, " in caplog.text
    assert "Pass `recipe`, the name of a released checkpoint or a Recipe" in caplog.text
    caplog.clear()
    LlavaNextVideoForConditionalGeneration.from_pretrained(LLAMA.checkpoint, **options(LLAMA))
    assert "says nothing about" not in caplog.text


def test_recipe_may_be_named(tmp_path):
    named = {"recipe": "LLaVA-NeXT-Video-32B-Qwen", "vision_tower": LLAMA.vision_tower}
    processor = LlavaNextVideoProcessor.from_pretrained(LLAMA.checkpoint, **named)
    assert processor.video_newline_position == "grid"
    assert processor.video_processor.frame_sampling == "fps_capped"


def test_pipeline_answers_from_the_original():
    recording = Recording("qwen_grid_avg")
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(recording.checkpoint, **options(recording))
    processor = LlavaNextVideoProcessor.from_pretrained(recording.checkpoint, **options(recording))
    pipe = pipeline("video-text-to-text", model=model, processor=processor)
    [answer] = pipe(recording.video, "What is happening in this video?", max_new_tokens=24)
    assert answer["generated_text"] == recording.meta["cases"]["video"]["generated_text"]


def test_broken_original_is_the_converter_s_error(tmp_path):
    source = shutil.copytree(LLAMA.checkpoint, tmp_path / "source")
    (source / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        LlavaNextVideoForConditionalGeneration.from_pretrained(source, **options(LLAMA))


def test_missing_folder_is_transformers_own_error(tmp_path):
    with pytest.raises((OSError, ValueError), match="nowhere"):
        LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path / "nowhere")


def test_revision_and_token_reach_the_download(monkeypatch):
    asked = []

    def download(name, **arguments):
        asked.append(arguments)
        return str(LLAMA.checkpoint)

    monkeypatch.setattr("llava_next_video.hub.checkpoint_folders.snapshot_download", download)
    plan_conversion("someone/original", vision_tower=LLAMA.vision_tower, revision="v1", token="secret")
    assert all((arguments["revision"], arguments["token"]) == ("v1", "secret") for arguments in asked)
    assert len(asked) == 3  # settings; safetensors; .bin
