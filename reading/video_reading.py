"""Read chosen frames of a video with PyAV: exact indices in presentation order, decoding no more than needed.

A video is read in two steps. First the frames are listed without decoding: their true number, their timestamps and the
keyframes. An index of all packets in the container is enough for that (`container_index.py`); without one, all packets
are read (`packet_index.py`). Then the chosen frames are decoded in order (`frame_seeking.py`). If the index turns out
to be wrong, all packets are read after all. Files whose packets cannot be trusted (no timestamps, packets that are not
frames, frames that cannot be decoded because the file begins in the middle) are decoded from the start and counted.
"""

from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from transformers.video_utils import VideoMetadata

from .animated_webp import HEADER_BYTES, is_animated_webp, read_animated_webp
from .chosen_frames import ChooseFrames, FrameTaker, FullFrames, chosen_indices, counted_frames, hand_over
from .container_index import index_of_container
from .errors import PartNeeded, Unreadable, WholeFileNeeded, named_errors
from .first_packets import check_first_packets
from .frame_seeking import FrameSeeker
from .guarded_file import GuardedFile
from .limits import DEFAULT_LIMITS, ReadingLimits
from .mp4_index import check_index
from .mp4_times import TimesOfTracks
from .open_video import OpenVideo, open_video
from .orientation import upright
from .packet_index import FrameIndex, PacketsAreNotFrames, index_of_frames, index_of_packets
from .video_decoders import read_with_decoder
from .video_metadata import metadata_of
from .video_sources import VideoSource, is_decoder, open_source, plain_source


def read_video(
    source: VideoSource,
    choose_frames: ChooseFrames | None = None,
    limits: ReadingLimits = DEFAULT_LIMITS,
) -> tuple[np.ndarray, VideoMetadata]:
    """Read frames of one video, turned upright.

    A picture is a video of one frame. Of several video streams FFmpeg's choice is read, the default one before others;
    the cover of a song does not count. Frames have the size that is stored, also where pixels are not square, and no
    transparency; frames of another size than the first chosen one are scaled to its size.

    Args:
        source: a path, an http(s) URL, a data URI, the bytes of a file, or a binary file object; a value from a column
            of `datasets`, `{"bytes": ..., "path": ...}` or a decoder; or a decoder of torchcodec, which is asked for
            the chosen frames only.
        choose_frames: gets the metadata, with the true `total_num_frames`, and returns the indices to read (0-based,
            ascending); all frames when it is not given.
        limits: how much the video may cost.

    Returns:
        Frames (num_frames, height, width, 3), uint8, RGB, and the metadata with `frames_indices` filled in.

    Raises: as `read_into`.
    """
    frames = FullFrames(limits)
    metadata = read_into(frames, source, choose_frames, limits)
    return frames.frames, metadata


def read_into(
    taker: FrameTaker,
    source: VideoSource,
    choose_frames: ChooseFrames | None = None,
    limits: ReadingLimits = DEFAULT_LIMITS,
) -> VideoMetadata:
    """As `read_video`, but hand each frame over as soon as it is decoded.

    Args:
        taker: gets the frames; all of them again, where the file turns out to need another way of reading.

    Returns:
        The metadata with `frames_indices` filled in.

    Raises:
        VideoReadError: the video is missing, has no video stream or no frames, or cannot be decoded;
            `VideoLimitError` when it would cost more than `limits` allow.
        ValueError: `choose_frames` returned frames that the video does not have, none, or not in order.
        TypeError: `source` is nothing a video can be read from.
    """
    stream_index = getattr(source, "stream_index", None) if is_decoder(source) else None
    source = plain_source(source)
    if is_decoder(source):
        with named_errors(source):
            return read_with_decoder(source, choose_frames, limits, taker)
    file = open_source(source, limits, in_parts=not limits.always_scan)
    try:
        with named_errors(source):
            try:
                return read_file(file, choose_frames, limits, taker, stream_index)
            except WholeFileNeeded:
                file.fetch_whole()
            return read_file(file, choose_frames, limits, taker, stream_index)
    finally:
        if file is not source:
            file.close()


def read_file(
    file: BinaryIO,
    choose_frames: ChooseFrames | None,
    limits: ReadingLimits,
    taker: FrameTaker,
    stream_index: int | None = None,
) -> VideoMetadata:
    """Read an open file, and let decoders see of it what `GuardedFile` lets them; returns what `read_frames` does."""
    guarded = GuardedFile(file, limits.deadline_of_decoding())
    if guarded.in_parts:
        file.decoding = guarded.deadline  # does not run while a part is fetched
    try:
        return read_frames(guarded, choose_frames, limits, taker, stream_index)
    except Exception:  # FFmpeg and Pillow make errors of their own of one that the file raises
        if isinstance(guarded.failure, PartNeeded):
            raise guarded.failure from None
        raise


