"""Decode chosen frames with the help of an index, and no more frames than needed.

The reader seeks only when the next chosen frame lies after a later keyframe. Frames that no other is predicted from
are skipped. Every frame that is decoded on the way is compared with the index, so that an index that is wrong ends
in `PacketsAreNotFrames` and never in another frame than the chosen one.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain

import av

from .open_video import OpenVideo
from .packet_index import FrameIndex, PacketsAreNotFrames


class FrameSeeker:
    """Finds and decodes frames of one open video."""

    def __init__(self, video: OpenVideo, index: FrameIndex):
        self.video = video
        self.timestamps, self.keyframes = index.timestamps, index.keyframes

    def frames_at(self, indices: list[int]) -> Iterator[av.VideoFrame]:
        """Yield the frame of each index; indices ascend.

        Raises:
            PacketsAreNotFrames: the decoder returns other frames than the index says, or one cannot seek in the file.
        """
        wanted = {self.timestamps[index] for index in indices}
        start = self.timestamps[0]
        frames = self.needed_frames(self.packets_from(start, start), wanted)
        first, number, frame = 0, -1, None  # where decoding began; the frame last decoded
        for index in indices:
            keyframe = self.keyframes[bisect_right(self.keyframes, self.timestamps[index]) - 1]
            number_of_keyframe = bisect_left(self.timestamps, keyframe)
            if number < number_of_keyframe and first < number_of_keyframe:
                frames = self.needed_frames(self.packets_from(keyframe, self.timestamps[index]), wanted)
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

    def needed_frames(self, packets: Iterator[av.Packet], wanted: set[int]) -> Iterator[av.VideoFrame]:
        """Decode the frames with the timestamps `wanted`, and those that others are predicted from."""
        context = self.video.stream.codec_context
        for packet in packets:
            context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
            yield from packet.decode()

    def packets_from(self, keyframe: int, target: int) -> Iterator[av.Packet]:
        """Packets from a keyframe on, or from an earlier one if the file does not lead there.

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
        return next(packets, None), packets
