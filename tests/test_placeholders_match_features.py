"""The processor counts, the model computes: as many placeholders as features, for every recipe and every size."""

from itertools import product

import pytest
import torch
from PIL import Image

from llava_next_video import LlavaNextVideoConfig
from llava_next_video.modeling.visual_grid import image_token_count, tile_grid, video_token_count
from llava_next_video.modeling.visual_tokens import lay_out_image, lay_out_slow_fast_video, lay_out_video
from tests.tiny import config_arguments, make_model, make_processor, pinpoints, random_frames


MODES = ("average", "max", "bilinear", "conv")
NEWLINES = ("no_token", "one_token", "frame", "grid")
VIDEO_RECIPES = [
    {"grid": grid, "spatial_pool_mode": mode, "spatial_pool_stride": stride, "video_newline_position": newline}
    | {"spatial_pool_position": position}
    for grid, mode, stride, newline, position in product(
        (4, 5), MODES, (1, 2, 3), NEWLINES, ("before_projector", "after_projector")
    )
]
SLOW_FAST_RECIPES = [
    {"grid": grid, "spatial_pool_mode": mode, "spatial_pool_stride": stride, "slow_frame_stride": slow}
    | {"video_newline_position": "grid", "spatial_pool_position": position}
    for grid, mode, (stride, slow), position in product(
        (4, 7), MODES[:3], ((1, 1), (1, 3), (2, 2)), ("before_projector", "after_projector")
    )
]
ASPECT_RATIOS = ("anyres", "anyres_max_1", "anyres_max_3", "pad", "square")
IMAGE_SIZES = [
    *[
        (1, 1000),
        (2, 333),
        (10, 100),
        (17, 23),
        (30, 31),
        (64, 64),
        (33, 32),
        (48, 16),
        (200, 90),
        (1000, 3),
        (1000, 1),
    ],
    *[(100, 300), (300, 100), (299, 100), (101, 67), (7, 7), (640, 480), (333, 1000)],
]


@pytest.fixture(scope="module")
def towers():
    """One random model for each size of grid; the recipes are switched on it, which costs nothing."""
    return {grid: make_model(grid=grid, video_newline_position="grid", slow_frame_stride=1) for grid in (4, 5, 7)}


@pytest.mark.parametrize("num_frames", [1, 4])
def test_video_placeholders_match_features(towers, num_frames):
    for recipe in VIDEO_RECIPES + SLOW_FAST_RECIPES:
        config = LlavaNextVideoConfig(**config_arguments(**recipe))
        model = make_model(**recipe) if recipe["spatial_pool_mode"] == "conv" else with_recipe(towers, config)
        inputs = make_processor(config)(text="<video>", videos=[random_frames(num_frames)])
        placeholders = int((inputs["input_ids"] == config.video_token_id).sum())
        features = model.get_video_features(inputs["pixel_values_videos"]).pooler_output
        assert [placeholders] == [len(tokens) for tokens in features], recipe


def with_recipe(towers: dict, config: LlavaNextVideoConfig):
    model = towers[config.patches_per_side]
    for name in ("spatial_pool_position", "video_newline_position", "slow_frame_stride"):
        setattr(model.config, name, getattr(config, name))
    model.model.vision_resampler.mode = config.spatial_pool_mode
    model.model.vision_resampler.stride = config.spatial_pool_stride
    return model


@pytest.mark.parametrize("aspect_ratio", ASPECT_RATIOS)
def test_image_placeholders_match_features(aspect_ratio):
    for grid in (4, 5):
        model = make_model(grid=grid, image_aspect_ratio=aspect_ratio)
        processor = make_processor(model.config)
        for size in IMAGE_SIZES:
            image = Image.new("RGB", size[::-1], (200, 100, 50))
            inputs = processor(text="<image>", images=image)
            placeholders = int((inputs["input_ids"] == model.config.image_token_id).sum())
            features = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
            assert [placeholders] == [len(tokens) for tokens in features], (aspect_ratio, grid, size)


@pytest.mark.parametrize(("patches_per_side", "side"), [(24, 336), (27, 384)])
@pytest.mark.parametrize("aspect_ratio", ["anyres", "anyres_max_2", "anyres_max_9"])
def test_image_arithmetic_agrees_at_full_size(patches_per_side, side, aspect_ratio):
    grids = [[height * side, width * side] for height in range(1, 7) for width in range(1, 7)]
    newline = torch.zeros(1)
    for size in [*IMAGE_SIZES, (480, 853), (800, 600), (90, 700), (1500, 200), (5, 500), (2000, 3000)]:
        for pins in (pinpoints(side), grids):
            rows, columns = tile_grid(size, side, pins)
            tiles = torch.zeros(rows * columns + 1, patches_per_side, patches_per_side, 1)
            tokens = lay_out_image(tiles, newline, size, (rows, columns), aspect_ratio)
            assert len(tokens) == image_token_count(size, patches_per_side, side, pins, aspect_ratio), size


@pytest.mark.parametrize("image_size", [(624, 1872), (820, 1476), (832, 1872), (1476, 820)])
def test_a_rounding_error_neither_adds_nor_loses_a_row(image_size):
    """Sizes whose last row (or column) of patches is 1e-12 off the image, at SigLIP 384/14: both sides round it."""
    sizes = [[384 * rows, 384 * columns] for rows, columns in product(range(1, 7), repeat=2)]
    grid = tile_grid(image_size, 384, sizes)
    tiles = torch.zeros(grid[0] * grid[1] + 1, 27, 27, 1)
    tokens = lay_out_image(tiles, torch.zeros(1), image_size, grid, "anyres")
    assert len(tokens) == image_token_count(image_size, 27, 384, sizes, "anyres")


