"""In a real browser: what a visitor chooses while answers are on their way, and what comes back after a Stop."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stt.ui import verdict
from tests import ui_fixtures
from tests.browser_fixtures import (
    STATE,
    choose_example,
    choose_model,
    chromium,
    names,
    new_tab,
    number,
    open_advanced,
    page,
    predict,
    set_number,
    tab,
    upload,
    value_of,
    visit,
    wait_for,
    wait_for_address,
)
from tests.ui_fixtures import moving_dot, served
from tests.video_fixtures import PLAIN, make

pytestmark = pytest.mark.browser
__all__ = ["chromium", "page", "tab"]

LATE = """const asked = window.fetch;
window.fetch = async (...request) => {
  if (window.late && String(request[0]).includes("queue/join")) await new Promise((go) => setTimeout(go, 1500));
  return asked(...request);
};"""  # while window.late is set
SAID = """() => {
  window.said = [];
  const look = () => {
    const text = document.querySelector("#verdict").innerText.trim();
    if (text && window.said.at(-1) !== text) window.said.push(text);
    requestAnimationFrame(look);
  };
  look();
}"""  # what the verdict says from now on
SPOKEN = """() => {
  window.spoken = [];
  const look = () => [...document.querySelectorAll("[aria-live]")].forEach((node) => {
    const text = node.textContent.trim();
    if (text && window.spoken.at(-1) !== text) window.spoken.push(text);
  });
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("app")) as app:
        yield app


@pytest.fixture
def slow_checks(monkeypatch):
    original = verdict.self_check

    def slow(*arguments):
        for event in original(*arguments):
            time.sleep(0.2)
            yield event

    monkeypatch.setattr(verdict, "self_check", slow)


def test_a_verdict_is_of_the_clip_and_the_model_on_the_page_whatever_was_chosen_before(page, tmp_path, slow_checks):
    said = page.locator("#verdict")

    def clip(pattern: str) -> Path:
        return make(tmp_path / f"{pattern}.mp4", f"{PLAIN} -t 2", f"{pattern}=s=64x64:r=10")

    set_number(page, "Frames", 1)
    upload(page, clip("testsrc2"))  # at once another one
    page.get_by_text("tiny is tried on").wait_for()
    page.set_input_files("#clip input[type=file]", moving_dot(tmp_path / "short.mp4", frames=3))
    page.wait_for_function("document.querySelector('#start input').max === '3'")  # the short clip is there
    page.evaluate(SAID)
    page.get_by_text("Too short to tell whether tiny").wait_for()
    page.wait_for_timeout(2500)  # the first one's answers would come
    *began, last = page.evaluate("said")
    assert last.startswith("Too short") and all("is tried on" in text for text in began)

    page.set_input_files("#clip input[type=file]", clip("mandelbrot"))
    page.get_by_text("tiny is tried on").wait_for()
    choose_model(page, "classes")  # at once another model
    page.evaluate(SAID)
    wait_for(lambda: said.inner_text().strip() and "…" not in said.inner_text())
    assert all(
        text.startswith(("classes", "On the last 4 frames of this clip, classes")) for text in page.evaluate("said")
    )

    choose_model(page, "tiny")
    page.set_input_files("#clip input[type=file]", clip("life"))
    page.get_by_text("tiny is tried on").wait_for()
    predict(page)  # which stops the check
    wait_for(lambda: said.inner_text().strip() and "…" not in said.inner_text())
    assert "tiny" in said.inner_text(), said.inner_text()


def test_the_menu_of_models_opens_on_demand_only_and_passing_it_changes_nothing(page):
    set_number(page, "Frames", 7)
    page.locator("#play").focus()
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(n => n.ariaLabel || n.innerText)(document.activeElement)"))
        assert page.locator("[role=listbox]").count() == 0
    assert reached == ["Model", "Show an example", "number input for Futures", "range slider for Futures"]
    page.wait_for_timeout(500)
    assert value_of(page, "Frames") == "7" and page.locator(".player").get_attribute("data-state") == "done"


def test_a_number_typed_while_an_answer_is_on_its_way_stays(chromium, running, tmp_path):
    page, complaints = new_tab(chromium, running)
    page.add_init_script(LATE)
    visit(page, running)
    wait_for(lambda: page.evaluate("sttTurns.free().then(() => true)"))
    page.evaluate("() => { window.late = true; }")
    page.set_input_files("#clip input[type=file]", moving_dot(tmp_path / "mine.mp4", frames=9))
    wait_for(lambda: page.evaluate("sttTurns.busy()"))
    set_number(page, "Frames", 7)
    set_number(page, "Futures", 2)
    page.wait_for_selector(STATE.format("ready"))
    wait_for(lambda: page.evaluate("sttTurns.free().then(() => true)"))
    page.wait_for_timeout(300)
    assert (value_of(page, "Frames"), value_of(page, "Futures")) == ("7", "2")
    page.evaluate("() => { window.late = false; }")
    choose_model(page, "gaps")
    open_advanced(page)
    set_number(page, "Frames", 12)
    page.get_by_label("Fill a gap").check()
    page.get_by_text("A gap in this clip has 7 frames at most, not 12.").wait_for()
    wait_for(lambda: value_of(page, "Gap length") == "7")
    page.context.close()
    assert complaints == []


