"""Write the sample clips of the demonstration model: `python -m demo_model.make_samples`."""

from pathlib import Path

from .clips import COLOURS, Clip, Mover, write_mp4


FOLDER = Path(__file__).parent / "samples"


def mover(
    name: str,
    direction: str,
    start: tuple[float, float],
    end: tuple[float, float],
    seen: tuple[float, float] = (0.0, 1.0),
    radius: float = 0.18,
) -> Mover:
    """Describe a shape by its name ("red circle"); see `Mover` for the units."""
    colour, shape = name.split()
    return Mover(shape, colour, direction, COLOURS[colour][0], radius, start, end, *seen)


def clip(*movers: Mover, size: tuple[int, int], fps: int, seconds: float, grey: int, noise: float = 0.0) -> Clip:
    height, width = size
    gradient = ((15.0,) * 3, (-10.0,) * 3)
    return Clip(movers, height, width, fps, round(seconds * fps), (grey,) * 3, gradient, noise, seed=0)


SAMPLES = {
    "red_circle_moves_left": clip(
        mover("red circle", "left", (0.45, 0.75), (0.45, 0.25)), size=(240, 320), fps=25, seconds=3, grey=190
    ),
    "blue_square_moves_up": clip(
        mover("blue square", "up", (0.7, 0.6), (0.25, 0.6)), size=(320, 240), fps=30, seconds=2, grey=225, noise=3
    ),
    "yellow_star_moves_down": clip(
        mover("yellow star", "down", (0.3, 0.35), (0.7, 0.35), radius=0.22),
        size=(240, 240), fps=10, seconds=4, grey=50,
    ),
    "green_triangle_moves_right": clip(
        mover("green triangle", "right", (0.6, 0.3), (0.6, 0.75), radius=0.2),
        size=(180, 320), fps=15, seconds=5, grey=120,
    ),
    "purple_circle_then_orange_square": clip(
        mover("purple circle", "right", (0.3, 0.2), (0.3, 0.7), seen=(0.0, 0.55), radius=0.22),
        mover("orange square", "down", (0.3, 0.3), (0.75, 0.3), seen=(0.6, 1.0), radius=0.22),
        size=(360, 480), fps=24, seconds=4, grey=210,
    ),
    "blue_star_then_red_triangle": clip(
        mover("blue star", "up", (0.75, 0.25), (0.3, 0.25), seen=(0.0, 0.7), radius=0.2),
        mover("red triangle", "left", (0.65, 0.82), (0.65, 0.5), seen=(0.4, 1.0)),
        size=(240, 320), fps=12, seconds=3, grey=235,
    ),
}  # fmt: skip


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, sample in SAMPLES.items():
        write_mp4(sample, FOLDER / f"{name}.mp4")