def test_serving_counts_equal_the_processors():
    model = make_model(tower="siglip", grid=5, spatial_pool_mode="bilinear", video_newline_position="frame")
    processor = make_processor(model.config)
    counts = processor._get_num_multimodal_tokens(image_sizes=[[24, 40], [90, 7]], video_sizes=[[3, 24, 32]])
    images = [Image.new("RGB", (40, 24)), Image.new("RGB", (7, 90))]
    ids = processor(text="<image><image><video>", images=images, videos=[random_frames(3)])["input_ids"]
    assert sum(counts["num_image_tokens"]) == (ids == model.config.image_token_id).sum()
    assert sum(counts["num_video_tokens"]) == (ids == model.config.video_token_id).sum()
    assert counts["num_image_patches"] == [1, 1]


def test_settings_of_a_call_are_counted_with():
    model = make_model(grid=5)
    processor = make_processor(model.config)
    picture = Image.new("RGB", (90, 30))
    larger = {"size": {"shortest_edge": 40}, "crop_size": {"height": 40, "width": 40}}
    whole = {**larger, "image_grid_pinpoints": [[40, 80]]}
    for overrides in ({"image_aspect_ratio": "square"}, {"image_grid_pinpoints": [[20, 20]]}, whole):
        inputs = processor(text="<image><video>", images=picture, videos=[random_frames(2)], images_kwargs=overrides)
        counts = processor._get_num_multimodal_tokens(image_sizes=[[30, 90]], images_kwargs=overrides)
        assert counts["num_image_tokens"] == [int((inputs["input_ids"] == model.config.image_token_id).sum())]
        if overrides is not whole:  # the tower takes 20 pixels
            model.config.image_aspect_ratio = overrides.get("image_aspect_ratio", "anyres")
            model.config.image_grid_pinpoints = overrides.get("image_grid_pinpoints", [[40, 20]])
            features = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
            assert counts["num_image_tokens"] == [len(tokens) for tokens in features]
    counts = processor._get_num_multimodal_tokens(video_sizes=[[2, 9, 9]], videos_kwargs=larger)
    assert counts["num_video_tokens"] == [2 * 25]


def test_offsets_of_replaced_text():
    processor = make_processor(make_model().config)
    inputs = processor(text="a<video>b", videos=[random_frames(2)], return_text_replacement_offsets=True)
    [[offset]] = inputs["text_replacement_offsets"]
    assert offset["span"] == (1, 8)
    assert offset["replacement"] == "<video>" * 8
    assert offset["new_span"] == (1, 1 + len(offset["replacement"]))


def test_released_numbers():
    """32B-Qwen: SigLIP 384/14 has 27 patches a side; 7B: CLIP 336/14 has 24."""
    assert video_token_count(32, 27, 2, "average", "grid") == 5824
    assert video_token_count(32, 24, 2, "average", "no_token") == 4608


# Orders worked out by hand. Patches are numbered 0, 1, 2, ... in reading order, frame by frame; the newline is -1.


def numbered(num_frames: int, height: int, width: int, first: int = 0) -> torch.Tensor:
    return torch.arange(first, first + num_frames * height * width).float().view(num_frames, height, width, 1)


@pytest.mark.parametrize(
    ("position", "order"),
    [
        ("no_token", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("one_token", [0, 1, 2, 3, 4, 5, 6, 7, -1]),
        ("frame", [0, 1, 2, 3, -1, 4, 5, 6, 7, -1]),
        ("grid", [0, 1, -1, 2, 3, -1, 4, 5, -1, 6, 7, -1]),
    ],
)
def test_order_of_video_tokens_and_newlines(position, order):
    assert lay_out_video(numbered(2, 2, 2), torch.tensor([-1.0]), position).flatten().tolist() == order


def test_order_of_slow_and_fast_frames():
    slow, fast = numbered(3, 2, 2), numbered(3, 1, 1, first=100)
    tokens = lay_out_slow_fast_video(slow, fast, torch.tensor([-1.0]), torch.tensor([-2.0]), slow_stride=2)
    assert tokens.flatten().tolist() == [0, 1, -1, 2, 3, -1, -2, 101, -1, -2, 8, 9, -1, 10, 11, -1, -2]


def test_order_of_image_tiles_and_newlines():
    """Overview, then two tiles side by side, read across; an image of aspect 1:4 fills one of the two rows."""
    tiles = numbered(3, 2, 2)  # the overview is 0..3, the tiles 4..7 and 8..11
    newline = torch.tensor([-1.0])
    wide = lay_out_image(tiles, newline, (50, 100), (1, 2), "anyres").flatten().tolist()
    assert wide == [0, 1, 2, 3, 4, 5, 8, 9, -1, 6, 7, 10, 11, -1]
    one_tile = lay_out_image(tiles[:1], newline, (50, 100), (0, 0), "pad").flatten().tolist()
    assert one_tile == [0, 1, 2, 3, -1]
    tall_in_square = lay_out_image(numbered(5, 2, 2), newline, (100, 50), (2, 2), "anyres").flatten().tolist()
    assert tall_in_square == [0, 1, 2, 3, 5, 8, -1, 7, 10, -1, 13, 16, -1, 15, 18, -1]
