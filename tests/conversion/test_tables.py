"""The tables of weights, configuration keys and released checkpoints."""

import copy
import json
import re

import pytest
import torch
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from llava_next_video import rope_factor_for
from llava_next_video.conversion.original_config import (
    default_recipe,
    grid_pinpoints,
    is_original,
    language_model_type,
    our_config,
    recipe_in,
    text_config,
)
from llava_next_video.conversion.plan import plan_conversion
from llava_next_video.conversion.planned_tensors import expected_shapes, rename_tower
from llava_next_video.conversion.tokenizer import STOP_STRINGS, read_template, template_name
from llava_next_video.conversion.vision_towers import KNOWN, find_vision_tower
from llava_next_video.conversion.weight_names import (
    DROPPED,
    OURS_TO_ORIGINAL,
    RENAMED,
    SECOND_NAMES,
    TOWER_DROPPED,
    TOWER_RENAMED,
    UnknownWeight,
    rename,
)
from llava_next_video.hub.recipes import DEFAULT_RECIPES, FACTS, RELEASED, Recipe, find_released, recipe_named, resolve
from llava_next_video.modeling.checkpoint_settings import CheckpointError
from tests.conversion.synthetic import LAYOUTS, SIGLIP, original_config, original_shapes, tower_shapes, write_original


@pytest.mark.parametrize("name", LAYOUTS)
def test_full_size_checkpoint_maps_onto_our_model_with_nothing_missing_or_left_over(tmp_path, name):
    plan = plan_conversion(str(write_original(tmp_path, name)))
    shapes = expected_shapes(plan.config)
    assert {tensor.name: tensor.shape for tensor in plan.tensors} == shapes
    # Every weight of the original is used or left out for a reason, and goes back to where it came from.
    assert {tensor.source.name for tensor in plan.tensors} | set(plan.dropped) == set(original_shapes(name))
    assert all(plan.dropped.values())
    for tensor in plan.tensors:
        assert rename(tensor.name, OURS_TO_ORIGINAL, {})[0] == re.sub("vision_resampler.mm", "mm", tensor.source.name)
    assert all(tensor.dtype == torch.bfloat16 for tensor in plan.tensors)


def test_converted_32b_carries_the_recipe_of_its_authors(tmp_path):
    plan = plan_conversion(str(write_original(tmp_path, "LLaVA-NeXT-Video-32B-Qwen")))
    config, processor = plan.config, plan.processor
    assert (config.spatial_pool_mode, config.spatial_pool_stride) == ("average", 2)
    assert (config.spatial_pool_position, config.video_newline_position) == ("after_projector", "grid")
    assert (processor.video_processor.num_frames, processor.video_processor.frame_sampling) == (32, "fps_capped")
    assert processor.video_processor.size == {"height": 384, "width": 384}
    assert processor.count_video_tokens(32, 384) == 5824
    assert processor.chat_template == read_template("qwen_1_5")
    assert not processor.video_processor.time_instruction
    assert config.text_config.rope_parameters["rope_type"] == "default"
    assert config.vision_config.num_hidden_layers == 26
    assert processor.tokenizer.model_max_length == 32768
    assert set(plan.origins.values()) == {"the table, " + plan.source}


def test_converted_7b_is_stretched_for_its_32_frames(tmp_path):
    plan = plan_conversion(str(write_original(tmp_path, "LLaVA-NeXT-Video-7B")))
    rope = plan.config.text_config.rope_parameters
    assert (rope["rope_type"], rope["factor"]) == ("linear", 2.0)
    assert plan.processor.tokenizer.model_max_length == 8192
    assert plan.processor.count_video_tokens(32, 336) == 4608
    fewer = plan_conversion(plan.source, Recipe(num_frames=16))
    assert fewer.config.text_config.rope_parameters["rope_type"] == "default"


def test_vocabulary_padding_is_used_where_there_is_room(tmp_path):
    plan = plan_conversion(str(write_original(tmp_path, "LLaVA-Video-7B-Qwen2")))
    assert plan.config.text_config.vocab_size == 152064
    assert (plan.config.image_token_index, plan.config.video_token_index) == (379, 380)  # after the tiny tokenizer's


def test_rope_factor_is_the_demo_s():
    assert [rope_factor_for(frames) for frames in (1, 8, 16, 21, 22, 32, 64)] == [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0]
    assert rope_factor_for(32, patches_per_side=16) == 1.0  # a tower at 224 pixels
    assert rope_factor_for(32, spatial_pool_stride=4) == 1.0
    assert rope_factor_for(32, context_length=32768) == 1.0


