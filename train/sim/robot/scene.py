"""Random scenes of a robot arm over a tray of objects, as MuJoCo models.

Metres, kilogrammes, seconds, radians. The picture's right is x, away from the camera is y, up is z; the tray's floor is
z = 0, its centre the origin. The arm is that of train/sim/robot/arm.py.

The arm is red and objects are of other hues of PALETTE, no two alike; everything else is less saturated. So hue tells
an object in a picture.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from train.sim.environment import load_mujoco
from train.sim.robot.arm import LINKS, arm_folder, arm_meshes, prepare_arm
from train.sim.robot.textures import cloth, surface, tint, wood
from train.sim.tabletop.scene import PALETTE
from train.sim.textures import pattern

TRAY = (0.33, 0.25)  # half sides, inside
RIM = 0.012  # half the thickness of the tray's rim
REACH = ((-0.27, -0.19, 0.058), (0.27, 0.19, 0.2))  # least and greatest x, y, z of the hand; fingertips are 0.045 lower
HAND = 0.085  # radius around the hand's axis that is kept free of objects when a clip begins
SHAPES = ("box", "slab", "tower", "cylinder", "disc", "sphere", "ellipsoid", "capsule", "ell", "mug", "cross")
COLOURS = tuple(k for k, name in enumerate(PALETTE) if name != "red")  # of objects; red is the arm's


class Geom(NamedTuple):
    """A convex part of an object, standing on the tray when the object does."""

    kind: str  # of MuJoCo: box, cylinder, sphere, ellipsoid, capsule
    size: tuple[float, ...]  # half sides; radius and half height; radius; half axes; radius and half length
    position: tuple[float, float] = (0.0, 0.0)  # x, y from the object's centre

    @property
    def half_height(self) -> float:
        return self.size[0] if self.kind == "capsule" else self.size[-1]

    @property
    def radius(self) -> float:
        """How far the part extends from the object's centre, seen from above."""
        x, y = (self.size[0],) * 2 if self.kind in ("sphere", "cylinder") else self.size[:2]
        if self.kind == "capsule":
            x, y = self.size[0], sum(self.size)
        x, y = x + abs(self.position[0]), y + abs(self.position[1])
        return math.hypot(x, y) if self.kind == "box" else max(x, y)


class Scene(NamedTuple):
    """A compiled model and what it shows."""

    model: Any  # mujoco.MjModel
    shapes: np.ndarray  # (objects,) int, indices into SHAPES
    colours: np.ndarray  # (objects,) int, indices into PALETTE
    hand: np.ndarray  # (2,) x, y where the hand begins
    yaw: float  # of the gripper, constant over a clip


def random_scene(rng: Generator, min_objects: int, max_objects: int, image_size: int, shadow_size: int) -> Scene:
    """A random scene for pictures of `image_size` pixels a side.

    shadow_size: side of the shadow map in texels; 0 draws no shadows.
    Raises RuntimeError if MuJoCo or metaworld is not installed.
    """
    mujoco, _ = load_mujoco()
    count = int(rng.integers(min_objects, max_objects + 1))
    colours = rng.permutation(COLOURS)[:count]
    shapes = rng.integers(len(SHAPES), size=count)
    objects = [_scaled(_parts(SHAPES[shape], rng), rng.uniform(1.05, 1.35)) for shape in shapes]
    hand = rng.uniform((-0.24, -0.16), (0.24, 0.16))
    yaw = rng.uniform(-0.5, 0.5)
    positions = _positions([max(part.radius for part in parts) for parts in objects], hand, rng)
    textures = {
        "tray": surface(rng, 128),
        "table": surface(rng, 128),
        "rim": wood(rng, 64),
        "floor": cloth(rng, 64),
    }
    assets, bodies = [], []
    for k, (parts, colour, position) in enumerate(zip(objects, colours, positions, strict=True)):
        textures[f"object{k}"] = pattern(rng)
        red, green, blue = tint(list(PALETTE.values())[colour], rng)
        assets.append(
            f'<texture name="object{k}" type="cube" builtin="flat" width="16" height="96"/>'
            f'<material name="object{k}" texture="object{k}" rgba="{red:.3f} {green:.3f} {blue:.3f} 1" '
            f'specular="{rng.uniform(0.05, 0.4):.2f}" shininess="{rng.uniform(0.2, 0.8):.2f}"/>'
        )
        bodies.append(_body(k, parts, position, rng))
    xml = _XML.format(
        size=image_size, shadows=shadow_size, light=_light(rng, shadow_size > 0), assets="".join(assets),
        textures=_texture_assets(textures, rng), tray=_tray(rng), camera=_camera(rng), bodies="".join(bodies),
        arm=arm_folder() / "objects" / "assets" / "xyz_base.xml",
        links="".join(f'<mesh name="{link}" file="{link}.stl"/>' for link in LINKS),
    )  # fmt: skip
    spec = mujoco.MjSpec.from_string(xml, assets=arm_meshes())
    prepare_arm(spec, rng)
    model = spec.compile()
    for name, pixels in textures.items():
        begin = int(model.tex_adr[model.texture(name).id])
        model.tex_data[begin : begin + pixels.size] = pixels.ravel()
    return Scene(model, shapes, colours, hand, yaw)


