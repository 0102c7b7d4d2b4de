"""The yardstick measures what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stt.api import Sampling
from stt.metrics import frame_mse
from stt.models.stt import STT, STTConfig
from stt.models.timesformer import TimeSformerConfig
from tests.conftest import TINY, TINY_LAYERS, TINY_TIMESFORMER, TINY_TOKENIZER, built, lively
from train.data.bouncing import DigitState, stochastic_moves, transition_nats
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.digit_classifier import centre_map, labelled_frames, narrowed, optimizer_of, set_ids
from train.evaluate import evaluate, markdown, parser
from train.evaluation.digit_classifier import DigitClassifier, counts, digit_sets, load_digit_classifier
from train.evaluation.metrics import (
    SetDistances,
    coverage_and_precision,
    energy,
    gradient_energy,
    perplexity,
    pooled,
    spread,
)
from train.evaluation.protocols import (
    best_of,
    held_out,
    motion,
    moving_mnist,
    official_clips,
    reconstruction,
    score_futures,
    spreads,
    surprise,
)
from train.evaluation.simulated_futures import against_truth, controls_of, digit_prompts


@pytest.fixture(scope="module")
def videos():
    """A world of the tiny models' size that needs no file."""
    world = MovingMNISTConfig(image_size=16, digits=1, frames=5, strokes=1.0)
    return MovingMNIST(world, None, "test", count_strokes=40)


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


def scored(monkeypatch, videos, clips, futures, count=16, horizon=12, classifier=None):
    """Figures against the truth of a model whose futures are `futures(clip, frames, count)` of each clip in turn."""
    turn = iter(clips)
    predicted = lambda model, prompt, frames, _, seeds: futures(next(turn), frames, len(seeds))  # noqa: E731
    monkeypatch.setattr("train.evaluation.simulated_futures.predict", predicted)
    return against_truth(None, digit_prompts(videos, clips, classifier), Sampling(), count, horizon)


def more_truth(videos, seed=1000):
    """Further draws of the truth, in the place of a model."""
    return lambda clip, frames, count: videos.futures(clip, 5, frames, count, seed=seed + int(clip.glyphs.sum()))[0]


def test_a_perfect_model_scores_as_the_floor_and_a_copy_does_not(videos, monkeypatch):
    rows = scored(monkeypatch, videos, held_out(videos, 12), more_truth(videos))["per_horizon"]
    for name in ("model", "truth"):
        assert abs(rows[f"energy {name}"][-1]) < 0.1 and rows[f"coverage {name}"][-1] > 0.8
        assert rows[f"sharpness {name}"] == pytest.approx([1.0] * 12, abs=0.05)
        assert rows[f"spread ratio {name}"][-1] == pytest.approx(1, abs=0.1)
    assert rows["energy copy"][-1] > 0.9 and rows["spread ratio copy"][-1] == 0


def test_certain_and_open_prompts_are_counted_and_without_open_ones_the_energy_is_null(videos, monkeypatch):
    rows = scored(monkeypatch, videos, held_out(videos, 12), more_truth(videos))["per_horizon"]
    assert [a + b for a, b in zip(rows["open prompts"], rows["certain prompts"], strict=True)] == [12] * 12
    assert rows["open prompts"] == sorted(rows["open prompts"]) and rows["open prompts"][-1] > 6
    undecided = [t for t, n in enumerate(rows["open prompts"]) if n == 0]
    for figure in ("energy", "energy (open prompts)", "spread ratio"):
        assert all(rows[f"{figure} model"][t] is None for t in undecided)


def test_a_model_that_spreads_where_the_truth_does_not_is_punished(videos, monkeypatch):
    """The model is perfect where true futures differ, and elsewhere jitters by two pixels."""
    clips, perfect = held_out(videos, 12), more_truth(videos)

    def jittery(clip, frames, count):
        futures = perfect(clip, frames, count)
        certain = (futures == futures[:1]).flatten(2).all(dim=2).all(dim=0)  # (T,)
        jitter = torch.stack([future.roll(2 * (k % 2), dims=-1) for k, future in enumerate(futures)])
        return torch.where(certain[:, None, None, None], jitter, futures)

    rows = scored(monkeypatch, videos, clips, jittery)["per_horizon"]
    best = scored(monkeypatch, videos, clips, perfect)["per_horizon"]
    some = next(t for t, n in enumerate(rows["open prompts"]) if n > 2)
    assert rows["certain prompts"][some] > 2
    assert rows["energy (open prompts) model"][some] == best["energy (open prompts) model"][some]
    assert rows["energy model"][some] > best["energy model"][some] + 0.3
    assert rows["precision model"][some] < best["precision model"][some]
    assert rows["spread ratio model"][some] > 1.2 * best["spread ratio model"][some]
    assert rows["certain spread model"][0] > 0.05
    assert best["certain spread model"][0] == best["certain rms model"][0] == 0


