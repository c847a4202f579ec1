"""Synthetic clips of moving coloured shapes, with questions and answers: all the demonstration model ever sees.

A clip is a small description (`Clip`) drawn from a seed. It can be rendered at any size, written as a real H.264 mp4,
and asked about. One shape moves through the whole clip, or two shapes appear one after the other.

The answers need the order of the frames: played backwards, every clip is another clip of the same likelihood, with the
opposite directions and the opposite order of appearance. A shuffled clip therefore says no more than which way lies
the axis of movement, and which two shapes there are.

Coordinates are fractions of the canvas, (y, x) from the top left corner; times are fractions of the clip, 0 at the
first frame and 1 at the last.
"""

import math
import random
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .clip_writing import write_clip


SHAPES = ("circle", "square", "triangle", "star")
# Two anchors per colour, a muted and a pure one: each shape is painted with a random mix of the two.
COLOURS = {
    "red": ((200, 40, 40), (255, 0, 0)),
    "green": ((40, 150, 60), (0, 255, 0)),
    "blue": ((45, 80, 220), (0, 0, 255)),
    "yellow": ((230, 205, 40), (255, 255, 0)),
    "purple": ((150, 60, 190), (128, 0, 128)),
    "orange": ((235, 125, 30), (255, 150, 0)),
}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # as (dy, dx)
KINDS = ("colour", "shape", "direction", "order", "moving", "describe")
CANVASES = (  # height, width
    (120, 160), (160, 120), (144, 176), (160, 160), (180, 320), (240, 320),
    (320, 240), (240, 240), (320, 320), (360, 480), (480, 360), (270, 480),
)  # fmt: skip
SUPERSAMPLING = 4  # sub-pixels per pixel side when a shape's edge is drawn


@dataclass(frozen=True)
class Mover:
    """One shape on its way.

    `radius` is a fraction of the canvas' short side, `start` and `end` are where the centre is when the shape appears
    and when it vanishes, `appears` and `vanishes` are times.
    """

    shape: str
    colour: str
    direction: str
    rgb: tuple[int, int, int]
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]
    appears: float = 0.0
    vanishes: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def centre(self, time: float) -> tuple[float, float] | None:
        """Return where the shape is at `time`, None while it is not to be seen."""
        if not self.appears <= time <= self.vanishes:
            return None
        part = (time - self.appears) / (self.vanishes - self.appears)
        y, x = (a + part * (b - a) for a, b in zip(self.start, self.end))
        return y, x


@dataclass(frozen=True)
class Clip:
    """What there is to see; `movers` stand in the order of their appearance.

    `noise` is the standard deviation of the grain of one canvas pixel, `gradient` the change of the background's
    brightness from edge to edge as (vertical, horizontal), both out of 255.
    """

    movers: tuple[Mover, ...]
    height: int
    width: int
    fps: int
    num_frames: int
    background: tuple[int, int, int]
    gradient: tuple[float, float]
    noise: float
    seed: int

    @classmethod
    def from_seed(cls, seed: int, num_shapes: int | None = None) -> "Clip":
        """Draw a clip; the same seed always gives the same one. `num_shapes` is 1 or 2, by default either."""
        rng = random.Random(seed)
        height, width = rng.choice(CANVASES)
        fps = rng.choice((10, 12, 15, 24, 25, 30))
        if num_shapes is None:
            num_shapes = rng.choice((1, 2))
        grey = rng.randint(0, 255)
        return cls(
            movers=_one_mover(rng, height, width) if num_shapes == 1 else _two_movers(rng, height, width),
            height=height,
            width=width,
            fps=fps,
            num_frames=round(rng.uniform(1.5, 5.0) * fps),
            background=tuple(min(255, max(0, grey + rng.randint(-15, 15))) for _ in range(3)),
            gradient=(rng.uniform(-25, 25), rng.uniform(-25, 25)),
            noise=rng.choice((0.0, rng.uniform(0.0, 10.0))),
            seed=seed,
        )

    def render(self, frames: list[int] | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """Paint some frames (default: all) at `size` (height, width; default: the canvas).

        Returns:
            uint8 RGB of shape (frames, height, width, 3). Another size squashes the picture, as resizing would.
        """
        height, width = size or (self.height, self.width)
        rng = np.random.default_rng(self.seed)
        vertical, horizontal = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in (height, width))
        shade = self.gradient[0] * vertical[:, None] + self.gradient[1] * horizontal
        empty = np.asarray(self.background, np.float32) + shade[..., None]  # (height, width, 3)
        # Grain averages out when many canvas pixels become one.
        noise = self.noise * math.sqrt(min(1.0, height * width / (self.height * self.width)))
        pictures = []
        for frame in range(self.num_frames) if frames is None else frames:
            picture = empty.copy()
            for mover in self.movers:
                centre = mover.centre(frame / (self.num_frames - 1))
                if centre is not None:
                    scale = mover.radius * min(self.height, self.width)
                    radii = scale * height / self.height, scale * width / self.width
                    _paint(picture, mover, (centre[0] * height, centre[1] * width), radii)
            if noise:
                picture += noise * rng.standard_normal(picture.shape, np.float32)
            pictures.append(picture.round().clip(0, 255).astype(np.uint8))
        return np.stack(pictures)


