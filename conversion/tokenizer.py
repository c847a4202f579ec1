"""The tokenizer of an original checkpoint, with `<image>` and `<video>` in its vocabulary.

Sources, in LLaVA-NeXT: `tokenizer_image_token` in llava/mm_utils.py, `conv_templates` in llava/conversation.py,
`load_pretrained_model` in llava/model/builder.py.
"""

from importlib.util import find_spec
from pathlib import Path

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from llava_next_video.hub.recipes import SAME_TEMPLATE, STOP_STRINGS
from llava_next_video.processing import CHAT_TEMPLATES


IMAGE_TOKEN, VIDEO_TOKEN = "<image>", "<video>"
TOKENIZER_FILES = [
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
]


def template_name(name: str) -> str:
    """The file name of a conversation template, which may have several names.

    Raises:
        ValueError: there is no such template.
    """
    name = SAME_TEMPLATE.get(name, name)
    if name not in STOP_STRINGS:
        raise ValueError(
            f"There is no chat template {name!r}; the templates are {sorted({*STOP_STRINGS, *SAME_TEMPLATE})}."
        )
    return name


def read_template(name: str) -> str:
    """The Jinja text of a conversation template."""
    return (CHAT_TEMPLATES / f"{template_name(name)}.jinja").read_text()


def prepare_tokenizer(folder: Path, chat_template: str, max_length: int, video_first: bool) -> PreTrainedTokenizerBase:
    """Load the tokenizer of an original checkpoint and give it what our processor needs.

    Args:
        folder: the original checkpoint.
        chat_template: name of the conversation template, whose stop string becomes the end-of-sequence token where
            the vocabulary has it.
        max_length: tokens that the checkpoint's prompts may have.
        video_first: whether `<video>` gets a lower id than `<image>`, if neither is in the vocabulary yet.

    Raises:
        OSError, ValueError: there is no tokenizer in the folder.
        ImportError: it is a SentencePiece file, and what reads those is not installed.
    """
    only_sentencepiece = (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file()
    if only_sentencepiece and not (find_spec("sentencepiece") and find_spec("google.protobuf")):
        raise ImportError(
            f"The tokenizer of {folder} is a SentencePiece file, and reading it takes two more packages: "
            "pip install sentencepiece protobuf"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, config=PreTrainedConfig())  # not the model's: it is not ours
    names = (VIDEO_TOKEN, IMAGE_TOKEN) if video_first else (IMAGE_TOKEN, VIDEO_TOKEN)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    stop = STOP_STRINGS[template_name(chat_template)]
    if stop in tokenizer.get_added_vocab():
        tokenizer.eos_token = stop
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.model_max_length = max_length
    tokenizer.padding_side = "left"  # for generation; the original changes it in each call
    tokenizer.chat_template = None  # it belongs to the processor
    return tokenizer


def begins_words_with_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts a space in front of a text, but not after a placeholder. The original then has a space
    after every visual, because it tokenizes the pieces of text between visuals one by one."""
    return tokenizer.tokenize("a")[0].startswith("▁") and tokenizer.tokenize(f"{IMAGE_TOKEN}a")[-1] == "a"