def test_a_change_of_the_model_says_what_it_waits_for(chromium, running):
    page, complaints = new_tab(chromium, running)
    page.add_init_script(LATE)
    visit(page, running)
    wait_for(lambda: page.evaluate("sttTurns.free().then(() => true)"))
    page.evaluate("() => { window.late = true; }")
    page.get_by_label("Model", exact=True).select_option("slow")
    page.get_by_text("Reading the clip for slow …").wait_for()
    page.wait_for_selector(STATE.format("ready"))
    wait_for(lambda: page.locator(".player .busy").inner_text() == "")
    page.wait_for_selector("#predict:enabled")
    page.context.close()
    assert complaints == []


def test_the_menu_says_at_once_what_its_model_knows_and_opens_the_tab_of_its_examples(chromium, running):
    page, complaints = new_tab(chromium, running)
    page.add_init_script(LATE)
    visit(page, running)
    wait_for(lambda: page.evaluate("sttTurns.free().then(() => true)"))
    tabs = page.get_by_role("tab")
    page.evaluate("() => { window.late = true; }")
    for model, world in (("gaps", "Experimental"), ("classes", "Dots")):
        page.get_by_label("Model", exact=True).select_option(model)
        page.locator("#knows").get_by_text(f"Dots, as {model} sees them.").wait_for(timeout=1000)
        assert page.locator(".knows:visible").count() == 1
        assert tabs.and_(page.locator("[aria-selected=true]")).inner_text() == world
    page.context.close()
    assert complaints == []


def test_a_tab_that_is_opened_while_an_example_loads_stays_open(chromium, running):
    page, complaints = new_tab(chromium, running)
    page.add_init_script(LATE)
    visit(page, running)
    wait_for(lambda: page.evaluate("sttTurns.free().then(() => true)"))
    page.evaluate("() => { window.late = true; }")
    page.locator("#examples .example").nth(1).click()
    page.get_by_role("tab").nth(1).click()
    wait_for_address(page, "clip", "example-1")
    wait_for(lambda: page.evaluate("sttTurns.free().then(() => true)"))
    assert page.get_by_role("tab").nth(1).get_attribute("aria-selected") == "true"
    page.context.close()
    assert complaints == []


def test_stop_is_acknowledged_at_once(page):
    choose_model(page, "slow")
    set_number(page, "Frames", 20)
    page.wait_for_selector("#predict:enabled")
    page.click("#predict")
    page.wait_for_selector(STATE.format("running"))
    page.evaluate(
        "addEventListener('stt-stop', () => { window.stopping = document.querySelector('.player .busy').textContent; })"
    )
    page.click("#stop")
    wait_for(lambda: page.evaluate("window.stopping") == "Stopping …")
    page.wait_for_selector("#predict:enabled")
    wait_for(lambda: page.locator(".player .busy").inner_text() == "")


def test_the_same_file_once_more_leaves_predict_ready(page, tmp_path):
    clip = moving_dot(tmp_path / "mine.mp4", frames=9)
    upload(page, clip)
    page.wait_for_selector("#predict:enabled")
    said = page.locator("#clip p")
    page.set_input_files("#clip input[type=file]", clip)
    wait_for(lambda: "Uploading" not in said.inner_text())
    page.wait_for_selector("#predict:enabled", timeout=2000)


def test_what_is_saved_is_said_to_be_made_and_a_fault_is_named(page):
    predict(page)
    pill, link = page.locator(".player .busy"), page.locator(".player .all")
    page.route("**/side-by-side.mp4", lambda route: (time.sleep(1), route.continue_()))
    with page.expect_download() as download:
        link.click()
        page.get_by_text("Making the video …").wait_for()
    assert download.value.suggested_filename.endswith(".mp4")
    wait_for(lambda: pill.inner_text() == "")
    page.unroute("**/side-by-side.mp4")
    page.evaluate("window.fetch = async () => new Response('Many videos are being made.', { status: 503 })")
    page.get_by_role("link", name="as gif").first.click()
    page.get_by_text("Not saved: Many videos are being made.").wait_for()


