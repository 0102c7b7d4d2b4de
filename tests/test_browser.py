"""Predicting in a real browser: futures, the start of the future, actions, gaps, labels, results that come back."""

from __future__ import annotations

import os
import re
import time

import numpy as np
import pytest

from stt.results import Result
from tests.browser_fixtures import (
    DROP,
    STATE,
    at_frame,
    charts,
    choose,
    choose_example,
    choose_model,
    chromium,
    facts,
    names,
    new_tab,
    number,
    open_advanced,
    page,
    panel,
    predict,
    result,
    seed_field,
    set_number,
    set_seed,
    set_start,
    start_of,
    tab,
    upload,
    value_of,
    visit,
    wait_for,
    wait_for_address,
)
from tests.page_fixtures import sheet
from tests.ui_fixtures import SECONDS_PER_STEP, moving_dot, served

pytestmark = pytest.mark.browser
__all__ = ["chromium", "page", "tab"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("app")) as app:
        yield app


# ---- predicting ------------------------------------------------------------------------------------------


CUT = """(selector) => [...document.querySelectorAll(selector)]
  .filter((n) => !n.clientWidth || n.scrollWidth > n.clientWidth || n.scrollHeight > n.clientHeight + 1).length"""


UNNAMED = """() => [...document.querySelectorAll('.player .chart')].flatMap((chart) =>
  [...chart.querySelectorAll(':scope > svg polyline, :scope > svg line.usual')]
    .map((line) => line.getAttribute('class'))
    .filter((kind) => !chart.querySelector(`.reading .${kind} svg.key line.${kind}`)))"""  # lines without a legend


def test_a_clip_becomes_futures_that_play_in_step(page, tmp_path):
    upload(page, moving_dot(tmp_path / "mine.mp4", start=3))
    assert names(page) == [f"future {k}" for k in range(1, 4)]  # which nobody has predicted yet
    assert re.fullmatch(r"clip \d of 5", page.locator(".player .where").inner_text())
    set_number(page, "Frames", 4)
    predict(page)
    open_advanced(page)
    seed = int(seed_field(page).input_value())
    assert names(page) == [f"seed {seed + k}" for k in range(3)]
    texts = {page.locator(".player .where").inner_text() for _ in range(12) if not page.wait_for_timeout(90)}
    assert len(texts) > 3 and any(re.fullmatch(r"predicted \d of 4", text) for text in texts)  # it plays
    assert "clip frames 1 to 5 of 5, then 4 predicted" in facts(page) and "3 futures in" in facts(page)

    value = result(page)
    clip, futures = sheet(value["context"]), sheet(value["strips"][0]["src"])
    for frame in (0, 5, 8):
        at_frame(page, frame)
        for k in range(3):
            expected = clip[0, frame] if frame < 5 else futures[k, frame - 5]
            np.testing.assert_array_equal(panel(page, k + 1), expected)
    at_frame(page, 4)
    page.keyboard.press("ArrowRight")
    np.testing.assert_array_equal(panel(page, 2), futures[1, 0])

    at_frame(page, 8)
    assert page.locator(".player .clip .name").inner_text() == "clip, ended"
    assert page.locator(".player .clip").get_attribute("data-kind") == "ended"  # and its tile says so
    plain = [panel(page, k) for k in (0, 1)]
    page.get_by_text("Measures", exact=True).click()
    page.get_by_label("Overlay").select_option("spread")
    assert (panel(page, 1) != plain[1]).any()
    np.testing.assert_array_equal(panel(page, 0), plain[0])

    for name, ending in ((f"Save seed {seed} as mp4", ".mp4"), (re.compile("^video$"), ".mp4"), ("zip", ".zip")):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).first.click()
        assert download.value.suggested_filename.endswith(ending)
        assert os.path.getsize(download.value.path()) > 500


