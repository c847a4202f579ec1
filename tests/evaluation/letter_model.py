"""A sibling of the embedded checkpoint that answers multiple-choice questions with a letter, so that a score says
whether everything before it is right: `python -m tests.evaluation.letter_model FOLDER`, in a second.

Nothing is trained. Behind "The star moves", also in the midst of an option, the embedded checkpoint expects the word
of the right answer. It need only be compared with the word that comes, and the letter of the option that agrees best be
said. The sibling is the embedded checkpoint with 40 more channels, which its layers neither read nor write, and three
more layers, put together by hand, which compute in these channels:

1. looks back from each token: one token, for what was expected there, and six, for a letter, as in `B`, `.`, ` `,
   `The`, ` star`, ` moves`, ` left`; and takes from that how much the word that came was expected;
2. keeps this where there was a letter, at the last word of an option;
3. looks from the end of the prompt at the last word that was expected most, and copies its letter.

The products that this takes are those of the layers' SwiGLU: silu(a) * b is nearly a * b where a is large, and 0 where
a is 0.
"""

import copy
import math
import sys
from pathlib import Path

import torch
from torch import nn

from demo_model.clips import COLOURS, DIRECTIONS, SHAPES
from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor
from tests.evaluation.miniature import LETTERS


KINDS = (tuple(DIRECTIONS), tuple(COLOURS), tuple(SHAPES))  # of words that answer
WORDS = [word for kind in KINDS for word in kind]
FROM_LETTER = 6  # tokens from the letter of an option to its last word
# The channels: the word and the letter that the token is; how much each word was expected at the token before; the
# letter six tokens before, and behind the prompt the one to be said; how much the token's word was expected, and how
# much that of an option.
SIZES = (len(WORDS), len(LETTERS), len(WORDS), len(LETTERS), 1, 1)
SMALL = 1e-4  # of what is written into the embeddings: little enough to change no norm


def widened() -> LlavaNextVideoForConditionalGeneration:
    """The embedded checkpoint with more channels and three more layers, which do nothing yet, and an output that says
    nothing."""
    embedded = LlavaNextVideoForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT)
    config = copy.deepcopy(embedded.config)
    text = config.text_config
    text.head_dim = text.hidden_size // text.num_attention_heads
    width = text.hidden_size + sum(SIZES)
    shrink = text.hidden_size / width  # the norms' means of squares become smaller, with so many zeros more
    text.hidden_size, text.rms_norm_eps = width, text.rms_norm_eps * shrink
    text.num_hidden_layers += 3
    text.layer_types = [*text.layer_types, *text.layer_types[-3:]]
    model = LlavaNextVideoForConditionalGeneration(config)
    old = embedded.state_dict()
    for name, parameter in model.named_parameters():
        parameter.zero_()
        if name in old:
            parameter[tuple(slice(size) for size in old[name].shape)] = old[name]
            if "norm" in name and "language_model" in name:
                parameter.mul_(math.sqrt(shrink))
        elif "norm" in name:
            parameter.fill_(1)
    model.lm_head.weight.zero_()
    model.model.language_model.norm.weight.fill_(1)
    model.generation_config = embedded.generation_config
    return model


def look_back(attention: nn.Module, head: int, distance: int):
    """Have a head look at the token so many tokens before, whatever that is: the dot product of a query and a key that
    are constant, but for the rotations of their places, is largest there."""
    size, strength = attention.head_dim, 10.0
    angles = distance * 10_000 ** (-torch.arange(size // 2) / (size // 2))
    shared = head // attention.num_key_value_groups
    attention.q_proj.bias[head * size :][:size] = strength * torch.cat([angles.cos(), -angles.sin()])
    attention.k_proj.bias[shared * size :][: size // 2] = strength


def size_between_layers(model: LlavaNextVideoForConditionalGeneration) -> float:
    """How large the numbers are that the language model's last layer leaves, as a norm measures them; in the median of
    tokens."""
    left = []
    hook = model.model.language_model.layers[-1].register_forward_hook(lambda module, args, output: left.append(output))
    model(input_ids=torch.arange(300)[None])
    hook.remove()
    return left[0].square().mean(-1).sqrt().median().item()


@torch.no_grad()
def write_letter_model(folder: Path):
    """Write a checkpoint that answers with a letter."""
    processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)
    embedded = LlavaNextVideoForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT)
    model = widened()
    large = size_between_layers(embedded) / 4.4  # the numbers below were chosen where it was 4.4
    text, width = model.model.language_model, embedded.config.text_config.hidden_size
    looks_back, keeps, names = text.layers[-3:]
    channels = torch.eye(width + sum(SIZES))[width:].split(SIZES)
    word, letter, expected, letter_before, agreement, agreement_of_option = channels
    vocabulary = processor.tokenizer.get_vocab()
    words, letters = [vocabulary[f"Ġ{name}"] for name in WORDS], [vocabulary[name] for name in LETTERS]
    text.embed_tokens.weight[words] += SMALL * word
    text.embed_tokens.weight[letters] += SMALL * letter

    attention = looks_back.self_attn
    look_back(attention, head=0, distance=1)
    look_back(attention, head=1, distance=FROM_LETTER)  # shares keys and values with head 0
    said = (embedded.lm_head.weight * embedded.model.language_model.norm.weight)[words]
    by_kind = said.split([len(kind) for kind in KINDS])
    more_than_others = torch.cat([rows - rows.mean(0) for rows in by_kind])
    attention.v_proj.weight[: len(WORDS), :width] = more_than_others
    attention.v_proj.weight[len(WORDS) :][: len(LETTERS)] = large * letter / SMALL
    of_first, of_second = attention.o_proj.weight.split(attention.head_dim, dim=1)[:2]
    of_first[:, : len(WORDS)] = large * expected.T
    of_second[:, len(WORDS) :][:, : len(LETTERS)] = 10 * large * letter_before.T
    looks_back.mlp.gate_proj.weight[: len(WORDS)] = 100 * large / SMALL * word
    looks_back.mlp.up_proj.weight[: len(WORDS)] = expected
    looks_back.mlp.down_proj.weight[:, : len(WORDS)] = 0.1 * large * agreement.T

    keeps.mlp.gate_proj.weight[0] = 30 * letter_before.sum(0)
    keeps.mlp.up_proj.weight[0] = agreement[0]
    keeps.mlp.down_proj.weight[:, 0] = 10 * large * agreement_of_option[0]

    attention = names.self_attn
    slowest = attention.head_dim // 2 - 1  # is hardly turned by places
    attention.q_proj.bias[slowest] = 1000
    attention.k_proj.weight[slowest] = agreement_of_option[0]
    attention.v_proj.weight[: len(LETTERS)] = letter_before
    attention.o_proj.weight[:, : len(LETTERS)] = 1000 * large * letter_before.T

    model.lm_head.weight[letters] = letter_before
    model.lm_head.weight[processor.tokenizer.eos_token_id] = 1e6 / SMALL * letter.sum(0)  # an answer is one letter
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    write_letter_model(Path(sys.argv[1]))
