"""Readers of files with frames: videos, image packs and NumPy arrays; and detection of cuts.

A pack is frames.mjpegpack (JPEG files one after another) beside index.npz. An array is uint8 (T, H, W[, 1 or 3]) or
(N, T, H, W[, 1 or 3]) in an .npy, or in an .npz as `video`, perhaps with `actions` ([N, ]T, A). Only the hardened
decoder of stt.video opens videos.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from stt.video import OWN_FILES, decode_whole

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")
ARRAYS = (".npy", ".npz")
PACK, PACK_INDEX = "frames.mjpegpack", "index.npz"
CUT_JUMP, CUT_RATIO, CUT_WINDOW = 15.0, 3.0, 2  # gray levels of 255, times the median jump of so many frames around it
READ_ERRORS = (ValueError, OSError, EOFError, LookupError, zipfile.BadZipFile, cv2.error)  # VideoError is a ValueError


class DecodedVideo(NamedTuple):
    """An opened file."""

    frames: Iterable[np.ndarray]  # (size, size, channels) uint8
    count: int
    size: tuple[int, int]  # width, height of the original
    fps: float  # 0 where the file does not say
    segments: list[int]  # first frames of its segments or clips, which a split may separate
    actions: np.ndarray | None = None  # (count, A), from each frame to the next


def read(path: Path, size: int, channels: int, fit: str, scratch: Path) -> DecodedVideo:
    """Opens a file for its frames, `size` pixels a side. Raises one of READ_ERRORS, now or while frames are read.

    scratch: a folder on whose disk a video's frames lie, without a name, while they are in use.
    """
    if path.name == PACK:
        return _read_pack(path, size, channels, fit)
    if path.suffix.lower() in ARRAYS:
        return _read_array(path, size, channels, fit)
    with tempfile.TemporaryFile(dir=scratch) as file:
        count, fps, source, *_ = decode_whole(path, file, size=size, channels=channels, fit=fit, limits=OWN_FILES)
        frames = np.memmap(file, np.uint8, "r", shape=(count, size, size, channels))
    return DecodedVideo(frames, count, (source.width, source.height), fps, [0])


def resize_square(frame: np.ndarray, size: int, channels: int, fit: str) -> np.ndarray:
    """A picture (H, W[, 1 or 3]) uint8 -> (size, size, channels): its centre ("crop") or all, on black ("pad")."""
    frame = frame.reshape(*frame.shape[:2], -1)
    (height, width), shorter, longer = frame.shape[:2], min(frame.shape[:2]), max(frame.shape[:2])
    if fit == "crop":
        y, x = (height - shorter) // 2, (width - shorter) // 2
        frame = frame[y : y + shorter, x : x + shorter]
        longer = height = width = shorter
    if longer != size:
        kernel = cv2.INTER_AREA if longer > size else cv2.INTER_LINEAR if size % longer else cv2.INTER_NEAREST
        sides = [max(1, round(size * side / longer)) for side in (width, height)]
        frame = cv2.resize(np.ascontiguousarray(frame), sides, interpolation=kernel)
        frame = frame.reshape(*frame.shape[:2], -1)
    if channels < frame.shape[2]:
        frame = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)[..., None]
    if frame.shape[:2] == (size, size):
        return np.broadcast_to(frame, (size, size, channels))
    padded = np.zeros((size, size, channels), np.uint8)
    y, x = (size - frame.shape[0]) // 2, (size - frame.shape[1]) // 2
    padded[y : y + frame.shape[0], x : x + frame.shape[1]] = frame
    return padded


def _read_pack(path: Path, size: int, channels: int, fit: str) -> DecodedVideo:
    with np.load(path.with_name(PACK_INDEX), allow_pickle=False) as file:
        index = dict(file)
    if missing := {"offsets", "actions", "t_ms", "segment"} - set(index):
        raise ValueError(f"{PACK_INDEX} lacks {', '.join(sorted(missing))}")
    offsets, segment, data = index["offsets"], index["segment"], np.memmap(path, np.uint8, "r")
    count = len(offsets) - 1
    if not len(segment) == len(index["actions"]) == len(index["t_ms"]) == count or offsets[-1] > len(data):
        raise ValueError(f"its index lists {count} frames in {offsets[-1]} bytes, which the pack does not hold")
    span = float(np.median(np.diff(index["t_ms"]))) if count > 1 else 0.0

    def picture(k: int) -> np.ndarray:
        image = cv2.imdecode(data[offsets[k] : offsets[k + 1]], cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"frame {k} of {count} is not an image that can be decoded")
        return image[..., ::-1]  # from BGR

    height, width = picture(0).shape[:2]
    segments = [0, *(np.flatnonzero(np.diff(segment)) + 1).tolist()]
    frames = (resize_square(picture(k), size, channels, fit) for k in range(count))
    return DecodedVideo(frames, count, (width, height), 1000 / span if span else 0.0, segments, index["actions"])


def _read_array(path: Path, size: int, channels: int, fit: str) -> DecodedVideo:
    array, actions = np.load(path, mmap_mode="r", allow_pickle=False), None
    if path.suffix.lower() == ".npz":
        with array as arrays:
            if "video" not in arrays:
                raise ValueError(f"it holds {sorted(arrays)}, expected an array named video")
            array, actions = arrays["video"], arrays.get("actions")
    shape = array.shape
    clips = array[None] if len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)) else array
    pixels = clips if clips.ndim == 5 else clips[..., None]  # (N, T, H, W, 1 or 3)
    if pixels.ndim != 5 or pixels.shape[4] not in (1, 3) or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"it holds {array.dtype} {shape}, expected uint8 ([N, ]T, H, W[, 1 or 3])")
    count, times, height, width, _ = pixels.shape
    if actions is not None and actions.shape[:-1] != (shape[:2] if clips is array else shape[:1]):
        raise ValueError(f"its actions have shape {actions.shape}, its video {shape}: expected one row a frame")
    frames = (resize_square(frame, size, channels, fit) for clip in pixels for frame in clip)
    rows = None if actions is None else actions.reshape(count * times, -1)
    return DecodedVideo(frames, count * times, (width, height), 0.0, list(range(0, count * times, times)), rows)


def detect_cuts(pixels: Iterable[np.ndarray], segments: list[int]) -> list[int]:
    """First frames of new shots of frames (H, W, C) uint8, beside the segments, which begin new ones anyway.

    A hard cut is a lone jump: the mean absolute difference to the frame before, at 16x16 gray pixels, is at least 15
    of 255 levels and 3 times the median of those of the two frames before and the two after. Motion, however fast,
    lasts and so raises the median too. Dissolves and fades are no cuts.
    """
    small = [cv2.resize(np.ascontiguousarray(f), (16, 16), interpolation=cv2.INTER_AREA) for f in pixels]
    gray = np.stack(small).reshape(len(small), 256, -1).mean(axis=2)
    jumps = np.abs(np.diff(gray, axis=0)).mean(axis=1)  # of frame 1, 2, ...
    cuts = []
    for k in np.flatnonzero(jumps >= CUT_JUMP).tolist():
        around = np.r_[jumps[max(k - CUT_WINDOW, 0) : k], jumps[k + 1 : k + 1 + CUT_WINDOW]]
        if k + 1 not in segments and (not len(around) or jumps[k] >= CUT_RATIO * np.median(around)):
            cuts.append(k + 1)
    return cuts
