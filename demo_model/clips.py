"""Synthetic clips of moving coloured shapes: all the demonstration model ever sees. `questions.py` asks about them.

A clip is a small description (`Clip`) drawn from a seed. It can be rendered at any size and written as a real H.264
mp4. One shape moves through the whole clip, two appear one after the other or move side by side, none is there at all,
or nothing moves.

The answers need the order of the frames: played backwards, a clip is another clip that could be drawn, with the
opposite directions and the opposite order of appearance. A shuffled clip says which way lies the axis of movement and
which shapes there are; only a first shape that stays until the end tells that it is the first.

Coordinates are fractions of the canvas, (y, x) from the top left corner; times are fractions of the clip, 0 at the
first frame and 1 at the last.
"""

import math
import random
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .backgrounds import photo_like
from .clip_writing import write_clip


SHAPES = ("circle", "square", "triangle", "star")
# What people call so: each shape is painted with a random mix of two neighbours.
COLOURS = {
    "red": ((200, 40, 40), (255, 0, 0), (220, 20, 60), (170, 20, 25)),
    "green": ((40, 150, 60), (0, 255, 0), (0, 128, 0), (110, 200, 60)),
    "blue": ((45, 80, 220), (0, 0, 255), (30, 130, 250), (10, 20, 150)),
    "yellow": ((230, 205, 40), (255, 255, 0), (255, 225, 60), (250, 240, 110)),
    "purple": ((150, 60, 190), (128, 0, 128), (160, 40, 240), (90, 20, 140)),
    "orange": ((235, 125, 30), (255, 165, 0), (255, 120, 0), (255, 140, 60)),
}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # as (dy, dx)
ASPECTS = (9 / 16, 3 / 4, 1, 4 / 3, 16 / 9, 21 / 9)  # width to height
SHORT_SIDES = (96, 120, 144, 160, 180, 240, 240, 320, 360, 480, 720, 1080)
RADII = 0.068, 0.305  # of the short side
CLEAR_SHORT_SIDES, CLEAR_RADII = (120, 144, 180, 240), (0.15, 0.22)
LEAST_CONTRAST = 100  # distance of a shape's colour from the background's, each out of 255
SUPERSAMPLING = 4  # sub-pixels per pixel side when a shape's edge is drawn


@dataclass(frozen=True)
class Mover:
    """One shape on its way.

    `direction` is None where it stands still. `radius` is a fraction of the canvas' short side, `start` and `end` are
    where the centre is when the shape appears and when it vanishes, `appears` and `vanishes` are times. Of the time it
    is seen, it rests from `rests[0]` to `rests[1]`; with `eases` it starts and stops gently. `stroke` is the width of
    an outline and `blur` the standard deviation of a soft edge, both as fractions of the radius; a `stroke` of 0 fills
    the shape. `turn` is in degrees, `notch` the inner radius of a star as a fraction of its outer one.
    """

    shape: str
    colour: str
    direction: str | None
    rgb: tuple[int, int, int]
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]
    appears: float = 0.0
    vanishes: float = 1.0
    rests: tuple[float, float] = (0.0, 0.0)
    eases: bool = False
    stroke: float = 0.0
    blur: float = 0.0
    turn: float = 0.0
    notch: float = 0.42

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def centre(self, time: float) -> tuple[float, float] | None:
        """Return where the shape is at `time`, None while it is not to be seen."""
        if not self.appears <= time <= self.vanishes:
            return None
        part = (time - self.appears) / (self.vanishes - self.appears)
        begins, ends = self.rests
        part = (min(part, begins) + max(0.0, part - ends)) / (1 - ends + begins)
        if self.eases:
            part = 0.5 - 0.5 * math.cos(math.pi * part)
        y, x = (a + part * (b - a) for a, b in zip(self.start, self.end))
        return y, x


