from functools import partial

import pytest
import torch
from PIL import Image
from transformers import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llava_next_video import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration
from llava_next_video.modeling import model_inputs
from tests.graphs import CountingBackend
from tests.tiny import TEXT, config_arguments, enliven, labels_of, make_model, make_processor, random_frames


def make_inputs(model, num_frames: int = 3, text: str = "<video>\nWhat?"):
    return make_processor(model.config)(text=text, videos=[random_frames(num_frames)])


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(-1, [0, 1, 2, 3]), (-2, [0, 1, 2]), ([1, 3], [0, 1, 2]), (0, []), ([0, -4], [0])],
)
def test_only_the_vision_layers_that_are_used_run(layer, expected):
    model = make_model(vision_feature_layer=layer)
    ran = []
    for number, vision_layer in enumerate(model.model.vision_tower.encoder.layers):
        vision_layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    features = model.get_video_features(torch.randn(1, 2, 3, 16, 16)).pooler_output[0]
    assert ran == expected
    hidden = model.model.vision_tower(torch.zeros(1, 3, 16, 16), output_hidden_states=True).hidden_states
    layers = [layer] if isinstance(layer, int) else layer
    expected_states = torch.cat([hidden[number] for number in layers], dim=-1)[:, 1:].unflatten(1, (4, 4))
    assert torch.allclose(model.model.encode_frames(torch.zeros(1, 3, 16, 16)), expected_states, atol=1e-6)
    assert features.shape == (8, 32)


@pytest.mark.parametrize("position", ["before_projector", "after_projector"])
def test_pooling_position_is_honoured(position):
    """Around an exactly linear projector the two positions agree; around the real one they do not."""
    video = torch.randn(1, 2, 3, 16, 16)
    model = make_model(spatial_pool_position=position)
    other = "before_projector" if position == "after_projector" else "after_projector"
    features = model.get_video_features(video).pooler_output[0]
    model.config.spatial_pool_position = other
    assert (features - model.get_video_features(video).pooler_output[0]).abs().max() > 1e-3
    model.model.multi_modal_projector.act = torch.nn.Identity()
    linear = model.get_video_features(video).pooler_output[0]
    model.config.spatial_pool_position = position
    assert torch.allclose(linear, model.get_video_features(video).pooler_output[0], atol=1e-5)


def test_features_passed_in_replace_the_pixels_and_are_not_changed():
    model = make_model(video_newline_position="grid")
    inputs = make_inputs(model)
    expected = model(**inputs).logits
    features = {"video": model.get_video_features(inputs.pop("pixel_values_videos"))}
    assert torch.equal(model(**inputs, mm_encoder_outputs=features).logits, expected)
    assert list(features) == ["video"]


def test_first_answer_encodes_once_and_a_second_question_reuses_the_cache():
    model = make_model()
    calls = []
    model.model.vision_tower.embeddings.register_forward_hook(lambda *_: calls.append(1))
    processor = make_processor(model.config)
    inputs = processor(text="<video>\nWhat?", videos=[random_frames(3)])
    first = model.generate(**inputs, max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    assert calls == [1]
    follow_up = torch.cat([first.sequences, processor.tokenizer(" Why?", return_tensors="pt")["input_ids"]], dim=1)
    again = model.generate(follow_up, past_key_values=first.past_key_values, max_new_tokens=5, do_sample=False)
    assert calls == [1]
    pixels = inputs["pixel_values_videos"]
    fresh = model.generate(follow_up, pixel_values_videos=pixels, max_new_tokens=5, do_sample=False)
    assert again.tolist() == fresh.tolist()


@pytest.mark.parametrize("newline", ["no_token", "grid"])
def test_prefill_with_pixels_traces_as_one_graph_and_is_not_traced_again(newline):
    model = make_model(video_newline_position=newline, spatial_pool_mode="bilinear")
    backend = CountingBackend()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        for seed in range(2):
            inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(9, seed=seed)])
            assert torch.allclose(compiled(**inputs).logits, model(**inputs).logits, atol=1e-6)
        assert len(backend.graphs) == 1
        with pytest.raises(RuntimeError, match="<video> placeholders and features differ"):
            compiled(**(inputs | {"input_ids": inputs["input_ids"].clone().fill_(1)}))


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("where", ["both", "vision_config", "text_config"])
def test_attention_kernels_agree_in_either_tower(implementation, where, tmp_path):
    make_model().save_pretrained(tmp_path)
    reference = LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager").eval()
    chosen = implementation if where == "both" else {where: implementation}
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=chosen).eval()
    configs = {"vision_config": model.config.vision_config, "text_config": model.config.text_config}
    for name, config in configs.items():
        if where in ("both", name):
            assert config._attn_implementation == implementation
    inputs = make_inputs(model)
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, reference(**inputs).logits, atol=1e-5)


