"""Ask the demonstration checkpoint about clips it never saw: `python -m benchmarks.demo_accuracy --clips 200`.

The clips are drawn by three programs: the one that the checkpoint has learned from, another, which shares no code with
it (`tests/stranger_clips.py`), and one that draws no shapes at all (`tests/empty_clips.py`). Every clip takes the whole
way of a user's video: written as a file, then read, sampled and resized by the checkpoint's own processor. Clips in
which nothing moves are also asked about as a video of one frame, and as a picture. With `--shuffle` the frames are put
in random order before the model sees them: of clips like those it has learned from, half the directions and orders can
then be right. The last lines say how many would be with one answer to all questions of a kind.
"""

import argparse
import itertools
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import llava_next_video  # noqa: F401  (registers the classes)
from demo_model.clips import Clip, write_mp4
from demo_model.questions import REFUSAL, ask, is_right, kinds_of
from tests import empty_clips
from tests.stranger_clips import StrangerClip


REFUSED = ("absent", "outside")  # kinds of question that should be
SEEN_AS = ("video", "one frame", "picture")


@dataclass(frozen=True)
class Asked:
    """A clip in one form, and questions about it: kind, text, whether an answer is right.

    Args:
        content: of a message, without the file.
        write: writes the file, into a path without an ending, and returns its name.
        cells: where in the tables its answers are counted, beside their kind.
    """

    content: str
    write: Callable[[Path], Path]
    questions: list[tuple[str, str, Callable[[str], bool]]]
    cells: dict[str, str]


@dataclass(frozen=True)
class Answer:
    kind: str
    cells: dict[str, str]
    text: str
    is_right: Callable[[str], bool]

    @property
    def right(self) -> bool:
        return self.is_right(self.text)

    @property
    def refused(self) -> bool:
        return self.text == REFUSAL


