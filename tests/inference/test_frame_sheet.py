"""The sheet of frames shows the frames that the model gets, under their own times, and the tokens it makes of them."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoConfig, VideoReadError, draw_frame_sheet
from llava_next_video.__main__ import main
from llava_next_video.inference import frame_sheet
from llava_next_video.modeling.visual_tokens import pool_grid
from tests.test_placeholders_match_features import SLOW_FAST_RECIPES, VIDEO_RECIPES
from tests.tiny import config_arguments, make_processor, number_of, random_frames, write_video


CLIP = str(Path(__file__).parents[2] / "demo_model" / "samples" / "red_circle_moves_left.mp4")
NEWLINE_COLOUR, END_COLOUR = (colour for _, colour in frame_sheet.LEARNED.values())
RED = (200, 30, 40)


@pytest.fixture(scope="module")
def demo():
    return AutoProcessor.from_pretrained(DEMO_CHECKPOINT)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=200))


@pytest.fixture
def drawn(monkeypatch):
    """Every text that was drawn, and every picture with its label."""
    record = {"texts": [], "labelled": []}

    def write(text, size=14, original=frame_sheet.write):
        record["texts"].append(text)
        return original(text, size)

    def labelled(text, picture, original=frame_sheet.labelled):
        record["labelled"].append((text, picture))
        return original(text, picture)

    monkeypatch.setattr(frame_sheet, "write", write)
    monkeypatch.setattr(frame_sheet, "labelled", labelled)
    return record


def processor_of(**recipe):
    return make_processor(LlavaNextVideoConfig(**config_arguments(**recipe)))


def solid(*colours, height=24, width=40) -> np.ndarray:
    """A video with one frame of each colour."""
    return np.stack([np.full((height, width, 3), colour, dtype=np.uint8) for colour in colours])


def is_colour(picture: Image.Image, colour) -> np.ndarray:
    return (np.asarray(picture) == colour).all(axis=-1)


def largest_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the block of pixels that begins first in reading order."""
    top, left = np.argwhere(mask)[0]
    height = np.argmin(np.append(mask[top:, left], False))
    width = np.argmin(np.append(mask[top, left:], False))
    assert mask[top : top + height, left : left + width].all()
    return top, left, top + height, left + width


def test_a_cell_for_each_frame_in_reading_order():
    colours = [(20 * number + 10, 200 - 15 * number, 90) for number in range(11)]
    sheet = draw_frame_sheet(processor_of(), solid(*colours))
    boxes = [largest_box(is_colour(sheet, colour)) for colour in colours]
    assert {(bottom - top, right - left) for top, left, bottom, right in boxes} == {(192, 192)}  # 16 pixels, 12 times
    assert boxes == sorted(boxes)
    rows = [[left for _, left, *_ in row] for _, row in groupby(boxes, key=lambda box: box[0])]
    assert rows == [[16 + 200 * number for number in range(8)], [16, 216, 416]]
    assert sheet.width == 16 + 8 * 200 - 8 + 16


@pytest.mark.parametrize(("num_frames", "num_rows"), [(1, 1), (8, 1), (9, 2), (64, 8)])
def test_rows_of_the_sheet(num_frames, num_rows):
    processor = processor_of()
    heights = [draw_frame_sheet(processor, random_frames(n)).height for n in (1, num_frames)]
    assert heights[1] - heights[0] == (num_rows - 1) * (192 + 18 + 8)  # a cell, its label, a gap


def test_pixels_are_those_that_the_model_gets(demo, drawn):
    draw_frame_sheet(demo, CLIP)
    values = demo(text="<video>", videos=[CLIP])["pixel_values_videos"][0]
    seen = (255 * (0.5 * values + 0.5)).round().to(torch.uint8).movedim(1, -1).numpy()  # the checkpoint's mean and std
    assert len(drawn["labelled"]) == len(seen) + 1
    for (_, cell), frame in zip(drawn["labelled"], seen):
        assert np.array_equal(cell, frame)  # 144 pixels are large enough


