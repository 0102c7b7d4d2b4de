"""The yardstick on the tabletop, on a tray that is drawn here; the pusher's tracker on the true one too."""

from __future__ import annotations

import colorsys
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stt.api import NO_CONDITION, Sampling
from stt.checkpoint import save
from stt.models.stt import STT, STTConfig
from tests.conftest import TINY, TINY_TOKENIZER
from tests.test_tabletop import why_not
from train import evaluate
from train.evaluation.metrics import SetDistances, energy, pooled
from train.evaluation.simulated_futures import against_truth
from train.evaluation.tabletop import Remembered, evaluate_tabletop, held_out_clips, moves, obedience, tabletop_prompts
from train.evaluation.tracking import find_pusher
from train.seeding import generator_for
from train.sim.tabletop.scene import PALETTE
from train.sim.tabletop.world import Tabletop, TabletopClip, TabletopConfig, to_video

HUES = [hue / 360 for hue in PALETTE.values()]


class Drawn:
    """Stands in for a Tabletop: three squares on gray, pushed around by a pusher of the true one's look, no physics."""

    def __init__(self, config: TabletopConfig | None = None, split: str = "test") -> None:
        self.config, self.split = config or TabletopConfig(), split
        self.simulated = 0

    def clip(self, seed: int, index: int) -> TabletopClip:
        rng = self._rng("clip", seed, index)
        colours = torch.from_numpy(rng.permutation(len(HUES))[:3])
        state = np.concatenate([[[32, 32]], rng.uniform(14, 50, size=(3, 2))])
        states, actions = [state], self._actions(rng, self.config.frames)
        for action in actions[:-1]:
            states.append(moved(states[-1], action))
        video = torch.stack([drawn(state, colours) for state in states])
        states = torch.from_numpy(np.stack(states))
        actions, none = torch.from_numpy(actions), torch.zeros(0)
        return TabletopClip(video, actions, none, states[:, 0], none, colours, states, seed, index)

    def futures(self, clip, at_frame, frames, count, seed):
        rngs = [self._rng("futures", clip.seed, clip.index, seed, k) for k in range(count)]
        return torch.stack([self.obeyed(clip, at_frame, self._actions(rng, frames)) for rng in rngs])

    def obeyed(self, clip, at_frame, actions):
        self.simulated += 1
        state, frames = clip.states[at_frame - 1].numpy(), []
        for action in np.asarray(actions):
            state = moved(state, action)
            frames.append(drawn(state, clip.colours))
        return torch.stack(frames)

    def pusher_pixels(self, clip):
        return clip.pusher.float()

    def _actions(self, rng, frames):
        """One way for all frames, with a jitter."""
        turn = rng.uniform(0, 2 * np.pi) + 0.3 * rng.normal(size=frames)
        return 0.9 * np.stack([np.cos(turn), np.sin(turn)], axis=1)

    def _rng(self, *words):
        return np.random.default_rng(generator_for(*words).initial_seed())


