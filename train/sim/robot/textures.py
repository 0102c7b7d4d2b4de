"""Random colours and surfaces: wood, cloth and the patterns of objects, as pixels (H, W, 3) uint8."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.random import Generator


def tint(hue: float, rng: Generator) -> tuple[float, float, float]:
    """A strong colour near a hue in degrees."""
    return colorsys.hsv_to_rgb((hue + rng.uniform(-4, 4)) % 360 / 360, rng.uniform(0.82, 0.95), rng.uniform(0.8, 1))


def surface(rng: Generator, size: int) -> np.ndarray:
    """Wood or cloth (size, size, 3) uint8."""
    return wood(rng, size) if rng.uniform() < 0.6 else cloth(rng, size)


def _noise(rng: Generator, size: int, waves: int, x_scale: float, y_scale: float) -> np.ndarray:
    """Smooth noise (size, size) of standard deviation 1 that repeats at the edges."""
    y, x = 2 * np.pi * np.mgrid[:size, :size] / size
    fields = [
        np.cos(rng.integers(-x_scale, x_scale + 1) * x + rng.integers(-y_scale, y_scale + 1) * y + rng.uniform(0, 6.3))
        for _ in range(waves)
    ]
    return np.sum(fields, axis=0) * math.sqrt(2 / waves)


def wood(rng: Generator, size: int) -> np.ndarray:
    """Planks with a grain (size, size, 3) uint8, from birch to walnut; a cube's six faces below each other for 64."""
    hue, saturation, value = rng.uniform(24, 36) / 360, rng.uniform(0.18, 0.34), rng.uniform(0.42, 0.82)
    y, _ = np.mgrid[:size, :size] / size
    grain = np.sin(2 * np.pi * (rng.integers(4, 8) * y) + 1.2 * _noise(rng, size, 6, 1, 3))
    fibres = _noise(rng, size, 12, 2, 24)
    planks = rng.uniform(-1, 1, size=8)[(y * rng.integers(1, 6)).astype(int)]
    shade = 1 + 0.05 * grain + 0.025 * fibres + 0.05 * planks
    rgb = np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * shade[..., None]
    picture = (255 * np.clip(rgb, 0, 1)).astype(np.uint8)
    return np.tile(picture, (6, 1, 1)) if size == 64 else picture


def cloth(rng: Generator, size: int) -> np.ndarray:
    """A woven, slightly uneven surface (size, size, 3) uint8, nearly gray."""
    rgb = np.array(colorsys.hsv_to_rgb(rng.uniform(0.05, 0.65), rng.uniform(0, 0.09), rng.uniform(0.35, 0.85)))
    weave = rng.normal(size=(size, size)) * 0.02
    shade = 1 + 0.03 * _noise(rng, size, 8, 3, 3) + weave
    return (255 * np.clip(rgb * shade[..., None], 0, 1)).astype(np.uint8)
