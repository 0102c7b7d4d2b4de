"""Whether a model knows a clip: by the clip's own last frames, for every family."""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

import stt
from stt.encode import write_mp4
from stt.models.stt import STT
from stt.request import Request
from stt.self_check import MIN_FRAMES, SelfCheck, self_check
from stt.ui.backend import Backend
from stt.ui.callbacks import Callbacks
from stt.ui.verdict import Verdicts
from tests.conftest import TINY, lively
from tests.page_fixtures import ANOTHER, ME, changes_of, values
from tests.ui_fixtures import any_clip_model, moving_dot
from tests.video_fixtures import PLAIN, make

ASSETS = Path(__file__).parent.parent / "assets"
DIGITS, TABLETOP = ("digits-stt", "digits-timesformer", "digits-motiongpt"), ("tabletop-layered",)


@pytest.fixture(scope="module")
def shipped():
    return {name: stt.load(ASSETS / f"models/{name}.safetensors") for name in (*DIGITS, *TABLETOP)}


@pytest.fixture(scope="module")
def any_clip():
    return any_clip_model()


@pytest.fixture(scope="module")
def patterns(tmp_path_factory):
    """Test patterns, which no model knows."""
    folder = tmp_path_factory.mktemp("patterns")
    return [
        make(folder / f"{name}.mp4", f"{PLAIN} -t 2", f"{name}=s=96x96:r=10")
        for name in ("testsrc2", "mandelbrot", "life")
    ]


def check(model, clip, **settings) -> SelfCheck:
    *_, result = self_check(Request(clip, "", **settings), model)
    return result


def answers(steps) -> list[str]:
    return [step["html"] for step in steps if "html" in step]


def test_models_know_their_own_examples_and_neither_each_others_nor_test_patterns(shipped, patterns):
    digits, tabletop = (ASSETS / f"prompts/{name}.mp4" for name in ("pair-nine-and-six", "disc-onto-sphere"))
    for name, model in shipped.items():
        own, other = (digits, tabletop) if name in DIGITS else (tabletop, digits)
        assert check(model, own).passes(model.card), name
        for clip in (other, *patterns):
            assert not check(model, clip).passes(model.card), (name, clip.stem)
        assert check(model, patterns[0]).coloured == (name in DIGITS) and not check(model, digits).coloured


def test_it_works_for_every_family_and_says_nothing_of_a_clip_that_is_too_short(predictor, tmp_path):
    clip = moving_dot(tmp_path / "dot.mp4", frames=MIN_FRAMES)
    *steps, result = self_check(Request(clip, ""), predictor)
    assert steps == [None] * 4 and result.error > 0 and result.copy > 0
    assert list(self_check(Request(moving_dot(tmp_path / "short.mp4", frames=MIN_FRAMES - 1), ""), predictor)) == []


def test_an_error_counts_against_a_still_picture_and_against_the_models_own_examples():
    for error, copy, usual, passes in (
        (0.05, 0.1, 0.05, True), (0.12, 0.1, 0.1, False), (0.05, 0.1, 0.03, False), (0.05, 0.1, None, True),
        (0.003, 0.0, 0.05, True), (0.02, 0.0, 0.05, False),
    ):  # fmt: skip
        card = {} if usual is None else {"self_check": {"error": usual}}
        assert SelfCheck(error, copy).passes(card) == passes, (error, copy, usual)
    for card in ({"self_check": 3}, {"self_check": {"error": "x"}}, {"self_check": {"error": -1}}):
        assert SelfCheck(0.05, 0.1).passes(card)


def test_the_page_says_so_before_predict_and_offers_the_model_that_does_best(shipped, patterns, page):
    backend = Backend(shipped, page.results, page.uploads)
    verdicts = Verdicts(Callbacks(backend))

    def verdict(clip: Path, model: str) -> str:
        upload = page.uploads / clip.name
        upload.write_bytes(clip.read_bytes())
        settings = {"labels": [], "stride": 0, "fit": "crop", "prompt_frames": 0}
        *_, text = answers(verdicts.check(ME, *values(upload, model=model, **settings)))
        return text

    tabletop = ASSETS / "prompts/disc-onto-sphere.mp4"
    text = verdict(tabletop, "tabletop-layered")
    assert "✓" in text and "<b>tabletop-layered</b> is closer than a still picture" in text
    text = verdict(tabletop, "digits-stt")
    assert "does not know such clips" in text and 'data-model="tabletop-layered"' in text
    text = verdict(patterns[0], "digits-stt")
    assert "No model here does" in text and "train.predictor --preset videos/stt/cpu" in text
    assert "Too short" in verdict(moving_dot(page.uploads / "short.mp4", frames=3), "digits-stt")
    *_, text = answers(verdicts.check(ME, *values(None, model="digits-stt")))
    assert text == ""


