"""The yardstick: what is measured on which held-out clips. Every protocol takes a predictor and returns JSON."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Condition, HasLikelihood, Predictor, Sampling, Video
from stt.metrics import FRAME_METRICS, HIGHER_IS_BETTER, frame_psnr, frame_ssim, unit
from stt.models.stt import STT
from stt.sampler import SeededNoise, fit_context, predict
from train.data.bouncing import TOP_SPEED, Trajectory, transition_nats
from train.data.moving_mnist import MovingMNIST, MovingMNISTClip
from train.evaluation.digit_classifier import DigitClassifier, counts
from train.evaluation.metrics import (
    classifier_score,
    clip_features,
    digit_shares,
    frechet_distance,
    gradient_energy,
    perplexity,
    scaled,
    spread,
)
from train.seeding import generator_for

SEED = 2024  # of the held-out clips; futures use seeds 0 ... N-1
CONTEXT, HORIZON = 5, 20  # frames of a prompt and ahead, of worlds in colour
TEMPERATURES = (0.0, 0.5, 1.0, 1.5)

Figures = dict[str, Any]


def held_out(videos: MovingMNIST, count: int) -> list[MovingMNISTClip]:
    """The first `count` held-out clips; fewer are the beginning of more."""
    return [videos.sample(1, SEED, index) for index in range(count)]


def official_clips(path: Path, count: int) -> Video:
    """Clips of `mnist_test_seq.npy`, (20, 10000, 64, 64) bytes -> (count, 20, 1, 64, 64) in [-1, 1]."""
    stored = np.load(path, mmap_mode="r")
    if stored.ndim != 4 or stored.dtype != np.uint8 or stored.shape[0] != 20 or stored.shape[2:] != (64, 64):
        raise ValueError(f"{path.name} holds {stored.dtype} {stored.shape}, the official file uint8 (20, N, 64, 64)")
    chosen = torch.from_numpy(stored[:, :count].copy()).float()  # (20, count, 64, 64)
    return (chosen / 127.5 - 1).transpose(0, 1)[:, :, None]


def per_horizon(rows: dict[str, list[Tensor]]) -> Figures:
    """Lists of (T,) -> their mean at every time, and the mean over all times."""
    averages = {name: torch.stack(values).double().mean(dim=0) for name, values in rows.items()}
    return {
        "per_horizon": {name: rounded(values) for name, values in averages.items()},
        "mean": {name: round(float(values.mean()), 4) for name, values in averages.items()},
    }


def rounded(values: Tensor) -> list[float | None]:
    """JSON numbers; what is not a number becomes null."""
    return [round(float(v), 4) if v == v else None for v in values]


@torch.inference_mode()
def continued(model: Predictor, prompts: Video, frames: int, sampling: Sampling, seeds: Sequence[int]) -> Video:
    """One future of each prompt (B, T, C, H, W), of one seed each -> (B, frames, C, H, W) in [-1, 1]."""
    noise, drawn = SeededNoise(seeds, prompts.device), []
    state = model.start(fit_context(model, prompts))
    while len(drawn) < frames:
        chunk, state = model.step(state, sampling, noise)
        drawn += chunk.unbind(dim=1)
    return torch.stack(drawn[:frames], dim=1).clamp(-1, 1)


# ---- Moving MNIST ------------------------------------------------------------------------------------


@torch.inference_mode()
def moving_mnist(model: Predictor, clips: Video, context: int = 10, batch: int = 20, quiet: bool = False) -> Figures:
    """One deterministic future (temperature 0) of each clip (N, T, ...): MSE, PSNR, SSIM per frame, and a copy's."""
    rows = defaultdict(list)
    for part in tqdm(clips.split(batch), desc="Moving MNIST", disable=quiet):
        prompt, truth = part[:, :context], unit(part[:, context:])
        predicted = unit(continued(model, prompt, truth.shape[1], Sampling(temperature=0.0), range(len(part))))
        copied = unit(prompt[:, -1:]).expand_as(truth)
        for name, metric in FRAME_METRICS.items():
            rows[name] += metric(predicted, truth).unbind()
            rows[f"{name} copy"] += metric(copied, truth).unbind()
    return per_horizon(rows)


# ---- best and mean of N ------------------------------------------------------------------------------


