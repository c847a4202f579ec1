"""120 questions about 40 videos through lmms-eval: this package's model for it, and a pipeline asked one by one.

    .venv-lmms-eval/bin/python -m benchmarks.lmms_eval_speed           # an environment with lmms-eval, see .ci/engines
    .venv-lmms-eval/bin/python -m benchmarks.lmms_eval_speed --tiny    # does everything run? numbers without meaning

lmms-eval's own model `huggingface` (0.7.3) cannot run LLaVA-NeXT-Video, this package's or the built-in: it loads it as
an `AutoModel`, which generates nothing. So the other side is a pipeline of the same checkpoint that remembers nothing,
on the same frames, in the order of the data. Questions are those of Video-MME in the miniature, three about each video.

The model has the shape of CLIP-L/14-336 and Qwen2-0.5B and random weights; it looks at 2 frames and answers with 2
tokens, as many as a letter and the end of a turn are. Prints a row of a table for each side.
"""

import argparse
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


NUM_VIDEOS, NUM_TOKENS = 40, 2
TASK = "july2024_videomme"


def write_checkpoint(folder: Path, tiny: bool):
    from benchmarks.comparison import HERE, Setting
    from benchmarks.models import model, processor

    setting = Setting(tiny, clips=folder, num_frames=2)
    own, own_processor = model(HERE, "clip", setting), processor(HERE, "clip", setting)
    own_processor.video_processor.num_frames = setting.num_frames
    own.get_input_embeddings().weight.data[len(own_processor.tokenizer) :] = 0  # says only what can be written
    own.save_pretrained(folder)
    own_processor.save_pretrained(folder)


def sides(checkpoint: Path) -> dict:
    """Makes a model for lmms-eval, which notes in `seconds` how long it answered, of each side."""
    from lmms_eval.api.model import lmms

    from llava_next_video.evaluation.lmms_eval_model import LlavaNextVideoForLmmsEval
    from llava_next_video.evaluation.lmms_eval_requests import questions_of
    from llava_next_video.evaluation.loading import load_pipeline
    from llava_next_video.evaluation.questions import as_chat

    class Here(LlavaNextVideoForLmmsEval):
        def generate_until(self, requests: list) -> list[str]:
            start = time.perf_counter()
            answers = super().generate_until(requests)
            self.seconds = time.perf_counter() - start
            return answers

    class OneByOne(lmms):
        is_simple = True

        def __init__(self, pretrained: str):
            super().__init__()
            self.pipe = load_pipeline(pretrained)
            self.pipe.memory.max_videos = 0

        @property
        def device(self):
            return self.pipe.device

        def generate_until(self, requests: list) -> list[str]:
            start, answers = time.perf_counter(), []
            for question in questions_of(requests, self.task_dict):
                [record] = self.pipe(as_chat(question), return_full_text=False, **question.arguments)
                answers.append(record["generated_text"])
            self.seconds = time.perf_counter() - start
            return answers

        def loglikelihood(self, requests):
            raise NotImplementedError  # lmms-eval demands the method; the task asks for none of these

        def generate_until_multi_round(self, requests):
            raise NotImplementedError  # likewise

    return {
        "one by one, nothing remembered": lambda: OneByOne(str(checkpoint)),
        "`llava_next_video`": lambda: Here(str(checkpoint)),
        "`llava_next_video`, batches of 3": lambda: Here(str(checkpoint), batch_size=3),
    }


def measure(make_model, num_videos: int) -> tuple[float, list[str]]:
    """Seconds that all questions took, and the answers."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    import llava_next_video.evaluation as room

    model = make_model()
    manager = TaskManager("WARNING", include_path=room.__path__[0], include_defaults=False)
    results = simple_evaluate(
        model=model,
        tasks=[TASK],
        task_manager=manager,
        bootstrap_iters=0,
        gen_kwargs=f"max_new_tokens={NUM_TOKENS},min_new_tokens={NUM_TOKENS}",
        cli_args=argparse.Namespace(output_path=None, process_with_media=False, reasoning_tags=None),
        distributed_executor_backend="torchrun",
    )
    samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
    assert len(samples) == 3 * num_videos
    return model.seconds, [sample["filtered_resps"] for sample in samples]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--videos", type=int, default=NUM_VIDEOS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}  # read when lmms-eval is imported
        from tests.evaluation.miniature import write_miniature

        write_miniature(folder / "home", range(arguments.videos))
        write_checkpoint(folder / "checkpoint", arguments.tiny)
        measured = {}
        for side, make_model in sides(folder / "checkpoint").items():
            measured[side] = measure(make_model, arguments.videos)
            print(f"{side}: {measured[side][0]:.1f} s", flush=True)
    report(measured)


def report(measured: dict[str, tuple[float, list[str]]]):
    (slowest, expected), *_ = measured.values()
    versions = ", ".join(f"{name} {version(name)}" for name in ("lmms-eval", "transformers", "torch"))
    print(f"\n{versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {len(expected)} questions\n")
    print("| | seconds | questions a second | one by one = 1 | other answers |\n|---|---|---|---|---|")
    for side, (seconds, answers) in measured.items():
        others = sum(answer != right for answer, right in zip(answers, expected))
        rate = len(answers) / seconds
        print(f"| {side} | {seconds:.1f} | {rate:.2f} | {slowest / seconds:.2f} | {others} |")


if __name__ == "__main__":
    main()
