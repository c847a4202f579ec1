"""Read chosen frames of a video with PyAV: exact indices in presentation order, decoding no more than needed.

A video is read in two steps. First the packets are listed without decoding, which gives the true number of frames,
their timestamps and the keyframes, whatever the file's header says. Then the chosen frames are decoded in order; the
reader seeks only when the next chosen frame lies behind a later keyframe, skips frames that no other is predicted from,
and compares every frame that passes with the list. Files whose packets cannot be trusted (no timestamps, packets that
are not frames, frames that cannot be decoded because the file begins in the middle) are decoded from the start and
counted instead.
"""

import os
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from types import SimpleNamespace
from typing import BinaryIO

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image
from transformers.utils.logging import tqdm
from transformers.video_utils import VideoMetadata

from .packet_units import UnitsOfPictures, count_units, has_start_codes
from .video_sources import (
    DEFAULT_LIMITS,
    Deadline,
    OverLimit,
    ReadingLimits,
    Unreadable,
    VideoSource,
    hold,
    named_errors,
    open_source,
)


MOST_THREADS = 16  # of a decoder, as FFmpeg has it
PROBED_BYTES = 5_000_000  # how much FFmpeg may decode to find out what is in a file; its default
MOST_FIRST_PACKETS = 500_000  # in twice as many bytes; FFmpeg keeps half a kilobyte for each while it opens a file
# Formats whose headers announce all streams: none appear later.
HEADERS_WITH_ALL_STREAMS = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "ivf"))
ChooseFrames = Callable[[VideoMetadata], Sequence[int]]
PILLOW_ERRORS = (OSError, EOFError, SyntaxError)  # of broken files


def read_video(
    source: VideoSource,
    choose_frames: ChooseFrames | None = None,
    limits: ReadingLimits = DEFAULT_LIMITS,
) -> tuple[np.ndarray, VideoMetadata]:
    """Read frames of one video, turned upright.

    A picture is a video of one frame. Of several video streams, FFmpeg's choice is read, the default one before
    others; the cover of a song is no video. Frames are as wide as they are stored, also where pixels are not square;
    transparency is dropped; frames of another size than the first one chosen are scaled to its size.

    Args:
        source: a path, an http(s) URL, a data URI, the bytes of a file, or a binary file object.
        choose_frames: gets the metadata, with the true `total_num_frames`, and returns the indices to read (0-based,
            ascending); all frames when it is not given.
        limits: how much the video may cost.

    Returns:
        Frames (num_frames, height, width, 3), uint8, RGB, and the metadata with `frames_indices` filled in.

    Raises:
        VideoReadError: the video is missing, has no video stream or no frames, or cannot be decoded;
            `VideoLimitError` when it would cost more than `limits` allow.
        ValueError: `choose_frames` returned frames that the video does not have, none, or not in order.
        TypeError: `source` is none of the above.
    """
    file = open_source(source, limits)
    try:
        with named_errors(source):
            guarded = GuardedFile(file, limits)
            if is_animated_webp(guarded):
                return WebPReader(guarded, limits).read(choose_frames)
            try:
                return VideoReader(guarded, limits).read(choose_frames)
            except PacketsAreNotFrames:
                return CountingReader(guarded, limits).read(choose_frames)
    finally:
        if file is not source:
            file.close()


class VariableRateMetadata(VideoMetadata):
    """Of a video whose frames do not follow one another evenly: `timestamps` are those of the file."""

    times_of_all_frames: np.ndarray  # in seconds from the first; no field, as the built-in has none

    @property
    def timestamps(self) -> list[float]:
        return self.times_of_all_frames[self.frames_indices].tolist()


class PacketsAreNotFrames(Exception):
    """The list of packets does not say which frames the decoder will return."""


