"""The tower is called as a module, so whatever is attached to it works; what it leaves out is never run or trained."""

import copy
import pickle

import pytest
import torch
from transformers import AutoModel

from llava_next_video import LlavaNextVideoForConditionalGeneration
from tests.graphs import CountingBackend
from tests.tiny import config_arguments, labels_of, make_model, make_processor, random_frames, vision_config


VIDEO = torch.randn(1, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
HEADED_SIGLIP = {"tower": "siglip", "vision_config": vision_config("siglip") | {"vision_use_head": True}}


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_hooks_on_the_tower_run_once_for_each_chunk(tower):
    """They never ran while the tower's layers were called one by one."""
    model = make_model(tower=tower)
    seen = []
    model.model.vision_tower.register_forward_hook(lambda module, args, states: seen.append(states[0].shape[0]))
    model.get_video_features(VIDEO)
    assert seen == [4, 1]


def test_a_hook_may_change_what_the_tower_returns():
    model = make_model()
    model.model.vision_tower.register_forward_hook(lambda module, args, states: tuple(0 * state for state in states))
    zeros = model.get_video_features(VIDEO).pooler_output[0]
    assert torch.equal(zeros, zeros[:1].expand_as(zeros))


def test_compiled_tower_is_used():
    model = make_model()
    expected = model.get_video_features(VIDEO).pooler_output[0]
    backend = CountingBackend()
    model.model.vision_tower.compile(fullgraph=True, backend=backend)
    with torch.no_grad():
        assert torch.allclose(model.get_video_features(VIDEO[:, :4]).pooler_output[0], expected[: 4 * 4], atol=1e-6)
    assert len(backend.graphs) == 1


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_tower_is_the_one_of_transformers_when_no_states_are_wanted(tower):
    ours = make_model(tower=tower).model.vision_tower
    theirs = AutoModel.from_config(ours.config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    got, expected = (each(VIDEO[0], output_hidden_states=True) for each in (ours, theirs.eval()))
    assert got.keys() == expected.keys()
    assert torch.equal(got.last_hidden_state, expected.last_hidden_state)
    wanted = ours(VIDEO[0], wanted_states=[3, 0, 4])
    assert all(torch.equal(state, expected.hidden_states[number]) for state, number in zip(wanted, (3, 0, 4)))


def test_copies_and_pickles_of_the_model_answer_the_same():
    model = make_model()
    expected = model.get_video_features(VIDEO).pooler_output[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.get_video_features(VIDEO).pooler_output[0], expected)


def names_without_gradients(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad and parameter.grad is None}


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("layer", [-2, -1, 1, [1, -2], 0])
@pytest.mark.parametrize("recipe", [{}, HEADED_SIGLIP], ids=["clip", "siglip"])
def test_whatever_of_the_tower_asks_for_gradients_gets_them(recipe, layer, loaded, tmp_path):
    """DistributedDataParallel waits for the others in vain."""
    model = make_model(**recipe, vision_feature_layer=layer)
    if loaded:
        model.save_pretrained(tmp_path)
        model, info = LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
    model.train()
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    model(**inputs, labels=labels_of(inputs["input_ids"])).loss.backward()
    tower = model.model.vision_tower
    assert names_without_gradients(tower) == set()
    last = max(model.config.vision_states())
    frozen = {name.split(".")[0] for name, parameter in tower.named_parameters() if not parameter.requires_grad}
    expected = {"post_layernorm"} | ({"encoder"} if last < 4 else set()) | ({"head"} if recipe else set())
    assert frozen == expected
    assert all(parameter.requires_grad for parameter in tower.encoder.layers[:last].parameters())


def test_weights_of_older_checkpoints_find_the_tower():
    """transformers knows the older names by the names of its own classes."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    for tower in ("clip", "siglip"):
        model = LlavaNextVideoForConditionalGeneration.config_class(**config_arguments(tower=tower))
        name = type(LlavaNextVideoForConditionalGeneration(model).model.vision_tower).__name__
        expected = get_checkpoint_conversion_mapping(name.removeprefix("LlavaNextVideo"))
        assert len(get_checkpoint_conversion_mapping(name)) == len(expected) > 0
