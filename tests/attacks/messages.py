"""Chats that strangers write: malformed ones, sound that is fetched, bombs in base64, files and addresses of ours."""

import io
import os
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from PIL import Image

from llava_next_video import (
    DEMO_CHECKPOINT,
    LlavaNextVideoProcessor,
    ReadingLimits,
    VideoLimitError,
    VideoReadError,
)
from tests.attacks import Attack


LIMITS = ReadingLimits(
    max_fetched_bytes=2**20, max_frame_pixels=2**20, max_frames=100, max_result_bytes=2**26, max_decode_seconds=10,
    max_fetch_seconds=5,
)  # fmt: skip
MARKER = "was_run"


class Counting(BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        self.send_error(404)

    do_HEAD = do_POST = do_GET

    def log_message(self, *args):
        pass


def attacks(folder: Path) -> list[Attack]:
    processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/x"

    def ask(messages, limits: ReadingLimits = LIMITS, **arguments) -> Callable:
        def run():
            processor.image_processor.limits = processor.video_processor.limits = limits
            return processor.apply_chat_template(messages, tokenize=True, return_dict=True, **arguments)

        return run

    return [
        *templates(ask),
        *malformed(ask),
        *fetching(ask, url),
        *bombs(ask),
        *files(ask, folder),
    ]


def chat(*parts) -> list[dict]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]


def templates(ask: Callable) -> list[Attack]:
    """Chat templates are programs of strangers, in jinja's sandbox, which bounds neither numbers nor texts."""
    chat = [{"role": "user", "content": "Hello"}]
    programs = ("{% for i in range(10**9) %}{% endfor %}", "{{ 'x' * 10**10 }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}")
    return [
        Attack(
            f"the template {program}", ask(chat, chat_template=program), ValueError, "The chat template cannot write"
        )
        for program in programs
    ]


def malformed(ask: Callable) -> list[Attack]:
    deep_list, deep_dict, circle = [], {}, []
    for _ in range(100_000):
        deep_list, deep_dict = [deep_list], {"x": deep_dict}
    circle += [circle] * 10
    twice = []
    for _ in range(45):
        twice = [twice, twice]
    odd = [
        None,
        5,
        1.5,
        True,
        "x",
        "",
        b"x",
        [],
        {},
        [[]],
        [None],
        {"x": 1},
        deep_list,
        deep_dict,
        circle,
        twice,
        object(),
    ]
    shapes = [
        *odd[:-5],
        [{}], [{"role": "user"}], [{"content": "x"}], [[], []], [{"role": "user", "content": "x"}, []],
        chat({"text": "x"}), chat({"type": "video_url"}), chat({"type": "image_url", "image_url": {"url": None}}),
        chat({"type": "video", "video": None}), chat({"type": "video", "url": "a", "path": "b"}),
        chat({"type": "image", "image": "a", "video": "b"}), chat({"type": "text", "text": "x", "video": "b"}),
        chat({"type": "document", "path": "/etc/passwd"}), chat({"type": "video" * 10**6, "video": "a"}),
        [{"role": "user", "content": "?", "images": ["/etc/passwd"]}],
        [{"role": "\ud800", "content": "?"}], [{"role": "user", "content": "\udfff" * 10**6}],
    ]  # fmt: skip
    shapes += [[{"role": value, "content": "?"}] for value in odd if not isinstance(value, str)]
    shapes += [[{"role": "user", "content": value}] for value in odd if not isinstance(value, str)]
    shapes += [chat(value) for value in odd]
    shapes += [chat({"type": value, "video": "a.mp4"}) for value in odd]
    shapes += [chat({"type": "text", "text": value}) for value in odd if not isinstance(value, str)]
    for kind in ("image", "video"):
        for key in (kind, "url", "path", "base64", f"{kind}_url"):
            shapes += [chat({"type": kind, key: value}) for value in odd if not isinstance(value, str | bytes)]
    shapes += [chat({"type": "text", "text": "x", "cache_control": value}) for value in (deep_list, deep_dict, circle)]
    shapes += [[{"role": "user", "content": "x", "tool_calls": value}] for value in (deep_list, deep_dict, circle)]
    return [Attack(f"malformed chat {number}", ask(shape), ValueError) for number, shape in enumerate(shapes)]


def fetching(ask: Callable, url: str) -> list[Attack]:
    """What must reach no server: the attack fails when it does."""
    anywhere = ReadingLimits(allow_private_addresses=True)
    sound = [
        {"type": kind, key: value}
        for kind in ("audio", "input_audio", "audio_url")
        for key, value in (("audio", url), ("url", url), ("path", url), (kind, {"url": url, "data": url}))
    ]
    local = {"type": "image", "url": url}
    asked = [(f"sound, {list(part)}", chat(local, part), ValueError, "hears nothing", {}) for part in sound]
    asked += [
        ("sound of a video", chat({"type": "video", "url": url}), VideoReadError, "not a public", {"load": LIMITS}),
        ("a picture here", chat(local), VideoReadError, "not a public address", {"load": LIMITS}),
        ("a picture here, OpenAI's", chat({"type": "image_url", "image_url": {"url": url}}), VideoReadError, "not a p",
         {"load": LIMITS}),
        ("frames here", chat({"type": "video", "video": [f"{url}.png"]}), VideoReadError, "not a", {"load": LIMITS}),
        ("a malformed part behind a picture", chat(local, None), ValueError, "part 2: it is None", {}),
        ("a malformed chat behind another", [chat(local), chat(5)], ValueError, "chat 2, message 1, part 1", {}),
        ("sound beside the chat", chat(), ValueError, "takes from the messages", {"audio": url}),
        ("a picture beside the chat", chat(), ValueError, "takes from the messages", {"images": [url]}),
        ("a video beside the chat", chat(), ValueError, "takes from the messages",
         {"processor_kwargs": {"videos": [url]}}),
        ("more placeholders than videos", chat({"type": "text", "text": "<video>"}, {"type": "video", "url": url}),
         ValueError, "have 2 <video> placeholders, but 1 videos", {}),
    ]  # fmt: skip

    def unfetched(messages, limits: ReadingLimits = anywhere, **arguments) -> Callable:
        def run():
            before = Counting.requests
            try:
                ask(messages, limits, load_audio_from_video=True, **arguments)()
            finally:
                assert Counting.requests == before, "a request was made"

        return run

    return [
        Attack(name, unfetched(messages, options.pop("load", anywhere), **options), error, match)
        for name, messages, error, match, options in asked
    ]


