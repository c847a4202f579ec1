"""Look at the packets that FFmpeg splits, parses and decodes while it opens a file, before it does.

The file is opened one more time for this, without decoders and parsers, and what FFmpeg reads is watched. This limits
the memory that opening a file takes: nothing else can interrupt FFmpeg there, and a file of kilobytes made it take
gigabytes.
"""

import math
from collections import Counter

import av

from .errors import OverLimit
from .guarded_file import GuardedFile
from .limits import ReadingLimits
from .mp4_index import Index, check_index
from .open_video import FORMATS_WITH_INDEX, PROBED_BYTES, open_container
from .packet_units import START_CODE, UnitsOfPictures, check_units_of_packet, codec_of, has_start_codes, units_of_packet


KEPT_BYTES = 2 * PROBED_BYTES  # of packets, which FFmpeg keeps while it opens a file, at most
MAX_FIRST_PACKETS = 500_000  # in these bytes; FFmpeg keeps half a kilobyte for each
MAX_HEADER_BYTES = 2**26  # of other files than MP4; FFmpeg keeps up to 33 for each (lists in Matroska)
FIRST_PACKETS = 10  # with `max_packet_units` each, in what FFmpeg reads to find streams that no header announces
# No decoder is called "none".
WITHOUT_DECODERS_AND_PARSERS = {"codec_whitelist": "none", "fflags": "+noparse+nofillin"}
# Formats whose headers announce all streams: none appear later.
HEADERS_WITH_ALL_STREAMS = frozenset((*FORMATS_WITH_INDEX, "matroska,webm", "ivf"))
FORMATS_OF_SMALL_PACKETS = frozenset(("mpegts", "mpeg"))  # whose units FFmpeg forgets with each packet


def check_first_packets(file: GuardedFile, limits: ReadingLimits) -> Index | None:
    """Count what the header of a file claims, its first packets and their units.

    Returns:
        What the header of an MP4 claims; None for other files.

    Raises:
        OverLimit: there are too many.
    """
    # FFmpeg trusts an index of fragments if it reaches to the end of the file, and then reads no other boxes before it
    # decodes. Here it has to read all of them at once, as in other files.
    index = check_index(file.read_at, limits)
    file.hides_size = index is not None and index.has_fragment_index
    file.check()
    # First the packets of streams that the header announces: FFmpeg, which asks whether to stop when it turns to the
    # packets, has no time left then and splits none into units. Then those of streams that appear later, in formats of
    # small packets (MPEG-TS and -PS) and in FLV.
    format_name = ""
    for seconds in (0, file.deadline.seconds_left()):
        if not seconds:
            watch = WatchOfOpening(limits, most_bytes=math.inf if index else MAX_HEADER_BYTES)
        elif format_name in FORMATS_OF_SMALL_PACKETS:
            watch = WatchOfOpening(limits)
        else:  # packets of streams that have appeared by then are split before they can be counted one by one
            watch = WatchOfOpening(limits, most_units=FIRST_PACKETS * limits.max_packet_units)
        try:
            with file.watched(watch.add):
                container = open_container(file, limits, seconds, **WITHOUT_DECODERS_AND_PARSERS)
            with container:
                format_name, counter = container.format.name, FirstPackets(limits)
                for packet in container.demux():
                    file.check()
                    if counter.add(packet):
                        break
            if format_name in HEADERS_WITH_ALL_STREAMS:
                break
        except (av.FFmpegError, IndexError):  # opening it again will show why
            file.check()
    return index


class WatchOfOpening:
    """Counts what FFmpeg reads while it opens a file."""

    def __init__(self, limits: ReadingLimits, most_bytes: float = math.inf, most_units: float = math.inf):
        self.limits, self.most_bytes, self.most_units = limits, most_bytes, most_units
        self.num_bytes = self.num_units = 0

    def add(self, data: bytes):
        self.num_bytes += len(data)
        if self.num_bytes > self.most_bytes:
            raise OverLimit(f"its header has more than {MAX_HEADER_BYTES} bytes; encode the video again")
        self.num_units += data.count(START_CODE)
        if self.num_units > self.most_units:
            self.limits.check_packet_units(self.num_units)


class FirstPackets:
    """Counts the first packets of all streams as they pass."""

    def __init__(self, limits: ReadingLimits):
        self.limits = limits
        self.num_packets = self.num_bytes = 0
        self.units_of_streams = Counter()  # in the packet of each that has most
        self.pictures_of_streams = {}

    def add(self, packet: av.Packet) -> bool:
        """Count one more packet; returns whether those after it need not be looked at."""
        self.num_packets += 1
        self.num_bytes += packet.size
        is_kept = self.num_bytes <= KEPT_BYTES
        if is_kept and self.num_packets > MAX_FIRST_PACKETS:
            raise OverLimit(
                f"its first {KEPT_BYTES} bytes of packets are more than {MAX_FIRST_PACKETS} packets; "
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
        return codec in ("hevc", "vvc")  # FFmpeg's parsers of these codecs keep some kilobytes of each unit themselves
