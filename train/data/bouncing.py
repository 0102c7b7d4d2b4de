"""Moving MNIST's dynamics, stochastic and deterministic, and its renderer."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

from stt.api import Video

TOP_SPEED = 4  # pixels per frame and axis, stochastic
STEP = 0.1  # of the free space per frame, deterministic


class DigitState(NamedTuple):
    """Positions and velocities of digits before a frame handles the walls."""

    position: Tensor  # (B, ..., D, 2) as (y, x): int64 pixels, or float in the unit square (deterministic)
    velocity: Tensor  # (B, ..., D, 2) the same per frame

    def at(self, frame: int) -> DigitState:
        """One frame of a history (B, frames + 1, D, 2) -> (B, D, 2)."""
        return DigitState(self.position[:, frame], self.velocity[:, frame])

    def repeat(self, count: int) -> DigitState:
        """(B, D, 2) -> (B * count, D, 2), copies of a clip side by side."""
        return DigitState(*(part.repeat_interleave(count, dim=0) for part in self))


class Trajectory(NamedTuple):
    """A simulated stretch. It can be continued from any of its states."""

    positions: Tensor  # (B, frames, D, 2) int64 pixels of the upper left corners, as drawn
    states: DigitState  # (B, frames + 1, D, 2), before each frame and after the last


def stochastic_start(batch: int, digits: int, generator: Generator, size: int = 64, digit: int = 32) -> DigitState:
    """Uniform positions and velocities of Stochastic Moving MNIST (B, D, 2)."""
    shape = (batch, digits, 2)
    position = torch.randint(size - digit, shape, generator=generator)
    return DigitState(position, torch.randint(-TOP_SPEED, TOP_SPEED + 1, shape, generator=generator))


def simulate_stochastic(
    state: DigitState, frames: int, generator: Generator, size: int = 64, digit: int = 32
) -> Trajectory:
    """Stochastic Moving MNIST (SVG, arXiv 1802.07687): a wall gives a digit a new random velocity.

    Each frame first puts digits that left the canvas back and draws their velocity anew (the y wall, then the x wall:
    the axis that hit points away with 1 to 4 pixels per frame, the other is -4 to 4), then draws, then moves. As in
    the authors' generator, a digit stops a pixel short of the far walls, and in a corner the x wall decides last.
    Every frame takes the same count of random numbers, whether it needs them or not.
    """
    position, velocity = state
    draws = torch.randint(TOP_SPEED * (2 * TOP_SPEED + 1), (frames, *position.shape), generator=generator)
    away, along = draws % TOP_SPEED + 1, draws // TOP_SPEED - TOP_SPEED  # both uniform, independent
    visible, positions, velocities = [], [position], [velocity]
    for t in range(frames):
        clamped = position.clamp(0, size - digit - 1)
        hit_y, hit_x = (clamped != position).unbind(dim=-1)  # (B, D)
        away_y, away_x = torch.where(position < 0, away[t], -away[t]).unbind(dim=-1)
        along_y, along_x = along[t].unbind(dim=-1)
        v_y, v_x = velocity.unbind(dim=-1)
        v_y, v_x = torch.where(hit_y, away_y, v_y), torch.where(hit_y, along_x, v_x)
        v_y, v_x = torch.where(hit_x, along_y, v_y), torch.where(hit_x, away_x, v_x)
        velocity = torch.stack([v_y, v_x], dim=-1)
        position = clamped + velocity
        visible.append(clamped)
        positions.append(position)
        velocities.append(velocity)
    states = DigitState(torch.stack(positions, dim=1), torch.stack(velocities, dim=1))
    return Trajectory(torch.stack(visible, dim=1), states)


def transition_nll(trajectory: Trajectory, size: int = 64, digit: int = 32) -> Tensor:
    """Negative log-likelihood of each digit's next displacement under the true stochastic dynamics, in nats.

    (B, frames - 1, D): 0 where a digit goes on, else minus the logarithm of the share of a wall's 36 velocities that
    lead to where it went. It is the lower bound for models that see pixels only.
    """
    before, start = trajectory.states.position[:, :-2], trajectory.positions[:, :-1]  # (B, frames - 1, D, 2)
    away = torch.arange(1, TOP_SPEED + 1).repeat_interleave(2 * TOP_SPEED + 1)
    along = torch.arange(-TOP_SPEED, TOP_SPEED + 1).repeat(TOP_SPEED)
    hit = before != start
    away = torch.where(before < 0, away[:, None, None, None, None], -away[:, None, None, None, None])
    along = along[:, None, None, None].expand(away.shape[:-1])
    at_x_wall = torch.stack([along, away[..., 1]], dim=-1)
    at_y_wall = torch.stack([away[..., 0], along], dim=-1)
    velocity = torch.where(hit[..., 1:], at_x_wall, at_y_wall)  # (36, B, frames - 1, D, 2); in a corner x decides
    end = (start + velocity).clamp(0, size - digit - 1)
    share = (end == trajectory.positions[:, 1:]).all(dim=-1).double().mean(dim=0)
    return torch.where(hit.any(dim=-1), -share.log(), 0.0)


def deterministic_start(batch: int, digits: int, generator: Generator) -> DigitState:
    """Uniform positions in the unit square and directions on the circle, of Moving MNIST (B, D, 2)."""
    position = torch.rand(batch, digits, 2, generator=generator)
    angle = torch.rand(batch, digits, generator=generator) * 2 * math.pi
    return DigitState(position, STEP * torch.stack([angle.sin(), angle.cos()], dim=-1))


def simulate_deterministic(state: DigitState, frames: int, size: int = 64, digit: int = 28) -> Trajectory:
    """Moving MNIST (Srivastava et al., arXiv 1502.04681): constant speed, reflected at the walls.

    The unit square is the canvas minus a digit. Each frame moves, stops at the wall, and turns the velocity.
    """
    position, velocity = state
    visible, positions, velocities = [], [position], [velocity]
    for _ in range(frames):
        moved = position + velocity
        velocity = torch.where((moved <= 0) | (moved >= 1), -velocity, velocity)
        position = moved.clamp(0, 1)
        visible.append((position * (size - digit)).long())
        positions.append(position)
        velocities.append(velocity)
    states = DigitState(torch.stack(positions, dim=1), torch.stack(velocities, dim=1))
    return Trajectory(torch.stack(visible, dim=1), states)


def render(glyphs: Tensor, positions: Tensor, size: int = 64, overlap: Literal["add", "max"] = "add") -> Video:
    """Glyphs (B, D, h, w) on [0, 1] at positions (B, T, D, 2) -> (B, T, 1, size, size) in [-1, 1].

    A frame is a window into its glyph with wide margins, so that drawing is one indexed copy per digit. Where digits
    overlap, they add up to at most 1 ("add"), or the brighter one shows ("max").
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
