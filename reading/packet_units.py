"""Counts the units that a decoder, or the parser in front of it, would find in a packet, without either.

A decoder keeps a few kilobytes for each unit of a packet (NAL unit, OBU, slice, scan) and cannot be interrupted before
the packet's end, so a packet of millions of tiny units takes gigabytes and minutes. Real packets have fewer than a
hundred, those that are cut for networks some thousands.
"""

import re

import av

from .limits import ReadingLimits


START_CODE = b"\0\0\1"
# Packets of these consist of units that begin with a start code, or (for the first three) with their length.
CODECS_WITH_START_CODES = frozenset(
    ("h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "cavs", "avs2", "avs3", "evc")
)
# Byte of the decoder's configuration (avcC, hvcC, vvcC) with the number of bytes of a unit's length, less one.
POSITION_OF_LENGTH_SIZE = {"h264": 4, "hevc": 21, "vvc": 4}
START_OF_SCAN = b"\xff\xda"
CODECS_WITH_SCANS = frozenset(("mjpeg", "mjpegb", "amv", "thp", "jpegls", "avrn"))


def codec_of(packet: av.Packet) -> tuple[str, bytes]:
    """FFmpeg's name of a packet's codec, empty where there is no decoder, and the decoder's configuration."""
    context = packet.stream.codec_context
    return ("", b"") if context is None else (context.codec.canonical_name, context.extradata or b"")


def units_of_packet(packet: av.Packet, enough: int) -> int:
    """Units in a packet, as `count_units`; 0 where there is no decoder."""
    codec, configuration = codec_of(packet)
    return count_units(bytes(packet), codec, configuration, enough) if codec else 0


def check_units_of_packet(packet: av.Packet, limits: ReadingLimits):
    if packet.size > limits.max_packet_units:  # a unit takes a byte or more
        limits.check_packet_units(units_of_packet(packet, limits.max_packet_units))


def count_units(data: bytes, codec: str, configuration: bytes, enough: int) -> int:
    """Units in a packet; counting may stop when there are more than `enough`.

    Args:
        data: the packet.
        codec: FFmpeg's name of it; packets of codecs that are not known here count as one unit.
        configuration: the stream's extradata.

    >>> count_units(b"\\0\\0\\1\\x65" * 3, "h264", b"", enough=10)
    3
    """
    if codec == "av1":
        return count_obus(data, enough)
    if codec in CODECS_WITH_SCANS:
        return data.count(START_OF_SCAN)
    if codec not in CODECS_WITH_START_CODES:
        return 1
    # A decoder looks for start codes inside of units with lengths, too.
    return max(data.count(START_CODE), count_prefixed(data, codec, configuration, enough))


def count_prefixed(data: bytes, codec: str, configuration: bytes, enough: int) -> int:
    """Units that begin with their length, 0 where the configuration announces start codes."""
    position = POSITION_OF_LENGTH_SIZE.get(codec)
    # Configurations of streams with start codes are such units themselves.
    if position is None or len(configuration) <= position or configuration[:3] in (b"\0\0\0", START_CODE):
        return 0
    bits = configuration[position]
    length_size = (bits >> 1 & 3 if codec == "vvc" else bits & 3) + 1
    count = at = 0
    while at < len(data) and count <= enough:
        at += length_size + int.from_bytes(data[at : at + length_size], "big")
        count += 1
    return count


def count_obus(data: bytes, enough: int) -> int:
    """Open bitstream units of AV1; section 5.3 of its specification."""
    count = at = 0
    while at < len(data) and count <= enough:
        header, count = data[at], count + 1
        at += 2 if header & 4 else 1  # with an extension byte
        if not header & 2:  # no size: it reaches to the packet's end
            break
        size = shift = 0
        while at < len(data):  # LEB128
            byte, at = data[at], at + 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 56:
                break
        at += size
    return count


# Begin of a picture's first slice, of the base layer: there a parser cuts the stream.
FIRST_SLICES = {
    "h264": re.compile(rb"\x00\x00\x01[\x01\x05\x21\x25\x41\x45\x61\x65][\x80-\xff]"),
    "hevc": re.compile(
        rb"\x00\x00\x01[\x00\x02\x04\x06\x08\x0a\x0c\x0e\x10\x12\x20\x22\x24\x26\x28\x2a][\x01-\x07][\x80-\xff]"
    ),
    # Or a picture header, of type 19.
    "vvc": re.compile(
        rb"\x00\x00\x01\x00(?:[\x99-\x9f]|[\x01-\x07\x09-\x0f\x11-\x17\x19-\x1f\x39-\x3f\x41-\x47\x49-\x4f\x51-\x57]"
        rb"[\x80-\xff])"
    ),
}


class UnitsOfPictures:
    """Counts the units from one picture's first slice to the next, in a stream that is not cut into packets yet."""

    def __init__(self, codec: str):
        self.first_slice = FIRST_SLICES[codec]
        self.units = 0

    def add(self, data: bytes) -> int:
        """Add the next piece of the stream; returns the most units between two first slices in it."""
        most = self.units
        for position, piece in enumerate(self.first_slice.split(data)):
            self.units = piece.count(START_CODE) + (1 if position else self.units)
            most = max(most, self.units)
        return most


def has_start_codes(codec: str, configuration: bytes) -> bool:
    """Whether units begin with start codes: then a parser looks for them before there are packets."""
    return codec in FIRST_SLICES and count_prefixed(b"\0", codec, configuration, 1) == 0
