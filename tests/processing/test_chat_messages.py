"""Chats go through one door: their shape is checked before anything in them is opened, and only our readers open it."""

import contextlib
import copy
from base64 import b64encode, encodebytes
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from llava_next_video import ReadingLimits, VideoLimitError, VideoReadError
from llava_next_video.conversion.tokenizer import read_template
from llava_next_video.processing.chat_messages import checked_conversation, checked_conversations, with_media
from tests.local_server import local_server
from tests.tiny import make_model, make_processor, random_frames, write_video


QUESTION = {"type": "text", "text": "What?"}
TOKENIZE = {"tokenize": True, "return_dict": True}


@pytest.fixture(scope="module")
def processor():
    return make_processor(make_model().config)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("clips") / "clip.mp4"))


def chat(*parts) -> list[dict]:
    return [{"role": "user", "content": [*parts, QUESTION]}]


def png(width: int = 40, height: int = 30) -> bytes:
    file = BytesIO()
    Image.fromarray(random_frames(1, height, width)[0]).save(file, "PNG")
    return file.getvalue()


# --- shape -----------------------------------------------------------------------------------------------------------

URL = "http://example.org/a"


@pytest.mark.parametrize(
    ("part", "kind", "source"),
    [
        ({"type": "image", "image": "a.png"}, "image", "a.png"),
        ({"type": "image", "url": URL}, "image", URL),
        ({"type": "image", "path": "a.png"}, "image", "a.png"),
        ({"type": "image", "base64": "AA AA\n"}, "image", "data:;base64,AAAA"),
        ({"type": "image", "base64": b"AAAA"}, "image", "data:;base64,AAAA"),
        ({"type": "image", "base64": "data:image/png;base64,AAAA"}, "image", "data:image/png;base64,AAAA"),
        ({"type": "image_url", "image_url": URL}, "image", URL),
        ({"type": "image_url", "image_url": {"url": URL, "detail": "low"}}, "image", URL),
        ({"type": "input_image", "image_url": URL}, "image", URL),
        ({"type": "video", "video": "a.mp4"}, "video", "a.mp4"),
        ({"type": "video", "url": URL}, "video", URL),
        ({"type": "video", "path": "a.mp4"}, "video", "a.mp4"),
        ({"type": "video", "video": ["a.png", "b.png"]}, "video", ["a.png", "b.png"]),
        ({"type": "video_url", "video_url": {"url": URL}}, "video", URL),
        ({"type": "input_text", "text": "x"}, "text", "x"),
        ({"type": "output_text", "text": "x"}, "text", "x"),
        # Rows of a table have every column.
        ({"type": "video", "path": "a.mp4", "url": None, "image": None, "text": None}, "video", "a.mp4"),
        ({"type": "video", "path": "a.mp4", "text": ""}, "video", "a.mp4"),
    ],
)
def test_a_part_is_one_kind_under_one_key_however_it_is_spelled(part, kind, source):
    before = copy.deepcopy(part)
    assert checked_conversation(chat(part)) == chat({"type": kind, kind: source})
    assert part == before
    kept = {"cache_control": {"type": "ephemeral"}}
    assert checked_conversation(chat({**part, **kept})) == chat({**kept, "type": kind, kind: source})
    assert checked_conversation(checked_conversation(chat(part))) == chat({"type": kind, kind: source})


def nested(levels: int) -> list:
    value = []
    for _ in range(levels):
        value = [value]
    return value


circle = []
circle.append(circle)
user = {"role": "user"}

