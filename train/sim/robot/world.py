"""Clips of a robot arm that pushes objects, and simulated futures of any of them.

In the spirit of BAIR robot pushing (Ebert et al., arXiv 1710.05268). A clip depends on (split, seed, index) alone where
MuJoCo and metaworld are of the same version; another OpenGL may change the last bits of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from stt.api import Video
from train.sim.environment import STEPS_PER_SECOND
from train.sim.robot.arm import arm_folder
from train.sim.robot.environment import LEAD, TOP_SPEED, RobotEnvironment
from train.sim.robot.scene import COLOURS, REACH, random_scene
from train.sim.world import World, to_video

RobotSplit = Literal["train", "test", "straight_line"]
WARM_UP = 8  # frames before a clip begins, in which the hand sets off
CLEARANCE = 0.08  # metres around an object in which the hand is not lowered


@dataclass(frozen=True, kw_only=True)
class RobotConfig:
    """What clips show. The sizes, shadows and length change nothing of what happens."""

    image_size: int = 128  # pixels a side
    render_size: int = 256  # pixels a side of the render that pictures are averaged from
    shadow_size: int = 512  # texels a side of the shadow map; 0 draws no shadows
    frames: int = 30
    fps: int = 10
    min_objects: int = 3
    max_objects: int = 7

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects <= len(COLOURS):
            raise ValueError(
                f"objects are {self.min_objects} to {self.max_objects}, must be within 1 to {len(COLOURS)}"
            )
        if self.frames < 1 or self.fps < 1 or STEPS_PER_SECOND % self.fps:
            raise ValueError(f"frames is {self.frames}, fps {self.fps}: at least 1, and fps divides {STEPS_PER_SECOND}")
        if self.image_size < 8 or self.render_size % self.image_size:
            raise ValueError(
                f"image_size is {self.image_size}, must be at least 8 and divide render_size {self.render_size}"
            )


class RobotClip(NamedTuple):
    """A clip and its ground truth. Poses are positions (3) in metres and quaternions (4), w first."""

    video: Video  # (T, 3, H, W)
    actions: Tensor  # (T, 3) velocity of the hand (right, forward, up) over TOP_SPEED, from frame t to t + 1
    hand_poses: Tensor  # (T, 7)
    object_poses: Tensor  # (T, objects, 7)
    segmentation: Tensor  # (T, H, W) int8: objects from 0, -1 the arm, -2 the background
    camera: Tensor  # (13,) rotation (9), position (3), focal length in pixels
    shapes: Tensor  # (objects,) int64, indices into SHAPES
    colours: Tensor  # (objects,) int64, indices into PALETTE
    states: Tensor  # (T, S) float64, the simulator's state at every frame
    seed: int
    index: int


class Robot(World):
    """The robot's clips.

    In clips of "straight_line" the hand goes straight on to the edge of its reach and stays there, as under a person's
    keys, which `next_action` never does. They teach what then happens, but no policy is to imitate them.
    """

    name, clip_type, object_colours = "robot", RobotClip, COLOURS

    def __init__(self, config: RobotConfig, split: RobotSplit) -> None:
        super().__init__(config, split, get_args(RobotSplit))

    def next_action(self, env: RobotEnvironment, rng: Generator) -> np.ndarray:
        return next_action(env, rng)

    def clip(self, seed: int, index: int) -> RobotClip:
        """One clip, its actions drawn by `next_action` or `straight_action`."""
        rng, moments = self.rng("actions", seed, index), []
        policy = straight_action if self.split == "straight_line" else next_action
        with self.environment(seed, index) as env:
            for _ in range(WARM_UP):
                env.act(policy(env, rng))
            for _ in range(self.config.frames):
                action = policy(env, rng)
                pictures = env.render(), env.segmentation()
                moments.append((*pictures, action, env.hand_pose, env.object_poses, env.state))
                env.act(action)
            camera = torch.from_numpy(env.camera).float()
            shapes, colours = torch.from_numpy(env.scene.shapes), torch.from_numpy(env.scene.colours)
        stacked = (torch.from_numpy(np.stack(part)) for part in zip(*moments, strict=True))
        frames, segmentation, actions, hand, objects, states = stacked
        return RobotClip(
            video=to_video(frames), actions=actions, hand_poses=hand, object_poses=objects, segmentation=segmentation,
            camera=camera, shapes=shapes, colours=colours, states=states, seed=seed, index=index,
        )  # fmt: skip

    def with_actions(self, clip: RobotClip, at_frame: int, actions: Tensor) -> Video:
        """As `World.with_actions`, with actions rounded to 0.0001: the float32 actions of a stored set are exact."""
        return super().with_actions(clip, at_frame, actions.double().round(decimals=4))

    def agent_pixels(self, clip: RobotClip) -> Tensor:
        return hand_pixels(clip.hand_poses, clip.camera, self.config.image_size)

    def require(self) -> None:
        super().require()
        arm_folder()

    def environment(self, seed: int, index: int) -> RobotEnvironment:
        """The clip's scene before anything has moved, for a `with`."""
        c = self.config
        scene = random_scene(self.rng("scene", seed, index), c.min_objects, c.max_objects, c.render_size, c.shadow_size)
        return RobotEnvironment(scene, c.image_size, c.render_size // c.image_size, c.fps)


def hand_pixels(hand_poses: Tensor, camera: Tensor, image_size: int) -> Tensor:
    """Where pictures show the point between the fingers, hidden or not.

    Poses (..., T, 7) and cameras (..., 13), whose focal length is in these pictures' pixels -> (..., T, 2) as (x, y) in
    pixels; (0, 0) is the centre of the first.
    """
    rotation, eye, focal = camera[..., :9].unflatten(-1, (3, 3)), camera[..., 9:12], camera[..., 12:]
    local = (hand_poses[..., :3].float() - eye[..., None, :]) @ rotation  # (..., T, 3) in the camera's axes
    x, y, z = local.unbind(dim=-1)
    return torch.stack([x, -y], dim=-1) / -z[..., None] * focal[..., None] + (image_size - 1) / 2


def next_action(env: RobotEnvironment, rng: Generator) -> np.ndarray:
    """A random action (3,) that goes on as the last did, and now and then turns to an object, rises or comes down.

    It depends on what a clip shows: where things are and how the hand moves. The hand turns more often where it rests,
    is stopped or comes to the edge. It comes down only where nothing is below. Every call takes the same count of
    random numbers. Actions are multiples of 0.01.
    """
    turn, aim, speed, which, rise, sink = rng.uniform(size=6)
    jitter, change = rng.normal(size=(2, 2))
    last, hand, objects = env.last_action, env.hand_pose[:3], env.object_poses[:, :2]
    low, high = hand[2] < REACH[0][2] + 0.015, hand[2] > REACH[1][2] - 0.02
    level = last[:2]
    beyond = hand[:2] + 0.2 * TOP_SPEED * level
    outside = (beyond < REACH[0][:2]).any() or (beyond > REACH[1][:2]).any()
    stopped = np.hypot(*env.hand_lag[:2]) > 0.9 * LEAD
    if turn < (0.7 if outside or stopped or np.hypot(*level) < 0.15 else 0.06):
        target = (
            objects[int(which * len(objects))] + 0.02 * jitter if aim < (0.9 if low else 0.3) else (0.12, 0.08) * jitter
        )
        away = target - hand[:2]
        level = (0.0 if aim > 0.97 else 0.4 + 0.6 * speed) * away / max(np.hypot(*away), 1e-6)
    else:
        sine, cosine = np.sin(0.09 * change[0]), np.cos(0.09 * change[0])
        level = (1 + 0.06 * change[1]) * np.array([[cosine, -sine], [sine, cosine]]) @ level
    level = level / max(np.hypot(*level), 1.0)
    free = np.hypot(*(objects - hand[:2]).T).min() > CLEARANCE
    if low:
        up = 0.8 if rise < 0.012 else 0.0
    elif last[2] > 0 and not high:
        up = last[2]
    else:
        up = -0.8 if free and (sink < 0.5 or last[2] < 0) else 0.0
    return np.round([*level, up], 2)


def straight_action(env: RobotEnvironment, rng: Generator) -> np.ndarray:
    """An action (3,) that mostly stays, at times another: along an axis at full speed, any way, or rest."""
    change, which, speed, direction, up = rng.uniform(size=5)
    if np.hypot(*env.last_action[:2]) > 0 and change > 0.08:
        return env.last_action
    if which < 0.5:
        direction, speed = np.floor(4 * direction) / 4, 1.0
    speed = 0.0 if which > 0.95 else 0.3 + 0.7 * speed
    level = speed * np.array([np.cos(2 * np.pi * direction), np.sin(2 * np.pi * direction)])
    return np.round([*level, 0.8 if up > 0.9 else -0.8 if up < 0.1 else 0.0], 2)
