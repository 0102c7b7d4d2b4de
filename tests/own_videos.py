"""Odd videos and other files, as people have them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.video_fixtures import PLAIN, ffmpeg, make, noise

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


CAMERA = "-pix_fmt yuv420p -c:v libx264"
HLG = (
    "-pix_fmt yuv420p10le -c:v libx265 -preset ultrafast -x265-params "
    "log-level=none:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"
)
MORE = {  # name: options, source
    "dashcam.ts": (CAMERA, "testsrc2=s=160x90:r=30:d=1"),
    "camcorder.MTS": (f"-vf interlace {CAMERA} -flags +ildct+ilme -f mpegts", "testsrc2=s=160x96:r=50:d=1"),
    "phone.3gp": (CAMERA, "testsrc2=s=90x160:r=30:d=1"),
    "slow.mov": (CAMERA, "testsrc2=s=64x64:r=240:d=1"),
    "screen.mp4": (f"-fps_mode vfr {CAMERA}", "testsrc2=s=64x64:r=30:d=2,select='if(lt(t,1),1,not(mod(n,3)))'"),
    "hdr.mov": (f"{HLG} -tag:v hvc1", "testsrc2=s=64x64:r=30:d=1"),
    "raw.h264": (CAMERA, "testsrc2=s=64x64:r=25:d=1"),
    "half.mp4": (f"{CAMERA} -g 10 -movflags +faststart", "testsrc2=s=64x64:r=30:d=4"),
}


def odd_files(folder: Path) -> Path:
    """The odd videos, and 12 more of other kinds: 23 files that can be read, and 5 that are passed over."""
    odd_videos(folder)
    for name, (options, source) in MORE.items():
        make(folder / name, options, source)
    data = (folder / "half.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(data[: len(data) // 2])
    small, large = (
        ("-f", "lavfi", "-i", "testsrc2=s=32x32:r=30:d=1"),
        ("-f", "lavfi", "-i", "testsrc2=s=64x64:r=30:d=1"),
    )
    ffmpeg(*small, *large, "-map", "0", "-map", "1", *CAMERA.split(), folder / "two.mp4")
    (folder / "frames").mkdir()
    for k in range(30):  # gray, 16 bits, and in an order that only numbers tell
        gray = np.full((40, 60), 2000 * k, np.uint16)
        cv2.imwrite(str(folder / "frames" / f"frame{k}.png"), gray)
    fall = np.zeros((12, 30, 40, 40), np.uint8)  # a square that falls, in 12 clips
    for clip, left in zip(fall, np.random.default_rng(0).integers(0, 30, 12), strict=True):
        for t, frame in enumerate(clip):
            frame[t : t + 8, left : left + 8] = 255
    np.save(folder / "time_first.npy", fall.swapaxes(0, 1))
    np.save(folder / "unit.npy", np.repeat(fall[0][:, None] / np.float32(255), 3, axis=1))
    (folder / "more" / "disk").symlink_to(folder.parent / "disk")
    (folder.parent / "disk").mkdir()
    make(folder.parent / "disk" / "k.mp4", PLAIN, "testsrc2=s=64x48:r=10:d=3")
    (folder / "lost.mp4").symlink_to("nowhere.mp4")
    (folder / "README").write_text("who took what")
    return folder
