"""What a scene consists of. A layer paints itself on a picture, (H, W, 3) uint8, at a substep of the clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.random import Generator

from train.sim.scenes.motion import smooth
from train.sim.scenes.textures import noise, pick, random_texture


class Layer(Protocol):
    def paint(self, picture: np.ndarray, step: int) -> None: ...


# ---- shapes ------------------------------------------------------------------------------------------


def random_mask(rng: Generator, height: int, width: int) -> np.ndarray:
    """A shape's coverage (height, width) uint8 with antialiased edges, clear at the border."""
    mask = np.zeros((height, width), np.uint8)
    form = rng.choice(6, p=[0.22, 0.2, 0.22, 0.14, 0.12, 0.1])
    centre, half = np.array([width, height]) / 2, np.array([width, height]) / 2 - 2
    if form == 0:
        cv2.ellipse(mask, *_eighths(centre, half), 0, 0, 360, 255, -1, cv2.LINE_AA, 3)
    elif form == 1:  # a polygon
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        radius = (
            rng.uniform(0.6, 1, len(angles)) if rng.uniform() < 0.7 else np.where(np.arange(len(angles)) % 2, 0.45, 1)
        )
        _fill(mask, centre + half * radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1))
    elif form == 2:  # a box with round corners
        power = rng.choice([2.5, 4, 8, 40])
        angles = np.linspace(0, 2 * np.pi, 64)
        outline = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        _fill(mask, centre + half * np.sign(outline) * np.abs(outline) ** (2 / power))
    elif form == 3:  # a round outline with lobes
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radius = 1 + sum(rng.normal(0, 0.3 / k) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in range(2, 6))
        outline = radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        _fill(mask, centre + half * outline / np.abs(outline).max())
    elif form == 4:  # a blob of noise
        y, x = np.linspace(-1.3, 1.3, height)[:, None], np.linspace(-1.3, 1.3, width)
        field = noise(rng, height, width, max(4.0, min(height, width) / 3), 0.5, finest=2) - 2.2 * (x * x + y * y) + 1.3
        mask = np.clip(127 + 60 * field * max(1.0, min(height, width) / 24), 0, 255).astype(np.uint8)
        mask[[0, -1]] = 0
        mask[:, [0, -1]] = 0
    else:  # a thin line, straight or bent
        points = np.stack([np.linspace(-0.9, 0.9, 12), rng.normal(0, 0.6) * np.linspace(-1, 1, 12) ** 2 - 0.2], axis=-1)
        line = (8 * (centre + half * np.clip(points, -0.95, 0.95))).astype(np.int32)
        cv2.polylines(mask, [line], False, 255, int(rng.integers(1, 2 + min(height, width) // 8)), cv2.LINE_AA, 3)
    return mask


def _eighths(centre: np.ndarray, half: np.ndarray) -> tuple[list[int], list[int]]:
    return (8 * centre).astype(int).tolist(), (8 * half).astype(int).tolist()


def _fill(mask: np.ndarray, points: np.ndarray) -> None:
    cv2.fillPoly(mask, [np.round(8 * points).astype(np.int32)], 255, cv2.LINE_AA, 3)


def random_sprite(rng: Generator, height: int, width: int, colours: np.ndarray, unit: float) -> np.ndarray:
    """A textured shape (height, width, 4) uint8, colours times coverage, then coverage."""
    height, width = max(8, height), max(8, width)
    mask = random_mask(rng, height, width)
    if rng.uniform() < 0.3:  # an even colour, perhaps with another in it
        texture = np.full((height, width, 3), pick(rng, colours), np.uint8)
        if rng.uniform() < 0.6:
            inner = random_mask(rng, max(8, height // 2), max(8, width // 2))
            y, x = (int(rng.integers(0, n - m + 1)) for n, m in zip(mask.shape, inner.shape, strict=True))
            part = texture[y : y + inner.shape[0], x : x + inner.shape[1]]
            part[inner > 127] = pick(rng, colours)
    else:
        texture = random_texture(rng, height, width, colours, unit * rng.choice([0.4, 0.7, 1.0]))
    if rng.uniform() < 0.5:  # light from one side
        light = np.linspace(*rng.uniform(0.55, 1.25, 2), height if rng.uniform() < 0.7 else width, dtype=np.float32)
        light = light[:, None] if len(light) == height else light[None]
        texture = np.clip(texture * light[..., None], 0, 255).astype(np.uint8)
    if rng.uniform() < 0.07:  # glass
        mask = cv2.convertScaleAbs(mask, alpha=rng.uniform(0.4, 0.8))
    return premultiplied(texture, mask)


def premultiplied(texture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return cv2.merge([*cv2.split(cv2.multiply(texture, cv2.merge([mask] * 3), scale=1 / 255)), mask])


def blend(picture: np.ndarray, sprite: np.ndarray) -> None:
    """Lays a premultiplied sprite (h, w, 4) over a part of a picture, in place."""
    rest = cv2.bitwise_not(sprite[..., 3])
    under = cv2.multiply(picture, cv2.merge([rest] * 3), scale=1 / 255)
    picture[:] = cv2.add(under, sprite[..., :3])


# ---- layers ------------------------------------------------------------------------------------------


class Plane:
    """A texture that fills the picture, mirrored beyond its borders. matrices: texture -> picture, (steps, 3, 3).

    ripple: pixels that waves displace it by, as of water, cloth or smoke; 0 for none.
    """

    def __init__(self, rng: Generator, texture: np.ndarray, matrices: np.ndarray, ripple: float = 0.0) -> None:
        self.texture, self.matrices, self.ripple = texture, matrices, ripple
        self.affine = bool(np.allclose(matrices[:, 2], [0, 0, 1]))
        self.last_matrix, self.last_picture = np.zeros((3, 3)), np.empty(0, np.uint8)
        if ripple:
            self.waves = rng.normal(0, 1, (4, 2)) * rng.choice([2.0, 5.0, 10.0])  # cycles over the picture
            self.phases = np.cumsum(np.full((len(matrices), 4), rng.normal(0, 0.12, 4)), axis=0) + rng.uniform(0, 6, 4)
            self.directions = rng.normal(0, 0.5, (4, 2))

    def paint(self, picture: np.ndarray, step: int) -> None:
        matrix, (height, width) = self.matrices[step], picture.shape[:2]
        if not self.ripple and np.array_equal(matrix, self.last_matrix):
            picture[:] = self.last_picture
            return
        if self.affine:
            warped = cv2.warpAffine(self.texture, matrix[:2], (width, height), borderMode=cv2.BORDER_REFLECT_101)
        else:
            warped = cv2.warpPerspective(self.texture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        if self.ripple:
            warped = cv2.remap(warped, *self._map(height, width, step), cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101)
        picture[:] = warped
        self.last_matrix, self.last_picture = matrix, warped

    def _map(self, height: int, width: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel comes from. Waves are computed on every fourth pixel."""
        y, x = (
            np.linspace(0, 1, height // 4, dtype=np.float32)[:, None],
            np.linspace(0, 1, width // 4, dtype=np.float32),
        )
        shift = np.zeros((height // 4, width // 4, 2), np.float32)
        for wave, phase, direction in zip(self.waves, self.phases[step], self.directions, strict=True):
            shift += np.sin(wave[0] * x + wave[1] * y + phase)[..., None].astype(np.float32) * direction
        shift = cv2.resize(self.ripple * shift.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        at_y, at_x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
        return shift[..., 0] + at_x, shift[..., 1] + at_y


class Sprite:
    """A sprite (h, w, 4) under transforms sprite -> picture, (steps, 3, 3), in pixels from its centre.

    wobble: pixels by which its inside bends over time, as of an animal or a flag. shadow: opacity and offset in pixels
    of its soft shadow.
    """

    def __init__(
        self, rng: Generator, image: np.ndarray, matrices: np.ndarray, wobble: float = 0.0, shadow: float = 0.0
    ) -> None:
        self.levels, self.matrices, self.wobble = [image], matrices, wobble
        while len(self.levels) < 4 and min(self.levels[-1].shape[:2]) >= 8:
            self.levels.append(cv2.pyrDown(self.levels[-1]))
        self.shadow = self._shadow_of(image, shadow) if shadow else None
        self.offset = max(image.shape[:2]) * rng.uniform(0.03, 0.2) * np.array([rng.normal(0, 0.6), 1.0])
        if wobble:
            steps, cells = len(matrices), (int(rng.integers(2, 4)), int(rng.integers(2, 4)))
            frames = rng.uniform(2, 8)
            bends = [smooth(rng, steps, frames) for _ in range(2 * cells[0] * cells[1])]
            self.bends = np.stack(bends, axis=-1).reshape(steps, *cells, 2).astype(np.float32)

    @staticmethod
    def _shadow_of(image: np.ndarray, opacity: float) -> np.ndarray:
        side = 2 * (max(image.shape[:2]) // 12) + 3
        mask = cv2.copyMakeBorder(image[..., 3], side, side, side, side, cv2.BORDER_CONSTANT)
        mask = cv2.blur(cv2.convertScaleAbs(mask, alpha=opacity), (side, side))
        return cv2.merge([np.zeros_like(mask)] * 3 + [mask])

    def paint(self, picture: np.ndarray, step: int) -> None:
        matrix = self.matrices[step]
        if self.shadow is not None:
            moved = matrix.copy()
            moved[:2, 2] += self.offset * np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
            paint_image(picture, self.shadow, moved)
        factor = np.sqrt(max(abs(np.linalg.det(matrix[:2, :2])), 1e-8))
        level = min(max(0, int(np.log2(1 / factor) + 0.3)), len(self.levels) - 1)
        image = self.levels[level]
        if self.wobble:
            (height, width), bend = image.shape[:2], self.bends[step] * (self.wobble / 2**level)
            shift = cv2.resize(bend, (width, height), interpolation=cv2.INTER_CUBIC)
            y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
            image = cv2.remap(image, shift[..., 0] + x, shift[..., 1] + y, cv2.INTER_LINEAR)
        paint_image(picture, image, matrix @ np.diag([2.0**level, 2.0**level, 1.0]))


def paint_image(picture: np.ndarray, image: np.ndarray, matrix: np.ndarray) -> None:
    """Lays an image (h, w, 4) on a picture; `matrix` places coordinates from its centre."""
    (height, width), half = picture.shape[:2], np.array([image.shape[1] - 1, image.shape[0] - 1]) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ matrix[:2, :2].T + matrix[:2, 2]
    x0, y0 = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if x0 >= x1 or y0 >= y1:
        return
    to_part = matrix[:2].copy()
    to_part[:, 2] -= matrix[:2, :2] @ half + (x0, y0)
    blend(picture[y0:y1, x0:x1], cv2.warpAffine(image, to_part, (int(x1 - x0), int(y1 - y0))))


class Region:
    """A part of the picture that shows a texture of its own motion: a conveyor, a screen, water, a scrolling page."""

    def __init__(self, mask: np.ndarray, plane: Plane, corner: Sequence[int]) -> None:
        """mask: coverage (h, w) uint8 of the part that begins at corner (x, y)."""
        self.mask, self.plane, self.corner = mask, plane, corner

    def paint(self, picture: np.ndarray, step: int) -> None:
        (height, width), (x, y) = self.mask.shape, self.corner
        inner = np.empty((height, width, 3), np.uint8)
        self.plane.paint(inner, step)
        blend(picture[y : y + height, x : x + width], premultiplied(inner, self.mask))


class Particles:
    """Rain, snow, dust or stars: short strokes that all move much alike, and come back at the other side."""

    def __init__(self, rng: Generator, steps: int, substeps: int, colours: np.ndarray, unit: float) -> None:
        count, angle = int(rng.integers(10, 120)), rng.choice([np.pi / 2, rng.uniform(0, 6.3)])
        pace = unit * np.exp(rng.normal(1.0, 0.6)) * rng.uniform(0.6, 1.4, count)
        angles = angle + rng.normal(0, rng.choice([0.03, 0.4]), count)
        self.velocity = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * pace[:, None] / substeps
        self.start, self.colour = rng.uniform(0, 1, (count, 2)), np.clip(pick(rng, colours) + 60, 0, 255).tolist()
        self.stroke = substeps * rng.choice([0.02, 0.3, 0.8])
        self.thick = max(1, round(unit * rng.uniform(0.3, 1.6)))

    def paint(self, picture: np.ndarray, step: int) -> None:
        size = np.array(picture.shape[1::-1]) * 1.2
        at = (self.start * size + self.velocity * step) % size - 0.1 * size
        lines = np.stack([at, at + self.velocity * self.stroke], axis=1)
        cv2.polylines(picture, np.round(8 * lines).astype(np.int32), False, self.colour, self.thick, cv2.LINE_AA, 3)
