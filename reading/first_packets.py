"""Look at the packets that FFmpeg splits, parses and decodes while it opens a file, before it does.

A file is opened once more for this, without decoders and parsers, and what FFmpeg reads meanwhile is watched. What is
bought is that opening a file takes bounded memory: nothing else can interrupt FFmpeg there, and a file of kilobytes
made it take gigabytes.
"""

from collections import Counter

import av

from .errors import OverLimit
from .guarded_file import GuardedFile
from .limits import ReadingLimits
from .mp4_index import check_index, is_mp4
from .open_video import PROBED_BYTES, open_container
from .packet_units import START_CODE, UnitsOfPictures, check_units_of_packet, codec_of, has_start_codes, units_of_packet


KEPT_BYTES = 2 * PROBED_BYTES  # of packets, which FFmpeg keeps while it opens a file, at most
MOST_FIRST_PACKETS = 500_000  # in these bytes; FFmpeg keeps half a kilobyte for each
MOST_HEADER_BYTES = 2**26  # of other files than MP4; FFmpeg keeps up to 90 bytes for each
FIRST_PACKETS = 10  # with `max_packet_units` each, in what FFmpeg reads to find streams that no header announces
# Formats whose headers announce all streams: none appear later.
HEADERS_WITH_ALL_STREAMS = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "ivf"))


def check_first_packets(file: GuardedFile, limits: ReadingLimits):
    """Count what the header of a file claims, its first packets and their units.

    Raises:
        OverLimit: there are too many.
    """
    # FFmpeg trusts an index of fragments if it reaches to the end of the file, and then reads no other boxes before it
    # decodes. Here it has to read all of them at once, as in other files.
    if check_index(file.read_at, limits):
        file.hide_size()
    file.check()
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
    with file.watched(WatchedOpening(limits, seconds_to_open > 0, is_mp4(file.read_at)).add):
        container = open_container(file, limits, seconds_to_open, **options)
    with container:
        no_others = container.format.name in HEADERS_WITH_ALL_STREAMS
        for packet in container.demux():
            file.check()
            if counter.add(packet):
                break
        return no_others


class WatchedOpening:
    """Counts what FFmpeg reads while it opens a file, where nothing else bounds it."""

    def __init__(self, limits: ReadingLimits, is_split: bool, is_mp4: bool):
        self.limits, self.is_split, self.is_mp4 = limits, is_split, is_mp4
        self.num_bytes = self.num_start_codes = 0

    def add(self, data: bytes):
        # Without time nothing is split. With time what has appeared by then is, before it can be counted as below.
        if self.is_split:
            self.num_start_codes += data.count(START_CODE)
            if self.num_start_codes > FIRST_PACKETS * self.limits.max_packet_units:
                self.limits.check_packet_units(self.num_start_codes)
        elif not self.is_mp4:
            self.num_bytes += len(data)
            if self.num_bytes > MOST_HEADER_BYTES:
                raise OverLimit(f"its header has more than {MOST_HEADER_BYTES} bytes; encode the video again")


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
        return codec in ("hevc", "vvc")  # FFmpeg's parsers of these codecs keep some kilobytes of each unit themselves
