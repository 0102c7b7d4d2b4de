"""Trains the digit classifier: python -m train.digit_classifier --mnist DIR --minutes 60 --out FILE"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from stt.metrics import unit
from train.data.bouncing import deterministic_moves, deterministic_start, render, stochastic_start
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluation.digit_classifier import (
    MOST,
    SIZE,
    DigitClassifier,
    counts,
    digit_sets,
    load_digit_classifier,
    pool,
)
from train.optim import MuonAdamW
from train.seeding import generator_for

LARGE = 2**16  # weights of a tensor
KINDS = ("stochastic", "deterministic")
WORLDS = tuple(MovingMNISTConfig(kind=kind, digits=n, frames=1, strokes=0.0) for n in (1, 2) for kind in KINDS)


def narrowed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """In half precision, the largest in 8 bits (E4M3), as which they name digits no worse: a scorer travels light."""
    kinds = {name: torch.float8_e4m3fn if t.numel() >= LARGE else torch.float16 for name, t in weights.items()}
    return {name: t.to(kinds[name]).cpu().contiguous() for name, t in weights.items()}


@torch.inference_mode()
def exact_rates(classifier: DigitClassifier, mnist: Path | None, frames: int = 4000) -> dict[str, float]:
    """Share of frames of MNIST's test digits whose digits are all named right, per world."""
    rates, device = {}, next(classifier.parameters()).device
    for world in WORLDS:
        clip = MovingMNIST(world, mnist, "test").sample(frames, seed=0, index=0)
        named = classifier.digits(unit(clip.video[:, 0]).to(device)).cpu()
        rates[f"{world.kind}, {world.digits}"] = float((named == counts(clip.labels)).all(dim=-1).float().mean())
    return rates


# ---- training ----------------------------------------------------------------------------------------


class LabelledFrames(NamedTuple):
    frames: Tensor  # (B, 1, 64, 64) on [0, 1]
    labels: Tensor  # (B, 2) int64
    shown: Tensor  # (B, 2) bool, whether that digit is there
    centres: Tensor  # (B, 2, 2) pixels as (y, x)


def labelled_frames(videos: MovingMNIST, batch: int, seed: int, index: int) -> LabelledFrames:
    """Frames to learn from: two digits, at times one or none, warped a little; half of the pairs lie close together."""
    world, generator = videos.world, generator_for("classifier", videos.split, seed, index)
    ids = videos.bank.choose(batch, MOST, generator)
    chance = torch.rand(batch, generator=generator)
    shown = torch.stack([chance > 0.02, chance > 0.32], dim=1)  # (B, 2): 2 % of none, 30 % of one
    glyphs = warped(videos.bank.pictures(ids), generator) * shown[..., None, None].to(videos.device)
    places = first_places(world, batch, generator)
    near = places[:, :1] + (8 * torch.randn(batch, 1, 2, generator=generator)).round().long()
    near = near.clamp(0, SIZE - world.digit_size - 1)
    close = torch.rand(batch, generator=generator) < 0.5
    places[:, 1] = torch.where(close[:, None], near[:, 0], places[:, 1])
    frames = unit(render(glyphs, places[:, None].to(videos.device), SIZE, world.overlap)[:, 0])
    centres = places.float() + world.digit_size / 2
    return LabelledFrames(frames, videos.bank.labels[ids], shown, centres)


def first_places(world: MovingMNISTConfig, batch: int, generator: Generator) -> Tensor:
    """Upper left corners of two digits as a world's clips begin, (B, 2, 2) int64."""
    if world.kind == "stochastic":
        start = stochastic_start(batch, MOST, generator, size=SIZE, digit=world.digit_size)
        return start.position.clamp(0, SIZE - world.digit_size - 1)
    return deterministic_moves(deterministic_start(batch, MOST, generator), 1, SIZE, world.digit_size).positions[:, 0]


def warped(glyphs: Tensor, generator: Generator) -> Tensor:
    """Glyphs (B, D, h, w), each turned, scaled, sheared and shifted a little at random."""
    flat = glyphs.flatten(0, 1)[:, None]  # (B * D, 1, h, w)
    noise = torch.randn(len(flat), 2, 3, generator=generator).clamp(-2, 2)
    affine = torch.eye(2, 3) + noise * torch.tensor([0.07, 0.07, 0.03])
    grid = F.affine_grid(affine.to(flat.device), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, align_corners=False)[:, 0].unflatten(0, glyphs.shape[:2])


def set_ids(data: LabelledFrames) -> Tensor:
    """Which row of `digit_sets` each frame shows, (B,)."""
    found = (F.one_hot(data.labels, 10) * data.shown[..., None]).sum(dim=1)  # (B, 10)
    return (found[:, None] == digit_sets()).all(dim=-1).float().argmax(dim=-1)


