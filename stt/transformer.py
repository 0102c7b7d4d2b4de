"""The space-time network: what a frame's positions know of each other, of their past, and of chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.layers import Attention, ConvMLP, rotary, rotary_grid, rotate


@dataclass(frozen=True, kw_only=True)
class SpaceTimeConfig:
    rows: int  # of the tokens of a frame
    columns: int
    dim: int
    depth: int
    heads: int
    mlp_ratio: int
    window: int  # frames that temporal attention sees, the current one included
    gaussian_grid: tuple[int, ...]  # cells per side of each block's Gaussian layer; 0 for none
    gaussian_dim: int  # channels of a Gaussian layer

    def __post_init__(self) -> None:
        if len(self.gaussian_grid) != self.depth:
            raise ValueError(f"gaussian_grid names {len(self.gaussian_grid)} blocks, depth is {self.depth}")
        for cells in self.gaussian_grid:
            if cells and (self.rows != self.columns or self.rows % cells):
                raise ValueError(
                    f"gaussian_grid {cells} does not divide the frame's {self.rows} x {self.columns} tokens"
                )


class Normal(NamedTuple):
    """Diagonal normals (B*T, z, g, g)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self, other: Normal) -> Tensor:
        """KL(self || other) of every element, in nats."""
        spread = torch.exp(self.logvar - other.logvar)
        shift = (self.mean - other.mean).square() * torch.exp(-other.logvar)
        return 0.5 * (spread + shift - 1 - self.logvar + other.logvar)


# Chooses a Gaussian layer's sample: (prior, posterior or None) -> z
Draw = Callable[[Normal, Normal | None], Tensor]


class Cache(NamedTuple):
    """Keys and values of past frames, per block: (B, N, heads, T, d), already rotated to their time."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    time: int  # frames seen so far, those that left the window included

    def expand(self, batch: int) -> Cache:
        """Lets one prompt's cache serve `batch` futures without a copy."""
        grow = [tuple(t.expand(batch, *t.shape[1:]) for t in group) for group in self[:2]]
        return Cache(*grow, self.time)


class Gaussian(NamedTuple):
    prior: Normal
    posterior: Normal | None


class SpaceTimeOutput(NamedTuple):
    hidden: Tensor  # (B, T, h, w, D): features for predicting each frame's successor
    gaussians: list[Gaussian]  # one per Gaussian layer
    cache: Cache


