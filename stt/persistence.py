"""Persistence: which share of its velocity a thing keeps from frame to frame, as far as a prompt shows it.

At each pixel, the shares SHARES have chances. Each share was a forecast of the prompt's frames; the chances follow from
how far these were off, there and in the frame as a whole. What stops and goes is thus braked, what jitters stands, and
what keeps its pace goes on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stt.optical_flow import carry, warp

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the velocity, evenly spaced
PRIOR = (0.4, 0.1, 0.15, 0.1, 0.25)  # chances of these before a prompt tells anything
EVIDENCE = 12.0  # independent numbers that a prompt of many frames holds about a place
NOISE = 0.75 / 127.5  # standard deviation of the error of a perfect forecast
MEMORY = 0.9  # weight of an error beside that of the frame after
WINDOW = 9  # pixels a side of a mean of errors, taken three times
SLOWEST = 0.1  # pixels a frame; what moves less stands still
SPREAD = 0.5  # share of the distribution over which a future's persistence is a mean


def persistence(frames: Tensor, flow: Tensor) -> Tensor:
    """The chances (B, S, h, w) of SHARES at the last of a prompt's frames (B, T, C, h, w).

    flow (B, T, 2, h, w): of each frame to the one before; that of the first is not used.
    """
    b, t = frames.shape[:2]
    chances = frames.new_tensor(PRIOR)[None, :, None, None].expand(b, -1, *frames.shape[-2:])
    errors, weight = torch.zeros_like(chances), 0.0
    for k in range(1, t - 1):
        expected = carry(flow[:, k])[:, :2]
        now = [(warp(frames[:, k], s * expected) - frames[:, k + 1]).square().mean(dim=1) for s in SHARES]
        errors = torch.stack(now, dim=1) + MEMORY * warp(errors, flow[:, k + 1], "bilinear")
        weight = 1 + MEMORY * weight
    if weight:
        errors = smooth(errors / weight, WINDOW, 3)
        errors = errors + errors.mean(dim=(2, 3), keepdim=True) + NOISE**2
        chances = chances * (errors / errors.mean(dim=1, keepdim=True)) ** (-EVIDENCE / 2 * min(1.0, weight / 2))
        chances = chances / chances.sum(dim=1, keepdim=True)
    speed = smooth(flow[:, -1], 5, 2).norm(dim=1, keepdim=True)
    stands = F.one_hot(torch.tensor(0), len(SHARES)).to(chances)[:, None, None]
    return torch.lerp(stands.expand_as(chances), chances, (speed / SLOWEST - 1).clamp(0, 1))


def mean_share(chances: Tensor, quantile: Tensor | None = None) -> Tensor:
    """The share (N, 1, h, w) of its velocity that each place keeps, from chances (N, S, h, w): the mean.

    quantile (N, 1, 1, 1), from 0 to 1: the mean over quantiles near this one, so that in one future all brakes more
    than in another.
    """
    shares = torch.linspace(SHARES[0], SHARES[-1], len(SHARES), device=chances.device)[:, None, None]
    if quantile is not None:
        low, high = ((quantile + end).clamp(0, 1) for end in (-SPREAD / 2, SPREAD / 2))
        above = chances.cumsum(dim=1)
        chances = (torch.minimum(above, high) - torch.maximum(above - chances, low)).clamp(min=0) / (high - low)
    return (chances * shares).sum(dim=1, keepdim=True)


def smooth(x: Tensor, window: int, times: int) -> Tensor:
    """Means of (N, C, h, w) over windows, repeatedly, which is nearly a Gaussian blur."""
    for _ in range(times):
        x = F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)
    return x
