"""Muon for the hidden matrices and AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the iteration


def parameter_groups(model: nn.Module, *, muon: bool, weight_decay: float) -> list[dict[str, Any]]:
    """Every trainable parameter of a model, once, by its role.

    hidden: weights of the linear layers inside blocks; Muon's if `muon` is set
    weights: those of other linear layers (heads, input projections) and of convolutions
    rest: biases, norms (adaptive ones too), embeddings and tables of positions; without weight decay
    """
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    containers = [module for module in model.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    blocks = [block for container in containers for block in container if not isinstance(block, nn.Linear)]
    in_norms = {id(p) for norm in norms for p in norm.parameters()}
    in_blocks = {id(p) for block in blocks for p in block.parameters()} - in_norms
    groups: dict[str, list[nn.Parameter]] = {"hidden": [], "weights": [], "rest": []}
    role = {}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            multiplies = name == "weight" and isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
            if not multiplies or id(p) in in_norms:
                role[id(p)] = "rest"
            else:
                role[id(p)] = "hidden" if isinstance(module, nn.Linear) and id(p) in in_blocks else "weights"
    trainable = [p for p in model.parameters() if p.requires_grad]
    for p in trainable:
        groups[role[id(p)]].append(p)
    ids = [id(p) for group in groups.values() for p in group]
    assert len(ids) == len(set(ids)) == len(trainable), "a parameter is in no group or in two"
    decay = {"hidden": weight_decay, "weights": weight_decay, "rest": 0.0}
    return [
        {"params": parameters, "weight_decay": decay[name], "muon": muon and name == "hidden"}
        for name, parameters in groups.items()
    ]


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration: moves the singular values of a matrix (m, n) to about 1."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.mT


class MuonAdamW(torch.optim.AdamW):
    """AdamW, but groups with `muon` set take Muon's orthogonalized momentum (arXiv 2502.16982).

    A convolution's kernel counts as the matrix of its output channels by all the inputs of one output.
    Muon's update is scaled to the usual root-mean-square of AdamW's, so that both share one learning rate.
    `found_inf`, a tensor of 0 or 1, makes a step leave all weights as they are where it is 1. AdamW honours it when
    it is fused, and it costs no wait for the device.
    Differs from torch.optim.Muon, which multiplies in bfloat16: some thirty times slower on a CPU without matrix units.
    """

    found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        groups = [group for group in self.param_groups if group.get("muon")]
        gradients = [(p, p.grad) for group in groups for p in group["params"]]
        for group in groups:
            for p in group["params"]:
                self._muon_step(p, group["lr"], group["weight_decay"])
                p.grad = None  # AdamW passes it over
        loss = super().step(closure)
        for p, gradient in gradients:
            p.grad = gradient
        return loss

    def _muon_step(self, p: nn.Parameter, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        if p.grad is None:
            return
        state = self.state[p]
        if not state:  # AdamW looks for a step in every state that it loads
            state |= {"momentum": torch.zeros_like(p), "step": torch.zeros(())}
        state["momentum"].lerp_(p.grad, 1 - momentum)
        nesterov = p.grad.lerp(state["momentum"], momentum)
        update = orthogonalized(nesterov.flatten(1))  # (outputs, inputs)
        stepped = torch.add(p * (1 - lr * weight_decay), update.view_as(p), alpha=-0.2 * lr * max(update.shape) ** 0.5)
        p.copy_(stepped if self.found_inf is None else torch.where(self.found_inf > 0, p, stepped))
