"""Metrics of sets of futures and of clips take the values that theory gives."""

from __future__ import annotations

import pytest
import torch

from train.evaluation.metrics import (
    SetDistances,
    class_posterior,
    classifier_score,
    clip_distance,
    clip_statistics,
    coverage_and_precision,
    energy_distance,
    frechet_distance,
    gaussian_distance,
    gradient_energy,
    perplexity,
    pooled,
    projected,
)


def normalised_energy(true, predicted) -> float:
    excess, within = energy_distance(SetDistances.of(true, predicted))
    return float(excess.mean() / within.mean())


# ---- sets of futures ---------------------------------------------------------------------------------


def test_the_energy_distance_is_zero_for_one_distribution_04_for_its_mean_and_1_for_one_draw():
    generator = torch.Generator().manual_seed(0)
    true, same = torch.randn(2, 64, 8, 256, generator=generator)  # 64 futures, 8 horizons
    assert normalised_energy(true, same) == pytest.approx(0, abs=0.01)
    assert normalised_energy(true, torch.zeros(64, 8, 256)) == pytest.approx(2**0.5 - 1, abs=0.01)
    assert normalised_energy(true, same[:1].expand(64, -1, -1)) == pytest.approx(1, abs=0.05)
    assert normalised_energy(true, same + 3) > 1


def test_the_energy_distance_sees_colours_of_one_brightness_and_equal_futures_are_at_zero():
    red, green = torch.zeros(2, 4, 1, 3, 16, 16)
    red[..., 0, :, :], green[..., 1, :, :] = 1, 1
    assert torch.equal(red.mean(dim=2), green.mean(dim=2)) and pooled(red, side=4).shape == (4, 1, 48)
    assert energy_distance(SetDistances.of(pooled(red), pooled(green)))[0] > 1
    one = torch.rand(1, 3, 256).expand(5, -1, -1)
    assert all(part.eq(0).all() for part in SetDistances.of(one, one))


def test_coverage_and_precision_tell_a_missed_mode_from_an_invented_one():
    left = torch.rand(8, 1, 4) * 0.1
    true = torch.cat([left, left + torch.rand(8, 1, 4) * 0.1 + 5])
    jitter, blur = 0.01 * torch.rand(16, 1, 4), true.mean(dim=0, keepdim=True).expand_as(true)
    for name, a, b, expected in (
        ("alike", true, true + jitter, (1.0, 1.0)),
        ("missed", true, torch.cat([left, left]) + jitter, (0.5, 1.0)),
        ("invented", left, true + jitter, (1.0, 0.5)),
        ("blurred", true, blur, (0.0, 0.0)),
    ):
        assert tuple(float(v) for v in coverage_and_precision(SetDistances.of(a, b))) == expected, name


def test_gradient_energy_falls_with_blur_and_pooling_keeps_the_mean():
    frames = torch.rand(3, 2, 1, 64, 64)
    blurred = torch.nn.functional.avg_pool2d(frames.flatten(0, 1), 3, stride=1, padding=1).unflatten(0, (3, 2))
    assert (gradient_energy(blurred) < 0.5 * gradient_energy(frames)).all()
    assert pooled(frames).shape == (3, 2, 256)
    torch.testing.assert_close(pooled(frames).mean(dim=-1), frames.mean(dim=(2, 3, 4)))


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.tensor([0, 1, 2, 3]), 8) == pytest.approx((0.5, 4.0))


# ---- Frechet distance --------------------------------------------------------------------------------


def test_the_distance_of_normals_whose_axes_agree_is_that_of_means_and_deviations():
    a, b = torch.tensor([1.0, 4.0, 0.0]).double(), torch.tensor([9.0, 1.0, 2.0]).double()  # variances
    means = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([3.0, 1.0, 0.0]).double()
    expected = (means[0] - means[1]).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    for r in (torch.eye(3).double(), rotation):
        distance = gaussian_distance(r @ means[0], r @ a.diag() @ r.T, r @ means[1], r @ b.diag() @ r.T)
        torch.testing.assert_close(distance, expected)


def test_the_distance_of_two_by_two_normals_is_that_of_the_closed_form():
    """The trace of a square root of M is sqrt(tr M + 2 sqrt(det M)) in two dimensions."""
    zero = torch.zeros(2).double()
    for _ in range(20):
        a, b = (x @ x.T for x in torch.randn(2, 2, 2, dtype=torch.float64))
        root = ((a @ b).trace() + 2 * torch.linalg.det(a @ b).clamp(min=0).sqrt()).sqrt()
        torch.testing.assert_close(gaussian_distance(zero, a, zero, b), a.trace() + b.trace() - 2 * root)


def test_equal_sets_are_at_distance_zero_even_with_fewer_members_than_dimensions():
    for n, d in ((200, 8), (5, 64)):
        x = torch.randn(n, d) @ torch.randn(d, d) + 100
        assert float(frechet_distance(x, x.flip(0))) == pytest.approx(0, abs=1e-6 * float(x.var(dim=0).sum()))
        assert float(frechet_distance(x, x + 2)) == pytest.approx(4 * d, rel=1e-4)


def test_the_distance_of_samples_nears_that_of_their_distributions_and_is_symmetric():
    mixing, mean = torch.randn(4, 4) / 2, torch.tensor([1.0, 0, 0, 0])
    a, b = torch.randn(40_000, 4), torch.randn(40_000, 4) @ mixing + mean
    true = gaussian_distance(*(t.double() for t in (torch.zeros(4), torch.eye(4), mean, mixing.T @ mixing)))
    assert float(frechet_distance(a, b)) == pytest.approx(float(true), rel=0.03)
    assert float(frechet_distance(b, a)) == pytest.approx(float(frechet_distance(a, b)), rel=1e-9)
    with pytest.raises(ValueError, match="40000 and 1, a covariance needs at least 2"):
        frechet_distance(a, b[:1])


def test_features_of_clips_are_always_the_same_and_a_repeated_mean_clip_is_at_distance_one():
    embedding = torch.randn(50, 6, 40) * torch.rand(40)
    reference = clip_statistics(embedding)
    torch.manual_seed(1)
    assert reference.shape == (50, 2, 40) and torch.equal(projected(reference, 8), projected(reference, 8))
    mean = reference.mean(dim=0, keepdim=True).expand(50, -1, -1)
    assert clip_distance(mean, reference) == pytest.approx(1) and abs(clip_distance(reference, reference)) < 1e-4


# ---- classifier score --------------------------------------------------------------------------------


def test_the_classifier_score_counts_the_classes_of_clear_frames():
    clear = torch.eye(11).double()
    for posterior, expected in ((clear[:10], 10), (clear[:1].expand(9, -1), 1), (clear[:10].mean(0).expand(9, -1), 1)):
        assert float(classifier_score(posterior)) == pytest.approx(expected)
    assert classifier_score(clear[:, None].expand(-1, 4, -1)).tolist() == pytest.approx([11] * 4)


def test_a_posterior_sums_to_one_and_says_when_there_is_no_digit():
    logits = torch.full((3, 10, 3), -20.0)
    logits[..., 0] = 20  # no digit
    logits[0, 7] = torch.tensor([-20.0, 20, -20])  # one 7
    logits[1, [2, 5]] = torch.tensor([-20.0, 20, -20])  # a 2 and a 5
    posterior = class_posterior(logits)
    assert posterior.sum(dim=-1).tolist() == pytest.approx([1] * 3)
    assert [float(posterior[0, 7]), float(posterior[1, 2]), float(posterior[1, 5])] == pytest.approx([1, 0.5, 0.5])
    assert float(posterior[2, 10]) == pytest.approx(1)
