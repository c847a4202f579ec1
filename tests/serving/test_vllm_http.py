"""`vllm serve` with the demonstration checkpoint and a client of OpenAI's: right answers, and clear refusals.

Skipped without vLLM, as `test_vllm.py`.
"""

import base64
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest


pytest.importorskip("vllm", reason="vLLM is not installed; .ci/engines vllm runs this")
import openai  # comes with vLLM

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor
from tests.local_server import local_server


SAMPLES = Path(__file__).parents[2] / "demo_model" / "samples"
CIRCLE, STARS = SAMPLES / "red_circle_moves_left.mp4", SAMPLES / "blue_star_then_red_triangle.mp4"
QUESTION = "What happens in this video?"
SECONDS_TO_START = 600


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", DEMO_CHECKPOINT, "--port", str(port)]
    # Float32 and no compilation are for the test; the rest lets clients name files and numbers of frames.
    options = ["--dtype", "float32", "--enforce-eager", "--allowed-local-media-path", str(SAMPLES)]
    options += ["--trust-request-mm-kwargs", "--enable-prompt-tokens-details", "--served-model-name", "demo"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(command + options, stdout=output, stderr=output, env=environment)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)
    try:
        wait_for(client, server, log)
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait(60)


def wait_for(client, server, log: Path):
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-5000:]
        try:
            client.models.list()
            return
        except openai.APIConnectionError:
            time.sleep(1)
    raise TimeoutError(log.read_text()[-5000:])


def data_url(data: bytes) -> str:
    return "data:video/mp4;base64," + base64.b64encode(data).decode()


def ask(client, *urls: str, question: str = QUESTION, before: tuple = (), **options):
    videos = [{"type": "video_url", "video_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": [*videos, {"type": "text", "text": question}]}, *before]
    return client.chat.completions.create(model="demo", messages=messages, temperature=0, max_tokens=30, **options)


def text_of(answer) -> str:
    return answer.choices[0].message.content


def test_a_data_url(client):
    assert text_of(ask(client, data_url(CIRCLE.read_bytes()))) == "A red circle moves left."


def test_a_file_that_is_allowed(client):
    assert text_of(ask(client, CIRCLE.as_uri())) == "A red circle moves left."


def test_a_stream(client):
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(client, CIRCLE.as_uri(), stream=True)]
    assert len(pieces) > 3
    assert "".join(pieces) == "A red circle moves left."


def test_a_second_question_reuses_the_video(client):
    first = text_of(ask(client, STARS.as_uri()))
    more = ({"role": "assistant", "content": first}, {"role": "user", "content": "How many shapes are there?"})
    again = ask(client, STARS.as_uri(), before=more)
    assert text_of(again) == by_generate(STARS, more)
    assert again.usage.prompt_tokens_details.cached_tokens >= 128  # the video and the first question


def by_generate(path: Path, more: tuple = (), **videos) -> str:
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT)
    processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)
    parts = [{"type": "video", "video": str(path)}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}, *more],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
        processor_kwargs=videos,
    )
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=30)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(ids, skip_special_tokens=True)


def test_two_clients_with_different_numbers_of_frames(client):
    """Of one video, at a time, and again: neither gets what was made for the other."""
    frames = (8, 3, 8, 3, 5)
    with ThreadPoolExecutor(len(frames)) as clients:
        answers = list(clients.map(lambda number: ask_with_frames(client, number), frames))
    assert [text_of(answer) for answer in answers] == [by_generate(STARS, num_frames=number) for number in frames]
    tokens = [answer.usage.prompt_tokens for answer in answers]
    per_frame = (tokens[0] - tokens[1]) // 5
    assert per_frame > 3
    assert [count - tokens[1] for count in tokens] == [per_frame * (number - 3) for number in frames]
    assert ask(client, STARS.as_uri()).usage.prompt_tokens == tokens[0]  # the checkpoint's eight


def ask_with_frames(client, number: int):
    return ask(client, STARS.as_uri(), extra_body={"media_io_kwargs": {"video": {"num_frames": number}}})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (data_url(b"this is no video"), "Could not read the video given as 16 bytes: "),
        (data_url(CIRCLE.read_bytes()[:900]), "Could not read the video given as 900 bytes: "),
        ("file:///etc/hostname", "must be a subpath of `--allowed-local-media-path"),
        (f"file://{SAMPLES}/../README.md", "must be a subpath of `--allowed-local-media-path"),
        ("/etc/hostname", "must be either a HTTP, data or file URL"),
    ],
    ids=["no video", "cut video", "file", "file beside the folder", "path"],
)
def test_a_bad_video_and_a_path_that_is_not_allowed_are_400(client, url, message):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, url)
    assert message in str(caught.value)
    assert text_of(ask(client, CIRCLE.as_uri())) == "A red circle moves left."  # it lives on


def test_a_private_address_is_fetched(client):
    """What docs/guides/serving.md warns of: vLLM fetches by itself, before this package sees anything."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with local_server(partial(Quiet, directory=SAMPLES)) as address:
        assert text_of(ask(client, f"{address}/{CIRCLE.name}")) == "A red circle moves left."


def test_a_limit_of_one_request_is_400(client):
    with pytest.raises(openai.BadRequestError, match="max_frames=3"):
        ask(client, CIRCLE.as_uri(), extra_body={"media_io_kwargs": {"video": {"limits": {"max_frames": 3}}}})
