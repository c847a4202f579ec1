"""Reading 32 frames of a file: ours next to what a user has instead. Files of hours stand in `long_files.py`.

The built-in loads with its own sampling, which stops a little before the end; the others get the frames that we read.
"""

import os
from importlib.util import find_spec

from transformers.video_utils import load_video

from benchmarks.clips import clip
from benchmarks.comparison import BUILTIN, HERE, Comparison, Setting, Unavailable
from llava_next_video import ReadingLimits, read_video
from llava_next_video.processing.frame_sampling import uniform_indices
from llava_next_video.processing.video_processing_llava_next_video import in_parallel


NUM_FRAMES = 32
LIMITS = ReadingLimits(max_frames=3_000_000)  # a day has 2,160,000


def here(name: str):
    def prepare(setting: Setting):
        path = clip(name, setting.clips, setting.tiny)
        return lambda: read_video(path, uniform, LIMITS)

    return prepare


def uniform(metadata):
    return uniform_indices(metadata.total_num_frames, NUM_FRAMES)


def builtin(name: str):
    def prepare(setting: Setting):
        path = clip(name, setting.clips, setting.tiny)
        return lambda: load_video(path, num_frames=NUM_FRAMES, backend="pyav")

    return prepare


def torchcodec(name: str, seek_mode: str = "exact", dimension_order: str = "NHWC"):
    def prepare(setting: Setting):
        if find_spec("torchcodec") is None:
            raise Unavailable("torchcodec is not installed")
        path = clip(name, setting.clips, setting.tiny)
        try:
            from torchcodec.decoders import VideoDecoder

            VideoDecoder(path)  # torchcodec looks for FFmpeg when the first video is opened
        except (RuntimeError, OSError, ImportError) as error:
            raise Unavailable(f"torchcodec finds no FFmpeg: {str(error).splitlines()[0]}") from error

        def read():
            # Its default, "exact", lists the packets first.
            decoder = VideoDecoder(path, num_ffmpeg_threads=0, dimension_order=dimension_order, seek_mode=seek_mode)
            indices = uniform_indices(decoder.metadata.num_frames, NUM_FRAMES)
            return decoder.get_frames_at(indices.tolist())

        return read

    return prepare


def opencv(name: str):
    def prepare(setting: Setting):
        if find_spec("cv2") is None:
            raise Unavailable("opencv-python-headless is not installed")
        import cv2

        path = clip(name, setting.clips, setting.tiny)

        def read():
            capture = cv2.VideoCapture(path)
            wanted = set(uniform_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), NUM_FRAMES).tolist())
            frames = []
            for number in range(max(wanted) + 1):
                capture.grab()
                if number in wanted:
                    frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
            return frames

        return read

    return prepare


def eight_here(name: str):
    def prepare(setting: Setting):
        read = here(name)(setting)
        return lambda: in_parallel(lambda number: read(), range(8))

    return prepare


def eight_one_after_another(read_one):
    def prepare(setting: Setting):
        read = read_one(setting)
        return lambda: [read() for _ in range(8)]

    return prepare


def from_disk(name: str, side):
    """The same with nothing of the file in memory."""

    def prepare(setting: Setting):
        read, path = side(setting), clip(name, setting.clips, setting.tiny)

        def read_cold():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return read()

        return read_cold

    return prepare


def readers(name: str) -> dict:
    return {HERE: here(name), BUILTIN: builtin(name), "torchcodec": torchcodec(name)}


def all_readers(name: str) -> dict:
    return {**readers(name), "OpenCV": opencv(name)}


COMPARISONS = [
    Comparison(
        "read_keyframes_30",
        "read 32 frames, 60 s of 720p, keyframe every 30",
        all_readers("60s-720p-keyframes-30"),
        least={BUILTIN: 2.5, "torchcodec": 1},
    ),
    Comparison(
        "read_keyframes_250",
        "read 32 frames, 60 s of 720p, keyframe every 250",
        all_readers("60s-720p-keyframes-250"),
        least={BUILTIN: 1.3, "torchcodec": 1},
    ),
    Comparison(
        "read_batch",
        "read 32 frames of each of 8 videos, 60 s of 240p",
        {HERE: eight_here("1min-240p"), "here, one after another": eight_one_after_another(here("1min-240p"))},
    ),
    Comparison("read_10_minutes", "read 32 frames, 10 min of 480p", readers("10min-480p")),
    Comparison("read_hour", "read 32 frames, 60 min of 240p", readers("60min-240p"), least={BUILTIN: 3}),
    Comparison("read_vfr", "read 32 frames, 60 s of 360p, variable rate", all_readers("60s-360p-vfr")),
    Comparison("read_4k", "read 32 frames, 3 s of 4K", all_readers("3s-4k")),
    Comparison(
        "read_hour_memory",
        "memory of reading 32 frames of 60 min of 240p",
        {HERE: here("60min-240p"), "here, of 1 min": here("1min-240p")},
        measure="peak",
        least={"here, of 1 min": 1 / 1.2},
        rounds=1,
    ),
]
