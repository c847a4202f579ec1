"""Decode chosen frames with the help of an index, and no more frames than needed.

The chosen frames fall into runs: the reader seeks only when the next one lies after a later keyframe. A run ends with
the packet of its last frame; no packet after it is read, and the decoder is flushed instead. Frames that no other is
predicted from are skipped. Every decoded frame is compared with the index, and so is every packet where the index was
not made from the packets themselves. So a wrong index raises `PacketsAreNotFrames`, and never gives a wrong frame.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain

import av

from .container_index import PredictedPackets
from .open_video import OpenVideo
from .packet_index import FrameIndex, PacketsAreNotFrames


CODECS_THAT_SKIP_FOR_GOOD = frozenset(("av1",))  # dav1d asks once, at the first packet, which frames are needed


class FrameSeeker:
    """Finds and decodes frames of one open video."""

    def __init__(self, video: OpenVideo, index: FrameIndex):
        self.video = video
        self.timestamps, self.keyframes = index.timestamps, index.keyframes
        self.predicted = None if index.packets is None else PredictedPackets(index.packets)

    def frames_at(self, indices: list[int]) -> Iterator[av.VideoFrame]:
        """Yield the frame of each index; indices ascend.

        Raises:
            PacketsAreNotFrames: the decoder returns other frames than the index says, or one cannot seek in the file.
        """
        runs = self.runs(indices)
        if self.predicted is not None:
            self.video.file.plan([self.predicted.bytes_of([first, *run]) for first, run in runs])
        for first, run in runs:
            yield from self.frames_of_run(first, run)

    def runs(self, indices: list[int]) -> list[tuple[int, list[int]]]:
        """Groups of indices that are decoded in one go, each with the index of the keyframe where decoding begins."""
        runs = []
        for index in indices:
            keyframe = self.keyframes[bisect_right(self.keyframes, self.timestamps[index]) - 1]
            first = bisect_left(self.timestamps, keyframe)
            if runs and (runs[-1][0] >= first or runs[-1][1][-1] >= first):
                runs[-1][1].append(index)
            else:
                runs.append((first, [index]))
        return runs

    def frames_of_run(self, first: int, indices: list[int]) -> Iterator[av.VideoFrame]:
        wanted = {self.timestamps[index] for index in indices}
        packets = self.packets_from(self.timestamps[first], self.timestamps[indices[0]])
        frames = self.needed_frames(packets, wanted)
        number, frame = first - 1, None  # of the frame last decoded
        for index in indices:
            while number < index:
                frame = next(frames, None)
                if frame is None or frame.pts is None:
                    raise PacketsAreNotFrames
                if number < first and frame.pts < self.timestamps[first]:
                    continue  # shown before the keyframe, and may need frames that were skipped
                passed, number = number, bisect_left(self.timestamps, frame.pts)
                if not passed < number <= index or frame.pts != self.timestamps[number]:
                    raise PacketsAreNotFrames
            assert frame is not None  # `number` was below every index
            yield frame

    def needed_frames(self, packets: Iterator[av.Packet], wanted: set[int]) -> Iterator[av.VideoFrame]:
        """Decode the frames with the timestamps `wanted`, and those that others are predicted from."""
        context, missing = self.video.stream.codec_context, set(wanted)
        can_skip = context.codec.canonical_name not in CODECS_THAT_SKIP_FOR_GOOD
        for packet in packets:
            if can_skip:
                context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
            yield from packet.decode()
            missing.discard(packet.pts)
            if not missing:
                yield from context.decode(None)  # what it still holds
                return

    def packets_from(self, keyframe: int, target: int) -> Iterator[av.Packet]:
        """Packets from a keyframe on, or from an earlier one where seeking does not lead to it.

        Args:
            target: timestamp of the first frame that is wanted after this keyframe.
        """
        first, packets = self.packets_after_seek(keyframe)
        if first is not None and first.pts != keyframe and first.pts in self.keyframes:
            # FFmpeg seeks in MP4 files of a variable rate by other times than those of the frames.
            first, packets = self.packets_after_seek(target)
            if first is None or first.pts != keyframe:
                first, packets = self.packets_after_seek(keyframe)
        return packets if first is None else chain([first], packets)

    def packets_after_seek(self, timestamp: int) -> tuple[av.Packet | None, Iterator[av.Packet]]:
        """The first packet, if any, and those after it."""
        try:
            self.video.container.seek(timestamp, stream=self.video.stream)
        except av.FFmpegError as error:  # one cannot seek in the file
            raise PacketsAreNotFrames from error
        packets = self.video.packets()
        if self.predicted is not None:
            packets = self.predicted.checked(packets)
        return next(packets, None), packets
