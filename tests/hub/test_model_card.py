"""The model card: what it says about a checkpoint is what the checkpoint does, and its snippets run."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import copyfile

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from torch import nn
from transformers.models.llava_next_video import LlavaNextVideoConfig as BuiltInConfig
from transformers.models.llava_next_video import LlavaNextVideoForConditionalGeneration as BuiltInModel
from transformers.models.llava_next_video import LlavaNextVideoProcessor as BuiltInProcessor
from transformers.quantizers.quantizers_utils import should_convert_module

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoConfig
from llava_next_video.hub.export import export_for_hub
from llava_next_video.hub.model_card import PLACEHOLDER_PATH, code, fenced, model_card
from llava_next_video.hub.model_card_facts import CardFacts, facts_of, plain
from tests import tiny


SAMPLES = Path(__file__).parents[2] / "demo_model" / "samples"
NAME = "somebody/shapes"  # a Hub id, and the folder beside which the snippets are run
RECIPE_OF_THE_32B = {
    "tower": "siglip",
    "text": "qwen2",
    "spatial_pool_position": "after_projector",
    "video_newline_position": "grid",
}

# Runs every block as a program of its own, though in one process: most of the time would go into imports.
RUN_BLOCKS = """
import contextlib, io, json, sys, torch
torch.set_num_threads(1)
printed = []
for block in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    printed.append(output.getvalue())
print(json.dumps({"printed": printed, "package": "llava_next_video" in sys.modules}))
"""


def python_blocks(card: str) -> list[tuple[str, str]]:
    """What each Python block of a card needs (empty if nothing), and its text."""
    return re.findall(r"(?:<!-- needs: (.+?) -->\n)?```python\n(.*?)```", card, flags=re.DOTALL)


def recipe(card: str) -> dict[str, str]:
    """The recipe table of a card."""
    section = card.partition("## Recipe\n")[2].partition("```")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", section, flags=re.MULTILINE))


def save(folder: Path, config: LlavaNextVideoConfig, **video_settings):
    """Write the files that a card is made from, for a tiny configuration."""
    processor = tiny.make_processor(config)
    for name, value in video_settings.items():
        setattr(processor.video_processor, name, value)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return processor


def tiny_card(folder: Path, repository: str = NAME, *, video_settings: dict | None = None, **arguments) -> str:
    save(folder, LlavaNextVideoConfig(**tiny.config_arguments(**arguments)), **(video_settings or {}))
    return model_card(folder, repository)


@pytest.fixture(scope="module")
def card():
    return model_card(DEMO_CHECKPOINT, NAME)


@pytest.fixture(scope="module")
def run_blocks(tmp_path_factory):
    """Runs blocks where a reader would: beside an exported folder of that name, two videos and a picture."""
    place = tmp_path_factory.mktemp("reader")
    export_for_hub(DEMO_CHECKPOINT, place / NAME)
    copyfile(SAMPLES / "red_circle_moves_left.mp4", place / "video.mp4")
    copyfile(SAMPLES / "yellow_star_moves_down.mp4", place / "longer_video.mp4")
    Image.new("RGB", (80, 60), "red").save(place / "image.png")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules")}

    def run(blocks: list[str]) -> tuple[list[str], bool]:
        """What each block printed, and whether this package was imported."""
        result = subprocess.run(
            [sys.executable, "-c", RUN_BLOCKS],
            input=json.dumps(blocks),
            capture_output=True,
            text=True,
            cwd=place,
            env=environment,
        )
        assert result.returncode == 0, result.stderr
        report = json.loads(result.stdout.splitlines()[-1])
        return report["printed"], report["package"]

    return run


@pytest.mark.slow
def test_snippets_run_with_the_code_of_the_export(card, run_blocks):
    blocks = [text for needs, text in python_blocks(card) if not needs and "import llava_next_video" not in text]
    printed, package_was_imported = run_blocks(blocks)
    assert not package_was_imported
    pipe, streamed, auto_classes, batch, *image, lora = (text.splitlines() for text in printed)
    assert pipe == streamed == auto_classes == ["A red circle moves left."]
    assert batch == ["A red circle moves left.", "A yellow star moves down."]
    assert len(image) == facts_of(DEMO_CHECKPOINT).images
    losses = [float(line.rpartition(" ")[2]) for line in lora]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]


def test_snippets_run_with_the_package(card, run_blocks):
    blocks = [text for needs, text in python_blocks(card) if not needs and "import llava_next_video" in text]
    assert len(blocks) == 1
    assert run_blocks(blocks) == (["A red circle moves left.\n"], True)


def test_snippets_that_are_not_run_compile_and_say_what_they_need(card):
    marked = {needs: text for needs, text in python_blocks(card) if needs}
    assert set(marked) == {"a GPU, bitsandbytes", "a GPU, flash-attn", "a GPU, vllm"}
    for text in marked.values():
        compile(text, "README.md", "exec")


@pytest.mark.parametrize("arguments", [{}, RECIPE_OF_THE_32B, {"spatial_pool_mode": "conv"}])
def test_four_bits_are_for_the_language_model_alone(card, arguments):
    """Names without the leading `model.` match nothing: transformers compares from the beginning."""
    [block] = [text for _, text in python_blocks(card) if "BitsAndBytesConfig" in text]
    [skipped] = [
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.keyword) and node.arg == "llm_int8_skip_modules"
    ]
    linear = [name for name, module in tiny.make_model(**arguments).named_modules() if isinstance(module, nn.Linear)]
    quantized = [name for name in linear if should_convert_module(name, skipped)]
    assert quantized == [name for name in linear if name.startswith("model.language_model.")] != []


def test_metadata_of_the_hub(card, tmp_path):
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "video-text-to-text")
    assert "custom_code" in data.tags
    assert (data.license, data.language) == ("apache-2.0", ["en"])
    assert data.base_model is None

    given = model_card(DEMO_CHECKPOINT, NAME, CardFacts(license="mit", base_model=("somebody/base",)))
    assert (ModelCard(given).data.license, ModelCard(given).data.base_model) == ("mit", ["somebody/base"])
    assert "[somebody/base](https://huggingface.co/somebody/base)" in given
    assert "Weights: mit." in given


def test_license_of_one_s_own_has_a_name_and_a_link():
    facts = CardFacts(license="other", license_name="shapes-only", license_link="https://example.org/license")
    card = model_card(DEMO_CHECKPOINT, NAME, facts)
    assert (ModelCard(card).data.license, ModelCard(card).data.license_name) == ("other", "shapes-only")
    assert "Weights: shapes-only, https://example.org/license." in card


def test_demonstration_says_what_it_is(card):
    facts = facts_of(DEMO_CHECKPOINT)
    head, _, tail = card.partition("## Pipeline")
    assert f"it answers questions about {facts.subject}, with a" in head
    assert "coloured shapes" in facts.subject
    assert f"\n\n{plain(facts.origin)}\n\n## Limits\n\n* {plain(facts.limits[0])}\n" in head
    assert "It was made from" not in head
    assert "## License\n\nWeights: apache-2.0.\n" in tail


def test_nothing_is_said_of_a_checkpoint_that_nobody_said_anything_of(tmp_path):
    card = tiny_card(tmp_path)
    assert ModelCard(card).data.license is None
    assert "it answers questions about videos, with a" in card
    assert "## Limits" not in card
    assert "Nothing was said about the license of these weights" in card


def test_facts_do_not_become_more_than_text():
    marks = "# <b>Free</b> [money](https://evil.example)"
    card = model_card(DEMO_CHECKPOINT, facts=CardFacts(title=marks, subject=marks, limits=(marks,), origin=marks))
    assert marks not in card
    assert card.count("\\# \\<b\\>Free\\</b\\> \\[money\\](https://evil.example)") == 4


@pytest.mark.parametrize("saw_images", [True, False])
def test_images_are_left_out_where_it_never_saw_any(saw_images):
    card = model_card(DEMO_CHECKPOINT, NAME, CardFacts(images=saw_images))
    assert ("\n### Images\n\n```python\n" in card) == saw_images
    assert ("image.png" in card) == saw_images
    assert ("Images" in recipe(card)) == saw_images


def test_cards_say_how_to_have_the_package_while_it_has_no_address(card):
    assert "is on no package index yet: it is installed from a copy of its source" in " ".join(card.split())
    assert "pip install llava-next-video" not in card


def test_card_without_repository_has_a_placeholder():
    card = model_card(DEMO_CHECKPOINT)
    assert f'model="{PLACEHOLDER_PATH}"' in card
    assert f"\n# {facts_of(DEMO_CHECKPOINT).title}\n" in card
    assert "\n# LLaVA-NeXT-Video\n" in model_card(DEMO_CHECKPOINT, facts=CardFacts())


def test_recipe_of_the_embedded_checkpoint(card):
    rows = recipe(card)
    assert rows["Vision tower"].startswith("`siglip_vision_model`, 144 x 144 pixels, 12 x 12 patches of 12 pixels")
    assert rows["Language model"].startswith("`qwen2`, 4 layers")
    assert rows["Pooling of videos"] == "average, stride 2, after the projector"
    assert rows["Newlines in videos"] == "one after each row of each frame"
    assert rows["Tokens of a frame"] == "42"
    assert rows["Tokens of a video"] == "336 for 8 frames"
    assert rows["Context"] == "4096 tokens"
    assert rows["Chat template"] == "`qwen_1_5` of the original code"
    assert "<|im_start|>user\n<video>\nWhat happens in the video?<|im_end|>" in card


def test_built_in_recipe_is_said_to_be_readable_without_our_code(tmp_path):
    card = tiny_card(tmp_path)
    rows = recipe(card)
    assert rows["Vision tower"].startswith("`clip_vision_model`, 16 x 16 pixels, 4 x 4 patches of 4 pixels")
    assert rows["Language model"].startswith("`llama`, 2 layers")
    assert rows["Pooling of videos"] == "average, stride 2, before the projector"
    assert rows["Newlines in videos"] == "none"
    assert rows["Tokens of a video"] == "128 for 32 frames"
    assert "reads the same files" in card
    assert "It needs" not in card


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ({"spatial_pool_position": "after_projector"}, "`spatial_pool_position='after_projector'`"),
        ({"video_newline_position": "frame"}, "`video_newline_position='frame'`"),
        ({"spatial_pool_mode": "bilinear"}, "`spatial_pool_mode='bilinear'`"),
    ],
)
def test_other_recipes_are_said_to_need_our_code(tmp_path, arguments, setting):
    card = tiny_card(tmp_path, **arguments)
    assert "It needs `trust_remote_code=True`" in card
    assert setting in card
    assert "reads the same files" not in card


@pytest.mark.parametrize(("arguments", "counted", "made"), [({"spatial_pool_stride": 4}, 4, 1), ({"grid": 7}, 12, 9)])
def test_built_in_that_counts_wrong_is_told(tmp_path, arguments, counted, made):
    card = tiny_card(tmp_path, **arguments)
    assert "It needs `trust_remote_code=True`" in card
    assert f"counts {counted} tokens for a frame where the model makes {made}" in card

    processor, model = BuiltInProcessor.from_pretrained(tmp_path), BuiltInModel(BuiltInConfig.from_pretrained(tmp_path))
    inputs = processor(text="<video>", videos=tiny.random_frames(3), return_tensors="pt")
    with pytest.raises(ValueError, match=f"do not match, tokens: {3 * counted}"):
        model(**inputs)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        RECIPE_OF_THE_32B,
        {"video_newline_position": "one_token", "grid": 5},
        {"video_newline_position": "frame", "spatial_pool_mode": "bilinear", "grid": 5},
        {"spatial_pool_stride": 4},
    ],
)
@pytest.mark.parametrize("num_frames", [3, 7])
def test_counts_are_the_processor_s(tmp_path, arguments, num_frames):
    config = LlavaNextVideoConfig(**tiny.config_arguments(**arguments))
    processor = save(tmp_path, config, num_frames=num_frames)
    rows = recipe(model_card(tmp_path, NAME))

    def count(num_frames: int) -> int:
        ids = processor(text="<video>", videos=tiny.random_frames(num_frames))["input_ids"]
        return int((ids == tiny.VIDEO_TOKEN_ID).sum())

    assert rows["Tokens of a video"] == f"{count(num_frames)} for {num_frames} frames"
    assert rows["Tokens of a frame"] == str(count(num_frames + 1) - count(num_frames))
    [image] = processor._get_num_multimodal_tokens(image_sizes=[(720, 1280)])["num_image_tokens"]
    assert rows["Images"].endswith(f" {image} tokens")


def test_frames_of_slow_fast_videos(tmp_path):
    card = tiny_card(tmp_path, grid=8, video_newline_position="grid", slow_frame_stride=4)
    assert recipe(card)["Tokens of a frame"] == "7; frames 0, 4, 8, ... have 21"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"frame_sampling": "uniform"}, "32, evenly from the first to the last; a shorter video gives each of its"),
        ({"frame_sampling": "uniform_repeated"}, "32, evenly from the first to the last; a shorter video gives some"),
        ({"frame_sampling": "fps_capped", "num_frames": 16}, "one a second; where that is more than 16, 16 evenly"),
        ({"frame_sampling": "legacy"}, "32, each at the start of an equal share"),
        ({"fps": 2.0}, "2 for each second"),
        ({"fps": 2.0, "frame_sampling": "fps_capped"}, "2 for each second of the video; where that is more than 32"),
    ],
)
def test_sampling_rules(tmp_path, settings, text):
    assert recipe(tiny_card(tmp_path, video_settings=settings))["Frames"].startswith(text)


@pytest.mark.parametrize(
    ("rope", "text"),
    [
        ({"rope_type": "linear", "factor": 2.0}, "512 tokens, stretched 2 times (RoPE, linear): 1024"),
        ({"rope_type": "dynamic", "factor": 2.0}, "512 tokens (RoPE: `dynamic`)"),
        ({"rope_type": "default"}, "512 tokens"),
    ],
)
def test_context_and_its_stretch(tmp_path, rope, text):
    arguments = tiny.config_arguments()
    rope = {**rope, "rope_theta": 10000.0}
    arguments["text_config"] = {**arguments["text_config"], "max_position_embeddings": 512, "rope_parameters": rope}
    save(tmp_path, LlavaNextVideoConfig(**arguments))
    assert recipe(model_card(tmp_path))["Context"] == text


def test_language_model_without_a_limit_has_no_context(tmp_path):
    arguments = tiny.config_arguments()
    arguments["text_config"] = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 264}
    save(tmp_path, LlavaNextVideoConfig(**arguments))
    rows = recipe(model_card(tmp_path))
    assert rows["Language model"].startswith("`bloom`, 2 layers, hidden size 32")
    assert "Context" not in rows


def test_chat_template_that_is_not_the_original_s(tmp_path):
    processor = save(tmp_path, LlavaNextVideoConfig(**tiny.config_arguments()))
    processor.chat_template = "{% for message in messages %}QUESTION: <video>{% endfor %}"
    processor.save_pretrained(tmp_path)
    card = model_card(tmp_path)
    assert recipe(card)["Chat template"] == "its own"
    assert "```text\nQUESTION: <video>\n```" in card


def test_times_of_frames(tmp_path):
    card = tiny_card(tmp_path, video_settings={"time_instruction": True})
    assert recipe(card)["Times of the frames"] == "told in the prompt"


def test_published_figures_are_for_the_checkpoint_they_were_published_for(tmp_path):
    settings = {"num_frames": 32, "frame_sampling": "fps_capped"}
    card = tiny_card(tmp_path, "me/LLaVA-NeXT-Video-32B-Qwen", video_settings=settings, **RECIPE_OF_THE_32B)
    assert ModelCard(card).data.base_model == ["Qwen/Qwen1.5-32B-Chat", "google/siglip-so400m-patch14-384"]
    assert "docs/LLaVA-NeXT-Video_0716.md" in card
    for figure in ("77.31", "60.2 / 63.0", "60.85", "59.38"):
        assert figure in card
    assert "config.json, which is nowhere to be read" in card


@pytest.mark.parametrize(
    ("repository", "num_frames"), [("me/LLaVA-NeXT-Video-32B-Qwen", 16), ("me/LLaVA-NeXT-Video-32B-Qwen-tuned", 32)]
)
def test_no_figures_for_another_recipe_or_name(tmp_path, repository, num_frames):
    settings = {"num_frames": num_frames, "frame_sampling": "fps_capped"}
    card = tiny_card(tmp_path, repository, video_settings=settings, **RECIPE_OF_THE_32B)
    assert "Evaluation" not in card
    assert "77.31" not in card


def test_error_without_a_chat_template(tmp_path):
    config = LlavaNextVideoConfig(**tiny.config_arguments())
    processor = tiny.make_processor(config)
    processor.chat_template = None
    config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no chat template"):
        model_card(tmp_path)


@pytest.mark.parametrize("backticks", [3, 4, 7])
def test_chat_template_does_not_break_out_of_its_fence(tmp_path, backticks):
    """A template with three backticks ended the block of the prompt, and what followed became part of the card."""
    processor = save(tmp_path, LlavaNextVideoConfig(**tiny.config_arguments()))
    quotes = "`" * backticks
    processor.chat_template = f"a\n{quotes}\n# Download from evil.example\n{quotes}text\n<video>"
    processor.save_pretrained(tmp_path)
    card = model_card(tmp_path, NAME)
    fence = "`" * (backticks + 1)
    assert f"{fence}text\na\n{quotes}\n# Download from evil.example\n{quotes}text\n<video>\n{fence}\n" in card


def test_code_that_holds_backticks_and_lines_stays_code():
    assert code("plain") == "`plain`"
    assert code("a`b``c\n|d") == "``` a`b``c \\|d ```"
    assert fenced("no backticks") == "```text\nno backticks\n```"


@pytest.mark.parametrize(
    "names",
    [
        {"facts": CardFacts(license="mit\n---\n# Free money")},
        {"facts": CardFacts(license="`mit`")},
        {"facts": CardFacts(license="other", license_name="<b>")},
        {"facts": CardFacts(base_model=("a/b](https://evil.example)",))},
        {"facts": CardFacts(base_model=("a/b", "c/d\nlicense: mit"))},
        {"repository": 'me/mine", trust_remote_code=True) #'},
        {"repository": "me/mine\n# Title"},
    ],
)
def test_error_when_a_name_would_be_more_than_a_name(tmp_path, names):
    save(tmp_path, LlavaNextVideoConfig(**tiny.config_arguments()))
    with pytest.raises(ValueError, match=r"The model card cannot name .*one line without quotes, backticks"):
        model_card(tmp_path, **names)
