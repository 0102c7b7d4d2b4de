"""Twelve odd videos, as people have them."""

from __future__ import annotations

from pathlib import Path

from tests.video_fixtures import PLAIN, make, noise

MJPEG, VP9 = "-pix_fmt yuvj420p -c:v mjpeg", "-pix_fmt yuv420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8"
ODD = {  # name: options, size, frames a second, seconds
    "a.mp4": (PLAIN, "64x48", 10, 2), "b.MP4": (PLAIN, "48x64", 25, 1), "c.mov": ("-c:v mpeg4", "64x64", 12, 1),
    "d.mkv": (VP9, "80x48", 10, 1), "e.webm": ("-c:v libvpx -deadline realtime", "32x32", 15, 1),
    "f.avi": (MJPEG, "64x48", 10, 1), "g.gif": ("-pix_fmt rgb8", "40x30", 10, 1), "h.mkv": (MJPEG, "18x100", 30, 1),
    "i.m4v": (PLAIN + " -f mp4", "160x90", 5, 4), "more/j.avi": ("-c:v mpeg4", "66x50", 24, 1),
    "short.mp4": (PLAIN, "64x48", 10, 0.3),
}  # fmt: skip


def odd_videos(folder: Path, longer: int = 1) -> Path:
    """Ten files to use, one that is too short, one that is no video."""
    (folder / "more").mkdir(parents=True)
    for name, (options, size, rate, seconds) in ODD.items():
        make(folder / name, options, f"testsrc2=s={size}:r={rate}:d={seconds * longer}")
    (folder / "corrupt.mp4").write_bytes(b"\0\0\0\x18ftypisom" + noise(1, 8, 64).tobytes())
    (folder / "notes.txt").write_text("not a video")
    return folder
