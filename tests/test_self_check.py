"""Whether a model knows a clip: by the clip's own last frames, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest

import stt
from stt.request import Request
from stt.self_check import MIN_FRAMES, SelfCheck, self_check
from stt.ui.backend import Backend
from stt.ui.callbacks import Callbacks
from stt.ui.verdict import Verdicts
from tests.page_fixtures import values
from tests.ui_fixtures import moving_dot
from tests.video_fixtures import PLAIN, make

ASSETS = Path(__file__).parent.parent / "assets"
DIGITS, TABLETOP = ("digits-stt", "digits-timesformer"), ("tabletop-layered",)


@pytest.fixture(scope="module")
def shipped():
    return {name: stt.load(ASSETS / f"models/{name}.safetensors") for name in (*DIGITS, *TABLETOP)}


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


def test_models_know_their_own_examples_and_neither_each_others_nor_test_patterns(shipped, patterns):
    digits, tabletop = (ASSETS / f"prompts/{name}.mp4" for name in ("pair-nine-and-six", "disc-onto-sphere"))
    for name, model in shipped.items():
        own, other = (digits, tabletop) if name in DIGITS else (tabletop, digits)
        assert check(model, own).passes(model.card), name
        for clip in (other, *patterns):
            assert not check(model, clip).passes(model.card), (name, clip.stem)


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
        *_, text = verdicts.check(*values(upload, model=model, **settings))
        return text

    tabletop = ASSETS / "prompts/disc-onto-sphere.mp4"
    assert "<b>tabletop-layered</b> knows such clips" in verdict(tabletop, "tabletop-layered")
    text = verdict(tabletop, "digits-stt")
    assert "does not know such clips" in text and 'data-model="tabletop-layered"' in text
    text = verdict(patterns[0], "digits-stt")
    assert "No model here does" in text and "train.predictor --preset videos/stt/cpu" in text
    assert "Too short" in verdict(moving_dot(page.uploads / "short.mp4", frames=3), "digits-stt")
    *_, text = verdicts.check(*values(None, model="digits-stt"))
    assert text == ""
