"""The clips and results that come with the app belong together, and to the weights beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import stt
from stt.api import Sampling
from stt.checkpoint import name_of, read_header, weights_hash
from stt.metrics import unit
from stt.model_card import about
from stt.report import UNUSUAL
from stt.request import usual_frames
from stt.results import Result
from stt.video import read_clip
from tests.robot_fixtures import why_not as why_not_robot
from tests.tabletop_fixtures import why_not
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluation.moving_mnist import held_out, prompts_of
from train.evaluation.protocols import controls_of
from train.evaluation.simulated_futures import simulated_futures
from train.make_examples import (
    EXAMPLES,
    REAL_EXAMPLES,
    ROBOT_EXAMPLES,
    TABLETOP_EXAMPLES,
    clip_of,
    result,
    robot_clip,
    tabletop_clip,
)

ASSETS = Path(__file__).parent.parent / "assets"
MODELS = {weights_hash(path): path for path in (ASSETS / "models").glob("*.safetensors")}


NAMES = sorted([*(prompt.name for prompt in EXAMPLES), *TABLETOP_EXAMPLES, *ROBOT_EXAMPLES, *REAL_EXAMPLES])
RESULTS = sorted(ASSETS.glob("results/*.npz"))


def clip_file(name: str) -> Path:
    return ASSETS / f"prompts/{name}.mp4"


def test_every_clip_has_a_result_every_result_its_clip_and_together_they_are_small():
    assert sorted(path.name for path in (ASSETS / "prompts").glob("*.mp4")) == [f"{name}.mp4" for name in NAMES]
    assert {path.stem.partition("--")[0] for path in RESULTS} == set(NAMES)
    assert sum(path.stat().st_size for path in RESULTS) < 12_000_000


def test_every_model_says_what_it_knows_and_its_example_has_its_result():
    for path in MODELS.values():
        card = read_header(path)["card"]
        facts, shown = about(card), {file.stem for file in RESULTS if file.stem.endswith(f"--{path.stem}")}
        assert facts.world and facts.knows.endswith("."), path.stem
        assert not shown or f"{facts.example}--{path.stem}" in shown and card["self_check"]["error"] > 0, path.stem


def test_the_weights_that_ship_are_small_enough_to_travel():
    sizes = [path.stat().st_size for path in ASSETS.rglob("*.safetensors")]
    assert max(sizes) <= 16 * 2**20 and sum(sizes) <= 36 * 2**20


@pytest.mark.parametrize("prompt", EXAMPLES, ids=lambda prompt: prompt.name)
def test_a_clip_is_the_one_that_is_drawn(prompt):
    shown = read_clip(clip_file(prompt.name), size=64, channels=1).video
    assert shown.shape == (prompt.frames, 1, 64, 64)
    assert (shown - clip_of(prompt)[0]).abs().mean() < 0.01


@pytest.mark.parametrize("name", TABLETOP_EXAMPLES)
def test_a_clip_of_the_tabletop_is_the_one_that_is_simulated(name):
    if reason := why_not():
        pytest.skip(reason)
    shown = read_clip(clip_file(name), size=64, channels=3).video
    assert shown.shape == (30, 3, 64, 64)
    assert (shown - tabletop_clip(TABLETOP_EXAMPLES[name])[0]).abs().mean() < 0.03


def test_a_clip_of_the_robot_is_the_one_that_is_simulated():
    if reason := why_not_robot():
        pytest.skip(reason)
    name, index = next(iter(ROBOT_EXAMPLES.items()))
    shown = read_clip(clip_file(name), size=128, channels=3).video
    assert shown.shape == (30, 3, 128, 128)
    assert (shown - robot_clip(index)[0]).abs().mean() < 0.03


def test_a_future_of_the_tabletop_alone_equals_the_same_one_in_a_batch():
    model = stt.load(ASSETS / "models/tabletop-layered.safetensors")
    prompt = read_clip(clip_file(next(iter(TABLETOP_EXAMPLES))), size=64, channels=3).video[:5]
    together, alone = (stt.predict(model, prompt, 10, seeds=seeds) for seeds in ([0, 1, 2, 3], [2]))
    torch.testing.assert_close(together[2], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_result_belongs_to_its_clip_and_to_weights_that_ship(file):
    name, _, model = file.stem.partition("--")
    clip, run = clip_file(name), Result.load(file)
    assert run.report["clip"] == {"name": clip.name, "sha256": hashlib.sha256(clip.read_bytes()).hexdigest()}
    path = MODELS[run.report["weights"]]
    assert run.report["settings"]["model"] == name_of(path) == model
    loaded, frames = stt.load(path), len(read_clip(clip, size=64, channels=3).video)
    c, size = loaded.config, (216, 384) if loaded.whole_frames else (64, 64)
    assert run.report["settings"]["prompt_frames"] == min(frames, c.context_frames) == len(run.context)
    assert run.futures.shape == (len(run.report["names"]), usual_frames(loaded), *size, 3)
    assert len(run.truth) == min(frames - len(run.context), usual_frames(loaded))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_no_result_of_an_example_says_that_its_clip_is_unlike_the_training_data(file):
    """All examples are held-out clips of what the model learned."""
    assert not any("unlike" in note for note in Result.load(file).report["notes"])


def test_a_cut_in_a_clip_of_the_robot_is_unlike_the_training_data():
    model = stt.load(ASSETS / "models/robot-stt.safetensors")
    before, after = (
        read_clip(ASSETS / f"prompts/{name}.mp4", size=64, channels=3).video for name in ("lifted-off", "three-things")
    )
    bits = model.surprise(torch.cat([before[:6], after[6:12]])[None]).bits[0]
    limit = UNUSUAL * model.card["scores"]["surprise"]["largest_p99"]
    assert (bits > limit).nonzero().flatten().tolist() == [5]  # the first frame after the cut


@pytest.mark.parametrize("name", ["pair-nine-and-six--digits-stt", "block-to-the-wall--tabletop-layered"])
def test_a_result_is_what_the_app_would_compute(name):
    clip, run = clip_file(name.partition("--")[0]), Result.load(ASSETS / f"results/{name}.npz")
    path = MODELS[run.report["weights"]]
    again = result(clip, len(run.context) + len(run.truth), stt.load(path), name_of(path))
    assert again.report["settings"] == run.report["settings"] and again.report.keys() == run.report.keys()
    assert np.array_equal(again.context, run.context)
    apart = np.abs(again.futures.astype(int) - run.futures)
    assert (apart <= 1).mean() >= 0.999


def test_without_its_transformers_features_the_shipped_stt_predicts_clearly_worse():
    """Energy distance to the true futures of drawn digits, over frames 6 to 10: several times as large."""
    model = stt.load(ASSETS / "models/digits-stt.safetensors")
    videos = MovingMNIST(MovingMNISTConfig(frames=5, strokes=1.0), None, "test", count_strokes=100)
    prompts = prompts_of(videos, held_out(videos, 8), None)
    controls = {"zero features": controls_of(model)["zero features"]}
    rows = simulated_futures(model, prompts, Sampling(), 8, 10, controls)["per_horizon"]
    own, without = (sum(rows[f"energy {name}"][5:]) for name in ("model", "zero features"))
    assert without > 3 * own


def test_two_drawn_digits_stay_two_to_the_end_in_every_future():
    """As much ink as the prompt shows, but for what one digit hides of the other, and no third thing."""
    model = stt.load(ASSETS / "models/digits-stt.safetensors")
    shown = read_clip(ASSETS / "prompts/pair-five-and-two.mp4", size=64, channels=1).video
    futures = unit(stt.predict(model, shown[:10], 20, seeds=range(4))).sum(dim=(2, 3, 4))  # (4, 20)
    ink = unit(shown[:10]).sum(dim=(1, 2, 3)).amax()
    assert (
        futures.amax() < 1.05 * ink and futures.amin() > 0.6 * ink and (futures[:, 10:].amax(dim=1) > 0.9 * ink).all()
    )


def test_features_of_zero_cost_the_shipped_stt_nats_where_its_layers_go():
    model = stt.load(ASSETS / "models/digits-stt.safetensors")
    video = read_clip(ASSETS / "prompts/pair-five-and-two.mp4", size=64, channels=1).video[None]
    nats, _ = model.motion_nats(video)
    without, _ = controls_of(model)["zero features"].motion_nats(video)
    assert without.mean() > 2 * nats.mean()
