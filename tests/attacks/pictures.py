"""Pictures of extreme shapes, of every format, in every form, as images and as frames."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from llava_next_video import (
    LlavaNextVideoImageProcessor,
    LlavaNextVideoVideoProcessor,
    ReadingLimits,
    VideoLimitError,
    VideoReadError,
)
from llava_next_video.reading.pictures import read_picture
from tests.attacks import Attack


LIMITS = ReadingLimits(max_frame_pixels=2**22, max_result_bytes=2**28, max_frames=100, max_decode_seconds=5)
SQUARE = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
THIN = [(1, 16000), (16000, 1), (40000, 1), (2, 16000), (1, 2**21)]  # height, width


def png(height: int, width: int) -> bytes:
    """A black picture of one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + (width + 7) // 8) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(tile: int) -> bytes:
    """A picture of 16x16 pixels of one tile, deflated."""
    data = zlib.compress(bytes(tile * tile), 9)
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def giant_webp() -> bytes:
    """A canvas of 16383x16383 pixels around a picture of 8x8."""
    data = bytearray(saved(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "webp"))
    data[24:30] = b"\xfe\x3f\0" * 2
    return bytes(data)


def progressive_jpeg(num_scans: int) -> bytes:
    """A picture of 2048x2048 pixels whose last scan is repeated: each costs a pass over all pixels."""
    data = saved(Image.new("L", (2048, 2048)), "jpeg", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * num_scans + data[-2:]


def large(kind: str) -> bytes:
    """More pixels than the limit, in few bytes."""
    return saved(Image.new("L", (4096, 1025)), kind)


def image_processor(shape: str) -> LlavaNextVideoImageProcessor:
    processor = LlavaNextVideoImageProcessor(**SQUARE, image_aspect_ratio=shape)
    processor.limits = LIMITS
    return processor


def attacks(folder: Path) -> list[Attack]:
    video_processor = LlavaNextVideoVideoProcessor(**SQUARE)
    video_processor.limits = LIMITS
    processors = {shape: image_processor(shape) for shape in ("anyres", "pad", "square")}
    thin = [
        Attack(
            f"a picture of {height}x{width} pixels as an image, {shape}",
            partial(processor, [png(height, width)]),
            None if shape == "anyres" else VideoLimitError,
            "max_frame_pixels",
        )
        for height, width in THIN
        for shape, processor in processors.items()
    ]
    thin_frames = [
        Attack(
            f"pictures of {height}x{width} pixels as frames",
            partial(video_processor, [png(height, width)] * 3),
            VideoLimitError,
            "max_frame_pixels",
        )
        for height, width in THIN
    ]
    formats = [
        Attack(f"a large {kind} file", partial(read_picture, large(kind), LIMITS), VideoLimitError, "max_frame_pixels")
        for kind in ("png", "jpeg", "webp", "gif", "bmp", "tiff", "jpeg2000", "avif", "ppm")
    ]
    bomb = png(12000, 12000)
    text = base64.b64encode(bomb).decode()
    Image.new("RGB", (8, 8)).save(folder / "picture.eps")
    (folder / "renamed.png").write_bytes((folder / "picture.eps").read_bytes())
    small = np.zeros((64, 64, 3), dtype=np.uint8)
    forms: dict[str, Callable] = {
        "bytes": partial(processors["anyres"], bomb),
        "base64": partial(processors["anyres"], text),
        "a data URI": partial(processors["anyres"], f"data:image/png;base64,{text}"),
        "a file object": partial(processors["anyres"], io.BytesIO(bomb)),
        "a PIL image": partial(processors["anyres"], Image.new("1", (12000, 12000))),
        "an array": partial(processors["anyres"], np.zeros((12000, 12000), dtype=bool)),
        "frames": partial(video_processor, [text, text]),
    }
    giant = {"size": {"height": 5900, "width": 5900}, "do_center_crop": False}
    frames = np.zeros((32, 8, 8, 3), dtype=np.uint8)
    results = [
        # The default limit is above the memory of this process: 9 frames are 3.8 GB.
        Attack("a result over the limit", partial(LlavaNextVideoVideoProcessor(**giant), frames), VideoLimitError),
        Attack(
            "a result over the memory",
            partial(LlavaNextVideoVideoProcessor(**giant), frames[:9]),
            VideoReadError,
            "not enough memory for its pixels",
        ),
        Attack("an image over the limit", partial(image_processor("anyres"), frames[0], **giant), ValueError),
    ]
    return [
        *results,
        *thin,
        *thin_frames,
        *formats,
        *(
            Attack(f"12000x12000 pixels as {name}", run, (VideoLimitError, VideoReadError), "max_frame_pixels|bomb")
            for name, run in forms.items()
        ),
        Attack("200 pictures as one video", partial(video_processor, [png(2000, 2000)] * 200), VideoLimitError),
        Attack(
            "30 large pictures as one video",
            partial(video_processor, [saved(Image.effect_noise((2048, 2048), 99), "png")] * 30),
            VideoLimitError,
            "max_result_bytes",
        ),
        Attack(
            "EPS", partial(read_picture, folder / "picture.eps", LIMITS), VideoReadError, "no picture of these formats"
        ),
        Attack("EPS by another name", partial(read_picture, folder / "renamed.png", LIMITS), VideoReadError, "formats"),
        Attack("a tile larger than its picture", partial(read_picture, tiff(2**14), LIMITS), VideoLimitError, "pixels"),
        Attack("a canvas larger than its picture", partial(read_picture, giant_webp(), LIMITS), VideoLimitError),
        Attack(
            "a progressive picture of 20,000 scans",
            partial(read_picture, progressive_jpeg(20_000), LIMITS),
            VideoLimitError,
            "max_decode_seconds|max_packet_units",
        ),
        Attack(
            "a frame given many times",
            partial(video_processor, small[None], num_frames=10**6, frame_sampling="uniform_repeated"),
            VideoLimitError,
            "max_result_bytes",
        ),
        Attack(
            "300,000,000 frames",
            partial(video_processor, small[None], num_frames=3 * 10**8, frame_sampling="uniform_repeated"),
            ValueError,
            "num_frames",
        ),
        Attack(
            "1,000,000 grids",
            partial(processors["anyres"], small, image_grid_pinpoints=[[336, 336]] * 10**6),
            ValueError,
            "image_grid_pinpoints",
        ),
        Attack("a large size", partial(processors["square"], small, size={"shortest_edge": 10**5}), ValueError, "size"),
    ]
