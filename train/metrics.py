"""Figures of merit; every function takes frames on [0, 1] and leaves the averaging over clips to the caller."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stt.api import Video


def spread(futures: Video) -> Tensor:
    """How far futures lie apart: standard deviation over the futures, root-mean-square over pixels.

    (N, T, C, H, W) on [0, 1] -> (T,). Zero when all futures are the same.
    """
    return futures.var(dim=0).mean(dim=(-3, -2, -1)).sqrt()


def perplexity(ids: Tensor, size: int) -> tuple[float, float]:
    """Share of `size` codes in use, and the perplexity of their distribution, of ids of any shape."""
    probs = torch.bincount(ids.flatten(), minlength=size).double() / ids.numel()
    entropy = -(probs[probs > 0] * probs[probs > 0].log()).sum()
    return float((probs > 0).double().mean()), float(entropy.exp())


def gradient_energy(frames: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, both axes: high when sharp. (..., C, H, W) -> (...)."""
    across = frames.diff(dim=-1).square().mean(dim=(-3, -2, -1))
    return across + frames.diff(dim=-2).square().mean(dim=(-3, -2, -1))


def pooled(video: Tensor, side: int = 16) -> Tensor:
    """(..., C, H, W) -> (..., C*side*side): frames averaged down, so that distances mean more than pixel luck."""
    small = F.adaptive_avg_pool2d(video.reshape(-1, *video.shape[-3:]), side)
    return small.reshape(*video.shape[:-3], -1)


def pair_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances of futures a (N, T, D) and b (M, T, D) at each time -> (T, N, M)."""
    exact = "donot_use_mm_for_euclid_dist"  # equal futures must be at distance 0
    return torch.cdist(a.transpose(0, 1), b.transpose(0, 1), compute_mode=exact)


class SetDistances(NamedTuple):
    """Distances within and between true and predicted futures of one prompt, (T, N, N), (T, N, M), (T, M, M)."""

    true: Tensor
    cross: Tensor
    predicted: Tensor

    @staticmethod
    def of(true: Tensor, predicted: Tensor) -> SetDistances:
        """From pooled futures (N, T, D) and (M, T, D)."""
        pairs = ((true, true), (true, predicted), (predicted, predicted))
        return SetDistances(*(pair_distances(a, b) for a, b in pairs))


def mean_of_pairs(square: Tensor) -> Tensor:
    """Mean over different members, of distances (T, N, N) within a set -> (T,)."""
    n = square.shape[-1]
    return square.sum(dim=(-2, -1)) / (n * (n - 1))


def energy(d: SetDistances) -> tuple[Tensor, Tensor]:
    """2 E|x-y| - E|x-x'| - E|y-y'| and E|x-x'|, (T,) each: the energy distance (Szekely and Rizzo 2013), unbiased.

    Their ratio, each averaged over prompts first, is 0 when the sets come from one distribution, about 0.41 when all
    y are the mean of x, and about 1 when all y are one and the same draw of x.
    """
    within = mean_of_pairs(d.true)
    return 2 * d.cross.mean(dim=(-2, -1)) - within - mean_of_pairs(d.predicted), within


def coverage_and_precision(d: SetDistances, k: int = 3) -> tuple[Tensor, Tensor]:
    """Share of true futures with a predicted one in their neighbourhood, and the reverse; (T,) each.

    A true future's neighbourhood reaches to its k-th nearest other true one (coverage: arXiv 2002.09797; precision:
    arXiv 1904.06991). The mean distance of all true pairs would be no measure: every blur lies nearer than that.
    """
    radius = d.true.sort(dim=-1).values[..., k]  # (T, N); index 0 is the future itself
    inside = d.cross <= radius[..., None] + 1e-6  # (T, N, M)
    return inside.any(dim=-1).float().mean(dim=-1), inside.any(dim=-2).float().mean(dim=-1)
