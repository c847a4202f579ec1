"""The page in a real browser, Debian's Chromium without a window: what a person does at it.

`.ci/engines web` runs this. Screenshots for the documentation are taken by `docs/pictures/screenshots/take.py`.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.serving.running_page import LongAnswer, require_gradio, showing_page
from tests.serving.running_server import CIRCLE, SAMPLES


require_gradio()
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright; run by .ci/engines web")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("apt-get install chromium; run by .ci/engines web", allow_module_level=True)
from llava_next_video.serving import web_layout  # noqa: E402


CLIP = SAMPLES / CIRCLE[0]
PATIENCE = 120_000  # milliseconds, of a machine that does other things
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# Gradio takes what the browser has recorded when Stop is pressed, which of a busy machine is nothing for many seconds.
COUNTING_PIECES = """() => {
  window.piecesRecorded = 0;
  const start = MediaRecorder.prototype.start;
  MediaRecorder.prototype.start = function (...args) {
    this.addEventListener("dataavailable", (event) => { window.piecesRecorded += event.data.size > 0; });
    return start.apply(this, args);
  };
}"""
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with showing_page() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        yield browser
        browser.close()


@contextmanager
def page_at(browser, address: str, **look) -> Iterator:
    """The page in a window of its own, which has to ask this server alone and to run without errors."""
    context = browser.new_context(**{"viewport": DESKTOP, "permissions": ["camera"], **look})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#ask")
    try:
        yield page
        assert errors == []
        assert [url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))] == []
    finally:
        context.close()


def drop(page, file):
    page.set_input_files("#video input[type=file]", file)


def show_frames(page, count: int = 8):
    page.wait_for_function(f"document.querySelectorAll('#frames img').length == {count}")


def ask(page, question: str):
    page.fill("#question textarea", question)
    page.click("#ask")


def seconds(page) -> str:
    """What is said of an answer, when it is complete."""
    page.wait_for_selector("#said .seconds")
    return page.inner_text("#said")


def answers(page) -> list[str]:
    return [each.inner_text().strip() for each in page.query_selector_all("#chat .bot .prose, #chat .bot .md")]


def test_a_video_is_dropped_and_asked_about_twice(browser, address):
    with page_at(browser, address) as page:
        drop(page, CLIP)
        show_frames(page)
        assert "frame 74 00:02.96" in page.inner_text("#frames")
        ask(page, CIRCLE[1])
        assert "video encoded in" in seconds(page)
        page.wait_for_selector(f"#chat >> text={CIRCLE[2]}")
        assert page.input_value("#question textarea") == ""
        ask(page, "What shape is it?")
        page.wait_for_selector("#chat >> text=It is a circle.")
        page.wait_for_selector("#said >> text=video encoded before")


def test_a_wrong_file_is_a_sentence_and_the_next_one_is_taken(browser, address, tmp_path):
    notes = tmp_path / "notes.mp4"
    notes.write_text("this is no video")
    with page_at(browser, address) as page:
        drop(page, notes)
        assert "Could not read the video 'notes.mp4'" in page.inner_text("#said .problem")
        page.click("#video [aria-label=Clear]")
        page.wait_for_selector("#video input[type=file]", state="attached")
        drop(page, CLIP)
        show_frames(page)
        page.wait_for_selector("#said .problem", state="detached")


def test_two_people_do_not_see_each_other(browser, address):
    with page_at(browser, address) as first, page_at(browser, address) as second:
        drop(first, CLIP)
        show_frames(first)
        ask(second, "What is moving?")
        second.wait_for_selector("#said .problem >> text=There is no video yet")
        assert second.query_selector_all("#frames img") == []
        drop(second, SAMPLES / "green_triangle_moves_right.mp4")
        show_frames(second)
        ask(first, "What is moving?")
        ask(second, "What is moving?")
        first.wait_for_selector("#chat >> text=A red circle.")
        second.wait_for_selector("#chat >> text=A green triangle.")
        assert "green" not in first.inner_text("#chat")
        assert "red" not in second.inner_text("#chat")


@pytest.fixture
def long_answers(monkeypatch) -> list[LongAnswer]:
    monkeypatch.setattr(web_layout, "Answer", LongAnswer)
    monkeypatch.setattr(LongAnswer, "made", [])
    return LongAnswer.made


def test_stop_ends_an_answer_and_the_next_question_is_answered(browser, address, long_answers, monkeypatch):
    with page_at(browser, address) as page:
        drop(page, CLIP)
        show_frames(page)
        ask(page, CIRCLE[1])
        page.wait_for_selector(f"#chat >> text={CIRCLE[2]}")  # its first words, while it goes on
        page.click("#stop")
        seconds(page)
        assert "(stopped)" in page.inner_text("#chat")
        assert long_answers[0].streamer.num_tokens < 400
        monkeypatch.undo()
        ask(page, "What shape is it?")
        page.wait_for_selector("#chat >> text=It is a circle.")


def test_closing_the_page_ends_its_answer(browser, address, long_answers):
    with page_at(browser, address) as page:
        drop(page, CLIP)
        show_frames(page)
        ask(page, CIRCLE[1])
        page.wait_for_selector(f"#chat >> text={CIRCLE[2]}")
    assert long_answers[0].is_over()
    assert long_answers[0].streamer.num_tokens < 400


def test_settings_change_the_frames(browser, address):
    with page_at(browser, address) as page:
        page.click("text=red circle moves left")
        show_frames(page)
        page.click("text=Settings")
        page.fill("#num_frames input[type=number]", "3")
        page.press("#num_frames input[type=number]", "Tab")
        show_frames(page, 3)
        assert "3 of 75 frames" in page.inner_text("#frames")


def test_a_new_chat_forgets_the_old_one(browser, address):
    with page_at(browser, address) as page:
        page.click("text=blue star then red triangle")
        show_frames(page)
        page.click("#ask")
        page.wait_for_selector("#chat >> text=The blue star appears first.")
        page.click("#anew")
        page.wait_for_selector("#chat >> text=The blue star appears first.", state="detached")
        ask(page, "What appears last?")
        page.wait_for_selector("#chat >> text=The red triangle appears last.")


def test_a_link_to_this_machine_is_refused_in_a_sentence(browser, address):
    with page_at(browser, address) as page:
        page.fill("#address input, #address textarea", f"{address}/clip.mp4")
        page.click("#fetch")
        page.wait_for_selector("#said .problem >> text=Could not read the video")


def test_a_video_is_recorded(browser, address):
    with page_at(browser, address) as page:
        page.evaluate(COUNTING_PIECES)
        page.click("#video [aria-label='Capture from camera']")
        page.click("#video >> text=Click to Access Webcam")
        page.wait_for_function("document.querySelector('#video video')?.currentTime > 1")  # it shows the camera
        page.click("#video [aria-label='start recording']")
        page.wait_for_function("window.piecesRecorded >= 5")
        page.click("#video button:has-text('Stop')")
        page.wait_for_selector("#frames img, #said .problem")
        assert re.search(r"\d of \d+ frames", page.inner_text("#frames"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all(browser, address, scheme):
    with page_at(browser, address, viewport=PHONE, color_scheme=scheme, is_mobile=True, has_touch=True) as page:
        page.tap("text=green triangle moves right")
        show_frames(page)
        page.tap("#ask")
        page.wait_for_selector("#chat >> text=A green triangle.")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
        assert (brightness < 64) == (scheme == "dark")
        text = page.evaluate("getComputedStyle(document.querySelector('#frames figcaption')).fontSize")
        assert float(text.removesuffix("px")) >= 12
