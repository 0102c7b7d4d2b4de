"""Readers of files with frames: videos, image packs, pictures and NumPy arrays; and detection of cuts.

A pack is frames.mjpegpack (JPEG files one after another) beside index.npz. An array (see train.data.arrays) is an .npy,
or `video` in an .npz, perhaps with `actions` (T, A) or (N, T, A) and `fps`. Only the hardened decoder of stt.video
opens videos.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from stt.video import OWN_FILES, decode_whole
from train.data.arrays import (
    PARSING,
    ArrayOptions,
    as_clips,
    in_words,
    open_array,
    to_bytes,
    value_range,
    without_alpha,
)
from train.data.sources import ARRAYS, PACK, PACK_INDEX, Source

CUT_JUMP, CUT_RATIO, CUT_WINDOW = 15.0, 3.0, 2  # gray levels of 255, times the median jump of so many frames around it
MAX_SIZE = 4096  # pixels a side
READ_ERRORS = (ValueError, OSError, EOFError, LookupError, zipfile.BadZipFile, cv2.error)  # VideoError is a ValueError


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How frames are to come out."""

    size: int  # pixels a side
    channels: int  # 1 or 3
    fit: str = "crop"  # "crop" or "pad"
    arrays: ArrayOptions = ArrayOptions()

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"size is {self.size}, must be from 1 to {MAX_SIZE}")

    @property
    def variant(self) -> str:
        """Names the decoded frames."""
        return f"{self.size}x{self.size}x{self.channels}-{self.fit}"

    def square(self, frame: np.ndarray) -> np.ndarray:
        return resize_square(frame, self.size, self.channels, self.fit)


class DecodedVideo(NamedTuple):
    """An opened file."""

    frames: Iterable[np.ndarray]  # (size, size, channels) uint8
    count: int
    size: tuple[int, int]  # width, height of the original
    fps: float  # 0 where the file does not say
    segments: list[int]  # first frames of its segments or clips, which a split may separate
    actions: np.ndarray | None = None  # (count, A), from each frame to the next
    notes: tuple[str, ...] = ()  # how it was understood, and what it lacks


def read(source: Source, options: ReadOptions, scratch: Path) -> DecodedVideo:
    """Opens a source for its frames. Raises one of READ_ERRORS, now or while frames are read.

    scratch: a folder on whose disk a video's frames lie, without a name, while they are in use.
    """
    if source.pictures:
        return _read_pictures(source.pictures, options)
    if source.path.name == PACK:
        return _read_pack(source.path, options)
    if source.path.suffix.lower() in ARRAYS:
        return _read_array(source.path, options)
    return _read_video(source.path, options, scratch)


def _read_video(path: Path, options: ReadOptions, scratch: Path) -> DecodedVideo:
    """Frames at the file's own rate. Where that varies, those nearest in time at its average."""
    size, channels, fit = options.size, options.channels, options.fit
    with tempfile.TemporaryFile(dir=scratch) as file:
        decoded = decode_whole(path, file, size=size, channels=channels, fit=fit, limits=OWN_FILES)
        count, fps, source = decoded.frames, decoded.fps, decoded.source
        if decoded.varies:
            file.seek(0)
            file.truncate()
            count = decode_whole(path, file, size=size, channels=channels, fit=fit, fps=fps, limits=OWN_FILES).frames
        frames = np.memmap(file, np.uint8, "r", shape=(count, size, size, channels))
    return DecodedVideo(frames, count, (source.width, source.height), fps, [0], None, decoded.notes)


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


def _read_pictures(paths: tuple[Path, ...], options: ReadOptions) -> DecodedVideo:
    notes = {}
    first = picture(paths[0], options.arrays, notes)
    height, width = first.shape[:2]

    def frames() -> Iterable[np.ndarray]:
        for path in paths:
            frame = picture(path, options.arrays, notes)
            if frame.shape[:2] != (height, width):
                raise ValueError(
                    f"{path.name} has {frame.shape[1]}x{frame.shape[0]} pixels, {paths[0].name} {width}x{height}"
                )
            yield options.square(frame)

    return DecodedVideo(frames(), len(paths), (width, height), 0.0, [0], None, (*notes, *_order_notes(paths)))


