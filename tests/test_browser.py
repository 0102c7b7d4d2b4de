"""The app as a visitor sees it, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import time

import httpx
import numpy as np
import pytest

from stt.results import Result
from tests.page_fixtures import sheet
from tests.ui_fixtures import moving_dot, served
from tests.video_fixtures import make

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")

STATE = ".player[data-state={}]"
PIXELS = """n => {
  const canvas = document.querySelectorAll('.player .panel canvas')[n];
  return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
}"""
DROP = """async ([url, name]) => {
  const blob = await (await fetch(url)).blob(), files = new DataTransfer();
  files.items.add(new File([blob], name, {type: 'video/mp4'}));
  document.querySelector('header').dispatchEvent(
    new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true}));
}"""

DROP_BYTES = """([bytes, name]) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(bytes)], name));
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
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("app")) as app:
        yield app


@pytest.fixture
def page(chromium, running):
    page, complaints = visit(chromium, running)
    yield page
    page.close()
    assert complaints == []


def visit(chromium, running):
    """The open app of a new visitor, and a list of errors: messages of the console, failed and foreign requests."""
    page = chromium.new_context(viewport={"width": 1280, "height": 800}).new_page()
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" and not is_goodbye(m.text) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if is_foreign(r.url, running.url) else None)
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(running.url)
    page.wait_for_selector("#predict")
    page.wait_for_timeout(200)  # until remembered settings are back
    return page, complaints


def is_goodbye(text: str) -> bool:
    """What Gradio logs when a page closes while it listens to the server."""
    return any(f in text for f in ("BodyStreamBuffer was aborted", "signal is aborted", "Connection errored out"))


def is_foreign(url: str, own: str) -> bool:
    return not url.startswith((own, "data:", "blob:"))


def choose_example(page, number: int = 0) -> None:
    page.locator("#examples button").nth(number).click()
    page.wait_for_selector(STATE.format("ready"))


def upload(page, path) -> None:
    page.set_input_files("#clip input[type=file]", path)
    page.wait_for_selector(STATE.format("ready"))


def number(page, label: str):
    return page.get_by_label(f"number input for {label}", exact=True)


def set_number(page, label: str, value: float) -> None:
    number(page, label).fill(str(value))
    page.keyboard.press("Tab")
    page.wait_for_timeout(100)


def seed_field(page):
    return page.locator("#seeds input[type=number]")


def choose_model(page, name: str) -> None:
    choose(page, "Model", name)


def predict(page) -> None:
    before = page.locator(".player .all").get_attribute("href")
    page.click("#predict")
    page.wait_for_function(
        "old => document.querySelector('.player').dataset.state === 'done'"
        " && document.querySelector('.player .all').getAttribute('href') !== old",
        arg=before,
    )
    page.wait_for_selector("#predict:enabled")


def names(page) -> list[str]:
    return page.locator(".player .future .name").all_inner_texts()


def result(page) -> dict:
    """The server's value of the result that the player shows."""
    address = page.locator(".player .all").get_attribute("href").replace("side-by-side.mp4", "")
    return httpx.get(address.rstrip("/") + ".json").json()


def at_frame(page, frame: int) -> None:
    """Stops the player at a frame, from 0."""
    page.locator(".player .time").fill(str(frame))


def panel(page, k: int) -> np.ndarray:
    side = page.evaluate("n => document.querySelectorAll('.player .panel canvas')[n].width", k)
    return np.array(page.evaluate(PIXELS, k), np.uint8).reshape(side, side, 4)[..., :3]


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()
    page.wait_for_timeout(300)


def value_of(page, label: str) -> str | None:
    field = number(page, label)
    return field.input_value() if field.count() else None


def wait_for(condition, seconds: float = 10):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


def wait_for_address(page, name: str, value: str) -> None:
    page.wait_for_function(f"new URL(location).searchParams.get('{name}') === '{value}'")


def set_seed(page, seed: int) -> None:
    seed_field(page).fill(str(seed))
    page.keyboard.press("Tab")
    page.wait_for_function("!document.querySelector('#luck input[type=checkbox]').checked")


