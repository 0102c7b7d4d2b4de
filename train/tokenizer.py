"""Trains a tokenizer: python -m train.tokenizer --preset car/frame_vq/cpu --data DIR --out runs/tok"""

from __future__ import annotations

import argparse
import time

from accelerate.utils import set_seed

from stt.checkpoint import build
from stt.registry import TOKENIZERS
from train import cli
from train.datasets import open_dataset
from train.flags import number, whole
from train.gan import AdversarialTokenizer
from train.perceptual import add_perceptual_flags, perceptual_distance
from train.presets import PRESETS
from train.processes import make_accelerator, run_as_process, say_what_next, warn_of_size
from train.sheets import reconstruction_sheet
from train.trainer import Trainer


def parser() -> argparse.ArgumentParser:
    parser = cli.training_parser("train.tokenizer", "Trains a tokenizer.")
    vqgan = parser.add_argument_group("VQGAN stage")
    vqgan.add_argument("--gan-weight", type=number, default=0.0, help="weight of the adversarial loss; 0: none")
    vqgan.add_argument("--gan-start", type=whole, default=0, metavar="STEP", help="step at which it begins")
    add_perceptual_flags(vqgan)
    vqgan.add_argument("--decoder-only", action="store_true", help="train the decoder alone: codes keep their meaning")
    return parser


def main(words: list[str] | None = None, alone: bool = True) -> None:
    """alone: nothing goes on by itself after it."""
    begin, args = time.monotonic(), cli.parse(parser(), words)
    if args.perceptual_weight and not args.gan_weight:
        raise SystemExit("--perceptual-weight belongs to the VQGAN stage: add --gan-weight")
    preset = cli.preset_of(args)
    if preset.family not in TOKENIZERS:
        raise SystemExit(f"{args.preset} trains a predictor: use train.predictor")
    if (args.gan_weight or args.decoder_only) and preset.family == "motion_vq":
        raise SystemExit(f"{args.preset} has no decoder: leave out --gan-weight and --decoder-only")
    accelerator = make_accelerator(args.device)
    warn_of_size(accelerator, args.preset, PRESETS)
    train, test = (open_dataset(preset, args, split, accelerator.device) for split in ("train", "test"))
    cli.charge(args, begin)
    preset = cli.preset_of(args)
    set_seed(preset.training.seed)
    tokenizer = build(preset.family, preset.model)
    cli.start_from(tokenizer, args.start_from)
    cli.save_flags(args)
    setup = preset.training, args.out, accelerator, cli.training_card(args, preset, train)
    if args.gan_weight:
        perceptual = perceptual_distance(args)
        model = AdversarialTokenizer(
            tokenizer, args.gan_weight, args.gan_start, args.decoder_only, perceptual, args.perceptual_weight
        )
        run = Trainer(model, *setup, runnable=lambda m: m.tokenizer, clipped=[tokenizer, model.discriminator])
    else:
        if args.decoder_only:
            tokenizer.requires_grad_(False).decoder.requires_grad_(True)
        run = Trainer(tokenizer, *setup)
    cli.resume(run, args)
    sheet = reconstruction_sheet(test.batch(4, seed=1, index=0).video[:, :10])
    run.fit(lambda size, number: train.batch(size, preset.training.seed, number), sheet)
    if not alone:
        return
    others = [name for name, one in PRESETS.items() if one.tokenizer_preset == args.preset]
    command = f"python -m train.predictor --preset {others[0]} --tokenizer {args.out} --out DIR" if others else ""
    say_what_next(accelerator, args.out, command)


if __name__ == "__main__":
    run_as_process(main)
