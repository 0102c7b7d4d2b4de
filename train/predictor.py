"""Trains a predictor: python -m train.predictor --preset digits_stt --tokenizer runs/tok --mnist DIR --out runs/stt"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from stt.checkpoint import build, load_any
from stt.sampler import predict
from train.data import DigitVideos, World
from train.loop import Batches, Run, Score, accelerator_for, fit, rows_of_frames
from train.presets import Preset, arguments, card_of, chosen
from train.protocols import held_out, moving_mnist


def future_sheet(videos: DigitVideos, clips: int = 4):
    """Rows of truth, reconstruction by the tokenizer if there is one, and up to three futures, clip after clip."""
    shown = videos.batch(clips, seed=1, index=0)
    context = min(context_of(videos.world), videos.world.frames - 1)

    def sheet(model: nn.Module) -> np.ndarray:
        rows = []
        for clip in shown:
            rows.append(clip)
            if hasattr(model, "tokenizer"):
                whole = clip[None, len(clip) % getattr(model.tokenizer.config, "frames", 1) :]
                rows.append(model.tokenizer.decode(model.tokenizer.encode(whole).latents)[0])
            futures = predict(model, clip[:context], len(clip) - context, seeds=[0, 1, 2] if model.knobs else [0])
            rows += [torch.cat([clip[:context], future]) for future in futures]
        return rows_of_frames(rows)

    return sheet


def context_of(world: World) -> int:
    """Frames that are given where this world is a benchmark: 10 of Moving MNIST, 5 of the stochastic one."""
    return 10 if world.kind == "deterministic" else 5


def held_out_score(videos: DigitVideos, clips: int = 64) -> Score | None:
    """MSE and SSIM of Moving MNIST on its first clips; none of worlds with chance, which one future cannot score."""
    context = context_of(videos.world)
    if videos.world.kind == "stochastic" or videos.world.frames <= context:
        return None
    some = torch.cat([clip.video for clip in held_out(videos, clips)])

    def score(model: nn.Module) -> dict[str, float]:
        mean = moving_mnist(model, some, context, quiet=True)["mean"]
        return {f"held_out_{name}": mean[name] for name in ("mse", "ssim")}

    return score


def parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__.split(":")[0])
    parser.add_argument("--tokenizer", help="file or run folder of the frozen tokenizer, of families that have one")
    return parser


def start_from(model: nn.Module, source: nn.Module) -> list[str]:
    """Takes over the weights of a model that may lack parts; returns the names of what it lacks."""
    fresh, unknown = model.load_state_dict(source.state_dict(), strict=False)
    if unknown:
        raise SystemExit(f"the model to start from holds {unknown[0]!r}, which this preset lacks")
    return fresh


def network(preset: Preset, tokenizer: str | None) -> nn.Module:
    """The preset's model, fresh, around the frozen tokenizer if its family has one."""
    if not hasattr(preset.model, "tokenizer"):
        if tokenizer:
            raise SystemExit(f"the family {preset.family} has no tokenizer: leave out --tokenizer")
        return build(preset.family, preset.model)
    if not tokenizer:
        raise SystemExit(f"the family {preset.family} needs a --tokenizer")
    frozen = load_any(tokenizer)
    model = build(preset.family, replace(preset.model, tokenizer=frozen.config))
    model.tokenizer.load_state_dict(frozen.state_dict())
    return model


def batches_of(videos: DigitVideos, preset: Preset) -> Batches:
    """Clips, and what else the model learns: which digits they show, or other images of their frames."""
    classes, maps = getattr(preset.model, "classes", 0), getattr(preset.model, "maps", ())
    if set(maps) - {"digits"}:
        raise SystemExit(f"maps are {', '.join(maps)}, this world has digits alone")

    def batches(size: int, index: int) -> tuple[Tensor, ...]:
        clips = videos.sample(size, preset.loop.seed, index)
        if maps:
            return clips.video, videos.segmentation(clips)[:, None]
        return (clips.video, clips.labels.to(videos.device)) if classes else (clips.video,)

    return batches


def main() -> None:
    args = parser().parse_args()
    preset = chosen(args)
    accelerator = accelerator_for(preset.loop.precision, args.device)
    model = network(preset, args.tokenizer)
    if args.start_from:
        fresh = start_from(model, load_any(args.start_from))
        print("\n".join(f"{name} begins anew" for name in fresh))
    train = DigitVideos(preset.world, args.mnist, "train", accelerator.device)
    test = DigitVideos(preset.world, args.mnist, "test", accelerator.device)
    run = Run(model, preset.loop, args.out, accelerator, card_of("train.predictor", args, preset))
    if args.resume:
        run.resume()
    fit(run, batches_of(train, preset), future_sheet(test), held_out_score(test))


if __name__ == "__main__":
    main()
