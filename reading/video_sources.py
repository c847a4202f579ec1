"""Open whatever a video is given as, within limits: a path, a URL, a data URI, bytes or a file object; or a value from
a column of the library `datasets`: `{"bytes": ..., "path": ...}`, or a decoder of torchcodec that was made from it."""

from base64 import b64decode
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from .addresses import scheme_of
from .downloads import download
from .errors import Unreadable, named_errors
from .guarded_file import read_into_memory
from .limits import DEFAULT_LIMITS, ReadingLimits
from .ranged_file import open_in_parts


VideoSource = str | Path | bytes | bytearray | memoryview | BinaryIO | Mapping[str, Any]


def is_video_source(value) -> bool:
    """Whether `value` is something `read_video` reads, rather than frames."""
    is_file = isinstance(value, str | Path | bytes | bytearray | memoryview) or hasattr(value, "read")
    return is_file or is_decoder(value) or is_value_of_column(value)


def is_decoder(value) -> bool:
    """Whether `value` is a `torchcodec.decoders.VideoDecoder`, or works like one."""
    return callable(getattr(value, "get_frames_at", None)) and hasattr(value, "metadata")


def is_value_of_column(value) -> bool:
    """Whether `value` is `{"bytes": ..., "path": ...}`, as in columns of videos and pictures that are not decoded."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and value.keys() <= {"bytes", "path"}
        and isinstance(value.get("bytes"), bytes | bytearray | memoryview | None)
        and isinstance(value.get("path"), str | Path | None)
    )


def plain_source(value):
    """The bytes in a value of a column, or else its path; the same for a decoder that was made from bytes or from a
    file that is there. Anything else is returned as it is.

    Raises:
        ValueError: a value of a column has neither.
    """
    if is_decoder(value):
        held = getattr(value, "_hf_encoded", None)  # where `datasets` notes it
        is_known = is_value_of_column(held) and (held.get("bytes") is not None or is_local(held.get("path")))
        return plain_source(held) if is_known else value
    if not is_value_of_column(value):
        return value
    source = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if source is None:
        raise ValueError(
            "A video or picture was given as {'bytes': None, 'path': None}, which holds neither. Leave this row out."
        )
    return source


def is_local(path) -> bool:
    return isinstance(path, str | Path) and scheme_of(str(path)) is None and Path(path).is_file()


def open_source(source: VideoSource, limits: ReadingLimits = DEFAULT_LIMITS, in_parts: bool = False) -> BinaryIO:
    """Turn a source into a file object that can seek; a file object that can is returned itself.

    Args:
        in_parts: fetch of a large file on a server only the parts that are read, with a `RangedFile`.

    Raises:
        VideoReadError: it is missing or cannot be fetched; `VideoLimitError` if that takes more than `limits` allow.
        TypeError: `source` is nothing a video can be read from.
    """
    source = plain_source(source)
    if not is_video_source(source) or is_decoder(source):
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
                return open_in_parts(str(source), limits) if in_parts else download(str(source), limits)
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
