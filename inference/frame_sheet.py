"""What the model sees of a video: a contact sheet of the sampled frames with their times, and the tokens of a frame.

Pixels, frame numbers and times come from the checkpoint's own video processor. The order of tokens and newlines comes
from the model's own functions (`lay_out_video`, `lay_out_slow_fast_video`), called with boxes in place of features. So
the sheet shows the model's real input.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from transformers.video_utils import VideoMetadata

from llava_next_video.modeling.visual_grid import pooled_side
from llava_next_video.modeling.visual_tokens import lay_out_slow_fast_video, lay_out_video
from llava_next_video.processing import LlavaNextVideoProcessor


CELL, ENLARGED, COLUMNS, GAP = 192, 700, 8, 8  # pixels, except for the columns
PAPER, INK, UNUSED = (255, 255, 255), (30, 30, 30), (150, 150, 150)
NEWLINE, FRAME_END = -1, -2  # numbers of learned tokens
LEARNED = {NEWLINE: ("newline", (235, 120, 0)), FRAME_END: ("frame end", (130, 60, 200))}

# Top, left and side of a token's square, in pixels; a learned token has its number three times.
Token = tuple[float, float, float]


def draw_frame_sheet(processor: LlavaNextVideoProcessor, video, **kwargs) -> Image.Image:
    """Draw the frames that the model gets of a video, after sampling, resizing and cropping.

    The upper part shows every frame with its number in the video and its time (minutes and seconds, at the video's
    average frame rate, if that is known). The lower part shows one frame enlarged, or one of each kind where frames
    have different tokens (slow-fast videos, a newline after the last frame). Every square is one token, coloured
    squares are learned newlines and frame ends, and grey areas are covered by no token, because pooling or the vision
    patches drop them.

    Args:
        processor: of the checkpoint, see `AutoProcessor`.
        video: one video in any form that the processor takes: a path, URL, bytes, file object, array or frames.
        kwargs: arguments of the processor: `num_frames`, `fps`, `frame_sampling`, `video_metadata`, ...

    Raises:
        ValueError: several videos were given, or `kwargs` make frames that are not square.
        VideoReadError: the video cannot be read.

    >>> from transformers import AutoProcessor
    >>> from llava_next_video import DEMO_CHECKPOINT
    >>> processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    >>> draw_frame_sheet(processor, "demo_model/samples/red_circle_moves_left.mp4", num_frames=4).size
    (824, 1139)
    """
    seen = processor.video_processor(video, **kwargs, return_metadata=True, do_rescale=False, do_normalize=False)
    if len(seen["pixel_values_videos"]) != 1:
        raise ValueError(
            f"A sheet shows the frames of one video, but {len(seen['pixel_values_videos'])} were passed. "
            "Draw a sheet for each."
        )
    pixels, metadata = seen["pixel_values_videos"][0], seen["video_metadata"][0]
    num_frames, _, height, width = pixels.shape
    if height != width:
        raise ValueError(
            f"A sheet with the grid of tokens was to be drawn, but the video processor returned frames of "
            f"{height}x{width} pixels, which the model does not take. Use the checkpoint's `size` and `do_center_crop`."
        )
    frames, names = as_pictures(pixels), names_of_frames(metadata)

    kinds = kinds_of_frames(token_order(processor, num_frames, height))
    cells = [labelled(name, thumbnail(frame)) for name, frame in zip(names, frames)]
    enlarged = []
    for tokens, members in kinds.items():
        shown = members[len(members) // 2]
        enlarged.append(labelled(f"{names[shown]}:  {count_tokens(tokens)}", draw_tokens(frames[shown], tokens)))
    caption = describe_frames(processor, num_frames, metadata.total_num_frames, height)
    parts = [
        column([write(line, size=18) for line in caption]),
        column([row(cells[start : start + COLUMNS]) for start in range(0, num_frames, COLUMNS)]),
        row(enlarged),
        draw_legend(kinds, height),
    ]
    return ImageOps.expand(column(parts, gap=3 * GAP), border=2 * GAP, fill=PAPER)


def save_frame_sheet(path: str | Path, processor: LlavaNextVideoProcessor, video, **kwargs):
    """Save what `draw_frame_sheet` draws, in the format that the ending of `path` names.

    Raises:
        ValueError: the picture cannot be written there; and as `draw_frame_sheet`.
    """
    sheet = draw_frame_sheet(processor, video, **kwargs)
    try:
        sheet.save(path)
    except (OSError, ValueError, KeyError) as error:  # a missing folder, an unknown ending, a format only read
        unwritten = isinstance(error, KeyError)
        reason = f"Pillow does not write {error.args[0]}" if unwritten else getattr(error, "strerror", None) or error
        raise ValueError(
            f"Could not save the sheet of frames as {str(path)!r}: {reason}. "
            "Give a path in an existing folder that ends in .png, .jpg or .webp."
        ) from error


def as_pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """Frames (F, 3, height, width) of values from 0 to 255 as pictures."""
    return [Image.fromarray(np.asarray(frame)) for frame in pixels.movedim(1, -1).clamp(0, 255).to(torch.uint8)]


def names_of_frames(metadata: VideoMetadata) -> list[str]:
    """The number of each sampled frame in its video, and its time where that is known."""
    names = [f"frame {index}" for index in metadata.frames_indices]  # pyright: ignore[reportOptionalIterable]
    if metadata.fps is not None:
        names = [f"{name}  {minutes_and_seconds(time)}" for name, time in zip(names, metadata.timestamps)]
    return names


def describe_frames(
    processor: LlavaNextVideoProcessor, num_frames: int, num_frames_in_video: int, frame_side: int
) -> list[str]:
    """Three lines about the sampled frames of a video: their number, their tokens, and the recipe."""
    kinds = kinds_of_frames(token_order(processor, num_frames, frame_side))
    return [
        f"{num_frames} of {num_frames_in_video} frames, each as the model sees it: {frame_side} x {frame_side} pixels",
        " + ".join(f"{len(members)} x ({count_tokens(tokens)})" for tokens, members in kinds.items())
        + f" = {processor.count_video_tokens(num_frames, frame_side)} tokens",
        describe_recipe(processor, frame_side),
    ]


def token_order(processor: LlavaNextVideoProcessor, num_frames: int, frame_side: int) -> list[tuple[int, Token]]:
    """Every token of a video in the order in which the language model reads them: the number of its sampled frame
    (`NEWLINE` or `FRAME_END` for a learned token), and its square in that frame.

    Args:
        num_frames, frame_side: of the processed video, the side in pixels.
    """
    stride, position = processor.spatial_pool_stride, processor.video_newline_position
    newline, frame_end = torch.full((4,), float(NEWLINE)), torch.full((4,), float(FRAME_END))
    boxes = token_boxes(processor, num_frames, frame_side, stride)
    if processor.slow_frame_stride is None:
        order = lay_out_video(boxes, newline, position)
    else:
        fast = token_boxes(processor, num_frames, frame_side, 2 * stride)
        order = lay_out_slow_fast_video(boxes, fast, newline, frame_end, processor.slow_frame_stride)
    return [(int(frame), tuple(box)) for frame, *box in order.tolist()]


def token_boxes(processor: LlavaNextVideoProcessor, num_frames: int, frame_side: int, stride: int) -> torch.Tensor:
    """(F, h, w, 4) for h x w tokens per frame: the frame's number, and top, left and side of the token in pixels."""
    patches = processor.patches_per_side(frame_side)
    side = pooled_side(patches, stride, processor.spatial_pool_mode)
    # Bilinear pooling covers all patches; the other modes use whole windows and drop the rest.
    patches_per_token = patches / side if processor.spatial_pool_mode == "bilinear" else stride
    assert processor.patch_size is not None  # `patches_per_side` needs it
    pixels = patches_per_token * processor.patch_size
    frames, rows, columns = torch.meshgrid(*map(torch.arange, (num_frames, side, side)), indexing="ij")
    return torch.stack([frames, rows * pixels, columns * pixels, torch.full_like(rows, 1) * pixels], dim=-1)


