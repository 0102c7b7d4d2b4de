"""Generative TimeSformer: learned tokens stand in for the frames to come and attend to the frames that were.

Divided space-time attention over patches (TimeSformer, arXiv 2102.05095) with target tokens that are regressed
straight to pixels, after halixness/generative_timesformer_pytorch. Where we differ: an MLP follows every attention
(as in PredFormer, arXiv 2410.04733), all blocks train, patches come back where they were, and times count from the
first frame to come, so that a shorter context is simply shorter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import Loss, Noise, Predictor, PredictorConfig, Sampling, Video
from stt.layers import Attention, ConvMLP, patchify, rotary, rotary_grid, rotate, unpatchify


@dataclass(frozen=True, kw_only=True)
class TimeSformerConfig(PredictorConfig):
    context_frames: int = 10
    chunk_frames: int = 10  # target frames: what one pass predicts; longer horizons feed predictions back
    patch: int = 8
    dim: int = 128
    depth: int = 4  # blocks
    heads: int = 4
    mlp_ratio: int = 4
    block: str = "ts"  # attention over time (t) and space (s) in a block, in this order
    mlp: str = "gelu"
    positions: str = "learned"
    residual: str = "no"
    short_context: float = 0.2  # share of training steps whose context has a random length

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        if not {"t", "s"} == set(self.block):
            raise ValueError(f"block is {self.block!r}, must name both t (time) and s (space) and nothing else")
        if not 0 <= self.short_context <= 1:
            raise ValueError(f"short_context is {self.short_context}, must be between 0 and 1")

    @property
    def grid(self) -> int:
        """Patches per side of a frame."""
        return self.image_size // self.patch


class GatedMLP(nn.Module):
    """SwiGLU (arXiv 2002.05202) of as many weights as an MLP of this ratio."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        hidden = 2 * dim * ratio // 3 // 8 * 8
        self.up, self.down = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.silu(gate))


def mlp_of(kind: str, dim: int, ratio: int) -> nn.Module:
    if kind == "gelu":
        return nn.Sequential(nn.Linear(dim, dim * ratio), nn.GELU(approximate="tanh"), nn.Linear(dim * ratio, dim))
    if kind == "gated":
        return GatedMLP(dim, ratio)
    if kind == "conv":
        return ConvMLP(dim, ratio)
    return None


class Unit(nn.Module):
    """Attention along one axis, then an MLP; each residual and pre-normed. (B, T, N, D) -> same."""

    def __init__(self, axis: str, config: TimeSformerConfig, mlp: str) -> None:
        super().__init__()
        self.axis, self.grid = axis, config.grid
        self.norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.heads)
        self.mlp = mlp_of(mlp, config.dim, config.mlp_ratio)
        if self.mlp is not None:
            self.mlp_norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, angles: dict) -> Tensor:
        b, t, n, _ = x.shape
        h = self.norm(x)
        h = rearrange(h, "b t n d -> (b n) t d" if self.axis == "t" else "b t n d -> (b t) n d")
        q, k, v = self.attention.project(h)
        if angles is not None:
            q, k = rotate(q, *angles[self.axis]), rotate(k, *angles[self.axis])
        h = self.attention.attend(q, k, v)
        x = x + (
            rearrange(h, "(b n) t d -> b t n d", n=n) if self.axis == "t" else rearrange(h, "(b t) n d -> b t n d", t=t)
        )
        if self.mlp is None:
            return x
        h = self.mlp_norm(x)
        if isinstance(self.mlp, ConvMLP):
            h = rearrange(
                self.mlp(rearrange(h, "b t (h w) d -> (b t) h w d", h=self.grid)), "(b t) h w d -> b t (h w) d", b=b
            )
        else:
            h = self.mlp(h)
        return x + h


class TimeSformerState(NamedTuple):
    recent: Video  # (B, 1 ... context_frames, C, H, W), predictions of before included


class TimeSformer(Predictor):
    family: ClassVar[str] = "timesformer"
    knobs: frozenset[str] = frozenset()  # deterministic

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        self.config = c = config
        pixels = c.patch**2 * c.channels
        self.embed = nn.Linear(pixels, c.dim)
        self.places = nn.Parameter(0.02 * torch.randn(1, c.grid**2, c.dim))
        self.times = nn.Parameter(0.02 * torch.randn(c.context_frames, 1, c.dim))  # the last is the latest frame's
        self.targets = nn.Parameter(0.02 * torch.randn(c.chunk_frames, 1, c.dim))
        axes = c.block * c.depth
        mlps = [c.mlp] * len(axes)
        if c.mlp.startswith("last"):
            mlps = ([None] * (len(c.block) - 1) + [c.mlp[5:]]) * c.depth
        if c.mlp == "mixed":
            mlps = ["gelu" if a == "t" else "conv" for a in axes]
        self.units = nn.ModuleList(Unit(axis, c, mlp) for axis, mlp in zip(axes, mlps))
        self.norm = nn.LayerNorm(c.dim)
        self.head = nn.Linear(c.dim, pixels)
        nn.init.normal_(self.head.weight, std=0.02)
        if c.residual in ("no", "feature"):
            nn.init.constant_(self.head.bias, -1.0)
        self.last_t = max(i for i, a in enumerate(axes) if a == "t")

    def predict(self, context: Video) -> Video:
        """The next `chunk_frames` frames of clips (B, T <= context_frames, C, H, W), not clamped."""
        c = self.config
        b, t = context.shape[:2]
        x = self.embed(rearrange(patchify(context, c.patch), "b t d h w -> b t (h w) d"))  # (B, T, N, D)
        targets = self.targets.expand(b, -1, x.shape[2], -1)
        if c.residual == "feature":
            targets = targets + x[:, -1:]
        x = torch.cat([x + self.times[-t:], targets], dim=1)
        if c.positions != "rotary":
            x = x + self.places
        angles = None
        if c.positions != "learned":
            d = c.dim // c.heads
            angles = {
                "t": rotary(torch.arange(-t, c.chunk_frames, device=x.device), d, longest=8.0),
                "s": rotary_grid(c.grid, c.grid, d, x.device),
            }
        for i, unit in enumerate(self.units):
            x = unit(x, angles)
            if i == self.last_t:
                x = x[:, -c.chunk_frames :]  # the past has told all
        h = rearrange(self.head(self.norm(x)), "b t (h w) d -> b t d h w", h=c.grid)
        out = unpatchify(h, c.patch)
        if c.residual == "pixel":
            out = out + context[:, -1:]
        elif c.residual == "tanh":
            out = torch.tanh(out - 1)
        return out

    def loss(self, video: Video) -> Loss:
        c = self.config
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        asked = min(c.chunk_frames, video.shape[1] - 1)
        context, truth = video[:, :-asked][:, -c.context_frames :], video[:, -asked:]
        if torch.rand(()) < c.short_context:
            context = context[:, -int(torch.randint(1, context.shape[1] + 1, ())) :]
        mse = F.mse_loss(self.predict(context)[:, :asked].float(), truth)
        summed = mse.detach() * truth[0, 0].numel() / 4  # over a frame on [0, 1], as Moving MNIST reports it
        return Loss(mse, {"mse": summed})

    def start(self, context: Video) -> TimeSformerState:
        return TimeSformerState(context)

    def step(self, state: TimeSformerState, sampling: Sampling, noise: Noise) -> tuple[Video, TimeSformerState]:
        frames = self.predict(state.recent).clamp(-1, 1)
        recent = torch.cat([state.recent, frames], dim=1)[:, -self.config.context_frames :]
        return frames.expand(noise.futures, *frames.shape[1:]), TimeSformerState(recent)
