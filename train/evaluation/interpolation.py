"""What models that see frames on both sides are measured by: gaps filled, and other images of a frame."""

from __future__ import annotations

import time
from collections import defaultdict

import torch
from torch import Tensor
from tqdm import tqdm

import stt
from stt.api import Predictor, Sampling
from stt.metrics import blended, unit
from stt.sampler import SeededNoise
from train.data.moving_mnist import MovingMNIST, MovingMNISTClip
from train.evaluation.digit_classifier import DigitClassifier
from train.evaluation.metrics import gradient_energy
from train.evaluation.optical_flow import flowed
from train.evaluation.protocols import Figures, all_named, compared, per_horizon

CLASSES = 11  # nothing, then the ten digits
SEEN = (0, 1, 3)  # how many frames ahead of the last one shown a segmentation is asked for


def interpolation(
    model: Predictor,
    clips: list[MovingMNISTClip],
    classifier: DigitClassifier | None,
    sampling: Sampling,
    count: int = 8,
    context: int = 4,
    frames: int = 6,
) -> Figures:
    """`frames` between `context` frames of each clip on both sides, `count` times over; per frame of the gap.

    Best and mean of the futures, and what a blend of the two ends and optical flow between them make of the gap.
    `digits` and `sharpness` are those of `against_truth`, the latter over the clip's own frames.
    """
    rows, seconds = defaultdict(list), 0.0
    for clip in tqdm(clips, desc="in between"):
        video = clip.video[0]
        before, truth, after = video[: context + frames + context].split([context, frames, context])
        truth, begun = unit(truth), time.perf_counter()
        filled = list(stt.between(model, before, after, frames, sampling, range(count)))
        seconds += time.perf_counter() - begun
        ends = unit(before[-1]), unit(after[0])
        made = {"model": unit(torch.stack(filled, dim=1))}
        made |= {name: way(*ends, frames)[None] for name, way in (("blend", blended), ("flow", flowed))}
        for name, futures in made.items():
            for figure, values in compared({name: futures}, truth).items():
                rows[figure].append(values)
            rows[f"sharpness {name}"].append(gradient_energy(futures).mean(dim=0) / gradient_energy(truth))
            if classifier is not None:
                rows[f"digits {name}"].append(all_named(classifier, 2 * futures - 1, clip.labels).mean(dim=0))
        if classifier is not None:
            rows["digits truth"].append(all_named(classifier, 2 * truth[None] - 1, clip.labels)[0])
    return per_horizon(rows) | {"seconds_per_frame": round(seconds / (len(clips) * count * frames), 4)}


@torch.inference_mode()
def segmentation(
    model: Predictor,
    videos: MovingMNIST,
    clips: list[MovingMNISTClip],
    sampling: Sampling,
    context: int = 4,
) -> Figures:
    """Which digit lies where, as the model draws it after `context` frames: of the last one shown, and of later ones.

    A pixel belongs to the digit whose gray level is nearest. `mean IoU` is the intersection over the union of every
    class, nothing among them, averaged over those that occur; `ink IoU` that of ink, whatever its class; `ink named`
    the share of the truth's pixels of ink that get its class. `codec` is the truth after the codec alone: the ceiling.
    """
    figures: Figures = {}
    for ahead in SEEN:
        tables = {name: torch.zeros(CLASSES, CLASSES) for name in ("model", "codec")}
        for index, clip in enumerate(tqdm(clips, desc=f"segmentation, {ahead} ahead")):
            at = context - 1 + ahead
            truth = videos.segmentation(clip)[0, at]
            offsets = torch.arange(context, device=truth.device) - at
            noise = SeededNoise([index], truth.device)
            drawn = model.frame(clip.video[:, :context], offsets, sampling, noise, map_name="digits")[0, 0]
            for name, image in (("model", drawn), ("codec", model.codec.decode(model.codec.encode(truth)))):
                pairs = CLASSES * _classes(truth) + _classes(image)
                tables[name] += torch.bincount(pairs.flatten().cpu(), minlength=CLASSES**2).view(CLASSES, CLASSES)
        title = f"{ahead} ahead" if ahead else "of the last frame shown"
        for name, table in tables.items():
            figures.setdefault(f"{title}, {name}", {}).update(_shares(table))
    return figures


def _classes(image: Tensor) -> Tensor:
    """Gray levels in [-1, 1] -> 0 for nothing, 1 + the digit."""
    return (10 * unit(image)).round().long()


def _shares(table: Tensor) -> dict[str, float]:
    """Pixels by true and found class (K, K) -> mean IoU, that of ink of any class, the share of ink named right."""
    union = table.sum(dim=0) + table.sum(dim=1) - table.diagonal()
    there = table.sum(dim=1) > 0
    iou = (table.diagonal() / union.clamp(min=1))[there].mean()
    named = table[1:, 1:].diagonal().sum() / table[1:].sum().clamp(min=1)
    found = table[1:, 1:].sum() / (table.sum() - table[0, 0]).clamp(min=1)
    return {name: round(float(v), 4) for name, v in (("mean IoU", iou), ("ink IoU", found), ("ink named", named))}
