"""Packets of millions of units are refused before a decoder or a parser sees them."""

from pathlib import Path

import av
import pytest

from llava_next_video import ReadingLimits, VideoLimitError, read_video
from llava_next_video.reading import first_packets
from llava_next_video.reading.packet_units import UnitsOfPictures, count_units, has_start_codes
from tests.attacks.__main__ import status
from tests.attacks.videos import element, flooded, flv, matroska
from tests.fuzz.corpus import make_corpus


AVCC = b"\1\x42\0\x0a\xff"  # lengths of 4 bytes
HVCC = b"\1" + bytes(20) + b"\xfd"  # lengths of 2 bytes
FIRST_SLICE = b"\0\0\1\x65\x88"


@pytest.mark.parametrize(
    ("data", "codec", "configuration", "units"),
    [
        (b"\0\0\1\x67\0\0\1\x68\0\0\0\1\x65", "h264", b"", 3),
        (b"\0\0\1\1\0\0\1\2", "mpeg2video", b"", 2),
        (b"\0\0\0\2ab\0\0\0\1c", "h264", AVCC, 2),
        (b"\0\0\0\x09a\0\0\1b\0\0\1c", "h264", AVCC, 2),  # start codes inside of a unit
        (b"\0\2ab\0\1c\0\0", "hevc", HVCC, 3),
        (b"\0\0\1\x67", "h264", b"\0\0\0\1\x67", 1),
        (b"\x12\0\x0a\1\0\x32\x80\1" + bytes(128) + b"\x16\0\0", "av1", b"", 4),
        (b"\x12\0\x30abc", "av1", b"", 2),  # the last one without a size
        (b"\xff\xd8\xff\xda12\xff\xda34", "mjpeg", b"", 2),
        (b"\0\0\1" * 9, "rawvideo", b"", 1),
    ],
)
def test_units_are_counted(data, codec, configuration, units):
    assert count_units(data, codec, configuration, enough=100) == units


def test_counting_stops_when_there_are_enough():
    assert count_units(b"\x12\0" * 100, "av1", b"", enough=10) == 11
    assert count_units(b"\0\0\0\0" * 100, "h264", AVCC, enough=10) == 11


def test_units_are_counted_from_one_picture_to_the_next():
    counter = UnitsOfPictures("h264")
    assert counter.add(FIRST_SLICE + b"\0\0\1\x41" * 3) == 4
    assert counter.add(b"\0\0\1\x41" * 2 + FIRST_SLICE + b"\0\0\1\x41") == 6
    assert counter.add(FIRST_SLICE) == 2
    enhancement = b"\0\0\1\x03\x01\x80"  # of another layer: the parser does not cut there
    assert UnitsOfPictures("hevc").add(enhancement * 5) == 5
    assert has_start_codes("h264", b"")
    assert not has_start_codes("h264", AVCC)
    assert not has_start_codes("av1", b"")


@pytest.mark.parametrize("container", ["mpegts", "matroska", "mp4", "hevc"])
def test_packet_of_very_many_units_is_not_decoded(container, monkeypatch):
    """4 MB took 18 seconds and 4 GiB, under a limit of 5 seconds."""
    codec = "libx264" if container in ("matroska", "mp4") else "libx265"
    unit = b"\0\0\1\x06\0" if codec == "libx264" else b"\0\0\1\x46\1\1\1"
    monkeypatch.setattr("tests.attacks.videos.UNITS", 20_000)
    video = flooded(codec, container, unit, 3)
    with pytest.raises(VideoLimitError, match="more units than max_packet_units=10000; encode the video with fewer"):
        read_video(video)
    limits = ReadingLimits(max_packet_units=30_000)
    assert len(read_video(video, limits=limits)[0]) == 6


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("codec", "unit"),
    [("V_AV1", b"\x7a\0"), ("V_MPEGH/ISO/HEVC", b"\0\0\1\x46"), ("V_MPEG4/ISO/AVC", b"\0\0\1\x67")],
)
def test_units_are_counted_before_ffmpeg_looks_for_the_configuration_in_them(codec, unit, compressed):
    """FFmpeg took 9 GB for 9 MB of H.264 while it opened the file; compressed, that is a file of 9 KB."""
    video = matroska(codec, [unit * (9_000_000 // len(unit))], compressed)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest VmRSS so far
    before = status("VmRSS")
    with pytest.raises(VideoLimitError, match="max_packet_units"):
        read_video(video)
    assert status("VmHWM") - before < 80 * 2**20


def test_units_of_all_streams_count_together():
    video = matroska("V_MPEG4/ISO/AVC", [b"\0\0\1\x67" * 900], num_streams=20)
    with pytest.raises(VideoLimitError, match="more units than max_packet_units=10000"):
        read_video(video)


@pytest.mark.parametrize("unit", [b"\0\0\1\x67", b"\0\0\1\x67\x64"])
def test_units_of_streams_that_no_header_announces_are_counted(unit):
    """FFmpeg took 10 GB for 10 MB while it opened the file."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    with pytest.raises(VideoLimitError, match="more units than max_packet_units=10000"):
        read_video(flv(b"\x17\1\0\0\0" + unit * (10_000_000 // len(unit))))
    assert status("VmHWM") - before < 400 * 2**20


def test_units_of_a_stream_of_vvc_are_counted():
    """FFmpeg's parser took 7 GB for 10 MB."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    with pytest.raises(VideoLimitError, match="more units than max_packet_units=10000"):
        read_video(b"\0\0\0\1\0\x79" * 1_500_000)
    assert status("VmHWM") - before < 400 * 2**20


def test_long_headers_are_refused(monkeypatch):
    monkeypatch.setattr(first_packets, "MAX_HEADER_BYTES", 2**17)
    video = matroska("V_MPEG4/ISO/AVC", [])
    tags = element("1254c367", b"\x73\x73\x80" * 200_000)
    with pytest.raises(VideoLimitError, match="its header has more than 131072 bytes; encode the video again"):
        read_video(video[:-30].replace(b"\x16\x54\xae\x6b", tags + b"\x16\x54\xae\x6b"))


def test_very_many_packets_are_not_kept():
    """FFmpeg kept 2.7 GB of them, while it looked for what they do not have."""
    video = matroska("V_MPEG4/ISO/AVC", [bytes(256)] * 2000, laced=True)
    with pytest.raises(VideoLimitError, match="are more than 500000 packets; encode the video again"):
        read_video(video)


def test_real_packets_have_few_units(tmp_path):
    most = 0
    for path in make_corpus(tmp_path).values():
        try:
            with av.open(str(path)) as container:
                for packet in container.demux(*container.streams.video):
                    context = packet.stream.codec_context
                    most = max(
                        most, count_units(bytes(packet), context.codec.canonical_name, context.extradata or b"", 9999)
                    )
        except (av.FFmpegError, AttributeError):  # animated WebP
            continue
    assert 1 < most < 100
