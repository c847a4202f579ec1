"""Large videos on other servers, in requests of clients: parts of them are fetched, and nobody waits for a slow one
but its client."""

# ruff: noqa: F811  # fixtures of other files
import asyncio

import pytest
from transformers import AutoProcessor

from llava_next_video import DEMO_CHECKPOINT, ReadingLimits, VideoLimitError, VideoReadError
from llava_next_video.serving.client_media import READERS_AT_ONCE, ClientMedia
from tests.reading.server_of_parts import Server, address, clip, other_clip, server  # noqa: F401  # fixtures


SAMPLING = {"num_frames": 2}  # a fifth of `clip`


def media_within(folder, **limits) -> ClientMedia:
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    processor.video_processor.limits = ReadingLimits(allow_private_addresses=True, **limits)
    return ClientMedia(processor, None, folder)


def inputs_of(media: ClientMedia, *videos: str):
    """To be awaited: inputs of the model for a question about videos."""
    parts = [{"type": "video", "url" if "://" in video else "path": video} for video in videos]
    return media.inputs_of([{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}], SAMPLING, None)


def places() -> list[int]:
    """Every byte that the server was asked for, as often as it was."""
    return [place for part in Server.parts for place in range(*(part or (0, len(Server.data))))]


def test_parts_are_fetched_once_and_give_the_inputs_of_the_file(server, clip):
    media = media_within(clip.parent)
    expected = asyncio.run(inputs_of(media, clip.name))
    inputs = asyncio.run(inputs_of(media, f"{server}/give"))
    assert inputs.keys() == expected.keys()
    assert all(inputs[name].equal(expected[name]) for name in expected)
    assert None not in Server.parts
    assert len(places()) == len(set(places())) < 0.5 * len(Server.data)
    assert len(Server.parts) < 12


def test_files_of_a_request_are_counted_together_as_far_as_they_are_fetched(server, clip):
    media = media_within(clip.parent)
    asyncio.run(inputs_of(media, f"{server}/give"))
    media = media_within(clip.parent, max_fetched_bytes=len(places()) * 3 // 2)
    asyncio.run(inputs_of(media, f"{server}/give"))
    with pytest.raises(VideoLimitError, match=rf"'{server}/redirect': its \d+ bytes or more are over"):
        asyncio.run(inputs_of(media, f"{server}/give", f"{server}/redirect"))


@pytest.mark.parametrize("number", [1, 2])
def test_file_that_changes_meanwhile_is_fetched_whole(number, server, clip, other_clip):
    media = media_within(clip.parent)
    before = asyncio.run(inputs_of(media, clip.name))["pixel_values_videos"]
    after = asyncio.run(inputs_of(media_within(other_clip.parent), other_clip.name))["pixel_values_videos"]
    Server.later = other_clip.read_bytes(), {"ETag": '"2"'}
    found = asyncio.run(inputs_of(media, f"{server}/swapped/{number}"))["pixel_values_videos"]
    assert found.equal(after)
    assert not found.equal(before)
    assert Server.parts[-1] is None


@pytest.mark.parametrize("number", [1, 2])
def test_a_part_that_does_not_come_holds_up_nobody_else(number, server, clip):
    media = media_within(clip.parent, max_fetch_seconds=30)
    urls = [f"{server}/stalls/{number}/{client}" for client in range(READERS_AT_ONCE + 1)]

    async def ask():
        hanging = [asyncio.create_task(inputs_of(media, url)) for url in urls]
        while Server.stalled < len(hanging):
            assert not any(task.done() for task in hanging)
            await asyncio.sleep(0.01)
        await inputs_of(media, clip.name)
        assert not any(task.done() for task in hanging)
        Server.goes_on.set()
        return await asyncio.gather(*hanging, return_exceptions=True)

    for url, error in zip(urls, asyncio.run(ask()), strict=True):
        assert isinstance(error, VideoReadError)
        assert f"'{url}': the connection was closed after" in str(error)
