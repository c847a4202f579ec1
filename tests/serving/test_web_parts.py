"""The parts of the page in the browser that need no Gradio: who may ask, whose video is whose, how answers come."""

import asyncio
import os
import threading
import time
from argparse import Namespace
from importlib import util

import pytest
import torch
from transformers import AutoTokenizer, pipeline

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoProcessor, VideoReadError
from llava_next_video.__main__ import main
from llava_next_video.serving import web_visits
from llava_next_video.serving.web_answers import Answer, Seconds, TimedStreamer
from llava_next_video.serving.web_door import FORM_BYTES, MAX_BODY_BYTES, STORED, Door
from llava_next_video.serving.web_frames import frames_as_html, unprepared
from llava_next_video.serving.web_page import load_pipeline
from llava_next_video.serving.web_visits import Visits
from tests.serving.running_server import CIRCLE, SAMPLES


CLIP = SAMPLES / CIRCLE[0]
UPLOAD = "/gradio_api/upload"
MAX_UPLOAD = 200_000


@pytest.fixture(scope="module")
def pipe():
    return pipeline("video-text-to-text", model=DEMO_CHECKPOINT, device="cpu")


@pytest.fixture
def visits(tmp_path):
    return Visits(tmp_path)


def upload(visits: Visits, name: str = "clip.mp4"):
    return visits.put_upload(CLIP.read_bytes(), name)


def request(door: Door, method: str, path: str, length: int | None = 0, **headers: str) -> tuple[int, dict, str]:
    """Status, headers and body of what a door answers; what it lets through is answered by 200."""
    headers = {"host": "127.0.0.1:7860", **({} if length is None else {"content-length": str(length)}), **headers}
    scope = {"type": "http", "method": method, "path": path}
    scope["headers"] = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(door(scope, None, send))
    start, body = sent
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, body["body"].decode()


@pytest.fixture
def door(visits):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Cache-Control", b"public")]})
        await send({"type": "http.response.body", "body": b""})

    return Door(app, visits, "127.0.0.1", MAX_UPLOAD)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("HEAD", "/"), ("GET", "/assets/index.js"), ("POST", "/gradio_api/queue/join"), ("POST", UPLOAD)],
)
def test_what_the_page_needs_gets_through(door, method, path):
    assert request(door, method, path, origin="http://127.0.0.1:7860")[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file=http://169.254.169.254/latest"),
        ("GET", "/gradio_api/file=\0"),
        ("GET", "/gradio_api/proxy=https://example.org/"),
        ("GET", "/gradio_api/info"),
        ("GET", "/monitoring"),
        ("GET", "/static/../../etc/passwd"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/"),
        ("PUT", "/"),
    ],
)
def test_other_requests_do_not(door, method, path):
    assert request(door, method, path)[0] == 404


def test_files_that_browsers_sent_are_given_out_until_they_expire(door, visits):
    file = upload(visits)
    outside = visits.folder / "other.mp4"
    outside.write_bytes(b"")
    link = visits.uploads / "link.mp4"
    link.symlink_to(outside)
    path = "/gradio_api/file={}".format
    assert [request(door, "GET", path(each))[0] for each in (file, outside, link, file.parent)] == [200, 404, 404, 404]
    assert request(door, "GET", path(f"{visits.uploads}/../other.mp4"))[0] == 404
    file.unlink()
    assert request(door, "GET", path(file))[0] == 404


def test_a_page_asks_nobody_but_its_server_and_is_not_kept(door):
    _, headers, _ = request(door, "GET", "/")
    assert "default-src 'self' data: blob:;" in headers["content-security-policy"]
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert request(door, "GET", "/assets/index.js")[1]["Cache-Control"] == "public"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:7860", "http://localhost:7860", 200),
        ("[::1]:7860", "http://[::1]:7860", 200),
        ("evil.example:7860", "http://evil.example:7860", 403),  # its name leads here
        ("127.0.0.1:7860", "http://evil.example", 403),
        ("127.0.0.1:7860", "http://127.0.0.1:8000", 403),
        ("127.0.0.1:7860", "null", 403),
        ("", "http://127.0.0.1:7860", 403),
    ],
)
def test_pages_of_other_sites_may_not_ask(door, host, origin, status):
    assert request(door, "POST", "/gradio_api/queue/join", host=host, origin=origin)[0] == status


