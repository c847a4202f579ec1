import copy
import json
import pickle
import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.models.llava_next_video import LlavaNextVideoConfig as BuiltInConfig

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration
from llava_next_video.modeling import modeling_llava_next_video
from llava_next_video.modeling.configuration_llava_next_video import REFUSAL
from tests.tiny import config_arguments, vision_config


def test_defaults_are_those_of_the_builtin():
    ours, builtin = LlavaNextVideoConfig().to_dict(), BuiltInConfig().to_dict()
    new_keys = {
        "image_aspect_ratio": "anyres",
        "spatial_pool_position": "before_projector",
        "video_newline_position": "no_token",
        "slow_frame_stride": None,
        "vision_chunk_size": None,
    }
    assert {key: value for key, value in ours.items() if key not in builtin} == new_keys
    assert {key: value for key, value in ours.items() if key in builtin} == builtin


def test_saved_config_is_read_by_the_builtin_and_back(tmp_path):
    arguments = config_arguments(spatial_pool_stride=4, vision_feature_layer=[-2, -1])
    LlavaNextVideoConfig(**arguments).save_pretrained(tmp_path)
    assert BuiltInConfig.from_pretrained(tmp_path).spatial_pool_stride == 4
    BuiltInConfig(**arguments).save_pretrained(tmp_path)
    assert LlavaNextVideoConfig.from_pretrained(tmp_path).vision_feature_layer == [-2, -1]


BUILT_IN_RECIPES = [
    {},
    {"tower": "siglip"},
    {"spatial_pool_mode": "max", "spatial_pool_stride": 1},
    {"spatial_pool_mode": "conv"},
    {"vision_chunk_size": 2},
]
OTHER_RECIPES = [
    {"spatial_pool_mode": "bilinear"},
    {"spatial_pool_position": "after_projector", "tower": "siglip"},
    {"video_newline_position": "one_token"},
    {"video_newline_position": "frame", "tower": "siglip"},
    {"video_newline_position": "grid", "slow_frame_stride": 2},
    {"image_aspect_ratio": "anyres_max_9"},
    {"image_aspect_ratio": "pad"},
    {"image_aspect_ratio": "square"},
]


@pytest.mark.parametrize("recipe", BUILT_IN_RECIPES)
def test_recipe_that_the_builtin_has_is_read_by_it(recipe, tmp_path):
    config = LlavaNextVideoConfig(**config_arguments(**recipe))
    config.save_pretrained(tmp_path)
    builtin = BuiltInConfig.from_pretrained(tmp_path)
    assert builtin.vision_feature_select_strategy == config.vision_feature_select_strategy


@pytest.mark.parametrize("recipe", OTHER_RECIPES)
def test_recipe_that_the_builtin_lacks_is_refused_by_it_and_read_by_us(recipe, tmp_path):
    config = LlavaNextVideoConfig(**config_arguments(**recipe))
    config.save_pretrained(tmp_path)
    name, value = next((name, value) for name, value in recipe.items() if name != "tower")
    with pytest.raises(StrictDataclassError, match=rf"{REFUSAL}, which has no .*{name}='{value}'.*trust_remote_code"):
        BuiltInConfig.from_pretrained(tmp_path)
    assert LlavaNextVideoConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()
    assert LlavaNextVideoConfig.from_json_file(tmp_path / "config.json").to_diff_dict() == config.to_diff_dict()


def test_refusal_is_in_files_only():
    config = LlavaNextVideoConfig(**config_arguments(tower="siglip", video_newline_position="grid"))
    copies = [config, copy.deepcopy(config), pickle.loads(pickle.dumps(config))]
    copies += [LlavaNextVideoConfig.from_dict(config.to_dict()), LlavaNextVideoConfig(**config.to_diff_dict())]
    assert {each.vision_feature_select_strategy for each in copies} == {"full"}
    assert REFUSAL not in repr(config)


def test_embedded_checkpoint_is_refused_by_the_builtin():
    with pytest.raises(StrictDataclassError, match=REFUSAL):
        BuiltInConfig.from_pretrained(DEMO_CHECKPOINT)


