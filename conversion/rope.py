"""Longer prompts than a language model was trained on: the linear stretch of positions that the original applies.

Source: playground/demo/video_demo.py in LLaVA-NeXT, which stretches models with "vicuna" in their name.
"""

import math

from llava_next_video.processing.token_counting import video_token_count


def rope_factor_for(
    num_frames: int,
    spatial_pool_stride: int = 2,
    patches_per_side: int = 24,
    context_length: int = 4096,
    num_text_tokens: int = 1000,
    spatial_pool_mode: str = "average",
    video_newline_position: str = "no_token",
    slow_frame_stride: int | None = None,
) -> float:
    """The factor for `rope_parameters` ("rope_type": "linear") with which a video and its question fit the context.

    Args:
        num_frames: frames after sampling.
        spatial_pool_stride, spatial_pool_mode, video_newline_position, slow_frame_stride: as in
            `LlavaNextVideoConfig`, with the same defaults; they decide how many tokens a frame takes.
        patches_per_side: rows (and columns) of vision patches in a frame; 24 for CLIP at 336 pixels.
        context_length: tokens the language model was trained on.
        num_text_tokens: room for everything else, as the original assumes it.

    Returns:
        A whole number; 1.0 is no stretch.

    >>> rope_factor_for(32), rope_factor_for(16)
    (2.0, 1.0)
    >>> rope_factor_for(64, 2, 27, 12000, spatial_pool_mode="bilinear", video_newline_position="grid")  # 13440 + 1000
    2.0
    """
    video = video_token_count(
        num_frames,
        patches_per_side,
        spatial_pool_stride,
        spatial_pool_mode,
        video_newline_position,
        slow_frame_stride,
    )
    return float(max(1, math.ceil((video + num_text_tokens) / context_length)))