@pytest.mark.parametrize(
    ("host", "status"), [("localhost", 403), ("::1", 403), ("127.0.0.2", 403), ("0.0.0.0", 200), ("this-machine", 200)]
)
def test_a_server_of_this_machine_has_no_other_names(door, visits, host, status):
    own = Door(door.app, visits, host, MAX_UPLOAD)
    assert request(own, "GET", "/", host="evil.example")[0] == status
    assert request(own, "GET", "/", host=f"[{host}]:7860" if ":" in host else f"{host}:7860")[0] == 200


def test_any_name_may_lead_to_a_server_that_listens_to_others(door, visits):
    open_door = Door(door.app, visits, "0.0.0.0", MAX_UPLOAD)
    assert request(open_door, "GET", "/", host="videos.example")[0] == 200
    assert request(open_door, "GET", "/", host="videos.example", origin="http://evil.example")[0] == 403


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("/gradio_api/queue/join", MAX_BODY_BYTES, 200),
        ("/gradio_api/queue/join", MAX_BODY_BYTES + 1, 413),
        ("/gradio_api/queue/join", None, 411),
        (UPLOAD, MAX_UPLOAD + FORM_BYTES, 200),
        (UPLOAD, MAX_UPLOAD + FORM_BYTES + 1, 413),
        (UPLOAD, None, 411),
    ],
)
def test_requests_are_as_large_as_they_say_and_no_larger_than_allowed(door, path, length, status):
    assert request(door, "POST", path, length)[0] == status


def test_uploads_end_when_the_disk_has_its_share(door, visits):
    (visits.uploads / "videos").write_bytes(bytes((STORED - 1) * MAX_UPLOAD))
    assert request(door, "POST", UPLOAD, MAX_UPLOAD)[0] == 200
    status, _, text = request(door, "POST", UPLOAD, MAX_UPLOAD + 1)
    assert (status, text) == (507, "There is no room for another video now. Videos expire; try again later.")
    door.arriving = 1  # of an upload that is under way
    assert request(door, "POST", UPLOAD, MAX_UPLOAD)[0] == 507


