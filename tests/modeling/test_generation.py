"""Ways of decoding that transformers offers: all give the tokens of plain greedy decoding."""

import pytest
import torch
from PIL import Image
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    Cache,
    StaticCache,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llava_next_video import DEMO_CHECKPOINT
from llava_next_video.modeling.generation_llava_next_video import CHUNKS_GET_NO_FEATURES
from tests.graphs import CountingBackend
from tests.tiny import TEXT_CONFIGS, VIDEO_TOKEN_ID, make_model, make_processor, random_frames


CLIP = "demo_model/samples/red_circle_moves_left.mp4"
QUESTION = "Which way does the circle move?"


@pytest.fixture(scope="module")
def demo():
    return AutoModelForImageTextToText.from_pretrained(DEMO_CHECKPOINT), AutoProcessor.from_pretrained(DEMO_CHECKPOINT)


def ask(demo, *texts: str, **kwargs) -> tuple[list[list[int]], list[int]]:
    """Tokens of the greedy answers to chats about the clip that end in `texts`, and how many tokens each step read."""
    model, processor = demo
    chats = [
        [{"role": "user", "content": [{"type": "video", "path": CLIP}, {"type": "text", "text": text}]}]
        for text in texts
    ]
    inputs = processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs={"padding": True}
    )
    steps = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: steps.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    answers = model.generate(**inputs, max_new_tokens=20, do_sample=False, **kwargs)
    hook.remove()
    return answers[:, inputs["input_ids"].shape[1] :].tolist(), steps


def test_prompt_lookup_gives_the_greedy_answer_in_fewer_steps(demo):
    refused = "Why? I know only moving coloured shapes, and do not see that here."
    text = f"{refused} Why?"
    expected, steps = ask(demo, text)
    answer, lookup_steps = ask(demo, text, prompt_lookup_num_tokens=3)
    assert answer == expected
    assert len(lookup_steps) < len(steps)


def test_prompt_lookup_never_proposes_placeholders():
    """The prompt ends as it ends in front of the video, so what followed there are placeholders: the built-in copies
    them, and then has more placeholders than features."""
    model = make_model(video_newline_position="grid")
    inputs = make_processor(model.config)(text="abc<video>abc", videos=[random_frames(3)])
    expected = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    read = []
    hook = model.model.register_forward_pre_hook(lambda *call: read.append(call[2]["input_ids"]), with_kwargs=True)
    answer = model.generate(**inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)
    hook.remove()
    assert answer.tolist() == expected.tolist()
    assert (read[0] == VIDEO_TOKEN_ID).sum() == (inputs["input_ids"] == VIDEO_TOKEN_ID).sum()


def test_text_only_assistant_gives_the_greedy_answer(demo):
    model, _ = demo
    assistant = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    assistant.model.load_state_dict(model.model.language_model.state_dict())
    assistant.lm_head.load_state_dict(model.lm_head.state_dict())
    text = "Who is the person?"  # the assistant sees no video, and says the same only where nothing is seen
    expected, steps = ask(demo, text)
    answer, assisted_steps = ask(demo, text, assistant_model=assistant)
    assert answer == expected
    assert len(assisted_steps) < len(steps)


@pytest.mark.parametrize("texts", [[QUESTION], [QUESTION, "Describe the video."]])
def test_static_cache_gives_the_greedy_answer(demo, texts):
    assert ask(demo, *texts, cache_implementation="static") == ask(demo, *texts)


def test_decoding_with_a_static_cache_is_one_graph():
    model = make_model()
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    length = inputs["input_ids"].shape[1]
    cache = StaticCache(config=model.config.text_config, max_cache_len=length + 4)
    backend = CountingBackend()
    step = torch.compile(model, fullgraph=True, backend=backend)
    expected = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)[0, length:].tolist()
    with torch.no_grad():
        token = model(**inputs, past_key_values=cache).logits[:, -1:].argmax(-1)
        answer = [int(token)]
        for position in range(length, length + 3):
            arguments = {"position_ids": torch.tensor([[position]]), "past_key_values": cache}
            token = step(token, **arguments).logits.argmax(-1)
            answer.append(int(token))
    assert answer == expected
    assert len(backend.graphs) == 1