def test_a_new_clip_that_no_model_knows_goes_to_the_model_for_any_clip_which_says_what_to_expect(
    shipped, patterns, page, any_clip
):
    verdicts = Verdicts(Callbacks(Backend({**shipped, "motion": any_clip}, page.results, page.uploads)))

    def values_of(clip: Path, model: str) -> list:
        upload = page.uploads / clip.name
        upload.write_bytes(clip.read_bytes())
        return values(upload, model=model, labels=[], stride=0, fit="crop", prompt_frames=0)

    def choice(clip: Path, model: str) -> str | None:
        list(verdicts.check_new(ME, *values_of(clip, model)))
        return changes_of(verdicts.follow(ME, *values_of(clip, model))[2:]).get("model")

    assert choice(patterns[0], "digits-stt") == "motion"
    *_, text = answers(verdicts.check(ME, *values_of(patterns[0], "motion")))
    assert "motion</b> predicts this clip, as <b>digits-stt</b> does not know such clips" in text
    figures = r"Tried on the last 4 frames, its error is \d+ % below a still picture's|no closer than a still"
    assert re.search(figures, text) and "train.predictor --preset videos/stt/cpu" in text, text
    shown = verdicts.follow(ME, *values_of(patterns[0], "digits-stt"))
    assert shown[0]["model"] == "motion"
    for clip, model in ((patterns[1], "digits-stt"), (patterns[0], "tabletop-layered")):  # not checked; chosen since
        assert verdicts.follow(ME, *values_of(clip, model))[0] == gr.skip(), (clip, model)
    for clip, model in ((ASSETS / "prompts/disc-onto-sphere.mp4", "digits-stt"), (patterns[0], "motion")):
        assert choice(clip, model) is None, (clip, model)  # another model knows it, and the visitor's own choice


def test_of_a_clip_that_ends_at_rest_the_page_says_that_the_future_can_start_earlier(page, any_clip):
    verdicts = Verdicts(Callbacks(Backend({"motion": any_clip}, page.results, page.uploads)))
    still = page.uploads / "still.mp4"
    write_mp4(still, np.full((12, 32, 32, 3), 90, np.uint8), 10)
    *_, text = answers(
        verdicts.check(ME, *values(still, model="motion", labels=[], stride=0, fit="crop", prompt_frames=0))
    )
    assert "Hardly anything moves at its end: under Advanced, the future can start earlier." in text


def test_the_model_for_any_clip_comes_before_one_that_is_less_ahead_of_a_still_picture(
    shipped, patterns, page, any_clip, monkeypatch
):
    models = {name: shipped[name] for name in ("digits-stt", "tabletop-layered")} | {"motion": any_clip}
    upload = page.uploads / patterns[0].name
    upload.write_bytes(patterns[0].read_bytes())
    for copy, chosen in ((0.03, None), (0.05, "motion")):
        checks = {
            "digits-stt": SelfCheck(0.1, 0.03), "tabletop-layered": SelfCheck(0.02, 0.025),
            "motion": SelfCheck(0.03, copy),
        }  # fmt: skip

        def check(self, request, checks=checks):
            yield gr.skip()
            return checks[request.model]

        monkeypatch.setattr(Verdicts, "_check", check)
        verdicts = Verdicts(Callbacks(Backend(models, page.results, page.uploads)))
        *_, text = answers(verdicts.check_new(ME, *values(upload, model="digits-stt", labels=[], stride=0, fit="crop")))
        switch = verdicts.callbacks.switched.get(str(upload))
        assert switch.after == chosen if chosen else "Use tabletop-layered" in text and not switch, (copy, text, switch)
        *_, text = answers(verdicts.check(ME, *values(upload, model="digits-stt", labels=[], stride=0, fit="crop")))
        assert f"Use {chosen or 'tabletop-layered'}" in text