def score_futures(futures: Video, truth: Video) -> dict[str, Tensor]:
    """Futures (N, T, C, H, W) and truth (T, C, H, W) on [0, 1] -> best and mean of N per frame, (T,) each.

    The best future is the one whose mean over the horizon is best, by each metric on its own.
    """
    scores = {}
    for name, metric in FRAME_METRICS.items():
        values = metric(futures, truth.expand_as(futures))  # (N, T)
        means = values.mean(dim=1)
        best = means.argmax() if HIGHER_IS_BETTER[name] else means.argmin()
        scores[f"{name} best"], scores[f"{name} mean"] = values[best], values.mean(dim=0)
    return scores


def compared(made: Mapping[str, Video], truth: Video) -> dict[str, Tensor]:
    """Futures (N, T, C, H, W) by name and truth (T, C, H, W) on [0, 1] -> figures per frame, (T,) each.

    Best and mean of the futures that are named `model`, the best of others, which are one.
    """
    scores = {}
    for name, futures in made.items():
        for figure, values in score_futures(futures, truth).items():
            metric, which = figure.split()
            if name == "model" or which == "best":  # of one future both are the same
                scores[figure if name == "model" else f"{metric} {name}"] = values
    return scores


def best_of(model: Predictor, clips: list[Video], sampling: Sampling, count: int, context: int = 5) -> Figures:
    """Best and mean of `count` futures per horizon of clips (T, C, H, W), and copying the last frame."""
    rows, seconds = defaultdict(list), 0.0
    for clip in tqdm(clips, desc="best of N"):
        prompt, truth = clip[:context], unit(clip[context:])
        begun = time.perf_counter()
        futures = unit(predict(model, prompt, len(truth), sampling, range(count)))
        seconds += time.perf_counter() - begun
        copied = unit(prompt[-1:]).expand(1, *truth.shape)
        for name, values in compared({"model": futures, "copy": copied}, truth).items():
            rows[name].append(values)
    frames = len(clips) * count * (clips[0].shape[0] - context)
    return per_horizon(rows) | {"seconds_per_frame": round(seconds / frames, 4)}


def spreads(model: Predictor, clips: list[Video], context: int = 5, count: int = 8) -> Figures:
    """Spread between `count` futures at every temperature, averaged over clips and horizon."""
    found = defaultdict(list)
    for clip in tqdm(clips, desc="spread"):
        for t in TEMPERATURES:
            futures = predict(model, clip[:context], len(clip) - context, Sampling(temperature=t), range(count))
            found[str(t)].append(spread(unit(futures)).mean())
    return {t: round(float(torch.stack(values).mean()), 4) for t, values in found.items()}


# ---- sets of clips -----------------------------------------------------------------------------------


@torch.inference_mode()
def frechet(
    model: Predictor,
    clips: Video,
    others: Video,
    classifier: DigitClassifier,
    sampling: Sampling,
    fvd: Callable[[Video, Video], float] | None = None,
    context: int = 5,
    batch: int = 20,
) -> Figures:
    """Predicted continuations of clips (N, T, C, H, W) as a set, held against those of other true clips (M, T, ...).

    Clip k is continued with seed k; only frames after the prompts count. `truth` is the prompts' own true
    continuations against the same others: the floor, which a perfect model reaches. Nothing is compared with the
    future of its own prompt, since sets that share their digits would come nearer than two sets of true clips do.
    The distance is that of train/metrics.py on the classifier's features, and no FVD; `fvd` measures one where there is a
    library for it. The classifier score is over the clips' frames at each horizon.
    """
    horizon, parts = clips.shape[1] - context, range(0, len(clips), batch)
    drawn = [
        continued(model, clips[k : k + batch, :context], horizon, sampling, range(k, min(k + batch, len(clips))))
        for k in tqdm(parts, desc="frechet")
    ]
    sets = {
        "model": unit(torch.cat(drawn)),
        "truth": unit(clips[:, context:]),
        "copy": unit(clips[:, context - 1 : context]).expand(-1, horizon, -1, -1, -1),
    }
    real = unit(others[:, context:])
    reference = clip_features(embedded(classifier, real))
    rows, distances = {}, {}
    for name, frames in sets.items():
        seen = embedded(classifier, frames)
        rows[f"classifier score {name}"] = rounded(classifier_score(digit_shares(classifier.named(seen))))
        distance = frechet_distance(*(scaled(part, reference) for part in (clip_features(seen), reference)))
        distances[name] = round(float(distance), 4)
    figures = {"per_horizon": rows, "frechet distance (classifier features)": distances}
    return figures | ({"fvd": {name: round(fvd(real, frames), 2) for name, frames in sets.items()}} if fvd else {})