def scroll_height(page) -> int:
    return page.evaluate("document.documentElement.scrollHeight")


# ---- predicting ------------------------------------------------------------------------------------------


def test_an_example_becomes_futures_that_play_in_step(page):
    choose_example(page)
    set_number(page, "Futures", 3)
    set_number(page, "Frames", 4)
    predict(page)
    seed = int(seed_field(page).input_value())
    assert names(page) == [f"seed {seed + k} · temp 1" for k in range(3)]
    texts = {page.locator(".player .where").inner_text() for _ in range(12) if not page.wait_for_timeout(90)}
    assert len(texts) > 5  # it plays
    assert any(text.startswith("clip") for text in texts)
    assert any(text.endswith("of 4") and text.startswith("predicted") for text in texts)
    facts = page.locator(".player .facts").inner_text()
    assert "5 frames of the clip, then 4 predicted" in facts and "first frame after" in facts
    assert page.locator("#predict").is_enabled() and page.locator("#stop").is_disabled()

    value = result(page)
    clip, futures = sheet(value["context"]), sheet(value["strips"][0]["src"])
    assert futures.shape == (3, 4, 16, 16, 3)
    for frame in (0, 3, 5, 8):
        at_frame(page, frame)
        for k in range(3):
            expected = clip[0, frame] if frame < 5 else futures[k, frame - 5]
            np.testing.assert_array_equal(panel(page, k + 1), expected)
    at_frame(page, 4)
    np.testing.assert_array_equal(panel(page, 0), clip[0, 4])
    page.keyboard.press("ArrowRight")
    np.testing.assert_array_equal(panel(page, 2), futures[1, 0])
    page.keyboard.press("ArrowLeft")
    np.testing.assert_array_equal(panel(page, 2), clip[0, 4])

    at_frame(page, 8)
    plain = [panel(page, k) for k in (0, 1)]
    page.get_by_label("Overlay").select_option("spread")
    assert (panel(page, 1) != plain[1]).any()
    np.testing.assert_array_equal(panel(page, 0), plain[0])
    at_frame(page, 3)
    plain = panel(page, 0)
    page.get_by_label("Overlay").select_option("surprise")
    assert (panel(page, 0) != plain).any()

    for link in ("Save seed", "Save all (mp4)"):
        with page.expect_download() as download:
            page.get_by_role("link", name=link).first.click()
        assert download.value.suggested_filename.endswith("mp4")
        assert os.path.getsize(download.value.path()) > 500


def test_a_shipped_result_plays_at_once_and_says_so(page):
    page.locator("#examples button").nth(3).click()
    page.wait_for_selector(STATE.format("done"))
    assert page.locator(".player .status").inner_text() == "Computed in advance"
    assert [name.partition(" · ")[0] for name in names(page)] == ["seed 7", "seed 8", "seed 9"]
    assert "first frame after" not in page.locator(".player .facts").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save seed 8 as mp4").click()
    assert download.value.suggested_filename == "tiny-seed-8.mp4"
    page.click("#any")
    page.wait_for_timeout(500)
    predict(page)


def test_an_uploaded_clip_is_compared_with_what_really_followed(page, tmp_path):
    upload(page, moving_dot(tmp_path / "mine.mp4", frames=9, width=48))
    assert value_of(page, "Prompt frames") == "6"  # the model looks back on six
    set_number(page, "Prompt frames", 5)
    page.wait_for_timeout(500)
    set_number(page, "Frames", 3)
    predict(page)
    assert "cropped to a square" in page.locator(".player .facts").inner_text()
    titles = page.locator(".player .chart figcaption span:first-child").all_inner_texts()
    assert {"Error", "Similarity (SSIM)"} <= set(titles)
    error = page.locator(".player .chart").nth(titles.index("Error"))
    assert error.locator("polyline.faint").count() == 4 and error.locator("polyline.copy").count() == 1
    at_frame(page, 6)
    assert page.locator(".player .clip .name").inner_text() == "what really happened"
    assert re.search(r"mean [\d.]+ %.*last frame [\d.]+ %", error.inner_text(), flags=re.S)


