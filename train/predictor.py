"""Trains a predictor: python -m train.predictor --preset moving_mnist/stt/cpu --mnist DIR --out runs/stt"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from accelerate.utils import set_seed
from torch import nn

from stt.api import Predictor
from stt.checkpoint import build
from stt.registry import FAMILIES
from stt.segmenter import Segmenter
from train import cli, tokenizer
from train.data.moving_mnist import MovingMNIST
from train.datasets import open_dataset
from train.evaluation.moving_mnist import held_out, moving_mnist
from train.perceptual import PerceptualPredictor, add_perceptual_flags, perceptual_distance
from train.presets import PRESETS, Dataset, Preset
from train.processes import make_accelerator, run_as_process, say_what_next, warn_of_size
from train.sheets import future_sheet
from train.trainer import Score, Trainer


def parser() -> argparse.ArgumentParser:
    parser = cli.training_parser(
        "train.predictor", "Trains a predictor, and before it the preset's tokenizer where none is given."
    )
    parser.add_argument("--tokenizer", metavar="MODEL", help="file or run folder of a tokenizer to use as it is")
    parser.add_argument("--segmenter", metavar="MODEL", help="model of motion layers whose segmenter to use as it is")
    add_perceptual_flags(parser)
    parser.add_argument("--only", metavar="PART", nargs="+", help="train these parts of the network and no others")
    return parser


def main(words: list[str] | None = None) -> None:
    begin, args = time.monotonic(), cli.parse(parser(), words)
    preset = cli.preset_of(args)
    if preset.family not in FAMILIES:
        raise SystemExit(f"{args.preset} trains a tokenizer: use train.tokenizer")
    accelerator = make_accelerator(args.device)
    warn_of_size(accelerator, args.preset, PRESETS)
    train, test = (open_dataset(preset, args, split, accelerator.device) for split in ("train", "test"))
    clips = test.batch(4, seed=1, index=0).video
    if clips.shape[1] < 2:
        raise SystemExit(f"clips have {clips.shape[1]} frame, a predictor learns from 2 or more: give --frames")
    tokenizer_first = bool(preset.tokenizer_preset) and not args.tokenizer and preset.model.tokenizer is not None
    if tokenizer_first:
        prepare(build(preset.family, preset.model), args, quiet=True)  # finds mistakes before the tokenizer trains
        cli.charge(args, begin)
        cli.save_flags(args)
        train_tokenizer(args, preset)
    else:
        cli.charge(args, begin)
    preset = cli.preset_of(args)  # with the minutes that are left
    set_seed(preset.training.seed)
    model = prepare(build_predictor(preset, args.tokenizer), args)
    cli.save_flags(args)
    setup = preset.training, args.out, accelerator, cli.training_card(args, preset, train)
    if distance := perceptual_distance(args):
        whole = PerceptualPredictor(model, distance, args.perceptual_weight)
        run = Trainer(whole, *setup, runnable=lambda m: m.predictor, clipped=[model])
    else:
        run = Trainer(model, *setup)
    cli.resume(run, args)
    context = min(context_frames(test), clips.shape[1] - 1)
    sheet, score = future_sheet(clips, context), held_out_score(test)
    run.fit(lambda size, number: train.batch(size, preset.training.seed, number), sheet, score)
    say_what_next(accelerator, args.out, f"python app.py --models {args.out}")


def prepare(model: Predictor, args: argparse.Namespace, quiet: bool = False) -> Predictor:
    """The network with the weights of --start-from, of which only the parts --only train."""
    cli.start_from(model, args.start_from, quiet)
    if args.segmenter:
        take_segmenter(model, args.segmenter)
    if args.only:
        train_only(model, *args.only)
    return model


def take_segmenter(model: Predictor, source: str) -> None:
    """Copies the segmenter of another model and freezes it. SystemExit where one of them has none, or it differs."""
    segmenters = [
        next((part for part in m.modules() if isinstance(part, Segmenter)), None)
        for m in (model, cli.load_source("--segmenter", source))
    ]
    for owner, segmenter in zip(("this preset's network", source), segmenters, strict=True):
        if segmenter is None:
            raise SystemExit(f"--segmenter {source}: {owner} has no segmenter")
    own, given = segmenters
    try:
        own.load_state_dict(given.state_dict())
    except RuntimeError as error:
        raise SystemExit(f"--segmenter {source}: {cli.one_line(error)}") from error
    own.requires_grad_(False)


def train_tokenizer(args: argparse.Namespace, preset: Preset) -> None:
    """Trains the preset's tokenizer into the folder `tokenizer` of the run.

    It has its own schedule, or --steps, or its share of --minutes, of which the rest stays for the predictor.
    """
    out, begin = args.out / "tokenizer", time.monotonic()
    own, whole = PRESETS[preset.tokenizer_preset].training.minutes, PRESETS[args.preset].training.minutes
    share = round(args.minutes * own / (own + whole), 2) if args.minutes else None
    if args.resume and (out / cli.FLAGS_FILE).is_file():
        words = ["--resume"]
    else:
        names = ("mnist", "data", "strokes", "digits", "fps", "stride", "fit", "layout", "device", "steps")
        values = {name: getattr(args, name) for name in names} | {"minutes": share}
        words = [f"--{name}={value}" for name, value in values.items() if value not in (None, "")]
        for name in ("float_range", "int_range"):
            words += [f"--{name.replace('_', '-')}", *map(str, getattr(args, name))] if getattr(args, name) else []
        words += [f"--{name}" for name in ("flip", "partial") if getattr(args, name)]
        words = ["--preset", preset.tokenizer_preset, *words]
    tokenizer.main(["--out", str(out), *words], alone=False)
    args.tokenizer = str(out)
    if share:
        args.minutes = round(max(args.minutes - max(share, (time.monotonic() - begin) / 60), 0.01), 3)
    cli.save_flags(args)


def build_predictor(preset: Preset, source: str | None) -> Predictor:
    """The preset's network with fresh weights, around the tokenizer of `source` if its family has one.

    SystemExit if the preset names actions that the network does not take, or `source` is of no use.
    """
    config, frozen = preset.model, None
    if getattr(config, "tokenizer", None) is not None:
        frozen = cli.load_source("--tokenizer", source)
        if type(frozen.config) is not type(config.tokenizer):
            kind = type(config.tokenizer).__name__.removesuffix("Config")
            raise SystemExit(f"--tokenizer {source} holds a {type(frozen).__name__}, must be a {kind} tokenizer")
        try:
            config = replace(config, tokenizer=frozen.config)
        except ValueError as error:
            raise SystemExit(f"--tokenizer {source}: {error}") from error
    elif source:
        raise SystemExit("this preset's network has no tokenizer: leave out --tokenizer")
    model = build(preset.family, config)
    if config.actions and "actions" not in model.knobs:
        raise SystemExit(f"the family {preset.family} does not learn from actions here: add --set 'actions=()'")
    if frozen is not None:
        model.tokenizer.load_state_dict(frozen.state_dict())
    return model


def train_only(model: nn.Module, *names: str) -> None:
    """Freezes all weights but those of some parts. SystemExit if the model has no such part to train."""
    parts = {name: part for name, part in model.named_modules() if any(p.requires_grad for p in part.parameters())}
    for name in names:
        if name not in parts:
            top = [name for name in parts if name and "." not in name]
            raise SystemExit(f"--only {name}: the model's parts are {', '.join(top)}")
    model.requires_grad_(False)
    for name in names:
        parts[name].requires_grad_(True)


def is_deterministic(dataset: Dataset) -> bool:
    """Whether each prompt has one future only."""
    return isinstance(dataset, MovingMNIST) and dataset.config.kind == "deterministic"


def context_frames(dataset: Dataset) -> int:
    """Frames of the prompt in the benchmark on this data: 10 of Moving MNIST, 5 of stochastic data."""
    return 10 if is_deterministic(dataset) else 5


def held_out_score(dataset: Dataset, clips: int = 64) -> Score | None:
    """MSE and SSIM on clips of Moving MNIST's test split. None for stochastic data, which one future cannot score."""
    context = context_frames(dataset)
    if not is_deterministic(dataset) or dataset.config.frames <= context:
        return None
    videos = torch.cat([clip.video for clip in held_out(dataset, clips)])

    def score(model: nn.Module) -> dict[str, float]:
        mean = moving_mnist(model, videos, context, quiet=True)["mean"]
        return {f"held_out_{name}": mean[name] for name in ("mse", "ssim")}

    return score


if __name__ == "__main__":
    run_as_process(main)