@pytest.mark.parametrize("released", RELEASED.values(), ids=RELEASED)
def test_every_fact_of_a_released_checkpoint_has_a_source(released):
    known = {fact for fact in FACTS if getattr(released.recipe, fact) is not None}
    assert known <= set(released.sources)
    assert released.unknown
    assert released.recipe.chat_template in STOP_STRINGS
    assert released.vision_tower in KNOWN
    assert abs(released.image_token_id - released.video_token_id) == 1


def test_released_checkpoints_are_found_by_hub_id_and_folder():
    assert find_released("lmms-lab/LLaVA-NeXT-Video-7B-DPO") is find_released("/data/llava-next-video-7b-dpo/")
    assert find_released("lmms-lab/LLaVA-NeXT-Video-7B-Other") is None


def test_error_for_an_unknown_recipe():
    with pytest.raises(ValueError, match=r"There is no recipe 'x'; the recipes are LLaVA-NeXT-Video-7B, "):
        recipe_named("x")


def test_error_for_an_unknown_template():
    with pytest.raises(ValueError, match="There is no chat template 'llama_3'; the templates are"):
        template_name("llama_3")


def test_facts_come_from_the_first_that_knows_them():
    recipe, origins = resolve([("you", Recipe(num_frames=4)), ("table", Recipe(num_frames=8, rope_factor=2.0))])
    assert (recipe.num_frames, recipe.rope_factor) == (4, 2.0)
    assert origins == {"num_frames": "you", "rope_factor": "table"}


@pytest.mark.parametrize(
    ("key", "value", "fact", "expected"),
    [
        ("mm_pooling_position", "before", "spatial_pool_position", "before_projector"),
        ("mm_resampler_location", "after", "spatial_pool_position", "after_projector"),
        ("force_sample", True, "frame_sampling", "uniform_repeated"),
        ("force_sample", False, "frame_sampling", None),
        ("add_time_instruction", True, "time_instruction", True),
        ("mm_newline_position", "frame", "video_newline_position", "frame"),
        ("mm_spatial_pool_stride", 4, "spatial_pool_stride", 4),
        ("rope_scaling", {"type": "linear", "factor": 4.0}, "rope_factor", 4.0),
    ],
)
def test_configuration_keys_become_facts(key, value, fact, expected):
    assert getattr(recipe_in({"model_type": "llava_llama", key: value}), fact) == expected


@pytest.mark.parametrize("model_type", ["llava_qwen", "llava_mistral"])
def test_qwen_and_mistral_ignore_rope_scaling_as_in_the_original(model_type):
    config = {"model_type": model_type, "rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 1e6}
    assert recipe_in(config).rope_factor is None
    assert text_config(config, 1.0)["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e6}


def test_other_rope_scaling_of_llama_is_kept():
    config = {"model_type": "llava_llama", "rope_scaling": {"type": "dynamic", "factor": 4.0}, "rope_theta": 1e6}
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e6}
    assert text_config(config, 1.0)["rope_parameters"] == rope


def test_vicuna_is_recognised_by_its_name_as_in_the_demo():
    config = {"model_type": "llava_llama", "max_position_embeddings": 4096, "_name_or_path": "work/Vicuna-7B"}
    assert default_recipe(config).rope_factor == "auto"
    assert (
        default_recipe({**config, "_name_or_path": "work/yi"}).rope_factor
        == DEFAULT_RECIPES["llama"].rope_factor
        == 1.0
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}, "llama"),
        ({"model_type": "llava", "architectures": ["LlavaMistralForCausalLM"]}, "mistral"),
        ({"model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"]}, "qwen2"),
        ({"model_type": "llava"}, "llama"),
    ],
)
def test_language_model_is_found(config, kind):
    assert language_model_type(config) == kind


def test_error_for_an_unknown_language_model():
    with pytest.raises(ValueError, match="says model_type 'llava_mpt' and architectures None"):
        language_model_type({"model_type": "llava_mpt"})


def test_configurations_of_transformers_are_not_originals():
    assert not is_original({"model_type": "llava", "vision_config": {}, "text_config": {}})
    assert not is_original({"model_type": "llama"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "mm_projector_type",
            "linear",
            r"says mm_projector_type = 'linear'; what can be converted is \['mlp2x_gelu'\]",
        ),
        ("mm_patch_merge_type", "flat", r"says mm_patch_merge_type = 'flat'; what can be converted"),
        ("mm_vision_select_feature", "cls_patch", "says mm_vision_select_feature = 'cls_patch'"),
        ("mm_use_im_start_end", True, "says mm_use_im_start_end = True"),
        ("mm_resampler_type", "qformer", "says mm_resampler_type = 'qformer'"),
        ("image_aspect_ratio", "highres", "says image_aspect_ratio = 'highres'"),
    ],
)
def test_error_for_what_our_model_does_not_have(key, value, message):
    config = {**original_config("LLaVA-NeXT-Video-7B"), key: value}
    with pytest.raises(ValueError, match=message):
        our_config(config, DEFAULT_RECIPES["llama"], 1.0, find_vision_tower(config["mm_vision_tower"]).config)


