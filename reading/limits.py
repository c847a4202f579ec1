"""How much reading one video may cost: one class with all limits, whose methods check them.

Every method raises `OverLimit`, whose message names the limit and its value.
"""

import time
from dataclasses import dataclass

from .errors import OverLimit


LONGEST_WAIT = 86_400  # seconds; sockets take no infinity


class Deadline:
    """The moment when a limit on time is reached."""

    def __init__(self, seconds: float, limit: str, action: str):
        self.moment = time.monotonic() + seconds
        self.reason = f"{action} took longer than {limit}={seconds:g}; raise this limit if you trust the video"

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.moment

    def check(self):
        if self.passed:
            raise OverLimit(self.reason)

    def extend(self, seconds: float):
        self.moment += seconds

    def seconds_left(self) -> float:
        self.check()
        return min(max(self.moment - time.monotonic(), 0.001), LONGEST_WAIT)


@dataclass(frozen=True, kw_only=True)
class ReadingLimits:
    """How much one video may cost. A video that would cost more ends in a `VideoLimitError` that names the limit.

    Args:
        max_fetched_bytes: largest video that is held in memory: fetched from a URL, in a data URI, given as bytes, or
            read from a file object that cannot seek. Files on disk are read where they are and may be larger. So may
            files on a server that sends parts (`Range`), if the parts that are needed stay within the limit together.
        max_fetch_seconds: longest download, redirects included, from the first connection to the last byte; for parts,
            without the time between them. Also the longest time to read a file object that cannot seek, checked between
            reads.
        max_frame_pixels: height times width of the largest frame. A decoder holds up to about thirty frames.
        max_frames: most frames in a video, sampled or not.
        max_result_bytes: size of what one video or picture becomes: frames * height * width * 3 of the full-size frames
            that `read_video` returns, and 4 times that for the float32 pixels that a processor prepares.
        max_decode_seconds: longest time from opening the file to the last frame. It is checked between reads,
            packets and frames: one packet or frame cannot be interrupted.
        max_packet_units: most units (NAL units, OBUs, slices, scans) in one packet, of which a decoder keeps some
            kilobytes each.
        allow_private_addresses: whether URLs, redirects included, may lead to addresses that are not public:
            this machine, the local network, the metadata service of a cloud.
        always_scan: read every packet of a file to list its frames, even where the container has an index. A wrong
            index is noticed at the frames that are decoded, not at those between them.

    >>> ReadingLimits(max_decode_seconds=20).max_decode_seconds
    20
    """

    max_fetched_bytes: int = 2**30
    max_fetch_seconds: float = 300
    max_frame_pixels: int = 8192 * 4320  # 8K
    max_frames: int = 1_000_000  # nine hours of 30 frames per second
    max_result_bytes: int = 2**32
    max_decode_seconds: float = 600
    max_packet_units: int = 10_000  # a slice for every 16x16 pixels of 1080p
    allow_private_addresses: bool = False
    always_scan: bool = False

    def deadline_of_fetching(self, action: str) -> Deadline:
        return Deadline(self.max_fetch_seconds, "max_fetch_seconds", action)

    def deadline_of_decoding(self) -> Deadline:
        return Deadline(self.max_decode_seconds, "max_decode_seconds", "reading it")

    def check_bytes(self, num_bytes: int):
        """Check the size of a file that is held in memory, or of the part of it that has arrived."""
        if num_bytes > self.max_fetched_bytes:
            raise OverLimit(
                f"its {num_bytes} bytes or more are over max_fetched_bytes={self.max_fetched_bytes}; "
                "store it on disk and pass the path, or raise this limit"
            )

    def check_pixels(self, height: int, width: int):
        if height * width > self.max_frame_pixels:
            raise OverLimit(
                f"its frames of {height}x{width} pixels are over max_frame_pixels={self.max_frame_pixels}; "
                "make it smaller, or raise this limit"
            )

    def check_num_frames(self, num_frames: int):
        if num_frames > self.max_frames:
            raise OverLimit(f"it has more frames than max_frames={self.max_frames}; cut it, or raise this limit")

    def check_result(self, num_frames: int, height: int, width: int, bytes_per_value: int = 1):
        """Check RGB frames that are returned."""
        num_bytes = num_frames * height * width * 3 * bytes_per_value
        if num_bytes > self.max_result_bytes:
            raise OverLimit(
                f"{num_frames} frames of {height}x{width} pixels are {num_bytes} bytes, more than "
                f"max_result_bytes={self.max_result_bytes}; choose fewer frames or a smaller size, or raise this limit"
            )

    def check_packet_units(self, num_units: int):
        if num_units > self.max_packet_units:
            raise OverLimit(
                f"one of its packets, or pictures, has more units than max_packet_units={self.max_packet_units}; "
                "encode the video with fewer slices, or raise this limit"
            )


DEFAULT_LIMITS = ReadingLimits()
