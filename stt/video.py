"""Files -> clips: probe, decode with limits, crop or pad, resize.

An uploaded file is opened by one program only: the ffmpeg of imageio-ffmpeg, in a child process that gets the
file as an open descriptor (so a name or a playlist can never point it elsewhere), lists of allowed containers
and codecs, and limits on time, memory and frames. Whatever cannot be read raises `VideoError`.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import imageio_ffmpeg
import numpy as np
import torch
from torch import Tensor

CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska", "avi": "avi", "gif": "gif"}
DECODERS = ("h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d", "mpeg4", "gif", "mjpeg")
FORMATS_TEXT = "MP4, MOV, MKV, WebM, AVI or GIF"
CODECS_TEXT = "H.264, HEVC, VP8, VP9, AV1, MPEG-4, MJPEG or GIF"
DAMAGED = f"The file is damaged or not a video; use {FORMATS_TEXT}."
REASONS = {  # ffmpeg's message: ours
    "matches no streams": "The clip has no video stream.",
    "no decoder found": f"The codec of the clip is not supported; use {CODECS_TEXT}.",
    "Decoder not found": f"The codec of the clip is not supported; use {CODECS_TEXT}.",
    "Format not on whitelist": f"This kind of file is not supported; use {FORMATS_TEXT}.",
    "moov atom not found": "The file is incomplete: its index is missing.",
    "Error opening input": DAMAGED,
}
VIDEO = "-map 0:V:0 -fps_mode passthrough -filter_threads 1 -threads 1"  # no cover image; no frame twice
TIMES = "showinfo=checksum=0,"  # a filter that prints every frame's
MAX_STREAMS = 8
TOO_MANY = "exceeds max_streams"
LOG_BYTES = 4 * 2**20  # ffmpeg's messages; 600 frames need about 200 kB


class VideoError(ValueError):
    """A clip that cannot be read. The message is one sentence for the person who chose the file."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an upload may cost. A longer clip is cut to its start; everything else raises `VideoError`."""

    file_bytes: int = 25_000_000
    min_side: int = 16  # pixels
    max_side: int = 4096
    frame_pixels: int = 8_294_400  # 3840 x 2160
    frames: int = 600  # decoded, before the stride
    clip_seconds: float = 60.0
    min_fps: float = 1.0  # slower and faster clips are played at these rates
    max_fps: float = 120.0
    wall_seconds: float = 10.0  # of all child processes that one call starts
    cpu_seconds: int = 10  # of one child process
    memory_bytes: int = 1_500_000_000  # address space of one child process
    written_bytes: int = LOG_BYTES  # of one file that a child process writes
    open_files: int = 64


LIMITS = Limits()


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
    with _opened(path, limits) as file:
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
    side `size` pixels, centred on black. stride: keep every n-th frame. max_frames: keep at most so many.
    ffmpeg fits and resizes, so that memory holds small frames only; a clip of the right size stays as it is.
    Raises `VideoError` for the file, `ValueError` for the arguments.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, must be 1 (gray) or 3 (colour)")
    if fit not in ("crop", "pad"):
        raise ValueError(f"fit is {fit!r}, must be 'crop' or 'pad'")
    if size < 1 or stride < 1 or (max_frames is not None and max_frames < 1):
        raise ValueError(f"size {size}, stride {stride} and max_frames {max_frames} must be at least 1")
    wanted = limits.frames if max_frames is None else min(limits.frames, (max_frames - 1) * stride + 1)
    deadline = time.monotonic() + limits.wall_seconds
    with _opened(path, limits) as file:
        source = _probe(file, limits, deadline)
        pixels = "gray" if channels == 1 else "rgb24"
        # one frame more than wanted tells whether the clip goes on
        output = f"{VIDEO} -frames:v {wanted + 1} -vf {TIMES}{_filters(source, size, fit, pixels)} -f rawvideo"
        raw, log, code = _ffmpeg(file, output, limits, deadline)
    found = len(raw) // (size * size * channels)
    if not found:
        raise VideoError(_reason(log, code, limits))
    frames = np.frombuffer(raw, np.uint8, found * size * size * channels).reshape(found, size, size, channels)
    times = [float(t) for t in re.findall(r"\] n: *\d+ .*?pts_time:(-?[\d.e+-]+)", log)][:found]
    used = min(found, wanted, _frames_within(times, limits.clip_seconds, found))
    fps = _rate(times[:used], source.fps)
    aspect = source.width * source.pixel_aspect / source.height
    return Clip(
        video=_to_video(frames[:used:stride]),
        fps=min(max(fps / stride, limits.min_fps), limits.max_fps),
        source_size=(source.width, source.height),
        source_frames=used,
        truncated=found > used,
        cropped=fit == "crop" and not math.isclose(aspect, 1, rel_tol=1e-3),
        padded=fit == "pad" and size * min(aspect, 1 / aspect) < size - 0.5,
    )


