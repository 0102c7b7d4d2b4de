"""Small worlds of moving digits: how they move, what they look like, how a frame is drawn.

Everything works on a whole batch at once, on the device of its tensors; chance comes from a generator alone.
Positions and velocities are (..., 2) as (y, x), of a digit's upper left corner.
"""

from __future__ import annotations

import argparse
import math
from functools import cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

from stt.api import Video

TOP_SPEED = 4  # pixels a frame and axis, of the stochastic world
STEP = 0.1  # of the free space a frame, of the deterministic world


class BounceState(NamedTuple):
    """Where digits are and where they go, before the next frame looks for walls."""

    position: Tensor  # (B, ..., D, 2) int64 pixels, or float in the unit square (deterministic)
    velocity: Tensor  # (B, ..., D, 2) the same per frame

    def at(self, frame: int) -> BounceState:
        """One frame of a history (B, frames + 1, D, 2) -> (B, D, 2)."""
        return BounceState(self.position[:, frame], self.velocity[:, frame])

    def repeated(self, count: int) -> BounceState:
        """(B, D, 2) -> (B * count, D, 2), copies of a clip side by side."""
        return BounceState(*(part.repeat_interleave(count, dim=0) for part in self))


class Moves(NamedTuple):
    """A simulated stretch: continue it from `states.at(-1)`, or from any frame."""

    positions: Tensor  # (B, frames, D, 2) int64 pixels, where the digits are drawn
    states: BounceState  # (B, frames + 1, D, 2), before each frame and after the last


def stochastic_start(
    batch: int,
    digits: int,
    generator: Generator,
    device: torch.device | str = "cpu",
    size: int = 64,
    digit: int = 32,
) -> BounceState:
    """Uniform places and velocities of Stochastic Moving MNIST (B, D, 2)."""
    shape = (batch, digits, 2)
    position = torch.randint(size - digit, shape, generator=generator, device=generator.device)
    velocity = torch.randint(-TOP_SPEED, TOP_SPEED + 1, shape, generator=generator, device=generator.device)
    return BounceState(position.to(device), velocity.to(device))


def stochastic_moves(state: BounceState, frames: int, generator: Generator, size: int = 64, digit: int = 32) -> Moves:
    """Stochastic Moving MNIST (SVG, arXiv 1802.07687): a wall gives a digit a new random velocity.

    Each frame first puts digits that left the canvas back and redraws their velocity (y's wall, then x's:
    the axis that hit points away with 1...4 pixels a frame, the other is -4...4), then draws, then moves. As
    in the authors' generator a digit stops a pixel short of the far walls, and in a corner x decides last.
    Every frame takes the same count of random numbers, whether needed or not.
    """
    position, velocity = state
    speeds, sides = TOP_SPEED, 2 * TOP_SPEED + 1
    shape = (frames, *position.shape)
    drawn = torch.randint(speeds * sides, shape, generator=generator, device=generator.device).to(position.device)
    away, free = drawn % speeds + 1, drawn // speeds - TOP_SPEED  # both uniform, independent
    places, positions, velocities = [], [position], [velocity]
    for t in range(frames):
        place = position.clamp(0, size - digit - 1)
        hit_y, hit_x = (place != position).unbind(dim=-1)  # (B, D)
        out_y, out_x = torch.where(position < 0, away[t], -away[t]).unbind(dim=-1)
        free_y, free_x = free[t].unbind(dim=-1)
        v_y, v_x = velocity.unbind(dim=-1)
        v_y, v_x = torch.where(hit_y, out_y, v_y), torch.where(hit_y, free_x, v_x)
        v_y, v_x = torch.where(hit_x, free_y, v_y), torch.where(hit_x, out_x, v_x)
        velocity = torch.stack([v_y, v_x], dim=-1)
        position = place + velocity
        places.append(place)
        positions.append(position)
        velocities.append(velocity)
    states = BounceState(torch.stack(positions, dim=1), torch.stack(velocities, dim=1))
    return Moves(torch.stack(places, dim=1), states)


def transition_nats(moves: Moves, size: int = 64, digit: int = 32) -> Tensor:
    """What the next displacement of each digit costs who knows the world's state, of Stochastic Moving MNIST.

    (B, frames - 1, D): 0 where a digit goes on, else the logarithm of the inverse share of the 36 velocities that a
    wall may give it which lead to where it went. No model of pixels can do better.
    """
    before, place = moves.states.position[:, :-2], moves.positions[:, :-1]  # (B, frames - 1, D, 2)
    away = torch.arange(1, TOP_SPEED + 1).repeat_interleave(2 * TOP_SPEED + 1)
    free = torch.arange(-TOP_SPEED, TOP_SPEED + 1).repeat(TOP_SPEED)
    hit = before != place  # in a corner x decides
    out = torch.where(before < 0, away[:, None, None, None, None], -away[:, None, None, None, None])
    free = free[:, None, None, None].expand(out.shape[:-1])
    on_x = torch.stack([free, out[..., 1]], dim=-1)
    on_y = torch.stack([out[..., 0], free], dim=-1)
    velocity = torch.where(hit[..., 1:], on_x, on_y)  # (36, B, frames - 1, D, 2)
    reached = (place + velocity).clamp(0, size - digit - 1)
    share = (reached == moves.positions[:, 1:]).all(dim=-1).double().mean(dim=0)
    return torch.where(hit.any(dim=-1), -share.log(), 0.0)


