"""Training clips of generated scenes, made as they are needed, beside clips of real videos."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stt.api import Batch, Video
from train.data.digits import Split
from train.data.video_folder import VideoFolder
from train.seeding import generator_for
from train.sim.scenes.world import seeded_clip
from train.sim.world import to_video

SHORTER = 9 / 16  # of the longer side of an oblong frame
MARGIN = 1.25  # side of a real video's frames over the longer side of the clips that are cropped from them
CROPS = (0.75, 1.0)  # longer sides of these crops over that side


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """What a preset trains on: generated clips, and clips of a folder of videos where there is one."""

    kind: Literal["scenes"] = "scenes"
    frames: int = 12  # per clip
    real: float = 0.3  # share of real clips of a batch, where there is a folder
    oblong: float = 0.5  # share of batches whose frames are 16:9 or 9:16, half of them each; others are square
    max_stride: int = 2  # frames of a real video to one of a clip: 1 to this
    workers: int = 1  # processes that generate clips; 0: this one does


class ScenesDataset:
    """Generated clips, and clips of folders of videos; a batch depends on (split, size, seed, index) and folders alone.

    image_size: pixels of the longer side, a multiple of 8. real: folders of videos, each with its share of a batch.
    Their clips are cropped, scaled, mirrored, strided and reversed at random. Raises ValueError for sizes and shares,
    and as `VideoFolder` does.
    """

    def __init__(
        self,
        config: ScenesConfig,
        split: Split,
        image_size: int,
        real: Mapping[Path, float] | None = None,
        **options: Any,
    ) -> None:
        """options: of every `VideoFolder`, such as `cache`."""
        self.config, self.split, self.image_size = config, split, image_size
        self.shares = list((real or {}).values())
        if image_size % 8 or image_size < 32 or config.frames < 1 or config.max_stride < 1:
            raise ValueError(f"image_size {image_size} must be a multiple of 8 from 32 on, frames and stride 1 or more")
        if min(self.shares, default=0) < 0 or sum(self.shares) > 1:
            raise ValueError(f"the shares of folders are {self.shares}, must be 0 or more and 1 at most together")
        frames, side = (config.frames - 1) * config.max_stride + 1, int(image_size * MARGIN)
        self.folders = [VideoFolder(folder, split, frames, side, 3, **options) for folder in real or {}]
        self._pool: ProcessPoolExecutor | None = None

    def batch(self, size: int, seed: int, index: int) -> Batch:
        """Clips (size, frames, 3, H, W) of one frame size."""
        generator = generator_for("scenes", self.split, seed, index)
        height, width = self._frame_size(torch.rand(2, generator=generator).tolist())
        # of shares that are no whole clips, the fraction is the chance of one more
        ends = np.cumsum([0.0, *self.shares]) * size + float(torch.rand((), generator=generator))
        counts = np.diff(np.floor(ends)).astype(int).tolist()
        numbers = range(size - sum(counts))
        seeds = [generator_for("scene", self.split, seed, index, k).initial_seed() for k in numbers]
        clips = self._map(partial(seeded_clip, frames=self.config.frames, height=height, width=width), seeds)
        parts = [to_video(torch.from_numpy(np.stack(clips)))] if clips else []
        for folder, count in zip(self.folders, counts, strict=True):
            if count:
                videos = folder.batch(count, seed, index).video.cpu()
                parts += [self._augmented(video, height, width, generator)[None] for video in videos]
        return Batch(torch.cat(parts).contiguous())

    def card(self) -> dict[str, Any]:
        """Names of the folders' files by split, for the card of a model."""
        cards = [folder.card() for folder in self.folders]
        return {name: [file for card in cards for file in card.get(name, ())] for name in ("train", "test")}

    def report(self) -> None:
        for folder in self.folders:
            folder.report()

    def _frame_size(self, draws: list[float]) -> tuple[int, int]:
        longer, shorter = self.image_size, 8 * int(self.image_size * SHORTER / 8 + 0.5)
        if draws[0] >= self.config.oblong:
            return longer, longer
        return (shorter, longer) if draws[1] < 0.5 else (longer, shorter)

    def _map(self, make: Callable[[int], np.ndarray], seeds: list[int]) -> list[np.ndarray]:
        if not self.config.workers:
            return list(map(make, seeds))
        if self._pool is None:  # not forked: CUDA and threads do not survive that
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(self.config.workers, context, cv2.setNumThreads, (1,))
        return list(self._pool.map(make, seeds))

    def _augmented(self, video: Tensor, height: int, width: int, generator: torch.Generator) -> Video:
        """A square video (T, 3, S, S) -> a clip (frames, 3, height, width)."""
        draw = torch.rand(7, generator=generator).tolist()
        stride = 1 + int(draw[0] * self.config.max_stride)
        first = int(draw[1] * (len(video) - (self.config.frames - 1) * stride))
        video = video[first::stride][: self.config.frames]
        if draw[2] < 0.5:
            video = video.flip(-1)
        if draw[3] < 0.3:
            video = video.flip(0)
        side = video.shape[-1] * (CROPS[0] + (CROPS[1] - CROPS[0]) * draw[4]) / max(height, width)
        tall, wide = round(side * height), round(side * width)
        y, x = int(draw[5] * (video.shape[-2] - tall + 1)), int(draw[6] * (video.shape[-1] - wide + 1))
        part = video[..., y : y + tall, x : x + wide]
        return F.interpolate(part, (height, width), mode="bilinear", antialias=True).clamp(-1, 1)