def centre_map(data: LabelledFrames, side: int = 8, reach: float = 7.0) -> Tensor:
    """Which digits have their centre within `reach` pixels of a cell's, (B, 10, side, side) of 0 and 1."""
    cells = (torch.arange(side) + 0.5) * SIZE / side
    offset = (data.centres[..., None] - cells).abs() < reach  # (B, D, 2, side)
    near = offset[:, :, 0, :, None] & offset[:, :, 1, None, :] & data.shown[..., None, None]  # (B, D, side, side)
    kinds = F.one_hot(data.labels, 10).float()  # (B, D, 10)
    return torch.einsum("b d k, b d h w -> b k h w", kinds, near.float()).clamp(max=1)


def classifier_loss(classifier: DigitClassifier, locate: nn.Conv2d, data: LabelledFrames) -> Tensor:
    """Cross-entropy of the digit set, and of which digit's centre lies where: the second teaches to tell apart."""
    device = data.frames.device
    with torch.autocast(device.type, torch.bfloat16):
        features = classifier.feature_map(data.frames)
        embedded, located = pool(features), locate(features)
    named = F.nll_loss(classifier.set_scores(embedded.float()), set_ids(data).to(device))
    where = F.binary_cross_entropy_with_logits(located.float(), centre_map(data).to(device), reduction="sum")
    return named + 0.1 * where / len(data.frames)


def optimizer_of(classifier: DigitClassifier, locate: nn.Conv2d, lr: float) -> MuonAdamW:
    """Muon for the kernels and matrices between hidden layers, AdamW for the rest."""
    weights = [*classifier.parameters(), *locate.parameters()]
    outer = {id(p) for module in (classifier.features[0], classifier.head[-1], locate) for p in module.parameters()}
    hidden = [p for p in weights if p.ndim >= 2 and id(p) not in outer]
    rest = [p for p in weights if p.ndim < 2 or id(p) in outer]
    groups = [{"params": hidden, "muon": True, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return MuonAdamW(groups, lr=lr, betas=(0.9, 0.98))


def train(
    classifier: DigitClassifier,
    mnist: Path | None,
    minutes: float,
    batch: int,
    lr: float,
    device: str,
    report: Callable[[int, float, float], None],
    seed: int = 0,
    every: float = 5.0,  # minutes from one report to the next
) -> int:
    """Trains on frames of both KINDS in turn; returns how many it saw. Reports frames, minutes and mean loss."""
    sources = [
        MovingMNIST(MovingMNISTConfig(kind=kind, frames=1, strokes=0.25), mnist, "train", device) for kind in KINDS
    ]
    locate = nn.Conv2d(128, 10, 1).to(device)
    optimizer = optimizer_of(classifier, locate, lr)
    begun, step, reports, mean = time.monotonic(), 0, 1, torch.zeros((), device=device)
    while (elapsed := (time.monotonic() - begun) / 60) < minutes:
        progress = elapsed / minutes
        for group in optimizer.param_groups:
            group["lr"] = lr * min(progress / 0.02 + 1e-2, 1.0, (1 - progress) / 0.7)
        loss = classifier_loss(classifier, locate, labelled_frames(sources[step % len(sources)], batch, seed, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        mean.lerp_(loss.detach(), max(1 / step, 0.01))
        if elapsed >= every * reports:
            report(step * batch, elapsed, float(mean))
            reports += 1
    return step * batch


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--mnist", type=Path, help="folder of the MNIST .gz files; downloaded when not given")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0, help="of the frames; another one to go on with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--start-from", type=Path, metavar="FILE", help="weights to go on from, not from random ones")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def save_classifier(classifier: DigitClassifier, out: Path, rates: dict[str, float]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    metadata = {f"exact on {name}": f"{rate:.4f}" for name, rate in rates.items()}
    save_file(narrowed(classifier.state_dict()), out, metadata=metadata)


def main() -> None:
    args = parser().parse_args()
    torch.manual_seed(args.seed)
    classifier = (
        load_digit_classifier(args.start_from, args.device) if args.start_from else DigitClassifier().to(args.device)
    )

    def report(frames: int, minutes: float, loss: float) -> None:
        rates = exact_rates(classifier, args.mnist, frames=500)
        shown = {name: round(rate, 3) for name, rate in rates.items()}
        print(f"{minutes:6.1f} minutes, {frames} frames, loss {loss:.4f}, exact on held-out frames {shown}", flush=True)
        save_classifier(classifier, args.out, rates)

    seen = train(classifier, args.mnist, args.minutes, args.batch, args.lr, args.device, report, args.seed)
    save_classifier(classifier, args.out, {})
    rates = exact_rates(load_digit_classifier(args.out, args.device), args.mnist)  # of the weights as stored
    print({name: round(rate, 4) for name, rate in rates.items()}, f"after {seen} frames")
    save_classifier(classifier, args.out, rates)


if __name__ == "__main__":
    main()
