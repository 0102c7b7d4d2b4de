"""Protocols for clips of any data set. Each takes a predictor and held-out clips and returns figures as JSON."""

from __future__ import annotations

import argparse
import copy
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Condition, HasLikelihood, Predictor, Sampling, Tokenizer, Video
from stt.metrics import FRAME_METRICS, HIGHER_IS_BETTER, frame_psnr, frame_ssim, spread, unit
from stt.models.stt import STT
from stt.sampler import SeededNoise, fit_context, predict
from train.evaluation.metrics import gradient_energy, perplexity
from train.evaluation.optical_flow import carried_on
from train.evaluation.st_lpips import STLPIPS

SEED = 2024  # of the held-out clips; futures use seeds 0 ... N-1
CONTEXT, HORIZON = 5, 20  # frames of a prompt and frames ahead, where no benchmark says otherwise
TEMPERATURES = (0.0, 0.5, 1.0, 1.5)
PROTOCOLS = (
    "tokenizer", "moving_mnist", "best_of", "simulated_futures", "motion_likelihood", "spread", "frechet",
    "class_conditional", "surprise", "interpolation", "segmentation", "pusher_distribution", "hand_distribution",
    "action_following", "steering", "clips", "nowcasts",
)  # fmt: skip

INSTALLED = "installed"  # of --st-lpips: the weights of the package

Figures = dict[str, Any]
Metrics = Mapping[str, Callable[[Tensor, Tensor], Tensor]]  # of frames on [0, 1], by name


class Evaluation(ABC):
    """A predictor, held-out clips of one data set, and the protocols that it is scored by.

    args: of the command train.evaluate. FileNotFoundError where --st-lpips finds no weights.
    """

    source: str  # of the held-out clips, in words
    horizon: int  # frames ahead of best_of and spread
    surprise_frames = 20  # of a clip

    def __init__(self, model: Predictor | None, args: argparse.Namespace) -> None:
        self.model, self.args, self.sampling = model, args, Sampling(temperature=args.temperature)
        self.st_lpips: STLPIPS | None = None
        if args.st_lpips:
            weights = None if args.st_lpips == INSTALLED else Path(args.st_lpips)
            self.st_lpips = STLPIPS(weights).to(args.device)

    @abstractmethod
    def clips(self, count: int, frames: int) -> Video:
        """The first held-out clips, (count, frames, C, H, W); fewer and shorter ones are the beginning of others."""

    @abstractmethod
    def sheet(self) -> np.ndarray:
        """A contact sheet of held-out clips and futures, (H, W, 3) uint8."""

    def protocols(self) -> dict[str, Callable[[], Figures]]:
        """The protocols that suit the data set and the model, by name."""
        table = {"best_of": self.best_of, "spread": self.spread}
        if isinstance(getattr(self.model, "tokenizer", None), Tokenizer):
            table["tokenizer"] = self.tokenizer
        if isinstance(self.model, HasLikelihood):
            table["surprise"] = self.surprise
        return table

    @property
    def metrics(self) -> Metrics:
        """Of single frames."""
        return FRAME_METRICS | ({"st_lpips": self.st_lpips.frame_distance} if self.st_lpips else {})

    def run(self, names: Sequence[str]) -> Figures:
        """Figures of every chosen protocol that suits, each with the manifest that it was measured by."""
        table = self.protocols()
        return {name: table[name]() for name in PROTOCOLS if name in table and name in names}

    def measured(self, title: str, figures: Figures) -> Figures:
        """Figures with their manifest."""
        return {"protocol": f"{title}; {self.source}; temperature {self.args.temperature}"} | figures

    def tokenizer(self) -> Figures:
        clips = self.clips(min(64, self.args.clips), 15)
        return self.measured(
            f"{len(clips)} clips of {clips.shape[1]} frames", reconstruction(self.model.tokenizer, clips, self.metrics)
        )

    def best_of(self) -> Figures:
        clips, n = self.clips(self.args.clips, CONTEXT + self.horizon), self.args.futures
        title = f"{CONTEXT} -> {self.horizon}, {len(clips)} prompts, {n} futures, seeds 0 to {n - 1}; `guess`: "
        title += "temperature 0; `flow`: the last frame warped on along Farneback's of the prompt's last two"
        figures = best_of(self.model, clips, self.sampling, n, controls=self.controls(), metrics=self.metrics)
        return self.measured(title, figures)

    def spread(self) -> Figures:
        clips = self.clips(min(32, self.args.clips), CONTEXT + self.horizon)
        title = f"{CONTEXT} -> {self.horizon}, {len(clips)} prompts, 8 futures; standard deviation over futures"
        return self.measured(title, {"by_temperature": spread_by_temperature(self.model, clips)})

    def surprise(self) -> Figures:
        clips = self.clips(self.args.clips, self.surprise_frames)
        title = f"{len(clips)} clips of {clips.shape[1]} frames; frames 3 to the last; bits per pixel and channel"
        return self.measured(title, surprise(self.model, clips))

    def controls(self) -> dict[str, Predictor]:
        return controls_of(self.model) if self.args.controls else {}