@dataclass(frozen=True)
class Clip:
    """What there is to see; `movers` stand in the order of their appearance, or from left to right.

    `noise` is the standard deviation of the grain of one canvas pixel, `gradient` the change of the background from
    edge to edge, downwards and to the right, each of (red, green, blue), all out of 255; `photo` is the number of a
    `photo_like` background, None for a plain one. It is `photo_contrast` times as strong, and `camera_moves` over it.
    """

    movers: tuple[Mover, ...]
    height: int
    width: int
    fps: int
    num_frames: int
    background: tuple[int, int, int]
    gradient: tuple[tuple[float, float, float], tuple[float, float, float]]
    noise: float
    seed: int
    photo: int | None = None
    photo_contrast: float = 1.0
    camera_moves: bool = False

    @classmethod
    def from_seed(
        cls, seed: int, num_shapes: int | None = None, moves: bool | None = None, clear: bool = False
    ) -> "Clip":
        """Draw a clip; the same seed always gives the same one. `num_shapes` is 0, 1 or 2; without it and `moves` now
        and then nothing is there, and now and then nothing moves. `clear` ones are small files in which shapes are
        large, filled and sharp, for tests and examples that are not about what can be seen."""
        rng = random.Random(seed)
        height, width = _canvas(rng, CLEAR_SHORT_SIDES if clear else SHORT_SIDES)
        drawn = rng.choices((0, 1, 2), (3, 11, 11))[0]
        num_shapes = drawn if num_shapes is None else num_shapes
        drawn = rng.random() < 0.72
        moves = drawn if moves is None else moves
        background = _background(rng)
        if clear:
            grey = background["background"][0]
            background |= {"background": (grey,) * 3, "photo": None, "noise": min(5.0, background["noise"])}
        movers = _movers(rng, num_shapes, moves, height, width, background["background"], clear)
        if clear:
            movers = tuple(replace(mover, stroke=0.0, blur=0.0, turn=0.0) for mover in movers)
        fps, seconds = rng.choice((10, 12, 15, 24, 25, 30)), rng.uniform(1.5, 5.0)
        if min(height, width) > 480:
            fps, seconds = 10, 1.5  # large pictures take long to write
        num_frames = round(seconds * fps)
        if not movers:
            background |= _without_shapes(rng)
        camera_moves = moves and rng.random() < 0.5
        return cls(movers, height, width, fps, num_frames, seed=seed, camera_moves=camera_moves, **background)

    @classmethod
    def crowd(cls, seed: int) -> "Clip":
        """Draw a single frame with up to eight shapes, more than clips have: there is more to learn from it."""
        rng = random.Random(seed)
        height, width = _canvas(rng, SHORT_SIDES)
        background, movers = _background(rng, busy=0.5), []
        for _ in range(rng.choice((0, 1, 3, 6, 10, 14))):
            mover = _mover(rng, height, width, background["background"], RADII, moves=False)
            if len(movers) < 8 and not any(_touching(mover, other, 0.0, height, width) for other in movers):
                movers.append(mover)
        if not movers:
            background |= _without_shapes(rng)
        return cls(tuple(movers), height, width, 1, 1, seed=seed, **background)

    @property
    def moves(self) -> bool:
        return any(mover.direction for mover in self.movers)

    @property
    def in_turn(self) -> bool:
        """Whether there are two shapes, and one appears after the other."""
        return len(self.movers) == 2 and self.movers[1].appears > 0

    def time(self, frame: int) -> float:
        return frame / (self.num_frames - 1) if self.num_frames > 1 else 0.0

    def render(self, frames: list[int] | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """Paint some frames (default: all) at `size` (height, width; default: the canvas).

        Returns:
            uint8 RGB of shape (frames, height, width, 3). Another size squashes the picture, as resizing would.
        """
        height, width = size or (self.height, self.width)
        rng = np.random.default_rng(self.seed)
        vertical, horizontal = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in (height, width))
        down, right = np.asarray(self.gradient, np.float32)
        shade = vertical[:, None, None] * down + horizontal[:, None] * right
        empty = np.asarray(self.background, np.float32) + shade  # (height, width, 3)
        # Grain averages out when many canvas pixels become one.
        noise = self.noise * math.sqrt(min(1.0, height * width / (self.height * self.width)))
        photo = lru_cache(1)(partial(photo_like, self.photo, (height, width)))  # painted once where the camera rests
        pictures = []
        for frame in range(self.num_frames) if frames is None else frames:
            picture = empty.copy()
            if self.photo is not None:
                picture += self.photo_contrast * photo(self.time(frame) if self.camera_moves else 0.0)
            for mover in self.movers:
                centre = mover.centre(self.time(frame))
                if centre is not None:
                    scale = mover.radius * min(self.height, self.width)
                    radii = scale * height / self.height, scale * width / self.width
                    _paint(picture, mover, (centre[0] * height, centre[1] * width), radii)
            if noise:
                picture += noise * rng.standard_normal(picture.shape, np.float32)
            pictures.append((picture + 0.5).clip(0, 255).astype(np.uint8))
        return np.stack(pictures)


