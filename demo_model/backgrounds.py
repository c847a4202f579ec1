"""What is behind the shapes of a clip: plain, graded, and as busy as a photograph."""

import random
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


NUM_SCENES, SCENE_SIZE = 384, 160


@cache
def scene(number: int) -> Image.Image:
    """Paint something like a photograph that is out of focus: coarse and fine patterns in pale colours, and things with
    edges. `number` is below `NUM_SCENES`; the picture is `SCENE_SIZE` pixels high and wide, and grey on average."""
    rng, noise = random.Random(number), np.random.default_rng(number)
    roughness = rng.uniform(0.5, 1.2)
    picture = np.zeros((SCENE_SIZE, SCENE_SIZE, 3), np.float32)
    for cells in (2, 4, 8, 16, 32, 64):
        grey, tint = noise.standard_normal((cells, cells, 1)), noise.standard_normal((cells, cells, 3))
        pattern = ((grey + 0.4 * tint) * 32 + 128).clip(0, 255).astype(np.uint8)
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
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))


def photo_like(number: int, size: tuple[int, int]) -> np.ndarray:
    """Return a part of a scene at `size` (height, width) as float32 differences from grey, (height, width, 3)."""
    rng = random.Random(number)
    picture, side = scene(rng.randrange(NUM_SCENES)), rng.uniform(0.4, 1) * SCENE_SIZE
    left, top = rng.uniform(0, SCENE_SIZE - side), rng.uniform(0, SCENE_SIZE - side)
    box = (left, top, left + side, top + side)
    part = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR, box), np.float32)
    part = part[:, :: rng.choice((1, -1))]
    return (part - part.mean((0, 1))) * rng.uniform(0.4, 1.3)
