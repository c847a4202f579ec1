"""A black image or video for batches that have none, so that all processes run the same parts of the model."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from llava_next_video.processing import LlavaNextVideoProcessor


@dataclass
class DummyVisual:
    """One image or video.

    Args:
        placeholders (`torch.Tensor` of shape (N,), int64): its placeholders, as token ids.
        pixels: arguments of the model, by name.
    """

    placeholders: torch.Tensor
    pixels: dict[str, torch.Tensor]


def dummy_video(processor: LlavaNextVideoProcessor, processor_kwargs: dict) -> DummyVisual:
    """One frame; of slow-fast videos two, a slow and a fast one."""
    num_frames = 1 if processor.slow_frame_stride is None else 2
    kwargs = {name: value for name, value in processor_kwargs.items() if name != "do_sample_frames"}
    kwargs["videos_kwargs"] = kwargs.get("videos_kwargs", {}) | {
        "do_sample_frames": False,
        "video_metadata": {"fps": 1.0, "total_num_frames": num_frames},
    }
    inputs = processor(
        text=[processor.video_token], videos=[np.zeros((num_frames, 64, 64, 3), dtype=np.uint8)], **kwargs
    )
    return dummy(inputs, processor.video_token_id, ("pixel_values_videos",))


def dummy_image(processor: LlavaNextVideoProcessor, processor_kwargs: dict) -> DummyVisual:
    """One image with as few tiles as possible."""
    height, width = min(processor.image_processor.image_grid_pinpoints, key=lambda size: size[0] * size[1])
    inputs = processor(text=[processor.image_token], images=Image.new("RGB", (width, height)), **processor_kwargs)
    return dummy(inputs, processor.image_token_id, ("pixel_values", "image_sizes"))


def dummy(inputs, token_id: int, names: tuple[str, ...]) -> DummyVisual:
    [ids] = inputs["input_ids"]
    return DummyVisual(ids[ids == token_id], {name: inputs[name] for name in names})


MAKERS = {"image": dummy_image, "video": dummy_video}
