"""A tabletop without physics, which needs no MuJoCo, and what the true one lacks here."""

from __future__ import annotations

import colorsys
import importlib.util
import subprocess
import sys
from functools import cache

import numpy as np
import torch

from stt.models.stt import STT, STTConfig
from tests.conftest import TINY, TINY_TOKENIZER
from train.seeding import generator_for
from train.sim.tabletop.scene import PALETTE
from train.sim.tabletop.world import TabletopClip, TabletopConfig, to_video

HUES = [hue / 360 for hue in PALETTE.values()]


@cache
def tried() -> subprocess.CompletedProcess:
    """Loads the tabletop in another process, since a driver may crash; prints whether MuJoCo came with the import."""
    code = "import sys, train.data.tabletop as t; print('mujoco' in sys.modules); t.load_mujoco()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def why_not() -> str | None:
    """What the true tabletop lacks here."""
    if importlib.util.find_spec("mujoco") is None:
        return "needs the package mujoco"
    return tried().stderr.strip().splitlines()[-1] if tried().returncode and tried().stderr else None


class FakeTabletop:
    """Three squares on gray, pushed by a pusher that looks like the true one."""

    name, clip_type, object_colours = "tabletop", TabletopClip, range(len(HUES))

    def __init__(self, config: TabletopConfig | None = None, split: str = "test") -> None:
        self.config, self.split = config or TabletopConfig(), split
        self.simulated = 0

    def clip(self, seed: int, index: int) -> TabletopClip:
        rng = self._rng("clip", seed, index)
        colours = torch.from_numpy(rng.permutation(len(HUES))[:3])
        state = np.concatenate([[[32, 32]], rng.uniform(14, 50, size=(3, 2))])
        states, actions = [state], self._actions(rng, self.config.frames)
        for action in actions[:-1]:
            states.append(moved(states[-1], action))
        video = torch.stack([picture(state, colours) for state in states])
        states = torch.from_numpy(np.stack(states))
        actions, none = torch.from_numpy(actions), torch.zeros(0)
        return TabletopClip(video, actions, none, states[:, 0], none, colours, states, seed, index)

    def futures(self, clip, at_frame, frames, count, seed):
        rngs = [self._rng("futures", clip.seed, clip.index, seed, k) for k in range(count)]
        return torch.stack([self.with_actions(clip, at_frame, self._actions(rng, frames)) for rng in rngs])

    def with_actions(self, clip, at_frame, actions):
        self.simulated += 1
        state, frames = clip.states[at_frame - 1].numpy(), []
        for action in np.asarray(actions):
            state = moved(state, action)
            frames.append(picture(state, clip.colours))
        return torch.stack(frames)

    def agent_pixels(self, clip):
        return clip.pusher.float()

    def _actions(self, rng, frames):
        """One direction for all frames, with a jitter."""
        angle = rng.uniform(0, 2 * np.pi) + 0.3 * rng.normal(size=frames)
        return 0.9 * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def _rng(self, *words):
        return np.random.default_rng(generator_for(*words).initial_seed())


def moved(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Pusher and squares (4, 2) one frame later; squares near the pusher go with it."""
    step = np.clip(state[0] + 2 * action, [10, 16], [54, 56]) - state[0]
    near = np.hypot(*(state - state[0]).T) < 6
    return np.clip(state + near[:, None] * step, 6, 58)


def picture(state: np.ndarray, colours: torch.Tensor) -> torch.Tensor:
    """(3, 64, 64) in [-1, 1]: averaged down from twice the size."""
    y, x = (np.mgrid[:128, :128].astype(np.float32) + 0.5) / 2 - 0.5
    frame = np.full((128, 128, 3), 0.55, np.float32)
    for (across, down), colour in zip(state[1:], colours, strict=True):
        frame[(abs(x - across) < 4) & (abs(y - down) < 4)] = colorsys.hsv_to_rgb(HUES[int(colour)], 0.9, 0.9)
    across, down = state[0]
    frame[np.hypot(x - across, y - down) < 2.8] = 0.9
    frame[(abs(x - across) < 1.2) & (y < down - 1.5) & (y > down - 10)] = 0.05
    small = np.round(255 * frame.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3)))
    return to_video(torch.from_numpy(small.astype(np.uint8)))


def colour_model(**fields) -> STT:
    """Small, random, of the tabletop's size."""
    sizes = {"image_size": 64, "channels": 3}
    tokenizer = TINY_TOKENIZER.to_dict() | sizes | {"patch": 8}
    return STT(STTConfig.from_dict(TINY.to_dict() | sizes | {"tokenizer": tokenizer} | fields)).eval()
