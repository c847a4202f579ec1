"""Videos of later prompts are read while the model answers, and nobody who looks at the answers can tell."""

import gc
import os
import random
import signal
import threading
import time
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
import torch
import transformers

from llava_next_video import VideoReadError
from llava_next_video.inference import read_ahead
from llava_next_video.inference.read_ahead import ReadAheadItems, ReadAheadStream
from llava_next_video.inference.reading_locks import ReadingLocks
from tests.inference.test_remembered_videos import Rows
from tests.tiny import make_model, make_processor, write_video


QUESTIONS = ["What?", "Who is it?", "Where does it go to?"]
PATIENCE = int(os.environ.get("PATIENCE", 60))  # seconds until a test fails that waits for a thread


@pytest.fixture(scope="module")
def checkpoint():
    model = make_model()
    model.generation_config.max_new_tokens = 3
    return model, make_processor(model.config)


@pytest.fixture
def pipe(checkpoint):
    return make_pipeline(checkpoint)


def make_pipeline(checkpoint, **arguments):
    model, processor = checkpoint
    return transformers.pipeline("video-text-to-text", model=model, processor=processor, device="cpu", **arguments)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    clips = [str(write_video(folder / f"{number}.mp4", num_frames=number)) for number in (2, 3, 4, 5, 6, 7, 8)]
    time.sleep(0.1)  # a file that was written a moment ago is not remembered
    return clips


def generator(rows):
    yield from rows


KINDS = {"list": list, "generator": generator, "data set": Rows}


def pairs(clips) -> list[dict]:
    return [{"videos": clip, "text": QUESTIONS[0]} for clip in clips]


def spy_on_reading(pipe, clips, before=lambda video: None) -> dict[str, threading.Event]:
    """Events of each clip: somebody began to read it."""
    begun, find = {clip: threading.Event() for clip in clips}, pipe.find_or_read

    def spy(video, processor_kwargs):
        begun[video].set()
        before(video)
        return find(video, processor_kwargs)

    pipe.find_or_read = spy
    return begun


