"""Take the screenshots of the page in the browser: `python docs/pictures/screenshots/take.py`, from the root of the
repository. It takes Gradio, playwright and Chromium, as `.ci/engines web` does.
"""

import sys
from io import BytesIO
from pathlib import Path
from shutil import which

from PIL import Image
from playwright.sync_api import Browser, sync_playwright


FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER.parents[2]))
from tests.serving.running_page import showing_page  # noqa: E402


SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 960}},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True},
}
QUESTIONS = ("Which shape appears first?", "What happens in the video?")
PATIENCE = 120_000  # milliseconds


def take(browser: Browser, address: str, screen: str, scheme: str) -> Image.Image:
    """The page after two questions."""
    context = browser.new_context(**SCREENS[screen], color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    page.click("text=blue star then red triangle")
    page.wait_for_selector("#frames img")
    for number, question in enumerate(QUESTIONS, start=1):
        page.fill("#question textarea", question)
        page.click("#ask")
        page.wait_for_function(f"document.querySelectorAll('#chat .bot.message').length == {number}")
        page.wait_for_selector(f"#said >> text={'encoded before' if number > 1 else 'encoded in'}")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(1000)  # for the video, which comes to rest
    picture = Image.open(BytesIO(page.screenshot(full_page=True)))
    context.close()
    return picture


def main():
    with showing_page() as port, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        for screen in SCREENS:
            for scheme in ("light", "dark"):
                picture = take(browser, f"http://127.0.0.1:{port}", screen, scheme)
                picture.save(FOLDER / f"{screen}_{scheme}.webp", quality=80, method=6)
        browser.close()


if __name__ == "__main__":
    main()
