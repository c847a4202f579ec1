"""From a file and a question to an answer, and asking again.

The built-in reads no files with PyAV by itself; its frames come from transformers' `load_video`. Where it is asked
again it keeps them, as a careful user would, and encodes them again, as it has to.
"""

from dataclasses import replace
from itertools import count

import numpy as np
from transformers import pipeline
from transformers.video_utils import load_video

from benchmarks.clips import clip
from benchmarks.comparison import BUILTIN, HERE, Comparison, Setting
from benchmarks.models import model, processor


QUESTIONS = [
    "What happens in the video?",
    "Who is in the video?",
    "Where was it filmed?",
    "What changes over time?",
    "Which colours are there?",
    "What is in front?",
    "How does it begin?",
    "How does it end?",
]
FILE = "60s-720p-keyframes-30"


def chat(video, question: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": question}]}]


def frames_of(path: str, number: int) -> np.ndarray:
    return load_video(path, num_frames=number, backend="pyav")[0]


def answer_here(setting: Setting):
    own, own_processor = model(HERE, "clip", setting), processor(HERE, "clip", setting)
    path = clip(FILE, setting.clips, setting.tiny)

    def answer():
        inputs = own_processor.apply_chat_template(
            chat(path, QUESTIONS[0]),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"num_frames": setting.num_frames},
        )
        return own.generate(**inputs.to(own.device, own.dtype), **tokens(8))

    return answer


def answer_builtin(setting: Setting):
    builtin, builtin_processor = model(BUILTIN, "clip", setting), processor(BUILTIN, "clip", setting)
    path = clip(FILE, setting.clips, setting.tiny)

    def answer():
        frames = frames_of(path, setting.num_frames)
        prompt = builtin_processor.apply_chat_template(chat(path, QUESTIONS[0]), add_generation_prompt=True)
        inputs = builtin_processor(text=prompt, videos=[frames], return_tensors="pt")
        return builtin.generate(**inputs.to(builtin.device, builtin.dtype), **tokens(8))

    return answer


def tokens(number: int) -> dict:
    """Arguments of `generate` for exactly that many tokens."""
    return {"max_new_tokens": number, "min_new_tokens": number, "do_sample": False}


def decoding(side: str):
    """Steps of a tiny model, whose time is almost all spent in Python."""

    def prepare(setting: Setting):
        setting = replace(setting, tiny=True)
        whole, of_side = model(side, "clip", setting), processor(side, "clip", setting)
        frames = np.zeros((2, 40, 60, 3), dtype=np.uint8)
        inputs = of_side(text=f"{of_side.video_token}\nWhat happens?", videos=[frames], return_tensors="pt")
        inputs = inputs.to(whole.device, whole.dtype)
        return lambda: whole.generate(**inputs, **tokens(200))

    return prepare


def our_pipeline(setting: Setting):
    parts = {"model": model(HERE, "clip", setting), "processor": processor(HERE, "clip", setting)}
    return pipeline("video-text-to-text", remembered_videos=8, **parts)


def builtin_pipeline(setting: Setting):
    parts = {"model": model(BUILTIN, "clip", setting), "processor": processor(BUILTIN, "clip", setting)}
    return pipeline("any-to-any", **parts)


def again_here(setting: Setting):
    pipe, path = our_pipeline(setting), clip(FILE, setting.clips, setting.tiny)
    numbers = count()

    def ask():
        question = f"{next(numbers)}: {QUESTIONS[1]}"  # never the same one twice
        return pipe(path, question, num_frames=setting.num_frames, generate_kwargs=tokens(1))

    ask()
    return ask


def again_builtin(setting: Setting):
    pipe = builtin_pipeline(setting)
    frames = frames_of(clip(FILE, setting.clips, setting.tiny), setting.num_frames)
    numbers = count()
    return lambda: pipe(text=chat(frames, f"{next(numbers)}: {QUESTIONS[1]}"), generate_kwargs=tokens(1))


def many_here(setting: Setting):
    """Every call asks all questions about the next of 8 videos, as one batch."""
    pipe, numbers = our_pipeline(setting), count()

    def ask():
        path = clip(f"question-{next(numbers) % 8}", setting.clips, setting.tiny)
        arguments = {"num_frames": setting.num_frames, "generate_kwargs": tokens(8)}
        return pipe(path, QUESTIONS, batch_size=len(QUESTIONS), **arguments)

    return ask


def many_builtin(setting: Setting):
    pipe, numbers = builtin_pipeline(setting), count()

    def ask():
        frames = frames_of(clip(f"question-{next(numbers) % 8}", setting.clips, setting.tiny), setting.num_frames)
        chats = [chat(frames, question) for question in QUESTIONS]
        return pipe(text=chats, batch_size=len(QUESTIONS), generate_kwargs=tokens(8))

    return ask


COMPARISONS = [
    Comparison(
        "first_question",
        "whole answer of 8 tokens, {setting.num_frames} frames of 60 s of 720p, CLIP-L and 0.5B",
        {HERE: answer_here, BUILTIN: answer_builtin},
        least={BUILTIN: 1},
    ),
    Comparison(
        "decoding",
        "200 tokens of a tiny model: what a step costs besides its arithmetic",
        {side: decoding(side) for side in (HERE, BUILTIN)},
        rounds=9,
    ),
    Comparison(
        "second_question",
        "first token of another question about the same video, {setting.num_frames} frames, CLIP-L and 0.5B",
        {HERE: again_here, BUILTIN: again_builtin},
        least={BUILTIN: 10},
    ),
    Comparison(
        "eight_questions",
        "8 questions about each of 8 videos, a batch for each, {setting.num_frames} frames, 8 tokens, in pipelines",
        {HERE: many_here, BUILTIN: many_builtin},
        least={BUILTIN: 4},
        rounds=8,  # one for each video
    ),
]