class GuardedFile:
    """What FFmpeg sees of a file: its bytes, without a name to guess from, until the deadline."""

    def __init__(self, file: BinaryIO, limits: ReadingLimits):
        self.file = file
        self.deadline = Deadline(limits.max_decode_seconds, "max_decode_seconds", "reading it")
        self.failure = None

    def read(self, size: int) -> bytes:
        # FFmpeg stops at the end of a file on every path; errors it may try to read past. `check` tells why.
        if self.failure is not None or self.deadline.passed:
            return b""
        try:
            data = self.file.read(size)
            if not isinstance(data, bytes) or len(data) > size:
                raise TypeError(f"read({size}) returned {len(data)} characters or bytes, not bytes and no more")
            return data
        except Exception as error:  # of the user's file object
            self.failure = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self.file.seek(offset, whence)
        except Exception as error:
            self.failure = error
            return -1

    def tell(self) -> int:
        return self.file.tell()

    def check(self):
        """Raise what ended the file early, if something did."""
        if self.failure is not None:
            raise Unreadable(f"reading its file object failed: {self.failure!r}") from self.failure
        self.deadline.check()


class VideoReader:
    """Reads frames by timestamp, from a list of packets made beforehand."""

    def __init__(self, file: GuardedFile, limits: ReadingLimits):
        self.file, self.limits = file, limits

    def read(self, choose_frames: ChooseFrames | None) -> tuple[np.ndarray, VideoMetadata]:
        try:
            self.check_first_packets()
            with self.open() as container:
                stream = self.stream_of(container)
                self.scan(container, stream)
                metadata = self.metadata(container, stream)
                indices = choose(choose_frames, metadata)
                frames = self.stack_upright(self.decode(container, stream, indices), len(indices))
        except (av.FFmpegError, MemoryError) as error:
            self.file.check()
            reason = getattr(error, "strerror", None) or str(error) or "out of memory"
            if isinstance(error, av.error.ArgumentError):  # what FFmpeg says of frames that are too large, too
                reason += f", or its frames are over max_frame_pixels={self.limits.max_frame_pixels}"
            raise Unreadable(f"{reason}; it is damaged, cut off or not a video") from error
        metadata.height, metadata.width = frames.shape[1:3]
        metadata.frames_indices = indices
        return frames, metadata

    def check_first_packets(self):
        """Look at those packets that FFmpeg splits, parses and decodes while it opens a file."""
        # First at the streams that the header announces: FFmpeg, which asks whether to stop when it turns to the
        # packets, has no time left then and splits none into units. Then at those that appear later, in formats of
        # small packets (MPEG-TS and -PS) and in FLV.
        for seconds in (0, self.file.deadline.seconds_left()):
            try:
                if self.check_packets_of_known_streams(seconds):
                    return
            except (av.FFmpegError, IndexError):  # opening it again will tell
                self.file.check()

    def check_packets_of_known_streams(self, seconds_to_open: float) -> bool:
        """Count packets and units; returns whether no other streams can appear."""
        num_packets, num_bytes, counters = 0, 0, {}
        units_of_streams = Counter()  # in the packet of each that has most
        # Without decoders (none is called "none") and parsers.
        options = {"codec_whitelist": "none", "fflags": "+noparse+nofillin"}
        with self.open(seconds_to_open, **options) as container:
            are_all = container.format.name in HEADERS_WITH_ALL_STREAMS
            for packet in container.demux():
                self.file.check()
                num_packets += 1
                num_bytes += packet.size
                if num_bytes <= 2 * PROBED_BYTES:
                    self.check_num_packets(num_packets)
                if packet.stream.type != "video":
                    continue
                if num_bytes <= 2 * PROBED_BYTES:
                    # FFmpeg keeps what it took for the largest packet of each stream until it knows all streams.
                    index = packet.stream.index
                    units_of_streams[index] = max(units_of_streams[index], self.units_of(packet))
                    if units_of_streams.total() > self.limits.max_packet_units:
                        self.refuse_units()
                else:
                    self.check_packet(packet)
                if not self.check_unparsed(packet, counters) and num_bytes > 2 * PROBED_BYTES:
                    break
            return are_all

    def check_num_packets(self, num_packets: int):
        if num_packets > MOST_FIRST_PACKETS:
            raise OverLimit(
                f"its first {2 * PROBED_BYTES} bytes of packets are more than {MOST_FIRST_PACKETS} packets; "
                "encode the video again"
            )

    def check_unparsed(self, packet: av.Packet, counters: dict[int, UnitsOfPictures]) -> bool:
        """Look at a piece of a stream that is not cut into packets yet; whether the parser needs that to its end."""
        context = packet.stream.codec_context
        codec = context and context.codec.canonical_name
        if not codec or not has_start_codes(codec, context.extradata or b""):
            return False
        counter = counters.setdefault(packet.stream.index, UnitsOfPictures(codec))
        if counter.add(bytes(packet)) > self.limits.max_packet_units:
            self.refuse_units()
        return codec == "hevc"  # FFmpeg's parser of this codec keeps some kilobytes of each unit itself

    def open(self, seconds: float | None = None, **options: str) -> av.container.InputContainer:
        """FFmpeg may look at packets for this many `seconds`: with 0 it reads the header only."""
        self.file.seek(0)
        self.file.check()
        left = self.file.deadline.seconds_left()
        return av.open(
            self.file,
            options={
                # Playlists may not open other files or addresses: no protocol is called "none".
                "protocol_whitelist": "none",
                "max_pixels": str(self.limits.max_frame_pixels),
                "probesize": str(PROBED_BYTES),
                **options,
            },
            metadata_errors="ignore",
            timeout=(left if seconds is None else seconds, left),
        )

    def stream_of(self, container):
        """The stream to read."""
        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            raise Unreadable("it has no video stream")
        best = container.streams.best("video")
        stream = best if best in streams else streams[0]
        context = stream.codec_context
        if context is None:
            raise Unreadable("this build of PyAV has no decoder for its video stream")
        check_pixels(context.height, context.width, self.limits)
        context.options = {"max_pixels": str(self.limits.max_frame_pixels)}
        stream.thread_type = "AUTO"
        # Twice as many as processors, because packets that are skipped take a thread's turn too.
        context.thread_count = min(2 * (os.cpu_count() or 1), MOST_THREADS)
        return stream

    def packets(self, container, stream) -> Iterator[av.Packet]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except IndexError:  # behind the last packet, PyAV may trip over streams that appeared on the way
                return
            self.file.check()
            if packet is None:
                return
            self.check_packet(packet)
            yield packet

    def check_packet(self, packet: av.Packet):
        """A packet cannot be interrupted while it is decoded, so it is looked at before."""
        most = self.limits.max_packet_units
        if packet.size > most and self.units_of(packet) > most:  # a unit takes a byte or more
            self.refuse_units()

    def units_of(self, packet: av.Packet) -> int:
        context = packet.stream.codec_context
        if context is None:
            return 0
        most = self.limits.max_packet_units
        return count_units(bytes(packet), context.codec.canonical_name, context.extradata or b"", most)

    def refuse_units(self):
        raise OverLimit(
            f"one of its packets, or pictures, has more units than max_packet_units={self.limits.max_packet_units}; "
            "encode the video with fewer slices, or raise this limit"
        )

    def frames(self, container, stream) -> Iterator[av.VideoFrame]:
        for packet in self.packets(container, stream):
            yield from packet.decode()

    def scan(self, container, stream):
        """List the frames' timestamps in presentation order, and those of the keyframes, without decoding."""
        timestamps, keyframes = array("q"), []  # 8 bytes each, where a list takes 40: an hour has 100,000 frames
        for packet in self.packets(container, stream):
            if packet.size == 0 or packet.is_discard:  # end of the stream; frames cut off by an edit list
                continue
            if packet.pts is None:
                raise PacketsAreNotFrames
            timestamps.append(packet.pts)
            check_num_frames(len(timestamps), self.limits)
            if packet.is_keyframe:
                keyframes.append(packet.pts)
        ordered = np.sort(np.frombuffer(timestamps, dtype=np.int64))
        self.timestamps, self.keyframes = array("q", ordered.tobytes()), sorted(keyframes)
        self.num_frames = len(timestamps)
        # Frames before the first keyframe need one that is missing.
        if (ordered[1:] == ordered[:-1]).any() or list(self.timestamps[:1]) != self.keyframes[:1]:
            raise PacketsAreNotFrames

    def metadata(self, container, stream) -> VideoMetadata:
        if self.num_frames == 0:
            raise Unreadable("its video stream has no frames")
        fps = self.fps(stream)
        times = variable_times(self.timestamps, stream.time_base)
        if times is not None:
            fps = (self.num_frames - 1) / times[-1]
        metadata = (VideoMetadata if times is None else VariableRateMetadata)(
            total_num_frames=self.num_frames,
            fps=fps,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            duration=self.num_frames / fps if fps else None,
            video_backend="pyav",
        )
        if times is not None:
            metadata.times_of_all_frames = times
        return metadata

    def fps(self, stream) -> float | None:
        """Frames per second on average: what the header says, unless the timestamps tell otherwise."""
        rate = stream.average_rate or stream.guessed_rate
        stated = float(rate) if rate and rate > 0 else None
        ticks = self.timestamps[-1] - self.timestamps[0] if self.timestamps else 0
        if not ticks or not stream.time_base:
            return stated
        measured = float((len(self.timestamps) - 1) / (ticks * stream.time_base))
        # The header's is exact where it is right: timestamps are rounded, and do not say how long the last frame is.
        return stated if stated and abs(stated - measured) < 0.1 * measured else measured

    def decode(self, container, stream, indices: list[int]) -> Iterator[av.VideoFrame]:
        """Yield the frame of each index."""
        wanted = {self.timestamps[index] for index in indices}
        start = self.timestamps[0]
        frames = self.needed_frames(stream, self.packets_from(container, stream, start, start), wanted)
        first, number, frame = 0, -1, None  # where decoding began; the frame last decoded
        for index in indices:
            keyframe = self.keyframes[bisect_right(self.keyframes, self.timestamps[index]) - 1]
            number_of_keyframe = bisect_left(self.timestamps, keyframe)
            if number < number_of_keyframe and first < number_of_keyframe:
                packets = self.packets_from(container, stream, keyframe, self.timestamps[index])
                frames = self.needed_frames(stream, packets, wanted)
                first, number = number_of_keyframe, number_of_keyframe - 1
            while number < index:
                frame = next(frames, None)
                if frame is None or frame.pts is None:
                    raise PacketsAreNotFrames
                if number < first and frame.pts < self.timestamps[first]:
                    continue  # comes before the keyframe, and may need frames that were skipped
                passed, number = number, bisect_left(self.timestamps, frame.pts)
                if not passed < number <= index or frame.pts != self.timestamps[number]:
                    raise PacketsAreNotFrames
            assert frame is not None  # indices begin at 0, `number` at -1
            yield frame

    def needed_frames(self, stream, packets: Iterator[av.Packet], wanted: set[int]) -> Iterator[av.VideoFrame]:
        """Decode the frames with the timestamps `wanted`, and those that others are predicted from."""
        context = stream.codec_context
        for packet in packets:
            context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
            yield from packet.decode()

    def packets_from(self, container, stream, keyframe: int, target: int) -> Iterator[av.Packet]:
        """Packets from a keyframe on, or from an earlier one if the file does not lead there; `target` is the first
        frame wanted, of those that start with this keyframe."""
        first, packets = self.packets_after_seek(container, stream, keyframe)
        if first is not None and first.pts != keyframe and first.pts in self.keyframes:
            # MP4 files of a variable rate are sought in by other times than those of the frames.
            first, packets = self.packets_after_seek(container, stream, target)
            if first is None or first.pts != keyframe:
                first, packets = self.packets_after_seek(container, stream, keyframe)
        return packets if first is None else chain([first], packets)

    def packets_after_seek(self, container, stream, timestamp: int) -> tuple[av.Packet | None, Iterator[av.Packet]]:
        """The first packet, if any, and those behind it."""
        try:
            container.seek(timestamp, stream=stream)
        except av.FFmpegError as error:  # the file cannot be sought in
            raise PacketsAreNotFrames from error
        packets = self.packets(container, stream)
        return next(packets, None), packets

    def stack_upright(self, frames: Iterator[av.VideoFrame], num_frames: int) -> np.ndarray:
        """Convert frames to RGB and turn them upright, (num_frames, height, width, 3); a bar shows when it takes
        long."""
        first = next(frames)
        height, width = first.height, first.width
        stacked = self.allocate(num_frames, height, width)
        converter = VideoReformatter()  # one for all; that of a frame has its tables made anew
        progress = tqdm(
            chain([first], frames),
            desc="Reading video",
            total=num_frames,
            delay=2,
            leave=False,
            disable=None,
            unit="frame",
        )
        for position, frame in enumerate(progress):
            self.file.check()
            stacked[position] = converter.reformat(frame, width, height, format="rgb24").to_ndarray()
        return upright(stacked, first)

    def allocate(self, num_frames: int, height: int, width: int) -> np.ndarray:
        check_pixels(height, width, self.limits)
        check_result(num_frames, height, width, self.limits)
        return np.empty((num_frames, height, width, 3), dtype=np.uint8)


