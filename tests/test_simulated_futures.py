"""Futures scored against simulated ones: more simulation scores as the floor, and each fault shows in its figure."""

from __future__ import annotations

import pytest
import torch

from stt.api import Sampling
from stt.models.stt import STT
from tests.conftest import TINY_LAYERS, TINY_TIMESFORMER, built, lively
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluation.moving_mnist import held_out, prompts_of
from train.evaluation.protocols import controls_of
from train.evaluation.simulated_futures import simulated_futures


@pytest.fixture(scope="module")
def videos():
    """Clips of the tiny models' size that need no file."""
    return MovingMNIST(
        MovingMNISTConfig(image_size=16, digits=1, frames=5, strokes=1.0), None, "test", count_strokes=40
    )


@pytest.fixture(scope="module")
def clips(videos):
    return held_out(videos, 12)


def scored(monkeypatch, videos, clips, futures, count=16, horizon=12, classifier=None):
    """Figures of a model whose futures are `futures(clip, frames, count)` of each clip in turn."""
    turn = iter(clips)
    predict = lambda model, prompt, frames, _, seeds: futures(next(turn), frames, len(seeds))  # noqa: E731
    monkeypatch.setattr("train.evaluation.simulated_futures.predict", predict)
    return simulated_futures(None, prompts_of(videos, clips, classifier), Sampling(), count, horizon)


def perfect(videos, seed=1000):
    """More simulation, in the place of a model."""
    return lambda clip, frames, count: videos.futures(clip, 5, frames, count, seed=seed + int(clip.glyphs.sum()))[0]


def test_a_perfect_model_scores_as_the_floor_and_a_copy_does_not(videos, clips, monkeypatch):
    rows = scored(monkeypatch, videos, clips, perfect(videos))["per_horizon"]
    for name in ("model", "truth"):
        assert abs(rows[f"energy {name}"][-1]) < 0.1 and rows[f"coverage {name}"][-1] > 0.8
        assert rows[f"sharpness {name}"] == pytest.approx([1.0] * 12, abs=0.05)
        assert rows[f"spread ratio {name}"][-1] == pytest.approx(1, abs=0.1)
    assert rows["energy copy"][-1] > 0.9 and rows["spread ratio copy"][-1] == 0
    open_, certain = rows["open prompts"], rows["certain prompts"]
    assert [a + b for a, b in zip(open_, certain, strict=True)] == [12] * 12
    assert open_ == sorted(open_) and open_[-1] > 6
    for figure in ("energy", "energy (open prompts)", "spread ratio"):  # null where no prompt is open
        assert all(rows[f"{figure} model"][t] is None for t, n in enumerate(open_) if n == 0)


def test_a_model_that_spreads_where_simulated_futures_do_not_is_punished(videos, clips, monkeypatch):
    """The model is perfect where simulated futures differ, and elsewhere jitters by two pixels."""

    def jittery(clip, frames, count):
        futures = perfect(videos)(clip, frames, count)
        certain = (futures == futures[:1]).flatten(2).all(dim=2).all(dim=0)  # (T,)
        jitter = torch.stack([future.roll(2 * (k % 2), dims=-1) for k, future in enumerate(futures)])
        return torch.where(certain[:, None, None, None], jitter, futures)

    rows, best = (scored(monkeypatch, videos, clips, f)["per_horizon"] for f in (jittery, perfect(videos)))
    some = next(t for t, n in enumerate(rows["open prompts"]) if n > 2)
    assert rows["certain prompts"][some] > 2
    assert rows["energy (open prompts) model"][some] == best["energy (open prompts) model"][some]
    assert rows["energy model"][some] > best["energy model"][some] + 0.3
    assert rows["precision model"][some] < best["precision model"][some]
    assert rows["spread ratio model"][some] > 1.2 * best["spread ratio model"][some]
    assert rows["certain spread model"][0] > 0.05
    assert best["certain spread model"][0] == best["certain rms model"][0] == 0


def test_on_certain_prompts_a_model_is_held_against_the_one_future(videos, clips, monkeypatch):
    """A model whose black is 0.1 too bright and whose white as much too dark, on pixels from 0 to 1."""
    figures = scored(monkeypatch, videos, clips[:8], lambda *args: 0.8 * perfect(videos)(*args), horizon=2)
    rows = figures["per_horizon"]
    assert rows["certain rms model"] == pytest.approx([0.1, 0.1], abs=5e-3)
    assert rows["certain spread model"] == rows["certain rms truth"] == [0.0, 0.0]
    assert rows["certain rms copy"][0] > 0


def test_a_future_a_quarter_of_a_pixel_off_is_precise_and_one_that_is_two_off_is_not(monkeypatch):
    """On certain prompts of real size, whose neighbourhoods have no radius of their own."""
    videos = MovingMNIST(MovingMNISTConfig(digits=1, frames=5, strokes=1.0), None, "test", count_strokes=40)
    clips = held_out(videos, 8)
    for pixels, share in ((0.25, 1.0), (2, 0.0)):

        def shifted(*args, left=int(pixels), mix=pixels - int(pixels)):
            futures = perfect(videos)(*args)
            return futures.roll(left, -1) * (1 - mix) + futures.roll(left + 1, -1) * mix

        rows = scored(monkeypatch, videos, clips, shifted, count=4, horizon=1)["per_horizon"]
        assert rows["certain prompts"] == [8]
        assert rows["precision model"] == rows["coverage model"] == [share], pixels


def test_a_digit_that_comes_back_is_kept_to_the_end_and_one_that_is_gone_for_good_is_not(videos, clips, monkeypatch):
    """The classifier of this test sees the digits in every frame that is not black."""
    exact = lambda _, video, labels: (video + 1).flatten(2).amax(dim=2) > 1  # noqa: E731
    monkeypatch.setattr("train.evaluation.moving_mnist.classified_exactly", exact)

    def losing(clip, frames, count):
        futures = perfect(videos)(clip, frames, count).clone()
        futures[0, 3:] = -1  # for good
        futures[1, 3:-1] = -1  # except the last frame
        return futures

    figures = scored(monkeypatch, videos, clips[:3], losing, count=4, horizon=8, classifier=object())
    assert figures["kept to the end"] == {"digits copy": 1.0, "digits model": 0.75, "digits truth": 1.0}
    assert figures["per_horizon"]["digits model"] == [1.0] * 3 + [0.5] * 4 + [0.75]


def test_a_models_futures_get_a_figure_at_every_horizon(tiny, videos, clips):
    figures = simulated_futures(tiny, prompts_of(videos, clips[:4], None), Sampling(), count=4, horizon=6)
    rows = figures["per_horizon"]
    assert all(len(values) == 6 for values in rows.values())
    assert rows["energy model"][-1] > 0 and rows["sharpness model"][-1] > 0


def test_controls_of_an_stt_lose_what_its_transformer_learned_and_nothing_else():
    model = lively(STT(TINY_LAYERS)).eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    controls = controls_of(model)
    assert set(controls) == {"zero features", "untrained"}
    for control in controls.values():
        weights = control.state_dict()
        assert all(torch.equal(weights[name], t) for name, t in before.items() if name.startswith("segmenter."))
    tokens = torch.randn(1, 3, 1, 2, TINY_LAYERS.dim)
    assert not controls["zero features"].network(tokens, None).hidden.any()
    assert controls["untrained"].tokens.head.weight.abs().max() == 0 and model.tokens.head.weight.abs().max() > 0
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert controls_of(built(TINY_TIMESFORMER)) == {}
