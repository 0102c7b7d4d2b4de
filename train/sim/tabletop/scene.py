"""Random tabletop scenes: objects, textures, light and camera, as a MuJoCo model in XML and its textures.

Metres, kilogrammes, seconds and radians; z is up, the floor is z = 0, its centre the origin. Objects have strong
colours of distinct hues and no two share one; everything else is nearly gray, so that its hue identifies an object.
"""

from __future__ import annotations

import colorsys
import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from train.sim.textures import pattern

HALF = 0.5  # of the floor's side, inside the walls
PUSHER = 0.058  # radius of its ball
WALL = 0.035  # half a wall's thickness

PALETTE = {  # name: hue in degrees
    "red": 358, "orange": 27, "yellow": 54, "green": 115, "cyan": 176, "blue": 220, "violet": 268, "pink": 318,
}  # fmt: skip
SHAPES = ("box", "tower", "slab", "can", "column", "ball", "egg", "ell")


class Geom(NamedTuple):
    """A convex part of an object."""

    kind: str  # of MuJoCo's: box, cylinder, sphere, ellipsoid
    size: tuple[float, ...]  # half sides; radius and half height; radius; half axes
    offset: tuple[float, float] = (0.0, 0.0)  # x, y from the object's centre


class Scene(NamedTuple):
    """One clip's model, before simulation."""

    xml: str
    textures: dict[str, np.ndarray]  # by name: (h, w, 3) uint8, to be written over the model's own
    shapes: np.ndarray  # (objects,) int, indices into SHAPES
    colours: np.ndarray  # (objects,) int, indices into PALETTE
    pusher: np.ndarray  # (2,) initial position


def random_scene(rng: Generator, least: int, most: int, pixels: int, shadows: int) -> Scene:
    """A random scene of `least` to `most` objects, for pictures of `pixels` a side.

    `shadows` is the side of the shadow map in texels, 0 for none.
    """
    count = int(rng.integers(least, most + 1))
    colours = rng.permutation(len(PALETTE))[:count]
    shapes = rng.integers(len(SHAPES), size=count)
    parts = [_parts(SHAPES[shape], rng) for shape in shapes]
    pusher, *positions = _positions([PUSHER, *(_radius(geoms) for geoms in parts)], rng)
    textures = {"floor": _surface(rng, 96), "table": _surface(rng, 32), "wall": _surface(rng, 32)}
    bodies, assets = [], []
    for k, (geoms, colour, position) in enumerate(zip(parts, colours, positions, strict=True)):
        textures[f"object{k}"] = pattern(rng)
        red, green, blue = _shade(PALETTE[list(PALETTE)[colour]], rng)
        assets.append(
            f'<texture name="object{k}" type="cube" builtin="flat" width="16" height="16"/>'
            f'<material name="object{k}" texture="object{k}" rgba="{red:.3f} {green:.3f} {blue:.3f} 1" '
            f'specular="{rng.uniform(0.05, 0.35):.2f}" shininess="{rng.uniform(0.2, 0.8):.2f}"/>'
        )
        bodies.append(_body(k, geoms, position, rng))
    xml = _XML.format(
        pixels=pixels, shadows=shadows, assets="".join(assets), bodies="".join(bodies), walls=_walls(rng),
        camera=_camera(rng), light=_light(rng, shadows > 0), pusher=_pusher(rng),
    )  # fmt: skip
    return Scene(xml, textures, shapes, colours, pusher)


_XML = """<mujoco>
<compiler angle="radian"/><option timestep="0.005" integrator="implicitfast" cone="elliptic" impratio="4"/>
<statistic extent="1" center="0 0 0"/>
<visual>
  <global offwidth="{pixels}" offheight="{pixels}"/><quality shadowsize="{shadows}" offsamples="0"/>
  <map znear="0.1" zfar="10" shadowclip="1" shadowscale="0.7"/>{light}
<asset>
  <texture name="floor" type="2d" builtin="flat" width="96" height="96"/>
  <texture name="table" type="2d" builtin="flat" width="32" height="32"/>
  <texture name="wall" type="2d" builtin="flat" width="32" height="32"/>
  <material name="floor" texture="floor" specular="0"/><material name="table" texture="table" specular="0"/>
  <material name="wall" texture="wall" specular="0.1"/>{assets}
</asset>
{camera}{walls}{pusher}{bodies}
</worldbody></mujoco>"""


