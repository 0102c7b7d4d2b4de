"""Simulates tabletop clips on all cores: python -m train.make_tabletop --clips N --out DIR"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from train.data.shards import STRAIGHT_LINE, read_shard
from train.data.tabletop import write_set
from train.flags import check_output
from train.sim.tabletop.world import TabletopConfig


def parser() -> argparse.ArgumentParser:
    config = TabletopConfig()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--clips", type=int, required=True, help="how many")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for train/, straight_line/ and test/; begun sets are completed"
    )
    parser.add_argument("--held-out", type=int, default=64, help="clips of the test split, which no other split has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=config.image_size, help="pixels a side")
    parser.add_argument("--frames", type=int, default=config.frames, help="frames of a clip, 10 a second")
    parser.add_argument("--crf", type=int, default=25, help="loss of the video codec, 0 (least) to 63")
    parser.add_argument("--per-shard", type=int, default=50, help="clips of one file")
    parser.add_argument("--workers", type=int, default=cores, help="processes, by default one for each core")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Writes the clips and prints how large they are and what compression lost."""
    args = parser().parse_args(arguments)
    if min(args.clips, args.held_out, args.per_shard, args.workers) < 1:
        raise SystemExit("--clips, --held-out, --per-shard and --workers must be at least 1")
    check_output("--out", args.out, folder=True)
    counts = {"test": args.held_out, "straight_line": max(1, round(STRAIGHT_LINE * args.clips)), "train": args.clips}
    for split, clips in counts.items():
        out = args.out / split
        try:
            config = TabletopConfig(image_size=args.size, frames=args.frames)
            write_set(out, config, split, args.seed, clips, args.crf, args.per_shard, args.workers)
        except (RuntimeError, ValueError, OSError) as error:
            raise SystemExit(str(error)) from error
        shards = sorted(out.glob("shard-*.npz"))
        size = sum(path.stat().st_size for path in shards) / 2**20
        psnr = np.concatenate([read_shard(path)["psnr"] for path in shards])
        print(f"{split}: {size:.1f} MiB, {size * 1000 / clips:.2f} MiB per 1,000 clips; "
              f"PSNR of a clip {psnr.mean():.1f} dB on average, {psnr.min():.1f} at least")  # fmt: skip


if __name__ == "__main__":
    main()
