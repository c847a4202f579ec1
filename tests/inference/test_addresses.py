"""Questions about videos on servers: the cost of what is asked, and the answers about the file."""

# ruff: noqa: F811  # fixtures of other files
from io import BytesIO

import pytest
from transformers.video_utils import VideoMetadata

from llava_next_video import ReadingLimits, VideoReadError
from llava_next_video.inference import video_fingerprints
from llava_next_video.inference.video_fingerprints import key_of_what_was_read
from llava_next_video.processing.video_inputs import ProcessedVideo
from llava_next_video.reading.video_metadata import VariableRateMetadata
from tests.inference.test_remembered_videos import folder, make_pipeline, work  # noqa: F401  # a fixture
from tests.reading.server_of_parts import Server, address, clip, other_clip, server  # noqa: F401  # fixtures


QUESTIONS = ["What?", "Who is it?", "Where does it go to?"]


@pytest.fixture
def pipe(folder):
    pipe = make_pipeline(folder)
    pipe.processor.video_processor.limits = ReadingLimits(allow_private_addresses=True)
    return pipe


@pytest.fixture(scope="module")
def forgetful(folder):
    pipe = make_pipeline(folder, remembered_videos=0)
    pipe.processor.video_processor.limits = ReadingLimits(allow_private_addresses=True)
    return pipe


def ask(pipe, *inputs, **arguments) -> list:
    """Answers about two frames, which are a fifth of `clip`; or errors."""
    results = pipe(*inputs, num_frames=2, return_full_text=False, **arguments)
    records = [result[0] if isinstance(result, list) else result for result in results]
    return [record.get("error") or record["generated_text"].strip() for record in records]


def fetched() -> int:
    """Bytes that the server was asked for."""
    return sum(len(Server.data) if part is None else part[1] - part[0] for part in Server.parts)


def test_a_question_costs_parts_and_the_next_one_no_encoding(server, clip, pipe, forgetful):
    expected = [ask(forgetful, str(clip), question) for question in QUESTIONS]
    url, requests = f"{server}/give", []
    for question, answer in zip(QUESTIONS, expected):
        Server.parts.clear()
        assert ask(pipe, url, question) == answer
        assert None not in Server.parts
        assert fetched() < 0.5 * len(Server.data)
        requests.append(len(Server.parts))
    assert len(set(requests)) == 1
    assert requests[0] < 12
    assert work(pipe) == {"read": 3, "encoded": 2, "visual": 2 * 6}
    assert len(pipe.memory.videos) == 1


def test_another_file_at_the_address_is_another_video(server, clip, other_clip, pipe, forgetful):
    """Whatever the server says of its version."""
    url, data = f"{server}/give", Server.data
    expected = [ask(forgetful, str(path), QUESTIONS[0]) for path in (clip, other_clip)]
    assert expected[0] != expected[1]
    for number, contents in enumerate((data, other_clip.read_bytes(), data)):
        Server.data = contents
        assert ask(pipe, url, QUESTIONS[0]) == expected[number % 2]
        assert None not in Server.parts
    assert work(pipe)["encoded"] == 2 + 2