def _one_mover(rng: random.Random, height: int, width: int, appears: float = 0.0, vanishes: float = 1.0):
    """Draw a shape that stays on the canvas and crosses a good part of it while it is seen."""
    radius = rng.uniform(0.16, 0.23)
    direction = rng.choice(tuple(DIRECTIONS))
    along = 0 if direction in ("up", "down") else 1
    margins = [1.05 * radius * min(height, width) / side for side in (height, width)]
    distance = rng.uniform(0.25, 0.65) * (1 - 2 * margins[along])
    low = [rng.uniform(margin, 1 - margin - (distance if axis == along else 0)) for axis, margin in enumerate(margins)]
    high = [value + (distance if axis == along else 0) for axis, value in enumerate(low)]
    if sum(DIRECTIONS[direction]) < 0:
        low, high = high, low
    colour = rng.choice(tuple(COLOURS))
    mix = rng.random()
    muted, pure = COLOURS[colour]
    rgb = tuple(min(255, max(0, round(a + mix * (b - a) + rng.uniform(-8, 8)))) for a, b in zip(muted, pure))
    shape = rng.choice(SHAPES)
    return (Mover(shape, colour, direction, rgb, radius, tuple(low), tuple(high), appears, vanishes),)


def _two_movers(rng: random.Random, height: int, width: int) -> tuple[Mover, ...]:
    """Draw two shapes, unlike in shape and colour, one appearing after the other; they never touch."""
    while True:
        (first,) = _one_mover(rng, height, width, vanishes=rng.uniform(0.38, 0.75))
        (second,) = _one_mover(rng, height, width, appears=1 - rng.uniform(0.38, 0.75))
        unlike = first.shape != second.shape and first.colour != second.colour
        if unlike and not any(_touching(first, second, step / 20, height, width) for step in range(21)):
            return first, second


