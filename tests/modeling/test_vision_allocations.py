"""The tower takes less memory at a time, and computes the same."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, CLIPVisionConfig, SiglipVisionConfig
from transformers.activations import QuickGELUActivation

from llava_next_video.conversion.vision_towers import KNOWN
from llava_next_video.hub.recipes import CLIP, SIGLIP
from llava_next_video.modeling.vision_allocations import OneBufferQuickGELU, frames_at_once
from tests.tiny import make_model, vision_config


@pytest.mark.parametrize(
    ("config", "device", "dtype", "expected"),
    [
        (CLIPVisionConfig(**KNOWN[CLIP]), "cpu", torch.float32, 1),  # 577 * 4096 * 4 bytes are 9 MiB
        (CLIPVisionConfig(**KNOWN[CLIP]), "cpu", torch.bfloat16, 2),
        (SiglipVisionConfig(**KNOWN[SIGLIP]), "cpu", torch.bfloat16, 1),
        (CLIPVisionConfig(**vision_config("clip")), "cpu", torch.float32, 10 * 2**18 // (17 * 24)),
        (CLIPVisionConfig(**KNOWN[CLIP]), "meta", torch.bfloat16, 14),
        (SiglipVisionConfig(**KNOWN[SIGLIP]), "meta", torch.float32, 11),
        (CLIPVisionConfig(**{**KNOWN[CLIP], "image_size": 14 * 100}), "meta", torch.bfloat16, 1),
    ],
)
def test_number_of_frames_follows_from_device_and_sizes(config, device, dtype, expected):
    assert frames_at_once(config, torch.empty(1, device=device, dtype=dtype)) == expected


@pytest.mark.parametrize("size", [None, 3, 10**6])
def test_frames_go_through_by_rule_unless_the_configuration_says(size, monkeypatch):
    model, seen = make_model(vision_chunk_size=size).eval(), []
    monkeypatch.setattr(model.model.vision_tower, "frames_at_once", lambda: 2)
    model.model.vision_tower.register_forward_hook(lambda module, args, states: seen.append(len(states[0])))
    with torch.no_grad():
        model.get_video_features(torch.randn(1, 5, 3, 16, 16))
        model.get_image_features(torch.randn(1, 3, 3, 16, 16), [(16, 32)])
    assert seen == {None: [2, 2, 1, 2, 1], 3: [3, 2, 3], 10**6: [5, 3]}[size]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_activation_is_the_one_of_transformers_to_the_last_bit(dtype):
    inputs = torch.cat([torch.linspace(-40, 40, 20_001), torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0])]).to(
        dtype
    )
    kept = inputs.clone()  # a hook may have kept what goes in
    found, expected = OneBufferQuickGELU()(inputs), QuickGELUActivation()(inputs)
    bits = {torch.float32: torch.int32}.get(dtype, torch.int16)
    number = ~expected.isnan()
    assert torch.equal(found.isnan(), ~number)
    assert torch.equal(found[number].view(bits), expected[number].view(bits))
    assert torch.equal(inputs.view(bits), kept.view(bits))


class NewTensors(TorchDispatchMode):
    """Counts the operations that do not write into a tensor that was there."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.__name__.split(".")[0].endswith("_")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("activation", "expected"), [(OneBufferQuickGELU(), 1), (QuickGELUActivation(), 3)])
def test_activation_takes_one_new_tensor(activation, expected):
    with NewTensors() as new:
        activation(torch.randn(9))
    assert new.count - 1 == expected  # one is the input


def test_gradients_of_the_activation():
    gradients = []
    for activation in (OneBufferQuickGELU(), QuickGELUActivation()):
        inputs = torch.linspace(-4, 4, 99, requires_grad=True)
        activation(inputs).square().sum().backward()
        gradients.append(inputs.grad)
    assert torch.equal(*gradients)


def test_only_our_towers_have_it():
    ours = make_model(vision_config={**vision_config("clip"), "hidden_act": "quick_gelu"}).model.vision_tower
    theirs = AutoModel.from_config(ours.config)
    assert {type(layer.mlp.activation_fn) for layer in ours.encoder.layers} == {OneBufferQuickGELU}
    assert {type(layer.mlp.activation_fn) for layer in theirs.encoder.layers} == {QuickGELUActivation}
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        [found] = ours(pixels, wanted_states=[4])
        assert torch.equal(found, theirs.eval()(pixels, output_hidden_states=True).hidden_states[4])
    other = make_model(vision_config={**vision_config("clip"), "hidden_act": "gelu"}).model.vision_tower
    assert OneBufferQuickGELU not in {type(layer.mlp.activation_fn) for layer in other.encoder.layers}
