"""Ways of decoding that transformers offers: all give the tokens of plain greedy decoding."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, StaticCache

from llava_next_video import DEMO_CHECKPOINT
from tests.tiny import VIDEO_TOKEN_ID, make_model, make_processor, random_frames


CLIP = "demo_model/samples/red_circle_moves_left.mp4"
QUESTION = "Which way does the circle move?"


class CountingBackend:
    """A `torch.compile` backend that runs graphs as they are and remembers them."""

    def __init__(self):
        torch.compiler.reset()
        self.graphs = []

    def __call__(self, graph_module, example_inputs):
        self.graphs.append(graph_module)
        return graph_module.forward


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
    text = f"{QUESTION} The circle moves left. {QUESTION}"
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
    expected, steps = ask(demo, QUESTION)
    answer, assisted_steps = ask(demo, QUESTION, assistant_model=assistant)
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
