"""Filled gaps and segmentations are scored against the truth, beside simple predictions."""

from __future__ import annotations

import pytest
import torch

from stt.api import Sampling
from stt.metrics import blended, frame_mse, unit
from tests.conftest import TINY_CONFIGS, built
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluation import interpolation as scoring
from train.evaluation.interpolation import interpolation, segmentation
from train.evaluation.moving_mnist import held_out
from train.evaluation.optical_flow import interpolated


@pytest.fixture(scope="module")
def videos():
    config = MovingMNISTConfig(image_size=16, digits=1, frames=12, strokes=1.0)
    return MovingMNIST(config, None, "test", count_strokes=40)


@pytest.fixture
def model():
    return built(TINY_CONFIGS["transframer, maps"]).eval()


def blob(x: float, size: int = 64) -> torch.Tensor:
    """A soft round spot at (x, 30), (1, size, size) on [0, 1]."""
    at = torch.arange(size, dtype=torch.float32)
    return torch.exp(-((at[None] - x) ** 2 + (at[:, None] - 30) ** 2) / 60)[None]


def test_optical_flow_moves_what_a_blend_doubles_and_changes_nothing_between_equal_frames():
    true = torch.stack([blob(24 + 2 * t) for t in range(1, 4)])
    moved, mixed = (frame_mse(way(blob(24), blob(32), 3), true) for way in (interpolated, blended))
    assert (moved < 0.1 * mixed).all()
    still = interpolated(blob(20), blob(20), 2)
    torch.testing.assert_close(still, blob(20).expand(2, -1, -1, -1), atol=1e-5, rtol=0)
    ends = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    assert blended(*ends, 3).mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.25, 0.5, 0.75])


def test_the_truth_fills_a_gap_without_error_and_simple_predictions_do_not(videos, model, monkeypatch):
    clips = held_out(videos, 3)
    gaps = iter(clip.video[0, 4:8] for clip in clips)
    between = lambda *_: (frame[None].repeat(2, 1, 1, 1) for frame in next(gaps))  # noqa: E731
    monkeypatch.setattr(scoring.stt, "between", between)
    rows = interpolation(model, clips, None, Sampling(), count=2, frames=4)["per_horizon"]
    assert rows["mse best"] == rows["mse mean"] == [0] * 4 and rows["sharpness model"] == [1] * 4
    assert min(rows["mse blend"]) > 0 and min(rows["mse flow"]) > 0 and "mse truth" not in rows


def test_a_model_fills_gaps_from_both_sides(videos, model):
    figures = interpolation(model, held_out(videos, 2), None, Sampling(), count=2, frames=3)
    assert {len(values) for values in figures["per_horizon"].values()} == {3} and figures["seconds_per_frame"] > 0
    assert all(value is not None for values in figures["per_horizon"].values() for value in values)


def test_a_segmentation_is_perfect_if_it_is_the_truth_and_has_no_digits_if_it_is_empty(videos, model, monkeypatch):
    clips = held_out(videos, 4)
    truths = [videos.segmentation(clip)[:, 3 + ahead] for ahead in scoring.AHEAD for clip in clips]
    for score in (1.0, 0.0):
        answers = iter([true if score else torch.full_like(true, -1) for true in truths])
        monkeypatch.setattr(model, "frame", lambda *_, map_name, answers=answers: next(answers)[None])
        figures = segmentation(model, videos, clips, Sampling())
        for ahead in ("of the last frame shown", "1 ahead", "3 ahead"):
            scores = figures[f"{ahead}, model"]
            assert scores["ink accuracy"] == scores["ink IoU"] == score
            assert (scores["mean IoU"] == 1) == (score == 1)
            assert 0 < figures[f"{ahead}, codec"]["mean IoU"] <= 1


def test_a_segmentation_is_predicted_of_the_frame_that_it_is_scored_on(videos, model, monkeypatch):
    offsets, frame = [], model.frame

    def spy(context, relative, *rest, **more):
        offsets.append(relative.tolist())
        return frame(context, relative, *rest, **more)

    monkeypatch.setattr(model, "frame", spy)
    clips = held_out(videos, 1)
    segmentation(model, videos, clips, Sampling())
    assert offsets == [[-3, -2, -1, 0], [-4, -3, -2, -1], [-6, -5, -4, -3]]
    assert unit(videos.segmentation(clips[0])).max() == pytest.approx((int(clips[0].labels) + 1) / 10)