def controls_of(model: Predictor) -> dict[str, Predictor]:
    """Ablations of an STT that show what its transformer is worth; none of other families.

    `zero features`: the transformer's output is 0. `untrained`: the transformer is as first built. Segmenter and
    tokenizer stay.
    """
    if not isinstance(model, STT):
        return {}
    zero, untrained = copy.deepcopy(model), STT(model.config).to(next(model.parameters()).device).eval()
    torch.nn.init.zeros_(zero.network.norm.weight)
    torch.nn.init.zeros_(zero.network.norm.bias)
    for part in ("segmenter", "tokenizer"):
        if (trained := getattr(model, part)) is not None:
            getattr(untrained, part).load_state_dict(trained.state_dict())
    return {"zero features": zero, "untrained": untrained}


# ---- figures -----------------------------------------------------------------------------------------


def average(rows: Mapping[str, list[Tensor]]) -> Figures:
    """Lists of (T,) by name -> their mean at every time, and the mean over all times."""
    means = {name: torch.stack(values).double().mean(dim=0) for name, values in rows.items()}
    return {
        "per_horizon": {name: rounded(values) for name, values in means.items()},
        "mean": {name: round(float(values.mean()), 4) for name, values in means.items()},
    }


def rounded(values: Tensor) -> list[float | None]:
    """JSON numbers; NaN becomes null."""
    return [round(float(v), 4) if v == v else None for v in values]


@torch.inference_mode()
def predict_batch(model: Predictor, prompts: Video, frames: int, sampling: Sampling, seeds: Sequence[int]) -> Video:
    """One future of each prompt (B, T, C, H, W), of one seed each -> (B, frames, C, H, W) in [-1, 1]."""
    noise, future = SeededNoise(seeds, prompts.device), []
    state = model.start(fit_context(model, prompts))
    while len(future) < frames:
        chunk, state = model.step(state, sampling, noise)
        future += chunk.unbind(dim=1)
    return torch.stack(future[:frames], dim=1).clamp(-1, 1)


# ---- best of N ---------------------------------------------------------------------------------------


def compare(predictions: Mapping[str, Video], true: Video, metrics: Metrics = FRAME_METRICS) -> dict[str, Tensor]:
    """Futures (N, T, C, H, W) by name and the true one (T, C, H, W) on [0, 1] -> figures per frame, (T,) each.

    `best` and `mean` of the futures named `model`, the best of others. The best future is the one whose mean over the
    horizon is best, by each metric on its own.
    """
    scores = {}
    for name, futures in predictions.items():
        for metric, measure in metrics.items():
            values = measure(futures, true)  # (N, T)
            means = values.mean(dim=1)
            best = means.argmax() if HIGHER_IS_BETTER.get(metric) else means.argmin()
            scores[f"{metric} {'best' if name == 'model' else name}"] = values[best]
            if name == "model":
                scores[f"{metric} mean"] = values.mean(dim=0)
    return scores


def best_of(
    model: Predictor,
    clips: Video,
    sampling: Sampling,
    count: int,
    context: int = CONTEXT,
    controls: Mapping[str, Predictor] = MappingProxyType({}),
    metrics: Metrics = FRAME_METRICS,
) -> Figures:
    """Best and mean of `count` futures per horizon of clips (N, T, C, H, W), beside simple predictions.

    `guess`: one future at temperature 0, of models that have one; `copy`: the last frame stays; `flow`: the last frame
    moves on along optical flow, by `carried_on`; controls: other models by name, the best of as many futures of each.
    `sharpness`: gradient energy over that of the true futures.
    """
    rows, gradients, seconds = defaultdict(list), defaultdict(list), 0.0
    for clip in tqdm(clips, desc="best of N"):
        prompt, true, begun = clip[:context], unit(clip[context:]), time.perf_counter()
        made = {"model": unit(predict(model, prompt, len(true), sampling, range(count)))}
        seconds += time.perf_counter() - begun
        if "temperature" in model.knobs:
            made["guess"] = unit(predict(model, prompt, len(true), replace(sampling, temperature=0.0)))
        for name, control in controls.items():
            made[name] = unit(predict(control, prompt, len(true), sampling, range(count)))
        made["copy"] = unit(prompt[-1:]).expand(1, *true.shape)
        made["flow"] = carried_on(*unit(prompt[-2:]), len(true))[None]
        for name, values in compare(made, true, metrics).items():
            rows[name].append(values)
        for name, frames in (made | {"true": true[None]}).items():
            gradients[name].append(gradient_energy(frames).mean(dim=0))
    sharpness = torch.stack(gradients.pop("true")).mean(dim=0)
    rows |= {f"sharpness {name}": [v / sharpness for v in values] for name, values in gradients.items()}
    frames = len(clips) * count * (clips.shape[1] - context)
    return average(rows) | {"seconds_per_frame": round(seconds / frames, 4)}


