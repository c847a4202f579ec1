"""Short videos of moving coloured shapes as a stranger would draw them, with questions and a judge of the answers.

They test the embedded demonstration checkpoint with drawings that share no code with those it has learned from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

import av
import numpy as np


COLOURS = {
    "red": ((255, 0, 0), (204, 0, 0), (220, 20, 60)),
    "green": ((0, 128, 0), (34, 139, 34), (50, 205, 50)),
    "blue": ((0, 0, 255), (65, 105, 225), (30, 144, 255)),
    "yellow": ((255, 255, 0), (255, 235, 59), (255, 225, 25)),
    "purple": ((128, 0, 128), (102, 51, 153), (145, 30, 180)),
    "orange": ((255, 165, 0), (255, 140, 0), (245, 130, 48)),
}
SHAPES = ("circle", "square", "triangle", "star")
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}  # axis (x, y), and sign
SPEEDS = {  # share of the way behind a shape, by share of the time
    "constant": lambda time: time,
    "ease": lambda time: (1 - np.cos(np.pi * time)) / 2,
    "pause": lambda time: np.interp(time, (0, 0.35, 0.65, 1), (0, 0.5, 0.5, 1)),
}
ASPECTS = ("9:16", "3:4", "1:1", "4:3", "16:9", "21:9")  # width:height
BACKGROUNDS = {"plain": 0, "graded": 120, "noisy": 0, "photo": 200}  # how far colours stray from the first, at most
CONTRAST = 110  # RGB distance of the background from each shape, without its grain


@dataclass
class MovingShape:
    """`direction` is None in a still; `path` has the centre (x, y) in each frame, NaN while the shape is not there."""

    colour: str
    shape: str
    direction: str | None
    diameter: float  # of the box around it, as a fraction of the short side
    speed: str
    rgb: tuple[int, int, int]
    radius: float  # half the box, in pixels
    reach: float  # the same with the soft edge
    path: np.ndarray


@dataclass(frozen=True)
class Question:
    """What one asks, and whether an answer is right."""

    kind: str
    text: str
    is_right: Callable[[str], bool]


@dataclass
class StrangerClip:
    """A video, or with `still` a picture; the shapes stand in the order in which they appear."""

    seed: int
    still: bool
    shapes: list[MovingShape]
    aspect: str
    width: int
    height: int
    fps: int
    frame_count: int
    background: str
    style: str  # "filled" or "outline"
    edge: str  # "sharp" or "blurred"
    stroke: float  # width of an outline and of a soft edge, as fractions of the radius
    softness: float
    notch: float  # inner radius of a star, as a fraction of its outer one
    codec: str
    codec_options: dict[str, str]
    suffix: str  # of a file that suits the codec; ".mp4" suits each

    @classmethod
    def from_seed(cls, seed: int, shape_count: int | None = None, still: bool | None = None) -> StrangerClip:
        """The clip of a seed. What is None is drawn: one shape or two, and one clip in eight is a still."""
        chance = Random(seed)
        still = chance.random() < 1 / 8 if still is None else still
        shape_count = shape_count or chance.choice((1, 2))
        aspect = chance.choice(ASPECTS)
        across, down = map(int, aspect.split(":"))
        short = chance.randint(96, 480) if chance.random() < 0.93 else chance.randint(480, 1080)
        width, height = (2 * round(short * side / min(across, down) / 2) for side in (across, down))
        fps = chance.randint(10, 30)
        frame_count = round(fps * chance.uniform(1.5, 4))
        edge = chance.choice(("sharp", "blurred"))
        softness = chance.uniform(0.03, 0.15) if edge == "blurred" else 0
        draw = partial(_draw_shapes, chance, shape_count, still, width, height, frame_count, softness)
        shapes = draw()
        while _overlap(shapes):
            shapes = draw()
        codec, codec_options, suffix = _draw_codec(chance, width * height * fps)
        return cls(
            seed=seed,
            still=still,
            shapes=shapes,
            aspect=aspect,
            width=width,
            height=height,
            fps=fps,
            frame_count=frame_count,
            background=chance.choice(tuple(BACKGROUNDS)),
            style=chance.choice(("filled", "outline")),
            edge=edge,
            stroke=chance.uniform(0.12, 0.25),
            softness=softness,
            notch=chance.uniform(0.38, 0.5),
            codec=codec,
            codec_options=codec_options,
            suffix=suffix,
        )

    def frames(self) -> Iterator[np.ndarray]:
        """Each frame, (height, width, 3), uint8. The grain of a noisy background lives, but not in a still."""
        pixels = np.random.default_rng(self.seed)
        background = draw_background(self, pixels)
        grain = np.zeros((1, 1, 1), np.float32)
        if self.background == "noisy":
            channels = pixels.choice((1, 3))
            grain = pixels.normal(0, pixels.uniform(6, 25), (self.height, self.width, channels)).astype(np.float32)
        backdrop = np.clip(background + grain, 0, 255).astype(np.uint8)
        for number in range(self.frame_count):
            if self.background == "noisy" and not self.still:
                grain = np.roll(grain, pixels.integers(0, (self.height, self.width)), axis=(0, 1))
                backdrop = np.clip(background + grain, 0, 255).astype(np.uint8)
            frame = backdrop.copy()
            for shape in self.shapes:
                if not np.isnan(shape.path[number, 0]):
                    self._paint(frame, shape, *shape.path[number])
            yield frame

    def one_frame(self) -> np.ndarray:
        """The picture of a still as a video of one frame, (1, height, width, 3), uint8."""
        return next(self.frames())[None]

    def write(self, path: str | Path) -> None:
        """Encodes the clip; the name's ending, best `suffix`, says in which container."""
        with av.open(str(path), "w") as container:
            stream = container.add_stream(self.codec, rate=self.fps, options=self.codec_options)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            for frame in self.frames():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))

    @property
    def questions(self) -> list[Question]:
        """Questions about each shape and all of them, two about what is absent, and one about something else."""
        return _ask(self)

    def _paint(self, frame: np.ndarray, shape: MovingShape, x: float, y: float) -> None:
        left, top = int(x - shape.reach), int(y - shape.reach)
        box = frame[top : int(y + shape.reach) + 1, left : int(x + shape.reach) + 1]
        rows = np.arange(box.shape[0], dtype=np.float32)[:, None] + np.float32(top + 0.5 - y)
        columns = np.arange(box.shape[1], dtype=np.float32)[None] + np.float32(left + 0.5 - x)
        distance = signed_distance(shape.shape, columns, rows, shape.radius, self.notch)
        if self.style == "outline":
            stroke = max(self.stroke * shape.radius, 1.5)
            distance = np.abs(distance + stroke / 2) - stroke / 2
        cover = np.clip(0.5 - distance / max(self.softness * shape.radius, 1), 0, 1)[..., None]
        box[:] = np.rint(box + cover * (np.float32(shape.rgb) - box))


