"""Clips of the robot on disk: written by all cores, read as training batches.

A set is a folder with index.json and shards. A shard is an .mp4 of its clips one after the other (H.264 with full
colour resolution, a key frame at each clip's first frame; any player shows it) and an .npz with actions, poses,
segmentation, cameras, shapes and colours. Video loses a little, about 40 dB of PSNR at 128x128 and 44 averaged to
64x64, which every shard measures; all else is exact or float32. The .npz is written last, so a shard that has one is
complete.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import multiprocessing
import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Video
from train.data import generator_for
from train.sim.robot.arm import arm_folder
from train.sim.robot.world import Robot, RobotConfig, RobotSplit
from train.table import load_mujoco
from train.tabletop import to_pictures, to_video

FORMAT = 1
H264 = "-c:v libx264 -preset medium -pix_fmt yuv444p -sc_threshold 0 -threads 1 -bitexact -f mp4"


# ---- writing -----------------------------------------------------------------------------------------


class Shard(NamedTuple):
    """Clips `first` to `last` - 1 of a set, which one process writes."""

    path: Path  # of the .npz
    config: RobotConfig
    split: RobotSplit
    seed: int
    first: int
    last: int
    crf: int


def encode(frames: np.ndarray, path: Path, fps: int, crf: int) -> None:
    """Writes clips (N, T, H, W, 3) uint8 as H.264; crf is 0 (lossless) to 51. ValueError if ffmpeg fails."""
    import imageio_ffmpeg  # reading needs none

    _, times, height, width, _ = frames.shape
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -"
    words = f"-y -v error {source} {H264} -crf {crf} -g {times} -keyint_min {times}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *words.split(), str(path)]
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
    if done.returncode:
        raise ValueError(f"ffmpeg failed: {done.stderr.decode(errors='replace').strip()[-300:]}")


def decode(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The clips (N, T, H, W, 3) uint8 of a video file; ValueError if it holds others."""
    frames = np.empty((shape[0] * shape[1], *shape[2:]), np.uint8)
    capture, count = cv2.VideoCapture(str(path)), 0
    while (read := capture.read())[0]:
        if count < len(frames) and read[1].shape == shape[2:]:
            frames[count] = read[1][..., ::-1]
        count += 1
    if count != len(frames):
        raise ValueError(f"{path} holds {count} frames, expected {len(frames)}")
    return frames.reshape(shape)


def pack_segmentation(segmentation: np.ndarray) -> np.ndarray:
    """Classes (N, T, H, W) int8 -> bytes (M,) uint8. Most pixels never change, so changes in time are compressed."""
    changes = np.diff(segmentation, axis=1, prepend=np.int8(0))
    return np.frombuffer(lzma.compress(np.moveaxis(changes, 1, -1).tobytes(), preset=4), np.uint8)


def unpack_segmentation(packed: np.ndarray, shape: tuple[int, int, int, int]) -> np.ndarray:
    """-> (N, T, H, W) int8."""
    n, times, height, width = shape
    changes = np.frombuffer(lzma.decompress(packed.tobytes()), np.int8).reshape(n, height, width, times)
    return np.moveaxis(changes.cumsum(axis=-1, dtype=np.int8), -1, 1)


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def write_shard(shard: Shard) -> int:
    """Simulates and writes one shard; returns its number of clips."""
    world = Robot(shard.config, shard.split)
    clips = [world.clip(shard.seed, index) for index in range(shard.first, shard.last)]
    frames = np.stack([to_pictures(clip.video) for clip in clips])
    video, temporary = shard.path.with_suffix(".mp4"), shard.path.with_suffix(f".{os.getpid()}.tmp")
    encode(frames, temporary, shard.config.fps, shard.crf)
    error = ((decode(temporary, frames.shape).astype(np.float32) - frames) ** 2).mean(axis=(1, 2, 3, 4))
    os.replace(temporary, video)
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            actions=torch.stack([clip.actions for clip in clips]).mul(100).round().to(torch.int8).numpy(),
            hand_poses=torch.stack([clip.hand_poses for clip in clips]).float().numpy(),
            object_poses=_padded([clip.object_poses.float() for clip in clips], shard.config.max_objects, dim=1, by=0),
            segmentation=pack_segmentation(torch.stack([clip.segmentation for clip in clips]).numpy()),
            cameras=torch.stack([clip.camera for clip in clips]).numpy(),
            shapes=_padded([clip.shapes.to(torch.int8) for clip in clips], shard.config.max_objects, dim=0, by=-1),
            colours=_padded([clip.colours.to(torch.int8) for clip in clips], shard.config.max_objects, dim=0, by=-1),
            psnr=(10 * np.log10(255**2 / error.clip(1e-9))).astype(np.float16),  # of clips, dB
        )
    os.replace(temporary, shard.path)
    return len(clips)