def test_an_earlier_start_compares_the_futures_with_what_really_happened(page, tmp_path):
    upload(page, moving_dot(tmp_path / "mine.mp4", frames=9, width=48))
    open_advanced(page)
    assert start_of(page) == 9 and "after frame 9 of 9" in page.locator("#start output").inner_text()
    set_number(page, "Frames", 3)
    set_start(page, 5)
    predict(page)
    assert "cropped to a square" in facts(page)
    assert charts(page) == ["Spread", "Error", "Likeness", "Surprise"]
    page.locator(".player .measures summary").click()
    assert page.evaluate(CUT, ".player .reading") == 0
    assert page.evaluate(UNNAMED) == []
    assert "last frame" in page.locator(".player .reading").nth(1).inner_text()
    page.locator(".player .measures summary").click()
    assert "1 is usual in this clip" in page.locator(".player .reading").last.text_content()  # no figures of others
    at_frame(page, 4)
    assert page.locator(".player .where").inner_text() == "clip 5 of 9"  # as the start of the future says
    assert "clip frames 1 to 5 of 9, then 3 predicted" in facts(page)
    at_frame(page, 6)
    assert page.locator(".player .clip .name").inner_text() == "what really happened"
    page.locator("#start input").focus()
    page.keyboard.press("ArrowRight")  # by keyboard, too
    wait_for_address(page, "prompt_frames", "6")


def test_stop_keeps_the_frames_so_far_with_their_facts_and_closing_the_tab_stops_too(chromium, running):
    page, complaints = new_tab(chromium, running)
    visit(page, running)
    choose_model(page, "slow")
    set_number(page, "Frames", 40)
    page.click("#predict")
    page.get_by_text(re.compile(r"predicted [3-9] of 40, \d+ ms each, about \d+ s left")).wait_for()
    page.wait_for_selector('.player .future[data-kind="future"]')  # frames show while they come
    page.click("#stop")
    page.wait_for_selector(STATE.format("stopped"))
    page.wait_for_selector("#predict:enabled")
    wait_for(lambda: "predicted" in facts(page))
    predicted = int(re.search(r"after (\d+) of 40", page.locator(".player .status").inner_text())[1])
    assert 3 <= predicted < 20 and result(page)["frames"] == predicted and "Spread" in charts(page)
    assert complaints == []
    before = set(running.folder.rglob("result.npz"))
    page.click("#predict")
    page.get_by_text(re.compile(r"predicted [2-9] of 40, ")).wait_for()
    page.context.close()
    saved = wait_for(lambda: set(running.folder.rglob("result.npz")) - before)  # saved when it stops
    assert Result.load(saved.pop()).futures.shape[1] < 30


def test_a_tab_closed_during_its_upload_leaves_no_file(chromium, running, tmp_path):
    page, _ = new_tab(chromium, running)
    visit(page, running)
    files = set(running.folder.glob("stt-app-*/files/**/*"))
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(8_000_000))
    page.set_input_files("#clip input[type=file]", large)
    wait_for(lambda: set(running.folder.glob("stt-app-*/files/tmp*")))  # it arrives
    page.context.close()
    wait_for(lambda: set(running.folder.glob("stt-app-*/files/**/*")) <= files, seconds=10)


def test_a_tab_closed_while_it_waits_costs_no_prediction(chromium, running):
    (one, _), (two, _) = visitors = [new_tab(chromium, running) for _ in range(2)]
    for visitor, _ in visitors:
        visit(visitor, running)
        choose_model(visitor, "slow")
        set_number(visitor, "Frames", 40)
    queue, before = running.app._queue, set(running.folder.rglob("result.npz"))
    one.click("#predict")
    one.wait_for_selector(STATE.format("running"))
    two.click("#predict")
    two.get_by_text("You are next: ").wait_for()
    (request,) = queue._waiting()
    two.context.close()
    wait_for(lambda: not queue._listens(request))
    assert queue.running() and queue.running() != [request]
    one.wait_for_selector(STATE.format("done"))
    time.sleep(1)  # in which the second one would begin
    assert not queue.running() and len(set(running.folder.rglob("result.npz")) - before) == 1
    one.context.close()


def test_a_tab_closed_while_its_video_is_written_leaves_no_half_file(chromium, running):
    page, _ = new_tab(chromium, running)
    visit(page, running)
    set_number(page, "Frames", 2)
    predict(page)
    address = page.locator(".player .all").get_attribute("href").replace("side-by-side", "future-1")
    page.evaluate("address => { fetch(address); }", address)
    wait_for(lambda: set(running.folder.glob("stt-app-*/results/**/tmp*")))
    page.context.close()
    wait_for(lambda: not set(running.folder.glob("stt-app-*/results/**/tmp*")))
    assert not running.app._queue.events()


LATE_ANSWERS = """() => {
  const fetched = window.fetch;
  window.fetch = async (...request) => {
    const answer = await fetched(...request);
    if (String(request[0]).includes('queue/join')) await new Promise((go) => setTimeout(go, 700));
    return answer;
  };
}"""


