"""Optical flow carries a picture on, and tells which way it goes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stt.metrics import frame_mse
from stt.optical_flow import Composition, Origin, compose, warp
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


def test_pixels_that_are_copied_again_and_again_are_interpolated_once_and_stay_sharp():
    frame, steps = torch.rand(1, 3, 24, 24) * 2 - 1, 10
    flows, masks, pixels = torch.full((1, 1, 2, 24, 24), 0.3), torch.zeros(1, 4, 24, 24), torch.zeros(1, 3, 24, 24)
    masks[:, 1] = 99.0  # all pixels come along the flow
    blurred = composed = Composition(frame, None, Origin.of(frame))
    for _ in range(steps):
        blurred = compose(flows, masks, pixels, blurred.frames, frame, None)
        composed = compose(flows, masks, pixels, composed.frames, frame, None, composed.origin)
    once = warp(frame, torch.full((1, 2, 24, 24), 0.3 * steps))
    inner = (slice(None), slice(None), slice(0, 20), slice(0, 20))
    torch.testing.assert_close(composed.frames[inner], once[inner], atol=1e-4, rtol=0)
    assert blurred.frames[inner].std() < 0.9 * once[inner].std()


def test_the_origin_of_pixels_that_are_mixed_or_new_is_uncertain_and_the_last_frame_counts_there():
    frame = torch.rand(1, 3, 8, 8) * 2 - 1
    flows, pixels = torch.zeros(1, 1, 2, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    flows[:, :, 0] = 4.0
    for name, chances, certainty in (
        ("one copy", (0, 1, 0, 0), 1.0), ("two copies from far apart", (0.5, 0.5, 0, 0), 0.0),
        ("new", (0, 0, 0, 1), 0.0), ("half new", (0.5, 0, 0, 0.5), 0.5),
    ):  # fmt: skip
        masks = torch.tensor(chances).clamp(min=1e-9).log()[None, :, None, None].expand(1, 4, 8, 8)
        masks = masks - masks.new_tensor([2.0, 0, 0, 0])[:, None, None]  # the bias of the last frame
        composed = compose(flows, masks, pixels, frame, frame, None, Origin.of(frame))
        assert composed.origin.certainty.mean() == pytest.approx(certainty, abs=0.02), name
    still = torch.tensor([99.0, 0, 0, 0])[None, :, None, None].expand(1, 4, 8, 8)
    new = Composition(pixels, None, Origin(frame, flows[:, 0], torch.zeros(1, 1, 8, 8)))
    torch.testing.assert_close(compose(flows, still, pixels, new.frames, frame, None, new.origin).frames, pixels)