def test_there_are_as_many_places_beside_the_clip_as_futures_are_asked_for(page):
    choose_model(page, "slow")
    page.wait_for_selector(STATE.format("ready"))
    for count in (5, 2):
        set_number(page, "Futures", count)
        wait_for(lambda count=count: names(page) == [f"future {k + 1}" for k in range(count)])
    open_advanced(page)
    set_number(page, "Temperature", 0)  # leaves one future
    wait_for(lambda: names(page) == ["future 1"])
    set_number(page, "Temperature", 1)
    wait_for(lambda: len(names(page)) == 2)
    set_number(page, "Frames", 40)
    page.click("#predict")
    page.wait_for_selector(STATE.format("running"))
    assert len(names(page)) == 2
    page.click("#stop")
    page.wait_for_selector("#predict:enabled")


def test_a_stop_before_the_first_frame_brings_the_earlier_result_back(page, monkeypatch):
    monkeypatch.setattr(ui_fixtures, "SECONDS_PER_STEP", 3.0)
    choose_model(page, "slow")
    set_number(page, "Frames", 1)
    predict(page)
    before = names(page)
    page.click("#predict")
    page.wait_for_selector(STATE.format("running"))
    page.click("#stop")
    page.get_by_text("Stopped before the first frame; this is the result before").wait_for()
    page.wait_for_selector("#predict:enabled")
    assert names(page) == before and page.locator(".player").get_attribute("data-state") == "done"
    assert page.locator(".player .saves").first.is_visible()


def test_a_screen_reader_hears_words_when_a_prediction_is_complete(page):
    page.evaluate(SPOKEN)
    set_number(page, "Frames", 1)
    predict(page)
    wait_for(lambda: "The prediction is complete." in page.evaluate("spoken"))
    assert not any("common." in text for text in page.evaluate("spoken"))


def test_the_buttons_of_a_future_have_words(page):
    tools = page.locator(".player .future .tools").first
    assert [node.inner_text() for node in tools.locator("a, button").all()] == ["mp4", "gif", "Continue", "Keep"]
    assert page.locator(".player .bar .saves").inner_text().split() == ["Save", "video", "zip"]
    assert number(page, "Frames").is_visible()


def test_what_is_kept_says_so_and_names_its_clip_beside_another(page):
    before, pin = names(page), page.locator(".player .pin").nth(1)
    pin.click()
    assert page.locator(".player .pin").nth(1).inner_text() == "Kept ×"
    choose_example(page, 1)
    wait_for(lambda: names(page)[-1].endswith(before[1]))
    assert names(page)[-1] == f"example-0 · {before[1]}"
    page.locator(".player .pinned .pin").click()
    wait_for(lambda: page.locator(".player .pinned").count() == 0)


def test_a_place_without_a_future_says_what_to_press_and_is_not_enlarged(page, tmp_path):
    predict(page)
    upload(page, moving_dot(tmp_path / "mine.mp4", frames=9))
    assert page.locator(".player .status").inner_text() == "The result before is under “This visit”."
    place = page.locator(".player .future .face").first
    assert place.evaluate("node => getComputedStyle(node, '::after').content") == '"Press Predict"'
    place.click()
    assert page.locator(".player .panel:visible").count() > 1


def test_a_reload_brings_back_the_result_that_was_on_the_stage_and_all_of_this_visit(page, running, tmp_path):
    upload(page, moving_dot(tmp_path / "mine.mp4", frames=9))
    page.wait_for_selector("#predict:enabled")
    for frames in (2, 1):
        set_number(page, "Frames", frames)
        predict(page)
        if frames == 2:
            page.locator(".player .pin").first.click()
    before = names(page)
    page.reload()
    wait_for(lambda: names(page) == before)
    wait_for(lambda: page.evaluate("sttTurns.free().then(() => true)"))
    page.wait_for_selector("#predict:enabled")
    assert names(page) == before and page.locator(".player").get_attribute("data-state") == "done"
    assert page.locator(".player .thumbnail").count() == 2


def test_a_link_and_an_earlier_visit_are_said_to_open(page, running):
    predict(page)
    wait_for(lambda: page.evaluate("localStorage.getItem('stt-settings')"))
    texts = "addEventListener('DOMContentLoaded', () => setInterval(() => (window.told ??= new Set()).add(TEXT), 20))"
    page.add_init_script(texts.replace("TEXT", "document.querySelector('.player .busy')?.textContent"))
    for query, text in (("?clip=example-1", "Opening the link …"), ("", "Opening your last visit …")):
        visit(page, running, query)
        assert text in page.evaluate("[...told]")
    visit(page, running, "?__theme=dark", forget=True)  # says nothing of the clip
    page.wait_for_selector("#predict:enabled")
    assert not any("Opening" in text for text in page.evaluate("[...told].filter(Boolean)"))
