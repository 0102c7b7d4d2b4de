"""Packed tabletop clips: written by train.make_tabletop, read for training."""

from __future__ import annotations

import dataclasses
import json
import lzma
import multiprocessing
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Video
from stt.checkpoint import write_whole
from stt.sprites import BACKGROUND, OUTSIDE, masks_of, moments
from train.data.arrays import write_frames
from train.seeding import generator_for
from train.sim.tabletop.environment import load_mujoco
from train.sim.tabletop.image_motion import AXES, PUSHER_HEIGHT, floor, paths
from train.sim.tabletop.scene import PALETTE, SHAPES
from train.sim.tabletop.world import Tabletop, TabletopClip, TabletopConfig, to_pictures, to_video

FORMAT = 3
MILLIMETRES, TURNS = 1000, 500  # units of a place and of a quaternion
BODIES = 1 + len(PALETTE)  # the pusher and at most one object of each colour
STEADY = 0.15  # steady clips for each of the training split's
REFERENCES = 5  # first frames of a training clip whose paths are computed
VP9 = "-c:v libvpx-vp9 -pix_fmt yuv444p -b:v 0 -deadline good -cpu-used 2 -threads 1 -row-mt 0 -bitexact -f ivf"


# ---- packing -----------------------------------------------------------------------------------------


