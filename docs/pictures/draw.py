"""Draw the pictures of the documentation: `python docs/pictures/draw.py`, from the root of the repository.

What they show comes from the model's own functions, run on numbers in place of features: the order of tokens is what
`lay_out_video` makes of tokens that know their place, and a patch belongs to the token that `pool_grid` gives its
weight to. `--check` compares with the files that are there and names those that are out of date.
"""

import argparse
import ast
import sys
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import torch
from PIL import Image, ImageChops, ImageStat
from transformers import AutoProcessor

from llava_next_video import DEMO_CHECKPOINT, draw_frame_sheet
from llava_next_video.modeling.visual_tokens import lay_out_slow_fast_video, lay_out_video, pool_grid


FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER.parents[1]))
from setup import ROOMS  # noqa: E402
from tests.imports_of_the_package import FILES, ROOT, imports_of, room_of  # noqa: E402


CLIP = ROOT / "demo_model" / "samples" / "red_circle_moves_left.mp4"

NEWLINE, FRAME_END = -1, -2
INK, PAPER, LINE, DROPPED = "#1e1e1e", "#ffffff", "#606060", "#b8b8b8"
NEWLINE_COLOUR, END_COLOUR = "#f5a04c", "#b48be0"
FRAME_COLOURS = ("#a9cdf2", "#b5e0b0", "#f4e19a", "#f2b8c6")
TOKEN_COLOURS = ("#a9cdf2", "#d9e9f9")
# What these become where the page is dark; all of them are dark enough for light letters.
DARK = {
    PAPER: "#15171c",
    INK: "#ececec",
    LINE: "#8c8c8c",
    DROPPED: "#4d4d4d",
    NEWLINE_COLOUR: "#a35a0e",
    END_COLOUR: "#6b4794",
    **dict(zip(FRAME_COLOURS, ("#2b5680", "#31663a", "#6b5a14", "#763a4c"))),
    TOKEN_COLOURS[1]: "#22384f",
}
MARGIN, CELL = 20, 24  # pixels, as the next ones
FRAME_SIDE = 3 * CELL
FRAME_PITCH = FRAME_SIDE + 2 * CELL + 8  # from one frame to the next, past its learned tokens


class Drawing:
    """An SVG picture, light or dark as whoever shows it."""

    def __init__(self, title: str, width: int, height: int):
        size = {"width": str(width), "height": str(height), "viewBox": f"0 0 {width} {height}"}
        font = {"font-family": "Helvetica, Arial, sans-serif", "font-size": "14"}
        self.root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size, **font})
        ElementTree.SubElement(self.root, "title").text = title
        rules = [
            f"[fill='{light}'] {{fill: {dark}}} [stroke='{light}'] {{stroke: {dark}}}" for light, dark in DARK.items()
        ]
        ElementTree.SubElement(self.root, "style").text = f"@media (prefers-color-scheme: dark) {{{' '.join(rules)}}}"
        self.rectangle(0, 0, width, height, PAPER, line="none")

    def rectangle(self, left, top, width, height, fill, line=LINE):
        place = {"x": str(left), "y": str(top), "width": str(width), "height": str(height)}
        ElementTree.SubElement(self.root, "rect", {**place, "fill": fill, "stroke": line})

    def text(self, left, top, text, **style):
        style = {name.replace("_", "-"): str(value) for name, value in {"fill": INK, **style}.items()}
        ElementTree.SubElement(self.root, "text", {"x": str(left), "y": str(top), **style}).text = text

    def cell(self, left, top, width, height, fill, text):
        """A square with a text in its middle."""
        self.rectangle(left, top, width, height, fill)
        self.text(left + width / 2, top + height / 2 + 4, text, font_size=11, text_anchor="middle")

    def circle(self, left, top, radius, fill):
        place = {"cx": str(left), "cy": str(top), "r": str(radius)}
        ElementTree.SubElement(self.root, "circle", {**place, "fill": fill, "stroke": INK})

    def path(self, steps: str, fill: str, line="none"):
        ElementTree.SubElement(self.root, "path", {"d": steps, "fill": fill, "stroke": line, "stroke-width": "0.5"})

    def legend(self, left, top, entries: list[tuple[str, str]]):
        for colour, text in entries:
            self.rectangle(left, top, 14, 14, colour)
            self.text(left + 20, top + 12, text)
            left += 50 + 7 * len(text)

    def bytes(self) -> bytes:
        ElementTree.indent(self.root, space=" ")
        return ElementTree.tostring(self.root) + b"\n"


def places(num_frames: int, side: int) -> torch.Tensor:
    """(F, side, side, 3): tokens that know their frame, row and column."""
    return torch.cartesian_prod(*map(torch.arange, (num_frames, side, side))).view(num_frames, side, side, 3)


