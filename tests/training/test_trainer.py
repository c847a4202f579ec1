"""A real `Trainer` on rows: what is resumed or loaded as the best has the weights that it had, to the last bit."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

from llava_next_video import (
    LlavaNextVideoCollator,
    LlavaNextVideoForConditionalGeneration,
    parameter_groups,
    train_only,
)
from tests.tiny import TEXT_CONFIGS, make_model
from tests.training.rows import IMAGE, processor_of, says, user, video_row
from tests.training.test_collator import IMAGE_ROW, TEXT_ROW
from tests.training.test_trained_parts import LANGUAGE_MODEL_LAYERS


RECIPE = {"video_newline_position": "grid"}
ROWS = [
    video_row("Which way?", "Left.", 2),
    video_row("And this?", "Up and away.", 3, seed=1),
    IMAGE_ROW,
    TEXT_ROW,
    {**IMAGE_ROW, "messages": [user(IMAGE, "Is it blue?"), says("No.")]},
    video_row("What?", "A ball.", 1, seed=2),
]


def full(folder: Path) -> torch.nn.Module:
    return make_model(**RECIPE)


def from_older_names(folder: Path) -> torch.nn.Module:
    """A model whose file has names of transformers before 5, and which writes its checkpoints with them."""
    model = make_model(**RECIPE)
    model.save_pretrained(folder)
    weights = {
        name.replace("model.language_model.", "language_model.model.")
        .replace("model.vision_tower.", "vision_tower.vision_model.")
        .replace("model.multi_modal_projector.", "multi_modal_projector.")
        .replace("model.image_newline", "image_newline")
        .replace("lm_head.", "language_model.lm_head."): value.clone()
        for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    loaded, info = LlavaNextVideoForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return loaded


def lora(folder: Path) -> torch.nn.Module:
    config = LoraConfig(
        r=4, target_modules=LANGUAGE_MODEL_LAYERS, modules_to_save=["multi_modal_projector"], lora_dropout=0.1
    )
    torch.manual_seed(0)
    return get_peft_model(make_model(**RECIPE), config)


def qlora(folder: Path) -> torch.nn.Module:
    sizes = {"hidden_size": 128, "intermediate_size": 128}  # kernels of 4 bits for AVX-512 want multiples of 64
    make_model(**RECIPE, text_config=TEXT_CONFIGS["llama"] | sizes).save_pretrained(folder)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(
        folder, quantization_config=quantization, device_map="cpu"
    )
    assert model.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert model.model.multi_modal_projector.linear_1.weight.dtype == torch.float32
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules=LANGUAGE_MODEL_LAYERS, lora_dropout=0.1))


def stage_1(folder: Path) -> torch.nn.Module:
    model = make_model(**RECIPE)
    train_only(model, "projector", "newlines")
    return model


MODELS = {"full": full, "older names": from_older_names, "LoRA": lora, "stage 1": stage_1, "QLoRA": qlora}
with_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
each_way = pytest.mark.parametrize(
    "way", [*list(MODELS)[:-1], pytest.param("QLoRA", marks=[with_bitsandbytes, pytest.mark.slow])]
)


def make_trainer(way: str, folder: Path, callbacks=(), **arguments) -> Trainer:
    model = MODELS[way](folder / "model")
    settings = TrainingArguments(
        output_dir=folder / "run",
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    return Trainer(
        model,
        settings,
        train_dataset=ROWS,
        eval_dataset=ROWS[:3],
        data_collator=LlavaNextVideoCollator(processor_of("qwen_1_5", **RECIPE)),
        callbacks=list(callbacks),
    )


def weights_of(model: torch.nn.Module) -> dict:
    """All but those in 4 bits: they are frozen, and evaluation packs them differently where the CPU has AVX-512."""
    weights = model.state_dict()
    packed = tuple(name for name, value in weights.items() if value.dtype == torch.uint8)
    return {name: value.clone() for name, value in weights.items() if not name.startswith(packed)}


def difference(weights: dict, others: dict) -> float:
    assert weights.keys() == others.keys()
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


class StopsAfter(TrainerCallback):
    """Interrupts a run, and keeps the weights at each save."""

    def __init__(self, steps: int | None = None):
        self.steps, self.weights = steps, {}

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step == self.steps

    def on_save(self, args, state, control, model, **kwargs):
        self.weights[state.global_step] = weights_of(model)


@each_way
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_interrupted(way, tmp_path):
    once = make_trainer(way, tmp_path / "once")
    before = weights_of(once.model)
    once.train()
    make_trainer(way, tmp_path / "twice", [StopsAfter(2)]).train()
    resumed = make_trainer(way, tmp_path / "twice")
    resumed.train(resume_from_checkpoint=True)
    assert [entry for entry in resumed.state.log_history if "train_runtime" in entry][-1]["step"] == 4
    assert difference(weights_of(once.model), before) > 1e-3
    assert difference(weights_of(once.model), weights_of(resumed.model)) == 0.0


@each_way
def test_the_best_model_is_loaded_at_the_end(way, tmp_path):
    saved = StopsAfter()
    trainer = make_trainer(
        way,
        tmp_path,
        [saved],
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # the first is the best then
    )
    trainer.train()
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-2"
    assert difference(saved.weights[2], saved.weights[4]) > 1e-3
    assert difference(weights_of(trainer.model), saved.weights[2]) == 0.0


@pytest.mark.parametrize("way", ["full", "LoRA"])
def test_what_was_saved_last_is_loaded_by_itself(way, tmp_path):
    trainer = make_trainer(way, tmp_path)
    trainer.train()
    folder = tmp_path / "run" / "checkpoint-4"
    if way == "LoRA":
        loaded = PeftModel.from_pretrained(make_model(**RECIPE), folder)
    else:
        loaded = LlavaNextVideoForConditionalGeneration.from_pretrained(folder)
    assert difference(weights_of(trainer.model), weights_of(loaded)) == 0.0


def test_rows_are_weighted_by_their_tokens_over_accumulated_batches(tmp_path):
    """The loss that Trainer reports for a step of several batches is that of all their tokens together."""
    trainer = make_trainer("full", tmp_path, gradient_accumulation_steps=3, logging_steps=1, seed=3)
    model, collate, total, count = full(tmp_path), trainer.data_collator, 0.0, 0
    for row in ROWS:
        batch = collate([row])
        tokens = int((batch["labels"] != -100).sum())
        total, count = total + model(**batch).loss.item() * tokens, count + tokens
    trainer.args.max_steps = 1
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(total / count, abs=2e-4)  # it rounds to 4 digits


def test_gradient_checkpointing_changes_no_step(tmp_path):
    plain = make_trainer("full", tmp_path / "plain")
    plain.train()
    checkpointed = make_trainer("full", tmp_path / "checkpointed", gradient_checkpointing=True)
    checkpointed.train()
    assert difference(weights_of(plain.model), weights_of(checkpointed.model)) <= 1e-5


def test_evaluation_counts_answers(tmp_path):
    """With metrics Trainer gathers what the model returns: it was given the features of all videos, too."""

    def compute_metrics(prediction):
        labels = prediction.label_ids[:, 1:]
        right = prediction.predictions[:, :-1] == labels
        return {"accuracy": right[labels != -100].mean()}

    trainer = make_trainer("full", tmp_path)
    trainer.compute_metrics = compute_metrics
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(-1)
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def test_parts_learn_at_their_own_rate(tmp_path):
    trainer = make_trainer("stage 1", tmp_path)
    groups = parameter_groups(trainer.model, {"projector": 1e-2, "newlines": 0.0})
    trainer.optimizer = torch.optim.AdamW(groups)
    before = weights_of(trainer.model)
    trainer.train()
    after = weights_of(trainer.model)
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"multi_modal_projector"}
