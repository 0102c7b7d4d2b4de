"""Metrics of frames on [0, 1], of sets of futures and of classifier outputs. The caller averages over clips."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 0.018
"""Root-mean-square difference of pooled frames below which two futures count as the same.

It is that of a frame of one MNIST digit and the same frame shifted by half a pixel: 0.0180, mean over 500 test digits
and 6 directions (0.0090 for a quarter of a pixel, 0.0358 for one). Clips show digits at whole pixels, so half a pixel
is the rounding error of a position.
"""


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
    """(..., C, H, W) -> (..., C*side*side): frames averaged down, so that distances depend less on single pixels."""
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


def energy_distance(d: SetDistances) -> tuple[Tensor, Tensor]:
    """The energy distance 2 E|x-y| - E|x-x'| - E|y-y'| and its scale E|x-x'|, (T,) each, unbiased.

    After Szekely and Rizzo (2013). Scores state the normalised energy distance: the first over the second, each summed
    over prompts. It is 0 when both sets come from one distribution, about 0.41 when all y are the mean of x, and about
    1 when all y are one draw of x.
    """
    within = mean_of_pairs(d.true)
    return 2 * d.cross.mean(dim=(-2, -1)) - within - mean_of_pairs(d.predicted), within


def coverage_and_precision(d: SetDistances, k: int = 3, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Share of true futures with a predicted one in their neighbourhood, and the reverse; (T,) each.

    A true future's neighbourhood reaches to its k-th nearest other true one (coverage: arXiv 2002.09797; precision:
    arXiv 1904.06991), and at least to `tolerance`, which alone counts where all true futures are equal. The mean
    distance of all true pairs would not do as a radius: every blur lies nearer than that.
    """
    radius = d.true.sort(dim=-1).values[..., k].clamp(min=tolerance)  # (T, N); index 0 is the future itself
    inside = d.cross <= radius[..., None] + 1e-6  # (T, N, M)
    return inside.any(dim=-1).float().mean(dim=-1), inside.any(dim=-2).float().mean(dim=-1)


# ---- sets of clips -----------------------------------------------------------------------------------


def clip_statistics(embedded: Tensor) -> Tensor:
    """Features of clips from a network's features of each frame, (N, T >= 2, D) -> (N, 2, D).

    The first half is the mean over time, which does not depend on the order of frames. The second is the mean absolute
    difference of successive frames, which tells still, jerking and morphing clips from moving ones. Neither depends on
    the direction of time.
    """
    return torch.stack([embedded.mean(dim=1), embedded.diff(dim=1).abs().mean(dim=1)], dim=1)


def projected(halves: Tensor, dims: int = 32) -> Tensor:
    """Features (N, 2, D) -> (N, 2, dims) float64, by a fixed random orthonormal projection of each half.

    A few hundred clips cannot estimate the covariances of more. Principal components of true clips would be blind to
    what these never show.
    """
    size = halves.shape[-1]
    random = torch.randn(2, size, dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.einsum("n h d, h d k -> n h k", halves.double(), torch.linalg.qr(random).Q.to(halves.device))


def scaled(features: Tensor, reference: Tensor) -> Tensor:
    """(N, 2, K) -> (N, 2*K): both halves of `projected`, scaled to a total variance of 1/2 each in the reference.

    A Frechet distance of 1 to the reference is then that of its mean clip, repeated.
    """
    total = reference.var(dim=0).sum(dim=-1, keepdim=True)  # (2, 1)
    return (features / (2 * total.clamp(min=1e-12)).sqrt()).flatten(1)


def gaussian_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """Squared Frechet distance of two normal distributions, means (D,) and covariances (D, D).

    |a - b|^2 + tr(A + B - 2 (A B)^(1/2)), where the trace of the root is the nuclear norm of A^(1/2) B^(1/2). So only
    symmetric matrices get a root, nothing becomes complex, and covariances need no full rank.
    """
    shared = torch.linalg.matrix_norm(_root(cov_a) @ _root(cov_b), "nuc")
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * shared


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def clip_distance(statistics: Tensor, reference: Tensor) -> float:
    """The Frechet distance of two sets of clips, (N, 2, D) and (M, 2, D) of `clip_statistics`; 0 if alike."""
    features, scale = projected(statistics), projected(reference)
    return round(float(frechet_distance(scaled(features, scale), scaled(scale, scale))), 4)


def frechet_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Frechet distance of the normals fitted to two sets (N, D) and (M, D), as in FID (arXiv 1706.08500).

    Small sets of one distribution are above 0 too: compare with such a floor, of equal sizes.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"the sets hold {len(a)} and {len(b)}, a covariance needs at least 2")
    a, b = a.double(), b.double()
    return gaussian_distance(a.mean(dim=0), torch.cov(a.T), b.mean(dim=0), torch.cov(b.T))


def class_posterior(logits: Tensor) -> Tensor:
    """The digit classifier's logits (..., 10, 3) -> probabilities (..., 11) of the ten digits, and of none at last.

    Digits of one frame share the probability by their expected counts: two of them get a half each.
    """
    chances = logits.double().softmax(dim=-1)
    expected = chances[..., 1] + 2 * chances[..., 2]
    nothing = chances[..., 0].prod(dim=-1, keepdim=True)
    return torch.cat([expected / expected.sum(dim=-1, keepdim=True) * (1 - nothing), nothing], dim=-1)


def classifier_score(posterior: Tensor) -> Tensor:
    """The Inception score (arXiv 1606.03498) of class posteriors (N, ..., K) -> (...), from 1 to K.

    exp E KL(p(y|x) || p(y)): high when each frame clearly shows one class and the frames together show many. The
    network is the digit classifier, so scores compare only with those of the same classifier.
    """
    marginal = torch.special.entr(posterior.mean(dim=0)).sum(dim=-1)
    return (marginal - torch.special.entr(posterior).sum(dim=-1).mean(dim=0)).exp()
