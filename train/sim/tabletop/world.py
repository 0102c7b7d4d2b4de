"""A tray of objects that a pusher drives around: clips in colour whose true futures can be simulated.

Simulated and drawn by MuJoCo; train/table.py says what that needs. Clips are the same wherever MuJoCo is of the same
version, but for pixels' last bits where another OpenGL draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from stt.api import Video
from train.seeding import generator_for
from train.sim.tabletop.environment import STEPS_A_SECOND, TOP_SPEED, Table
from train.sim.tabletop.scene import HALF, PUSHER, draw_scene

TraySplit = Literal["train", "test", "steady"]
WARM_UP = 8  # frames before a clip begins, in which things settle and the pusher gets on its way


@dataclass(frozen=True, kw_only=True)
class TabletopConfig:
    """What clips show. Size, drawing and length change nothing of what happens."""

    image_size: int = 64
    frames: int = 30
    fps: int = 10
    least_objects: int = 3
    most_objects: int = 7
    oversampling: int = 3  # pictures are drawn so many times larger, then averaged
    shadows: int = 512  # side of the shadow map in texels; 0 draws none, in half the time

    def __post_init__(self) -> None:
        if not 1 <= self.least_objects <= self.most_objects <= 8:
            raise ValueError(f"objects are {self.least_objects} to {self.most_objects}, must be within 1 to 8")
        if self.frames < 1 or self.fps < 1 or STEPS_A_SECOND % self.fps:
            raise ValueError(f"frames is {self.frames}, fps {self.fps}: at least 1, and fps divides {STEPS_A_SECOND}")
        if self.image_size < 8 or self.oversampling < 1:
            raise ValueError(f"image_size is {self.image_size}, oversampling {self.oversampling}: at least 8 and 1")


class TabletopClip(NamedTuple):
    """A clip and the truth behind it."""

    video: Video  # (T, 3, H, W)
    actions: Tensor  # (T, 2) in the unit circle: the velocity (x, y) asked of the pusher from frame t to t + 1
    poses: Tensor  # (T, objects, 7): place (3) in metres and turn (4), a quaternion, w first
    pusher: Tensor  # (T, 2) place (x, y) in metres
    shapes: Tensor  # (objects,) int64, which of SHAPES
    colours: Tensor  # (objects,) int64, which of PALETTE
    states: Tensor  # (T, S) float64, all of the simulator at every frame
    seed: int
    index: int


class Tabletop:
    """Endless clips of one split; a clip depends on (split, seed, index) alone, and splits share none.

    In those of "steady" the pusher is told to go straight on, walls or not, as a hand at the controls might and
    `next_action` never does: they teach what then happens, and are no futures that one would expect.
    """

    def __init__(self, config: TabletopConfig, split: TraySplit) -> None:
        if split not in get_args(TraySplit):
            raise ValueError(f"split is {split!r}, must be one of {', '.join(get_args(TraySplit))}")
        self.config, self.split = config, split

    def clip(self, seed: int, index: int) -> TabletopClip:
        """One clip, its actions drawn by `next_action`, or `steady_action`."""
        rng, drawn = self._rng("actions", seed, index), steady_action if self.split == "steady" else next_action
        moments = []
        with self.table(seed, index) as table:
            for _ in range(WARM_UP):
                table.act(drawn(table, rng))
            for _ in range(self.config.frames):
                action = drawn(table, rng)
                moments.append((table.draw(), action, table.poses, table.pusher, table.state))
                table.act(action)
            kinds = torch.from_numpy(np.stack([table.scene.shapes, table.scene.colours]))
        frames, actions, poses, pusher, states = (torch.from_numpy(np.stack(of)) for of in zip(*moments, strict=True))
        return TabletopClip(to_video(frames), actions, poses, pusher, *kinds, states, seed, index)

    def batch(self, size: int, seed: int, index: int) -> Video:
        """Clips (size, T, 3, H, W), simulated as they are asked for; training reads a packed set instead."""
        return torch.stack([self.clip(seed, index * size + k).video for k in range(size)])

    def futures(self, clip: TabletopClip, at_frame: int, frames: int, count: int, seed: int) -> Video:
        """True futures (count, frames, 3, H, W) of the clip's first `at_frame` frames.

        Each goes on from the very state of the prompt's last frame with other random actions. What the pusher was last
        told is still known, since its motion shows it; all that it is told from then on is drawn.
        """
        futures = []
        with self.table(clip.seed, clip.index) as table:
            for k in range(count):
                table.state = self._state(clip, at_frame)
                rng = self._rng("futures", clip.seed, clip.index, at_frame, seed, k)
                futures.append(torch.stack([_after(next_action(table, rng), table) for _ in range(frames)]))
        return to_video(torch.stack(futures))

    def obeyed(self, clip: TabletopClip, at_frame: int, actions: Tensor) -> Video:
        """What follows the clip's first `at_frame` frames under given actions (frames, 2) -> (frames, 3, H, W)."""
        with self.table(clip.seed, clip.index) as table:
            table.state = self._state(clip, at_frame)
            return to_video(torch.stack([_after(action, table) for action in actions.double().numpy()]))

    def pusher_pixels(self, clip: TabletopClip) -> Tensor:
        """Where each frame shows the pusher, (T, 2) as (x, y) in pixels; (0, 0) is the middle of the first."""
        places = []
        with self.table(clip.seed, clip.index) as table:
            for state in clip.states.numpy():
                table.state = state
                places.append(table.pusher_pixel)
        return torch.from_numpy(np.stack(places)).float()

    def segmentation(self, clip: TabletopClip) -> Tensor:
        """What each pixel shows, (T, H, W) int64: the objects count from 0, -1 is the pusher, -2 what is fixed."""
        named = []
        with self.table(clip.seed, clip.index) as table:
            for state in clip.states.numpy():
                table.state = state
                named.append(table.named())
        return torch.from_numpy(np.stack(named))

    def camera(self, clip: TabletopClip) -> Tensor:
        """Where the clip is seen from, (13,): see train/paths.py."""
        with self.table(clip.seed, clip.index) as table:
            return torch.from_numpy(table.camera).float()

    def table(self, seed: int, index: int) -> Table:
        """The clip's tray before anything has moved, for a `with`."""
        c = self.config
        pixels = c.image_size * c.oversampling
        scene = draw_scene(self._rng("scene", seed, index), c.least_objects, c.most_objects, pixels, c.shadows)
        return Table(scene, c.image_size, c.oversampling, c.fps)

    def _state(self, clip: TabletopClip, at_frame: int) -> np.ndarray:
        """The simulator's at the last of so many frames."""
        if not 1 <= at_frame <= len(clip.states):
            raise ValueError(f"at_frame is {at_frame}, must be 1 to {len(clip.states)}")
        return clip.states[at_frame - 1].numpy()

    def _rng(self, *words: str | int) -> Generator:
        return np.random.default_rng(generator_for("tabletop", self.split, *words).initial_seed())


