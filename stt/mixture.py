"""Mixture density network: a network's outputs as a mixture of normals (Bishop, "Mixture density networks", 1994)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import Noise, Sampling
from stt.sampler import sample_logits

MIN_STD = 0.02
COMPONENTS = 5  # of a policy's mixture


class Mixture(NamedTuple):
    """M normals with diagonal covariance over vectors of A numbers, for each of N items."""

    logits: Tensor  # (N, M)
    means: Tensor  # (N, M, A)
    stds: Tensor  # (N, M, A)

    @staticmethod
    def num_outputs(components: int, size: int) -> int:
        """How many numbers `from_outputs` takes of an item, for M = components and A = size."""
        return components * (1 + 3 * size)

    @classmethod
    def from_outputs(cls, outputs: Tensor, last: Tensor) -> Mixture:
        """Outputs (N, M * (1 + 3 * A)) and the last value (N, A), of which each mean is a share plus a change."""
        size = last.shape[-1]
        components = outputs.shape[-1] // (1 + 3 * size)
        logits, gates, changes, widths = outputs.split([components, *(3 * [components * size])], dim=1)
        gates, changes, widths = (part.unflatten(1, (components, size)) for part in (gates, changes, widths))
        return cls(logits, gates.sigmoid() * last[:, None] + changes, MIN_STD + F.softplus(widths - 2))

    def nll(self, values: Tensor) -> Tensor:
        """Negative log-likelihood of values (N, A) in nats, (N,)."""
        z = (values[:, None] - self.means) / self.stds
        log_probs = (-0.5 * z.square() - self.stds.log() - 0.5 * math.log(2 * math.pi)).sum(dim=-1)
        return -(self.logits.log_softmax(dim=-1) + log_probs).logsumexp(dim=-1)

    def sample(self, temperature: float, noise: Noise) -> Tensor:
        """(N, A): a component, then a value. Temperature divides the logits and scales the stds; 0 gives the mode."""
        gumbel = noise.gumbel(self.logits.shape[-1]) if temperature else self.logits
        component = sample_logits(self.logits, Sampling(temperature=temperature), gumbel)
        item = torch.arange(len(component), device=component.device)
        means, stds = self.means[item, component], self.stds[item, component]
        return means + temperature * stds * noise.normal(means.shape[-1]) if temperature else means


class Policy(nn.Module):
    """The action that follows a frame, from the frame's tokens at their places."""

    def __init__(self, rows: int, columns: int, dim: int, num_actions: int) -> None:
        super().__init__()
        self.size = rows, columns
        self.norm, self.read = nn.LayerNorm(dim), nn.Linear(dim, 16)
        self.mlp = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(16 * rows * columns + 2 * dim, 256), nn.SiLU(),
            nn.Dropout(0.3), nn.Linear(256, Mixture.num_outputs(COMPONENTS, num_actions)),
        )  # fmt: skip

    def forward(self, tokens: Tensor, last: Tensor) -> Mixture:
        """tokens (N, h, w, D), last action (N, A) -> mixture of N items."""
        h = self.norm(tokens)
        places = F.silu(F.adaptive_avg_pool2d(rearrange(self.read(h), "n h w d -> n d h w"), self.size))
        pooled = torch.cat([places.flatten(1), h.mean(dim=(1, 2)), h.amax(dim=(1, 2))], dim=-1)
        return Mixture.from_outputs(self.mlp(pooled).float(), last)
