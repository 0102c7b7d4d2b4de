"""Rain radar: composites, clips of events, and scores of nowcasts."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch

from train import evaluate, predictor
from train.data.radar import RadarConfig, RadarDataset, from_video, rain_of, read_composite, read_event, to_video
from train.evaluation.nowcast import contingency, critical_success_index, crps


def write_composite(path, pixels, minute, param="CorrectedReflectivity"):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = f"2016092810{minute:02d}" if minute < 60 else f"2016092811{minute - 60:02d}"
    header = f"P5\n# obstime {time}\n# param {param}\n{pixels.shape[1]} {pixels.shape[0]}\n255\n"
    path.write_bytes(gzip.compress(header.encode() + pixels.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two events of 18 composites of 80x96 km: a shower that moves 2 km a frame; the left edge is not covered."""
    folder = tmp_path_factory.mktemp("radar")
    y, x = np.mgrid[:80, :96]
    for k, event in enumerate(("20160928", "20170509")):
        for t in range(18):
            dbz = 42 - 0.04 * ((x - 34 - 2 * t) ** 2 + (y - 40 - 5 * k) ** 2)
            pixels = np.where(dbz > 0, 2 * dbz + 64, 0)
            pixels[:, :4] = 255
            write_composite(folder / event / f"{t:02d}.pgm.gz", pixels, 5 * t)
    return folder


def test_a_composite_is_read_as_rain_and_what_is_none_is_refused(tmp_path):
    path = tmp_path / "a.pgm.gz"
    write_composite(path, np.array([[0, 64, 110, 255]]), 5)
    rain, time = read_composite(path)
    assert rain[0, 0] == rain[0, 1] == 0 and math.isnan(rain[0, 3]) and time.minute == 5
    assert rain[0, 2] == pytest.approx((10 ** (23 / 10) / 223) ** (1 / 1.53), rel=1e-4)  # 23 dBZ: about 1 mm/h
    for data in (b"P5\n2 2\n255\nabcd", b"not a picture", gzip.decompress(path.read_bytes())[:-1]):
        (tmp_path / "bad.pgm").write_bytes(data)
        with pytest.raises(ValueError):
            read_composite(tmp_path / "bad.pgm")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match="damaged"):
        read_composite(path)


def test_rain_becomes_video_and_back():
    rain = torch.tensor([0.0, 0.1, 0.5, 5.0, 80.0, math.nan])
    back = from_video(to_video(rain))
    torch.testing.assert_close(back[:5], rain[:5], rtol=1e-3, atol=1e-6)
    assert back[5] == 0 and to_video(rain).min() == -1 and rain_of(torch.tensor(5.0)) == 0


def test_clips_are_covered_and_wet_and_the_last_event_is_held_out(folder, tmp_path):
    config = RadarConfig(frames=6, kilometres=2)
    data = RadarDataset(config, folder, "train", 32, 3)
    assert data.names == ["20160928"] and RadarDataset(config, folder, "test", 32, 1).names == ["20170509"]
    video = data.batch(3, 0, 0).video
    assert video.shape == (3, 6, 3, 32, 32) and torch.equal(video, data.batch(3, 0, 0).video)
    assert ((from_video(video) >= 0.1).float().mean(dim=(1, 2, 3, 4)) >= config.wet).all()
    assert read_event(folder / "20160928", 2).shape == (18, 40, 48)
    write_composite(tmp_path / "x" / "0.pgm.gz", np.zeros((8, 8)), 0)
    write_composite(tmp_path / "x" / "1.pgm.gz", np.zeros((8, 8)), 10)
    with pytest.raises(ValueError, match="after 10:00 is not 5 minutes later"):
        read_event(tmp_path / "x", 2)
    with pytest.raises(FileNotFoundError, match="holds 1 radar events"):
        RadarDataset(config, tmp_path, "train", 32, 1)


def test_scores_of_nowcasts_are_those_of_their_definitions():
    generator = torch.Generator().manual_seed(0)
    ensemble, true = torch.rand(5, 2, 4, 4, generator=generator), torch.rand(2, 4, 4, generator=generator)
    pairs = torch.stack([(a - b).abs() for a in ensemble for b in ensemble]).sum(dim=0) / (5 * 4)
    torch.testing.assert_close(crps(ensemble, true), (ensemble - true).abs().mean(dim=0) - pairs / 2)
    torch.testing.assert_close(crps(ensemble[:1], true), (ensemble[0] - true).abs())
    truth = torch.randn(20_000, generator=generator)
    members, narrow = (torch.randn(10, 20_000, generator=generator) * scale for scale in (1.0, 0.3))
    assert crps(members, truth).mean() < crps(narrow, truth).mean() < crps(narrow[:1], truth).mean()
    forecast, event = torch.tensor([[[[1.0, 1, 0, 0]]]]), torch.tensor([[[1.0, 0, 1, 0]]])
    assert contingency(forecast, event, 0.5).tolist() == [[1, 1, 1]]
    assert critical_success_index(contingency(forecast, event, 0.5)).tolist() == pytest.approx([1 / 3])


def test_the_baselines_are_scored_and_motion_beats_standing_still(folder, tmp_path):
    words = ["--world", "radar", "--data", str(folder), "--prompts", "1", "--futures", "4", "--device", "cpu"]
    words += ["--size", "32", "--json", str(tmp_path / "s.json"), "--sheet", str(tmp_path / "s.png")]
    evaluate.main(words)
    rows = json.loads((tmp_path / "s.json").read_text())["nowcasts"]["per_horizon"]
    assert len(rows["crps copy"]) == 12 and (tmp_path / "s.png").stat().st_size
    assert rows["crps farneback"][3] < 0.7 * rows["crps copy"][3]
    assert rows["csi 0.5 mm/h farneback"][3] > rows["csi 0.5 mm/h copy"][3]


def test_the_preset_learns_from_one_event_and_is_scored_as_an_ensemble_on_the_other(folder, tmp_path):
    data, out = ["--data", str(folder), "--device", "cpu"], str(tmp_path / "run")
    small = ["image_size=32", "patch=2", "dim=32", "heads=2", "depth=2", "flow_width=16", "gaussian_grid=(1, 2)"]
    sets = [word for item in small for word in ("--set", item)]
    predictor.main(
        ["--preset", "radar/stt/cpu", *data, "--frames", "5", "--steps", "1", "--batch", "1", "--out", out, *sets]
    )
    words = ["--world", "radar", "--model", out, *data, "--prompts", "1", "--futures", "3"]
    evaluate.main([*words, "--json", str(tmp_path / "s.json")])
    scores = json.loads((tmp_path / "s.json").read_text())["nowcasts"]
    rows = scores["per_horizon"]
    assert "20170509, held out, 32x32" in scores["protocol"]
    assert rows["crps guess"][0] < rows["crps copy"][0], "flows begin from the last motion"
    assert len(rows["crps model"]) == 12 and all(value > 0 for value in rows["spread over error model"])