MALFORMED = {
    "no messages": ([], r"The chat is \[\]. It has to be a list of one message or more"),
    "nothing": (None, "The chat is None. It has to be a list of one"),
    "a message for a list": ({**user, "content": "x"}, "The chat is {'content': 'x', 'role': 'user'}. It has to be"),
    "a text": ("Hello", "The chat is 'Hello'. It has to be"),
    "a generator": (({**user, "content": "x"} for _ in range(2)), "The chat is generator. It has to be"),
    "a message that is a text": ([{**user, "content": "x"}, "y"], "chat, message 2: it is 'y', and a message is a"),
    "a message that is nothing": ([None], "In the chat, message 1: it is None, and a message"),
    "no role": ([{"content": "x"}], "In the chat, message 1: its role is None. It has to be a text"),
    "a role that is a number": ([{"role": 5, "content": "x"}], "message 1: its role is 5. It has to be a text"),
    "no content": ([user], "message 1: its content is None. It has to be a text or a list of parts"),
    "no parts": ([*chat(), {"role": "assistant", "content": []}], r"message 2: its content is \[\]. It has to be"),
    "content that is a part": ([{**user, "content": QUESTION}], "message 1: its content is {'text': 'What.', 'type'"),
    "content that is a number": ([{**user, "content": 5}], "message 1: its content is 5. It has to be a text or"),
    "half a character": ([{**user, "content": "\ud800"}], "message 1: its content has half a character, a lone"),
    "half a character in a part": (chat({"type": "text", "text": "\ud800"}), "part 1: its text has half a character"),
    "pictures beside the content": ([{**user, "content": "x", "images": ["a"]}], r"it has \['images'\] beside its co"),
    "a part that is a text": ([{**user, "content": ["x"]}], "In the chat, message 1, part 1: it is 'x', and a"),
    "a part that is nothing": ([{**user, "content": [QUESTION, None]}], "message 1, part 2: it is None, and a part is"),
    "a part without type": ([{**user, "content": [{"text": "x"}]}], "part 1: its type is None. It has to be one of"),
    "an unknown type": (chat({"type": "file", "file_id": "1"}), r"part 1: its type is 'file'. It has to be one of"),
    "a type that is a list": (chat({"type": ["video"]}), r"part 1: its type is \['video'\]. It has to be one of"),
    "a text without text": (chat({"type": "text"}), r"it has no text. Name it under one of the keys \['text'\]"),
    "a text that is a number": (chat({"type": "text", "text": 5}), "part 1: its text is 5. It has to be a text"),
    "a video in a text": (
        chat({"type": "text", "text": "x", "video": "a"}),
        r"part 1: it has \['text', 'video'\], and a part of type 'text' has one of \['text'\]",
    ),
    "no source": (chat({"type": "video_url"}), r"part 1: it has no video. Name it under one of the keys \['video', 'u"),
    "no picture": (chat({"type": "input_image", "file_id": "1"}), "part 1: it has no image. Name it"),
    "two sources": (
        chat({"type": "video", "path": "a", "url": URL}), r"it has \['url', 'path'\], and a part of type 'video' has"
    ),
    "a picture in a video": (chat({"type": "video", "image": "a"}), r"it has \['image'\], and a part of type 'video'"),
    "a source that is a number": (chat({"type": "video", "path": 5}), "part 1: its path is 5. It has to be a path"),
    "a source that is a dictionary": (chat({"type": "image", "image": {"data": b""}}), "its image is {'data': b''}"),
    "no frames": (chat({"type": "video", "video": []}), r"part 1: its video is \[\]. It has to be a path"),
    "frames that are lists": (chat({"type": "video", "video": [["a.png"]]}), r"its video is \[\['a.png'\]\]"),
    "several pictures": (chat({"type": "image", "image": ["a.png", "b.png"]}), r"its image is \['a.png', 'b.png'\]"),
    "base64 that is a number": (chat({"type": "image", "base64": 5}), "its base64 is 5. It has to be a text"),
    "a file for a URL": (
        chat({"type": "video_url", "video_url": {"url": "/etc/passwd"}}),
        "part 1: its video_url is '/etc/passwd', which is not a URL. A file goes under 'path'",
    ),
    "no URL in a URL": (chat({"type": "image_url", "image_url": {}}), "its image_url is None, which is not a URL"),
    "nested without end": (chat({"type": "video", "video": nested(10**5)}), "lists and .* more than 50 levels"),
    "nested in a circle": (chat({**QUESTION, "x": circle}), "lists and dictionaries in it are nested more than 50"),
    "sound": (chat({"type": "audio", "url": URL}), "part 1: its type is 'audio', and LLaVA-NeXT-Video hears nothing"),
    "sound in itself": (chat({"type": "input_audio", "input_audio": {"data": "AAAA"}}), "its type is 'input_audio'"),
    "sound at a URL": (chat({"type": "audio_url", "audio_url": {"url": URL}}), "its type is 'audio_url', and LLaVA"),
    "sound that is not there": (chat({"type": "audio"}), "its type is 'audio', and LLaVA"),
    "an empty chat in a batch": ([chat(), []], r"The chat 2 is \[\]. It has to be a list of one message"),
    "a malformed chat in a batch": ([chat(), [{**user, "content": [5]}]], "In the chat 2, message 1, part 1: it is 5"),
    "a message in a batch": ([chat(), {**user, "content": "x"}], "The chat 2 is {'content': 'x', 'role': 'user'}"),
    "a chat among messages": ([{**user, "content": "x"}, chat()], r"In the chat, message 2: it is \[{'content'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_error_for_malformed_chats_names_message_and_part(processor, name):
    messages, message = MALFORMED[name]
    with pytest.raises(ValueError, match=message):
        checked_conversations(messages)
    for tokenize in (True,) if name in ("no source", "no picture") else (True, False):
        with pytest.raises(ValueError, match=message):
            processor.apply_chat_template(messages, tokenize=tokenize, return_dict=tokenize)


def test_parts_without_a_source_make_prompts_to_pass_media_beside(processor):
    prompt = processor.apply_chat_template(chat({"type": "video"}, {"type": "image", "image": None}))
    assert "<video>\n<image>\nWhat?" in prompt
    assert processor(text=prompt, videos=[random_frames(2)], images=[Image.new("RGB", (9, 9))])["input_ids"].shape[0]
    with pytest.raises(ValueError, match="In the chat, message 1, part 1: it has no video"):
        processor.apply_chat_template(chat({"type": "video"}), **TOKENIZE)


def test_calls_of_tools_need_no_content(processor):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1]}}}]}
    messages = [*chat(), call, {"role": "tool", "tool_call_id": "1", "content": "5"}]
    assert checked_conversation([*chat(), {**call, "content": []}])
    assert checked_conversation(messages)[1] == {name: call[name] for name in ("role", "tool_calls")}
    assert processor.apply_chat_template(messages).endswith(
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\n5<|im_end|>\n"
    )


