"""Play in a real browser: keys, the stick, looking back, recordings, and tabs that close."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from stt.checkpoint import load
from stt.live import LiveSession
from tests.browser_fixtures import (  # noqa: F401  # a fixture
    chromium,
    facts,
    names,
    new_tab,
    number,
    open_advanced,
    predict,
    set_number,
    visit,
    wait_for,
)
from tests.ui_fixtures import action_model, moving_dot, served, ship
from tests.video_fixtures import make

pytestmark = pytest.mark.browser

ASSETS = Path(__file__).parent.parent / "assets"
STAGE = "dialog.live[data-state=live]"
PIXELS = """n => {
  const canvas = document.querySelectorAll('dialog.live canvas')[n];
  return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
}"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One core, so one visitor plays at a time."""
    models = {"tabletop": load(str(ASSETS / "models/tabletop-layered.safetensors"), "cpu")}
    examples = sorted((ASSETS / "prompts").glob("angle-*.mp4"))
    results = [ASSETS / f"results/{example.stem}--tabletop-layered.npz" for example in examples]
    with served(tmp_path_factory.mktemp("app"), models, examples, results) as app:
        yield app


@pytest.fixture
def page(chromium, running):  # noqa: F811
    page, complaints = new_tab(chromium, running)
    visit(page, running)
    page.click("#play")
    page.wait_for_selector(STAGE)
    yield page
    page.close()
    assert complaints == []


def seconds(page) -> float:
    return float(page.locator("dialog.live .where").inner_text().removesuffix(" s"))


def play_until(page, moment: float) -> None:
    wait_for(lambda: seconds(page) >= moment, 60)


def rod(page, k: int) -> float:
    """Where the black rod stands in a picture, in pixels from the left."""
    picture = np.array(page.evaluate(PIXELS, k), np.uint8).reshape(64, 64, 4)[..., :3]
    return float(np.nonzero(picture.max(axis=-1) < 30)[1].mean())


def test_play_says_what_plays_and_which_key_does_what_and_the_visitor_drives_first(page):
    assert page.locator("dialog.live header b").inner_text() == "tabletop · angle-into-the-corner"
    legend = page.locator("dialog.live .legend").inner_text()
    assert "← → push left, push right" in legend and "↑ ↓ push up, push down" in legend
    autopilot = page.get_by_role("button", name="Autopilot")
    autopilot.click()
    assert autopilot.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    page.click("#play")
    page.wait_for_selector(STAGE)
    assert autopilot.get_attribute("aria-pressed") == "false"


def test_the_pusher_goes_where_the_keys_say_and_two_branches_stand_side_by_side(page):
    page.keyboard.down("ArrowRight")
    play_until(page, 1.2)
    page.keyboard.up("ArrowRight")
    page.locator("dialog.live .time").fill("0")  # back to the prompt
    assert seconds(page) == 0
    assert page.get_by_text("Go on from here").is_visible()
    page.keyboard.down("KeyA")  # who drives goes on from there
    page.wait_for_function("document.querySelector('dialog.live figure:nth-child(2)').checkVisibility()")
    play_until(page, 1.2)
    page.keyboard.up("KeyA")
    page.keyboard.press("Space")
    page.locator("dialog.live .time").fill("10")
    assert rod(page, 0) - rod(page, 1) > 8  # told right, told left, of 64 pixels
    captions = page.locator("dialog.live figcaption").all_inner_texts()
    assert captions == ["what was", "what if"]
    page.get_by_role("button", name="Drive the other branch").click()
    page.wait_for_function("document.querySelector('dialog.live .where').textContent >= '1.2 s'")
    swapped = [text.partition(" ·")[0] for text in page.locator("dialog.live figcaption").all_inner_texts()]
    assert swapped == ["what if", "what was"]  # each name stays with its run
    assert float(page.locator("dialog.live").get_attribute("data-latency")) > 0


def test_the_page_warns_that_errors_grow_and_offers_to_start_again(page):
    warning = page.locator("dialog.live .warning")
    play_until(page, 0.5)
    assert warning.inner_text() == "Each frame is predicted from those before it. Trust the first 2 seconds."
    page.locator("dialog.live .time").fill("2")
    page.get_by_role("button", name="Go on from here").click()  # two branches
    play_until(page, 2.1)
    wait_for(lambda: "Errors grow with every frame" in warning.inner_text())
    page.get_by_role("button", name="Start again").click()
    wait_for(lambda: seconds(page) < 1.5)
    wait_for(lambda: "Errors grow" not in warning.inner_text())
    assert page.locator("dialog.live figure:visible").count() == 1
    play_until(page, 0.5)  # and plays


def test_play_of_a_clip_that_the_model_does_not_know_says_so(chromium, running, tmp_path):  # noqa: F811
    page, complaints = new_tab(chromium, running)
    visit(page, running)
    page.set_input_files("#clip input[type=file]", make(tmp_path / "pattern.mp4", source="testsrc2=s=64x64:r=10:d=3"))
    page.get_by_text("tabletop does not know such clips").wait_for()
    page.wait_for_selector("#predict:enabled")
    page.click("#play")
    page.wait_for_selector(STAGE)
    warning = page.locator("dialog.live .warning")
    wait_for(lambda: "tabletop does not know such clips: do not trust the picture." in warning.inner_text())
    page.context.close()
    assert complaints == []


