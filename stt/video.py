"""Video files -> clips: decode, resample by time, crop or pad, resize. Whatever cannot be read raises `VideoError`.

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

from stt.ffmpeg import (
    LIMITS,
    OWN_FILES,
    UPLOAD_ENDINGS,
    VIDEO_ENDINGS,
    Limits,
    VideoError,
    decoder_sandbox,
    failure,
    open_video,
    run_ffmpeg,
)
from stt.probe import HDR, Colours, Probe, probe, probe_file

__all__ = [
    "LIMITS", "OWN_FILES", "UPLOAD_ENDINGS", "VIDEO_ENDINGS", "Clip", "Decoded", "Limits", "Probe", "VideoError",
    "decode_whole", "decoder_sandbox", "probe", "read_clip", "read_metadata", "to_uint8",
]  # fmt: skip

# no frame twice; a line of messages for each frame that is used, with its time in the file
DECODE = (
    "-loglevel verbose -map 0:{stream} -fps_mode passthrough -filter_threads 1 -threads 1"
    " -stats_enc_pre pipe:2 -stats_enc_pre_fmt T{{ptsi}}@{{tbi}}"
)
WITH_DURATION = ("mp4", "matroska", "flv", "asf")  # containers that say how long they are, so that a cut shows
UNTIMED = ("h264", "hevc", "mpegvideo", "m4v")  # streams without a container have no timestamps
BROKEN = re.compile(
    "partial file|ended prematurely|corrupt input packet|concealing|LZW decode failed|invalid as first byte of an EBML"
)
REFERENCE_WHITE = 203  # cd/m2, of HDR (ITU-R BT.2408)


class Clip(NamedTuple):
    video: Tensor  # (T, C, H, W) float32 in [-1, 1]
    fps: float  # of `video`
    source_fps: float  # of the file
    source_size: tuple[int, int]  # width, height after rotation
    source_frames: int  # different frames of the file that were used, before the stride
    truncated: bool  # the file goes on after the part that was used
    cropped: bool  # the sides were cut off to make a square
    padded: bool  # black bars were added to make a square
    notes: tuple[str, ...] = ()  # a sentence for everything that was guessed, changed or missing
    details: tuple[str, ...] = ()  # the same in the terms of video, where `notes` do without them


class Decoded(NamedTuple):
    """What `decode_whole` wrote."""

    frames: int
    fps: float  # of the frames
    source: Probe
    source_fps: float  # measured
    varies: bool  # the rate of the file
    notes: tuple[str, ...]


def read_clip(
    path: str | Path,
    *,
    size: int,
    channels: int,
    fit: str = "crop",
    fps: float | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    limits: Limits = LIMITS,
) -> Clip:
    """Decodes the start of a clip to frames of `size` pixels.

    channels: 1 (gray) or 3 (colour). fit: "crop" cuts out the centre square, "pad" shows the whole picture, its longer
    side `size` pixels, centred on black; "whole" keeps the clip's aspect: its longer side has `size` pixels, or its own
    where these are fewer, and both sides are even. fps: resample to so many frames per second, each the one nearest in
    time. stride: keep every n-th frame. max_frames: the most frames to return.
    ffmpeg crops and resizes, so memory holds small frames only. A clip of the right size keeps its pixels.
    Raises `VideoError` for the file, `ValueError` for the arguments.
    """
    _check_arguments(size, channels, fit, fps)
    if stride < 1 or (max_frames is not None and max_frames < 1):
        raise ValueError(f"stride {stride} and max_frames {max_frames} must be at least 1")
    most = limits.frames if max_frames is None else min(limits.frames, (max_frames - 1) * stride + 1)
    most = most if fps is None else min(most, max(math.ceil(limits.clip_seconds * fps), 1))
    deadline = time.monotonic() + limits.wall_seconds
    with open_video(path, limits) as file:
        source = probe_file(file, limits, deadline)
        # one frame more shows whether the clip goes on
        output = f"{_options(source, size, channels, fit, fps)} -frames:v {most + 1}"
        raw, log, code = run_ffmpeg(file, output, limits, deadline)
        width, height = _frame_size(source, size, fit)
        decoded = len(raw) // (width * height * channels)
        if not decoded:
            raise VideoError(failure(log, code, limits))
        times = _times(log, decoded)
        damage = _damage(file, log, source, times, fps, limits, deadline, whole=decoded <= most)
    frames = np.frombuffer(raw, np.uint8, decoded * width * height * channels)
    frames = frames.reshape(decoded, height, width, channels)
    used = min(decoded, most, decoded if fps else _frames_within(times, limits.clip_seconds, decoded))
    source_fps = _source_rate(log, times[:used], source.fps, fps, whole=decoded <= most)
    aspect = source.aspect
    return Clip(
        video=_to_video(frames[:used:stride]),
        fps=min(max((fps or source_fps) / stride, limits.min_fps), limits.max_fps),
        source_fps=source_fps,
        source_size=(source.width, source.height),
        source_frames=len(set(times[:used])) or used,
        truncated=decoded > used,
        cropped=fit == "crop" and not math.isclose(aspect, 1, rel_tol=1e-3),
        padded=fit == "pad" and size * min(aspect, 1 / aspect) < size - 0.5,
        notes=(*damage, *_changes(log, source), *_notes(source, channels, source_fps, fps, times[:used])),
        details=tuple(_details(source, channels)),
    )


def decode_whole(
    path: str | Path,
    out: BinaryIO,
    *,
    size: int,
    channels: int,
    fit: str = "crop",
    fps: float | None = None,
    limits: Limits = LIMITS,
) -> Decoded:
    """Writes all frames of a video of any length to a file: (T, height, width, channels) uint8, as `read_clip` decodes.

    The limits on a clip's frames and seconds do not apply. Raises `VideoError`.
    """
    _check_arguments(size, channels, fit, fps)
    deadline = time.monotonic() + limits.wall_seconds
    with open_video(path, limits) as file:
        source = probe_file(file, limits, deadline)
        _, log, code = run_ffmpeg(file, _options(source, size, channels, fit, fps), limits, deadline, out)
        width, height = _frame_size(source, size, fit)
        frames = os.fstat(out.fileno()).st_size // (width * height * channels)
        if not frames:
            raise VideoError(failure(log, code, limits))
        times = _times(log, frames)
        damage = _damage(file, log, source, times, fps, limits, deadline, whole=True)
    source_fps = _source_rate(log, times, source.fps, fps, whole=True)
    notes = (*damage, *_changes(log, source), *_notes(source, channels, source_fps, fps, times))
    return Decoded(frames, fps or source_fps, source, source_fps, fps is None and _varies(times), notes)


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


# ---- ffmpeg's filters ------------------------------------------------------------------------------------


def _check_arguments(size: int, channels: int, fit: str, fps: float | None) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, must be 1 (gray) or 3 (colour)")
    if fit not in ("crop", "pad", "whole"):
        raise ValueError(f"fit is {fit!r}, must be 'crop', 'pad' or 'whole'")
    if size < 1:
        raise ValueError(f"size is {size}, must be at least 1")
    if fps is not None and not 0.01 <= fps <= 1000:
        raise ValueError(f"fps is {fps}, must be from 0.01 to 1000")


def _options(source: Probe, size: int, channels: int, fit: str, fps: float | None) -> str:
    filters = [
        *["bwdif=mode=send_frame:deint=interlaced"] * source.interlaced,
        *_resampling(fps),
        *_resizing(source, size, fit, "gray" if channels == 1 else "rgb24"),
    ]
    return f"{DECODE.format(stream=source.stream)} -vf {','.join(filters)} -f rawvideo"


def _resampling(fps: float | None) -> list[str]:
    """Filters that take, at each multiple of 1 / fps after the first frame, the frame nearest in time.

    A frame counts from the middle between its predecessor and itself on; `fps` then holds it until the next one.
    """
    if fps is None:
        return []
    middle = "setpts=if(isnan(PREV_INPTS)\\,0\\,(PTS+PREV_INPTS)/2-STARTPTS)"
    return ["settb=1/705600000", middle, f"fps={fps}:round=up"]  # a unit in which all usual rates are whole


def _frame_size(source: Probe, size: int, fit: str) -> tuple[int, int]:
    """Width and height of decoded frames."""
    if fit != "whole":
        return size, size
    sides = source.width * source.pixel_aspect, source.height
    scale = min(size / max(sides), 1)
    width, height = (max(2 * round(side * scale / 2), 2) for side in sides)
    return width, height


def _resizing(source: Probe, size: int, fit: str, pixels: str) -> list[str]:
    """Filters that crop, resize and pad each frame. They adapt when the size changes within a clip."""
    flags = "accurate_rnd+full_chroma_int+full_chroma_inp"
    if fit == "whole":
        side: float = max(source.width, source.height)
        square: list[str] = []
        bars: list[str] = []
        width, height = map(str, _frame_size(source, size, fit))
    elif fit == "crop":
        side = min(source.width, source.height)
        square = ["crop=min(iw\\,ih/sar):min(ih\\,iw*sar):exact=1"]  # sar: pixels that are not square
        width = height = str(size)
        bars = []
    else:
        side = max(source.width * source.pixel_aspect, source.height)
        square = []
        width, height = (f"max(1\\,round({size}*min(1\\,{ratio})))" for ratio in ("dar", "1/dar"))
        bars = [f"pad={size}:{size}:-1:-1"]  # centred
    kernel = "area" if side >= size else "neighbor" if size % side == 0 else "bilinear"
    scale = f"scale={width}:{height}:flags={kernel}+{flags}"
    if source.colours is not None and not source.colours.matrix and not _is_wide(source):
        square.insert(0, f"setparams=colorspace={'bt709' if _is_hd(source) else 'smpte170m'}")
    # the format stands before the bars: pixels that share their chroma would move them to even places
    return [*square, scale, *_tone_mapping(source), f"format={pixels}", *bars]


def _is_hd(source: Probe) -> bool:
    return max(source.width, source.height) >= 1280 or min(source.width, source.height) >= 720


def _is_wide(source: Probe) -> bool:
    """Whether the colours are those of HDR or BT.2020."""
    colours = source.colours or Colours()
    return colours.transfer in HDR or colours.primaries == "bt2020"


def _tone_mapping(source: Probe) -> list[str]:
    """Filters that turn small frames of HDR or BT.2020 into BT.709: what is darker than white keeps its level."""
    if not _is_wide(source):
        return []
    transfer = source.colours.transfer if source.colours and source.colours.transfer in HDR else "bt709"
    return [
        "format=yuv444p10le",
        f"zscale=tin={transfer}:pin=bt2020:min=bt2020nc:t=linear:npl={REFERENCE_WHITE}",
        "format=gbrpf32le",
        "zscale=p=bt709",
        "tonemap=mobius:param=0.9:desat=0",
        "zscale=t=bt709:m=gbr:r=pc",
        "format=gbrp",
    ]


# ---- time ------------------------------------------------------------------------------------------------


def _times(log: str, frames: int) -> list[float]:
    """Seconds in the file of each frame that was used; [] where the file does not say."""
    times = [int(t) * int(n) / int(d) for t, n, d in re.findall(r"T(-?\d+)@(\d+)/(\d+)$", log, flags=re.M)]
    return times[:frames] if len(times) >= frames and max(map(abs, times)) < 1e9 else []


def _frames_within(times: list[float], seconds: float, frames: int) -> int:
    """How many leading frames lie in the first `seconds`."""
    late = (i for i, t in enumerate(times) if t - times[0] >= seconds)
    return next(late, frames)


def _varies(times: list[float]) -> bool:
    """Whether more than a few gaps between frames are unlike the usual one."""
    gaps = np.diff(times)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    return bool(np.count_nonzero((gaps > 1.5 * usual) | (gaps < usual / 1.5)) > 1 + 0.02 * len(gaps))


def _source_rate(log: str, times: list[float], claimed: float, fps: float | None, *, whole: bool) -> float:
    """Frames a second by the timestamps (s); the claimed rate where they agree, for it is not rounded."""
    span = times[-1] - times[0] if times else 0.0
    count = len(times) if fps is None else _decoded(log)[0] if whole else 0  # resampled frames do not count
    if span <= 0 or count < 2:
        return claimed
    measured = (count - 1) / span
    tolerance = 0.02 if fps is None else max(0.02, 2 / (fps * span))  # the last frame that was used is not the last
    return claimed if math.isclose(measured, claimed, rel_tol=tolerance) else round(measured, 3)


# ---- notes -----------------------------------------------------------------------------------------------


def _decoded(log: str) -> tuple[int, int]:
    """(frames, errors) of the decoder."""
    match = re.search(r"\(video\): \d+ packets read .*; (\d+) frames decoded; (\d+) decode errors", log)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _damage(
    file: int, log: str, source: Probe, times: list[float], fps: float | None, limits: Limits, deadline: float,
    *, whole: bool,
) -> list[str]:  # fmt: skip
    """A sentence about frames that could not be read, if there are any. whole: nothing follows the used frames."""
    frames, errors = _decoded(log)
    wrong = len(re.findall(r"corrupt decoded frame", log))
    if not whole:
        return ["The file is damaged; some frames may be missing or wrong."] if errors or wrong else []
    broken = BROKEN.search(log) is not None
    missing = 0.0  # seconds
    if times and source.seconds and source.container in (*WITH_DURATION, "avi"):
        missing = source.seconds - (times[-1] - min(times[0], 0)) - 1 / source.fps
        slack = 1 / source.fps + (1 / fps if fps else 0) + 0.02
        if missing < slack or not (errors or wrong or broken or _all_end_early(file, source, limits, deadline)):
            missing = 0.0
    total = round((source.seconds or 0) * source.fps)
    if missing and source.container in WITH_DURATION and total > frames:
        return [f"{frames} of {total} frames could be read; the file is cut short or damaged."]
    if errors:
        return [f"{frames} of {frames + errors} frames could be read; the file is damaged."]
    if missing or broken or wrong:
        some = f", {wrong} of them with errors" if wrong else ""
        return [f"The file is damaged or cut short; {frames} frames could be read{some}."]
    return []


def _all_end_early(file: int, source: Probe, limits: Limits, deadline: float) -> bool:
    """Whether sound, too, ends before the file's claimed duration: it may only last longer than the picture."""
    output = f"-map 0:{source.stream} -map 0:a? -c copy -f null"
    _, log, _ = run_ffmpeg(file, output, limits, deadline, sound=True)
    ends = re.findall(r"time=(\d+):(\d+):([\d.]+)", log)
    end = int(ends[-1][0]) * 3600 + int(ends[-1][1]) * 60 + float(ends[-1][2]) if ends else 0.0
    return (source.seconds or 0) - end > 3.5 / source.fps + 0.02  # these times are of decoding, some frames early


