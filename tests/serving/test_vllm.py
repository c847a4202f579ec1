"""vLLM answers as `generate()` does: token for token, in float32, on the CPU, for every recipe.

Skipped without vLLM, which needs an environment of its own: `.ci/engines vllm` builds it, runs these tests and writes
their output to `vllm_last_run.txt`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor
from llava_next_video.hub.export import export_for_hub
from tests.serving.recipes import RECIPES, save_checkpoint
from tests.tiny import write_video


vllm = pytest.importorskip("vllm", reason="vLLM is not installed; .ci/engines vllm runs this")

from tests.serving.vllm_engine import chat, engine  # noqa: E402


MOST_TOKENS = 16
QUESTION = "What happens in this video?"
SAMPLES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "demo_model" / "samples").glob("*.mp4"))}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Videos of several lengths, one with an uneven rate, and images of several shapes: their paths."""
    folder = tmp_path_factory.mktemp("media")
    paths = {
        "long": write_video(folder / "long.mp4", 60, fps=10),
        "short": write_video(folder / "short.mp4", 21, fps=15),
        "tiny": write_video(folder / "tiny.mp4", 2, fps=10),
        "uneven": write_video(folder / "uneven.mp4", 9, timestamps=[0, 100, 300, 350, 900, 1600, 1700, 3100, 3400]),
    }
    for name, size in (("wide", (90, 40)), ("tall", (17, 61))):
        paths[name] = folder / f"{name}.png"
        Image.effect_noise(size, 120).convert("RGB").save(paths[name])
    return paths


def asked(paths: dict, *names: str, question: str = "What is this?") -> list[dict]:
    """A conversation about videos and images of `media`."""
    kinds = {".mp4": "video", ".png": "image"}
    parts = [{"type": kinds[paths[name].suffix], kinds[paths[name].suffix]: str(paths[name])} for name in names]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def conversations(paths: dict) -> list[list[dict]]:
    video = asked(paths, "long")
    return [
        asked(paths, question="Is anybody there?"),
        video,
        asked(paths, "tiny", question="And this one?"),
        asked(paths, "long", "short"),
        asked(paths, "wide"),
        asked(paths, "tall", "short", "wide"),
        asked(paths, "uneven"),
        [*video, {"role": "assistant", "content": "A clip."}, {"role": "user", "content": "Of what?"}],
    ]


def ids_by_generate(model, processor, messages: list[dict], **videos) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the answer, by transformers; `videos` are arguments of the video processor."""
    inputs = processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
        processor_kwargs=videos,
    )
    with torch.inference_mode():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=MOST_TOKENS)
    length = inputs["input_ids"].shape[1]
    return inputs["input_ids"][0].tolist(), ids[0, length:].tolist()


@pytest.fixture(scope="module")
def references(media, tmp_path_factory):
    """Folder of each checkpoint, and the ids that `generate()` gives. Made before vLLM, which changes the language
    models of transformers in its process."""
    found = {}
    for number, name in enumerate(RECIPES):
        folder = tmp_path_factory.mktemp(f"recipe{number}")
        model, processor = save_checkpoint(name, folder), LlavaNextVideoProcessor.from_pretrained(folder)
        found[name] = (folder, [ids_by_generate(model, processor, messages) for messages in conversations(media)])
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT)
    processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)
    found["demo"] = (DEMO_CHECKPOINT, [ids_by_generate(model, processor, messages) for messages in sample_questions()])
    return found


def sample_questions() -> list[list[dict]]:
    return [asked(SAMPLES, name, question=QUESTION) for name in SAMPLES]


@pytest.mark.parametrize("name", RECIPES)
def test_answers_equal_generate(name, media, references):
    """One by one and mixed in a batch."""
    folder, expected = references[name]
    assert len({tuple(answer) for _, answer in expected}) > 4  # the model looks at what it is shown
    with engine(folder, media) as llm:
        for messages, each in zip(conversations(media), expected):
            without_media = isinstance(messages[0]["content"], list) and len(messages[0]["content"]) == 1
            assert chat(llm, [messages], MOST_TOKENS, begin=without_media) == [each]
        assert chat(llm, conversations(media), MOST_TOKENS, begin=True) == expected


def test_the_demonstration_checkpoint_answers_right(references):
    folder, expected = references["demo"]
    with engine(folder, SAMPLES) as llm:
        assert chat(llm, sample_questions(), MOST_TOKENS) == expected
        tokenizer = llm.get_tokenizer()
    texts = [tokenizer.decode(answer, skip_special_tokens=True) for _, answer in expected]
    assert texts[list(SAMPLES).index("red_circle_moves_left")] == "A red circle moves left."


def test_an_exported_folder_answers_with_its_own_code(references, tmp_path):
    """Without the plug-in, in a process that does not import the package."""
    _, expected = references["demo"]
    export_for_hub(DEMO_CHECKPOINT, tmp_path / "exported")
    command = ["-m", "tests.serving.vllm_engine", str(tmp_path / "exported"), *map(str, SAMPLES.values())]
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "VLLM_PLUGINS": "", "HF_HOME": str(tmp_path)},
        input=QUESTION,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("answers ")]
    assert [tuple(pair) for pair in json.loads(line.removeprefix("answers "))] == expected


def test_a_video_of_more_frames_than_vllm_plans_for(media, references, tmp_path):
    """vLLM plans memory for 16 frames, and refused longer videos, unless it was told of larger batches."""
    folder, _ = references["demo"]
    with engine(folder, media, media_io_kwargs={"video": {"num_frames": 60}}, max_num_batched_tokens=512) as llm:
        [(prompt, answer)] = chat(llm, [asked(media, "long")], MOST_TOKENS)
    processor = LlavaNextVideoProcessor.from_pretrained(folder)
    assert prompt.count(processor.video_token_id) == processor.count_video_tokens(60, 64) > 512
    assert answer
