"""Packs a folder of videos for fast reading: python -m train.pack_videos FOLDER OUT"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from stt.checkpoint import write_whole
from train.data.index import recordings
from train.data.video_folder import FORMAT, KIND, SPLITS, VideoFolder, packed_index


def pack(folder: Path, out: Path, image_size: int, channels: int = 3, fit: str = "crop") -> None:
    """Writes a folder's recordings as frames.npy (F, size, size, channels), actions.npy (F, A) and index.json.

    Raises ValueError for a folder that `VideoFolder` cannot read, and where `out` holds something.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ValueError(f"{out} is not empty: give another folder, or delete what it holds")
    with tempfile.TemporaryDirectory(dir=out) as cache:
        found, classes = recordings(folder, image_size, channels, fit, Path(cache))
        total, begin, rows = sum(r.last - r.first for r in found), 0, []
        shape = (total, image_size, image_size, channels)
        pixels = np.lib.format.open_memmap(out / "frames.npy", mode="w+", dtype=np.uint8, shape=shape)
        for r in found:
            end = begin + r.last - r.first
            pixels[begin:end] = np.load(r.pixels, mmap_mode="r")[r.first : r.last]
            rows.append([r.name, r.split, r.label, begin, end])
            begin = end
        pixels.flush()
        if actions := all(r.actions for r in found):
            np.save(
                out / "actions.npy",
                np.concatenate([np.load(r.actions, mmap_mode="r")[r.first : r.last] for r in found]),
            )
    index = {
        "kind": KIND, "format": FORMAT, "image_size": image_size, "channels": channels, "fit": fit,
        "classes": classes, "actions": actions, "recordings": rows,
    }  # fmt: skip
    write_whole(out / "index.json", lambda file: file.write(json.dumps(index).encode()))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Packs your own videos as a set that is read without decoding.")
    parser.add_argument(
        "folder", type=Path, help="videos, image packs or arrays, in train/ and test/, by class, or plain"
    )
    parser.add_argument("out", type=Path, help="an empty folder")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--channels", type=int, choices=[1, 3], default=3, help="1 (gray) or 3 (colour)")
    parser.add_argument("--fit", choices=["crop", "pad"], default="crop", help="the centre square, or black bars")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Packs, and prints how large the set is and how fast it reads."""
    args = parser().parse_args(arguments)
    try:
        pack(args.folder, args.out, args.size, args.channels, args.fit)
        index = packed_index(args.out)["recordings"]
        frames = min(16, *(max(last - first for _, split, _, first, last in index if split == s) for s in SPLITS))
        clips = VideoFolder(args.out, "train", frames, args.size, args.channels)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    begun, count = time.monotonic(), 0
    while (seconds := time.monotonic() - begun) < 1:
        count += len(clips.batch(8, seed=0, index=count))
    files = [path.stat().st_size for path in args.out.iterdir()]
    print(f"{args.out}: {sum(files) / 2**20:.1f} MiB, {len(clips)} clips of {frames} frames to train on; "
          f"reads {count / seconds:.0f} of them a second")  # fmt: skip


if __name__ == "__main__":
    main()
