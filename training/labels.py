"""Which tokens are learned, and rows of tokens as a batch. Shape letters: B rows, L tokens."""

import torch


IGNORED = -100  # label of what is not learned


def learned_tokens(spans: list[tuple[int, int]], replacements: list[dict], token_offsets: torch.Tensor) -> torch.Tensor:
    """Which tokens of a prompt are in spans of its text, (L,) bool.

    A token that begins before a span does not count, for example two line ends as one token: it begins before the
    assistant does.

    Args:
        spans: (start, end) in characters of the prompt before placeholders were replaced.
        replacements: the processor's `text_replacement_offsets` for the prompt.
        token_offsets (`torch.Tensor` of shape (L, 2)): begin and end of each token, in characters of the prompt after
            placeholders were replaced; they are equal for tokens without text, such as padding.
    """
    begins, ends = token_offsets.T  # each (L,)
    inside = torch.zeros(len(begins), dtype=torch.bool)
    for span in spans:
        start, end = (position + characters_gained(position, replacements) for position in span)
        inside |= (begins >= start) & (begins < end) & (ends > begins)
    return inside


def characters_gained(position: int, replacements: list[dict]) -> int:
    """How many characters were added where placeholders before a position were replaced."""
    before = [each for each in replacements if each["span"][1] <= position]
    return before[-1]["new_span"][1] - before[-1]["span"][1] if before else 0


def padded(rows: list[torch.Tensor], value: int, side: str, width: int) -> torch.Tensor:
    """Rows of at most `width` tokens as one tensor (B, width), padded with a value on one side."""
    batch = torch.full((len(rows), width), value)
    for number, row in enumerate(rows):
        where = slice(len(row)) if side == "right" else slice(width - len(row), width)
        batch[number, where] = row
    return batch
