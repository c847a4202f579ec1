"""What strangers may send to `llava-next-video serve`, and what they get: a 4xx that says why, and nothing that is not
theirs; the others go on."""

import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from urllib.parse import quote

import pytest

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoForConditionalGeneration
from llava_next_video.__main__ import main
from tests.serving.running_server import (
    CIRCLE,
    SAMPLES,
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
from llava_next_video.serving import (  # noqa: E402
    client_media,
    transformers_serve,
    transformers_serve_app,
    transformers_serve_handlers,
)


GOOD = question(data_url(CIRCLE[0]))
PART = GOOD[0]["content"][0]
# The id of the token that ends an answer: without it an answer goes on until the context ends.
WITHOUT_END = {"messages": GOOD, "logit_bias": {"635": -1000}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder `media` with a clip, links, and other things, beside a folder with a secret and a longer name."""
    base = tmp_path_factory.mktemp("disk")
    media, secret = base / "media", base / "media-secret"
    for each in (media / "clips", secret):
        each.mkdir(parents=True)
    clip = (SAMPLES / CIRCLE[0]).read_bytes()
    for file in (media / "clips" / "my circle.mp4", media / "%2e.mp4", secret / "secret.mp4"):
        file.write_bytes(clip)
    (media / "inside.mp4").symlink_to(media / "clips" / "my circle.mp4")
    (media / "outside.mp4").symlink_to(secret / "secret.mp4")
    (media / "folder").symlink_to(secret)
    (media / "circle").symlink_to(media / "circle")
    os.mkfifo(media / "pipe")
    return media


@pytest.fixture(scope="module")
def server(folder):
    """Has an allowed folder, small limits, and may read from this machine."""
    limits = ("--limit", "max_fetch_seconds=3", "--limit", "max_fetched_bytes=1MB", "--max-body-size", "2MB")
    with running("--allowed-media-folder", str(folder), "--allow-private-addresses", *limits) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def strict():
    """Has the default settings."""
    with running() as running_server:
        yield running_server


def named_in_every_way(path: str) -> list[dict]:
    """Parts of a message that name a file."""
    url = f"file://{quote(path)}"
    parts = [{"type": "video", key: path} for key in ("video", "url", "path")]
    of_columns = [{"type": kind, kind: {"bytes": None, "path": path}} for kind in ("video", "image")]
    return [*parts, *of_columns, {"type": "video", "url": url}, video_part(url), {"type": "image", "path": path}]


def test_files_of_the_server_are_refused(strict, folder):
    for part in named_in_every_way(str(folder / "inside.mp4")):
        status, message = strict.chat(question(part))
        assert (status, "it opens no files of its disk for clients" in message) == (400, True), message
    # transformers' own server opens these.
    status, message = strict.chat(question("/etc/passwd"))
    assert (status, "which is not a URL" in message) == (400, True), message


@pytest.mark.parametrize(
    "path", ["clips/my circle.mp4", "inside.mp4", "clips/../inside.mp4", "%2e.mp4", "{}/inside.mp4"]
)
def test_files_of_the_allowed_folder_are_read(server, folder, path):
    assert server.chat(question({"type": "video", "path": path.format(folder)})) == (200, CIRCLE[2])


def test_file_urls_of_the_allowed_folder_are_read(server, folder):
    address = quote(str(folder / "clips" / "my circle.mp4"))
    for url in (f"file://{address}", f"FILE://localhost{address}"):
        assert server.chat(question(url)) == (200, CIRCLE[2])


OUTSIDE = [
    "/etc/passwd",
    "../media-secret/secret.mp4",
    "{}/../media-secret/secret.mp4",
    "{}-secret/secret.mp4",
    "outside.mp4",
    "folder/secret.mp4",
    "folder/none.mp4",
    "circle",
    "none/../../media-secret/secret.mp4",
    "../media-secret/none.mp4",
    "/proc/self/environ",
    "/dev/stdin",
    "/" * 3000,
    "a\0b",
    "file://elsewhere/clip.mp4",
    "file:///etc/passwd",
    "file://{}/%2e%2e/media-secret/secret.mp4",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_files_outside_of_the_allowed_folder_are_refused(server, folder, path):
    """In the same words whether they are there or not."""
    path = path.format(folder)
    status, message = server.chat(question({"type": "video", "path": path}))
    assert (status, "which is outside of the folder" in message) == (400, True), message


NO_FILES = {
    "pipe": "it is not a regular file",
    ".": "it is a folder",
    "none.mp4": "there is no such file",
    "~/clip.mp4": "there is no such file",
    "concat:/etc/passwd": "there is no such file",
    "file:/etc/passwd": "there is no such file",
    "/etc/passwd\n": "outside of the folder",
    "a" * 5000: "File name too long",
}


@pytest.mark.parametrize("path", NO_FILES)
def test_what_is_no_file_in_the_allowed_folder_is_an_error(server, folder, path):
    status, answer = server.chat(question({"type": "video", "path": path}))
    assert (status, NO_FILES[path] in answer) == (400, True), answer
    assert str(folder) not in answer


def content(*parts) -> dict:
    return {"messages": [{"role": "user", "content": list(parts)}]}


TEXT = {"type": "text", "text": "What?"}
BAD_BODIES = {
    "an empty object": ({}, "messages belongs: Field required"),
    "no messages": ({"messages": []}, "has to be a list of one message"),
    "messages that are a text": ({"messages": "What?"}, "messages belongs: Input should be a valid list"),
    "a message that is a text": ({"messages": ["What?"]}, "messages.0 belongs"),
    "a message without a role": ({"messages": [{"content": "What?"}]}, "its role is None"),
    "a role that is a number": ({"messages": [{"role": 1, "content": "What?"}]}, "its role is 1"),
    "no content": ({"messages": [{"role": "user"}]}, "its content is None"),
    "content that is an object": ({"messages": [{"role": "user", "content": {"a": 1}}]}, "its content is"),
    "a part that is a text": (content("What?"), "a part is a dictionary"),
    "a part without a type": (content({"text": "What?"}), "its type is None"),
    "a part of an unknown type": (content({"type": "input_file", "file_id": "1"}), "its type is 'input_file'"),
    "sound": (content({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}), "hears nothing"),
    "a video without a URL": (content({"type": "video_url"}, TEXT), "it has no video"),
    "a video_url without a url": (content({"type": "video_url", "video_url": {}}, TEXT), "which is not a URL"),
    "a URL that is a number": (content(video_part(5), TEXT), "which is not a URL"),
    "a URL that is null": (content(video_part(None), TEXT), "which is not a URL"),
    "a list of URLs": (content({"type": "video", "video": ["/etc/passwd"]}, TEXT), "frames are sent as several"),
    "a URL of another scheme": (content(video_part("ftp://example.org/clip.mp4"), TEXT), "It reads addresses with"),
    "an empty data URL": (content(video_part("data:video/mp4;base64,"), TEXT), "Could not read the video"),
    "broken base64": (content(video_part("data:video/mp4;base64,!!!"), TEXT), "its base64 is broken"),
    "no video": (content(video_part("data:video/mp4;base64,aGVsbG8="), TEXT), "Could not read the video"),
    "half a video": (content(video_part(data_url(CIRCLE[0])[:9000]), TEXT), "Could not read the video"),
    "a text as a picture": (content(picture_part("data:,hello")), "or no picture"),
    "a video that is too large": (content(video_part("data:;base64," + "A" * 1_500_000), TEXT), "max_fetched_bytes"),
    "a host that is none": (content(video_part("http://no.such.host.invalid/x.mp4"), TEXT), "cannot be fetched"),
    "too many videos": (content(*[video_part("data:,x")] * 33), "33 videos and pictures"),
    "too much text": (content({"type": "text", "text": "a" * 1_100_000}), "Send 1000000 or fewer"),
    "a placeholder in a text": (content(PART, {"type": "text", "text": "<video> What?"}), "placeholders"),
    "a temperature that is a text": ({"messages": GOOD, "temperature": "hot"}, "temperature belongs"),
    "a negative temperature": ({"messages": GOOD, "temperature": -1}, "temperature belongs"),
    "no tokens": ({"messages": GOOD, "max_tokens": 0}, "max_tokens belongs"),
    "two answers": ({"messages": GOOD, "n": 2}, "n belongs"),
    "an answer in JSON": ({"messages": GOOD, "response_format": {"type": "json_object"}}, "response_format.type"),
    "a seed of 100 digits": ({"messages": GOOD, "seed": 10**100}, "seed belongs"),
    "a stop that is a number": ({"messages": GOOD, "stop": 5}, "stop"),
    "a bias for no token": ({"messages": GOOD, "logit_bias": {"x": 1}}, "ids of tokens, from 0 to 639"),
    "a bias for a token beyond": ({"messages": GOOD, "logit_bias": {"640": 1}}, "ids of tokens, from 0 to 639"),
    "settings of generation": ({"messages": GOOD, "generation_config": "{}"}, "generation_config belongs"),
    "a chat template": ({"messages": GOOD, "chat_template_kwargs": {"chat_template": "{{x}}"}}, "chat_template"),
    "a size": ({"messages": GOOD, "chat_template_kwargs": {"size": {"shortest_edge": 9999}}}, "size"),
    "no frames": ({"messages": GOOD, "chat_template_kwargs": {"num_frames": 0}}, "num_frames"),
    "no frames as vLLM has it": ({"messages": GOOD, "media_io_kwargs": {"video": {"num_frames": 0}}}, "num_frames"),
    "a reader of pictures": ({"messages": GOOD, "media_io_kwargs": {"image": {}}}, "media_io_kwargs.image"),
    "frames said twice": (
        {"messages": GOOD, "chat_template_kwargs": {"fps": 1}, "media_io_kwargs": {"video": {"fps": 1}}},
        "Send one of them",
    ),
    "two rules": ({"messages": GOOD, "chat_template_kwargs": {"num_frames": 2, "fps": 1}}, "pass one"),
    "more tokens than fit": (
        {"messages": GOOD, "chat_template_kwargs": {"num_frames": 300, "frame_sampling": "uniform_repeated"}},
        "may have 4096",
    ),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_requests_say_what_is_wrong(server, name):
    body, message = BAD_BODIES[name]
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 400, answer
    assert message in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"
    assert len(answer["error"]["message"]) < 2000
    status, answer = server.post("/v1/chat/completions", {**body, "stream": True})
    assert status == 400, "the error comes before the stream does"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input belongs"),
        ({"input": 5}, "input"),
        ({"input": []}, "has to be a list of one message"),
        ({"input": [5]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}, *GOOD]}, "calls no functions"),
        ({"input": [{"type": "reasoning"}]}, "its type is 'reasoning'"),
        ({"input": GOOD, "previous_response_id": "resp_1"}, "previous_response_id belongs"),
        ({"input": question("/etc/passwd")}, "which is not a URL"),
        ({"input": question({"type": "video", "path": "/etc/passwd"})}, "outside of the folder"),
    ],
)
def test_bad_requests_for_responses(server, body, message):
    status, answer = server.post("/v1/responses", body)
    assert status == 400, answer
    assert message in answer["error"]["message"]


def test_files_of_a_request_are_counted_together():
    size = (SAMPLES / CIRCLE[0]).stat().st_size
    limits = ("--limit", f"max_fetched_bytes={size + 1000}", "--limit", "max_frame_pixels=90000")
    with serving_files() as (address, _), running("--allow-private-addresses", *limits) as server:
        url = f"{address}/{CIRCLE[0]}"
        assert server.chat(question(url)) == (200, CIRCLE[2])
        status, message = server.post("/v1/chat/completions", content(video_part(url), video_part(url), TEXT))
        assert status == 400
        assert f"Could not read the video '{url}': its {2 * size} bytes or more are over" in str(message)
        picture = picture_part(picture_url(300))  # of 90000 pixels
        assert server.post("/v1/chat/completions", content(*[picture] * 4, TEXT))[0] == 200
        status, message = server.post("/v1/chat/completions", content(*[picture] * 5, TEXT))
        assert (status, "have 450000 pixels or more, and 360000 are allowed together" in str(message)) == (400, True)


def test_time_of_reading_is_counted_for_a_request():
    with running("--limit", "max_decode_seconds=0") as server:
        status, message = server.chat(GOOD)
    assert (status, "reading it took longer than max_decode_seconds=0" in message) == (400, True)


def test_a_body_that_does_not_come(server, monkeypatch):
    monkeypatch.setattr(transformers_serve_app, "BODY_SECONDS", 1)

    def half():
        yield b"{"
        time.sleep(1.5)
        yield b"}"

    status, answer = server.post("/v1/chat/completions", half())
    assert (status, "The body took longer than 1 seconds" in answer["error"]["message"]) == (408, True)


def test_fields_that_the_interface_does_not_have(server):
    status, answer = server.post("/v1/chat/completions", {"messages": GOOD, "limits": {}})
    assert (status, "limits" in answer["error"]["message"]) == (422, True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not JSON"),
        (b"{", "The body is not JSON"),
        (b"\xff\xfe", "The body is not JSON"),
        (b'{"messages": ' + b"9" * 10_000 + b"}", "The body is not JSON"),
        (b"[" * 100_000, "The body is not JSON"),
        (b"[" + b"[]," * 100_001 + b"[]]", "more than 200000 values"),
        (b"[]", "It has to be an object"),
        (b'"text"', "It has to be an object"),
        (b"null", "It has to be an object"),
    ],
)
def test_bodies_that_are_no_json_objects(server, body, message):
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 400
    assert message in answer["error"]["message"]


def test_bodies_that_are_too_large(server):
    status, answer = server.post("/v1/chat/completions", b" " * 2_000_001)
    assert (status, "more than 2000000 bytes" in answer["error"]["message"]) == (413, True)
    # In chunks, whose sum nobody announces.
    status, answer = server.post("/v1/chat/completions", iter([b" " * 500_000] * 5))
    assert (status, "more than 2000000 bytes" in answer["error"]["message"]) == (413, True)


def test_a_page_in_a_browser_cannot_ask(server):
    """A form or a script of another site may send plain text without asking the server first, but no JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, answer = server.post("/v1/chat/completions", b"{}", {"Content-Type": kind})
        assert (status, "has to be application/json" in answer["error"]["message"]) == (415, True)


def test_clients_can_neither_load_nor_unload_models(server):
    for path in ("/load_model", "/reset", "/v1/systemone", "/v1/audio/transcriptions"):
        assert server.post(path, {"model": "org/other"})[0] == 404
    assert server.chat(GOOD) == (200, CIRCLE[2])


@contextmanager
def silent_server():
    """The address of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/clip.mp4"


def test_a_video_that_hangs_holds_up_nobody_else(server):
    with silent_server() as address, ThreadPoolExecutor(8) as clients:
        hanging = [clients.submit(server.chat, question(address)) for _ in range(8)]
        time.sleep(0.3)
        assert server.chat(GOOD) == (200, CIRCLE[2])
        assert not any(future.done() for future in hanging)
        for future in hanging:
            assert future.result() == (
                400,
                f"Could not read the video '{address}': fetching it took longer than "
                "max_fetch_seconds=3; raise this limit if you trust the video.",
            )


@pytest.fixture
def steps(monkeypatch) -> list:
    """Grows by an item at every step of generation."""
    forward, taken = LlavaNextVideoForConditionalGeneration.forward, []

    @wraps(forward)
    def counted(*args, **kwargs):
        taken.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(LlavaNextVideoForConditionalGeneration, "forward", counted)
    return taken


@pytest.mark.parametrize("stream", [True, False])
def test_generation_stops_when_the_client_leaves(server, steps, stream):
    body = {**WITHOUT_END, "max_tokens": 3000, "stream": stream}
    if stream:
        server.leave_after(body, num_bytes=500)
    else:
        with pytest.raises(TimeoutError):
            server.post("/v1/chat/completions", body, timeout=1)
    assert server.chat(GOOD) == (200, CIRCLE[2])  # when the thread of generation is free
    assert len(steps) < 2000


def test_generation_stops_where_the_context_ends(monkeypatch):
    monkeypatch.setattr(transformers_serve_handlers, "context_length", lambda text_config: 450)
    with running() as server:
        status, answer = server.post("/v1/chat/completions", {**WITHOUT_END, "max_tokens": 10**6})
        assert (status, answer["choices"][0]["finish_reason"]) == (200, "length")
        assert answer["usage"]["total_tokens"] == 450


def test_clients_over_the_number_are_told_to_come_back(server, monkeypatch):
    monkeypatch.setattr(transformers_serve_app, "MAX_REQUESTS", 2)
    with silent_server() as address, ThreadPoolExecutor(2) as clients:
        hanging = [clients.submit(server.chat, question(address)) for _ in range(2)]
        time.sleep(0.5)
        status, message = server.chat(GOOD)
        assert (status, "Try again later" in message) == (503, True)
        assert [future.result()[0] for future in hanging] == [400, 400]
    assert server.chat(GOOD) == (200, CIRCLE[2])


def test_an_error_of_the_server_is_told_without_its_insides(server, monkeypatch, caplog):
    monkeypatch.setattr(client_media, "read_picture", lambda *args: 1 / 0)
    status, message = server.chat(question(picture_part("data:,x")))
    assert (status, message) == (500, "The server failed at this request. Its log says how.")
    assert server.chat(GOOD) == (200, CIRCLE[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "max_seconds=5"], "There is no limit 'max_seconds'; --limit sets one of max_fetched_bytes"),
        (["--limit", "allow_private_addresses=1"], "There is no limit 'allow_private_addresses'"),
        (["--allowed-media-folder", "none"], "--allowed-media-folder none is not a folder"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys):
    assert main(["serve", "--device", "cpu", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_other_models_are_refused(tmp_path, capsys):
    shutil.copy(Path(DEMO_CHECKPOINT) / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert main(["serve", str(tmp_path)]) == 1
    assert "is no checkpoint of LLaVA-NeXT-Video: its processor is a Qwen2Tokenizer" in capsys.readouterr().err


def test_what_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr(transformers_serve, "is_serve_available", lambda: False)
    assert main(["serve"]) == 1
    assert "pip install 'llava-next-video[serve]'" in capsys.readouterr().err
