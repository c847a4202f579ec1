"""How many placeholder tokens a video or an image takes: arithmetic that mirrors what the model does with tensors.

A table of sizes in the tests holds this file and the model together.

Sources: `prepare_inputs_labels_for_multimodal` and `unpad_image` in llava/model/llava_arch.py of LLaVA-NeXT.
"""

import math
import re

from transformers.image_processing_utils import select_best_resolution


def pooled_side(patches_per_side: int, pool_stride: int, pool_mode: str) -> int:
    """Rows (or columns) that are left of `patches_per_side` after pooling: bilinear rounds up, the others down.

    >>> pooled_side(27, 2, "average"), pooled_side(27, 2, "bilinear")
    (13, 14)
    """
    return math.ceil(patches_per_side / pool_stride) if pool_mode == "bilinear" else patches_per_side // pool_stride


def video_token_count(
    num_frames: int,
    patches_per_side: int,
    pool_stride: int,
    pool_mode: str,
    newline_position: str,
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


def image_token_count(
    image_size: tuple[int, int],
    patches_per_side: int,
    tile_side: int,
    grid_pinpoints: list,
    aspect_ratio: str,
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
    overview = patches_per_side**2
    if not aspect_ratio.startswith("anyres"):
        return overview + 1
    image_height, image_width = image_size
    best_height, best_width = select_best_resolution(image_size, grid_pinpoints)
    height = best_height // tile_side * patches_per_side
    width = best_width // tile_side * patches_per_side
    # Rounded before it is cut, as in transformers: 23.999999999 rows are 24.
    if image_width / image_height > width / height:
        height -= 2 * ((height - int(round(image_height * (width / image_width), 7))) // 2)
    else:
        width -= 2 * ((width - int(round(image_width * (height / image_height), 7))) // 2)
    if limit := re.fullmatch(r"anyres_max_(\d+)", aspect_ratio):
        times = math.sqrt(height * width / (int(limit[1]) * overview))
        if times > 1.1:
            height, width = int(height // times), int(width // times)
    return overview + height * (width + 1)
