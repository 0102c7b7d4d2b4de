"""Simulates clips of a robot arm that pushes objects and stores them.

    python -m train.make_robot --clips 5000 --size 128 --out DIR

It uses all cores. Run it again after an interruption, and it writes the shards that are missing.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from train.data.robot import write_set
from train.data.shards import STRAIGHT_LINE, read_shard
from train.flags import check_output
from train.sim.robot.world import RobotConfig


def parser() -> argparse.ArgumentParser:
    config = RobotConfig()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, required=True, help="clips of the training split")
    parser.add_argument("--out", type=Path, required=True, help="folder for train/, straight_line/ and test/")
    parser.add_argument("--test-clips", type=int, default=256, help="clips of the test split; the two share none")
    parser.add_argument(
        "--size", type=int, default=config.image_size, help="pixels a side; sets of 128 are read at 64 too"
    )
    parser.add_argument("--frames", type=int, default=config.frames, help="frames of a clip, 10 a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crf", type=int, default=16, help="loss of the video, 0 (none) to 51")
    parser.add_argument("--per-shard", type=int, default=25, help="clips of one file")
    parser.add_argument("--workers", type=int, default=cores, help="processes; by default one for each core")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Writes the clips and prints how large they are and what compression lost."""
    args = parser().parse_args(arguments)
    if min(args.clips, args.test_clips, args.per_shard, args.workers) < 1:
        raise SystemExit("--clips, --test-clips, --per-shard and --workers must be at least 1")
    check_output("--out", args.out, folder=True)
    counts = {"test": args.test_clips, "straight_line": max(1, round(STRAIGHT_LINE * args.clips)), "train": args.clips}
    for split, clips in counts.items():
        out = args.out / split
        try:
            config = RobotConfig(image_size=args.size, frames=args.frames)
            write_set(out, config, split, args.seed, clips, args.crf, args.per_shard, args.workers)
        except (RuntimeError, ValueError, OSError) as error:
            raise SystemExit(str(error)) from error
        size = sum(path.stat().st_size for path in out.glob("shard-*")) / 2**20
        psnr = np.concatenate([read_shard(path)["psnr"] for path in out.glob("shard-*.npz")]).astype(float)
        print(f"{split}: {clips} clips, {size:.1f} MiB; PSNR of a clip {psnr.mean():.1f} dB on average, "
              f"{psnr.min():.1f} at least")  # fmt: skip


if __name__ == "__main__":
    main()
