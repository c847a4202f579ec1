"""The site's search finds things, from files on the disk and over HTTP, and nothing is loaded from elsewhere.

It takes the site (`python docs/build.py`), playwright and Chromium; `.ci/engines web` runs it.
"""

import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from tests.local_server import local_server


SITE = Path(__file__).parents[1] / "site"
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright; run by .ci/engines web")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None or not SITE.is_dir():
    pytest.skip("needs chromium and the site; run by .ci/engines web", allow_module_level=True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(params=["files", "HTTP"])
def address(request):
    if request.param == "files":
        yield SITE.as_uri()
        return
    with local_server(partial(Quiet, directory=SITE)) as served:
        yield served


def test_search_finds_a_class_and_asks_nobody_else(address):
    asked, errors = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/guides/serving.html")
        page.click("button.md-search__button")
        page.fill("input[aria-label=Search]", "slow_frame_stride")
        page.wait_for_selector("a[href*='api/LlavaNextVideoProcessor.html']:has-text('slow_frame_stride')")
        browser.close()
    assert errors == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
