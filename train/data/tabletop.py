"""Stored tabletop clips: train.make_tabletop writes them, training reads them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Batch
from stt.checkpoint import write_whole
from stt.sprites import BACKGROUND, OUTSIDE, masks_of, moments
from train.data import shards
from train.data.arrays import write_frames
from train.data.shards import (
    Shard,
    clip_psnr,
    compress_frames,
    compress_poses,
    compress_segmentation,
    decompress_frames,
    decompress_poses,
    decompress_segmentation,
    read_shard,
)
from train.seeding import generator_for
from train.sim.environment import load_mujoco
from train.sim.tabletop.image_motion import AXES, PUSHER_HEIGHT, floor_mask, image_poses
from train.sim.tabletop.scene import PALETTE, SHAPES
from train.sim.tabletop.world import Tabletop, TabletopClip, TabletopConfig
from train.sim.world import to_pictures, to_video

FORMAT = 3
BODIES = 1 + len(PALETTE)  # the pusher and at most one object of each colour
REFERENCES = 5  # first frames of a training clip that sprites are taken from


# ---- writing -----------------------------------------------------------------------------------------


def write_shard(shard: Shard) -> int:
    """Simulates, compresses and writes one shard; returns its number of clips."""
    world = Tabletop(shard.config, shard.split)
    clips = [world.clip(shard.seed, index) for index in range(shard.first, shard.last)]
    frames = np.stack([to_pictures(clip.video) for clip in clips])
    stream = compress_frames(frames, shard.crf)
    shapes, colours = np.full((2, len(clips), len(PALETTE)), -1, np.int8)
    for k, clip in enumerate(clips):
        shapes[k, : len(clip.shapes)], colours[k, : len(clip.shapes)] = clip.shapes, clip.colours
    segmentation = np.stack([world.segmentation(clip) for clip in clips]) + 2
    arrays = {
        "video": np.frombuffer(stream, np.uint8),
        "poses": np.frombuffer(compress_poses([body_poses(clip) for clip in clips], BODIES), np.uint8),
        "shown": np.frombuffer(compress_segmentation(segmentation), np.uint8),
        "cameras": torch.stack([world.camera(clip) for clip in clips]).numpy(),
        "actions": torch.stack([clip.actions for clip in clips]).mul(100).round().to(torch.int8).numpy(),
        "shapes": shapes,
        "colours": colours,
        "psnr": clip_psnr(decompress_frames(stream, frames.shape), frames),
    }
    write_whole(shard.path, lambda file: np.savez_compressed(file, **arrays))
    return len(clips)


def body_poses(clip: TabletopClip) -> Tensor:
    """Poses (T, 1 + objects, 7) of the pusher, at a typical height, and of the objects."""
    pusher = clip.poses.new_tensor([0, 0, PUSHER_HEIGHT, 1, 0, 0, 0]).repeat(len(clip.poses), 1)
    pusher[:, :2] = clip.pusher
    return torch.cat([pusher[:, None], clip.poses], dim=1)


def write_set(
    out: Path, config: TabletopConfig, split: str, seed: int, clips: int, crf: int, per_shard: int, workers: int
) -> None:
    """Writes what is missing of a set; ValueError if the folder holds one of other clips."""
    mujoco, _ = load_mujoco()  # here, so that one message says what is missing
    index = {
        "format": FORMAT, "split": split, "seed": seed, "clips": clips, "per_shard": per_shard, "crf": crf,
        "versions": {"mujoco": mujoco.__version__},
    }  # fmt: skip
    shards.write_set(out, config, write_shard, workers, index)


# ---- reading -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TabletopDataConfig:
    """What a preset trains on: clips cut from a stored set."""

    kind: Literal["tabletop"] = "tabletop"
    frames: int = 20  # per clip


class Crops(NamedTuple):
    """Clips of a batch as places in a set."""

    clips: Tensor  # (B,)
    starts: Tensor  # (B,) the frame that each begins with
    mirrored: Tensor  # (B,) bool


class TabletopDataset:
    """A stored set, or several as one; a batch depends on (size, seed, index) alone.

    sprites: whether batches hold poses in the image and segmentations, which the family `layered` learns from.
    The first use decodes all clips to the folder `cache` (by default the first set's own; 369 kB a clip of 30 frames
    of 64x64), which later ones map into memory. On another device than the CPU, all frames lie in its memory.
    Raises FileNotFoundError for an incomplete set, ValueError for one of another format or unlike the first.
    """

    def __init__(
        self,
        folder: Path,
        *more: Path,
        frames: int | None = None,
        sprites: bool = False,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
    ) -> None:
        folders = [Path(folder), *map(Path, more)]
        indices = [shards.read_index(each, "tabletop", FORMAT) for each in folders]
        index = indices[0]
        self.config, self.split = TabletopConfig(**index["config"]), index["split"]
        self.device, self.frames, self.sprites = torch.device(device), frames or self.config.frames, sprites
        if not 1 <= self.frames <= self.config.frames:
            raise ValueError(f"frames is {frames}, the set's clips have {self.config.frames}")
        paths: list[Path] = []
        for each, other in zip(folders, indices, strict=True):
            if other["config"] != index["config"]:
                raise ValueError(f"{each} holds clips of {other['config']}, {folder} of {index['config']}")
            paths += shards.shard_paths(each, other)
        if missing := [path for path in paths if not path.is_file()]:
            raise FileNotFoundError(f"{missing[0]} and {len(missing) - 1} more are missing; make the set again")
        self._shards = paths
        straight = [each["split"] == "straight_line" for each in indices for _ in range(each["clips"])]
        self.off_policy = torch.tensor(straight)  # (N,)
        self.actions = torch.from_numpy(self.part("actions")).float() / 100  # (N, T, 2)
        decoded = Path(cache or folder) / "decoded.npy"
        if not decoded.exists() or len(np.load(decoded, mmap_mode="r")) != len(self):
            self._decode(decoded)
        pixels = torch.from_numpy(np.load(decoded, mmap_mode="c"))  # (N, T, H, W, 3) uint8
        self.pixels = pixels if self.device.type == "cpu" else pixels.to(self.device)

    def __len__(self) -> int:
        return len(self.actions)

    def part(self, name: str) -> np.ndarray:
        """An array of all clips as shards hold it: actions, cameras, shapes, colours (-1 for no object) or psnr."""
        return np.concatenate([read_shard(path)[name] for path in self._shards])

    def poses(self) -> np.ndarray:
        """(N, T, 9, 7) float32 of the pusher, at a typical height, and the objects; 0 beyond a clip's own."""
        parts = [read_shard(path) for path in self._shards]
        return np.concatenate([decompress_poses(s["poses"].tobytes(), *s["actions"].shape[:2], BODIES) for s in parts])

    def segmentation(self) -> np.ndarray:
        """(N, T, H, W) int8: 0 the background, 1 the pusher, objects from 2 on."""
        parts, frame = [read_shard(path) for path in self._shards], (self.config.image_size,) * 2
        return np.concatenate(
            [decompress_segmentation(s["shown"].tobytes(), s["actions"].shape[:2] + frame) for s in parts]
        )

    @cached_property
    def _scenes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cameras, segmentation, poses, and the axes that turns are measured by, of all clips on the set's device."""
        axes = np.array([*(AXES[shape] for shape in SHAPES), (0.0, 0.0, 0.0)], np.float32)[self.part("shapes")]
        axes = np.pad(axes, [(0, 0), (1, 0), (0, 0)])
        axes[:, 0] = AXES["rod"]
        parts = self.part("cameras"), self.segmentation(), self.poses(), axes
        return tuple(torch.from_numpy(part).to(self.device) for part in parts)

    def batch(self, size: int, seed: int, index: int) -> Batch:
        """Random clips (size, frames, 3, H, W) from random frames on; half are mirrored, except in a test split."""
        generator = generator_for("packed", self.split, seed, index)
        clips = torch.randint(len(self), (size,), generator=generator)
        starts = torch.randint(self.config.frames - self.frames + 1, (size,), generator=generator)
        mirrored = torch.zeros(size, dtype=torch.bool)
        if self.split != "test":
            mirrored = torch.rand(size, generator=generator) < 0.5
        return self.cut(Crops(clips, starts, mirrored))

    def cut(self, crops: Crops) -> Batch:
        """The clips at these places, with their actions, and what sprites learn from if `sprites` is set."""
        times = crops.starts[:, None] + torch.arange(self.frames)  # (B, T)
        pixels = self.pixels[crops.clips.to(self.device)[:, None], times.to(self.device)]  # (B, T, H, W, 3)
        video, actions = to_video(pixels), self.actions[crops.clips[:, None], times].to(self.device)
        flip = crops.mirrored.to(self.device)[:, None, None]
        video = torch.where(flip[..., None, None], video.flip(-1), video).contiguous()
        actions = torch.where(flip, actions * actions.new_tensor([-1.0, 1.0]), actions)
        off_policy = self.off_policy[crops.clips].to(self.device)
        if not self.sprites:
            return Batch(video, actions, off_policy=off_policy)
        poses, segmentation = self._sprites(crops)
        return Batch(video, actions, poses=poses, segmentation=segmentation, off_policy=off_policy)

    def _sprites(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Poses in the image of the pusher and the objects since each of the clips' first R frames, (B, R, T, 9, 4).

        And these frames' segmentation (B, R, H, W). Both as `stt.sprites` has them.
        """
        clips, times = crops.clips[:, None], crops.starts[:, None] + torch.arange(self.frames)
        cameras, segmentation, poses, axes = self._scenes
        segmentation = segmentation[clips, times[:, : min(REFERENCES, self.frames)]].long()
        cameras, size = cameras[crops.clips], segmentation.shape[-1]
        centroids = moments(masks_of(segmentation.flatten(0, 1)))[0].unflatten(0, segmentation.shape[:2])
        motion = image_poses(cameras, poses[clips, times], axes[crops.clips], centroids, size)
        outside = ~floor_mask(cameras, size)[:, None] & (segmentation == BACKGROUND)
        segmentation = torch.where(outside, OUTSIDE, segmentation)
        mirrored = crops.mirrored.to(self.device)[:, None, None, None]
        motion = torch.where(mirrored[..., None], motion * motion.new_tensor([1.0, -1.0, -1.0, 1.0]), motion)
        return motion, torch.where(mirrored, segmentation.flip(-1), segmentation)

    def _decode(self, path: Path) -> None:
        c = self.config
        shape = (c.frames, c.image_size, c.image_size, 3)

        def frames_of(path: Path) -> np.ndarray:
            shard = read_shard(path)
            return decompress_frames(shard["video"].tobytes(), (len(shard["actions"]), *shape))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = tqdm(pool.map(frames_of, self._shards), total=len(self._shards), desc="decoding")
            write_frames(path, (len(self), *shape), parts)