def embedded(classifier: DigitClassifier, clips: Video) -> Tensor:
    """Clips (N, T, 1, 64, 64) on [0, 1] -> the classifier's features of every frame (N, T, D)."""
    flat = clips.flatten(0, 1)
    return torch.cat([classifier.embed(part) for part in flat.split(512)]).unflatten(0, clips.shape[:2])


# ---- classes -----------------------------------------------------------------------------------------


def asked_labels(classes: int, labels: int, most: int) -> list[tuple[int, ...]]:
    """Every class by itself, or, of models with several labels, `most` random draws of so many classes each.

    Drawn as the worlds draw them: a digit may be there twice.
    """
    if labels == 1:
        return [(k,) for k in range(classes)]
    return [tuple(row) for row in torch.randint(classes, (most, labels), generator=generator_for("asked")).tolist()]


@torch.inference_mode()
def asked_classes(
    model: Predictor,
    real: list[MovingMNISTClip],
    classifier: DigitClassifier,
    sampling: Sampling,
    count: int = 16,
    most: int = 40,
    horizon: int = 10,
) -> Figures:
    """Share of frames in which the classifier names the digits asked for, of clips imagined from nothing by their labels.

    `count` clips of each of `asked_labels`, every one with a seed of its own. `truth` is the classifier's own rate on
    the frames of real clips: the ceiling. Raises ValueError for a model whose classes are not the ten digits.
    """
    c = model.config
    if "labels" not in model.knobs or c.classes != 10:
        raise ValueError(f"the model knows {getattr(c, 'classes', 0)} classes, the classifier names 10 digits")
    black = torch.full((1, c.channels, c.image_size, c.image_size), -1.0)  # any prompt would do, none is seen
    rows = defaultdict(list)
    for k, labels in enumerate(tqdm(asked_labels(c.classes, c.labels, most), desc="classes")):
        seeds = range(k * count, (k + 1) * count)
        futures = predict(model, black, horizon, sampling, seeds, Condition(labels=labels))
        rows["asked digits model"] += all_named(classifier, futures, torch.tensor([labels])).unbind()
    for clip in real:
        rows["asked digits truth"] += all_named(classifier, clip.video[:, :horizon], clip.labels).unbind()
    return per_horizon(rows)


def all_named(classifier: DigitClassifier, video: Video, labels: Tensor) -> Tensor:
    """Whether the classifier names just these digits, (B or 1, D), in each frame of (B, T, C, H, W) -> (B, T)."""
    found = classifier.digits(unit(video))  # (B, T, 10)
    return (found == counts(labels)[:, None].to(found.device)).all(dim=-1).float()


# ---- actions -----------------------------------------------------------------------------------------


def steered(actions: Tensor) -> Condition:
    """Actions (T, A) as a condition."""
    return Condition(actions=tuple(tuple(row) for row in actions.tolist()))


def told_or_free(
    model: Predictor, prompt: Video, actions: Tensor, sampling: Sampling, seeds: Sequence[int]
) -> dict[str, Video]:
    """Futures (N, T, C, H, W) of a prompt (T', C, H, W), `told` actions (T, A) and `free`; `copy` of its last frame.

    Raises ValueError for a model that takes no actions.
    """
    if "actions" not in model.knobs:
        raise ValueError(f"the model of family {model.family} takes no actions")
    frames, ways = len(actions), {"told": steered(actions), "free": Condition()}
    futures = {name: predict(model, prompt, frames, sampling, seeds, way) for name, way in ways.items()}
    return futures | {"copy": prompt[-1:].expand(1, frames, -1, -1, -1)}


