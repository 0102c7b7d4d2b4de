"""What all simulated worlds share: futures of a clip, from its saved states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from stt.api import Video
from train.seeding import generator_for
from train.sim.environment import load_mujoco


class World(ABC):
    """Endless clips of one split. A clip is a named tuple with `video`, `actions`, `states`, `seed`, `index`.

    It depends on (world, split, seed, index) alone, and splits share none.
    """

    name: str  # that seeds its clips
    clip_type: type  # of its clips
    object_colours: Sequence[int]  # of PALETTE

    def __init__(self, config: Any, split: str, splits: tuple[str, ...]) -> None:
        if split not in splits:
            raise ValueError(f"split is {split!r}, must be one of {', '.join(splits)}")
        self.config, self.split = config, split

    @abstractmethod
    def clip(self, seed: int, index: int) -> Any:
        """One clip, under the actions of a policy."""

    @abstractmethod
    def environment(self, seed: int, index: int) -> Any:
        """The clip's scene before anything has moved, for a `with`."""

    @abstractmethod
    def next_action(self, env: Any, rng: Generator) -> np.ndarray:
        """The random policy of simulated futures, (A,)."""

    @abstractmethod
    def agent_pixels(self, clip: Any) -> Tensor:
        """Where each frame shows what actions move, (T, 2) as (x, y) in pixels; (0, 0) is the first pixel's centre."""

    def require(self) -> None:
        """RuntimeError says what the simulator lacks here."""
        load_mujoco()

    def futures(self, clip: Any, at_frame: int, frames: int, count: int, seed: int) -> Video:
        """Simulated futures (count, frames, 3, H, W) of the clip's first `at_frame` frames.

        Each starts from the simulator's state at the prompt's last frame, with new random actions. The last action
        before is part of that state, since the agent's motion shows it.
        """
        futures = []
        with self.environment(clip.seed, clip.index) as env:
            for k in range(count):
                env.state = _state(clip, at_frame)
                rng = self.rng("futures", clip.seed, clip.index, at_frame, seed, k)
                futures.append(torch.stack([_next_frame(env, self.next_action(env, rng)) for _ in range(frames)]))
        return to_video(torch.stack(futures))

    def with_actions(self, clip: Any, at_frame: int, actions: Tensor) -> Video:
        """What follows the clip's first `at_frame` frames under actions (frames, A) -> (frames, 3, H, W)."""
        with self.environment(clip.seed, clip.index) as env:
            env.state = _state(clip, at_frame)
            return to_video(torch.stack([_next_frame(env, action) for action in actions.double().numpy()]))

    def rng(self, *words: str | int) -> Generator:
        return np.random.default_rng(generator_for(self.name, self.split, *words).initial_seed())


def _state(clip: Any, at_frame: int) -> np.ndarray:
    """The simulator's state at the last of the first `at_frame` frames."""
    if not 1 <= at_frame <= len(clip.states):
        raise ValueError(f"at_frame is {at_frame}, must be 1 to {len(clip.states)}")
    return clip.states[at_frame - 1].numpy()


def _next_frame(env: Any, action: np.ndarray) -> Tensor:
    """The picture (H, W, 3) uint8 one frame later."""
    env.act(action)
    return torch.from_numpy(env.render())


def to_video(frames: Tensor) -> Video:
    """Pictures (..., H, W, 3) uint8 -> (..., 3, H, W) in [-1, 1]."""
    return frames.movedim(-1, -3).float().div_(127.5).sub_(1)


def to_pictures(video: Video) -> np.ndarray:
    """The inverse of `to_video`: videos (..., 3, H, W) in [-1, 1] -> (..., H, W, 3) uint8."""
    return ((video + 1) * 127.5).round().byte().movedim(-3, -1).cpu().numpy()