# ---- objects -----------------------------------------------------------------------------------------


def _parts(shape: str, rng: Generator) -> list[Geom]:
    """An object's parts."""
    a, b, c = rng.uniform(size=3)  # the same count for every shape
    if shape == "box":
        return [Geom("box", (0.026 + 0.014 * a, 0.026 + 0.014 * b, 0.024 + 0.016 * c))]
    if shape == "slab":
        return [Geom("box", (0.028 + 0.012 * a, 0.045 + 0.02 * b, 0.018 + 0.01 * c))]
    if shape == "tower":
        return [Geom("box", (0.02 + 0.006 * a, 0.02 + 0.006 * b, 0.045 + 0.02 * c))]
    if shape == "cylinder":
        return [Geom("cylinder", (0.024 + 0.012 * a, 0.03 + 0.02 * b))]
    if shape == "disc":
        return [Geom("cylinder", (0.04 + 0.014 * a, 0.016 + 0.008 * b))]
    if shape == "sphere":
        return [Geom("sphere", (0.028 + 0.016 * a,))]
    if shape == "ellipsoid":
        return [Geom("ellipsoid", (0.028 + 0.008 * a, 0.04 + 0.018 * b, 0.026 + 0.008 * c))]
    if shape == "capsule":
        return [Geom("capsule", (0.022 + 0.01 * a, 0.025 + 0.025 * b))]
    if shape == "ell":
        width, long, short, high = 0.017 + 0.004 * a, 0.05 + 0.015 * b, 0.022 + 0.012 * c, 0.02 + 0.01 * b
        foot = (width, width - long)
        return [Geom("box", (width, long, high), (-short, 0.0)), Geom("box", (short, width, high), foot)]
    if shape == "mug":
        radius, high = 0.028 + 0.008 * a, 0.032 + 0.012 * b
        return [Geom("cylinder", (radius, high)), Geom("box", (0.014, 0.006, 0.6 * high), (radius + 0.008, 0.0))]
    if shape == "cross":
        long, width, high = 0.045 + 0.015 * a, 0.015 + 0.006 * b, 0.02 + 0.01 * c
        return [Geom("box", (long, width, high)), Geom("box", (width, long, high))]
    raise ValueError(f"there is no shape {shape!r}")


def _scaled(parts: list[Geom], factor: float) -> list[Geom]:
    return [Geom(kind, tuple(factor * s for s in size), (factor * x, factor * y)) for kind, size, (x, y) in parts]


def _positions(radii: list[float], hand: np.ndarray, rng: Generator, tries: int = 400) -> list[np.ndarray]:
    """Positions (x, y) of objects of these radii, apart from each other, the hand and the rim where there is room."""
    positions: dict[int, np.ndarray] = {}
    for k in np.argsort(radii)[::-1]:  # the largest first
        room = np.array(TRAY) - radii[k] - 0.01
        candidates = rng.uniform(-room, room, size=(tries, 2))
        gaps = np.hypot(*(candidates - hand).T) - radii[k] - HAND
        for other, position in positions.items():
            gaps = np.minimum(gaps, np.hypot(*(candidates - position).T) - radii[k] - radii[other])
        free = gaps > 0.005
        positions[k] = candidates[free.argmax() if free.any() else gaps.argmax()]
    return [positions[k] for k in range(len(radii))]


def _body(k: int, parts: list[Geom], position: np.ndarray, rng: Generator) -> str:
    """An object as XML, with random density, friction and heading."""
    density, slide, yaw = 150 * 5 ** rng.uniform(), rng.uniform(0.25, 0.7), rng.uniform(-math.pi, math.pi)
    high = max(part.half_height for part in parts)
    geoms = ""
    for part in parts:
        x, y, z = *part.position, part.half_height - high
        lying = 'euler="1.5708 0 0"' if part.kind == "capsule" else ""
        geoms += (
            f'<geom type="{part.kind}" size="{" ".join(f"{s:.4f}" for s in part.size)}" pos="{x:.4f} {y:.4f} {z:.4f}" '
            f'{lying} density="{density:.1f}" material="object{k}" contype="2" conaffinity="7" condim="6" '
            f'friction="{slide:.3f} 0.004 0.0012"/>'
        )
    return (
        f'<body name="object{k}" pos="{position[0]:.4f} {position[1]:.4f} {high:.4f}" euler="0 0 {yaw:.4f}">'
        f"<freejoint/>{geoms}</body>"
    )


# ---- the surroundings --------------------------------------------------------------------------------

