"""Muon for the hidden matrices and AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the iteration


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """Roughly the nearest semi-orthogonal matrix: the singular values move to about 1. (m, n) -> same."""
    a, b, c = QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.mT


class MuonAdamW(torch.optim.AdamW):
    """AdamW, but groups with `matrix` set take Muon's orthogonalised momentum (arXiv 2502.16982).

    A convolution's kernel counts as the matrix of its outputs by all that one output reads.
    Their update is scaled to the root-mean-square that AdamW's usually has, so that both share one learning rate.
    Differs from torch.optim.Muon, which multiplies in bfloat16: a CPU without matrix units does that some
    thirty times slower than float32.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        held = [(p, p.grad) for group in self.param_groups if group.get("matrix") for p in group["params"]]
        for group in self.param_groups:
            if group.get("matrix"):
                for p in group["params"]:
                    self._step_matrix(p, group["lr"], group["weight_decay"])
                    p.grad = None  # AdamW passes it over
        loss = super().step(closure)
        for p, grad in held:
            p.grad = grad
        return loss

    def _step_matrix(self, p: nn.Parameter, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        if p.grad is None:
            return
        state = self.state[p]
        if not state:  # AdamW looks for a step in every state that it loads
            state |= {"momentum": torch.zeros_like(p), "step": torch.zeros(())}
        state["momentum"].lerp_(p.grad, 1 - momentum)
        update = orthogonalised(p.grad.lerp(state["momentum"], momentum).flatten(1))  # Nesterov's; (outputs, inputs)
        p.mul_(1 - lr * weight_decay)
        p.add_(update.view_as(p), alpha=-0.2 * lr * max(update.shape) ** 0.5)
