"""What is trained is what was named, and nothing else changes."""

import copy
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llava_next_video import LlavaNextVideoCollator, parameter_groups, train_only
from tests.tiny import make_model
from tests.training.rows import processor_of, says, user, video_row
from tests.training.test_collator import MIXED


ALL = ("vision_tower", "projector", "newlines", "language_model")
PREFIXES = {
    "vision_tower": ("model.vision_tower",),
    "projector": ("model.multi_modal_projector", "model.vision_resampler"),
    "newlines": ("model.image_newline", "model.faster_token"),
    "language_model": ("model.language_model", "lm_head"),
}
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "fine_tuning.md"
LANGUAGE_MODEL_LAYERS = r".*\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
RECIPES = [
    {},
    {"tower": "siglip", "text": "qwen2", "video_newline_position": "grid", "slow_frame_stride": 2},
    {"text": "mistral", "spatial_pool_mode": "conv"},
]


def step(model, optimizer, recipe: dict):
    batch = LlavaNextVideoCollator(processor_of("qwen_1_5", **recipe))(MIXED)
    model.train()
    model(**batch).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("recipe", RECIPES, ids=["clip", "slow-fast", "conv"])
@pytest.mark.parametrize("parts", [("projector", "newlines"), ("language_model",), ALL], ids=["stage 1", "text", "all"])
def test_a_step_changes_what_is_trained_and_nothing_else(parts, recipe):
    model = make_model(**recipe)
    before = copy.deepcopy(model.state_dict())
    counts = train_only(model, *parts)
    step(model, torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=1.0), recipe)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    prefixes = tuple(prefix for part in parts for prefix in PREFIXES[part])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name  # nothing asks in vain
        assert (name in changed) <= name.startswith(prefixes), name
    for part in ALL:
        assert any(name.startswith(PREFIXES[part]) for name in changed) == (part in parts)
        trained = [
            w.numel() for name, w in model.named_parameters() if name.startswith(PREFIXES[part]) and w.requires_grad
        ]
        assert counts[part] == sum(trained)


def test_what_never_runs_stays_frozen():
    model = make_model()
    train_only(model, *ALL)
    assert not any(weight.requires_grad for weight in model.model.vision_tower.encoder.layers[-1].parameters())
    train_only(model.model, "vision_tower")
    assert not any(weight.requires_grad for weight in model.model.vision_tower.encoder.layers[-1].parameters())
    assert not model.model.image_newline.requires_grad


@pytest.mark.parametrize("parts", [(), ("tower",)])
def test_parts_that_do_not_exist(parts):
    with pytest.raises(ValueError, match=r"train_only got the parts .*; name one or more of \['vision_tower'"):
        train_only(make_model(), *parts)


def test_learning_rates_by_part():
    model = make_model(spatial_pool_mode="conv")
    rates = {"vision_tower": 1e-6, "projector": 1e-4, "newlines": 1e-3, "language_model": 1e-5}
    groups = parameter_groups(model, rates, weight_decay=0.1)
    found = {id(weight): (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(found) == len(trained) == sum(len(group["params"]) for group in groups)
    for name, weight in trained.items():
        part = next(part for part in ALL if name.startswith(PREFIXES[part]))
        assert found[id(weight)] == (rates[part], 0.1 if weight.ndim > 1 else 0.0), name


def test_learning_rates_of_adapters():
    model = get_peft_model(make_model(), LoraConfig(target_modules=LANGUAGE_MODEL_LAYERS))
    [group] = parameter_groups(model, {"language_model": 1e-4})
    assert len(group["params"]) == 2 * 7 * 2  # A and B of 7 matrices in 2 layers


@pytest.mark.parametrize("rates", [{"projector": 1e-4}, {"projector": 1e-4, "newlines": 1e-3, "vision_tower": 1e-6}])
def test_every_trained_part_has_one_learning_rate(rates):
    model = make_model()
    train_only(model, "projector", "newlines")
    with pytest.raises(ValueError, match=r"trains \['projector', 'newlines'\], and there are learning rates for"):
        parameter_groups(model, rates)


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
def test_the_pattern_for_lora_means_the_language_model_alone(tower, text):
    assert f'r"{LANGUAGE_MODEL_LAYERS}"' in GUIDE.read_text()
    model = make_model(tower=tower, text=text)
    matched = {name for name, _ in model.named_modules() if re.fullmatch(LANGUAGE_MODEL_LAYERS, name)}
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert matched == {name for name in linear if name.startswith("model.language_model.")}
    adapted = get_peft_model(model, LoraConfig(target_modules=LANGUAGE_MODEL_LAYERS))
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert trained
    assert all(".language_model." in name and "lora_" in name for name in trained)


@pytest.mark.parametrize("position", ["no_token", "grid"])
def test_videos_alone_train_newlines_only_where_there_are_some(position):
    """Why the guide leaves "newlines" out for `no_token`: `DistributedDataParallel` would wait for them."""
    model = make_model(video_newline_position=position)
    batch = LlavaNextVideoCollator(processor_of("qwen_1_5", video_newline_position=position))([video_row("a", "b")])
    model(**batch).loss.backward()
    assert (model.model.image_newline.grad is None) == (position == "no_token")


def test_gradients_of_messages_without_videos_are_of_the_language_model():
    model = make_model()
    batch = LlavaNextVideoCollator(processor_of("qwen_1_5"))([{"messages": [user("a"), says("b")]}])
    model(**batch).loss.backward()
    names = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert all(name.startswith(PREFIXES["language_model"]) for name in names)


def test_the_gradient_of_all_embeddings_is_made_when_the_tower_is_through():
    """It is as large as the embeddings: while what the tower's gradients need is kept, it would raise the peak."""
    model, order = make_model(text="qwen2"), []
    model.get_input_embeddings().weight.register_post_accumulate_grad_hook(lambda _: order.append("embeddings"))
    for weight in model.model.vision_tower.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda _: order.append("tower"))
    step(model, torch.optim.SGD(model.parameters(), lr=0.0), {})
    assert order[-1] == "embeddings"
    assert order.count("tower") > 1
