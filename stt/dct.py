"""Frames <-> sparse sequences of quantised DCT coefficients, as JPEG makes them (arXiv 2103.03841, 2203.09494).

    frames   (..., C, H, W)                 float in [-1, 1]
    dense    (..., dct_channels, h, w)      int64, a "DCT image": one cell per block of luma, one channel per frequency
    triples  (channel, position, value)     (..., N) int64 each: the values of a dense image that are not 0, in order

Channels run from low frequencies to high ones (JPEG's zigzag); components of colour alternate at each frequency: Y0,
Cb0, Cr0, Y1, Cb1, ... So the beginning of a sequence is the whole frame with less detail. Positions are cells in raster
order, the same for all channels. A block of chroma covers `subsampling` x `subsampling` cells; its values lie in the
upper left one, so that a position is the same place in luma and in chroma.

Where we differ from JPEG: colours are not rounded between the steps, ties of the quantisation go away from zero on
every device, the shade that costs nothing may be black, and blocks of 4 or 16 pixels have tables of their own.
Libraries that read coefficients from JPEG files (jpeglib, torchjpeg) have none of that, nor batches on a GPU. Checked
against jpeglib at quality 50: 99.9 % (gray) and 99.7 % (4:2:0) of the coefficients are equal, the others one step off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from stt.api import Config

LUMA = (  # ITU-T T.81, annex K: the steps of quality 50
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
RED, GREEN, BLUE = 0.299, 0.587, 0.114  # of luma
YCBCR = (
    (RED, GREEN, BLUE),
    (-RED / (2 - 2 * BLUE), -GREEN / (2 - 2 * BLUE), 0.5),
    (0.5, -GREEN / (2 - 2 * RED), -BLUE / (2 - 2 * RED)),
)
TIE = 1e-3  # of a step; far above what float64 gets wrong, far below what shows


@dataclass(frozen=True, kw_only=True)
class DCTConfig(Config):
    quality: int = 75  # 1 (coarse) ... 100, as libjpeg counts
    block: int = 8  # pixels a side: 4, 8 (JPEG's) or 16
    subsampling: int = 2  # of chroma, per axis; 2 is 4:2:0. Gray frames have no chroma
    background: int = 128  # shade, of 0 ... 255, whose blocks cost no triple; JPEG's is 128, digits on black want 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}, must be 1 to 100")
        if self.block not in (4, 8, 16):
            raise ValueError(f"block is {self.block}, must be 4, 8 or 16")
        if self.subsampling not in (1, 2, 4):
            raise ValueError(f"subsampling is {self.subsampling}, must be 1, 2 or 4")
        if not 0 <= self.background <= 255:
            raise ValueError(f"background is {self.background}, must be 0 to 255")
        if self.image_size % (self.block * self.spacing):
            of = f"block {self.block}" + (f" x subsampling {self.spacing}" if self.channels == 3 else "")
            raise ValueError(f"image_size {self.image_size} is not a multiple of {of}")

    @property
    def spacing(self) -> int:
        """Cells from one block of chroma to the next."""
        return self.subsampling if self.channels == 3 else 1

    @property
    def dct_channels(self) -> int:
        """Number of channels: frequencies of all components. As a channel in a sequence, it is the end."""
        return self.channels * self.block**2

    @property
    def grid(self) -> int:
        """Cells a side of a dense image."""
        return self.image_size // self.block

    @property
    def positions(self) -> int:
        return self.grid**2

    @property
    def longest(self) -> int:
        """Triples of a frame without zeros, the end not counted."""
        return self.block**2 * (self.positions + (self.channels - 1) * (self.grid // self.spacing) ** 2)

    @property
    def limit(self) -> int:
        """Largest size of a quantised value: no frame in [-1, 1] has a larger one."""
        peaks = []
        for component in range(self.channels):
            mean, *detail = steps(self.quality, self.block, component > 0)
            away = max(self.background, 255 - self.background) if component == 0 else 127.5
            # a block of n x n pixels that are at most x away from a shade has no coefficient beyond n * x
            peaks += [self.block * away / mean, self.block * 127.5 / min(detail)]
        return math.ceil(max(peaks))


class Triples(NamedTuple):
    """Values of dense images that are not 0, in order of channel, then position.

    After the last one the channel is `dct_channels`, the end; position and value beside an end mean nothing (and are 0
    where this module made them).
    """

    channel: Tensor  # (..., N) int64
    position: Tensor  # (..., N) int64
    value: Tensor  # (..., N) int64

    def first(self, count: int) -> Triples:
        return Triples(*(part[..., :count] for part in self))


class FrameDCT(nn.Module):
    """The codec. Its tables are buffers that are not saved, in float64: autocast and TF32 would change the rounding.

    A sequence is valid if its cells (channel, position) exist and strictly ascend and its values are in -limit ...
    limit without 0, up to the first end or to the last triple; only ends may follow an end. Every valid sequence
    decodes to a frame; what it lacks is 0.
    """

    def __init__(self, config: DCTConfig) -> None:
        super().__init__()
        self.config, self.limit = config, config.limit
        c = config
        with torch.device("cpu"):  # small tables, even where a network is built without memory
            steps_of = [steps(c.quality, c.block, component > 0) for component in range(c.channels)]
            tables = torch.tensor(steps_of, dtype=torch.float64)  # (C, frequencies)
            to_ycbcr = torch.tensor(YCBCR, dtype=torch.float64) if c.channels == 3 else torch.ones(1, 1).double()
            brightness = tables.T.flatten() / (127.5 * c.block)  # of a step, in [-1, 1]
            small = {
                "basis": basis(c.block),  # (frequencies, pixels)
                "steps": tables,
                "to_ycbcr": to_ycbcr,
                "to_rgb": torch.linalg.inv(to_ycbcr),
                "brightness": brightness.float()[:, None, None],
            }
        for name, table in small.items():
            self.register_buffer(name, table.to(torch.get_default_device()), persistent=False)
        exists = torch.zeros(c.block**2, c.channels, c.grid, c.grid, dtype=torch.bool)
        exists[:, 0] = True
        exists[:, 1:, :: c.spacing, :: c.spacing] = True
        self.register_buffer("exists", exists.flatten(), persistent=False)  # (cells), by channel, then position

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the tables with the network; their precision stays when it is cast, such as by `model.float()`."""
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, table in self.named_buffers():
            if table.dtype != exact[name].dtype:
                setattr(self, name, exact[name].to(table.device))
        return self

    # ---- frames <-> dense ----------------------------------------------------------------------------

    def encode(self, frames: Tensor) -> Tensor:
        """(..., C, H, W) float in [-1, 1] -> (..., dct_channels, h, w) int64 in -limit ... limit."""
        c = self.config
        shape = (c.channels, c.image_size, c.image_size)
        if frames.shape[-3:] != shape or not frames.is_floating_point():
            raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}, must be float (..., {shape})")
        colours = torch.einsum("yc,...chw->...yhw", self.to_ycbcr, (frames.double() + 1) * 127.5)
        luma = self._quantised(colours[..., :1, :, :] - c.background, self.steps[:1])  # (..., 1, K, h, w)
        chroma = reduce(colours[..., 1:, :, :], "... c (h s) (w t) -> ... c h w", "mean", s=c.spacing, t=c.spacing)
        dense = luma.new_zeros(*luma.shape[:-4], c.channels, *luma.shape[-3:])
        dense[..., :1, :, :, :] = luma
        dense[..., 1:, :, :: c.spacing, :: c.spacing] = self._quantised(chroma, self.steps[1:])
        return rearrange(dense, "... c k h w -> ... (k c) h w")

    def decode(self, dense: Tensor) -> Tensor:
        """(..., dct_channels, h, w) -> (..., C, H, W) float32 in [-1, 1]."""
        c = self.config
        self._check_dense(dense)
        levels = rearrange(dense, "... (k c) h w -> ... c k h w", c=c.channels).double()
        luma = self._planes(levels[..., :1, :, :, :], self.steps[:1]) + c.background
        chroma = self._planes(levels[..., 1:, :, :: c.spacing, :: c.spacing], self.steps[1:])
        colours = torch.cat([luma, enlarged(chroma, c.spacing)], dim=-3)
        pixels = torch.einsum("cy,...yhw->...chw", self.to_rgb, colours)
        return (pixels / 127.5 - 1).clamp(-1, 1).float()

    def _quantised(self, planes: Tensor, table: Tensor) -> Tensor:
        """Components (..., c, H, W) -> (..., c, K, h, w)."""
        blocks = rearrange(planes, "... (h p) (w q) -> ... (p q) h w", p=self.config.block, q=self.config.block)
        levels = torch.einsum("kp,...phw->...khw", self.basis, blocks) / table[:, :, None, None]
        away = torch.trunc(levels + levels.sign() * (0.5 + TIE))
        return away.clamp(-self.limit, self.limit).long()

    def _planes(self, levels: Tensor, table: Tensor) -> Tensor:
        """Inverse of `_quantised`, up to the rounding."""
        blocks = torch.einsum("kp,...khw->...phw", self.basis, levels * table[:, :, None, None])
        return rearrange(blocks, "... (p q) h w -> ... (h p) (w q)", p=self.config.block, q=self.config.block)

    def features(self, dense: Tensor) -> Tensor:
        """Dense images (..., K, h, w) as inputs of networks, (..., 2 K, h, w): brightness, and logarithms of steps."""
        logs = dense.sign() * dense.abs().float().log1p() / math.log1p(self.limit)
        return torch.cat([dense * self.brightness, logs], dim=-3)

    # ---- dense <-> triples ---------------------------------------------------------------------------

    def to_triples(self, dense: Tensor, longest: int | None = None) -> Triples:
        """Dense images -> sequences of equal length, of which each ends at least once.

        N is 1 more than the longest sequence has triples. With `longest` N is `longest` + 1 whatever the images hold
        (nothing waits for the device), and a frame that has more is cut there.
        """
        self._check_dense(dense)
        if dense.is_floating_point():
            raise ValueError(f"dense images are {dense.dtype}, must be integers")
        if longest is not None and longest < 0:
            raise ValueError(f"longest is {longest}, must be 0 or more")
        values = dense.flatten(-3).long()  # (..., cells)
        cells = values.shape[-1]
        here = values != 0
        rank = here.cumsum(dim=-1) - 1  # of a value in its sequence
        count = longest if longest is not None else int(rank[..., -1].max()) + 1
        slot = torch.where(here & (rank < count), rank, count + 1)  # one more slot takes what is left out
        order = torch.arange(cells, device=dense.device).expand_as(values)
        cell = values.new_full((*values.shape[:-1], count + 2), cells).scatter_(-1, slot, order)[..., :-1]
        value = F.pad(values, (0, 1)).gather(-1, cell)
        return Triples(cell // self.config.positions, cell % self.config.positions, value)

    def from_triples(self, triples: Triples) -> Tensor:
        """Sequences (..., N >= 0), cut anywhere or not -> (..., dct_channels, h, w).

        Raises ValueError for invalid ones.
        """
        c = self.config
        cell = self._cells(triples)
        flat = cell.new_zeros(*cell.shape[:-1], len(self.exists) + 1).scatter_(-1, cell, triples.value.long())
        return flat[..., :-1].unflatten(-1, (c.dct_channels, c.grid, c.grid))

    def open_cells(self, channel: Tensor, position: Tensor) -> Tensor:
        """Where the triple after one at (channel, position) may lie: (...) -> (..., dct_channels, positions) bool.

        An end may always follow, and nothing else follows an end. Channel 0 and position -1 stand before the first.
        """
        last = channel * self.config.positions + position
        cells = torch.arange(len(self.exists), device=last.device)
        after = self.exists & (cells > last[..., None])
        return after.unflatten(-1, (self.config.dct_channels, self.config.positions))

    def _cells(self, triples: Triples) -> Tensor:
        """Channel and position in one number (..., N), the number of cells for an end; checks the rule."""
        if len({part.shape for part in triples}) > 1 or triples.channel.ndim < 1:
            raise ValueError(f"triples have shapes {[tuple(part.shape) for part in triples]}, must be (..., N) alike")
        if any(part.is_floating_point() for part in triples):
            raise ValueError(f"triples are {[part.dtype for part in triples]}, must be integers")
        channel, position, value = (part.long() for part in triples)
        c, cells = self.config, len(self.exists)
        end = channel == c.dct_channels
        inside = (channel >= 0) & (channel < c.dct_channels) & (position >= 0) & (position < c.positions)
        cell = torch.where(end, cells, torch.where(inside, channel * c.positions + position, 0))
        exists = inside & F.pad(self.exists, (0, 1))[cell]
        valued = (value != 0) & (value >= -self.limit) & (value <= self.limit)
        before, after = cell[..., :-1], cell[..., 1:]
        ordered = F.pad((before < after) | (before == cells) & (after == cells), (1, 0), value=True)
        if not ((end | exists & valued) & ordered).all():
            self._explain(triples, end | exists, end | valued, ordered)
        return cell

    def _explain(self, triples: Triples, exists: Tensor, valued: Tensor, ordered: Tensor) -> None:
        """Raises ValueError for the first triple that breaks the rule."""
        c = self.config
        first = tuple((~(exists & valued & ordered)).nonzero()[0].tolist())
        channel, position, value = (int(part[first]) for part in triples)
        if not exists[first]:
            wrong = f"channels are 0 to {c.dct_channels - 1}, then the end, positions 0 to {c.positions - 1}"
            wrong += f", of chroma in every row and column that {c.spacing} divides" if c.spacing > 1 else ""
        elif not valued[first]:
            wrong = f"values are -{self.limit} to {self.limit} without 0"
        else:
            wrong = "channel and position must ascend, and nothing but ends may follow an end"
        where = f"triple {first[-1]}" + (f" of sequence {first[:-1]}" if first[:-1] else "")
        raise ValueError(f"{where} is channel {channel}, position {position}, value {value}: {wrong}")

    def _check_dense(self, dense: Tensor) -> None:
        c = self.config
        shape = (c.dct_channels, c.grid, c.grid)
        if dense.shape[-3:] != shape:
            raise ValueError(f"dense images have shape {tuple(dense.shape)}, must be (..., {shape})")

    def extra_repr(self) -> str:
        c = self.config
        return f"quality={c.quality}, block={c.block}, dct_channels={c.dct_channels}, grid={c.grid}, limit={self.limit}"


def zigzag(block: int) -> list[tuple[int, int]]:
    """Frequencies (vertical, horizontal) from low to high, along the diagonals, turning at their ends."""
    pairs = [(v, u) for v in range(block) for u in range(block)]
    return sorted(pairs, key=lambda pair: (sum(pair), pair[0] if sum(pair) % 2 else pair[1]))


@cache
def steps(quality: int, block: int, chroma: bool) -> tuple[int, ...]:
    """Step of every frequency in zigzag order: the standard's table, scaled by the quality as libjpeg does.

    Blocks of other sizes than 8 take the step of the nearest frequencies, by linear interpolation.
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    with torch.device("cpu"):  # even where a network is built without memory
        frequency = (torch.arange(block) * 8 / block).clamp(max=7)
        weights = (1 - (frequency[:, None] - torch.arange(8)).abs()).clamp(min=0)  # (block, 8)
        table = weights @ torch.tensor(CHROMA if chroma else LUMA, dtype=torch.float32) @ weights.T
    scaled = ((table * scale + 50) / 100).floor().clamp(1, 255)
    return tuple(int(scaled[pair]) for pair in zigzag(block))


def basis(block: int) -> Tensor:
    """Orthonormal cosines (frequencies in zigzag order, pixels of a block in raster order), float64."""
    n = torch.arange(block, dtype=torch.float64)
    waves = torch.cos(torch.pi * n[:, None] * (n + 0.5) / block) * math.sqrt(2 / block)  # (frequency, pixel)
    waves[0] /= math.sqrt(2)
    both = torch.einsum("vp,uq->vupq", waves, waves).flatten(-2)  # (vertical, horizontal, pixels)
    return torch.stack([both[pair] for pair in zigzag(block)])


def enlarged(planes: Tensor, factor: int) -> Tensor:
    """(..., c, H, W) -> (..., c, H*factor, W*factor), linear between pixel centres: libjpeg's usual way."""
    if factor == 1:
        return planes
    flat = planes.flatten(0, -4) if planes.ndim > 3 else planes[None]
    larger = F.interpolate(flat, scale_factor=factor, mode="bilinear", align_corners=False)
    return larger.reshape(*planes.shape[:-2], *larger.shape[-2:])
