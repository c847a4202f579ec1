"""What `test_tensor_parallel.py` runs in two processes; nothing is compared here."""

from pathlib import Path

import torch
import transformers
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

from llava_next_video import LlavaNextVideoForConditionalGeneration
from tests.golden_data import Recording
from tests.tiny import random_frames


OPTIONS = {"max_new_tokens": 6, "do_sample": False}
QUESTIONS = ("What?", "What else?")
ORIGINAL = "qwen_grid_avg"
IDS = range(3, 12)
PROJECTOR = {"model.multi_modal_projector.linear_1": "colwise", "model.multi_modal_projector.linear_2": "rowwise"}


def load(source, tp_plan="auto", **options) -> LlavaNextVideoForConditionalGeneration:
    options["distributed_config"] = DistributedConfig(tp_plan=tp_plan)
    return LlavaNextVideoForConditionalGeneration.from_pretrained(source, **options)


def divided(model: torch.nn.Module) -> list[str]:
    return [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)]


@torch.no_grad()
def logits_of(model, inputs: dict) -> torch.Tensor:
    return model(**inputs).logits


def answers(pipe) -> list[list[int]]:
    """Token ids, prompts included; the second question is about a video that is remembered."""
    records = [pipe(random_frames(5), question, return_tensors=True, **OPTIONS) for question in QUESTIONS]
    return [record["generated_token_ids"].tolist() for [record] in records]


def run_recipe(folder: Path) -> dict:
    model = load(folder)
    inputs = torch.load(folder / "inputs.pt")
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model.save_pretrained(folder / "saved")
    return {
        "divided": divided(model),
        "logits": {case: logits_of(model, values) for case, values in inputs.items()},
        "tokens": {case: model.generate(**values, **OPTIONS) for case, values in inputs.items()},
        "answers": answers(transformers.pipeline("video-text-to-text", model=model, processor=processor)),
    }


def run_others(folder: Path) -> dict:
    """What one recipe is enough for."""
    recipe = folder / "clip_llama"
    inputs = torch.load(recipe / "inputs.pt")["both"]
    plan = load(recipe, tp_plan=PROJECTOR)
    distributed = {"distributed_config": DistributedConfig(tp_plan="auto")}
    pipe = transformers.pipeline("video-text-to-text", model=str(recipe), model_kwargs=distributed)
    pipe.save_pretrained(folder / "saved_pipeline")
    recording = Recording(ORIGINAL)
    original = load(recording.checkpoint, recipe=recording.recipe, vision_tower=recording.vision_tower)
    try:
        load(folder / "odd_heads")
        error = None
    except ValueError as raised:
        error = str(raised)
    return {
        "with the projector": (divided(plan), logits_of(plan, inputs)),
        "pipeline by path": (divided(pipe.model), answers(pipe)),
        "original": (divided(original), logits_of(original, {"input_ids": torch.tensor([IDS])})),
        "odd heads": error,
    }


def run_all(folder: Path) -> dict:
    """What this process gets, by recipe and case."""
    results = {path.parent.name: run_recipe(path.parent) for path in sorted(folder.glob("*/inputs.pt"))}
    return results | run_others(folder)