def spread_by_temperature(model: Predictor, clips: Video, context: int = CONTEXT, count: int = 8) -> dict[str, float]:
    """Spread of `count` futures at every temperature, averaged over clips and horizon."""
    spreads = defaultdict(list)
    for clip in tqdm(clips, desc="spread"):
        for t in TEMPERATURES:
            futures = predict(model, clip[:context], len(clip) - context, Sampling(temperature=t), range(count))
            variance = spread(unit(futures), correction=1).square().mean(dim=(-2, -1))  # (T,)
            spreads[str(t)].append(variance.sqrt().mean())
    return {t: round(float(torch.stack(values).mean()), 4) for t, values in spreads.items()}


# ---- actions -----------------------------------------------------------------------------------------


def action_condition(actions: Tensor) -> Condition:
    """Actions (T, A) as a condition."""
    return Condition(actions=tuple(tuple(row) for row in actions.tolist()))


def with_and_without_actions(
    model: Predictor, prompt: Video, actions: Tensor, sampling: Sampling, seeds: Sequence[int]
) -> dict[str, Video]:
    """Futures (N, T, C, H, W) of a prompt (T', C, H, W): `conditioned` on actions (T, A), `unconditional`, a `copy`.

    Raises ValueError for a model that takes no actions.
    """
    frames = len(actions)
    return {
        "conditioned": predict(model, prompt, frames, sampling, seeds, action_condition(actions)),
        "unconditional": predict(model, prompt, frames, sampling, seeds),
        "copy": prompt[-1:].expand(1, frames, -1, -1, -1),
    }


def mean_similarity(futures: Mapping[str, Video], true: Video) -> dict[str, Tensor]:
    """PSNR and SSIM of futures (N, T, C, H, W) by name with the true one (T, C, H, W), mean over them: (T,) each."""
    return {
        f"{metric} {name}": measure(unit(frames), unit(true).expand_as(frames)).mean(dim=0)
        for name, frames in futures.items()
        for metric, measure in {"psnr": frame_psnr, "ssim": frame_ssim}.items()
    }


# ---- likelihood and codes ----------------------------------------------------------------------------


def surprise(model: HasLikelihood, clips: Video, batch: int = 8) -> Figures:
    """Negative log-likelihood of clips (N, T >= 3, C, H, W) of the model's own data set, in bits per pixel and channel.

    From the third frame on, when motion is visible. `clip_...` are of the clips' means, `frame_p99` of all frames,
    `largest_p99` of each clip's most surprising frame.
    """
    parts = [model.surprise(part).bits[:, 1:].cpu() for part in tqdm(clips.split(batch), desc="surprise")]
    bits = torch.cat(parts)  # (N, T-2)
    means = bits.mean(dim=1)
    figures = {"bits_per_dim": means.mean(), "clip_median": means.median(), "clip_p99": means.quantile(0.99)}
    figures |= {"clip_max": means.max(), "frame_p99": bits.quantile(0.99)}
    figures |= {"largest_p99": bits.amax(dim=1).quantile(0.99)}
    return {name: round(float(value), 4) for name, value in figures.items()}


@torch.inference_mode()
def reconstruction(tokenizer: Any, clips: Video, metrics: Metrics = FRAME_METRICS) -> Figures:
    """Reconstruction and code use of clips (N, T, C, H, W), averaged over code groups.

    Frames at the end that fill no slice of a tokenizer's codes are left out.
    """
    clips = clips[:, : clips.shape[1] - clips.shape[1] % tokenizer.slice_frames]
    ids, sizes = tokenizer.encode(clips).ids, tokenizer.sizes
    decoded, true = unit(tokenizer.reconstructed(clips)), unit(clips)
    again = unit(tokenizer.reconstructed(decoded * 2 - 1))
    use, groups = zip(*(perplexity(ids[..., g], size) for g, size in enumerate(sizes)), strict=True)
    figures = {name: float(metric(decoded, true).mean()) for name, metric in metrics.items()}
    figures |= {"psnr of the second pass": float(frame_psnr(again, true).mean())}
    figures |= {"sharpness": float(gradient_energy(decoded).mean() / gradient_energy(true).mean())}
    figures |= {"codes in use": sum(use) / len(use), "perplexity of a group": sum(groups) / len(groups)}
    figures |= {"codes of a group": sizes[0]}
    return {name: round(float(value), 4) for name, value in figures.items()}
