"""Questions that a server answers: the real one of this package, as a pipeline answers; and what others are sent."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Barrier
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from demo_model.clips import Clip, write_mp4
from llava_next_video import DEMO_CHECKPOINT
from llava_next_video.evaluation import server_answering
from llava_next_video.evaluation.journal import Journal
from llava_next_video.evaluation.loading import load_pipeline, refuse_with_server
from llava_next_video.evaluation.questions import Question, as_chat, media_id
from llava_next_video.evaluation.server_answering import (
    Server,
    ServerAnswerer,
    as_openai_part,
    fields_of_generation,
    file_address,
)
from tests.local_server import local_server
from tests.serving.running_server import require_server, running


require_server()

TEXTS = ("Which way does it move?", "What shape is moving?", "What colour is it?")
GREEDY = {"do_sample": False, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("some clips")  # a space, as in addresses it has another name
    paths = [str(folder / f"{seed}.mp4") for seed in range(2)]
    for seed, path in enumerate(paths):
        write_mp4(Clip.from_seed(seed, num_shapes=1, moves=True, clear=True), path)
    return paths


@pytest.fixture(scope="module")
def questions(clips):
    return [
        Question("task", number, text, lambda clip=clip: [clip], media_id([clip]), (clip,), GREEDY)
        for number, (text, clip) in enumerate((text, clip) for text in TEXTS for clip in clips)
    ]


@pytest.fixture(scope="module")
def served(clips):
    with running("--allowed-media-folder", str(Path(clips[0]).parent)) as server:
        yield f"{server.url}/v1"


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline(DEMO_CHECKPOINT, device="cpu")


def answerer(server: Server, folder=None, batch_size=3, **kwargs) -> ServerAnswerer:
    return ServerAnswerer(server, batch_size=batch_size, journal=Journal(folder, server.recipe()), **kwargs)


@pytest.mark.parametrize("send_videos", [False, True])
@pytest.mark.parametrize("frames", [{}, {"num_frames": 3, "frame_sampling": "uniform_repeated"}])
def test_answers_are_a_pipelines(served, pipe, questions, send_videos, frames):
    expected = pipe(
        [as_chat(question) for question in questions], return_full_text=False, processor_kwargs=frames, **GREEDY
    )
    server = Server(served, "demo", frames, send_videos)
    assert answerer(server).answers(questions) == [answer["generated_text"].strip() for [answer] in expected]


def test_the_server_reads_the_frames_that_it_is_told(served, questions):
    def tokens_of_prompt(frames: dict) -> int:
        server = Server(served, "demo", frames)
        part = {"type": "video_url", "video_url": {"url": file_address(Path(questions[0].videos[0]))}}
        chat = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
        completion = server.client.chat.completions.create(model="demo", messages=chat, extra_body=server.fields)
        return completion.usage.prompt_tokens

    assert tokens_of_prompt({}) - tokens_of_prompt({"num_frames": 1}) == 7 * 42


def test_an_answer_ends_before_the_first_stop_string(served, questions):
    server = Server(served, "demo")
    chat = as_chat(questions[0])
    whole = server.answer(chat, GREEDY)
    assert server.answer(chat, {**GREEDY, "stop_strings": [" moves"]}) == whole.split(" moves")[0]


def test_a_second_run_asks_nothing(served, questions, tmp_path):
    server = Server(served, "demo")
    first = answerer(server, tmp_path).answers(questions)
    again = answerer(server, tmp_path)
    again.answer_batch = None
    assert again.answers(questions) == first


def test_a_video_that_cannot_be_read_is_an_error_or_an_empty_answer(served, questions, clips, tmp_path):
    bad = clips[0].replace("0.mp4", "bad.mp4")
    Path(bad).write_bytes(b"no video")
    question = Question("task", 99, "What?", lambda: [bad], media_id([bad]), (bad,), GREEDY)
    server = Server(served, "demo")
    with pytest.raises(ValueError, match=r"^task, document 99, could not be asked: The server refused it: .*bad.mp4"):
        answerer(server).answers([questions[0], question])
    asker = answerer(server, on_error="empty")
    assert asker.answers([question, questions[0]]) == ["", answerer(server).answers(questions[:1])[0]]
    assert list(asker.failures) == ["task, document 99"]
    gone = Question("task", 7, "What?", lambda: [f"{tmp_path}/none.mp4"], None, (), GREEDY)
    with pytest.raises(ValueError, match=r"document 7, could not be asked: .*none.mp4"):
        answerer(Server(served, "demo", send_videos=True)).answers([gone])


@contextmanager
def noting(owner: str = "vllm", status: int = 200, content: str | None = "B", together: int = 1):
    """A server that answers all alike; yields its address and the bodies that it got. It answers when `together`
    requests are there."""
    bodies, all_there = [], Barrier(together)

    class Handler(BaseHTTPRequestHandler):
        def reply(self, body: dict, code: int = 200):
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.reply({"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": owner}]})

        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if status != 200:
                return self.reply({"error": {"message": "no, thanks"}}, status)
            all_there.wait(20)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
            self.reply({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})

        def log_message(self, *args):
            pass

    with local_server(Handler) as address:
        yield f"{address}/v1", bodies


def test_vllm_is_told_frames_in_its_own_words(questions, clips):
    with noting() as (address, bodies):
        [answer, *_] = answerer(Server(address, "m", {"num_frames": 2})).answers(questions[:1])
    assert answer == "B"
    [body] = bodies
    video, text = body["messages"][0]["content"]
    assert unquote(video["video_url"]["url"]) == f"file://{clips[0]}"
    assert " " not in video["video_url"]["url"]
    assert text == {"type": "text", "text": TEXTS[0]}
    del body["messages"]
    assert body == {"model": "m", "max_tokens": 8, "temperature": 0, "media_io_kwargs": {"video": {"num_frames": 2}}}


def test_as_many_questions_are_sent_at_once_as_a_batch_has(questions):
    with noting(together=3) as (address, bodies):
        assert answerer(Server(address, "m"), batch_size=3).answers(questions) == ["B"] * 6
    assert len(bodies) == 6


def test_no_content_is_an_empty_answer(questions):
    with noting(content=None) as (address, _):
        assert answerer(Server(address, "m")).answers(questions[:1]) == [""]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_is_refused_is_an_error_of_the_question(questions, status):
    with noting(status=status) as (address, _):
        asker = answerer(Server(address, "m"), on_error="empty")
        assert asker.answers(questions[:1]) == [""]
    assert "The server refused it: " in str(asker.failures["task, document 0"])


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_server_that_fails_is_no_empty_answer(questions, status, monkeypatch, tmp_path):
    monkeypatch.setattr(server_answering, "TRIES", 1)
    with noting(status=status) as (address, _):
        server = Server(address, "m")
        with pytest.raises(ConnectionError, match=rf"The server at {address} failed: .*start the same command again"):
            answerer(server, tmp_path, on_error="empty").answers(questions[:2])
    with pytest.raises(ConnectionError, match=r"failed: APIConnectionError"):
        answerer(server, tmp_path, on_error="empty").answers(questions[:2])
    assert not list(tmp_path.iterdir())


def test_errors_before_anything_is_asked(monkeypatch):
    monkeypatch.setattr(server_answering, "TRIES", 1)
    with noting(owner="somebody") as (address, _):
        with pytest.raises(ValueError, match=r"asked for 'other', which it does not have. It has 'm'; name one"):
            Server(address, "other")
        with pytest.raises(ValueError, match=r"told {'fps': 1.0}, but only llava-next-video and vllm .* of 'somebody'"):
            Server(address, "m", {"fps": 1.0})
    with pytest.raises(ConnectionError, match=r"failed: APIConnectionError.*it mostly ends in /v1"):
        Server(address, "m")
    with pytest.raises(ValueError, match=r"got {'device': 'cpu', 'dtype': 'bfloat16'} and a server, which has loaded"):
        refuse_with_server(device="cpu", dtype="bfloat16", device_map=None, attn_implementation=None)
    refuse_with_server(device=None, dtype="auto")


def test_likelihoods_are_not_asked_of_a_server(questions):
    with noting() as (address, _):
        asker = answerer(Server(address, "m"))
        with pytest.raises(NotImplementedError, match=r"task compares the likelihoods of options, which a server does"):
            asker.losses([Question("task", 0, "What?", option="A")])


def test_media_as_a_server_takes_them(clips, tmp_path):
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    part = as_openai_part({"type": "image", "image": picture}, send_videos=False)
    assert part["image_url"]["url"].startswith("data:image/png;base64,")
    part = as_openai_part({"type": "video", "video": "https://example.org/a.mp4"}, send_videos=True)
    assert part == {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}
    part = as_openai_part({"type": "video", "video": clips[0]}, send_videos=True)
    assert part["video_url"]["url"].startswith("data:video/mp4;base64,")
    with pytest.raises(ValueError, match=r"A task gave ndarray as a video, and servers take files and addresses"):
        as_openai_part({"type": "video", "video": np.zeros((2, 4, 4, 3), np.uint8)}, send_videos=True)


def test_arguments_of_the_generation():
    sampling = {"max_new_tokens": 4, "do_sample": True, "temperature": 0.3, "top_p": 0.9, "num_beams": 1}
    assert fields_of_generation(sampling) == {"max_tokens": 4, "temperature": 0.3, "top_p": 0.9}
    with pytest.raises(ValueError, match=r"The task generates with {'num_beams': 4}, which servers are not asked for"):
        fields_of_generation({**GREEDY, "num_beams": 4})
