"""A predictor's loss with a perceptual distance, ST-LPIPS, which keeps frames sharp."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import nn

from stt.api import Batch, Loss, Model, Predictor
from train.evaluation.st_lpips import STLPIPS
from train.flags import number

FRAMES = 2  # of the predicted ones of a step that are compared


def add_perceptual_flags(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    group.add_argument("--perceptual-weight", type=number, default=0.0, help="weight of the ST-LPIPS distance; 0: none")
    group.add_argument(
        "--st-lpips", type=Path, metavar="WEIGHTS", help="its weights; default: those of the package stlpips-pytorch"
    )


def perceptual_distance(args: argparse.Namespace) -> STLPIPS | None:
    """ST-LPIPS where it has a weight. SystemExit where its weights are missing or of another network."""
    try:
        return STLPIPS(args.st_lpips) if args.perceptual_weight else None
    except (FileNotFoundError, RuntimeError) as error:
        raise SystemExit(f"--perceptual-weight: {error}") from error


class PerceptualPredictor(Model):
    """A predictor whose loss also holds `weight` times the distance of two of its frames from the true ones.

    distance: distances (N,) of frames (N, C, H, W) in [-1, 1].
    """

    def __init__(self, predictor: Predictor, distance: nn.Module, weight: float) -> None:
        super().__init__()
        self.config = predictor.config
        self.predictor, self.distance, self.weight = predictor, distance, weight
        self.begin_step(0)

    def begin_step(self, step: int) -> None:
        self.predictor.begin_step(step)
        self.places = [random.Random(f"{step} {k}").random() for k in range(FRAMES)]

    def loss(self, batch: Batch) -> Loss:
        """Raises ValueError for a predictor that does not return its frames."""
        total, parts, frames = self.predictor.loss(batch)
        if frames is None:
            raise ValueError(f"a perceptual distance needs predicted frames; a {self.predictor.family} returns none")
        times = [int(place * frames.predicted.shape[1]) for place in self.places]
        predicted, true = (video[:, times].flatten(0, 1).float() for video in frames)
        with torch.autocast(predicted.device.type, enabled=False):  # differences of nearly equal features
            distance = self.distance(predicted, true).mean()
        return Loss(total + self.weight * distance, parts | {"perceptual": distance.detach()})