class Guesser:
    """A checkpoint that answers questions about files."""

    def __init__(self, checkpoint: str | Path):
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
        self.processor = AutoProcessor.from_pretrained(checkpoint)

    @torch.no_grad()
    def answer(
        self, path: str | Path, questions: list[str], shuffle: random.Random | None = None, content: str = "video"
    ) -> list[str]:
        """Answer each question alone, all about the same file; `shuffle` mixes its frames, the same way for all."""
        conversations = [
            [{"role": "user", "content": [{"type": content, "path": str(path)}, {"type": "text", "text": question}]}]
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


def learned(seed: int, clear: bool = False) -> Asked:
    """A clip like those that the checkpoint has learned from, or a `clear` one of them; one or two shapes in turn, and
    now and then a still."""
    rng = random.Random(seed)
    clip = Clip.from_seed(seed, num_shapes=1 + seed % 2, moves=seed % 8 < 6, clear=clear)
    seen_as = "video" if clip.moves else SEEN_AS[seed // 8 % 3]
    if seen_as != "video":
        clip = replace(clip, num_frames=1)
    questions = [ask(clip, kind, rng) for kind in kinds_of(clip)]
    kinds = {
        "photo-like": clip.photo is not None,
        "noisy": clip.noise,
        "graded": any(map(any, clip.gradient)),
        "plain": True,
    }
    looks = next(name for name, is_so in kinds.items() if is_so)
    has_outline, is_soft = any(m.stroke for m in clip.movers), any(m.blur for m in clip.movers)
    return Asked(
        content="image" if seen_as == "picture" else "video",
        write=partial(write_picture if seen_as == "picture" else write_learned, clip),
        questions=[(q.kind, q.text, partial(is_right, q, clip)) for q in questions],
        cells=cells_of(clip, min(2 * m.radius for m in clip.movers), looks, has_outline, is_soft, seen_as),
    )


def strange(seed: int) -> Asked:
    """A clip of the other program."""
    clip = StrangerClip.from_seed(seed, shape_count=1 + seed % 2, still=seed % 8 >= 6)
    seen_as = SEEN_AS[seed // 8 % 3] if clip.still else "video"
    if seen_as != "video":
        clip = replace(clip, frame_count=1)
    looks = "photo-like" if clip.background == "photo" else clip.background
    has_outline, is_soft = clip.style == "outline", clip.edge == "blurred"
    return Asked(
        content="image" if seen_as == "picture" else "video",
        write=partial(write_picture if seen_as == "picture" else write_strange, clip),
        questions=[(q.kind, q.text, q.is_right) for q in clip.questions],
        cells=cells_of(clip, min(s.diameter for s in clip.shapes), looks, has_outline, is_soft, seen_as),
    )


def empty(seed: int) -> Asked:
    """A busy video without any shape: whatever is asked should be refused."""
    return Asked(
        content="video",
        write=partial(write_empty, seed),
        questions=[("absent", text, REFUSAL.__eq__) for text in empty_clips.QUESTIONS],
        cells={
            "background": empty_clips.KINDS[seed % len(empty_clips.KINDS)],
            "seen as": "video" if seed % 2 else "a video of a still",
        },
    )


def cells_of(clip, diameter: float, background: str, has_outline: bool, is_soft: bool, seen_as: str) -> dict[str, str]:
    aspects = {"9:16": 9 / 16, "3:4": 3 / 4, "1:1": 1, "4:3": 4 / 3, "16:9": 16 / 9, "21:9": 21 / 9}
    sizes = {"below 20 %": 0.2, "20 to 35 %": 0.35, "above 35 %": 1.0}
    return {
        "aspect ratio": min(aspects, key=lambda name: abs(aspects[name] - clip.width / clip.height)),
        "smallest shape": next(name for name, limit in sizes.items() if diameter < limit),
        "background": background,
        "drawn as": f"{'outline' if has_outline else 'filled'}, {'blurred' if is_soft else 'sharp'}",
        "seen as": seen_as if seen_as != "video" else "a video of a still" if is_still(clip) else "video",
    }


def is_still(clip: Clip | StrangerClip) -> bool:
    return clip.still if isinstance(clip, StrangerClip) else not clip.moves


def write_learned(clip: Clip, path: Path) -> Path:
    write_mp4(clip, path := path.with_suffix(".mp4"))
    return path


def write_strange(clip: StrangerClip, path: Path) -> Path:
    clip.write(path := path.with_suffix(clip.suffix))
    return path


def write_empty(seed: int, path: Path) -> Path:
    empty_clips.write(seed, path := path.with_suffix(".mp4"))
    return path


def write_picture(clip: Clip | StrangerClip, path: Path) -> Path:
    [frame] = clip.one_frame() if isinstance(clip, StrangerClip) else clip.render([0])
    Image.fromarray(frame).save(path := path.with_suffix(".png"))
    return path


def answers(
    guesser: Guesser, asked: Asked, rng: random.Random | None = None, verbose: bool = False
) -> Iterator[Answer]:
    """Ask all about one clip; `rng` mixes its frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = asked.write(Path(folder) / "clip")
        said = guesser.answer(path, [text for _, text, _ in asked.questions], rng, asked.content)
    for (kind, text, judge), answer in zip(asked.questions, said):
        if verbose and not judge(answer):
            print(f"{kind}: {text} {answer} {', '.join(asked.cells.values())}", flush=True)
        yield Answer(kind, asked.cells, answer, judge)


def shares(found: list[Answer]) -> dict[str, dict[str, tuple[int, int]]]:
    """Right answers and all, by kind of question and in each of the cells."""
    tables = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for answer in found:
        for table, cell in {"question": answer.kind, **answer.cells}.items():
            tables[table][cell][0] += answer.right
            tables[table][cell][1] += 1
    return {table: {cell: tuple(counts) for cell, counts in cells.items()} for table, cells in tables.items()}


def blind_shares(found: list[Answer]) -> dict[str, float]:
    """For each kind of question, how many would be right with the same answer to all of them: the best that was given
    to one, which is what can be known of a clip that is not seen."""
    of_kinds = defaultdict(list)
    for answer in found:
        of_kinds[answer.kind].append(answer)
    return {
        kind: max(sum(a.is_right(text) for a in answers) for text in {a.text for a in answers}) / len(answers)
        for kind, answers in of_kinds.items()
    }


PROGRAMS = {"as learned": learned, "by a stranger": strange, "without shapes": empty}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("package/demo_checkpoint"))
    parser.add_argument("--clips", type=int, default=200, help="of each of the three programs")
    parser.add_argument("--shuffle", action="store_true", help="put the frames of videos in random order")
    parser.add_argument("--verbose", action="store_true", help="print the wrong answers")
    args = parser.parse_args()
    guesser, found = Guesser(args.checkpoint), {name: [] for name in PROGRAMS}
    for seed, (name, draw) in itertools.product(range(args.clips), PROGRAMS.items()):
        asked = draw(seed)
        is_mixed = args.shuffle and asked.cells["seen as"] == "video"
        found[name] += answers(guesser, asked, random.Random(seed) if is_mixed else None, args.verbose)
    tables = {name: shares(of_name) for name, of_name in found.items()}
    for table in tables["as learned"]:
        print(f"\n{table:20}" + "".join(f"{name:>19}" for name in tables))
        for cell in dict.fromkeys(cell for of_name in tables.values() for cell in of_name.get(table, ())):
            counts = (of_name.get(table, {}).get(cell, (0, 0)) for of_name in tables.values())
            shown = (f"{f'{right}/{all_}':>10}{right / all_:9.1%}" if all_ else f"{'':19}" for right, all_ in counts)
            print(f"{cell:20}{''.join(shown)}".rstrip())
    print()
    for name, of_name in found.items():
        print(f"{name}: {sum(a.right for a in of_name) / len(of_name):.1%} of {len(of_name)} answers right")
        if meant := [answer for answer in of_name if answer.kind not in REFUSED]:
            print(f"{name}: {sum(a.refused for a in meant) / len(meant):.1%} of {len(meant)} refused for nothing")
            unseen = ", ".join(f"{kind} {share:.0%}" for kind, share in blind_shares(meant).items())
            print(f"{name}, with one answer to all questions of a kind: {unseen}")


if __name__ == "__main__":
    main()
