"""One scene of the robot in MuJoCo: moved by actions, drawn, saved and restored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from train.sim.robot.arm import ARM_ANGLES
from train.sim.robot.scene import REACH, Scene
from train.table import load_mujoco

TOP_SPEED = 0.35  # metres a second along each axis, of an action of 1
STEPS_PER_SECOND = 200
JOINTS = 7  # of the arm, which come first in qpos
LEAD = 0.02  # metres that the hand's target may be ahead of the hand, which limits the force on objects
BACKGROUND, ARM = -2, -1  # classes of a segmentation; objects count from 0


class RobotEnv:
    """A simulated scene; use it in a `with`, which frees its graphics memory.

    A frame lasts 1/fps seconds and has one action: the hand's velocity (right, forward, up) over TOP_SPEED, each in
    [-1, 1], as the picture shows it: forward is away from the camera. The hand keeps within REACH.
    """

    def __init__(self, scene: Scene, image_size: int, supersampling: int, fps: int) -> None:
        mj, _ = load_mujoco()
        self.scene, self.image_size, self.supersampling = scene, image_size, supersampling
        self.steps = STEPS_PER_SECOND // fps
        self.model, self.data = scene.model, mj.MjData(scene.model)
        self.num_objects = len(scene.shapes)
        self._hand = self.model.body("hand").id
        self._object_of_body = np.full(self.model.nbody, ARM)
        self._object_of_body[0] = BACKGROUND
        for k in range(self.num_objects):
            self._object_of_body[self.model.body(f"object{k}").id] = k
        self._canvas: Any = None  # made at the first render
        self._place_hand()

    def __enter__(self) -> RobotEnv:
        return self

    def __exit__(self, *_: object) -> None:
        if self._canvas is not None:
            self._canvas.free()
            self._canvas = None

    def _place_hand(self) -> None:
        """Lets the weld draw the arm to above where the hand begins, untouched by objects, then lowers the hand."""
        mj, _ = load_mujoco()
        half, yaw = math.sqrt(0.5), self.scene.yaw / 2
        down, quat = np.array([0, -half, 0, half]), np.empty(4)  # the hand points down, its fingers side by side
        mj.mju_mulQuat(quat, np.array([math.cos(yaw), 0, 0, math.sin(yaw)]), down)
        self.data.qpos[:JOINTS] = ARM_ANGLES
        self.data.mocap_pos[0], self.data.mocap_quat[0] = (*self.scene.hand, REACH[1][2]), quat
        self.model.opt.disableflags = mj.mjtDisableBit.mjDSBL_CONTACT | mj.mjtDisableBit.mjDSBL_GRAVITY
        mj.mj_step(self.model, self.data, 3 * STEPS_PER_SECOND)
        self.model.opt.disableflags = 0
        self.data.qpos[JOINTS:], self.data.qvel[:] = self.model.qpos0[JOINTS:], 0
        mj.mj_kinematics(self.model, self.data)
        for _ in range(6):
            self.act(np.array([0.0, 0.0, -0.8]))

    # state

    @property
    def object_poses(self) -> np.ndarray:
        """Places (3) and quaternions (4, w first) of the objects, (objects, 7)."""
        return self.data.qpos[JOINTS:].reshape(self.num_objects, 7).copy()

    @property
    def hand_pose(self) -> np.ndarray:
        """Place (3) and quaternion (4, w first) of the hand, (7,)."""
        return np.concatenate([self.data.xpos[self._hand], self.data.xquat[self._hand]])

    @property
    def hand_lag(self) -> np.ndarray:
        """How far the hand is behind its target, (3,) metres: up to LEAD where something holds it."""
        return self.data.mocap_pos[0] - self.data.xpos[self._hand]

    @property
    def last_action(self) -> np.ndarray:
        """(3,); zeros before the first."""
        return self.data.userdata.copy()

    @property
    def state(self) -> np.ndarray:
        """All that the next step depends on, (S,) float64. Setting it and acting alike gives the same to the bit."""
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

    def act(self, action: np.ndarray) -> None:
        """One frame under an action (3,)."""
        mj, _ = load_mujoco()
        self.data.userdata[:] = action
        stride = TOP_SPEED * np.asarray(action) / STEPS_PER_SECOND
        for _ in range(self.steps):
            target = np.clip(self.data.mocap_pos[0] + stride, *REACH)
            ahead = target - self.data.xpos[self._hand]
            target -= ahead * max(0.0, 1 - LEAD / max(math.sqrt(ahead @ ahead), 1e-9))
            self.data.mocap_pos[0] = target
            mj.mj_step(self.model, self.data)
        mj.mj_kinematics(self.model, self.data)

    # pictures

    @property
    def camera(self) -> np.ndarray:
        """Its rotation (9) and place (3) in the world, and its focal length in pixels of `render`, (13,)."""
        mj, _ = load_mujoco()
        mj.mj_kinematics(self.model, self.data)
        mj.mj_camlight(self.model, self.data)
        focal = self.image_size / 2 / math.tan(math.radians(self.model.cam_fovy[0]) / 2)
        return np.concatenate([self.data.cam_xmat[0], self.data.cam_xpos[0], [focal]])

    def render(self) -> np.ndarray:
        """The picture (H, W, 3) uint8."""
        n = self.supersampling
        blocks = self._render(False).astype(np.uint16).reshape(self.image_size, n, self.image_size, n, 3)
        return ((blocks.sum(axis=(1, 3)) + n * n // 2) // (n * n)).astype(np.uint8)

    def segmentation(self) -> np.ndarray:
        """What each pixel shows, (H, W) int8: objects count from 0, -1 is the arm, -2 all that never moves."""
        ids = self._render(True).astype(int) @ [1, 256, 65536] - 1
        classes = np.full(self._scene.ngeom + 1, BACKGROUND, np.int8)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objid >= 0:
                classes[geom.segid] = self._object_of_body[self.model.geom_bodyid[geom.objid]]
        return classes[ids]

    def _render(self, segmentation: bool) -> np.ndarray:
        mj, screen = load_mujoco()
        screen.make_current()
        if self._canvas is None:
            self._canvas = mj.MjrContext(self.model, mj.mjtFontScale.mjFONTSCALE_50)
            mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._canvas)
            self._scene, self._option, self._camera = mj.MjvScene(self.model, 200), mj.MjvOption(), mj.MjvCamera()
            self._camera.type, self._camera.fixedcamid = mj.mjtCamera.mjCAMERA_FIXED, 0
            self._option.sitegroup[:] = 0
        mj.mj_kinematics(self.model, self.data)
        mj.mj_camlight(self.model, self.data)
        every = mj.mjtCatBit.mjCAT_ALL
        mj.mjv_updateScene(self.model, self.data, self._option, None, self._camera, every, self._scene)
        for flag in (mj.mjtRndFlag.mjRND_SEGMENT, mj.mjtRndFlag.mjRND_IDCOLOR):
            self._scene.flags[flag] = segmentation
        self._scene.flags[mj.mjtRndFlag.mjRND_SHADOW] = not segmentation
        self._scene.flags[mj.mjtRndFlag.mjRND_CULL_FACE] = False  # the arm's shells have gaps, which show its inside
        side = self.image_size * (1 if segmentation else self.supersampling)
        picture, whole = np.empty((side, side, 3), np.uint8), mj.MjrRect(0, 0, side, side)
        mj.mjr_render(whole, self._scene, self._canvas)
        mj.mjr_readPixels(picture, None, whole, self._canvas)
        return picture[::-1]  # OpenGL counts rows from below
