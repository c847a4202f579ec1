"""The arithmetic of grids: how many rows, columns and tokens a video frame or an image has.

Plain functions of whole numbers. The model uses them to lay out its features (`visual_tokens.py`), the processor to
count placeholders, the frame sheet to draw.

Sources: `get_2dPool`, `unpad_image` and `prepare_inputs_labels_for_multimodal` in llava/model/llava_arch.py of
LLaVA-NeXT; for `rope_factor_for` playground/demo/video_demo.py.
"""

import math

from transformers.image_processing_utils import select_best_resolution

from .configuration_llava_next_video import ASPECT_RATIO, NewlinePosition, PoolMode


def pooled_side(patches_per_side: int, pool_stride: int, pool_mode: PoolMode) -> int:
    """Rows (or columns) that pooling makes of `patches_per_side`: bilinear rounds up, the others down.

    >>> pooled_side(27, 2, "average"), pooled_side(27, 2, "bilinear")
    (13, 14)
    """
    return math.ceil(patches_per_side / pool_stride) if pool_mode == "bilinear" else patches_per_side // pool_stride


def video_token_count(
    num_frames: int,
    patches_per_side: int,
    pool_stride: int,
    pool_mode: PoolMode,
    newline_position: NewlinePosition,
    slow_frame_stride: int | None = None,
) -> int:
    """Tokens of one video: pooled patches and newlines of every frame.

    Args:
        num_frames: frames left after sampling.
        patches_per_side: rows (and columns) of vision patches in a frame.
        pool_stride, pool_mode, newline_position, slow_frame_stride: as in `LlavaNextVideoConfig`.

    >>> video_token_count(32, 27, 2, "average", "grid")  # the 32B-Qwen recipe
    5824
    >>> video_token_count(32, 24, 2, "average", "no_token")  # the 7B recipe
    4608
    """
    side = pooled_side(patches_per_side, pool_stride, pool_mode)
    if slow_frame_stride is not None:
        fast_side = pooled_side(patches_per_side, 2 * pool_stride, pool_mode)
        num_slow = math.ceil(num_frames / slow_frame_stride)
        tokens_per_slow, tokens_per_fast = side * (side + 1) + 1, fast_side * (fast_side + 1) + 1
        return num_slow * tokens_per_slow + (num_frames - num_slow) * tokens_per_fast
    newlines = {"no_token": 0, "one_token": 1, "frame": num_frames, "grid": num_frames * side}[newline_position]
    return num_frames * side * side + newlines


def rope_factor_for(
    num_frames: int,
    spatial_pool_stride: int = 2,
    patches_per_side: int = 24,
    context_length: int = 4096,
    num_text_tokens: int = 1000,
    spatial_pool_mode: PoolMode = "average",
    video_newline_position: NewlinePosition = "no_token",
    slow_frame_stride: int | None = None,
) -> float:
    """The factor for `rope_parameters` ("rope_type": "linear") that lets a video and its question fit the context.

    Args:
        num_frames: frames after sampling.
        spatial_pool_stride, spatial_pool_mode, video_newline_position, slow_frame_stride: as in
            `LlavaNextVideoConfig`, with the same defaults; they decide how many tokens a frame takes.
        patches_per_side: rows (and columns) of vision patches in a frame; 24 for CLIP at 336 pixels.
        context_length: tokens the language model was trained on.
        num_text_tokens: room for everything else; the default is the original's.

    Returns:
        A whole number; 1.0 leaves the positions as they are.

    >>> rope_factor_for(32), rope_factor_for(16)
    (2.0, 1.0)
    >>> rope_factor_for(64, 2, 27, 12000, spatial_pool_mode="bilinear", video_newline_position="grid")  # 13440 + 1000
    2.0
    """
    video = video_token_count(
        num_frames, patches_per_side, spatial_pool_stride, spatial_pool_mode, video_newline_position, slow_frame_stride
    )
    return float(max(1, math.ceil((video + num_text_tokens) / context_length)))


def tile_grid(
    image_size: tuple[int, int], tile_side: int, grid_pinpoints: list, aspect_ratio: str = "anyres"
) -> tuple[int, int]:
    """Rows and columns of tiles that an image of (height, width) pixels is cut into, besides its overview; (0, 0) when
    an image is one square."""
    if not aspect_ratio.startswith("anyres"):
        return 0, 0
    height, width = select_best_resolution(image_size, grid_pinpoints)
    return height // tile_side, width // tile_side


def unpadded_grid(height: int, width: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a (height x width) grid of patches that show the image and not its padding.

    >>> unpadded_grid(48, 48, image_size=(300, 600))
    (24, 48)
    """
    image_height, image_width = image_size
    # Rounded before the fraction is cut off, as in transformers: 23.999999999 rows are 24.
    if image_width / image_height > width / height:
        rows = int(round(image_height * (width / image_width), 7))
        return height - 2 * ((height - rows) // 2), width
    columns = int(round(image_width * (height / image_height), 7))
    return height, width - 2 * ((width - columns) // 2)


def shrunk_grid(rows: int, columns: int, patches_per_side: int, aspect_ratio: str) -> tuple[int, int]:
    """Rows and columns of an image's patches after `anyres_max_N`, which shrinks images larger than N tiles."""
    found = ASPECT_RATIO.fullmatch(aspect_ratio)
    if found is None or found[1] is None:
        return rows, columns
    scale = math.sqrt(rows * columns / (int(found[1]) * patches_per_side**2))
    return (int(rows // scale), int(columns // scale)) if scale > 1.1 else (rows, columns)


def image_token_count(
    image_size: tuple[int, int], patches_per_side: int, tile_side: int, grid_pinpoints: list, aspect_ratio: str
) -> int:
    """Tokens of one image: the overview, and the tiles without their padding with a newline per row.

    Args:
        image_size: height and width in pixels, before any processing.
        patches_per_side: rows (and columns) of vision patches in a tile.
        tile_side: side of a tile in pixels.
        grid_pinpoints, aspect_ratio: as `image_grid_pinpoints` and `image_aspect_ratio` in `LlavaNextVideoConfig`.

    >>> image_token_count((800, 600), 24, 336, [[336, 672], [672, 336], [672, 672]], "anyres")
    2352
    """
    tile_rows, tile_columns = tile_grid(image_size, tile_side, grid_pinpoints, aspect_ratio)
    overview = patches_per_side**2
    if not tile_rows:
        return overview + 1
    rows, columns = unpadded_grid(tile_rows * patches_per_side, tile_columns * patches_per_side, image_size)
    rows, columns = shrunk_grid(rows, columns, patches_per_side, aspect_ratio)
    return overview + rows * (columns + 1)