@pytest.mark.parametrize("number", [1, 2, 3])
def test_file_that_changes_meanwhile_is_one_version(number, server, clip, other_clip, pipe, forgetful):
    Server.later = other_clip.read_bytes(), {"ETag": '"2"'}
    both = [ask(forgetful, str(path), QUESTIONS[0]) for path in (clip, other_clip)]
    assert ask(pipe, f"{server}/swapped/{number}", QUESTIONS[0]) in both
    assert Server.parts[-1] is None


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (list, {}),
        (list, {"batch_size": 2}),
        (list, {"read_ahead": 0}),
        (list, {"num_workers": 1}),
        (iter, {}),
        (iter, {"read_ahead": 3, "batch_size": 3}),
    ],
    ids=str,
)
def test_many_questions_are_answered_like_those_about_files(kind, arguments, server, clip, pipe, forgetful):
    urls = [f"{server}/give", f"{server}/redirect"]
    inputs = [
        (urls[0], QUESTIONS[0]),
        {"videos": urls[1], "text": QUESTIONS[1]},
        {"videos": [urls[0], str(clip), urls[1]], "text": QUESTIONS[2]},
        (str(clip), QUESTIONS[0]),
        [{"role": "user", "content": [{"type": "video", "url": urls[0]}, {"type": "text", "text": QUESTIONS[1]}]}],
    ]
    video = str(clip)
    local = [(video, QUESTIONS[0]), (video, QUESTIONS[1]), ([video] * 3, QUESTIONS[2]), (video, QUESTIONS[0])]
    expected = [ask(forgetful, *pair)[0] for pair in (*local, (video, QUESTIONS[1]))]
    assert ask(pipe, inputs if kind is list else (item for item in inputs), **arguments) == expected
    assert len(set(expected)) > 1
    assert None not in Server.parts
    assert fetched() < 5 * 0.5 * len(Server.data)


def test_an_address_that_fails_is_an_error_of_its_question_alone(server, clip, pipe, forgetful):
    pipe.processor.video_processor.limits = ReadingLimits(allow_private_addresses=True, max_fetch_seconds=5)
    urls = [str(clip), f"{server}/gone", f"{server}/stalls", str(clip)]
    first, *errors, last = ask(pipe, [(url, QUESTIONS[0]) for url in urls], on_error="return")
    assert [first] == [last] == ask(forgetful, str(clip), QUESTIONS[0])
    for url, error, reason in zip(urls[1:], errors, ("answered 404 Not Found", "longer than max_fetch_seconds=5")):
        assert isinstance(error, VideoReadError)
        assert f"'{url}': " in str(error)
        assert reason in str(error)
    with pytest.raises(VideoReadError, match=f"'{urls[1]}': .* answered 404"):
        ask(pipe, [(url, QUESTIONS[0]) for url in urls])


def test_what_is_read_each_time_is_encoded_once(tmp_path, clip, pipe, forgetful, monkeypatch):
    """A file object, and a file that was written a moment ago."""
    monkeypatch.setattr(video_fingerprints, "TICK_NANOSECONDS", 10**18)
    path = tmp_path / "clip.mp4"
    [expected] = ask(forgetful, str(clip), QUESTIONS[0])
    for _ in range(3):
        path.write_bytes(clip.read_bytes())
        for video in (BytesIO(clip.read_bytes()), str(path)):
            assert ask(pipe, video, QUESTIONS[0]) == [expected]
    done = work(pipe)
    assert (done["read"], done["encoded"]) == (6, 2)


def test_key_of_what_was_read_tells_of_pixels_and_metadata(pipe, clip):
    def read(**changes):
        [video] = pipe.processor.process_videos(str(clip), num_frames=2)
        for name, value in changes.items():
            setattr(video.metadata, name, value)
        return video

    same = [key_of_what_was_read(read()) for _ in range(2)]
    assert same[0] == same[1] is not None
    pixels = read().pixel_values.clone()
    pixels[1, 0, 3, 5] += 1
    video = read()
    variable = VariableRateMetadata([0.0, 1.0, 2.0], **vars(VideoMetadata(total_num_frames=3)))
    others = [
        ProcessedVideo(pixels, video.metadata),
        ProcessedVideo(video.pixel_values[:1], video.metadata),
        read(fps=3.0),
        read(frames_indices=[0, 58]),
        ProcessedVideo(video.pixel_values, VideoMetadata(total_num_frames=3)),
        ProcessedVideo(video.pixel_values, variable),
    ]
    keys = [same[0], *map(key_of_what_was_read, others)]
    assert len(set(keys)) == len(keys)
    assert key_of_what_was_read(read(fps=lambda: 3)) is None
