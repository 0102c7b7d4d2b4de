"""The app as a visitor sees it, in a real browser."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from stt.results import Result
from tests.ui_fixtures import moving_dot, served

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
    """The open app as a new visitor finds it, and a list that fills with whatever a page should not do."""
    page = chromium.new_context(viewport={"width": 1280, "height": 800}).new_page()
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" and not is_farewell(m.text) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if is_foreign(r.url, running.url) else None)
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(running.url)
    page.wait_for_selector("#predict")
    page.wait_for_timeout(300)  # until remembered settings are back
    return page, complaints


def is_farewell(text: str) -> bool:
    """What Gradio says when a page is left while it listens to the server."""
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
    return page.get_by_label(f"number input for {label}")


def set_number(page, label: str, value: float) -> None:
    number(page, label).fill(str(value))
    page.keyboard.press("Tab")
    page.wait_for_timeout(100)


def seed_field(page):
    return page.locator("#seeds input[type=number]")


def choose_model(page, name: str) -> None:
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name=name).click()
    page.wait_for_timeout(300)


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
    """What the server keeps of the result on the stage."""
    address = page.locator(".player .all").get_attribute("href").replace("side-by-side.mp4", "")
    return httpx.get(address.rstrip("/") + ".json").json()


def at_frame(page, frame: int) -> None:
    """Puts the player on a frame, from 0; it stands there."""
    page.locator(".player .time").fill(str(frame))


def panel(page, k: int) -> np.ndarray:
    side = page.evaluate("n => document.querySelectorAll('.player .panel canvas')[n].width", k)
    return np.array(page.evaluate(PIXELS, k), np.uint8).reshape(side, side, 4)[..., :3]


def sheet(source: str, size: int) -> np.ndarray:
    """(F, T, H, W, 3) of a strip of pictures."""
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))
    rows, columns = (side // size for side in picture.shape[:2])
    return picture.reshape(rows, size, columns, size, 3).swapaxes(1, 2)


# ---- predicting ------------------------------------------------------------------------------------------


def test_an_example_becomes_futures_that_play(page):
    choose_example(page)
    set_number(page, "Futures", 3)
    set_number(page, "Frames", 5)
    predict(page)
    seed = int(seed_field(page).input_value())
    assert names(page) == [f"seed {seed + k} · temp 1" for k in range(3)]
    seen = {page.locator(".player .where").inner_text() for _ in range(12) if not page.wait_for_timeout(90)}
    assert len(seen) > 5  # it plays
    assert any(text.startswith("clip") for text in seen)
    assert any(text.endswith("of 5") and text.startswith("predicted") for text in seen)
    assert "5 frames of the clip, then 5 predicted" in page.locator(".player .facts").inner_text()
    assert "first frame after" in page.locator(".player .facts").inner_text()
    assert page.locator("#predict").is_enabled()
    assert page.locator("#stop").is_disabled()


def test_an_example_whose_result_ships_plays_at_once_and_says_so(page):
    page.locator("#examples button").nth(3).click()
    page.wait_for_selector(STATE.format("done"))
    assert page.locator(".player .status").inner_text() == "Computed beforehand"
    assert [name.partition(" · ")[0] for name in names(page)] == ["seed 7", "seed 8", "seed 9"]
    assert "first frame after" not in page.locator(".player .facts").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save seed 8 as mp4").click()
    assert download.value.suggested_filename == "tiny-seed-8.mp4"
    page.click("#any")
    page.wait_for_timeout(500)
    predict(page)


def test_every_panel_shows_the_same_moment(page):
    choose_example(page)
    set_number(page, "Futures", 3)
    set_number(page, "Frames", 4)
    predict(page)
    kept = result(page)
    clip, futures = sheet(kept["prompt"], 16), sheet(kept["strips"][0]["src"], 16)
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


def test_an_uploaded_clip_is_predicted(page, tmp_path):
    upload(page, moving_dot(tmp_path / "mine.mp4", frames=8, width=48))
    assert "clip" in page.locator(".player .clip .name").inner_text()
    predict(page)
    assert "cropped to a square" in page.locator(".player .facts").inner_text()


def test_a_chosen_seed_stays_and_a_new_one_is_drawn_otherwise(page):
    choose_example(page)
    seed_field(page).fill("123")
    page.keyboard.press("Tab")
    page.wait_for_function("!document.querySelector('#luck input[type=checkbox]').checked")
    predict(page)
    assert seed_field(page).input_value() == "123"
    page.get_by_label("New every time").check()
    predict(page)
    page.wait_for_function("document.querySelector('#seeds input[type=number]').value !== '123'")
    drawn = seed_field(page).input_value()
    page.click("#dice")
    page.wait_for_function(f"document.querySelector('#seeds input[type=number]').value !== '{drawn}'")
    assert not page.get_by_label("New every time").is_checked()


def test_stop_keeps_what_was_predicted_and_the_next_prediction_works(page, running):
    choose_example(page)
    choose_model(page, "slow")
    set_number(page, "Frames", 40)
    page.click("#predict")
    page.get_by_text(re.compile(r"frame [3-9] of 40, \d+ ms each, about \d+ s left")).wait_for()
    page.wait_for_selector('.player .future[data-kind="guessed"]')  # frames show while they come
    page.click("#stop")
    page.wait_for_selector(STATE.format("stopped"))
    page.wait_for_selector("#predict:enabled")
    predicted = int(re.search(r"after (\d+) of 40", page.locator(".player .status").inner_text())[1])
    assert 3 <= predicted < 20
    page.wait_for_timeout(700)
    kept = result(page)
    assert predicted <= kept["frames"] <= predicted + 1  # and it went no further
    set_number(page, "Frames", 2)
    predict(page)
    assert "of 2" in page.locator(".player .facts").inner_text() or names(page)


def test_closing_the_tab_stops_the_prediction(chromium, running):
    page, _ = visit(chromium, running)
    choose_example(page)
    choose_model(page, "slow")
    set_number(page, "Frames", 40)
    before = set(running.folder.rglob("run.npz"))
    page.click("#predict")
    page.get_by_text(re.compile(r"frame [2-9] of 40")).wait_for()
    page.close()
    left = wait_for(lambda: set(running.folder.rglob("run.npz")) - before)  # what there was is kept when it stops
    assert Result.load(left.pop()).futures.shape[1] < 30


def wait_for(condition, seconds: float = 10):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


def test_presets_set_the_temperature_and_idle_knobs_are_hidden(page):
    page.get_by_text("Wild", exact=True).click()
    page.wait_for_function("document.querySelector('[aria-label=\"number input for Temperature\"]').value === '1.5'")
    page.get_by_text("Advanced", exact=True).click()
    page.get_by_label("number input for Stride").wait_for()
    for knob in ("Top-k", "Top-p"):
        assert number(page, knob).count() == 0 or not number(page, knob).is_visible()


def imagine(page, place: str, what: str) -> None:
    page.get_by_label(place, exact=True).click()
    page.get_by_role("option", name=what, exact=True).click()
    page.wait_for_timeout(300)


def imagined(page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('#imagine input')].map((field) => field.value)")


def test_digits_are_imagined_and_their_settings_travel(page, running):
    wait_for(lambda: imagined(page) == [])
    choose_example(page)
    choose_model(page, "dreamer")
    wait_for(lambda: imagined(page) == ["the clip's future"])
    size = page.evaluate("document.documentElement.scrollHeight")
    assert size <= 800
    imagine(page, "Imagine", "3")
    wait_for(lambda: imagined(page) == ["3", "any digit"])
    imagine(page, "and", "7")
    page.wait_for_function("new URL(location).searchParams.get('labels') === '3,7'")
    number(page, "Prompt frames").fill("3")
    page.keyboard.press("Tab")
    page.wait_for_timeout(500)
    predict(page)
    assert all(" · 3 and 7 · temp 1" in name for name in names(page))
    assert "imagined without the clip" in page.locator(".player .facts").inner_text()
    assert result(page)["settings"]["labels"] == [3, 7]
    titles = page.locator(".player .chart figcaption span:first-child").all_inner_texts()
    assert titles == ["Futures lie apart by", "Surprise of the clip"]
    at_frame(page, 4)
    assert page.locator(".player .clip .name").inner_text() == "the clip goes on"
    address = page.url
    imagine(page, "Imagine", "the clip's future")
    wait_for(lambda: imagined(page) == ["the clip's future"])
    page.wait_for_function("new URL(location).searchParams.get('labels') === ''")
    predict(page)
    assert "imagined" not in page.locator(".player .facts").inner_text()
    page.locator(".player .thumbnail").nth(1).click()  # the result comes back, and with it its settings
    page.wait_for_function("new URL(location).searchParams.get('labels') === '3,7'")
    wait_for(lambda: imagined(page) == ["3", "7"])
    page.locator(".player .extend").first.click()  # to be continued, and not imagined once more
    page.wait_for_function("new URL(location).searchParams.get('labels') === ''")
    page.goto(address)
    wait_for(lambda: imagined(page) == ["3", "7"])


# ---- filling gaps ----------------------------------------------------------------------------------------


def in_between(page):
    return page.get_by_label("In between")


def test_a_gap_is_filled_and_shown_between_the_frames_around_it(page, running, tmp_path):
    assert in_between(page).count() == 0
    upload(page, moving_dot(tmp_path / "long.mp4", frames=9))
    choose_model(page, "filler")
    set_number(page, "Futures", 2)
    in_between(page).check()
    number(page, "Gap length").wait_for()
    page.wait_for_function("document.querySelector('[aria-label=\"number input for Gap length\"]').value === '7'")
    set_number(page, "Gap length", 3)  # of nine frames; ten would not have left one on each side
    page.wait_for_timeout(500)
    set_number(page, "Gap after", 4)
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollHeight") <= 800
    predict(page)
    kept = result(page)
    before, ending = sheet(kept["prompt"], 16)[0], sheet(kept["ending"], 16)[0]
    truth, futures = sheet(kept["truth"], 16)[0], sheet(kept["strips"][0]["src"], 16)
    assert (len(before), futures.shape[:2], len(ending)) == (3, (2, 3), 2)
    for k, future in enumerate((truth, *futures)):
        for frame, expected in enumerate((*before, *future, *ending)):
            at_frame(page, frame)
            np.testing.assert_array_equal(panel(page, k), expected)
    assert page.locator(".player .where").inner_text() == "after 2 of 2"
    assert page.locator(".player .future").first.get_attribute("data-kind") == "known"
    at_frame(page, 4)
    assert page.locator(".player .where").inner_text() == "filled in 2 of 3"
    assert page.locator(".player .clip .name").inner_text() == "what really happened"
    assert "3 frames before, 2 after, 3 filled in" in page.locator(".player .facts").inner_text()
    assert "blended" in page.locator(".player .curves").inner_text()
    assert "between=true" in page.url
    address = page.url
    page.locator(".player .extend").first.click()  # to be continued, and not filled once more
    wait_for(lambda: number(page, "Prompt frames").count() and number(page, "Prompt frames").input_value() == "8")
    assert not in_between(page).is_checked()
    page.locator(".player .thumbnail").first.click()  # the result comes back, and with it its settings
    wait_for(lambda: number(page, "Gap after").count() and number(page, "Gap after").input_value() == "4")
    assert in_between(page).is_checked()
    choose_model(page, "tiny")
    wait_for(lambda: in_between(page).count() == 0 and number(page, "Prompt frames").count())
    predict(page)
    assert not result(page)["between"]
    page.goto(address)
    wait_for(lambda: in_between(page).count() and in_between(page).is_checked())


# ---- actions ---------------------------------------------------------------------------------------------


def steer(page):
    return page.get_by_label("Steer")


def steered(page) -> dict[str, str]:
    """The sliders that are shown, by what they are called."""
    fields = page.locator(".axis input[type=number]")
    named = "fields => fields.map(f => [f.getAttribute('aria-label').replace('number input for ', ''), f.value])"
    return dict(fields.evaluate_all(named))


def test_futures_are_steered_by_sliders_that_the_keyboard_moves_and_their_settings_travel(page):
    assert steer(page).count() == 0
    choose_example(page)
    choose_model(page, "pusher")
    steer(page).wait_for()
    assert steered(page) == {}
    steer(page).check()
    wait_for(lambda: steered(page) == {"Push right": "0", "Push up": "0"})
    page.wait_for_function("new URL(location).searchParams.get('action') === '0,0'")
    page.get_by_label("range slider for Push right").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    set_number(page, "Push up", -1)
    page.wait_for_function("new URL(location).searchParams.get('action') === '0.5,-1'")
    assert steered(page) == {"Push right": "0.5", "Push up": "-1"}
    assert page.evaluate("document.documentElement.scrollHeight") <= 800
    predict(page)
    assert set(page.locator(".player .future .action").all_inner_texts()) == {"push right 0.5, push up -1"}
    assert "then 10 predicted under push right 0.5, push up -1" in page.locator(".player .facts").inner_text()
    assert result(page)["settings"]["action"] == [0.5, -1.0]
    address = page.url
    steer(page).uncheck()
    wait_for(lambda: steered(page) == {})
    page.wait_for_function("new URL(location).searchParams.get('action') === ''")
    predict(page)
    assert page.locator(".player .action").count() == 0 and result(page)["settings"]["action"] == []
    page.locator(".player .thumbnail").nth(1).click()  # the result comes back, and with it its settings
    wait_for(lambda: steered(page) == {"Push right": "0.5", "Push up": "-1"})
    page.locator(".player .extend").first.click()  # to be continued in the same way
    page.wait_for_function("document.querySelector('[aria-label=\"number input for Prompt frames\"]').value === '15'")
    choose_model(page, "tiny")
    wait_for(lambda: steer(page).count() == 0 and steered(page) == {})
    predict(page)
    assert result(page)["settings"]["action"] == []
    choose_model(page, "pusher")
    wait_for(lambda: steered(page) == {"Push right": "0.5", "Push up": "-1"})
    page.goto(address)
    wait_for(lambda: steered(page) == {"Push right": "0.5", "Push up": "-1"})
    assert steer(page).is_checked()


def test_a_slider_that_is_dragged_stays_where_it_is_let_go(page):
    choose_model(page, "pusher")
    steer(page).check()
    box = page.get_by_label("range slider for Push up").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.6, 0.7, 0.8, 0.9, 1.0):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    page.mouse.up()
    page.wait_for_function("new URL(location).searchParams.get('action') === '0,1'")
    page.wait_for_timeout(300)
    assert steered(page) == {"Push right": "0", "Push up": "1"}


# ---- using results ---------------------------------------------------------------------------------------


def test_a_future_becomes_the_next_prompt(page):
    choose_example(page)
    set_number(page, "Frames", 4)
    predict(page)
    shown = names(page)
    page.locator(".player .extend").nth(1).click()
    page.wait_for_selector(STATE.format("ready"))
    page.wait_for_function("document.querySelector('[aria-label=\"number input for Prompt frames\"]').value === '9'")
    predict(page)
    extended = result(page)
    assert extended["settings"]["prompt_frames"] == 9
    assert shown[1].partition(" · ")[0].replace(" ", "-") in extended["report"]["clip"]["name"]


def test_a_dropped_result_brings_its_settings_and_its_clip_back(page):
    choose_example(page, 1)
    set_number(page, "Futures", 2)
    set_number(page, "Frames", 3)
    set_number(page, "Temperature", 0.7)
    seed_field(page).fill("77")
    page.keyboard.press("Tab")
    page.wait_for_timeout(300)
    predict(page)
    first = result(page)
    video = page.locator(".player .all").get_attribute("href")
    choose_example(page, 0)
    for label, value in (("Futures", 4), ("Frames", 9), ("Temperature", 1.5)):
        set_number(page, label, value)
    page.evaluate(DROP, [video, "result.mp4"])
    page.wait_for_function("document.querySelector('[aria-label=\"number input for Frames\"]').value === '3'")
    page.wait_for_timeout(500)
    assert [number(page, label).input_value() for label in ("Futures", "Temperature")] == ["2", "0.7"]
    assert seed_field(page).input_value() == "77"
    predict(page)
    again = result(page)
    assert again["strips"] == first["strips"]
    assert again["id"] != first["id"]


def test_what_really_followed_is_shown_and_plotted(page, tmp_path):
    upload(page, moving_dot(tmp_path / "long.mp4", frames=9))
    assert number(page, "Prompt frames").input_value() == "6"  # the model looks back on six
    set_number(page, "Prompt frames", 5)
    page.wait_for_timeout(500)
    set_number(page, "Frames", 3)
    predict(page)
    titles = page.locator(".player .chart figcaption span:first-child").all_inner_texts()
    assert {"Error to what happened", "Likeness to it (SSIM)"} <= set(titles)
    error = page.locator(".player .chart").nth(titles.index("Error to what happened"))
    assert error.locator("polyline.faint").count() == 4
    assert error.locator("polyline.copy").count() == 1
    at_frame(page, 6)
    assert page.locator(".player .clip .name").inner_text() == "what really happened"
    assert re.search(r"mean [\d.]+ %.*held still [\d.]+ %", error.inner_text(), flags=re.S)


def test_overlays_colour_where_futures_differ_and_where_the_clip_surprises(page):
    choose_example(page)
    predict(page)
    at_frame(page, 8)
    plain = [panel(page, k) for k in (0, 1)]
    page.get_by_label("Overlay").select_option("spread")
    assert (panel(page, 1) != plain[1]).any()
    np.testing.assert_array_equal(panel(page, 0), plain[0])
    at_frame(page, 3)
    plain = panel(page, 0)
    page.get_by_label("Overlay").select_option("surprise")
    assert (panel(page, 0) != plain).any()


def test_this_visits_results_come_back_without_computing_even_after_a_reload(page):
    choose_example(page)
    predict(page)
    first, seed = names(page), seed_field(page).input_value()
    predict(page)
    assert names(page) != first
    page.locator(".player .thumbnail").nth(1).click()
    page.wait_for_function(f"document.querySelector('#seeds input[type=number]').value === '{seed}'")
    assert names(page) == first
    page.reload()
    page.locator(".player .thumbnail").nth(1).click()
    page.wait_for_selector(STATE.format("done"))
    assert names(page) == first


def test_kept_futures_play_beside_the_next_ones(page):
    choose_example(page)
    set_number(page, "Futures", 2)
    predict(page)
    kept = names(page)[1]
    page.locator(".player .keep").nth(1).click()
    predict(page)
    assert names(page)[2] == kept
    choose_model(page, "slow")
    set_number(page, "Frames", 1)
    predict(page)
    assert names(page)[2] == f"{kept} · tiny"  # beside those of another model it says whose it is
    page.locator(".player .kept .keep").click()
    assert len(names(page)) == 2


def test_videos_can_be_saved(page):
    choose_example(page)
    set_number(page, "Futures", 1)
    predict(page)
    for link, ending in (("Save seed", "mp4"), ("Save all (mp4)", "mp4")):
        with page.expect_download() as download:
            page.get_by_role("link", name=link).first.click()
        assert download.value.suggested_filename.endswith(ending)
        assert os.path.getsize(download.value.path()) > 500


# ---- settings that travel --------------------------------------------------------------------------------


def test_the_address_holds_the_settings_and_opens_with_them(page, running):
    set_number(page, "Frames", 13)
    set_number(page, "Temperature", 0.6)
    page.wait_for_function("location.search.includes('frames=13') && location.search.includes('temperature=0.6')")
    page.goto(f"{running.url}?frames=7&temperature=0.3&seed=42&clip=example-1&prompt_frames=3&model=nobody")
    page.wait_for_selector(STATE.format("ready"))
    assert [number(page, label).input_value() for label in ("Frames", "Temperature")] == ["7", "0.3"]
    assert number(page, "Prompt frames").input_value() == "3"
    assert seed_field(page).input_value() == "42"
    assert not page.get_by_label("New every time").is_checked()


def test_settings_typed_in_quick_succession_all_stay(page):
    for label, value in (("Frames", 40), ("Futures", 8), ("Temperature", 0.2)):
        number(page, label).fill(str(value))
        page.keyboard.press("Tab")
    page.wait_for_timeout(1000)
    assert [number(page, label).input_value() for label in ("Frames", "Futures", "Temperature")] == ["40", "8", "0.2"]


def test_the_browser_remembers_the_last_settings(page, running):
    set_number(page, "Futures", 6)
    page.wait_for_timeout(500)
    page.goto(running.url)
    page.wait_for_selector("#predict")
    page.wait_for_function("document.querySelector('[aria-label=\"number input for Futures\"]')?.value === '6'")


# ---- trouble ---------------------------------------------------------------------------------------------


def test_predict_without_a_clip_asks_for_one_and_can_be_pressed_again(page):
    page.click("#predict")
    page.get_by_text("Choose an example or upload a clip first.").wait_for()
    page.wait_for_selector("#predict:enabled")


def test_an_unreadable_upload_is_explained_at_once(page):
    upload = {"name": "text.mp4", "mimeType": "video/mp4", "buffer": b"this is no video " * 50}
    page.set_input_files("#clip input[type=file]", upload)
    page.get_by_text("The file is ").first.wait_for()


def test_two_visitors_at_once_get_their_own_results_and_the_second_sees_its_place(chromium, running):
    (one, wrong), (two, amiss) = visit(chromium, running), visit(chromium, running)
    for page, seed, example in ((one, 100, 0), (two, 200, 2)):
        choose_example(page, example)
        choose_model(page, "slow")
        set_number(page, "Frames", 8)
        seed_field(page).fill(str(seed))
        page.keyboard.press("Tab")
        page.wait_for_timeout(300)
    one.click("#predict")
    one.wait_for_selector(STATE.format("running"))
    two.click("#predict")
    two.get_by_text(re.compile("queue: ", re.I)).first.wait_for()
    for page, seed in ((one, 100), (two, 200)):
        page.wait_for_selector(STATE.format("done"))
        assert names(page) == [f"seed {seed + k} · temp 1" for k in range(4)]
    assert result(one)["prompt"] != result(two)["prompt"]
    one.close(), two.close()
    assert wrong == amiss == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_nothing_scrolls_sideways_and_a_desktop_needs_no_scrolling(page, running, theme, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.goto(f"{running.url}?__theme={theme}")
    page.wait_for_selector("#predict")
    page.wait_for_timeout(300)
    choose_example(page)
    set_number(page, "Futures", 6)
    predict(page)
    size = page.evaluate("(({scrollWidth, scrollHeight}) => [scrollWidth, scrollHeight])(document.documentElement)")
    assert size[0] <= width
    bright = page.evaluate(
        "getComputedStyle(document.querySelector('gradio-app')).backgroundColor.match(/\\d+/g).map(Number)[0]"
    )
    assert (bright > 128) == (theme == "light")
    if width == 1280:
        assert size[1] <= height + 1
        for part in ("#clip", "#predict", ".player .stage", ".player .bar"):
            box = page.locator(part).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= height