def test_on_certain_prompts_a_model_is_held_against_the_one_true_future(videos, monkeypatch):
    """A model whose black is 0.1 too bright and whose white as much too dark, on pixels from 0 to 1."""
    clips, perfect = held_out(videos, 8), more_truth(videos)
    rows = scored(monkeypatch, videos, clips, lambda *asked: 0.8 * perfect(*asked), horizon=2)["per_horizon"]
    assert rows["certain rms model"] == pytest.approx([0.1, 0.1], abs=5e-3)
    assert rows["certain spread model"] == rows["certain rms truth"] == [0.0, 0.0]
    assert rows["certain rms copy"][0] > 0


def test_a_future_a_quarter_of_a_pixel_off_is_precise_and_one_that_is_two_off_is_not(monkeypatch):
    """On certain prompts of real size, whose neighbourhoods have no radius of their own."""
    videos = MovingMNIST(MovingMNISTConfig(digits=1, frames=5, strokes=1.0), None, "test", count_strokes=40)
    clips, perfect = held_out(videos, 8), more_truth(videos)

    def shifted(pixels):
        left, right = int(pixels), int(pixels) + 1
        mix = pixels - left
        return lambda *asked: perfect(*asked).roll(left, -1) * (1 - mix) + perfect(*asked).roll(right, -1) * mix

    near, far = (
        scored(monkeypatch, videos, clips, shifted(pixels), count=4, horizon=1)["per_horizon"] for pixels in (0.25, 2)
    )
    assert near["certain prompts"] == [8]
    assert near["precision model"] == near["coverage model"] == [1.0]
    assert far["precision model"] == far["coverage model"] == [0.0]


def test_a_digit_that_comes_back_is_kept_to_the_end_and_one_that_is_gone_for_good_is_not(videos, monkeypatch):
    """The classifier of this test sees the digits in every frame that is not black."""
    clips, perfect = held_out(videos, 3), more_truth(videos)
    named = lambda _, video, labels: ((video + 1).flatten(2).amax(dim=2) > 1).float()  # noqa: E731
    monkeypatch.setattr("train.evaluation.simulated_futures.all_named", named)

    def losing(clip, frames, count):
        futures = perfect(clip, frames, count).clone()
        futures[0, 3:] = -1  # for good
        futures[1, 3:-1] = -1  # but for the last frame
        return futures

    figures = scored(monkeypatch, videos, clips, losing, count=4, horizon=8, classifier=object())
    assert figures["kept to the end"] == {"digits copy": 1.0, "digits model": 0.75, "digits truth": 1.0}
    assert figures["per_horizon"]["digits model"] == [1.0] * 3 + [0.5] * 4 + [0.75]


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


# ---- classifier -------------------------------------------------------------------------------------------


def test_counts_tell_how_often_each_digit_is_there():
    assert counts(torch.tensor([[3, 3], [0, 9]])).tolist()[0][3] == 2
    assert counts(torch.tensor([[3, 3], [0, 9]])).sum(dim=1).tolist() == [2, 2]


def test_the_judge_names_frames_of_any_leading_shape_and_refuses_other_sizes():
    classifier = DigitClassifier().eval()
    assert classifier.digits(torch.rand(2, 3, 1, 64, 64)).shape == (2, 3, 10)
    with pytest.raises(ValueError, match=r"reads \(1, 64, 64\)"):
        classifier(torch.rand(2, 1, 32, 32))


def test_the_judge_chooses_among_66_sets_of_at_most_two_digits():
    torch.manual_seed(0)
    classifier, frames = DigitClassifier().eval(), torch.rand(8, 1, 64, 64)
    assert digit_sets().shape == (66, 10) and len(digit_sets().unique(dim=0)) == 66
    assert digit_sets().sum(dim=1).bincount().tolist() == [1, 10, 55]
    with torch.no_grad():
        scores, named = classifier.set_scores(classifier.embed(frames)), classifier(frames)
    assert torch.equal(classifier.digits(frames), digit_sets()[scores.argmax(dim=1)])
    torch.testing.assert_close(named.exp().sum(dim=-1), torch.ones(8, 10))
    expected = scores.exp() @ digit_sets().float()
    torch.testing.assert_close(named[..., 1].exp() + 2 * named[..., 2].exp(), expected)