def test_way_to_exported_code_is_neither_followed_nor_saved(tmp_path):
    LlavaNextVideoConfig(**config_arguments()).save_pretrained(tmp_path)
    plain = (tmp_path / "config.json").read_text()
    exported = {
        **json.loads(plain),
        "auto_map": {"AutoConfig": "a.B"},
        "custom_pipelines": {"some-task": {"impl": "c.D"}},
    }
    (tmp_path / "config.json").write_text(json.dumps(exported))
    config = LlavaNextVideoConfig.from_pretrained(tmp_path)
    assert not hasattr(config, "auto_map")
    assert not hasattr(config, "custom_pipelines")
    config.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == plain


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"video_newline_position": "row"}, "'video_newline_position' expected one of .*'grid'.* got row"),
        ({"spatial_pool_mode": "median"}, "'spatial_pool_mode' expected one of .*'bilinear'.* got median"),
        ({"spatial_pool_position": "after"}, "'spatial_pool_position' expected one of .* got after"),
        ({"spatial_pool_stride": 0}, "spatial_pool_stride is 0; a frame has 4x4 patches, so it has to be 1 to 4"),
        ({"spatial_pool_stride": 5}, "spatial_pool_stride is 5; a frame has 4x4 patches"),
        ({"slow_frame_stride": 0, "video_newline_position": "grid"}, "slow_frame_stride is 0; it has to be None or"),
        ({"slow_frame_stride": 2}, "slow_frame_stride is 2 and video_newline_position is 'no_token'.*need 'grid'"),
        (
            {"slow_frame_stride": 2, "video_newline_position": "grid", "spatial_pool_mode": "conv"},
            "slow_frame_stride is 2 and spatial_pool_mode is 'conv'",
        ),
        (
            {"slow_frame_stride": 2, "video_newline_position": "grid", "spatial_pool_stride": 3},
            "slow_frame_stride is 2 and spatial_pool_stride 3; .* has to fit into 4x4 patches",
        ),
        ({"image_aspect_ratio": "anyres_max_0"}, "image_aspect_ratio is 'anyres_max_0'; it has to be 'anyres'"),
        ({"image_grid_pinpoints": []}, r"image_grid_pinpoints is \[\]; it has to be a list of sizes"),
        ({"image_grid_pinpoints": [[336, 672], [336]]}, r"image_grid_pinpoints is \[\[336, 672\], \[336\]\]"),
        ({"image_grid_pinpoints": [[16, 32]] * 10**6}, r"\[16, 32\], \.\.\.\]; .* in pixels, 1 to 1000 of them"),
        ({"image_grid_pinpoints": [["a", "b"]]}, "it has to be a list of sizes"),
        ({"image_grid_pinpoints": [[16.0, True]]}, "it has to be a list of sizes"),
        ({"image_grid_pinpoints": [16, 32]}, "it has to be a list of sizes"),
        (
            {"image_grid_pinpoints": [[16, 10**9]]},
            r"the size \[16, 1000000000\], which is more than 1000 tiles of 16x16",
        ),
        ({"image_token_index": -5}, "image_token_index is -5; it has to be a token id, 0 to 2147483647"),
        ({"video_token_index": 10**30}, "video_token_index is 1000.*; it has to be a token id"),
        ({"vision_feature_layer": []}, "vision_feature_layer is a list of 0; it has to name 1 to 5 hidden states"),
        ({"vision_feature_layer": [-2] * 10**5}, "vision_feature_layer is a list of 100000"),
        ({"image_aspect_ratio": "anyres_max_" + "9" * 5000}, "it has to be 'anyres'"),
        ({"image_token_index": 5, "video_token_index": 5}, "video_token_index are both 5; they have to differ"),
        ({"vision_feature_select_strategy": "full"}, "has to be 'default', because that tower has a class token"),
        (
            {"tower": "siglip", "vision_feature_select_strategy": "default"},
            "has to be 'full', because that tower has no class token",
        ),
        ({"vision_feature_layer": -6}, "vision_feature_layer is -6; a tower of 4 layers has hidden states 0 to 4"),
        ({"vision_feature_layer": [-2, 5]}, r"vision_feature_layer is \[-2, 5\]"),
        (
            {"vision_config": {**vision_config(), "image_size": 10**6}},
            "makes 250000 patches on a side; it has to be 1 to",
        ),
        ({"vision_chunk_size": 0}, "vision_chunk_size is 0; it has to be None or at least 1"),
        ({"vision_config": {"model_type": "vit"}}, "vision_config.model_type is 'vit'; the towers are .*siglip"),
    ],
)
def test_error_names_the_key_the_value_and_what_is_allowed(recipe, message):
    with pytest.raises(StrictDataclassError, match=message):
        LlavaNextVideoConfig(**config_arguments(**recipe))


