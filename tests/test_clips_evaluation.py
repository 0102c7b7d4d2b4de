"""Any clips: whole frames or squares, windows in time, a model beside copies and flow."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from stt.checkpoint import save
from stt.models.stt import STT
from tests.conftest import TINY, lively
from tests.test_optical_flow import panned
from train import evaluate
from train.data.readers import ReadOptions
from train.evaluation.clips import read_windows, without_bars


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pan of 96x48 pixels at 20 Hz, a still, and one that is too short."""
    folder = tmp_path_factory.mktemp("clips")
    pan = (255 * panned(2, 40, side=96)[:, 0, 24:72]).byte().numpy()
    np.savez(folder / "pan", video=np.repeat(pan[..., None], 3, axis=-1), fps=20.0)
    np.save(
        folder / "still", np.repeat(np.random.default_rng(0).integers(0, 255, (1, 48, 96, 3), np.uint8), 20, axis=0)
    )
    np.save(folder / "short", np.zeros((6, 48, 96, 3), np.uint8))
    return folder


def scores_of(folder, path, *words) -> dict:
    evaluate.main(["--world", "clips", "--data", str(folder), "--device", "cpu", "--json", str(path), *words])
    return json.loads(path.read_text())


def test_without_a_model_copies_and_flow_are_scored_on_whole_frames(folder, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    scores = scores_of(
        folder, tmp_path / "s.json", "--size", "96", "--horizon", "5", "--windows", "3", "--sheet", str(sheet)
    )
    pan, still, mean = (scores[name] for name in ("clips: pan.npz", "clips: still.npy", "clips"))
    assert "3 windows of 96x48 at 20 frames a second" in pan["protocol"] and sheet.stat().st_size
    for flow in ("farneback", "dis"):
        ahead = np.subtract(pan["per_horizon"][f"psnr {flow}"], pan["per_horizon"]["psnr copy"])
        assert (ahead > 2).all() and pan["psnr lost to a copy"][flow] == pytest.approx(-ahead.min(), abs=1e-3)
    assert still["per_horizon"]["psnr copy"] == [100.0] * 5 and still["per_horizon"]["sharpness copy"] == [1.0] * 5
    both = (pan["per_horizon"]["psnr dis"][2] + still["per_horizon"]["psnr dis"][2]) / 2
    assert mean["per_horizon"]["psnr dis"][2] == pytest.approx(both, abs=1e-3)
    assert "passes over short.npy: it has 6 frames, a window takes 10" in capsys.readouterr().err


def test_a_model_of_squares_is_scored_on_crops_at_temperature_0_and_by_its_best_and_mean_future(folder, tmp_path):
    config = replace(TINY, channels=3, tokenizer=replace(TINY.tokenizer, channels=3))
    card = {"world": {"kind": "scenes"}, "command": "train"}
    save(lively(STT(config)).eval(), tmp_path / "m.safetensors", card=card)
    few = (
        "--model",
        str(tmp_path / "m.safetensors"),
        "--horizon",
        "2",
        "--windows",
        "1",
        "--futures",
        "2",
        "--fps",
        "10",
    )
    scores = scores_of(folder, tmp_path / "s.json", *few)
    rows, size = scores["clips: pan.npz"]["per_horizon"], config.image_size
    assert f"{size}x{size} at 10 frames a second" in scores["clips: pan.npz"]["protocol"]
    assert {f"psnr {name}" for name in ("best", "mean", "guess", "copy", "farneback", "dis")} <= rows.keys()
    assert all(len(values) == 2 and np.isfinite(values).all() for values in rows.values())
    with pytest.raises(SystemExit, match="squares"):
        scores_of(folder, tmp_path / "s.json", *few, "--size", "64")


def test_windows_are_spread_over_a_clip_at_a_rate_and_bars_are_cut_off(folder):
    options = ReadOptions(size=96, channels=3, fit="pad")
    pan = read_windows(folder, options, 4, 3, 10.0)[0]
    assert pan.name == "pan.npz" and pan.fps == 10 and pan.video.shape == (3, 4, 3, 48, 96)
    full = (255 * panned(2, 40, side=96)[:, 0, 24:72]).byte().float() / 127.5 - 1
    for window, first in zip(pan.video, (0, 16, 33), strict=True):
        assert np.allclose(window[:, 0], full[first : first + 7 : 2], atol=1e-6), first
    square = np.zeros((2, 64, 64, 1), np.uint8)
    assert without_bars(square, 160, 90).shape == (2, 32, 64, 1) and without_bars(square, 90, 160).shape == (
        2,
        64,
        32,
        1,
    )


def test_what_cannot_be_scored_is_said(folder, tmp_path):
    for words, message in (
        (["--world", "videos", "--data", str(folder)], "--model is missing"),
        (["--world", "clips"], "give it by --data"),
        (["--world", "clips", "--data", str(tmp_path / "none")], "is not a folder"),
        (["--world", "clips", "--data", str(tmp_path)], "holds no clip of 15 frames"),
    ):
        with pytest.raises(SystemExit, match=message):
            evaluate.main(words)
