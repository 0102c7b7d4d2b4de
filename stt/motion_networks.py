"""The networks around MotionGPT's transformer: what the last frames say about motion, and the heads that draw codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.layers import ResBlock, patchify
from stt.motion_codes import LENGTH, MotionVQ, MotionVQConfig, summed, window_sums

FINE = 4  # pixels a side of the patches of the context's network
MISSES = 2.0  # weight of ink that did not move on


class Past(nn.Module):
    """What the last frames say about each cell of the next one, (B, P, C, H, W) on [0, 1] -> (B, cells, dim).

    Inputs: the frames, the frame that results if everything moves on (`extrapolate`), and for every displacement how
    much ink arrives in the cell that moved so before, and how much that did not, unless layers tell (`still`).
    """

    def __init__(self, frames: int, width: int, dim: int, codec: MotionVQConfig, evidence: bool) -> None:
        super().__init__()
        steps, shifts = codec.patch // FINE, codec.motions - 1
        self.stem = nn.Conv2d((frames + 1) * codec.channels * FINE**2, width, 3, padding=1)
        self.fine = ResBlock(width)
        self.down = nn.Conv2d(width, dim, steps, stride=steps)
        self.evidence = nn.Conv2d(2 * shifts, dim, 3, padding=1) if evidence else None
        self.counts = nn.Parameter(0.02 * torch.randn(frames + 1, dim))  # frames that there were
        self.block = ResBlock(dim)

    def forward(self, past: Tensor, count: Tensor, motion: Motion) -> Tensor:
        """count (B,): the frames of the context that there were."""
        pixels = torch.cat([past, motion.extrapolated[:, None]], dim=1).flatten(1, 2)
        h = self.down(self.fine(self.stem(patchify(2 * pixels - 1, FINE))))
        h = h + self.counts[count][:, :, None, None]
        if self.evidence is not None and motion.evidence is not None:
            h = h + self.evidence(motion.evidence.flatten(1, 2))
        return rearrange(self.block(h), "b d h w -> b (h w) d")


class Motion(NamedTuple):
    evidence: Tensor | None  # (B, 2, S, h, w) of each displacement: square roots of the ink that moved on, or did not
    extrapolated: Tensor  # (B, C, H, W) the next frame if everything moves on
    likeliest: Tensor  # (B, h, w) motion codes of the ink that arrives


def still(tokenizer: MotionVQ, before: Tensor) -> Motion:
    """As `extrapolate` where the frame (B, C, H, W) to copy from is where everything has moved on to already."""
    grid = tokenizer.config.grid
    return Motion(None, before, torch.full((len(before), grid, grid), tokenizer.still, device=before.device))


@torch.no_grad()
def extrapolate(tokenizer: MotionVQ, past: Tensor) -> Motion:
    """Block matching of the last two of frames (B, P, C, H, W): every displacement, where it leads to next."""
    parts = [_extrapolate(tokenizer, *pair) for pair in zip(past[:, -1].split(1), past[:, -2].split(1), strict=True)]
    evidence, extrapolated, likeliest = (torch.cat(part) for part in zip(*parts, strict=True))
    return Motion(evidence, extrapolated, likeliest)


def _extrapolate(tokenizer: MotionVQ, last: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    patch, shifts = tokenizer.config.patch, tokenizer.shifts
    moved, twice = tokenizer.candidates(last), tokenizer.candidates(before, scale=2)
    steady = window_sums(summed(torch.minimum(moved, twice)), patch, patch // 2)  # ink that moved on
    ink = window_sums(summed(twice.add_(moved)), patch, patch // 2)
    evidence = torch.stack([steady, ink - 2 * steady], dim=1)  # |a - b| = a + b - 2 min(a, b)
    arrives = evidence[:, 0] - MISSES * evidence[:, 1] - LENGTH * shifts.abs().sum(dim=1)[:, None, None]
    likeliest = arrives.argmax(dim=1)
    return evidence.clamp(min=0).sqrt() / patch, tokenizer.copied(last, likeliest), likeliest


class MotionHead(nn.Module):
    """Logits of a position's motion, (B, n, motions).

    Beside those of a linear layer, it points (arXiv 1506.03134) at the motions of the cells to the left and above, at
    what moves on, and at the evidence if there is any, each with a weight that depends on the features.
    """

    def __init__(self, dim: int, motions: int, evidence: bool) -> None:
        super().__init__()
        self.out, self.weights = nn.Linear(dim, motions), nn.Linear(dim, 5 if evidence else 3)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.weights.weight)
        nn.init.ones_(self.weights.bias)

    def forward(self, h: Tensor, pointers: Tensor, evidence: Tensor | None) -> Tensor:
        """pointers (B, n, 3) motion codes, evidence (B, n, motions - 1, 2)."""
        logits, weights = self.out(h).float(), self.weights(h).float()
        logits = logits.scatter_add(-1, pointers, weights[..., :3])
        if evidence is not None:
            moved_on, stayed = evidence.unbind(dim=-1)
            logits = logits + F.pad(moved_on * weights[..., 3, None] - stayed * weights[..., 4, None], (0, 1))
        return logits


class ResidualHead(nn.Module):
    """Logits of a stage of the residual from a position's features and its pixels up to there."""

    def __init__(self, dim: int, pixels: int, codes: int) -> None:
        super().__init__()
        self.features, self.pixels = nn.Linear(dim, dim), nn.Linear(pixels, dim, bias=False)
        self.out = nn.Linear(dim, codes)
        nn.init.normal_(self.out.weight, std=0.02)

    def forward(self, h: Tensor, pixels: Tensor) -> Tensor:
        return self.out(F.gelu(self.features(h) + self.pixels(pixels), approximate="tanh"))
