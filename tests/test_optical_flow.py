"""Optical flow carries a picture on, and tells which way it goes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stt.metrics import frame_mse
from train.evaluation.optical_flow import carried_on, dis, farneback, sideways_motion


def panned(speed: float, frames: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    """A soft texture that goes `speed` pixels to the right a frame, (frames, 1, side, side) on [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    wide = F.interpolate(torch.rand(1, 1, side // 4, side, generator=generator), scale_factor=4, mode="bicubic")
    at = torch.linspace(-1, 1, side)
    x = (at * (side - 1) - 2 * speed * torch.arange(frames)[:, None]) / (wide.shape[-1] - 1)  # (frames, side)
    grid = torch.stack(torch.broadcast_tensors(x[:, None], at[:, None]), dim=-1)  # (frames, side, side, 2)
    return F.grid_sample(wide.expand(frames, -1, -1, -1), grid, align_corners=True).clamp(0, 1)


def test_what_goes_on_as_fast_is_foretold_and_a_copy_falls_behind():
    video = panned(2, 8)
    middle = (..., slice(8, -8), slice(16, -16))  # away from what enters
    for flow in (farneback, dis):
        foretold, copied = carried_on(video[2], video[3], 4, flow), video[3:4].expand(4, -1, -1, -1)
        off, stayed = (frame_mse(frames[middle], video[4:][middle]) for frames in (foretold, copied))
        assert (off < 0.05 * stayed).all(), flow
        assert (frame_mse(foretold, video[4:]) < 0.5 * frame_mse(copied, video[4:])).all(), flow


def test_a_moving_thing_takes_its_velocity_along_and_leaves_the_rest_behind():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    distances = [((x - 14 - 3 * t) ** 2 + (y - 32) ** 2).sqrt() for t in range(8)]
    disc = torch.stack([torch.sigmoid(8 - distance) for distance in distances])[:, None]
    moved = carried_on(disc[0], disc[1], 6)
    assert (frame_mse(moved, disc[2:]) < 0.3 * frame_mse(disc[1:2].expand(6, -1, -1, -1), disc[2:])).all()
    assert moved[-1, :, :, :20].mean() < 0.1  # where the disc was


def test_what_rests_stays():
    still = panned(0, 2)
    torch.testing.assert_close(carried_on(*still, 3), still[:1].expand(3, -1, -1, -1), atol=0.02, rtol=0)


@pytest.mark.parametrize("speed", [-3.0, -1.0, 0.0, 2.0])
def test_a_picture_goes_right_with_a_plus_and_as_far_as_it_is_panned(speed):
    assert sideways_motion(panned(speed, 5)).tolist() == pytest.approx([speed] * 4, abs=0.3)
