"""Where a picture of the tabletop shows the pusher, a white ball under a black rod. Nothing is trained.

On 600 frames of 20 clips other than those that it was set by it is 0.42 pixels off on average, 2.7 at most. Blur
of sigma 0.5 makes that 0.46; at 0.8 the median is 0.54, one frame in twenty is lost, and 58 % count as seen.
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
FAR = 7  # pixels: what the pusher goes from frame to frame at most, and a little
WHITE = 0.4  # what the ball weighs beside the rod, which nothing hides as often
SEEN = 0.02  # least response that is a pusher: 99.7 % of true frames have it, 3 % of those without one


class Places(NamedTuple):
    """Of the middle of the ball, if it is hidden too."""

    xy: Tensor  # (..., 2) pixels, x to the right, y down, (0, 0) the middle of the first; a best guess if not seen
    seen: Tensor  # (...) bool


def find_pusher(clips: Video) -> Places:
    """Clips (..., T, 3, H, W) in [-1, 1] -> where each frame shows the pusher.

    A place fits as far as black lies in the shape of the rod and white in that of the ball, of the tilt that fits best;
    strong colours count as neither. Of all paths whose steps are at most FAR, that which fits best in sum is taken,
    then refined to parts of a pixel by a parabola through each place and its neighbours.
    """
    lead, scale = clips.shape[:-3], clips.shape[-1] / 64
    flat = ((clips.float() + 1) / 2).reshape(-1, *clips.shape[-3:])
    beside, above, below = _reach(scale)
    shades = torch.stack([flat.amax(dim=1), flat.amin(dim=1)], dim=1)  # how far from black, how white
    around = F.pad(shades, [beside, beside, above, below], mode="replicate")
    fit = F.conv2d(around, templates(scale).to(flat.device)).amax(dim=1)  # (N, H, W)
    at = _path(fit.unflatten(0, (-1, lead[-1])), math.ceil(FAR * scale)).flatten()
    y, x = at // fit.shape[-1], at % fit.shape[-1]
    padded, n = F.pad(fit[:, None], [1] * 4, mode="replicate")[:, 0], torch.arange(len(fit), device=fit.device)
    best = fit[n, y, x]
    across = _summit(padded[n, y + 1, x], best, padded[n, y + 1, x + 2])
    down = _summit(padded[n, y, x + 1], best, padded[n, y + 2, x + 1])
    return Places(torch.stack([x + across, y + down], dim=-1).reshape(*lead, 2), (best > SEEN).reshape(lead))


def _path(fit: Tensor, far: int) -> Tensor:
    """Fits (B, T, H, W) -> the pixels (B, T), counted by rows, of the path of largest sum with steps up to `far`."""
    total, came = fit[:, 0], []
    for of_frame in fit.unbind(dim=1)[1:]:
        before, source = F.max_pool2d(total[:, None], 2 * far + 1, stride=1, padding=far, return_indices=True)
        total = of_frame + before[:, 0]
        came.append(source.flatten(1))
    path = [total.flatten(1).argmax(dim=1, keepdim=True)]
    for source in reversed(came):
        path.append(source.gather(1, path[-1]))
    return torch.cat(path[::-1], dim=1)


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