def _padded(parts: list[Tensor], count: int, dim: int, by: float) -> np.ndarray:
    """Tensors of different lengths along a dimension, stacked and filled up to `count`."""
    shape = list(parts[0].shape)
    shape[dim] = count
    whole = parts[0].new_full((len(parts), *shape), by)
    for row, part in zip(whole, parts, strict=True):
        row.narrow(dim, 0, part.shape[dim]).copy_(part)
    return whole.numpy()


def write_set(
    out: Path, config: RobotConfig, split: RobotSplit, seed: int, clips: int, crf: int, per_shard: int, workers: int
) -> None:
    """Writes the shards that a set lacks; ValueError if the folder holds a set of other clips."""
    load_mujoco()  # here, so that an error is printed once
    arm_folder()
    out.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("mujoco", "metaworld")}
    index = {
        "format": FORMAT, "world": "robot", "split": split, "seed": seed, "clips": clips, "per_shard": per_shard,
        "crf": crf, "config": dataclasses.asdict(config), "versions": versions,
    }  # fmt: skip
    path = out / "index.json"
    if path.exists() and (found := json.loads(path.read_text())) != index:
        other = next(name for name in index if index[name] != found.get(name))
        raise ValueError(f"{out} holds a set whose {other} is {found.get(other)}, not {index[other]}")
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(index, indent=1))
    os.replace(temporary, path)
    shards = [
        Shard(shard_path(out, first // per_shard), config, split, seed, first, min(first + per_shard, clips), crf)
        for first in range(0, clips, per_shard)
    ]
    missing = [shard for shard in shards if not shard.path.exists()]
    with tqdm(total=clips, initial=clips - sum(s.last - s.first for s in missing), desc=split, unit="clip") as bar:
        if min(workers, len(missing)) <= 1:
            for shard in missing:
                bar.update(write_shard(shard))
            return
        with multiprocessing.get_context("spawn").Pool(min(workers, len(missing)), initializer=_one_thread) as pool:
            for written in pool.imap_unordered(write_shard, missing):
                bar.update(written)


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npz"


def stored_psnr(folder: Path) -> np.ndarray:
    """PSNR of every clip's stored video with what was simulated, (N,) dB."""
    return np.concatenate([_read_shard(path)["psnr"] for path in sorted(folder.glob("shard-*.npz"))]).astype(float)


# ---- reading -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RobotWorld:
    """What a preset trains on: clips cut from a stored set."""

    kind: Literal["robot"] = "robot"
    image_size: int = 64
    frames: int = 20  # per clip


class RobotBatch(NamedTuple):
    """Random clips with what is known of them; R is the most objects of the set, whose poses are 0 beyond a clip's."""

    video: Video  # (B, T, 3, H, W)
    actions: Tensor  # (B, T, 3), from frame t to t + 1
    hand_poses: Tensor  # (B, T, 7)
    object_poses: Tensor  # (B, T, R, 7)
    clips: Tensor  # (B,) indices into the set
    starts: Tensor  # (B,) first frames


class RobotSet:
    """A stored set as batches; a batch depends on (the set's clips, size, seed, index) alone.

    Pictures smaller than the stored ones are area averages. The first use decodes each shard to the folder `cache` (by
    default in the set's own; 369 kB a clip of 30 frames of 64x64), which later uses map into memory.

    partial: read the shards that are there, such as of a set that is being written.
    Raises FileNotFoundError for a set that is not complete, ValueError for another format or a size that does not fit.
    """

    def __init__(
        self,
        folder: Path,
        *,
        image_size: int | None = None,
        frames: int | None = None,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
        partial: bool = False,
    ) -> None:
        folder = Path(folder)
        index = _read_index(folder)
        self.folder, self.device = folder, torch.device(device)
        self.config, self.split, self.seed = RobotConfig(**index["config"]), index["split"], index["seed"]
        self.image_size, self.frames = image_size or self.config.image_size, frames or self.config.frames
        if not 1 <= self.frames <= self.config.frames:
            raise ValueError(f"frames is {frames}, the set's clips have {self.config.frames}")
        if self.config.image_size % self.image_size:
            raise ValueError(f"image_size is {image_size}, must divide the set's {self.config.image_size}")
        shards = [shard_path(folder, k) for k in range(-(-index["clips"] // index["per_shard"]))]
        missing = [path for path in shards if not path.is_file()]
        if len(missing) == len(shards) or (missing and not partial):
            raise FileNotFoundError(
                f"{missing[0]} and {len(missing) - 1} more are missing; run the set's command again"
            )
        self._shards = [path for path in shards if path.is_file()]
        self._cache = Path(cache or folder) / f"decoded-{self.image_size}"
        self._pixels = [self._decoded(path) for path in tqdm(self._shards, desc="decoding", delay=2)]
        sizes = torch.tensor([len(pixels) for pixels in self._pixels])
        self._shard_of = torch.arange(len(sizes)).repeat_interleave(sizes)  # (N,)
        self._row_of = torch.cat([torch.arange(size) for size in sizes])  # (N,)
        self.actions = torch.from_numpy(self._part("actions")).float() / 100  # (N, T, 3)

    def __len__(self) -> int:
        return len(self.actions)

    def _part(self, name: str) -> np.ndarray:
        """What the shards hold by this name, of all clips."""
        return np.concatenate([_read_shard(path)[name] for path in self._shards])

    @cached_property
    def hand_poses(self) -> Tensor:
        """(N, T, 7) float32."""
        return torch.from_numpy(self._part("hand_poses"))

    @cached_property
    def object_poses(self) -> Tensor:
        """(N, T, R, 7) float32, 0 beyond a clip's own objects."""
        return torch.from_numpy(self._part("object_poses"))

    @cached_property
    def shapes(self) -> Tensor:
        """(N, R) int8 indices into SHAPES, -1 for none."""
        return torch.from_numpy(self._part("shapes"))

    @cached_property
    def colours(self) -> Tensor:
        """(N, R) int8 indices into PALETTE, -1 for none."""
        return torch.from_numpy(self._part("colours"))

    @cached_property
    def cameras(self) -> Tensor:
        """(N, 13) float32, focal lengths in pixels of this size."""
        cameras = torch.from_numpy(self._part("cameras"))
        cameras[:, 12] *= self.image_size / self.config.image_size
        return cameras

    def video(self, clip: int) -> Video:
        """One whole clip, (T, 3, H, W) on the CPU."""
        return to_video(torch.from_numpy(np.array(self._pixels[int(self._shard_of[clip])][int(self._row_of[clip])])))

    def segmentation(self, clip: int) -> Tensor:
        """One whole clip's classes (T, H, W) int8, of every n-th pixel: objects from 0, -1 the arm, -2 the background.

        Unpacks the clip's whole shard, so read clips in order.
        """
        shard, row = int(self._shard_of[clip]), int(self._row_of[clip])
        if self._unpacked[0] != shard:
            whole, side = _read_shard(self._shards[shard]), self.config.image_size
            shape = (*whole["actions"].shape[:2], side, side)
            self._unpacked = shard, unpack_segmentation(whole["segmentation"], shape)
        step = self.config.image_size // self.image_size
        return torch.from_numpy(self._unpacked[1][row, :, ::step, ::step].copy())

    _unpacked: tuple[int, np.ndarray] = (-1, np.empty(0))

    def batch(self, size: int, seed: int, index: int) -> Video:
        """Random clips, each from a random frame on: (size, frames, 3, H, W) on the set's device."""
        return self.sample(size, seed, index).video

    def sample(self, size: int, seed: int, index: int) -> RobotBatch:
        """The same clips, with their actions and poses."""
        generator = generator_for("robot set", self.split, seed, index)
        clips = torch.randint(len(self), (size,), generator=generator)
        starts = torch.randint(self.config.frames - self.frames + 1, (size,), generator=generator)
        times = starts[:, None] + torch.arange(self.frames)  # (B, T)
        rows = zip(self._shard_of[clips].tolist(), self._row_of[clips].tolist(), starts.tolist(), strict=True)
        pixels = np.stack([self._pixels[shard][row, start : start + self.frames] for shard, row, start in rows])
        known = (part[clips[:, None], times] for part in (self.actions, self.hand_poses, self.object_poses))
        video = to_video(torch.from_numpy(pixels).to(self.device))
        return RobotBatch(video, *(part.to(self.device) for part in known), clips, starts)

    def _decoded(self, shard: Path) -> np.ndarray:
        """A shard's pictures (n, T, H, W, 3) uint8, mapped into memory."""
        path = self._cache / f"{shard.stem}.npy"
        if not path.is_file() or path.stat().st_mtime < shard.stat().st_mtime:
            path.parent.mkdir(parents=True, exist_ok=True)
            side, n = self.config.image_size, self.config.image_size // self.image_size
            frames = decode(
                shard.with_suffix(".mp4"), (len(_read_shard(shard)["actions"]), self.config.frames, side, side, 3)
            )
            if n > 1:
                small = frames.reshape(-1, self.config.frames, self.image_size, n, self.image_size, n, 3)
                frames = ((small.sum(axis=(3, 5), dtype=np.uint32) + n * n // 2) // (n * n)).astype(np.uint8)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                np.save(file, frames)
            os.replace(temporary, path)
        return np.load(path, mmap_mode="r")


def _read_index(folder: Path) -> dict[str, Any]:
    """ValueError for a format that this code does not read, FileNotFoundError where there is no set."""
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run the set's command again")
    index = json.loads(path.read_text())
    if (index.get("world"), index["format"]) != ("robot", FORMAT):
        raise ValueError(
            f"{folder} has format {index['format']} of {index.get('world', 'another world')}, "
            f"this code reads {FORMAT} of robot"
        )
    return index


def _read_shard(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path, allow_pickle=False))