def test_settings_follow_each_other_and_a_chosen_seed_stays(page):
    for label, value in (("Frames", 40), ("Futures", 8), ("Temperature", 0.2)):  # in quick succession
        number(page, label).fill(str(value))
        page.keyboard.press("Tab")
    page.wait_for_timeout(1000)
    assert [value_of(page, label) for label in ("Frames", "Futures", "Temperature")] == ["40", "8", "0.2"]
    page.get_by_text("High", exact=True).click()
    wait_for(lambda: value_of(page, "Temperature") == "1.5")
    page.get_by_text("Advanced", exact=True).click()
    number(page, "Stride").wait_for()
    for label in ("Top-k", "Top-p"):  # which the model does not use
        assert number(page, label).count() == 0 or not number(page, label).is_visible()

    choose_example(page)
    set_number(page, "Frames", 2)
    set_seed(page, 123)
    predict(page)
    assert seed_field(page).input_value() == "123"
    page.get_by_label("New every time").check()
    predict(page)
    random = wait_for(lambda: (seed := seed_field(page).input_value()) != "123" and seed)
    page.click("#dice")
    wait_for(lambda: seed_field(page).input_value() != random)
    assert not page.get_by_label("New every time").is_checked()


def test_stop_keeps_the_frames_so_far_and_closing_the_tab_stops_too(chromium, running):
    page, complaints = visit(chromium, running)
    choose_example(page)
    choose_model(page, "slow")
    set_number(page, "Frames", 40)
    page.click("#predict")
    page.get_by_text(re.compile(r"frame [3-9] of 40, \d+ ms each, about \d+ s left")).wait_for()
    page.wait_for_selector('.player .future[data-kind="future"]')  # frames show while they come
    page.click("#stop")
    page.wait_for_selector(STATE.format("stopped"))
    page.wait_for_selector("#predict:enabled")
    predicted = int(re.search(r"after (\d+) of 40", page.locator(".player .status").inner_text())[1])
    assert 3 <= predicted < 20
    page.wait_for_timeout(700)
    assert predicted <= result(page)["frames"] <= predicted + 1  # and it went no further
    assert complaints == []
    before = set(running.folder.rglob("result.npz"))
    page.click("#predict")
    page.get_by_text(re.compile(r"frame [2-9] of 40")).wait_for()
    page.close()
    saved = wait_for(lambda: set(running.folder.rglob("result.npz")) - before)  # saved when it stops
    assert Result.load(saved.pop()).futures.shape[1] < 30


# ---- labels, gaps, actions -------------------------------------------------------------------------------


def labels(page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('#imagine input')].map((field) => field.value)")


def test_digits_are_imagined_and_their_settings_travel(page):
    wait_for(lambda: labels(page) == [])
    choose_example(page)
    choose_model(page, "classes")
    wait_for(lambda: labels(page) == ["continue the clip"])
    assert scroll_height(page) <= 800
    choose(page, "Imagine", "3")
    wait_for(lambda: labels(page) == ["3", "any digit"])
    choose(page, "and", "7")
    wait_for_address(page, "labels", "3,7")
    set_number(page, "Prompt frames", 3)
    page.wait_for_timeout(500)
    predict(page)
    assert all(" · 3 and 7 · temp 1" in name for name in names(page))
    assert "imagined these futures without the clip" in page.locator(".player .facts").inner_text()
    assert result(page)["settings"]["labels"] == [3, 7]
    titles = page.locator(".player .chart figcaption span:first-child").all_inner_texts()
    assert titles == ["Spread", "Surprise"]
    at_frame(page, 4)
    assert page.locator(".player .clip .name").inner_text() == "the clip goes on"
    address = page.url
    choose(page, "Imagine", "continue the clip")
    wait_for(lambda: labels(page) == ["continue the clip"])
    wait_for_address(page, "labels", "")
    predict(page)
    assert "imagined" not in page.locator(".player .facts").inner_text()
    page.locator(".player .thumbnail").nth(1).click()  # an earlier result brings its settings
    wait_for_address(page, "labels", "3,7")
    wait_for(lambda: labels(page) == ["3", "7"])
    page.locator(".player .extend").first.click()  # an extended future is continued, not imagined
    wait_for_address(page, "labels", "")
    page.goto(address)
    wait_for(lambda: labels(page) == ["3", "7"])


