"""Whatever a call of the video processor is given, it returns pixels or raises what it documents: one of the messages
that docs/guides/troubleshooting.md explains, and not whatever a library in between happens to say."""

import re
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llava_next_video import LlavaNextVideoVideoProcessor, read_video
from tests.test_docs import messages_of_the_package
from tests.tiny import number_of, write_video


SIDE = 16
KINDS = [np.uint8, np.float32, np.int64]
ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=20, g="5")


@pytest.fixture(scope="module")
def processor():
    return LlavaNextVideoVideoProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, num_frames=4
    )


@cache
def documented_messages() -> list[re.Pattern]:
    """What this package says somewhere; `…` in its messages stands for anything."""
    messages = [message for message in messages_of_the_package() if re.search(r"[a-z]{3}", message)]
    return [re.compile(re.escape(message).replace("…", ".*"), re.DOTALL) for message in messages]


def is_documented(error: Exception) -> bool:
    said = getattr(error, "reason", str(error))  # a VideoReadError puts the name of the video in front
    said = re.sub(r"\s+", " ", said.replace("`", ""))
    return any(pattern.fullmatch(said) for pattern in documented_messages())


def pixels_or_error(processor, videos, **kwargs):
    """What the processor returns, or None when it raises one of the errors it documents."""
    try:
        return processor(videos, return_tensors="pt", **kwargs)
    except (ValueError, TypeError) as error:
        if not is_documented(error):
            raise
        return None


@pytest.mark.parametrize(
    "error", [ValueError("Unable to infer channel dimension format"), TypeError("x"), ValueError()]
)
def test_errors_of_others_are_not_documented(error):
    assert not is_documented(error)


def check(processed, videos: int):
    pixels = processed["pixel_values_videos"]
    assert len(pixels) == videos
    for video in pixels:
        assert video.dtype == torch.float32
        assert video.ndim == 4
        assert tuple(video.shape[1:]) == (3, SIDE, SIDE)
        assert len(video) > 0
        assert torch.isfinite(video).all()


arguments = st.fixed_dictionaries(
    {},
    optional={
        "num_frames": st.one_of(st.none(), st.integers(-2, 50), st.integers(max_value=2000)),
        "fps": st.one_of(st.none(), st.floats(-1, 100), st.floats(), st.integers(0, 100)),
        "frame_sampling": st.sampled_from(["uniform", "uniform_repeated", "fps_capped", "legacy", "other"]),
        "do_sample_frames": st.one_of(st.none(), st.booleans()),
    },
)


@ANY
@given(kwargs=arguments)
def test_any_sampling_of_a_file_is_pixels_or_the_documented_error(processor, clip, kwargs):
    processed = pixels_or_error(processor, clip, **kwargs)
    if processed is not None:
        check(processed, 1)


@ANY
@given(
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=6).map(tuple),
    kind=st.sampled_from(KINDS),
    as_tensor=st.booleans(),
    kwargs=arguments,
)
@example(shape=(0, 0, 0, 0, 0), kind=np.uint8, as_tensor=False, kwargs={})  # no videos
def test_any_array_is_pixels_or_the_documented_error(processor, shape, kind, as_tensor, kwargs):
    video = np.zeros(shape, dtype=kind)
    processed = pixels_or_error(processor, torch.from_numpy(video) if as_tensor else video, **kwargs)
    if processed is not None:
        check(processed, shape[0] if len(shape) == 5 else 1)


things = st.one_of(st.none(), st.integers(), st.text(max_size=9), st.binary(max_size=40), st.floats())


@ANY
@given(videos=st.recursive(things, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_anything_else_is_the_documented_error(processor, videos):
    with pytest.raises((ValueError, TypeError)) as raised:
        processor(videos)
    assert is_documented(raised.value), raised.value


@ANY
@given(indices=st.lists(st.integers(-1, 21), max_size=12))
def test_any_choice_of_frames_is_those_frames_or_the_documented_error(clip, indices):
    valid = indices and indices == sorted(indices) and indices[0] >= 0 and indices[-1] < 20
    if valid:
        frames, metadata = read_video(clip, lambda _: indices)
        assert [number_of(frame) for frame in frames] == metadata.frames_indices == indices
    else:
        with pytest.raises(ValueError, match="were chosen from a video of 20 frames; choose at least one"):
            read_video(clip, lambda _: indices)
