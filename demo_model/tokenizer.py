"""The tokenizer of the demonstration model: Qwen2's byte-level BPE, grown on nothing but questions about clips.

Words of the questions and answers are one entry each; any other text falls apart into shorter pieces, at worst bytes.
"""

import random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .clips import Clip
from .questions import ask, kinds_of


PAD, START, END, IMAGE, VIDEO = SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
SYSTEM_PROMPT = "You are a helpful assistant."
# How Qwen2 cuts text into words before merging bytes.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def prompt_before(visual_tokens: str) -> str:
    """Return the prompt (template qwen_1_5) up to the last visual token; every conversation about a clip begins so."""
    return f"{START}system\n{SYSTEM_PROMPT}{END}\n{START}user\n{visual_tokens}"


def turn(question: str, answer: str, first: bool = True) -> tuple[str, str]:
    """Return one turn of the conversation, cut where the model begins to speak."""
    opening = "" if first else f"\n{START}user"
    return f"{opening}\n{question}{END}\n{START}assistant\n", f"{answer}{END}"


def grow_tokenizer(vocab_size: int = 640, num_clips: int = 5_000) -> Tokenizer:
    """Learn the entries from the conversations about `num_clips` clips, and leave room for the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(num_clips), trainer)
    return tokenizer


def build_tokenizer(grown: Tokenizer) -> PreTrainedTokenizerFast:
    """Make of it what transformers loads; special tokens are the last entries."""
    return PreTrainedTokenizerFast(
        tokenizer_object=grown,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START, IMAGE, VIDEO],
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _corpus(num_clips: int):
    rng = random.Random(0)
    for seed in range(num_clips):
        clip = Clip.from_seed(seed)
        for kind in kinds_of(clip):
            question = ask(clip, kind, rng)
            yield f"system\n{SYSTEM_PROMPT}\nuser\n{question.text}\nassistant\n{question.answer}"
