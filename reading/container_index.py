"""Find the frames of a video by the index in its container, without reading its packets.

MP4, MOV and AVI list in one place where each packet is, how large it is and when it is decoded. FFmpeg reads that list
when it opens the file. Here it is used as a prediction: `FrameSeeker` compares every packet and every frame that it
meets with it. Any difference raises `PacketsAreNotFrames`, and then the packets themselves are listed.
"""

from collections.abc import Iterator
from itertools import chain, islice
from operator import attrgetter

import av
import numpy as np
from av.stream import Stream

from .avi_index import lists_all_packets
from .mp4_times import TimesOfTracks
from .open_video import AVI, MP4, OpenVideo
from .packet_index import PACKET, FrameIndex, PacketsAreNotFrames, index_of_timestamps


# FFmpeg divides these into other packets than the container has.
CODECS_CUT_ANEW = frozenset(("mpeg1video", "mpeg2video", "vc1"))
AVI_HEADER = 8  # bytes of the name and the size of a packet, with which its position is given
KEYFRAME, DISCARD = 1, 2  # flags of an entry, `AVINDEX_...`
ENTRIES_AT_ONCE = 4096
FIELDS = attrgetter("timestamp", "size", "pos", "flags")  # of an entry


def index_of_container(video: OpenVideo, times: TimesOfTracks | None) -> FrameIndex | None:
    """Predict the frames of a stream that was just opened.

    Args:
        times: of the tracks of an MP4 whose header lists all frames; None for other files.

    Returns:
        The index; None, and nothing was read, where the container has none that is known to be complete and plain.

    Raises:
        PacketsAreNotFrames: the first packet is not as predicted.
    """
    delays = delays_of_stream(video, times)
    if delays is None or not 0 < len(video.stream.index_entries) <= video.limits.max_frames:
        return None  # too many frames: `index_of_packets` says so
    packets = packets_of_entries(video.stream)
    video.file.check()
    if packets is None or (packets["pos"] + packets["size"]).max() > video.file.size():
        return None  # or the file is cut off
    if video.container.format.name == AVI and not avi_is_complete(video):
        return None
    if len(delays):
        if delays[:, 0].sum() != len(packets):
            return None
        packets["pts"] += np.repeat(delays[:, 1], delays[:, 0])
    first = next(PredictedPackets(packets[:1], any_pts=True).checked(video.packets()), None)
    if first is None or (video.container.format.name == AVI and first.pts != first.dts):
        raise PacketsAreNotFrames  # the index of an AVI does not say in which order frames are shown
    # What edit lists and negative delays add to all of them.
    packets["pts"] += first.pts - packets["pts"][0]
    return index_of_timestamps(packets["pts"], packets["pts"][packets["is_keyframe"]].tolist(), packets)


def delays_of_stream(video: OpenVideo, times: TimesOfTracks | None) -> np.ndarray | None:
    """How much later frames are shown than decoded, in rows (frames, delay), (n, 2), or no rows; None where the
    container does not say."""
    kind = video.container.format.name
    if video.stream.codec_context.codec.canonical_name in CODECS_CUT_ANEW:
        return None
    if kind == MP4 and times is not None:
        return times.get(video.stream.id)
    return np.zeros((0, 2), np.int32) if kind == AVI else None


def avi_is_complete(video: OpenVideo) -> bool:
    file = video.file
    entries = [
        np.array([(entry.pos, entry.size) for entry in stream.index_entries], np.int64).reshape(-1, 2)
        for stream in video.container.streams
    ]
    position = file.tell()
    try:
        return lists_all_packets(file.read_at, entries, file.size())
    finally:
        file.seek(position)  # where FFmpeg goes on


def packets_of_entries(stream: Stream) -> np.ndarray | None:
    """The entries of a stream's index as `PACKET` (n,), with presentation times equal to decoding times. None where an
    entry is odd: not later than the one before, empty, or marked to be discarded."""
    packets = np.empty(len(stream.index_entries), PACKET)
    fields = map(FIELDS, stream.index_entries)
    for start in range(0, len(packets), ENTRIES_AT_ONCE):
        block = packets[start : start + ENTRIES_AT_ONCE]
        values = chain.from_iterable(islice(fields, len(block)))  # a day has two million
        dts, size, pos, flags = np.fromiter(values, np.int64, 4 * len(block)).reshape(-1, 4).T
        if (flags & DISCARD).any() or (size < 1).any() or (pos < 0).any():
            return None
        block["dts"], block["pts"], block["size"], block["pos"] = dts, dts, size, pos
        block["is_keyframe"] = flags & KEYFRAME
    if (np.diff(packets["dts"]) < 1).any():
        return None
    if stream.container.format.name == AVI:
        packets["pos"] += AVI_HEADER
    return packets


class PredictedPackets:
    """Compares packets with what was predicted of them."""

    def __init__(self, predicted: np.ndarray, any_pts: bool = False):
        self.predicted = predicted  # `PACKET` (n,)
        self.dts = predicted["dts"].copy()  # side by side, to be searched
        self.any_pts = any_pts  # whether presentation times are not known yet
        self.in_order = np.argsort(predicted["pts"])  # number of each frame's packet, in presentation order

    def bytes_of(self, indices: list[int]) -> tuple[int, int]:
        """First byte of the packets of some frames and those between them, and the byte after the last."""
        numbers = self.in_order[indices]
        packets = self.predicted[numbers.min() : numbers.max() + 1]
        return int(packets["pos"].min()), int((packets["pos"] + packets["size"]).max())

    def checked(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Check packets, from anywhere in the file to its end, as they pass.

        Raises:
            PacketsAreNotFrames: one is not, or the end comes too early.
        """
        number = None
        for packet in packets:
            if packet.size == 0:  # the end of the stream
                if number != len(self.predicted):
                    raise PacketsAreNotFrames
            else:
                if packet.dts is None or packet.pts is None or packet.is_discard:
                    raise PacketsAreNotFrames
                if number is None:
                    number = int(np.searchsorted(self.dts, packet.dts))
                if number >= len(self.predicted):
                    raise PacketsAreNotFrames
                dts, pts, size, pos, is_keyframe = self.predicted[number].tolist()
                found = (packet.dts, pts if self.any_pts else packet.pts, packet.size, packet.pos, packet.is_keyframe)
                if found != (dts, pts, size, pos, is_keyframe):
                    raise PacketsAreNotFrames
                number += 1
            yield packet
