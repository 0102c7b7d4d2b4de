"""Trains a tokenizer: python -m train.tokenizer --preset car_tokenizer --data DIR --out runs/tok"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from accelerate.utils import set_seed
from torch import nn

from stt.checkpoint import build, load_any
from train import cli
from train.cli import arguments, card_of, chosen, videos_of
from train.gan import AdversarialTokenizer, PerceptualDistance
from train.presets import Videos
from train.trainer import Trainer, accelerator_for, as_process, fit, rows_of_frames, start_from


def reconstruction_sheet(videos: Videos, clips: int = 4, frames: int = 10):
    """Rows of truth and reconstruction, in turn."""
    held_out = videos.batch(clips, seed=1, index=0).video[:, :frames]

    def sheet(model: nn.Module) -> np.ndarray:
        decoded = model.reconstructed(held_out)
        return rows_of_frames([row for pair in zip(held_out, decoded, strict=True) for row in pair])

    return sheet


def parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__.split(":")[0])
    parser.add_argument("--gan-weight", type=float, default=0.0, help="strength of the VQGAN stage; 0 leaves it out")
    parser.add_argument("--gan-start", type=int, default=0, help="steps before the VQGAN stage begins")
    parser.add_argument(
        "--perceptual", type=Path, metavar="WEIGHTS", help="torchvision's vgg16, for VQGAN's other term"
    )
    parser.add_argument("--perceptual-weight", type=float, default=0.1, help="of that term")
    parser.add_argument("--decoder-only", action="store_true", help="leave the codes' meaning")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = cli.parsed(parser(), "train.tokenizer", arguments)
    preset = chosen(args)
    cli.keep(args)
    accelerator = accelerator_for(preset.loop.precision, args.device)
    set_seed(preset.loop.seed)
    model = build(preset.family, preset.model)
    if args.start_from:
        start_from(model, load_any(args.start_from))
    train, test = (videos_of(preset, args, split, accelerator.device) for split in ("train", "test"))
    card = card_of(args, preset)
    if args.gan_weight:
        perceptual = PerceptualDistance(args.perceptual) if args.perceptual else None
        stage = (args.gan_weight, args.gan_start, args.decoder_only, perceptual, args.perceptual_weight)
        model = AdversarialTokenizer(model, *stage)
        run = Trainer(model, preset.loop, args.out, accelerator, card, keep=lambda trained: trained.tokenizer)
    elif args.perceptual:
        raise SystemExit("--perceptual belongs to the VQGAN stage: give --gan-weight too")
    else:
        if args.decoder_only:
            model.requires_grad_(False).decoder.requires_grad_(True)
        run = Trainer(model, preset.loop, args.out, accelerator, card)
    if args.resume:
        run.resume()
        cli.keep(args, resumed=True)
    fit(run, lambda size, index: train.batch(size, preset.loop.seed, index), reconstruction_sheet(test))


if __name__ == "__main__":
    as_process(main)