def _touching(a: Mover, b: Mover, time: float, height: int, width: int) -> bool:
    here, there = a.centre(time), b.centre(time)
    if here is None or there is None:
        return False
    apart = max(abs(here[0] - there[0]) * height, abs(here[1] - there[1]) * width)
    return apart < 1.1 * (a.radius + b.radius) * min(height, width)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Return the corners (y, x) of a shape that fills the square from -1 to 1."""
    if shape == "square":
        return [(-0.9, -0.9), (-0.9, 0.9), (0.9, 0.9), (0.9, -0.9)]
    if shape == "triangle":
        return [(-0.95, 0.0), (0.9, 1.0), (0.9, -1.0)]
    corners, depths = (10, (1.0, 0.42)) if shape == "star" else (48, (1.0, 1.0))
    turns = [2 * math.pi * corner / corners for corner in range(corners)]
    return [(-depths[i % 2] * math.cos(turn), depths[i % 2] * math.sin(turn)) for i, turn in enumerate(turns)]


def _paint(picture: np.ndarray, mover: Mover, centre: tuple[float, float], radii: tuple[float, float]) -> None:
    """Blend a shape into float32 `picture` (height, width, 3), with smooth edges; centre and radii in pixels."""
    top, left = (max(0, math.floor(c - r) - 1) for c, r in zip(centre, radii))
    bottom, right = (min(n, math.ceil(c + r) + 1) for c, r, n in zip(centre, radii, picture.shape))
    if bottom <= top or right <= left:
        return
    mask = Image.new("L", ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING))
    # Pixel i of the fine mask covers i..i+1, and PIL puts a corner at the pixel's middle: hence the half.
    corners = [
        (
            (centre[1] + x * radii[1] - left) * SUPERSAMPLING - 0.5,
            (centre[0] + y * radii[0] - top) * SUPERSAMPLING - 0.5,
        )
        for y, x in _outline(mover.shape)
    ]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    cover = np.asarray(mask.reduce(SUPERSAMPLING), np.float32)[..., None] / 255
    region = picture[top:bottom, left:right]
    region += cover * (np.asarray(mover.rgb, np.float32) - region)


def sample_indices(num_frames_in_video: int, num_frames: int) -> list[int]:
    """Return the frames a model sees: evenly spread, first and last included."""
    return np.linspace(0, num_frames_in_video - 1, num_frames, dtype=int).tolist()


def write_mp4(clip: Clip, path: str | Path) -> None:
    """Write the clip as H.264 (yuv420p, two B-frames between the others), as most phones and sites do."""
    write_clip(path, clip.render(), Fraction(clip.fps), options={"crf": "20", "bf": "2"})


# --- questions and answers ---

# {it} is filled with a name that fits one shape of the clip only.
COLOUR_QUESTIONS = (
    "What colour is {it}?", "What is the colour of {it}?", "Which colour is {it}?", "Which colour does {it} have?",
    "Tell me the colour of {it}.",
)  # fmt: skip
SHAPE_QUESTIONS = ("What shape is it?", "What shape is moving?", "Which shape is moving?", "What shape is this?",
                   "Which shape is it?", "What shape do you see?", "Which shape do you see?",
                   "What is the shape?")  # fmt: skip
SHAPE_OF_QUESTIONS = ("What shape is the {colour} object?", "What shape is the {colour} one?",
                      "Which shape is {colour}?", "What is the {colour} shape?")  # fmt: skip
DIRECTION_QUESTIONS = (
    "Which way does {it} move?", "Which way is {it} moving?", "Which way does {it} go?", "Which way is {it} going?",
    "In which direction does {it} move?", "In which direction is {it} moving?", "Which direction does {it} move?",
    "Which direction is {it} moving?", "In what direction does {it} move?", "What direction is {it} moving?",
    "What direction does {it} move?", "Where does {it} move?", "Where is {it} going?", "How does {it} move?",
    "Does {it} move left, right, up or down?", "What is the direction of {it}?",
)  # fmt: skip
ORDER_QUESTIONS = (
    "Which shape appears {nth}?", "What appears {nth}?", "Which object appears {nth}?", "Which shape comes {nth}?",
    "What comes {nth}?", "Which shape is {nth}?", "Which shape do you see {nth}?", "What do you see {nth}?",
    "Which colour appears {nth}?", "What happens {nth}?", "Which shape moves {nth}?", "What moves {nth}?",
)  # fmt: skip
MOVING_QUESTIONS = ("What is moving?", "What moves?", "What do you see?", "What can you see?", "What is in the video?",
                    "What is shown in the video?", "What is this?", "What objects are there?")  # fmt: skip
DESCRIBE_QUESTIONS = (
    "Describe the video.", "Describe this video.", "Describe the clip.", "What happens in the video?",
    "What is happening?", "What happens?", "What is happening in the video?", "Please describe the video.",
    "Describe what happens.", "Describe what happens in the video.", "Describe the video in detail.",
    "What is the video about?", "Explain what happens.",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question about a clip, with the answer that the model learns. `subject` is the mover it asks about, if one."""

    kind: str
    text: str
    answer: str
    subject: Mover | None = None