class GaussianLayer(nn.Module):
    """Injects chance: a convolution gives a normal per cell and channel, a sample goes back through another.

    The prior sees the past. The posterior, in training, sees features of the next frame as well and is
    stated relative to the prior (arXiv 2007.03898). Coarse cells let one draw move a whole frame in
    concert; a cell per position is the ancestor's choice.
    """

    def __init__(self, dim: int, channels: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.norm = nn.LayerNorm(dim)
        self.read = nn.Linear(dim, dim)
        self.prior = nn.Conv2d(dim, 2 * channels, 3, padding=1)
        self.write = nn.Conv2d(channels, dim, 3, padding=1)
        self.read_target = nn.Linear(2 * dim, dim)
        self.posterior = nn.Conv2d(dim, 2 * channels, 3, padding=1)
        nn.init.zeros_(self.posterior.bias)

    def forward(self, x: Tensor, target: Tensor | None, draw: Draw) -> tuple[Tensor, Gaussian]:
        """x, target (B*T, h, w, D) -> x with the sample added."""
        h = self.norm(x)
        prior = self._normal(self.prior, F.silu(self.read(h)))
        posterior = None
        if target is not None:
            shift = self._normal(self.posterior, F.silu(self.read_target(torch.cat([h, target], dim=-1))))
            posterior = Normal(prior.mean + shift.mean, prior.logvar + shift.logvar)
        z = draw(prior, posterior)
        up = F.interpolate(self.write(z), scale_factor=x.shape[1] // self.cells)
        return x + rearrange(up, "b d h w -> b h w d"), Gaussian(prior, posterior)

    def _normal(self, conv: nn.Conv2d, h: Tensor) -> Normal:
        pooled = F.avg_pool2d(rearrange(h, "b h w d -> b d h w"), h.shape[1] // self.cells)
        mean, logvar = conv(pooled).float().chunk(2, dim=1)
        return Normal(mean, 6 * torch.tanh(logvar / 6))  # keeps every std within e^-3 ... e^3


class SpaceBlock(nn.Module):
    """Spatial attention, then MLP; each residual and pre-normed."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.space_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.space = Attention(dim, heads)
        self.mlp = ConvMLP(dim, mlp_ratio)

    def attend_space(self, x: Tensor) -> Tensor:
        """(N, h, w, D): all positions of one frame see each other."""
        _, height, width, dim = x.shape
        h = rearrange(self.space_norm(x), "n h w d -> n (h w) d")
        h = self.space(h, rotary_grid(height, width, dim // self.space.heads, x.device))
        return x + rearrange(h, "n (h w) d -> n h w d", h=height)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, D) -> same."""
        x = self.attend_space(x)
        return x + self.mlp(self.mlp_norm(x))


class Block(SpaceBlock):
    """Spatial attention, causal temporal attention, MLP; each residual and pre-normed. Then a Gaussian layer."""

    def __init__(self, c: SpaceTimeConfig, cells: int) -> None:
        super().__init__(c.dim, c.heads, c.mlp_ratio)
        self.time_norm = nn.LayerNorm(c.dim)
        self.time = Attention(c.dim, c.heads)
        self.gaussian = GaussianLayer(c.dim, c.gaussian_dim, cells) if cells else None
        self.window = c.window

    def attend_time(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, start: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, h, w, D): each position sees itself in this frame and in up to window - 1 before it."""
        b, t, height, width, dim = x.shape
        h = rearrange(self.time_norm(x), "b t h w d -> (b h w) t d")
        q, k, v = self.time.project(h)
        angles = rotary(torch.arange(start, start + t, device=x.device), dim // self.time.heads, longest=32.0)
        q, k = rotate(q, *angles), rotate(k, *angles)
        if past is not None:
            k, v = (
                torch.cat([rearrange(old, "b n h t d -> (b n) h t d"), new], dim=2)
                for old, new in zip(past, (k, v), strict=True)
            )
        ahead = torch.arange(k.shape[2], device=x.device) - (k.shape[2] - t)  # key time minus first query time
        offset = torch.arange(t, device=x.device)[:, None] - ahead  # (queries, keys): frames back
        mask = None if t == 1 and k.shape[2] <= self.window else (offset >= 0) & (offset < self.window)
        h = self.time.attend(q, k, v, mask)
        keep = max(0, k.shape[2] - (self.window - 1))  # the next frame sees itself and window - 1 before
        kept = tuple(rearrange(s[:, :, keep:], "(b n) h t d -> b n h t d", b=b) for s in (k, v))
        return x + rearrange(h, "(b h w) t d -> b t h w d", b=b, h=height), kept

    def forward(
        self, x: Tensor, target: Tensor | None, draw: Draw, past: tuple[Tensor, Tensor] | None, start: int
    ) -> tuple[Tensor, Gaussian | None, tuple[Tensor, Tensor]]:
        b = x.shape[0]
        h = self.attend_space(rearrange(x, "b t h w d -> (b t) h w d"))
        x, kept = self.attend_time(rearrange(h, "(b t) h w d -> b t h w d", b=b), past, start)
        h = rearrange(x, "b t h w d -> (b t) h w d")
        h = h + self.mlp(self.mlp_norm(h))
        gaussian = None
        if self.gaussian is not None:
            flat = None if target is None else rearrange(target, "b t h w d -> (b t) h w d")
            h, gaussian = self.gaussian(h, flat, draw)
        return rearrange(h, "(b t) h w d -> b t h w d", b=b), gaussian, kept


class SpaceTimeTransformer(nn.Module):
    """Blocks over (B, T, h, w, D); frame t's output sees frames <= t only.

    With a cache, `x` continues the frames that made it; every frame costs the same however many came before.
    """

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.config = c = config
        self.position = nn.Parameter(torch.randn(c.rows, c.columns, c.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(c, cells) for cells in c.gaussian_grid)
        self.norm = nn.LayerNorm(c.dim)

    def forward(
        self, x: Tensor, draw: Draw, target: Tensor | None = None, cache: Cache | None = None
    ) -> SpaceTimeOutput:
        start = cache.time if cache else 0
        x = x + self.position
        keys, values, gaussians = [], [], []
        for i, block in enumerate(self.blocks):
            past = (cache.keys[i], cache.values[i]) if cache else None
            x, gaussian, (k, v) = block(x, target, draw, past, start)
            keys.append(k)
            values.append(v)
            if gaussian is not None:
                gaussians.append(gaussian)
        return SpaceTimeOutput(self.norm(x), gaussians, Cache(tuple(keys), tuple(values), start + x.shape[1]))
