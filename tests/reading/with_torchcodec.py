"""Decoders of torchcodec, the user's own and those of the library `datasets`; run by `test_video_decoders.py`, in a
process that finds an FFmpeg for them."""

import zipfile
from pathlib import Path

import av
import datasets
import numpy as np
import pytest
import torch
import transformers
from torchcodec.decoders import VideoDecoder

from llava_next_video import (
    DEMO_CHECKPOINT,
    LlavaNextVideoProcessor,
    ReadingLimits,
    VideoLimitError,
    VideoReadError,
    read_video,
)
from llava_next_video.inference.video_fingerprints import video_key
from tests.tiny import number_of, numbered_frame, write_video


SAMPLES = Path(__file__).parents[2] / "demo_model" / "samples"
CLIPS = [
    str(SAMPLES / f"{name}.mp4") for name in ("red_circle_moves_left", "blue_square_moves_up", "yellow_star_moves_down")
]
QUESTION = "What is moving?"
ANSWERS = ["A red circle.", "A blue square.", "A yellow star."]
VIDEO, TEXT = datasets.Video(), datasets.Value("string")


@pytest.fixture(scope="module")
def processor():
    return LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)


@pytest.fixture(scope="module")
def pipe():
    return transformers.pipeline("video-text-to-text", model=DEMO_CHECKPOINT)


def table(videos: list, video: datasets.Video = VIDEO, **columns) -> datasets.Dataset:
    features = datasets.Features({"video": video, **dict.fromkeys(columns, TEXT)})
    return datasets.Dataset.from_dict({"video": videos, **columns}, features=features)


def bytes_of(path: str) -> bytes:
    return Path(path).read_bytes()


class Watched:
    """A decoder that notes which frames it is asked for."""

    def __init__(self, *args, **kwargs):
        self.decoder, self.asked = VideoDecoder(*args, **kwargs), []
        self.metadata = self.decoder.metadata
        self.stream_index = self.decoder.stream_index

    def __len__(self):
        return len(self.decoder)

    def get_frames_at(self, indices):
        self.asked += indices
        return self.decoder.get_frames_at(indices)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"dimension_order": "NHWC"},
        {"num_ffmpeg_threads": 2},
        {"seek_mode": "approximate"},
        {"output_dtype": torch.float32},
        {"output_dtype": torch.float32, "dimension_order": "NHWC"},
    ],
)
def test_frames_of_a_decoder_are_those_of_its_file(arguments):
    for clip in CLIPS:
        wanted, expected = read_video(clip)
        frames, metadata = read_video(VideoDecoder(clip, **arguments))
        # FFmpeg converts to floats by another way.
        tolerance = 3 if arguments.get("output_dtype") is torch.float32 else 0
        assert frames.dtype == np.uint8
        assert np.abs(frames.astype(int) - wanted).max() <= tolerance
        for name in ("total_num_frames", "fps", "duration", "height", "width", "frames_indices", "timestamps"):
            assert getattr(metadata, name) == pytest.approx(getattr(expected, name)), name


def test_decoders_of_bytes_and_of_file_objects():
    wanted, _ = read_video(CLIPS[0])
    with open(CLIPS[0], "rb") as file:
        for source in (bytes_of(CLIPS[0]), file):
            frames, _ = read_video(VideoDecoder(source))
            assert np.array_equal(frames, wanted)


def test_only_the_checkpoints_frames_are_asked_of_a_decoder(processor):
    decoder = Watched(CLIPS[0])
    given = processor.video_processor(decoder, return_metadata=True)
    assert decoder.asked == [0, 10, 21, 31, 42, 52, 63, 74]
    wanted = processor.video_processor(CLIPS[0])["pixel_values_videos"][0]
    assert torch.equal(given["pixel_values_videos"][0], wanted)
    assert list(given["video_metadata"][0].frames_indices) == decoder.asked
    decoder.asked.clear()
    processor.video_processor(decoder, num_frames=3)
    processor.video_processor(decoder, num_frames=2, frame_sampling="legacy")
    processor.video_processor(decoder, fps=1)
    assert decoder.asked == [0, 37, 74, 0, 37, 0, 25, 50]


