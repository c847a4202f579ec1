"""Small real videos in many containers and codecs, encoded by PyAV: what the fuzzer changes and FFmpeg reads beside us.

Every frame shows its number in binary (see `numbered_frame`), except where the codec allows no such size.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.tiny import numbered_frame


NUM_FRAMES = 12
MIRROR = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


@dataclass(frozen=True)
class Clip:
    """How one file of the corpus is encoded."""

    codec: str
    pixels: str = "yuv420p"
    options: dict = field(default_factory=dict)  # of the codec
    muxer: str | None = None  # when the file name does not say it
    muxer_options: dict = field(default_factory=dict)
    size: tuple[int, int] = (48, 64)  # height, width
    fps: int = 25
    rotation: int = 0
    flip: dict = field(default_factory=dict)
    timestamps: tuple[int, ...] | None = None  # milliseconds
    sound: str | None = None
    num_streams: int = 1
    num_frames: int = NUM_FRAMES
    skip_bytes: float = 0  # share of the file cut off at its beginning


X264 = {"preset": "ultrafast", "threads": "1"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}
SVT = {"preset": "12", "svtav1-params": "lp=1"}
VPX = {"cpu-used": "8", "deadline": "realtime"}
CLIPS = {
    "h264.mp4": Clip("libx264", options={"bf": "2", "preset": "veryfast", "threads": "1"}, sound="aac"),
    "h264_short_gop.mp4": Clip("libx264", options={**X264, "g": "4"}),
    "h264_groups.mp4": Clip("libx264", options={"bf": "2", "g": "6", "x264-params": "threads=1"}, num_frames=30),
    "h264_fragments.mp4": Clip("libx264", options=X264, muxer_options={"movflags": "frag_keyframe+empty_moov"}),
    "h264_faststart.mov": Clip("libx264", options=X264, muxer_options={"movflags": "faststart"}),
    "h264_10_bit.mp4": Clip("libx264", "yuv420p10le", X264),
    "h264_444.mkv": Clip("libx264", "yuv444p", X264),
    "h264_rgb.mkv": Clip("libx264rgb", "rgb24", {**X264, "qp": "0"}),
    "h264_gray.mp4": Clip("libx264", "gray", X264),
    "h264_full_range.mp4": Clip("libx264", "yuvj420p", X264),
    "h264_interlaced.ts": Clip("libx264", options={**X264, "x264-params": "tff=1"}),
    "h264_open_gop.mkv": Clip("libx264", options={"x264-params": "open-gop=1:keyint=4:scenecut=0:bframes=2:threads=1"}),
    "h264_variable_rate.mkv": Clip("libx264", options=X264, timestamps=tuple(7 * n * n for n in range(NUM_FRAMES))),
    "h264_odd_size.mkv": Clip("libx264", "yuv444p", X264, size=(47, 63)),
    "h264_two_streams.mkv": Clip("libx264", options=X264, num_streams=2),
    "h264_rotated_90.mp4": Clip("libx264", options=X264, rotation=90),
    "h264_rotated_180.mov": Clip("libx264", options=X264, rotation=180),
    "h264_rotated_270.mp4": Clip("libx264", options=X264, rotation=270),
    "h264_mirrored.mp4": Clip("libx264", options=X264, flip={"hflip": True}),
    "h264_mirrored_rotated.mp4": Clip("libx264", options=X264, rotation=90, flip={"vflip": True}),
    "h264.3gp": Clip("libx264", options=X264),
    "h264.flv": Clip("libx264", options=X264, sound="aac"),
    "h264_cut.ts": Clip("libx264", options={**X264, "g": "5", "bf": "0"}, num_frames=24, skip_bytes=0.3),
    "h264.h264": Clip("libx264", options=X264),
    "hevc.mp4": Clip("libx265", options=X265),
    "hevc_10_bit.mkv": Clip("libx265", "yuv420p10le", X265),
    "hevc.ts": Clip("libx265", options={**X265, "g": "5"}),
    "hevc_444.mp4": Clip("libx265", "yuv444p", X265),
    "vp8.webm": Clip("libvpx", options={**VPX, "auto-alt-ref": "1", "lag-in-frames": "5"}, sound="libopus"),
    "vp8_alpha.webm": Clip("libvpx", "yuva420p", {**VPX, "auto-alt-ref": "0"}),
    "vp9.webm": Clip("libvpx-vp9", options=VPX),
    "vp9_444.webm": Clip("libvpx-vp9", "yuv444p", VPX),
    "vp9.ivf": Clip("libvpx-vp9", options=VPX),
    "av1.mp4": Clip("libsvtav1", options=SVT, size=(64, 64)),
    "av1.webm": Clip("libsvtav1", options=SVT, size=(64, 64)),
    "av1.obu": Clip("libsvtav1", options=SVT, size=(64, 64)),
    "mpeg4.avi": Clip("mpeg4", options={"bf": "1"}, sound="pcm_s16le"),
    "mpeg4_groups.avi": Clip("mpeg4", options={"g": "5"}, sound="pcm_s16le", num_frames=30),
    "mpeg4.m4v": Clip("mpeg4", muxer="mp4"),
    "mpeg4.3g2": Clip("mpeg4"),
    "mpeg2.mpg": Clip("mpeg2video", options={"g": "5", "bf": "2"}),
    "mpeg2_interlaced.ts": Clip("mpeg2video", options={"flags": "+ilme+ildct", "g": "6"}),
    "mpeg2.mxf": Clip("mpeg2video", "yuv422p", {"g": "1"}),
    "mpeg1.mpeg": Clip("mpeg1video"),
    "mjpeg.avi": Clip("mjpeg", "yuvj422p"),
    "mjpeg.mov": Clip("mjpeg", "yuvj420p", sound="pcm_s16le"),
    "msmpeg4.avi": Clip("msmpeg4"),
    "wmv2.wmv": Clip("wmv2"),
    "wmv1.asf": Clip("wmv1"),
    "flv1.flv": Clip("flv"),
    "h263.3gp": Clip("h263", size=(96, 128)),
    "rv20.rm": Clip("rv20"),
    "svq1.mov": Clip("svq1", "yuv410p"),
    "dv.dv": Clip("dvvideo", "yuv420p", size=(576, 720), num_frames=2),
    "prores.mov": Clip("prores_ks", "yuv422p10le"),
    "prores_alpha.mov": Clip("prores_ks", "yuva444p10le"),
    "dnxhd.mov": Clip("dnxhd", "yuv422p", {"profile": "dnxhr_sq"}, size=(128, 256)),
    "cineform.mov": Clip("cfhd", "yuv422p10le"),
    "qtrle.mov": Clip("qtrle", "rgb24"),
    "ffv1.mkv": Clip("ffv1", "bgr0"),
    "ffv1_gray_16_bit.mkv": Clip("ffv1", "gray16le"),
    "ffvhuff.avi": Clip("ffvhuff", "yuv420p"),
    "huffyuv.avi": Clip("huffyuv", "rgb24"),
    "utvideo.avi": Clip("utvideo", "gbrp"),
    "raw.avi": Clip("rawvideo", "bgr24"),
    "raw_planar.avi": Clip("rawvideo", "yuv420p"),
    "raw_10_bit.mov": Clip("v210", "yuv422p10le"),
    "png_alpha.mov": Clip("png", "rgba"),
    "yuv4mpeg.y4m": Clip("wrapped_avframe", muxer="yuv4mpegpipe"),
    "animated.gif": Clip("gif", "rgb8", fps=10),
    "animated.apng": Clip("apng", "rgba", fps=10),
    "flash.swf": Clip("flv"),
    "jpeg2000.mkv": Clip("jpeg2000", "rgb24"),
}
PICTURES = [
    "animated.webp",
    "animated.avif",
    "palette.gif",
    "picture.png",
    "picture.jpg",
    "picture.webp",
    "picture.bmp",
]


def make_corpus(folder: Path, names: list[str] | None = None) -> dict[str, Path]:
    """Write the files with these names, all of them when none are given, and return their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / name for name in names or [*CLIPS, *PICTURES]}
    # SVT-AV1 gives the thread that calls it the highest real-time priority, for good, where root runs it: not to ours,
    # whose children would inherit it and may then keep everything else from the processors.
    with ThreadPoolExecutor(1) as encoder:
        for name, path in paths.items():
            if name in CLIPS:
                encoder.submit(encode, path, CLIPS[name]).result()
            else:
                save_pictures(path)
    return paths