def read_frames(
    file: GuardedFile,
    choose_frames: ChooseFrames | None,
    limits: ReadingLimits,
    taker: FrameTaker,
    stream_index: int | None = None,
) -> VideoMetadata:
    """Read a file by one of the three readers; of several video streams, the one at `stream_index` if it is given.

    Returns:
        The metadata of the video, with the indices of the frames that were handed over.
    """
    file.keep_pieces()  # it is opened more than once
    header = file.read_at(0, HEADER_BYTES)
    file.check()
    if file.in_parts:
        claims = check_index(file.read_at, limits)
        file.check()
        if claims is None or not claims.is_complete:
            raise WholeFileNeeded
    if is_animated_webp(header):
        return read_animated_webp(file, choose_frames, limits, taker)
    try:
        claims = check_first_packets(file, limits)
        times = claims.times if claims is not None and claims.is_complete else None
        try:
            return read_by_seeking(file, choose_frames, limits, taker, stream_index, times, limits.always_scan)
        except PacketsAreNotFrames:
            return read_by_counting(file, choose_frames, limits, taker, stream_index)
    except (av.FFmpegError, MemoryError) as error:
        file.check()
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        if isinstance(error, av.error.ArgumentError):  # FFmpeg's error for what is not allowed, too
            reason += f", or its frames are over max_frame_pixels={limits.max_frame_pixels}, or its format is not read"
        raise Unreadable(f"{reason}; it is damaged, cut off or not a video") from error


def read_by_seeking(
    file: GuardedFile,
    choose_frames: ChooseFrames | None,
    limits: ReadingLimits,
    taker: FrameTaker,
    stream_index: int | None,
    times: TimesOfTracks | None,
    scan: bool,
) -> VideoMetadata:
    """Read frames where an index says they are: the container's, or one made from all packets, with `scan` or where the
    container's is missing or wrong. Returns what `read_frames` does."""
    with open_video(file, limits, stream_index) as video:
        is_predicted = not scan
        try:
            index = None if scan else index_of_container(video, times)
            is_predicted = index is not None
            if not is_predicted and file.in_parts:
                raise WholeFileNeeded
            index = index or index_of_packets(video)
            metadata = metadata_of_stream(video, index)
            metadata.frames_indices = chosen_indices(choose_frames, metadata)
            hand_over_upright(FrameSeeker(video, index).frames_at(metadata.frames_indices), metadata, video, taker)
            return metadata
        except (PacketsAreNotFrames, av.FFmpegError):
            if not is_predicted:
                raise
            file.check()
            if file.in_parts:
                raise WholeFileNeeded from None
    return read_by_seeking(file, choose_frames, limits, taker, stream_index, times, scan=True)


def read_by_counting(
    file: GuardedFile,
    choose_frames: ChooseFrames | None,
    limits: ReadingLimits,
    taker: FrameTaker,
    stream_index: int | None,
) -> VideoMetadata:
    """Decode all frames twice, once to count them and once to choose; returns what `read_frames` does."""
    with open_video(file, limits, stream_index) as video:
        index = index_of_frames((frame.pts for frame in all_frames(video)), limits)
        metadata = metadata_of_stream(video, index)
    metadata.frames_indices = chosen_indices(choose_frames, metadata)
    with open_video(file, limits, stream_index) as video:
        hand_over_upright(counted_frames(all_frames(video), metadata.frames_indices), metadata, video, taker)
    return metadata


def all_frames(video: OpenVideo) -> Iterator[av.VideoFrame]:
    """Decode a stream from its start, or from its first keyframe."""
    has_begun = False
    for packet in video.packets():
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if has_begun:
                raise
            continue  # a recording that begins in the middle: not decodable until the first keyframe
        has_begun = has_begun or bool(frames)
        yield from frames


def metadata_of_stream(video: OpenVideo, index: FrameIndex) -> VideoMetadata:
    stream = video.stream
    rate = stream.average_rate or stream.guessed_rate
    stated_fps = float(rate) if rate and rate > 0 else None
    return metadata_of(index, stream.codec_context.height, stream.codec_context.width, stream.time_base, stated_fps)


def hand_over_upright(frames: Iterator[av.VideoFrame], metadata: VideoMetadata, video: OpenVideo, taker: FrameTaker):
    """Convert frames to RGB, in the size of the first one, turn them upright and hand them over. Put their height and
    width into the metadata."""
    first = next(frames)
    height, width, turned = first.height, first.width, upright(first)
    converter = VideoReformatter()  # one for all; a frame's own would compute its tables anew

    def picture_of(frame: av.VideoFrame) -> np.ndarray:
        return turned(rgb_values(converter.reformat(frame, width, height, format="rgb24")))

    metadata.height, metadata.width = turned(np.broadcast_to(np.uint8(0), (height, width, 3))).shape[:2]
    shape = len(metadata.frames_indices), metadata.height, metadata.width
    hand_over(chain([first], frames), picture_of, shape, video.file, video.limits, taker)


def rgb_values(frame: av.VideoFrame) -> np.ndarray:
    """The values of an RGB frame (height, width, 3), uint8; a view where its rows are contiguous."""
    plane = frame.planes[0]
    if plane.line_size != 3 * frame.width:
        return frame.to_ndarray()
    return np.frombuffer(plane, np.uint8, 3 * frame.width * frame.height).reshape(frame.height, frame.width, 3)