def test_stop_holds_before_the_server_has_answered_predict(chromium, running):
    page, complaints = new_tab(chromium, running)
    visit(page, running)
    choose_model(page, "slow")
    set_number(page, "Frames", 40)
    page.evaluate(LATE_ANSWERS)
    page.click("#predict")
    page.click("#stop")
    page.wait_for_selector("#predict:enabled")
    page.wait_for_timeout(1000)
    page.wait_for_selector(".player:not([data-state=running])", timeout=5000)  # all 40 frames would take 10 s
    set_number(page, "Frames", 1)
    began = time.monotonic()
    predict(page)
    assert time.monotonic() - began < 40 * SECONDS_PER_STEP  # it did not wait for the first
    page.context.close()
    assert complaints == []


def test_one_click_compares_all_models_of_a_world(page):
    set_number(page, "Frames", 2)
    predict(page, ".player .compare")
    wait_for(lambda: len(names(page)) == 2)
    assert page.locator(".player .pin").all_inner_texts() == ["Keep", "Keep"]  # the next prediction takes them away
    assert [name.partition(" · ")[0] for name in names(page)] == ["tiny", "classes"]
    assert len({name.partition(" · ")[2] for name in names(page)}) == 1  # one seed
    lines = page.locator(".player .facts .line")
    wait_for(lambda: [line.split(" ")[0] for line in lines.all_inner_texts()] == ["tiny", "classes"])
    assert page.locator(".player .measures summary").text_content() == "Measures of tiny"
    assert "tiny" in page.get_by_label("Model", exact=True).input_value()
    predict(page)
    assert len(names(page)) == 3 and not any("·" in name for name in names(page))
    kept = names(page)[1]
    page.locator(".player .pin").nth(1).click()
    predict(page, ".player .compare")
    wait_for(lambda: len(names(page)) == 3)
    assert names(page)[2].endswith(kept)
    page.locator(".player .panel.pinned").filter(has_text="classes").locator(".pin").click()
    predict(page)
    assert len(names(page)) == 5 and sum("classes" in name for name in names(page)) == 1
    for _ in range(2):
        page.locator(".player .pinned .pin").first.click()
    choose_model(page, "gaps")
    assert page.locator(".player .compare").is_hidden()  # nobody else knows its world


def test_two_visitors_at_once_get_their_own_results_and_the_second_sees_its_place(chromium, running):
    visitors = []
    for seed, example in ((100, 0), (200, 2)):
        page, complaints = new_tab(chromium, running)
        visit(page, running)
        choose_example(page, example)
        choose_model(page, "slow")
        set_number(page, "Frames", 6)
        open_advanced(page)
        set_seed(page, seed)
        visitors.append((page, complaints, seed))
    (one, *_), (two, *_) = visitors
    one.click("#predict")
    one.wait_for_selector(STATE.format("running"))
    two.click("#predict")
    two.get_by_text("You are next: ").wait_for()
    for page, complaints, seed in visitors:
        page.wait_for_selector(STATE.format("done"))
        assert names(page)[0] == f"seed {seed}" and complaints == []
    assert result(one)["context"] != result(two)["context"]
    for page, *_ in visitors:
        page.context.close()


# ---- labels, gaps, actions -------------------------------------------------------------------------------


def test_digits_are_imagined_without_a_clip_and_their_settings_travel(page, running):
    choose_model(page, "classes")
    open_advanced(page)
    page.get_by_label("Remove the clip").click()
    page.wait_for_selector(STATE.format("empty"))
    choose(page, "Imagine", "3")
    wait_for_address(page, "labels", "3")
    page.click("#predict")
    page.wait_for_selector(STATE.format("done"))
    assert all("3" in name for name in names(page)) and "imagined" in facts(page)
    assert result(page)["settings"]["labels"] == [3]
    assert page.locator(".player .clip .name").inner_text() == "no clip"
    assert not page.locator('.player .panel[data-kind="ended"]').count()  # no recording ends
    address = page.url
    page.goto(address)
    page.wait_for_selector("#predict")
    open_advanced(page)
    wait_for(
        lambda: page.locator("#imagine input").count() and page.locator("#imagine input").first.input_value() == "3"
    )
    choose_example(page, 0)  # its result continues the clip
    wait_for_address(page, "labels", None)


