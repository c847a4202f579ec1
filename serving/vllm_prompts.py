"""Prompts in vLLM, which tokenizes the text around videos and their replacements separately.

In most prompts that makes no difference. But a sentence about times ends in a full stop, and Qwen's tokenizer has one
token for a full stop and the newline after it.
"""

from collections.abc import Mapping

from llava_next_video.processing import LlavaNextVideoProcessor


def says_times(processor: LlavaNextVideoProcessor, arguments: Mapping) -> bool:
    """Whether prompts say when frames were taken, by the arguments of a call or else by the checkpoint."""
    given = {**arguments, **arguments.get("videos_kwargs", {})}
    return bool(given.get("time_instruction", processor.video_processor.time_instruction))


def check_says_no_times(processor: LlavaNextVideoProcessor, arguments: Mapping):
    """Raise a ValueError if one request asks for times, for which vLLM would drop the metadata."""
    if says_times(processor, arguments):
        raise ValueError(
            "A request has time_instruction=True, but vLLM keeps the times of videos only where all requests need "
            "them. Start vLLM with --mm-processor-kwargs '{\"time_instruction\": true}'."
        )


def with_first_token(token_ids: list[int], tokenizer) -> list[int]:
    """The ids of a prompt, with the token with which the tokenizer begins every text.

    vLLM leaves that to chat templates. Those of the original, and of the Hub's checkpoints, do not write it.
    """
    begin = tokenizer.encode("")[:1]
    if begin != [tokenizer.bos_token_id] or token_ids[:1] == begin:
        return token_ids
    return [*begin, *token_ids]


def is_followed_by(token_ids: list[int], position: int, ids: list[int]) -> bool:
    """Whether `ids` stand right after `position`."""
    return token_ids[position + 1 : position + 1 + len(ids)] == ids


def ids_joined_with(text: str, replacement: list[int], placeholder: int, tokenizer) -> list[int]:
    """The ids of a replacement with `text` after it.

    Args:
        replacement: placeholders, and ids of the text after them.
        placeholder: id of a placeholder.
    """
    end = len(replacement) - replacement[::-1].index(placeholder)
    said = tokenizer.decode(replacement[end:])
    if tokenizer.encode(said, add_special_tokens=False) != replacement[end:]:
        # SentencePiece tokenizes text after a special token in another way, but does not join newlines either.
        return [*replacement, *tokenizer.encode(text, add_special_tokens=False)]
    return [*replacement[:end], *tokenizer.encode(said + text, add_special_tokens=False)]
