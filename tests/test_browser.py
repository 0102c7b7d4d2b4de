"""The app as a visitor sees it, in a real browser."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.ui_fixtures import served

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")

PREDICTED = "() => Number(document.querySelector('#stage img').alt.match(/(\\d+) of 40/)?.[1])"
PLAYING = "v => v.readyState >= 2 && !v.error && !v.paused"


@pytest.fixture(scope="module")
def chromium():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        advice = "no browser: install one that plays H.264 (apt install chromium) or set CHROMIUM to its path"
        if os.environ.get("STT_REQUIRE_BROWSER"):
            pytest.fail(advice)
        pytest.skip(advice)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("app")) as app:
        yield app


@pytest.fixture
def page(chromium, running):
    """The open app; fails a test in which the page logged an error or asked another site for anything."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if is_foreign(r.url, running.url) else None)
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(running.url)
    page.wait_for_selector("#predict")
    yield page
    page.close()
    assert complaints == []


def is_foreign(url: str, own: str) -> bool:
    return not url.startswith((own, "data:", "blob:"))


def choose_example(page, number: int = 0) -> None:
    page.locator("#examples button").nth(number).click()
    page.wait_for_selector("#stage img")


def set_number(page, label: str, value: float) -> None:
    page.get_by_label(f"number input for {label}").fill(str(value))
    page.keyboard.press("Tab")


def test_an_example_becomes_videos_that_play(page):
    choose_example(page)
    set_number(page, "Futures", 3)
    set_number(page, "Frames", 5)
    page.click("#predict")
    video = page.locator("#result video")
    video.wait_for()
    page.wait_for_function(f"({PLAYING})(document.querySelector('#result video'))")
    assert video.evaluate("v => v.duration") == pytest.approx((5 + 5) / 10, abs=0.11)
    captions = page.locator("#gallery .caption-label").all_inner_texts()
    seed = int(page.locator("#seeds input[type=number]").input_value())
    assert captions == [f"seed {seed + k}" for k in range(3)]
    assert "5 frames of the clip, then 5 predicted" in page.locator("#report").inner_text()
    assert page.locator("#predict").is_enabled()
    assert page.locator("#stop").is_disabled()


def test_a_chosen_seed_stays_and_a_new_one_is_drawn_otherwise(page):
    choose_example(page)
    seed = page.locator("#seeds input[type=number]")
    page.get_by_label("New seed every time").uncheck()
    seed.fill("123")
    page.keyboard.press("Tab")
    page.click("#predict")
    page.locator("#result video").wait_for()
    assert seed.input_value() == "123"
    page.get_by_label("New seed every time").check()
    page.click("#predict")
    page.wait_for_function("document.querySelector('#seeds input[type=number]').value !== '123'")


def test_stop_ends_a_prediction_and_the_next_one_works(page, running):
    choose_example(page)
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name="slow").click()
    set_number(page, "Frames", 40)
    page.click("#predict")
    page.wait_for_function(f"({PREDICTED})() >= 2")
    page.click("#stop")
    page.wait_for_selector("#predict:enabled")
    page.wait_for_timeout(700)
    assert running.run_folders() == []
    assert page.locator("#result video").count() == 0
    set_number(page, "Frames", 2)
    page.click("#predict")
    page.locator("#result video").wait_for()


def test_predict_without_a_clip_asks_for_one_and_can_be_pressed_again(page):
    page.click("#predict")
    page.get_by_text("Choose an example or upload a clip first.").wait_for()
    page.wait_for_selector("#predict:enabled")


def test_an_unreadable_upload_is_explained_at_once(page):
    upload = {"name": "text.mp4", "mimeType": "video/mp4", "buffer": b"this is no video " * 50}
    page.set_input_files("#clip input[type=file]", upload)
    page.get_by_text("The file is ").first.wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_nothing_scrolls_sideways_and_a_desktop_needs_no_scrolling(page, running, theme, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.goto(f"{running.url}?__theme={theme}")
    page.wait_for_selector("#predict")
    choose_example(page)
    set_number(page, "Futures", 6)
    page.click("#predict")
    page.locator("#gallery .caption-label").first.wait_for()
    size = page.evaluate("(({scrollWidth, scrollHeight}) => [scrollWidth, scrollHeight])(document.documentElement)")
    assert size[0] <= width
    if width == 1280:
        assert page.locator("#predict").bounding_box()["y"] < height - 40
        assert size[1] <= height + 1