@pytest.mark.parametrize("settings", [{}, {"num_frames": 5}, {"fps": 2}, {"num_frames": 5, "frame_sampling": "legacy"}])
def test_labels_name_the_frame_in_the_cell(demo, clip, drawn, settings):
    draw_frame_sheet(demo, clip, **settings)
    ids = demo.video_processor(clip, return_metadata=True, **settings)["video_metadata"][0].frames_indices
    cells = drawn["labelled"][:-1]
    assert [number_of(np.asarray(cell)) for _, cell in cells] == list(ids)
    assert [text for text, _ in cells] == [f"frame {i}  00:{i / 20:05.2f}" for i in ids]  # 20 frames a second
    assert f"{len(ids)} of 200 frames, each as the model sees it: 144 x 144 pixels" in drawn["texts"]


def test_frames_without_a_rate_have_numbers_only(drawn):
    draw_frame_sheet(processor_of(), random_frames(4), num_frames=2)
    assert [text for text, _ in drawn["labelled"]] == ["frame 0", "frame 3", "frame 3:  2 x 2"]


def test_frames_with_metadata_have_times(drawn):
    draw_frame_sheet(processor_of(), random_frames(2), video_metadata={"fps": 0.01, "total_num_frames": 2})
    assert [text for text, _ in drawn["labelled"][:2]] == ["frame 0  00:00.00", "frame 1  01:40.00"]


def test_cropping_is_visible():
    blue = (0, 0, 255)
    video = solid(blue, width=96)
    video[:, :, 30:66] = RED  # the crop takes columns 36 to 60
    sheet = draw_frame_sheet(processor_of(), video)
    assert not is_colour(sheet, blue).any()
    assert largest_box(is_colour(sheet, RED))[1] == 16


# --- tokens ---


@pytest.mark.parametrize("num_frames", [1, 4])
def test_tokens_drawn_are_the_placeholders(num_frames):
    for recipe in VIDEO_RECIPES + SLOW_FAST_RECIPES:
        processor = processor_of(**recipe)
        side = processor.video_processor.crop_size["height"]
        kinds = frame_sheet.kinds_of_frames(frame_sheet.token_order(processor, num_frames, side))
        assert sorted(number for members in kinds.values() for number in members) == list(range(num_frames)), recipe
        placeholders = processor(text="<video>", videos=[random_frames(num_frames)])["input_ids"]
        drawn = sum(len(tokens) * len(members) for tokens, members in kinds.items())
        assert drawn == (placeholders == processor.video_token_id).sum(), recipe


@pytest.mark.parametrize("mode", ["average", "bilinear"])
@pytest.mark.parametrize(("patches", "stride"), [(27, 2), (24, 2), (7, 3), (5, 2), (4, 1)])
def test_tokens_lie_where_pooling_looks(patches, stride, mode):
    processor = make_processor(LlavaNextVideoConfig(**config_arguments(grid=patches)))
    processor.spatial_pool_mode = mode
    middles = (torch.arange(patches) + 0.5) * processor.patch_size
    rows_and_columns = torch.stack(torch.meshgrid(middles, middles, indexing="ij"), dim=-1)[None]
    looked_at = pool_grid(rows_and_columns, mode, stride)
    boxes = frame_sheet.token_boxes(processor, 1, patches * processor.patch_size, stride)
    torch.testing.assert_close(boxes[..., 1:3] + boxes[..., 3:] / 2, looked_at)


