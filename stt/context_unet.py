"""Transframer's U-Net (arXiv 2203.09494): frames around a target frame -> features of the target frame.

The target frame is a slot of its own, after those of the context, so that its features lie cell by cell where its
triples will. All frames are DCT images, with cells as positions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from stt.layers import Attention, AttentionBlock, CrossAttention, ResBlock, rotary

WAVES = 32  # sines and cosines of a time


class Context(NamedTuple):
    """Frames around a target frame: the nearest first, before and after it in turn."""

    video: Tensor  # (B, S, C, H, W)
    dense: Tensor  # (B, S, K, h, w) int64 DCT images
    offsets: Tensor  # (B, S) int64, times from the target frame: negative is before it
    present: Tensor  # (B, S) bool, whether the slot holds a frame; the first always does
    map_one_hot: Tensor  # (B, M) which map of the target frame is predicted; all 0 for the frame itself


def nearest(offsets: Tensor, present: Tensor, count: int) -> Tensor:
    """Indices (B, min(count, T)) of the frames nearest to time 0, before and after in turn; absent frames come last."""
    side, distance = offsets > 0, offsets.abs()
    nearer = (side[:, None] == side[..., None]) & (distance[:, None] < distance[..., None]) & present[:, None]
    rank = nearer.sum(dim=-1) + ~present * present.shape[1]
    order = rank * 2 * (distance.amax() + 1) + 2 * distance + side
    return order.argsort(dim=-1, stable=True)[:, :count]


class TimeAttention(nn.Module):
    """Each cell attends to its own position in all frames that are present. (B, S, C, h, w) -> same."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        _, _, _, height, width = x.shape
        cells = self.norm(rearrange(x, "b s c h w -> (b h w) s c"))
        mask = repeat(present, "b s -> (b n) 1 1 s", n=height * width)
        h = self.attention.attend(*self.attention.project(cells), mask=mask)
        return x + rearrange(h, "(b h w) s c -> b s c h w", h=height, w=width)


class Level(nn.Module):
    """One scale on the way down: per frame a convolution, then attention. (B, S, C, h, w) -> same."""

    def __init__(self, width: int, blocks: int, dim: int, lowest: bool) -> None:
        super().__init__()
        self.note = nn.Linear(dim, width)
        self.convs = nn.ModuleList(ResBlock(width) for _ in range(blocks))
        self.space = nn.ModuleList(AttentionBlock(width) for _ in range(blocks * lowest))
        self.times = nn.ModuleList(TimeAttention(width) for _ in range(blocks))

    def forward(self, x: Tensor, note: Tensor, present: Tensor) -> Tensor:
        slots = x.shape[1]
        x = x + self.note(note)[..., None, None]
        for i, (conv, time) in enumerate(zip(self.convs, self.times, strict=True)):
            h = conv(x.flatten(0, 1))
            if self.space:
                h = self.space[i](h)
            x = time(h.unflatten(0, (-1, slots)), present)
        return x


class Up(nn.Module):
    """One scale on the way up, for the target frame alone, which attends to the other frames' cells once more."""

    def __init__(self, coarse: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.grow = nn.Conv2d(coarse, 4 * width, 1)
        self.norm, self.others = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads)
        self.convs = nn.Sequential(ResBlock(width), ResBlock(width))

    def forward(self, x: Tensor, fine: Tensor, present: Tensor) -> Tensor:
        """x (B, coarse, h/2, w/2), all frames at the finer scale (B, S, width, h, w) -> (B, width, h, w)."""
        _, _, _, height, width = fine.shape
        x = F.pixel_shuffle(self.grow(x), 2) + fine[:, -1]
        memory = self.attention.remember(self.others(rearrange(fine, "b s c h w -> (b h w) s c")))
        mask = repeat(present, "b s -> (b n) 1 1 s", n=height * width)
        h = self.attention(self.norm(rearrange(x, "b c h w -> (b h w) 1 c")), memory, mask)
        return self.convs(x + rearrange(h, "(b h w) 1 c -> b c h w", h=height, w=width))


class ContextUNet(nn.Module):
    """A context -> features of the target frame, and of all frames at the lowest resolution.

    widths: channels from the DCT's grid to the lowest resolution; blocks: at the lowest.
    """

    def __init__(
        self, channels: int, motion_channels: int, widths: tuple[int, ...], blocks: int, dim: int, num_maps: int
    ) -> None:
        super().__init__()
        self.annotate = nn.Sequential(nn.Linear(WAVES + 1 + num_maps, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.embed = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.motion = nn.Conv2d(motion_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(Level(width, 1, dim, lowest=False) for width in widths[:-1])
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 4, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.lowest = Level(widths[-1], blocks, dim, lowest=True)
        self.ups = nn.ModuleList(Up(coarse, fine) for fine, coarse in reversed(list(pairwise(widths))))

    def forward(self, images: Tensor, context: Context, motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images (B, S, C, h, w), motion (B, N, D, h, w) -> (B, W, h, w), (B, S + 1, W', h', w'), (B, S + 1, dim).

        The features of the target frame, those of all frames at the lowest resolution, and the frames' annotations.
        """
        present = F.pad(context.present, (0, 1), value=True)  # the target frame comes last, as an empty image
        images = F.pad(images * context.present[..., None, None, None], (0, 0, 0, 0, 0, 0, 0, 1))
        note = self.annotate(self._annotations(context, images.dtype))
        x = self.embed(images.flatten(0, 1)).unflatten(0, present.shape)
        x = torch.cat([x[:, :-1], x[:, -1:] + self.motion(motion.flatten(1, 2))[:, None]], dim=1)
        fine = []
        for level, down in zip(self.levels, self.downs, strict=True):
            fine.append(level(x, note, present))
            x = down(fine[-1].flatten(0, 1)).unflatten(0, present.shape)
        x = self.lowest(x, note, present)
        target = x[:, -1]
        for up in self.ups:
            target = up(target, fine.pop(), present)
        return target, x, note

    def _annotations(self, context: Context, dtype: torch.dtype) -> Tensor:
        """(B, S + 1, WAVES + 1 + M): each frame's time, whether it is present, and which map is the target."""
        offsets, maps = F.pad(context.offsets, (0, 1)), context.map_one_hot
        times = torch.cat(rotary(offsets.flatten(), WAVES, longest=16.0), dim=-1).unflatten(0, offsets.shape)
        present = F.pad(context.present, (0, 1)).to(dtype)[..., None]
        maps = torch.cat([torch.zeros_like(maps)[:, None].expand(-1, offsets.shape[1] - 1, -1), maps[:, None]], dim=1)
        return torch.cat([times, present, maps.to(dtype)], dim=-1)