def test_short_video_gives_a_decoders_frames_more_than_once(tmp_path):
    short = write_video(tmp_path / "short.mp4", num_frames=2)
    frames, _ = read_video(VideoDecoder(str(short)), lambda metadata: [0, 0, 1])
    assert [number_of(frame) for frame in frames] == [0, 0, 1]


def test_turned_video_stands_upright(tmp_path):
    turned = str(write_video(tmp_path / "turned.mp4", num_frames=3, rotation=90))
    frames, metadata = read_video(VideoDecoder(turned))
    assert np.array_equal(frames, read_video(turned)[0])
    assert (metadata.height, metadata.width) == (64, 48)


def test_times_of_a_variable_rate_are_those_of_the_frames(tmp_path, processor):
    moments = [40 * number + (1000 if number > 10 else 0) for number in range(20)]
    clip = str(write_video(tmp_path / "variable.mp4", num_frames=20, timestamps=moments))
    chosen = [0, 5, 10, 11, 19]
    _, metadata = read_video(VideoDecoder(clip), lambda metadata: chosen)
    assert metadata.timestamps == pytest.approx([moments[index] / 1000 for index in chosen])
    assert "0.00s,0.20s,0.40s,1.44s,1.76s" in processor.video_processor.describe_times(metadata)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_frames": 10}, r"given as VideoDecoder: it has more frames than max_frames=10"),
        ({"max_frame_pixels": 1000}, r"240x320 pixels are over max_frame_pixels=1000"),
        ({"max_result_bytes": 10_000}, r"more than max_result_bytes=10000"),
        ({"max_decode_seconds": 0}, r"longer than max_decode_seconds=0"),
    ],
)
def test_limits_hold_for_decoders(limits, reason):
    decoder = Watched(CLIPS[0])
    decoder.__class__.__name__ = "VideoDecoder"
    with pytest.raises(VideoLimitError, match=reason):
        read_video(decoder, limits=ReadingLimits(**limits))
    assert len(decoder.asked) <= 1


def test_damaged_video_of_a_decoder():
    data = bytearray(bytes_of(CLIPS[1]))
    data[3000:9000] = bytes(6000)
    with pytest.raises(VideoReadError, match=r"given as VideoDecoder: its decoder failed at the frames \[1, 2, 3"):
        read_video(VideoDecoder(bytes(data)))


def test_one_decoder_of_many_prompts_at_once(processor):
    """Videos of a call are read in several threads, and a decoder stands somewhere in its file."""
    decoder = VideoDecoder(CLIPS[0])
    wanted = processor.video_processor(CLIPS[0])["pixel_values_videos"][0]
    for video in processor.video_processor([decoder] * 8)["pixel_values_videos"]:
        assert torch.equal(video, wanted)


@pytest.mark.parametrize("stored", [CLIPS, list(map(bytes_of, CLIPS))], ids=["paths", "bytes"])
@pytest.mark.parametrize("format_of_rows", [None, "torch", "numpy"])
def test_rows_with_decoders(pipe, stored, format_of_rows):
    rows = table(stored, text=[QUESTION] * 3).with_format(format_of_rows)
    assert [answer["generated_text"] for [answer] in pipe(rows, batch_size=2)] == ANSWERS
    for row, expected in zip(rows, ANSWERS):
        assert isinstance(row["video"], VideoDecoder)
        assert pipe(row["video"], QUESTION)[0]["generated_text"] == expected
        content = [{"type": "video", "video": row["video"]}, {"type": "text", "text": QUESTION}]
        [answer] = pipe([{"role": "user", "content": content}])
        assert answer["generated_text"][-1]["content"] == expected


def test_decoder_of_datasets_is_not_asked_where_its_file_is_known(processor, monkeypatch):
    monkeypatch.setattr(VideoDecoder, "get_frames_at", lambda *_: pytest.fail("a frame was asked of a decoder"))
    for stored in (CLIPS, list(map(bytes_of, CLIPS))):
        for row, clip in zip(table(stored), CLIPS):
            given = processor(text="<video>", videos=row["video"])["pixel_values_videos"]
            assert torch.equal(given, processor(text="<video>", videos=clip)["pixel_values_videos"])


