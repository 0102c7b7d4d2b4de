"""Synthetic digits drawn with random strokes, an alternative to MNIST that needs no download."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Generator, Tensor

# The stroke font. Numbers are hundredths of a digit's height, x,y from its centre, y downwards.
# "line" is straight between its points, "curve" smooth through them, "arc" has a centre, radii and angles
# (degrees, clockwise from the right), "eight" has radii and crosses itself in the centre.

THREE = "curve 0,-3 17,3 27,22 18,42 -3,50 -27,39"
FIVE = "curve -23,-5 -5,-14 16,-10 28,14 19,40 -3,50 -27,40"
RING = "arc -1,-24 24,26 0,360"
STROKES = {  # digit: variants of strokes
    0: ["arc 0,0 31,50 -90,270", "arc 0,0 25,50 -90,270"],
    1: ["line 0,-50 0,50", "line -17,-30 2,-50 2,50", "line -17,-33 0,-50 0,50 | line -18,50 18,50"],
    2: [
        "curve -27,-30 -19,-45 0,-50 20,-44 26,-25 16,0 -28,48 | line -28,48 30,48",
        "curve -25,-34 -6,-50 16,-46 24,-27 13,2 -10,33 -24,43 -28,33 -17,27 2,38 30,46",
    ],
    3: [f"curve -25,-39 -7,-50 14,-47 23,-29 14,-10 0,-3 | {THREE}", f"line -24,-48 22,-48 0,-3 | {THREE}"],
    4: ["line -21,-50 -27,6 30,6 | line 17,-42 12,50", "line 12,50 12,-50 -30,16 32,16"],
    5: [
        f"line 25,-48 -19,-48 -23,-5 | {FIVE}",
        f"curve 28,-50 5,-46 -15,-47 | line -15,-47 -23,-5 | {FIVE}",
    ],
    6: [
        "curve 19,-48 -6,-32 -22,-5 -26,23 -14,45 6,49 24,35 24,13 8,0 -12,5 -25,24",
        "curve 4,-50 -15,-20 -25,10 -25,25 | arc 0,25 25,25 180,540",
    ],
    7: [
        "line -31,-48 31,-48 -14,50",
        "line -31,-48 31,-48 -9,50 | line -15,3 26,3",
        "line -31,-48 31,-48 | curve 31,-48 3,-2 -12,50",
    ],
    8: ["arc 0,-26 20,24 90,450 | arc 0,24 26,26 -90,270", "eight 25,50"],
    9: [f"{RING} | curve 23,-26 21,10 10,50", f"{RING} | curve 23,-26 23,14 12,43 -8,50 -24,40"],
}


def _stroke(words: str) -> Tensor:
    """One stroke of the font -> points (n, 2) as (x, y), in digit heights."""
    kind, *pairs = words.split()
    p = torch.tensor([[float(number) / 100 for number in pair.split(",")] for pair in pairs])  # (points, 2)
    if kind == "line":
        t = torch.arange(1, 4)[:, None] / 3  # in pieces, so that a warp can bend it
        return torch.cat([p[:1], *(a + (b - a) * t for a, b in zip(p, p[1:], strict=False))])
    if kind == "curve":  # Catmull-Rom
        t = torch.arange(1, 4)[:, None] / 3
        p = torch.cat([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        bends = [
            b + ((c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3) / 2
            for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
        ]
        return torch.cat([p[1:2], *bends])
    if kind == "arc":
        centre, radii, degrees = p
        angle = torch.deg2rad(torch.linspace(*(100 * degrees).tolist(), 17 if radii[1] < 0.4 else 25))
        return centre + radii * torch.stack([angle.cos(), angle.sin()], dim=-1)
    if kind == "eight":
        angle = torch.linspace(0, 2 * math.pi, 31)
        return p * torch.stack([(2 * angle).sin(), -angle.cos()], dim=-1)
    raise ValueError(f"the font has no stroke {kind!r}")


class Font(NamedTuple):
    segments: Tensor  # (V, S, 2 ends, 2) of every variant, padded by repeating a segment
    first: Tensor  # (10,) a digit's first variant
    count: Tensor  # (10,) its variants


@cache
def font() -> Font:
    """The stroke font as line segments, in digit heights."""
    variants = []
    for digit in range(10):
        for shape in STROKES[digit]:
            strokes = [_stroke(words) for words in shape.split(" | ")]
            variants.append(torch.cat([torch.stack([p[:-1], p[1:]], dim=1) for p in strokes]))  # (s, 2, 2)
    longest = max(len(v) for v in variants)
    segments = torch.stack([torch.cat([v, v[-1:].expand(longest - len(v), 2, 2)]) for v in variants])
    count = torch.tensor([len(STROKES[digit]) for digit in range(10)])
    return Font(segments, count.cumsum(0) - count, count)


def _handwritten(labels: Tensor, generator: Generator, size: int) -> Tensor:
    """Labels (N,) -> segments (N, S, 2, 2) in pixels: random variants, warped, slanted, rotated and scaled."""
    device = labels.device
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator).to(device)

    segments, first, count = (part.to(device) for part in font())
    variant = first[labels] + (uniform(0, 1) * count[labels]).long()
    points = segments[variant]  # (N, S, 2, 2)
    waves, phases = uniform(-5, 5, 2, 2, 2), uniform(0, 2 * math.pi, 2, 2)  # 2 waves for each axis moved
    along = torch.einsum("nsei,nkai->nseka", points, waves) + phases[:, None, None]
    points = points + 0.035 * along.sin().sum(dim=-2)
    angle, slant = uniform(-0.17, 0.17), uniform(-0.12, 0.3)
    height, width = uniform(0.9, 1.06), uniform(0.8, 1.1)
    x, y = points.unbind(dim=-1)
    x, y = x * width[:, None, None], y * height[:, None, None]
    x = x - slant[:, None, None] * y
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    points = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
    centre = (points.amin(dim=(1, 2)) + points.amax(dim=(1, 2))) / 2
    shift = uniform(-0.03, 0.03, 2)
    return size / 2 + size * 18 / 28 * (points - (centre - shift)[:, None, None])


def draw_digits(labels: Tensor, generator: Generator, size: int = 28, chunk: int = 16) -> Tensor:
    """Handwritten-looking digits (N, size, size) on [0, 1], white strokes on black, for labels (N,) in 0...9.

    Proportions as in MNIST: about 20 of 28 pixels high, strokes 2 to 3 pixels wide, edges one pixel soft.
    """
    if ((labels < 0) | (labels > 9)).any():
        raise ValueError(f"labels are {labels.unique().tolist()}, must be digits 0 to 9")
    segments = _handwritten(labels, generator, size)
    radius = (0.9 + 0.75 * torch.rand(len(labels), generator=generator).to(labels.device)) * size / 28  # (N,) pixels
    return torch.cat([_ink(*part, size) for part in zip(segments.split(chunk), radius.split(chunk), strict=True)])


def _ink(segments: Tensor, radius: Tensor, size: int) -> Tensor:
    """Coverage of each pixel by the strokes: segments (N, S, 2, 2), radius (N,) -> (N, size, size) on [0, 1].

    Distances split into a row's and a column's part, which are small; only their sums are (N, S, size, size).
    """
    centre = torch.arange(size, device=segments.device) + 0.5
    begin, end = segments.unbind(dim=2)  # (N, S, 2)
    along = end - begin
    length2 = along.square().sum(dim=-1)[..., None, None].clamp_min(1e-6)  # (N, S, 1, 1)
    x, y = (centre - begin[..., None]).unbind(dim=2)  # (N, S, size) each, from the segment's beginning
    column, row = x * along[..., :1], y * along[..., 1:]
    reach = row[..., :, None] + column[..., None, :]  # (N, S, size, size) along the segment, times its length
    nearest = (reach / length2).clamp_(0, 1)
    distance2 = reach.mul_(-2).addcmul_(nearest, length2).mul_(nearest)
    distance2 += y.square()[..., :, None] + x.square()[..., None, :]
    distance = distance2.amin(dim=1).clamp_min(0).sqrt()
    return (radius[:, None, None] + 0.5 - distance).clamp(0, 1)
