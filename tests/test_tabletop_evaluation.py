"""Protocols of the tabletop, on one without physics."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stt.api import NO_CONDITION, Sampling
from tests.tabletop_fixtures import FakeTabletop, colour_model
from train.evaluate import EVALUATIONS, evaluation_of, parser
from train.evaluation.manipulation import (
    SimulatedFuturesCache,
    action_following,
    held_out,
    position_distribution,
    prompts_of,
)
from train.evaluation.simulated_futures import simulated_futures
from train.evaluation.tabletop import PUSHER, straight_line
from train.sim.tabletop.world import TabletopConfig


@pytest.fixture(scope="module")
def tabletop():
    return FakeTabletop(TabletopConfig(frames=13))


@pytest.fixture(scope="module")
def clips(tabletop):
    return held_out(tabletop, 4)


@pytest.fixture(scope="module")
def prompts(tabletop, clips, tmp_path_factory):
    return prompts_of(SimulatedFuturesCache(tabletop, tmp_path_factory.mktemp("simulated")), clips)


def stand_in(monkeypatch, clips, futures) -> SimpleNamespace:
    """A model whose futures are `futures(clip, frames, condition, seeds)` of the prompt's clip."""

    def predict(model, prompt, frames, sampling=None, seeds=(0,), condition=NO_CONDITION):
        clip = next(clip for clip in clips if torch.equal(clip.video[: len(prompt)], prompt))
        return futures(clip, frames, condition, list(seeds))

    for module in ("simulated_futures", "manipulation", "protocols"):
        monkeypatch.setattr(f"train.evaluation.{module}.predict", predict)
    return SimpleNamespace(knobs={"temperature", "actions"}, family="stand-in")


@pytest.fixture
def perfect(monkeypatch, tabletop, clips):
    """More simulation, in the place of a model."""
    return stand_in(monkeypatch, clips, lambda clip, n, _, seeds: tabletop.futures(clip, 5, n, len(seeds), 9))


# ---- simulated futures -------------------------------------------------------------------------------


def test_a_perfect_model_scores_as_the_floor_and_keeps_its_objects_and_a_copy_misses_the_truth(prompts, perfect):
    rows = simulated_futures(perfect, prompts, Sampling(), count=8, horizon=8)["per_horizon"]
    for name in ("model", "truth"):
        assert abs(rows[f"energy {name}"][-1]) < 0.2 and rows[f"coverage {name}"][-1] > 0.8
    assert rows["energy copy"][-1] > 0.5
    assert rows["sharpness model"] == pytest.approx(rows["sharpness truth"], abs=0.05)
    assert rows["objects model"] == pytest.approx(rows["objects truth"], abs=0.05)
    assert rows["all objects copy"] == rows["objects copy"] == [1.0] * 8 and rows["new objects truth"] == [0.0] * 8


def test_futures_of_other_colours_are_far_and_show_new_objects(tabletop, clips, prompts, monkeypatch):
    def recoloured(clip, frames, _, seeds):
        return tabletop.futures(clip, 5, frames, len(seeds), 9)[:, :, [1, 2, 0]]  # as bright, of other hues

    model = stand_in(monkeypatch, clips, recoloured)
    rows = simulated_futures(model, prompts, Sampling(), count=6, horizon=3)["per_horizon"]
    assert rows["energy model"][-1] > 2 and rows["precision model"][-1] == 0
    assert rows["objects model"][-1] < 0.9 and rows["new objects model"][-1] > 0.5


def test_the_cache_simulates_once_and_is_exact_to_the_bit(tmp_path):
    tabletop = FakeTabletop(TabletopConfig(frames=6))
    cache = SimulatedFuturesCache(tabletop, tmp_path / "new")
    for _ in range(2):
        clip, true = cache.clip(2024, 0), tabletop.clip(2024, 0)
        assert all(torch.equal(a, b) for a, b in zip(clip[:-2], true[:-2], strict=True)) and clip[-2:] == true[-2:]
        assert torch.equal(cache.futures(clip, 5, 3, 2, seed=0), tabletop.futures(clip, 5, 3, 2, seed=0))
        assert torch.equal(cache.agent_pixels(clip), tabletop.agent_pixels(clip))
    again = SimulatedFuturesCache(FakeTabletop(TabletopConfig(frames=6)), tmp_path / "new")
    assert torch.equal(again.futures(again.clip(2024, 0), 5, 3, 2, seed=0), cache.futures(clip, 5, 3, 2, seed=0))
    assert again.world.simulated == 0
    other = SimulatedFuturesCache(FakeTabletop(TabletopConfig(frames=7)), tmp_path / "new")
    assert len(other.clip(2024, 0).video) == 7


# ---- the pusher --------------------------------------------------------------------------------------


def test_a_perfect_model_moves_the_pusher_as_the_simulator_does_and_a_copy_does_not(prompts, perfect):
    rows = position_distribution(perfect, prompts, Sampling(), PUSHER, count=8, horizon=6)["per_horizon"]
    assert abs(rows["pusher energy model"][-1]) < 0.25 and rows["pusher energy copy"][-1] > 0.4
    assert rows["pusher spread model"][-1] == pytest.approx(rows["pusher spread truth"][-1], rel=0.25)
    assert rows["pusher spread truth"][-1] > 5 and rows["pusher spread copy"] == [0.0] * 6
    assert min(rows["pusher visible model"]) > 0.9


