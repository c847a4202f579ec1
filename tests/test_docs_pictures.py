"""The pictures in docs/pictures are those that the script draws now, and say what the model does."""

import runpy
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest


FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def script():
    return runpy.run_path(str(FOLDER / "draw.py"))


def cells(name: str) -> list[tuple[str, str]]:
    """Colour and number of every cell of a picture, in the order of drawing."""
    shapes = [shape for shape in ElementTree.parse(FOLDER / name).getroot() if shape.tag != SVG + "title"]
    pairs = pairwise(shapes)
    return [(a.get("fill"), b.text) for a, b in pairs if a.tag == SVG + "rect" and b.get("text-anchor") == "middle"]


def test_pictures_are_up_to_date_and_small(script):
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == {*script["PICTURES"], "draw.py"}
    assert [name for name in script["PICTURES"] if not script["is_up_to_date"](name)] == []
    assert max((FOLDER / name).stat().st_size for name in script["PICTURES"]) < 100_000


def test_check_names_what_is_out_of_date(script, tmp_path, monkeypatch, capsys):
    main = script["main"]
    monkeypatch.setitem(main.__globals__, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["draw.py"])
    assert main() == 0
    monkeypatch.setattr(sys, "argv", ["draw.py", "--check"])
    assert main() == 0
    (tmp_path / "pooling.svg").write_bytes((tmp_path / "pooling.svg").read_bytes().replace(b"13 x 13", b"12 x 12"))
    (tmp_path / "frame_sheet.png").unlink()
    assert main() == 1
    assert "out of date: pooling.svg, frame_sheet.png; run python docs/pictures/draw.py" in capsys.readouterr().err


def test_newlines_are_drawn_where_they_are(script):
    """Each token is drawn in its frame and in the sequence; 18 tokens and, by position, their newlines."""
    drawn = cells("newline_positions.svg")
    newline = script["NEWLINE_COLOUR"]
    for newlines in ([], [18], [9, 19], [3, 7, 11, 15, 19, 23]):
        panel, drawn = drawn[: 2 * (18 + len(newlines))], drawn[2 * (18 + len(newlines)) :]
        assert [int(number) for _, number in panel] == [n for n in range(18 + len(newlines)) for _ in range(2)]
        assert sorted({int(number) for colour, number in panel if colour == newline}) == newlines
    assert drawn == []


def test_slow_and_fast_frames_are_drawn_as_they_are(script):
    drawn = cells("slow_fast.svg")[::2]
    assert [int(number) for colour, number in drawn if colour == script["NEWLINE_COLOUR"]] == [2, 5, 8, 12, 15, 18]
    assert [int(number) for colour, number in drawn if colour == script["END_COLOUR"]] == [6, 9, 16, 19]


def test_dropped_patches_are_drawn(script):
    """Average pooling drops the last row and column of 27 patches, bilinear pooling none."""
    paths = ElementTree.parse(FOLDER / "pooling.svg").getroot().findall(SVG + "path")
    counts = [(path.get("fill"), path.get("d").count("M")) for path in paths]
    by_panel = counts[:4], counts[4:]
    assert dict(by_panel[0])[script["DROPPED"]] == 2 * 27 - 1
    assert dict(by_panel[0])[script["INK"]] == 13 * 13
    assert script["DROPPED"] not in dict(by_panel[1])
    assert dict(by_panel[1])[script["INK"]] == 14 * 14
