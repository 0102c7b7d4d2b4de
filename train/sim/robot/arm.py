"""The Sawyer arm: its files in the installed package metaworld, simplified, painted and made ready to push.

metaworld (arXiv 1910.10897) has the MIT licence. Its meshes and one XML file are read, its Python code is not imported.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

BASE = (0.0, 0.68)  # x, y of the arm's base, behind the tray
GRIP = 0.022  # of a finger from the middle
ARM_MASS = 0.1  # of the true one: the weld's force grows with it, and an object between hand and rim is not crushed
ARM_ANGLES = (-0.6, -1.0, 0.5, 1.7, 0.1, 0.9, 2.0)  # of the joints before the hand is placed
MESH_CELL = 0.005  # metres
LINKS = ("base", "head", "l0", "l1", "l2", "l3", "l4", "l5", "l6", "eGripperBase", "pedestal")
FINGERS, GRIPPER = ("rightclaw", "leftclaw", "rightpad", "leftpad"), ("hand", "right_hand")  # bodies
OUT_OF_SIGHT = ("head", "pedestal")  # meshes

_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def arm_folder() -> Path:
    """The folder of metaworld's models. Finding it does not import metaworld."""
    spec = importlib.util.find_spec("metaworld")
    if spec is None or spec.origin is None:
        raise RuntimeError("the robot needs the package metaworld: pip install metaworld==3.0.0")
    return Path(spec.origin).parent / "assets"


@cache
def arm_meshes() -> dict[str, bytes]:
    """The arm's simplified meshes, STL by file name."""
    folder = arm_folder() / "objects" / "meshes" / "xyz_base"
    return {f"{link}.stl": _simplified((folder / f"{link}.stl").read_bytes()) for link in LINKS}


def _simplified(stl: bytes) -> bytes:
    """A mesh whose vertices in each cell of a grid became one, their mean (Rossignac and Borrel, 1993).

    At 128x128 it looks the same and is rendered in two thirds of the time.
    """
    count = int.from_bytes(stl[80:84], "little")
    points = np.frombuffer(stl, _STL, count=count, offset=84)["corners"].reshape(-1, 3)
    _, cells = np.unique(np.round(points / MESH_CELL), axis=0, return_inverse=True)
    cells = cells.ravel()
    means = np.stack([np.bincount(cells, axis) for axis in points.T], axis=1) / np.bincount(cells)[:, None]
    triangles = np.sort(cells.reshape(-1, 3), axis=1)
    proper = (np.diff(triangles, axis=1) > 0).all(axis=1)  # its corners are three cells
    _, first = np.unique(triangles[proper], axis=0, return_index=True)
    records = np.zeros(len(first), _STL)
    records["corners"] = means[cells.reshape(-1, 3)[proper][np.sort(first)]]
    return bytes(80) + len(records).to_bytes(4, "little") + records.tobytes()


def prepare_arm(spec: Any, rng: Generator) -> None:
    """Places the arm of metaworld's file, fixes its fingers, makes it light, and paints it. Only the gripper collides.

    spec: a MjSpec that includes the file, with a camera "camera" and bodies "object0", ..., which stay as they are.
    """
    base = spec.body("base")
    base.pos, base.quat = (*BASE, 0), (0, 0, 0, 1)  # it faces the camera
    spec.body("rightclaw").pos, spec.body("leftclaw").pos = (0, -GRIP, 0), (0, GRIP, 0)
    spec.geom("rail").size[1] = GRIP
    for camera in list(spec.cameras):
        if camera.name != "camera":
            spec.delete(camera)
    for joint in list(spec.joints):
        if joint.name in ("r_close", "l_close"):
            spec.delete(joint)
        elif joint.name.startswith("right_j"):
            joint.damping = ARM_MASS * joint.damping
    red = rng.uniform(0.52, 0.7)
    black, white = rng.uniform(0.08, 0.16), rng.uniform(0.82, 0.95)
    for body in spec.bodies:
        if body.name == "world" or body.name.startswith("object"):
            continue
        body.gravcomp = 1
        body.mass, body.inertia = ARM_MASS * body.mass, ARM_MASS * body.inertia
        for geom in body.geoms:
            geom.contype, geom.conaffinity = (4, 0) if body.name in (*FINGERS, *GRIPPER) else (0, 0)
            geom.friction = (0.4, 0.005, 0.0001)
            geom.mass, geom.density = ARM_MASS * geom.mass, ARM_MASS * geom.density
            if body.name in FINGERS:
                geom.rgba = (white, white, white, 1)
            elif body.name in GRIPPER:
                geom.rgba = (black, black, black, 1)
            elif geom.meshname and geom.meshname not in OUT_OF_SIGHT:
                geom.rgba = (red, 0.14 * red, 0.12 * red, 1)
            else:
                geom.rgba = (0, 0, 0, 0)
