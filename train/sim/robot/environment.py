"""One scene of the robot in MuJoCo, stepped by actions."""

from __future__ import annotations

import math

import numpy as np

from train.sim.environment import AGENT, BACKGROUND, STEPS_PER_SECOND, MujocoEnvironment, load_mujoco
from train.sim.robot.arm import ARM_ANGLES
from train.sim.robot.scene import REACH, Scene

TOP_SPEED = 0.35  # metres a second along each axis, of an action of 1
JOINTS = 7  # of the arm, which come first in qpos
LEAD = 0.02  # metres that the hand's target may be ahead of the hand, which limits the force on objects


class RobotEnvironment(MujocoEnvironment):
    """A simulated scene of the robot; the agent is the arm.

    An action is the hand's velocity (right, forward, up) over TOP_SPEED, each in [-1, 1], as the picture shows it:
    forward is away from the camera. The hand keeps within REACH.
    """

    cull_faces = False  # the arm's meshes have gaps, which show its inside

    def __init__(self, scene: Scene, size: int, oversampling: int, fps: int) -> None:
        model, self.scene, self.objects = scene.model, scene, len(scene.shapes)
        owners = np.full(model.nbody, AGENT)
        owners[0] = BACKGROUND
        for k in range(self.objects):
            owners[model.body(f"object{k}").id] = k
        super().__init__(model, size, oversampling, fps, owners)
        self._hand = model.body("hand").id
        self._place_hand()

    def _place_hand(self) -> None:
        """Lets the weld pull the arm to above where the hand begins, without contacts, then lowers the hand."""
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

    @property
    def object_poses(self) -> np.ndarray:
        """Positions (3) and quaternions (4, w first) of the objects, (objects, 7)."""
        return self.data.qpos[JOINTS:].reshape(self.objects, 7).copy()

    @property
    def hand_pose(self) -> np.ndarray:
        """Position (3) and quaternion (4, w first) of the hand, (7,)."""
        return np.concatenate([self.data.xpos[self._hand], self.data.xquat[self._hand]])

    @property
    def hand_lag(self) -> np.ndarray:
        """Distance of the hand from its target, (3,) metres: up to LEAD where something stops it."""
        return self.data.mocap_pos[0] - self.data.xpos[self._hand]

    @property
    def last_action(self) -> np.ndarray:
        """(3,); zeros before the first."""
        return self.data.userdata.copy()

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