def wait_for_threads_to_end():
    until = time.monotonic() + PATIENCE
    while names := [thread.name for thread in threading.enumerate() if thread.name.startswith("reading-ahead")]:
        assert time.monotonic() < until, names
        time.sleep(0.01)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_later_videos_are_read_while_the_model_answers(pipe, clips, kind, batch_size):
    begun, forward, waits = spy_on_reading(pipe, clips), pipe._forward, []

    def answer_when_the_next_is_being_read(model_inputs, **kwargs):
        number = len(waits) + 1
        waits.append(number * batch_size >= len(clips) or begun[clips[number * batch_size]].wait(PATIENCE))
        return forward(model_inputs, **kwargs)

    pipe._forward = answer_when_the_next_is_being_read
    assert len(list(pipe(KINDS[kind](pairs(clips)), batch_size=batch_size))) == len(clips)
    assert waits == [True] * -(-len(clips) // batch_size)
    wait_for_threads_to_end()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_ahead_if_not_wanted(pipe, clips, kind):
    begun, forward, read = spy_on_reading(pipe, clips), pipe._forward, []

    def answer(model_inputs, **kwargs):
        read.append(sum(event.is_set() for event in begun.values()))
        return forward(model_inputs, **kwargs)

    pipe._forward = answer
    list(pipe(KINDS[kind](pairs(clips[:3])), read_ahead=0))
    assert read == [1, 2, 3]


@pytest.mark.parametrize("remembered_videos", [0, 1, 8])
def test_answers_are_in_order_and_the_same(checkpoint, clips, remembered_videos):
    rng = random.Random(remembered_videos)
    rows = [{"videos": clip, "text": question} for clip in clips for question in QUESTIONS[:2]]
    rng.shuffle(rows)
    expected = make_pipeline(checkpoint)(rows, read_ahead=0)
    for kind, batch_size, ahead in (("list", 1, 1), ("generator", 3, 4), ("data set", 2, 20)):
        pipe = make_pipeline(checkpoint, remembered_videos=remembered_videos, read_ahead=ahead)
        spy_on_reading(pipe, clips, before=lambda video: time.sleep(0.01 * rng.random()))
        assert list(pipe(KINDS[kind](rows), batch_size=batch_size)) == expected


@pytest.mark.parametrize("as_bytes", [False, True])
def test_video_of_many_questions_is_read_once(pipe, clips, as_bytes):
    reads, process = Counter(), pipe.processor.process_videos

    def slowly(video, **kwargs):
        reads[video] += 1
        time.sleep(0.1)  # the other threads arrive meanwhile
        return process(video, **kwargs)

    videos = [Path(clip).read_bytes() if as_bytes else clip for clip in clips[:2]]
    pipe.processor.process_videos = slowly
    try:
        pipe([{"videos": video, "text": question} for video in videos for question in QUESTIONS], read_ahead=6)
    finally:
        pipe.processor.process_videos = process
    assert list(reads.values()) == [1, 1]


def test_file_object_of_many_questions_is_read_by_one_thread_at_a_time(pipe, clips):
    file, reading, together, process = BytesIO(Path(clips[5]).read_bytes()), [], [], pipe.processor.process_videos

    def slowly(video, **kwargs):
        reading.append(video)
        together.append(len(reading))
        time.sleep(0.02)  # the other threads arrive meanwhile
        processed = process(video, **kwargs)
        reading.remove(video)
        return processed

    pipe.processor.process_videos = slowly
    try:
        answers = pipe([{"videos": file, "text": question} for question in QUESTIONS * 2], read_ahead=6)
    finally:
        pipe.processor.process_videos = process
    assert together == [1] * 6
    assert answers == [pipe(clips[5], question) for question in QUESTIONS] * 2


@pytest.mark.parametrize("ahead", [1, 3])
def test_generator_is_asked_for_a_bounded_number_of_items(pipe, clips, ahead):
    asked = []
    answers = pipe((asked.append(row) or row for row in pairs(clips)), read_ahead=ahead)
    for answered, _ in enumerate(answers, start=1):
        assert len(asked) <= min(2 * answered, answered + ahead, len(clips))
    assert answered == len(clips)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_fewer_are_read_ahead_where_they_are_large(checkpoint, clips, monkeypatch, most):
    """Two frames for the tiny model are 2 * 3 * 16 * 16 values of 4 bytes."""
    monkeypatch.setattr(read_ahead, "MAX_BYTES_AHEAD", most * 6144 + 100)
    pipe = make_pipeline(checkpoint, remembered_videos=0, num_frames=2)
    begun, forward, read = spy_on_reading(pipe, clips), pipe._forward, []

    def answer(model_inputs, **kwargs):
        ahead = clips[len(read) + 1 : len(read) + 1 + most]
        read.append(all(begun[clip].wait(PATIENCE) for clip in ahead))
        return forward(model_inputs, **kwargs)

    pipe._forward = answer
    for number, _ in enumerate(pipe(Rows(pairs(clips))), start=1):
        assert sum(event.is_set() for event in begun.values()) <= number + most
    assert read == [True] * len(clips)


@pytest.mark.parametrize("kind", KINDS)
def test_video_that_cannot_be_read_is_an_error_when_it_is_asked_about(pipe, clips, kind):
    rows = pairs([clips[0], clips[1], "none.mp4", clips[2]])
    records = list(pipe(KINDS[kind](rows), on_error="return"))
    assert [record["generated_text"] is None for [record] in records] == [False, False, True, False]
    assert "there is no such file" in str(records[2][0]["error"])
    if kind == "list":
        with pytest.raises(VideoReadError, match=r"none\.mp4"):
            pipe(rows)
    else:
        answers = iter(pipe(KINDS[kind](rows)))
        assert [next(answers), next(answers)] == records[:2]
        with pytest.raises(VideoReadError, match=r"none\.mp4"):
            next(answers)
        wait_for_threads_to_end()
        assert next(answers) == records[3]  # for whoever wants to go on
    wait_for_threads_to_end()


def test_error_of_a_generator_comes_after_the_answers_before_it(pipe, clips):
    def rows():
        yield from pairs(clips[:3])
        raise KeyError("no more")

    answers = iter(pipe(rows(), on_error="return"))
    assert [len(next(answers)) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(KeyError, match="no more"):
        next(answers)
    with pytest.raises(StopIteration):
        next(answers)


def test_error_of_a_data_set_comes_after_the_answers_before_it(pipe, clips):
    class Broken(Rows):
        def __getitem__(self, index):
            if index == 2:
                raise ValueError("no row")
            return super().__getitem__(index)

    answers = iter(pipe(Broken(pairs(clips[:4])), on_error="return"))  # which is about prompts and videos
    assert [len(next(answers)) for _ in range(2)] == [1, 1]
    with pytest.raises(ValueError, match="no row"):
        next(answers)
    assert len(next(answers)) == 1


def test_interrupt_stops_the_threads(pipe, clips):
    class Interrupting(transformers.TextStreamer):
        def put(self, value):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(pairs(clips), streamer=Interrupting(pipe.tokenizer))
    wait_for_threads_to_end()
    assert len(pipe(pairs(clips))) == len(clips)


@pytest.mark.parametrize("kind", ["generator", "data set"])
def test_answers_that_are_abandoned_stop_the_threads(pipe, clips, kind):
    read = []
    spy_on_reading(pipe, clips, before=lambda video: read.append(video) or time.sleep(0.3))
    answers = iter(pipe(KINDS[kind](pairs(clips)), read_ahead=6))
    next(answers)
    del answers
    gc.collect()
    wait_for_threads_to_end()
    assert len(read) < len(clips)  # what was waiting is not read


def test_model_that_changes_between_answers(checkpoint, clips):
    """Videos that wait in a prompt had been encoded, for an earlier prompt, by the model as it was."""
    model, weight = checkpoint[0], checkpoint[0].model.multi_modal_projector.linear_1.weight
    rows = [{"videos": clip, "text": question} for clip in clips[-2:] for question in QUESTIONS]
    for on_error in ("raise", "return"):
        answers, original = [], weight.detach().clone()
        pipe = make_pipeline(checkpoint)
        for row, answer in zip(rows, pipe(generator(rows), on_error=on_error, return_tensors=True)):
            fresh = make_pipeline(checkpoint)(**row, return_tensors=True)
            assert answer[0]["generated_token_ids"].tolist() == fresh[0]["generated_token_ids"].tolist()
            answers.append(answer)
            with torch.no_grad():
                weight.mul_(-1.5)
        assert len(answers) == len(rows)
        with torch.no_grad():
            weight.copy_(original)
    assert model.training is False


class Read:
    num_bytes = 1

    def __init__(self, item):
        self.item = item


def status_of(child: int) -> int:
    """How a process ended; it is killed if it does not."""
    until = time.monotonic() + PATIENCE
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return ended[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork")
@pytest.mark.parametrize("kind", [ReadAheadItems, ReadAheadStream])
def test_forked_process_goes_on_without_the_threads(kind):
    goes_on = threading.Event()

    def read(item):
        if os.getpid() == parent and item > 1:
            goes_on.wait(PATIENCE)
        return Read(item)

    parent, inputs = os.getpid(), kind(list(range(8)), read, 4)
    if kind is ReadAheadItems:
        first, rest = inputs[0].result()[0], lambda: [inputs[number].result()[0] for number in range(1, 8)]
    else:
        iterator = iter(inputs)
        first, rest = next(iterator).result()[0], lambda: [being_read.result()[0] for being_read in iterator]
    assert first == 0
    child = os.fork()
    if child == 0:
        inputs.close()  # after an error, say
        os._exit(0 if rest() == list(range(1, 8)) else 1)
    assert status_of(child) == 0
    goes_on.set()
    assert rest() == list(range(1, 8))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork")
def test_forked_process_has_locks_of_its_own():
    locks = ReadingLocks()
    with locks("a video"):
        if (child := os.fork()) == 0:
            with locks("a video"):
                os._exit(0)
        assert status_of(child) == 0


@pytest.mark.parametrize("ahead", [-1, 1.5, "many"])
def test_error_for_an_impossible_number(pipe, clips, ahead):
    with pytest.raises(ValueError, match=r"got read_ahead=.*; it is the number of prompts whose videos"):
        pipe(clips[0], "What?", read_ahead=ahead)
