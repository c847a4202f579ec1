"""`tp_plan="auto"`: layers divided among two processes (gloo, on this machine) give what one process does."""

from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from llava_next_video import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration
from llava_next_video.modeling.placement import check_heads
from tests.golden_data import Recording
from tests.modeling.two_processes import IDS, OPTIONS, ORIGINAL, answers, logits_of, run_all
from tests.processes import run_in_two_processes
from tests.tiny import TEXT, make_model, make_processor, random_frames


RECIPES = {
    "clip_llama": {},
    "siglip_qwen2": {
        "tower": "siglip",
        "text": "qwen2",
        "video_newline_position": "grid",
        "spatial_pool_position": "after_projector",
        "spatial_pool_mode": "bilinear",
    },
    "clip_mistral": {"text": "mistral", "video_newline_position": "frame", "spatial_pool_mode": "conv"},
    "tied_slow_fast": {"video_newline_position": "grid", "slow_frame_stride": 2, "tie_word_embeddings": True},
}
ROOT = Path(__file__).parents[2]
each_recipe = pytest.mark.parametrize("recipe", RECIPES)


def make_inputs(processor) -> dict[str, dict]:
    """Inputs of each kind, as plain dictionaries."""
    processor.tokenizer.padding_side = "left"
    image = Image.fromarray(random_frames(1, 30, 50)[0])
    clips = [random_frames(frames, seed=frames) for frames in (5, 3, 4)]
    ragged = ["<video>\nWhat?", "<video>and a longer one<video>"]
    inputs = {
        "text": processor(text="Hello there"),
        "video": processor(text="<video>\nWhat?", videos=clips[:1]),
        "image": processor(text="<image>\nWhat?", images=[image]),
        "both": processor(text="<video>a<image>?", videos=clips[:1], images=[image]),
        "ragged batch": processor(text=ragged, videos=clips, padding=True),
    }
    return {case: dict(values) for case, values in inputs.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tensor_parallel")
    for name, recipe in RECIPES.items():
        model = make_model(**recipe)
        processor = make_processor(model.config)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        torch.save(make_inputs(processor), folder / name / "inputs.pt")
    odd_heads = {**TEXT, "model_type": "llama", "hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3}
    make_model(text_config=odd_heads).save_pretrained(folder / "odd_heads")
    return folder


@pytest.fixture(scope="module")
def results(folder) -> list[dict]:
    return run_in_two_processes(run_all, folder)


def load(folder: Path) -> LlavaNextVideoForConditionalGeneration:
    return LlavaNextVideoForConditionalGeneration.from_pretrained(folder)


@each_recipe
def test_divided_model_answers_as_one(recipe, folder, results):
    """With shared embeddings and transformers 5.20 there were twice as many logits."""
    model = load(folder / recipe)
    pipe = transformers.pipeline(
        "video-text-to-text",
        model=model,
        processor=transformers.AutoProcessor.from_pretrained(folder / recipe),
        device="cpu",
    )
    expected_answers = answers(pipe)
    for of_process in results:
        got = of_process[recipe]
        for case, inputs in torch.load(folder / recipe / "inputs.pt").items():
            torch.testing.assert_close(got["logits"][case], logits_of(model, inputs), atol=1e-5, rtol=0)
            assert got["tokens"][case].tolist() == model.generate(**inputs, **OPTIONS).tolist(), case
        assert got["answers"] == expected_answers


@each_recipe
def test_language_model_and_head_are_divided_and_the_rest_is_whole(recipe, folder, results):
    model = load(folder / recipe)
    divided = set(results[0][recipe]["divided"])
    expected = {
        name
        for name, weight in model.named_parameters()
        if name.startswith("lm_head.") or (".layers." in name and ".language_model." in name and "norm" not in name)
    }
    embeddings = "model.language_model.embed_tokens.weight"  # since transformers 5.24 also where they are not shared
    assert divided - {embeddings} == expected
    assert embeddings in divided or not model.config.tie_word_embeddings


@each_recipe
def test_divided_model_is_saved_whole(recipe, folder, results):
    expected, saved = (load_file(path / "model.safetensors") for path in (folder / recipe, folder / recipe / "saved"))
    if recipe == "tied_slow_fast":  # transformers no longer sees that they are one tensor, and writes it twice
        torch.testing.assert_close(saved.pop("lm_head.weight"), expected["language_model.model.embed_tokens.weight"])
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], value) for name, value in expected.items())
    configs = [load(path).config.to_dict() for path in (folder / recipe, folder / recipe / "saved")]
    assert configs[0] | {"_name_or_path": ""} == configs[1] | {"_name_or_path": ""}


