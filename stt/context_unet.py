"""Transframer's U-Net (arXiv 2203.09494): frames around a target frame -> features of the target frame.

The target frame is a slot of its own, after those of the context, and holds the motion-compensated prediction, so that
its features lie cell by cell where its triples will. All frames are DCT images, with cells as positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.layers import Attention, AttentionBlock, CrossAttention, ResBlock, rotary

WAVES = 32  # sines and cosines of a time


class Context(NamedTuple):
    """Frames around a target frame: the nearest first, before and after it in turn."""

    video: Tensor  # (B, S, C, H, W)
    times: tuple[int, ...]  # of the S frames from the target: negative is before it
    map_index: int  # 0 where the target is a frame, from 1 on for one of its maps


def nearest(times: Sequence[int], count: int) -> list[int]:
    """Indices of the `count` times nearest to 0, before and after in turn."""
    sides = [
        sorted((k for k, t in enumerate(times) if (t > 0) == after), key=lambda k: abs(times[k])) for after in (0, 1)
    ]
    ranked = sorted(
        ((rank, abs(times[k]), after, k) for after, side in enumerate(sides) for rank, k in enumerate(side))
    )
    return [k for *_, k in ranked[:count]]


class TimeAttention(nn.Module):
    """Each cell attends to its own position in all frames. (B, S, C, h, w) -> same."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        _, _, _, height, width = x.shape
        cells = self.norm(rearrange(x, "b s c h w -> (b h w) s c"))
        h = self.attention.attend(*self.attention.project(cells))
        return x + rearrange(h, "(b h w) s c -> b s c h w", h=height, w=width)


class Level(nn.Module):
    """One scale on the way down: per frame a convolution, then attention. (B, S, C, h, w) -> same."""

    def __init__(self, width: int, blocks: int, dim: int, lowest: bool) -> None:
        super().__init__()
        self.note = nn.Linear(dim, width)
        self.convs = nn.ModuleList(ResBlock(width) for _ in range(blocks))
        self.space = nn.ModuleList(AttentionBlock(width) for _ in range(blocks * lowest))
        self.times = nn.ModuleList(TimeAttention(width) for _ in range(blocks))

    def forward(self, x: Tensor, note: Tensor) -> Tensor:
        slots = x.shape[1]
        x = x + self.note(note)[..., None, None]
        for i, (conv, time) in enumerate(zip(self.convs, self.times, strict=True)):
            h = conv(x.flatten(0, 1))
            if self.space:
                h = self.space[i](h)
            x = time(h.unflatten(0, (-1, slots)))
        return x


class Up(nn.Module):
    """One scale on the way up, for the target frame alone, which attends to the other frames' cells once more."""

    def __init__(self, coarse: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.grow = nn.Conv2d(coarse, 4 * width, 1)
        self.norm, self.others = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads)
        self.convs = nn.Sequential(ResBlock(width), ResBlock(width))

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        """x (B, coarse, h/2, w/2), all frames at the finer scale (B, S, width, h, w) -> (B, width, h, w)."""
        _, _, _, height, width = fine.shape
        x = F.pixel_shuffle(self.grow(x), 2) + fine[:, -1]
        memory = self.attention.remember(self.others(rearrange(fine, "b s c h w -> (b h w) s c")))
        h = self.attention(self.norm(rearrange(x, "b c h w -> (b h w) 1 c")), memory)
        return self.convs(x + rearrange(h, "(b h w) 1 c -> b c h w", h=height, w=width))


class ContextUNet(nn.Module):
    """A context and a prediction -> features of the target frame, and of all frames at the lowest resolution.

    channels: of a DCT image's features; layer_channels: of the prediction's layers at the DCT's grid; widths: channels
    from that grid to the lowest resolution; blocks: at the lowest.
    """

    def __init__(
        self, channels: int, layer_channels: int, widths: tuple[int, ...], blocks: int, dim: int, num_maps: int
    ) -> None:
        super().__init__()
        self.num_maps = num_maps
        self.annotate = nn.Sequential(nn.Linear(WAVES + 1 + num_maps, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.embed = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.layers = nn.Conv2d(layer_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(Level(width, 1, dim, lowest=False) for width in widths[:-1])
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 4, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.lowest = Level(widths[-1], blocks, dim, lowest=True)
        self.ups = nn.ModuleList(Up(coarse, fine) for fine, coarse in reversed(list(pairwise(widths))))

    def forward(self, images: Tensor, layers: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """images (B, S + 1, C, h, w), the prediction last; its layers (B, L, h, w).

        Returns the features of the target frame (B, W, h, w), those of all frames at the lowest resolution
        (B, S + 1, W', h', w'), and the frames' annotations (S + 1, dim).
        """
        note = self.annotate(self._annotations(context, images))
        x = self.embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        x = torch.cat([x[:, :-1], x[:, -1:] + self.layers(layers)[:, None]], dim=1)
        fine = []
        for level, down in zip(self.levels, self.downs, strict=True):
            fine.append(level(x, note))
            x = down(fine[-1].flatten(0, 1)).unflatten(0, images.shape[:2])
        x = self.lowest(x, note)
        target = x[:, -1]
        for up in self.ups:
            target = up(target, fine.pop())
        return target, x, note

    def _annotations(self, context: Context, like: Tensor) -> Tensor:
        """(S + 1, WAVES + 1 + M): each frame's time, whether it is the prediction, and which map is the target."""
        times = torch.tensor([*context.times, 0])
        waves = torch.cat(rotary(times, WAVES, longest=16.0), dim=-1)
        last = F.one_hot(torch.tensor(len(context.times)), len(times))[:, None]
        maps = F.one_hot(torch.tensor(context.map_index), self.num_maps + 1)[1:]
        return torch.cat([waves, last, last * maps], dim=-1).to(like.device, like.dtype, non_blocking=True)
