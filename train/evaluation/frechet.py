"""Predicted clips as a set beside true ones: Frechet distances and the classifier score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from stt.api import Predictor, Sampling, Video
from stt.metrics import unit
from train.evaluation.digit_classifier import DigitClassifier
from train.evaluation.metrics import class_posterior, classifier_score, clip_distance, clip_statistics
from train.evaluation.protocols import CONTEXT, Evaluation, Figures, predict_batch, rounded


@torch.inference_mode()
def frechet(
    model: Predictor,
    clips: Video,
    others: Video,
    classifier: DigitClassifier,
    sampling: Sampling,
    fvd: Callable[[Video, Video], float] | None = None,
    context: int = CONTEXT,
    batch: int = 20,
) -> Figures:
    """Predicted continuations of clips (N, T, C, H, W) as a set, against those of other true clips (M, T, ...).

    Clip k is continued with seed k; only frames after the prompts count. `truth` is the prompts' own true
    continuations against the same others: the floor, which a perfect model reaches. No prediction is compared with its
    own clip's future, since sets that share their digits come nearer than two sets of true clips do. The distance is
    `frechet_distance` on the classifier's features, not FVD; `fvd` measures that. The classifier score is over the
    clips' frames at each horizon.
    """
    sets = continuations(model, clips, sampling, context, batch)
    real = unit(others[:, context:])
    reference = clip_statistics(embed_clips(classifier, real))
    rows, distances = {}, {}
    for name, frames in sets.items():
        embedding = embed_clips(classifier, frames)
        posterior = class_posterior(classifier.count_log_probs(embedding))
        rows[f"classifier score {name}"] = rounded(classifier_score(posterior))
        distances[name] = clip_distance(clip_statistics(embedding), reference)
    figures = {"per_horizon": rows, "frechet distance (classifier features)": distances}
    return figures | ({"fvd": {name: round(fvd(real, frames), 2) for name, frames in sets.items()}} if fvd else {})


@torch.inference_mode()
def st_lpips_frechet(evaluation: Evaluation) -> Figures:
    """Predicted continuations of one half of the held-out clips as a set, against the true ones of the other half.

    `truth` is the first half's own: real against real, the floor.
    """
    context, horizon, net = CONTEXT, evaluation.horizon, evaluation.st_lpips
    clips, others = evaluation.clips(evaluation.args.clips, context + horizon).tensor_split(2)
    sets = continuations(evaluation.model, clips, evaluation.sampling)
    reference = net.clip_statistics(unit(others[:, context:]))
    distances = {name: clip_distance(net.clip_statistics(frames), reference) for name, frames in sets.items()}
    title = f"{context} -> {horizon}, {len(clips)} prompts, one future each, against {len(others)} other true clips; "
    title += "`truth`: the prompts' own, real against real"
    return evaluation.measured(title, {"Frechet (ST-LPIPS features)": distances})


def continuations(
    model: Predictor, clips: Video, sampling: Sampling, context: int = CONTEXT, batch: int = 20
) -> dict[str, Video]:
    """Frames on [0, 1] after the prompts of clips (N, T, C, H, W): predicted with seed k for clip k, true, copied."""
    horizon = clips.shape[1] - context
    predicted = [
        predict_batch(model, clips[k : k + batch, :context], horizon, sampling, range(k, min(k + batch, len(clips))))
        for k in tqdm(range(0, len(clips), batch), desc="frechet")
    ]
    return {
        "model": unit(torch.cat(predicted)),
        "truth": unit(clips[:, context:]),
        "copy": unit(clips[:, context - 1 : context]).expand(-1, horizon, -1, -1, -1),
    }


def embed_clips(classifier: DigitClassifier, clips: Video) -> Tensor:
    """Clips (N, T, 1, 64, 64) on [0, 1] -> the classifier's features of every frame (N, T, D)."""
    flat = clips.flatten(0, 1)
    return torch.cat([classifier.embed(part) for part in flat.split(512)]).unflatten(0, clips.shape[:2])


def fvd_measure(weights: Path, device: str) -> Callable[[Video, Video], float]:
    """FVD (arXiv 1812.01717) of true and predicted frames (N, T >= 9, C, H, W) on [0, 1], by the package cd-fvd.

    weights: of the package's I3D network (i3d_pretrained_400.pt). Raises ValueError where either is missing.
    """
    try:
        from cdfvd.fvd import cdfvd
    except ImportError as error:
        raise ValueError("--fvd needs the package cd-fvd: pip install cd-fvd") from error
    if not weights.is_file():  # the package would download it to there
        raise ValueError(f"{weights} is missing; --fvd takes the I3D weights of the package cd-fvd")

    def measure(true: Video, predicted: Video) -> float:
        # a new one for each pair, since it adds to its sets
        package = cdfvd("i3d", n_real="full", n_fake="full", ckpt_path=str(weights), device=device)
        colour = (frames.expand(-1, -1, 3, -1, -1) for frames in (true, predicted))
        pixels = (rearrange(frames, "n t c h w -> n t h w c").mul(255).round().byte() for frames in colour)
        return float(package.compute_fvd(*(frames.cpu().numpy() for frames in pixels)))

    return measure