def _after(action: np.ndarray, table: Table) -> Tensor:
    """The picture (H, W, 3) uint8 one frame later."""
    table.act(action)
    return torch.from_numpy(table.draw())


def to_video(frames: Tensor) -> Video:
    """Pictures (..., H, W, 3) uint8 -> (..., 3, H, W) in [-1, 1]."""
    return frames.movedim(-1, -3).float().div_(127.5).sub_(1)


def to_pictures(video: Video) -> np.ndarray:
    """What `to_video` takes, (..., H, W, 3) uint8, of videos (..., 3, H, W) in [-1, 1]."""
    return ((video + 1) * 127.5).round().byte().movedim(-3, -1).cpu().numpy()


def next_action(table: Table, rng: Generator) -> np.ndarray:
    """The pusher's wanted velocity (2,) in the unit circle: it goes on as it does, and now and then turns to an object.

    Depends on what can be seen: where things are, and how the pusher moves and has been told to. It turns more often
    where it rests, is stuck or comes to a wall. Every call takes the same count of random numbers.
    """
    last, moved = table.last_action, table.pusher_velocity / TOP_SPEED
    chance, aim, speed, which = rng.uniform(size=4)
    jitter, change = rng.normal(size=(2, 2))
    wanted = np.hypot(*last)
    outside = (np.abs(table.pusher + 0.12 * last) > HALF - PUSHER).any()
    stuck = wanted < 0.15 or np.hypot(*moved) < 0.4 * wanted or outside
    if chance < (0.7 if stuck else 0.06):
        target = table.poses[int(which * table.objects), :2] + 0.04 * jitter if aim < 0.9 else 0.2 * jitter
        away = target - table.pusher
        action = (0.0 if aim > 0.98 else 0.45 + 0.55 * speed) * away / max(np.hypot(*away), 1e-6)
    else:
        sine, cosine = np.sin(0.12 * change[0]), np.cos(0.12 * change[0])
        action = (1 + 0.06 * change[1]) * np.array([[cosine, -sine], [sine, cosine]]) @ last
    return np.round(action / max(np.hypot(*action) / 0.99, 1.0), 2)  # hundredths, which a packed set holds exactly


def steady_action(table: Table, rng: Generator) -> np.ndarray:
    """The pusher's wanted velocity (2,) in the unit circle: it goes straight on, now and then elsewhere, or rests."""
    chance, rest, speed, way = rng.uniform(size=4)
    if np.hypot(*table.last_action) > 0 and chance > 0.08:
        return table.last_action
    wanted = 0.0 if rest > 0.9 else 0.3 + 0.69 * speed
    return np.round(wanted * np.array([np.cos(2 * np.pi * way), np.sin(2 * np.pi * way)]), 2)
