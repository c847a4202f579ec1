"""`load_state_dict` takes the names that `save_pretrained` writes, so a Trainer goes on where it stopped."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from llava_next_video import LlavaNextVideoForConditionalGeneration
from tests.tiny import labels_of, make_model, make_processor, random_frames


def is_equal(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    states, others = model.state_dict(), other.state_dict()
    return states.keys() == others.keys() and all(torch.equal(states[name], others[name]) for name in states)


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("recipe", [{}, {"tower": "siglip", "text": "qwen2"}], ids=["clip", "siglip"])
def test_saved_weights_are_loaded_by_load_state_dict(recipe, from_file, tmp_path):
    """Nothing was loaded, without an error, as Trainer loads without `strict`."""
    model = make_model(**recipe)
    if from_file:  # what was loaded under older names is saved under those
        older = {
            name.replace("model.vision_tower.", "vision_tower.vision_model."): value
            for name, value in model.state_dict().items()
        }
        model.save_pretrained(tmp_path)
        save_file(older, tmp_path / "model.safetensors", {"format": "pt"})
        model = LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    names = list(weights)
    assert any(".vision_model." in name for name in names) == from_file
    other = make_model(seed=1, **recipe)
    assert not is_equal(other, model)
    result = other.load_state_dict(weights, strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert is_equal(other, model)
    assert list(weights) == names


def test_saved_base_model_is_loaded_by_load_state_dict(tmp_path):
    model, other = make_model().model, make_model(seed=1).model
    model.save_pretrained(tmp_path)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert is_equal(other, model)


def test_weights_with_a_head_are_loaded_into_the_base_model(tmp_path):
    model, other = make_model(), make_model(seed=1).model
    model.save_pretrained(tmp_path)
    result = other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert result.missing_keys == []
    assert [name.split(".")[-2] for name in result.unexpected_keys] == ["lm_head"]
    assert is_equal(other, model.model)


def test_names_that_mean_nothing_are_still_told():
    model = make_model()
    weights = {**model.state_dict(), "language_model.mystery.weight": torch.ones(1), "else": torch.ones(1)}
    result = model.load_state_dict(weights, strict=False)
    assert sorted(result.unexpected_keys) == ["else", "language_model.mystery.weight"]
    with pytest.raises(RuntimeError, match="mystery"):
        model.load_state_dict(weights)


def test_weights_in_a_larger_module_are_renamed():
    model, other = make_model(), make_model(seed=1)
    older = {
        f"0.{name.replace('model.language_model', 'language_model')}": value
        for name, value in model.state_dict().items()
    }
    torch.nn.Sequential(other).load_state_dict(older, strict=True)
    assert is_equal(other, model)


def train(folder, steps: int, **arguments) -> LlavaNextVideoForConditionalGeneration:
    model = make_model(video_newline_position="grid")
    processor = make_processor(model.config)

    def collate(seeds: list[int]) -> dict:
        inputs = processor(text="<video>\nWhat?", videos=[random_frames(2, seed=seeds[0])])
        return {**inputs, "labels": labels_of(inputs["input_ids"])}

    settings = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        save_steps=2,
        per_device_train_batch_size=1,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=list(range(4)), data_collator=collate)
    trainer.train(**arguments)
    return model


def test_training_goes_on_with_the_weights_it_had(tmp_path):
    """It went on with the first weights and the later optimizer: a warning, and higher losses."""
    once = train(tmp_path / "once", 4)
    train(tmp_path / "twice", 2)
    resumed = train(tmp_path / "twice", 4, resume_from_checkpoint=True)
    differences = [
        (a - b).abs().max() for a, b in zip(once.state_dict().values(), resumed.state_dict().values(), strict=True)
    ]
    assert max(differences) <= 1e-6
