"""Textures that both simulated worlds use."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator


def pattern(rng: Generator) -> np.ndarray:
    """An object's faces (96, 16, 3) uint8: plain, or stripes or quarters of two shades, so that rotation shows."""
    y, x = np.mgrid[:16, :16]
    kind, shade = rng.integers(4), rng.uniform(0.55, 0.75)
    dark = [x < 0, x // 4 % 2 == 0, y // 8 % 2 == 0, (x // 8 + y // 8) % 2 == 0][kind]
    face = np.where(dark, shade, 1.0)
    return np.repeat((255 * np.tile(face, (6, 1)))[..., None], 3, axis=2).astype(np.uint8)