def test_decoder_whose_file_is_gone_is_asked(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", num_frames=5)
    [row] = table([str(clip)])
    clip.unlink()
    assert [number_of(frame) for frame in read_video(row["video"])[0]] == list(range(5))


@pytest.fixture
def two_streams(tmp_path) -> str:
    """FFmpeg's choice is the first of two video streams, which is larger."""
    path = str(tmp_path / "two.mp4")
    with av.open(path, "w") as output:
        streams = [output.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, height, width in ((streams[0], 96, 128), (streams[1], 48, 64)):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for stream, first in zip(streams, (0, 100)):
            for number in range(first, first + 6):
                frame = av.VideoFrame.from_ndarray(numbered_frame(number, stream.height, stream.width), format="rgb24")
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
    return path


def test_stream_that_a_column_names_is_the_one_that_is_read(two_streams, processor):
    for index, numbers in ((None, range(6)), (0, range(6)), (1, range(100, 106))):
        rows = table([two_streams, bytes_of(two_streams)], datasets.Video(stream_index=index))
        for row in rows:
            frames, _ = read_video(row["video"])
            assert [number_of(frame) for frame in frames] == list(numbers)
    data = [bytes_of(two_streams)]
    decoders = [table(data, datasets.Video(stream_index=index))[0]["video"] for index in (0, 1)]
    assert len({video_key(decoder, {}, processor.video_processor) for decoder in decoders}) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_videofolder(pipe, tmp_path, streaming):
    for name, question in (("clips", QUESTION), ("archive.zip", QUESTION)):
        lines = "".join(f'{{"file_name": "{number}.mp4", "text": "{question}"}}\n' for number in range(3))
        if name.endswith(".zip"):
            with zipfile.ZipFile(tmp_path / name, "w") as archive:
                for number, clip in enumerate(CLIPS):
                    archive.write(clip, f"{number}.mp4")
                archive.writestr("metadata.jsonl", lines)
            where = {"data_files": str(tmp_path / name)}
        else:
            (tmp_path / name).mkdir()
            for number, clip in enumerate(CLIPS):
                (tmp_path / name / f"{number}.mp4").write_bytes(bytes_of(clip))
            (tmp_path / name / "metadata.jsonl").write_text(lines)
            where = {"data_dir": str(tmp_path / name)}
        cache = str(tmp_path / "cache")
        rows = datasets.load_dataset("videofolder", split="train", streaming=streaming, cache_dir=cache, **where)
        assert [answer["generated_text"] for [answer] in pipe(rows)] == ANSWERS, name


def test_what_is_remembered_of_decoders(processor, tmp_path):
    def key(video):
        return video_key(video, {}, processor.video_processor)

    assert key(VideoDecoder(CLIPS[0])) is None
    assert key(VideoDecoder(bytes_of(CLIPS[0]))) is None
    paths, data = table(CLIPS), table(list(map(bytes_of, CLIPS)))
    keys = [key(rows[number]["video"]) for rows in (paths, data) for number in range(3)]
    assert None not in keys
    assert len(set(keys)) == 6
    assert keys == [key(rows[number]["video"]) for rows in (paths, data) for number in range(3)]
    undecoded = data.cast_column("video", datasets.Video(decode=False))
    assert key(undecoded[0]["video"]) == key(bytes_of(CLIPS[0]))


def test_second_question_about_a_decoder_of_datasets_reads_nothing(pipe, monkeypatch):
    pipe.forget()
    row = table([bytes_of(CLIPS[2])])[0]
    assert pipe(row["video"], QUESTION)[0]["generated_text"] == "A yellow star."
    monkeypatch.setattr(pipe.processor, "process_videos", lambda *_, **__: pytest.fail("a video was read again"))
    assert pipe(row["video"], "Which way does the star move?")[0]["generated_text"] == "The star moves down."
