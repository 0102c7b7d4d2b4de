"""The yardstick measures what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stt.api import Sampling
from stt.measures import frame_mse
from stt.models.stt import STTConfig
from stt.models.timesformer import TimeSformerConfig
from tests.conftest import TINY, TINY_TIMESFORMER, TINY_TOKENIZER, built
from train.data import DigitVideos, World
from train.evaluate import evaluate, markdown, parser
from train.judge import Judge, counts, load_judge, narrowed
from train.metrics import (
    SetDistances,
    coverage_and_precision,
    energy,
    gradient_energy,
    perplexity,
    pooled,
    spread,
)
from train.protocols import (
    best_of,
    held_out,
    moving_mnist,
    official_clips,
    reconstruction,
    score_futures,
    spreads,
    surprise,
)
from train.truth import against_truth, digit_prompts


@pytest.fixture(scope="module")
def videos():
    """A world of the tiny models' size that needs no file."""
    world = World(image_size=16, digits=1, frames=5, strokes=1.0)
    return DigitVideos(world, None, "test", count_strokes=40)


def normalised_energy(true, predicted) -> float:
    excess, within = energy(SetDistances.of(true, predicted))
    return float(excess.mean() / within.mean())


# ---- metrics -----------------------------------------------------------------------------------------


def test_spread_is_zero_for_one_future_repeated():
    one = torch.rand(1, 3, 1, 8, 8)
    assert spread(one.expand(4, -1, -1, -1, -1)).eq(0).all() and (spread(torch.rand(4, 3, 1, 8, 8)) > 0.1).all()


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.tensor([0, 1, 2, 3]), 8) == pytest.approx((0.5, 4.0))


def test_the_energy_distance_is_zero_for_one_distribution_04_for_its_mean_and_1_for_one_draw():
    generator = torch.Generator().manual_seed(0)
    true, same = torch.randn(2, 64, 8, 256, generator=generator)  # 64 futures, 8 horizons
    assert normalised_energy(true, same) == pytest.approx(0, abs=0.01)
    assert normalised_energy(true, torch.zeros(64, 8, 256)) == pytest.approx(2**0.5 - 1, abs=0.01)
    assert normalised_energy(true, same[:1].expand(64, -1, -1)) == pytest.approx(1, abs=0.05)
    assert normalised_energy(true, same + 3) > 1


def test_distances_between_equal_futures_are_exactly_zero():
    one = torch.rand(1, 3, 256).expand(5, -1, -1)
    d = SetDistances.of(one, one)
    assert all(part.eq(0).all() for part in d)


def test_coverage_and_precision_tell_a_missed_mode_from_an_invented_one():
    left, right = torch.zeros(2, 8, 1, 4) + torch.rand(2, 8, 1, 4) * 0.1
    right = right + 5
    true = torch.cat([left, right])
    jitter = 0.01 * torch.rand(16, 1, 4)
    assert [float(v) for v in coverage_and_precision(SetDistances.of(true, true + jitter))] == [1.0, 1.0]
    covered, precise = coverage_and_precision(SetDistances.of(true, torch.cat([left, left]) + jitter))
    assert (float(covered), float(precise)) == (0.5, 1.0)
    covered, precise = coverage_and_precision(SetDistances.of(left, true + jitter))
    assert (float(covered), float(precise)) == (1.0, 0.5)
    blur = true.mean(dim=0, keepdim=True).expand_as(true)
    assert [float(v) for v in coverage_and_precision(SetDistances.of(true, blur))] == [0.0, 0.0]


def test_gradient_energy_falls_with_blur_and_pooling_keeps_the_mean():
    frames = torch.rand(3, 2, 1, 64, 64)
    blurred = torch.nn.functional.avg_pool2d(frames.flatten(0, 1), 3, stride=1, padding=1).unflatten(0, (3, 2))
    assert (gradient_energy(blurred) < 0.5 * gradient_energy(frames)).all()
    assert pooled(frames).shape == (3, 2, 256)
    torch.testing.assert_close(pooled(frames).mean(dim=-1), frames.mean(dim=(2, 3, 4)))


# ---- protocols ---------------------------------------------------------------------------------------


def test_fewer_held_out_clips_are_the_beginning_of_more(videos):
    three, five = held_out(videos, 3), held_out(videos, 5)
    assert all(torch.equal(a.video, b.video) for a, b in zip(three, five, strict=False))
    assert not torch.equal(five[0].video, five[1].video)


