"""What is behind the shapes of a clip: plain, graded, and as busy as a photograph, seen by a camera that may move."""

import random
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


NUM_SCENES, SCENE_SIZE = 512, 160


@cache
def scene(number: int) -> Image.Image:
    """Paint something like a photograph that is out of focus: coarse and fine patterns, most in pale colours, and
    things with edges; or tiles and stripes of any colour. `number` is below `NUM_SCENES`; the picture is `SCENE_SIZE`
    pixels high and wide, and grey on average."""
    rng, noise = random.Random(number), np.random.default_rng(number)
    image = _tiles(rng, noise) if number % 4 == 3 else _patterns(rng, noise, pale=number % 4 > 0)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))


def _patterns(rng: random.Random, noise: np.random.Generator, pale: bool) -> Image.Image:
    roughness, of_grey, of_tint = rng.uniform(0.5, 1.2), *((1.0, 0.4) if pale else (0.4, 1.0))
    picture = np.zeros((SCENE_SIZE, SCENE_SIZE, 3), np.float32)
    for cells in (2, 4, 8, 16, 32, 64):
        grey, tint = noise.standard_normal((cells, cells, 1)), noise.standard_normal((cells, cells, 3))
        pattern = ((of_grey * grey + of_tint * tint) * 32 + 128).clip(0, 255).astype(np.uint8)
        larger = Image.fromarray(pattern).resize((SCENE_SIZE, SCENE_SIZE), Image.Resampling.BICUBIC)
        picture += (np.asarray(larger, np.float32) - 128) * (2 / cells) ** roughness
    image = Image.fromarray((picture + 128).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(rng.choice((0, 0, 3, 6, 10))):
        grey = rng.randint(40, 215)
        colour = (*(min(255, max(0, grey + rng.randint(-25, 25))) for _ in range(3)), rng.randint(60, 200))
        y, x, height, width = (
            rng.uniform(low, high) * SCENE_SIZE for low, high in ((-0.1, 1), (-0.1, 1), *2 * ((0.03, 0.7),))
        )
        getattr(draw, rng.choice(("rectangle", "ellipse")))((x, y, x + width, y + height), fill=colour)
    return image


def _tiles(rng: random.Random, noise: np.random.Generator) -> Image.Image:
    """Rows of tiles, upright or turned, straight or bent; without columns they are stripes."""
    rows, columns = (7 * 9 ** rng.random() for _ in range(2))
    columns = rng.choice((columns, columns, 0))
    turn, bend = rng.choice((0, rng.uniform(0, np.pi))), rng.choice((0, rng.uniform(0, 0.1)))
    y, x = np.mgrid[:SCENE_SIZE, :SCENE_SIZE] / SCENE_SIZE
    y, x = y + bend * np.sin(rng.uniform(5, 20) * x), x + bend * np.sin(rng.uniform(5, 20) * y)
    down, across = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
    grey, colour = noise.uniform(-1, 1, (64, 64, 1)), noise.uniform(-1, 1, (64, 64, 3))
    colourful = rng.choice((0, 1, rng.random()))
    colours = (128 + 60 * ((1 - colourful) * grey + colourful * colour)).astype(np.uint8)
    return Image.fromarray(colours[np.floor(down * rows).astype(int) % 64, np.floor(across * columns).astype(int) % 64])


def photo_like(number: int, size: tuple[int, int], time: float = 0.0) -> np.ndarray:
    """Return what a camera sees of a scene at `time`, from 0 to 1, at `size` (height, width): float32 differences from
    grey, (height, width, 3). At other times it sees another part of the scene, which is `number`'s as well."""
    rng = random.Random(number)
    picture, mirrored, contrast = scene(rng.randrange(NUM_SCENES)), rng.choice((1, -1)), rng.uniform(0.4, 1.3)
    parts = []
    for _ in range(2):  # where it begins and where it ends
        side = rng.uniform(0.4, 1) * SCENE_SIZE
        left, top = rng.uniform(0, SCENE_SIZE - side), rng.uniform(0, SCENE_SIZE - side)
        parts.append((left, top, left + side, top + side))
    box = tuple(a + time * (b - a) for a, b in zip(*parts))
    part = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR, box), np.float32)
    part = part[:, ::mirrored]
    return (part - part.mean((0, 1))) * contrast
