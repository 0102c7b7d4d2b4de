"""Packs a folder of videos as a set that train.data.video_folder reads without decoding."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from stt.checkpoint import check_writable, write_whole
from train.data.arrays import open_array, write_frames
from train.data.index import IndexedVideo, index_videos
from train.data.readers import ReadOptions
from train.data.splits import SPLITS
from train.data.video_folder import FORMATS, KIND, PACKED_ACCOUNT, VideoFolder, default_fps, resampled, step_of


def pack(folder: Path, out: Path, options: ReadOptions, fps: float = 0.0) -> VideoFolder:
    """Writes a folder's videos as frames.npy (F, size, size, channels), actions.npy (F, A), index and account.

    fps: frames a second to store; 0: all of each video. Prints the account before. Returns the set, opened for clips
    of 20 frames, or of as many as all splits have. Raises ValueError for a folder that `VideoFolder` cannot read, and
    where `out` is not empty.
    """
    if not 0 <= fps <= 1000:
        raise ValueError(f"fps is {fps:g}, must be from 0 to 1000")
    check_writable(out, folder=True)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ValueError(f"{out} is not empty: give another folder, or delete what it holds")
    with tempfile.TemporaryDirectory(dir=out) as cache:
        videos, classes, account, _ = index_videos(folder, options, Path(cache))
        picks = [picked(v, fps) for v in videos]
        rate = fps or default_fps(account, 1)
        longest = [max((len(picked(v, rate)) for v in videos if v.split == side), default=20) for side in SPLITS]
        clips = {
            "split": "train" if any(v.split == "train" for v in videos) else "test", "frames": min(20, *longest),
            "image_size": options.size, "channels": options.channels, "fit": options.fit, "fps": rate,
        }  # fmt: skip
        VideoFolder(folder, cache=Path(cache), arrays=options.arrays, **clips).account.publish(out / PACKED_ACCOUNT)
        ends = np.cumsum([len(pick) for pick in picks]).tolist()
        shape, pairs = (ends[-1], options.size, options.size, options.channels), list(zip(videos, picks, strict=True))
        write_frames(out / "frames.npy", shape, (open_array(v.pixels)[pick] for v, pick in pairs))
        rows = [
            [v.name, v.split, v.label, end - len(pick), end, fps if fps and v.fps else v.fps]
            for (v, pick), end in zip(pairs, ends, strict=True)
        ]
        if actions := all(v.actions for v in videos):
            parts = [open_array(v.actions)[pick] for v, pick in pairs]
            np.save(out / "actions.npy", np.concatenate(parts))
    index = {
        "kind": KIND, "format": FORMATS[-1], "image_size": options.size, "channels": options.channels,
        "fit": options.fit, "classes": classes, "actions": actions, "recordings": rows,
    }  # fmt: skip
    write_whole(out / "index.json", lambda file: file.write(json.dumps(index).encode()))
    return VideoFolder(out, **clips)


def picked(video: IndexedVideo, fps: float) -> np.ndarray:
    """Numbers of a shot's frames at a rate; all of them where a rate is 0."""
    step = step_of(video.fps, fps, 1)
    return video.first + resampled(int((video.last - video.first - 1) / step + 1e-9) + 1, step)
