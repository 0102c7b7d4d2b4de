"""Moving MNIST, deterministic (arXiv 1502.04681) and stochastic (arXiv 1802.07687), rendered on the training device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Generator, Tensor

from stt.api import Video
from train.data.bouncing import (
    DigitState,
    Trajectory,
    deterministic_moves,
    deterministic_start,
    render,
    stochastic_moves,
    stochastic_start,
)
from train.data.digits import MNIST_MD5, Split, digit_bank
from train.seeding import generator_for


@dataclass(frozen=True, kw_only=True)
class MovingMNISTConfig:
    """What clips show. A mixed world's batches are of those of MIXTURE in turn."""

    kind: Literal["stochastic", "deterministic", "mixed"] = "stochastic"
    image_size: int = 64
    digits: int = 2  # per clip
    frames: int = 20
    strokes: float = 0.5  # share of digits that we draw; 1 needs no MNIST

    def __post_init__(self) -> None:
        if self.kind not in ("stochastic", "deterministic", "mixed"):
            raise ValueError(f"kind is {self.kind!r}, must be 'stochastic', 'deterministic' or 'mixed'")
        if self.digits < 1 or self.frames < 1:
            raise ValueError(f"digits is {self.digits} and frames {self.frames}, both must be at least 1")
        if not 0 <= self.strokes <= 1:
            raise ValueError(f"strokes is {self.strokes}, must be between 0 and 1")
        if self.image_size < 8:
            raise ValueError(f"image_size is {self.image_size}, must be at least 8")

    @property
    def digit_size(self) -> int:
        """Side of a digit's square: half the canvas (stochastic, SVG) or 28 of 64."""
        return self.image_size // 2 if self.kind == "stochastic" else self.image_size * 28 // 64

    @property
    def overlap(self) -> Literal["add", "max"]:
        return "add" if self.kind == "stochastic" else "max"


MIXTURE = 3 * (("stochastic", 0),) + 3 * (("deterministic", 0),) + 2 * (("stochastic", 1),)  # kinds, and digits less


class MovingMNISTClip(NamedTuple):
    """Clips and the truth behind them; all but the video lie on the CPU."""

    video: Video  # (B, T, 1, size, size)
    labels: Tensor  # (B, D) int64, which digits
    glyphs: Tensor  # (B, D) int64, indices into the bank
    states: DigitState  # (B, T + 1, D, 2), before each frame and after the last
    positions: Tensor  # (B, T, D, 2) int64 pixels, where the digits are drawn


class MovingMNIST:
    """Endless clips of one world and split; a batch depends on (split, size, seed, index) alone.

    Motion is simulated on the CPU (a few numbers a clip) and pixels are rendered on `device`, so that the
    same clips, held-out ones above all, appear on every machine. A held-out set is a seed and a count.
    """

    def __init__(
        self,
        world: MovingMNISTConfig,
        mnist_dir: Path | None,
        split: Split,
        device: torch.device | str = "cpu",
        *,
        count_strokes: int | None = None,
        md5: Mapping[str, str] = MNIST_MD5,
    ) -> None:
        self.world, self.split, self.device = world, split, torch.device(device)
        self.mixture: list[MovingMNIST] = []
        if world.kind == "mixed":
            worlds = [replace(world, kind=kind, digits=max(1, world.digits - less)) for kind, less in MIXTURE]
            made = {
                w: MovingMNIST(w, mnist_dir, split, device, count_strokes=count_strokes, md5=md5) for w in set(worlds)
            }
            self.mixture = [made[w] for w in worlds]
            return
        self.bank = digit_bank(mnist_dir, split, world.strokes, world.digit_size, count_strokes, device=device, md5=md5)

    def batch(self, size: int, seed: int, index: int) -> Video:
        """Clips (size, T, 1, H, W)."""
        return self.sample(size, seed, index).video

    def sample(self, size: int, seed: int, index: int) -> MovingMNISTClip:
        """The same clips, with what they show and how it moves."""
        if self.mixture:
            return self.mixture[index % len(self.mixture)].sample(size, seed, index)
        generator = generator_for(self.split, seed, index)
        ids = self.bank.choose(size, self.world.digits, generator)
        w = self.world
        if w.kind == "stochastic":
            start = stochastic_start(size, w.digits, generator, size=w.image_size, digit=w.digit_size)
        else:
            start = deterministic_start(size, w.digits, generator)
        moves = self._moves(start, w.frames, generator)
        return MovingMNISTClip(
            self._render(ids, moves.positions), self.bank.labels[ids], ids, moves.states, moves.positions
        )

    def segmentation(self, clip: MovingMNISTClip) -> Video:
        """Which digit lies where, (B, T, 1, H, W): digit d is gray level (d + 1) / 10 on [0, 1], here in [-1, 1].

        The higher digit lies in front.
        """
        ink = (self.bank.pictures(clip.glyphs) > 0.5) * (clip.labels.to(self.device)[..., None, None] + 1) / 10
        return render(ink, clip.positions.to(self.device), self.world.image_size, "max")

    def futures(self, clip: MovingMNISTClip, at_frame: int, frames: int, count: int, seed: int) -> Video:
        """True futures (B, count, frames, 1, H, W) of the clips' first `at_frame` frames, re-simulated.

        Draws from what can happen given what the prompt shows: a digit that meets the wall in the prompt's
        last frame already has its new velocity, but nobody has seen it, so that frame's chance is redrawn.
        """
        if not 2 <= at_frame <= self.world.frames:
            raise ValueError(f"at_frame is {at_frame}, must be 2 to {self.world.frames}: one frame shows no velocity")
        generator = generator_for("futures", self.split, seed, at_frame)
        moves = self._moves(clip.states.at(at_frame - 1).repeated(count), frames + 1, generator)
        video = self._render(clip.glyphs.repeat_interleave(count, dim=0), moves.positions[:, 1:])
        return rearrange(video, "(b n) t c h w -> b n t c h w", n=count)

    def _moves(self, start: DigitState, frames: int, generator: Generator) -> Trajectory:
        w = self.world
        if w.kind == "stochastic":
            return stochastic_moves(start, frames, generator, w.image_size, w.digit_size)
        return deterministic_moves(start, frames, w.image_size, w.digit_size)

    def _render(self, ids: Tensor, positions: Tensor) -> Video:
        return render(self.bank.pictures(ids), positions.to(self.device), self.world.image_size, self.world.overlap)
