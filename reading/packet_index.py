"""An index of the frames of one video: how many there are, when each is shown, and where decoding may begin.

It is built once and then used. Listing the packets is enough for most files, and nothing is decoded for it. Where
packets do not tell (`PacketsAreNotFrames`), all frames are decoded and counted.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .limits import ReadingLimits
from .open_video import OpenVideo


# What an index says of a packet: decoding and presentation time, size and position in bytes.
PACKET = np.dtype([("dts", np.int64), ("pts", np.int64), ("size", np.int64), ("pos", np.int64), ("is_keyframe", bool)])


class PacketsAreNotFrames(Exception):
    """The list of packets does not say which frames the decoder will return."""


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one video in presentation order.

    Args:
        num_frames: counted from the packets or decoded frames, not taken from the header.
        timestamps: of each frame, in units of the stream's time base, ascending; empty where they cannot be trusted.
        keyframes: timestamps of the frames at which decoding may begin; empty where frames were decoded to be counted.
        packets: `PACKET` of each packet, in the order of the file, as the container's index predicts them; None where
            the packets themselves were listed.
    """

    num_frames: int
    timestamps: Sequence[int]
    keyframes: Sequence[int] = ()
    packets: np.ndarray | None = None


def index_of_packets(video: OpenVideo) -> FrameIndex:
    """Index a stream by its packets, without decoding.

    Raises:
        PacketsAreNotFrames: packets without timestamps, two with the same, or some before the first keyframe.
    """
    timestamps, keyframes = array("q"), []  # 8 bytes each, where a list takes 40: an hour has 100,000 frames
    for packet in video.packets():
        if packet.size == 0 or packet.is_discard:  # end of the stream; frames cut off by an edit list
            continue
        if packet.pts is None:
            raise PacketsAreNotFrames
        timestamps.append(packet.pts)
        video.limits.check_num_frames(len(timestamps))
        if packet.is_keyframe:
            keyframes.append(packet.pts)
    return index_of_timestamps(np.frombuffer(timestamps, dtype=np.int64), keyframes)


def index_of_timestamps(
    timestamps: np.ndarray, keyframes: Sequence[int], packets: np.ndarray | None = None
) -> FrameIndex:
    """Index a stream by the timestamps of its packets (n,), int64, and of those that are keyframes, in any order.

    Raises:
        PacketsAreNotFrames: two with the same, or some before the first keyframe.
    """
    ordered, keyframes = np.sort(timestamps), sorted(keyframes)
    # Frames before the first keyframe need one that is missing.
    if (ordered[1:] == ordered[:-1]).any() or ordered[:1].tolist() != keyframes[:1]:
        raise PacketsAreNotFrames
    return FrameIndex(len(ordered), array("q", ordered.tobytes()), keyframes, packets)


def index_of_frames(timestamps: Iterable[int | None], limits: ReadingLimits) -> FrameIndex:
    """Index a stream by the timestamps of its decoded frames, where they have any."""
    listed = []
    for timestamp in timestamps:
        listed.append(timestamp)
        limits.check_num_frames(len(listed))
    are_trusted = None not in listed and listed == sorted(listed)
    return FrameIndex(len(listed), listed if are_trusted else [])
