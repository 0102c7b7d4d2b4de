"""Protocols of a folder of videos, which are textures that a steering wheel pans."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from stt.api import NO_CONDITION, Batch, Sampling
from stt.checkpoint import save
from stt.models.stt import STT, STTConfig
from tests.conftest import TINY, lively
from tests.test_optical_flow import panned
from train import evaluate, publish
from train.evaluation.protocols import PROTOCOLS, best_of
from train.evaluation.videos import action_following, steering

ACTIONS = ("steering", "throttle")


def model(**fields) -> STT:
    return lively(STT(STTConfig.from_dict(TINY.to_dict() | fields))).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """2 videos to train on and 3 held out, 16 pixels a side, 60 frames each: at stride 2, one clip of 25 each."""
    folder = tmp_path_factory.mktemp("car")
    for k, name in enumerate(("train/0", "train/1", "test/0", "test/1", "test/2")):
        steer = (-1) ** k * 0.5
        video = (255 * panned(-steer / 2, 60, side=16, seed=k)[:, 0]).byte().numpy()
        (folder / name).parent.mkdir(exist_ok=True)
        np.savez(folder / name, video=video, actions=np.tile([steer, 0.5], (60, 1)))
    return folder


@pytest.fixture
def run(tmp_path):
    """Saves a model as trained on a folder, and scores it by the command."""

    def run(network: STT, *words, kind: str = "folder") -> dict:
        path, scores = tmp_path / "m.safetensors", tmp_path / "scores.json"
        world = {"kind": "folder", "frames": 8, "stride": 2, "fit": "crop", "flip": False}
        save(network, path, card={"world": world if kind == "folder" else {"kind": kind}, "command": "train"})
        few = ["--device", "cpu", "--clips", "2", "--prompts", "2", "--futures", "2"]
        evaluate.main(["--model", str(path), "--json", str(scores), *few, *map(str, words)])
        return json.loads(scores.read_text())

    return run


def numbers(figures) -> list[float]:
    if isinstance(figures, dict):
        return [number for name, value in figures.items() if name != "protocol" for number in numbers(value)]
    return [number for value in figures for number in numbers(value)] if isinstance(figures, list) else [figures]


# ---- the command -------------------------------------------------------------------------------------


def test_every_protocol_of_a_folder_has_finite_figures_which_are_written_drawn_and_published(run, folder, tmp_path):
    table, sheet = tmp_path / "scores.md", tmp_path / "sheet.png"
    scores = run(model(actions=ACTIONS), "--data", folder, "--markdown", table, "--sheet", sheet)
    scores = {name: scores[name] for name in PROTOCOLS if name in scores}
    assert list(scores) == ["tokenizer", "best_of", "spread", "surprise", "action_following", "steering"]
    assert all(math.isfinite(number) for number in numbers(scores))
    for name in ("best_of", "action_following", "steering"):
        assert all(len(values) == 20 for values in scores[name]["per_horizon"].values()), name
    assert all("held out, stride 2" in figures["protocol"] for figures in scores.values())
    lines = table.read_text().splitlines()
    assert "| frame 1 / 5 / 10 / 20 | best | mean | guess | copy | flow | model |" in lines
    assert any(line.startswith("| motion |") for line in lines) and any("correlation" in line for line in lines)
    assert iio.imread(sheet).shape == (2 * 6 * 18 * 2, 13 * 18 * 2, 3)
    words = ["--model", tmp_path / "m.safetensors", "--scores", tmp_path / "scores.json", "--out", tmp_path / "p"]
    args = publish.parser().parse_args([str(word) for word in words])
    assert set(publish.model_to_ship(args)[1]["scores"]) == set(scores)


def test_a_model_without_actions_and_of_other_clips_is_scored_on_any_folder(run, folder, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    words = ["--data", folder, "--sheet", sheet, "--clips", "9", "--only", "surprise", "action_following", "steering"]
    scores = run(model(), *words, kind="tabletop")
    assert not {"action_following", "steering"} & set(scores)
    assert "holds out 6 clips of 25 frames at stride 1, not 9" in capsys.readouterr().err
    assert "6 clips of 20 frames" in scores["surprise"]["protocol"] and "stride 1" in scores["surprise"]["protocol"]
    assert iio.imread(sheet).shape == (4 * 4 * 18 * 2, 13 * 18 * 2, 3)


def test_videos_that_are_too_short_are_named_and_a_shorter_horizon_suits_them(run, tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", (255 * panned(0.5, 30, side=16)[:, 0]).byte().numpy())
    with pytest.raises(
        SystemExit, match=r"too short for a clip of 25 frames at stride 2:\n.*30 frames without a cut, a clip takes 49"
    ):
        run(model(), "--data", tmp_path)
    scores = run(model(), "--data", tmp_path, "--horizon", "10", "--only", "best_of")
    assert len(scores["best_of"]["per_horizon"]["psnr flow"]) == 10 and "5 -> 10" in scores["best_of"]["protocol"]


def test_what_cannot_be_scored_is_said_at_once(run, folder, tmp_path):
    for name in ("train", "test"):
        (tmp_path / "far" / name).mkdir(parents=True)
        far = {"video": np.zeros((60, 16, 16), np.uint8), "actions": np.full((60, 2), 1.5)}
        np.savez(tmp_path / "far" / name / "0.npz", **far)
    for fields, words, message in (
        ({}, [], "give it by --data"),
        ({}, ["--data", "nowhere"], "nowhere is not a folder"),
        ({"actions": ("steering",)}, ["--data", folder], "the model takes 1 actions, .* has 2"),
        (
            {"actions": ACTIONS},
            ["--data", tmp_path / "far"],
            "takes actions from -1 to 1:\n  train/0.npz: actions go from 1.5 to 1.5",
        ),
    ):
        with pytest.raises(SystemExit, match=message):
            run(model(**fields), *words)


# ---- figures -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch():
    """4 clips of 13 frames, 64 pixels a side, each steered one way all the time."""
    steer = torch.tensor([-1.0, 1.0, -0.5, 0.5])
    video = torch.stack([panned(-2 * float(s), 13, seed=k) for k, s in enumerate(steer)])
    actions = torch.stack([steer, torch.full((4,), 0.5)], dim=-1)[:, None].expand(-1, 13, -1)
    return Batch(2 * video - 1, actions)


@pytest.fixture
def driver(batch, monkeypatch):
    """In the place of a model: goes as its actions say, or, without any, now one way and now the other."""

    def predict(model, prompt, frames, sampling=None, seeds=(0,), condition=NO_CONDITION):
        which = next(k for k, video in enumerate(batch.video) if torch.equal(video[: len(prompt)], prompt))
        steer = [condition.actions[0][0]] if condition.actions else [(-1.0, 1.0)[seed % 2] for seed in seeds]
        # textures of one seed agree at the first frame: the prompt has panned it to here
        start = -2 * float(batch.actions[which, 0, 0]) * (len(prompt) - 1)
        futures = [going_on(start, -2 * way, frames, seed=which) for way in steer]
        return torch.stack([2 * future - 1 for future in futures]).expand(len(seeds), -1, -1, -1, -1)

    for module in ("protocols", "videos"):
        monkeypatch.setattr(f"train.evaluation.{module}.predict", predict)
    return SimpleNamespace(knobs={"temperature", "actions"}, family="driver", config=SimpleNamespace(actions=ACTIONS))


def going_on(start: float, speed: float, frames: int, seed: int) -> torch.Tensor:
    """The texture of `panned` from where it has gone `start` pixels."""
    return torch.cat([panned(start + speed * (t + 1), 2, seed=seed)[1:] for t in range(frames)])


def test_a_model_that_follows_actions_is_right_under_them_and_turns_as_they_say(batch, driver):
    rows = action_following(driver, batch, Sampling())["mean"]
    assert rows["psnr conditioned"] > rows["psnr unconditional"] + 20
    assert rows["ssim conditioned"] > 0.99 > 0.9 > rows["ssim copy"]
    figures = steering(driver, batch, Sampling())
    mean = figures["mean"]
    assert mean["motion +1"] == pytest.approx(-2, abs=0.3) and mean["motion -1"] == pytest.approx(2, abs=0.3)
    assert abs(mean["motion unconditional"]) < 0.3
    assert mean["motion spread unconditional"] == pytest.approx(2.3, abs=0.3)
    assert all(value < -0.9 for value in figures["correlation of true motion with steering"].values())


def test_the_flow_predicts_a_steady_pan_which_a_copy_does_not(batch, driver):
    figures = best_of(driver, batch.video, Sampling(), count=2)
    rows = figures["per_horizon"]
    assert all(flow > copy + 3 for flow, copy in zip(rows["psnr flow"], rows["psnr copy"], strict=True))
    assert figures["mean"]["sharpness copy"] == pytest.approx(1, abs=0.1)
    assert rows["psnr best"][-1] > rows["psnr mean"][-1]


def test_only_models_that_take_actions_follow_them(batch):
    small = Batch(batch.video[..., ::4, ::4], batch.actions)
    for figures in (steering, action_following):
        with pytest.raises(ValueError, match="takes none"):
            figures(model(), small, Sampling())
