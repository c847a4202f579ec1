"""Ask the demonstration checkpoint about clips it never saw: `python -m benchmarks.demo_accuracy --clips 200`.

Every clip takes the whole way of a user's video: written as an H.264 mp4, then read, sampled and resized by the
checkpoint's own processor. With `--shuffle` the sampled frames are put in random order before the model sees them;
what needs their order then has to fall to the "unordered" column of the table.
"""

import argparse
import random
import tempfile
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import llava_next_video  # noqa: F401  (registers the classes)
from demo_model.clips import COLOURS, DIRECTIONS, KINDS, SHAPES, Clip, Question, ask, is_right, kinds_of, write_mp4


# Share of right answers of someone who sees nothing. Of clips with two shapes, half the answers about their order are
# right if the shapes are known.
_COLOURS, _SHAPES, _DIRECTIONS = len(COLOURS), len(SHAPES), len(DIRECTIONS)
_ONE, _PAIRS = 1 / (_COLOURS * _SHAPES), 1 / (_COLOURS * (_COLOURS - 1) * _SHAPES * (_SHAPES - 1))
BLIND = {
    "colour": 1 / _COLOURS,
    "shape": 1 / _SHAPES,
    "direction": 1 / _DIRECTIONS,
    "order": _ONE,
    "moving": (_ONE + 2 * _PAIRS) / 2,
    "describe": (_ONE / _DIRECTIONS + _PAIRS / _DIRECTIONS**2) / 2,
}
# Share of right answers of someone who sees all frames but not their order: the axis of a movement is known, not which
# way along it, and both shapes are known, not which is the first.
UNORDERED = {"colour": 1, "shape": 1, "direction": 1 / 2, "order": 1 / 2, "moving": 1, "describe": (1 / 2 + 1 / 8) / 2}


class Guesser:
    """A checkpoint that answers questions about video files."""

    def __init__(self, checkpoint: str | Path):
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
        self.processor = AutoProcessor.from_pretrained(checkpoint)

    @torch.no_grad()
    def answer(self, path: str | Path, questions: list[str], shuffle: random.Random | None = None) -> list[str]:
        """Answer each question alone, all about the same video; `shuffle` mixes its frames, the same way for all."""
        conversations = [
            [{"role": "user", "content": [{"type": "video", "path": str(path)}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        inputs = self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        if shuffle is not None:
            frames = list(range(inputs["pixel_values_videos"].shape[1]))
            shuffle.shuffle(frames)
            inputs["pixel_values_videos"] = inputs["pixel_values_videos"][:, frames]
        ids = self.model.generate(**inputs, max_new_tokens=40)[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(ids, skip_special_tokens=True)


def measure(guesser: Guesser, clips: int, shuffle: bool, verbose: bool = False) -> dict[str, tuple[int, int]]:
    """Ask about `clips` clips of one shape and as many of two; return right answers and questions per kind."""
    right, asked = Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for seed in range(2 * clips):
            rng = random.Random(seed)
            clip = Clip.from_seed(seed, num_shapes=1 + seed % 2)
            write_mp4(clip, path)
            questions: list[Question] = [ask(clip, kind, rng) for kind in kinds_of(clip)]
            answers = guesser.answer(path, [question.text for question in questions], rng if shuffle else None)
            for question, answer in zip(questions, answers):
                asked[question.kind] += 1
                right[question.kind] += is_right(question, clip, answer)
                if verbose and not is_right(question, clip, answer):
                    print(f"{seed}: {question.text} Expected {question.answer!r}, got {answer!r}.", flush=True)
    return {kind: (right[kind], asked[kind]) for kind in KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("package/demo_checkpoint"))
    parser.add_argument("--clips", type=int, default=200, help="how many clips of one shape, and as many of two")
    parser.add_argument("--shuffle", action="store_true", help="put the frames in random order")
    parser.add_argument("--verbose", action="store_true", help="print the wrong answers")
    args = parser.parse_args()
    results = measure(Guesser(args.checkpoint), args.clips, args.shuffle, args.verbose)
    print(f"{'kind':10} {'right':>9} {'share':>7} {'blind':>7} {'unordered':>10}")
    for kind, (right, asked) in results.items():
        count = f"{right}/{asked}"
        print(f"{kind:10} {count:>9} {right / asked:7.1%} {BLIND[kind]:7.1%} {UNORDERED[kind]:10.1%}")


if __name__ == "__main__":
    main()
