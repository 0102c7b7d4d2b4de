"""Space-time transformer: spatial attention, causal temporal attention, MLP and Gaussian layer, block after block.

After NITHISHM2410/spatial-temporal-transformer (Flax).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.layers import Angles, Attention, ConvMLP, rotary, rotary_grid, rotate


@dataclass(frozen=True, kw_only=True)
class SpaceTimeConfig:
    rows: int  # of the tokens of a frame
    columns: int
    dim: int
    depth: int
    heads: int
    mlp_ratio: int
    window: int  # frames of temporal attention, the current one included
    gaussian_grid: tuple[int, ...]  # cells per side of each block's Gaussian layer; 0 for none
    gaussian_dim: int  # channels of a Gaussian layer
    action_dim: int = 0  # numbers of an action; 0 for none

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
        ratio = torch.exp(self.logvar - other.logvar)
        shift = (self.mean - other.mean).square() * torch.exp(-other.logvar)
        return 0.5 * (ratio + shift - 1 - self.logvar + other.logvar)


# Chooses a Gaussian layer's sample: (prior, posterior or None) -> z
Draw = Callable[[Normal, Normal | None], Tensor]


def draw_posterior(prior: Normal, posterior: Normal | None) -> Tensor:
    return posterior.sample(torch.randn_like(posterior.mean))


def draw_mean(prior: Normal, posterior: Normal | None) -> Tensor:
    return (posterior or prior).mean


class Cache(NamedTuple):
    """Keys and values of past frames, per block: (B, N, heads, T, d); keys are already rotated to their time."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    time: int  # frames so far, those that left the window included

    def expand(self, batch: int) -> Cache:
        """Lets one prompt's cache serve `batch` futures without a copy."""
        keys, values = (tuple(t.expand(batch, *t.shape[1:]) for t in group) for group in (self.keys, self.values))
        return Cache(keys, values, self.time)


class PriorPosterior(NamedTuple):
    """The two distributions of a Gaussian layer; no posterior without a target."""

    prior: Normal
    posterior: Normal | None


class SpaceTimeOutput(NamedTuple):
    hidden: Tensor  # (B, T, h, w, D): features for predicting each frame's successor
    gaussians: list[PriorPosterior]  # one per Gaussian layer
    cache: Cache