def test_a_gap_is_filled_and_shown_between_the_frames_around_it(page, tmp_path):
    upload(page, moving_dot(tmp_path / "long.mp4", frames=9))
    choose_model(page, "gaps")
    open_advanced(page)
    set_number(page, "Futures", 2)
    set_number(page, "Frames", 10)
    page.get_by_label("Fill a gap").check()
    wait_for(lambda: value_of(page, "Gap length") == "7")  # of nine frames: one before it, one after
    set_number(page, "Gap length", 3)
    page.wait_for_timeout(500)
    set_start(page, 4)
    predict(page)
    value = result(page)
    before, ending = sheet(value["context"])[0], sheet(value["ending"])[0]
    futures = sheet(value["strips"][0]["src"])
    assert (len(before), futures.shape[:2], len(ending)) == (3, (2, 3), 2)
    for frame, expected in enumerate((*before, *futures[0], *ending)):
        at_frame(page, frame)
        np.testing.assert_array_equal(panel(page, 1), expected)
    for frame, text in ((0, "clip 2 of 9"), (4, "filled in 2 of 3"), (6, "clip 8 of 9")):
        at_frame(page, frame)
        assert page.locator(".player .where").inner_text() == text
    assert "clip frames 2 to 4 and 8 to 9 of 9, 3 between them filled in" in facts(page)
    page.locator(".player .extend").first.click()  # an extended future is continued
    wait_for(lambda: not page.get_by_label("Fill a gap").is_checked())
    choose_model(page, "tiny")
    wait_for(lambda: page.get_by_label("Fill a gap").count() == 0)


def test_sliders_and_the_keyboard_steer_the_futures(page):
    choose_model(page, "actions")
    open_advanced(page)
    page.get_by_label("Steer").check()
    wait_for_address(page, "action", "0,0")
    page.get_by_label("range slider for Push right").focus()
    for _ in range(5):  # as fast as it goes: none is taken back
        page.keyboard.press("ArrowRight")
    set_number(page, "Push up", -1)
    wait_for_address(page, "action", "0.5,-1")
    predict(page)
    assert set(page.locator(".player .future .action").all_inner_texts()) == {"push right 0.5, push up -1"}
    assert page.evaluate(CUT, ".player .future figcaption") == 0
    assert result(page)["settings"]["action"] == [0.5, -1.0]
    page.get_by_label("Steer").uncheck()
    wait_for_address(page, "action", None)
    page.locator(".player .thumbnail").first.click()  # an earlier result brings its settings
    wait_for(lambda: value_of(page, "Push right") == "0.5")
    choose_model(page, "tiny")
    wait_for(lambda: page.get_by_label("Steer").count() == 0 and number(page, "Push up").count() == 0)


# ---- results that come back ------------------------------------------------------------------------------


def test_a_result_comes_back_from_its_file_its_link_and_the_history(page, running):
    open_advanced(page)
    set_number(page, "Futures", 2)
    set_number(page, "Frames", 3)
    set_number(page, "Temperature", 0.7)
    set_seed(page, 77)
    predict(page)
    first, video, shown = result(page), page.locator(".player .all").get_attribute("href"), names(page)
    assert shown == ["seed 77 · temperature 0.7", "seed 78 · temperature 0.7"]

    choose_example(page, 1)
    assert (value_of(page, "Futures"), value_of(page, "Temperature"), seed_field(page).input_value()) == ("3", "1", "7")
    page.evaluate(DROP, [video, "result.mp4"])
    wait_for(lambda: names(page) == shown)  # itself, not a new prediction
    assert result(page)["strips"] == first["strips"]
    wait_for(lambda: value_of(page, "Temperature") == "0.7" and seed_field(page).input_value() == "77")

    predict(page)
    assert result(page)["strips"] == first["strips"] and result(page)["id"] != first["id"]
    page.locator(".player .pin").nth(1).click()
    set_seed(page, 99)
    predict(page)
    assert names(page)[2] == shown[1]
    page.locator(".player .pinned .pin").click()
    assert len(names(page)) == 2

    visit(page, running, f"?result={first['id']}&frames=9&seed=1")
    wait_for(lambda: names(page) == shown)
    assert result(page)["strips"] == first["strips"]
    open_advanced(page)
    wait_for(lambda: value_of(page, "Frames") == "3" and seed_field(page).input_value() == "77")
    lines = page.locator(".player .thumbnail").first.locator("span span").all_inner_texts()
    assert lines[0].startswith("example-") and lines[1] == "tiny" and lines[2].startswith("seed ")