@pytest.mark.parametrize("language_model", ["qwen3", "gemma2", "phi3"])
def test_language_models_that_the_package_does_not_name_work(language_model):
    text = {**TEXT, "model_type": language_model, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    model = enliven(
        LlavaNextVideoForConditionalGeneration(LlavaNextVideoConfig(**config_arguments() | {"text_config": text}))
    )
    inputs = make_inputs(model.eval())
    logits = model(**inputs).logits
    inputs["pixel_values_videos"] = -inputs["pixel_values_videos"]
    assert not torch.allclose(model(**inputs).logits, logits)
    assert model.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape[1] == logits.shape[1] + 2


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = make_model(video_newline_position="grid").train()
        if checkpointing:
            model.gradient_checkpointing_enable()  # also the name in the oldest supported transformers
        inputs = make_inputs(model)
        model(**inputs, labels=labels_of(inputs["input_ids"])).loss.backward()
        gradients.append(
            {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    assert {"model.image_newline", "model.vision_tower.embeddings.patch_embedding.weight"} < gradients[0].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_slow_fast_model_has_its_own_token_and_saves_it(tmp_path):
    model = make_model(video_newline_position="grid", slow_frame_stride=2)
    model.save_pretrained(tmp_path)
    again = LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(again.model.faster_token, model.model.faster_token)
    assert "model.faster_token" not in make_model().state_dict()


def test_return_dict_false_gives_tuples():
    model = make_model()
    inputs = make_inputs(model)
    assert torch.equal(model(**inputs, return_dict=False)[0], model(**inputs).logits)
    assert torch.equal(model.model(**inputs, return_dict=False)[0], model.model(**inputs).last_hidden_state)


def test_logits_to_keep_scores_only_the_last_positions():
    model = make_model()
    inputs = make_inputs(model)
    assert torch.allclose(model(**inputs, logits_to_keep=2).logits, model(**inputs).logits[:, -2:], atol=1e-6)


@pytest.mark.parametrize(
    "kept",
    [
        torch.tensor([0, 3]),
        torch.tensor([[1, 4, 2]]),
        torch.tensor([[5], [0]]),
        torch.tensor([[True, False, True] + [False] * 16]),
    ],
    ids=["for all rows", "for each row", "of two rows", "mask"],
)
def test_logits_to_keep_scores_these_positions(kept):
    """Two dimensions gave a wrong shape."""
    model = make_model()
    ids = torch.arange(1, 20).repeat(len(kept) if kept.ndim == 2 else 1, 1)
    ids[-1] += 1
    logits = model(input_ids=ids).logits
    if kept.dtype == torch.bool:
        expected = logits[kept]
    elif kept.ndim == 1:
        expected = logits[:, kept]
    else:
        expected = torch.stack([row[positions] for row, positions in zip(logits, kept)])
    assert torch.allclose(model(input_ids=ids, logits_to_keep=kept).logits, expected, atol=1e-6)


def cache_of(outputs) -> Cache | None:
    return next((value for value in outputs.values() if isinstance(value, Cache)), None)


def test_use_cache_of_the_configuration_is_honoured():
    """Trainers set it to False, and got keys and values all the same."""
    model = make_model()
    inputs = make_inputs(model)
    assert cache_of(model(**inputs)) is not None
    model.config.use_cache = False
    for part in (model, model.model):
        assert cache_of(part(**inputs)) is None
        assert cache_of(part(**inputs, use_cache=True)) is not None


def test_vocab_size_is_that_of_the_language_model():
    assert make_model().model.vocab_size == 264


def test_features_of_another_dtype_are_brought_to_that_of_the_embeddings():
    model = make_model(video_newline_position="grid")
    inputs = make_inputs(model)
    expected = model(**inputs).logits
    pixels = inputs.pop("pixel_values_videos")
    [tokens] = model.get_video_features(pixels).pooler_output
    for dtype, tolerance in ((torch.float64, 0), (torch.bfloat16, 1)):
        features = {"video": BaseModelOutputWithPooling(pooler_output=(tokens.to(dtype),))}
        outputs = model(**inputs, mm_encoder_outputs=features)
        assert outputs.logits.dtype == torch.float32
        assert (outputs.logits - expected).abs().max() <= tolerance


@pytest.mark.parametrize(("rope", "context"), [({}, 20), ({"rope_type": "linear", "factor": 2.0}, 40)])
def test_warning_begins_one_token_behind_the_context(rope, context, caplog):
    config = config_arguments()
    config["text_config"] = {**config["text_config"], "max_position_embeddings": 20, "rope_parameters": rope}
    model = LlavaNextVideoForConditionalGeneration(LlavaNextVideoConfig(**config))
    for num_tokens, warned in ((context, False), (context + 1, True)):
        model_inputs.logger.warning_once.cache_clear()
        caplog.clear()
        with caplog.at_level("WARNING"):
            model_inputs.warn_beyond_context(num_tokens, model.config.text_config)
        assert (f"more than the {context} tokens" in caplog.text) == warned


NUM_STATES = 5  # of a tower of 4 layers


@pytest.mark.parametrize("where", ["argument", "configuration"])
@pytest.mark.parametrize("modality", ["image", "video"])
def test_feature_getters_return_what_the_tower_makes_when_asked(modality, where):
    """Other keywords than their own were a TypeError."""
    model = make_model()
    model.set_attn_implementation("eager")
    if modality == "video":
        get, arguments, frames = model.get_video_features, {"pixel_values_videos": torch.randn(2, 3, 3, 16, 16)}, 6
    else:  # of 3 and 5 tiles, padded to 5
        get, frames = model.get_image_features, 8
        arguments = {"pixel_values": torch.randn(2, 5, 3, 16, 16), "image_sizes": torch.tensor([[16, 32], [40, 44]])}
    plain = get(**arguments, num_items_in_batch=3)
    assert (plain.last_hidden_state, plain.hidden_states, plain.attentions) == (None, None, None)
    asked = {"output_hidden_states": True, "output_attentions": True}
    if where == "configuration":
        for name in asked:
            setattr(model.config.vision_config, name, True)
        asked = {}
    full = get(**arguments, **asked)
    assert all(torch.equal(a, b) for a, b in zip(full.pooler_output, plain.pooler_output, strict=True))
    assert [state.shape for state in full.hidden_states] == [(frames, 17, 16)] * NUM_STATES
    assert [weights.shape for weights in full.attentions] == [(frames, 2, 17, 17)] * (NUM_STATES - 1)
    assert torch.equal(full.last_hidden_state, full.hidden_states[-1])
    assert isinstance(get(**arguments, **asked, return_dict=False), tuple)


MISSING = [
    ("<video>\nWhat?", [], r"\d+ <video> placeholders and came without videos.*`pixel_values_videos` on"),
    ("<image>\nWhat?", [], r"\d+ <image> placeholders and came without images.*`pixel_values` on"),
    ("<image> and <video>", ["pixel_values_videos"], r"\d+ <image> placeholders and came without images"),
    ("<image> and <video>", ["pixel_values", "image_sizes"], r"\d+ <video> placeholders and came without videos"),
]
WAYS = {
    "forward": lambda model: model,
    "base model": lambda model: model.model,
    "without a cache": lambda model: partial(model, use_cache=False),
    "empty cache": lambda model: partial(model, past_key_values=DynamicCache()),
    "no features": lambda model: partial(model, mm_encoder_outputs={"video": None, "image": None}),
    "generate": lambda model: partial(model.generate, max_new_tokens=2),
    "beams": lambda model: partial(model.generate, max_new_tokens=2, num_beams=2),
}


@pytest.mark.parametrize(("text", "passed", "message"), MISSING)
@pytest.mark.parametrize("way", WAYS)
def test_error_when_placeholders_come_without_features(text, passed, message, way):
    """They were answered from the placeholder's embedding, and trained on, without a word."""
    if way == "no features" and passed:
        return  # pixels and features at once are another error
    model = make_model()
    media = {"videos": [random_frames(3)], "images": [Image.new("RGB", (16, 16))]}
    inputs = make_processor(model.config)(
        text=text, **{key: value for key, value in media.items() if f"<{key[:-1]}>" in text}
    )
    names = ["input_ids", "attention_mask", *passed]
    with pytest.raises(ValueError, match=message):
        WAYS[way](model)(**{name: inputs[name] for name in names})


def test_training_without_pixels_is_an_error():
    model = make_model().train()
    inputs = make_inputs(model)
    del inputs["pixel_values_videos"]
    with pytest.raises(ValueError, match=r"remove_unused_columns=False`, and a collator that calls the processor"):
        model(**inputs, labels=inputs["input_ids"])


@pytest.mark.parametrize("modality", ["image", "video"])
def test_training_on_placeholders_is_warned_of(modality, caplog):
    """They are most of what is learned then."""
    model, picture = make_model().train(), Image.new("RGB", (20, 30))
    media = {"videos": [random_frames(2)]} if modality == "video" else {"images": picture}
    inputs = make_processor(model.config)(text=f"<{modality}>\nWhat?", **media)
    with caplog.at_level("WARNING"):
        model(**inputs, labels=labels_of(inputs["input_ids"]))
        model.eval()(**inputs, labels=inputs["input_ids"])
        assert "placeholders" not in caplog.text
        model.train()(**inputs, labels=inputs["input_ids"])
    assert f"Some of the labels are <{modality}> placeholders, which the model learns to say" in caplog.text


def test_embeddings_that_the_caller_merged_need_no_features():
    model = make_model()
    embeds = model.get_input_embeddings()(make_inputs(model)["input_ids"])
    assert model(inputs_embeds=embeds).logits.shape[1] == embeds.shape[1]
    assert model.generate(inputs_embeds=embeds, max_new_tokens=2, do_sample=False).shape == (1, 2)


def test_compiled_prompt_without_features_is_an_error():
    model = make_model()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = make_inputs(model)
    del inputs["pixel_values_videos"]
    with torch.no_grad(), pytest.raises(RuntimeError, match="has <video> placeholders and no video features"):
        compiled(**inputs)


def test_error_when_placeholders_and_features_differ():
    model = make_model()
    inputs = make_inputs(model)
    inputs["input_ids"] = inputs["input_ids"][:, 3:]
    inputs["attention_mask"] = inputs["attention_mask"][:, 3:]
    message = "9 <video> placeholders but the video features are 12 tokens.*truncated.*pooling, newline"
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_error_when_both_or_neither_of_ids_and_embeds_are_given():
    model = make_model()
    ids = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="got neither of `input_ids` and `inputs_embeds`"):
        model()
    with pytest.raises(ValueError, match="got both of `input_ids` and `inputs_embeds`"):
        model(input_ids=ids, inputs_embeds=model.get_input_embeddings()(ids))


def test_error_when_pixels_and_features_are_given():
    model = make_model()
    inputs = make_inputs(model)
    with pytest.raises(ValueError, match="got pixels and `mm_encoder_outputs`"):
        model(**inputs, mm_encoder_outputs={})


def test_error_when_image_sizes_are_missing():
    model = make_model()
    inputs = make_processor(model.config)(text="<image>", images=Image.new("RGB", (20, 20)))
    del inputs["image_sizes"]
    with pytest.raises(ValueError, match="got `pixel_values` without `image_sizes`"):
        model(**inputs)


@pytest.mark.parametrize("shape", [(1, 2, 3, 16, 12), (1, 2, 3, 20, 20), (2, 3, 16, 16)])
def test_error_when_frames_do_not_fit_the_tower(shape):
    with pytest.raises(ValueError, match=r"it takes \(frames, channels, 16, 16\). Use the checkpoint's processor"):
        make_model().get_video_features(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 2, 3, 16, 16), (2, 3, 3, 16, 16), (4, 3, 16, 16)])
def test_error_when_tiles_are_not_those_of_the_image_sizes(shape):
    with pytest.raises(ValueError, match=r"sizes \[\(16, 32\)\] .* are cut into \[3\] tiles, .* pixel_values holds"):
        make_model().get_image_features(torch.zeros(shape), torch.tensor([[16, 32]]))


def test_text_runs_on_the_meta_device():
    """Tools run a model there to count operations; it has no numbers to look at."""
    ids = torch.ones(1, 3, dtype=torch.long, device="meta")
    assert make_model().to("meta")(input_ids=ids).logits.shape == (1, 3, 264)


def test_convolution_pools_the_features_of_several_layers():
    """It expected those of one layer, and every video failed."""
    model = make_model(spatial_pool_mode="conv", vision_feature_layer=[-2, -1])
    [tokens] = model.get_video_features(torch.ones(1, 3, 3, 16, 16)).pooler_output
    assert tokens.shape == (3 * 2 * 2, 32)
