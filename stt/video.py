"""Video files -> clips: probe, decode, crop or pad, resize. Whatever cannot be read raises `VideoError`.

Files come from strangers; `stt.ffmpeg` says how they are opened.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stt.ffmpeg import CONTAINERS, LIMITS, TOO_MANY, Limits, VideoError, bad_size, failure, open_video, run_ffmpeg

__all__ = [
    "LIMITS", "Clip", "Limits", "Probe", "VideoError",
    "decode_whole", "probe", "read_clip", "read_metadata", "to_uint8",
]  # fmt: skip

VIDEO = "-map 0:V:0 -fps_mode passthrough -filter_threads 1 -threads 1"  # no cover image; no frame twice
TIMES = "showinfo=checksum=0,"  # a filter that prints every frame's


class Probe(NamedTuple):
    width: int  # after rotation
    height: int
    fps: float  # as the stream claims
    codec: str
    container: str
    pixel_aspect: float  # width / height of one pixel; 1 is square


class Clip(NamedTuple):
    video: Tensor  # (T, C, H, W) float32 in [-1, 1]
    fps: float  # of `video`, so the source's rate divided by the stride
    source_size: tuple[int, int]  # width, height after rotation
    source_frames: int  # decoded, before the stride
    truncated: bool  # the file goes on after the part that was used
    cropped: bool  # the sides were cut off to make a square
    padded: bool  # black bars were added to make a square


def probe(path: str | Path, *, limits: Limits = LIMITS) -> Probe:
    """Checks a file and decodes its first frame only. Raises `VideoError`."""
    with open_video(path, limits) as file:
        return _probe(file, limits, time.monotonic() + limits.wall_seconds)


def read_clip(
    path: str | Path,
    *,
    size: int,
    channels: int,
    fit: str = "crop",
    stride: int = 1,
    max_frames: int | None = None,
    limits: Limits = LIMITS,
) -> Clip:
    """Decodes the start of a clip to square frames of `size` pixels a side.

    channels: 1 (gray) or 3 (colour). fit: "crop" cuts out the centre square, "pad" shows the whole picture, its longer
    side `size` pixels, centred on black. stride: keep every n-th frame. max_frames: the most frames to return.
    ffmpeg crops and resizes, so memory holds small frames only. A clip of the right size keeps its pixels.
    Raises `VideoError` for the file, `ValueError` for the arguments.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, must be 1 (gray) or 3 (colour)")
    if fit not in ("crop", "pad"):
        raise ValueError(f"fit is {fit!r}, must be 'crop' or 'pad'")
    if size < 1 or stride < 1 or (max_frames is not None and max_frames < 1):
        raise ValueError(f"size {size}, stride {stride} and max_frames {max_frames} must be at least 1")
    most = limits.frames if max_frames is None else min(limits.frames, (max_frames - 1) * stride + 1)
    deadline = time.monotonic() + limits.wall_seconds
    with open_video(path, limits) as file:
        source = _probe(file, limits, deadline)
        pixels = "gray" if channels == 1 else "rgb24"
        # one frame more shows whether the clip goes on
        output = f"{VIDEO} -frames:v {most + 1} -vf {TIMES}{_filters(source, size, fit, pixels)} -f rawvideo"
        raw, log, code = run_ffmpeg(file, output, limits, deadline)
    decoded = len(raw) // (size * size * channels)
    if not decoded:
        raise VideoError(failure(log, code, limits))
    frames = np.frombuffer(raw, np.uint8, decoded * size * size * channels).reshape(decoded, size, size, channels)
    times = [float(t) for t in re.findall(r"\] n: *\d+ .*?pts_time:(-?[\d.e+-]+)", log)][:decoded]
    used = min(decoded, most, _frames_within(times, limits.clip_seconds, decoded))
    fps = _rate(times[:used], source.fps)
    aspect = source.width * source.pixel_aspect / source.height
    return Clip(
        video=_to_video(frames[:used:stride]),
        fps=min(max(fps / stride, limits.min_fps), limits.max_fps),
        source_size=(source.width, source.height),
        source_frames=used,
        truncated=decoded > used,
        cropped=fit == "crop" and not math.isclose(aspect, 1, rel_tol=1e-3),
        padded=fit == "pad" and size * min(aspect, 1 / aspect) < size - 0.5,
    )


def decode_whole(
    path: str | Path, out: BinaryIO, *, size: int, channels: int, fit: str = "crop", limits: Limits = LIMITS
) -> Probe:
    """Writes all frames of a video of any length to a file: (T, size, size, channels) uint8, as `read_clip` decodes.

    The limits on a clip's frames and seconds do not apply. Raises `VideoError`.
    """
    deadline = time.monotonic() + limits.wall_seconds
    with open_video(path, limits) as file:
        source = _probe(file, limits, deadline)
        filters = _filters(source, size, fit, "gray" if channels == 1 else "rgb24")
        _, log, code = run_ffmpeg(file, f"{VIDEO} -vf {filters} -f rawvideo", limits, deadline, out)
    if not os.fstat(out.fileno()).st_size:
        raise VideoError(failure(log, code, limits))
    return source