def encode(path: Path, clip: Clip):
    height, width = clip.size
    with av.open(str(path), "w", format=clip.muxer, options=clip.muxer_options) as container:
        streams = []
        for _ in range(clip.num_streams):
            stream = container.add_stream(clip.codec, rate=clip.fps, options=clip.options)
            stream.width, stream.height, stream.pix_fmt = width, height, clip.pixels
            if clip.rotation or clip.flip:
                stream.set_display_rotation(clip.rotation, **clip.flip)
            if clip.timestamps:
                stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            streams.append(stream)
        sound = container.add_stream(clip.sound, rate=48000, layout="mono") if clip.sound else None
        for number in range(clip.num_frames):
            for offset, stream in enumerate(streams):  # a second stream shows other numbers
                picture = numbered_frame(number + 100 * offset, height, width)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=clip.pixels)
                if clip.timestamps:
                    frame.pts, frame.time_base = clip.timestamps[number], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            if sound is not None:
                container.mux(sound.encode(silence(clip.fps, number)))
        for stream in [*streams, *([sound] if sound else [])]:
            container.mux(stream.encode())
    if clip.skip_bytes:
        data = path.read_bytes()
        path.write_bytes(data[int(len(data) * clip.skip_bytes) // 188 * 188 :])


def silence(fps: int, number: int) -> av.AudioFrame:
    """The sound of one frame of the video."""
    samples = 48000 // fps
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), dtype=np.int16), format="s16", layout="mono")
    frame.rate, frame.pts = 48000, number * samples
    return frame


def save_pictures(path: Path):
    """Write a picture, or several in one file, with Pillow."""
    frames = [Image.fromarray(numbered_frame(number)) for number in range(NUM_FRAMES)]
    if path.name == "palette.gif":
        frames = [frame.quantize(16) for frame in frames]
    more = {} if path.stem == "picture" else {"save_all": True, "append_images": frames[1:], "duration": 100}
    if path.suffix == ".webp":
        more["lossless"] = True
    frames[0].save(path, **more)