def _parts(shape: str, rng: Generator) -> list[Geom]:
    """An object's geoms, which all stand on the floor."""
    a, b, c = rng.uniform(size=3)  # as many for every shape
    if shape == "box":
        return [Geom("box", (0.065 + 0.03 * a, 0.065 + 0.03 * b, 0.06 + 0.035 * c))]
    if shape == "tower":
        return [Geom("box", (0.04 + 0.015 * a, 0.04 + 0.015 * b, 0.105 + 0.055 * c))]
    if shape == "slab":
        return [Geom("box", (0.07 + 0.03 * a, 0.11 + 0.05 * b, 0.04 + 0.015 * c))]
    if shape == "can":
        return [Geom("cylinder", (0.065 + 0.035 * a, 0.05 + 0.05 * b))]
    if shape == "column":
        return [Geom("cylinder", (0.042 + 0.013 * a, 0.105 + 0.055 * b))]
    if shape == "ball":
        return [Geom("sphere", (0.065 + 0.035 * a,))]
    if shape == "egg":
        return [Geom("ellipsoid", (0.065 + 0.02 * a, 0.095 + 0.035 * b, 0.065 + 0.02 * c))]
    if shape == "ell":
        width, long, short, high = 0.04 + 0.01 * a, 0.12 + 0.03 * b, 0.045 + 0.03 * c, 0.05 + 0.02 * b
        bar, foot = (-short, 0.0), (width, width - long)
        return [Geom("box", (width, long, high), bar), Geom("box", (short, width, high), foot)]
    raise ValueError(f"there is no shape {shape!r}")


def _radius(parts: list[Geom]) -> float:
    """The largest distance of an object's points from its centre, seen from above."""
    radii = []
    for part in parts:
        x, y = (part.size[0], part.size[0]) if part.kind in ("sphere", "cylinder") else part.size[:2]
        corner = math.hypot(abs(part.offset[0]) + x, abs(part.offset[1]) + y)
        radii.append(corner if part.kind == "box" else max(x, y))
    return max(radii)


def _positions(radii: list[float], rng: Generator, tries: int = 400) -> list[np.ndarray]:
    """Positions (x, y) of objects apart from each other and the walls, or as far apart as the tries found."""
    positions: dict[int, np.ndarray] = {}
    for k in np.argsort(radii)[::-1]:  # the largest first
        room = HALF - radii[k] - 0.01
        candidates = rng.uniform(-room, room, size=(tries, 2))
        gaps = np.full(tries, np.inf)
        for other, position in positions.items():
            gaps = np.minimum(gaps, np.hypot(*(candidates - position).T) - radii[k] - radii[other])
        free = gaps > 0.01
        positions[k] = candidates[free.argmax() if free.any() else gaps.argmax()]
    return [positions[k] for k in range(len(radii))]


def _body(k: int, parts: list[Geom], position: np.ndarray, rng: Generator) -> str:
    (x, y), half_height = position, parts[0].size[-1]
    density, friction = 80 * 5 ** rng.uniform(), rng.uniform(0.2, 0.55)
    if half_height > 0.102:
        friction += 0.35  # tall objects topple rather than slide
    yaw = rng.uniform(-math.pi, math.pi)
    geoms = "".join(
        f'<geom type="{part.kind}" size="{" ".join(f"{s:.4f}" for s in part.size)}" pos="{part.offset[0]:.4f} '
        f'{part.offset[1]:.4f} 0" density="{density:.1f}" material="object{k}" condim="6" '
        f'friction="{friction:.3f} 0.004 0.0015"/>'
        for part in parts
    )
    return (
        f'<body name="object{k}" pos="{x:.4f} {y:.4f} {half_height:.4f}" euler="0 0 {yaw:.4f}">'
        f'<joint type="free" damping="0.002"/>{geoms}</body>'
    )


def _pusher(rng: Generator) -> str:
    """A ball on a rod from above, driven by target velocities. Its force is limited, so that it stalls, not crushes."""
    height, reach = rng.uniform(0.105, 0.12), HALF - PUSHER - 0.005
    slide = f'type="slide" range="{-reach} {reach}" limited="true"'
    dark, light = rng.uniform(0.03, 0.12), rng.uniform(0.85, 0.95)
    return (
        f'<body name="pusher" pos="0 0 {height:.3f}"><joint name="x" axis="1 0 0" {slide}/>'
        f'<joint name="y" axis="0 1 0" {slide}/>'
        f'<geom type="sphere" size="{PUSHER}" mass="4" friction="0.2 0.002 0.0001" rgba="{light} {light} {light} 1"/>'
        f'<geom type="capsule" fromto="0 0 0.03 0 0 0.36" size="0.022" mass="0.5" friction="0.2 0.002 0.0001" '
        f'rgba="{dark} {dark} {dark} 1"/></body></worldbody>'
        '<actuator><velocity joint="x" kv="60" forcerange="-45 45"/><velocity joint="y" kv="60" forcerange="-45 45"/>'
        "</actuator><worldbody>"
    )


