"""Arrays of clips: which axis is what, how values become bytes; and arrays on disk that are larger than memory."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from stt.checkpoint import write_whole

AXES = "n clips, t frames, h rows, w columns, c channels"
LAYOUTS = ("thw", "thwc", "tchw", "cthw", "nthw", "tnhw", "nthwc", "ntchw", "ncthw", "tnhwc", "tnchw")
PARSING = Lock()  # of the headers of .npy files
MIN_SIDE = 8  # pixels: a shorter axis is no height or width


@dataclass(frozen=True, kw_only=True)
class ArrayOptions:
    """What an array does not say itself."""

    layout: str = ""  # letters of AXES in the order of the axes, for arrays of so many axes; "": by shape and content
    float_range: tuple[float, float] | None = None  # values of black and white
    int_range: tuple[float, float] | None = None  # the same of integers of more than 8 bits; None: 0 to 65535 of uint16

    def __post_init__(self) -> None:
        letters = set(self.layout)
        if self.layout and (len(letters) < len(self.layout) or not set("thw") <= letters <= set("nthwc")):
            raise ValueError(f"layout is {self.layout!r}, must be t, h, w and perhaps n and c, each once: {AXES}")
        for low, high in filter(None, (self.float_range, self.int_range)):
            if not low < high:
                raise ValueError(f"the range {low:g} to {high:g} is empty: give black, then white")


def add_array_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """What arrays among your own videos do not say themselves."""
    parser.add_argument("--layout", default="", help=f"axes of arrays, such as ntchw: {AXES}; default: by their shape")
    for name, whose in (("float", "float arrays"), ("int", "16-bit arrays and pictures")):
        parser.add_argument(
            f"--{name}-range", type=float, nargs=2, metavar=("BLACK", "WHITE"), help=f"values in {whose}"
        )


def array_options(args: argparse.Namespace) -> ArrayOptions:
    """The values of these flags. Raises ValueError."""
    ranges = {name: tuple(value) if (value := getattr(args, name)) else None for name in ("float_range", "int_range")}
    return ArrayOptions(layout=args.layout, **ranges)


def open_array(path: Path) -> Any:
    """What `np.load` gives, on disk. Also from several threads, in which Python 3.11 cannot parse headers at once."""
    with PARSING:
        return np.load(path, mmap_mode="r", allow_pickle=False)


def write_frames(path: Path, shape: tuple[int, ...], frames: Iterable[np.ndarray]) -> None:
    """Writes uint8 arrays, one after the other, as one .npy file of this shape: whole or not at all."""

    def write(file) -> None:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for frame in frames:
            file.write(np.ascontiguousarray(frame, np.uint8).data)

    write_whole(path, write)


# ---- axes --------------------------------------------------------------------------------------------


def as_clips(array: np.ndarray, options: ArrayOptions) -> tuple[np.ndarray, str]:
    """A view (N, T, H, W, C) of an array, and its layout. Raises ValueError for axes that are not clear."""
    layout = options.layout if len(options.layout) == array.ndim > 0 else axis_order(array)
    lengths = dict(zip(layout, array.shape, strict=True))
    if lengths.get("c", 1) not in (1, 2, 3, 4) or not array.size:
        raise ValueError(f"it holds {array.dtype} {array.shape}, which is no video in the layout {layout}")
    clips = array.transpose([layout.index(axis) for axis in "nthwc" if axis in layout])
    clips = clips if "n" in layout else clips[None]
    return (clips if "c" in layout else clips[..., None]), layout


def axis_order(array: np.ndarray) -> str:
    """The layout of an array. Raises ValueError where it is not clear, and names the possible ones.

    An axis of 1 or 3 before or behind the picture is the channels. Time and clips are told apart by content: a frame
    resembles the next one more than later ones, and more than the same frame of another clip.
    """
    shape = array.shape
    possible = [layout for layout in LAYOUTS if len(layout) == array.ndim and fits(layout, shape)]
    possible = [layout for layout in possible if frames_of(layout, shape) > 1] or possible
    if array.ndim == 3 and shape[0] == shape[1] != shape[2] >= MIN_SIDE:
        possible.append("hwt")
    if array.ndim == 4 and shape[0] == shape[1] != shape[2] >= MIN_SIDE and "thwc" in possible:
        possible.append("hwtc")
    if array.ndim == 4 and "tchw" in possible:  # of 1 or 3 clips or frames nobody makes a set
        return "tchw"
    if array.ndim == 4 and shape[0] == 1 and "cthw" in possible:  # the same as one gray clip
        return "cthw"
    if len(possible) == 2 and sorted(possible[0][:2]) == sorted(possible[1][:2]) == ["n", "t"]:
        (near0, ratio0), (near1, ratio1) = smoothness(array, 0), smoothness(array, 1)
        if near0 < near1 and 2 * ratio0 <= ratio1:
            return next(layout for layout in possible if layout.startswith("tn"))
        if near1 < near0 and 2 * ratio1 <= ratio0:
            return next(layout for layout in possible if layout.startswith("nt"))
    if len(possible) == 1:
        return possible[0]
    if not possible:
        raise ValueError(f"it holds {array.dtype} {shape}, expected a layout such as thwc or ntchw ({AXES})")
    readings = " or ".join(f"{layout} ({in_words(layout, shape)})" for layout in possible)
    raise ValueError(f"its axes {shape} can be {readings}: choose by --layout, such as --layout {possible[0]}")


def fits(layout: str, shape: tuple[int, ...]) -> bool:
    lengths = dict(zip(layout, shape, strict=True))
    channels = (1, 2, 3, 4) if layout.endswith("c") else (1, 3)
    return min(lengths["h"], lengths["w"]) >= MIN_SIDE and lengths.get("c", 1) in channels and min(shape) > 0


def frames_of(layout: str, shape: tuple[int, ...]) -> int:
    return shape[layout.index("t")]


def in_words(layout: str, shape: tuple[int, ...]) -> str:
    """An array's content in a layout: "60 clips of 20 frames, colour"."""
    lengths = {"n": 1} | dict(zip(layout, shape, strict=True))
    clips = f"{lengths['n']} clip{'s' * (lengths['n'] > 1)} of {lengths['t']} frames"
    return clips + (f", {'gray' if lengths['c'] < 3 else 'colour'}" if "c" in layout else "")


