"""Videos whose packets or frames are out of proportion."""

import io
import struct
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from demo_model.clip_writing import write_clip
from llava_next_video import LlavaNextVideoVideoProcessor, ReadingLimits, VideoLimitError, VideoReadError, read_video
from tests.attacks import Attack, pictures
from tests.attacks.__main__ import status


LIMITS = ReadingLimits(max_frame_pixels=2**22, max_result_bytes=2**28, max_frames=10_000, max_decode_seconds=5)
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}
SVT = {"preset": "12", "svtav1-params": "lp=1"}
OPTIONS = {"libx264": {"preset": "ultrafast", "threads": "1"}, "libx265": X265, "libsvtav1": SVT}
UNITS = 500_000


def flooded(codec: str, container: str, unit: bytes, number: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A video of six frames, with `UNITS` of these units behind, or in front of, those of one of its packets."""
    file = io.BytesIO()
    height, width = size
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=OPTIONS.get(codec, {}))
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        frames = [np.full((height, width, 3), 20 * level, dtype=np.uint8) for level in range(6)]
        packets = [p for f in frames for p in stream.encode(av.VideoFrame.from_ndarray(f, format="rgb24"))]
        for position, packet in enumerate([*packets, *stream.encode()]):
            if position == number:
                data = bytes(packet)
                more = av.Packet(unit * UNITS + data if codec == "libsvtav1" else data + unit * UNITS)
                more.pts, more.dts, more.time_base, more.stream = packet.pts, packet.dts, packet.time_base, stream
                more.is_keyframe = packet.is_keyframe
                packet = more
            output.mux(packet)
    return file.getvalue()


def element(name: str, data: bytes) -> bytes:
    """An element of Matroska."""
    return bytes.fromhex(name) + (1 << 56 | len(data)).to_bytes(8, "big") + data


def matroska(
    codec: str, packets: list[bytes], compressed: bool = False, laced: bool = False, num_streams: int = 1
) -> bytes:
    """A video without the decoder's configuration, so that FFmpeg looks for it in the packets while it opens the file.

    Args:
        compressed: whether packets are packed by zlib.
        laced: whether each of `packets` is cut into 256 of equal size.
        num_streams: each has all packets.
    """
    zlib_of_all = element("6d80", element("6240", element("5034", element("4254", b"\0")))) if compressed else b""
    size = element("e0", element("b0", b"\x40") + element("ba", b"\x40"))
    tracks, blocks = [], []
    for number in range(1, num_streams + 1):
        numbers = element("d7", bytes([number])) + element("73c5", bytes([number])) + element("83", b"\1")
        tracks.append(element("ae", numbers + element("86", codec.encode()) + size + zlib_of_all))
        start = bytes([128 + number, 0, 0]) + (b"\x84\xff" if laced else b"\x80")
        blocks += [element("a3", start + (zlib.compress(data, 9) if compressed else data)) for data in packets]
    cluster = element("1f43b675", element("e7", b"\0") + b"".join(blocks))
    return element("1a45dfa3", element("4282", b"matroska")) + element(
        "18538067", element("1654ae6b", b"".join(tracks)) + cluster
    )


def flv(data: bytes) -> bytes:
    """A video of one packet, whose stream no header announces."""
    size = struct.pack(">I", len(data))[1:]
    return b"FLV\1\1\0\0\0\x09\0\0\0\0\x09" + size + bytes(7) + data + struct.pack(">I", len(data) + 11)


def thin(height: int, width: int) -> bytes:
    file = io.BytesIO()
    frames = [np.zeros((height, width, 3), dtype=np.uint8)] * 40
    write_clip(file, frames, fps=25, container="mp4", options=OPTIONS["libx264"])
    return file.getvalue()


def animation(kind: str, num_frames: int, side: int) -> bytes:
    """Frames of one changed pixel on a large canvas: few bytes and much work each."""
    file = io.BytesIO()
    frames = []
    for number in range(num_frames):
        frame = Image.new("L", (side, side))
        frame.putpixel((number, 0), 255)
        frames.append(frame)
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=10)
    return file.getvalue()


def memory_is_as_documented():
    """The arithmetic of docs/guides/untrusted_videos.md, for a video and for a picture as thin as may be."""
    pixels, result = 2**22, 2**26
    limits = ReadingLimits(max_frame_pixels=pixels, max_result_bytes=result)
    for name, source, bound in (
        ("video", thin(1024, 1024), 100 * pixels + 8192 * limits.max_packet_units + result + 24 * pixels + 8 * result),
        ("picture", pictures.png(4, 4 * 4 * pixels // 336**2), 24 * pixels + 8 * result),
    ):
        processor = LlavaNextVideoVideoProcessor(**pictures.SQUARE)
        processor.limits = limits
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest VmRSS so far
        processor([source], num_frames=20)
        taken = status("VmHWM") - before
        assert taken <= bound, f"a {name} took {taken} bytes where {bound} are documented"


def attacks(folder: Path) -> list[Attack]:
    processor = LlavaNextVideoVideoProcessor(**pictures.SQUARE)
    processor.limits = LIMITS
    floods = {
        f"{name} of {codec} in packet {number} of {container}": flooded(codec, container, unit, number)
        for codec, container, name, unit in (
            ("libx264", "h264", "parameter sets", b"\0\0\1\x67"),
            ("libx264", "h264", "slices", b"\0\0\1\x41"),
            ("libx264", "mpegts", "parameter sets", b"\0\0\1\x67"),
            ("libx264", "matroska", "filler units", b"\0\0\0\1\x0c"),
            ("libx264", "mp4", "messages", b"\0\0\1\x06\0"),
            ("libx265", "hevc", "units", b"\0\0\1\x46\1\1\1"),
            ("libx265", "mpegts", "units", b"\0\0\1\x46\1\1\1"),
            ("libx265", "mp4", "units", b"\0\0\1\x46\1"),
            ("libsvtav1", "ivf", "padding", b"\x7a\0"),
            ("mpeg2video", "mpegts", "slices", b"\0\0\1\1"),
            ("mpeg4", "avi", "user data", b"\0\0\1\xb2"),
            ("mjpeg", "avi", "scans", b"\xff\xda\0\x08"),
        )
        for number in (0, 3)
    }
    floods |= {
        f"units of {codec} without configuration, {size} bytes{', compressed' * compressed}": matroska(
            codec, [unit * (size // len(unit))], compressed
        )
        for codec, unit in (
            ("V_AV1", b"\x7a\0"),
            ("V_MPEGH/ISO/HEVC", b"\0\0\1\x46"),
            ("V_MPEG4/ISO/AVC", b"\0\0\1\x67"),
        )
        for size, compressed in ((10_000_000, False), (9_000_000, True))
    }
    floods["units in packets of many streams"] = matroska("V_MPEG4/ISO/AVC", [b"\0\0\1\x67" * 9000], num_streams=100)
    floods["units in FLV"] = flv(b"\x17\1\0\0\0" + b"\0\0\1\x67" * 2_500_000)
    floods["units of AV1 in FLV"] = flv(b"\x91av01" + b"\x7a\0" * 8_000_000)
    floods["units of VVC"] = b"\0\0\0\1\0\x79" * 1_500_000
    giant = bytearray(flooded("mjpeg", "avi", b"", -1))
    at = giant.index(b"\xff\xc0") + 5
    giant[at : at + 4] = b"\xff\xff\xff\xff"
    return [
        Attack("as large as the limits allow", memory_is_as_documented, None),  # first: it resets what was measured
        *(
            Attack(name, partial(read_video, data, limits=LIMITS), VideoReadError, "max_packet_units|not a video", 10)
            for name, data in floods.items()
        ),
        *(
            Attack(f"frames of {height}x{width} pixels", partial(processor, data), VideoLimitError, "max_frame_pixels")
            for height, width in ((2, 8192), (16, 8192), (8192, 16))
            for data in [thin(height, width)]
        ),
        *(
            Attack(
                f"{kind} of 300 frames on a large canvas",
                partial(read_video, animation(kind, 300, 2000), limits=LIMITS),
                VideoLimitError,
                "max_decode_seconds|max_result_bytes",
            )
            for kind in ("gif", "png")
        ),
        Attack(
            "millions of packets of one byte",
            partial(
                read_video,
                matroska("V_MPEG4/ISO/AVC", [bytes(256)] * 20_000, laced=True),
                limits=replace(LIMITS, max_decode_seconds=15),  # counting them takes seconds on a busy machine
            ),
            VideoLimitError,
            "more than 500000 packets",
        ),
        Attack(
            "frames of 65535x65535 pixels inside of AVI",
            partial(read_video, bytes(giant), limits=LIMITS),
            VideoReadError,
        ),
        Attack(
            "PNG of 16000x16000 pixels as a video",
            partial(read_video, pictures.png(16000, 16000), limits=LIMITS),
            VideoReadError,
        ),
    ]