def test_a_plan_of_the_user_may_divide_the_projector_too(folder, results):
    inputs = torch.load(folder / "clip_llama" / "inputs.pt")["both"]
    for of_process in results:
        divided, logits = of_process["with the projector"]
        assert sum("multi_modal_projector" in name for name in divided) == 4
        assert set(divided) > set(of_process["clip_llama"]["divided"])
        torch.testing.assert_close(logits, logits_of(load(folder / "clip_llama"), inputs), atol=1e-5, rtol=0)


def test_pipeline_loads_divided_and_one_process_saves_it(folder, results):
    for of_process in results:
        divided, got = of_process["pipeline by path"]
        assert divided == of_process["clip_llama"]["divided"]
        assert got == of_process["clip_llama"]["answers"]
    pipe = transformers.pipeline("video-text-to-text", model=str(folder / "saved_pipeline"), device="cpu")
    assert answers(pipe) == results[0]["clip_llama"]["answers"]


def test_original_checkpoint_is_divided_while_it_is_read(results):
    """It could not be: 'PlannedTensor' object has no attribute 'get_shape'."""
    recording = Recording(ORIGINAL)
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(
        recording.checkpoint, recipe=recording.recipe, vision_tower=recording.vision_tower
    )
    for of_process in results:
        divided, logits = of_process["original"]
        assert len(divided) > 2
        torch.testing.assert_close(logits, logits_of(model, {"input_ids": torch.tensor([IDS])}), atol=2e-5, rtol=0)


def test_error_when_heads_do_not_come_out_even(folder, results):
    """The first question failed: "shape '[1, 26, -1, 8]' is invalid for input of size 312"."""
    model = load(folder / "odd_heads")
    model._tp_size = 2  # as in `results`, here where the line counts as tested
    with pytest.raises(ValueError, match="among 2 processes, but its language_model has 3 key-value heads") as error:
        check_heads(model)
    assert [of_process["odd heads"] for of_process in results] == [str(error.value)] * 2


CONFIG_7B = LlavaNextVideoConfig()
CONFIG_32B = LlavaNextVideoConfig(
    vision_config={
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    },
    text_config={
        "model_type": "qwen2",
        "hidden_size": 5120,
        "intermediate_size": 27392,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
    },
    vision_feature_select_strategy="full",
    spatial_pool_position="after_projector",
    video_newline_position="grid",
)


def costs_of_a_frame(config: LlavaNextVideoConfig) -> dict[str, str]:
    """What `docs/guides/many_machines.md` says about one checkpoint, in `bfloat16`."""
    with torch.device("meta"):
        model = LlavaNextVideoForConditionalGeneration(config)
    numbers = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_modules()}
    projector, whole = numbers["model.multi_modal_projector"], numbers[""]
    patches, side = config.patches_per_side**2, config.patches_per_side // 2
    projected = patches if config.spatial_pool_position == "after_projector" else side**2
    tokens = side * (side + 1) if config.video_newline_position == "grid" else side**2
    num_layers = config.vision_config.num_hidden_layers
    layers = numbers["model.vision_tower.encoder.layers"] * (num_layers - 1) / num_layers  # the last one never runs
    rows = patches + (config.strategy_of_the_tower == "default")
    text_layers, width = config.text_config.num_hidden_layers, config.text_config.hidden_size
    language_model = numbers["model.language_model"] - numbers["model.language_model.embed_tokens"]
    return {
        "weights of the projector": f"{2 * projector / 1e6:.0f} MB, {projector / whole:.2%} of the model",
        "operations of the projector": f"{2 * projected * projector / 1e9:.1f} G",
        "operations of the vision tower": f"{2 * rows * layers / 1e9:.0f} G",
        "operations of the language model": f"{2 * tokens * language_model / 1e9:.0f} G",
        "summed over processes by the language model": f"{2 * text_layers * tokens * width * 2 / 1e6:.0f} MB",
        "summed over processes by a divided projector": f"{projected * width * 2 / 1e6:.1f} MB",
    }


def test_numbers_of_the_guide():
    smaller, larger = costs_of_a_frame(CONFIG_7B), costs_of_a_frame(CONFIG_32B)
    guide = (ROOT / "docs" / "guides" / "many_machines.md").read_text().replace(" %", "%")
    missing = [row for name in smaller if (row := f"| {name} | {smaller[name]} | {larger[name]} |") not in guide]
    assert not missing, "\n".join(missing)
