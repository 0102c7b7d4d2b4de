"""Protocols of models that see frames on both sides: gaps to fill, and segmentations of single frames."""

from __future__ import annotations

import time
from collections import defaultdict

import torch
from torch import Tensor
from tqdm import tqdm

import stt
from stt.api import Predictor, Sampling, Video
from stt.metrics import blended, unit
from stt.sampler import SeededNoise
from train.data.moving_mnist import MovingMNIST, MovingMNISTClip
from train.evaluation.digit_classifier import DigitClassifier, classified_exactly
from train.evaluation.metrics import gradient_energy
from train.evaluation.optical_flow import interpolated
from train.evaluation.protocols import Figures, average, compare

CLASSES = 11  # background, then the ten digits
AHEAD = (0, 1, 3)  # frames from the last of the context to the segmented one


def interpolation(
    model: Predictor,
    clips: list[MovingMNISTClip],
    classifier: DigitClassifier | None,
    sampling: Sampling,
    count: int = 8,
    context: int = 4,
    frames: int = 6,
) -> Figures:
    """`frames` between `context` frames of each clip on both sides, `count` times; figures per frame of the gap.

    Best and mean of the predictions, beside a blend of the two ends (`blend`) and optical flow between them (`flow`).
    `digits`: whether the classifier, if any, reads just those of the clip. `sharpness`: gradient energy over that of
    the clip's own frames.
    """
    rows, seconds = defaultdict(list), 0.0
    for clip in tqdm(clips, desc="interpolation"):
        before, true, after = clip.video[0, : context + frames + context].split([context, frames, context])
        true, begun = unit(true), time.perf_counter()
        filled = list(stt.between(model, before, after, frames, sampling, range(count)))
        seconds += time.perf_counter() - begun
        ends = unit(before[-1]), unit(after[0])
        made = {"model": unit(torch.stack(filled, dim=1))}
        made |= {name: way(*ends, frames)[None] for name, way in (("blend", blended), ("flow", interpolated))}
        for name, values in compare(made, true).items():
            rows[name].append(values)
        for name, futures in made.items():
            rows[f"sharpness {name}"].append(gradient_energy(futures).mean(dim=0) / gradient_energy(true))
        if classifier is not None:
            for name, futures in (made | {"truth": true[None]}).items():
                exact = classified_exactly(classifier, 2 * futures - 1, clip.labels)
                rows[f"digits {name}"].append(exact.float().mean(dim=0))
    return average(rows) | {"seconds_per_frame": round(seconds / (len(clips) * count * frames), 4)}


@torch.inference_mode()
def segmentation(
    model: Predictor, videos: MovingMNIST, clips: list[MovingMNISTClip], sampling: Sampling, context: int = 4
) -> Figures:
    """The segmentation that the model predicts after `context` frames, of the last of these and of later ones.

    A pixel belongs to the class whose gray level is nearest. `mean IoU`: intersection over union of every class that
    occurs, the background among them. `ink IoU`: that of all digits together. `ink accuracy`: share of the true
    digits' pixels of the right class. `codec`: the true segmentation after the model's codec
    alone, given the frame itself: the ceiling.
    """
    figures: Figures = {}
    for ahead in AHEAD:
        confusion = {name: torch.zeros(CLASSES, CLASSES) for name in ("model", "codec")}
        for index, clip in enumerate(tqdm(clips, desc=f"segmentation, {ahead} ahead")):
            at = context - 1 + ahead
            true = videos.segmentation(clip)[0, at]
            offsets = torch.arange(context, device=true.device) - at
            noise = SeededNoise([index], true.device)
            predicted = model.frame(clip.video[:, :context], offsets, sampling, noise, map_name="digits")[0, 0]
            coded = model.coded_map(clip.video[:, : at + 1], true[None])[0]
            for name, image in (("model", predicted), ("codec", coded)):
                pairs = CLASSES * _classes(true) + _classes(image)
                counts = torch.bincount(pairs.flatten().cpu(), minlength=CLASSES**2)
                confusion[name] += counts.view(CLASSES, CLASSES)
        title = f"{ahead} ahead" if ahead else "of the last frame shown"
        for name, matrix in confusion.items():
            figures[f"{title}, {name}"] = _segmentation_scores(matrix)
    return figures


def _classes(image: Video) -> Tensor:
    """Gray levels in [-1, 1] -> 0 for the background, 1 + the digit."""
    return (10 * unit(image)).round().long()


def _segmentation_scores(confusion: Tensor) -> dict[str, float]:
    """Pixels by true and predicted class (K, K) -> scores."""
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - confusion.diagonal()
    occurs = confusion.sum(dim=1) > 0
    mean_iou = (confusion.diagonal() / union.clamp(min=1))[occurs].mean()
    accuracy = confusion[1:, 1:].diagonal().sum() / confusion[1:].sum().clamp(min=1)
    ink_iou = confusion[1:, 1:].sum() / (confusion.sum() - confusion[0, 0]).clamp(min=1)
    scores = {"mean IoU": mean_iou, "ink IoU": ink_iou, "ink accuracy": accuracy}
    return {name: round(float(value), 4) for name, value in scores.items()}