def test_a_gap_is_filled_and_shown_between_the_frames_around_it(page, tmp_path):
    gap = page.get_by_label("Fill a gap")
    assert gap.count() == 0
    upload(page, moving_dot(tmp_path / "long.mp4", frames=9))
    choose_model(page, "gaps")
    set_number(page, "Futures", 2)
    gap.check()
    wait_for(lambda: value_of(page, "Gap length") == "7")  # of nine frames; ten leave none on each side
    set_number(page, "Gap length", 3)
    page.wait_for_timeout(500)
    set_number(page, "Gap after", 4)
    page.wait_for_timeout(500)
    assert scroll_height(page) <= 800
    predict(page)
    value = result(page)
    before, ending = sheet(value["context"])[0], sheet(value["ending"])[0]
    truth, futures = sheet(value["truth"])[0], sheet(value["strips"][0]["src"])
    assert (len(before), futures.shape[:2], len(ending)) == (3, (2, 3), 2)
    for k, future in enumerate((truth, *futures)):
        for frame, expected in enumerate((*before, *future, *ending)):
            at_frame(page, frame)
            np.testing.assert_array_equal(panel(page, k), expected)
    assert page.locator(".player .where").inner_text() == "after 2 of 2"
    assert page.locator(".player .future").first.get_attribute("data-kind") == "clip"
    at_frame(page, 4)
    assert page.locator(".player .where").inner_text() == "filled in 2 of 3"
    assert page.locator(".player .clip .name").inner_text() == "what really happened"
    assert "3 frames before, 2 after, 3 filled in" in page.locator(".player .facts").inner_text()
    assert "ends blended" in page.locator(".player .curves").inner_text()
    assert "between=true" in page.url
    address = page.url
    page.locator(".player .extend").first.click()  # an extended future is continued
    wait_for(lambda: value_of(page, "Prompt frames") == "8")
    assert not gap.is_checked()
    page.locator(".player .thumbnail").first.click()  # an earlier result brings its settings
    wait_for(lambda: value_of(page, "Gap after") == "4")
    assert gap.is_checked()
    choose_model(page, "tiny")
    wait_for(lambda: gap.count() == 0 and number(page, "Prompt frames").count())
    predict(page)
    assert not result(page)["between"]
    page.goto(address)
    wait_for(lambda: gap.count() and gap.is_checked())


def sliders(page) -> dict[str, str]:
    """The visible sliders of the action: name -> value."""
    fields = page.locator(".axis input[type=number]")
    script = "fields => fields.map(f => [f.getAttribute('aria-label').replace('number input for ', ''), f.value])"
    return dict(fields.evaluate_all(script))


