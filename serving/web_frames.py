"""The frames of a video as the model sees them, for a web page: a sheet that fits any screen, light or dark."""

from base64 import b64encode
from html import escape
from io import BytesIO

import torch
from PIL import Image

from llava_next_video.inference.frame_sheet import as_pictures, describe_frames, names_of_frames, thumbnail
from llava_next_video.processing.processing_llava_next_video import LlavaNextVideoProcessor
from llava_next_video.processing.video_inputs import ProcessedVideo


def frames_as_html(processor: LlavaNextVideoProcessor, video: ProcessedVideo, seconds: float) -> str:
    """The frames of a prepared video, each with its number and time, and a description below them.

    The pictures are in the HTML, so that no file has to be kept for them.

    Args:
        seconds: how long reading the video took.
    """
    pixels = unprepared(video.pixel_values, processor.video_processor)
    names = names_of_frames(video.metadata)
    figures = [
        f'<figure><img src="{data_url(picture)}" alt="{escape(name)}"><figcaption>{escape(name)}</figcaption></figure>'
        for name, picture in zip(names, as_pictures(pixels))
    ]
    num_frames, _, side, _ = pixels.shape
    lines = describe_frames(processor, num_frames, video.metadata.total_num_frames, side)
    about = "<br>".join(map(escape, [*lines, f"Read in {seconds:.2f} s"]))
    return f'<div class="frames">{"".join(figures)}</div><p class="about-frames">{about}</p>'


def unprepared(pixels: torch.Tensor, video_processor) -> torch.Tensor:
    """The pixels before scaling and normalization: (F, 3, height, width), from 0 to 255."""
    pixels = pixels.float()
    if video_processor.do_normalize:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (video_processor.image_mean, video_processor.image_std))
        pixels = pixels * std + mean
    if video_processor.do_rescale:
        pixels = pixels / video_processor.rescale_factor
    return pixels.round()


def data_url(picture: Image.Image) -> str:
    """A picture as a data URL; a small one is enlarged, so that its pixels can be seen."""
    file = BytesIO()
    (thumbnail(picture) if picture.width < 100 else picture).save(file, "webp", quality=80)
    return "data:image/webp;base64," + b64encode(file.getvalue()).decode()
