"""Many videos through the pipeline: reading the next ones while the model answers, on and off."""

import time
from functools import partial

from transformers import pipeline

from benchmarks.answers import QUESTIONS, builtin_pipeline, chat, frames_of, tokens
from benchmarks.clips import clip
from benchmarks.comparison import BUILTIN, HERE, Comparison, Setting
from benchmarks.models import model, processor
from llava_next_video import VideoTextToTextPipeline


NUM_VIDEOS = 8
FILE = "60s-720p-keyframes-30"


class Waiting(VideoTextToTextPipeline):
    """Answers after a second for each prompt, in which nothing is computed here: as long as a device would need."""

    seconds = 1.0

    def answer(self, samples, generate_kwargs):
        time.sleep(self.seconds * len(samples))
        for sample in samples:
            sample.sequences = sample.inputs["input_ids"]
            sample.num_prompt_tokens = sample.sequences.shape[1] - 1


def waiting_pipeline(setting: Setting, seconds: float) -> Waiting:
    """Nothing is remembered, so that one file is read for every prompt."""
    parts = {"model": model(HERE, "clip", setting), "processor": processor(HERE, "clip", setting)}
    pipe = pipeline("video-text-to-text", pipeline_class=Waiting, remembered_videos=0, **parts)
    pipe.seconds = seconds / 100 if setting.tiny else seconds
    return pipe


def eight_videos(setting: Setting) -> list[tuple[str, str]]:
    return [(clip(FILE, setting.clips, setting.tiny), QUESTIONS[0])] * NUM_VIDEOS


def waiting(seconds: float, **arguments):
    """Ask about 8 videos, 32 frames each, a model that waits."""

    def prepare(setting: Setting):
        pipe, questions = waiting_pipeline(setting, seconds), eight_videos(setting)
        return lambda: pipe(questions, num_frames=32, **arguments)

    return prepare


def the_longer_alone(setting: Setting):
    """Reading 8 videos, or waiting 8 times, whichever takes longer."""
    ways = [waiting(0.0, read_ahead=0)(setting), partial(time.sleep, NUM_VIDEOS * (0.01 if setting.tiny else 1.0))]
    return max(ways, key=seconds_of_one_run)


def seconds_of_one_run(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def answering(**arguments):
    """Ask the real model about 8 videos."""

    def prepare(setting: Setting):
        parts = {"model": model(HERE, "clip", setting), "processor": processor(HERE, "clip", setting)}
        pipe = pipeline("video-text-to-text", remembered_videos=0, **parts)
        questions = eight_videos(setting)
        return lambda: pipe(questions, num_frames=setting.num_frames, generate_kwargs=tokens(8), **arguments)

    return prepare


def answering_builtin(setting: Setting):
    pipe, questions = builtin_pipeline(setting), eight_videos(setting)

    def ask():
        chats = [chat(frames_of(path, setting.num_frames), question) for path, question in questions]
        return pipe(text=chats, generate_kwargs=tokens(8))

    return ask


WITHOUT = "here, without reading ahead"
COMPARISONS = [
    Comparison(
        "waiting_model",
        "8 videos of 60 s of 720p, 32 frames each, a model that waits 1 s for each",
        {
            HERE: waiting(1.0),
            "reading or waiting alone, whichever takes longer": the_longer_alone,
            WITHOUT: waiting(1.0, read_ahead=0),
        },
        least={"reading or waiting alone, whichever takes longer": 1 / 1.25},
    ),
]
# Takes half an hour on two cores, so it is not among all that are run there.
ON_A_DEVICE = [
    Comparison(
        "eight_videos",
        "8 videos of 60 s of 720p, {setting.num_frames} frames each, 8 tokens, CLIP-L and 0.5B",
        {HERE: answering(), WITHOUT: answering(read_ahead=0), BUILTIN: answering_builtin},
        rounds=3,
    ),
]