class GaussianLayer(nn.Module):
    """A convolution gives a normal per cell and channel; its sample goes back through another convolution.

    The prior sees the past. The posterior, in training, also sees features of the next frame and is relative to the
    prior (arXiv 2007.03898). Where we differ from the original: the prior is learned, and cells may be coarser than
    tokens, so that one sample moves many tokens in concert.
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

    def forward(self, x: Tensor, target: Tensor | None, draw: Draw) -> tuple[Tensor, PriorPosterior]:
        """x, target (B*T, h, w, D) -> x with the sample added."""
        h = self.norm(x)
        prior = self._normal(self.prior, F.silu(self.read(h)))
        posterior = None
        if target is not None:
            shift = self._normal(self.posterior, F.silu(self.read_target(torch.cat([h, target], dim=-1))))
            posterior = Normal(prior.mean + shift.mean, prior.logvar + shift.logvar)
        z = draw(prior, posterior)
        up = F.interpolate(self.write(z), size=x.shape[1:3])
        return x + rearrange(up, "b d h w -> b h w d"), PriorPosterior(prior, posterior)

    def _normal(self, conv: nn.Conv2d, h: Tensor) -> Normal:
        pooled = F.adaptive_avg_pool2d(rearrange(h, "b h w d -> b d h w"), self.cells)
        mean, logvar = conv(pooled).float().chunk(2, dim=1)
        # Keeps the prior's std and the posterior's std relative to it within e^-3 ... e^3.
        return Normal(mean, 6 * torch.tanh(logvar / 6))


class Block(nn.Module):
    """Spatial attention, causal temporal attention and MLP, each residual and pre-normed; then a Gaussian layer."""

    def __init__(self, c: SpaceTimeConfig, cells: int) -> None:
        super().__init__()
        self.space_norm, self.time_norm, self.mlp_norm = (nn.LayerNorm(c.dim) for _ in range(3))
        self.space, self.time = Attention(c.dim, c.heads), Attention(c.dim, c.heads)
        self.mlp = ConvMLP(c.dim, c.mlp_ratio)
        self.gaussian = GaussianLayer(c.dim, c.gaussian_dim, cells) if cells else None
        self.window = c.window

    def forward(
        self,
        x: Tensor,
        target: Tensor | None,
        draw: Draw,
        space: Angles,
        time: Angles,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, PriorPosterior | None, tuple[Tensor, Tensor]]:
        """x, target (B, T, h, w, D) -> x, its Gaussian layer's distributions, and keys and values for later frames."""
        b, gaussian = len(x), None
        x, recent = self.attend_time(self.attend_space(x, space), time, past)
        h = rearrange(x, "b t h w d -> (b t) h w d")
        h = h + self.mlp(self.mlp_norm(h))
        if self.gaussian is not None:
            flat = None if target is None else rearrange(target, "b t h w d -> (b t) h w d")
            h, gaussian = self.gaussian(h, flat, draw)
        return rearrange(h, "(b t) h w d -> b t h w d", b=b), gaussian, recent

    def attend_space(self, x: Tensor, angles: Angles) -> Tensor:
        """(B, T, h, w, D): all positions of one frame attend to each other."""
        b, t, height, _, _ = x.shape
        h = self.space(rearrange(self.space_norm(x), "b t h w d -> (b t) (h w) d"), angles)
        return x + rearrange(h, "(b t) (h w) d -> b t h w d", b=b, h=height)

    def attend_time(
        self, x: Tensor, angles: Angles, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, h, w, D): each position attends to itself in this frame and in up to window - 1 before it."""
        b, t, height, width, _ = x.shape
        q, k, v = self.time.project(rearrange(self.time_norm(x), "b t h w d -> (b h w) t d"))
        q, k = rotate(q, *angles), rotate(k, *angles)
        if past is not None:
            k, v = (
                torch.cat([rearrange(old, "b n h t d -> (b n) h t d"), new], dim=2)
                for old, new in zip(past, (k, v), strict=True)
            )
        query_time = torch.arange(t, device=x.device)
        key_time = torch.arange(t - k.shape[2], t, device=x.device)  # negative for frames of the cache
        age = query_time[:, None] - key_time  # (queries, keys): frames from key to query
        mask = None if t == 1 and k.shape[2] <= self.window else (age >= 0) & (age < self.window)
        h = self.time.attend(q, k, v, mask)
        first = max(0, k.shape[2] - (self.window - 1))  # the next frame attends to itself and window - 1 before
        k, v = (rearrange(s[:, :, first:], "(b n) h t d -> b n h t d", b=b) for s in (k, v))
        return x + rearrange(h, "(b h w) t d -> b t h w d", b=b, h=height, w=width), (k, v)


class SpaceTimeTransformer(nn.Module):
    """Blocks over tokens (B, T, h, w, D); frame t's output depends on frames <= t only.

    With a cache, the tokens continue the frames that made it. Each frame attends to at most `window` frames.
    """

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.config = c = config
        self.position = nn.Parameter(torch.randn(c.rows, c.columns, c.dim) * 0.02)
        self.embed_action = nn.Linear(c.action_dim + 1, c.dim) if c.action_dim else None  # 1: whether there is one
        self.blocks = nn.ModuleList(Block(c, cells) for cells in c.gaussian_grid)
        self.norm = nn.LayerNorm(c.dim)

    def forward(
        self,
        tokens: Tensor,
        draw: Draw,
        *,
        target: Tensor | None = None,
        cache: Cache | None = None,
        actions: Tensor | None = None,
    ) -> SpaceTimeOutput:
        """target (B, T, h, w, D): features of the next frames, for posteriors. actions: as `_add_actions`."""
        c, start = self.config, cache.time if cache else 0
        height, width = tokens.shape[2:4]
        x = self._add_actions(tokens, actions) + self._position(height, width)
        space = rotary_grid(height, width, c.dim // c.heads, x.device)
        times = torch.arange(start, start + x.shape[1], device=x.device)
        time = rotary(times, c.dim // c.heads, longest=32.0)
        keys, values, gaussians = [], [], []
        for i, block in enumerate(self.blocks):
            past = (cache.keys[i], cache.values[i]) if cache else None
            x, gaussian, (k, v) = block(x, target, draw, space, time, past)
            keys.append(k)
            values.append(v)
            if gaussian is not None:
                gaussians.append(gaussian)
        return SpaceTimeOutput(self.norm(x), gaussians, Cache(tuple(keys), tuple(values), start + x.shape[1]))

    def _position(self, height: int, width: int) -> Tensor:
        """The learned position of each token (h, w, D); those of another grid lie between the learned ones."""
        if (height, width) == (self.config.rows, self.config.columns):
            return self.position
        position = rearrange(self.position, "h w d -> 1 d h w")
        position = F.interpolate(position, size=(height, width), mode="bilinear", align_corners=False)
        return rearrange(position[0], "d h w -> h w d")

    def _add_actions(self, tokens: Tensor, actions: Tensor | None) -> Tensor:
        """Tokens (B, T, h, w, D) plus the action after each frame: actions (B, T, A), nan where free, or None."""
        if self.embed_action is None:
            return tokens
        if actions is None:
            actions = tokens.new_full((*tokens.shape[:2], self.config.action_dim), torch.nan)
        exists = ~actions.isnan().any(dim=-1, keepdim=True)
        actions = torch.cat([torch.where(exists, actions, 0.0), exists.to(actions.dtype)], dim=-1)
        return tokens + self.embed_action(actions)[:, :, None, None]
