"""Read chosen frames of a video with PyAV: exact indices in presentation order, decoding no more than needed.

A video is read in two steps. First the packets are listed without decoding, which gives the true number of frames,
their timestamps and the keyframes, whatever the file's header says. Then the chosen frames are decoded in order; the
reader seeks only when the next chosen frame lies behind a later keyframe. Files whose packets cannot be trusted
(no timestamps, or packets that are not frames) are decoded from the start and counted instead.
"""

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes
from urllib.request import urlopen

import av
import numpy as np
from transformers.utils.logging import tqdm
from transformers.video_utils import VideoMetadata


VideoSource = str | Path | bytes | bytearray | memoryview | BinaryIO
ChooseFrames = Callable[[VideoMetadata], Sequence[int]]


class VideoReadError(ValueError):
    """A video could not be read; the message names the video and the reason."""


def is_video_source(value) -> bool:
    """Whether `value` is something `read_video` opens, rather than frames."""
    return isinstance(value, str | Path | bytes | bytearray | memoryview) or hasattr(value, "read")


def read_video(source: VideoSource, choose_frames: ChooseFrames | None = None) -> tuple[np.ndarray, VideoMetadata]:
    """Read frames of one video, turned upright.

    Args:
        source: a path, an http(s) URL, a data URI, the bytes of a file, or a binary file object that can seek.
        choose_frames: gets the metadata, with the true `total_num_frames`, and returns the indices to read (0-based,
            ascending); all frames when it is not given.

    Returns:
        Frames (num_frames, height, width, 3), uint8, RGB, and the metadata with `frames_indices` filled in.

    Raises:
        VideoReadError: the video is missing, has no video stream or no frames, or cannot be decoded.
        ValueError: `choose_frames` returned frames that the video does not have, none, or not in order.
        TypeError: `source` is none of the above.
    """
    name = describe(source)
    try:
        file = open_source(source)
        try:
            return VideoReader(file).read(choose_frames)
        except PacketsAreNotFrames:
            return CountingReader(file).read(choose_frames)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise VideoReadError(f"Could not read the video {name}: {reason}.") from error
    except EmptyVideo as error:
        raise VideoReadError(f"Could not read the video {name}: {error}.") from error


class EmptyVideo(Exception):
    """The file opens but holds no frames."""


class PacketsAreNotFrames(Exception):
    """The list of packets does not say which frames the decoder will return."""


class VideoReader:
    """Reads frames by timestamp, from a list of packets made beforehand."""

    def __init__(self, file: str | BinaryIO):
        self.file = file

    def read(self, choose_frames: ChooseFrames | None) -> tuple[np.ndarray, VideoMetadata]:
        with self.open() as container:
            stream = container.streams.best("video")
            if stream is None:
                raise EmptyVideo("it has no video stream")
            stream.thread_type = "AUTO"
            self.scan(container, stream)
            if self.num_frames == 0:
                raise EmptyVideo("its video stream has no frames")
            metadata = self.metadata(container, stream)
            indices = [int(index) for index in (choose_frames(metadata) if choose_frames else range(self.num_frames))]
            if not indices or indices != sorted(indices) or indices[0] < 0 or indices[-1] >= self.num_frames:
                raise ValueError(
                    f"Frames {indices} were chosen from a video of {self.num_frames} frames; choose at least one, "
                    f"in ascending order, from 0 to {self.num_frames - 1}."
                )
            frames = stack_upright(self.decode(container, stream, indices), len(indices))
        metadata.height, metadata.width = frames.shape[1:3]
        metadata.frames_indices = indices
        return frames, metadata

    def open(self) -> av.container.InputContainer:
        if not isinstance(self.file, str):
            self.file.seek(0)
        return av.open(self.file)

    def metadata(self, container, stream) -> VideoMetadata:
        duration_seconds = container.duration / av.time_base if container.duration else None
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate else (self.num_frames / duration_seconds if duration_seconds else None)
        if duration_seconds is None and fps:
            duration_seconds = self.num_frames / fps
        return VideoMetadata(
            total_num_frames=self.num_frames,
            fps=fps,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            duration=duration_seconds,
            video_backend="pyav",
        )

    def scan(self, container, stream):
        """List the frames' timestamps in presentation order, and those of the keyframes, without decoding."""
        timestamps, keyframes = [], []
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:  # end of the stream; frames cut off by an edit list
                continue
            if packet.pts is None:
                raise PacketsAreNotFrames
            timestamps.append(packet.pts)
            if packet.is_keyframe:
                keyframes.append(packet.pts)
        self.timestamps, self.keyframes = sorted(timestamps), sorted(keyframes)
        self.num_frames = len(timestamps)
        if len(set(timestamps)) < self.num_frames:
            raise PacketsAreNotFrames

    def decode(self, container, stream, indices: list[int]) -> Iterator[av.VideoFrame]:
        """Yield the frame of each index."""
        container.seek(self.timestamps[0], stream=stream)
        frames = container.decode(stream)
        frame, reached = None, 0  # the frame last decoded, and the keyframe (its number) it was decoded from
        for index in indices:
            wanted = self.timestamps[index]
            start = bisect_right(self.keyframes, wanted) - 1
            if start > reached and (frame is None or frame.pts < self.keyframes[start]):
                container.seek(self.keyframes[start], stream=stream)
                frames = container.decode(stream)
                reached = start
            while frame is None or frame.pts is None or frame.pts < wanted:
                frame = next(frames, None)
                if frame is None:
                    raise PacketsAreNotFrames
            if frame.pts != wanted:
                raise PacketsAreNotFrames
            yield frame


