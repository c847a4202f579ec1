"""Marked templates write what the unmarked ones write, and mark answers with their stop tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from llava_next_video import training_chat_template
from llava_next_video.processing import CHAT_TEMPLATES
from llava_next_video.training.marked_templates import MARKS, marked_template, write_chat
from tests.training.rows import AROUND, IMAGE, TEMPLATES, VIDEO, processor_of, says, user


WORDS = st.text("ab <>|_\n\t{}%é\U0001f600", max_size=8)
PARTS = st.one_of(
    WORDS.map(lambda text: {"type": "text", "text": text}),
    st.sampled_from(["image", "video"]).map(lambda k: {"type": k}),
)
CONTENTS = st.one_of(WORDS, st.lists(PARTS, min_size=1, max_size=4))
TEXTS = st.one_of(WORDS, st.lists(WORDS.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=2))


def message_by(*roles: str):
    return st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(roles), CONTENTS)


def chats_for(template: str):
    longest = 1 if template == "plain" else 5
    system = st.lists(TEXTS.map(lambda text: {"role": "system", "content": text}), max_size=1)
    return st.tuples(system, st.lists(message_by("user", "assistant"), min_size=1, max_size=longest)).map(
        lambda pair: pair[0] + pair[1]
    )


def unmarked(template: str, chat: list[dict], **arguments) -> str:
    text = (CHAT_TEMPLATES / f"{template}.jinja").read_text()
    return render_jinja_template([chat], chat_template=text, **arguments)[0][0]


def test_every_template_has_marks():
    assert sorted(MARKS) == TEMPLATES


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_marks_change_nothing_that_is_written(template, data):
    chat = data.draw(chats_for(template))
    assert write_chat(chat, marked_template(template), {})[0] == unmarked(template, chat)
    rendered, _ = render_jinja_template([chat], chat_template=marked_template(template), add_generation_prompt=True)
    assert rendered == [unmarked(template, chat, add_generation_prompt=True)]


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=30, deadline=None)
@given(answers=st.lists(TEXTS, min_size=1, max_size=3), system=st.booleans())
def test_marked_is_what_the_assistant_says_with_its_stop_token(template, answers, system):
    before, stop = AROUND[template]
    chat = [{"role": "system", "content": "Be kind."}] if system else []
    for answer in answers[:1] if template == "plain" else answers:
        chat += [] if template == "plain" else [user(VIDEO, "Is it red?", IMAGE)]
        chat.append(says(answer))
    text, spans = write_chat(chat, marked_template(template), {})
    said = [message["content"] for message in chat if message["role"] == "assistant"]
    said = [words if isinstance(words, str) else "".join(part["text"] for part in words) for words in said]
    assert [text[start:end] for start, end in spans] == [before + words + stop for words in said]


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "plain"])
def test_answers_begin_where_the_prompt_of_generation_ends(template):
    chat = [user(VIDEO, "One?"), says("Yes."), user("Two?"), says("No.")]
    text, spans = write_chat(chat, marked_template(template), {})
    for number, (start, _) in enumerate(spans):
        assert text[:start] == unmarked(template, chat[: 2 * number + 1], add_generation_prompt=True)


def test_placeholders_in_an_answer_are_not_marked():
    chat = [{"role": "assistant", "content": [{"type": "video"}, {"type": "text", "text": "It moves."}]}]
    text, spans = write_chat(chat, marked_template("plain"), {})
    assert [text[start:end] for start, end in spans] == ["It moves.\n"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_stored_template_of_ours_is_used_with_marks(template):
    processor = processor_of(template)
    assert training_chat_template(processor) == marked_template(template)
    processor.chat_template = {"default": processor.chat_template + "\n", "other": "x"}
    assert training_chat_template(processor) == marked_template(template)


def test_a_template_can_be_named():
    processor = processor_of("qwen_1_5")
    processor.chat_template = None
    assert training_chat_template(processor, "vicuna_v1") == marked_template("vicuna_v1")
    with pytest.raises(ValueError, match=r"has no chat template to train with. Name .*'vicuna_v1'"):
        training_chat_template(processor)


LOOP = "{%- for message in messages -%}{{- message['role'] -}}"
STOPS = LOOP + "{%- if message['role'] == 'assistant' -%}{% generation %}{{- message['content'][0]['text'] -}}"
OWN = STOPS + "{{- eos_token -}}{% endgeneration %}{%- endif -%}{%- endfor -%}"


def test_own_marks_are_kept():
    processor = processor_of("qwen_1_5")
    processor.chat_template = OWN
    assert training_chat_template(processor) == OWN
    assert training_chat_template(processor_of("plain"), OWN) == OWN


def test_a_template_without_marks_is_refused():
    processor = processor_of("qwen_1_5")
    processor.chat_template = LOOP + "{%- endfor -%}"
    with pytest.raises(ValueError, match=r"does not mark what the assistant says.*Put {% generation %} before"):
        training_chat_template(processor)


@pytest.mark.parametrize(
    ("template", "marked"),
    [
        (STOPS + "{% endgeneration %}{{ eos_token }}{%- endif -%}{%- endfor -%}", "'fourteen'"),
        (STOPS + "{{ ' ' }}{% endgeneration %}{%- endif -%}{%- endfor -%}", "'fourteen '"),
        ("{% generation %}" + LOOP + "{{ message['content'][0]['text'] }}!{% endfor %}{% endgeneration %}", "'userf"),
        (OWN.replace("'assistant'", "'model'"), "''"),
    ],
    ids=["stop token outside", "no stop token", "all of it", "nothing"],
)
def test_marks_without_a_stop_token_are_refused(template, marked):
    """As in templates of some released checkpoints: the model would forget to stop."""
    with pytest.raises(ValueError, match=rf"the chat template marks {marked}.*move {{% endgeneration %}} behind"):
        training_chat_template(processor_of("qwen_1_5"), template)
