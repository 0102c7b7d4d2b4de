"""What a video file holds, by ffmpeg's messages and one decoded frame: streams, size, rate, colours, fields.

The messages quote the file, so only numbers and names from fixed lists are taken from them.
"""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import NamedTuple

from stt.ffmpeg import LIMITS, TOO_MANY, Limits, VideoError, bad_size, failure, open_video, run_ffmpeg

STREAM = re.compile(r"^  Stream #0:(\d+)\S*: Video: (\w+)(.*)$", flags=re.M)
PIXELS = re.compile(r", (?:yuv|nv|p0|p2|y2|uyvy)\w*(?:\(([^()]*(?:\([^()]*\)[^()]*)*)\))?")  # luma, chroma; their tags
ALPHA = re.compile(r", (?:yuva|rgba|argb|bgra|abgr|gbrap|ya8|ya16)")  # pixels with an alpha channel
MAYBE_OPAQUE = ("gif", "png", "apng")  # have an alpha channel whether they use it or not
MATRICES = ("bt709", "bt470bg", "smpte170m", "smpte240m", "fcc", "ycgco", "bt2020nc", "bt2020c")
HDR = {"arib-std-b67": "HLG", "smpte2084": "PQ"}  # transfer functions
NAMES = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}  # of containers


class Colours(NamedTuple):
    """Names of ffmpeg; "" where the file does not say."""

    matrix: str = ""
    primaries: str = ""
    transfer: str = ""


class Probe(NamedTuple):
    width: int  # after rotation
    height: int
    fps: float  # as the stream claims
    codec: str
    container: str
    pixel_aspect: float  # width / height of one pixel; 1 is square
    stream: int  # index of the video stream that is read
    streams: int  # number of video streams
    colours: Colours | None  # None: RGB or gray, which need none
    interlaced: bool
    transparent: bool  # of a codec that has an alpha channel only where it is used
    seconds: float | None  # of the whole file, as it claims

    @property
    def aspect(self) -> float:
        """Width / height of the picture."""
        return self.width * self.pixel_aspect / self.height


def probe(path: str | Path, *, limits: Limits = LIMITS) -> Probe:
    """Checks a file and decodes one frame only. Raises `VideoError`.

    Of several video streams it is the one with the largest picture within the limits.
    """
    with open_video(path, limits) as file:
        return probe_file(file, limits, time.monotonic() + limits.wall_seconds)


def probe_file(file: int, limits: Limits, deadline: float) -> Probe:
    """`probe` of an open file."""
    raw, log, code = _first_frame(file, "V:0", limits, deadline)
    lines = [line for line in STREAM.finditer(_input(log)) if "(attached pic)" not in line[0]]
    best = max(lines, default=None, key=lambda line: _rank(line, limits))
    used = re.search(r"^  Stream #0:(\d+) -> #0:0", log, flags=re.M)
    if best and not (used and used[1] == best[1]):
        raw, log, code = _first_frame(file, best[1], limits, deadline)
    # yuv4mpeg starts with a line that says size, rate, fields and aspect of the decoded, rotated frame: no guessing
    head = re.match(rb"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+) I(\S+) A(\d+):(\d+)", raw)
    if not head or TOO_MANY in log:  # of some containers ffmpeg reads a little in spite of it
        raise VideoError(failure(log, code, limits))
    width, height, rate, per, across, down = (int(head[k]) for k in (1, 2, 3, 4, 6, 7))
    if not _allowed(width, height, limits):
        raise VideoError(bad_size(width, height, limits))
    demuxer = re.search(r"^Input #0, (\S+), from", log, flags=re.M)
    container = demuxer[1] if demuxer and demuxer[1] in limits.containers else "unknown"
    codec, text = (best[2], best[3]) if best else ("unknown", "")
    claimed, average = rate / per if rate and per else 25.0, re.search(r", (\d+(?:\.\d+)?) fps", text)
    if NAMES.get(container) == "mp4" and average and not math.isclose(float(average[1]), claimed, rel_tol=0.02):
        claimed = float(average[1]) or claimed  # the rate varies; the average is exact
    return Probe(
        width=width,
        height=height,
        fps=claimed,
        codec=codec,
        container=NAMES.get(container, container),
        pixel_aspect=across / down if across and down else 1.0,
        stream=int(best[1]) if best else 0,
        streams=len(lines),
        colours=_colours(text),
        interlaced=head[5] in (b"t", b"b", b"m") or re.search(r"\b(top|bottom)( coded)? first", text) is not None,
        transparent=(ALPHA.search(text) is not None and codec not in MAYBE_OPAQUE)
        or re.search(r"^ +alpha_mode +: 1", _input(log), flags=re.M) is not None,
        seconds=_duration(log),
    )


def _first_frame(file: int, stream: str, limits: Limits, deadline: float) -> tuple[bytes, str, int]:
    options = "-fps_mode passthrough -filter_threads 1 -threads 1 -frames:v 1 -pix_fmt gray -f yuv4mpegpipe"
    return run_ffmpeg(file, f"-map 0:{stream} {options}", limits, deadline)


def _input(log: str) -> str:
    """The part of the messages that describes the file."""
    return re.split(r"^(?:Stream mapping|Output #0)", log, maxsplit=1, flags=re.M)[0]


def _rank(line: re.Match[str], limits: Limits) -> tuple[bool, int, bool]:
    """Which stream is the best: one that may be decoded, then the largest, then the default one."""
    size = re.search(r", (\d+)x(\d+)", line[3])
    width, height = (int(size[1]), int(size[2])) if size else (0, 0)
    allowed = line[2] in limits.decoders and _allowed(width, height, limits)
    return allowed, width * height, "(default)" in line[3]


def _allowed(width: int, height: int, limits: Limits) -> bool:
    sides_fit = limits.min_side <= min(width, height) and max(width, height) <= limits.max_side
    return sides_fit and width * height <= limits.frame_pixels


def _colours(text: str) -> Colours | None:
    """Of the line that describes a stream, such as ": hevc, yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67)"."""
    pixels = PIXELS.search(text)
    if not pixels:
        return None
    for tag in (pixels[1] or "").split(", "):
        names = tag.split("/")
        if len(names) == 3 or tag in MATRICES:  # one name stands for all three
            return Colours(*("" if name == "unknown" else name for name in (names * 3)[:3]))
    return Colours()


def _duration(log: str) -> float | None:
    match = re.search(r"^  Duration: (\d+):(\d+):([\d.]+)", log, flags=re.M)
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None
