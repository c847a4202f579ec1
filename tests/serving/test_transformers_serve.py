"""`llava-next-video serve` over HTTP, with the embedded checkpoint: right answers, in both of OpenAI's interfaces."""

import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from transformers import pipeline

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoProcessor, export_for_hub
from tests.serving.running_server import (
    CIRCLE,
    QUESTIONS,
    SAMPLES,
    RunningServer,
    data_url,
    picture_part,
    picture_url,
    question,
    require_server,
    running,
    serving_files,
    video_part,
)


require_server()
from openai import BadRequestError, OpenAI  # noqa: E402


@pytest.fixture(scope="module")
def server():
    with running() as running_server:
        yield running_server


@pytest.fixture(scope="module")
def client(server):
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as openai_client:
        yield openai_client


@pytest.fixture(scope="module")
def files():
    with serving_files() as address_and_asked:
        yield address_and_asked


@pytest.fixture(scope="module")
def prompt_tokens():
    """Counts the tokens of a question about the circle, whose video has some number of frames."""
    processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)

    def count(num_frames: int | None) -> int:
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "video", "path": str(SAMPLES / CIRCLE[0])}, *text_part(CIRCLE[1])]}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"num_frames": num_frames},
        )
        return inputs["input_ids"].shape[-1]

    return count


def text_part(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]


@pytest.mark.parametrize(("clip", "text", "answer"), QUESTIONS)
def test_chat_completion_answers(client, clip, text, answer):
    completion = client.chat.completions.create(model="demo", messages=question(data_url(clip), text))
    assert completion.choices[0].message.content == answer
    assert completion.choices[0].finish_reason == "stop"


def test_chat_completion_streams(client, prompt_tokens):
    chunks = list(client.chat.completions.create(model="demo", messages=question(data_url(CIRCLE[0])), stream=True))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(pieces) > 2
    assert "".join(pieces) == CIRCLE[2]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.prompt_tokens == prompt_tokens(None)


def response_input(clip: str, text: str) -> list[dict]:
    return [{"role": "user", "content": [video_part(data_url(clip)), {"type": "input_text", "text": text}]}]


@pytest.mark.parametrize(("clip", "text", "answer"), QUESTIONS[:2])
def test_responses_answer(client, clip, text, answer):
    assert client.responses.create(model="demo", input=response_input(clip, text)).output_text == answer


