"""Random calls of one long-lived pipeline, each compared with a fresh pipeline that never remembered anything.

`python -m tests.inference.fresh_or_remembered --steps 500 --seed 1` runs every kind of language model and prints
how many calls were compared, how many of them used something that was remembered, and which answers differed. The tests
run a slice of it.
"""

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from transformers import GenerationConfig, TextStreamer

import llava_next_video
from llava_next_video import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration, VideoTextToTextPipeline
from tests.tiny import TEXT, config_arguments, enliven, make_processor, random_frames, write_video


DEMO = "demo"
# With plain caches, with windows, with windows in every other layer, and with layers that keep a state.
LANGUAGE_MODELS = {
    "llama": {"model_type": "llama"},
    "qwen2": {"model_type": "qwen2"},
    "mistral with a window": {"model_type": "mistral", "sliding_window": 40},
    "gemma2": {"model_type": "gemma2", "head_dim": 8, "sliding_window": 24, "query_pre_attn_scalar": 8},
    "lfm2": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    DEMO: {},
}
QUESTIONS = ["What?", "Who is it?", "Where does it go to?", "What shape is in the video?"]
OF_PIPELINE = [
    {},
    {},
    {},
    {"num_beams": 3},
    {"repetition_penalty": 1.4},
    {"use_cache": False},
    {"prompt_lookup_num_tokens": 2},
    {"num_frames": 3},
    {"generation_config": GenerationConfig(max_new_tokens=4, no_repeat_ngram_size=2)},
]
OF_CALL = [
    {},
    {},
    {},
    {},
    {"num_beams": 1},
    {"num_beams": 2},
    {"num_beams": 2, "num_return_sequences": 2},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"do_sample": True, "temperature": 3.0},
    {"use_cache": False},
    {"cache_implementation": "static"},
    {"prompt_lookup_num_tokens": 3},
    {"max_new_tokens": 2},
    {"min_new_tokens": 5},
    {"generation_config": GenerationConfig(max_new_tokens=3)},
    {"generation_config": GenerationConfig(max_new_tokens=3, num_beams=2)},
    {"num_frames": 2},
    {"fps": 2},
    {"stop_strings": ["e"]},
    {"bad_words_ids": [[5], [7, 9]]},
    {"processor_kwargs": {"padding": "max_length", "max_length": 400}},
]


def make_checkpoint(name: str):
    """Model and processor of one kind, random but for the demonstration checkpoint."""
    if name == DEMO:
        source = llava_next_video.DEMO_CHECKPOINT
        model = LlavaNextVideoForConditionalGeneration.from_pretrained(source)
        return model.eval(), llava_next_video.LlavaNextVideoProcessor.from_pretrained(source)
    torch.manual_seed(0)
    arguments = config_arguments(tower="siglip", video_newline_position="grid")
    arguments["text_config"] = {**TEXT, **LANGUAGE_MODELS[name]}
    config = LlavaNextVideoConfig(**arguments)
    model = enliven(LlavaNextVideoForConditionalGeneration(config).eval())
    model.generation_config = GenerationConfig(max_new_tokens=6, pad_token_id=256, eos_token_id=257)
    return model, make_processor(config)


def add_adapter(model, name: str, seed: int):
    """Put a random LoRA adapter into a model and switch it on. (`model.add_adapter` of transformers 5.24 asks for
    PEFT 0.22, which is not released yet.)"""
    torch.manual_seed(seed)
    config = LoraConfig(target_modules=["linear_2", "q_proj"], init_lora_weights=False)
    inject_adapter_in_model(config, model, adapter_name=name)
    switch_adapter(model, name)


