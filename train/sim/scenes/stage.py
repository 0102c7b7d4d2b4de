"""What the layers of a scene share, and its background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from train.sim.scenes.layers import Plane
from train.sim.scenes.motion import Camera, translation
from train.sim.scenes.textures import palette, random_texture


@dataclass(frozen=True)
class Stage:
    """The generator that everything is drawn from, substeps, size in pixels, colours, and pixels a unit."""

    rng: Generator
    steps: int
    height: int
    width: int
    colours: np.ndarray  # (n, 3)
    unit: float

    @staticmethod
    def of(rng: Generator, steps: int, height: int, width: int) -> Stage:
        return Stage(rng, steps, height, width, palette(rng, int(rng.integers(4, 10))), max(height, width) / 128)


def backdrop(s: Stage, camera: Camera, ripple: float = 0.0) -> Plane:
    """A textured plane behind everything, sometimes slanted; larger than the picture where the camera moves."""
    rng, moves = (
        s.rng,
        float(np.abs(camera.pan).max() + 200 * np.abs(camera.zoom).max() + 100 * np.abs(camera.angle).max()),
    )
    factor = 1.0 if moves < 1 else 1.3 if moves < 40 else 1.6
    height, width = int(s.height * factor), int(s.width * factor)
    texture = random_texture(rng, height, width, s.colours, s.unit)
    place = translation(np.array([s.width - width, s.height - height]) / 2)
    if rng.uniform() < 0.2 and moves >= 1:
        place = np.array([[1, 0, 0], [0, 1, 0], [*rng.normal(0, 0.3, 2) / (s.width, s.height), 1]]) @ place
    return Plane(rng, texture, np.stack([camera.matrix(k) @ place for k in range(s.steps)]), ripple)
