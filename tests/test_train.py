from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import stt
from stt.checkpoint import load_any
from stt.models.stt import STT
from tests.conftest import TINY, clips
from train.evaluate import evaluate_futures, evaluate_tokenizer, score_futures
from train.loop import LoopConfig, Run, accelerator_for, fit
from train.metrics import frame_mse, frame_psnr, frame_ssim, perplexity, spread
from train.presets import PRESETS

ROOT = Path(__file__).parent.parent


def batches(model):
    return lambda size, index: clips(model, size, seed=index)


def trained(out, steps, resume=False, total=6):
    torch.manual_seed(0)
    model = STT(TINY)
    run = Run(model, LoopConfig(steps=total, batch=2, log_every=1), out, accelerator_for("no", "cpu"), {})
    if resume:
        run.resume()
    run.raw.train()
    while run.step < steps:
        run.train_step(batches(model))
    run.save()
    return run


def test_a_resumed_run_ends_bit_equal_to_one_that_never_stopped(tmp_path):
    whole = trained(tmp_path / "whole", 6)
    trained(tmp_path / "parts", 3)
    parts = trained(tmp_path / "parts", 6, resume=True)
    for name, tensor in whole.raw.state_dict().items():
        assert torch.equal(tensor, parts.raw.state_dict()[name]), name
    for name, tensor in whole.average.state_dict().items():
        assert torch.equal(tensor, parts.average.state_dict()[name]), name


def test_a_run_leaves_a_runnable_model_a_log_and_a_picture(tmp_path):
    model = STT(TINY)
    run = Run(model, LoopConfig(steps=3, batch=2, log_every=1), tmp_path, accelerator_for("no", "cpu"), {"preset": "x"})
    fit(run, batches(model), lambda m: torch.zeros(4, 4, 3).byte().numpy())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[-1]["clips"] == 6 and rows[0]["loss"] > 0
    assert stt.load(tmp_path).config == TINY
    assert list((tmp_path / "sheets").glob("*.png")) and not list(tmp_path.rglob("*.tmp"))


def test_a_step_that_is_not_finite_stops_before_the_update(tmp_path):
    model = STT(TINY)
    run = Run(model, LoopConfig(steps=3, batch=2), tmp_path, accelerator_for("no", "cpu"), {})
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    before = model.head.weight.clone()
    with pytest.raises(FloatingPointError, match="step 0: stopped before the update"):
        run.train_step(batches(model))
    assert torch.equal(before, model.head.weight)


def test_the_schedule_warms_up_and_ends_low():
    config = LoopConfig(steps=100, lr=1.0, warmup=0.1, final_lr=0.02)
    rates = [config.rate(config.progress(step, 0)) for step in range(101)]
    assert rates[0] < 0.05 and max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0.02)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_a_schedule_needs_either_minutes_or_steps():
    for fields in ({}, {"minutes": 1.0, "steps": 2}):
        with pytest.raises(ValueError, match="set either minutes"):
            LoopConfig(**fields)


def test_the_average_soon_forgets_the_first_weights(tmp_path):
    run = trained(tmp_path, 6)
    start = STT(TINY)
    torch.manual_seed(0)
    start = STT(TINY)
    moved = (run.raw.head.weight - start.head.weight).norm()
    lag = (run.raw.head.weight - run.average.module.head.weight).norm()
    assert 0 < lag < moved


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_model_that_survives_its_own_json(name):
    preset = PRESETS[name]
    assert type(preset.model).from_dict(json.loads(json.dumps(preset.model.to_dict()))) == preset.model


def test_metrics_know_equal_frames_and_known_errors():
    true = torch.rand(3, 1, 16, 16)
    assert frame_mse(true, true).eq(0).all() and frame_psnr(true, true).eq(100).all()
    torch.testing.assert_close(frame_ssim(true, true), torch.ones(3))
    off = torch.full((1, 1, 10, 10), 0.1)
    assert float(frame_mse(off, off * 0)) == pytest.approx(1.0) and float(frame_psnr(off, off * 0)) == pytest.approx(20)


def test_the_best_future_is_at_least_as_good_as_the_mean():
    scores = score_futures(torch.rand(4, 3, 1, 16, 16), torch.rand(3, 1, 16, 16))
    assert scores["psnr best"].mean() >= scores["psnr mean"].mean()
    assert scores["mse best"].mean() <= scores["mse mean"].mean()


def test_spread_is_zero_for_one_future_repeated():
    one = torch.rand(1, 3, 1, 8, 8)
    assert spread(one.expand(4, -1, -1, -1, -1)).eq(0).all() and (spread(torch.rand(4, 3, 1, 8, 8)) > 0.1).all()


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.tensor([0, 1, 2, 3]), 8) == pytest.approx((0.5, 4.0))


def test_an_evaluation_covers_every_horizon_and_is_the_same_twice(tiny):
    videos = clips(tiny, 3, frames=5)
    first, second = (evaluate_futures(tiny, videos, context=2, count=3) for _ in range(2))
    assert first["per_horizon"] == second["per_horizon"] and len(first["per_horizon"]["psnr best"]) == 3
    assert first["spread"]["0.0"] == 0 < first["spread"]["1.0"]
    assert 0 < evaluate_tokenizer(tiny, videos)["codes in use"] <= 1


@pytest.mark.slow
def test_the_commands_of_the_readme_train_a_tokenizer_and_a_predictor_and_score_them(tmp_path):
    def run(*words):
        subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, check=True, timeout=300)

    small = ["--strokes", 1, "--frames", 6, "--batch", 2, "--steps", 3, "--device", "cpu"]
    run("train.tokenizer", "--preset", "one_digit_tokenizer", *small, "--out", tmp_path / "tok")
    tok = ["--tokenizer", tmp_path / "tok"]
    run("train.predictor", "--preset", "one_digit_stt", *small, *tok, "--out", tmp_path / "stt")
    run("train.predictor", "--preset", "one_digit_stt", *small, *tok, "--out", tmp_path / "stt", "--resume")
    scores = tmp_path / "scores.json"
    counts = ["--clips", 2, "--futures", 2, "--horizon", 3, "--device", "cpu"]
    run("train.evaluate", "--model", tmp_path / "stt", "--json", scores, "--sheet", tmp_path / "sheet.png", *counts)
    assert json.loads(scores.read_text())["protocol"]["clips"] == 2 and (tmp_path / "sheet.png").exists()
    assert isinstance(load_any(tmp_path / "stt"), STT)
