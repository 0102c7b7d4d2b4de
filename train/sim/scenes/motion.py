"""How objects and cameras move: arrays over the substeps of a clip. Positions are (x, y) in pixels."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

SUBSTEPS = 4  # a frame


def speed(rng: Generator, median: float = 1.2) -> float:
    """Pixels a frame of 128 pixels: mostly 0 to 2, at most 12."""
    return float(min(median * np.exp(rng.normal(0, 0.9)), 12.0))


def smooth(rng: Generator, steps: int, frames: float) -> np.ndarray:
    """A random function of time (steps,), about -1 to 1, that changes within so many frames."""
    knots = rng.normal(0, 0.6, int(np.ceil(steps / (SUBSTEPS * frames))) + 3)
    at = np.arange(steps) / (SUBSTEPS * frames) + rng.uniform()
    k, f = at.astype(int), at % 1
    return knots[k] + (knots[k + 1] - knots[k]) * (f * f * (3 - 2 * f))


def travel(velocity: np.ndarray) -> np.ndarray:
    """Velocities a frame (steps, ...) -> what they add up to from 0 on, (steps, ...)."""
    return np.cumsum(np.concatenate([0 * velocity[:1], velocity[:-1]]), axis=0) / SUBSTEPS


def heading(angle: np.ndarray | float) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def trajectory(rng: Generator, steps: int, pace: float, width: float, height: float) -> np.ndarray:
    """Positions (steps, 2) of an object whose speed is about `pace` pixels a frame.

    It is within the frame at some random time, so that objects enter and leave.
    """
    motions = (uniform, accelerated, oscillating, turning, circling, intermittent, wandering, falling, bouncing)
    chances = (0.32, 0.12, 0.1, 0.12, 0.06, 0.08, 0.06, 0.08, 0.06)
    motion = motions[rng.choice(len(motions), p=chances)]
    if motion in (falling, bouncing):
        return motion(rng, steps, pace, width, height)
    path = motion(rng, steps, pace)
    anchor = rng.uniform(0.08, 0.92, 2) * (width, height)
    return path + anchor - path[rng.integers(steps)]


def uniform(rng: Generator, steps: int, pace: float) -> np.ndarray:
    """Constant velocity, often along an axis."""
    angle = rng.choice([0, np.pi]) + rng.normal(0, 0.1) if rng.uniform() < 0.4 else rng.uniform(0, 2 * np.pi)
    return np.arange(steps)[:, None] / SUBSTEPS * pace * heading(angle)


def accelerated(rng: Generator, steps: int, pace: float) -> np.ndarray:
    """Constant acceleration or friction."""
    times = np.arange(steps) / SUBSTEPS
    factor = 1 + rng.normal(0, 0.08) * times if rng.uniform() < 0.6 else np.exp(-times / rng.uniform(3, 20))
    velocity = pace * np.maximum(factor, 0)[:, None] * heading(rng.uniform(0, 2 * np.pi))
    if rng.uniform() < 0.4:
        velocity = velocity[::-1]
    return travel(velocity)


def oscillating(rng: Generator, steps: int, pace: float) -> np.ndarray:
    """A sine along a line or on an ellipse; `pace` is the highest speed."""
    omega = 2 * np.pi / rng.uniform(5, 40)
    phase = omega * np.arange(steps)[:, None] / SUBSTEPS + rng.uniform(0, 2 * np.pi)
    main = heading(rng.uniform(0, 2 * np.pi))
    side = main[::-1] * (1, -1) * rng.choice([0, 0, 0.3, 1])
    return pace / omega * (np.sin(phase) * main + np.cos(phase) * side)


def turning(rng: Generator, steps: int, pace: float) -> np.ndarray:
    """Constant speed; the direction changes at random times, at once or within a few frames."""
    angle = np.full(steps, rng.uniform(0, 2 * np.pi))
    for _ in range(rng.integers(1, 3)):
        begin, length = rng.integers(steps), SUBSTEPS * rng.choice([0.25, 3, 6])
        angle = angle + rng.normal(0, 1.3) * np.clip((np.arange(steps) - begin) / length, 0, 1)
    return travel(pace * heading(angle))


def circling(rng: Generator, steps: int, pace: float) -> np.ndarray:
    rate = rng.choice([-1, 1]) * 2 * np.pi / rng.uniform(12, 90)
    return travel(pace * heading(rng.uniform(0, 2 * np.pi) + rate * np.arange(steps) / SUBSTEPS))


def intermittent(rng: Generator, steps: int, pace: float) -> np.ndarray:
    """It stops, or starts."""
    ramp = np.clip((np.arange(steps) - rng.integers(steps)) / (SUBSTEPS * rng.uniform(0.3, 4)), 0, 1)
    return travel(pace * (ramp if rng.uniform() < 0.5 else 1 - ramp)[:, None] * heading(rng.uniform(0, 2 * np.pi)))


def wandering(rng: Generator, steps: int, pace: float) -> np.ndarray:
    frames = rng.uniform(2, 8)
    return travel(pace * np.stack([smooth(rng, steps, frames), smooth(rng, steps, frames)], axis=-1))


def falling(rng: Generator, steps: int, pace: float, width: float, height: float) -> np.ndarray:
    """Gravity, and a floor that returns a part of the speed."""
    unit, floor = width / 128, height * rng.uniform(0.5, 1.0)
    gravity, restitution = unit * rng.uniform(0.15, 1.2), rng.uniform(0.2, 0.9)
    x, y = rng.uniform(0.1, 0.9) * width, min(rng.uniform(-0.1, 0.9) * height, floor)
    vx, vy = rng.normal(0, 0.7) * pace, rng.normal(-1, 1.5) * pace
    positions = np.empty((steps, 2))
    for k in range(steps):
        positions[k] = x, y
        x, y, vy = x + vx / SUBSTEPS, y + vy / SUBSTEPS, vy + gravity / SUBSTEPS
        if y > floor and vy > 0:
            y, vy = 2 * floor - y, -restitution * vy
    return positions


def bouncing(rng: Generator, steps: int, pace: float, width: float, height: float) -> np.ndarray:
    """Constant velocity between four walls."""
    size = np.array([width, height]) * rng.uniform(0.6, 1.0, 2)
    first = (np.array([width, height]) - size) * rng.uniform(0, 1, 2)
    path = rng.uniform(0, 1, 2) * size + np.arange(steps)[:, None] / SUBSTEPS * pace * heading(rng.uniform(0, 6.3))
    return first + size - np.abs(path % (2 * size) - size)


def rotation(rng: Generator, positions: np.ndarray, radius: float) -> np.ndarray:
    """Angles (steps,) of an object of this radius that takes these positions."""
    steps = len(positions)
    times, form = np.arange(steps) / SUBSTEPS, rng.choice(5, p=[0.45, 0.2, 0.12, 0.13, 0.1])
    if form == 0:
        return np.full(steps, rng.normal(0, 0.3))
    if form == 1:  # at a constant rate
        return rng.uniform(0, 6.3) + rng.normal(0, 0.12) * times
    if form == 2:  # a swing
        return rng.normal(0, 0.3) + rng.uniform(0.05, 0.5) * np.sin(
            6.3 * times / rng.uniform(5, 30) + rng.uniform(0, 6.3)
        )
    if form == 3:  # it faces where it goes
        velocity = np.gradient(positions, axis=0)
        return np.unwrap(np.arctan2(velocity[:, 1], velocity[:, 0] + 1e-9))
    return (positions[:, 0] - positions[0, 0]) / max(radius, 1.0)  # it rolls


def scaling(rng: Generator, steps: int) -> np.ndarray:
    """Factors (steps,) of size: constant, approaching, going away, or pulsing."""
    times, form = np.arange(steps) / SUBSTEPS, rng.choice(3, p=[0.7, 0.2, 0.1])
    if form == 0:
        return np.ones(steps)
    if form == 1:
        return np.exp(np.clip(rng.normal(0, 0.025), -0.06, 0.06) * (times - times[-1] / 2))
    return 1 + rng.uniform(0.03, 0.2) * np.sin(6.3 * times / rng.uniform(4, 24) + rng.uniform(0, 6.3))


# ---- cameras -----------------------------------------------------------------------------------------


class Camera:
    """Pan, zoom, rotation and shake of a camera over the substeps of a clip, about the frame's centre.

    Layers have a parallax: 1 of the background, more of what is nearer.
    """

    def __init__(self, rng: Generator, steps: int, width: float, height: float, motion: float = 0.6) -> None:
        """motion: probability that the camera moves."""
        unit, self.centre = max(width, height) / 128, np.array([width, height]) / 2
        self.pan, self.angle, self.zoom = np.zeros((steps, 2)), np.zeros(steps), np.zeros(steps)
        if rng.uniform() >= motion:
            return
        chances = rng.uniform(0, 1, 4) < (0.65, 0.3, 0.2, 0.3)
        times = np.arange(steps) / SUBSTEPS
        if chances[0]:
            pace = unit * speed(rng, 1.0)
            path = [uniform, uniform, accelerated, oscillating, turning, intermittent, wandering][rng.integers(7)]
            self.pan = path(rng, steps, pace)
        if chances[1]:
            rate = np.clip(rng.normal(0, 0.015), -0.05, 0.05)
            self.zoom = rate * times if rng.uniform() < 0.7 else rate * 6 * smooth(rng, steps, 6)
        if chances[2]:
            rate = np.clip(rng.normal(0, 0.015), -0.06, 0.06)
            self.angle = rate * times if rng.uniform() < 0.6 else 5 * rate * smooth(rng, steps, 5)
        if chances[3]:
            size, frames = unit * rng.gamma(1.5, 0.5), rng.choice([1.0, 1.5, 3.0])
            self.pan = self.pan + size * np.stack([smooth(rng, steps, frames) for _ in range(2)], axis=-1)
            self.angle = self.angle + 0.006 * size / unit * smooth(rng, steps, frames)

    def matrix(self, step: int, parallax: float = 1.0) -> np.ndarray:
        """World -> picture, (3, 3)."""
        factor = np.exp(parallax * self.zoom[step])
        turn = similarity(self.centre, self.angle[step], factor)
        return turn @ translation(-self.centre - parallax * self.pan[step])


def translation(offset: np.ndarray) -> np.ndarray:
    return np.array([[1, 0, offset[0]], [0, 1, offset[1]], [0, 0, 1.0]])


def similarity(offset: np.ndarray, angle: float, factor: float) -> np.ndarray:
    c, s = factor * np.cos(angle), factor * np.sin(angle)
    return np.array([[c, -s, offset[0]], [s, c, offset[1]], [0, 0, 1.0]])