def moved(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Pusher and squares (4, 2) one frame later; squares go with a pusher that is near."""
    step = np.clip(state[0] + 2 * action, [10, 16], [54, 56]) - state[0]
    near = np.hypot(*(state - state[0]).T) < 6
    return np.clip(state + near[:, None] * step, 6, 58)


def drawn(state: np.ndarray, colours: torch.Tensor) -> torch.Tensor:
    """(3, 64, 64) in [-1, 1]: averaged down from pixels of half the side."""
    y, x = (np.mgrid[:128, :128].astype(np.float32) + 0.5) / 2 - 0.5
    frame = np.full((128, 128, 3), 0.55, np.float32)
    for (across, down), colour in zip(state[1:], colours, strict=True):
        frame[(abs(x - across) < 4) & (abs(y - down) < 4)] = colorsys.hsv_to_rgb(HUES[int(colour)], 0.9, 0.9)
    across, down = state[0]
    frame[np.hypot(x - across, y - down) < 2.8] = 0.9
    frame[(abs(x - across) < 1.2) & (y < down - 1.5) & (y > down - 10)] = 0.05
    small = np.round(255 * frame.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3)))
    return to_video(torch.from_numpy(small.astype(np.uint8)))


@pytest.fixture(scope="module")
def world():
    return Drawn()


@pytest.fixture(scope="module")
def clips(world):
    return held_out_clips(world, 6)


@pytest.fixture(scope="module")
def prompts(world, clips, tmp_path_factory):
    return tabletop_prompts(Remembered(world, tmp_path_factory.mktemp("simulated")), clips)


def stand_in(monkeypatch, clips, draw) -> SimpleNamespace:
    """In the place of a model: `draw` gets the prompt's clip, frames, condition and seeds, and gives the futures."""

    def predict(model, prompt, frames, sampling=None, seeds=(0,), condition=NO_CONDITION):
        clip = next(clip for clip in clips if torch.equal(clip.video[: len(prompt)], prompt))
        return draw(clip, frames, condition, list(seeds))

    for module in ("simulated_futures", "tabletop", "protocols"):
        monkeypatch.setattr(f"train.evaluation.{module}.predict", predict)
    return SimpleNamespace(knobs={"temperature", "actions"}, family="stand-in")


def colour_model(**fields) -> STT:
    """Small, random, of the tabletop's size."""
    sizes = {"image_size": 64, "channels": 3}
    tokenizer = TINY_TOKENIZER.to_dict() | sizes | {"patch": 8}
    return STT(STTConfig.from_dict(TINY.to_dict() | sizes | {"tokenizer": tokenizer} | fields)).eval()


# the pusher


def test_the_pusher_is_found_to_parts_of_a_pixel_and_none_where_there_is_none(world, clips):
    for clip in clips:
        found = find_pusher(clip.video)
        assert found.xy.shape == (30, 2) and found.seen.all()
        assert (found.xy - world.pusher_pixels(clip)).norm(dim=-1).mean() < 0.5
    assert not find_pusher(torch.full((2, 5, 3, 64, 64), 0.1)).seen.any()


def test_the_pusher_of_the_true_tabletop_is_found_within_a_pixel():
    if reason := why_not():
        pytest.skip(reason)
    tabletop = Tabletop(TabletopConfig(frames=20), "test")
    off, seen = [], []
    for clip in (tabletop.clip(seed=3, index=k) for k in range(4)):
        found = find_pusher(clip.video)
        off.append((found.xy - tabletop.pusher_pixels(clip)).norm(dim=-1))
        seen.append(found.seen)
    assert torch.stack(off).mean() < 0.6 and torch.stack(off).max() < 4
    assert torch.stack(seen).float().mean() > 0.97


# against the truth


def test_more_truth_scores_as_the_floor_and_keeps_its_objects_and_a_copy_misses_the_truth(
    world, clips, prompts, monkeypatch
):
    model = stand_in(monkeypatch, clips, lambda clip, frames, _, seeds: world.futures(clip, 5, frames, len(seeds), 9))
    rows = against_truth(model, prompts, Sampling(), count=8, horizon=12)["per_horizon"]
    for name in ("model", "truth"):
        assert abs(rows[f"energy {name}"][-1]) < 0.15 and rows[f"coverage {name}"][-1] > 0.8
    assert rows["energy copy"][-1] > 0.5
    assert rows["sharpness model"] == pytest.approx(rows["sharpness truth"], abs=0.05)
    assert rows["objects model"] == pytest.approx(rows["objects truth"], abs=0.05)
    assert rows["all objects copy"] == rows["objects copy"] == [1.0] * 12 and rows["new objects truth"] == [0.0] * 12


def test_futures_of_other_colours_are_far_and_show_new_objects(world, clips, prompts, monkeypatch):
    def recoloured(clip, frames, _, seeds):
        return world.futures(clip, 5, frames, len(seeds), 9)[:, :, [1, 2, 0]]  # as bright, of other hues

    model = stand_in(monkeypatch, clips, recoloured)
    rows = against_truth(model, prompts, Sampling(), count=8, horizon=4)["per_horizon"]
    assert rows["energy model"][-1] > 2 and rows["precision model"][-1] == 0
    assert rows["objects model"][-1] < 0.9 and rows["new objects model"][-1] > 0.5


def test_the_distance_sees_colours_of_one_brightness():
    red, green = torch.zeros(2, 4, 1, 3, 16, 16)
    red[..., 0, :, :], green[..., 1, :, :] = 1, 1
    assert torch.equal(red.mean(dim=2), green.mean(dim=2))
    assert pooled(red, side=4).shape == (4, 1, 48)
    assert energy(SetDistances.of(pooled(red), pooled(green)))[0] > 1


def test_what_was_simulated_is_read_from_then_on_and_is_the_same_to_the_bit(tmp_path):
    world = Drawn(TabletopConfig(frames=6))
    kept = Remembered(world, tmp_path)
    for _ in range(2):
        clip, true = kept.clip(2024, 0), world.clip(2024, 0)
        assert all(torch.equal(a, b) for a, b in zip(clip[:-2], true[:-2], strict=True)) and clip[-2:] == true[-2:]
        assert torch.equal(kept.futures(clip, 5, 3, 2, seed=0), world.futures(clip, 5, 3, 2, seed=0))
        assert torch.equal(kept.pusher_pixels(clip), world.pusher_pixels(clip))
    again = Remembered(Drawn(TabletopConfig(frames=6)), tmp_path)
    assert torch.equal(again.futures(again.clip(2024, 0), 5, 3, 2, seed=0), kept.futures(clip, 5, 3, 2, seed=0))
    assert again.tabletop.simulated == 0
    other = Remembered(Drawn(TabletopConfig(frames=7)), tmp_path)
    assert len(other.clip(2024, 0).video) == 7


# where the pusher goes


def test_more_truth_moves_the_pusher_as_the_truth_does_and_what_stays_does_not(world, clips, prompts, monkeypatch):
    model = stand_in(monkeypatch, clips, lambda clip, frames, _, seeds: world.futures(clip, 5, frames, len(seeds), 9))
    rows = moves(model, prompts, Sampling(), count=8, horizon=8)["per_horizon"]
    assert abs(rows["pusher energy model"][-1]) < 0.25 and rows["pusher energy copy"][-1] > 0.4
    assert rows["pusher spread model"][-1] == pytest.approx(rows["pusher spread truth"][-1], rel=0.25)
    assert rows["pusher spread truth"][-1] > 5 and rows["pusher spread copy"] == [0.0] * 8
    assert min(rows["pusher seen model"]) > 0.9


def test_a_model_that_loses_the_pusher_has_no_spread_rather_than_a_large_one(clips, prompts, monkeypatch):
    def noise(clip, frames, _, seeds):
        return 0.2 * torch.rand(len(seeds), frames, 3, 64, 64)

    rows = moves(stand_in(monkeypatch, clips, noise), prompts, Sampling(), count=4, horizon=3)["per_horizon"]
    assert rows["pusher seen model"] == [0.0] * 3 and rows["pusher spread model"] == [None] * 3
    assert rows["pusher energy model"][0] > 1


# obedience


def scored(monkeypatch, world, clips, obeys: bool):
    def draw(clip, frames, condition, seeds):
        if condition.actions and obeys:
            assert len(condition.actions) == frames
            return world.obeyed(clip, 5, condition.actions)[None].expand(len(seeds), -1, -1, -1, -1)
        return world.futures(clip, 5, frames, len(seeds), 9)

    return obedience(stand_in(monkeypatch, clips, draw), world, clips[:3], Sampling(), horizon=8)


def test_a_model_that_obeys_is_as_near_as_the_tracker_and_one_that_does_not_as_far_as_any_future(
    world, clips, monkeypatch
):
    found = scored(monkeypatch, world, clips, obeys=True)
    rows, mean = found["per_horizon"], found["mean"]
    assert rows["psnr told"] == [100.0] * 8 and rows["ssim told"][-1] == pytest.approx(1, abs=1e-3)
    assert rows["pusher off told"] == rows["pusher off tracker"] and mean["pusher off tracker"] < 0.5
    assert mean["pusher off straight on"] < 0.5 and rows["pusher off straight copy"][-1] > 5
    assert mean["pusher off free"] > 5 and mean["psnr free"] < 40 and rows["pusher off copy"][-1] > 5
    mean = scored(monkeypatch, world, clips, obeys=False)["mean"]
    assert mean["pusher off straight on"] > 5
    assert mean["pusher off told"] == mean["pusher off free"] and mean["psnr told"] == mean["psnr free"]


def test_a_model_that_takes_no_actions_has_no_obedience(world, clips):
    with pytest.raises(ValueError, match="takes no actions"):
        obedience(colour_model(), world, clips, Sampling())


# the command


@pytest.fixture(scope="module")
def remembered(tmp_path_factory):
    return Remembered(Drawn(), tmp_path_factory.mktemp("simulated"))


def test_every_figure_of_the_tabletop_has_as_many_horizons_in_the_layout_of_the_digits(remembered):
    words = "--model m --clips 2 --prompts 1 --futures 2 --sets 4 --device cpu"
    args = evaluate.parser().parse_args(words.split())
    scores = evaluate_tabletop(colour_model(actions=("push right", "push up")), remembered, args)
    assert set(scores) == {"tokenizer", "best_of", "truth", "spread", "surprise", "moves", "obedience"}
    for name in ("best_of", "truth", "moves", "obedience"):
        assert all(len(values) == 20 for values in scores[name]["per_horizon"].values())
    assert all("seed 2024" in figures["protocol"] for figures in scores.values())
    assert "| objects model |" in evaluate.markdown({"model": "m"} | scores)


def test_what_a_model_cannot_be_asked_is_left_out(remembered):
    args = evaluate.parser().parse_args(["--model", "m", "--only", "obedience", "classes", "--prompts", "1"])
    assert evaluate_tabletop(colour_model(), remembered, args) == {}


def test_a_sheet_has_the_truth_three_futures_and_one_for_each_way_that_is_asked(remembered):
    args = evaluate.parser().parse_args(["--model", "m", "--device", "cpu"])
    for actions, rows in (((), 4), (("push right", "push up"), 6)):
        picture = evaluate.tabletop_sheet(colour_model(actions=actions), remembered, args)
        assert picture.shape == (4 * rows * 132, 13 * 132, 3)


def test_the_world_is_the_models_own_unless_told(monkeypatch, tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    save(colour_model(), path, card={"world": {"kind": "tabletop"}})
    monkeypatch.setattr(evaluate, "on_digits", lambda *_: ({"spread": {"protocol": "digits"}}, None))
    monkeypatch.setattr(evaluate, "on_tabletop", lambda *_: ({"spread": {"protocol": "tabletop"}}, None))
    for words, said in (([], "tabletop"), (["--world", "digits"], "digits")):
        monkeypatch.setattr(sys, "argv", ["train.evaluate", "--model", str(path), *words])
        evaluate.main()
        assert said in capsys.readouterr().out