def test_the_judge_learns_from_frames_whose_digits_and_places_are_those_of_the_labels():
    videos = MovingMNIST(MovingMNISTConfig(frames=1, strokes=1.0), None, "train", count_strokes=40)
    data, again, others = (labelled_frames(videos, 200, 0, index) for index in (0, 0, 1))
    assert torch.equal(data.frames, again.frames) and not torch.equal(data.frames, others.frames)
    here = data.shown.sum(dim=1)
    assert set(here.tolist()) == {0, 1, 2} and data.frames.amax(dim=(1, 2, 3))[here == 0].eq(0).all()
    sets = digit_sets()[set_ids(data)]
    assert torch.equal(sets.sum(dim=1), here) and torch.equal(sets[here == 2], counts(data.labels[here == 2]))
    located = centre_map(data)
    y, x = (data.centres[0, 0] / 8).long().clamp(max=7)
    assert located[0, data.labels[0, 0], y, x] == data.shown[0, 0] and located[here == 0].eq(0).all()


def test_each_weight_of_the_judge_is_optimised_once():
    classifier, locate = DigitClassifier(), torch.nn.Conv2d(128, 10, 1)
    held = [p for group in optimizer_of(classifier, locate, 1e-3).param_groups for p in group["params"]]
    assert len({id(p) for p in held}) == len(held) == len([*classifier.parameters(), *locate.parameters()])


def test_a_judge_is_stored_in_half_precision_and_its_largest_layers_in_eight_bits(tmp_path):
    torch.manual_seed(0)
    classifier = DigitClassifier().eval()
    weights = narrowed(classifier.state_dict())
    kinds = {t.dtype for t in weights.values() if t.numel() >= 2**16}
    assert kinds == {torch.float8_e4m3fn} and weights["features.1.body.2.weight"].dtype == torch.float16
    save_file(weights, tmp_path / "digit_classifier.safetensors")
    again = load_digit_classifier(tmp_path / "digit_classifier.safetensors")
    for name, tensor in classifier.state_dict().items():
        kept = again.state_dict()[name]
        assert kept.dtype == torch.float32 and (kept - tensor).norm() <= 0.05 * tensor.norm()


def test_the_shipped_judge_reads_drawn_digits():
    from train.evaluate import CLASSIFIER

    videos = MovingMNIST(MovingMNISTConfig(digits=1, frames=1, strokes=1.0), None, "test", count_strokes=200)
    clip = videos.sample(100, 0, 0)
    named = load_digit_classifier(CLASSIFIER).digits((clip.video[:, 0] + 1) / 2)
    assert (named == counts(clip.labels)).all(dim=-1).float().mean() > 0.9


# ---- what the transformer is worth -------------------------------------------------------------------


def test_controls_of_an_stt_lose_its_features_or_all_that_its_transformer_learned_and_nothing_else():
    model = lively(STT(TINY_LAYERS)).eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    controls = controls_of(model)
    assert set(controls) == {"zero features", "untrained"}
    for control in controls.values():
        own = control.state_dict()
        assert all(torch.equal(own[name], t) for name, t in before.items() if name.startswith("segmenter."))
    tokens = torch.randn(1, 3, 1, 2, TINY_LAYERS.dim)
    assert not controls["zero features"].network(tokens, None).hidden.any()
    assert controls["untrained"].tokens.head.weight.abs().max() == 0 and model.tokens.head.weight.abs().max() > 0
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert controls_of(built(TINY_TIMESFORMER)) == {}


def test_the_motion_protocol_states_floor_and_ignorance_beside_the_model():
    model = STT(STTConfig(layers=2, segmenter_width=16, dim=32, depth=1, heads=2, gaussian_grid=(0,))).eval()
    videos = MovingMNIST(MovingMNISTConfig(frames=12, strokes=1), None, "test", count_strokes=20)
    figures = motion({"model": model}, held_out(videos, 6))["nats a layer and frame"]
    assert figures["ignorance"]["turns"] == pytest.approx(math.log(81), abs=1e-3)
    assert figures["world"]["on"] == 0 < figures["world"]["turns"] < math.log(81)
    assert figures["model"]["all"] > figures["world"]["all"]


def test_what_a_wall_gives_is_drawn_as_often_as_its_nats_say():
    """The mean of the nats is the entropy of what happens: log 36 at a wall if no clamp cuts a velocity short."""
    state = DigitState(torch.tensor([[[10, -1]]]).repeat(4000, 1, 1), torch.tensor([[[0, -1]]]).repeat(4000, 1, 1))
    moves = stochastic_moves(state, 2, torch.Generator().manual_seed(0))
    nats = transition_nats(moves)[:, 0, 0]
    torch.testing.assert_close(nats, torch.full_like(nats, math.log(36)))
    assert (
        transition_nats(stochastic_moves(state._replace(position=state.position.abs()), 2, torch.Generator()))
        .eq(0)
        .all()
    )
