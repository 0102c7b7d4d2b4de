"""Which objects of a tabletop a picture shows, told by their hues: are those of the prompt still there?"""

from __future__ import annotations

import torch
from torch import Tensor

from stt.api import Video
from train.sim.tabletop.scene import PALETTE

STRONG = 0.5  # least saturation of an object's pixel; trays stay below 0.3
BRIGHT = 0.12  # least brightness: blacker pixels have no hue to speak of
FEWEST = 8  # pixels of a picture of 64x64 that make an object visible; edges mix into other hues


def colour_pixels(frames: Video) -> Tensor:
    """Frames (..., 3, H, W) in [-1, 1] -> how many pixels of each colour of PALETTE they show, (..., colours) int64.

    A pixel's hue does not change with the light that falls on it, as long as that is nearly white: the nearest of
    PALETTE counts, if it lies within half the way to its neighbour.
    """
    red, green, blue = ((frames + 1) / 2).clamp(0, 1).unbind(dim=-3)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    reach = (high - low).clamp_min(1e-6)
    sector = torch.where(high == red, (green - blue) / reach % 6, (red - green) / reach + 4)
    sector = torch.where((high == green) & (high != red), (blue - red) / reach + 2, sector)
    hue = 60 * sector  # (..., H, W) degrees
    strong = (high > BRIGHT) & (reach > STRONG * high)
    palette = torch.tensor(list(PALETTE.values()), dtype=hue.dtype, device=hue.device)
    apart = ((hue[..., None] - palette + 180) % 360 - 180).abs()  # (..., H, W, colours)
    nearest = torch.nn.functional.one_hot(apart.argmin(dim=-1), len(PALETTE)).bool()
    return (nearest & strong[..., None] & (apart < 18)).sum(dim=(-3, -2))


def visible_colours(frames: Video) -> Tensor:
    """Frames (..., 3, H, W) in [-1, 1] -> which colours of PALETTE they show as an object, (..., colours) bool."""
    return colour_pixels(frames) >= FEWEST * frames.shape[-1] * frames.shape[-2] / 64**2


def permanence(prompt: Video, futures: Video) -> tuple[Tensor, Tensor]:
    """Of the objects that the last frame of a prompt (T, 3, H, W) shows, the share that is there in each later frame.

    Futures (..., T', 3, H, W) -> kept (..., T') on [0, 1], and how many colours they show that no frame of the prompt
    does, (..., T'). True futures score less than 1 where objects hide each other, so hold them beside.
    """
    known = visible_colours(prompt)  # (T, colours)
    seen = visible_colours(futures)
    kept = (seen & known[-1]).sum(dim=-1) / known[-1].sum().clamp_min(1)
    return kept, (seen & ~known.any(dim=0)).sum(dim=-1)
