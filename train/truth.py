"""Futures of a model beside true ones, which a world simulates from where each prompt ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from stt.api import Predictor, Sampling, Video
from stt.measures import unit
from stt.sampler import predict
from train.data import DigitClip, DigitVideos
from train.judge import Judge
from train.metrics import SetDistances, coverage_and_precision, energy, gradient_energy, pooled
from train.protocols import Figures, all_named, rounded


class Prompt(NamedTuple):
    """The beginning of a held-out clip, and what the world knows of how it can go on."""

    video: Video  # (T, C, H, W)
    truths: Callable[[int, int], Video]  # frames and count -> true futures (count, frames, C, H, W)
    kept: Callable[[Video], dict[str, Tensor]]  # futures (M, T, C, H, W) -> by name (M, T), what is still there


def digit_prompts(
    videos: DigitVideos, clips: Sequence[DigitClip], judge: Judge | None, context: int = 5
) -> list[Prompt]:
    """Prompts of moving digits. `digits`: whether the judge, if there is one, names just those of the clip."""

    def prompt(index: int, clip: DigitClip) -> Prompt:
        def truths(frames: int, count: int) -> Video:
            return videos.futures(clip, context, frames, count, seed=index)[0]

        def kept(futures: Video) -> dict[str, Tensor]:
            return {"digits": all_named(judge, futures, clip.labels)} if judge is not None else {}

        return Prompt(clip.video[0, :context], truths, kept)

    return [prompt(index, clip) for index, clip in enumerate(clips)]


class Source(NamedTuple):
    """Futures of one prompt that are held against the true ones."""

    name: str
    futures: Video  # (M, T, C, H, W)


def against_truth(
    model: Predictor, prompts: Sequence[Prompt], sampling: Sampling, count: int = 16, horizon: int = 20
) -> Figures:
    """Model futures beside true ones, simulated from each prompt's last state; copies and more truth beside them.

    `energy` is the normalised energy distance, `coverage` and `precision` as in train/metrics.py: all three over the
    prompts whose true futures differ at that horizon (`prompts`), on frames pooled in each of their colours.
    `sharpness` is the gradient energy over that of the true futures. What is kept has names of the world's own.
    """
    tally, begun = _Tally(), time.perf_counter()
    for prompt in tqdm(prompts, desc="against the truth"):
        truths = prompt.truths(horizon, 2 * count)
        sources = [
            Source("model", predict(model, prompt.video, horizon, sampling, range(count))),
            Source("copy", prompt.video[-1:].expand(count, horizon, -1, -1, -1)),
            Source("truth", truths[count:]),
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
            frames = unit(futures)
            d = SetDistances.of(pooled(true), pooled(frames))
            excess, within = energy(d)
            open_ = (within > 1e-6).to(within)  # the true futures differ by now
            covered, precise = coverage_and_precision(d)
            for figure, values in (("energy", excess), ("within", within), ("coverage", covered),
                                   ("precision", precise), ("open", open_)):  # fmt: skip
                self._add(name, figure, values * open_)
            self._add(name, "gradient", gradient_energy(frames).mean(dim=0))
            there = kept(futures)
            self.kept = list(there)
            for figure, values in there.items():
                self._add(name, figure, values.double().mean(dim=0))
        self._add("true", "gradient", gradient_energy(true).mean(dim=0))

    def figures(self) -> Figures:
        rows: Figures = {}
        for name in sorted({source for source, _ in self.sums} - {"true"}):
            total = {figure: values for (source, figure), values in self.sums.items() if source == name}
            rows[f"energy {name}"] = rounded(total["energy"] / total["within"])
            for figure in ("coverage", "precision"):
                rows[f"{figure} {name}"] = rounded(total[figure] / total["open"])
            rows[f"sharpness {name}"] = rounded(total["gradient"] / self.sums["true", "gradient"])
            for figure in self.kept:
                rows[f"{figure} {name}"] = rounded(total[figure] / self.prompts)
        rows["prompts"] = [int(n) for n in total["open"]]
        return {"per_horizon": rows}
