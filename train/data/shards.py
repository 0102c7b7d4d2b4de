"""Compressed parts of tabletop shards: frames as VP9, poses and segmentations as differences under LZMA."""

from __future__ import annotations

import lzma
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

POSE_UNITS = np.array([1000] * 3 + [500] * 4)  # steps per metre of a position and per unit of a quaternion
VP9 = "-c:v libvpx-vp9 -pix_fmt yuv444p -b:v 0 -deadline good -cpu-used 2 -threads 1 -row-mt 0 -bitexact -f ivf"


def compress_frames(frames: np.ndarray, crf: int) -> bytes:
    """Clips (N, T, H, W, 3) uint8 -> a VP9 stream; `crf` is 0 (best) to 63."""
    import imageio_ffmpeg  # only writing needs it

    _, times, height, width, _ = frames.shape
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 10 -i -"
    words = f"{source} {VP9} -crf {crf} -g {times} -keyint_min {times} -"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *words.split()]
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
    if done.returncode:
        raise ValueError(f"ffmpeg failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout


def decompress_frames(stream: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The clips (N, T, H, W, 3) uint8 of a stream; ValueError where it holds more or fewer frames."""
    frames, count = np.empty((shape[0] * shape[1], *shape[2:]), np.uint8), 0
    with tempfile.NamedTemporaryFile(suffix=".ivf") as file:
        file.write(stream)
        file.flush()
        capture = cv2.VideoCapture(file.name)
        while (read := capture.read())[0]:
            if count < len(frames) and read[1].shape == shape[2:]:
                frames[count] = read[1][..., ::-1]
            count += 1
    if count != len(frames):
        raise ValueError(f"the stream holds {count} frames, expected {len(frames)}")
    return frames.reshape(shape)


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


def read_shard(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
