"""The yardstick on a folder of videos, which are textures that a wheel pans."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from stt.api import NO_CONDITION, Sampling
from stt.checkpoint import save
from stt.models.stt import STT, STTConfig
from tests.conftest import TINY, lively
from tests.test_optical_flow import panned
from train import evaluate, publish
from train.data.video_folder import VideoFolderBatch
from train.evaluation.videos import forecasts, obedience, turns

ACTIONS = ("steering", "throttle")


def model(**fields) -> STT:
    return lively(STT(STTConfig.from_dict(TINY.to_dict() | fields))).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """2 recordings to train on and 3 held out, 16 pixels a side, 60 frames each: at stride 2, one clip of 25 each."""
    place = tmp_path_factory.mktemp("car")
    for k, name in enumerate(("train/0", "train/1", "test/0", "test/1", "test/2")):
        steering = (-1) ** k * 0.5
        video = (255 * panned(-steering / 2, 60, side=16, seed=k)[:, 0]).byte().numpy()
        (place / name).parent.mkdir(exist_ok=True)
        np.savez(place / name, video=video, actions=np.tile([steering, 0.5], (60, 1)))
    return place


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Saves a model as trained on a folder, and scores it by the command line."""

    def run(network: STT, *words, world: str = "folder") -> dict:
        path, found = tmp_path / "m.safetensors", tmp_path / "scores.json"
        card = {"kind": "folder", "frames": 8, "stride": 2, "fit": "crop", "flip": False}
        save(network, path, card={"world": card if world == "folder" else {"kind": world}, "command": "train"})
        few = ["--device", "cpu", "--clips", "2", "--prompts", "2", "--futures", "2"]
        monkeypatch.setattr(sys, "argv", ["evaluate", "--model", str(path), "--json", str(found), *few, *words])
        evaluate.main()
        return json.loads(found.read_text())

    return run


def numbers(figures) -> list[float]:
    if isinstance(figures, dict):
        return [number for name, value in figures.items() if name != "protocol" for number in numbers(value)]
    return [number for value in figures for number in numbers(value)] if isinstance(figures, list) else [figures]


# the command


def test_every_protocol_of_a_folder_has_finite_figures_which_are_written_drawn_and_published(run, folder, tmp_path):
    table, sheet = tmp_path / "scores.md", tmp_path / "sheet.png"
    scores = run(model(actions=ACTIONS), "--data", str(folder), "--markdown", str(table), "--sheet", str(sheet))
    found = {name: scores[name] for name in evaluate.PROTOCOLS if name in scores}
    assert list(found) == ["tokenizer", "best_of", "spread", "surprise", "obedience", "turns"]
    # what steers never changes within a clip here, but between them
    assert all(math.isfinite(number) for number in numbers(found))
    assert all(len(values) == 20 for name in ("best_of", "obedience", "turns")
               for values in found[name]["per_horizon"].values())  # fmt: skip
    assert all("held out, stride 2" in figures["protocol"] for figures in found.values())
    kinds = {name.partition(" ")[2] for name in found["best_of"]["per_horizon"]}
    assert kinds == {"best", "mean", "guess", "copy", "flow", "model"}
    assert "| psnr flow |" in table.read_text() and "| motion told +1 |" in table.read_text()
    assert iio.imread(sheet).shape == (2 * 6 * 18 * 2, 13 * 18 * 2, 3)
    words = ["--model", tmp_path / "m.safetensors", "--scores", tmp_path / "scores.json", "--out", tmp_path / "p"]
    args = publish.parser().parse_args([str(word) for word in words])
    assert set(publish.model_to_ship(args)[1]["scores"]) == set(found)


def test_a_model_without_actions_has_no_obedience_and_no_turns(run, folder, tmp_path):
    scores = run(model(), "--data", str(folder), "--sheet", str(tmp_path / "s.png"), "--only", "obedience", "turns")
    assert not {"obedience", "turns"} & set(scores)
    assert iio.imread(tmp_path / "s.png").shape == (2 * 4 * 18 * 2, 13 * 18 * 2, 3)


def test_any_model_is_scored_on_a_folder_that_it_is_given_there_at_each_frame(run, folder):
    for words in ([], ["--world", "folder"]):
        words += ["--data", str(folder), "--only", "surprise"]
        assert "held out, stride 1" in run(model(), *words, world="tabletop")["surprise"]["protocol"]


def test_fewer_clips_than_asked_for_are_told_and_all_used(run, folder, capsys):
    scores = run(model(), "--data", str(folder), "--only", "surprise", "--clips", "9")
    assert "holds out 3 clips of 25 frames at stride 2, not 9" in capsys.readouterr().err
    assert "3 clips of 20 frames" in scores["surprise"]["protocol"]


