"""Generative TimeSformer: learned target tokens attend to the context and are regressed to the frames to come.

Divided space-time attention over patches (TimeSformer, arXiv 2102.05095), after
halixness/generative_timesformer_pytorch. Where we differ: an MLP follows every attention, as in PredFormer
(arXiv 2410.04733), with a convolution over neighbouring patches; target tokens are initialised with the last frame's;
times count from the first target frame, so that a context may be shorter. All blocks train, and patches return to
their own positions, which is not so in the fork.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import NO_CONDITION, Batch, Condition, Loss, Noise, Predictor, PredictorConfig, Sampling, Video
from stt.layers import Angles, Attention, ConvMLP, patchify, rotary, rotary_grid, unpatchify


@dataclass(frozen=True, kw_only=True)
class TimeSformerConfig(PredictorConfig):
    context_frames: int = 10  # most frames of a context
    chunk_frames: int = 10  # target frames of one pass; longer horizons feed predictions back
    patch: int = 8
    dim: int = 128
    depth: int = 4  # blocks, each of attention over time, then over space
    heads: int = 4
    mlp_ratio: int = 4
    gated: bool = True  # SwiGLU in the MLPs
    short_context: float = 0.2  # share of training steps whose context has a random length

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        if not 0 <= self.short_context <= 1:
            raise ValueError(f"short_context is {self.short_context}, must be between 0 and 1")

    @property
    def grid(self) -> int:
        """Patches per side of a frame."""
        return self.image_size // self.patch


class Unit(nn.Module):
    """Attention along time (t) or space (s), then an MLP; each residual and pre-normed. (B, T, h, w, D) -> same."""

    def __init__(self, axis: str, dim: int, heads: int, mlp_ratio: int, gated: bool) -> None:
        super().__init__()
        self.axis = axis
        self.norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = ConvMLP(dim, mlp_ratio, gated)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        b, t, height, width, _ = x.shape
        if self.axis == "t":
            h = self.attention(rearrange(self.norm(x), "b t h w d -> (b h w) t d"), angles)
            x = x + rearrange(h, "(b h w) t d -> b t h w d", h=height, w=width)
        else:
            h = self.attention(rearrange(self.norm(x), "b t h w d -> (b t) (h w) d"), angles)
            x = x + rearrange(h, "(b t) (h w) d -> b t h w d", t=t, h=height)
        h = self.mlp(rearrange(self.mlp_norm(x), "b t h w d -> (b t) h w d"))
        return x + rearrange(h, "(b t) h w d -> b t h w d", b=b)


class TimeSformerState(NamedTuple):
    recent: Video  # (B, 1 ... context_frames, C, H, W): the prompt's end, then predictions


class TimeSformer(Predictor):
    """Predicts `chunk_frames` frames in one pass."""

    family: ClassVar[str] = "timesformer"
    knobs: frozenset[str] = frozenset()  # deterministic: one future for all seeds and temperatures

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        self.config = c = config
        pixels = c.patch**2 * c.channels
        self.embed = nn.Linear(pixels, c.dim)
        self.places = nn.Parameter(0.02 * torch.randn(1, c.grid**2, c.dim))
        self.times = nn.Parameter(0.02 * torch.randn(c.context_frames, 1, c.dim))  # the last is the latest frame's
        self.targets = nn.Parameter(0.02 * torch.randn(c.chunk_frames, 1, c.dim))
        self.units = nn.ModuleList(Unit(axis, c.dim, c.heads, c.mlp_ratio, c.gated) for axis in "ts" * c.depth)
        self.norm = nn.LayerNorm(c.dim)
        self.head = nn.Linear(c.dim, pixels)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.constant_(self.head.bias, -1.0)  # a black frame
        self.num_context = c.context_frames  # most frames of context in the next loss

    def predict(self, context: Video) -> Video:
        """Clips (B, T <= context_frames, C, H, W) -> the `chunk_frames` frames after them, not yet clamped."""
        c = self.config
        tokens = self.embed(rearrange(patchify(context, c.patch), "b t d h w -> b t (h w) d"))  # (B, T, N, D)
        x = torch.cat([tokens + self.times[-context.shape[1] :], tokens[:, -1:] + self.targets], dim=1) + self.places
        x = rearrange(x, "b t (h w) d -> b t h w d", h=c.grid)
        angles = self._angles(context.shape[1], x.device)
        for unit in self.units[:-1]:
            x = unit(x, angles[unit.axis])
        x = self.units[-1](x[:, -c.chunk_frames :], angles["s"])  # space attention, of the target frames alone
        return unpatchify(rearrange(self.head(self.norm(x)), "b t h w d -> b t d h w"), c.patch)

    def _angles(self, num_context: int, device: torch.device) -> dict[str, Angles]:
        """Rotary positions by axis; frame 0 is the first target."""
        c = self.config
        times = torch.arange(-num_context, c.chunk_frames, device=device)
        dim = c.dim // c.heads
        return {"t": rotary(times, dim, longest=8.0), "s": rotary_grid(c.grid, c.grid, dim, device)}

    def begin_step(self, step: int) -> None:
        c, rng = self.config, random.Random(step)
        short = rng.random() < c.short_context
        self.num_context = rng.randint(1, c.context_frames) if short else c.context_frames

    def loss(self, batch: Batch) -> Loss:
        """Mean squared error of a clip's last frames given those before. `mse` is summed over a frame on [0, 1]."""
        c, video = self.config, batch.video
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        count = min(c.chunk_frames, video.shape[1] - 1)
        context, truth = video[:, :-count][:, -self.num_context :], video[:, -count:]
        mse = F.mse_loss(self.predict(context)[:, :count].float(), truth)
        return Loss(mse, {"mse": mse.detach() * truth[0, 0].numel() / 4})

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> TimeSformerState:
        return TimeSformerState(context)

    def step(self, state: TimeSformerState, sampling: Sampling, noise: Noise) -> tuple[Video, TimeSformerState]:
        frames = self.predict(state.recent).clamp(-1, 1)
        recent = torch.cat([state.recent, frames], dim=1)[:, -self.config.context_frames :]
        return frames.expand(noise.futures, *frames.shape[1:]), TimeSformerState(recent)  # one pass for all futures