def _draw_shapes(chance, shape_count, still, width, height, frame_count, softness) -> list[MovingShape]:
    """Shapes that keep to the canvas, but may overlap."""
    shapes = []
    spans = [(0, frame_count)] * shape_count  # from its first frame to that after its last
    if shape_count == 2 and not still:
        gone = chance.choice((1, chance.uniform(0.45, 0.9)))
        spans = [(0, round(frame_count * gone)), (round(frame_count * chance.uniform(0.2, 0.5)), frame_count)]
    names = zip(chance.sample(tuple(COLOURS), shape_count), chance.sample(SHAPES, shape_count), spans)
    for colour, shape, (first, end) in names:
        diameter = chance.uniform(0.14, 0.6 if shape_count == 1 else 0.35)
        radius = diameter * min(width, height) / 2
        reach = radius + max(softness * radius, 1) / 2
        direction = None if still else chance.choice(tuple(DIRECTIONS))
        speed = chance.choice(tuple(SPEEDS))
        path = np.full((frame_count, 2), np.nan)
        path[first:end] = [chance.uniform(reach, side - reach) for side in (width, height)]
        if direction:
            axis, sign = DIRECTIONS[direction]
            side = (width, height)[axis]
            free = side - 2 * reach
            way = chance.uniform(max(0.15 * free, 0.1 * side), free)
            near = chance.uniform(reach, side - reach - way)
            done = way * SPEEDS[speed](np.linspace(0, 1, end - first))
            path[first:end, axis] = near + done if sign > 0 else near + way - done
        rgb = chance.choice(COLOURS[colour])
        shapes.append(MovingShape(colour, shape, direction, diameter, speed, rgb, radius, reach, path))
    return shapes


