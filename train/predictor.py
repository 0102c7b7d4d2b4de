"""Trains a predictor: python -m train.predictor --preset digits_stt --tokenizer runs/tok --mnist DIR --out runs/stt"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import nn

from stt.checkpoint import build, load_any
from stt.sampler import predict
from train import cli, tokenizer
from train.cli import arguments, card_of, chosen, videos_of
from train.data.moving_mnist import MovingMNIST
from train.evaluation.moving_mnist import held_out, moving_mnist
from train.presets import Preset, Videos
from train.trainer import Batches, Score, Trainer, accelerator_for, as_process, fit, rows_of_frames, start_from


def future_sheet(videos: Videos, clips: int = 4):
    """Rows of truth, reconstruction by the tokenizer if there is one, and up to three futures, clip after clip."""
    shown = videos.batch(clips, seed=1, index=0).video
    context = min(context_of(videos), shown.shape[1] - 1)

    def sheet(model: nn.Module) -> np.ndarray:
        rows = []
        for clip in shown:
            rows.append(clip)
            if getattr(model, "tokenizer", None) is not None:
                whole = clip[None, len(clip) % getattr(model.tokenizer.config, "frames", 1) :]
                rows.append(model.tokenizer.reconstructed(whole)[0])
            futures = predict(model, clip[:context], len(clip) - context, seeds=[0, 1, 2] if model.knobs else [0])
            rows += [torch.cat([clip[:context], future]) for future in futures]
        return rows_of_frames(rows)

    return sheet


def context_of(videos: Videos) -> int:
    """Frames that are given where this world is a benchmark: 10 of Moving MNIST, 5 of those with chance."""
    return 10 if isinstance(videos, MovingMNIST) and videos.config.kind == "deterministic" else 5


def held_out_score(videos: Videos, clips: int = 64) -> Score | None:
    """MSE and SSIM of Moving MNIST on its first clips; none of worlds with chance, which one future cannot score."""
    context = context_of(videos)
    if context == 5 or videos.config.frames <= context:
        return None
    some = torch.cat([clip.video for clip in held_out(videos, clips)])

    def score(model: nn.Module) -> dict[str, float]:
        mean = moving_mnist(model, some, context, quiet=True)["mean"]
        return {f"held_out_{name}": mean[name] for name in ("mse", "ssim")}

    return score


def parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__.split(":")[0])
    parser.add_argument("--tokenizer", help="file or run folder of the frozen tokenizer; else the preset's is trained")
    parser.add_argument("--only", metavar="PART", nargs="+", help="train parts (dynamics, policy) and no others")
    return parser


def network(preset: Preset, source: str | None) -> nn.Module:
    """The preset's model, fresh, around the frozen tokenizer if its family has one."""
    if preset.model.actions and preset.family not in ("layered", "stt"):
        raise SystemExit(f"the family {preset.family} does not learn from actions here: give --set 'actions=()'")
    if getattr(preset.model, "tokenizer", None) is None:
        if source:
            raise SystemExit(f"{preset.summary}: it has no tokenizer, leave out --tokenizer")
        return build(preset.family, preset.model)
    frozen = load_any(source)
    model = build(preset.family, replace(preset.model, tokenizer=frozen.config))
    model.tokenizer.load_state_dict(frozen.state_dict())
    return model


def only(model: nn.Module, *names: str) -> None:
    """Leaves all weights but some parts' as they are; SystemExit if the model has no such part to train."""
    parts = {name: each for name, each in model.named_modules() if any(p.requires_grad for p in each.parameters())}
    for name in names:
        if name not in parts:
            known = [name for name in parts if "." not in name]
            raise SystemExit(f"--only {name}: the model's parts are {', '.join(filter(None, known))}")
    model.requires_grad_(False)
    for name in names:
        parts[name].requires_grad_(True)


def batches_of(videos: Videos, preset: Preset) -> Batches:
    """Batches of the run's seed. Models ignore what they do not learn from."""
    return lambda size, index: videos.batch(size, preset.loop.seed, index)


def tokenizer_first(args: argparse.Namespace, preset: Preset) -> None:
    """Trains the preset's tokenizer by its own schedule, or as many steps as are told, to a folder in the run's own."""
    out = args.out / "tokenizer"
    if args.resume and (out / cli.FILE).is_file():
        words = ["--resume"]
    else:
        names = ("mnist", "data", "strokes", "digits", "stride", "fit", "device", "steps")
        given = {name: getattr(args, name) for name in names}
        words = [f"--{name}={value}" for name, value in given.items() if value is not None]
        words = ["--preset", preset.tokenizer, *words, *(["--flip"] if args.flip else [])]
    tokenizer.main(["--out", str(out), *words])
    args.tokenizer = str(out)
    cli.keep(args)


def main(arguments: list[str] | None = None) -> None:
    args = cli.parsed(parser(), "train.predictor", arguments)
    preset = chosen(args)
    cli.keep(args)
    if preset.tokenizer and not args.tokenizer and preset.model.tokenizer is not None:
        tokenizer_first(args, preset)
    accelerator = accelerator_for(preset.loop.precision, args.device)
    set_seed(preset.loop.seed)
    model = network(preset, args.tokenizer)
    if args.start_from:
        start_from(model, load_any(args.start_from))
    if args.only:
        only(model, *args.only)
    train, test = (videos_of(preset, args, split, accelerator.device) for split in ("train", "test"))
    run = Trainer(model, preset.loop, args.out, accelerator, card_of(args, preset))
    if args.resume:
        run.resume()
        cli.keep(args, resumed=True)
    fit(run, batches_of(train, preset), future_sheet(test), held_out_score(test))


if __name__ == "__main__":
    as_process(main)
