"""What models that see frames on both sides are measured by: gaps filled, and other images of a frame."""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import stt
from stt.api import Predictor, Sampling, Video
from stt.measures import blended, unit
from stt.sampler import SeededNoise
from train.data import DigitClip, DigitVideos
from train.judge import Judge
from train.metrics import gradient_energy
from train.protocols import Figures, all_named, per_horizon, score_futures

CLASSES = 11  # nothing, then the ten digits
SEEN = (0, 1, 3)  # how many frames ahead of the last one shown a segmentation is asked for


def flowed(first: Tensor, last: Tensor, frames: int) -> Video:
    """Two frames (C, H, W) on [0, 1] -> the frames between them, moved along optical flow and then blended.

    Flow goes both ways by OpenCV's Farneback (2003), with its customary settings; each end is warped backward to the
    time asked for, as if the flow there were that at its own pixels.
    """
    import cv2  # imported here, for nothing else in train/ needs it

    gray = [np.ascontiguousarray((255 * end.mean(dim=0)).byte().cpu().numpy()) for end in (first, last)]
    ahead, back = (
        torch.from_numpy(cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)).to(first.device)
        for a, b in (gray, gray[::-1])
    )  # (H, W, 2) pixels (x, y)
    share = torch.arange(1, frames + 1, device=first.device)[:, None, None, None] / (frames + 1)
    return (1 - share) * _warped(first, -share * ahead) + share * _warped(last, -(1 - share) * back)


def _warped(frame: Tensor, flow: Tensor) -> Video:
    """A frame (C, H, W) looked up where flows (N, H, W, 2) point to, from every pixel, in pixels (x, y)."""
    count, height, width, _ = flow.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([x, y], dim=-1).to(flow) + flow
    at = (2 * at + 1) / torch.tensor([width, height]).to(flow) - 1
    return F.grid_sample(frame.expand(count, -1, -1, -1), at, padding_mode="border", align_corners=False)


def interpolation(
    model: Predictor,
    clips: list[DigitClip],
    judge: Judge | None,
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
            for figure, values in score_futures(futures, truth).items():
                metric, which = figure.split()
                if name == "model" or which == "best":  # of one future both are the same
                    rows[figure if name == "model" else f"{metric} {name}"].append(values)
            rows[f"sharpness {name}"].append(gradient_energy(futures).mean(dim=0) / gradient_energy(truth))
            if judge is not None:
                rows[f"digits {name}"].append(all_named(judge, 2 * futures - 1, clip.labels).mean(dim=0))
        if judge is not None:
            rows["digits truth"].append(all_named(judge, 2 * truth[None] - 1, clip.labels)[0])
    return per_horizon(rows) | {"seconds_per_frame": round(seconds / (len(clips) * count * frames), 4)}


@torch.inference_mode()
def segmentation(
    model: Predictor,
    videos: DigitVideos,
    clips: list[DigitClip],
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
            drawn = model.frame(clip.video[:, :context], offsets, sampling, noise, ask="digits")[0, 0]
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
