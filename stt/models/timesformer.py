"""Generative TimeSformer: learned target tokens attend to the context and are regressed to the frames to come.

Divided space-time attention over patches (TimeSformer, arXiv 2102.05095), after
halixness/generative_timesformer_pytorch. Where we differ: an MLP follows every attention, as in PredFormer
(arXiv 2410.04733), with a convolution over neighbouring patches; target tokens are initialised with the last frame's;
times count from the first target frame, so that a context may be shorter. All blocks train, and patches return to
their own positions, which is not so in the fork. Block matching tells tokens how their patch moved, and target tokens
may splat pixels of the context, which keeps them sharp where motion is certain.
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
from stt.motion import match_patches, matches_size


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
    source_frames: tuple[int, ...] = ()  # whose patches are splatted: 1 is the context's last; empty for none
    reach: int = 0  # pixels an axis of block matching between frames of the context; 0 for none

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        self.check_shares("short_context")
        oldest = max(self.source_frames, default=1)
        if oldest > self.context_frames:
            raise ValueError(f"source_frames names frame {oldest} from the end, a context has {self.context_frames}")

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


class SplatHead(nn.Module):
    """Decodes target tokens to frames: each token splats its patch of the context, and paints the background there.

    Target tokens are initialised with the last frame's, so each can say where its patch will be at its time: a normal
    distribution over displacements, independent in rows and columns. The expected picture, which a squared error
    asks for, is a product of three matrices: rows, patch, columns. It is sharp where the displacement is certain.
    Patches have an opacity for each pixel. Where several meet they are averaged; where none is, the background shows:
    the last frame or new pixels. After softmax splatting (arXiv 2003.05534), of distributions in place of flows.
    """

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        self.config = c = config
        count, pixels = len(c.source_frames), c.patch**2
        self.displacement = nn.Linear(c.dim, count * 6)
        self.opacity = nn.Linear(c.dim, count * pixels)
        self.pixel_opacity = nn.Sequential(  # the part of the logit that the pixels themselves decide
            nn.Conv2d(c.channels, 16, 5, padding=2), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1)
        )
        self.background = nn.Linear(c.dim, pixels * (c.channels + 1))  # colours, and their share beside the last frame
        for layer in (self.displacement, self.opacity, self.background):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.opacity.bias, -1.0)

    def forward(self, tokens: Tensor, context: Video) -> Video:
        """tokens (B, T, h, w, D) and context (B, F, C, H, W) -> (B, T, C, H, W)."""
        c, count = self.config, len(self.config.source_frames)
        frames = torch.stack([context[:, -min(age, context.shape[1])] for age in c.source_frames], dim=1).float()
        logits = unpatchify(rearrange(self.opacity(tokens), "b t h w (k d) -> b t k d h w", k=count), c.patch)
        logits = logits + self.pixel_opacity(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])[:, None]
        opacity = logits.float().sigmoid()  # (B, T, K, 1, H, W)
        patches = torch.cat([opacity * frames[:, None], opacity], dim=3)
        patches = rearrange(patches, "b t k c (h p) (w q) -> b t c (k h w) p q", p=c.patch, q=c.patch)
        rows, columns = self._splat_matrices(tokens)
        splatted = torch.einsum("btnyp,btcnpq->btcnyq", rows, patches)
        splatted = torch.einsum("btcnyq,btnxq->btcyx", splatted, columns)
        colour, coverage = splatted[:, :, :-1], splatted[:, :, -1:]
        painted = unpatchify(rearrange(self.background(tokens), "b t h w d -> b t d h w"), c.patch).float()
        background = torch.lerp(context[:, -1:].float(), painted[:, :, :-1], painted[:, :, -1:].sigmoid())
        return colour / coverage.clamp(min=1) + (1 - coverage).clamp(min=0) * background

    def _splat_matrices(self, tokens: Tensor) -> list[Tensor]:
        """For rows and for columns (B, T, K h w, S, p): the share of each of a patch's p in each of the frame's S."""
        c, device = self.config, tokens.device
        with torch.autocast(device.type, enabled=False):  # bfloat16 has too few digits for positions
            normals = self.displacement(tokens.float())
        normals = rearrange(normals, "b t h w (k d two) -> d two b t (k h w)", d=3, two=2)
        ahead = torch.arange(1, tokens.shape[1] + 1, device=device)[:, None]
        means = 8 * normals[0] + 4 * ahead * normals[1]  # pixels: a displacement and a velocity
        stds = 3 * normals[2].clamp(-3, 1.8).exp()
        start = c.patch * torch.arange(c.grid, device=device)
        edge = torch.arange(1 - c.patch, c.image_size + 1, device=device) - 0.5
        matrices = []
        for mean, std, first in zip(means, stds, (start.repeat_interleave(c.grid), start.repeat(c.grid)), strict=True):
            position = (mean + first.repeat(len(c.source_frames)))[..., None]
            cdf = 0.5 * torch.erf((edge - position) * (2**-0.5 / std[..., None]))  # (B, T, K h w, S + p)
            matrices.append(cdf.diff(dim=-1).unfold(-1, c.patch, 1).flip(-1))
        return matrices


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
        if c.source_frames:
            self.head: nn.Module = SplatHead(c)
        else:
            self.head = nn.Linear(c.dim, pixels)
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.constant_(self.head.bias, -1.0)  # a black frame
        if c.reach:
            self.embed_matches = nn.Linear(matches_size(c.reach), c.dim)
        self.num_context = c.context_frames  # most frames of context in the next loss

    def predict(self, context: Video, count: int | None = None) -> Video:
        """Clips (B, T <= context_frames, C, H, W) -> the `count` frames after them, not yet clamped.

        count: up to `chunk_frames`, the default.
        """
        c = self.config
        count = count or c.chunk_frames
        tokens = self.embed(rearrange(patchify(context, c.patch), "b t d h w -> b t (h w) d"))  # (B, T, N, D)
        if c.reach:
            matches = self.embed_matches(match_patches(context, c.patch, c.reach))
            tokens = torch.cat([tokens[:, :1], tokens[:, 1:] + matches], dim=1)
        targets = tokens[:, -1:] + self.targets[:count]
        x = torch.cat([tokens + self.times[-context.shape[1] :], targets], dim=1) + self.places
        x = rearrange(x, "b t (h w) d -> b t h w d", h=c.grid)
        angles = self._angles(context.shape[1], count, x.device)
        for unit in self.units[:-1]:
            x = unit(x, angles[unit.axis])
        x = self.units[-1](x[:, -count:], angles["s"])  # space attention, of the target frames alone
        if c.source_frames:
            return self.head(self.norm(x), context)
        return unpatchify(rearrange(self.head(self.norm(x)), "b t h w d -> b t d h w"), c.patch)

    def _angles(self, num_context: int, count: int, device: torch.device) -> dict[str, Angles]:
        """Rotary positions by axis; frame 0 is the first target."""
        c = self.config
        times = torch.arange(-num_context, count, device=device)
        dim = c.dim // c.heads
        return {"t": rotary(times, dim, longest=8.0), "s": rotary_grid(c.grid, c.grid, dim, device)}

    def begin_step(self, step: int) -> None:
        c, rng = self.config, random.Random(step)
        short = rng.random() < c.short_context
        self.num_context = rng.randint(1, c.context_frames) if short else c.context_frames

    def loss(self, batch: Batch) -> Loss:
        """Mean squared error of the frames after a clip's first `context_frames`, at least the last one, given those
        before. `mse` is summed over a frame on [0, 1].
        """
        c, video = self.config, batch.video
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        count = min(c.chunk_frames, max(1, video.shape[1] - c.context_frames))
        context, truth = video[:, :-count][:, -self.num_context :], video[:, -count:]
        mse = F.mse_loss(self.predict(context, count).float(), truth)
        return Loss(mse, {"mse": mse.detach() * truth[0, 0].numel() / 4})

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> TimeSformerState:
        return TimeSformerState(context)

    def step(self, state: TimeSformerState, sampling: Sampling, noise: Noise) -> tuple[Video, TimeSformerState]:
        frames = self.predict(state.recent).clamp(-1, 1)
        recent = torch.cat([state.recent, frames], dim=1)[:, -self.config.context_frames :]
        return frames.expand(noise.futures, *frames.shape[1:]), TimeSformerState(recent)  # one pass for all futures