PARTS = ["vision_config", "text_config"]


def nested(name: str, **settings) -> dict:
    arguments = config_arguments()
    return {**arguments, name: {**arguments[name], **settings}}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_hidden_layers", 1001),
        ("num_hidden_layers", "5"),
        ("num_hidden_layers", 4.0),
        ("num_hidden_layers", {"a": 1}),
        ("num_hidden_layers", -1),
        ("num_attention_heads", 0),
        ("hidden_size", 10**30),
        ("intermediate_size", -1),
        ("num_labels", 10**9),
    ],
)
@pytest.mark.parametrize("name", PARTS)
def test_error_for_numbers_that_no_model_has(name, setting, value):
    with pytest.raises(
        ValueError, match=rf"{name}\.{setting} is {re.escape(repr(value))}; it has to be a whole number from 1 to \d+"
    ):
        LlavaNextVideoConfig(**nested(name, **{setting: value}))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vision_config", {"patch_size": 0}),
        ("vision_config", {"patch_size": [4, 4]}),
        ("vision_config", {"patch_size": None}),
        ("vision_config", {"image_size": "16"}),
        ("vision_config", {"image_size": [16, 16]}),
        ("vision_config", {"image_size": 10**30}),
        ("vision_config", {"num_channels": 0}),
        ("vision_config", {"model_type": ["clip_vision_model"]}),
        ("text_config", {"num_key_value_heads": 0}),
        ("text_config", {"vocab_size": -1}),
        ("text_config", {"num_hidden_layers": [2]}),
        ("text_config", {"rope_scaling": "x"}),
        ("text_config", {"rope_scaling": {"rope_type": "linear"}}),
        ("text_config", {"layer_types": ["x"]}),
        ("text_config", {"dtype": "float31"}),
        ("text_config", {"tie_word_embeddings": "x"}),
    ],
)
def test_damaged_setting_of_a_part_is_a_documented_error(name, settings):
    """These used to end in ZeroDivisionError, TypeError, KeyError or AttributeError, or in all memory being taken."""
    with pytest.raises((ValueError, StrictDataclassError)):
        LlavaNextVideoConfig(**nested(name, **settings))


def test_error_for_parts_that_cannot_be_made():
    with pytest.raises(
        ValueError, match=r"configuration cannot be made: KeyError: .*factor.* have to be what transformers"
    ):
        LlavaNextVideoConfig(**nested("text_config", rope_scaling={"rope_type": "linear"}))


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("value", [5, "x", [1]])
def test_error_for_a_part_that_is_no_configuration(name, value):
    with pytest.raises((ValueError, StrictDataclassError), match=name):
        LlavaNextVideoConfig(**config_arguments(**{name: value}))


def test_memory_that_is_too_small_is_no_damage(monkeypatch):
    """It was reported as a damaged configuration."""

    def full(config):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(modeling_llava_next_video, "LlavaNextVideoPooler", full)
    with pytest.raises(torch.OutOfMemoryError):
        LlavaNextVideoForConditionalGeneration(LlavaNextVideoConfig(**config_arguments()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"hidden_act": "nope"}, "KeyError: 'nope'"), ({"hidden_size": 10**12}, "RuntimeError: Storage size")],
)
def test_error_for_settings_that_no_network_has(settings, message):
    config = LlavaNextVideoConfig(**nested("text_config", **settings))
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=f"weights that cannot exist: {message}.* have to be what"),
    ):
        LlavaNextVideoForConditionalGeneration(config)
