"""Open a file with FFmpeg and give out the packets of its video stream, within limits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
from av.stream import Discard, Disposition

from .errors import Unreadable
from .guarded_file import GuardedFile
from .limits import ReadingLimits
from .packet_units import check_units_of_packet


MAX_THREADS = 16  # of a decoder; FFmpeg's own limit
LARGE_FRAME = 2560 * 1440  # pixels
# FFmpeg's names of the formats that are read. It has some three hundred more, and how much memory the headers of those
# can make it take is not known.
FORMATS = (
    *("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg", "asf", "mxf", "dv", "rm", "swf"),
    *("h264", "hevc", "vvc", "obu", "ivf", "m4v", "h263", "vc1", "mjpeg", "yuv4mpegpipe"),
    *("gif", "apng", "webp_pipe", "png_pipe", "jpeg_pipe", "bmp_pipe", "tiff_pipe", "j2k_pipe", "ppm_pipe"),
    *("mp3", "wav", "flac", "aac"),  # for the error that there is no video stream
)
# FFmpeg's names of formats whose index it reads when they are opened.
MP4, AVI = FORMATS_WITH_INDEX = "mov,mp4,m4a,3gp,3g2,mj2", "avi"
PROBED_BYTES = 5_000_000  # that FFmpeg may read to find out what is in a file; its default


@dataclass(frozen=True)
class OpenVideo:
    """The video stream of a file that FFmpeg has open."""

    file: GuardedFile
    limits: ReadingLimits
    container: av.container.InputContainer
    stream: av.VideoStream

    def packets(self) -> Iterator[av.Packet]:
        """The packets from the current position on, each checked, because decoding one cannot be interrupted."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except IndexError:  # of PyAV, after the last packet, where streams appeared on the way
                return
            self.file.check()
            if packet is None:
                return
            check_units_of_packet(packet, self.limits)
            yield packet


@contextmanager
def open_video(file: GuardedFile, limits: ReadingLimits, stream_index: int | None = None) -> Iterator[OpenVideo]:
    """Open the video stream of a file, ready to be decoded; the one at `stream_index`, if it is given.

    Raises:
        Unreadable: it has none, or its frames are over the limits.
    """
    with open_container(file, limits) as container:
        file.forget_pieces()
        stream = video_stream(container, stream_index)
        context = stream.codec_context
        limits.check_pixels(context.height, context.width)
        context.options = {"max_pixels": str(limits.max_frame_pixels)}
        stream.thread_type = "AUTO"
        # Twice as many as processors, because skipped packets take a thread's turn too; one more than processors for
        # large frames, because each thread holds some.
        processors = os.cpu_count() or 1
        is_large = context.height * context.width > LARGE_FRAME
        context.thread_count = min(processors + 1 if is_large else 2 * processors, MAX_THREADS)
        if container.format.name in FORMATS_WITH_INDEX:
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all  # they are not read
        yield OpenVideo(file, limits, container, stream)


def open_container(
    file: GuardedFile, limits: ReadingLimits, seconds: float | None = None, **options: str
) -> av.container.InputContainer:
    """Open a file. FFmpeg may look at packets for this many `seconds`; with 0 it reads the header only."""
    file.seek(0)
    file.check()
    left = file.deadline.seconds_left()
    return av.open(
        file,
        options={
            # Playlists may not open other files or addresses: no protocol is called "none".
            "protocol_whitelist": "none",
            "format_whitelist": ",".join(FORMATS),
            "max_pixels": str(limits.max_frame_pixels),
            "probesize": str(PROBED_BYTES),
            **options,
        },
        metadata_errors="ignore",
        timeout=(left if seconds is None else seconds, left),
    )


def video_stream(container: av.container.InputContainer, stream_index: int | None = None) -> av.VideoStream:
    """The stream to read: the one at `stream_index`, or FFmpeg's choice, except for the cover of a song."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise Unreadable("it has no video stream")
    best = container.streams.best("video")
    chosen = [stream for stream in streams if stream.index == stream_index]
    stream = chosen[0] if chosen else best if best in streams else streams[0]
    if stream.codec_context is None:
        raise Unreadable("this build of PyAV has no decoder for its video stream")
    return stream
