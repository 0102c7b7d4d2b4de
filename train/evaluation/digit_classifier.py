"""A classifier that names the digits of a frame."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from stt.layers import ResBlock, group_norm, patchify

SIZE = 64  # pixels a side
MOST = 2  # digits in a frame


@cache
def digit_sets() -> Tensor:
    """Every multiset of at most MOST digits, the empty one first: how often each digit is there, (66, 10)."""
    singles = torch.eye(10, dtype=torch.int64)
    first, second = torch.combinations(torch.arange(10), MOST, with_replacement=True).unbind(dim=1)
    return torch.cat([torch.zeros(1, 10, dtype=torch.int64), singles, singles[first] + singles[second]])


class DigitClassifier(nn.Module):
    """Names the digits of a frame: which of the 66 sets of at most two digits it shows.

    A residual network whose head scores how often each digit is there; the score of a set is the sum over digits.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 128), blocks: int = 2, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = [nn.Conv2d(patch**2, widths[0], 3, padding=1)]
        for i, width in enumerate(widths):
            if i:
                layers.append(nn.Conv2d(widths[i - 1], width, 3, stride=2, padding=1))
            layers += [ResBlock(width) for _ in range(blocks)]
        self.features = nn.Sequential(*layers, group_norm(widths[-1]), nn.SiLU())
        pooled = 2 * widths[-1]
        self.head = nn.Sequential(nn.Linear(pooled, pooled), nn.SiLU(), nn.Linear(pooled, 10 * (MOST + 1)))
        self.register_buffer("sets", F.one_hot(digit_sets(), MOST + 1).float(), persistent=False)  # (66, 10, 3)

    def feature_map(self, frames: Tensor) -> Tensor:
        """Frames (N, 1, 64, 64) on [0, 1] -> (N, 128, 8, 8)."""
        if tuple(frames.shape[1:]) != (1, SIZE, SIZE):
            raise ValueError(f"frames are {tuple(frames.shape[1:])}, the classifier reads (1, {SIZE}, {SIZE})")
        return self.features(patchify(frames, self.patch))

    def embed(self, frames: Tensor) -> Tensor:
        """Frames (N, 1, 64, 64) on [0, 1] -> (N, 640), see `pool`."""
        return pool(self.feature_map(frames))

    def set_scores(self, embedded: Tensor) -> Tensor:
        """What `embed` gives, (..., 640) -> log-probabilities (..., 66) of the digit sets, wherever digits are."""
        *quarters, most = embedded.chunk(5, dim=-1)
        scores = self.head(torch.cat([sum(quarters) / 4, most], dim=-1)).unflatten(-1, (10, MOST + 1)).float()
        return torch.einsum("... k c, s k c -> ... s", scores, self.sets).log_softmax(dim=-1)

    def named(self, embedded: Tensor) -> Tensor:
        """What `embed` gives, (..., 640) -> log-probabilities (..., 10, 3) of how often each digit is there."""
        chances = torch.einsum("... s, s k c -> ... k c", self.set_scores(embedded).double().exp(), self.sets.double())
        return chances.clamp(min=1e-30).log().float()

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, 1, 64, 64) on [0, 1] -> log-probabilities (N, 10, 3) of how often each digit is there."""
        return self.named(self.embed(frames))

    @torch.inference_mode()
    def digits(self, frames: Tensor) -> Tensor:
        """Frames (..., 1, 64, 64) on [0, 1] -> (..., 10) how often each digit is there, in the likeliest set."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        best = torch.cat([self.set_scores(self.embed(part)).argmax(dim=-1) for part in flat.split(128)])
        return digit_sets().to(best.device)[best].reshape(*frames.shape[:-3], 10)


def pool(features: Tensor) -> Tensor:
    """Mean over each quarter of the frame, and maximum over all places: (N, C, h, w) -> (N, 5 * C)."""
    quarters = F.adaptive_avg_pool2d(features, 2)  # (N, C, 2, 2)
    return torch.cat([rearrange(quarters, "n c y x -> n (y x c)"), features.amax(dim=(2, 3))], dim=1)


def counts(labels: Tensor) -> Tensor:
    """Labels (..., D) -> (..., 10) how often each digit is there."""
    return F.one_hot(labels, 10).sum(dim=-2)


def load_digit_classifier(path: Path, device: torch.device | str = "cpu") -> DigitClassifier:
    classifier = DigitClassifier().to(device)
    classifier.load_state_dict(load_file(path, device=str(device)))
    return classifier.eval()
