"""Procedural textures, (H, W, 3) uint8. A unit of length is a pixel of a frame of 128 pixels."""

from __future__ import annotations

import string
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

Texture = Callable[[Generator, int, int, np.ndarray, float], np.ndarray]  # (rng, height, width, palette, unit)
CHARACTERS = np.array(list(string.ascii_letters + string.digits + "....,,-&%#@?/()"))


def palette(rng: Generator, count: int = 6) -> np.ndarray:
    """Colours (count, 3) float32 of 0 to 255 that go together: a few hues, mostly unsaturated, of any brightness."""
    hue = (rng.uniform() + rng.choice([0, 0.08, 0.5, 0.33], size=count) + rng.normal(0, 0.03, count)) % 1
    saturation = rng.beta(1.1, 2.8, count) * rng.choice([0.0, 0.4, 0.8, 1.2], p=[0.1, 0.4, 0.35, 0.15])
    value = rng.uniform(0.06, 1, count) ** rng.uniform(0.6, 1.3)
    value[:2] = rng.uniform(0.06, 0.4), rng.uniform(0.6, 1)  # some contrast, whatever else
    channel = (np.array([5, 3, 1]) + 6 * hue[:, None]) % 6
    chroma = np.clip(np.minimum(channel, 4 - channel), 0, 1) * np.clip(saturation, 0, 1)[:, None]
    return (255 * value[:, None] * (1 - chroma)).astype(np.float32)


def pick(rng: Generator, colours: np.ndarray, jitter: float = 14.0) -> np.ndarray:
    """One of the colours, and a little off it: (3,) float32."""
    return np.clip(colours[rng.integers(len(colours))] + rng.normal(0, jitter, 3) + rng.normal(0, jitter), 0, 255)


def noise(rng: Generator, height: int, width: int, cell: float, persistence: float, finest: float = 1.0) -> np.ndarray:
    """Noise of several octaves (height, width) float32, mean 0, standard deviation 1.

    cell: pixels of the coarsest octave. persistence: amplitude of an octave over that of the coarser one; 1 has the
    1/f spectrum of photographs. finest: pixels of the finest octave.
    """
    levels = max(0, round(np.log2(max(cell / finest, 1))))
    total, amplitude = None, 1.0
    for level in range(levels + 1):
        size = finest * 2 ** (levels - level)
        shape = int(np.ceil(height / size)) + 1, int(np.ceil(width / size)) + 1
        octave = np.frombuffer(rng.bytes(shape[0] * shape[1]), np.uint8).reshape(shape).astype(np.float32) - 127.5
        if total is None:
            total = octave
        else:
            kernel = cv2.INTER_CUBIC if total.size < 4096 else cv2.INTER_LINEAR
            total = cv2.scaleAdd(octave, amplitude, cv2.resize(total, shape[::-1], interpolation=kernel))
        amplitude *= persistence
    total = cv2.resize(total, (width, height), interpolation=cv2.INTER_LINEAR) if finest > 1 else total[:height, :width]
    mean, deviation = cv2.meanStdDev(total)
    return cv2.addWeighted(total, 1 / max(float(deviation[0, 0]), 1e-3), total, 0, -float(mean[0, 0] / deviation[0, 0]))


def coloured(rng: Generator, values: np.ndarray, colours: np.ndarray, hard: bool = False) -> np.ndarray:
    """Values (H, W), mean 0 and deviation 1, through a colour map of two to four colours; `hard`: in steps."""
    count = int(rng.integers(2, 5))
    stops = np.stack([pick(rng, colours) for _ in range(count)])
    at = np.linspace(0, count - 1, 256)
    at = np.clip(np.round(at), 0, count - 1) if hard else at
    table = np.stack([np.interp(at, np.arange(count), stops[:, c]) for c in range(3)], axis=-1).astype(np.uint8)
    level = cv2.convertScaleAbs(np.clip(values, -2.2, 2.2) if hard else values, alpha=48, beta=127.5)
    return table[level] if values.size < 20_000 else cv2.LUT(cv2.merge([level] * 3), table[:, None])


def shaded(texture: np.ndarray, values: np.ndarray, strength: float) -> np.ndarray:
    """A texture times 1 + strength * values: light and dirt."""
    factor = cv2.addWeighted(values, strength, values, 0, 1.0)
    return cv2.multiply(texture, cv2.merge([factor] * 3), dtype=cv2.CV_8U)


