"""tmp"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

from stt.api import Video

TOP_SPEED = 4  # pixels a frame and axis, of the stochastic world
STEP = 0.1  # of the free space a frame, of the deterministic world


class DigitState(NamedTuple):
    """Where digits are and where they go, before the next frame looks for walls."""

    position: Tensor  # (B, ..., D, 2) int64 pixels, or float in the unit square (deterministic)
    velocity: Tensor  # (B, ..., D, 2) the same per frame

    def at(self, frame: int) -> DigitState:
        """One frame of a history (B, frames + 1, D, 2) -> (B, D, 2)."""
        return DigitState(self.position[:, frame], self.velocity[:, frame])

    def repeated(self, count: int) -> DigitState:
        """(B, D, 2) -> (B * count, D, 2), copies of a clip side by side."""
        return DigitState(*(part.repeat_interleave(count, dim=0) for part in self))


class Trajectory(NamedTuple):
    """A simulated stretch: continue it from `states.at(-1)`, or from any frame."""

    positions: Tensor  # (B, frames, D, 2) int64 pixels, where the digits are drawn
    states: DigitState  # (B, frames + 1, D, 2), before each frame and after the last


def stochastic_start(
    batch: int,
    digits: int,
    generator: Generator,
    device: torch.device | str = "cpu",
    size: int = 64,
    digit: int = 32,
) -> DigitState:
    """Uniform places and velocities of Stochastic Moving MNIST (B, D, 2)."""
    shape = (batch, digits, 2)
    position = torch.randint(size - digit, shape, generator=generator, device=generator.device)
    velocity = torch.randint(-TOP_SPEED, TOP_SPEED + 1, shape, generator=generator, device=generator.device)
    return DigitState(position.to(device), velocity.to(device))


def stochastic_moves(
    state: DigitState, frames: int, generator: Generator, size: int = 64, digit: int = 32
) -> Trajectory:
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
    states = DigitState(torch.stack(positions, dim=1), torch.stack(velocities, dim=1))
    return Trajectory(torch.stack(places, dim=1), states)


def transition_nats(moves: Trajectory, size: int = 64, digit: int = 32) -> Tensor:
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
) -> DigitState:
    """Uniform places in the unit square and directions on the circle, of Moving MNIST (B, D, 2)."""
    position = torch.rand(batch, digits, 2, generator=generator, device=generator.device)
    angle = torch.rand(batch, digits, generator=generator, device=generator.device) * 2 * math.pi
    velocity = STEP * torch.stack([angle.sin(), angle.cos()], dim=-1)
    return DigitState(position.to(device), velocity.to(device))


def deterministic_moves(state: DigitState, frames: int, size: int = 64, digit: int = 28) -> Trajectory:
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
    states = DigitState(torch.stack(positions, dim=1), torch.stack(velocities, dim=1))
    return Trajectory(torch.stack(places, dim=1), states)


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
