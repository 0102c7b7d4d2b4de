"""Simulated sets on disk, in shards that several processes write; video, poses and segmentations are compressed.

A set is a folder with index.json and files shard-00000.npz, ... A shard that is there is complete.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import multiprocessing
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.checkpoint import write_whole

STRAIGHT_LINE = 0.15  # clips of straight_line for each of the training split
POSE_UNITS = np.array([1000] * 3 + [500] * 4)  # steps per metre of a position and per unit of a quaternion
VP9 = "-c:v libvpx-vp9 -pix_fmt yuv444p -b:v 0 -deadline good -cpu-used 2 -threads 1 -row-mt 0 -bitexact -f ivf"
H264 = "-c:v libx264 -preset medium -pix_fmt yuv444p -sc_threshold 0 -threads 1 -bitexact -f mp4"


# ---- sets --------------------------------------------------------------------------------------------


class Shard(NamedTuple):
    """What one process writes: clips `first` to `last` - 1."""

    path: Path
    config: Any  # of the world
    split: str
    seed: int
    first: int
    last: int
    crf: int


def shard_paths(folder: Path, index: dict[str, Any]) -> list[Path]:
    """Where a set's shards are or will be."""
    return [folder / f"shard-{k:05d}.npz" for k in range(-(-index["clips"] // index["per_shard"]))]


def write_set(out: Path, config: Any, write_shard: Callable[[Shard], int], workers: int, index: dict[str, Any]) -> None:
    """Writes what is missing of a set. write_shard simulates one shard and returns its number of clips.

    index: at least `split`, `seed`, `clips`, `per_shard` and `crf`. ValueError if the folder holds another set.
    """
    index, path = index | {"config": dataclasses.asdict(config)}, out / "index.json"
    if path.exists() and (old := json.loads(path.read_text())) != index:
        name = next(name for name in index if index[name] != old.get(name))
        raise ValueError(f"{out} holds a set whose {name} is {old.get(name)}, not {index[name]}")
    write_whole(path, lambda file: file.write(json.dumps(index, indent=1).encode()))
    clips, n = index["clips"], index["per_shard"]
    shards = [
        Shard(path, config, index["split"], index["seed"], k * n, min(k * n + n, clips), index["crf"])
        for k, path in enumerate(shard_paths(out, index))
    ]
    missing = [shard for shard in shards if not shard.path.exists()]
    remaining = sum(shard.last - shard.first for shard in missing)
    with tqdm(total=clips, initial=clips - remaining, desc=index["split"], unit="clip") as bar:
        for written in _in_processes(write_shard, missing, workers):
            bar.update(written)


def _in_processes(function: Callable[[Shard], int], items: Sequence[Shard], workers: int) -> Iterable[int]:
    """The results as they come; one worker is this process."""
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_use_one_thread) as pool:
        yield from pool.imap_unordered(function, items)


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def read_index(folder: Path, world: str, version: int) -> dict[str, Any]:
    """FileNotFoundError where there is no set, ValueError for one of another world or format."""
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; make the set again")
    index = read_json(path)
    if (other := index.get("world", "tabletop")) != world:
        raise ValueError(f"{folder} holds clips of the {other}, not of the {world}")
    if index["format"] != version:
        raise ValueError(f"{folder} has format {index['format']}, this code reads {version}")
    return index


def read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: make the set again") from error


def world_of(folder: Path) -> str | None:
    """The world of a set with splits, "tabletop" or "robot"; None of any other folder."""
    path = folder / "train" / "index.json"
    try:
        index = read_json(path) if path.is_file() else {}
    except ValueError:
        if any(path.parent.glob("shard-*.npz")):
            raise
        index = {}  # of something else
    return index.get("world", "tabletop") if {"format", "per_shard", "crf"} <= set(index) else None


def read_shard(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def clip_psnr(decoded: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """PSNR (N,) float16 in dB of decoded clips (N, T, H, W, 3) uint8 with the simulated ones."""
    error = ((decoded.astype(np.float32) - frames) ** 2).mean(axis=(1, 2, 3, 4))
    return (10 * np.log10(255**2 / error.clip(1e-9))).astype(np.float16)


# ---- compression -------------------------------------------------------------------------------------


def encode(frames: np.ndarray, codec: str, crf: int, fps: int = 10, target: str = "-") -> bytes:
    """Encodes clips (N, T, H, W, 3) uint8, a key frame each, to a file or to the bytes that come back.

    ValueError where ffmpeg fails.
    """
    import imageio_ffmpeg  # only writing needs it

    _, times, height, width, _ = frames.shape
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -"
    words = f"-y -v error {source} {codec} -crf {crf} -g {times} -keyint_min {times}".split()
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *words, target]
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
    if done.returncode:
        raise ValueError(f"ffmpeg failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout


def decode(path: str | Path, shape: tuple[int, ...]) -> np.ndarray:
    """The clips (N, T, H, W, 3) uint8 of a file; ValueError where it holds more or fewer frames."""
    frames, count = np.empty((shape[0] * shape[1], *shape[2:]), np.uint8), 0
    capture = cv2.VideoCapture(str(path))
    while (read := capture.read())[0]:
        if count < len(frames) and read[1].shape == shape[2:]:
            frames[count] = read[1][..., ::-1]
        count += 1
    if count != len(frames):
        raise ValueError(f"{path} holds {count} frames, expected {len(frames)}")
    return frames.reshape(shape)


def compress_frames(frames: np.ndarray, crf: int) -> bytes:
    """Clips (N, T, H, W, 3) uint8 -> a VP9 stream; `crf` is 0 (best) to 63."""
    return encode(frames, VP9, crf)


def decompress_frames(stream: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The clips (N, T, H, W, 3) uint8 of a stream; ValueError where it holds more or fewer frames."""
    with tempfile.NamedTemporaryFile(suffix=".ivf") as file:
        file.write(stream)
        file.flush()
        return decode(file.name, shape)


def compress_poses(poses: Sequence[Tensor], bodies: int) -> bytes:
    """Poses (T, K, 7) of clips with up to `bodies` bodies -> bytes, exact to a millimetre and to 1/500."""
    padded = np.zeros((len(poses), len(poses[0]), bodies, 7))
    for row, of_clip in zip(padded, poses, strict=True):
        row[:, : of_clip.shape[1]] = of_clip
    steps = np.diff(np.round(padded * POSE_UNITS).astype(np.int16), axis=1, prepend=np.int16(0))
    return lzma.compress(np.moveaxis(steps, 1, -1).tobytes(), preset=9)


def decompress_poses(data: bytes, clips: int, times: int, bodies: int) -> np.ndarray:
    """-> (clips, T, bodies, 7) float32; 0 beyond a clip's own bodies."""
    steps = np.frombuffer(lzma.decompress(data), np.int16).reshape(clips, bodies, 7, times)
    poses = np.moveaxis(steps.cumsum(axis=-1, dtype=np.int16), -1, 1)
    return poses.astype(np.float32) / POSE_UNITS.astype(np.float32)


def compress_segmentation(segmentation: np.ndarray) -> bytes:
    """Small integers (N, T, H, W) -> bytes, without loss."""
    steps = np.diff(segmentation.astype(np.int8), axis=1, prepend=np.int8(0))
    return lzma.compress(np.moveaxis(steps, 1, -1).tobytes(), preset=6)


def decompress_segmentation(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """-> (N, T, H, W) int8."""
    n, times, height, width = shape
    steps = np.frombuffer(lzma.decompress(data), np.int8).reshape(n, height, width, times)
    return np.moveaxis(steps.cumsum(axis=-1, dtype=np.int8), -1, 1)