def bombs(ask: Callable) -> list[Attack]:
    large = b64encode(png(12_000, 12_000)).decode()
    thin = b64encode(png(2**20 + 1, 1)).decode()
    gif = io.BytesIO()
    Image.new("P", (1100, 1100)).save(gif, "GIF")
    gif = b64encode(gif.getvalue()).decode()
    too_many = "A" * 2**21
    over = "max_frame_pixels"
    return [
        Attack("a large picture in base64", ask(chat({"type": "image", "base64": large})), VideoLimitError, over),
        Attack("in base64 under another key", ask(chat({"type": "image", "image": large})), VideoLimitError, over),
        Attack("in base64 as a URL", ask(chat({"type": "image", "url": large})), VideoLimitError, over),
        Attack(
            "in a data URI",
            ask(chat({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{large}"}})), VideoLimitError,
            over,
        ),
        Attack("as bytes", ask(chat({"type": "image", "image": png(12_000, 12_000)})), VideoLimitError, over),
        Attack("a file", ask(chat({"type": "image", "image": io.BytesIO(png(12_000, 12_000))})), VideoLimitError, over),
        Attack("as a video", ask(chat({"type": "video", "base64": large})), VideoReadError),
        Attack("a thin picture", ask(chat({"type": "image", "base64": thin})), VideoLimitError, over),
        Attack("a large GIF", ask(chat({"type": "image", "base64": gif})), VideoLimitError, over),
        Attack("much base64", ask(chat({"type": "image", "base64": too_many})), VideoLimitError, "max_fetched_bytes"),
        Attack("much base64, video", ask(chat({"type": "video", "base64": too_many})), VideoLimitError, "max_fetched"),
        Attack("base64 of blanks", ask(chat({"type": "image", "base64": " " * 10**7})), VideoReadError),
        Attack("broken base64", ask(chat({"type": "image", "base64": "%" * 100})), VideoReadError, "base64 is broken"),
        Attack("base64 that is no picture", ask(chat({"type": "image", "base64": "AAAA"})), VideoReadError),
        Attack("a broken data URI", ask(chat({"type": "image", "url": "data:"})), VideoReadError),
    ]  # fmt: skip


def png(width: int, height: int) -> bytes:
    """A black picture in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + (width + 7) // 8) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def files(ask: Callable, folder: Path) -> list[Attack]:
    """Files of this machine, and files that make others run."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {folder / MARKER}\n")  # stands for Ghostscript
    (programs / "gs").chmod(0o755)
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) run\n%%EOF\n"
    (folder / "picture.png").write_bytes(eps)

    def without_ghostscript(part: dict) -> Callable:
        def run():
            try:
                ask(chat(part))()
            finally:
                assert not (folder / MARKER).exists(), "Ghostscript was run"

        return run

    paths = [
        "/etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/environ",
        str(folder),
        "",
        "\0",
        "a" * 10**6,
        "../" * 9,
    ]
    addresses = ["file:///etc/passwd", "ftp://127.0.0.1/x", "FILE:///dev/zero", "concat:/etc/passwd", "http://[::1"]
    sources = [
        (kind, key, source) for kind in ("image", "video") for key in ("path", kind) for source in paths + addresses
    ]
    picture = str(folder / "picture.png")
    return [
        *[
            Attack(f"{kind} of {key}={source[:30]!r}", ask(chat({"type": kind, key: source})), VideoReadError)
            for kind, key, source in sources
        ],
        *[
            Attack(f"{kind}_url of {source[:30]!r}", ask(chat({"type": f"{kind}_url", f"{kind}_url": {"url": source}})),
                   ValueError)
            for kind in ("image", "video")
            for source in paths + addresses
        ],
        Attack("frames of files", ask(chat({"type": "video", "video": ["/etc/a.png", "/etc/passwd"]})), ValueError),
        Attack("EPS as bytes", without_ghostscript({"type": "image", "image": eps}), VideoReadError),
        Attack("EPS in base64", without_ghostscript({"type": "image", "base64": b64encode(eps)}), VideoReadError),
        Attack("EPS in a file", without_ghostscript({"type": "image", "path": picture}), VideoReadError),
        Attack("EPS as a frame", without_ghostscript({"type": "video", "video": [picture]}), ValueError),
    ]  # fmt: skip