def test_an_answer_says_what_it_is_of_and_a_check_ends_when_the_visitor_chooses_something_else(page, any_clip):
    models = {"motion": any_clip, "tiny": lively(STT(TINY)).eval()}
    verdicts, clip = Verdicts(Callbacks(Backend(models, page.results, page.uploads))), page.upload()
    settings = {"labels": [], "stride": 0, "fit": "auto"}
    motion, tiny = (values(clip, model=name, **settings) for name in ("motion", "tiny"))
    first = next(new := verdicts.check_new(ME, *tiny))
    assert first["of"] == [str(clip), "motion", 0, "auto"] and "is tried" in first["html"]  # chosen by the clip's shape
    verdicts.choose(ANOTHER, *motion)
    assert next(new) == gr.skip()  # what others choose does not matter
    verdicts.choose(ME, *motion)
    assert list(new) == []
    *_, last = (step for step in verdicts.check(ME, *motion) if "html" in step)
    assert last["of"] == first["of"] and "motion</b> predicts this clip" in last["html"]


def test_no_model_is_offered_that_sees_less_of_the_clip_than_the_one_for_any_clip(page, shipped, any_clip, monkeypatch):
    models = {"digits-stt": shipped["digits-stt"], "motion": any_clip, "tabletop-layered": shipped["tabletop-layered"]}
    wide, square = page.upload(), moving_dot(page.uploads / "square.mp4", frames=12)
    for clip, coloured, offered in ((wide, False, None), (square, False, "tabletop-layered"), (square, True, None)):
        checks = {
            "digits-stt": SelfCheck(0.2, 0.1), "tabletop-layered": SelfCheck(0.02, 0.1, coloured),
            "motion": SelfCheck(0.05, 0.1),
        }  # fmt: skip

        def check(self, request, checks=checks):
            yield gr.skip()
            return checks[request.model]

        monkeypatch.setattr(Verdicts, "_check", check)
        verdicts = Verdicts(Callbacks(Backend(models, page.results, page.uploads)))
        settings = {"model": "digits-stt", "labels": [], "stride": 0, "fit": "auto"}
        *_, text = answers(verdicts.check(ME, *values(clip, **settings)))
        assert f"Use {offered or 'motion'}<" in text and text.count("Use ") == 1, (clip.name, coloured, text)
        *_, text = answers(verdicts.check_new(ME, *values(clip, **settings)))
        *_, text = answers(verdicts.check(ME, *values(clip, **settings | {"model": "motion"})))
        assert "motion</b> predicts this clip" in text
        if offered:  # it sees all of the clip and comes closer
            assert f"<b>{offered}</b> comes closer: " in text and text.count(f"Use {offered}") == 1
        else:
            assert "Use " not in text


def test_the_page_claims_of_a_model_and_a_clip_what_it_has_measured_and_no_more(
    page, patterns, shipped, any_clip, monkeypatch
):
    """A model that beats a still picture on a clip of another kind is no model that knows it."""
    models = {**{name: shipped[name] for name in ("digits-stt", "tabletop-layered")}, "motion": any_clip}
    upload = page.uploads / patterns[0].name
    upload.write_bytes(patterns[0].read_bytes())
    settings = {"model": "tabletop-layered", "labels": [], "stride": 0, "fit": "crop"}
    for digits, motion, offered in ((0.03, 0.09, "digits-stt"), (0.06, 0.02, "motion"), (0.06, 0.09, None)):
        checks = {
            "digits-stt": SelfCheck(digits, 0.1), "tabletop-layered": SelfCheck(0.04, 0.1),
            "motion": SelfCheck(motion, 0.1),
        }  # fmt: skip

        def check(self, request, checks=checks):
            yield gr.skip()
            return checks[request.model]

        monkeypatch.setattr(Verdicts, "_check", check)
        verdicts = Verdicts(Callbacks(Backend(models, page.results, page.uploads)))
        *_, text = answers(verdicts.check_new(ME, *values(upload, **settings)))
        assert "<b>tabletop-layered</b> is closer than a still picture" in text and "knows" not in text
        assert not verdicts.callbacks.switched  # it is the visitor's choice
        assert f"<b>{offered}</b> comes closer still" in text if offered else "comes closer" not in text and "✓" in text