def decode_whole(
    path: str | Path, out: BinaryIO, *, size: int, channels: int, fit: str = "crop", limits: Limits = LIMITS
) -> Probe:
    """Writes all frames of a video, of any length, to a file: (T, size, size, channels) uint8, as `read_clip` has them.

    Of the limits those on a clip's frames and seconds have no part. Raises `VideoError`.
    """
    deadline = time.monotonic() + limits.wall_seconds
    with _opened(path, limits) as file:
        source = _probe(file, limits, deadline)
        filters = _filters(source, size, fit, "gray" if channels == 1 else "rgb24")
        _, log, code = _ffmpeg(file, f"{VIDEO} -vf {filters} -f rawvideo", limits, deadline, out)
    if not os.fstat(out.fileno()).st_size:
        raise VideoError(_reason(log, code, limits))
    return source


def to_uint8(video: Tensor) -> np.ndarray:
    """(T, C, H, W) float in [-1, 1] -> (T, H, W, 3) uint8; gray is repeated to three channels."""
    if video.ndim != 4 or video.shape[1] not in (1, 3):
        raise ValueError(f"video has shape {tuple(video.shape)}, must be (T, 1 or 3, H, W)")
    pixels = ((video.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def read_metadata(path: str | Path, *, limits: Limits = LIMITS) -> dict[str, Any] | None:
    """What `stt.encode.write_mp4` stored; None where there is no such thing. Raises `VideoError`."""
    with _opened(path, limits) as file:
        deadline = time.monotonic() + limits.wall_seconds
        text, log, code = _ffmpeg(file, "-f ffmetadata", limits, deadline)
    if code:
        raise VideoError(_reason(log, code, limits))
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


@contextmanager
def _opened(path: str | Path, limits: Limits) -> Iterator[int]:
    """A descriptor of a regular file of allowed size; what is checked here is what ffmpeg reads later."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe would block for ever
    except FileNotFoundError:
        raise VideoError("The file does not exist.") from None
    except (OSError, ValueError):
        raise VideoError("The file cannot be opened.") from None
    try:
        status = os.fstat(file)
        if stat.S_ISDIR(status.st_mode):
            raise VideoError("This is a folder, not a video file.")
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("This is not a regular file.")
        if status.st_size == 0:
            raise VideoError("The file is empty.")
        if status.st_size > limits.file_bytes:
            size = math.ceil(status.st_size / 1e5) / 10  # rounded up: one byte too many is not "25.0 MB"
            raise VideoError(f"The file is {size} MB; the limit is {limits.file_bytes / 1e6:g} MB.")
        yield file
    finally:
        os.close(file)


def _limited(command: list[str], limits: Limits) -> list[str]:
    """The command under a shell's ulimit: a Python hook between fork and exec is not safe beside threads."""
    rules = ["-c 0", f"-f {limits.written_bytes // 512}", f"-n {limits.open_files}", f"-t {limits.cpu_seconds}"]
    if sys.platform != "darwin":  # macOS refuses to limit memory
        rules.append(f"-v {limits.memory_bytes // 1024}")
    script = " && ".join([f"ulimit {rule}" for rule in rules] + ['exec "$@"'])
    return ["/bin/sh", "-c", script, "sh", *command]


def _ffmpeg(
    file: int, output: str, limits: Limits, deadline: float, out: BinaryIO | None = None
) -> tuple[bytes, str, int]:
    """Results ffmpeg on an open file: (what it wrote, unless that goes to `out`, its messages, exit code)."""
    coded_pixels = limits.frame_pixels + 128 * limits.max_side  # codecs pad frames to whole blocks
    arguments = (
        "-hide_banner -nostdin -nostats -an -sn -dn -threads 1 -protocol_whitelist fd"
        f" -format_whitelist {','.join(CONTAINERS)} -codec_whitelist {','.join(DECODERS)}"
        f" -max_pixels {coded_pixels} -max_streams {MAX_STREAMS} -fd 0 -i fd: {output} pipe:1"
    )
    command = _limited([imageio_ffmpeg.get_ffmpeg_exe(), *arguments.split()], limits)
    os.lseek(file, 0, os.SEEK_SET)
    with tempfile.TemporaryFile() as messages:  # a file, so that ulimit bounds what a hostile clip can cause
        try:
            done = subprocess.run(
                command,
                stdin=file,
                stdout=out or subprocess.PIPE,
                stderr=messages,
                timeout=max(deadline - time.monotonic(), 0.001),
                cwd="/",
                env={"LC_ALL": "C"},  # ffmpeg obeys variables, one of which makes it write report files
            )
        except subprocess.TimeoutExpired:
            raise VideoError(_too_costly(limits)) from None
        messages.seek(0)
        log = messages.read().decode(errors="replace")
    if -done.returncode in (signal.SIGKILL, signal.SIGXCPU):
        raise VideoError(_too_costly(limits))
    if done.returncode < 0:  # crashed: whatever it wrote before is not to be trusted
        raise VideoError(DAMAGED)
    return done.stdout or b"", log, done.returncode


def _probe(file: int, limits: Limits, deadline: float) -> Probe:
    # yuv4mpeg starts with a line that says size, rate and aspect of the decoded, rotated frame: no guessing
    output = f"{VIDEO} -frames:v 1 -pix_fmt gray -f yuv4mpegpipe"
    raw, log, code = _ffmpeg(file, output, limits, deadline)
    head = re.match(rb"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+) I\S+ A(\d+):(\d+)", raw)
    if not head or TOO_MANY in log:  # of some containers ffmpeg reads a little in spite of it
        raise VideoError(_reason(log, code, limits))
    width, height, rate, per, across, down = map(int, head.groups())
    sides_fit = limits.min_side <= min(width, height) and max(width, height) <= limits.max_side
    if not sides_fit or width * height > limits.frame_pixels:
        raise VideoError(_bad_size(width, height, limits))
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
    """ffmpeg's filters: make each frame square, resize it. They are set anew when the size changes."""
    exact = "accurate_rnd+full_chroma_int+full_chroma_inp"
    if fit == "crop":
        side = min(source.width, source.height)
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


def _frames_within(times: list[float], seconds: float, found: int) -> int:
    """How many leading frames lie in the first `seconds`."""
    late = (i for i, t in enumerate(times) if t - times[0] >= seconds)
    return next(late, found)


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


def _reason(log: str, code: int, limits: Limits) -> str:
    """One sentence for ffmpeg's messages; takes numbers and codec names from them, never text."""
    if TOO_MANY in log:
        return f"The file has more than {MAX_STREAMS} streams."
    if size := re.search(r"Picture size (\d+)x(\d+) exceeds", log):
        return _bad_size(int(size[1]), int(size[2]), limits)
    # the second line tells the refused video from its audio, whose codecs are all refused
    if codec := re.search(r"Codec \((\w+)\) not on whitelist.*\n.*Error while opening decoder", log):
        return f"The codec {codec[1]} is not supported; use {CODECS_TEXT}."
    if "Cannot allocate memory" in log or "Resource temporarily unavailable" in log:
        return _too_costly(limits)
    for message, sentence in REASONS.items():
        if message in log:
            return sentence
    return "The clip has no frame that can be decoded." if code else "The clip has no frames."


def _bad_size(width: int, height: int, limits: Limits) -> str:
    sides = f"{limits.min_side} to {limits.max_side}"
    return (
        f"A frame is {width}x{height} pixels; the limits are {sides} pixels a side"
        f" and {limits.frame_pixels:,} pixels in all."
    )


def _too_costly(limits: Limits) -> str:
    cost = f"{limits.wall_seconds:g} s or {limits.memory_bytes / 1e9:g} GB of memory"
    return f"Decoding needs more than {cost}; use a shorter or smaller clip."