def _canvas(rng: random.Random, short_sides: tuple[int, ...]) -> tuple[int, int]:
    """Height and width in pixels, both even."""
    aspect, short = rng.choice(ASPECTS), rng.choice(short_sides)
    height, width = (short, short * aspect) if aspect > 1 else (short / aspect, short)
    return 2 * round(height / 2), 2 * round(width / 2)


def _background(rng: random.Random, busy: float = 0.3) -> dict:
    """What `Clip` says of a background: grey or of any colour, with or without a gradient, grain, and as in a
    photograph, which `busy` of them are."""
    grey, tint = rng.randint(0, 255), rng.choice((0, 20, 255))
    base = [rng.randint(0, 255) if tint == 255 else grey + rng.randint(-tint, tint) for _ in range(3)]
    gradient = [[0.0] * 3] * 2
    if rng.random() < 0.5:
        colours = [rng.uniform(0, 2) for _ in range(3)] if tint else [1.0] * 3
        gradient = [[slope * colour for colour in colours] for slope in (rng.uniform(-70, 70), rng.uniform(-70, 70))]
    return {
        "background": tuple(min(255, max(0, value)) for value in base),
        "gradient": tuple(map(tuple, gradient)),
        "noise": rng.choice((0.0, rng.uniform(0.0, 25.0))),
        "photo": rng.randrange(1 << 30) if rng.random() < busy else None,
    }


def _without_shapes(rng: random.Random) -> dict:
    """What `Clip` says anew of a background that nothing is in front of: most are busy, some so much that a shape would
    be lost there."""
    if rng.random() < 0.2:
        return {}
    return {"photo": rng.randrange(1 << 30), "photo_contrast": math.exp(rng.uniform(-0.7, 1.0))}


def _movers(
    rng: random.Random, number: int, moves: bool, height: int, width: int, background: tuple[int, ...], clear: bool
) -> tuple[Mover, ...]:
    """Draw shapes for a clip, in the order of appearance, or from left to right; two are unlike in shape and colour and
    never touch."""
    canvas = height, width, background, CLEAR_RADII if clear else RADII
    if number < 2:
        return tuple(_mover(rng, *canvas, moves=moves) for _ in range(number))
    while True:
        appears, vanishes = 1 - rng.uniform(0.38, 0.75), rng.uniform(0.38, 0.75)
        if not moves or rng.random() < 0.15:
            appears, vanishes = 0.0, 1.0  # both all the time
        elif rng.random() < 0.2:
            vanishes = 1.0  # the first stays
        first = _mover(rng, *canvas, moves=moves, vanishes=vanishes)
        second = _mover(rng, *canvas, moves=moves, appears=appears)
        unlike = first.shape != second.shape and first.colour != second.colour
        if unlike and not any(_touching(first, second, step / 20, height, width) for step in range(21)):
            return tuple(sorted((first, second), key=lambda mover: (mover.appears, mover.start[1])))


def _mover(
    rng: random.Random,
    height: int,
    width: int,
    background: tuple[int, ...],
    radii: tuple[float, float],
    moves: bool,
    appears: float = 0.0,
    vanishes: float = 1.0,
) -> Mover:
    """Draw a shape that stays on the canvas; one that moves crosses some of it while it is seen."""
    radius = math.exp(rng.uniform(*map(math.log, radii)))  # small ones as often as large ones
    direction = rng.choice(tuple(DIRECTIONS)) if moves else None
    along = 0 if direction in ("up", "down") else 1
    margins = [1.05 * radius * min(height, width) / side for side in (height, width)]
    distance = max(0.09, rng.uniform(0.15, 0.95) * (1 - 2 * margins[along])) if moves else 0.0
    low = [rng.uniform(margin, 1 - margin - (distance if axis == along else 0)) for axis, margin in enumerate(margins)]
    high = [value + (distance if axis == along else 0) for axis, value in enumerate(low)]
    if direction is not None and sum(DIRECTIONS[direction]) < 0:
        low, high = high, low
    shape, (colour, rgb) = rng.choice(SHAPES), _paint_for(rng, background)
    rests = sorted(rng.uniform(0.15, 0.85) for _ in range(2)) if rng.random() < 0.3 else (0.0, 0.0)
    return Mover(
        shape, colour, direction, rgb, radius, tuple(low), tuple(high), appears, vanishes,
        rests=tuple(rests),
        eases=rng.random() < 0.3,
        stroke=rng.uniform(0.1, 0.28) if rng.random() < 0.35 else 0.0,
        blur=rng.uniform(0.02, 0.16) if rng.random() < 0.35 else 0.0,
        turn=rng.uniform(-10, 10) if rng.random() < 0.3 else 0.0,
        notch=rng.uniform(0.37, 0.5),
    )  # fmt: skip