class CountingReader(VideoReader):
    """Reads frames by decoding all of them, twice: once to count them and once to pick."""

    def frames(self, container, stream) -> Iterator[av.VideoFrame]:
        begun = False
        for packet in self.packets(container, stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if begun:
                    raise
                continue  # a recording that begins in the middle: not decodable until the first keyframe
            begun = begun or bool(frames)
            yield from frames

    def scan(self, container, stream):
        self.timestamps = []
        self.num_frames = 0
        for frame in self.frames(container, stream):
            self.num_frames += 1
            check_num_frames(self.num_frames, self.limits)
            if frame.pts is not None:
                self.timestamps.append(frame.pts)
        if len(self.timestamps) < self.num_frames or self.timestamps != sorted(self.timestamps):
            self.timestamps = []  # nothing can be measured

    def decode(self, container, stream, indices: list[int]) -> Iterator[av.VideoFrame]:
        with self.open() as container:
            frames = enumerate(self.frames(container, self.stream_of(container)))
            number, frame = -1, None
            for index in indices:
                while number < index:
                    number, frame = next(frames, (None, None))
                    if number is None:
                        raise Unreadable("it had fewer frames when it was decoded a second time")
                assert frame is not None  # indices begin at 0, `number` at -1
                yield frame


class WebPReader(CountingReader):
    """Reads animated WebP, which FFmpeg does not decode, with Pillow."""

    def read(self, choose_frames: ChooseFrames | None) -> tuple[np.ndarray, VideoMetadata]:
        try:
            return super().read(choose_frames)
        except PILLOW_ERRORS as error:
            raise Unreadable(str(error) or repr(error)) from error

    def check_first_packets(self):
        """There are none."""

    def open(self) -> Image.Image:
        self.file.seek(0)
        data = hold(self.file.read, self.limits)
        self.file.check()
        width, height = (1 + int.from_bytes(data.getbuffer()[at : at + 3], "little") for at in (24, 27))
        check_pixels(height, width, self.limits)  # before Pillow takes memory for a canvas
        return Image.open(data, formats=["WEBP"])

    def stream_of(self, container):
        return SimpleNamespace(
            average_rate=None, guessed_rate=None, time_base=Fraction(1, 1000), codec_context=container
        )

    def frames(self, container, stream) -> Iterator[av.VideoFrame]:
        for number in range(container.n_frames):
            self.file.check()
            container.seek(number)
            frame = av.VideoFrame.from_ndarray(np.asarray(container.convert("RGB")), format="rgb24")
            frame.pts = container.info["timestamp"]
            yield frame


def variable_times(timestamps: Sequence[int], time_base: Fraction | None) -> np.ndarray | None:
    """Times in seconds from the first frame, where one lies off an even rate by more than the time of a frame."""
    if len(timestamps) < 3 or not time_base or timestamps[-1] == timestamps[0]:
        return None
    ticks = np.asarray(timestamps) - timestamps[0]
    per_frame = ticks[-1] / (len(ticks) - 1)
    if np.abs(ticks - np.arange(len(ticks)) * per_frame).max() <= per_frame:
        return None
    return ticks * float(time_base)


def is_animated_webp(file: GuardedFile) -> bool:
    file.seek(0)
    header = file.read(30)
    file.check()
    return len(header) == 30 and header[:4] == b"RIFF" and header[8:16] == b"WEBPVP8X" and bool(header[20] & 2)


def check_pixels(height: int, width: int, limits: ReadingLimits):
    if height * width > limits.max_frame_pixels:
        raise OverLimit(
            f"its frames of {height}x{width} pixels are over max_frame_pixels={limits.max_frame_pixels}; "
            "make it smaller, or raise this limit"
        )


def check_num_frames(num_frames: int, limits: ReadingLimits):
    if num_frames > limits.max_frames:
        raise OverLimit(f"it has more frames than max_frames={limits.max_frames}; cut it, or raise this limit")


def check_result(num_frames: int, height: int, width: int, limits: ReadingLimits):
    """Check frames that are to be held in memory."""
    num_bytes = num_frames * height * width * 3
    if num_bytes > limits.max_result_bytes:
        raise OverLimit(
            f"{num_frames} frames of {height}x{width} pixels are {num_bytes} bytes, more than "
            f"max_result_bytes={limits.max_result_bytes}; choose fewer frames, or raise this limit"
        )


def choose(choose_frames: ChooseFrames | None, metadata: VideoMetadata) -> list[int]:
    num_frames = metadata.total_num_frames
    indices = [int(index) for index in (choose_frames(metadata) if choose_frames else range(num_frames))]
    if not indices or indices != sorted(indices) or indices[0] < 0 or indices[-1] >= num_frames:
        raise ValueError(
            f"Frames {indices} were chosen from a video of {num_frames} frames; choose at least one, "
            f"in ascending order, from 0 to {num_frames - 1}."
        )
    return indices


def upright(frames: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turn and mirror frames (num_frames, height, width, 3) as the display matrix of one of them says; by a quarter
    turn or two, whatever the angle."""
    # Asking for its side data ties a frame into a cycle: a small copy, which does not keep the decoder's threads alive.
    small = without_exif(frame.reformat(width=16, height=16, format="rgb24"))
    try:
        display_matrix = small.side_data[SideDataType.DISPLAYMATRIX]  # pyright: ignore  # PyAV's stub knows only names
        matrix = np.frombuffer(bytes(display_matrix), dtype=np.int32)
    except KeyError:
        return frames
    except ValueError:  # one entry is of a kind that PyAV does not know; mirrored frames are not told then
        return np.rot90(frames, k=round(frame.rotation / 90), axes=(1, 2))
    a, b, _, c, d = matrix[:5].tolist()  # a pixel at (x, y) is shown at (a * x + c * y, b * x + d * y), and shifted
    if abs(b) + abs(c) > abs(a) + abs(d):
        frames, a, d = frames.swapaxes(1, 2), c, b
    return frames[:, :: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def without_exif(frame: av.VideoFrame) -> av.VideoFrame:
    """A copy without EXIF, a kind of side data beside which PyAV 18 lists none."""
    graph = av.filter.Graph()
    size = {"width": frame.width, "height": frame.height}
    start = graph.add_buffer(**size, format=frame.format.name, time_base=Fraction(1))
    graph.link_nodes(start, graph.add("sidedata", "mode=delete:type=31"), graph.add("buffersink")).configure()
    start.push(frame)
    return graph.vpull()
