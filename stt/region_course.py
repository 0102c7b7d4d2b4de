"""Courses: how a region goes on where it keeps its velocity, by its places in a prompt."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FLIGHT = 8  # frames of a prompt, at most, from which free flight is read
FLIGHT_ERROR = 0.7  # pixels off a parabola, at most, in free flight
WANDER = 0.3  # of the change of direction in the prompt: what a future changes it each frame (from 275 real regions)
UNKNOWN_WANDER, MOST_WANDER = 0.02, 0.12  # radians a frame
STRIDE = 3  # frames of a step whose direction is compared, so that errors of places count less
STEADY_FRAMES = 4, 6  # steps, at least and at most, whose pace and direction make a region steady
STRAIGHT, PACE, STEADY_SPEED = 0.95, 0.2, 1.0  # of these: displacement by path at least, deviation by mean; pixels


class Course(NamedTuple):
    """How a region goes on where it keeps its velocity. Complex numbers x + iy, in pixels."""

    velocity: complex  # of its centre, in the last frame
    acceleration: complex  # 0 but in free flight
    wander: float  # standard deviation of the change of its direction, in radians a frame
    steady: bool  # it has kept its velocity through the prompt's last frames


def course_of(places: np.ndarray, velocity: complex) -> Course:
    """From a region's places (T, 2) in the prompt, latest first, and the velocity that its optical flow gives.

    Free flight, as of a ball that is thrown: the last places lie on a parabola and not on a line.
    """
    track = (places[:, 0] + 1j * places[:, 1]).astype(np.complex128)
    if len(track) < 3:
        return Course(velocity, 0j, UNKNOWN_WANDER, False)
    if len(track) >= 6:
        last = track[:FLIGHT]
        times = -np.arange(len(last), dtype=float)
        line, parabola = (np.stack([times, times**2][:degree], axis=1) for degree in (1, 2))
        fits = [np.linalg.lstsq(basis, last, rcond=None)[0] for basis in (line, parabola)]
        straight, curved = (
            float(np.sqrt(np.mean(np.abs(basis @ fit - last) ** 2)))
            for basis, fit in zip((line, parabola), fits, strict=True)
        )
        if curved < FLIGHT_ERROR and straight > max(1.0, 4 * curved):
            first, second = (complex(c) for c in fits[1])
            return Course(first - second, 2 * second, 0.0, True)
    steps = -np.diff(track)
    strides = track[:-STRIDE][:5] - track[STRIDE:][:5]
    if len(strides) < 2 or not np.abs(strides).all():
        return Course(velocity, 0j, UNKNOWN_WANDER, False)
    wander = WANDER * float(np.sqrt(np.mean(np.angle(strides[1:] / strides[0]) ** 2)))
    return Course(velocity, 0j, min(MOST_WANDER, wander), is_steady(steps[:, None]))


def is_steady(steps: np.ndarray) -> bool:
    """Whether steps (T, N) of N points, latest first, kept pace and direction for the last frames."""
    least, most = STEADY_FRAMES
    last = steps[:most]
    speeds = np.sqrt(np.mean(np.abs(last) ** 2, axis=1))
    straight = np.sqrt(np.mean(np.abs(last.mean(axis=0)) ** 2)) > STRAIGHT * speeds.mean()
    return bool(
        len(last) >= least and speeds.mean() > STEADY_SPEED and straight and speeds.std() < PACE * speeds.mean()
    )