def test_a_model_that_loses_the_pusher_has_no_spread_rather_than_a_large_one(clips, prompts, monkeypatch):
    def noise(clip, frames, _, seeds):
        return 0.2 * torch.rand(len(seeds), frames, 3, 64, 64)

    model = stand_in(monkeypatch, clips, noise)
    rows = position_distribution(model, prompts, Sampling(), PUSHER, count=4, horizon=3)["per_horizon"]
    assert rows["pusher visible model"] == [0.0] * 3 and rows["pusher spread model"] == [None] * 3
    assert rows["pusher energy model"][0] > 1


def test_a_model_that_follows_actions_is_as_near_as_the_tracker_and_one_that_ignores_them_is_not(
    tabletop, clips, monkeypatch
):
    def scored(follows: bool):
        def futures(clip, frames, condition, seeds):
            if condition.actions and follows:
                assert len(condition.actions) == frames
                return tabletop.with_actions(clip, 5, condition.actions)[None].expand(len(seeds), -1, -1, -1, -1)
            return tabletop.futures(clip, 5, frames, len(seeds), 9)

        model, others = stand_in(monkeypatch, clips, futures), [straight_line(clip.index, 6) for clip in clips[:2]]
        return action_following(model, tabletop, clips[:2], Sampling(), PUSHER, others, horizon=6)

    figures = scored(follows=True)
    rows, mean = figures["per_horizon"], figures["mean"]
    assert rows["psnr conditioned"] == [100.0] * 6 and rows["ssim conditioned"][-1] == pytest.approx(1, abs=1e-3)
    assert rows["pusher error conditioned"] == rows["pusher error tracker"] and mean["pusher error tracker"] < 0.5
    assert mean["pusher error other actions"] < 0.5 and rows["pusher error other actions copy"][-1] > 5
    assert mean["pusher error unconditional"] > 5 and mean["psnr unconditional"] < 40
    assert rows["pusher error copy"][-1] > 5
    assert mean["pusher direction conditioned"] == mean["pusher direction tracker"] > 0.95
    assert mean["pusher direction other actions"] == 1 and mean["pusher direction unconditional"] < 0.8
    mean = scored(follows=False)["mean"]
    assert mean["pusher error other actions"] > 5 and mean["pusher direction other actions"] < 0.8
    assert mean["psnr conditioned"] == mean["psnr unconditional"]
    assert mean["pusher error conditioned"] == mean["pusher error unconditional"]
    monkeypatch.undo()
    others = [straight_line(clip.index, 8) for clip in clips]
    with pytest.raises(ValueError, match="takes none"):
        action_following(colour_model(), tabletop, clips, Sampling(), PUSHER, others, horizon=8)


# ---- the command -------------------------------------------------------------------------------------


@pytest.fixture
def evaluation(tmp_path, monkeypatch):
    """Of a model, by flags of the command, on the tabletop without physics."""
    monkeypatch.setattr("train.evaluation.tabletop.Tabletop", FakeTabletop)
    (tmp_path / "x.pt").touch()  # so that MuJoCo is not looked for

    def evaluation(model, *words: str):
        words = ["--model", "m", "--world", "tabletop", "--device", "cpu", "--simulated", str(tmp_path), *words]
        return evaluation_of(model, parser().parse_args([*words, "--clips", "1", "--prompts", "1"]))

    return evaluation


def test_every_figure_of_the_tabletop_has_as_many_horizons_in_the_layout_of_the_digits(evaluation):
    model = colour_model(actions=("push right", "push up"))
    one = evaluation(model, "--futures", "2", "--sets", "4")
    scores = one.run(one.args.only)
    horizons = {"best_of", "simulated_futures", "pusher_distribution", "action_following"}
    assert set(scores) == horizons | {"tokenizer", "spread", "surprise"}
    for name in horizons:
        assert all(len(values) == 20 for values in scores[name]["per_horizon"].values()), name
    assert all("seed 2024" in figures["protocol"] for figures in scores.values())
    assert "action_following" not in evaluation(colour_model()).protocols()


def test_a_sheet_has_the_truth_three_futures_and_one_for_each_way_to_push(evaluation):
    for actions, rows in (((), 4), (("push right", "push up"), 6)):
        assert evaluation(colour_model(actions=actions)).sheet().shape == (4 * rows * 132, 13 * 132, 3)


def test_the_data_set_is_the_models_own_unless_a_flag_says_otherwise(monkeypatch, tmp_path):
    chosen = {name: lambda model, args, world, name=name: name for name in EVALUATIONS}
    monkeypatch.setattr("train.evaluate.EVALUATIONS", chosen)
    (tmp_path / "x.pt").touch()
    for kind, words, expected in (
        ("tabletop", [], "tabletop"),
        ("robot", [], "robot"),
        ("tabletop", ["--world", "moving_mnist"], "moving_mnist"),
        ("mixed", [], "moving_mnist"),
        ("folder", [], "videos"),
        ("stochastic", ["--data", "clips"], "videos"),
    ):
        args = parser().parse_args(["--model", "m", "--simulated", str(tmp_path), *words])
        assert evaluation_of(SimpleNamespace(card={"world": {"kind": kind}}), args) == expected
