"""Steps of training on 4 frames: forward, backward and optimizer, of a model of a real size.

Both sides are given the same batch and begin with the same weights. With LoRA, on the layers of the language model, the
tower is frozen; with gradient checkpointing everything is as `Trainer` sets it up. Where everything is trained the
optimizer is SGD, whose state takes no memory on either side.
"""

from functools import cache

import torch
from peft import LoraConfig, get_peft_model

from benchmarks.comparison import BUILTIN, HERE, Comparison, Setting
from benchmarks.models import new_model, processor


NUM_FRAMES = 4
LANGUAGE_MODEL_LAYERS = r".*\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
QUESTION, ANSWER = "What happens in the video?", " Somebody opens the door, looks around, and leaves again."


@cache
def weights(setting: Setting) -> dict[str, torch.Tensor]:
    return new_model(HERE, "clip", setting).state_dict()


def batch(setting: Setting) -> dict[str, torch.Tensor]:
    """One video with a question, and an answer that is learned."""
    of_side, side_pixels = processor(HERE, "clip", setting), 40 if setting.tiny else 360
    frames = torch.randint(256, (NUM_FRAMES, 3, side_pixels, side_pixels), dtype=torch.uint8)
    prompt = f"{of_side.video_token}\n{QUESTION}"
    inputs = of_side(text=prompt + ANSWER, videos=[frames], return_tensors="pt")
    num_learned = inputs["input_ids"].shape[1] - of_side(text=prompt, videos=[frames])["input_ids"].shape[1]
    labels = inputs["input_ids"].clone()
    labels[:, :-num_learned] = -100
    return {**inputs, "labels": labels}


def adapted(model: torch.nn.Module) -> torch.nn.Module:
    return get_peft_model(model, LoraConfig(r=16, target_modules=LANGUAGE_MODEL_LAYERS))


def steps(side: str, lora: bool, checkpointing: bool = False):
    def prepare(setting: Setting):
        model = new_model(side, "clip", setting, weights(setting))
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in batch(setting).items()
        }
        model = adapted(model) if lora else model
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6) if lora else torch.optim.SGD(trained, lr=1e-6)

        def step():
            model(**inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return prepare


def both(**how) -> dict:
    return {side: steps(side, **how) for side in (HERE, BUILTIN)}


WAYS = {
    "training_lora": ("LoRA", {"lora": True}),
    "training_checkpointed": ("LoRA with gradient checkpointing", {"lora": True, "checkpointing": True}),
    "training_full": ("everything is trained", {"lora": False}),
}
NOT_SLOWER = {BUILTIN: 1.0}
COMPARISONS = []
for name, (what, how) in WAYS.items():
    step, sides = f"a step of training, {NUM_FRAMES} frames, {what}", both(**how)
    COMPARISONS += [
        Comparison(name, step, sides, least=NOT_SLOWER, rounds=4),
        Comparison(f"{name}_memory", f"memory of {step}", sides, measure="peak", least=NOT_SLOWER, rounds=1),
    ]