def test_a_machine_that_is_too_slow_says_its_real_rate(chromium, running, monkeypatch):  # noqa: F811
    original = LiveSession.step

    def slow(self, action=()):
        time.sleep(0.25)
        return original(self, action)

    monkeypatch.setattr(LiveSession, "step", slow)
    page, complaints = new_tab(chromium, running)
    visit(page, running)
    page.click("#play")
    page.wait_for_selector(STAGE)
    page.get_by_text(re.compile(r"This computer makes [34] frames a second here; 10 would be real time")).wait_for()
    assert re.match(r"[1-4]\.\d of 10 frames/s", page.locator("dialog.live .meter").inner_text())
    page.close()
    assert complaints == []


def test_the_stick_drives_and_a_recording_becomes_a_result_on_the_page(page):
    stick = page.locator("dialog.live .stick").bounding_box()
    x, y = stick["x"] + stick["width"] / 2, stick["y"] + stick["height"] / 2
    before = rod(page, 0)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y)
    play_until(page, seconds(page) + 1.0)
    page.mouse.up()
    assert before - rod(page, 0) > 4
    page.keyboard.press("Space")
    page.get_by_role("button", name="Save these frames").click()
    wait_for(lambda: page.locator(".player .thumbnail").count() == 1)  # it stays, however one leaves
    page.get_by_text("Show on the page").click()
    wait_for(lambda: page.locator(".player .future .name").first.inner_text().startswith("live, seed "))
    assert not page.locator("dialog.live").is_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="as mp4").first.click()
    assert download.value.suggested_filename.endswith(".mp4")
    page.locator(".player .extend").first.click()  # the recording is the next clip
    page.wait_for_selector(".player[data-state=ready]")


def test_both_directions_have_words_and_the_title_is_whole_on_a_phone(chromium, tmp_path):  # noqa: F811
    models = {"tiny": action_model("right", "forward", "up")}
    examples = [moving_dot(tmp_path / "a-clip-whose-name-is-long-on-a-phone.mp4")]
    with served(tmp_path, models, examples, ship(models, examples, tmp_path)) as app:
        page, complaints = new_tab(chromium, app)
        visit(page, app)
        page.set_viewport_size({"width": 390, "height": 844})
        page.click("#play")
        page.wait_for_selector(STAGE)
        assert page.locator("dialog.live .hold").all_inner_texts() == ["upE", "downQ"]
        title = "(n => [n.scrollWidth <= n.clientWidth, n.scrollHeight <= n.clientHeight])"
        assert page.evaluate(f"{title}(document.querySelector('dialog.live header b'))") == [True, True]
        assert page.evaluate("document.querySelector('dialog.live').scrollHeight") <= 844
        page.close()
    assert complaints == []


SAID = """() => [...document.querySelectorAll('dialog.live :is(button, canvas)')].filter((n) => {
  const words = (n.innerText || '').toLowerCase().match(/\\w+/g) || [], name = n.ariaLabel?.toLowerCase();
  return !name || words.some((word) => !name.match(/\\w+/g).includes(word));
}).map((n) => n.outerHTML)"""


def test_the_names_of_controls_hold_the_words_on_them(page):
    assert page.evaluate(SAID) == []


@pytest.mark.skipif(not os.environ.get("AXE"), reason="AXE is not the path of axe-core's axe.min.js")
def test_axe_finds_no_serious_fault_in_play_nor_in_its_queue(chromium, running, page):  # noqa: F811
    second, _ = new_tab(chromium, running)
    visit(second, running)
    second.click("#play")
    second.get_by_text("You are next").wait_for()
    for one in (page, second):
        one.evaluate(Path(os.environ["AXE"]).read_text())
        faults = one.evaluate("async () => (await axe.run(document)).violations.map(v => [v.impact, v.id])")
        assert [fault for fault in faults if fault[0] in ("serious", "critical")] == []
    second.close()


def test_a_steered_future_is_one_where_nothing_else_is_left_to_chance(chromium, running):  # noqa: F811
    page, complaints = new_tab(chromium, running)
    visit(page, running)
    set_number(page, "Frames", 2)
    open_advanced(page)
    page.get_by_label("Steer").check()
    page.get_by_text("nothing is left to chance, so there is one future").wait_for()
    wait_for(lambda: number(page, "Futures").count() == 0)
    predict(page)
    assert len(names(page)) == 1 and "so there is one future" in facts(page)
    page.get_by_label("Steer").uncheck()
    wait_for(lambda: number(page, "Futures").input_value() == "4")
    page.close()
    assert complaints == []


def test_the_next_visitor_waits_and_a_closed_tab_makes_room(chromium, running, page):  # noqa: F811
    second, complaints = new_tab(chromium, running)
    visit(second, running)
    second.click("#play")
    second.get_by_text("You are next").wait_for()
    assert not second.locator(STAGE).count()
    page.close()
    second.wait_for_selector(STAGE)
    second.keyboard.press("Escape")
    assert not second.locator("dialog.live").is_visible()
    third, more = new_tab(chromium, running)
    visit(third, running)
    third.click("#play")
    third.wait_for_selector(STAGE)  # leaving the stage makes room, too
    for one in (second, third):
        one.close()
    assert complaints == more == []