def test_objects_stand_for_dictionaries():
    @dataclass
    class Part:
        type: str
        text: str | None = None

    class Message:
        def model_dump(self):
            return {"role": "user", "content": [Part("text", "What?")], "name": None}

    assert checked_conversation(SimpleNamespace(messages=[Message()])) == chat()
    assert checked_conversations([SimpleNamespace(messages=[Message()])]) == ([chat()], True)


def test_media_of_a_chat_are_replaced_in_order():
    messages = checked_conversation(
        [{"role": "system", "content": "x"}, *chat({"type": "video", "path": "a"}, {"type": "image", "path": "b"})]
    )
    replaced = with_media(messages, video=str.upper)
    assert checked_conversation(replaced) == replaced
    assert replaced[1]["content"][:2] == [{"type": "video", "video": "A"}, {"type": "image", "image": "b"}]
    assert replaced[0] == messages[0]
    assert messages[1]["content"][0]["video"] == "a"
    seen = []
    bare = checked_conversation(chat({"type": "video"}), need_sources=False)
    assert with_media(bare, video=seen.append) == bare
    assert not seen


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_other_door(monkeypatch):
    """transformers' own ways to read media fail the test."""

    def opened(*args, **kwargs):
        raise AssertionError(f"transformers opens {args}")

    for module in ("image_utils", "video_utils", "audio_utils", "processing_utils", "image_processing_base"):
        module = getattr(transformers, module)
        for name in ("load_image", "load_video", "load_audio", "load_image_as_tensor"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, opened)