def test_the_best_future_is_at_least_as_good_as_the_mean():
    scores = score_futures(torch.rand(4, 3, 1, 16, 16), torch.rand(3, 1, 16, 16))
    assert scores["psnr best"].mean() >= scores["psnr mean"].mean()
    assert scores["mse best"].mean() <= scores["mse mean"].mean()


def test_best_of_n_covers_every_horizon_and_is_the_same_twice(tiny, videos):
    clips = [clip.video[0] for clip in held_out(videos, 3)]
    first, second = (best_of(tiny, clips, Sampling(), count=3, context=2) for _ in range(2))
    assert first["per_horizon"] == second["per_horizon"] and len(first["per_horizon"]["psnr best"]) == 3
    assert first["mean"]["psnr copy"] == pytest.approx(sum(first["per_horizon"]["psnr copy"]) / 3, abs=1e-3)


def test_moving_mnist_is_the_same_however_clips_are_batched(tiny, videos):
    clips = torch.cat([clip.video for clip in held_out(videos, 5)])
    together = moving_mnist(tiny, clips, context=2)
    apart = moving_mnist(tiny, clips, context=2, batch=2)
    assert together["mean"] == pytest.approx(apart["mean"], abs=1e-3)
    copied = frame_mse((clips[:, 1:2] + 1) / 2, (clips[:, 2:] + 1) / 2).mean()
    assert together["mean"]["mse copy"] == pytest.approx(float(copied), abs=1e-3)


def test_spread_grows_with_temperature_from_zero(tiny, videos):
    found = spreads(tiny, [clip.video[0] for clip in held_out(videos, 2)], context=2)
    assert found["0.0"] == 0 < found["1.0"]


def test_the_true_futures_score_as_the_floor_and_a_copy_does_not(tiny, videos, monkeypatch):
    """In the place of the model stand further draws of the truth."""
    clips, calls = held_out(videos, 12), iter(range(1000, 2000))
    horizon, index = 12, iter(range(12))

    def oracle(model, prompt, frames, sampling, seeds):
        clip = clips[next(index)]
        return videos.futures(clip, 5, frames, len(seeds), seed=next(calls))[0]

    monkeypatch.setattr("train.truth.predict", oracle)
    prompts = digit_prompts(videos, clips, None)
    rows = against_truth(tiny, prompts, Sampling(), count=16, horizon=horizon)["per_horizon"]
    for name in ("model", "truth"):
        assert abs(rows[f"energy {name}"][-1]) < 0.1 and rows[f"coverage {name}"][-1] > 0.8
        assert rows[f"sharpness {name}"] == pytest.approx([1.0] * horizon, abs=0.05)
    assert rows["energy copy"][-1] > 0.9
    assert rows["prompts"] == sorted(rows["prompts"]) and rows["prompts"][-1] > 6
    undecided = [t for t, n in enumerate(rows["prompts"]) if n == 0]
    assert all(rows["energy model"][t] is None for t in undecided)


def test_a_models_futures_get_a_figure_at_every_horizon(tiny, videos):
    prompts = digit_prompts(videos, held_out(videos, 4), None)
    rows = against_truth(tiny, prompts, Sampling(), count=4, horizon=6)["per_horizon"]
    assert all(len(values) == 6 for values in rows.values())
    assert rows["energy model"][-1] > 0 and rows["sharpness model"][-1] > 0


def test_the_calibration_of_surprise_starts_at_the_third_frame_and_orders_its_quantiles(tiny, videos):
    clips = torch.cat([clip.video for clip in held_out(videos, 5)])
    figures = surprise(tiny, clips, batch=2)
    bits = tiny.surprise(clips).bits[:, 1:]
    assert figures["bits_per_dim"] == pytest.approx(float(bits.mean()), abs=1e-4)
    assert figures["clip_max"] == pytest.approx(float(bits.mean(dim=1).max()), abs=1e-4)
    assert figures["clip_median"] <= figures["clip_p99"] <= figures["clip_max"] <= float(bits.max()) + 1e-4
    assert figures["frame_p99"] == pytest.approx(float(bits.quantile(0.99)), abs=1e-4)
    assert f"| surprise, bits per dimension | {figures['bits_per_dim']} |" in markdown(
        {"model": "m", "surprise": {"protocol": "how"} | figures}
    )


