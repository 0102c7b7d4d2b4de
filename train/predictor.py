"""Trains a predictor: python -m train.predictor --preset digits_stt --tokenizer runs/tok --mnist DIR --out runs/stt"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from stt.checkpoint import build, load_any
from stt.sampler import predict
from train.data import DigitVideos
from train.loop import Run, accelerator_for, fit, rows_of_frames
from train.presets import arguments, card_of, chosen


def future_sheet(videos: DigitVideos, clips: int = 4, context: int = 5):
    """Rows of truth, reconstruction and three futures, clip after clip; futures begin after `context` frames."""
    held_out = videos.batch(clips, seed=1, index=0)

    def sheet(model: nn.Module) -> np.ndarray:
        rows = []
        for clip in held_out:
            codes = model.tokenizer.encode(clip[None])
            futures = predict(model, clip[:context], len(clip) - context, seeds=[0, 1, 2])
            rows += [clip, model.tokenizer.decode(codes.latents)[0]]
            rows += [torch.cat([clip[:context], future]) for future in futures]
        return rows_of_frames(rows)

    return sheet


def parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__.split(":")[0])
    parser.add_argument("--tokenizer", required=True, help="file or run folder of the frozen tokenizer")
    return parser


def start_from(model: nn.Module, source: nn.Module) -> list[str]:
    """Takes over the weights of a model that may lack parts; returns the names of what it lacks."""
    fresh, unknown = model.load_state_dict(source.state_dict(), strict=False)
    if unknown:
        raise SystemExit(f"the model to start from holds {unknown[0]!r}, which this preset lacks")
    return fresh


def main() -> None:
    args = parser().parse_args()
    preset = chosen(args)
    accelerator = accelerator_for(preset.loop.precision, args.device)
    tokenizer = load_any(args.tokenizer)
    model = build("stt", replace(preset.model, tokenizer=tokenizer.config))
    model.tokenizer.load_state_dict(tokenizer.state_dict())
    if args.start_from:
        fresh = start_from(model, load_any(args.start_from))
        print("\n".join(f"{name} begins anew" for name in fresh))
    train = DigitVideos(preset.world, args.mnist, "train", accelerator.device)
    test = DigitVideos(preset.world, args.mnist, "test", accelerator.device)
    run = Run(model, preset.loop, args.out, accelerator, card_of("train.predictor", args, preset))
    if args.resume:
        run.resume()
    fit(run, lambda size, index: train.batch(size, preset.loop.seed, index), future_sheet(test))


if __name__ == "__main__":
    main()