def kinds_of_frames(order: list[tuple[int, Token]]) -> dict[tuple[Token, ...], list[int]]:
    """Group the frames of a video by their tokens, learned ones included: tokens -> numbers of frames."""
    frames = []
    for frame, token in order:
        if frame == len(frames):
            frames.append([])
        frames[-1].append(token)
    kinds = {}
    for number, tokens in enumerate(frames):
        kinds.setdefault(tuple(tokens), []).append(number)
    return kinds


def count_tokens(tokens: tuple[Token, ...]) -> str:
    """The tokens of a frame, as text.

    >>> count_tokens(((0.0, 0.0, 28.0), (-1.0, -1.0, -1.0)))
    '1 x 1 + 1 newline'
    """
    rows = len({top for top, *_ in tokens if top >= 0})
    parts = [f"{rows} x {rows}"]
    for number, (name, _) in LEARNED.items():
        if count := sum(top == number for top, *_ in tokens):
            parts.append(f"{count} {name}{'s' if count > 1 else ''}")
    return " + ".join(parts)


def describe_recipe(processor: LlavaNextVideoProcessor, frame_side: int) -> str:
    patches = processor.patches_per_side(frame_side)
    recipe = (
        f"{patches} x {patches} patches of {processor.patch_size} pixels, {processor.spatial_pool_mode} pooling with "
        f"stride {processor.spatial_pool_stride}, newlines: {processor.video_newline_position}"
    )
    slow = processor.slow_frame_stride
    return recipe if slow is None else f"{recipe}, one frame in {slow} slow, the others pooled twice as coarsely"


