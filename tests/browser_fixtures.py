"""A browser, and what a visitor does with the page."""

from __future__ import annotations

import os
import shutil
import time

import httpx
import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api")

WAIT = 60  # seconds, on a machine that does other work too
STATE = ".player[data-state={}]"
PIXELS = """n => {
  const canvas = document.querySelectorAll('.player .panel canvas')[n];
  return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
}"""
DROP = """async ([source, name]) => {
  const blob = typeof source === "string" ? await (await fetch(source)).blob() : new Blob([new Uint8Array(source)]);
  const files = new DataTransfer();
  files.items.add(new File([blob], name));
  document.querySelector('header').dispatchEvent(
    new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true}));
}"""


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
def tab(chromium, running):
    """One tab for a file's tests; its complaints are errors of the console, failed and foreign requests."""
    page, complaints = new_tab(chromium, running)
    yield page, complaints
    page.context.close()


@pytest.fixture
def page(tab, running):
    """The page as a new visitor finds it."""
    page, complaints = tab
    page.goto("about:blank")
    page.context.clear_cookies()
    visit(page, running, forget=True)
    complaints.clear()
    yield page
    assert complaints == []


def new_tab(chromium, running):
    page = chromium.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(1000 * WAIT)
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" and not is_goodbye(m.text) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if is_foreign(r.url, running.url) else None)
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    return page, complaints


def visit(page, running, query: str = "", forget: bool = False) -> None:
    page.set_viewport_size({"width": 1280, "height": 800})
    if forget:
        page.goto(f"{running.url}theme.css")
        page.evaluate("localStorage.clear(); sessionStorage.clear()")
    page.goto(running.url + query)
    page.wait_for_selector("#predict")
    page.wait_for_selector("#clip video[src]", state="attached")  # until settings and clip are in place


def is_goodbye(text: str) -> bool:
    """What Gradio logs when a page closes while it listens to the server."""
    return any(f in text for f in ("BodyStreamBuffer was aborted", "signal is aborted", "Connection errored out"))


def is_foreign(url: str, own: str) -> bool:
    return not url.startswith((own, "data:", "blob:", "about:"))


def wait_for(condition, seconds: float = WAIT):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


# ---- what a visitor does ---------------------------------------------------------------------------------


def choose_example(page, number: int = 0) -> None:
    node = page.locator("#examples .example").nth(number)
    node.click()
    wait_for(lambda: node.get_attribute("aria-pressed") == "true")
    page.wait_for_timeout(200)  # until Predict waits for the example
    page.wait_for_selector("#predict:enabled")
    page.wait_for_selector(STATE.format("done"))


def upload(page, path) -> None:
    page.set_input_files("#clip input[type=file]", path)
    page.wait_for_selector(STATE.format("ready"))
    wait_for(lambda: page.locator("#examples [aria-pressed=true]").count() == 0)


def open_advanced(page) -> None:
    if not page.locator("#advanced").get_by_text("Clips that are not square").is_visible():
        page.get_by_text("Advanced", exact=True).click()
        page.get_by_text("Clips that are not square").wait_for()


def number(page, label: str):
    return page.get_by_label(f"number input for {label}", exact=True)


def value_of(page, label: str) -> str | None:
    field = number(page, label)
    return field.input_value() if field.count() else None


def set_number(page, label: str, value: float) -> None:
    number(page, label).fill(str(value))
    page.keyboard.press("Tab")
    page.wait_for_timeout(100)


def seed_field(page):
    return page.locator("#seed input[type=number]")


def set_seed(page, seed: int) -> None:
    seed_field(page).fill(str(seed))
    page.keyboard.press("Tab")
    page.wait_for_function("!document.querySelector('#dice input').checked")


def start_of(page) -> int:
    return int(page.locator("#start input").input_value())


def set_start(page, frame: int) -> None:
    page.locator("#start input").fill(str(frame))
    wait_for_address(page, "prompt_frames", str(frame))
    page.wait_for_timeout(500)


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option).click()
    page.wait_for_timeout(400)


def choose_model(page, name: str) -> None:
    page.get_by_label("Model", exact=True).select_option(name)
    wait_for_address(page, "model", name)
    page.wait_for_timeout(400)


def predict(page, button: str = "#predict") -> None:
    before = page.locator(".player .all").get_attribute("href")
    page.click(button)
    page.wait_for_function(
        "old => document.querySelector('.player').dataset.state === 'done'"
        " && document.querySelector('.player .all').getAttribute('href') !== old",
        arg=before,
    )
    page.wait_for_selector("#predict:enabled")


def at_frame(page, frame: int) -> None:
    """Stops the player at a frame, from 0."""
    page.locator(".player .time").fill(str(frame))


# ---- what a visitor sees ---------------------------------------------------------------------------------


def names(page) -> list[str]:
    return page.locator(".player .future .name").all_inner_texts()


def result(page) -> dict:
    """The server's value of the result that the player shows."""
    address = page.locator(".player .all").get_attribute("href").replace("side-by-side.mp4", "")
    return httpx.get(address.rstrip("/") + ".json").json()


def panel(page, k: int) -> np.ndarray:
    side = page.evaluate("n => document.querySelectorAll('.player .panel canvas')[n].width", k)
    return np.array(page.evaluate(PIXELS, k), np.uint8).reshape(side, side, 4)[..., :3]


def wait_for_address(page, name: str, value: str | None) -> None:
    page.wait_for_function("([name, value]) => new URL(location).searchParams.get(name) === value", arg=[name, value])


def facts(page) -> str:
    return page.locator(".player .facts").inner_text()


def height(page) -> int:
    return page.evaluate("document.documentElement.scrollHeight")


def charts(page) -> list[str]:
    return page.locator(".player .chart figcaption span:first-child").all_text_contents()
