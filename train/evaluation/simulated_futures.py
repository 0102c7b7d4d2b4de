"""A model's futures beside those that a simulator draws from the end of each prompt."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Predictor, Sampling, Video
from stt.metrics import spread, unit
from stt.sampler import predict
from train.evaluation.metrics import (
    TOLERANCE,
    SetDistances,
    coverage_and_precision,
    energy_distance,
    gradient_energy,
    mean_of_pairs,
    pooled,
)
from train.evaluation.protocols import CONTEXT, HORIZON, Figures, rounded

ENDING = 5  # last frames of a future, one of which must show all objects


class Prompt(NamedTuple):
    """The beginning of a held-out clip, with its simulator."""

    video: Video  # (T, C, H, W)
    simulate: Callable[[int, int], Video]  # frames and count -> futures (count, frames, C, H, W)
    preserved: Callable[[Video], dict[str, Tensor]]
    """Futures (M, T, C, H, W) -> by name (M, T): what is still there, as numbers, or as bool whether all is."""


def simulation_title(prompts: int, count: int) -> str:
    """The manifest of `count` simulated and predicted futures per prompt, in words."""
    title = (
        f"{CONTEXT} -> {HORIZON}, {prompts} prompts, {count} model futures, seeds 0 to {count - 1}, against {count} "
    )
    title += f"simulated ones; `truth`: another {count} simulated ones, the floor; "
    return title + "all prompts count unless a figure says otherwise"


def simulated_futures(
    model: Predictor,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    count: int = 16,
    horizon: int = HORIZON,
    controls: Mapping[str, Predictor] = MappingProxyType({}),
) -> Figures:
    """Futures of the model, of controls by name, of a copy of the last frame (`copy`) and of a second simulation
    (`truth`, the floor), each set against `count` simulated futures of the prompt.

    Every figure is over all prompts unless it says otherwise; null where nothing can be divided by.

    `energy`: sum over prompts of the energy distance over the sum of E|x-x'|, the mean distance of two simulated
    futures, on pooled frames. `coverage`, `precision`: of `coverage_and_precision`, with TOLERANCE. `spread ratio`:
    sum of the mean distances of two futures over that of two simulated ones: 1 is right. `sharpness`: gradient energy
    over that of simulated futures. Figures of what is preserved have the data set's own names.

    `open prompts`: how many have simulated futures that differ by then; `energy (open prompts)` is over those alone.
    `certain prompts`: how many have one future still. Over those, of pixels on [0, 1] and as root mean squares,
    `certain rms`: the futures' error, and `certain spread`: their standard deviation.

    `kept to the end`: share of futures that show everything in at least one of their last ENDING frames.
    """
    tally, begun = _Tally(), time.perf_counter()
    for prompt in tqdm(prompts, desc="simulated futures"):
        true, again = prompt.simulate(horizon, 2 * count).split(count)
        futures = {"model": predict(model, prompt.video, horizon, sampling, range(count))}
        futures |= {"copy": prompt.video[-1:].expand(count, horizon, -1, -1, -1), "truth": again}
        for name, control in controls.items():
            futures[name] = predict(control, prompt.video, horizon, sampling, range(count))
        tally.add(true, futures, prompt.preserved)
    return tally.figures() | {"seconds_per_prompt": round((time.perf_counter() - begun) / len(prompts), 2)}


class _Tally:
    """Sums over prompts, by source and figure, (T,) each."""

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, Tensor]] = defaultdict(dict)
        self.prompts = 0
        self.preserved: list[str] = []

    def add(self, true: Video, futures: Mapping[str, Video], preserved: Callable[[Video], dict[str, Tensor]]) -> None:
        self.prompts += 1
        true = unit(true)
        for name, frames in futures.items():
            self._add_distances(name, true, unit(frames))
            there = preserved(frames)
            self.preserved = list(there)
            for figure, values in there.items():
                self._add(name, figure, values.double().mean(dim=0))
                if values.dtype == torch.bool:
                    self._add(name, f"{figure} at the end", values[:, -ENDING:].any(dim=1).double().mean())
        self._add("true", "gradient", gradient_energy(true).mean(dim=0))

    def _add(self, source: str, figure: str, values: Tensor) -> None:
        self.sums[source][figure] = values.double().cpu() + self.sums[source].get(figure, 0)

    def _add_distances(self, name: str, true: Video, frames: Video) -> None:
        """Futures (M, T, C, H, W) against simulated ones (N, T, C, H, W), both on [0, 1]."""
        small = pooled(true)
        d = SetDistances.of(small, pooled(frames))
        excess, within = energy_distance(d)
        is_open = (within > 1e-6).double()  # the simulated futures differ by now
        coverage, precision = coverage_and_precision(d, tolerance=TOLERANCE * small.shape[-1] ** 0.5)
        error = (frames - true[:1]).square().mean(dim=(0, 2, 3, 4))
        figures = {
            "energy": excess, "open energy": excess * is_open,
            "within": within * is_open, "apart": mean_of_pairs(d.predicted),
            "coverage": coverage, "precision": precision, "gradient": gradient_energy(frames).mean(dim=0),
            "open": is_open, "certain": 1 - is_open, "certain error": error * (1 - is_open),
            "certain variance": spread(frames, correction=1).square().mean(dim=(-2, -1)) * (1 - is_open),
        }  # fmt: skip
        for figure, values in figures.items():
            self._add(name, figure, values)

    def figures(self) -> Figures:
        rows: dict[str, Tensor] = {}
        at_end: dict[str, float] = {}
        for name in sorted(set(self.sums) - {"true"}):
            total = self.sums[name]
            rows[f"energy {name}"] = ratio(total["energy"], total["within"])
            rows[f"energy (open prompts) {name}"] = ratio(total["open energy"], total["within"])
            for figure in ("coverage", "precision"):
                rows[f"{figure} {name}"] = total[figure] / self.prompts
            rows[f"spread ratio {name}"] = ratio(total["apart"], total["within"])
            rows[f"sharpness {name}"] = total["gradient"] / self.sums["true"]["gradient"]
            for figure in self.preserved:
                rows[f"{figure} {name}"] = total[figure] / self.prompts
                if (ended := total.get(f"{figure} at the end")) is not None:
                    at_end[f"{figure} {name}"] = round(float(ended / self.prompts), 4)
            rows[f"certain rms {name}"] = ratio(total["certain error"], total["certain"]).sqrt()
            rows[f"certain spread {name}"] = ratio(total["certain variance"], total["certain"]).sqrt()
        counts = {f"{which} prompts": [int(n) for n in total[which]] for which in ("open", "certain")}
        figures: Figures = {"per_horizon": {name: rounded(values) for name, values in rows.items()} | counts}
        return figures | ({"kept to the end": at_end} if at_end else {})


def ratio(over: Tensor, under: Tensor) -> Tensor:
    """NaN where `under` is 0."""
    return torch.where(under > 0, over / under, torch.nan)
