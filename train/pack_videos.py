"""Packs a folder of videos for fast reading: python -m train.pack_videos FOLDER OUT"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from train.data.video_folder import SPLITS, VideoFolder, pack, packed_index


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
        rows = packed_index(args.out)["recordings"]
        frames = min(16, *(max(last - first for _, split, _, first, last in rows if split == s) for s in SPLITS))
        clips = VideoFolder(args.out, "train", frames, args.size, args.channels)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    begun, count = time.monotonic(), 0
    while (seconds := time.monotonic() - begun) < 1:
        count += len(clips.batch(8, seed=0, index=count))
    size = sum(path.stat().st_size for path in args.out.iterdir()) / 2**20
    print(f"{args.out}: {size:.1f} MiB, {len(clips)} clips of {frames} frames to train on; "
          f"reads {count / seconds:.0f} of them a second")  # fmt: skip


if __name__ == "__main__":
    main()
