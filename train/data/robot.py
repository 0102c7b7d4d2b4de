"""Stored clips of the robot: train.make_robot writes them, training reads them.

Beside each shard lies an .mp4 of its clips (H.264 with full colour resolution, which any player shows). It loses a
little: about 40 dB of PSNR at 128x128, and 44 averaged to 64x64. Everything else is exact or float32. The .npz is
written last.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Batch
from stt.checkpoint import write_whole
from train.data import shards
from train.data.arrays import write_frames
from train.data.shards import H264, Shard, clip_psnr, compress_segmentation, decode, encode, read_shard
from train.seeding import generator_for
from train.sim.robot.world import Robot, RobotConfig, RobotSplit
from train.sim.world import to_pictures, to_video

FORMAT = 1


# ---- writing -----------------------------------------------------------------------------------------


def write_shard(shard: Shard) -> int:
    """Simulates, compresses and writes one shard; returns its number of clips."""
    world, objects = Robot(shard.config, shard.split), shard.config.max_objects
    clips = [world.clip(shard.seed, index) for index in range(shard.first, shard.last)]
    frames = np.stack([to_pictures(clip.video) for clip in clips])
    video, temporary = shard.path.with_suffix(".mp4"), shard.path.with_suffix(f".{os.getpid()}.tmp")
    encode(frames, H264, shard.crf, shard.config.fps, str(temporary))
    segmentation = compress_segmentation(torch.stack([clip.segmentation for clip in clips]).numpy())
    arrays = {
        "actions": torch.stack([clip.actions for clip in clips]).mul(100).round().to(torch.int8).numpy(),
        "hand_poses": torch.stack([clip.hand_poses for clip in clips]).float().numpy(),
        "object_poses": _padded([clip.object_poses.float() for clip in clips], objects, dim=1, value=0),
        "segmentation": np.frombuffer(segmentation, np.uint8),
        "cameras": torch.stack([clip.camera for clip in clips]).numpy(),
        "shapes": _padded([clip.shapes.to(torch.int8) for clip in clips], objects, dim=0, value=-1),
        "colours": _padded([clip.colours.to(torch.int8) for clip in clips], objects, dim=0, value=-1),
        "psnr": clip_psnr(decode(temporary, frames.shape), frames),
    }
    os.replace(temporary, video)
    write_whole(shard.path, lambda file: np.savez_compressed(file, **arrays))
    return len(clips)


def _padded(parts: list[Tensor], count: int, dim: int, value: float) -> np.ndarray:
    """Tensors of different lengths along a dimension, stacked and filled up to `count`."""
    shape = list(parts[0].shape)
    shape[dim] = count
    stacked = parts[0].new_full((len(parts), *shape), value)
    for row, part in zip(stacked, parts, strict=True):
        row.narrow(dim, 0, part.shape[dim]).copy_(part)
    return stacked.numpy()


def write_set(
    out: Path, config: RobotConfig, split: RobotSplit, seed: int, clips: int, crf: int, per_shard: int, workers: int
) -> None:
    """Writes what is missing of a set; ValueError if the folder holds one of other clips."""
    Robot(config, split).require()  # here, so that one message says what is missing
    index = {
        "format": FORMAT, "world": "robot", "split": split, "seed": seed, "clips": clips, "per_shard": per_shard,
        "crf": crf, "versions": {name: version(name) for name in ("mujoco", "metaworld")},
    }  # fmt: skip
    shards.write_set(out, config, write_shard, workers, index)


# ---- reading -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RobotDataConfig:
    """What a preset trains on: clips cut from a stored set."""

    kind: Literal["robot"] = "robot"
    frames: int = 20  # per clip
    partial: bool = False  # take the shards that are there, such as of a set that is being written


class RobotDataset:
    """Stored sets as one; a batch depends on (the shards, size, seed, index) alone.

    Pictures smaller than the stored ones are area averages. The first use decodes each shard to the folder `cache` (by
    default the set's own; 369 kB a clip of 30 frames of 64x64, 1.5 MB of 128x128), which later ones map into memory. On
    another device than the CPU, all frames lie in its memory.

    partial: read the shards that are there. Raises FileNotFoundError for an incomplete set, ValueError for one of
    another world or format, and for sizes that do not fit.
    """

    def __init__(
        self,
        folder: Path,
        *more: Path,
        image_size: int | None = None,
        frames: int | None = None,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
        partial: bool = False,
    ) -> None:
        folders = [Path(folder), *map(Path, more)]
        indices = [shards.read_index(each, "robot", FORMAT) for each in folders]
        index = indices[0]
        self.config, self.split, self.device = RobotConfig(**index["config"]), index["split"], torch.device(device)
        self.image_size, self.frames = image_size or self.config.image_size, frames or self.config.frames
        if not 1 <= self.frames <= self.config.frames:
            raise ValueError(f"frames is {frames}, the set's clips have {self.config.frames}")
        if self.config.image_size % self.image_size:
            raise ValueError(f"image_size is {image_size}, must divide the set's {self.config.image_size}")
        self._shards: list[Path] = []
        straight: list[bool] = []
        for each, other in zip(folders, indices, strict=True):
            if other["config"] != index["config"]:
                raise ValueError(f"{each} holds clips of {other['config']}, {folder} of {index['config']}")
            paths = shards.shard_paths(each, other)
            missing = [path for path in paths if not path.is_file()]
            if len(missing) == len(paths) or (missing and not partial):
                raise FileNotFoundError(f"{missing[0]} and {len(missing) - 1} more are missing; make the set again")
            present = [path for path in paths if path not in missing]
            clips = sum(len(read_shard(path)["actions"]) for path in present)
            straight += [other["split"] == "straight_line"] * clips
            self._shards += present
        self.off_policy = torch.tensor(straight)  # (N,)
        self.actions = torch.from_numpy(self.part("actions")).float() / 100  # (N, T, 3)
        self._cache = cache
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            mapped = list(tqdm(pool.map(self._decoded, self._shards), total=len(self._shards), desc="decoding"))
        self.pixels = [pixels[k].to(self.device) for pixels in mapped for k in range(len(pixels))]  # N of (T, H, W, 3)

    def __len__(self) -> int:
        return len(self.actions)

    def part(self, name: str) -> np.ndarray:
        """An array of all clips as shards hold it, by its name there; 0 or -1 beyond a clip's own objects."""
        return np.concatenate([read_shard(path)[name] for path in self._shards])

    def batch(self, size: int, seed: int, index: int) -> Batch:
        """Random clips (size, frames, 3, H, W) from random frames on, with their actions."""
        generator = generator_for("robot set", self.split, seed, index)
        clips = torch.randint(len(self), (size,), generator=generator)
        starts = torch.randint(self.config.frames - self.frames + 1, (size,), generator=generator)
        return self.cut(clips, starts)

    def cut(self, clips: Tensor, starts: Tensor) -> Batch:
        """The clips (B,) from these frames on, (B,)."""
        places = zip(clips.tolist(), starts.tolist(), strict=True)
        pixels = torch.stack([self.pixels[clip][start : start + self.frames] for clip, start in places])
        times = starts[:, None] + torch.arange(self.frames)  # (B, T)
        actions, off_policy = self.actions[clips[:, None], times], self.off_policy[clips]
        return Batch(to_video(pixels).contiguous(), actions.to(self.device), off_policy=off_policy.to(self.device))

    def _decoded(self, shard: Path) -> Tensor:
        """A shard's pictures (n, T, H, W, 3) uint8, mapped into memory."""
        folder = self._cache / shard.parent.name if self._cache else shard.parent
        path, c = folder / f"decoded-{self.image_size}" / f"{shard.stem}.npy", self.config
        if not path.is_file() or path.stat().st_mtime < shard.stat().st_mtime:
            shape = (len(read_shard(shard)["actions"]), c.frames, c.image_size, c.image_size, 3)
            frames, n = decode(shard.with_suffix(".mp4"), shape), c.image_size // self.image_size
            if n > 1:
                blocks = frames.reshape(*shape[:2], self.image_size, n, self.image_size, n, 3)
                frames = ((blocks.sum(axis=(3, 5), dtype=np.uint16) + n * n // 2) // (n * n)).astype(np.uint8)
            write_frames(path, frames.shape, [frames])
        return torch.from_numpy(np.load(path, mmap_mode="c"))
