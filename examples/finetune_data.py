"""Clips with a colour that the embedded checkpoint does not know, to try `finetune.py` with; run in a checkout.

    python examples/finetune_data.py lesson
    python examples/finetune.py lesson/train.jsonl --eval lesson/new.jsonl lesson/old.jsonl --out tuned

Half of the clips to learn from have a pink shape; the others have none, so that nothing is forgotten. `new.jsonl` asks
about pink shapes in other clips, and `old.jsonl` about what the checkpoint knew before.
"""

import argparse
import json
import random
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))  # `demo_model` is in the checkout, and not installed

from demo_model.clip_writing import write_clip
from demo_model.clips import Clip
from demo_model.questions import Question, ask, kinds_of


COLOUR = "pink"
SHADES = ((225, 110, 160), (255, 120, 190))  # each shape has a random mix, as those of the demonstration
FPS, SHORT_SIDE = 8, 96  # smaller than the demonstration's clips: this is about what they show
FIRST_SEEDS = {"train": 30_000_000, "new": 600_000, "old": 700_000}  # apart from what the checkpoint was trained on


def draw(seed: int, num_shapes: int) -> Clip:
    """A clip of which each question has one right answer: two shapes are seen one after the other, as those that are
    there from the beginning may be named in any order."""
    clip = Clip.from_seed(seed, num_shapes, clear=True)
    return clip if num_shapes == 1 or clip.in_turn else Clip.from_seed(seed, 1, clear=True)


def with_new_colour(clip: Clip, rng: random.Random) -> Clip:
    """The same clip, with one of its shapes in the new colour."""
    mix = rng.random()
    rgb = tuple(round(a + mix * (b - a)) for a, b in zip(*SHADES))
    chosen = rng.randrange(len(clip.movers))
    movers = [replace(m, colour=COLOUR, rgb=rgb) if n == chosen else m for n, m in enumerate(clip.movers)]
    return replace(clip, movers=tuple(movers))


def write_small(clip: Clip, path: Path):
    clip = replace(clip, num_frames=max(8, clip.num_frames * FPS // clip.fps))
    scale = SHORT_SIDE / min(clip.height, clip.width)
    height, width = (2 * round(side * scale / 2) for side in (clip.height, clip.width))
    write_clip(path, clip.render(size=(height, width)), Fraction(FPS), options={"crf": "18"})


def questions_about(clip: Clip, number: int, rng: random.Random) -> list[Question]:
    return [ask(clip, rng.choice(kinds_of(clip)), rng) for _ in range(number)]


def question_about_new_colour(clip: Clip, rng: random.Random) -> Question:
    """One whose answer names the colour."""
    while True:
        [question] = questions_about(clip, 1, rng)
        if COLOUR in question.answer.lower() and COLOUR not in question.text.lower():
            return question


def as_row(clip: str, questions: list[Question]) -> dict:
    messages = []
    for question in questions:
        messages += [{"role": "user", "content": question.text}, {"role": "assistant", "content": question.answer}]
    return {"videos": [clip], "messages": messages}


def write_rows(folder: Path, name: str, number: int, questions: int = 4):
    """Write `number` clips into `folder/name/`, and their rows into `folder/name.jsonl`.

    Rows of "train" hold several questions, and every other clip has the new colour; those of "new" and "old" hold one.
    """
    (folder / name).mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for index in range(number):
            rng = random.Random(FIRST_SEEDS[name] + index)
            clip = draw(FIRST_SEEDS[name] + index, num_shapes=rng.choice((1, 2)))
            if name == "new" or (name == "train" and index % 2 == 0):
                clip = with_new_colour(clip, rng)
            asked = [question_about_new_colour(clip, rng)] if name == "new" else questions_about(clip, 1, rng)
            if name == "train":
                asked = questions_about(clip, questions, rng)
            write_small(clip, folder / name / f"{index}.mp4")
            file.write(json.dumps(as_row(f"{name}/{index}.mp4", asked)) + "\n")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=800, help="to learn from (default: %(default)s)")
    parser.add_argument(
        "--asked", type=int, default=60, help="questions of each kind after that (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    for name, number in (("train", args.clips), ("new", args.asked), ("old", args.asked)):
        write_rows(args.folder, name, number)
        print(f"{args.folder / name}.jsonl: {number} clips")


if __name__ == "__main__":
    main()
