"""The switch that finds NaN and infinity, in weights, pixels and what is computed, and nothing where there is none."""

import re

import pytest
import torch
import transformers

from llava_next_video import DEMO_CHECKPOINT, check_finite
from llava_next_video.inference.finite import check_weights
from tests.tiny import make_model, make_processor, random_frames


NOT_FINITE = [float("nan"), float("inf")]


@pytest.fixture
def model():
    return make_model(tower="siglip", text="qwen2", video_newline_position="grid")


def make_inputs(model, **changes) -> dict:
    inputs = make_processor(model.config)(text="<video>What?", videos=random_frames(3))
    return {**inputs, **changes}


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ["model.image_newline", "model.vision_tower.encoder.layers.1.mlp.fc1.weight"])
def test_weights_that_are_not_finite_are_named(model, name, value):
    model.get_parameter(name).data.view(-1)[5] = value
    message = rf"^1 of the model's .* weights are not finite \(NaN, inf\): {re.escape(name)}\. "
    with pytest.raises(FloatingPointError, match=message), check_finite(model):
        pass


def test_many_weights_are_counted(model):
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    message = r"^\d+ of the model's \d+ weights are not finite \(NaN, inf\): .*, .*, .* and \d+ more\. "
    with pytest.raises(FloatingPointError, match=message), check_finite(model):
        pass


@pytest.mark.parametrize("value", NOT_FINITE)
def test_pixels_that_are_not_finite_are_named(model, value):
    inputs = make_inputs(model)
    inputs["pixel_values_videos"][0, 1, 2, 3, 4] = value
    with check_finite(model):
        with pytest.raises(FloatingPointError, match=r"^pixel_values_videos, an input of the LlavaNextVideoFor"):
            model(**inputs)
        with pytest.raises(
            FloatingPointError, match=r"^pixel_values, an input of the SiglipVision.* pixel_values_videos"
        ):
            model.generate(**inputs, max_new_tokens=2)


def test_features_that_are_not_finite_are_named(model):
    inputs = make_inputs(model)
    features = model.get_video_features(inputs.pop("pixel_values_videos"))
    features.pooler_output[0][0, 0] = torch.nan
    with check_finite(model), pytest.raises(FloatingPointError, match=r"^mm_encoder_outputs, an input"):
        model(**inputs, mm_encoder_outputs={"video": features})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_weights(dtype):
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.ones(2, 3).to(dtype), requires_grad=False)
    module.register_buffer("steps", torch.ones(2, dtype=torch.int64))
    module.register_buffer("nothing", torch.ones(0))
    check_weights(module)
    module.weight[1, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"^1 of the model's 3 weights are not finite .*: weight\. "):
        check_weights(module)


def test_added_masks_may_hold_infinity(model):
    with check_finite(model):
        assert model(torch.tensor([[5, 6]]), attention_mask=causal_mask(2)).logits.isfinite().all()


def causal_mask(length: int) -> torch.Tensor:
    """(1, 1, length, length): -inf where a token may not look."""
    return torch.full((length, length), -torch.inf).triu(1)[None, None]


def test_first_layer_that_overflows_is_named(model):
    model.model.language_model.layers[1].mlp.up_proj.weight.data.fill_(3e38)
    name = r"model\.language_model\.layers\.1\.mlp\.up_proj \(Linear\) is the first layer"
    with check_finite(model), pytest.raises(FloatingPointError, match=rf"^{name} .* in torch\.float32"):
        model(**make_inputs(model))


def test_finite_models_answer_as_without_and_nothing_is_left_behind(model):
    inputs = make_inputs(model)
    expected = model(**inputs).logits
    with check_finite(model):
        assert torch.equal(model(**inputs).logits, expected)
    inputs["pixel_values_videos"][:] = torch.nan
    assert model(**inputs).logits.isnan().any()  # nobody looks


def test_padding_and_beams_are_finite():
    pipe = transformers.pipeline("video-text-to-text", model=DEMO_CHECKPOINT, device="cpu")
    prompts = [(random_frames(number), "What shape is it?" * number) for number in (2, 5)]
    expected = pipe(prompts, batch_size=2, num_beams=2, max_new_tokens=4)
    with check_finite(pipe.model):
        pipe.forget()
        assert pipe(prompts, batch_size=2, num_beams=2, max_new_tokens=4) == expected