def learned(number: int) -> torch.Tensor:
    return torch.full((3,), number)


def draw_video(drawing: Drawing, left: int, top: int, order: list[list[int]]):
    """Draw the frames of a video, `FRAME_SIDE` pixels high, and the sequence of its tokens beside them. The number in a
    token is its place in the sequence. Learned tokens stand on the right of the row that they follow."""
    num_frames = 1 + max(frame for frame, _, _ in order)
    rows = [1 + max(row for frame, row, _ in order if frame == number) for number in range(num_frames)]
    strip = left + num_frames * FRAME_PITCH + MARGIN
    frame = row = beside = 0
    for number, token in enumerate(order):
        if token[0] >= 0:
            frame, row, column = token
            side = FRAME_SIDE // rows[frame]
            fill, beside = FRAME_COLOURS[frame], 0
            drawing.cell(left + frame * FRAME_PITCH + column * side, top + row * side, side, side, fill, str(number))
        else:
            fill = NEWLINE_COLOUR if token[0] == NEWLINE else END_COLOUR
            x = left + frame * FRAME_PITCH + FRAME_SIDE + beside
            drawing.cell(x, top + row * side, CELL - 2, side, fill, str(number))
            beside += CELL - 2
        drawing.cell(strip + number * CELL, top + (FRAME_SIDE - CELL) // 2, CELL, CELL, fill, str(number))


def newline_positions() -> bytes:
    """Two frames of 3 x 3 tokens, with newlines in each of the four positions."""
    panels = {
        "no_token": "no newlines",
        "one_token": "one newline behind the video",
        "frame": "a newline behind each frame",
        "grid": "a newline behind each row of each frame",
    }
    pitch = FRAME_SIDE + 54
    longest = 2 * 3 * 4
    width = 3 * MARGIN + 2 * FRAME_PITCH + longest * CELL
    drawing = Drawing("Where newlines go in a video", width, MARGIN + len(panels) * pitch + 34)
    for number, (position, meaning) in enumerate(panels.items()):
        order = lay_out_video(places(2, 3), learned(NEWLINE), position).tolist()
        top = MARGIN + number * pitch
        drawing.text(MARGIN, top + 12, f'"{position}"', font_weight="bold")
        drawing.text(MARGIN + 110, top + 12, f"{meaning}: {len(order)} tokens")
        draw_video(drawing, MARGIN, top + 22, order)
    entries = [(FRAME_COLOURS[0], "first frame"), (FRAME_COLOURS[1], "second frame"), (NEWLINE_COLOUR, "newline")]
    drawing.text(MARGIN + 400, MARGIN + len(panels) * pitch + 12, "numbers: places in the sequence of tokens")
    drawing.legend(MARGIN, MARGIN + len(panels) * pitch, entries)
    return drawing.bytes()


def slow_fast() -> bytes:
    """Four frames, of which each second one is slow."""
    order = lay_out_slow_fast_video(places(4, 2), places(4, 1), learned(NEWLINE), learned(FRAME_END), slow_stride=2)
    width = 3 * MARGIN + 4 * FRAME_PITCH + len(order) * CELL
    drawing = Drawing("The tokens of a slow-fast video", width, MARGIN + FRAME_SIDE + 72)
    drawing.text(MARGIN, MARGIN + 12, "slow_frame_stride=2", font_weight="bold")
    drawing.text(MARGIN + 170, MARGIN + 12, f"every second frame is pooled twice as coarsely: {len(order)} tokens")
    draw_video(drawing, MARGIN, MARGIN + 22, order.tolist())
    entries = [(colour, f"frame {number}") for number, colour in enumerate(FRAME_COLOURS)]
    entries += [(NEWLINE_COLOUR, "newline"), (END_COLOUR, "frame end")]
    drawing.legend(MARGIN, MARGIN + FRAME_SIDE + 40, entries)
    return drawing.bytes()


def pooling() -> bytes:
    """The 27 x 27 patches of a 384-pixel frame, pooled with stride 2 in both ways."""
    patches, stride, pixels = 27, 2, 14
    panel = patches * pixels
    drawing = Drawing("How pooling makes tokens of patches", 2 * panel + 4 * MARGIN, panel + 2 * MARGIN + 22 + 28)
    one_hot = torch.eye(patches**2).view(1, patches, patches, patches**2)
    middles = (torch.arange(patches) + 0.5) * pixels
    for number, mode in enumerate(("average", "bilinear")):
        left, top = MARGIN + number * (panel + 2 * MARGIN), MARGIN + 22
        [weights] = pool_grid(one_hot, mode, stride)  # (h', w', patches squared): what each token takes of each patch
        side = len(weights)
        drawing.text(left, MARGIN + 12, f'"{mode}"', font_weight="bold")
        drawing.text(left + 90, MARGIN + 12, f"{patches} x {patches} patches, {side} x {side} tokens")
        shares = weights.flatten(0, 1).round(decimals=4)  # so that equal shares are equal, and the first token counts
        token = shares.argmax(dim=0)  # of each patch, the one that takes most of it
        colours = [
            TOKEN_COLOURS[(int(t) // side + int(t) % side) % 2] if share > 0 else DROPPED
            for share, t in zip(shares.amax(dim=0), token)
        ]
        for colour in (*TOKEN_COLOURS, DROPPED):
            squares = [divmod(index, patches) for index, c in enumerate(colours) if c == colour]
            steps = "".join(f"M{left + c * pixels} {top + r * pixels}h{pixels}v{pixels}h-{pixels}z" for r, c in squares)
            if steps:
                drawing.path(steps, colour, line="#ffffff")
        by_patch = weights.view(side, side, patches, patches)
        rows = (by_patch.sum(3) * middles).sum(2).flatten().tolist()  # the middle of what a token takes
        columns = (by_patch.sum(2) * middles).sum(2).flatten().tolist()
        dots = (f"M{left + column - 1.5:.2f} {top + row - 1.5:.2f}h3v3h-3z" for row, column in zip(rows, columns))
        drawing.path("".join(dots), INK)
    below = MARGIN + 22 + panel + 14
    drawing.rectangle(MARGIN, below, 14, 14, TOKEN_COLOURS[0])
    drawing.legend(
        MARGIN + 18,
        below,
        [
            (TOKEN_COLOURS[1], "patches, coloured by the token that takes most"),
            (INK, "middle of a token"),
            (DROPPED, "dropped patches"),
        ],
    )
    return drawing.bytes()


def frame_sheet() -> bytes:
    """What the demonstration model sees of a clip."""
    file = BytesIO()
    draw_frame_sheet(AutoProcessor.from_pretrained(DEMO_CHECKPOINT), CLIP).save(file, "png", optimize=True)
    return file.getvalue()


def rooms() -> bytes:
    """The rooms of the package as floors, and which of them each one uses: the imports in its files."""
    floor, lane, text = 56, 36, 640
    drawing = Drawing(
        "The rooms, and what each of them uses", text + lane * len(ROOMS) + MARGIN, 30 + floor * len(ROOMS)
    )
    floors = {room: 30 + floor * number for number, room in enumerate(reversed(ROOMS))}
    drawing.text(MARGIN, 20, "Each room uses those below it that its line has a dot on.")
    for room, top in floors.items():
        drawing.rectangle(MARGIN, top, text - 2 * MARGIN, floor - 8, TOKEN_COLOURS[1])
        drawing.text(MARGIN + 10, top + 20, f"{room}/", font_weight="bold")
        story = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())).splitlines()[0]
        drawing.text(MARGIN + 10, top + 38, story, font_size=12)
    for number, (room, top) in enumerate(floors.items()):
        used = {room_of(name) for path in FILES if path.parent.name == room for _, name in imports_of(path)} - {room}
        left, middle = text + lane * number, (floor - 8) / 2
        if used:
            lowest = max(floors[each] for each in used)
            drawing.path(f"M {left} {top + middle} V {lowest + middle}", "none", INK)
        drawing.circle(left, top + middle, 6, PAPER)
        for each in sorted(used, key=ROOMS.index):  # a set has another order in each run
            drawing.circle(left, floors[each] + middle, 5, INK)
    return drawing.bytes()


PICTURES = {
    "rooms.svg": rooms,
    "newline_positions.svg": newline_positions,
    "slow_fast.svg": slow_fast,
    "pooling.svg": pooling,
    "frame_sheet.png": frame_sheet,
}


def is_up_to_date(name: str) -> bool:
    """Whether a file shows what is drawn now: the same bytes, or (PNG, where other versions of libraries draw letters
    and colours a little differently) nearly the same pixels."""
    path, drawn = FOLDER / name, PICTURES[name]()
    if not path.exists() or path.suffix != ".png":
        return path.exists() and path.read_bytes() == drawn
    images = [Image.open(file).convert("RGB") for file in (path, BytesIO(drawn))]
    return images[0].size == images[1].size and max(ImageStat.Stat(ImageChops.difference(*images)).mean) < 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="draw nothing; status 1 when a file is out of date")
    if parser.parse_args().check:
        old = [name for name in PICTURES if not is_up_to_date(name)]
        if old:
            print(f"out of date: {', '.join(old)}; run python docs/pictures/draw.py", file=sys.stderr)
        return bool(old)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_bytes(draw())
    return 0


if __name__ == "__main__":
    sys.exit(main())