def nearness(futures: Mapping[str, Video], true: Video) -> dict[str, Tensor]:
    """PSNR and SSIM of futures (N, T, C, H, W) by name with the true one (T, C, H, W), mean over them: (T,) each."""
    return {
        f"{metric} {name}": values(unit(frames), unit(true).expand_as(frames)).mean(dim=0)
        for name, frames in futures.items()
        for metric, values in {"psnr": frame_psnr, "ssim": frame_ssim}.items()
    }


# ---- motion ----------------------------------------------------------------------------------------


def motion(models: Mapping[str, STT], clips: Sequence[MovingMNISTClip], batch: int = 16) -> Figures:
    """Nats of where layers go next, per layer and frame, from the third frame on: by models of layers, by name.

    At `turns`, where a displacement differs from the one before, and where it does not (`on`). `ignorance`: of all
    displacements of the world's speeds alike. `world`: for who knows the world's state, the floor.
    """
    rows, video = {}, torch.cat([clip.video for clip in clips])
    for name, model in models.items():
        parts = [model.motion_nats(part) for part in video.split(batch)]
        nats, turned = (torch.cat(part) for part in zip(*parts, strict=True))
        rows[name] = {"all": nats.mean(), "turns": nats[turned].mean(), "on": nats[~turned].mean()}
    moves = [Trajectory(clip.positions, clip.states) for clip in clips]
    floor = torch.cat([transition_nats(m) for m in moves])[:, 1:]
    steps = torch.cat([m.positions for m in moves]).diff(dim=1)
    turned = (steps[:, 1:] != steps[:, :-1]).any(dim=-1)
    rows["world"] = {"all": floor.mean(), "turns": floor[turned].mean(), "on": floor[~turned].mean()}
    rows["ignorance"] = dict.fromkeys(("all", "turns", "on"), math.log((2 * TOP_SPEED + 1) ** 2))
    figures = {name: {at: round(float(value), 3) for at, value in row.items()} for name, row in rows.items()}
    return {"nats a layer and frame": figures, "share of turns": round(float(turned.float().mean()), 3)}


# ---- surprise ----------------------------------------------------------------------------------------


def surprise(model: Predictor, clips: Video, batch: int = 8) -> Figures:
    """How surprised a model is by clips of its own world (N, T >= 3, C, H, W): bits per pixel and channel.

    From the third frame on, where motion has shown. `clip_...` are over the clips' means, `frame_p99` over all frames.
    Empty for a model without a likelihood.
    """
    if not isinstance(model, HasLikelihood):
        return {}
    found = [model.surprise(part).bits[:, 1:].cpu() for part in tqdm(clips.split(batch), desc="surprise")]
    bits = torch.cat(found)  # (N, T-2)
    means = bits.mean(dim=1)
    figures = {"bits_per_dim": means.mean(), "clip_median": means.median(), "clip_p99": means.quantile(0.99)}
    figures |= {"clip_max": means.max(), "frame_p99": bits.quantile(0.99)}
    return {name: round(float(value), 4) for name, value in figures.items()}


# ---- tokenizer ---------------------------------------------------------------------------------------


@torch.inference_mode()
def reconstruction(tokenizer: Any, clips: Video) -> Figures:
    """Reconstruction and code use of clips (N, T, C, H, W); several code groups are averaged.

    Frames at the end that fill no slice of a tokenizer's codes are left out.
    """
    clips = clips[:, : clips.shape[1] - clips.shape[1] % getattr(tokenizer.config, "frames", 1)]
    codes = tokenizer.encode(clips)
    decoded, true = unit(tokenizer.reconstructed(clips)), unit(clips)
    again = unit(tokenizer.reconstructed(decoded * 2 - 1))
    sizes = tokenizer.quantizer.sizes
    groups = [perplexity(codes.ids[..., g], size) for g, size in enumerate(sizes)]
    figures = {name: float(metric(decoded, true).mean()) for name, metric in FRAME_METRICS.items()}
    figures |= {"psnr of the second pass": float(frame_psnr(again, true).mean())}
    figures |= {"sharpness": float(gradient_energy(decoded).mean() / gradient_energy(true).mean())}
    figures |= {"codes in use": sum(use for use, _ in groups) / len(groups)}
    figures |= {"perplexity of a group": sum(p for _, p in groups) / len(groups), "codes of a group": sizes[0]}
    return {name: round(float(value), 4) for name, value in figures.items()}
