"""Rows, processors and tokenizers that the tests of training share."""

from functools import cache

from PIL import Image

from llava_next_video import LlavaNextVideoCollator, LlavaNextVideoConfig, LlavaNextVideoProcessor
from llava_next_video.conversion.settings import plan_settings
from llava_next_video.hub.recipes import STOP_STRINGS
from llava_next_video.processing import CHAT_TEMPLATES
from tests.golden_data import Recording
from tests.tiny import config_arguments, make_tokenizer, random_frames


TEMPLATES = sorted(path.stem for path in CHAT_TEMPLATES.glob("*.jinja"))
# What each template writes between the prompt of generation and the first word, and after the last.
AROUND = {name: ("", stop) for name, stop in STOP_STRINGS.items()}
AROUND |= {"vicuna_v1": (" ", "</s>"), "mistral_instruct": (" ", " </s>")}
# Byte-level; Qwen's and Llama's of the recordings, the second with a space after visuals.
TOKENIZERS = ("bytes", "qwen_grid_avg", "llama_notoken_avg_before")


@cache
def tokenizer_of(name: str):
    """A tokenizer, and whether the original puts a space after visuals with it."""
    if name == "bytes":
        return make_tokenizer(), False
    recording = Recording(name)
    processor = plan_settings(str(recording.checkpoint), recording.recipe, recording.vision_tower).processor
    return processor.tokenizer, processor.space_after_visuals


def processor_of(template: str, tokenizer: str = "bytes", **recipe) -> LlavaNextVideoProcessor:
    """A tiny processor with a chat template and a tokenizer that knows the template's special tokens."""
    loaded, space_after_visuals = tokenizer_of(tokenizer)
    return LlavaNextVideoProcessor.for_model(
        LlavaNextVideoConfig(**config_arguments(**recipe)),
        loaded,
        chat_template=(CHAT_TEMPLATES / f"{template}.jinja").read_text(),
        space_after_visuals=space_after_visuals,
    )


def user(*parts) -> dict:
    """A message of the user; a text, or `"image"` and `"video"` in a tuple."""
    content = [{"type": part[0]} if isinstance(part, tuple) else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


def says(text: str) -> dict:
    return {"role": "assistant", "content": text}


VIDEO, IMAGE = ("video",), ("image",)


def video_row(question: str, answer: str, num_frames: int = 2, seed: int = 0) -> dict:
    return {
        "messages": [user(VIDEO, question), says(answer)],
        "videos": [random_frames(num_frames, seed=seed)],
    }


ANSWERS = ["It moves left.", "  Two  blanks, 3\nlines é\U0001f600", "", "<s> [/INST] ASSISTANT: no"]


def rows_for(template: str) -> list[dict]:
    """Rows with one, no and several visuals, of one and more turns, and of different lengths."""
    frames = [random_frames(number, seed=number) for number in (2, 5, 1)]
    picture = Image.new("RGB", (20, 30), "red")
    if template == "plain":
        messages = [[{"role": "assistant", "content": user(VIDEO, answer)["content"]}] for answer in ANSWERS]
        return [{"messages": each, "videos": frames[:1]} for each in messages]
    return [
        {"messages": [user(VIDEO, "Which way?"), says(ANSWERS[0])], "videos": frames[:1]},
        {"messages": [user("Hello"), says(ANSWERS[1]), user("Again"), says(ANSWERS[2]), user("x"), says(ANSWERS[0])]},
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                user(VIDEO, "and", IMAGE, "then", VIDEO),
                says(ANSWERS[3]),
                user(IMAGE, "?"),
                says(ANSWERS[0]),
            ],
            "videos": frames[1:],
            "images": [picture, picture],
        },
    ]


def learned_texts(collate: LlavaNextVideoCollator, batch: dict) -> list[str]:
    """What is learned of each row, special tokens included."""
    return [collate.processor.tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]]
