"""Where a picture of the tabletop shows the pusher, a white ball under a black rod. Nothing is trained.

On 600 frames of 20 clips other than those that it was set by it is 0.42 pixels off on average, 2.7 at most.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stt.api import Video

BALL, ROD = 2.6, 1.1  # radius, half width; in pixels of a picture of 64x64, as are the ends of the rod from the ball
ENDS = (1.5, 9.5)
TILTS = [math.radians(7.5 * k) for k in range(-4, 5)]  # of the rod, which leans away from the camera
WHITE = 0.4  # what the ball weighs beside the rod, which nothing hides as often
SEEN = 0.02  # least response that is a pusher: 99.7 % of true frames have it, 3.5 % of those without one


class Places(NamedTuple):
    """Of the middle of the ball, if it is hidden too."""

    xy: Tensor  # (..., 2) pixels, x to the right, y down, (0, 0) the middle of the first; a best guess if not seen
    seen: Tensor  # (...) bool


def find_pusher(frames: Video) -> Places:
    """Frames (..., 3, H, W) in [-1, 1] -> where each shows the pusher.

    The place where black lies in the shape of the rod and white in that of the ball, of the tilt that fits best, to
    parts of a pixel by a parabola through the best and its neighbours. Strong colours count as neither.
    """
    flat = ((frames.float() + 1) / 2).reshape(-1, *frames.shape[-3:])
    shapes = templates(frames.shape[-1] / 64).to(flat.device)
    beside, above, below = _reach(frames.shape[-1] / 64)
    shades = torch.stack([flat.amax(dim=1), flat.amin(dim=1)], dim=1)  # how far from black, how white
    fit = F.conv2d(F.pad(shades, [beside, beside, above, below], mode="replicate"), shapes).amax(dim=1)  # (N, H, W)
    best, at = fit.flatten(1).max(dim=1)
    y, x = at // fit.shape[-1], at % fit.shape[-1]
    padded, n = F.pad(fit[:, None], [1] * 4, mode="replicate")[:, 0], torch.arange(len(fit), device=fit.device)
    across = _summit(padded[n, y + 1, x], best, padded[n, y + 1, x + 2])
    down = _summit(padded[n, y, x + 1], best, padded[n, y + 2, x + 1])
    lead = frames.shape[:-3]
    return Places(torch.stack([x + across, y + down], dim=-1).reshape(*lead, 2), (best > SEEN).reshape(lead))


def _summit(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    """Where the parabola through three neighbours has its summit, from the middle one, within half a pixel."""
    bend = (2 * at - before - after).clamp_min(1e-6)
    return (0.5 * (after - before) / bend).clamp(-0.5, 0.5)


def _reach(scale: float) -> tuple[int, int, int]:
    """Pixels beside, above and below the ball's middle that the shapes fill."""
    return math.ceil(scale * (ENDS[1] * math.sin(TILTS[-1]) + ROD)), math.ceil(scale * ENDS[1]), math.ceil(scale * BALL)


@cache
def templates(scale: float, fine: int = 5) -> Tensor:
    """Weights of blackness and whiteness at every tilt, (tilts, 2, rows, columns)."""
    beside, above, below = _reach(scale)
    rows, columns = (
        (torch.arange((before + 1 + after) * fine) + 0.5) / fine - 0.5 - before
        for before, after in ((above, below), (beside, beside))
    )
    y, x = (axis / scale for axis in torch.meshgrid(rows, columns, indexing="ij"))
    shapes = []
    for tilt in TILTS:
        along, across = x * math.sin(tilt) - y * math.cos(tilt), x * math.cos(tilt) + y * math.sin(tilt)
        rod = (along > ENDS[0]) & (along < ENDS[1]) & (across.abs() < ROD)
        shapes.append(torch.stack([rod, (x.square() + y.square() < BALL**2) & ~rod]))
    drawn = F.avg_pool2d(torch.stack(shapes).float(), fine)
    return drawn / drawn.sum(dim=(-2, -1), keepdim=True) * torch.tensor([-1.0, WHITE])[:, None, None]
