"""Clips of generated scenes: still and moving cameras, drives, crowds, screens, waves, stills and cuts.

A scene is painted at twice the size and averaged. Lengths are in its pixels; `unit` of them are a pixel of a frame of
128 pixels on its longer side.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

from train.sim.scenes.driving import driving
from train.sim.scenes.effects import develop, frame_times
from train.sim.scenes.layers import Layer, Particles, Plane, Region, Sprite, premultiplied, random_mask, random_sprite
from train.sim.scenes.motion import (
    SUBSTEPS,
    Camera,
    intermittent,
    rotation,
    scaling,
    similarity,
    smooth,
    speed,
    trajectory,
    translation,
    travel,
    uniform,
)  # fmt: skip
from train.sim.scenes.stage import Stage, backdrop
from train.sim.scenes.textures import filled, pick, random_texture, text

Scene = Callable[[Stage], list[Layer]]


def seeded_clip(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """The clip of a seed, as `clip` draws it."""
    return clip(np.random.default_rng(seed), frames, height, width)


def clip(rng: Generator, frames: int, height: int, width: int) -> np.ndarray:
    """One clip (frames, height, width, 3) uint8, of everything that the generator draws."""
    if frames > 1 and rng.uniform() < 0.025:  # a hard cut
        first = int(rng.integers(1, frames))
        return np.concatenate([clip(rng, first, height, width), clip(rng, frames - first, height, width)])
    scene = list(SCENES)[rng.choice(len(SCENES), p=list(SCENES.values()))]
    stage = Stage.of(rng, frames * SUBSTEPS, 2 * height, 2 * width)
    layers = scene(stage)
    times = frame_times(rng, frames)
    blur = 3 if rng.uniform() < 0.1 else 1  # substeps that a frame is exposed for
    pictures = np.empty((frames, height, width, 3), np.uint8)
    for k, time in enumerate(times):
        shots = [painted(layers, stage, time * SUBSTEPS + j) for j in range(blur)]
        picture = shots[0] if blur == 1 else np.mean(shots, axis=0, dtype=np.float32)
        pictures[k] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return develop(rng, pictures)


def painted(layers: list[Layer], stage: Stage, step: int) -> np.ndarray:
    picture = np.empty((stage.height, stage.width, 3), np.uint8)
    for layer in layers:
        layer.paint(picture, step)
    return picture


# ---- objects -----------------------------------------------------------------------------------------


def moving_object(
    s: Stage, camera: Camera, size: float, pace: float, parallax: float = 1.0, image: np.ndarray | None = None
) -> list[Layer]:
    """An object on a random trajectory; some have swinging limbs or rolling wheels. At pace 0 it stands."""
    rng, aspect = s.rng, np.exp(s.rng.normal(0, 0.35))
    wide, tall = size * np.sqrt(aspect), size / np.sqrt(aspect)
    if not pace:
        image = random_sprite(rng, int(tall), int(wide), s.colours, s.unit) if image is None else image
        place = similarity(rng.uniform(0, 1, 2) * (s.width, s.height), rng.normal(0, 0.3), 1)
        still = np.stack([camera.matrix(k, parallax) @ place for k in range(s.steps)])
        return [Sprite(rng, image, still, shadow=0.4 * rng.integers(2))]
    positions = trajectory(rng, s.steps, pace, s.width, s.height)
    form = rng.choice(3, p=[0.8, 0.13, 0.07]) if image is None and size > 10 * s.unit else 0
    angles = rotation(rng, positions, size / 2) if form == 0 else 0.1 * smooth(rng, s.steps, 6)
    scales = scaling(rng, s.steps)
    body = [camera.matrix(k, parallax) @ similarity(positions[k], angles[k], scales[k]) for k in range(s.steps)]
    wobble = size * rng.uniform(0.03, 0.15) if rng.uniform() < 0.15 else 0.0
    shadow = rng.uniform(0.15, 0.6) if rng.uniform() < 0.35 else 0.0
    image = random_sprite(rng, int(tall), int(wide), s.colours, s.unit) if image is None else image
    layers: list[Layer] = [Sprite(rng, image, np.stack(body), wobble, shadow)]
    if form == 1:
        return layers + limbs(s, body, wide, tall)
    return layers + (wheels(s, body, positions, wide, tall) if form == 2 else [])


def limbs(s: Stage, body: list[np.ndarray], wide: float, tall: float) -> list[Layer]:
    """Up to four limbs that swing on a body, alternately."""
    rng, layers, period = s.rng, [], s.rng.uniform(5, 24)
    phase, swing = 2 * np.pi * np.arange(s.steps) / SUBSTEPS / period + rng.uniform(0, 6.3), rng.uniform(0.1, 0.9)
    length, thick = max(wide, tall) * rng.uniform(0.35, 0.8), max(3 * s.unit, min(wide, tall) * rng.uniform(0.12, 0.35))
    image = random_sprite(rng, int(length), int(thick), s.colours, s.unit)
    for k in range(rng.integers(1, 5)):
        pivot = np.array([rng.choice([-0.3, 0.3]) * wide, rng.choice([0.35, -0.2], p=[0.7, 0.3]) * tall])
        angles = swing * np.sin(phase + np.pi * k)
        hang = translation(np.array([0, length * 0.45]))
        layers.append(
            Sprite(rng, image, np.stack([body[t] @ similarity(pivot, angles[t], 1) @ hang for t in range(s.steps)]))
        )
    return layers


def wheels(s: Stage, body: list[np.ndarray], positions: np.ndarray, wide: float, tall: float) -> list[Layer]:
    """Two wheels that roll as the body goes."""
    radius = min(wide, tall) * s.rng.uniform(0.2, 0.35)
    side = max(9, int(2 * radius) | 1)
    mask, centre = np.zeros((side, side), np.uint8), (side // 2 * 8, side // 2 * 8)
    cv2.circle(mask, centre, int((side / 2 - 1.5) * 8), 255, -1, cv2.LINE_AA, 3)
    texture = filled(side, side, pick(s.rng, s.colours) * 0.4)
    for angle in np.arange(0, 180, s.rng.choice([36, 60, 90])):
        colour, hub = pick(s.rng, s.colours).tolist(), (side // 2, side // 2)
        cv2.ellipse(texture, hub, (side, max(1, side // 12)), angle, 0, 360, colour, -1)
    image, angles = premultiplied(texture, mask), (positions[:, 0] - positions[0, 0]) / radius
    places = [np.array([x * wide, 0.45 * tall]) for x in (-0.32, 0.32)]
    return [
        Sprite(s.rng, image, np.stack([body[t] @ similarity(place, angles[t], 1) for t in range(s.steps)]))
        for place in places
    ]


def random_size(s: Stage, low: float = 6, high: float = 70) -> float:
    """Log-uniform, in pixels."""
    return s.unit * float(np.exp(s.rng.uniform(np.log(low), np.log(high))))


# ---- scenes ------------------------------------------------------------------------------------------


def layered(s: Stage) -> list[Layer]:
    """Objects at several depths before a background, seen by a camera that mostly moves."""
    rng, camera = s.rng, Camera(s.rng, s.steps, s.width, s.height, motion=0.65)
    layers: list[Layer] = [backdrop(s, camera)]
    if rng.uniform() < 0.1:
        layers.append(region(s))
    for depth in np.sort(rng.uniform(0, 1, rng.integers(1, 7))):
        pace = 0.0 if rng.uniform() < 0.3 else s.unit * speed(rng)
        layers += moving_object(s, camera, random_size(s), pace, parallax=1 + depth * rng.choice([0, 0, 0.5, 1.5]))
    if rng.uniform() < 0.05:
        layers.append(Particles(rng, s.steps, SUBSTEPS, s.colours, s.unit))
    return layers


def watched(s: Stage) -> list[Layer]:
    """A still camera: things that stand, and none to four that move."""
    rng, camera = s.rng, Camera(s.rng, s.steps, s.width, s.height, motion=0.0)
    layers: list[Layer] = [backdrop(s, camera)]
    for _ in range(rng.integers(0, 6)):
        layers += moving_object(s, camera, random_size(s, 10), 0.0)
    if rng.uniform() < 0.15:
        layers.append(region(s))
    for _ in range(rng.integers(0, 5)):
        layers += moving_object(s, camera, random_size(s, 5, 50), s.unit * speed(rng, 1.5))
    if rng.uniform() < 0.25:  # something stands before all
        layers += moving_object(s, camera, random_size(s, 20, 100), 0.0)
    if rng.uniform() < 0.15:
        layers.append(caption(s))
    return layers


def crowd(s: Stage) -> list[Layer]:
    """Many small things of few looks that move alike or not: traffic, people, birds, balls, things on a belt."""
    rng, camera = s.rng, Camera(s.rng, s.steps, s.width, s.height, motion=0.3)
    size = random_size(s, 5, 18)
    images = [random_sprite(rng, int(size), int(size * rng.uniform(0.6, 1.6)), s.colours, s.unit) for _ in range(3)]
    layers, pace = [backdrop(s, camera)], s.unit * speed(rng, 1.5)
    common, alike = uniform(rng, s.steps, pace), rng.uniform() < 0.5
    for _ in range(rng.integers(6, 22)):
        image = images[rng.integers(3)]
        if alike:
            start = rng.uniform(-0.2, 1.2, 2) * (s.width, s.height)
            lane = common * rng.choice([1, 1, 1, -1, 0.6, 0]) * rng.uniform(0.85, 1.15)
            places = [camera.matrix(k) @ translation(start + lane[k]) for k in range(s.steps)]
            layers.append(Sprite(rng, image, np.stack(places)))
        else:
            layers += moving_object(s, camera, size, pace * rng.uniform(0.3, 1.5), image=image)
    return layers


def waves(s: Stage) -> list[Layer]:
    """A texture that flows: water, cloth, smoke, leaves; things may float on it."""
    rng, camera = s.rng, Camera(s.rng, s.steps, s.width, s.height, motion=0.4)
    layers: list[Layer] = [backdrop(s, camera, ripple=s.unit * rng.uniform(1, 6))]
    for _ in range(rng.integers(0, 3)):
        layers += moving_object(s, camera, random_size(s), s.unit * speed(rng, 0.7))
    return layers


def screen(s: Stage) -> list[Layer]:
    """A recorded screen: still panels, a page that scrolls and stops, a pointer."""
    rng, still = s.rng, Camera(s.rng, s.steps, s.width, s.height, motion=0.0)
    make = text if rng.uniform() < 0.6 else random_texture
    layers: list[Layer] = [Plane(rng, make(rng, s.height, s.width, s.colours, s.unit), still_matrices(s))]
    for _ in range(rng.integers(1, 3)):
        layers.append(region(s, boxed=True, scroll=True))
    if rng.uniform() < 0.6:
        layers += moving_object(s, still, s.unit * rng.uniform(5, 9), s.unit * speed(rng, 2))
    return layers


def texture_only(s: Stage) -> list[Layer]:
    """A moving camera over one surface."""
    return [backdrop(s, Camera(s.rng, s.steps, s.width, s.height, motion=1.0))]


def still(s: Stage) -> list[Layer]:
    """A picture: nothing moves."""
    layers = layered(s) if s.rng.uniform() < 0.5 else watched(s)
    image = painted(layers, s, int(s.rng.integers(s.steps)))
    return [Plane(s.rng, image, still_matrices(s))]


def still_matrices(s: Stage) -> np.ndarray:
    return np.tile(np.eye(3), (s.steps, 1, 1))


def region(s: Stage, boxed: bool = False, scroll: bool = False) -> Layer:
    """A part of the picture whose texture moves by itself. scroll: up and down, with stops."""
    rng = s.rng
    high, wide = (int(n * rng.uniform(0.25, 0.95)) for n in (s.height, s.width))
    corner = [int(rng.integers(0, n - m + 1)) for n, m in ((s.width, wide), (s.height, high))]
    mask = np.full((high, wide), 255, np.uint8) if boxed or rng.uniform() < 0.5 else random_mask(rng, high, wide)
    pace = s.unit * speed(rng, 2.0)
    if scroll:
        starts = rng.uniform() < 0.6
        up = intermittent(rng, s.steps, pace)[:, 0] if starts else travel(pace * smooth(rng, s.steps, 4))
        path = np.stack([np.zeros(s.steps), up], axis=-1)
    else:
        path = uniform(rng, s.steps, pace)
    make = text if scroll and rng.uniform() < 0.6 else random_texture
    texture = make(rng, int(high * 1.6), int(wide * 1.2), s.colours, s.unit)
    matrices = np.stack([translation(p) for p in path])
    return Region(mask, Plane(rng, texture, matrices, s.unit if rng.uniform() < 0.15 else 0.0), corner)


def caption(s: Stage) -> Layer:
    """Letters that stand at a border, such as a camera's name."""
    high, wide = int(9 * s.unit), int(s.width * s.rng.uniform(0.2, 0.6))
    page = np.zeros((high, wide, 3), np.uint8)
    letters = "".join(s.rng.choice(list("0123456789:-/ ABCDEF"), int(s.rng.integers(5, 20))))
    cv2.putText(page, letters, (2, high - int(2 * s.unit)), 0, s.unit * 6 / 22, (255, 255, 255), 2, cv2.LINE_AA)
    at = np.array([wide / 2 + 2 * s.unit, s.rng.choice([high, s.height - high])])
    image = np.dstack([page, page[..., 0]])
    return Sprite(s.rng, image, np.tile(translation(at), (s.steps, 1, 1)))


SCENES: dict[Scene, float] = {
    layered: 0.37, watched: 0.24, driving: 0.13, crowd: 0.07, waves: 0.06, screen: 0.04, texture_only: 0.06,
    still: 0.03,
}  # fmt: skip
