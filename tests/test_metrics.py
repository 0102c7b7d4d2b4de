"""Measures know the cases whose answer is known."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from stt.metrics import (
    FRAME_METRICS,
    HIGHER_IS_BETTER,
    frame_mse,
    frame_psnr,
    frame_ssim,
    frame_ssim_openstl,
    spread,
    unit,
)


def test_equal_frames_are_perfect_by_every_measure():
    true = torch.rand(2, 3, 1, 16, 16)
    assert frame_mse(true, true).eq(0).all()
    assert frame_psnr(true, true).eq(100).all()
    torch.testing.assert_close(frame_ssim(true, true), torch.ones(2, 3))


def test_a_known_error_gives_the_known_figure():
    off = torch.full((1, 1, 10, 10), 0.1)
    assert float(frame_mse(off, off * 0)) == pytest.approx(1)
    assert float(frame_psnr(off, off * 0)) == pytest.approx(20)


def test_ssim_is_that_of_its_paper_over_the_whole_frame():
    a, b = torch.rand(2, 32, 32, dtype=torch.float64).numpy()
    smooth = lambda x: cv2.GaussianBlur(x, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT_101)  # noqa: E731
    mean_a, mean_b = smooth(a), smooth(b)
    variances = smooth(a * a) - mean_a**2 + smooth(b * b) - mean_b**2
    likeness = (2 * mean_a * mean_b + 1e-4) * (2 * (smooth(a * b) - mean_a * mean_b) + 9e-4)
    expected = np.mean(likeness / ((mean_a**2 + mean_b**2 + 1e-4) * (variances + 9e-4)))
    found = frame_ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None])
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_ssim_of_openstl_is_scikit_image_s_default_for_floats():
    """Its definition window by window: 7x7, sample covariances, data range 2; only windows inside the frame."""
    a, b = torch.rand(2, 3, 20, 18).numpy().astype(np.float64)
    windows = [np.lib.stride_tricks.sliding_window_view(x, (7, 7), axis=(1, 2)).reshape(-1, 49) for x in (a, b)]
    expected = []
    for x, y in zip(*windows, strict=True):
        (xx, xy), (_, yy) = np.cov(x, y)
        likeness = (2 * x.mean() * y.mean() + 0.02**2) * (2 * xy + 0.06**2)
        expected.append(likeness / ((x.mean() ** 2 + y.mean() ** 2 + 0.02**2) * (xx + yy + 0.06**2)))
    given = frame_ssim_openstl(torch.from_numpy(a), torch.from_numpy(b))
    assert float(given) == pytest.approx(np.mean(expected), abs=1e-9)
    assert abs(float(given) - float(frame_ssim(torch.from_numpy(a), torch.from_numpy(b)))) > 0.005


def test_ssim_of_openstl_scores_each_frame_alone_and_equal_frames_at_1():
    true = torch.rand(4, 3, 16, 16)
    near = (true + 0.1 * torch.randn_like(true)).clamp(0, 1)
    assert frame_ssim_openstl(near, true).shape == (4,) and frame_ssim_openstl(near, true).lt(1).all()
    torch.testing.assert_close(frame_ssim_openstl(near, true)[1:2], frame_ssim_openstl(near[1:2], true[1:2]))
    torch.testing.assert_close(frame_ssim_openstl(true, true), torch.ones(4))


def test_every_measure_prefers_the_nearer_prediction_and_scores_each_frame_alone():
    true = torch.rand(4, 3, 16, 16)
    near, far = (true + scale * torch.randn_like(true) for scale in (0.05, 0.2))
    for name, measure in FRAME_METRICS.items():
        assert ((measure(near, true) > measure(far, true)) == HIGHER_IS_BETTER[name]).all()
        torch.testing.assert_close(measure(near, true)[1:2], measure(near[1:2], true[1:2]))


def test_one_truth_serves_many_futures():
    futures, true = torch.rand(3, 2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    for measure in FRAME_METRICS.values():
        assert measure(futures, true.expand_as(futures)).shape == (3, 2)


def test_unit_maps_black_and_white_to_0_and_1_and_clamps():
    assert unit(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 0.5, 1, 1]


def test_spread_is_zero_for_one_future_and_for_equal_ones():
    one = torch.rand(1, 3, 1, 8, 6)
    for futures in (one, one.expand(4, -1, -1, -1, -1)):
        assert spread(futures).shape == (3, 8, 6)
        assert spread(futures).eq(0).all()


def test_spread_is_a_half_where_half_of_the_futures_are_black_and_half_white():
    futures = torch.zeros(4, 2, 3, 4, 4)
    futures[:2, 1, :, 0, 0] = 1
    expected = torch.zeros(2, 4, 4)
    expected[1, 0, 0] = 0.5
    torch.testing.assert_close(spread(futures), expected)


def test_spread_is_the_root_mean_square_over_channels_and_changes_nothing():
    futures = torch.rand(5, 2, 3, 4, 4)
    before = futures.clone()
    for correction in (0, 1):
        deviation = futures.numpy().std(axis=0, ddof=correction)  # (T, C, H, W)
        expected = np.sqrt((deviation**2).mean(axis=1))
        np.testing.assert_allclose(spread(futures, correction).numpy(), expected, atol=1e-6)
    assert torch.equal(futures, before)
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\)"):
        spread(futures[0])


def test_importing_the_package_does_not_wait_for_torchmetrics():
    check = "import sys, stt, stt.metrics; sys.exit('torchmetrics' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
