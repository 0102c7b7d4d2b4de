"""A live session: one future grows frame by frame while actions arrive, and any recent moment can be continued anew.

    session = LiveSession(model, context, seed=7)
    frame = session.step((1.0, 0.0))         # (C, H, W), the next frame under this action
    session.rewind(0)                        # back to the prompt; the same actions give the same frames
    session.fork(10, seed=8)                 # another future from frame 10 on, beside the first

The frames are those of `stt.predict` with the same seed and actions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stt.api import Condition, Predictor, Sampling
from stt.encode import Pixels
from stt.prediction import Progress, conclude
from stt.prompt import Prompt
from stt.request import Request
from stt.results import Result
from stt.sampler import SeededNoise, check_condition, checked_clip, checked_seed, fit_context
from stt.video import to_uint8

MAX_FRAMES = 600  # of a branch that stay: one minute at 10 frames/s
PIXEL_BYTES = 100_000_000  # of a branch's frames
SNAPSHOT_BYTES = 64_000_000  # of a branch's snapshots

Action = tuple[float, ...]  # one number per axis; () leaves the choice to the model


class Snapshot(NamedTuple):
    state: Any  # of the model
    noise: SeededNoise
    num_bytes: int


@dataclass
class Branch:
    """One future so far, and snapshots from which its frames can be predicted again."""

    state: Any
    noise: SeededNoise
    seeds: dict[int, int]  # by the number of frames before each takes effect
    first: int = 0  # frames that it has dropped
    pixels: list[Pixels] = field(default_factory=list)  # (H, W, 3) each, from frame `first` on
    actions: list[Action] = field(default_factory=list)  # the one that led to each of these frames
    chunk: list[Tensor] = field(default_factory=list)  # frames of the last step that are still to come
    snapshots: dict[int, Snapshot] = field(default_factory=dict)  # by the number of frames before them
    spacing: int = 1  # least number of frames between two snapshots

    @property
    def length(self) -> int:
        """Frames so far, dropped ones included."""
        return self.first + len(self.pixels)

    @property
    def seed(self) -> int:
        return self.seeds[max(self.seeds)]

    @property
    def earliest(self) -> int:
        """The least length that `restore` reaches."""
        return min(self.snapshots, default=self.length)

    def copy(self) -> Branch:
        parts = {
            name: getattr(self, name).copy() for name in ("noise", "seeds", "pixels", "actions", "chunk", "snapshots")
        }
        return replace(self, **parts)

    def save(self, max_bytes: int) -> None:
        """Adds a snapshot if one is due; with too many, every second one goes and the rest lie wider apart."""
        if self.snapshots and self.length - max(self.snapshots) < self.spacing:
            return
        self.snapshots[self.length] = Snapshot(self.state, self.noise.copy(), state_bytes(self.state))
        while len(self.snapshots) > 2 and sum(snapshot.num_bytes for snapshot in self.snapshots.values()) > max_bytes:
            self.spacing *= 2
            for length in sorted(self.snapshots)[1::2]:
                del self.snapshots[length]

    def append(self, frame: Tensor, action: Action, max_frames: int) -> None:
        self.pixels.append(to_uint8(frame[None])[0])
        self.actions.append(action)
        surplus = max(len(self.pixels) - max_frames, 0)
        del self.pixels[:surplus], self.actions[:surplus]
        self.first += surplus
        for length in [length for length in self.snapshots if length < self.first]:
            del self.snapshots[length]

    def restore(self, length: int) -> list[Action]:
        """Returns to the latest snapshot at or before `length` frames; returns the actions from there to `length`."""
        before = max(n for n in self.snapshots if n <= length)
        snapshot = self.snapshots[before]
        again = self.actions[before - self.first : length - self.first]
        del self.pixels[before - self.first :], self.actions[before - self.first :]
        self.state, self.noise, self.chunk = snapshot.state, snapshot.noise.copy(), []
        self.snapshots = {n: other for n, other in self.snapshots.items() if n <= before}
        self.seeds = {n: seed for n, seed in self.seeds.items() if n <= length}
        return again


class LiveSession:
    """Predicts one future of a clip (T, C, H, W) in [-1, 1], steered from frame to frame.

    Memory stays bounded however long it runs: a branch drops frames beyond `max_frames` and thins its snapshots beyond
    `max_bytes`. Raises ValueError as `stt.rollout` does.
    """

    def __init__(
        self,
        model: Predictor,
        context: Tensor,
        seed: int = 0,
        sampling: Sampling | None = None,
        max_frames: int = MAX_FRAMES,
        max_bytes: int = SNAPSHOT_BYTES,
    ) -> None:
        self.model = model
        self.sampling = sampling or Sampling()
        self.device = next(model.parameters()).device
        noise = SeededNoise((seed,), self.device)
        context = fit_context(model, checked_clip(context).to(self.device, torch.float32)[None])
        self.max_frames = min(max_frames, max(PIXEL_BYTES // (3 * context[0, 0, 0].numel()), 1))
        self.max_bytes = max_bytes
        with torch.inference_mode():
            self.branch = Branch(model.start(context), noise, {0: checked_seed(seed)})
        self.other: Branch | None = None  # what `fork` left behind

    @torch.inference_mode()
    def step(self, action: Action = ()) -> Tensor:
        """The next frame (C, H, W), under an action or, with (), under one that the model chooses.

        A model that predicts several frames at once follows a new action from its next chunk on.
        """
        branch, condition = self.branch, Condition(actions=(action,) if action else ())
        check_condition(self.model, condition)
        if branch.length in branch.seeds:
            branch.noise = SeededNoise((branch.seeds[branch.length],), self.device)
        if not branch.chunk:
            branch.save(self.max_bytes)
            state = self.model.follow(branch.state, condition) if "actions" in self.model.knobs else branch.state
            chunk, branch.state = self.model.step(state, self.sampling, branch.noise)
            branch.chunk = list(chunk[0].clamp(-1, 1).float().cpu())
        frame = branch.chunk.pop(0)
        branch.append(frame, action, self.max_frames)
        return frame

    def rewind(self, length: int) -> int:
        """Goes back until `length` frames are left, as far as the past is remembered; returns how many are left."""
        branch = self.branch
        length = min(max(length, branch.earliest), branch.length)
        if length < branch.length:
            for action in branch.restore(length):
                self.step(action)
        return length

    def fork(self, length: int, seed: int | None = None) -> int:
        """Continues from `length` frames in a new branch, and keeps the present one as `other`.

        Without a seed, the same actions give the same frames as before. With one, chance differs from the next step
        on. Returns the frames that the branches share.
        """
        if seed is not None:
            seed = checked_seed(seed)
        self.other, self.branch = self.branch, self.branch.copy()
        length = self.rewind(length)
        if seed is not None:
            self.branch.seeds[length] = seed
        return length

    def swap(self) -> None:
        """Goes on with the other branch, if there is one."""
        if self.other is not None:
            self.branch, self.other = self.other, self.branch


def state_bytes(state: Any) -> int:
    """Memory of the tensors in nested tuples."""
    if isinstance(state, Tensor):
        return state.untyped_storage().nbytes()
    return sum(map(state_bytes, state)) if isinstance(state, tuple | list) else 0


def live_result(branch: Branch, model: Predictor, request: Request, prompt: Prompt, seconds: float) -> Result:
    """A branch of at least one frame as the result of a prediction; its report also holds the actions.

    seconds: of computing.
    """
    pixels = np.stack(branch.pixels)
    request = replace(
        request, frames=len(pixels), futures=1, seed=branch.seed, action=(), labels=(), between=False
    )  # fmt: skip
    if branch.first:  # the prompt no longer touches the frames that are left
        shown = len(prompt.context) if len(pixels) > len(prompt.context) else 1
        context, pixels = to_float(pixels[:shown], model.config.channels), pixels[shown:] if len(pixels) > 1 else pixels
        prompt, request = replace(prompt, context=context), replace(request, frames=len(pixels))
    prompt = replace(prompt, continuation=prompt.continuation[:0], ending=prompt.ending[:0])
    frames = list(to_float(pixels, model.config.channels)[:, None])
    began = time.perf_counter() - seconds
    result = conclude(Progress(request, model, prompt, frames, began, seconds / len(frames), seconds))
    actions = [[round(number, 3) for number in action] for action in branch.actions[-len(frames) :]]
    report = result.report | {"live": True, "actions": actions, "names": [f"live, seed {branch.seed}"]}
    return replace(result, report=report)


def to_float(pixels: Pixels, channels: int) -> Tensor:
    """(T, H, W, 3) bytes -> (T, C, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels[..., :channels]).movedim(-1, 1).float() / 127.5 - 1