def _walls(rng: Generator) -> str:
    """A floor, low visible walls, high invisible ones behind them, and the table around."""
    high, out, long = rng.uniform(0.035, 0.055), HALF + WALL, HALF + 2 * WALL
    geoms = '<geom type="plane" size="0.5 0.5 0.1" material="floor" friction="0.1 0.001 0.0001"/>'
    geoms += '<geom type="plane" pos="0 0 -0.05" size="4 4 0.1" material="table" contype="0" conaffinity="0"/>'
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        size = f"{WALL if x else long} {WALL if y else long}"
        geoms += (
            f'<geom type="box" pos="{x * out} {y * out} {high - 0.05}" size="{size} {high + 0.05}" material="wall" '
            f'contype="0" conaffinity="0"/>'
            f'<geom type="box" pos="{x * (HALF + 0.25)} {y * (HALF + 0.25)} 1" group="4" rgba="0 0 0 0" '
            f'size="{0.25 if x else 1} {0.25 if y else 1} 1.1" friction="0.1 0.001 0.0001"/>'
        )
    return geoms


def _camera(rng: Generator) -> str:
    """Looks down from the front, slightly different in every clip."""
    azimuth, elevation = rng.uniform(-0.2, 0.2), rng.uniform(0.95, 1.12)
    distance = rng.uniform(2.35, 2.5)
    forward = np.array([math.sin(azimuth) * math.cos(elevation), math.cos(azimuth) * math.cos(elevation)])
    eye = [*(-distance * forward + rng.uniform(-0.02, 0.02, size=2)), distance * math.sin(elevation)]
    right = [math.cos(azimuth), -math.sin(azimuth), 0]
    up = [math.sin(azimuth) * math.sin(elevation), math.cos(azimuth) * math.sin(elevation), math.cos(elevation)]
    axes = " ".join(f"{v:.4f}" for v in (*right, *up))
    return (
        f'<worldbody><camera name="camera" pos="{eye[0]:.4f} {eye[1]:.4f} {eye[2]:.4f}" xyaxes="{axes}" '
        f'fovy="{math.degrees(2 * math.atan(0.6 / 2.35)):.2f}"/>'
    )


def _light(rng: Generator, shadows: bool) -> str:
    """A directional lamp of random direction, brightness and warmth, and ambient light; closes <visual>."""
    warmth, bright, ambient = rng.uniform(-0.04, 0.04), rng.uniform(0.5, 0.6), rng.uniform(0.38, 0.46)
    azimuth, tilt = rng.uniform(-math.pi, math.pi), rng.uniform(0.3, 0.75)
    x, y = math.cos(azimuth) * math.tan(tilt), math.sin(azimuth) * math.tan(tilt)
    lamp = f"{bright * (1 + warmth):.3f} {bright:.3f} {bright * (1 - warmth):.3f}"
    return (
        f'<headlight ambient="{ambient:.3f} {ambient:.3f} {ambient:.3f}" diffuse="0.12 0.12 0.12" specular="0 0 0"/>'
        f'</visual><worldbody><light type="directional" pos="{x:.3f} {y:.3f} 1" dir="{-x:.3f} {-y:.3f} -1" '
        f'diffuse="{lamp}" specular="0.4 0.4 0.4" castshadow="{str(shadows).lower()}"/></worldbody>'
    )


def _shade(hue: float, rng: Generator) -> tuple[float, float, float]:
    """A strong colour near a hue in degrees."""
    return colorsys.hsv_to_rgb((hue + rng.uniform(-4, 4)) % 360 / 360, rng.uniform(0.82, 0.95), rng.uniform(0.85, 1))


def _surface(rng: Generator, size: int) -> np.ndarray:
    """A nearly gray surface (size, size, 3): plain, cloudy, planks or tiles of two shades."""
    kind, bright = rng.integers(4), rng.uniform(0.35, 0.85)
    colour = np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.18), bright))
    y, x = np.mgrid[:size, :size] / size
    waves = sum(
        rng.uniform(0.3, 1)
        * np.cos(2 * np.pi * (rng.integers(-3, 4) * x + rng.integers(-3, 4) * y) + rng.uniform(0, 6))
        for _ in range(5)
    )
    planks = rng.uniform(-1, 1, size=6)[(x * 6).astype(int)]
    tiles = np.where(((x * 4).astype(int) + (y * 4).astype(int)) % 2, 1.0, -1.0)
    shades = [0 * x, 0.06 * waves, 0.1 * planks + 0.02 * waves, rng.uniform(0.05, 0.14) * tiles][kind]
    return (255 * np.clip(colour * (1 + shades)[..., None], 0, 1)).astype(np.uint8)
