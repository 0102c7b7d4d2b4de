"""Filled gaps and segmentations are scored against the truth, and beside what needs no network."""

from __future__ import annotations

import pytest
import torch

from stt.api import Sampling
from stt.metrics import blended, frame_mse, unit
from tests.conftest import TINY_CONFIGS, built
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluate import PROTOCOLS, evaluate, markdown, parser
from train.evaluation import interpolation as scoring
from train.evaluation.interpolation import interpolation, segmentation
from train.evaluation.optical_flow import flowed
from train.evaluation.protocols import held_out


@pytest.fixture(scope="module")
def videos():
    world = MovingMNISTConfig(image_size=16, digits=1, frames=12, strokes=1.0)
    return MovingMNIST(world, None, "test", count_strokes=40)


def blob(x: float, size: int = 64) -> torch.Tensor:
    """A soft round spot at (x, 30), (1, size, size) on [0, 1]."""
    at = torch.arange(size, dtype=torch.float32)
    return torch.exp(-((at[None] - x) ** 2 + (at[:, None] - 30) ** 2) / 60)[None]


def test_a_blend_goes_evenly_from_one_end_to_the_other():
    first, last = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    assert blended(first, last, 3).mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.25, 0.5, 0.75])


def test_optical_flow_moves_what_a_blend_doubles():
    truth = torch.stack([blob(24 + 2 * t) for t in range(1, 4)])
    ends = blob(24), blob(32)
    moved, mixed = (frame_mse(way(*ends, 3), truth) for way in (flowed, blended))
    assert (moved < 0.1 * mixed).all()


def test_flow_between_equal_frames_changes_nothing():
    torch.testing.assert_close(flowed(blob(20), blob(20), 2), blob(20).expand(2, -1, -1, -1), atol=1e-5, rtol=0)


@pytest.fixture
def model():
    return built(TINY_CONFIGS["transframer, maps"]).eval()


def test_the_truth_fills_a_gap_without_error_and_what_needs_no_network_does_not(videos, model, monkeypatch):
    clips = held_out(videos, 3)
    truths = iter(clip.video[0, 4:8] for clip in clips)
    monkeypatch.setattr(
        scoring.stt,
        "between",
        lambda model, before, after, frames, *_: (f[None].repeat(2, 1, 1, 1) for f in next(truths)),
    )
    rows = interpolation(model, clips, None, Sampling(), count=2, frames=4)["per_horizon"]
    assert rows["mse best"] == rows["mse mean"] == [0] * 4 and rows["sharpness model"] == [1] * 4
    assert min(rows["mse blend"]) > 0 and min(rows["mse flow"]) > 0 and "mse truth" not in rows


def test_a_model_fills_gaps_from_both_sides(videos, model):
    figures = interpolation(model, held_out(videos, 2), None, Sampling(), count=2, frames=3)
    assert {len(values) for values in figures["per_horizon"].values()} == {3} and figures["seconds_per_frame"] > 0
    assert all(value is not None for values in figures["per_horizon"].values() for value in values)


def test_a_segmentation_is_perfect_if_it_is_the_truth_and_names_nothing_if_it_is_empty(videos, model, monkeypatch):
    clips = held_out(videos, 4)
    wanted = [videos.segmentation(clip)[:, 3 + ahead] for ahead in scoring.SEEN for clip in clips]
    for named in (1.0, 0.0):
        answers = iter([truth if named else torch.full_like(truth, -1) for truth in wanted])
        monkeypatch.setattr(model, "frame", lambda *_, ask, answers=answers: next(answers)[None])
        figures = segmentation(model, videos, clips, Sampling())
        for ahead in ("of the last frame shown", "1 ahead", "3 ahead"):
            assert figures[f"{ahead}, model"]["ink named"] == named
            assert (figures[f"{ahead}, model"]["mean IoU"] == 1) == (named == 1)
            assert figures[f"{ahead}, model"]["ink IoU"] == named
            assert 0 < figures[f"{ahead}, codec"]["mean IoU"] <= 1


def test_what_a_model_draws_is_held_against_the_frame_that_was_asked_for(videos, model, monkeypatch):
    asked = []
    draw = model.frame
    monkeypatch.setattr(model, "frame", lambda context, offsets, *rest, **more: (
        asked.append(offsets.tolist()), draw(context, offsets, *rest, **more))[1])  # fmt: skip
    clips = held_out(videos, 1)
    segmentation(model, videos, clips, Sampling())
    assert asked == [[-3, -2, -1, 0], [-4, -3, -2, -1], [-6, -5, -4, -3]]
    assert unit(videos.segmentation(clips[0])).max() == pytest.approx((int(clips[0].labels) + 1) / 10)


def test_only_models_that_can_are_asked_for_gaps_and_maps():
    args = parser().parse_args(["--model", "m", "--only", "interpolation", "segmentation", "--strokes", "1"])
    assert {"interpolation", "segmentation"} <= set(PROTOCOLS)
    assert evaluate(built(TINY_CONFIGS["stt"]).eval(), args, digits=1) == {}


def test_the_tables_hold_a_row_for_each_segmentation():
    figures = {"protocol": "how", "1 ahead, model": {"mean IoU": 0.5, "ink named": 0.25}}
    assert "| 1 ahead, model | 0.5 | 0.25 |" in markdown({"model": "m", "segmentation": figures})