def smoothness(array: np.ndarray, axis: int) -> tuple[float, float]:
    """Mean absolute difference of neighbours along one of the first two axes: as it is, and relative to other pairs.

    Of 64 entries along the axis, 16 along the other one, and 16,384 numbers of these, which is enough to tell time.
    """
    entries = np.moveaxis(array, axis, 0)[:64, :: max(1, array.shape[1 - axis] // 16)]
    entries = entries.reshape(len(entries), -1)
    entries = entries[:, :: max(1, entries.shape[1] // 2**14)].astype(np.float32)
    differences = np.stack([np.abs(entries - entry).mean(axis=1) for entry in entries])
    lags = np.abs(np.subtract.outer(np.arange(len(entries)), np.arange(len(entries))))
    near, far = (float(differences[pairs].mean()) if pairs.any() else 0.0 for pairs in (lags == 1, lags > 1))
    return near, near / far if far > 0 else 1.0


# ---- values ------------------------------------------------------------------------------------------


def value_range(array: np.ndarray, options: ArrayOptions) -> tuple[float, float] | None:
    """The values of black and white; None for bytes. Raises ValueError where they are not stated, or exceeded."""
    if array.dtype == bool or (array.dtype == np.uint8 and array.max() == 1):  # a mask
        return 0.0, 1.0
    if array.dtype == np.uint8:
        return None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"it holds {array.dtype}, expected numbers")
    name = "float_range" if array.dtype.kind == "f" else "int_range"
    stated = getattr(options, name) or ((0.0, 65535.0) if array.dtype == np.uint16 else None)
    low, high = extremes(array)
    flag = f"--{name.replace('_', '-')}"
    if not np.isfinite([low, high]).all():
        raise ValueError(f"it holds {array.dtype} values that are not finite")
    if stated is None:
        example = f"{flag} {'-1 1' if -1 <= low < 0 and high <= 1 else '0 1' if low >= 0 and high <= 1 else '0 255'}"
        raise ValueError(
            f"it holds {array.dtype} values from {low:g} to {high:g}: state black and white, such as {example}"
        )
    if low < stated[0] or high > stated[1]:
        raise ValueError(f"it holds values from {low:g} to {high:g}, outside {flag} {stated[0]:g} {stated[1]:g}")
    return stated


def extremes(array: np.ndarray) -> tuple[float, float]:
    """Least and largest value, NaN where some value is; a part at a time, for the array may lie on disk."""
    rows = [(part.min(), part.max()) for part in np.array_split(array, max(1, array.nbytes >> 26)) if part.size]
    return float(np.min([low for low, _ in rows])), float(np.max([high for _, high in rows]))


def to_bytes(frame: np.ndarray, black_white: tuple[float, float] | None) -> np.ndarray:
    """Values -> uint8, 0 at black and 255 at white."""
    if black_white is None:
        return np.asarray(frame, np.uint8)
    low, high = black_white
    return ((np.asarray(frame, np.float32) - low) * (255 / (high - low))).round().clip(0, 255).astype(np.uint8)


def without_alpha(frame: np.ndarray) -> np.ndarray:
    """(H, W, 1 to 4) uint8 -> (H, W, 1 or 3): what is transparent becomes black."""
    if frame.shape[2] in (1, 3):
        return frame
    colour, alpha = frame[..., :-1].astype(np.uint16), frame[..., -1:]
    return ((colour * alpha + 127) // 255).astype(np.uint8)
