"""Clips that ffmpeg or a few lines draw, and a check that nothing is left behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

SOURCE = "testsrc2=s=64x48:r=10:d=0.5"
PLAIN = "-pix_fmt yuv420p -c:v libx264"


def ffmpeg(*arguments, data: bytes | None = None) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments)]
    subprocess.run(command, input=data, check=True, env=os.environ | {"SVT_LOG": "1"})


def make(path: Path, options: str = PLAIN, source: str = SOURCE, before: str = "") -> Path:
    """A small clip that ffmpeg draws."""
    ffmpeg(*before.split(), "-f", "lavfi", "-i", source, *options.split(), f"file:{path}")
    return path


def lossless(path: Path, frames: np.ndarray, fps: int = 10) -> Path:
    """Frames (T, H, W, 3) uint8 as RGB H.264 without any loss."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", fps, "-i", "-"]
    ffmpeg(*raw, "-c:v", "libx264rgb", "-qp", "0", path, data=frames.tobytes())
    return path


def noise(frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def digits(frames: int = 20, side: int = 64) -> np.ndarray:
    """Two bars in gray that move, (T, H, W, 3) uint8."""
    clip = np.zeros((frames, side, side, 3), np.uint8)
    for t in range(frames):
        clip[t, 5 + t : 25 + t, 15:24] = 255
        clip[t, 20:26, 5 + t : 30 + t] = 160
    return clip


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def children() -> set[str]:
    """Processes of ours that still are there, zombies included."""
    return {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path, monkeypatch):
    """No child process and no temporary file outlives a test of a file that imports this."""
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temp))
    before = children()
    yield
    assert children() <= before
    assert not list(temp.iterdir())
