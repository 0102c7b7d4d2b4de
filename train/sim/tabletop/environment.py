"""One scene in MuJoCo: moved by actions, drawn, saved and taken back to a saved state.

The only module that needs the package mujoco, and OpenGL without a screen: on Debian `apt install libegl1 libegl-mesa0
libgl1-mesa-dri`, or libosmesa6 and MUJOCO_GL=osmesa in the environment. Neither is touched before the first table.
"""

from __future__ import annotations

import math
import os
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from train.sim.tabletop.scene import Scene

TOP_SPEED = 1.0  # metres a second, of an action of length 1
STEPS_A_SECOND = 200
LINKS = 2  # of the pusher, x and y, which come first in the state


@cache
def load_mujoco() -> tuple[ModuleType, Any]:
    """MuJoCo and the OpenGL context of this process, on one thread. RuntimeError says what is missing."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import mujoco

        screen = mujoco.GLContext(64, 64)
        screen.make_current()
    except Exception as error:  # whatever a driver raises that is not there
        raise RuntimeError(
            "the tabletop needs mujoco (pip install mujoco) and OpenGL without a screen (apt install libegl1 "
            f"libegl-mesa0 libgl1-mesa-dri, or libosmesa6 and MUJOCO_GL=osmesa): {error}"
        ) from error
    return mujoco, screen


class Table:
    """A simulated scene; use it in a `with`, which gives its graphics memory back.

    A frame is as many steps of the simulation as fill 1/fps seconds under one action.
    """

    def __init__(self, scene: Scene, size: int, oversampling: int, fps: int) -> None:
        mj, _ = load_mujoco()
        self.scene, self.size, self.oversampling = scene, size, oversampling
        self.steps = STEPS_A_SECOND // fps
        self.model = mj.MjModel.from_xml_string(scene.xml)
        for name, pixels in scene.textures.items():
            texture = self.model.texture(name)
            begin = int(self.model.tex_adr[texture.id])
            self.model.tex_data[begin : begin + pixels.size] = pixels.ravel()
        self.data = mj.MjData(self.model)
        self.data.qpos[:LINKS] = scene.pusher
        self.objects = len(scene.shapes)
        self._canvas: Any = None  # made when something is drawn

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        if self._canvas is not None:
            self._canvas.free()
            self._canvas = None

    # what is where

    @property
    def poses(self) -> np.ndarray:
        """Places (3) and quaternions (4) of the objects, (objects, 7)."""
        return self.data.qpos[LINKS:].reshape(self.objects, 7).copy()

    @property
    def pusher(self) -> np.ndarray:
        return self.data.qpos[:LINKS].copy()

    @property
    def pusher_velocity(self) -> np.ndarray:
        """Metres a second, (2,)."""
        return self.data.qvel[:LINKS].copy()

    @property
    def last_action(self) -> np.ndarray:
        return self.data.ctrl / TOP_SPEED

    @property
    def state(self) -> np.ndarray:
        """All that the next step depends on, (S,) float64: setting it and acting alike gives the same to the bit."""
        mj, _ = load_mujoco()
        part = mj.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mj.mj_stateSize(self.model, part))
        mj.mj_getState(self.model, self.data, state, part)
        return state

    @state.setter
    def state(self, state: np.ndarray) -> None:
        mj, _ = load_mujoco()
        mj.mj_setState(self.model, self.data, state, mj.mjtState.mjSTATE_INTEGRATION)

    def act(self, action: np.ndarray) -> None:
        """One frame in which the pusher is asked for a velocity: (2,) in the unit circle."""
        mj, _ = load_mujoco()
        self.data.ctrl[:] = TOP_SPEED * action
        mj.mj_step(self.model, self.data, self.steps)

    # pictures

    @property
    def camera(self) -> np.ndarray:
        """Its rotation (9) and place (3) in the world, and its focal length in pixels of `draw`, (13,)."""
        mj, _ = load_mujoco()
        mj.mj_kinematics(self.model, self.data)
        mj.mj_camlight(self.model, self.data)
        focal = self.size / 2 / math.tan(math.radians(self.model.cam_fovy[0]) / 2)
        return np.concatenate([self.data.cam_xmat[0], self.data.cam_xpos[0], [focal]])

    @property
    def pusher_pixel(self) -> np.ndarray:
        """Where `draw` has the middle of the pusher's ball, hidden or not: (x, y), (0, 0) the first pixel's middle."""
        turned, eye, focal = np.split(self.camera, [9, 12])
        x, y, z = turned.reshape(3, 3).T @ (self.data.body("pusher").xpos - eye)
        return np.array([x / -z, y / z]) * focal + (self.size - 1) / 2

    def draw(self) -> np.ndarray:
        """The picture (size, size, 3) uint8."""
        drawn = self._render(named=False).astype(np.uint16)
        n = self.oversampling
        blocks = drawn.reshape(self.size, n, self.size, n, 3).sum(axis=(1, 3))
        return ((blocks + n * n // 2) // (n * n)).astype(np.uint8)

    def named(self) -> np.ndarray:
        """What each pixel shows, (size, size) int: the objects count from 0, -1 is the pusher, -2 what is fixed."""
        found = self._render(named=True).astype(int) @ [1, 256, 65536] - 1  # MuJoCo's numbers of what it drew
        owners = np.full(self._seen.ngeom + 1, -2)
        for geom in self._seen.geoms[: self._seen.ngeom]:
            if geom.segid >= 0 and geom.objid >= 0:
                owners[geom.segid] = self.model.geom_bodyid[geom.objid] - 2  # the world and the pusher come first
        return owners[found]

    def _render(self, named: bool) -> np.ndarray:
        mj, screen = load_mujoco()
        screen.make_current()
        if self._canvas is None:
            self._canvas = mj.MjrContext(self.model, mj.mjtFontScale.mjFONTSCALE_50)
            mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._canvas)
            self._seen, self._option, self._camera = mj.MjvScene(self.model, 100), mj.MjvOption(), mj.MjvCamera()
            self._camera.type, self._camera.fixedcamid = mj.mjtCamera.mjCAMERA_FIXED, 0
        mj.mj_kinematics(self.model, self.data)
        mj.mj_camlight(self.model, self.data)
        every = mj.mjtCatBit.mjCAT_ALL
        mj.mjv_updateScene(self.model, self.data, self._option, None, self._camera, every, self._seen)
        for flag in (mj.mjtRndFlag.mjRND_SEGMENT, mj.mjtRndFlag.mjRND_IDCOLOR):
            self._seen.flags[flag] = named
        self._seen.flags[mj.mjtRndFlag.mjRND_SHADOW] = not named
        side = self.size * (1 if named else self.oversampling)  # the middles of pixels are the same
        picture, whole = np.empty((side, side, 3), np.uint8), mj.MjrRect(0, 0, side, side)
        mj.mjr_render(whole, self._seen, self._canvas)
        mj.mjr_readPixels(picture, None, whole, self._canvas)
        return picture[::-1]  # OpenGL counts rows from below