@pytest.mark.parametrize(
    ("recipe", "members", "counts", "caption"),
    [
        ({}, [[0, 1, 2]], ["2 x 2"], "3 x (2 x 2) = 12 tokens"),
        (
            {"video_newline_position": "one_token"},
            [[0, 1], [2]],
            ["2 x 2", "2 x 2 + 1 newline"],
            "2 x (2 x 2) + 1 x (2 x 2 + 1 newline) = 13 tokens",
        ),
        (
            {"video_newline_position": "frame"},
            [[0, 1, 2]],
            ["2 x 2 + 1 newline"],
            "3 x (2 x 2 + 1 newline) = 15 tokens",
        ),
        (
            {"video_newline_position": "grid"},
            [[0, 1, 2]],
            ["2 x 2 + 2 newlines"],
            "3 x (2 x 2 + 2 newlines) = 18 tokens",
        ),
        (
            {"video_newline_position": "grid", "slow_frame_stride": 2},
            [[0, 2], [1]],
            ["2 x 2 + 2 newlines + 1 frame end", "1 x 1 + 1 newline + 1 frame end"],
            "2 x (2 x 2 + 2 newlines + 1 frame end) + 1 x (1 x 1 + 1 newline + 1 frame end) = 17 tokens",
        ),
        (
            {"grid": 5, "spatial_pool_mode": "bilinear"},
            [[0, 1, 2]],
            ["3 x 3"],
            "3 x (3 x 3) = 27 tokens",
        ),
    ],
)
def test_caption_counts_the_tokens_of_each_kind_of_frame(drawn, recipe, members, counts, caption):
    processor = processor_of(**recipe)
    side = processor.video_processor.crop_size["height"]
    kinds = frame_sheet.kinds_of_frames(frame_sheet.token_order(processor, 3, side))
    assert list(kinds.values()) == members
    draw_frame_sheet(processor, random_frames(3))
    assert [text for text, _ in drawn["labelled"][3:]] == [
        f"frame {numbers[len(numbers) // 2]}:  {count}" for numbers, count in zip(members, counts)
    ]
    assert caption in drawn["texts"]


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        ({"grid": 5}, "5 x 5 patches of 4 pixels, average pooling with stride 2, newlines: no_token"),
        (
            {"grid": 4, "spatial_pool_mode": "max", "video_newline_position": "grid", "slow_frame_stride": 3},
            "4 x 4 patches of 4 pixels, max pooling with stride 2, newlines: grid, one frame in 3 slow, the others "
            "pooled twice as coarsely",
        ),
    ],
)
def test_caption_tells_the_recipe(drawn, recipe, text):
    draw_frame_sheet(processor_of(**recipe), random_frames(2))
    assert text in drawn["texts"]


