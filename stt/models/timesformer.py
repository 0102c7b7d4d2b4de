"""Generative TimeSformer: learned target tokens attend to the context and are regressed to the frames to come.

Divided space-time attention (TimeSformer, arXiv 2102.05095), after halixness/generative_timesformer_pytorch. Tokens are
patches (`stt.patch_tokens`) or motion layers (`stt.layer_tokens`). Where we differ: an MLP follows every attention, as
in PredFormer (arXiv 2410.04733), with a convolution over neighbouring tokens; target tokens are initialised with the
last frame's; times count from the first target frame, so that a context may be shorter. All blocks train, and patches
return to their own positions, which is not so in the fork. Target tokens may move pixels of the context, which keeps
them sharp where motion is certain.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import NO_CONDITION, Batch, Condition, Loss, Noise, Predictor, PredictorConfig, Sampling, Video
from stt.layer_tokens import LayerTokens
from stt.layers import Angles, Attention, ConvMLP, rotary, rotary_grid
from stt.motion_tokens import RECONSTRUCTION_WEIGHT, segmentation_loss
from stt.patch_tokens import PatchTokens
from stt.segmenter import check_segmenter


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
    layers: int = 0  # motion layers, whose tokens take the place of the patches'; 0 for patches
    segmenter_width: int = 32  # channels of the layers' segmenter at its finest scale

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers and self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        self.check_shares("short_context")
        oldest = max(self.source_frames, default=1)
        if oldest > self.context_frames:
            raise ValueError(f"source_frames names frame {oldest} from the end, a context has {self.context_frames}")
        if self.layers and self.source_frames:
            raise ValueError(f"source_frames are {self.source_frames}, of patches; with {self.layers} layers give none")
        if self.layers:
            check_segmenter(self.image_size, self.segmenter_width, self.reach)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        side = self.image_size // self.patch
        return (1, self.layers) if self.layers else (side, side)


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
        if c.layers:
            self.tokens: Any = LayerTokens(  # a scene is what it makes of a context
                c.layers, c.channels, c.reach, c.segmenter_width, c.dim
            )
        else:
            self.tokens = PatchTokens(c.channels, c.patch, c.source_frames, c.reach, c.dim)
        rows, columns = c.grid
        self.places = nn.Parameter(0.02 * torch.randn(1, rows * columns, c.dim))
        self.times = nn.Parameter(0.02 * torch.randn(c.context_frames, 1, c.dim))  # the last is the latest frame's
        self.targets = nn.Parameter(0.02 * torch.randn(c.chunk_frames, 1, c.dim))
        self.units = nn.ModuleList(Unit(axis, c.dim, c.heads, c.mlp_ratio, c.gated) for axis in "ts" * c.depth)
        self.norm = nn.LayerNorm(c.dim)
        self.num_context = c.context_frames  # most frames of context in the next loss

    def predict(self, context: Video, count: int | None = None) -> Video:
        """Clips (B, T <= context_frames, C, H, W) -> the `count` frames after them, not yet clamped.

        count: up to `chunk_frames`, the default.
        """
        return self._predict(self.tokens.scene(context), context.shape[1], count or self.config.chunk_frames)

    def _predict(self, scene: Any, num_context: int, count: int) -> Video:
        """scene: a context as `self.tokens` has it."""
        tokens = self.tokens.context(scene)
        targets = self.tokens.targets(tokens, scene, count) + self.targets[:count]
        x = torch.cat([tokens + self.times[-num_context:], targets], dim=1) + self.places
        x = rearrange(x, "b t (h w) d -> b t h w d", h=self.config.grid[0])
        angles = self._angles(num_context, count, x.device)
        for unit in self.units[:-1]:
            x = unit(x, angles[unit.axis])
        x = self.units[-1](x[:, -count:], angles["s"])  # space attention, of the target frames alone
        return self.tokens.decode(self.norm(x), scene)

    def _angles(self, num_context: int, count: int, device: torch.device) -> dict[str, Angles]:
        """Rotary positions by axis; frame 0 is the first target."""
        c = self.config
        times = torch.arange(-num_context, count, device=device)
        dim = c.dim // c.heads
        return {"t": rotary(times, dim, longest=8.0), "s": rotary_grid(*c.grid, dim, device)}

    def begin_step(self, step: int) -> None:
        c, rng = self.config, random.Random(step)
        short = rng.random() < c.short_context
        self.num_context = rng.randint(1, c.context_frames) if short else c.context_frames

    def loss(self, batch: Batch) -> Loss:
        """Mean squared error of the frames after a clip's first `context_frames`, at least the last one, given those
        before; of layers also what their segmenter learns from. `mse` is summed over a frame on [0, 1].
        """
        c, video = self.config, batch.video
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        count = min(c.chunk_frames, max(1, video.shape[1] - c.context_frames))
        context, truth = video[:, :-count][:, -self.num_context :], video[:, -count:]
        scene: Any = self.tokens.scene(context)
        total = mse = F.mse_loss(self._predict(scene, context.shape[1], count).float(), truth)
        parts = {"mse": mse.detach() * truth[0, 0].numel() / 4}
        if isinstance(self.tokens, LayerTokens) and not self.tokens.segmenter.frozen:
            segmentation = segmentation_loss(scene.filtered)
            total, parts["segmentation"] = mse + segmentation / RECONSTRUCTION_WEIGHT, segmentation.detach()
        return Loss(total, parts)

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> TimeSformerState:
        return TimeSformerState(context)

    def step(self, state: TimeSformerState, sampling: Sampling, noise: Noise) -> tuple[Video, TimeSformerState]:
        frames = self.predict(state.recent).clamp(-1, 1)
        recent = torch.cat([state.recent, frames], dim=1)[:, -self.config.context_frames :]
        return frames.expand(noise.futures, *frames.shape[1:]), TimeSformerState(recent)  # one pass for all futures
