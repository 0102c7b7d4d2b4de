"""ffmpeg as a sandboxed child process: the only program that opens an uploaded file.

The process gets the file as an open descriptor, so a name or a playlist cannot point it elsewhere. It has lists of
allowed containers and codecs, and limits on time, memory and output. Where Linux allows it, it has no network and no
files (`stt.sandbox`). Every failure raises `VideoError`.
"""

from __future__ import annotations

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
from typing import BinaryIO

from stt import sandbox

# ffmpeg's names of what an upload may be, and of what else a file of one's own may be
CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "gif", "mpegts", "ogg", "h264", "hevc")
MORE_CONTAINERS = ("asf", "flv", "mpeg", "mpegvideo", "m4v", "dv")
DECODERS = ("h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d", "mpeg4", "gif", "mjpeg", "theora")
MORE_DECODERS = (
    "mpeg1video", "mpeg2video", "h263", "flv", "vp6", "vp6f", "wmv1", "wmv2", "wmv3", "vc1", "msmpeg4v1", "msmpeg4v2",
    "msmpeg4", "svq3", "dvvideo", "prores", "dnxhd", "cfhd", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo",
    "qtrle", "png",
)  # fmt: skip
# endings of names of such files; what a file is, its content says
UPLOAD_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mts", ".m2ts", ".ogv", ".ogg",
    ".h264", ".264", ".hevc", ".h265", ".265",
)  # fmt: skip
VIDEO_ENDINGS = (*UPLOAD_ENDINGS, ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg", ".vob", ".m1v", ".m2v", ".dv")
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
TOO_MANY = "exceeds max_streams"
LOG_BYTES = 4 * 2**20  # ffmpeg's messages


class VideoError(ValueError):
    """A clip that cannot be read. The message is one sentence for the person who chose the file."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may be and cost, by default an upload. Of a clip that is too long the start is used; anything else
    raises `VideoError`."""

    containers: tuple[str, ...] = CONTAINERS
    decoders: tuple[str, ...] = DECODERS
    streams: int = 8
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
OWN_FILES = Limits(  # for whoever chooses among the files of this machine
    containers=CONTAINERS + MORE_CONTAINERS, decoders=DECODERS + MORE_DECODERS, streams=64, file_bytes=2**36,
    max_side=8192, frame_pixels=8192 * 4320, wall_seconds=7200, cpu_seconds=7200, memory_bytes=4 * 10**9,
    written_bytes=2**38,
)  # fmt: skip


@contextmanager
def open_video(path: str | Path, limits: Limits) -> Iterator[int]:
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


def limited(command: list[str], limits: Limits) -> list[str]:
    """The command under a shell's ulimit: a Python hook between fork and exec is not safe beside threads."""
    rules = ["-c 0", f"-f {limits.written_bytes // 512}", f"-n {limits.open_files}", f"-t {limits.cpu_seconds}"]
    if sys.platform != "darwin":  # macOS refuses to limit memory
        rules.append(f"-v {limits.memory_bytes // 1024}")
    script = " && ".join([f"ulimit {rule}" for rule in rules] + ['exec "$@"'])
    return ["/bin/sh", "-c", script, "sh", *command]


def run_ffmpeg(
    file: int, output: str, limits: Limits, deadline: float, out: BinaryIO | None = None, *, sound: bool = False
) -> tuple[bytes, str, int]:
    """Runs ffmpeg on an open file: (its output, unless that goes to `out`, its messages, exit code)."""
    coded_pixels = limits.frame_pixels + 128 * limits.max_side  # codecs pad frames to whole blocks
    arguments = (
        f"-hide_banner -nostdin -nostats {'' if sound else '-an'} -sn -dn -threads 1 -protocol_whitelist fd"
        f" -format_whitelist {','.join(limits.containers)} -codec_whitelist {','.join(limits.decoders)}"
        f" -max_pixels {coded_pixels} -max_streams {limits.streams} -fd 0 -i fd: {output} pipe:1"
    )
    import imageio_ffmpeg  # here, since training from packed data needs none

    program = imageio_ffmpeg.get_ffmpeg_exe()
    os.lseek(file, 0, os.SEEK_SET)
    with tempfile.TemporaryFile() as messages:  # a file, so that ulimit bounds what a hostile clip can cause
        with sandbox.popen(
            limited([program, *arguments.split()], limits), program, stdin=file, stdout=out or subprocess.PIPE,
            stderr=messages, cwd="/", env={"LC_ALL": "C"},  # ffmpeg obeys variables; one makes it write report files
        ) as child:  # fmt: skip
            try:
                raw, _ = child.communicate(timeout=max(deadline - time.monotonic(), 0.001))
            except subprocess.TimeoutExpired:
                raise VideoError(_too_slow(limits)) from None
            finally:
                child.kill()  # nothing, if it has ended
        messages.seek(0)
        log = messages.read().decode(errors="replace")
    if -child.returncode in (signal.SIGKILL, signal.SIGXCPU):
        raise VideoError(_too_slow(limits))
    if child.returncode < 0:  # crashed: whatever it wrote before is not to be trusted
        raise VideoError(DAMAGED)
    return raw or b"", log, child.returncode


def failure(log: str, code: int, limits: Limits) -> str:
    """One sentence for ffmpeg's messages; takes numbers and codec names from them, never text."""
    if TOO_MANY in log:
        return f"The file has more than {limits.streams} streams."
    if size := re.search(r"Picture size (\d+)x(\d+) exceeds", log):
        return bad_size(int(size[1]), int(size[2]), limits)
    # the second line tells the refused video from its audio, whose codecs are all refused
    if codec := re.search(r"Codec \((\w+)\) not on whitelist.*\n.*Error while opening decoder", log):
        return f"The codec {codec[1]} is not supported; use {CODECS_TEXT}."
    if "Cannot allocate memory" in log or "Resource temporarily unavailable" in log:
        return f"Decoding needs more than {limits.memory_bytes / 1e9:g} GB of memory; use a clip of smaller frames."
    for message, sentence in REASONS.items():
        if message in log:
            return sentence
    return "The clip has no frame that can be decoded." if code else "The clip has no frames."


def bad_size(width: int, height: int, limits: Limits) -> str:
    sides = f"{limits.min_side} to {limits.max_side}"
    return (
        f"A frame is {width}x{height} pixels; the limits are {sides} pixels a side"
        f" and {limits.frame_pixels:,} pixels in all."
    )


def _too_slow(limits: Limits) -> str:
    return f"Decoding takes longer than {limits.wall_seconds:g} seconds; use a shorter or smaller clip."
