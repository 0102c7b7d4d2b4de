"""Trackers of what tabletop frames show: the pusher, a white ball under a black rod, and objects by their hues.

Nothing is trained. The pusher's tracker is 0.42 pixels off on average, 2.7 at most, on 600 frames of 20 clips other
than those that it was tuned on. Blur of sigma 0.5 makes that 0.46; at 0.8 the median is 0.54, one frame in twenty is
lost, and 58 % count as visible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stt.api import Video
from train.sim.tabletop.scene import PALETTE

BALL, ROD = 2.6, 1.1  # radius, half width; in pixels of a picture of 64x64, as are the ends of the rod from the ball
ENDS = (1.5, 9.5)
TILTS = [math.radians(7.5 * k) for k in range(-4, 5)]  # of the rod, which leans away from the camera
MAX_STEP = 7  # pixels from frame to frame, a little more than the pusher can go
BALL_WEIGHT = 0.4  # of the ball beside the rod, which is hidden less often
VISIBLE = 0.02  # least response of a pusher: 99.7 % of frames with one reach it, 3 % of those without

MIN_SATURATION = 0.5  # of an object's pixel; the background stays below 0.3
MIN_BRIGHTNESS = 0.12  # the hue of darker pixels is unreliable
MAX_HUE_ERROR = 18  # degrees, half the distance of neighbours in PALETTE
MIN_PIXELS = 8  # of a picture of 64x64 that make an object visible; edges mix into other hues


# ---- the pusher --------------------------------------------------------------------------------------


class Track(NamedTuple):
    """Positions of what actions move, hidden or not: the centre of the pusher's ball, the point between fingers."""

    xy: Tensor  # (..., 2) pixels, x to the right, y down, (0, 0) the first pixel's centre; a best guess if not visible
    visible: Tensor  # (...) bool


def track_pusher(clips: Video) -> Track:
    """Tracks the pusher through clips (..., T, 3, H, W) in [-1, 1].

    The response at a place is black in the shape of the rod and white in that of the ball, at the best tilt; strong
    colours count as neither. The track has the largest sum of responses among those whose steps are at most MAX_STEP
    (Viterbi). Parabolas through each place and its neighbours refine it to parts of a pixel.
    """
    lead, scale = clips.shape[:-3], clips.shape[-1] / 64
    flat = ((clips.float() + 1) / 2).reshape(-1, *clips.shape[-3:])
    beside, above, below = _margins(scale)
    shades = torch.stack([flat.amax(dim=1), flat.amin(dim=1)], dim=1)  # 1 - blackness, whiteness
    padded = F.pad(shades, [beside, beside, above, below], mode="replicate")
    response = F.conv2d(padded, _templates(scale).to(flat.device)).amax(dim=1)  # (N, H, W)
    at = _viterbi(response.unflatten(0, (-1, lead[-1])), math.ceil(MAX_STEP * scale)).flatten()
    y, x = at // response.shape[-1], at % response.shape[-1]
    padded, n = F.pad(response[:, None], [1] * 4, mode="replicate")[:, 0], torch.arange(len(response), device=at.device)
    best = response[n, y, x]
    dx = parabola_peak(padded[n, y + 1, x], best, padded[n, y + 1, x + 2])
    dy = parabola_peak(padded[n, y, x + 1], best, padded[n, y + 2, x + 1])
    return Track(torch.stack([x + dx, y + dy], dim=-1).reshape(*lead, 2), (best > VISIBLE).reshape(lead))


def _viterbi(response: Tensor, reach: int) -> Tensor:
    """Responses (B, T, H, W) -> pixels (B, T), by rows, of the track of largest sum with steps up to `reach`."""
    total, sources = response[:, 0], []
    for frame in response.unbind(dim=1)[1:]:
        best, source = F.max_pool2d(total[:, None], 2 * reach + 1, stride=1, padding=reach, return_indices=True)
        total = frame + best[:, 0]
        sources.append(source.flatten(1))
    track = [total.flatten(1).argmax(dim=1, keepdim=True)]
    for source in reversed(sources):
        track.append(source.gather(1, track[-1]))
    return torch.cat(track[::-1], dim=1)


def parabola_peak(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    """Offset of the peak of the parabola through three neighbours from the middle one, within half a pixel."""
    curvature = (2 * at - before - after).clamp_min(1e-6)
    return (0.5 * (after - before) / curvature).clamp(-0.5, 0.5)


def _margins(scale: float) -> tuple[int, int, int]:
    """Pixels beside, above and below the ball's centre that the shapes fill."""
    return math.ceil(scale * (ENDS[1] * math.sin(TILTS[-1]) + ROD)), math.ceil(scale * ENDS[1]), math.ceil(scale * BALL)


@cache
def _templates(scale: float, fine: int = 5) -> Tensor:
    """Weights of blackness and whiteness at every tilt, (tilts, 2, rows, columns)."""
    beside, above, below = _margins(scale)
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
    smooth = F.avg_pool2d(torch.stack(shapes).float(), fine)
    return smooth / smooth.sum(dim=(-2, -1), keepdim=True) * torch.tensor([-1.0, BALL_WEIGHT])[:, None, None]


# ---- objects -----------------------------------------------------------------------------------------


def colour_pixels(frames: Video) -> Tensor:
    """Frames (..., 3, H, W) in [-1, 1] -> pixels of each colour of PALETTE, (..., colours) int64.

    Nearly white light, of whatever strength, does not change a pixel's hue. The nearest hue of PALETTE counts, if it is
    within MAX_HUE_ERROR.
    """
    red, green, blue = ((frames + 1) / 2).clamp(0, 1).unbind(dim=-3)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = (high - low).clamp_min(1e-6)
    sector = torch.where(high == red, (green - blue) / chroma % 6, (red - green) / chroma + 4)
    sector = torch.where((high == green) & (high != red), (blue - red) / chroma + 2, sector)
    hue = 60 * sector  # (..., H, W) degrees
    strong = (high > MIN_BRIGHTNESS) & (chroma > MIN_SATURATION * high)
    palette = torch.tensor(list(PALETTE.values()), dtype=hue.dtype, device=hue.device)
    error = ((hue[..., None] - palette + 180) % 360 - 180).abs()  # (..., H, W, colours)
    nearest = F.one_hot(error.argmin(dim=-1), len(PALETTE)).bool()
    return (nearest & strong[..., None] & (error < MAX_HUE_ERROR)).sum(dim=(-3, -2))


def visible_colours(frames: Video) -> Tensor:
    """Frames (..., 3, H, W) in [-1, 1] -> whether an object of each colour is visible, (..., colours) bool."""
    return colour_pixels(frames) >= MIN_PIXELS * frames.shape[-1] * frames.shape[-2] / 64**2


def object_permanence(
    prompt: Video, futures: Video, colours: Sequence[int] = range(len(PALETTE))
) -> tuple[Tensor, Tensor]:
    """Share of the objects in a prompt's (T, 3, H, W) last frame that later frames show, and the number of new ones.

    Futures (..., T', 3, H, W) -> (..., T') on [0, 1], and (..., T') colours that no frame of the prompt shows.
    colours: those of PALETTE that objects have. Simulated futures score less than 1 where objects hide each other, so
    compare with those.
    """
    before, after = (visible_colours(frames)[..., list(colours)] for frames in (prompt, futures))
    share = (after & before[-1]).sum(dim=-1) / before[-1].sum().clamp_min(1)
    return share, (after & ~before.any(dim=0)).sum(dim=-1)
