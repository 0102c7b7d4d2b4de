"""Mixture density network: a network's outputs as a mixture of normals (Bishop, "Mixture density networks", 1994)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stt.api import Noise, Sampling
from stt.sampler import sample_logits

MIN_STD = 0.02


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
