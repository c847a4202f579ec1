"""Rows of TRL and `datasets` become conversations, with media in the order of their placeholders."""

from types import SimpleNamespace

import pytest
from PIL import Image

from llava_next_video.training.rows import read_row
from tests.training.rows import IMAGE, VIDEO, says, user


TOKENS = {"image": "<image>", "video": "<video>"}
ANSWER = says("Yes.")


def sources_of(row: dict) -> dict:
    return read_row(row, TOKENS).sources


def test_columns_fill_placeholders_in_order():
    row = {
        "messages": [user(VIDEO, "a", IMAGE), ANSWER, user(VIDEO, "b"), ANSWER],
        "videos": ["1.mp4", "2.mp4"],
        "images": [b"picture"],
    }
    chat = read_row(row, TOKENS)
    assert chat.sources == {"image": [b"picture"], "video": ["1.mp4", "2.mp4"]}
    assert chat.messages[0]["content"] == [{"type": "video"}, {"type": "text", "text": "a"}, {"type": "image"}]
    assert chat.num_given == 0


def test_placeholders_in_texts_are_filled_too():
    """As LLaVA's own data has them."""
    row = {"messages": [user("<video>\nWhat? <video> "), ANSWER, user(VIDEO)], "videos": ["1", "2", "3"]}
    assert sources_of(row) == {"image": [], "video": ["1", "2", "3"]}


def test_parts_with_a_source_of_their_own_keep_it():
    content = [{"type": "video"}, {"type": "video", "path": "own.mp4"}, {"type": "text", "text": "<video>"}]
    row = {"messages": [{"role": "user", "content": content}, ANSWER], "videos": ["1.mp4", "2.mp4"]}
    assert sources_of(row)["video"] == ["1.mp4", "own.mp4", "2.mp4"]


def test_without_placeholders_media_go_before_the_first_text_of_the_user():
    """As in TRL."""
    row = {
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What?"}, ANSWER],
        "videos": ["1.mp4"],
        "images": ["2.png"],
    }
    chat = read_row(row, TOKENS)
    expected = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What?"}]
    assert [message["content"] for message in chat.messages][1] == expected
    assert chat.sources == {"image": ["2.png"], "video": ["1.mp4"]}


def test_a_single_video_or_image_needs_no_list():
    row = {"messages": [user(VIDEO, IMAGE), ANSWER]}
    assert sources_of({**row, "video": "1.mp4", "image": "2.png"}) == {"video": ["1.mp4"], "image": ["2.png"]}
    assert sources_of({**row, "videos": "1.mp4", "images": "2.png"}) == {"video": ["1.mp4"], "image": ["2.png"]}
    frames = [Image.new("RGB", (4, 4))] * 2
    assert sources_of({**row, "video": frames, "image": "2.png"})["video"] == [frames]


def test_rows_of_tables():
    """Every key is there, as None, and files are dictionaries, which the processor takes."""
    file, other = {"bytes": b"clip", "path": "1.mp4"}, {"bytes": None, "path": "2.mp4"}
    part = {"type": "video", "text": None, "video": None, "url": None}
    own = {"type": "video", "text": None, "video": other, "url": None}
    question = {"role": "user", "content": [part, own, {"type": "text", "text": "a", "video": None, "url": None}]}
    row = {"messages": [question, ANSWER], "videos": [file], "images": None, "prompt": None, "id": 7}
    assert sources_of(row) == {"image": [], "video": [file, "2.mp4"]}


def test_of_a_prompt_nothing_is_learned():
    row = {"prompt": [user("a"), ANSWER, user(VIDEO)], "completion": [ANSWER], "videos": ["1.mp4"]}
    chat = read_row(row, TOKENS)
    assert (len(chat.messages), chat.num_given) == (4, 1)


def test_a_row_is_not_changed():
    row = {"messages": [{"role": "user", "content": "a"}, ANSWER], "videos": ["1.mp4"]}
    read_row(row, TOKENS)
    assert row == {"messages": [{"role": "user", "content": "a"}, ANSWER], "videos": ["1.mp4"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a"], r"A row is \['a'\]; it has to be a dictionary"),
        ({"text": "a"}, r"has the columns \['text'\].*either 'messages', or 'prompt'"),
        ({"prompt": [user("a")]}, r"either 'messages', or 'prompt' and 'completion'"),
        ({"messages": [user("a")], "prompt": [user("a")]}, r"either 'messages', or 'prompt'"),
        ({"prompt": "a", "completion": "b"}, r"row's 'prompt' is a text, 'a'.*list of messages"),
        ({"messages": SimpleNamespace()}, r"The messages is SimpleNamespace"),
        ({"messages": []}, r"The messages is \[\]"),
        ({"messages": [user("a"), {"role": "assistant"}]}, r"messages, message 2: its content is None"),
        ({"messages": [3]}, r"messages, message 1: it is 3"),
        ({"messages": [{"role": "user", "content": [3]}]}, r"messages, message 1, part 1: it is 3"),
        ({"messages": [user(VIDEO), ANSWER]}, r"has 0 videos in its columns and 1 placeholders"),
        ({"messages": [user(VIDEO, IMAGE), ANSWER], "videos": ["1"]}, r"has 0 images in its columns and 1 placeh"),
        ({"messages": [user(VIDEO), ANSWER], "videos": ["1", "2"]}, r"has 2 videos in its columns and 1 placeholders"),
        ({"messages": [ANSWER], "videos": ["1"]}, r"has 1 videos in its columns and 0 placeholders"),
        ({"messages": [user("a"), says("a <image>")]}, r"has 0 images in its columns and 1 placeholders"),
        ({"messages": [user("a"), ANSWER], "videos": ["1"], "video": "1"}, r"has both 'videos' and 'video'"),
        ({"messages": [user("a")]}, r"no message of the assistant to learn. Its roles are \['user'\]"),
        ({"prompt": [user("a"), ANSWER], "completion": [user("a")]}, r"no message of the assistant to learn"),
    ],
)
def test_rows_that_cannot_be_used(row, message):
    with pytest.raises(ValueError, match=message):
        read_row(row, TOKENS)