def test_pinpoints_are_turned_and_keep_their_order():
    # Of two equally good sizes the first is taken, so a square image is cut like the original's only in this order.
    assert grid_pinpoints({"image_grid_pinpoints": [[336, 672], [672, 336]]}, 336) == [[672, 336], [336, 672]]
    ranges = grid_pinpoints({"image_grid_pinpoints": "(1x1),...,(6x6)"}, 384)
    assert ranges == [[384 * rows, 384 * columns] for columns in range(1, 7) for rows in range(1, 7)]
    assert grid_pinpoints({"image_grid_pinpoints": None}, 384) is None


def test_tables_are_anchored_and_do_not_overlap():
    for renamed, dropped in (
        ({**RENAMED, **SECOND_NAMES}, DROPPED),
        (TOWER_RENAMED, TOWER_DROPPED),
        (OURS_TO_ORIGINAL, {}),
    ):
        assert not set(renamed) & set(dropped)
    for name in (*original_shapes("LLaVA-NeXT-Video-7B"), *original_shapes("LLaVA-Video-7B-Qwen2")):
        rename(name, {**RENAMED, **SECOND_NAMES}, DROPPED)
        with pytest.raises(UnknownWeight, match=r"meets no rules; it has to meet exactly one\. If the checkpoint is"):
            rename("x." + name, {**RENAMED, **SECOND_NAMES}, DROPPED)


def test_error_when_a_name_meets_two_rules():
    with pytest.raises(UnknownWeight, match=r"The weight 'a\.b' meets 2 rules"):
        rename("a.b", {r"a\.b": "c", r"a\..": "d"}, {})


def test_names_that_were_converted_already_are_unknown():
    with pytest.raises(UnknownWeight, match=r"'model\.multi_modal_projector\.linear_1\.weight' meets no rules"):
        rename("model.multi_modal_projector.linear_1.weight", RENAMED, DROPPED)


def test_a_tower_from_its_own_repository_loses_what_llava_does_not_use(tmp_path):
    plan = plan_conversion(str(write_original(tmp_path, "LLaVA-Video-7B-Qwen2")))
    repository = {f"vision_model.{name}": shape for name, shape in tower_shapes({**SIGLIP, "layers": 27}).items()}
    extra = ("text_model.embeddings.token_embedding.weight", "logit_scale", "logit_bias", "vision_model.head.probe")
    names, dropped = rename_tower(dict.fromkeys([*repository, *extra]), plan.config)
    wanted = {tensor.name for tensor in plan.tensors if tensor.name.startswith("model.vision_tower.")}
    assert set(names) == wanted
    assert set(extra) < set(dropped)
    assert {reason for name, reason in dropped.items() if ".layers.26." in name} == {
        "the original cuts the last layer off a SigLIP tower"
    }


def test_known_towers_need_no_network_and_others_are_read(tmp_path):
    assert find_vision_tower("google/siglip-so400m-patch14-384").config["num_hidden_layers"] == 26
    folder = tmp_path / "tower"
    folder.mkdir()
    with pytest.raises(OSError, match=r"has no config\.json in"):
        find_vision_tower(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    with pytest.raises(ValueError, match=r"has model_type 'dinov2'; LLaVA-NeXT-Video has a CLIP or a SigLIP tower\."):
        find_vision_tower(str(folder))
    flat = {**copy.deepcopy(KNOWN["openai/clip-vit-large-patch14-336"]), "hidden_size": 8}
    (folder / "config.json").write_text(json.dumps(flat))
    assert find_vision_tower(str(folder)).config["hidden_size"] == 8


def test_error_when_the_tower_is_not_the_one_of_the_checkpoint(tmp_path):
    source = write_original(tmp_path, "LLaVA-NeXT-Video-7B")
    with pytest.raises(CheckpointError, match=r"weights are missing .* the vision tower is not the right one"):
        plan_conversion(str(source), vision_tower="google/siglip-so400m-patch14-384")


def test_known_towers_have_the_colours_they_were_trained_with():
    clip, siglip = (find_vision_tower(name).processor_settings for name in KNOWN)
    assert (clip["image_mean"], clip["image_std"]) == (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    assert (siglip["image_mean"], siglip["image_std"]) == (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)