def test_recordings_that_are_too_short_are_named_and_a_shorter_horizon_suits_them(run, tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", (255 * panned(0.5, 30, side=16)[:, 0]).byte().numpy())
    message = r"5 frames -> --horizon 20: .* too short for a clip of 25 frames at stride 2, .* 49:\n.*30 frames"
    with pytest.raises(SystemExit, match=message):
        run(model(), "--data", str(tmp_path))
    words = ["--data", str(tmp_path), "--horizon", "10", "--sheet", str(tmp_path / "s.png")]
    scores = run(model(), *words, "--only", "tokenizer", "best_of", "surprise")
    assert len(scores["best_of"]["per_horizon"]["psnr flow"]) == 10 and "5 -> 10" in scores["best_of"]["protocol"]


@pytest.mark.parametrize(
    ("fields", "words", "message"),
    [
        ({}, [], "give it by --data"), ({}, ["--data", "nowhere"], "nowhere is not a folder"),
        ({}, ["--data", "FOLDER", "--horizon", "0"], "horizon is 0"),
        ({}, ["--data", "FOLDER", "--clips", "0"], "count is 0"),
        ({"actions": ("steering",)}, ["--data", "FOLDER"], "the model takes 1 actions, .* has 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_told_at_once(run, folder, fields, words, message):
    with pytest.raises(SystemExit, match=message):
        run(model(**fields), *(str(folder) if word == "FOLDER" else word for word in words))


def test_actions_that_no_model_can_be_told_are_refused(run, tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "0.npz", video=np.zeros((60, 16, 16), np.uint8), actions=np.full((60, 2), 1.5))
    with pytest.raises(SystemExit, match=r"go from 1.5 to 1.5, the model is told -1 to 1"):
        run(model(actions=ACTIONS), "--data", str(tmp_path))


# figures


@pytest.fixture
def clips():
    """6 clips of 15 frames, 64 pixels a side, each steered one way all the time."""
    steering = torch.tensor([-1.0, 1.0, -0.5, 0.5, 1.0, -1.0])
    video = torch.stack([panned(-2 * float(s), 15, seed=k) for k, s in enumerate(steering)])
    actions = torch.stack([steering, torch.full((6,), 0.5)], dim=-1)[:, None].expand(-1, 15, -1)
    return VideoFolderBatch(2 * video - 1, actions, None)


@pytest.fixture
def driver(clips, monkeypatch):
    """In the place of a model: goes as it is told, or, told nothing, now one way and now the other."""

    def predict(model, prompt, frames, sampling=None, seeds=(0,), condition=NO_CONDITION):
        which = next(k for k, video in enumerate(clips.video) if torch.equal(video[: len(prompt)], prompt))
        told = [condition.actions[0][0]] if condition.actions else [(-1.0, 1.0)[seed % 2] for seed in seeds]
        # textures of one seed agree at the first frame: what precedes the future is panned back to there
        start = -2 * float(clips.actions[which, 0, 0]) * (len(prompt) - 1)
        futures = [going_on(start, -2 * way, frames, seed=which) for way in told]
        return torch.stack([2 * future - 1 for future in futures]).expand(len(seeds), -1, -1, -1, -1)

    for module in ("protocols", "videos"):
        monkeypatch.setattr(f"train.evaluation.{module}.predict", predict)
    return SimpleNamespace(knobs={"temperature", "actions"}, family="driver", config=SimpleNamespace(actions=ACTIONS))


def going_on(start: float, speed: float, frames: int, seed: int) -> torch.Tensor:
    """The texture of `panned` from where it has gone `start` pixels."""
    return torch.cat([panned(start + speed * (t + 1), 2, seed=seed)[1:] for t in range(frames)])


def test_a_model_that_obeys_is_right_when_told_and_goes_the_way_that_it_is_told(clips, driver):
    rows = obedience(driver, clips, Sampling())["mean"]
    assert rows["psnr told"] > rows["psnr free"] + 20 and rows["ssim told"] > 0.99 > 0.9 > rows["ssim copy"]
    found = turns(driver, clips, Sampling())
    mean = found["mean"]
    assert mean["motion told +1"] == pytest.approx(-2, abs=0.3) and mean["motion told -1"] == pytest.approx(2, abs=0.3)
    assert abs(mean["motion free"]) < 0.3 and mean["motion spread free"] == pytest.approx(2.3, abs=0.3)
    assert all(value < -0.9 for value in found["correlation of true motion with steering"].values())


def test_the_flow_foretells_a_steady_pan_which_a_copy_does_not(clips, driver):
    found = forecasts(driver, clips.video, Sampling(), count=2)
    rows, sharpness = found["per_horizon"], found["mean"]["sharpness copy"]
    assert all(flow > copy + 3 for flow, copy in zip(rows["psnr flow"], rows["psnr copy"], strict=True))
    assert sharpness == pytest.approx(1, abs=0.1) and rows["psnr best"][-1] > rows["psnr mean"][-1]


def test_only_models_that_take_actions_have_turns_and_obedience(clips):
    for figure in (turns, obedience):
        with pytest.raises(ValueError, match="takes no actions"):
            figure(model(), clips, Sampling())
