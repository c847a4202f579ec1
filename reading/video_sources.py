"""Open whatever a video is given as, within limits: a path, a URL, a data URI, bytes or a file object."""

from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from .addresses import scheme_of
from .downloads import download
from .errors import Unreadable, named_errors
from .guarded_file import read_into_memory
from .limits import DEFAULT_LIMITS, ReadingLimits


VideoSource = str | Path | bytes | bytearray | memoryview | BinaryIO


def is_video_source(value) -> bool:
    """Whether `value` is something `read_video` opens, rather than frames."""
    return isinstance(value, str | Path | bytes | bytearray | memoryview) or hasattr(value, "read")


def open_source(source: VideoSource, limits: ReadingLimits = DEFAULT_LIMITS) -> BinaryIO:
    """Turn a source into a file object that can seek; a file object that can is returned itself.

    Raises:
        VideoReadError: it is missing or cannot be fetched; `VideoLimitError`, that would take more than `limits` allow.
        TypeError: `source` is nothing a video can be read from.
    """
    if not is_video_source(source):
        raise TypeError(
            f"A video cannot be read from {type(source).__name__}. "
            "Pass a path, a URL, a data URI, bytes, a binary file object, or frames."
        )
    with named_errors(source):
        if isinstance(source, bytes | bytearray | memoryview):
            limits.check_bytes(memoryview(source).nbytes)
            return BytesIO(source)
        if not isinstance(source, str | Path):
            return open_file_object(source, limits)
        match scheme_of(str(source)):
            case "http" | "https":
                return download(str(source), limits)
            case "data":
                return decode_data_uri(str(source), limits)
            case None:
                return open_path(Path(source))
            case scheme:
                raise Unreadable(f"addresses with {scheme}: are not read; pass a path, or a URL with http: or https:")


def open_path(path: Path) -> BinaryIO:
    if not path.is_file():
        if path.is_dir():
            raise Unreadable("it is a folder")
        raise Unreadable("it is not a regular file" if path.exists() else "there is no such file")
    return path.open("rb")


def decode_data_uri(uri: str, limits: ReadingLimits) -> BinaryIO:
    header, _, data = uri.partition(",")
    if header.lower().endswith(";base64"):
        return BytesIO(decode_base64(data, limits))
    limits.check_bytes(len(data) - 2 * data.count("%"))
    try:
        return BytesIO(unquote_to_bytes(data))
    except ValueError as error:
        raise Unreadable("its text is broken; encode the file again") from error


def decode_base64(text: str, limits: ReadingLimits) -> bytes:
    limits.check_bytes(len(text) * 3 // 4 - text.count("=", -2))
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise Unreadable("its base64 is broken; encode the file again") from error


def open_file_object(file: BinaryIO, limits: ReadingLimits) -> BinaryIO:
    try:
        can_seek = hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable())
        deadline = limits.deadline_of_fetching("reading its file object to the end")
        return file if can_seek else read_into_memory(file.read, limits, deadline)
    except Unreadable:
        raise
    except Exception as error:  # whatever the user's class raises
        raise Unreadable(f"reading its file object failed: {error!r}") from error
