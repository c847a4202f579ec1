"""Chat templates that mark what the assistant says, with `{% generation %}`, for labels.

The marks are put into our own templates here, statement by statement, so there is no second copy of a template. A
marked template writes the same text as the unmarked one. Checkpoints keep the unmarked one, because plain Jinja does
not know the marks.
"""

import re
from itertools import pairwise

from transformers.utils.chat_template_utils import render_jinja_template

from llava_next_video.processing import CHAT_TEMPLATES
from llava_next_video.processing.chat_messages import with_template_errors


IN_ANSWER = 'message["role"] == "assistant"'


def marked(statement: str, condition: str = IN_ANSWER) -> str:
    """A statement of a template, marked where a condition holds; by default in messages of the assistant."""
    return (
        f"{{%- if {condition} -%}}{{%- generation -%}}{statement}{{%- endgeneration -%}}"
        f"{{%- else -%}}{statement}{{%- endif -%}}"
    )


TEXT = '{{- message["content"] -}}'
PART = '{{- part["text"] if part["type"] == "text" else "<" + part["type"] + ">\\n" -}}'
# `<image>` and `<video>` stay outside the marks, also in a message of the assistant.
CONTENT = {TEXT: marked(TEXT), PART: marked(PART, f'{IN_ANSWER} and part["type"] == "text"')}
VICUNA_ROLE, VICUNA_END = (
    '{{- message["role"] | upper + ": " -}}',
    '{{- "</s>" if message["role"] == "assistant" else " " -}}',
)
MISTRAL_START, MISTRAL_END = (
    '{{- "[INST] " if message["role"] == "user" else " " -}}',
    '{{- " [/INST]" if message["role"] == "user" else " </s>" -}}',
)
# For each template, the statements that write an answer, and their marked versions. An answer begins where a prompt for
# generation ends, so it includes the space before its first word, and ends with its stop token.
MARKS = {
    "vicuna_v1": {
        VICUNA_ROLE: VICUNA_ROLE.replace(": ", ":") + marked('{{- " " -}}'),
        **CONTENT,
        VICUNA_END: marked(VICUNA_END),
    },
    "qwen_1_5": {
        **CONTENT,
        '{{- "<|im_end|>\\n" -}}': marked('{{- "<|im_end|>" -}}') + '{{- "\\n" -}}',
    },
    "mistral_direct": {**CONTENT, '{{- "<|im_end|>" -}}': marked('{{- "<|im_end|>" -}}')},
    "mistral_instruct": {MISTRAL_START: marked(MISTRAL_START), **CONTENT, MISTRAL_END: marked(MISTRAL_END)},
    "plain": {
        statement.replace("message[", "messages[0]["): replacement.replace("message[", "messages[0][")
        for statement, replacement in {**CONTENT, '{{- "\\n" -}}': marked('{{- "\\n" -}}')}.items()
    },
}


def marked_template(name: str) -> str:
    """One of our chat templates with marks; `name` is that of a file in `processing/chat_templates/`."""
    template = read_template(name)
    for statement, replacement in MARKS[name].items():
        assert template.count(statement) == 1, f"{name}.jinja has {statement} {template.count(statement)} times"
        template = template.replace(statement, replacement)
    return template


def read_template(name: str) -> str:
    return (CHAT_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def training_chat_template(processor, chat_template: str | None = None) -> str:
    """The chat template to train with: one that marks what the assistant says, its stop token included.

    `processor.apply_chat_template(..., chat_template=training_chat_template(processor), tokenize=True,
    return_dict=True, return_assistant_tokens_mask=True)` returns `assistant_masks` with it. Do not save it with a
    checkpoint: programs that write chats with plain Jinja would fail.

    Args:
        processor: its `chat_template` is used as it is if it has marks, and with marks if it is one of ours.
        chat_template: instead of the processor's, the name of one of ours (`"vicuna_v1"`), or a template with marks.

    Raises:
        ValueError: there is no template, or it has no marks and is not one of ours, or it does not mark the stop token.

    >>> from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoProcessor
    >>> processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)
    >>> "{%- generation -%}" in training_chat_template(processor)
    True
    """
    if chat_template in MARKS:
        return marked_template(chat_template)
    template = processor.chat_template if chat_template is None else chat_template
    template = template.get("default") if isinstance(template, dict) else template
    if template is None:
        raise ValueError(
            f"The processor has no chat template to train with. Name the one of the checkpoint as `chat_template`: "
            f"one of {list(MARKS)}."
        )
    for name in MARKS:
        if template.strip() == read_template(name).strip():
            return marked_template(name)
    if not re.search(r"\{%-?\s*generation\b", template):
        raise ValueError(
            "The chat template does not mark what the assistant says, and is none of this package's, so it cannot "
            "tell what to learn. Put {% generation %} before and {% endgeneration %} after each answer and its stop "
            f"token, and pass the template as `chat_template`; or pass the name of one of ours, {list(MARKS)}, and "
            "answer with the same one later."
        )
    check_marks(template, processor.tokenizer.special_tokens_map)
    return template


def check_marks(template: str, special_tokens: dict):
    """Raise a ValueError unless a template marks an answer and the stop token after it. Without stop tokens in the
    labels, the model would forget to stop."""
    words = "fourteen"
    chat = [{"role": role, "content": [{"type": "text", "text": words}]} for role in ("user", "assistant")]
    text, spans = write_chat(chat, template, special_tokens)
    said = "".join(text[start:end] for start, end in spans)
    before, answer, after = said.partition(words)
    if not answer or before.strip() or not after.strip():
        raise ValueError(
            f"Of the answer {words!r} the chat template marks {said!r}. It has to mark the answer and its stop token, "
            f"and nothing else: move {{% endgeneration %}} behind the stop token (and write one, if the template "
            f"writes none), or pass the name of one of ours as `chat_template`: one of {list(MARKS)}."
        )


def write_chat(messages: list[dict], template: str, special_tokens: dict) -> tuple[str, list[tuple[int, int]]]:
    """Write a chat with a marked template.

    Args:
        messages: as `checked_conversation` returns them.
        special_tokens: of the tokenizer, by name; templates may use them.

    Returns:
        The text, and the place of each answer in it, as (start, end) in characters.

    Raises:
        ValueError: the template cannot write the chat.
    """

    def render(tokenize: bool):
        return render_jinja_template(
            [messages], chat_template=template, return_assistant_tokens_mask=True, **special_tokens
        )

    [text], [spans] = with_template_errors(render, tokenize=False)
    spans = [span for span in spans if span[0] < span[1]]
    # Adjacent marks belong to one answer: its first space, its words, its stop token.
    starts = [spans[0][0]] if spans else []
    starts += [after[0] for before, after in pairwise(spans) if after[0] != before[1]]
    ends = [before[1] for before, after in pairwise(spans) if after[0] != before[1]]
    ends += [spans[-1][1]] if spans else []
    return text, list(zip(starts, ends))