def ask(clip: Clip, kind: str, rng: random.Random) -> Question:
    """Make up a question of one of the `KINDS`, in one of many wordings; "order" takes a clip of two shapes."""
    mover = rng.choice(clip.movers)
    alone = len(clip.movers) == 1
    if kind == "colour":
        it = f"the {mover.shape}" if not alone else rng.choice(("the shape", "it", f"the {mover.shape}"))
        text = rng.choice(COLOUR_QUESTIONS).format(it=it)
        answer = f"{it} is {mover.colour}."
    elif kind == "shape":
        questions = SHAPE_OF_QUESTIONS if not alone else rng.choice((SHAPE_QUESTIONS, SHAPE_OF_QUESTIONS))
        text = rng.choice(questions).format(colour=mover.colour)
        answer = f"it is a {mover.shape}."
    elif kind == "direction":
        names = [f"the {mover.shape}", f"the {mover.name}", f"the {mover.colour} shape"]
        it = rng.choice([*names, "the shape", "it"] if alone else names)
        text = rng.choice(DIRECTION_QUESTIONS).format(it=it)
        answer = f"{it} moves {mover.direction}."
    elif kind == "order":
        nth = rng.choice(("first", "last", "second"))
        mover = clip.movers[0 if nth == "first" else 1]
        text = rng.choice(ORDER_QUESTIONS).format(nth=nth)
        answer = f"the {mover.name} appears {nth}."
    elif kind == "moving":
        text = rng.choice(MOVING_QUESTIONS)
        answer = " and ".join(f"{_article(mover.colour)} {mover.name}" for mover in clip.movers) + "."
    elif kind == "describe":
        text = rng.choice(DESCRIBE_QUESTIONS)
        answer = ", then ".join(f"{_article(m.colour)} {m.name} moves {m.direction}" for m in clip.movers) + "."
    else:
        raise ValueError(f"No questions of the kind {kind!r}; ask one of {', '.join(KINDS)}.")
    subject = mover if kind in ("colour", "shape", "direction", "order") else None
    return Question(kind, _reword(text, rng), answer[0].upper() + answer[1:], subject)


def kinds_of(clip: Clip) -> list[str]:
    """Return the kinds of question that fit a clip: there is no order of one shape."""
    return [kind for kind in KINDS if kind != "order" or len(clip.movers) == 2]


def is_right(question: Question, clip: Clip, answer: str) -> bool:
    """Tell whether an answer, in whatever words, names what was asked for and nothing that contradicts it.

    "moving" wants all shapes with their colours, in any order; "describe" wants them in the order of appearance, each
    with its direction; "order" wants shape and colour of the one asked for.
    """
    said = [
        word
        for word in re.findall(r"[a-z]+", answer.lower())
        if word in SHAPES or word in COLOURS or word in DIRECTIONS
    ]
    mover = question.subject
    if mover is None:
        parts = [[m.colour, m.shape, m.direction][: 2 if question.kind == "moving" else 3] for m in clip.movers]
        orders = [parts, parts[::-1]] if question.kind == "moving" else [parts]
        return any(said == [word for part in order for word in part] for order in orders)
    if question.kind == "order":
        return said == [mover.colour, mover.shape]
    # A sentence may repeat what the question called the shape, but name one thing only of the kind asked for.
    table = {"colour": COLOURS, "shape": SHAPES, "direction": DIRECTIONS}[question.kind]
    named = {word for word in said if word in table}
    return named == {getattr(mover, question.kind)}


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _reword(text: str, rng: random.Random) -> str:
    """Spell as people type: American or British, with or without capital and closing mark."""
    if rng.random() < 0.5:
        text = text.replace("colour", "color")
    if rng.random() < 0.25:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.25:
        text = text.rstrip("?.")
    return text
