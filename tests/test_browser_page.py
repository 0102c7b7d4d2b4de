"""The page at first sight, in a real browser: what it opens with, what it says, how it fits screens, and access."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from stt.models.stt import STT
from tests.browser_fixtures import (
    DROP,
    STATE,
    choose_example,
    choose_model,
    chromium,
    height,
    names,
    new_tab,
    number,
    open_advanced,
    page,
    predict,
    result,
    seed_field,
    set_number,
    set_seed,
    start_of,
    tab,
    upload,
    value_of,
    visit,
    wait_for,
    wait_for_address,
)
from tests.conftest import TINY, lively
from tests.ui_fixtures import any_clip_model, moving_dot, served, ship
from tests.video_fixtures import make

pytestmark = pytest.mark.browser
__all__ = ["chromium", "page", "tab"]

VISIBLE = """() => [...document.querySelectorAll('#controls :is(label, button, [data-testid=block-info])')]
  .filter(n => n.checkVisibility() && n.getBoundingClientRect().width > 0).map(n => n.innerText.trim())"""
LARGE = """() => {
  const files = new DataTransfer(), input = document.querySelector('#clip input[type=file]');
  files.items.add(new File([new Uint8Array(26e6)], 'large.mp4'));
  input.files = files.files;
  input.dispatchEvent(new Event('change'));
}"""
HOLD_CLIP = """window.addEventListener('stt-clip', (event) => window.released || event.stopImmediatePropagation());
window.say = (clip) => {
  window.released = true;
  window.dispatchEvent(new CustomEvent('stt-clip', {detail: clip}));
};"""


HOLD_OPENING = """const asked = window.fetch, held = new Promise((go) => { window.open_page = go; });
window.fetch = async (...request) => {
  const opens = window.gradio_config?.dependencies.find((one) => one.targets.some(([, name]) => name === "load"))?.id;
  const body = request[1]?.body;
  if (typeof body === "string" && JSON.parse(body).fn_index === opens) await held;
  return asked(...request);
};"""


SLOW = """const asked = window.fetch;
window.fetch = async (...request) => {
  const slow = window.gradio_config?.dependencies.filter((one) => one.backend_fn &&
    one.targets.some(([, name]) => ["choose", "new_clip", "restore"].includes(name))).map((one) => one.id);
  const body = request[1]?.body;
  const late = typeof body === "string" && slow?.includes(JSON.parse(body).fn_index);
  if (late) await new Promise((go) => setTimeout(go, 1500));
  return asked(...request);
};"""


ROWS = """() => {
  const box = document.querySelector('.player .panels').getBoundingClientRect(), rows = new Map();
  for (const panel of document.querySelectorAll('.player .panel')) {
    const { y, left, right } = panel.getBoundingClientRect();
    rows.set(y, [...(rows.get(y) || []), left, right]);
  }
  return [...rows.values()].map((row) => [row.length / 2, (row[0] + row.at(-1) - box.left - box.right) / 2]);
}"""  # pictures in each row, and how far it stands from the middle


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("app")) as app:
        yield app


def test_the_page_opens_with_an_example_that_plays_beside_its_futures(page):
    assert page.locator(".player").get_attribute("data-state") == "done"
    assert names(page) == ["seed 7", "seed 8", "seed 9"]
    texts = {page.locator(".player .where").inner_text() for _ in range(12) if not page.wait_for_timeout(90)}
    assert len(texts) > 3
    assert (value_of(page, "Frames"), value_of(page, "Futures")) == ("3", "3")  # of what is on the stage
    boxes = [page.locator(part).bounding_box() for part in ("#clip", "#predict", "#model")]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"] < boxes[1]["y"] + 60 <= boxes[2]["y"] + 20
    shown = " ".join(page.evaluate(VISIBLE))
    missing = [word for word in ("Predict", "Stop", "Model", "Futures", "Frames", "Advanced") if word not in shown]
    assert not missing, shown
    assert not any(word in shown for word in ("Seed", "Temperature", "Top-k", "Stride", "Mood"))


def test_examples_are_captioned_and_grouped_by_world_and_each_brings_its_model_and_futures(page):
    tabs = page.get_by_role("tab")
    assert tabs.all_inner_texts() == ["Dots", "Experimental"]
    assert page.locator("#examples .example").first.inner_text() == "Example 0"
    tabs.first.focus()
    page.keyboard.press("ArrowRight")
    assert tabs.nth(1).get_attribute("aria-selected") == "true"
    page.locator("#examples .model").filter(has_text="gaps").click()
    wait_for_address(page, "model", "gaps")
    page.get_by_text("Dots, as gaps sees them. Experimental").wait_for()
    tabs.first.click()
    choose_example(page, 2)
    assert result(page)["settings"]["model"] == "tiny"
    wait_for(lambda: "Dots, as tiny sees them." in page.locator("#knows").inner_text())
    choose_model(page, "classes")
    page.get_by_role("button", name="Show an example").click()
    wait_for(lambda: page.locator(".player .line").inner_text().startswith("classes"))


def test_advanced_opens_below_the_examples_which_stay_where_they_are(page):
    places = "[...document.querySelectorAll('#controls .example, #future-count')].map(n => n.getBoundingClientRect().y)"
    before = page.evaluate(places)
    open_advanced(page)
    assert page.evaluate(places) == before


def test_a_clip_that_comes_late_leaves_the_tab_open_that_the_visitor_has_opened(chromium, running):
    page, complaints = new_tab(chromium, running)
    page.add_init_script(HOLD_CLIP)
    visit(page, running)
    tabs = page.get_by_role("tab")
    tabs.nth(1).click()
    page.evaluate("say('example-0')")  # the clip with which the page opened
    assert tabs.nth(1).get_attribute("aria-selected") == "true"
    assert page.locator("#examples [aria-pressed=true]").get_attribute("data-clip") == "example-0"
    page.wait_for_timeout(1000)
    page.evaluate("say('example-1')")  # a new one opens its tab
    assert tabs.first.get_attribute("aria-selected") == "true"
    page.context.close()
    assert complaints == []


def test_a_model_without_chance_has_no_controls_of_chance(page):
    open_advanced(page)
    assert seed_field(page).is_visible() and number(page, "Temperature").is_visible()
    choose_model(page, "mean")
    wait_for(lambda: seed_field(page).count() == 0)
    assert all(number(page, label).count() == 0 for label in ("Futures", "Temperature", "Top-k"))
    assert page.locator("#dice input").count() == 0 and number(page, "Frames").is_visible()


def test_one_dice_draws_a_new_seed_for_each_prediction_and_a_typed_seed_stays(page):
    open_advanced(page)
    set_number(page, "Frames", 1)
    set_seed(page, 123)
    predict(page)
    assert seed_field(page).input_value() == "123"
    page.locator("#dice input").check()
    predict(page)
    wait_for(lambda: seed_field(page).input_value() not in ("", "123"))


def test_whoever_uploads_is_told_before_predict_whether_the_model_knows_such_clips(page, tmp_path):
    assert page.locator("#verdict .verdict").count() == 0  # an example needs no verdict
    upload(page, make(tmp_path / "pattern.mp4", source="testsrc2=s=64x64:r=10:d=2"))
    page.get_by_text("does not know such clips").wait_for()
    wait_for(lambda: re.search(r"Use \w+|own videos", page.locator("#verdict").inner_text()))
    choose_example(page, 0)
    wait_for(lambda: page.locator("#verdict .verdict").count() == 0)


def test_an_upload_that_is_not_square_shows_at_once_as_the_model_for_any_clip_sees_it(chromium, tmp_path):
    examples, models = (
        [moving_dot(tmp_path / "one.mp4")],
        {"tiny": lively(STT(TINY)).eval(), "motion": any_clip_model()},
    )
    with served(tmp_path, models, examples, ship(models, examples, tmp_path)) as running:
        page, complaints = new_tab(chromium, running)
        visit(page, running)
        size = "(({ width, height }) => [width, height])(document.querySelector('.player .panel canvas'))"
        page.set_input_files("#clip input[type=file]", moving_dot(tmp_path / "wide.mp4", frames=12, width=48))
        page.wait_for_selector(STATE.format("ready"))
        assert page.evaluate(size) == [48, 32]
        page.get_by_text("it takes whole frames, not only squares").wait_for()
        assert "motion" in page.get_by_label("Model", exact=True).input_value()
        assert page.locator("#verdict").get_by_text("Use ").count() == 0  # a model that sees less is no advice
        choose_model(page, "tiny")
        wait_for(lambda: page.evaluate(size) == [16, 16])
        page.context.close()
    assert complaints == []


def test_an_upload_made_while_the_page_opens_stays_and_is_predicted(chromium, running, tmp_path):
    page, complaints = new_tab(chromium, running)
    page.add_init_script(HOLD_OPENING)
    page.goto(running.url)
    page.wait_for_selector("#clip input[type=file]", state="attached")
    page.set_input_files("#clip input[type=file]", moving_dot(tmp_path / "mine.mp4", frames=4))
    page.get_by_text("Uploading mine.mp4").wait_for()
    page.wait_for_timeout(500)
    assert page.locator("#predict").is_disabled()  # there is no clip yet
    page.evaluate("open_page()")
    page.wait_for_selector(STATE.format("ready"))
    page.wait_for_selector("#predict:enabled")
    wait_for(lambda: page.locator("#examples [aria-pressed=true]").count() == 0)
    assert page.evaluate("document.querySelector('.player .panel').innerText") == "clip"
    predict(page)
    assert result(page)["clip"] == "mine" and result(page)["settings"]["prompt_frames"] == 4
    page.context.close()
    assert complaints == []


def test_the_last_act_wins_however_late_the_answers_to_those_before_come(chromium, running, tmp_path):
    page, complaints = new_tab(chromium, running)
    page.add_init_script(SLOW)
    visit(page, running)
    mine, other = (moving_dot(tmp_path / f"{name}.mp4", frames=4 + k) for k, name in enumerate(("mine", "other")))
    examples, marked = page.locator("#examples .example"), page.locator("#examples [aria-pressed=true]")

    def settle() -> str:
        page.wait_for_timeout(300)
        wait_for(lambda: page.evaluate("sttTurns.free().then(() => true)"))
        page.wait_for_selector("#predict:enabled")
        return page.locator(".player").get_attribute("data-state")

    settle()
    examples.nth(2).click()
    page.set_input_files("#clip input[type=file]", mine)
    assert settle() == "ready" and marked.count() == 0 and start_of(page) == 4
    predict(page)
    page.set_input_files("#clip input[type=file]", other)
    wait_for(lambda: page.evaluate("sttTurns.busy()"))  # the upload is there, its preview is on the way
    examples.nth(1).click()
    assert settle() == "done" and marked.get_attribute("data-clip") == "example-1" and start_of(page) == 5
    examples.nth(2).click()
    page.wait_for_timeout(200)
    examples.nth(3).click()
    assert settle() == "done" and marked.get_attribute("data-clip") == "example-3"
    predict(page)
    for last, clip in ((1, "mine"), (0, "example-3")):
        page.locator(".player .thumbnail").nth(1 - last).click()
        page.wait_for_timeout(200)
        page.locator(".player .thumbnail").nth(last).click()
        assert settle() == "done" and result(page)["clip"] == clip
        assert start_of(page) == (4 if clip == "mine" else 5) and marked.count() == (clip != "mine")
    page.context.close()
    assert complaints == []


TIMERS = """() => [...document.querySelectorAll('body *')].filter((n) => !n.childElementCount && n.checkVisibility()
  && /\\d\\.\\d+\\/?[\\d.]*s$/.test(n.textContent)).map((n) => n.outerHTML)"""


def test_what_the_page_waits_for_is_said_in_words_and_predict_waits_too(chromium, running, tmp_path):
    page, complaints = new_tab(chromium, running)
    page.add_init_script(SLOW)
    visit(page, running)
    busy, example = page.locator(".player .busy"), page.locator("#examples .example").nth(2)
    wait_for(lambda: page.evaluate("sttTurns.free().then(() => true)"))
    example.click()
    page.get_by_text(f"Loading “{example.inner_text()}” …").wait_for()
    page.wait_for_timeout(500)
    assert page.evaluate(TIMERS) == [] and page.locator("#predict").is_disabled()
    wait_for(lambda: busy.text_content() == "")
    page.wait_for_selector("#predict:enabled")
    page.set_input_files("#clip input[type=file]", moving_dot(tmp_path / "mine.mp4"))
    page.get_by_text("Reading the clip …").wait_for()
    assert page.evaluate(TIMERS) == [] and page.locator("#predict").is_disabled()
    page.wait_for_selector(STATE.format("ready"))
    wait_for(lambda: busy.text_content() == "")
    page.wait_for_selector("#predict:enabled")
    page.route("**/upload*", lambda route: route.abort())
    page.set_input_files("#clip input[type=file]", moving_dot(tmp_path / "lost.mp4"))
    page.wait_for_timeout(300)
    page.wait_for_selector("#predict:enabled")  # of the clip before
    page.context.close()


def test_a_bad_file_leaves_the_clip_and_says_one_thing(page, tmp_path):
    upload(page, moving_dot(tmp_path / "mine.mp4", start=3))
    source = page.locator("#clip video").get_attribute("src")
    page.set_input_files(
        "#clip input[type=file]", {"name": "bad.mp4", "mimeType": "video/mp4", "buffer": b"no video " * 50}
    )
    page.get_by_text("The file is damaged").first.wait_for()
    wait_for(lambda: page.locator("#clip video").get_attribute("src") == source)
    page.wait_for_timeout(500)
    assert page.get_by_test_id("toast-body").count() == 1
    assert page.locator(".player").get_attribute("data-state") == "ready"
    page.evaluate(LARGE)
    assert page.locator("#clip p").inner_text() == "The file is 26 MB; the limit is 25 MB."
    assert page.locator("#clip video").get_attribute("src") == source


def test_a_reload_keeps_the_clip_and_the_address_names_what_it_cannot_serve(page, running, tmp_path):
    upload(page, moving_dot(tmp_path / "mine.mp4", frames=7))
    set_number(page, "Frames", 13)
    wait_for_address(page, "frames", "13")
    page.wait_for_timeout(300)
    visit(page, running)
    page.wait_for_selector(STATE.format("ready"))
    open_advanced(page)
    assert (value_of(page, "Frames"), start_of(page)) == ("13", 7)
    visit(page, running, "?frames=999&temperature=0.3&seed=42&clip=example-1&prompt_frames=3&model=nobody")
    notice = page.get_by_role("alert")
    notice.get_by_text("Frames must be a whole number from 1 to 40, not 999.", exact=False).wait_for()
    assert "Model must be one of" in notice.inner_text()
    page.wait_for_selector(STATE.format("ready"))  # not the shipped result, which has other seeds
    open_advanced(page)
    wait_for(lambda: (value_of(page, "Temperature"), seed_field(page).input_value()) == ("0.3", "42"))
    assert start_of(page) == 3 and not page.locator("#dice input").is_checked()
    notice.get_by_role("button", name="Close").click()
    assert notice.count() == 0


STRANGE = {
    "plain.GIF": "-f gif", "IMG_0123.MOV": "-c:v libx265 -x265-params log-level=none -pix_fmt yuv420p -f mov",
    "DSC_01.AVI": "-c:v mpeg4 -vtag XVID -f avi", "drive.TS": "-c:v libx264 -f mpegts",
}  # fmt: skip


def test_every_kind_of_clip_is_taken_and_previewed_whatever_the_browser_plays(page, tab, tmp_path):
    accepted = page.locator("#clip input[type=file]").get_attribute("accept").split(",")
    assert {".mov", ".avi", ".mkv", ".gif", ".ts", ".mts", "video/*"} <= set(accepted)
    for k, (name, options) in enumerate(STRANGE.items()):
        path = make(tmp_path / name, options, "testsrc2=s=64x48:r=10:d=1")
        if k % 2:
            page.evaluate(DROP, [list(path.read_bytes()), name])
        else:
            page.set_input_files("#clip input[type=file]", path)
        page.wait_for_selector(STATE.format("ready"))
        playable = "document.querySelector('#clip video:not([hidden])')?.videoWidth > 0 || null"
        page.wait_for_function(playable, timeout=15_000)
        assert page.locator("#clip p").inner_text() == "", name
        page.get_by_label("Remove the clip").click()
        page.wait_for_selector(STATE.format("empty"))
    tab[1].clear()  # what the browser says of files that it cannot play


# ---- looks and access ------------------------------------------------------------------------------------


def test_it_fits_every_screen_in_both_themes_and_the_stage_uses_the_window(page, running):
    for theme, size, least in (("light", (1280, 800), 250), ("dark", (1920, 1080), 400), ("light", (390, 844), 150)):
        visit(page, running, f"?__theme={theme}")
        page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
        set_number(page, "Futures", 4)
        predict(page)
        bright = "getComputedStyle(document.querySelector('gradio-app')).backgroundColor.match(/\\d+/g).map(Number)[0]"
        assert (page.evaluate(bright) > 128) == (theme == "light")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert page.locator(".player .panel canvas").first.bounding_box()["width"] >= least
        page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")  # on a phone the page has scrolled to the futures
        boxes = page.evaluate(
            "['#clip', '#predict', '.player'].map(n => document.querySelector(n).getBoundingClientRect().toJSON())"
        )
        assert 0 <= boxes[1]["top"] - boxes[0]["bottom"] < 20  # Predict stands directly under the clip
        if size[0] <= 860:
            assert boxes[1]["top"] < boxes[2]["top"]
        if size[0] > 860:
            bottom = page.locator(".player .bar").bounding_box()
            assert bottom["y"] + bottom["height"] <= size[1] and height(page) <= size[1] + 120
        tops = page.evaluate("[...document.querySelectorAll('.player .face')].map(n => n.getBoundingClientRect().y)")
        assert tops[0] == tops[1]  # the clip and its futures stand on one line
        rows = page.evaluate(ROWS)
        assert all(count == rows[0][0] for count, _ in rows[:-1]) and all(abs(shift) <= 2 for _, shift in rows), rows
    before = page.evaluate("scrollY")
    page.locator("#examples .example").nth(1).scroll_into_view_if_needed()
    choose_example(page, 1)
    wait_for(lambda: 40 <= page.locator(".player").bounding_box()["y"] < 80)  # on a phone, to its futures
    assert before >= 0 and page.locator("#stop").bounding_box()["y"] >= 0  # Stop stays in reach


def test_nothing_moves_while_it_plays_and_a_picture_can_be_enlarged_by_mouse_and_keyboard(page):
    places = "[...document.querySelectorAll('.player *')].map(n => n.getBoundingClientRect().x | 0).join()"
    seen = {
        page.evaluate(places.replace(".player *", ".player .bar > *"))
        for _ in range(10)
        if not page.wait_for_timeout(90)
    }
    assert len(seen) == 1
    face = page.locator(".player .face")
    small = face.nth(1).bounding_box()["width"]
    face.nth(1).click()
    assert face.nth(1).bounding_box()["width"] > 1.5 * small and not face.nth(0).is_visible()
    page.keyboard.press("Escape")
    assert face.nth(0).is_visible()
    page.locator(".player .play").focus()
    page.keyboard.press("f")
    wait_for(lambda: page.evaluate("!!document.fullscreenElement"))
    page.keyboard.press("f")
    wait_for(lambda: not page.evaluate("!!document.fullscreenElement"))


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(page):
    open_advanced(page)
    nameless = """() => [...document.querySelectorAll('button, a, input, select')]
      .filter(n => n.checkVisibility() && !(n.innerText?.trim() || n.ariaLabel || n.title || n.labels?.length))
      .map(n => n.outerHTML.slice(0, 120))"""
    assert page.evaluate(nameless) == []
    page.locator("#clip input").focus()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(n => n.id || n.ariaLabel || n.className)(document.activeElement)"))
    wanted = ("predict", "Start of the future", "Frame", "play", "example")
    assert all(any(word in one for one in reached) for word in wanted), reached


@pytest.mark.skipif(not os.environ.get("AXE"), reason="AXE is not the path of axe-core's axe.min.js")
def test_axe_finds_no_serious_fault(page, running):
    for theme in ("light", "dark"):
        visit(page, running, f"?__theme={theme}")
        open_advanced(page)
        page.get_by_text("Measures", exact=True).click()
        page.evaluate(Path(os.environ["AXE"]).read_text())
        faults = page.evaluate("async () => (await axe.run(document)).violations.map(v => [v.impact, v.id])")
        assert [fault for fault in faults if fault[0] in ("serious", "critical")] == []
