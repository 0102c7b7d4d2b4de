"""MuJoCo, and what environments of all worlds share: pictures, segmentations, states.

The only module that imports mujoco. It needs OpenGL without a screen: on Debian `apt install libegl1 libegl-mesa0
libgl1-mesa-dri`, or libosmesa6 and MUJOCO_GL=osmesa in the environment. Both are loaded with the first scene.
"""

from __future__ import annotations

import math
import os
from functools import cache
from types import ModuleType
from typing import Any, Self

import numpy as np

STEPS_PER_SECOND = 200
BACKGROUND, AGENT = -2, -1  # classes of a segmentation; objects count from 0
MAX_GEOMS = 200


@cache
def load_mujoco() -> tuple[ModuleType, Any]:
    """MuJoCo and the OpenGL context of this process, on one thread. RuntimeError says what is missing."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import mujoco

        context = mujoco.GLContext(64, 64)
        context.make_current()
    except Exception as error:  # a missing driver raises anything
        raise RuntimeError(
            "the simulator needs mujoco (pip install mujoco) and OpenGL without a screen (apt install libegl1 "
            f"libegl-mesa0 libgl1-mesa-dri, or libosmesa6 and MUJOCO_GL=osmesa): {error}"
        ) from error
    return mujoco, context


class MujocoEnvironment:
    """A simulated scene, rendered by its first camera. Use it in a `with`, which frees its graphics memory.

    model: a MjModel. A frame is 1/fps seconds of simulation under one action, (size, size) pixels, each the mean of
    oversampling^2 rendered ones. owners: what each body belongs to, (bodies,), as segmentations name it.
    """

    cull_faces = True  # leave out the back of surfaces

    def __init__(self, model: Any, size: int, oversampling: int, fps: int, owners: np.ndarray) -> None:
        mj, _ = load_mujoco()
        self.model, self.data = model, mj.MjData(model)
        self.size, self.oversampling, self.steps = size, oversampling, STEPS_PER_SECOND // fps
        self._owners = owners
        self._renderer: Any = None  # made with the first picture

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._renderer is not None:
            self._renderer.free()
            self._renderer = None

    # ---- state -----------------------------------------------------------------------------------------

    @property
    def state(self) -> np.ndarray:
        """All that the next step depends on, (S,) float64. The same state and actions lead to the same bits."""
        mj, _ = load_mujoco()
        part = mj.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mj.mj_stateSize(self.model, part))
        mj.mj_getState(self.model, self.data, state, part)
        return state

    @state.setter
    def state(self, state: np.ndarray) -> None:
        mj, _ = load_mujoco()
        mj.mj_setState(self.model, self.data, state, mj.mjtState.mjSTATE_INTEGRATION)
        mj.mj_kinematics(self.model, self.data)

    # ---- pictures --------------------------------------------------------------------------------------

    @property
    def camera(self) -> np.ndarray:
        """Rotation (9) and position (3) in the world, and focal length in pixels of `render`, (13,)."""
        self._update_camera()
        focal = self.size / 2 / math.tan(math.radians(self.model.cam_fovy[0]) / 2)
        return np.concatenate([self.data.cam_xmat[0], self.data.cam_xpos[0], [focal]])

    def render(self) -> np.ndarray:
        """The picture (size, size, 3) uint8."""
        large, n = self._render(segmented=False).astype(np.uint16), self.oversampling
        sums = large.reshape(self.size, n, self.size, n, 3).sum(axis=(1, 3))
        return ((sums + n * n // 2) // (n * n)).astype(np.uint8)

    def segmentation(self) -> np.ndarray:
        """What each pixel shows, (size, size) int8: objects from 0 on, -1 the agent, -2 the background."""
        geoms = self._render(segmented=True).astype(int) @ [1, 256, 65536] - 1
        owners = np.full(self._scene.ngeom + 1, BACKGROUND, np.int8)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objid >= 0:
                owners[geom.segid] = self._owners[self.model.geom_bodyid[geom.objid]]
        return owners[geoms]

    def _update_camera(self) -> None:
        mj, _ = load_mujoco()
        mj.mj_kinematics(self.model, self.data)
        mj.mj_camlight(self.model, self.data)

    def _render(self, segmented: bool) -> np.ndarray:
        mj, context = load_mujoco()
        context.make_current()
        if self._renderer is None:
            self._renderer = mj.MjrContext(self.model, mj.mjtFontScale.mjFONTSCALE_50)
            mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._renderer)
            self._scene, self._option, self._camera = mj.MjvScene(self.model, MAX_GEOMS), mj.MjvOption(), mj.MjvCamera()
            self._camera.type, self._camera.fixedcamid = mj.mjtCamera.mjCAMERA_FIXED, 0
            self._option.sitegroup[:] = 0
        self._update_camera()
        everything = mj.mjtCatBit.mjCAT_ALL
        mj.mjv_updateScene(self.model, self.data, self._option, None, self._camera, everything, self._scene)
        for flag in (mj.mjtRndFlag.mjRND_SEGMENT, mj.mjtRndFlag.mjRND_IDCOLOR):
            self._scene.flags[flag] = segmented
        self._scene.flags[mj.mjtRndFlag.mjRND_SHADOW] = not segmented
        self._scene.flags[mj.mjtRndFlag.mjRND_CULL_FACE] = self.cull_faces
        side = self.size * (1 if segmented else self.oversampling)  # the centres of pixels are the same
        picture, viewport = np.empty((side, side, 3), np.uint8), mj.MjrRect(0, 0, side, side)
        mj.mjr_render(viewport, self._scene, self._renderer)
        mj.mjr_readPixels(picture, None, viewport, self._renderer)
        return picture[::-1]  # OpenGL counts rows from below