def deterministic_start(
    batch: int, digits: int, generator: Generator, device: torch.device | str = "cpu"
) -> BounceState:
    """Uniform places in the unit square and directions on the circle, of Moving MNIST (B, D, 2)."""
    position = torch.rand(batch, digits, 2, generator=generator, device=generator.device)
    angle = torch.rand(batch, digits, generator=generator, device=generator.device) * 2 * math.pi
    velocity = STEP * torch.stack([angle.sin(), angle.cos()], dim=-1)
    return BounceState(position.to(device), velocity.to(device))


def deterministic_moves(state: BounceState, frames: int, size: int = 64, digit: int = 28) -> Moves:
    """Moving MNIST (Srivastava et al., arXiv 1502.04681): constant speed, reflected at the walls.

    The unit square is the canvas minus a digit. Each frame moves, stops at the wall, and turns the velocity.
    """
    position, velocity = state
    places, positions, velocities = [], [position], [velocity]
    for _ in range(frames):
        moved = position + velocity
        velocity = torch.where((moved <= 0) | (moved >= 1), -velocity, velocity)
        position = moved.clamp(0, 1)
        places.append((position * (size - digit)).long())
        positions.append(position)
        velocities.append(velocity)
    states = BounceState(torch.stack(positions, dim=1), torch.stack(velocities, dim=1))
    return Moves(torch.stack(places, dim=1), states)


def render(glyphs: Tensor, positions: Tensor, size: int = 64, overlap: Literal["add", "max"] = "add") -> Video:
    """Glyphs (B, D, h, w) on [0, 1] at positions (B, T, D, 2) -> (B, T, 1, size, size) in [-1, 1].

    A frame is a window into its glyph with wide margins, so that drawing is one indexed copy per digit.
    Where digits overlap they add up to at most 1 ("add") or the brighter shows ("max").
    """
    if overlap not in ("add", "max"):
        raise ValueError(f"overlap is {overlap!r}, must be 'add' or 'max'")
    h, w = glyphs.shape[-2:]
    margin_y, margin_x = size - h, size - w
    clip = torch.arange(len(glyphs), device=glyphs.device)[:, None]  # (B, 1), broadcasts over T
    canvas = None
    for d in range(glyphs.shape[1]):
        padded = F.pad(glyphs[:, d], (margin_x, margin_x, margin_y, margin_y))
        windows = padded.unfold(1, size, 1).unfold(2, size, 1)  # (B, ..., ..., size, size), a view
        y, x = positions[:, :, d].unbind(dim=-1)  # (B, T)
        layer = windows[clip, margin_y - y, margin_x - x]  # (B, T, size, size)
        if canvas is not None:
            layer = canvas.add_(layer) if overlap == "add" else torch.maximum(canvas, layer)
        canvas = layer
    video = canvas.clamp_(max=1).mul_(2).sub_(1)
    return rearrange(video, "b t h w -> b t 1 h w")


# Digits drawn by strokes. Numbers are hundredths of a digit's height, x,y from its centre, y downwards.
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


def _written(labels: Tensor, generator: Generator, size: int) -> Tensor:
    """Segments (N, S, 2, 2) in pixels of digits by many hands: warped, slanted, turned and scaled."""
    device = labels.device
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(n, *shape, generator=generator, device=generator.device).to(device)
        return low + (high - low) * drawn

    segments, first, count = (part.to(device) for part in font())
    variant = first[labels] + (uniform(0, 1) * count[labels]).long()
    points = segments[variant]  # (N, S, 2, 2)
    waves, phases = uniform(-5, 5, 2, 2, 2), uniform(0, 2 * math.pi, 2, 2)  # 2 waves for each axis moved
    along = torch.einsum("nsei,nkai->nseka", points, waves) + phases[:, None, None]
    points = points + 0.035 * along.sin().sum(dim=-2)
    turn, slant = uniform(-0.17, 0.17), uniform(-0.12, 0.3)
    height, width = uniform(0.9, 1.06), uniform(0.8, 1.1)
    x, y = points.unbind(dim=-1)
    x, y = x * width[:, None, None], y * height[:, None, None]
    x = x - slant[:, None, None] * y
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    points = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
    middle = (points.amin(dim=(1, 2)) + points.amax(dim=(1, 2))) / 2
    shift = uniform(-0.03, 0.03, 2)
    return size / 2 + size * 18 / 28 * (points - (middle - shift)[:, None, None])


def draw_digits(labels: Tensor, generator: Generator, size: int = 28, chunk: int = 16) -> Tensor:
    """Handwritten-looking digits (N, size, size) on [0, 1], white strokes on black, for labels (N,) in 0...9.

    Proportions as in MNIST: about 20 of 28 pixels high, strokes 2 to 3 pixels wide, edges one pixel soft.
    """
    if ((labels < 0) | (labels > 9)).any():
        raise ValueError(f"labels are {labels.unique().tolist()}, must be digits 0 to 9")
    segments = _written(labels, generator, size)
    drawn = torch.rand(len(labels), generator=generator, device=generator.device).to(labels.device)
    radius = (0.9 + 0.75 * drawn) * size / 28  # (N,) pixels
    return torch.cat([_ink(*part, size) for part in zip(segments.split(chunk), radius.split(chunk), strict=True)])


def _ink(segments: Tensor, radius: Tensor, size: int) -> Tensor:
    """How much of each pixel lies on the strokes: (N, S, 2, 2) and radius (N,) -> (N, size, size) on [0, 1].

    Distances split into a row's and a column's share, which are small; only the sums are (N, S, size, size).
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


def parser() -> argparse.ArgumentParser:
    """Of the one world that is written to disk; those of digits are drawn as they are needed."""
    from train.packed import parser  # which imports this module

    return parser()


def main() -> None:
    from train.packed import command

    command(parser().parse_args())


if __name__ == "__main__":
    main()