def _order_notes(paths: tuple[Path, ...]) -> list[str]:
    """What in the names of a clip's pictures speaks against one clip at one rate."""
    names = sorted({re.sub(r"\d+", "#", path.name) for path in paths})
    if len(names) > 1:
        return [f"pictures of {len(names)} names, {', '.join(names[:2])}{' ...' * (len(names) > 2)}, are one clip"]
    numbers = [int(found[-1]) for path in paths if (found := re.findall(r"\d+", path.stem))]
    for path, change in zip(paths[1:], np.diff(numbers, n=2).tolist(), strict=False):
        if change:
            return [f"the numbers of its pictures are not evenly spaced, first near {path.name}"]
    return []


def picture(path: Path, options: ArrayOptions, notes: dict[str, None]) -> np.ndarray:
    """A picture file -> (H, W, 1 or 3) uint8 RGB. Adds to `notes`."""
    upright = path.suffix.lower() in (".jpg", ".jpeg")  # turned as the camera was held
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR if upright else cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{path.name} is not a picture that can be decoded")
    image = image.reshape(*image.shape[:2], -1)
    if image.dtype != np.uint8:
        black, white = value_range(image, options)
        notes[f"{image.dtype} values from {black:g} (black) to {white:g} (white)"] = None
        image = to_bytes(image, (black, white))
    blue, rest = image[..., :3], image[..., 3:]
    return without_alpha(np.concatenate([blue[..., ::-1], rest], axis=2) if image.shape[2] > 2 else image)


def _read_pack(path: Path, options: ReadOptions) -> DecodedVideo:
    with open_array(path.with_name(PACK_INDEX)) as file, PARSING:
        index = dict(file)
    if missing := {"offsets", "actions", "t_ms", "segment"} - set(index):
        raise ValueError(f"{PACK_INDEX} lacks {', '.join(sorted(missing))}")
    offsets, segment, data = index["offsets"], index["segment"], np.memmap(path, np.uint8, "r")
    count = len(offsets) - 1
    if not len(segment) == len(index["actions"]) == len(index["t_ms"]) == count or offsets[-1] > len(data):
        raise ValueError(f"its index lists {count} frames in {offsets[-1]} bytes, which the pack does not hold")
    span = float(np.median(np.diff(index["t_ms"]))) if count > 1 else 0.0

    def frame(k: int) -> np.ndarray:
        image = cv2.imdecode(data[offsets[k] : offsets[k + 1]], cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"frame {k} of {count} is not an image that can be decoded")
        return image[..., ::-1]  # from BGR

    height, width = frame(0).shape[:2]
    segments = [0, *(np.flatnonzero(np.diff(segment)) + 1).tolist()]
    frames = (options.square(frame(k)) for k in range(count))
    return DecodedVideo(frames, count, (width, height), 1000 / span if span else 0.0, segments, index["actions"])


def _read_array(path: Path, options: ReadOptions) -> DecodedVideo:
    array, actions, fps = open_array(path), None, 0.0
    if path.suffix.lower() == ".npz":
        with array as arrays, PARSING:
            if "video" not in arrays:
                raise ValueError(f"it holds {sorted(arrays)}, expected an array named video")
            array, actions, fps = arrays["video"], arrays.get("actions"), _rate(arrays.get("fps", np.zeros(1)))
    clips, layout = as_clips(array, options.arrays)
    values = value_range(array, options.arrays)
    count, times, height, width, _ = clips.shape
    if actions is not None and actions.shape[:-1] not in ([(count, times)] if "n" in layout else [(times,)]):
        raise ValueError(f"its actions have shape {actions.shape}, its video {array.shape}: expected one row a frame")
    frames = (options.square(without_alpha(to_bytes(frame, values))) for clip in clips for frame in clip)
    rows = None if actions is None else actions.reshape(count * times, -1)
    notes = [f"axes {layout}: {in_words(layout, array.shape)}"] if layout not in ("thw", "thwc") else []
    notes += [f"{array.dtype} values from {values[0]:g} (black) to {values[1]:g} (white)"] if values else []
    starts = list(range(0, count * times, times))
    return DecodedVideo(frames, count * times, (width, height), fps, starts, rows, tuple(notes))


def _rate(fps: np.ndarray) -> float:
    """Frames a second of a video array, 0 for none."""
    if fps.size != 1 or fps.dtype.kind not in "iuf" or not 0 <= fps.item() <= 1000:
        raise ValueError(f"its fps is {fps.tolist()}, must be a number from 0 to 1000")
    return float(fps.item())


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
