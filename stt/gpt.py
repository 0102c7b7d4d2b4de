"""GPT blocks for sequences of codes: causal attention, cross-attention, MLP (VideoGPT, arXiv 2104.10157)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.layers import Attention, CrossAttention

Shift = tuple[Tensor, ...] | None  # gain and bias (B, 1, D)


class Norm(nn.Module):
    """Layer norm whose gain and bias depend on the classes of a clip."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=not classes)
        self.adapt = nn.Linear(classes, 2 * dim) if classes else None
        if self.adapt is not None:
            nn.init.normal_(self.adapt.weight, std=0.02)

    def shift(self, label: Tensor | None) -> Shift:
        """Counts of each class (B, 1, classes) -> what `forward` takes; the same for every code."""
        return None if self.adapt is None else self.adapt(label).chunk(2, dim=-1)

    def forward(self, x: Tensor, shift: Shift) -> Tensor:
        x = self.norm(x)
        return x if shift is None else torch.addcmul(x + shift[1], x, shift[0])


class Memory(NamedTuple):
    """What a sequence is conditioned on."""

    before: Tensor  # (B, cells, dim) stands for the slice before the first
    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values of every block, (B, heads, 1 + M, d)

    def expand(self, batch: int) -> Memory:
        layers = tuple((repeat_rows(k, batch), repeat_rows(v, batch)) for k, v in self.layers)
        return Memory(repeat_rows(self.before, batch), layers)


def repeat_rows(x: Tensor, batch: int) -> Tensor:
    """(1, ...) or (batch, ...) or (batch / 2, ...) -> (batch, ...)."""
    if len(x) == 1:
        return x.expand(batch, *x.shape[1:])
    return x if len(x) == batch else torch.cat([x, x])


class Block(nn.Module):
    """Causal attention, cross-attention if there is a memory, MLP; each residual and pre-normed."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, classes: int, cross: bool) -> None:
        super().__init__()
        self.norm = Norm(dim, classes)
        self.attention = Attention(dim, heads)
        self.cross_norm = Norm(dim, classes) if cross else None
        self.cross = CrossAttention(dim, heads) if cross else None
        self.mlp_norm = Norm(dim, classes)
        self.up, self.down = nn.Linear(dim, dim * mlp_ratio), nn.Linear(dim * mlp_ratio, dim)

    def shifts(self, label: Tensor | None) -> list[Shift]:
        norms = self.norm, self.mlp_norm, self.cross_norm
        return [norm.shift(label) for norm in norms if norm is not None]

    def forward(
        self, x: Tensor, memory: tuple[Tensor, Tensor] | None, shifts: list[Shift]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A whole sequence (B, N, D) -> the same, and its keys and values (B, heads, N, d)."""
        q, k, v = self.attention.project(self.norm(x, shifts[0]))
        x = x + self.attention.attend(q, k, v, causal=True)
        return self._cross_and_mlp(x, memory, shifts), k, v

    def one(
        self, x: Tensor, memory: tuple[Tensor, Tensor] | None, shifts: list[Shift], cache: Tensor, at: Tensor
    ) -> Tensor:
        """One token (B, 1, D) at position `at` (1,); its key and value are written into the cache (2, B, ..., d)."""
        q, k, v = self.attention.project(self.norm(x, shifts[0]))
        for past, new in zip(cache, (k, v), strict=True):
            past.index_copy_(2, at, new)
        mask = torch.arange(cache.shape[-2], device=x.device)[None] <= at
        x = x + self.attention.attend(q, cache[0], cache[1], mask=mask)
        return self._cross_and_mlp(x, memory, shifts)

    def some(self, x: Tensor, shifts: list[Shift], cache: Tensor, at: Tensor) -> Tensor:
        """Tokens (B, n, D) at positions `at` (B, n), each given those before it in the cache (2, B, heads, N, d).

        Their keys and values are written into the cache.
        """
        q, k, v = self.attention.project(self.norm(x, shifts[0]))
        for past, new in zip(cache, (k, v), strict=True):
            past.scatter_(2, at[:, None, :, None].expand_as(new), new)
        mask = torch.arange(cache.shape[-2], device=x.device) <= at[:, None, :, None]
        return self._cross_and_mlp(x + self.attention.attend(q, cache[0], cache[1], mask=mask), None, shifts)

    def _cross_and_mlp(self, x: Tensor, memory: tuple[Tensor, Tensor] | None, shifts: list[Shift]) -> Tensor:
        if memory is not None and self.cross is not None and self.cross_norm is not None:
            x = x + self.cross(self.cross_norm(x, shifts[2]), memory)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x, shifts[1])), approximate="tanh"))
