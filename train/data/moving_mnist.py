"""Moving MNIST, deterministic (arXiv 1502.04681) and stochastic (arXiv 1802.07687), rendered on the training device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Generator, Tensor

from stt.api import Batch, Video
from train.data.bouncing import (
    DigitState,
    Trajectory,
    deterministic_start,
    render,
    simulate_deterministic,
    simulate_stochastic,
    stochastic_start,
)
from train.data.digits import MNIST_MD5, Split, load_glyphs
from train.seeding import generator_for

KINDS = ("stochastic", "deterministic", "mixed")
MIXTURE = 3 * (("stochastic", 0),) + 3 * (("deterministic", 0),) + 2 * (("stochastic", 1),)  # kinds, and digits less


@dataclass(frozen=True, kw_only=True)
class MovingMNISTConfig:
    """What clips show. Batches of the kind "mixed" take the entries of MIXTURE in turn."""

    kind: Literal["stochastic", "deterministic", "mixed"] = "stochastic"
    image_size: int = 64
    digits: int = 2  # per clip
    fewer_every: int = 0  # every so many batches, one has a digit less; 0: none has
    frames: int = 20
    strokes: float = 0.5  # share of synthetic digits (see strokes.py); 1 needs no MNIST

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, must be one of {', '.join(KINDS)}")
        if self.digits < 1 or self.frames < 1:
            raise ValueError(f"digits is {self.digits} and frames {self.frames}, both must be at least 1")
        if self.fewer_every and (self.digits < 2 or self.kind == "mixed"):
            raise ValueError(f"fewer_every is {self.fewer_every} for kind {self.kind} with {self.digits} digits")
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


def mixture_of(config: MovingMNISTConfig) -> tuple[tuple[str, int], ...]:
    """The entries of a mixture with fewer digits now and then."""
    return ((config.kind, 0),) * (config.fewer_every - 1) + ((config.kind, 1),)


class MovingMNISTClip(NamedTuple):
    """Clips and their ground truth; all but the video lie on the CPU."""

    video: Video  # (B, T, 1, size, size)
    labels: Tensor  # (B, D) int64, which digits
    glyphs: Tensor  # (B, D) int64, indices into the bank of glyphs
    states: DigitState  # (B, T + 1, D, 2), before each frame and after the last
    positions: Tensor  # (B, T, D, 2) int64 pixels of the upper left corners, as drawn


class MovingMNIST:
    """Endless clips of one split; a batch depends on (split, size, seed, index) alone.

    maps: other images of the frames that batches hold, "digits" for `segmentation`.

    Motion is simulated on the CPU and pixels are rendered on `device`, so that every machine has the same clips,
    above all the same held-out ones. A held-out set is a seed and a count.
    """

    def __init__(
        self,
        config: MovingMNISTConfig,
        mnist_dir: Path | None,
        split: Split,
        device: torch.device | str = "cpu",
        *,
        maps: tuple[str, ...] = (),
        count_strokes: int | None = None,
        md5: Mapping[str, str] = MNIST_MD5,
    ) -> None:
        self.config, self.split, self.device, self.maps = config, split, torch.device(device), maps
        if set(maps) - {"digits"}:
            raise ValueError(f"maps are {', '.join(maps)}; Moving MNIST has none but digits")
        self.mixture: list[MovingMNIST] = []
        if config.kind == "mixed" or config.fewer_every:
            mixture = MIXTURE if config.kind == "mixed" else mixture_of(config)
            parts = [
                replace(config, kind=kind, digits=max(1, config.digits - less), fewer_every=0) for kind, less in mixture
            ]
            options = {"device": device, "maps": maps, "count_strokes": count_strokes, "md5": md5}
            made = {part: MovingMNIST(part, mnist_dir, split, **options) for part in set(parts)}
            self.mixture = [made[part] for part in parts]
            return
        self.bank = load_glyphs(mnist_dir, split, config.strokes, config.digit_size, count_strokes, device, md5=md5)

    def batch(self, size: int, seed: int, index: int) -> Batch:
        """Clips (size, T, 1, H, W) with their labels, and their segmentation if `maps` names it."""
        if self.mixture:
            return self.mixture[index % len(self.mixture)].batch(size, seed, index)
        clip = self.sample(size, seed, index)
        maps = self.segmentation(clip)[:, None] if self.maps else None
        return Batch(clip.video, labels=clip.labels.to(self.device), maps=maps)

    def sample(self, size: int, seed: int, index: int) -> MovingMNISTClip:
        """The clips of `batch` with their ground truth."""
        if self.mixture:
            return self.mixture[index % len(self.mixture)].sample(size, seed, index)
        generator, c = generator_for(self.split, seed, index), self.config
        glyphs = self.bank.choose(size, c.digits, generator)
        if c.kind == "stochastic":
            start = stochastic_start(size, c.digits, generator, c.image_size, c.digit_size)
        else:
            start = deterministic_start(size, c.digits, generator)
        positions, states = self._simulate(start, c.frames, generator)
        return MovingMNISTClip(self._render(glyphs, positions), self.bank.labels[glyphs], glyphs, states, positions)

    def segmentation(self, clip: MovingMNISTClip) -> Video:
        """Which digit each pixel shows, (B, T, 1, H, W): digit d is gray level (d + 1) / 10 on [0, 1], here in [-1, 1].

        The higher digit lies in front.
        """
        ink = (self.bank.pictures(clip.glyphs) > 0.5) * (clip.labels.to(self.device)[..., None, None] + 1) / 10
        return render(ink, clip.positions.to(self.device), self.config.image_size, "max")

    def futures(self, clip: MovingMNISTClip, at_frame: int, frames: int, count: int, seed: int) -> Video:
        """Simulated futures (B, count, frames, 1, H, W) of the clips' first `at_frame` frames.

        They are draws given what the prompt shows: a digit that meets a wall in the prompt's last frame already has
        its new velocity, but no frame shows it yet, so it is drawn anew.
        """
        if not 2 <= at_frame <= self.config.frames:
            raise ValueError(f"at_frame is {at_frame}, must be 2 to {self.config.frames}: one frame shows no velocity")
        generator = generator_for("futures", self.split, seed, at_frame)
        positions = self._simulate(clip.states.at(at_frame - 1).repeat(count), frames + 1, generator).positions
        video = self._render(clip.glyphs.repeat_interleave(count, dim=0), positions[:, 1:])
        return rearrange(video, "(b n) t c h w -> b n t c h w", n=count)

    def _simulate(self, start: DigitState, frames: int, generator: Generator) -> Trajectory:
        c = self.config
        if c.kind == "stochastic":
            return simulate_stochastic(start, frames, generator, c.image_size, c.digit_size)
        return simulate_deterministic(start, frames, c.image_size, c.digit_size)

    def _render(self, glyphs: Tensor, positions: Tensor) -> Video:
        pictures = self.bank.pictures(glyphs)
        return render(pictures, positions.to(self.device), self.config.image_size, self.config.overlap)