class CountingReader(VideoReader):
    """Reads frames by decoding all of them, twice: once to count them and once to pick."""

    def scan(self, container, stream):
        self.num_frames = sum(1 for _ in container.decode(stream))

    def decode(self, container, stream, indices: list[int]) -> Iterator[av.VideoFrame]:
        with self.open() as container:
            stream = container.streams.best("video")
            stream.thread_type = "AUTO"
            frames = enumerate(container.decode(stream))
            number, frame = next(frames)
            for index in indices:
                while number < index:
                    number, frame = next(frames)
                yield frame


def stack_upright(frames: Iterator[av.VideoFrame], num_frames: int) -> np.ndarray:
    """Convert frames to RGB and turn them upright, (num_frames, height, width, 3); a bar shows when it takes long."""
    first = next(frames)
    # A stream may change its size on the way; a video for the model has one.
    height, width = first.height, first.width
    stacked = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    progress = tqdm(
        chain([first], frames), desc="Reading video", total=num_frames, delay=2, leave=False, disable=None, unit="frame"
    )
    for position, frame in enumerate(progress):
        stacked[position] = frame.to_ndarray(format="rgb24", width=width, height=height)
    # `rotation` is how far the picture has to be turned counter-clockwise to be upright, in degrees.
    return np.rot90(stacked, k=first.rotation // 90, axes=(1, 2))


def open_source(source: VideoSource) -> str | BinaryIO:
    """Turn a source into a path or a file object that FFmpeg can read and seek."""
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesIO(source)
    if not isinstance(source, str | Path):
        if hasattr(source, "read"):
            return source
        raise TypeError(
            f"A video cannot be read from {type(source).__name__}. "
            "Pass a path, a URL, a data URI, bytes, a binary file object, or frames."
        )
    text = str(source)
    if text.startswith(("http://", "https://")):
        with urlopen(text) as response:
            return BytesIO(response.read())
    if text.startswith("data:"):
        header, _, data = text.partition(",")
        try:
            return BytesIO(
                base64.b64decode(data, validate=True) if header.endswith(";base64") else unquote_to_bytes(data)
            )
        except binascii.Error as error:
            raise VideoReadError(f"Could not read the video {describe(source)}: its base64 is broken.") from error
    path = Path(source)
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise VideoReadError(f"Could not read the video {describe(source)}: {what}.")
    return text


def describe(source) -> str:
    """Name a source in a message: the path or URL, or what kind of data it is."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"given as {len(source)} bytes"
    if isinstance(source, str | Path):
        text = str(source)
        return f"given as a data URI of {len(text)} characters" if text.startswith("data:") else repr(text)
    return f"given as {type(source).__name__} {getattr(source, 'name', '')}".rstrip()
