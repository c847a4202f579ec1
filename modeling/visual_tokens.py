"""From grids of vision features to the tokens that the language model reads: pooling, newlines, unpadding.

Shape letters: F frames, T image tiles, h x w a grid of patches or pooled patches, D channels, N tokens.

Sources: `get_2dPool`, `add_token_per_grid`, `add_token_per_frame`, `unpad_image` and
`prepare_inputs_labels_for_multimodal` in llava/model/llava_arch.py of LLaVA-NeXT.
"""

import torch
from torch.nn import functional as F

from .configuration_llava_next_video import NewlinePosition, PoolMode
from .visual_grid import pooled_side, shrunk_grid, unpadded_grid


def pool_grid(features: torch.Tensor, mode: PoolMode, stride: int) -> torch.Tensor:
    """Pool every frame's grid of patches, (F, h, w, D) -> (F, h', w', D).

    `"average"` and `"max"` drop the rows and columns that do not fill a window; `"bilinear"` keeps ceil(h / stride).
    """
    if stride == 1:
        return features
    channels_first = features.movedim(-1, 1)  # (F, D, h, w)
    if mode == "average":
        pooled = F.avg_pool2d(channels_first, stride)  # (F, D, h', w')
    elif mode == "max":
        pooled = F.max_pool2d(channels_first, stride)  # (F, D, h', w')
    else:
        size = [pooled_side(side, stride, mode) for side in features.shape[1:3]]
        pooled = F.interpolate(channels_first, size=size, mode="bilinear")  # (F, D, h', w')
    return pooled.movedim(1, -1)  # (F, h', w', D)


def append_newlines(grids: torch.Tensor, newline: torch.Tensor) -> torch.Tensor:
    """Put the newline vector (D,) after every row of every grid, (F, h, w, D) -> (F, h, w + 1, D)."""
    newlines = newline.to(grids).expand(*grids.shape[:2], 1, -1)  # (F, h, 1, D)
    return torch.cat([grids, newlines], dim=2)


def lay_out_video(grids: torch.Tensor, newline: torch.Tensor, position: NewlinePosition) -> torch.Tensor:
    """Order the tokens of one video, (F, h, w, D) -> (N, D): frame by frame, row by row, newlines at `position`."""
    if position == "grid":
        return append_newlines(grids, newline).flatten(0, 2)  # (F * h * (w + 1), D)
    newline = newline.to(grids)
    if position == "frame":
        frames = grids.flatten(1, 2)  # (F, h * w, D)
        newlines = newline.expand(len(frames), 1, -1)  # (F, 1, D)
        return torch.cat([frames, newlines], dim=1).flatten(0, 1)  # (F * (h * w + 1), D)
    tokens = grids.flatten(0, 2)  # (F * h * w, D)
    return torch.cat([tokens, newline[None]]) if position == "one_token" else tokens


def lay_out_slow_fast_video(
    slow: torch.Tensor, fast: torch.Tensor, newline: torch.Tensor, frame_end: torch.Tensor, slow_stride: int
) -> torch.Tensor:
    """Order the tokens of one slow-fast video: frames 0, `slow_stride`, ... from `slow` (F, h, w, D), the others from
    the coarser `fast` (F, h', w', D), a newline after each row and `frame_end` (D,) after each frame -> (N, D)."""
    slow = append_newlines(slow, newline).flatten(1, 2)  # (F, h * (w + 1), D)
    fast = append_newlines(fast, newline).flatten(1, 2)  # (F, h' * (w' + 1), D)
    frame_end = frame_end.to(slow)[None]  # (1, D)
    pieces = []
    for index in range(len(slow)):
        pieces += [slow[index] if index % slow_stride == 0 else fast[index], frame_end]
    return torch.cat(pieces)


def lay_out_image(
    tiles: torch.Tensor,
    newline: torch.Tensor,
    image_size: tuple[int, int],
    tiles_shape: tuple[int, int],
    aspect_ratio: str,
) -> torch.Tensor:
    """Order the tokens of one image, (T, h, w, D) -> (N, D).

    The first tile is the overview of the whole image and has no newlines. The others are joined as they were cut, in
    `tiles_shape` (rows, columns); padding is cropped off, `anyres_max_N` shrinks images larger than N tiles, and every
    row ends in a newline. An image of one tile gets one newline at its end.
    """
    overview = tiles[0].flatten(0, 1)  # (h * w, D)
    if len(tiles) == 1:
        return torch.cat([overview, newline.to(overview)[None]])
    patches_per_side = tiles.shape[1]
    joined = tiles[1:].unflatten(0, tiles_shape)  # (tile rows, tile columns, h, w, D)
    joined = joined.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (H, W, D): all rows and columns of patches
    height, width = joined.shape[:2]
    rows, columns = unpadded_grid(height, width, image_size)
    top, left = (height - rows) // 2, (width - columns) // 2
    joined = joined[top : top + rows, left : left + columns]  # (rows, columns, D)
    size = shrunk_grid(rows, columns, patches_per_side, aspect_ratio)
    if size != (rows, columns):
        channels_first = joined.movedim(-1, 0)[None]  # (1, D, rows, columns)
        joined = F.interpolate(channels_first, size=size, mode="bilinear")[0].movedim(0, -1)  # (*size, D)
    return torch.cat([overview, append_newlines(joined[None], newline).flatten(0, 2)])
