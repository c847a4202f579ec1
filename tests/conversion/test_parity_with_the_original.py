"""The original's numbers, from its own checkpoints: converted, and loaded as they are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava_next_video import LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor
from llava_next_video.conversion.convert import convert
from llava_next_video.conversion.plan import plan_conversion
from tests.golden_data import CASES, VARIANTS, Recording, collapsed


# Logits have a standard deviation of 3, features of 2; eager and sdpa attention of the original differ by 2e-5.
FEATURES, LOGITS = {"atol": 1e-4, "rtol": 0}, {"atol": 3e-4, "rtol": 0}


def load(how: str, recording: Recording, folder, **changes):
    """Model and processor of a recorded checkpoint, converted first or read as it is."""
    options = {"recipe": replace(recording.recipe, **changes), "vision_tower": recording.vision_tower}
    source = recording.checkpoint
    if how == "converted":
        source = folder / "converted"
        convert(plan_conversion(str(recording.checkpoint), **options), source)
        options = {}
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(source, **options)
    return model, LlavaNextVideoProcessor.from_pretrained(source, **options)


@pytest.fixture(scope="module", params=[f"{how} {variant}" for variant in VARIANTS for how in ("converted", "direct")])
def loaded(request, tmp_path_factory):
    how, variant = request.param.split()
    recording = Recording(variant)
    return recording, *load(how, recording, tmp_path_factory.mktemp(variant))


def prepare(recording: Recording, processor, *cases: str, **arguments) -> dict:
    """What the processor makes of the files and conversations of some cases."""
    text = [processor.apply_chat_template(recording.messages(case), add_generation_prompt=True) for case in cases]
    told = recording.says_times(cases[0])
    return processor(text=text, **recording.media(*cases), time_instruction=told, return_tensors="pt", **arguments)


def features_of(model, pixels: dict, visuals: list[str]) -> torch.Tensor:
    """Everything that is spliced in, in the order of the prompt."""
    parts = {"image": [], "video": []}
    if "pixel_values" in pixels:
        parts["image"] = list(model.get_image_features(pixels["pixel_values"], pixels["image_sizes"]).pooler_output)
    if "pixel_values_videos" in pixels:
        parts["video"] = list(model.get_video_features(pixels["pixel_values_videos"]).pooler_output)
    return torch.cat([parts[visual.split(".")[0]].pop(0) for visual in visuals])


def check_logits(logits: torch.Tensor, expected: dict, case: str, vocab_size: int):
    """Compare with all recorded positions, or the last 16."""
    wanted = expected.get(f"{case}.logits", expected.get(f"{case}.logits_tail"))
    torch.testing.assert_close(logits[:, -wanted.shape[1] :, :vocab_size], wanted, **LOGITS)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_original_numbers_from_recorded_pixels(loaded, case):
    recording, model, processor = loaded
    expected, pixels = recording.expected(), recording.pixels(case)
    inputs = prepare(recording, processor, case)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert collapsed(ids[0].tolist(), model.config) == expected[f"{case}.input_ids"][0].tolist()

    if pixels:
        features = features_of(model, pixels, recording.visuals(case))
        torch.testing.assert_close(features, expected[f"{case}.visual_features"], **FEATURES)
    outputs = model(input_ids=ids, attention_mask=mask, **pixels, output_hidden_states=True)
    check_logits(outputs.logits, expected, case, recording.vocab_size)
    if f"{case}.inputs_embeds" in expected:
        torch.testing.assert_close(outputs.hidden_states[0], expected[f"{case}.inputs_embeds"], **FEATURES)
    generated = model.generate(input_ids=ids, attention_mask=mask, **pixels, max_new_tokens=24)
    assert torch.equal(generated[:, ids.shape[1] :], expected[f"{case}.generated_ids"])


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_original_numbers_in_padded_batches(loaded, side):
    recording, model, processor = loaded
    expected, pixels = recording.expected(), recording.pixels("video", "image2")
    inputs = prepare(recording, processor, "video", "image2", padding=True, padding_side=side)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert torch.equal(mask.bool(), expected[f"batch_{side}.attention_mask"].bool())
    logits = model(input_ids=ids, attention_mask=mask, **pixels).logits
    for row, wanted in zip(range(2), expected[f"batch_{side}.logits_tail"]):
        real = logits[row, mask[row].bool(), : recording.vocab_size]
        torch.testing.assert_close(real[-16:], wanted, **LOGITS)
    if side == "left":  # the original cannot generate from the other
        generated = model.generate(input_ids=ids, attention_mask=mask, **pixels, max_new_tokens=24)
        assert torch.equal(generated[:, ids.shape[1] :], expected["batch_left.generated_ids"])


def test_frames_and_times_are_the_recorded_ones(loaded):
    recording, _, processor = loaded
    inputs = prepare(recording, processor, "video", return_metadata=True)
    [metadata] = inputs["video_metadata"]
    assert list(metadata.frames_indices) == recording.expected()["video.frame_indices"].tolist()
    told = recording.meta["time_instruction"]
    assert processor.video_processor.time_instruction == bool(told)
    if told:
        assert processor.video_processor.describe_times(metadata) + "\n" == told


def test_prompts_are_the_recorded_ones(loaded):
    recording, _, processor = loaded
    for case in CASES:
        prompt = processor.apply_chat_template(recording.messages(case), add_generation_prompt=True)
        recorded = recording.meta["cases"][case]["prompt"].replace(recording.meta["time_instruction"] or "\0", "")
        assert prompt.replace("<video>", "<image>") == recorded


def test_generation_stops_where_the_template_says(loaded):
    recording, model, processor = loaded
    stop = processor.tokenizer.convert_tokens_to_ids(recording.meta["stop_str"])
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id == stop
    assert (
        model.generation_config.pad_token_id
        == processor.tokenizer.pad_token_id
        == recording.meta["tokenizer"]["pad_id"]
    )


@torch.no_grad()
@pytest.mark.parametrize("how", ["converted", "direct"])
@pytest.mark.parametrize(
    ("file", "changes", "context"),
    [
        ("expected_main_pool_after", {"spatial_pool_position": "after_projector"}, 4096),
        ("expected_rope_linear2", {"rope_factor": 2.0}, 8192),
    ],
)
def test_original_numbers_of_other_recipes(tmp_path, how, file, changes, context):
    recording = Recording("llama_notoken_avg_before")
    model, processor = load(how, recording, tmp_path, **changes)
    assert processor.tokenizer.model_max_length == context
    expected = recording.expected(file)
    cases = sorted({key.split(".")[0] for key in expected})
    assert "video" in cases
    for case in cases:
        pixels = recording.pixels(case)
        inputs = prepare(recording, processor, case)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if f"{case}.visual_features" in expected:
            features = features_of(model, pixels, recording.visuals(case))
            torch.testing.assert_close(features, expected[f"{case}.visual_features"], **FEATURES)
        logits = model(input_ids=ids, attention_mask=mask, **pixels).logits
        check_logits(logits, expected, case, recording.vocab_size)
        generated = model.generate(input_ids=ids, attention_mask=mask, **pixels, max_new_tokens=24)
        assert torch.equal(generated[:, ids.shape[1] :], expected[f"{case}.generated_ids"])


@torch.no_grad()
@pytest.mark.parametrize("how", ["converted", "direct"])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("newline", ["grid", "no_token"])
@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("variant", ["qwen_grid_avg", "llama_notoken_avg_before"])
def test_original_numbers_of_every_pooling(tmp_path, variant, position, newline, stride, how):
    recording = Recording(variant)
    changes = {
        "spatial_pool_position": f"{position}_projector",
        "video_newline_position": newline,
        "spatial_pool_stride": stride,
    }
    model, processor = load(how, recording, tmp_path, **changes)
    expected, pixels = recording.expected("expected_pooling_position"), recording.pixels("video")
    name = f"{position}.{newline}.stride{stride}"
    features = features_of(model, pixels, ["video"])
    torch.testing.assert_close(features, expected[f"{name}.visual_features"], **FEATURES)
    ids = prepare(recording, processor, "video")["input_ids"]
    assert (ids == model.config.video_token_index).sum() == len(features)
    if f"{name}.logits_tail" in expected:
        logits = model(input_ids=ids, **pixels).logits
        check_logits(logits, expected, name, recording.vocab_size)
        generated = model.generate(input_ids=ids, **pixels, max_new_tokens=24)
        assert torch.equal(generated[:, ids.shape[1] :], expected[f"{name}.generated_ids"])


@torch.no_grad()
@pytest.mark.parametrize("how", ["converted", "direct"])
def test_projector_stored_under_the_second_name_only(tmp_path, how):
    # What safetensors leaves of a checkpoint of that branch; the original's main then runs with a random projector.
    recording = Recording("llama_notoken_avg_before")
    weights = torch.load(recording.checkpoint / "pytorch_model.bin", weights_only=True)
    kept = {name: weight.clone() for name, weight in weights.items() if not name.startswith("model.mm_projector")}
    folder = tmp_path / "second_name"
    folder.mkdir()
    save_file(kept, folder / "model.safetensors")
    for file in recording.checkpoint.iterdir():
        if file.suffix != ".bin":
            (folder / file.name).write_bytes(file.read_bytes())
    recording.checkpoint = folder
    model, processor = load(how, recording, tmp_path)
    logits = model(**{**prepare(recording, processor, "video"), **recording.pixels("video")}).logits
    check_logits(logits, recording.expected(), "video", recording.vocab_size)


def test_direct_and_converted_models_are_the_same_to_the_last_bit(tmp_path):
    recording = Recording("llama_notoken_avg_before")  # its vocabulary grows
    direct, _ = load("direct", recording, tmp_path)
    converted, _ = load("converted", recording, tmp_path)
    assert direct.config.to_dict() | {"_name_or_path": ""} == converted.config.to_dict() | {"_name_or_path": ""}
    ours, theirs = direct.state_dict(), converted.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fixtures_stay_small():
    files = [path for path in (Path(__file__).parents[1] / "golden").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10 * 10**6
