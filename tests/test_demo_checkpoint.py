"""The embedded checkpoint answers about videos it never saw: written as mp4, then through the whole path of a user.

`benchmarks/demo_accuracy.py` asks far more; its numbers are in demo_model/README.md.
"""

from pathlib import Path

import av
import pytest
import transformers
from safetensors import safe_open

import llava_next_video
from benchmarks.demo_accuracy import Guesser, measure


SAMPLES = Path(__file__).parents[1] / "demo_model" / "samples"
NUM_CLIPS = 25  # of one shape, and as many of two: up to 50 questions of a kind


@pytest.fixture(scope="module")
def guesser():
    return Guesser(llava_next_video.DEMO_CHECKPOINT)


@pytest.fixture(scope="module")
def pipe():
    return transformers.pipeline("video-text-to-text", device="cpu")


@pytest.mark.slow
def test_most_answers_about_new_clips_are_right(guesser):
    for kind, (right, asked) in measure(guesser, NUM_CLIPS, shuffle=False).items():
        assert asked >= NUM_CLIPS
        assert right / asked >= 0.94, kind  # 99.5 % or more of 400 clips; so small a sample may lose a few more


@pytest.mark.slow
def test_direction_and_order_are_guesses_when_the_frames_are_shuffled(guesser):
    shares = {kind: right / asked for kind, (right, asked) in measure(guesser, NUM_CLIPS, shuffle=True).items()}
    assert shares["direction"] <= 0.7  # 50 %: the axis of a movement is still to be seen
    assert shares["order"] <= 0.75  # 50 %: both shapes are
    assert shares["colour"] >= 0.94
    assert shares["shape"] >= 0.9


@pytest.mark.parametrize(
    ("clip", "question", "answer"),
    [
        ("red_circle_moves_left", "Which way does the circle move?", "left"),
        ("red_circle_moves_left", "What color is the circle?", "red"),
        ("blue_square_moves_up", "In which direction is the square moving?", "up"),
        ("blue_square_moves_up", "What colour is it?", "blue"),
        ("yellow_star_moves_down", "What shape is moving?", "star"),
        ("green_triangle_moves_right", "Describe the video.", "green triangle moves right"),
        ("purple_circle_then_orange_square", "Which shape appears first?", "circle"),
        ("purple_circle_then_orange_square", "What appears last?", "square"),
        ("blue_star_then_red_triangle", "What happens first?", "blue star"),
    ],
)
def test_answers_about_the_samples(pipe, clip, question, answer):
    [result] = pipe(str(SAMPLES / f"{clip}.mp4"), question)
    assert answer in result["generated_text"]


def test_samples_are_h264_with_b_frames_of_different_sizes_rates_and_lengths():
    seen = set()
    for path in SAMPLES.glob("*.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.has_b_frames
            seen.add((stream.width, stream.height, stream.average_rate, stream.frames))
    assert len(seen) == len(list(SAMPLES.glob("*.mp4"))) >= 5


def test_checkpoint_is_small_and_carries_its_recipe():
    folder = Path(llava_next_video.DEMO_CHECKPOINT)
    assert (folder / "model.safetensors").stat().st_size <= 6_000_000
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert weights.metadata()["format"] == "pt"
    config = transformers.AutoConfig.from_pretrained(folder)
    recipe = ("average", 2, "after_projector", "grid")
    assert recipe == (
        config.spatial_pool_mode,
        config.spatial_pool_stride,
        config.spatial_pool_position,
        config.video_newline_position,
    )
