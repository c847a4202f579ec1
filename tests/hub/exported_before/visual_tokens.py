"""From grids of vision features to the rows that the language model reads: pooling, newlines, unpadding.

Shape letters: F frames, T image tiles, h x w a grid of patches or pooled patches, D channels, N tokens.

Sources: `get_2dPool`, `add_token_per_grid`, `add_token_per_frame`, `unpad_image` and
`prepare_inputs_labels_for_multimodal` in llava/model/llava_arch.py of LLaVA-NeXT.
"""

import math
import re

import torch
from torch.nn import functional as F
from transformers.image_processing_utils import select_best_resolution


def pool_grid(features: torch.Tensor, mode: str, stride: int) -> torch.Tensor:
    """Pool every frame's grid of patches, (F, h, w, D) -> (F, h', w', D).

    `"average"` and `"max"` drop the rows and columns that do not fill a window; `"bilinear"` keeps ceil(h / stride).
    """
    if stride == 1:
        return features
    channels_first = features.movedim(-1, 1)  # (F, D, h, w)
    if mode == "average":
        pooled = F.avg_pool2d(channels_first, stride)
    elif mode == "max":
        pooled = F.max_pool2d(channels_first, stride)
    else:
        size = [math.ceil(side / stride) for side in features.shape[1:3]]
        pooled = F.interpolate(channels_first, size=size, mode="bilinear")
    return pooled.movedim(1, -1)


def close_rows(grid: torch.Tensor, newline: torch.Tensor) -> torch.Tensor:
    """Put the newline vector behind every row of every grid, (F, h, w, D) -> (F, h, w + 1, D)."""
    return torch.cat([grid, newline.to(grid).expand(*grid.shape[:2], 1, -1)], dim=2)


def lay_out_video(grids: torch.Tensor, newline: torch.Tensor, position: str) -> torch.Tensor:
    """Order the tokens of one video, (F, h, w, D) -> (N, D): frame by frame, row by row, newlines at `position`."""
    if position == "grid":
        return close_rows(grids, newline).flatten(0, 2)
    newline = newline.to(grids)
    if position == "frame":
        frames = grids.flatten(1, 2)  # (F, h * w, D)
        return torch.cat([frames, newline.expand(len(frames), 1, -1)], dim=1).flatten(0, 1)
    tokens = grids.flatten(0, 2)
    return torch.cat([tokens, newline[None]]) if position == "one_token" else tokens


def lay_out_slow_fast_video(
    slow: torch.Tensor, fast: torch.Tensor, newline: torch.Tensor, frame_end: torch.Tensor, slow_stride: int
) -> torch.Tensor:
    """Order the tokens of one slow-fast video: frames 0, `slow_stride`, ... from `slow` (F, h, w, D), the others from
    the coarser `fast` (F, h', w', D), a newline after each row and `frame_end` (D,) after each frame -> (N, D)."""
    slow, fast = close_rows(slow, newline).flatten(1, 2), close_rows(fast, newline).flatten(1, 2)
    frame_end = frame_end.to(slow)[None]
    pieces = []
    for index in range(len(slow)):
        pieces += [slow[index] if index % slow_stride == 0 else fast[index], frame_end]
    return torch.cat(pieces)


def tile_grid(image_size: tuple[int, int], grid_pinpoints: list, tile_side: int) -> tuple[int, int]:
    """Rows and columns of tiles that an image of (height, width) pixels is cut into."""
    height, width = select_best_resolution(image_size, grid_pinpoints)
    return height // tile_side, width // tile_side


def unpadded_grid(height: int, width: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a (height x width) grid of patches that lie on the image and not on its padding.

    >>> unpadded_grid(48, 48, image_size=(300, 600))
    (24, 48)
    """
    image_height, image_width = image_size
    # Rounded before it is cut, as in transformers: 23.999999999 rows are 24.
    if image_width / image_height > width / height:
        rows = int(round(image_height * (width / image_width), 7))
        return height - 2 * ((height - rows) // 2), width
    columns = int(round(image_width * (height / image_height), 7))
    return height, width - 2 * ((width - columns) // 2)


def shrunk_grid(height: int, width: int, patches_per_side: int, max_tiles: int) -> tuple[int, int]:
    """Size that `anyres_max_N` shrinks an image's grid of patches to, or the same size when it is small enough."""
    times = math.sqrt(height * width / (max_tiles * patches_per_side**2))
    return (int(height // times), int(width // times)) if times > 1.1 else (height, width)


def lay_out_image(
    tiles: torch.Tensor,
    newline: torch.Tensor,
    image_size: tuple[int, int],
    tiles_shape: tuple[int, int],
    aspect_ratio: str,
) -> torch.Tensor:
    """Order the tokens of one image, (T, h, w, D) -> (N, D).

    The first tile is the overview of the whole image and comes without newlines. The others are joined to the
    `tiles_shape` (rows, columns) they were cut from; padding is cropped off, `anyres_max_N` shrinks what is larger
    than N tiles, and every row ends in a newline. An image of one tile gets one newline at its end.
    """
    overview = tiles[0].flatten(0, 1)  # (h * w, D)
    if len(tiles) == 1:
        return torch.cat([overview, newline.to(overview)[None]])
    patches_per_side = tiles.shape[1]
    joined = tiles[1:].unflatten(0, tiles_shape).transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (H, W, D)
    height, width = joined.shape[:2]
    rows, columns = unpadded_grid(height, width, image_size)
    top, left = (height - rows) // 2, (width - columns) // 2
    joined = joined[top : top + rows, left : left + columns]
    if limit := re.fullmatch(r"anyres_max_(\d+)", aspect_ratio):
        size = shrunk_grid(rows, columns, patches_per_side, int(limit[1]))
        if size != (rows, columns):
            joined = F.interpolate(joined.movedim(-1, 0)[None], size=size, mode="bilinear")[0].movedim(0, -1)
    return torch.cat([overview, close_rows(joined[None], newline).flatten(0, 2)])