def pack(frames: np.ndarray, crf: int) -> bytes:
    """Clips (N, T, H, W, 3) uint8 -> a VP9 stream; `crf` is 0 (best) to 63."""
    clips, times, height, width, _ = frames.shape
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 10 -i -"
    import imageio_ffmpeg  # here, for reading a set needs none

    words = f"{source} {VP9} -crf {crf} -g {times} -keyint_min {times} -"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *words.split()]
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
    if done.returncode:
        raise ValueError(f"ffmpeg failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout


def unpack(stream: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The clips (N, T, H, W, 3) uint8 of a stream; ValueError where it holds others."""
    frames = np.empty((shape[0] * shape[1], *shape[2:]), np.uint8)
    with tempfile.NamedTemporaryFile(suffix=".ivf") as file:
        file.write(stream)
        file.flush()
        capture = cv2.VideoCapture(file.name)
        found = 0
        while (read := capture.read())[0]:
            if found < len(frames) and read[1].shape == shape[2:]:
                frames[found] = read[1][..., ::-1]
            found += 1
    if found != len(frames):
        raise ValueError(f"the stream holds {found} frames, expected {len(frames)}")
    return frames.reshape(shape)


def pack_poses(poses: list[Tensor]) -> bytes:
    """Poses (T, bodies, 7) of clips with any number of bodies -> bytes."""
    most = BODIES
    whole = np.zeros((len(poses), len(poses[0]), most, 7))
    for row, of_clip in zip(whole, poses, strict=True):
        row[:, : of_clip.shape[1]] = of_clip
    steps = np.round(whole * ([MILLIMETRES] * 3 + [TURNS] * 4)).astype(np.int16)
    return lzma.compress(np.moveaxis(np.diff(steps, axis=1, prepend=np.int16(0)), 1, -1).tobytes(), preset=9)


def unpack_poses(packed: bytes, clips: int, times: int) -> np.ndarray:
    """-> (clips, T, 9, 7) float32; bodies beyond a clip's own are 0."""
    steps = np.frombuffer(lzma.decompress(packed), np.int16).reshape(clips, BODIES, 7, times)
    whole = np.moveaxis(steps.cumsum(axis=-1, dtype=np.int16), -1, 1).astype(np.float32)
    return whole / np.array([MILLIMETRES] * 3 + [TURNS] * 4, dtype=np.float32)


def pack_shown(shown: np.ndarray) -> bytes:
    """What pixels show, small integers (N, T, H, W) -> bytes."""
    steps = np.diff(shown.astype(np.int8), axis=1, prepend=np.int8(0))
    return lzma.compress(np.moveaxis(steps, 1, -1).tobytes(), preset=6)


def unpack_shown(packed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """-> (N, T, H, W) int8."""
    n, times, height, width = shape
    steps = np.frombuffer(lzma.decompress(packed), np.int8).reshape(n, height, width, times)
    return np.moveaxis(steps.cumsum(axis=-1, dtype=np.int8), -1, 1)


# ---- writing -----------------------------------------------------------------------------------------


class Shard(NamedTuple):
    """What one process writes: clips `first` to `last` - 1."""

    path: Path
    config: TabletopConfig
    split: str
    seed: int
    first: int
    last: int
    crf: int


def write_shard(shard: Shard) -> int:
    """Simulates, packs and writes one shard, at once or not at all; returns its number of clips."""
    torch.set_num_threads(1)
    table = Tabletop(shard.config, shard.split)
    clips = [table.clip(shard.seed, index) for index in range(shard.first, shard.last)]
    frames = np.stack([to_pictures(clip.video) for clip in clips])
    stream = pack(frames, shard.crf)
    error = (unpack(stream, frames.shape).astype(np.float32) - frames) ** 2
    kinds = np.full((2, len(clips), len(PALETTE)), -1, np.int8)
    for k, clip in enumerate(clips):
        kinds[0, k, : len(clip.shapes)], kinds[1, k, : len(clip.shapes)] = clip.shapes, clip.colours
    arrays = {
        "video": np.frombuffer(stream, np.uint8),
        "poses": np.frombuffer(pack_poses([bodies_of(clip) for clip in clips]), np.uint8),
        "shown": np.frombuffer(pack_shown(np.stack([table.segmentation(clip) for clip in clips]) + 2), np.uint8),
        "cameras": torch.stack([table.camera(clip) for clip in clips]).numpy(),
        "actions": torch.stack([clip.actions for clip in clips]).mul(100).round().to(torch.int8).numpy(),
        "shapes": kinds[0],
        "colours": kinds[1],
        "psnr": (10 * np.log10(255**2 / error.mean(axis=(1, 2, 3, 4)).clip(1e-9))).astype(np.float16),  # of clips, dB
    }
    write_whole(shard.path, lambda file: np.savez_compressed(file, **arrays))
    return len(clips)


def bodies_of(clip: TabletopClip) -> Tensor:
    """Poses (T, 1 + objects, 7) of the pusher, about as high as all are, and of the objects."""
    pusher = clip.poses.new_tensor([0, 0, PUSHER_HEIGHT, 1, 0, 0, 0]).repeat(len(clip.poses), 1)
    pusher[:, :2] = clip.pusher
    return torch.cat([pusher[:, None], clip.poses], dim=1)


def write_set(
    out: Path, config: TabletopConfig, split: str, seed: int, clips: int, crf: int, per_shard: int, workers: int
) -> None:
    """Writes what is missing of a set; ValueError if the folder holds one of other clips."""
    mujoco, _ = load_mujoco()  # here, so that what it lacks is said once
    out.mkdir(parents=True, exist_ok=True)
    index = {
        "format": FORMAT, "split": split, "seed": seed, "clips": clips, "per_shard": per_shard, "crf": crf,
        "config": dataclasses.asdict(config), "versions": {"mujoco": mujoco.__version__},
    }  # fmt: skip
    path = out / "index.json"
    if path.exists() and (found := json.loads(path.read_text())) != index:
        other = next(name for name in index if index[name] != found.get(name))
        raise ValueError(f"{out} holds a set whose {other} is {found.get(other)}, not {index[other]}")
    write_whole(path, lambda file: file.write(json.dumps(index, indent=1).encode()))
    shards = [
        Shard(shard_path(out, first // per_shard), config, split, seed, first, min(first + per_shard, clips), crf)
        for first in range(0, clips, per_shard)
    ]
    missing = [shard for shard in shards if not shard.path.exists()]
    with (
        multiprocessing.get_context("spawn").Pool(min(workers, max(len(missing), 1))) as pool,
        tqdm(total=clips, initial=clips - sum(s.last - s.first for s in missing), unit="clip") as bar,
    ):
        for written in pool.imap_unordered(write_shard, missing):
            bar.update(written)


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npz"


# ---- reading -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TabletopDataConfig:
    """What a preset trains on: clips cut from a packed set."""

    kind: Literal["tabletop"] = "tabletop"
    frames: int = 20  # per clip


class TabletopBatch(NamedTuple):
    video: Video  # (B, T, 3, H, W)
    actions: Tensor  # (B, T, 2), of frame t to t + 1
    clips: Tensor  # (B,) which ones of the set
    starts: Tensor  # (B,) the frame that each begins with
    mirrored: Tensor  # (B,) bool
    steady: Tensor  # (B,) bool, whether the pusher goes straight on as nobody would expect it to


class TabletopDataset:
    """A packed set, or several as one, as batches of its clips; a batch depends on (size, seed, index) alone.

    The first use decodes all clips to the folder `cache` (the first set's own if not told; 369 kB a clip of 30 frames
    of 64x64), which later ones map into memory. On another device than the CPU all frames are held there.
    Raises FileNotFoundError for a set that is not complete, ValueError for one of another format or unlike the first.
    """

    def __init__(
        self,
        folder: Path,
        *more: Path,
        frames: int | None = None,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
    ) -> None:
        self.folder, self.device, self._shards = Path(folder), torch.device(device), []
        indices = [_index(Path(each)) for each in (folder, *more)]
        index = indices[0]
        self.config, self.split, self.seed = TabletopConfig(**index["config"]), index["split"], index["seed"]
        self.frames = frames or self.config.frames
        if not 1 <= self.frames <= self.config.frames:
            raise ValueError(f"frames is {frames}, the set's clips have {self.config.frames}")
        for each, other in zip((folder, *more), indices, strict=True):
            if other["config"] != index["config"]:
                raise ValueError(f"{each} holds clips of {other['config']}, {folder} of {index['config']}")
            self._shards += [shard_path(Path(each), k) for k in range(-(-other["clips"] // other["per_shard"]))]
        if missing := [path for path in self._shards if not path.is_file()]:
            raise FileNotFoundError(
                f"{missing[0]} and {len(missing) - 1} more are missing; run the set's command again"
            )
        self.steady = torch.tensor([of["split"] == "steady" for of in indices for _ in range(of["clips"])])  # (N,)
        self.actions = torch.from_numpy(self.part("actions")).float() / 100  # (N, T, 2)
        decoded = Path(cache or self.folder) / "decoded.npy"
        if not decoded.exists() or len(np.load(decoded, mmap_mode="r")) != len(self):
            self._decode(decoded)
        pixels = torch.from_numpy(np.load(decoded, mmap_mode="c"))  # (N, T, H, W, 3) uint8
        self.pixels = pixels if self.device.type == "cpu" else pixels.to(self.device)

    def __len__(self) -> int:
        return len(self.actions)

    def part(self, name: str) -> np.ndarray:
        """What the shards hold by this name, of all clips: actions, shapes, colours (-1 for no object) or psnr."""
        return np.concatenate([read_shard(path)[name] for path in self._shards])

    def poses(self) -> np.ndarray:
        """(N, T, 9, 7) float32 of the pusher, whose height is about right, and the objects; 0 beyond a clip's own."""
        shards = [read_shard(path) for path in self._shards]
        return np.concatenate([unpack_poses(s["poses"].tobytes(), *s["actions"].shape[:2]) for s in shards])

    def shown(self) -> np.ndarray:
        """What each pixel shows, (N, T, H, W) int8: 0 what is fixed, 1 the pusher, 2 and on the objects."""
        shards = [read_shard(path) for path in self._shards]
        frame = (self.config.image_size,) * 2
        return np.concatenate([unpack_shown(s["shown"].tobytes(), s["actions"].shape[:2] + frame) for s in shards])

    @cached_property
    def _scenes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cameras, what pixels show, poses, and axes that tell their turns, of all clips on the set's device."""
        axes = np.array([*(AXES[shape] for shape in SHAPES), (0.0, 0.0, 0.0)], np.float32)[self.part("shapes")]
        axes = np.pad(axes, [(0, 0), (1, 0), (0, 0)])
        axes[:, 0] = AXES["rod"]
        parts = self.part("cameras"), self.shown(), self.poses(), axes
        return tuple(torch.from_numpy(part).to(self.device) for part in parts)

    def paths(self, batch: TabletopBatch) -> tuple[Tensor, Tensor]:
        """What the family `layered` learns from: poses in the picture of the pusher and the objects since each of a
        batch's first frames, (B, R, T, 9, 4), and these frames' segmentation, (B, R, H, W): see `stt.sprites` and
        train/paths.py."""
        clips, times = batch.clips[:, None], batch.starts[:, None] + torch.arange(self.frames)
        cameras, shown, poses, axes = self._scenes
        shown = shown[clips, times[:, : min(REFERENCES, self.frames)]].long()
        centroids = moments(masks_of(shown.flatten(0, 1)))[0].unflatten(0, shown.shape[:2])
        found = paths(cameras[batch.clips], poses[clips, times], axes[batch.clips], centroids, shown.shape[-1])
        outside = ~floor(cameras[batch.clips], shown.shape[-1])[:, None] & (shown == BACKGROUND)
        shown = torch.where(outside, OUTSIDE, shown)
        mirrored = batch.mirrored.to(self.device)[:, None, None, None]
        other = found * found.new_tensor([1.0, -1.0, -1.0, 1.0])
        return torch.where(mirrored[..., None], other, found), torch.where(mirrored, shown.flip(-1), shown)

    def batch(self, size: int, seed: int, index: int) -> Video:
        """Random clips, each from a random frame on: (size, frames, 3, H, W) on the set's device."""
        return self.sample(size, seed, index).video

    def sample(self, size: int, seed: int, index: int) -> TabletopBatch:
        """The same clips, with what the pusher was told."""
        generator = generator_for("packed", self.split, seed, index)
        clips = torch.randint(len(self), (size,), generator=generator)
        starts = torch.randint(self.config.frames - self.frames + 1, (size,), generator=generator)
        times = starts[:, None] + torch.arange(self.frames)  # (B, T)
        picked = self.pixels[clips.to(self.device)[:, None], times.to(self.device)]  # (B, T, H, W, 3)
        video, actions = to_video(picked), self.actions[clips[:, None], times].to(self.device)
        mirrored = torch.zeros(size, dtype=torch.bool)
        if self.split != "test":  # the world is as likely as its mirror image
            mirrored = torch.rand(size, generator=generator) < 0.5
            turned = mirrored.to(self.device)
            video = torch.where(turned[:, None, None, None, None], video.flip(-1), video)
            actions = torch.where(turned[:, None, None], actions * actions.new_tensor([-1.0, 1.0]), actions)
        steady = self.steady[clips].to(self.device)
        return TabletopBatch(video.contiguous(), actions, clips, starts, mirrored, steady)

    def _decode(self, path: Path) -> None:
        c = self.config
        shape = (c.frames, c.image_size, c.image_size, 3)

        def frames_of(path: Path) -> np.ndarray:
            shard = read_shard(path)
            return unpack(shard["video"].tobytes(), (len(shard["actions"]), *shape))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            shards = tqdm(pool.map(frames_of, self._shards), total=len(self._shards), desc="unpacking")
            write_frames(path, (len(self), *shape), shards)


def _index(folder: Path) -> dict[str, Any]:
    """ValueError for a format that this code does not read, FileNotFoundError where there is no set."""
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run the set's command again")
    index = json.loads(path.read_text())
    if index["format"] != FORMAT:
        raise ValueError(f"{folder} has format {index['format']}, this code reads {FORMAT}")
    return index


def read_shard(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