def test_sliders_and_the_keyboard_steer_the_futures_and_their_settings_travel(page):
    steer = page.get_by_label("Steer")
    assert steer.count() == 0
    choose_example(page)
    choose_model(page, "actions")
    steer.wait_for()
    assert sliders(page) == {}
    steer.check()
    wait_for(lambda: sliders(page) == {"Push right": "0", "Push up": "0"})
    wait_for_address(page, "action", "0,0")
    page.get_by_label("range slider for Push right").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    box = page.get_by_label("range slider for Push up").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.4, 0.3, 0.2, 0.1, 0.0):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    page.mouse.up()
    wait_for_address(page, "action", "0.5,-1")
    assert sliders(page) == {"Push right": "0.5", "Push up": "-1"}
    assert scroll_height(page) <= 800
    predict(page)
    assert set(page.locator(".player .future .action").all_inner_texts()) == {"push right 0.5, push up -1"}
    assert "then 10 predicted with push right 0.5, push up -1" in page.locator(".player .facts").inner_text()
    assert result(page)["settings"]["action"] == [0.5, -1.0]
    address = page.url
    steer.uncheck()
    wait_for(lambda: sliders(page) == {})
    wait_for_address(page, "action", "")
    predict(page)
    assert page.locator(".player .action").count() == 0 and result(page)["settings"]["action"] == []
    page.locator(".player .thumbnail").nth(1).click()  # an earlier result brings its settings
    wait_for(lambda: sliders(page) == {"Push right": "0.5", "Push up": "-1"})
    choose_model(page, "tiny")
    wait_for(lambda: steer.count() == 0 and sliders(page) == {})
    predict(page)
    assert result(page)["settings"]["action"] == []
    choose_model(page, "actions")
    wait_for(lambda: sliders(page) == {"Push right": "0.5", "Push up": "-1"})
    page.goto(address)
    wait_for(lambda: sliders(page) == {"Push right": "0.5", "Push up": "-1"})
    assert steer.is_checked()


# ---- results ---------------------------------------------------------------------------------------------


def test_results_come_back_from_the_visit_from_a_file_and_as_the_next_prompt(page):
    choose_example(page, 1)
    set_number(page, "Futures", 2)
    set_number(page, "Frames", 3)
    set_number(page, "Temperature", 0.7)
    set_seed(page, 77)
    predict(page)
    first, video = result(page), page.locator(".player .all").get_attribute("href")
    shown = names(page)

    choose_example(page, 0)
    for label, value in (("Futures", 4), ("Frames", 9), ("Temperature", 1.5)):
        set_number(page, label, value)
    page.evaluate(DROP, [video, "result.mp4"])
    wait_for(lambda: value_of(page, "Frames") == "3")
    page.wait_for_timeout(500)
    assert [value_of(page, label) for label in ("Futures", "Temperature")] == ["2", "0.7"]
    assert seed_field(page).input_value() == "77"
    predict(page)
    again = result(page)
    assert again["strips"] == first["strips"] and again["id"] != first["id"]

    page.locator(".player .pin").nth(1).click()
    set_seed(page, 99)
    predict(page)
    assert names(page)[2] == shown[1]
    choose_model(page, "slow")
    set_number(page, "Frames", 1)
    predict(page)
    assert names(page)[2] == f"{shown[1]} · tiny"  # beside futures of another model it names its own
    page.locator(".player .pinned .pin").click()
    assert len(names(page)) == 2

    page.reload()
    page.locator(".player .thumbnail").nth(2).click()
    page.wait_for_selector(STATE.format("done"))
    assert names(page) == shown
    wait_for(lambda: seed_field(page).input_value() == "77" and value_of(page, "Frames") == "3")
    page.wait_for_timeout(500)
    page.locator(".player .extend").nth(1).click()
    page.wait_for_selector(STATE.format("ready"))
    wait_for(lambda: value_of(page, "Prompt frames") == "8")
    predict(page)
    extended = result(page)
    assert extended["settings"]["prompt_frames"] == 8 and "seed-78" in extended["report"]["clip"]["name"]


def test_the_address_and_the_browser_remember_the_settings(page, running):
    set_number(page, "Frames", 13)
    set_number(page, "Temperature", 0.6)
    wait_for_address(page, "frames", "13")
    wait_for_address(page, "temperature", "0.6")
    page.wait_for_timeout(300)
    page.goto(running.url)
    page.wait_for_selector("#predict")
    wait_for(lambda: value_of(page, "Frames") == "13")
    page.goto(f"{running.url}?frames=7&temperature=0.3&seed=42&clip=example-1&prompt_frames=3&model=nobody")
    page.wait_for_selector(STATE.format("ready"))
    assert [value_of(page, label) for label in ("Frames", "Temperature", "Prompt frames")] == ["7", "0.3", "3"]
    assert seed_field(page).input_value() == "42"
    assert not page.get_by_label("New every time").is_checked()


