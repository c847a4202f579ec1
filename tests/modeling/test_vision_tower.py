"""The tower is called as a module, so whatever is attached to it works; what it leaves out is never run or trained."""

import copy
import pickle

import pytest
import torch
from PIL import Image
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
    seen = sizes_of_calls(model)
    with torch.no_grad():
        model.get_video_features(VIDEO)
    assert seen == [4, 1]


def sizes_of_calls(model) -> list[int]:
    """Filled with how many frames and tiles each call of the tower takes."""
    seen = []
    model.model.vision_tower.register_forward_hook(lambda module, args, states: seen.append(states[0].shape[0]))
    return seen


def make_mixed_inputs(model) -> dict:
    """9 frames and 3 tiles."""
    image = Image.fromarray(random_frames(1, 16, 32)[0])
    return make_processor(model.config)(text="<video><image>What?", videos=[random_frames(9)], images=[image])


ONE_CALL = {
    "clip": {},
    "siglip, pooled after": {"tower": "siglip", "spatial_pool_position": "after_projector"},
    "conv": {"spatial_pool_mode": "conv"},
    "slow-fast": {"video_newline_position": "grid", "slow_frame_stride": 2},
    "slow-fast, pooled after": {
        "video_newline_position": "grid",
        "slow_frame_stride": 2,
        "spatial_pool_position": "after_projector",
    },
}


@pytest.mark.parametrize("recipe", ONE_CALL.values(), ids=ONE_CALL)
def test_a_tower_that_is_trained_is_called_once_for_frames_and_tiles(recipe):
    """`DistributedDataParallel` stops at a part that reentrant checkpointing runs twice."""
    model = make_model(**recipe)
    inputs, seen, projected = make_mixed_inputs(model), sizes_of_calls(model), []
    model.model.multi_modal_projector.register_forward_hook(lambda *_: projected.append(1))
    with torch.no_grad():
        expected = model(**inputs)
    assert seen == [3, 4, 4, 1]
    seen.clear()
    projected.clear()
    found = model(**inputs)
    assert (seen, projected) == ([12], [1])
    for name in ("image_hidden_states", "video_hidden_states", "logits"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)
    model.model.vision_tower.requires_grad_(False)
    seen.clear()
    model(**inputs)
    assert seen == [3, 4, 4, 1]  # nothing of the tower is kept, so chunks save memory


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_checkpointing_runs_the_tower_again_only_where_it_is_trained(trained, reentrant):
    """Gradients were asked of its patches, whatever was trained, so all layers were run again and differentiated."""
    model = make_model().train()
    model.model.vision_tower.requires_grad_(trained)
    model.model.freeze_what_never_runs()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    runs = []
    model.model.vision_tower.encoder.layers[1].self_attn.register_forward_hook(lambda *_: runs.append(1))
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    model(**inputs, labels=labels_of(inputs["input_ids"])).loss.backward()
    assert len(runs) == 1 + trained
    assert names_without_gradients(model) == {"model.image_newline"}


def test_checkpointing_hands_gradients_on_to_pixels_of_a_frozen_model():
    model = make_model().train().requires_grad_(False)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    inputs["pixel_values_videos"].requires_grad_()
    model(**inputs, labels=labels_of(inputs["input_ids"])).loss.backward()
    assert inputs["pixel_values_videos"].grad.abs().sum() > 0


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
