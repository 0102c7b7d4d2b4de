"""Packs a folder of videos for fast reading: python -m train.pack_videos FOLDER OUT"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from train.data.arrays import add_array_flags, array_options
from train.data.packing import pack
from train.data.readers import ReadOptions
from train.flags import count, number


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.pack_videos", description="Packs your own videos as a set that is read without decoding."
    )
    parser.add_argument(
        "folder", type=Path, help="videos, arrays, folders of frames or image packs, in train/ and test/, by class, or "
        "plain; or a .txt list of them",
    )  # fmt: skip
    parser.add_argument("out", type=Path, help="an empty folder")
    parser.add_argument("--size", type=count, default=64, help="pixels a side")
    parser.add_argument("--channels", type=int, choices=[1, 3], default=3, help="1 (gray) or 3 (colour)")
    parser.add_argument("--fit", choices=["crop", "pad"], default="crop", help="the centre square, or black bars")
    parser.add_argument("--fps", type=number, default=0.0, help="frames a second to store; default: all that there are")
    add_array_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Packs, and prints how large the set is and how fast it reads."""
    args = parser().parse_args(arguments)
    try:
        options = ReadOptions(size=args.size, channels=args.channels, fit=args.fit, arrays=array_options(args))
        clips = pack(args.folder, args.out, options, args.fps)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    begun, count = time.monotonic(), 0
    while (seconds := time.monotonic() - begun) < 1:
        count += len(clips.batch(8, seed=0, index=count))
    size = sum(path.stat().st_size for path in args.out.iterdir()) / 2**20
    purpose = "train on" if clips.split == "train" else "score"
    print(f"{args.out}: {size:.1f} MiB, {len(clips)} clips of {clips.frames} frames to {purpose}; "
          f"reads {count / seconds:.0f} of them a second")  # fmt: skip


if __name__ == "__main__":
    main()
