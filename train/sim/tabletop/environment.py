"""One tabletop scene in MuJoCo, stepped by actions."""

from __future__ import annotations

import numpy as np

from train.sim.environment import MujocoEnvironment, load_mujoco
from train.sim.tabletop.scene import Scene

TOP_SPEED = 1.0  # metres a second, of an action of length 1
PUSHER_DOF = 2  # x and y of the pusher come first in the state


class Environment(MujocoEnvironment):
    """A simulated scene of the tabletop; the agent is the pusher."""

    def __init__(self, scene: Scene, size: int, oversampling: int, fps: int) -> None:
        mj, _ = load_mujoco()
        model = mj.MjModel.from_xml_string(scene.xml)
        for name, pixels in scene.textures.items():
            begin = int(model.tex_adr[model.texture(name).id])
            model.tex_data[begin : begin + pixels.size] = pixels.ravel()
        owners = np.arange(model.nbody) - 2  # the world and the pusher come first
        super().__init__(model, size, oversampling, fps, owners)
        self.scene, self.objects = scene, len(scene.shapes)
        self.data.qpos[:PUSHER_DOF] = scene.pusher

    @property
    def poses(self) -> np.ndarray:
        """Positions (3) and quaternions (4) of the objects, (objects, 7)."""
        return self.data.qpos[PUSHER_DOF:].reshape(self.objects, 7).copy()

    @property
    def pusher(self) -> np.ndarray:
        """Position (x, y) in metres, (2,)."""
        return self.data.qpos[:PUSHER_DOF].copy()

    @property
    def pusher_velocity(self) -> np.ndarray:
        """Metres a second, (2,)."""
        return self.data.qvel[:PUSHER_DOF].copy()

    @property
    def last_action(self) -> np.ndarray:
        return self.data.ctrl / TOP_SPEED

    def act(self, action: np.ndarray) -> None:
        """Simulates one frame. The action is the pusher's target velocity, (2,) in the unit circle."""
        mj, _ = load_mujoco()
        self.data.ctrl[:] = TOP_SPEED * action
        mj.mj_step(self.model, self.data, self.steps)

    @property
    def pusher_pixel(self) -> np.ndarray:
        """Centre of the pusher's ball in the picture, hidden or not: (x, y); (0, 0) is the first pixel's centre."""
        rotation, eye, focal = np.split(self.camera, [9, 12])
        x, y, z = rotation.reshape(3, 3).T @ (self.data.body("pusher").xpos - eye)
        return np.array([x / -z, y / z]) * focal + (self.size - 1) / 2