@pytest.mark.parametrize(
    ("recipe", "newlines", "ends"),
    [
        ({}, [False, False], False),
        ({"video_newline_position": "one_token"}, [False, True], False),
        ({"video_newline_position": "frame"}, [False, True], False),
        ({"video_newline_position": "grid"}, [True, True], False),
        ({"video_newline_position": "grid", "slow_frame_stride": 1}, [True, True], True),
    ],
)
def test_learned_tokens_stand_beside_the_row_they_follow(drawn, recipe, newlines, ends):
    sheet = draw_frame_sheet(processor_of(**recipe), solid(RED))
    picture = drawn["labelled"][-1][1]  # 16 pixels, 44 times, and what stands beside
    side = 16 * 44
    beside = picture.crop((side, 0, picture.width, side))
    for number, newline in enumerate(newlines):
        row = beside.crop((0, number * side // 2, beside.width, (number + 1) * side // 2))
        assert is_colour(row, NEWLINE_COLOUR).any() == newline
        assert is_colour(row, END_COLOUR).any() == (ends and number == 1)
    if ends:  # the frame's end follows the newline
        columns = [np.argwhere(is_colour(beside, colour))[:, 1] for colour in (NEWLINE_COLOUR, END_COLOUR)]
        assert columns[0].max() < columns[1].min()
    legend = drawn["texts"][-3:]
    assert ("newline" in legend, "frame end" in legend) == (any(newlines), ends)
    assert is_colour(sheet, NEWLINE_COLOUR).any() == any(newlines)


@pytest.mark.parametrize(
    ("recipe", "tokens_per_side", "covered_patches"),
    [
        ({"grid": 4}, 2, 4),
        ({"grid": 5}, 2, 4),
        ({"grid": 5, "spatial_pool_mode": "max"}, 2, 4),
        ({"grid": 5, "spatial_pool_mode": "conv"}, 2, 4),
        ({"grid": 5, "spatial_pool_mode": "bilinear"}, 3, 5),
        ({"grid": 5, "spatial_pool_stride": 1}, 5, 5),
        ({"grid": 7, "spatial_pool_stride": 3}, 2, 6),
    ],
)
def test_grid_lines_and_what_is_dropped(drawn, recipe, tokens_per_side, covered_patches):
    processor = processor_of(**recipe)
    draw_frame_sheet(processor, solid(RED))
    picture = np.asarray(drawn["labelled"][-1][1]).astype(int)
    side = 4 * recipe["grid"] * round(700 / (4 * recipe["grid"]))
    covered = side * covered_patches // recipe["grid"]
    is_red = (picture == RED).all(axis=-1)
    dropped = picture[covered:side, :side]
    assert (dropped.max(axis=-1) == dropped.min(axis=-1)).all()
    assert not is_red[:covered, covered:].any()
    # Along a line through the middle of the first row of tokens, red is cut into as many pieces as there are tokens.
    line = is_red[covered // tokens_per_side // 2, :covered]
    pieces = [len(list(pixels)) for red, pixels in groupby(line) if red]
    assert len(pieces) == tokens_per_side
    assert max(pieces) - min(pieces) <= 1
    assert sum(pieces) == covered - 2 * tokens_per_side  # a light and a dark line for each
    assert ("covered by no token" in drawn["texts"]) == (covered < side)


def test_pixels_that_fill_no_patch_are_grey(drawn):
    """SigLIP at 384 pixels has 27 patches of 14, which cover 378."""
    processor = processor_of(spatial_pool_mode="bilinear")
    processor.patch_size = 14
    square = {"size": {"shortest_edge": 384}, "crop_size": {"height": 384, "width": 384}}
    draw_frame_sheet(processor, solid(RED), **square)
    label, picture = drawn["labelled"][-1]
    assert label == "frame 0:  14 x 14"
    red = is_colour(picture, RED)  # 384 pixels, twice
    assert red[5, 750]
    assert not red[:, 756:].any()
    assert not red[756:].any()
    assert largest_box(is_colour(picture, picture.getpixel((760, 5))))[:2] == (0, 756)


# --- errors ---


def test_error_when_there_are_several_videos(demo):
    with pytest.raises(ValueError, match=r"frames of one video, but 2 were passed\. Draw a sheet for each"):
        draw_frame_sheet(demo, [random_frames(2), random_frames(3)])


def test_error_when_frames_are_not_square():
    message = r"returned frames of 16x21 pixels, which the model does not take\. Use the checkpoint's `size`"
    with pytest.raises(ValueError, match=message):
        draw_frame_sheet(processor_of(), random_frames(1), do_center_crop=False)


def test_error_when_the_video_cannot_be_read(demo):
    with pytest.raises(VideoReadError, match="there is no such file"):
        draw_frame_sheet(demo, "none.mp4")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no/such/folder.png", "No such file"),
        ("sheet.nonsense", "unknown file extension"),
        ("sheet.psd", "Pillow does not write PSD"),
    ],
)
def test_error_when_the_sheet_cannot_be_saved(tmp_path, demo, name, reason):
    message = rf"Could not save the sheet of frames as '.*{name}': .*{reason}.*Give a path in an existing folder"
    with pytest.raises(ValueError, match=message):
        frame_sheet.save_frame_sheet(tmp_path / name, demo, random_frames(1))
    assert not list(tmp_path.iterdir())


# --- the command line ---


def test_ask_saves_the_sheet_of_the_frames_it_used(clip, demo, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert main(["ask", clip, "What?", "--num-frames", "3", "--save-frames", str(path), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip()
    assert f"the frames are in {path}\n" in captured.err
    with Image.open(path) as sheet:
        assert np.array_equal(sheet, draw_frame_sheet(demo, clip, num_frames=3))


def test_the_sheet_is_there_when_the_model_cannot_be_loaded(clip, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError("too large")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", fail)
    assert main(["ask", clip, "What?", "--save-frames", str(tmp_path / "sheet.png")]) == 1
    assert "error: too large" in capsys.readouterr().err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 0


def test_a_wrong_name_for_the_sheet_is_told_before_the_model_is_loaded(clip, monkeypatch, capsys):
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *args, **kwargs: pytest.fail("loaded"))
    assert main(["ask", clip, "What?", "--save-frames", "sheet.mp4"]) == 1
    captured = capsys.readouterr()
    assert "error: Could not save the sheet of frames as 'sheet.mp4': unknown file extension: .mp4. " in captured.err
    assert "Traceback" not in captured.err
