"""How likely each of several texts is as the answer to a question. The prompt runs once for all of them.

Shape letters: P tokens of the prompt, O options, T tokens of the longest option, V vocabulary.
"""

import torch
from torch.nn.functional import cross_entropy, pad
from transformers.utils.chat_template_utils import Chat

from llava_next_video.inference.pipeline_samples import encoder_outputs
from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline
from llava_next_video.modeling.model_outputs import CACHE_NAME


@torch.inference_mode()
def option_losses(
    pipe: VideoTextToTextPipeline, chat: list[dict], options: list[str], processor_kwargs: dict
) -> list[tuple[float, bool]]:
    """For each option, the mean loss (natural logarithm) of its tokens as the assistant's answer, without the end of
    the turn; and whether each token is the likeliest one.

    Raises:
        ValueError: an option has no tokens; also the pipeline's errors about the chat.
    """
    ids = [option_ids(pipe, chat, option) for option in options]
    sample = pipe.preprocess(Chat(chat), processor_kwargs)["samples"]
    for video in sample.videos:
        pipe.encode(video, pipe.memory.times_forgotten)
    prompt = pipe.ensure_tensor_on_device(**sample.inputs)
    first = pipe.model(**prompt, **encoder_outputs(sample.videos), use_cache=True, logits_to_keep=1)
    cache = first[CACHE_NAME]
    cache.batch_repeat_interleave(len(options))
    longest = max(map(len, ids))
    rows = torch.stack([pad(row, (0, longest - len(row))) for row in ids]).to(pipe.device)  # (O, T)
    of_options = torch.arange(longest) < torch.tensor([[len(row)] for row in ids])  # (O, T)
    mask = torch.cat([prompt["attention_mask"].repeat(len(options), 1), of_options.to(pipe.device)], dim=1)  # (O, P+T)
    rest = pipe.model(input_ids=rows, attention_mask=mask.long(), **{CACHE_NAME: cache}, use_cache=True)
    logits = torch.cat([first.logits.repeat(len(options), 1, 1), rest.logits[:, :-1]], dim=1).float()  # (O, T, V)
    return [
        (float(cross_entropy(of_row[: len(row)], row)), bool((of_row[: len(row)].argmax(-1) == row).all()))
        for of_row, row in zip(logits.cpu(), ids)
    ]


def option_ids(pipe: VideoTextToTextPipeline, chat: list[dict], option: str) -> torch.Tensor:
    """Tokens of an option after the prompt's last words, (T,)."""
    tokenizer, prompt = pipe.tokenizer, prompt_without_media(pipe, chat)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt + option, add_special_tokens=False)["input_ids"][len(before) :]
    if not ids:
        raise ValueError(f"The loss of the option {option!r} was asked for, which has no tokens. Leave the task out.")
    return torch.tensor(ids)


def prompt_without_media(pipe: VideoTextToTextPipeline, chat: list[dict]) -> str:
    """A text with the same end as the prompt of a chat."""
    texts = [part for message in chat for part in message["content"] if part["type"] == "text"]
    only_text = [{"role": "user", "content": texts}]
    return pipe.processor.apply_chat_template(only_text, add_generation_prompt=True, tokenize=False)