# ---- what the browser cannot play ------------------------------------------------------------------------

PREVIEW = "#clip video:not([hidden])"
STRANGE = {
    "plain.GIF": "-f gif", "IMG_0123.MOV": "-c:v libx265 -x265-params log-level=none -pix_fmt yuv420p -f mov",
    "DSC_01.AVI": "-c:v mpeg4 -vtag XVID -f avi", "show.Mkv": "-c:v mpeg4 -f matroska",
    "drive.TS": "-c:v libx264 -f mpegts",
}  # fmt: skip


def test_every_kind_of_clip_is_taken_and_previewed_whatever_the_browser_plays(chromium, running, tmp_path):
    page, _ = visit(chromium, running)
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for k, (name, options) in enumerate(STRANGE.items()):
        path = make(tmp_path / name, options, "testsrc2=s=64x48:r=10:d=1")
        if k % 2:
            page.evaluate(DROP_BYTES, [list(path.read_bytes()), name])
        else:
            page.set_input_files("#clip input[type=file]", path)
        page.wait_for_selector(STATE.format("ready"))
        page.wait_for_function(f"document.querySelector('{PREVIEW}')?.videoWidth > 0 || null", timeout=15_000)
        assert page.locator("#clip p").inner_text() == "", name
        assert page.get_by_text(re.compile("invalid file|not playable|error", re.I)).count() == 0, name
        page.get_by_label("Remove the clip").click()
        page.wait_for_selector(STATE.format("empty"))
    page.close()
    assert complaints == []


def test_the_file_dialog_does_not_hide_files_by_their_kind(page):
    accepted = page.locator("#clip input[type=file]").get_attribute("accept").split(",")
    assert {".mov", ".avi", ".mkv", ".gif", ".ts", ".mts", "video/*"} <= set(accepted)


# ---- errors, visitors, screens ---------------------------------------------------------------------------


def test_errors_are_explained_and_the_page_stays_usable(page):
    page.click("#predict")
    page.get_by_text("Choose an example or upload a clip first.").wait_for()
    page.wait_for_selector("#predict:enabled")
    bad = {"name": "text.mp4", "mimeType": "video/mp4", "buffer": b"this is no video " * 50}
    page.set_input_files("#clip input[type=file]", bad)
    page.get_by_text("The file is ").first.wait_for()


def test_two_visitors_at_once_get_their_own_results_and_the_second_sees_its_place(chromium, running):
    (one, wrong), (two, amiss) = visit(chromium, running), visit(chromium, running)
    for page, seed, example in ((one, 100, 0), (two, 200, 2)):
        choose_example(page, example)
        choose_model(page, "slow")
        set_number(page, "Frames", 6)
        set_seed(page, seed)
    one.click("#predict")
    one.wait_for_selector(STATE.format("running"))
    two.click("#predict")
    two.get_by_text(re.compile("queue: ", re.I)).first.wait_for()
    for page, seed in ((one, 100), (two, 200)):
        page.wait_for_selector(STATE.format("done"))
        assert names(page) == [f"seed {seed + k} · temp 1" for k in range(4)]
    assert result(one)["context"] != result(two)["context"]
    one.close(), two.close()
    assert wrong == amiss == []


def test_nothing_scrolls_sideways_and_a_desktop_needs_no_scrolling(page, running):
    for theme in ("light", "dark"):
        page.set_viewport_size({"width": 1280, "height": 800})
        page.goto(f"{running.url}?__theme={theme}")
        page.wait_for_selector("#predict")
        page.wait_for_timeout(200)
        choose_example(page)
        set_number(page, "Futures", 6)
        predict(page)
        bright = page.evaluate(
            "getComputedStyle(document.querySelector('gradio-app')).backgroundColor.match(/\\d+/g).map(Number)[0]"
        )
        assert (bright > 128) == (theme == "light")
        assert scroll_height(page) <= 801
        for part in ("#clip", "#predict", ".player .stage", ".player .bar"):
            box = page.locator(part).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= 800
        for width, height in ((1280, 800), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(100)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