def switch_adapter(model, name: str | None):
    """Switch to one adapter, or all off."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(name is not None)
            if name is not None:
                module.set_adapter(name)


class InTheMiddle(TextStreamer):
    """Stops an answer at its second token."""

    def put(self, value):
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen > 2:
            raise KeyboardInterrupt


class Comparison:
    """One long-lived pipeline and what happens to it."""

    def __init__(self, name: str, folder: Path, seed: int):
        self.random = random.Random(seed)
        self.folder = folder
        self.model, self.processor = make_checkpoint(name)
        self.clips = [folder / f"{number}.mp4" for number in range(3)]
        for clip in self.clips:
            self.rewrite(clip)
        self.arrays = [random_frames(number, seed=number) for number in (2, 4)]
        self.chat: list[dict] = []
        self.adapters: list[str] = []
        self.counts, self.errors = Counter(), Counter()
        self.differences: list[str] = []
        self.begin()

    def rewrite(self, clip: Path):
        write_video(clip, num_frames=self.random.choice([3, 5, 8]), fps=4)

    def begin(self):
        self.of_pipeline = dict(self.random.choice(OF_PIPELINE))
        self.pipe = self.make_pipeline()
        self.chat = []
        memory = self.pipe.memory
        memory.find = self.counting(memory.find, "videos remembered")
        memory.take_conversation = self.counting(memory.take_conversation, "conversations taken up")

    def counting(self, find, name: str):
        def find_and_count(*args):
            found = find(*args)
            self.counts[name] += found is not None
            return found

        return find_and_count

    def make_pipeline(self) -> VideoTextToTextPipeline:
        return transformers.pipeline(
            "video-text-to-text", model=self.model, processor=self.processor, device="cpu", **self.of_pipeline
        )

    def step(self):
        action = self.random.choices([self.ask, self.change, self.fail, self.begin], weights=[70, 16, 8, 2])[0]
        action()

    # What is asked.

    def video(self):
        kind = self.random.randrange(6)
        if kind < 3:
            return str(self.random.choice(self.clips))
        if kind == 3:
            return self.random.choice(self.arrays)
        if kind == 4:
            return self.random.choice(self.clips).read_bytes()
        return [Image.fromarray(frame) for frame in self.arrays[0]]

    def message(self, *videos, images: int = 0) -> dict:
        media = [{"type": "video", "video": video} for video in videos]
        media += [{"type": "image", "image": Image.fromarray(self.arrays[1][0])}] * images
        return {"role": "user", "content": [*media, {"type": "text", "text": self.random.choice(QUESTIONS)}]}

    def inputs(self) -> tuple[tuple, dict]:
        """Arguments of a call."""
        self.continues_chat = False
        video, question = self.video(), self.random.choice(QUESTIONS)
        batch = {"batch_size": self.random.choice([1, 2, 3])}
        match self.random.randrange(10):
            case 0 | 1 | 2:
                return (video, question), {}
            case 3 | 4:
                return (video, self.random.choices(QUESTIONS, k=3)), batch
            case 5:
                pairs = [(self.video(), q) for q in self.random.choices(QUESTIONS, k=3)]
                return (pairs,), batch
            case 6:
                return (video, f"<video>{question}"), {"return_full_text": False}
            case 7:
                return ([self.message(video, self.video(), images=self.random.randrange(2))],), {}
            case 8:
                return (None, question), {}
            case _:
                self.chat = self.chat[:4] or [self.message(video)]
                if self.chat[-1]["role"] == "assistant":
                    self.chat.append(self.message())
                self.continues_chat = True
                return (list(self.chat),), {}

    def ask(self):
        arguments, keywords = self.inputs()
        keywords = {**keywords, **self.random.choice(OF_CALL)}
        seed = self.random.randrange(100)
        answers = []
        for pipe in (self.pipe, self.make_pipeline()):
            torch.manual_seed(seed)
            answers.append(outcome(pipe, arguments, keywords))
        self.counts["compared"] += 1
        if answers[0] != answers[1]:
            self.differences.append(f"{self.of_pipeline} {arguments!r:.300} {keywords}: {answers[0]} != {answers[1]}")
        elif isinstance(answers[1], str):
            self.errors[answers[1][:80]] += 1
        elif self.continues_chat:
            self.chat = answers[0][0]["generated_text"]

    # What happens in between.

    def change(self):
        getattr(self, self.random.choice([name for name in dir(self) if name.startswith("change_")]))()

    def change_file(self):
        self.rewrite(self.random.choice(self.clips))

    def change_array(self):
        self.random.choice(self.arrays)[0, :8] ^= 255

    def change_number_of_frames(self):
        self.processor.video_processor.num_frames = self.random.choice([2, 4, 32])

    def change_sampling(self):
        self.processor.video_processor.frame_sampling = self.random.choice(["uniform", "legacy", "uniform_repeated"])

    def change_times_in_prompts(self):
        self.processor.video_processor.time_instruction = self.random.random() < 0.2  # arrays have no times: an error

    def change_weights(self):
        weight = self.model.model.multi_modal_projector.linear_1.weight
        scale = self.random.choice([-1.0, 0.5, 2.0])
        if self.random.random() < 0.5:
            with torch.no_grad():
                weight.mul_(scale)
        else:
            weight.data.mul_(scale)

    def change_adapter(self):
        names = self.adapters
        if len(names) < 2:
            names.append(f"a{len(names)}")
            add_adapter(self.model, names[-1], seed=len(names))
        elif self.random.random() < 0.3:
            switch_adapter(self.model, None)
        else:
            switch_adapter(self.model, self.random.choice(names))

    def change_newlines(self):
        with torch.no_grad():
            self.model.model.image_newline.neg_()

    def change_dtype(self):
        self.model.to(self.random.choice([torch.float32, torch.bfloat16]))

    def change_memory(self):
        self.pipe.forget()

    # What goes wrong.

    def fail(self):
        broken = self.folder / "broken.mp4"
        broken.write_bytes(b"no video")
        video = self.random.choice(self.clips)
        if self.random.random() < 0.5:
            assert isinstance(outcome(self.pipe, (str(broken), "What?"), {}), str)
        else:
            streamer = InTheMiddle(self.pipe.tokenizer)
            with interrupted():
                self.pipe(str(video), self.random.choice(QUESTIONS), streamer=streamer, num_beams=1)


@contextmanager
def interrupted() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, ValueError):  # a ValueError where this pipeline's way of generating has no streams
        return


def outcome(pipe, arguments: tuple, keywords: dict):
    """What a call returns, or the name of its error."""
    try:
        return plain(pipe(*arguments, **keywords))
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"


def plain(results):
    """Without what was passed, which may be arrays."""
    if isinstance(results, dict):
        return {name: value for name, value in results.items() if name != "input_text"}
    return [plain(result) for result in results]


def compare(name: str, steps: int, seed: int = 0) -> Comparison:
    transformers.logging.set_verbosity_error()
    folder = Path(tempfile.mkdtemp())
    try:
        comparison = Comparison(name, folder, seed)
        for _ in range(steps):
            comparison.step()
        return comparison
    finally:
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=LANGUAGE_MODELS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(all="raise")
    for name in [args.only] if args.only else LANGUAGE_MODELS:
        comparison = compare(name, args.steps, args.seed)
        print(f"{name}: {dict(comparison.counts)}, {len(comparison.differences)} differ", flush=True)
        print("    errors:", dict(comparison.errors))
        for difference in comparison.differences[:5]:
            print("   ", difference, flush=True)


if __name__ == "__main__":
    main()