def _overlap(shapes: list[MovingShape]) -> bool:
    """Whether the boxes of two shapes meet in a frame that shows both."""
    first, last = shapes[0], shapes[-1]
    return first is not last and bool(np.any(np.abs(first.path - last.path).max(axis=1) < first.reach + last.reach))


def _draw_codec(chance: Random, pixels_per_second: int) -> tuple[str, dict[str, str], str]:
    """An encoder of the PyAV wheel, its options, and the ending of its files."""
    keyframes = str(chance.choice((1, 5, 12, 30, 250)))
    x264 = {"preset": chance.choice(("ultrafast", "veryfast")), "crf": str(chance.randint(18, 30))}
    x264 |= {"bf": chance.choice("02"), "g": keyframes}
    mpeg4 = {"b": str(round(pixels_per_second * chance.uniform(0.15, 0.4))), "g": keyframes}
    vp9 = {"deadline": "realtime", "cpu-used": "8", "b": "0", "crf": str(chance.randint(20, 36)), "g": keyframes}
    vp9_suffix = chance.choice((".webm", ".mp4"))
    codecs = (("libx264", x264, ".mp4"), ("mpeg4", mpeg4, ".mp4"), ("libvpx-vp9", vp9, vp9_suffix))
    return chance.choices(codecs, weights=(3, 1, 1))[0]


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float, notch: float) -> np.ndarray:
    """Distance from the outline of a shape as wide as a box of 2 * `radius` around (0, 0); negative inside.

    All but the circle are stars: of a square and a triangle, the notches lie on the straight edges between the points.
    """
    if shape == "circle":
        return np.hypot(x, y) - radius
    points, turn, outer, lower, notch = {  # outer radius, and how far its centre lies below that of the box
        "square": (4, np.pi / 4, 2**0.5, 0, 0.5**0.5),
        "triangle": (3, 0, 2 / 3**0.5, 0.5 / 3**0.5, 0.5),
        "star": (5, 0, 1.0515, 0.1004, notch),
    }[shape]
    y = y - lower * radius
    sector = 2 * np.pi / points
    angle = np.arctan2(x, -y) + turn  # from the top
    angle = np.abs((angle + sector / 2) % sector - sector / 2)  # from the nearest point: one half edge is left
    away, outer = np.hypot(x, y), outer * radius
    across, along = away * np.sin(angle), away * np.cos(angle) - outer  # from the point
    edge_x, edge_y = notch * outer * np.sin(sector / 2), notch * outer * np.cos(sector / 2) - outer
    part = np.clip((across * edge_x + along * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
    return np.copysign(np.hypot(across - part * edge_x, along - part * edge_y), along * edge_x - across * edge_y)


def draw_background(clip: StrangerClip, pixels: np.random.Generator) -> np.ndarray:
    """(height, width, 3), float32, without grain: a colour, and changes that keep to the contrast with the shapes."""
    y, x = np.mgrid[: clip.height, : clip.width].astype(np.float32) / min(clip.height, clip.width)
    changes = np.zeros((clip.height, clip.width, 3), np.float32)
    if clip.background == "graded":
        slope_x, slope_y = pixels.normal(size=2)
        field = slope_x * x + slope_y * y
        if pixels.random() < 0.3:
            field = np.hypot(x - x.mean(), y - y.mean())
        changes += (field - field.mean())[..., None] * _tint(pixels, 0.8)
    elif clip.background == "photo":
        for kind in ("wave",) * 4 + ("blob",) * 4 + ("edge",) * 3:
            right, down = x - pixels.uniform(0, x.max()), y - pixels.uniform(0, y.max())
            slope_x, slope_y = pixels.normal(size=2)
            if kind == "wave":
                field = np.cos(4 * (slope_x * right + slope_y * down))
            elif kind == "blob":
                field = 2 * np.exp(-(right**2 + down**2) / (2 * pixels.uniform(0.05, 0.3) ** 2))
            else:
                field = np.tanh((slope_x * right + slope_y * down) / pixels.uniform(0.002, 0.05))
            changes += field[..., None] * _tint(pixels, 0.2)
    changes /= max(float(np.linalg.norm(changes, axis=2).max()), 1e-6)
    for attempt in count():
        grey = np.full(3, pixels.uniform(0, 255))
        if clip.background == "photo":
            base = np.clip(grey + pixels.uniform(-12, 12, 3), 0, 255)
        else:
            choices = (grey, np.zeros(3), np.full(3, 255.0), pixels.uniform(0, 255, 3))
            base = pixels.choice(choices, p=(0.1, 0.1, 0.1, 0.7))
        stray = BACKGROUNDS[clip.background] * 0.93**attempt
        sample = np.clip(base + stray * changes[::4, ::4], 0, 255)
        if all(np.linalg.norm(sample - shape.rgb, axis=2).min() >= CONTRAST for shape in clip.shapes):
            return np.clip(base.astype(np.float32) + np.float32(stray) * changes, 0, 255)


def _tint(pixels: np.random.Generator, saturation: float) -> np.ndarray:
    return (pixels.uniform(-1, 1) + saturation * pixels.uniform(-1, 1, 3)).astype(np.float32)


WORDINGS = {
    "colour": "What colour is the {shape}?|What color is the {shape}?|Which colour does the {shape} have?",
    "shape of one": "What shape is it?|Which shape do you see?|What shape is shown here?|Name the shape.",
    "shape of two": "What shape is the {colour} one?|What shape is the {colour} thing?|Which shape is {colour}?",
    "direction": "Which way does the {colour} {shape} move?|Which way does the {shape} move?"
    "|In which direction is the {shape} moving?|Where does the {colour} {shape} go?",
    "first": "Which shape appears first?|Which shape comes first?|What appears first?",
    "last": "Which shape appears last?|Which shape comes second?|What appears second?",
    "moving": "What is moving?|What moves in the video?|Which things move?",
    "describe a video": "Describe the video.|What happens in the video?|What can you see in this clip?",
    "describe a picture": "Describe the picture.|What is in the picture?|What do you see?",
    "other colour": "Which way does the {colour} {shape} move?|In which direction is the {colour} {shape} moving?",
}
OUTSIDE = re.split(
    r"\s*[|\n]\s*",
    """How many people are there?|What is the man wearing?|Is the woman happy?|Who is the person on the left?
    Is there a child in the video?|What animal is this?|Is there a dog?|What breed is the cat?|Do you see any birds?
    What is the weather like?|Is it raining?|Is it day or night?|What does the sign say?|Read the text on the screen.
    What is the number on the door?|How old is the driver?|Where was this filmed?|Which city is this?|Is this a kitchen?
    What can you hear?|What song is playing?|What is she saying?|How does the boy feel?|Does this make you sad?
    Write a Python function that sorts a list.|What does this code print?|Hello|hi there|Good morning!|How are you?
    Thank you!|What is your name?|Who made you?|What is 2 + 2?|What is 17 times 3?|What is the capital of France?
    Who won the football match?|Which team scores the goal?|What brand is the car?|What is the license plate?
    What is the chef cooking?|What fruit is on the table?|Tell me a joke.|Write a poem about the sea.
    Translate "good night" into Spanish.|Bonjour, comment ça va ?|Was siehst du in diesem Video?|¿Qué hora es?
    你好|Что ты умеешь?|What time is it?|How much does it cost?|Is this safe to eat?|Who is the president?""",
)
KIND_OF = dict.fromkeys(COLOURS, "colour") | dict.fromkeys(SHAPES, "shape") | dict.fromkeys(DIRECTIONS, "direction")


def named(answer: str, *kinds: str) -> list[str]:
    """The words of these kinds in an answer, in its order; "upwards" and "stars" count as "up" and "star"."""
    words = re.findall(rf"\b({'|'.join(KIND_OF)})(?:wards?|s)?\b", answer.lower())
    return [word for word in words if KIND_OF[word] in kinds]


def names_only(kind: str, word: str) -> Callable[[str], bool]:
    """A judge: the answer names the word, and no other of its kind."""
    return lambda answer: set(named(answer, kind)) == {word}


def names_this(shape: MovingShape) -> Callable[[str], bool]:
    """A judge: the answer names the shape, no other, and no wrong colour."""
    return lambda answer: set(named(answer, "shape")) == {shape.shape} and {*named(answer, "colour")} <= {shape.colour}


def names_all(shapes: list[MovingShape], *kinds: str, in_order: bool) -> Callable[[str], bool]:
    """A judge: the answer's words of these kinds are those of one shape after the other, and no more."""
    arrange = list if in_order else partial(sorted, key=sorted)
    wanted = arrange([{getattr(shape, kind) for kind in kinds} for shape in shapes])

    def judge(answer: str) -> bool:
        words, size = named(answer, *kinds), len(kinds)
        return arrange([set(words[start : start + size]) for start in range(0, len(words), size)]) == wanted

    return judge


def says(words: str) -> Callable[[str], bool]:
    """A judge: the answer contains these words."""
    return lambda answer: words in answer.lower()


def _ask(clip: StrangerClip) -> list[Question]:
    chance = Random(f"questions {clip.seed}")
    shapes, first, last = clip.shapes, clip.shapes[0], clip.shapes[-1]
    questions = []

    def add(kind: str, wording: str, is_right: Callable[[str], bool], **names: str) -> None:
        text = chance.choice(WORDINGS[wording].split("|")).format(**names)
        questions.append(Question(kind, text, is_right))

    for shape in shapes:
        names = {"colour": shape.colour, "shape": shape.shape}
        add("colour", "colour", names_only("colour", shape.colour), **names)
        add("shape", "shape of one" if first is last else "shape of two", names_only("shape", shape.shape), **names)
        way = says("does not move") if clip.still else names_only("direction", shape.direction)
        add("direction", "direction", way, **names)
    if clip.still:
        add("describe", "describe a picture", names_all(shapes, "colour", "shape", in_order=False))
    else:
        add("describe", "describe a video", names_all(shapes, "colour", "shape", "direction", in_order=True))
        add("moving", "moving", names_all(shapes, "colour", "shape", in_order=False))
        if first is not last:
            add("order", "first", names_this(first))
            add("order", "last", names_this(last))
    no_shape = chance.choice([name for name in SHAPES if name not in {shape.shape for shape in shapes}])
    no_colour = chance.choice([name for name in COLOURS if name not in {shape.colour for shape in shapes}])
    add("absent", "colour", says("know only"), shape=no_shape)
    add("absent", "other colour", says("know only"), colour=no_colour, shape=chance.choice(SHAPES))
    questions.append(Question("outside", chance.choice(OUTSIDE), says("know only")))
    return questions
