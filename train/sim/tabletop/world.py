"""Clips of a tabletop on which a pusher moves coloured objects, and simulated futures of any of them.

MuJoCo simulates and renders; train/sim/environment.py says what that needs. Clips are the same
wherever MuJoCo is of the same version, except for the last bits of pixels where another OpenGL renders them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from stt.api import Video
from train.seeding import generator_for
from train.sim.environment import STEPS_PER_SECOND
from train.sim.tabletop.environment import TOP_SPEED, Environment
from train.sim.tabletop.scene import HALF, PALETTE, PUSHER, random_scene
from train.sim.world import World, to_video

TabletopSplit = Literal["train", "test", "straight_line"]
SEED_WORDS = {"straight_line": "steady"}  # by which a split's clips are seeded, where it is not its name
WARM_UP = 8  # frames before a clip begins, in which things settle and the pusher sets off


@dataclass(frozen=True, kw_only=True)
class TabletopConfig:
    """What clips show. Picture size, rendering and length change nothing of what happens."""

    image_size: int = 64
    frames: int = 30
    fps: int = 10
    least_objects: int = 3
    most_objects: int = 7
    oversampling: int = 3  # pictures are rendered so many times larger, then averaged
    shadows: int = 512  # side of the shadow map in texels; 0 draws none, in half the time

    def __post_init__(self) -> None:
        if not 1 <= self.least_objects <= self.most_objects <= 8:
            raise ValueError(f"objects are {self.least_objects} to {self.most_objects}, must be within 1 to 8")
        if self.frames < 1 or self.fps < 1 or STEPS_PER_SECOND % self.fps:
            raise ValueError(f"frames is {self.frames}, fps {self.fps}: at least 1, and fps divides {STEPS_PER_SECOND}")
        if self.image_size < 8 or self.oversampling < 1:
            raise ValueError(f"image_size is {self.image_size}, oversampling {self.oversampling}: at least 8 and 1")


class TabletopClip(NamedTuple):
    """A clip and its ground truth."""

    video: Video  # (T, 3, H, W)
    actions: Tensor  # (T, 2) in the unit circle: the pusher's target velocity (x, y) from frame t to t + 1
    poses: Tensor  # (T, objects, 7): positions (3) in metres and quaternions (4), w first
    pusher: Tensor  # (T, 2) position (x, y) in metres
    shapes: Tensor  # (objects,) int64, indices into SHAPES
    colours: Tensor  # (objects,) int64, indices into PALETTE
    states: Tensor  # (T, S) float64, the simulator's state at every frame
    seed: int
    index: int


class Tabletop(World):
    """The tabletop's clips.

    In clips of "straight_line" the pusher goes straight on, walls or not, as a person at the controls might and
    `next_action` never does. They teach what then happens, but no policy is to imitate them.
    """

    name, clip_type, object_colours = "tabletop", TabletopClip, range(len(PALETTE))

    def __init__(self, config: TabletopConfig, split: TabletopSplit) -> None:
        super().__init__(config, split, get_args(TabletopSplit))

    def next_action(self, env: Environment, rng: Generator) -> np.ndarray:
        return next_action(env, rng)

    def clip(self, seed: int, index: int) -> TabletopClip:
        """One clip, its actions drawn by `next_action` or `straight_action`."""
        rng, moments = self.rng("actions", seed, index), []
        policy = straight_action if self.split == "straight_line" else next_action
        with self.environment(seed, index) as env:
            for _ in range(WARM_UP):
                env.act(policy(env, rng))
            for _ in range(self.config.frames):
                action = policy(env, rng)
                moments.append((env.render(), action, env.poses, env.pusher, env.state))
                env.act(action)
            shapes, colours = torch.from_numpy(env.scene.shapes), torch.from_numpy(env.scene.colours)
        stacked = (torch.from_numpy(np.stack(part)) for part in zip(*moments, strict=True))
        frames, actions, poses, pusher, states = stacked
        return TabletopClip(to_video(frames), actions, poses, pusher, shapes, colours, states, seed, index)

    def agent_pixels(self, clip: TabletopClip) -> Tensor:
        return self._at_every_frame(clip, lambda env: env.pusher_pixel).float()

    def segmentation(self, clip: TabletopClip) -> Tensor:
        """What each pixel shows, (T, H, W) int64: objects from 0 on, -1 the pusher, -2 the background."""
        return self._at_every_frame(clip, Environment.segmentation).long()

    def camera(self, clip: TabletopClip) -> Tensor:
        """Rotation (9), position (3) and focal length in pixels of the clip's camera, (13,)."""
        with self.environment(clip.seed, clip.index) as env:
            return torch.from_numpy(env.camera).float()

    def environment(self, seed: int, index: int) -> Environment:
        """The clip's scene before anything has moved, for a `with`."""
        c = self.config
        pixels = c.image_size * c.oversampling
        scene = random_scene(self.rng("scene", seed, index), c.least_objects, c.most_objects, pixels, c.shadows)
        return Environment(scene, c.image_size, c.oversampling, c.fps)

    def _at_every_frame(self, clip: TabletopClip, measure: Callable[[Environment], Any]) -> Tensor:
        values = []
        with self.environment(clip.seed, clip.index) as env:
            for state in clip.states.numpy():
                env.state = state
                values.append(measure(env))
        return torch.from_numpy(np.stack(values))

    def rng(self, *words: str | int) -> Generator:
        split = SEED_WORDS.get(self.split, self.split)
        return np.random.default_rng(generator_for(self.name, split, *words).initial_seed())


# ---- policies of the pusher --------------------------------------------------------------------------


def next_action(env: Environment, rng: Generator) -> np.ndarray:
    """The pusher's target velocity (2,) in the unit circle: it goes on as it does, and now and then turns to an object.

    Depends on what a clip shows: where things are, how the pusher moves, and its last action. It turns more often
    where it rests, is stuck or comes to a wall. Every call takes the same count of random numbers.
    """
    last, velocity = env.last_action, env.pusher_velocity / TOP_SPEED
    turn, aim, speed, which = rng.uniform(size=4)
    jitter, change = rng.normal(size=(2, 2))
    target_speed = np.hypot(*last)
    at_wall = (np.abs(env.pusher + 0.12 * last) > HALF - PUSHER).any()
    stuck = target_speed < 0.15 or np.hypot(*velocity) < 0.4 * target_speed or at_wall
    if turn < (0.7 if stuck else 0.06):
        target = env.poses[int(which * env.objects), :2] + 0.04 * jitter if aim < 0.9 else 0.2 * jitter
        away = target - env.pusher
        action = (0.0 if aim > 0.98 else 0.45 + 0.55 * speed) * away / max(np.hypot(*away), 1e-6)
    else:
        sine, cosine = np.sin(0.12 * change[0]), np.cos(0.12 * change[0])
        action = (1 + 0.06 * change[1]) * np.array([[cosine, -sine], [sine, cosine]]) @ last
    return np.round(action / max(np.hypot(*action) / 0.99, 1.0), 2)  # hundredths, which a stored set holds exactly


def straight_action(env: Environment, rng: Generator) -> np.ndarray:
    """The pusher's target velocity (2,) in the unit circle: straight on, at times another direction, or rest."""
    change, rest, speed, direction = rng.uniform(size=4)
    if np.hypot(*env.last_action) > 0 and change > 0.08:
        return env.last_action
    speed = 0.0 if rest > 0.9 else 0.3 + 0.69 * speed
    return np.round(speed * np.array([np.cos(2 * np.pi * direction), np.sin(2 * np.pi * direction)]), 2)
