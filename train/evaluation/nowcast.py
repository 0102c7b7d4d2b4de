"""Ensemble nowcasts of rain: scores in mm/h, and the baselines of pysteps (an optional package)."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Predictor, Video
from stt.sampler import predict
from train.data.radar import MINUTES, RadarConfig, RadarDataset, from_video, to_video
from train.evaluation.optical_flow import carried_on
from train.evaluation.protocols import CONTEXT, SEED, Evaluation, Figures, average, rounded
from train.seeding import generator_for
from train.sheets import rows_of_frames

AHEAD = 12  # frames: an hour
THRESHOLDS = (0.5, 5.0)  # mm/h
LEAST = 0.1  # mm/h; less is dry in all nowcasts, as in those of pysteps
DRY = -15.0  # dB of rain, for what is dry, as pysteps has it
Ensembles = dict[str, Tensor]  # by name: (N, T, H, W) mm/h


class NowcastEvaluation(Evaluation):
    """--prompts parts of the held-out event of --data, 5 -> 12 frames of five minutes; --futures members.

    Scores are of the central half of each side, where what comes in from outside is late. `steps` and `advection`, of
    pysteps, are left out where that is not installed. Without a model the baselines alone are scored. Raises ValueError
    where --data is missing, and as `RadarDataset` does.
    """

    def __init__(self, model: Predictor | None, args: argparse.Namespace, world: Mapping[str, Any]) -> None:
        super().__init__(model, args)
        if not args.data:
            raise ValueError("a folder of radar events is needed: give it by --data")
        config = RadarConfig(**world) if world.get("kind") == "radar" else RadarConfig()
        config = replace(config, frames=CONTEXT + AHEAD)
        size, self.channels = (model.config.image_size, model.config.channels) if model else (args.size or 128, 1)
        self.data = RadarDataset(config, args.data, "test", size, self.channels)
        generator = generator_for("nowcasts", SEED)
        self.rain = torch.stack([self.data.rain(generator) for _ in range(args.prompts)])  # (N, T, H, W)
        self.source = f"{self.data.names[0]}, held out, {size}x{size} of {config.kilometres} km, {MINUTES} minutes"

    def clips(self, count: int, frames: int) -> Video:
        return to_video(self.rain[:count, :frames, None]).repeat(1, 1, self.channels, 1, 1).to(self.args.device)

    def sheet(self) -> np.ndarray:
        """Of up to 4 prompts: what came, and the first member of each nowcast."""
        rows = []
        for rain in self.rain[:4]:
            made = [ensemble[0] for ensemble in self.ensembles(rain[:CONTEXT]).values()]
            rows += [rain, *(torch.cat([rain[:CONTEXT], future]) for future in made)]
        return rows_of_frames([to_video(row[:, None]) for row in rows])

    def protocols(self) -> dict[str, Callable[[], Figures]]:
        return {"nowcasts": self.nowcasts}

    def nowcasts(self) -> Figures:
        rows, counts = defaultdict(list), defaultdict(lambda: torch.zeros(AHEAD, 3))
        errors, spreads = defaultdict(list), defaultdict(list)
        for rain in tqdm(self.rain, desc="nowcasts", disable=None):
            true = central(rain[CONTEXT:])
            for name, ensemble in self.ensembles(rain[:CONTEXT]).items():
                ensemble = central(ensemble)
                rows[f"crps {name}"].append(crps(ensemble, true).mean(dim=(-2, -1)))
                for threshold in THRESHOLDS:
                    counts[f"csi {threshold:g} mm/h {name}"] += contingency(ensemble, true, threshold)
                if len(ensemble) > 1:
                    errors[name].append((ensemble.mean(dim=0) - true).square().mean(dim=(-2, -1)))
                    spreads[name].append(ensemble.var(dim=0).mean(dim=(-2, -1)) * (1 + 1 / len(ensemble)))
        figures = average(rows)
        horizon = {name: critical_success_index(table) for name, table in counts.items()}
        for name in errors:
            error, spread = (torch.stack(parts).mean(dim=0).sqrt() for parts in (errors[name], spreads[name]))
            horizon[f"spread over error {name}"] = spread / error
        figures["per_horizon"] |= {name: rounded(values) for name, values in horizon.items()}
        figures["mean"] |= {name: rounded(values.nanmean()[None])[0] for name, values in horizon.items()}
        title = f"{CONTEXT} -> {AHEAD}, {len(self.rain)} prompts, {self.args.futures} members; mm/h in "
        return self.measured(title + "the central half of each side; csi: at least half of the members", figures)

    def ensembles(self, prompt: Tensor) -> Ensembles:
        """Nowcasts (N, 12, H, W) in mm/h of a prompt (5, H, W), by name; N is 1 of those that are one forecast.

        Less than 0.1 mm/h becomes 0: near black, a small error of a pixel would be rain everywhere.
        """
        made, last = {}, prompt[-1].expand(1, AHEAD, -1, -1)
        if self.model:
            video = to_video(prompt[:, None]).repeat(1, self.channels, 1, 1).to(self.args.device)
            futures = predict(self.model, video, AHEAD, self.sampling, range(self.args.futures))
            made["model"] = from_video(futures.mean(dim=2)).cpu()
            if "temperature" in self.model.knobs:
                guess = predict(self.model, video, AHEAD, replace(self.sampling, temperature=0.0))
                made["guess"] = from_video(guess.mean(dim=2)).cpu()
        before = (to_video(prompt[-2:, None]) + 1) / 2
        made |= {"copy": last, "farneback": from_video(2 * carried_on(*before, AHEAD)[:, 0] - 1)[None]}
        made |= pysteps_ensembles(prompt, self.args.futures, self.data.config.kilometres)
        return {name: torch.where(rain < LEAST, 0.0, rain) for name, rain in made.items()}


def central(rain: Tensor) -> Tensor:
    height, width = rain.shape[-2:]
    return rain[..., height // 4 : height - height // 4, width // 4 : width - width // 4]


# ---- scores ------------------------------------------------------------------------------------------


def crps(ensemble: Tensor, true: Tensor) -> Tensor:
    """Continuous ranked probability score of members (N, ...) against what came, (...) -> (...); 0 is best.

    The fair estimate E|x - y| - E|x - x'| / 2 over different members (Ferro 2014), or |x - y| of a single one.
    """
    count = len(ensemble)
    error = (ensemble - true).abs().mean(dim=0)
    if count == 1:
        return error
    ranks = 2 * torch.arange(1, count + 1, device=ensemble.device) - count - 1  # sums |x - x'| over pairs
    within = torch.tensordot(ranks.to(ensemble), ensemble.sort(dim=0).values, dims=1) / (count * (count - 1))
    return error - within


def contingency(ensemble: Tensor, true: Tensor, threshold: float) -> Tensor:
    """Hits, misses and false alarms (T, 3) of members (N, T, H, W), where half of them or more reach the threshold."""
    forecast, event = (ensemble >= threshold).float().mean(dim=0) >= 0.5, true >= threshold
    parts = (forecast & event, ~forecast & event, forecast & ~event)
    return torch.stack([part.sum(dim=(-2, -1)) for part in parts], dim=-1).float()


def critical_success_index(counts: Tensor) -> Tensor:
    """Hits over hits, misses and false alarms: (T, 3) -> (T,), from 0 to 1; NaN where there was nothing."""
    return counts[:, 0] / counts.sum(dim=-1)


# ---- pysteps -----------------------------------------------------------------------------------------


def pysteps_ensembles(prompt: Tensor, members: int, kilometres: int) -> Ensembles:
    """Nowcasts of pysteps: `advection`, along Lucas-Kanade's flow, and `steps`, an ensemble (Bowler et al. 2006).

    None where pysteps is not installed, and no `steps` where it finds too little rain.
    """
    try:
        from pysteps import motion, nowcasts
    except ImportError:
        return {}
    rain = prompt.numpy().astype(np.float64)
    decibels = np.where(rain >= LEAST, 10 * np.log10(np.maximum(rain, LEAST)), DRY)
    with redirect_stdout(StringIO()):  # it reports every step
        velocity = motion.get_method("LK")(decibels[-3:], verbose=False)
        advected = nowcasts.get_method("extrapolation")(rain[-1], velocity, AHEAD)
        made = {"advection": torch.from_numpy(np.nan_to_num(advected))[None].float()}
        try:
            forecast = nowcasts.get_method("steps")(
                decibels[-3:], velocity, AHEAD, n_ens_members=members, n_cascade_levels=6, precip_thr=-10.0,
                kmperpixel=float(kilometres), timestep=MINUTES, noise_method="nonparametric", vel_pert_method="bps",
                mask_method="incremental", seed=SEED,
            )  # fmt: skip
        except (ValueError, RuntimeError):
            return made
    return made | {"steps": torch.from_numpy(np.nan_to_num(10 ** (forecast / 10))).float()}
