"""A camera that drives forward over a ground plane: everything spreads from the horizon."""

from __future__ import annotations

import cv2
import numpy as np

from train.sim.scenes.layers import Layer, Plane, Sprite, random_sprite
from train.sim.scenes.motion import SUBSTEPS, similarity, smooth, speed, translation
from train.sim.scenes.stage import Stage
from train.sim.scenes.textures import asphalt, clouds, gradient, pick, random_texture

HIDDEN = translation(np.array([-1e5, -1e5]))


class Ground:
    """The plane below the horizon. Lengths are in heights of the camera above it.

    texels: of the texture, a height. horizons (x, y), distances driven and offsets to the right: one a substep.
    Rows far away come from smaller copies of the texture and fade to the colour of the haze.
    """

    def __init__(
        self, texture: np.ndarray, texels: float, focal: float, horizons: np.ndarray, driven: np.ndarray,
        offsets: np.ndarray, haze: np.ndarray,
    ) -> None:  # fmt: skip
        self.levels, self.texels, self.focal, self.haze = [texture], texels, focal, haze
        self.horizons, self.driven, self.offsets = horizons, driven, offsets
        while len(self.levels) < 5:
            self.levels.append(cv2.pyrDown(self.levels[-1]))

    def paint(self, picture: np.ndarray, step: int) -> None:
        (height, width), (x, y) = picture.shape[:2], self.horizons[step]
        first, bottom = int(np.ceil(y)) + 1, height
        for level, texture in enumerate(self.levels):  # from the bottom upward
            last = level == len(self.levels) - 1
            texels = self.texels / 2**level
            top = first if last else max(first, int(y + np.sqrt(texels * self.focal / 1.5)))
            if top < bottom:
                centre = texture.shape[1] / 2 + texels * self.offsets[step]
                rows = y - top  # of the horizon above this band
                ahead = texels * self.driven[step]
                to_texture = np.array([
                    [texels, centre, -texels * x - centre * rows],
                    [0, -ahead, -texels * self.focal + ahead * rows],
                    [0, 1, -rows],
                ])  # fmt: skip
                picture[top:bottom] = cv2.warpPerspective(
                    texture, to_texture, (width, bottom - top), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_REFLECT_101,
                )  # fmt: skip
                bottom = top
        depth = max(4, int((height - y) * 0.25))
        fade = np.linspace(0.9, 0, depth, dtype=np.float32)[:, None, None]
        part = picture[first - 1 : first - 1 + depth]
        part[:] = part + (self.haze - part) * fade[: len(part)]


def driving(s: Stage) -> list[Layer]:
    """Sky, ground with or without lanes, things beside the way, and vehicles ahead; the camera turns and shakes."""
    rng, times = s.rng, np.arange(s.steps) / SUBSTEPS
    focal, level = s.width * rng.uniform(0.5, 1.2), s.height * rng.uniform(0.28, 0.6)
    below = s.height - level
    texels = below**2 / focal * rng.uniform(0.6, 1.2)
    pace = s.unit * speed(rng, 3.5) / (below**2 / focal)  # of the picture's lowest row
    driven = pace * (times + rng.normal(0, 0.02) * times**2) * rng.choice([1, -1], p=[0.9, 0.1])
    yaw = (
        rng.normal(0, 0.02) * times if rng.uniform() < 0.4 else 0.1 * smooth(rng, s.steps, 10) * rng.choice([0, 0.4, 1])
    )
    shake = s.unit * rng.choice([0, 0.3, 0.8]) * smooth(rng, s.steps, 1.5)
    horizons = np.stack([s.width * rng.uniform(0.35, 0.65) - focal * yaw, level + shake], axis=-1)
    offsets = rng.normal(0, 0.15) * pace * times
    haze = pick(rng, s.colours)

    sky = (gradient if rng.uniform() < 0.5 else clouds if rng.uniform() < 0.6 else random_texture)(
        rng, int(level * 1.4) + 16, int(s.width * 1.3), s.colours, s.unit
    )
    corner = np.array([-0.15 * s.width, level - len(sky)]) - horizons[0]
    layers: list[Layer] = [Plane(rng, sky, np.stack([translation(corner + h) for h in horizons]))]
    make = asphalt if rng.uniform() < 0.6 else random_texture
    texture = lanes(s, make(rng, int(2.5 * s.height), int(2.2 * s.width), s.colours, s.unit), texels)
    layers.append(Ground(texture, texels, focal, horizons, driven, offsets, haze))

    count = rng.integers(0, 14)
    away = np.sort(rng.uniform(1.5, 30, count))[::-1]  # the nearest are painted last
    aside = rng.choice([-1, 1], count) * rng.uniform(1.2, 9, count)
    images = [
        random_sprite(rng, *(int(v * s.unit) for v in rng.uniform(16, 48, 2)), s.colours, s.unit) for _ in range(4)
    ]
    for z, x in zip(away, aside, strict=True):
        own = rng.choice([0, 0, 0, 1, -1]) * rng.uniform(0.2, 1.5) * pace * times
        x = x * 0.3 if own.any() else x
        image, tall = images[rng.integers(4)], rng.uniform(0.6, 4)
        layers.append(Sprite(rng, image, upright(image, tall, z - driven + own, x - offsets, focal, horizons)))
    if rng.uniform() < 0.25:  # the car's own bonnet, or a rail
        image = random_sprite(rng, int(s.height * rng.uniform(0.15, 0.5)), int(s.width * 1.1), s.colours, s.unit)
        place = translation(np.array([s.width * rng.uniform(0.4, 0.6), s.height * 1.02]))
        layers.append(Sprite(rng, image, np.tile(place, (s.steps, 1, 1))))
    return layers


def upright(
    image: np.ndarray, tall: float, z: np.ndarray, x: np.ndarray, focal: float, horizons: np.ndarray
) -> np.ndarray:
    """Where a sprite that stands on the ground at (x, z) is seen, (steps, 3, 3)."""
    places = []
    for far, right, horizon in zip(z, x, horizons, strict=True):
        factor = focal / max(far, 0.3) * tall / len(image)
        foot = horizon + focal / max(far, 0.3) * np.array([right, 1.0])
        places.append(similarity(foot - (0, factor * len(image) / 2), 0, factor) if far > 0.3 else HIDDEN)
    return np.stack(places)


def lanes(s: Stage, texture: np.ndarray, texels: float) -> np.ndarray:
    """Lines along the way on a ground texture, most of them dashed; none on some."""
    rng, (height, width) = s.rng, texture.shape[:2]
    if rng.uniform() < 0.35:
        return texture
    colour, thick, gap = (
        np.clip(pick(rng, s.colours) + 70, 0, 255).tolist(),
        rng.uniform(0.06, 0.2),
        rng.uniform(1.5, 4),
    )
    for k in range(-3, 4):
        x = width / 2 + texels * (gap * (k + 0.5))
        period = texels * rng.choice([2.0, 4.0]) if rng.uniform() < 0.6 else height
        for y in np.arange(0, height, period):
            first, last = (x, y), (x + texels * thick, y + period * (0.5 if period < height else 1))
            cv2.rectangle(texture, *(tuple(int(8 * v) for v in p) for p in (first, last)), colour, -1, cv2.LINE_AA, 3)
    return texture