_XML = """<mujoco>
<compiler angle="radian"/>
<option timestep="0.005" integrator="implicitfast" cone="elliptic" impratio="4" iterations="30"/>
<size nuserdata="3"/>
<statistic extent="1" center="0 0 0"/>
<visual>
  <global offwidth="{size}" offheight="{size}"/><quality shadowsize="{shadows}" offsamples="0"/>
  <map znear="0.05" zfar="30" shadowclip="1.5" shadowscale="0.7"/>{light}
<default>
  <geom solref="0.01 1" solimp="0.95 0.99 0.001"/>
  <default class="xyz_base">
    <joint armature="0.01" damping="2" limited="true"/><geom conaffinity="0" contype="0" type="mesh"/>
    <default class="base_col"/>
  </default>
</default>
<asset>{links}{textures}{assets}</asset>
<worldbody>{camera}{tray}<include file="{arm}"/>{bodies}</worldbody>
<equality><weld body1="mocap" body2="hand" relpose="0 0 0 1 0 0 0" solref="0.02 1" solimp="0.9 0.95 0.01"/></equality>
</mujoco>"""


def _texture_assets(textures: dict[str, np.ndarray], rng: Generator) -> str:
    """Textures and materials of the surroundings; their pixels are written into the compiled model."""
    parts = []
    for name in ("tray", "table", "rim", "floor"):
        kind, (height, width, _) = "cube" if name == "rim" else "2d", textures[name].shape
        parts.append(
            f'<texture name="{name}" type="{kind}" builtin="flat" width="{width}" height="{height}"/>'
            f'<material name="{name}" texture="{name}" specular="{rng.uniform(0, 0.15):.2f}" '
            f'texrepeat="{18 if name == "floor" else 1} {18 if name == "floor" else 1}"/>'
        )
    return "".join(parts)


def _tray(rng: Generator) -> str:
    """A tray with a low rim on a table. Invisible walls keep objects in; the arm passes through them."""
    x, y = TRAY
    high = rng.uniform(0.012, 0.022)
    geoms = (
        f'<geom type="box" size="{x} {y} 0.01" pos="0 0 -0.01" material="tray" contype="1" conaffinity="0" '
        'friction="0.3 0.003 0.0005"/>'
        '<geom type="box" size="0.85 0.5 0.02" pos="0 0.12 -0.041" material="table" contype="0" conaffinity="0"/>'
        '<geom type="plane" size="12 12 0.1" pos="0 0 -0.9" material="floor" contype="0" conaffinity="0"/>'
    )
    for side_x, side_y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        size = f"{RIM if side_x else x + 2 * RIM} {RIM if side_y else y + 2 * RIM}"
        geoms += (
            f'<geom type="box" pos="{side_x * (x + RIM)} {side_y * (y + RIM)} {high - 0.02}" size="{size} {high}" '
            f'material="rim" contype="0" conaffinity="0"/>'
            f'<geom type="box" pos="{side_x * (x + 0.2)} {side_y * (y + 0.2)} 0.3" rgba="0 0 0 0" group="4" '
            f'size="{0.2 if side_x else 1} {0.2 if side_y else 1} 0.5" contype="1" conaffinity="0" '
            'friction="0.1 0.001 0.0001"/>'
        )
    return geoms


def _camera(rng: Generator) -> str:
    """Looks at the tray from the front and above, slightly different in every clip."""
    azimuth, elevation, far = rng.uniform(-0.12, 0.12), rng.uniform(0.66, 0.76), rng.uniform(1.12, 1.2)
    sine, cosine = math.sin(azimuth), math.cos(azimuth)
    aim = np.array([0, 0.06, 0.06]) + rng.uniform(-0.015, 0.015, size=3)
    forward = np.array([sine * math.cos(elevation), cosine * math.cos(elevation), -math.sin(elevation)])
    eye = aim - far * forward
    axes = (cosine, -sine, 0, sine * math.sin(elevation), cosine * math.sin(elevation), math.cos(elevation))
    return (
        f'<camera name="camera" pos="{eye[0]:.4f} {eye[1]:.4f} {eye[2]:.4f}" '
        f'xyaxes="{" ".join(f"{v:.4f}" for v in axes)}" fovy="40"/>'
    )


def _light(rng: Generator, shadows: bool) -> str:
    """A warm lamp above over light from everywhere; closes <visual>."""
    warmth, bright, ambient = rng.uniform(0.0, 0.06), rng.uniform(0.5, 0.62), rng.uniform(0.3, 0.38)
    yaw, tilt = rng.uniform(-math.pi, math.pi), rng.uniform(0.2, 0.6)
    x, y = math.cos(yaw) * math.tan(tilt), math.sin(yaw) * math.tan(tilt)
    lamp = f"{bright * (1 + warmth):.3f} {bright:.3f} {bright * (1 - warmth):.3f}"
    return (
        f'<headlight ambient="{ambient:.3f} {ambient:.3f} {ambient:.3f}" diffuse="0.25 0.25 0.25" '
        'specular="0.1 0.1 0.1"/>'
        f'</visual><worldbody><light type="directional" pos="{x:.3f} {y:.3f} 1" dir="{-x:.3f} {-y:.3f} -1" '
        f'diffuse="{lamp}" specular="0.4 0.4 0.4" castshadow="{str(shadows).lower()}"/></worldbody>'
    )