def to_uint8(video: Tensor) -> np.ndarray:
    """(T, C, H, W) float in [-1, 1] -> (T, H, W, 3) uint8; gray is repeated to three channels."""
    if video.ndim != 4 or video.shape[1] not in (1, 3):
        raise ValueError(f"video has shape {tuple(video.shape)}, must be (T, 1 or 3, H, W)")
    pixels = ((video.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def read_metadata(path: str | Path, *, limits: Limits = LIMITS) -> dict[str, Any] | None:
    """The metadata that `stt.encode.write_mp4` stored, or None. Raises `VideoError`."""
    with open_video(path, limits) as file:
        deadline = time.monotonic() + limits.wall_seconds
        text, log, code = run_ffmpeg(file, "-f ffmetadata", limits, deadline)
    if code:
        raise VideoError(failure(log, code, limits))
    # the file's own tags stand before those of streams and chapters; a backslash escapes any character
    tags = re.split(r"^\[", text.decode(errors="replace"), maxsplit=1, flags=re.M)[0]
    match = re.search(r"^comment=((?:\\.|[^\\\n])*)", tags, flags=re.M | re.S | re.I)
    if not match:
        return None
    try:
        values = json.loads(re.sub(r"\\(.)", r"\1", match[1], flags=re.S))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _probe(file: int, limits: Limits, deadline: float) -> Probe:
    # yuv4mpeg starts with a line that says size, rate and aspect of the decoded, rotated frame: no guessing
    output = f"{VIDEO} -frames:v 1 -pix_fmt gray -f yuv4mpegpipe"
    raw, log, code = run_ffmpeg(file, output, limits, deadline)
    head = re.match(rb"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+) I\S+ A(\d+):(\d+)", raw)
    if not head or TOO_MANY in log:  # of some containers ffmpeg reads a little in spite of it
        raise VideoError(failure(log, code, limits))
    width, height, rate, per, across, down = map(int, head.groups())
    sides_fit = limits.min_side <= min(width, height) and max(width, height) <= limits.max_side
    if not sides_fit or width * height > limits.frame_pixels:
        raise VideoError(bad_size(width, height, limits))
    container = re.search(r"^Input #0, (\S+), from", log, flags=re.M)
    codec = re.search(r"^  Stream #\S+ -> #0:0 \((\w+)", log, flags=re.M)
    return Probe(
        width=width,
        height=height,
        fps=rate / per if rate and per else 25.0,
        codec=codec[1] if codec else "unknown",
        container=CONTAINERS.get(container[1], "unknown") if container else "unknown",
        pixel_aspect=across / down if across and down else 1.0,
    )


def _filters(source: Probe, size: int, fit: str, pixels: str) -> str:
    """ffmpeg's filters: make each frame square, resize it. They adapt when the size changes within a clip."""
    exact = "accurate_rnd+full_chroma_int+full_chroma_inp"
    if fit == "crop":
        side: float = min(source.width, source.height)
        square = "crop=min(iw\\,ih/sar):min(ih\\,iw*sar):exact=1,"  # sar: pixels that are not square
        width = height = str(size)
        bars = ""
    else:
        side = max(source.width * source.pixel_aspect, source.height)
        square = ""
        width, height = (f"max(1\\,round({size}*min(1\\,{ratio})))" for ratio in ("dar", "1/dar"))
        bars = f",pad={size}:{size}:-1:-1"  # centred
    kernel = "area" if side >= size else "neighbor" if size % side == 0 else "bilinear"
    # the format stands before the bars: pixels that share their chroma would move them to even places
    return f"{square}scale={width}:{height}:flags={kernel}+{exact},format={pixels}{bars}"


def _frames_within(times: list[float], seconds: float, frames: int) -> int:
    """How many leading frames lie in the first `seconds`."""
    late = (i for i, t in enumerate(times) if t - times[0] >= seconds)
    return next(late, frames)


def _rate(times: list[float], claimed: float) -> float:
    """Frames a second by the timestamps (s); the claimed rate where they agree, for it is not rounded."""
    span = times[-1] - times[0] if times else 0.0
    if span <= 0:
        return claimed
    measured = (len(times) - 1) / span
    return claimed if math.isclose(measured, claimed, rel_tol=0.02) else round(measured, 3)


def _to_video(frames: np.ndarray) -> Tensor:
    """(T, H, W, C) uint8 -> (T, C, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