def snapshot(features: dict) -> list:
    return [(name, id(output), list(map(id, output.pooler_output)), output.keys()) for name, output in features.items()]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_return_sequences": 3, "do_sample": True, "top_k": 1},
        {"num_beams": 4, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 2},
        {"use_cache": False},
        {"cache_implementation": "static"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_features_given_to_generate_are_not_changed_and_may_be_used_again(settings):
    """Beams put their repeated features into the caller's objects, so the second of two prompts was answered about the
    first video the next time."""
    model = make_model(video_newline_position="grid")
    processor = make_processor(model.config)
    processor.tokenizer.padding_side = "left"
    clips = [random_frames(2, seed=1), random_frames(3, seed=2)]
    batch = processor(text=["<video>a", "b<video>c"], videos=clips, padding=True)
    if "prompt_lookup_num_tokens" in settings:
        batch = processor(text="<video>a", videos=clips[:1])
    options = {"max_new_tokens": 4, "do_sample": False, **settings}
    expected = model.generate(**batch, **options).tolist()
    features = {"video": model.get_video_features(batch.pop("pixel_values_videos"))}
    before = snapshot(features)
    for _ in range(3):
        assert model.generate(**batch, mm_encoder_outputs=features, **options).tolist() == expected
        assert snapshot(features) == before


def test_features_of_images_beside_pixels_of_videos_are_not_changed():
    model = make_model()
    processor = make_processor(model.config)
    inputs = processor(text="<image><video>?", images=[Image.new("RGB", (20, 30))], videos=[random_frames(2)])
    expected = model.generate(**inputs, max_new_tokens=3, num_beams=2).tolist()
    features = {"image": model.get_image_features(inputs.pop("pixel_values"), inputs.pop("image_sizes"))}
    assert model.generate(**inputs, mm_encoder_outputs=features, max_new_tokens=3, num_beams=2).tolist() == expected
    assert list(features) == ["image"]


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_cache_is_taken_under_both_names(name):
    """transformers 5.24 renamed it."""
    model = make_model()
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    expected = model(**inputs).logits[:, -1]
    first = {key: value[:, :-2] if key != "pixel_values_videos" else value for key, value in inputs.items()}
    for part in (model, model.model):
        outputs = part(**first, use_cache=True)
        [keys_and_values] = [value for value in outputs.values() if isinstance(value, Cache)]
        assert keys_and_values.get_seq_length() == inputs["input_ids"].shape[1] - 2
        rest = {"input_ids": inputs["input_ids"][:, -2:], "attention_mask": inputs["attention_mask"]}
        last = part(**rest, **{name: keys_and_values})[0][:, -1]
        assert torch.allclose(last if part is model else model.lm_head(last), expected, atol=1e-5)


def always_video_token(model, **kwargs) -> list[int]:
    """The first row's answer of a model that says `<video>` whenever it may; `kwargs` go to `generate`."""
    bias = {(VIDEO_TOKEN_ID,): 100.0}
    return model.generate(max_new_tokens=3, do_sample=False, sequence_bias=bias, **kwargs)[0, -3:].tolist()


WAYS_OF_KEEPING = [{}, {"cache_implementation": "static"}, {"use_cache": False}, {"use_cache": False, "num_beams": 2}]


@pytest.mark.parametrize("how", WAYS_OF_KEEPING, ids=str)
@pytest.mark.parametrize(
    "prompts", [["Hello."], ["<video>\nWhat?"], ["<video>a", "Hello.", "b<image> <video>"]], ids=str
)
def test_answer_with_a_placeholder_id_does_not_stop_decoding(prompts, how):
    """Without a cache the next step has it beside those of the prompt: more placeholders than features."""
    model = make_model(video_newline_position="grid")
    processor = make_processor(model.config)
    processor.tokenizer.padding_side = "left"
    videos = [random_frames(3) for prompt in prompts if "<video>" in prompt] or None
    images = [Image.new("RGB", (20, 30)) for prompt in prompts if "<image>" in prompt] or None
    inputs = processor(text=prompts, videos=videos, images=images, padding=True)
    assert always_video_token(model, **inputs, **how) == [VIDEO_TOKEN_ID] * 3


def test_placeholder_id_in_an_answer_is_read_alike_with_and_without_a_cache():
    model = make_model(video_newline_position="grid")
    processor = make_processor(model.config)
    processor.tokenizer.padding_side = "left"
    inputs = processor(text=["<video>a", "b<video>c"], videos=[random_frames(2), random_frames(3)], padding=True)
    options = {"max_new_tokens": 6, "do_sample": False, "sequence_bias": {(VIDEO_TOKEN_ID,): 40.0}}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    cached, whole = (model.generate(**inputs, **options, use_cache=use_cache) for use_cache in (True, False))
    assert VIDEO_TOKEN_ID in cached.sequences[:, -6:]
    assert whole.sequences.tolist() == cached.sequences.tolist()
    assert all(torch.allclose(*pair, atol=1e-4) for pair in zip(cached.logits, whole.logits))


def test_class_may_run_in_other_engines_and_in_one_graph(demo):
    """vLLM and continuous batching ask the first; transformers' own tests compile what says the second."""
    model = demo[0]
    assert model.is_backend_compatible()
    assert model._can_compile_fullgraph


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_fails_for_missing_packages_only(kernel):
    """Where the class says no, it is refused as not supported."""
    with pytest.raises(ImportError, match=r"FlashAttention\d.* installed"):
        AutoModelForImageTextToText.from_pretrained(DEMO_CHECKPOINT, attn_implementation=kernel)


def test_own_attention_function_is_used(demo):
    """A class that does not say `_supports_attention_backend` is refused one."""
    called = []

    def attend(*args, **kwargs):
        called.append(1)
        return sdpa_attention_forward(*args, **kwargs)

    AttentionInterface.register("counted", attend)
    AttentionMaskInterface.register("counted", sdpa_mask)
    model = AutoModelForImageTextToText.from_pretrained(DEMO_CHECKPOINT, attn_implementation="counted")
    assert ask((model, demo[1]), QUESTION)[0] == ask(demo, QUESTION)[0]
    assert called


@pytest.mark.parametrize("width", [32, 16, 64])
def test_an_assistant_of_our_class_drafts_with_the_features_it_can_use(width):
    """transformers leaves them out in the assistant's first step, where placeholders without features are an error."""
    model = make_model(video_newline_position="grid")
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    text = {**TEXT_CONFIGS["llama"], "hidden_size": width}
    assistant = make_model(video_newline_position="grid", text_config=text)
    if width == 32:
        assistant.load_state_dict(model.state_dict())
    expected = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    steps = []
    model.model.language_model.register_forward_hook(lambda *_: steps.append(1))
    answer = model.generate(**inputs, max_new_tokens=8, do_sample=False, assistant_model=assistant)
    assert answer.tolist() == expected.tolist()
    if width == 32:
        assert len(steps) < 8


@pytest.mark.parametrize("settings", [{"prefill_chunk_size": 5}, {"prefill_chunk_size": 500}, {}], ids=str)
def test_an_assistant_of_our_class_reads_its_prompt_in_chunks(settings):
    """transformers gives an assistant's chunks no features at all: its drafts are guesses, as the built-in's."""
    model = make_model(video_newline_position="grid")
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    expected = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assistant = make_model(seed=1, video_newline_position="grid")
    answer = model.generate(**inputs, max_new_tokens=8, do_sample=False, assistant_model=assistant, **settings)
    assert answer.tolist() == expected.tolist()


@pytest.mark.parametrize("settings", [{"prefill_chunk_size": 5}, {"use_cache": False}, {"num_beams": 2}], ids=str)
def test_error_when_a_prompt_to_generate_from_comes_without_its_video(settings):
    model = make_model(video_newline_position="grid")
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    del inputs["pixel_values_videos"]
    with pytest.raises(ValueError, match=r"placeholders and came without videos|gives chunks no features"):
        model.generate(**inputs, max_new_tokens=8, **settings)


def test_prompts_with_videos_are_read_in_chunks_where_transformers_can():
    model = make_model(video_newline_position="grid")
    inputs = make_processor(model.config)(text="<video>\nWhat?", videos=[random_frames(3)])
    features = {"video": model.get_video_features(inputs.pop("pixel_values_videos"))}
    expected = model.generate(**inputs, mm_encoder_outputs=features, max_new_tokens=8, do_sample=False)
    arguments = {"max_new_tokens": 8, "do_sample": False, "prefill_chunk_size": 5}
    if CHUNKS_GET_NO_FEATURES:
        with pytest.raises(ValueError, match="with prefill_chunk_size=5, but transformers"):
            model.generate(**inputs, mm_encoder_outputs=features, **arguments)
    else:
        assert model.generate(**inputs, mm_encoder_outputs=features, **arguments).tolist() == expected.tolist()
