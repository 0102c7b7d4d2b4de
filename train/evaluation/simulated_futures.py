"""Futures of a model beside true ones, which a world simulates from where each prompt ends."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Predictor, Sampling, Video
from stt.metrics import unit
from stt.models.stt import STT
from stt.sampler import predict
from train.data.moving_mnist import MovingMNIST, MovingMNISTClip
from train.evaluation.digit_classifier import DigitClassifier
from train.evaluation.metrics import (
    TOLERANCE,
    SetDistances,
    coverage_and_precision,
    energy,
    gradient_energy,
    mean_of_pairs,
    pooled,
    spread,
)
from train.evaluation.protocols import Figures, all_named, rounded

ENDING = 5  # last frames of a future, in one of which all that is kept must show


class Prompt(NamedTuple):
    """The beginning of a held-out clip, and what the world knows of how it can go on."""

    video: Video  # (T, C, H, W)
    truths: Callable[[int, int], Video]  # frames and count -> true futures (count, frames, C, H, W)
    kept: Callable[[Video], dict[str, Tensor]]
    """Futures (M, T, C, H, W) -> by name (M, T): what is still there, as numbers, or as bool whether all is."""


def digit_prompts(
    videos: MovingMNIST, clips: Sequence[MovingMNISTClip], classifier: DigitClassifier | None, context: int = 5
) -> list[Prompt]:
    """Prompts of moving digits. `digits`: whether the classifier, if there is one, names just those of the clip."""

    def prompt(index: int, clip: MovingMNISTClip) -> Prompt:
        def truths(frames: int, count: int) -> Video:
            return videos.futures(clip, context, frames, count, seed=index)[0]

        def kept(futures: Video) -> dict[str, Tensor]:
            return {"digits": all_named(classifier, futures, clip.labels).bool()} if classifier is not None else {}

        return Prompt(clip.video[0, :context], truths, kept)

    return [prompt(index, clip) for index, clip in enumerate(clips)]


class Source(NamedTuple):
    """Futures of one prompt that are held against the true ones."""

    name: str
    futures: Video  # (M, T, C, H, W)


def controls_of(model: Predictor) -> dict[str, Predictor]:
    """What an STT predicts without what its transformer learned, so that the futures show what that is worth.

    `zero features`: the transformer's output is 0 whatever it sees. `untrained`: the transformer is as it was first
    built. Segmenter and tokenizer stay. Other families have none.
    """
    if not isinstance(model, STT):
        return {}
    zero, untrained = copy.deepcopy(model), STT(model.config).to(next(model.parameters()).device).eval()
    torch.nn.init.zeros_(zero.network.norm.weight)
    torch.nn.init.zeros_(zero.network.norm.bias)
    for part in ("segmenter", "tokenizer"):
        if (learned := getattr(model, part)) is not None:
            getattr(untrained, part).load_state_dict(learned.state_dict())
    return {"zero features": zero, "untrained": untrained}


def against_truth(
    model: Predictor,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    count: int = 16,
    horizon: int = 20,
    controls: Mapping[str, Predictor] = MappingProxyType({}),
) -> Figures:
    """Model futures beside true ones, simulated from each prompt's last state; copies and more truth beside them.

    controls: other models by name, which get rows of their own.

    Every figure is over all prompts unless it says otherwise; null where nothing can be divided by.

    `energy`: sum over prompts of the energy distance over the sum of E|x-x'|, the mean distance of two true futures,
    on frames pooled in each of their colours. `coverage`, `precision`: as in train/metrics.py, with its TOLERANCE.
    `spread ratio`: sum of the mean distances of two futures over that of two true ones, on the same frames: 1 is right.
    `sharpness`: gradient energy over that of the true futures. What is kept has names of the world's own.

    `open prompts`: how many have true futures that differ by then; `energy (open prompts)` is over those alone.
    `certain prompts`: how many have one true future still. Over those, of pixels on [0, 1] and as root mean squares,
    `certain rms`: how far the futures are from the true one, and `certain spread`: how far they lie apart.

    `kept to the end`: share of futures that show all in at least one of their last ENDING frames.
    """
    tally, begun = _Tally(), time.perf_counter()
    for prompt in tqdm(prompts, desc="against the truth"):
        truths = prompt.truths(horizon, 2 * count)
        sources = [
            Source("model", predict(model, prompt.video, horizon, sampling, range(count))),
            Source("copy", prompt.video[-1:].expand(count, horizon, -1, -1, -1)),
            Source("truth", truths[count:]),
            *(
                Source(name, predict(control, prompt.video, horizon, sampling, range(count)))
                for name, control in controls.items()
            ),
        ]
        tally.add(truths[:count], sources, prompt.kept)
    return tally.figures() | {"seconds_per_prompt": round((time.perf_counter() - begun) / len(prompts), 2)}


class _Tally:
    """Sums over prompts, per source and figure, (T,) each."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], Tensor] = {}
        self.prompts = 0
        self.kept: list[str] = []

    def _add(self, source: str, figure: str, values: Tensor) -> None:
        values = values.double().cpu()
        self.sums[source, figure] = self.sums.get((source, figure), values.new_zeros(values.shape)) + values

    def add(self, true: Video, sources: list[Source], kept: Callable[[Video], dict[str, Tensor]]) -> None:
        self.prompts += 1
        true = unit(true)
        for name, futures in sources:
            self._add_distances(name, true, unit(futures))
            there = kept(futures)
            self.kept = list(there)
            for figure, values in there.items():
                self._add(name, figure, values.double().mean(dim=0))
                if values.dtype == torch.bool:
                    self._add(name, f"{figure} at the end", values[:, -ENDING:].any(dim=1).double().mean())
        self._add("true", "gradient", gradient_energy(true).mean(dim=0))

    def _add_distances(self, name: str, true: Video, frames: Video) -> None:
        """Futures (M, T, C, H, W) against true ones (N, T, C, H, W), both on [0, 1]."""
        small = pooled(true)
        d = SetDistances.of(small, pooled(frames))
        excess, within = energy(d)
        open_ = (within > 1e-6).double()  # the true futures differ by now
        covered, precise = coverage_and_precision(d, tolerance=TOLERANCE * small.shape[-1] ** 0.5)
        error = (frames - true[:1]).square().mean(dim=(0, 2, 3, 4))
        figures = {
            "energy": excess, "open energy": excess * open_,
            "within": within * open_, "apart": mean_of_pairs(d.predicted),
            "coverage": covered, "precision": precise, "gradient": gradient_energy(frames).mean(dim=0),
            "open": open_, "certain": 1 - open_, "certain error": error * (1 - open_),
            "certain variance": spread(frames).square() * (1 - open_),
        }  # fmt: skip
        for figure, values in figures.items():
            self._add(name, figure, values)

    def figures(self) -> Figures:
        rows: dict[str, Tensor] = {}
        names = sorted({source for source, _ in self.sums} - {"true"})
        for name in names:
            total = {figure: values for (source, figure), values in self.sums.items() if source == name}
            rows[f"energy {name}"] = ratio(total["energy"], total["within"])
            rows[f"energy (open prompts) {name}"] = ratio(total["open energy"], total["within"])
            for figure in ("coverage", "precision"):
                rows[f"{figure} {name}"] = total[figure] / self.prompts
            rows[f"spread ratio {name}"] = ratio(total["apart"], total["within"])
            rows[f"sharpness {name}"] = total["gradient"] / self.sums["true", "gradient"]
            for figure in self.kept:
                rows[f"{figure} {name}"] = total[figure] / self.prompts
            rows[f"certain rms {name}"] = ratio(total["certain error"], total["certain"]).sqrt()
            rows[f"certain spread {name}"] = ratio(total["certain variance"], total["certain"]).sqrt()
        counted = {f"{kind} prompts": [int(n) for n in total[kind]] for kind in ("open", "certain")}
        figures: Figures = {"per_horizon": {name: rounded(values) for name, values in rows.items()} | counted}
        ends = {f"{figure} {name}": (name, f"{figure} at the end") for figure in self.kept for name in names}
        at_end = {title: self.sums[key] / self.prompts for title, key in ends.items() if key in self.sums}
        if at_end:
            figures["kept to the end"] = {title: round(float(value), 4) for title, value in at_end.items()}
        return figures


def ratio(over: Tensor, under: Tensor) -> Tensor:
    """Not a number where there is nothing to divide by."""
    return torch.where(under > 0, over / under, torch.nan)