def test_responses_stream(client):
    events = list(client.responses.create(model="demo", input=response_input(*CIRCLE[:2]), stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == CIRCLE[2]
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == CIRCLE[2]


def test_responses_take_parts_without_a_message_and_the_answers_before(client):
    parts = response_input(*CIRCLE[:2])[0]["content"]
    first = client.responses.create(model="demo", input=parts, max_output_tokens=50)
    assert first.output_text == CIRCLE[2]
    then = {"role": "user", "content": "What shape is in the video?"}
    chat = [{"role": "user", "content": parts}, *(item.model_dump() for item in first.output), then]
    assert client.responses.create(model="demo", input=chat).output_text == "It is a circle."


def test_instructions_are_the_system_message(server, client):
    asked = {"model": "demo", "input": response_input(*CIRCLE[:2])}
    plain = client.responses.create(**asked).usage.input_tokens
    instructed = client.responses.create(**asked, instructions="Answer in one sentence.").usage.input_tokens
    assert instructed != plain


def test_second_question_in_a_chat(server):
    chat = [
        *question(data_url(CIRCLE[0]), "What shape is in the video?"),
        {"role": "assistant", "content": "It is a circle."},
        {"role": "user", "content": "Which way does it move?"},
    ]
    assert server.chat(chat) == (200, "It moves left.")


def test_several_videos_are_answered_as_by_the_pipeline(server):
    """Videos of different lengths, in both orders, and with a picture: the model was trained with one video a prompt,
    so it is the pipeline that says what it answers."""
    pipe = pipeline("video-text-to-text", model=DEMO_CHECKPOINT, device="cpu")
    picture = picture_part(picture_url())
    circle, square = (video_part(data_url(clip)) for clip in (CIRCLE[0], "blue_square_moves_up.mp4"))
    short = video_part(picture_url())  # a picture is a video of one frame
    for media in ([circle, square], [square, circle], [short, circle], [picture, circle], [picture]):
        chat = [{"role": "user", "content": [*media, *text_part("Describe the video.")]}]
        assert server.chat(chat) == (200, pipe(chat, return_full_text=False)[0]["generated_text"].strip())


def test_clients_at_the_same_time_get_their_own_answers(server):
    def ask(case) -> tuple[str, str]:
        clip, text, answer = case
        return answer, server.chat(question(data_url(clip), text))[1]

    with ThreadPoolExecutor(8) as clients:
        for expected, given in clients.map(ask, QUESTIONS * 4):
            assert given == expected


def test_the_number_of_frames_is_the_checkpoints_unless_a_client_chooses(server, client, prompt_tokens):
    ask = partial(client.chat.completions.create, model="demo", messages=question(data_url(CIRCLE[0])))
    assert ask().usage.prompt_tokens == prompt_tokens(None) == prompt_tokens(8)
    for field in ({"chat_template_kwargs": {"num_frames": 4}}, {"media_io_kwargs": {"video": {"num_frames": 4}}}):
        assert ask(extra_body=field).usage.prompt_tokens == prompt_tokens(4) != prompt_tokens(8)
    assert ask(extra_body={"media_io_kwargs": {}}).usage.prompt_tokens == prompt_tokens(8)
    body = {"input": response_input(*CIRCLE[:2]), "chat_template_kwargs": {"num_frames": 4}}
    assert server.post("/v1/responses", body)[1]["usage"]["input_tokens"] == prompt_tokens(4)


def test_the_server_may_choose_the_number_of_frames(prompt_tokens):
    with running("--num-frames", "5") as server:
        _, answer = server.post("/v1/chat/completions", {"messages": question(data_url(CIRCLE[0]))})
    assert answer["usage"]["prompt_tokens"] == prompt_tokens(5)


def test_length_of_the_answer_and_stop(server):
    for name in ("max_tokens", "max_completion_tokens"):
        body = {"messages": question(data_url(CIRCLE[0])), name: 2}
        choice = server.post("/v1/chat/completions", body)[1]["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("The circle", "length")
    assert server.chat(question(data_url(CIRCLE[0])), stop=" moves") == (200, "The circle moves")


def test_temperature_makes_answers_differ(server):
    hot = {server.chat(question(data_url(CIRCLE[0])), temperature=50, seed=seed, max_tokens=4)[1] for seed in range(3)}
    assert len(hot) == 3
    assert server.chat(question(data_url(CIRCLE[0])), temperature=0) == (200, CIRCLE[2])


def test_models_and_health(client, server):
    assert [model.id for model in client.models.list()] == ["demo"]
    with pytest.raises(BadRequestError, match=r"pinned to 'demo'; requested 'org/other'"):
        client.chat.completions.create(model="org/other", messages=question(data_url(CIRCLE[0])))


def test_private_addresses_are_refused_without_a_connection(server, files):
    address, asked = files
    status, message = server.chat(question(f"{address}/{CIRCLE[0]}"))
    assert status == 400
    assert "not public" in message or "private" in message
    assert not asked


def test_web_addresses_are_read(files):
    address, asked = files
    with running("--allow-private-addresses") as server:
        assert server.chat(question(f"{address}/{CIRCLE[0]}")) == (200, CIRCLE[2])
        status, message = server.chat(question(f"{address}/none.mp4"))
    assert status == 400
    assert "404" in message
    assert asked


@contextmanager
def process(*command: str):
    """A server in a process of its own, what it said before it listened, and the process, which is ended."""
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as running_process:
        try:
            said = ""
            while not (listens := re.search(r"running on http://127.0.0.1:(\d+)", said)):
                line = running_process.stderr.readline()
                assert line, f"it ended: {said}"
                said += line
            yield RunningServer(int(listens[1])), said, running_process
        finally:
            running_process.send_signal(signal.SIGINT)
            running_process.communicate(timeout=60)


def test_the_command_serves_the_embedded_checkpoint_and_says_so():
    command = ["-m", "llava_next_video", "serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu"]
    with process(*command) as (server, said, running_process):
        assert "serving the embedded checkpoint, which knows only moving coloured shapes, as 'demo'" in said
        assert server.chat(question(data_url(CIRCLE[0]))) == (200, CIRCLE[2])
    assert running_process.returncode == 130  # as every command that is interrupted


PLAIN_SERVE = """
import sys
sys.path.insert(0, {folder_of_absent!r})
from without_package import Absent
sys.meta_path.insert(0, Absent)
from transformers.cli.serve import Serve
Serve(force_model={model!r}, trust_remote_code=True, device="cpu", host="127.0.0.1", port=0,
      chat_template_kwargs='{{"num_frames": null}}')
"""


@pytest.mark.slow
def test_an_exported_folder_is_answered_by_transformers_alone(tmp_path, prompt_tokens):
    export_for_hub(DEMO_CHECKPOINT, tmp_path / "exported")
    model = str(tmp_path / "exported")
    code = PLAIN_SERVE.format(folder_of_absent=str(Path(__file__).parents[1] / "hub"), model=model)
    with process("-c", code) as (server, _, _), OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        asked = {"model": model, "messages": question(data_url(CIRCLE[0]))}
        completion = client.chat.completions.create(**asked)
        assert completion.choices[0].message.content == CIRCLE[2]
        assert completion.usage.prompt_tokens == prompt_tokens(None)
        chunks = list(client.chat.completions.create(**asked, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == CIRCLE[2]
        response = client.responses.create(model=model, input=response_input(*CIRCLE[:2]), stream=False)
        assert response.output_text == CIRCLE[2]
