"""The clips that reading is measured on, made with PyAV and kept in a folder outside the repository.

The pictures are windows that wander over a large texture, with a little noise, so that frames differ as filmed ones do.
Long clips repeat the packets of a minute or less: what a reader has to do grows with the length, what the script has
to do does not.
"""

import os
from pathlib import Path

import av
import numpy as np
from PIL import Image

from demo_model.clip_writing import write_clip


FRAMES_PER_SECOND = 25
DEFAULT_FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llava-next-video-benchmarks"

# Name: height, width, seconds that are encoded, frames between keyframes, times these are repeated.
CLIPS = {
    "60s-720p-keyframes-30": (720, 1280, 60, 30, 1),
    "60s-720p-keyframes-250": (720, 1280, 60, 250, 1),
    "10min-480p": (480, 854, 60, 250, 10),
    "1min-240p": (240, 426, 60, 250, 1),
    "60min-240p": (240, 426, 60, 250, 60),
    "60s-360p-vfr": (360, 640, 60, 250, 1),
    "3s-4k": (2160, 3840, 3, 250, 1),
    "60min-1080p": (1080, 1920, 20, 50, 180),
    "24h-240p": (240, 426, 60, 250, 24 * 60),
    **{f"question-{number}": (240, 426, 4, 50, 1) for number in range(8)},
}
BITS_PER_SECOND = {"60min-1080p": "5500k"}  # 2.5 GB; the others take what they take


def clip(name: str, folder: Path, tiny: bool = False) -> str:
    """Path of a clip, which is made if it is missing; tiny clips have two seconds and are 64 pixels high."""
    height, width, seconds, keyframe_interval, times = CLIPS[name]
    if tiny:
        height, width, seconds, times = 64, 96, 2, min(times, 2)
    path = folder / f"{'tiny-' * tiny}{name}.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.mp4")
        seed = sum(map(ord, name))
        encode(
            unfinished, height, width, seconds, keyframe_interval, "vfr" in name, seed, BITS_PER_SECOND.get(name, "")
        )
        if times > 1:
            once = unfinished.replace(unfinished.with_suffix(".once"))
            repeat(once, unfinished, times)
            once.unlink()
        unfinished.replace(path)
    return str(path)


def encode(
    path: Path,
    height: int,
    width: int,
    seconds: int,
    keyframe_interval: int,
    variable_rate: bool,
    seed: int,
    bits_per_second: str = "",
) -> None:
    rng = np.random.default_rng(seed)
    num_frames = seconds * FRAMES_PER_SECOND
    options = {"preset": "veryfast" if height < 2160 else "ultrafast", "g": str(keyframe_interval)}
    if bits_per_second:
        options["b"] = bits_per_second
    # PyAV asks for a slice for each thread, where films have one slice.
    options |= {"x264-params": "scenecut=0:sliced-threads=0"}
    milliseconds = np.arange(num_frames) * 1000 // FRAMES_PER_SECOND
    if variable_rate:  # 20 to 60 ms between frames
        milliseconds = np.cumsum(rng.integers(20, 61, num_frames))
    planes = pictures(height, width, num_frames, rng)
    write_clip(path, planes, FRAMES_PER_SECOND, milliseconds=milliseconds, pixels="yuv420p", options=options)


def pictures(height: int, width: int, num_frames: int, rng: np.random.Generator):
    """Yield pictures as yuv420p planes, (height * 3 / 2, width) uint8."""
    # Blots of 32 pixels on blots of 128, without sharp edges: about as many bits as a film takes.
    blots = (rng.integers(0, 100, (2 * height // size, 2 * width // size), np.uint8) for size in (32, 128))
    texture = sum(np.array(Image.fromarray(blot).resize((2 * width, 2 * height))) for blot in blots)
    noise = rng.integers(0, 4, (8, height, width), dtype=np.uint8)
    for number in range(num_frames):
        top = int((1 + np.sin(number / 40)) * height / 2)
        left = int((1 + np.cos(number / 55)) * width / 2)
        bright = texture[top : top + height, left : left + width] + noise[number % 8]
        colours = texture[top : top + height // 2, left : left + width]
        yield np.concatenate([bright, colours])


def repeat(source: Path, destination: Path, times: int) -> None:
    """Write the packets of a clip `times` times in a row, without encoding again."""
    with av.open(str(destination), "w") as written:
        stream, offset = None, 0
        for _ in range(times):
            with av.open(str(source)) as container:
                template = container.streams.video[0]
                stream = stream or written.add_stream_from_template(template)
                end = 0
                for packet in container.demux(template):
                    if packet.pts is None:
                        continue
                    end = max(end, packet.pts + packet.duration)
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    written.mux(packet)
                offset += end