def test_web_sockets_are_closed_and_the_start_of_the_server_passes(door):
    sent = []

    async def send(message):
        sent.append(message["type"])

    asyncio.run(door({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert sent == ["websocket.close"]
    door.app = lambda scope, receive, send: send({"type": "passed"})
    asyncio.run(door({"type": "lifespan"}, None, send))
    assert sent[1:] == ["passed"]


def test_a_visit_has_its_own_video_whose_name_nobody_knows(visits):
    file = upload(visits)
    first, second = visits.of("first"), visits.of("second")
    visits.take_video(first, file)
    visits.take_video(second, file)
    assert first.video != second.video
    assert first.video.samefile(second.video)
    assert len(first.video.name) == 32
    assert visits.folder.stat().st_mode & 0o077 == 0 or (visits.videos.stat().st_mode & 0o077) == 0
    assert visits.stored_bytes() == CLIP.stat().st_size  # one file under three names
    file.unlink()
    assert first.video.read_bytes() == CLIP.read_bytes()
    assert visits.of("first") is first


def test_the_pipeline_recognizes_a_video_that_was_just_sent(visits, pipe):
    visit = visits.of("first")
    visits.take_video(visit, upload(visits))
    assert pipe.find_or_read(str(visit.video), {}) is pipe.find_or_read(str(visit.video), {})


def test_another_video_begins_another_chat(visits):
    visit = visits.of("first")
    with pytest.raises(ValueError, match="There is no video yet, or it has expired"):
        visit.with_question("What?")
    visits.take_video(visit, upload(visits))
    [message] = visit.with_question("What?")
    assert [part["type"] for part in message["content"]] == ["video", "text"]
    visit.messages = [message, {"role": "assistant", "content": [{"type": "text", "text": "That."}]}]
    assert [part["type"] for part in visit.with_question("And?")[-1]["content"]] == ["text"]
    before = visit.video
    visits.take_video(visit, upload(visits))
    assert visit.messages == []
    assert not before.exists()
    visits.take_video(visit, None)
    assert visit.video is None
    assert list(visits.videos.iterdir()) == []


def test_an_upload_that_has_expired_is_an_error(visits):
    with pytest.raises(VideoReadError, match=r"the video 'gone.mp4': it has expired; send it again"):
        visits.take_video(visits.of("first"), visits.uploads / "gone.mp4")


def test_errors_call_a_video_what_its_visitor_called_it(visits):
    visit = visits.of("first")
    visits.take_video(visit, upload(visits, "holiday.mp4"))
    error = visit.named(VideoReadError(str(visit.video), "it is damaged"))
    assert str(error) == "Could not read the video 'holiday.mp4': it is damaged."
    assert str(visit.named(ValueError("other"))) == "other"


def test_videos_and_chats_expire(visits, monkeypatch):
    file = upload(visits)
    used, left, unused = (visits.of(name) for name in ("used", "left", "unused"))
    for visit in (used, left, unused):
        visits.take_video(visit, file)
    names = [visit.video for visit in (used, left, unused)]
    started = time.monotonic()
    visits.leave("left")
    visits.leave("nobody")
    monkeypatch.setattr(web_visits.time, "monotonic", lambda: started + web_visits.SECONDS_KEPT_WHEN_LEFT + 1)
    visits.sweep()
    assert [name.exists() for name in names] == [True, False, True]
    visits.of("used")
    monkeypatch.setattr(web_visits.time, "monotonic", lambda: started + web_visits.SECONDS_KEPT + 1)
    visits.sweep()
    assert [name.exists() for name in names] == [True, False, False]
    with pytest.raises(ValueError, match="it has expired"):
        left.with_question("What?")
    assert file.exists()
    old = time.time() - web_visits.SECONDS_KEPT - 1
    os.utime(file, (old, old))
    visits.sweep()
    assert not file.exists()
    os.utime(file.parent, (old, old))
    visits.sweep()
    assert list(visits.uploads.iterdir()) == []


def test_the_visit_that_was_used_longest_ago_has_to_go(visits, monkeypatch):
    monkeypatch.setattr(web_visits, "MAX_VISITS", 2)
    first = visits.of("first")
    visits.take_video(first, upload(visits))
    for name in ("second", "third"):
        visits.of(name)
    assert list(visits.visits) == ["second", "third"]
    assert first.video is None


def test_sweeping_goes_on_until_the_end(visits, monkeypatch):
    monkeypatch.setattr(web_visits, "SECONDS_BETWEEN_SWEEPS", 0.001)
    stopped, swept = threading.Event(), threading.Event()
    monkeypatch.setattr(visits, "sweep", swept.set)
    thread = threading.Thread(target=visits.sweep_until, args=[stopped])
    thread.start()
    assert swept.wait(10)
    stopped.set()
    thread.join(10)
    assert not thread.is_alive()
    visits.close()
    assert not visits.folder.exists()


def messages(question: str = CIRCLE[1]) -> list[dict]:
    return [{"role": "user", "content": [{"type": "video", "video": str(CLIP)}, {"type": "text", "text": question}]}]


def test_an_answer_is_streamed_and_the_second_one_does_not_encode_again(pipe):
    pipe.forget()
    answer = Answer(pipe, messages(), {}, {"max_new_tokens": 20})
    texts = list(answer)
    assert texts[-1] == CIRCLE[2]
    assert len(set(texts)) > 2
    assert all(CIRCLE[2].startswith(text) for text in texts)
    assert answer.seconds.encoding > 0
    assert answer.seconds.first_token > 0
    assert answer.seconds.num_tokens == answer.streamer.num_tokens > 3
    chat = [*messages(), {"role": "assistant", "content": [{"type": "text", "text": texts[-1]}]}]
    chat.append({"role": "user", "content": [{"type": "text", "text": "What shape is it?"}]})
    second = Answer(pipe, chat, {}, {"max_new_tokens": 20})
    assert "circle" in list(second)[-1]
    assert second.seconds.encoding is None
    assert "video encoded before" in str(second.seconds)


def test_an_answer_uses_what_was_chosen(pipe):
    several = Answer(pipe, messages(), {"num_frames": 3}, {"max_new_tokens": 1})
    list(several)
    assert several.seconds.num_tokens == 1
    assert str(Seconds(0.5, 1.25, 0.25, 0.5, 1)) == (
        "Prompt ready in 0.50 s · video encoded in 1.25 s · first token after 0.25 s · 1 token in 0.75 s"
    )
    assert str(several.seconds).count("encoded in") == 1  # with other frames it is another video


class CountedSteps(Answer):
    """An answer that is stopped from elsewhere at its third token, as by the button."""

    def __init__(self, *args):
        super().__init__(*args)
        put = self.streamer.put

        def counted(value):
            put(value)
            if self.streamer.num_tokens == 3:
                self.stop()

        self.streamer.put = counted


def test_stop_ends_the_answer_at_the_next_token_and_keeps_its_text(pipe):
    answer = CountedSteps(pipe, messages("Describe the video."), {}, {"max_new_tokens": 200, "min_new_tokens": 150})
    texts = list(answer)
    assert answer.was_stopped
    assert answer.streamer.num_tokens <= 4
    assert texts[-1]


def test_who_leaves_ends_the_answer(pipe):
    answer = Answer(pipe, messages("Describe the video."), {}, {"max_new_tokens": 400, "min_new_tokens": 400})
    pieces = iter(answer)
    next(pieces)
    pieces.close()
    answer.thread.join(60)
    assert answer.streamer.num_tokens < 400


def test_an_answer_that_was_stopped_before_it_began_computes_nothing(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    answer = Answer(pipe, messages(), {}, {"max_new_tokens": 20})
    answer.stop()
    assert set(answer) == {""}
    during = Answer(pipe, messages(), {"num_frames": 5}, {"max_new_tokens": 20})
    monkeypatch.setattr(pipe, "encode", lambda *args: during.stop())
    assert set(during) == {""}


def test_errors_come_out_of_the_answer(pipe):
    wrong = [{"role": "user", "content": [{"type": "video", "video": "none.mp4"}, {"type": "text", "text": "What?"}]}]
    with pytest.raises(VideoReadError, match="there is no such file"):
        list(Answer(pipe, wrong, {}, {"max_new_tokens": 20}))


def test_an_answer_ends_with_the_context(pipe, monkeypatch):
    num_tokens = pipe.preprocess(messages())["samples"].inputs["input_ids"].shape[-1]
    context = num_tokens + 5
    monkeypatch.setattr(pipe.model.config.text_config, "max_position_embeddings", context)
    answer = Answer(pipe, messages(), {}, {"max_new_tokens": 400, "min_new_tokens": 400})
    list(answer)
    assert answer.streamer.num_tokens == 5
    monkeypatch.setattr(pipe.model.config.text_config, "max_position_embeddings", num_tokens)
    with pytest.raises(ValueError, match=f"The chat has {num_tokens} tokens, and chat and answer together may have"):
        list(Answer(pipe, messages(), {}, {"max_new_tokens": 400}))


def test_a_streamer_counts_the_tokens_of_the_answer_only():
    streamer = TimedStreamer(AutoTokenizer.from_pretrained(DEMO_CHECKPOINT))
    streamer.put(torch.tensor([[1, 2, 3]]))
    assert (streamer.num_tokens, streamer.first) == (0, None)
    streamer.put(torch.tensor([4]))
    streamer.put(torch.tensor([5]))
    assert streamer.num_tokens == 2
    assert streamer.first <= streamer.last


def test_the_frames_on_the_page_are_those_that_the_model_sees():
    processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)
    [video] = processor.process_videos(str(CLIP), num_frames=4)
    seen = processor.video_processor(str(CLIP), num_frames=4, do_rescale=False, do_normalize=False)
    assert (unprepared(video.pixel_values, processor.video_processor) == seen["pixel_values_videos"][0]).all()
    html = frames_as_html(processor, video, 0.25)
    assert html.count('<img src="data:image/webp;base64,') == 4
    assert "frame 24  00:00.96" in html  # of 75 frames, 25 a second
    assert "4 of 75 frames, each as the model sees it: 144 x 144 pixels" in html
    assert "Read in 0.25 s" in html


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    monkeypatch.setattr("llava_next_video.serving.web_page.find_spec", lambda name: None)
    assert main(["web"]) == 1
    assert "`web` needs Gradio: pip install 'llava-next-video[web]'" in capsys.readouterr().err


def test_the_checkpoint_of_another_model_is_refused(monkeypatch):
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda name: object())
    args = Namespace(model="other/model", demo_checkpoint=DEMO_CHECKPOINT)
    with pytest.raises(ValueError, match="other/model is no checkpoint of LLaVA-NeXT-Video"):
        load_pipeline(args, None)