def _changes(log: str, source: Probe) -> list[str]:
    """A sentence where frames are of several sizes: the crop or the aspect may change with them."""
    first = re.search(rf"^  Stream #0:{source.stream}\b.*?, (\d+x\d+)", log, flags=re.M)
    sizes = {first[1]} if first else set()
    sizes |= set(re.findall(r"video parameters changed to .*?, (\d+x\d+)", log))
    return (
        ["The size of the picture changes within the clip; each frame was fitted by itself."] if len(sizes) > 1 else []
    )


def _notes(source: Probe, channels: int, rate: float, fps: float | None, times: list[float]) -> list[str]:
    """A sentence for everything that was guessed or changed, but for size and shape."""
    colours = source.colours or Colours()
    conditions = {
        f"The file holds {source.streams} videos; the largest, {source.width} x {source.height}, was used.":
            source.streams > 1,
        f"The file does not say how fast it plays; {rate:.4g} frames per second were assumed.":
            source.container in UNTIMED,
        f"The clip has {rate:.4g} frames per second; the frames nearest in time make {fps or 0:.4g} a second.":
            fps is not None and rate > fps * 1.02,
        f"The clip has {rate:.4g} frames per second; frames are repeated to make {fps or 0:.4g}.":
            fps is not None and rate < fps / 1.02,
        f"The clip's frame rate varies; on average it is {rate:.4g}.": fps is None and _varies(times),
        "The clip is HDR; its brightness and colours were fitted to an ordinary screen.": colours.transfer in HDR,
        "The clip's colours are wider than an ordinary screen's; they were fitted to one.":
            colours.transfer not in HDR and colours.primaries == "bt2020",
        "The file does not say how it stores colours; they may look slightly off.": _guesses_colours(source, channels),
        "The clip's pictures come in halves, line by line, as on old television; they were put together.":
            source.interlaced,
        "The clip has transparent parts; they are shown as if they were opaque.": source.transparent,
    }  # fmt: skip
    return [note for note, holds in conditions.items() if holds]


def _guesses_colours(source: Probe, channels: int) -> bool:
    return channels == 3 and source.colours is not None and not source.colours.matrix and not _is_wide(source)


def _details(source: Probe, channels: int) -> list[str]:
    """What `_notes` says in plain words, in the terms of video."""
    colours = source.colours or Colours()
    standard = "HD video: read as BT.709" if _is_hd(source) else "SD video: read as BT.601"
    conditions = {
        f"{source.container} has no timestamps.": source.container in UNTIMED,
        f"Transfer function {HDR.get(colours.transfer)}, tone-mapped to BT.709.": colours.transfer in HDR,
        "Colours of BT.2020, converted to BT.709.": colours.transfer not in HDR and colours.primaries == "bt2020",
        f"No colour matrix in the file; {standard}.": _guesses_colours(source, channels),
        "Interlaced: two fields became one frame.": source.interlaced,
    }
    return [detail for detail, holds in conditions.items() if holds]


def _to_video(frames: np.ndarray) -> Tensor:
    """(T, H, W, C) uint8 -> (T, C, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