def filled(height: int, width: int, colour: np.ndarray) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def rotated(rng: Generator, height: int, width: int, right: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (x, y) of axes rotated at random, with probability `right` along the picture's, slightly bent."""
    angle = rng.choice([0, np.pi / 2]) if rng.uniform() < right else rng.uniform(0, np.pi)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = c * x + s * y, c * y - s * x
    if rng.uniform() < 0.3:
        bend = np.float32(rng.uniform(1, 6) * height / 128)
        u = u + bend * np.sin(v * np.float32(rng.uniform(1, 6) * 2 * np.pi / height))
    return u, v


# ---- textures ----------------------------------------------------------------------------------------


def clouds(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    values = noise(rng, height, width, unit * rng.uniform(8, 80), rng.uniform(0.45, 1.0))
    texture = coloured(rng, values, colours, hard=rng.uniform() < 0.25)
    if rng.uniform() < 0.4:
        texture = shaded(texture, noise(rng, height, width, unit * 64, 0.6, finest=4), 0.15)
    return texture


def dead_leaves(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    """Opaque shapes of all sizes on each other: the edges of photographs (Lee, Mumford and Huang 2001)."""
    texture = filled(height, width, pick(rng, colours))
    count = int(rng.integers(40, 220))
    radii = unit * np.minimum(rng.uniform(1, 5) * rng.pareto(1.2, count) + 1.2, 50)
    centres = rng.uniform(0, 1, (count, 2)) * (width, height)
    form = rng.integers(4)
    for radius, centre in zip(radii, centres, strict=True):
        colour = pick(rng, colours, 20).tolist()
        if form == 0 or (form == 3 and rng.uniform() < 0.5):
            cv2.circle(texture, (centre * 8).astype(int).tolist(), int(radius * 8), colour, -1, cv2.LINE_AA, 3)
        elif form == 1:
            axes = (radius * 8 * rng.uniform(0.3, 1), radius * 8)
            angle = rng.uniform(0, 180)
            cv2.ellipse(
                texture, (centre * 8).astype(int).tolist(), np.int32(axes).tolist(), angle, 0, 360, colour, -1,
                cv2.LINE_AA, 3,
            )  # fmt: skip
        else:
            corners = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            points = centre + radius * np.stack([np.cos(corners), np.sin(corners)], axis=-1)
            cv2.fillPoly(texture, [(points * 8).astype(np.int32)], colour, cv2.LINE_AA, 3)
    if rng.uniform() < 0.75:
        grain = noise(rng, height, width, unit * rng.uniform(2, 60), rng.uniform(0.5, 1))
        texture = shaded(texture, grain, rng.uniform(0.04, 0.2))
    return texture


def stripes(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    """Stripes, plaid, checkers, or dots on a grid."""
    u, v = rotated(rng, height, width)
    period = unit * rng.uniform(4, 28)
    wave_u = np.sin(u * np.float32(2 * np.pi / period))
    wave_v = np.sin(v * np.float32(2 * np.pi / (period * rng.choice([1, 1, 0.5, 2]))))
    form = rng.integers(4)
    values = [wave_u + 0 * wave_v, wave_u + wave_v, wave_u * wave_v, wave_u + wave_v - 1][form]
    sharp = rng.choice([1.4, 4 * period / unit])  # soft waves, or edges about a pixel wide
    texture = coloured(rng, np.clip(values * np.float32(sharp), -1.8, 1.8), colours)
    return shaded(texture, noise(rng, height, width, unit * 40, 0.7), rng.uniform(0, 0.12))


def gradient(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    """A wall or a sky: colours that change slowly, with or without grain."""
    u, v = rotated(rng, height, width, right=0.6)
    values = u if rng.uniform() < 0.7 else np.hypot(u - u[height // 2, width // 2], v - v[height // 2, width // 2])
    values = values + 0 * v
    values = (values - values.min()) * np.float32(3.6 / max(np.ptp(values), 1)) - 1.8
    texture = coloured(rng, values * np.float32(rng.uniform(0.3, 1)), colours)
    if rng.uniform() < 0.7:
        cell = unit * rng.choice([1, 3, 30])
        texture = shaded(texture, noise(rng, height, width, cell, 0.8), rng.uniform(0.01, 0.08))
    return texture


def bricks(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    """Bricks, tiles, planks or windows: rows of boxes on a ground of another colour."""
    texture, tall = filled(height, width, pick(rng, colours)), unit * rng.uniform(4, 24)
    wide, gap = tall * rng.choice([1, 2, 2, 3, 8]), max(1.0, unit * rng.uniform(0.5, 2.5))
    colour, spread, shift = pick(rng, colours), rng.choice([3, 12, 30]), rng.choice([0, 0.5, 0.37])
    for row in range(int(height / tall) + 1):
        begin = -((row * shift) % 1) * wide
        for column in range(int(width / wide) + 2):
            shade = np.clip(colour + rng.normal(0, spread) + rng.normal(0, spread / 3, 3), 0, 255).tolist()
            first = np.array([begin + column * wide, row * tall]) + gap / 2
            points = (first, first + (wide - gap, 0), first + (wide - gap, tall - gap), first + (0, tall - gap))
            cv2.fillConvexPoly(texture, (np.stack(points) * 8).astype(np.int32), shade, cv2.LINE_AA, 3)
    return shaded(texture, noise(rng, height, width, unit * rng.choice([4, 40]), 0.9), rng.uniform(0.03, 0.15))


def grass(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    """Short strokes of one main direction, such as grass, fur, straw or leaves."""
    texture, main = clouds(rng, height, width, colours, unit), rng.uniform(0, np.pi)
    colour, spread = pick(rng, colours), rng.choice([0.3, 0.8, 3])
    count, length = int(rng.integers(200, 600)), unit * rng.uniform(3, 9)
    starts, angles = rng.uniform(0, 1, (count, 2)) * (width, height), main + rng.normal(0, spread, count)
    ends = starts + length * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    lines = (np.stack([starts, ends], axis=1) * 8).astype(np.int32)
    for part in np.array_split(lines, 6):
        shade = np.clip(colour + rng.normal(0, 35), 0, 255).tolist()
        cv2.polylines(texture, part, False, shade, max(1, round(unit * rng.uniform(0.4, 1))), cv2.LINE_AA, 3)
    return texture


def asphalt(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    """Fine grain with large patches: roads, concrete, carpets, sand, wood (grain stretched along one axis)."""
    texture = filled(height, width, pick(rng, colours))
    stretch = rng.choice([1, 1, 1, 8])
    fine = noise(rng, height // stretch, width, unit * rng.uniform(1, 3), 1.0, finest=max(1.0, unit / 2))
    fine = cv2.resize(fine, (width, height), interpolation=cv2.INTER_LINEAR) if stretch > 1 else fine
    coarse = noise(rng, height, width, unit * 48, 0.8, finest=4)
    return shaded(texture, cv2.addWeighted(fine, rng.uniform(0.04, 0.2), coarse, rng.uniform(0.03, 0.15), 0), 1.0)


def text(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    """Lines of characters on an even ground: pages, signs, screens."""
    base = gradient if rng.uniform() < 0.4 else (lambda rng, h, w, c, u: filled(h, w, pick(rng, c)))
    texture = base(rng, height, width, colours, unit)
    ink = pick(rng, colours)
    if abs(float(ink.mean()) - float(texture.mean())) < 70:
        ink = np.full(3, 245.0) if texture.mean() < 128 else np.full(3, 15.0)
    y = 0.0
    while y < height:
        tall = unit * rng.choice([4, 6, 6, 9, 16])
        y += tall * rng.uniform(1.3, 2.2)
        line = "".join(rng.choice(CHARACTERS, int(rng.integers(4, 40))))
        line = line.replace(".", " ")
        face, thick = int(rng.choice([0, 2, 3, 6])), max(1, round(tall / rng.uniform(6, 12)))
        at = (int(unit * rng.choice([4, 4, 12, 30])), int(y))
        cv2.putText(texture, line, at, face, tall / 22, ink.tolist(), thick, cv2.LINE_AA)
        if rng.uniform() < 0.12:
            first = (int(rng.uniform(0, 0.6) * width), int(y + tall))
            cv2.rectangle(
                texture, first, (first[0] + int(unit * 30), int(y + tall * 4)), pick(rng, colours).tolist(), -1
            )
            y += tall * 4
    return texture


TEXTURES: dict[Texture, float] = {
    clouds: 0.16, dead_leaves: 0.3, stripes: 0.1, gradient: 0.14, bricks: 0.09, grass: 0.06, asphalt: 0.11, text: 0.04,
}  # fmt: skip


def random_texture(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    """One of all textures, (height, width, 3) uint8."""
    texture = list(TEXTURES)[rng.choice(len(TEXTURES), p=list(TEXTURES.values()))]
    return texture(rng, height, width, colours, unit)