def _paint_for(rng: random.Random, background: tuple[int, ...]) -> tuple[str, tuple[int, int, int]]:
    """Draw a colour that is seen on the background: its name, and a shade of it."""
    while True:
        colour, mix = rng.choice(tuple(COLOURS)), rng.random()
        pair = rng.sample(COLOURS[colour], 2)
        rgb = tuple(min(255, max(0, round(a + mix * (b - a) + rng.uniform(-8, 8)))) for a, b in zip(*pair))
        if math.dist(rgb, background) >= LEAST_CONTRAST:
            return colour, rgb


def _touching(a: Mover, b: Mover, time: float, height: int, width: int) -> bool:
    here, there = a.centre(time), b.centre(time)
    if here is None or there is None:
        return False
    apart = max(abs(here[0] - there[0]) * height, abs(here[1] - there[1]) * width)
    return apart < 1.1 * (a.radius + b.radius) * min(height, width)


def _outline(shape: str, notch: float) -> list[tuple[float, float]]:
    """Return the corners (y, x) of a shape that fills the square from -1 to 1."""
    if shape == "square":
        return [(-0.9, -0.9), (-0.9, 0.9), (0.9, 0.9), (0.9, -0.9)]
    if shape == "triangle":
        return [(-0.95, 0.0), (0.9, 1.0), (0.9, -1.0)]
    corners, depths = (10, (1.0, notch)) if shape == "star" else (48, (1.0, 1.0))
    turns = [2 * math.pi * corner / corners for corner in range(corners)]
    return [(-depths[i % 2] * math.cos(turn), depths[i % 2] * math.sin(turn)) for i, turn in enumerate(turns)]


def _paint(picture: np.ndarray, mover: Mover, centre: tuple[float, float], radii: tuple[float, float]) -> None:
    """Blend a shape into float32 `picture` (height, width, 3), with smooth edges; centre and radii in pixels."""
    soft = mover.blur * min(radii)
    reach = [radius * 1.2 + 2 * soft + 1 for radius in radii]
    top, left = (max(0, math.floor(c - r)) for c, r in zip(centre, reach))
    bottom, right = (min(n, math.ceil(c + r)) for c, r, n in zip(centre, reach, picture.shape))
    if bottom <= top or right <= left:
        return
    fine = SUPERSAMPLING if max(radii) < 100 else 1
    mask = Image.new("L", ((right - left) * fine, (bottom - top) * fine))
    cosine, sine = math.cos(math.radians(mover.turn)), math.sin(math.radians(mover.turn))
    # Pixel i of the fine mask covers i..i+1, and PIL puts a corner at the pixel's middle: hence the half.
    corners = [
        (
            (centre[1] + (x * cosine - y * sine) * radii[1] - left) * fine - 0.5,
            (centre[0] + (x * sine + y * cosine) * radii[0] - top) * fine - 0.5,
        )
        for y, x in _outline(mover.shape, mover.notch)
    ]
    if mover.stroke:
        width = max(1, round(mover.stroke * min(radii) * fine))
        ImageDraw.Draw(mask).line([*corners, *corners[:2]], fill=255, width=width, joint="curve")
    else:
        ImageDraw.Draw(mask).polygon(corners, fill=255)
    mask = mask.reduce(fine) if fine > 1 else mask
    if soft:
        mask = mask.filter(ImageFilter.GaussianBlur(soft))
    cover = np.asarray(mask, np.float32)[..., None] / 255
    region = picture[top:bottom, left:right]
    region += cover * (np.asarray(mover.rgb, np.float32) - region)


def sample_indices(num_frames_in_video: int, num_frames: int) -> list[int]:
    """Return the frames a model sees: evenly spread, first and last included."""
    return np.linspace(0, num_frames_in_video - 1, num_frames, dtype=int).tolist()


def write_mp4(clip: Clip, path: str | Path) -> None:
    """Write the clip as H.264 (yuv420p, two B-frames between the others), as most phones and sites do."""
    write_clip(path, clip.render(), Fraction(clip.fps), options={"crf": "20", "bf": "2"})