def minutes_and_seconds(seconds: float) -> str:
    """A time in a video, as text.

    >>> minutes_and_seconds(59.999), minutes_and_seconds(3725.5)
    ('01:00.00', '62:05.50')
    """
    hundredths = round(100 * seconds)
    return f"{hundredths // 6000:02d}:{hundredths % 6000 / 100:05.2f}"


def thumbnail(frame: Image.Image) -> Image.Image:
    """Scale a frame to `CELL` pixels; a small one by a whole number, so that its pixels stay visible as they are."""
    times = CELL // frame.width
    if times == 0:
        return frame.resize((CELL, CELL), Image.Resampling.LANCZOS)
    return frame.resize((times * frame.width, times * frame.height), Image.Resampling.NEAREST)


def draw_tokens(frame: Image.Image, tokens: tuple[Token, ...]) -> Image.Image:
    """Enlarge a frame, outline its tokens, grey out pixels without one, and draw learned tokens to the right of the row
    that they follow."""
    times = max(1, round(ENLARGED / frame.width))
    boxes = [tuple(times * value for value in token) for token in tokens]
    frame = frame.resize((times * frame.width, times * frame.height), Image.Resampling.NEAREST)
    covered = round(max(top + side for top, _, side in boxes))
    learned_width = max(10, frame.width // 40)
    picture = Image.new("RGB", (frame.width + len(LEARNED) * (learned_width + 3), frame.height), PAPER)
    picture.paste(Image.blend(frame.convert("L").convert("RGB"), Image.new("RGB", frame.size, UNUSED), 0.7))
    picture.paste(frame.crop((0, 0, covered, covered)))
    draw = ImageDraw.Draw(picture)
    top = bottom = left = 0
    for token, box in zip(tokens, boxes):
        if token[0] < 0:  # a learned one, beside the last token's row
            draw.rectangle((left, top + 1, left + learned_width - 1, bottom - 1), fill=LEARNED[int(token[0])][1])
            left += learned_width + 3
            continue
        top, bottom = round(box[0]), round(box[0] + box[2]) - 1
        right = round(box[1] + box[2]) - 1
        # A light and a dark line, so that one of them is visible on any picture.
        draw.rectangle((round(box[1]), top, right, bottom), outline=(255, 255, 255))
        draw.line((right, top, right, bottom, round(box[1]), bottom), fill=(0, 0, 0))
        left = frame.width + 3
    return picture


def draw_legend(kinds: dict[tuple[Token, ...], list[int]], frame_side: int) -> Image.Image:
    """Explain the colours in the enlarged frames."""
    tokens = {token for kind in kinds for token in kind}
    entries = [("one token", PAPER)]
    entries += [(name, colour) for number, (name, colour) in LEARNED.items() if (number,) * 3 in tokens]
    if min(max(top + side for top, _, side in kind) for kind in kinds) < frame_side - 1e-3:
        entries.append(("covered by no token", UNUSED))
    return row([part for name, colour in entries for part in (swatch(colour), write(name))])


def swatch(colour: tuple[int, int, int]) -> Image.Image:
    return ImageOps.expand(Image.new("RGB", (14, 14), colour), border=1, fill=INK)


def write(text: str, size: int = 14) -> Image.Image:
    """One line of text."""
    font = ImageFont.load_default(size)
    picture = Image.new("RGB", (round(font.getlength(text)) + 1, round(1.3 * size)), PAPER)
    ImageDraw.Draw(picture).text((0, 0), text, fill=INK, font=font)
    return picture


def labelled(text: str, picture: Image.Image) -> Image.Image:
    """A picture under its label, at least as wide as a cell."""
    return column([Image.new("RGB", (CELL, 0)), write(text), picture], gap=0)


def column(pictures: list[Image.Image], gap: int = GAP) -> Image.Image:
    """Pictures below each other."""
    size = max(p.width for p in pictures), sum(p.height + gap for p in pictures) - gap
    paper, top = Image.new("RGB", size, PAPER), 0
    for picture in pictures:
        paper.paste(picture, (0, top))
        top += picture.height + gap
    return paper


def row(pictures: list[Image.Image]) -> Image.Image:
    """Pictures beside each other: a column, with rows and columns of pixels exchanged."""
    exchange = Image.Transpose.TRANSPOSE
    return column([picture.transpose(exchange) for picture in pictures]).transpose(exchange)
