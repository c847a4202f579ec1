"""Look at the packets that FFmpeg splits, parses and decodes while it opens a file, before it does.

A file is opened once more for this, without decoders and parsers. What is bought is that opening a file takes bounded
memory: nothing else can interrupt FFmpeg there, and a file of kilobytes made it take gigabytes.
"""

from collections import Counter

import av

from .errors import OverLimit
from .guarded_file import GuardedFile
from .limits import ReadingLimits
from .open_video import PROBED_BYTES, open_container
from .packet_units import UnitsOfPictures, check_units_of_packet, codec_of, has_start_codes, units_of_packet


KEPT_BYTES = 2 * PROBED_BYTES  # of packets, which FFmpeg keeps while it opens a file, at most
MOST_FIRST_PACKETS = 500_000  # in these bytes; FFmpeg keeps half a kilobyte for each
# Formats whose headers announce all streams: none appear later.
HEADERS_WITH_ALL_STREAMS = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "ivf"))


def check_first_packets(file: GuardedFile, limits: ReadingLimits):
    """Count the first packets of a file and their units.

    Raises:
        OverLimit: there are too many.
    """
    # First those of the streams that the header announces: FFmpeg, which asks whether to stop when it turns to the
    # packets, has no time left then and splits none into units. Then those of streams that appear later, in formats of
    # small packets (MPEG-TS and -PS) and in FLV.
    for seconds in (0, file.deadline.seconds_left()):
        try:
            if check_packets_of_known_streams(file, limits, seconds):
                return
        except (av.FFmpegError, IndexError):  # opening it again will show why
            file.check()


def check_packets_of_known_streams(file: GuardedFile, limits: ReadingLimits, seconds_to_open: float) -> bool:
    """Count packets and units; returns whether no other streams can appear."""
    counter = FirstPackets(limits)
    # Without decoders (none is called "none") and parsers.
    options = {"codec_whitelist": "none", "fflags": "+noparse+nofillin"}
    with open_container(file, limits, seconds_to_open, **options) as container:
        no_others = container.format.name in HEADERS_WITH_ALL_STREAMS
        for packet in container.demux():
            file.check()
            if counter.add(packet):
                break
        return no_others


class FirstPackets:
    """Counts the first packets of all streams as they pass."""

    def __init__(self, limits: ReadingLimits):
        self.limits = limits
        self.num_packets = self.num_bytes = 0
        self.units_of_streams = Counter()  # in the packet of each that has most
        self.pictures_of_streams = {}

    def add(self, packet: av.Packet) -> bool:
        """Count one more packet; returns whether those behind it need not be looked at."""
        self.num_packets += 1
        self.num_bytes += packet.size
        is_kept = self.num_bytes <= KEPT_BYTES
        if is_kept and self.num_packets > MOST_FIRST_PACKETS:
            raise OverLimit(
                f"its first {KEPT_BYTES} bytes of packets are more than {MOST_FIRST_PACKETS} packets; "
                "encode the video again"
            )
        if packet.stream.type != "video":
            return False
        if is_kept:
            # FFmpeg keeps what it took for the largest packet of each stream until it knows all streams.
            units = units_of_packet(packet, self.limits.max_packet_units)
            index = packet.stream.index
            self.units_of_streams[index] = max(self.units_of_streams[index], units)
            self.limits.check_packet_units(self.units_of_streams.total())
        else:
            check_units_of_packet(packet, self.limits)
        return not self.add_to_picture(packet) and not is_kept

    def add_to_picture(self, packet: av.Packet) -> bool:
        """Count the units of a stream that is not cut into packets yet; returns whether the parser needs it to its
        end."""
        codec, configuration = codec_of(packet)
        if not has_start_codes(codec, configuration):
            return False
        pictures = self.pictures_of_streams.setdefault(packet.stream.index, UnitsOfPictures(codec))
        self.limits.check_packet_units(pictures.add(bytes(packet)))
        return codec == "hevc"  # FFmpeg's parser of this codec keeps some kilobytes of each unit itself
