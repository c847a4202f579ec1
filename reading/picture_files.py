"""Read picture files with Pillow, within limits, and tell whether something is a picture file.

Pillow opens the formats in `FORMATS` only. None of them runs another program, as EPS does.
"""

from base64 import b64decode
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from .addresses import scheme_of
from .animated_webp import HEADER_BYTES, check_webp_canvas, is_animated_webp
from .errors import Unreadable, named_errors
from .guarded_file import GuardedFile, read_into_memory
from .limits import Deadline, ReadingLimits
from .video_sources import VideoSource, decode_base64, open_source, plain_source


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "AVIF", "PPM")
TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT = 322, 323
BASE64_HEAD_CHARACTERS = 44  # enough for the first `HEADER_BYTES` of a file


def open_picture(source: VideoSource, limits: ReadingLimits, deadline: Deadline) -> Image.Image:
    """Read a picture, upright, in the mode that its file has."""
    source = plain_source(source)
    if is_base64_picture(source):
        with named_errors(source):
            source = decode_base64("".join(str(source).split()), limits)
    file = open_source(source, limits)
    try:
        # Pillow's readers raise errors of any type.
        with named_errors(source, Exception):
            return decode_picture(PictureFile(file, limits, deadline), limits)
    finally:
        if file is not source:
            file.close()


class PictureFile(GuardedFile):
    """What Pillow sees of a file: its bytes, until the deadline."""

    def __init__(self, file, limits: ReadingLimits, deadline: Deadline):
        super().__init__(file, deadline)
        self.limits = limits

    def read(self, size: int = -1) -> bytes:
        return read_into_memory(super().read, self.limits).getvalue() if size < 0 else super().read(size)


def decode_picture(file: PictureFile, limits: ReadingLimits) -> Image.Image:
    check_webp_canvas(file.read_at(0, HEADER_BYTES), limits)
    file.seek(0)
    Image.init()
    try:
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            limits.check_pixels(picture.height, picture.width)
            check_tiles(picture, limits)
            picture.load()
            return ImageOps.exif_transpose(picture)
    except Exception as error:
        file.check()
        if isinstance(error, Image.UnidentifiedImageError):
            raise Unreadable(f"it is damaged, or no picture of these formats: {', '.join(FORMATS)}") from error
        raise


def check_tiles(picture: Image.Image, limits: ReadingLimits):
    """A TIFF file is unpacked by tiles, which may be larger than the picture."""
    tags = getattr(picture, "tag_v2", {})
    height, width = (tags.get(tag, 0) for tag in (TIFF_TILE_HEIGHT, TIFF_TILE_WIDTH))
    if height or width:
        limits.check_pixels(height, width)


def is_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a still picture, as far as they tell."""
    return (
        head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"\0\0\0\x0cjP  "))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP" and not is_animated_webp(head))
        or (head[4:8] == b"ftyp" and head[8:12] == b"avif")
    )


def is_base64_picture(source) -> bool:
    """Whether a text is neither a path nor an address, but a picture's file in base64."""
    if not isinstance(source, str) or len(source) < BASE64_HEAD_CHARACTERS or scheme_of(source) is not None:
        return False
    try:
        head = b64decode("".join(source[: 2 * BASE64_HEAD_CHARACTERS].split())[:BASE64_HEAD_CHARACTERS], validate=True)
    except ValueError:
        return False
    return (is_picture(head) or head.startswith(b"GIF8")) and not (len(source) < 4096 and Path(source).is_file())


def head_of(source) -> bytes:
    """The first bytes of a file that is held in memory; empty for anything else."""
    if type(source) is BytesIO:
        source = source.getbuffer()
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(memoryview(source)[:HEADER_BYTES])
    return b""


def check_is_read(picture: Image.Image):
    """Raise `Unreadable` for EPS that is not read yet: Pillow would run another program when its pixels are used."""
    if picture.format == "EPS" and getattr(picture, "tile", None):
        raise Unreadable(f"it was opened from EPS and not read yet, and is none of these: {', '.join(FORMATS)}")