def test_pictures_are_read_alike_whatever_they_are_given_as(processor, tmp_path, no_other_door):
    data = png()
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    text = b64encode(data).decode()
    forms = [
        {"type": "image", "image": Image.open(path)},
        {"type": "image", "image": np.asarray(Image.open(path))},
        {"type": "image", "path": str(path)},
        {"type": "image", "path": path},
        {"type": "image", "image": data},
        {"type": "image", "image": BytesIO(data)},
        {"type": "image", "base64": text},
        {"type": "image", "base64": encodebytes(data)},
        {"type": "image", "url": f"data:image/png;base64,{text}"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{text}"},
    ]
    first, *others = [processor.apply_chat_template(chat(part), **TOKENIZE) for part in forms]
    assert first["pixel_values"].std() > 0.1
    for inputs in others:
        assert torch.equal(inputs["pixel_values"], first["pixel_values"])
        assert torch.equal(inputs["input_ids"], first["input_ids"])


def test_videos_are_read_alike_whatever_they_are_given_as(processor, clip, no_other_door):
    with open(clip, "rb") as file:
        data = file.read()
    text = b64encode(data).decode()
    forms = [
        {"type": "video", "video": clip},
        {"type": "video", "path": clip},
        {"type": "video", "video": data},
        {"type": "video", "base64": text},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{text}"}},
        {"type": "video", "video": processor.process_videos(clip, num_frames=3)[0]},
    ]
    arguments = {**TOKENIZE, "processor_kwargs": {"num_frames": 3}}
    first, *others = [processor.apply_chat_template(chat(part), **arguments) for part in forms]
    for inputs in others:
        assert torch.equal(inputs["pixel_values_videos"], first["pixel_values_videos"])
        assert torch.equal(inputs["input_ids"], first["input_ids"])


def test_limits_hold_for_every_medium_of_a_message(clip, no_other_door):
    processor = make_processor(make_model().config)
    small = ReadingLimits(max_frame_pixels=1000, max_fetched_bytes=10_000)
    processor.image_processor.limits = processor.video_processor.limits = small
    large, text = png(50, 50), b64encode(png(50, 50)).decode()
    for part in (
        {"type": "image", "base64": text},
        {"type": "image", "image": large},
        {"type": "image", "url": f"data:,{text}"},
        {"type": "image", "base64": "A" * 20_000},
        {"type": "video", "path": clip},
    ):
        with pytest.raises(VideoReadError) as error:
            processor.apply_chat_template(chat(part), **TOKENIZE)
        assert isinstance(error.value, VideoLimitError) or part.get("url")
    with pytest.raises(VideoReadError, match="/etc/passwd"):
        processor.apply_chat_template(chat({"type": "image", "path": "/etc/passwd"}), **TOKENIZE)


class Counting(BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Counting.requests = 0
    with local_server(Counting) as address:
        yield f"{address}/x.wav"


@pytest.mark.parametrize("name", ["audio", "input_audio", "audio_url"])
def test_sound_is_refused_before_anything_is_fetched(server, name):
    processor = make_processor(make_model().config)
    anywhere = ReadingLimits(allow_private_addresses=True)
    processor.image_processor.limits = processor.video_processor.limits = anywhere
    for part in (
        {"type": name, "url": server},
        {"type": name, "audio": server},
        {"type": name, "path": server},
        {"type": name, name: {"url": server, "data": "AAAA"}},
    ):
        with pytest.raises(ValueError, match="hears nothing"):
            processor.apply_chat_template(chat({"type": "image", "url": server}, part), **TOKENIZE)
    with pytest.raises(ValueError, match=r"apply_chat_template got \['audio'\], which it takes from the messages"):
        processor.apply_chat_template(chat(), **TOKENIZE, audio=server)
    assert Counting.requests == 0
    with pytest.raises(VideoReadError, match="answered 404"):
        processor.apply_chat_template(chat({"type": "image", "url": server}), **TOKENIZE)
    assert Counting.requests == 1


@pytest.mark.parametrize("name", ["images", "videos", "audio", "text"])
@pytest.mark.parametrize("place", ["here", "processor_kwargs"])
def test_error_when_media_come_beside_the_messages(processor, name, place):
    given = {name: "a.png"}
    with pytest.raises(ValueError, match=rf"got \['{name}'\], which it takes from the messages. Put pictures and vid"):
        processor.apply_chat_template(chat(), **TOKENIZE, **(given if place == "here" else {place: given}))


def test_sound_of_videos_is_not_asked_for(processor, clip):
    # `transformers serve` asks for it.
    part = {"type": "video", "path": clip}
    inputs = processor.apply_chat_template(chat(part), **TOKENIZE, load_audio_from_video=True, num_frames=3)
    assert inputs["pixel_values_videos"].shape[:2] == (1, 3)
    assert sorted(inputs) == ["attention_mask", "input_ids", "pixel_values_videos"]


# --- batches and templates -------------------------------------------------------------------------------------------


def test_a_chat_of_a_batch_may_have_no_video(processor, clip):
    with_video = chat({"type": "video", "path": clip})
    arguments = {**TOKENIZE, "padding": True, "num_frames": 3}
    batch = processor.apply_chat_template([with_video, chat(), with_video], **arguments)
    assert batch["pixel_values_videos"].shape[:2] == (2, 3)
    alone = processor.apply_chat_template(with_video, **arguments)["input_ids"][0]
    assert batch["input_ids"][0].tolist() == batch["input_ids"][2].tolist() == alone.tolist()
    assert "pixel_values_videos" not in processor.apply_chat_template([chat(), chat()], **arguments)


@pytest.mark.parametrize("messages", [chat({"type": "video"}, {"type": "image", "path": "a.png", "x": 1})])
def test_messages_are_not_changed(processor, messages, tmp_path):
    before = copy.deepcopy(messages)
    processor.apply_chat_template(messages)
    assert messages == before


def test_error_when_the_template_cannot_write_the_chat():
    processor = make_processor(make_model().config)
    processor.chat_template = "{{ raise_exception('Only one message, please.') }}"
    with pytest.raises(
        ValueError, match=r"template cannot write this chat: Only one message, please\. Send messages in"
    ):
        processor.apply_chat_template(chat())


@pytest.mark.parametrize(
    "template",
    [
        "{% for number in range(10**9) %}{% endfor %}",  # OverflowError of jinja's sandbox
        "{{ 'x' * 10**15 }}",  # MemoryError
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_error_when_the_template_fails_in_another_way(processor, template):
    video = {"type": "video", "video": random_frames(2)}
    for arguments in ({}, {"tokenize": True, "return_dict": True}):
        with pytest.raises(ValueError, match=r"The chat template cannot write this chat: .*Error.*is damaged"):
            processor.apply_chat_template(chat(video), template, **arguments)


def test_the_template_is_not_blamed_for_errors_of_the_preparation(processor, monkeypatch):
    def no_memory(*args, **kwargs):
        raise MemoryError("pixels")

    monkeypatch.setattr(processor, "_process_videos", no_memory)
    with pytest.raises(MemoryError, match="pixels"):
        processor.apply_chat_template(chat({"type": "video", "video": random_frames(2)}), tokenize=True)


def test_what_a_template_says_is_shortened(processor):
    with pytest.raises(ValueError, match="cannot write this chat: xxx") as caught:
        processor.apply_chat_template(chat(), "{{ raise_exception('x' * 10**6) }}")
    assert len(str(caught.value)) < 2000


def test_a_template_does_not_get_hold_of_media(processor):
    template = "{{ messages[0].content[0].image._source }}|{{ messages[0].content[0].image.source }}"
    written = ""
    with contextlib.suppress(ValueError):  # transformers 5.20 refuses to look
        written = processor.apply_chat_template(chat({"type": "image", "image": Image.new("RGB", (9, 9))}), template)
    assert "Image" not in written


def test_every_part_of_a_system_message_is_written():
    texts = [{"type": "text", "text": "Be brief. "}, {"type": "text", "text": "Be kind."}]
    for name in ("plain", "vicuna_v1", "mistral_instruct", "mistral_direct", "qwen_1_5"):
        processor = make_processor(make_model().config)
        processor.chat_template = read_template(name)
        parts = processor.apply_chat_template([{"role": "system", "content": texts}, *chat()])
        assert parts == processor.apply_chat_template([{"role": "system", "content": "Be brief. Be kind."}, *chat()])