def test_a_model_without_a_likelihood_gets_no_calibration(videos):
    timesformer = built(TINY_TIMESFORMER).eval()
    assert surprise(timesformer, held_out(videos, 1)[0].video) == {}


def test_evaluating_puts_surprise_among_the_scores_of_models_that_have_one():
    """At the real size: the worlds of the yardstick are 64 pixels wide."""
    size = {"image_size": 64}
    tokenizer = TINY_TOKENIZER.to_dict() | size | {"patch": 8}
    stt = STTConfig.from_dict(TINY.to_dict() | size | {"tokenizer": tokenizer})
    timesformer = TimeSformerConfig.from_dict(TINY_TIMESFORMER.to_dict() | size)
    for config, kept in ((stt, ["surprise"]), (timesformer, [])):
        args = parser().parse_args(["--model", "m", "--only", "surprise", "--clips", "2", "--strokes", "1"])
        scores = evaluate(built(config).eval(), args, digits=1)
        assert list(scores) == kept


def test_a_reconstruction_is_scored_with_its_second_pass(tiny, videos):
    figures = reconstruction(tiny.tokenizer, held_out(videos, 1)[0].video)
    assert 0 < figures["codes in use"] <= 1 and {"psnr", "psnr of the second pass", "sharpness"} <= set(figures)


def test_the_official_file_is_read_as_clips_and_another_one_is_refused(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (20, 7, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", stored)
    clips = official_clips(tmp_path / "mnist_test_seq.npy", 4)
    assert clips.shape == (4, 20, 1, 64, 64)
    assert torch.equal(((clips[3, 5, 0] + 1) * 127.5).round().byte(), torch.from_numpy(stored[5, 3]))
    np.save(tmp_path / "other.npy", stored[:10])
    with pytest.raises(ValueError, match=r"holds uint8 \(10, 7, 64, 64\)"):
        official_clips(tmp_path / "other.npy", 4)


def test_the_tables_name_protocol_figures_and_what_is_missing():
    figures = {"protocol": "how", "per_horizon": {"energy model": [None, 0.5]}, "seconds_per_frame": 0.1}
    text = markdown({"model": "m", "truth": figures})
    assert "| energy model |  | 0.500 |" in text and "how" in text and "- seconds_per_frame: 0.1" in text
    assert parser().parse_args(["--model", "m", "--only", "truth", "spread"]).only == ["truth", "spread"]


# ---- judge -------------------------------------------------------------------------------------------


def test_counts_tell_how_often_each_digit_is_there():
    assert counts(torch.tensor([[3, 3], [0, 9]])).tolist()[0][3] == 2
    assert counts(torch.tensor([[3, 3], [0, 9]])).sum(dim=1).tolist() == [2, 2]


def test_the_judge_names_frames_of_any_leading_shape_and_refuses_other_sizes():
    judge = Judge().eval()
    assert judge.digits(torch.rand(2, 3, 1, 64, 64)).shape == (2, 3, 10)
    with pytest.raises(ValueError, match=r"reads \(1, 64, 64\)"):
        judge(torch.rand(2, 1, 32, 32))


def test_a_judge_is_stored_in_half_precision_and_its_largest_layers_in_eight_bits(tmp_path):
    torch.manual_seed(0)
    judge = Judge().eval()
    weights = narrowed(judge.state_dict())
    kinds = {t.dtype for t in weights.values() if t.numel() >= 2**16}
    assert kinds == {torch.float8_e4m3fn} and weights["features.1.body.2.weight"].dtype == torch.float16
    save_file(weights, tmp_path / "judge.safetensors")
    again = load_judge(tmp_path / "judge.safetensors")
    for name, tensor in judge.state_dict().items():
        kept = again.state_dict()[name]
        assert kept.dtype == torch.float32 and (kept - tensor).norm() <= 0.05 * tensor.norm()


def test_the_shipped_judge_reads_drawn_digits():
    from train.evaluate import JUDGE

    videos = DigitVideos(World(digits=1, frames=1, strokes=1.0), None, "test", count_strokes=200)
    clip = videos.sample(100, 0, 0)
    named = load_judge(JUDGE).digits((clip.video[:, 0] + 1) / 2)
    assert (named == counts(clip.labels)).all(dim=-1).float().mean() > 0.9
