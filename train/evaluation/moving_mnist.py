"""Protocols of Moving MNIST, whose digits a classifier can read."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Condition, Interpolates, Predictor, Sampling, Video
from stt.metrics import FRAME_METRICS, frame_ssim_openstl, unit
from stt.models.stt import STT
from stt.sampler import predict
from train.data.bouncing import TOP_SPEED, Trajectory, transition_nll
from train.data.moving_mnist import MovingMNIST, MovingMNISTClip, MovingMNISTConfig
from train.evaluation.digit_classifier import DigitClassifier, classified_exactly, load_digit_classifier
from train.evaluation.frechet import frechet, fvd_measure
from train.evaluation.interpolation import interpolation, segmentation
from train.evaluation.protocols import (
    CONTEXT,
    SEED,
    Evaluation,
    Figures,
    average,
    controls_of,
    predict_batch,
)
from train.evaluation.simulated_futures import Prompt, simulated_futures, simulation_title
from train.seeding import generator_for
from train.sheets import contact_sheet

NEED_CLASSIFIER = {"frechet", "class_conditional"}


class MovingMNISTEvaluation(Evaluation):
    """Stochastic Moving MNIST, and the deterministic one for the protocol `moving_mnist`."""

    horizon = 10

    def __init__(self, model: Predictor, args: argparse.Namespace, world: Mapping[str, Any]) -> None:
        super().__init__(model, args)
        self.digits = args.digits or world.get("digits", 2)
        number = f"{self.digits} digit{'s' * (self.digits > 1)}"
        self.source = f"held-out seed {SEED}, {number}, {args.strokes:.0%} synthetic, the rest MNIST test"
        self.fvd = fvd_measure(args.fvd, args.device) if args.fvd else None
        self.classifier = load_digit_classifier(args.classifier, args.device) if args.classifier.is_file() else None
        if self.classifier is None and NEED_CLASSIFIER & set(args.only):
            raise ValueError(
                f"{args.classifier} is missing; frechet and class_conditional need it: train.digit_classifier"
            )
        size, channels = model.config.image_size, model.config.channels
        if (size, channels) != (64, 1):
            color = "gray" if channels == 1 else "colour"
            raise ValueError(f"the model takes {color} frames of {size} x {size}, Moving MNIST has gray 64 x 64")
        self.official = official_file(args.official) if args.official else None
        if args.sheet or not (args.official and set(args.only) <= {"moving_mnist"}):
            self.videos()  # here, so that missing digits are named before the work

    def videos(self, frames: int = 15, kind: str = "stochastic", digits: int | None = None) -> MovingMNIST:
        config = MovingMNISTConfig(kind=kind, digits=digits or self.digits, strokes=self.args.strokes, frames=frames)
        return MovingMNIST(config, self.args.mnist, "test", self.args.device)

    def clips(self, count: int, frames: int) -> Video:
        return torch.cat([clip.video for clip in held_out(self.videos(frames), count)])

    def sheet(self) -> np.ndarray:
        clips = self.clips(10, self.args.context + self.args.horizon)
        return contact_sheet(self.model, clips, self.sampling, context=self.args.context)

    def protocols(self) -> dict[str, Callable[[], Figures]]:
        c, table = self.model.config, super().protocols()
        table |= {
            "moving_mnist": self.moving_mnist,
            "simulated_futures": self.simulated_futures,
            "frechet": self.frechet,
        }
        if isinstance(self.model, STT) and c.layers:
            table["motion_likelihood"] = self.motion_likelihood
        if "labels" in self.model.knobs and c.classes == 10:
            table["class_conditional"] = self.class_conditional
        if isinstance(self.model, Interpolates):
            table["interpolation"] = self.interpolation
        if "digits" in getattr(c, "maps", ()):
            table["segmentation"] = self.segmentation
        return table

    def moving_mnist(self) -> Figures:
        if self.official is not None:
            clips, name = official_clips(self.official, self.args.moving_clips), f"of {self.args.official.name}"
            clips = clips.to(self.args.device)
        else:
            videos, name = self.videos(20, "deterministic"), f"made here, {self.source}"
            clips = torch.cat([clip.video for clip in held_out(videos, self.args.moving_clips)])
        title = f"Moving MNIST 10 -> 10, {len(clips)} clips {name}; temperature 0; MSE summed over a frame; `ssim`: "
        title += "Gaussian window of 11, data range 1; `ssim (OpenSTL)`: uniform window of 7, data range 2"
        return {"protocol": title} | moving_mnist(self.model, clips)

    def simulated_futures(self) -> Figures:
        args, videos = self.args, self.videos()
        prompts = prompts_of(videos, held_out(videos, args.prompts), self.classifier)
        figures = simulated_futures(self.model, prompts, self.sampling, args.sets, controls=self.controls())
        return self.measured(simulation_title(args.prompts, args.sets), figures)

    def motion_likelihood(self) -> Figures:
        clips = held_out(self.videos(20), self.args.clips)
        figures = motion_likelihood({"model": self.model} | controls_of(self.model), clips)
        title = f"{len(clips)} clips of 20 frames; nats of each layer's displacement from the third frame on"
        return self.measured(title, figures)

    def frechet(self) -> Figures:
        count = self.args.clips
        clips, others = self.clips(2 * count, 15).split(count)
        title = f"5 -> 10, {count} prompts; seed k for prompt k; predicted frames against {count} other true clips'; "
        title += "`truth`: the prompts' own true futures against those, the floor"
        title += "; fvd: package cd-fvd, I3D" * bool(self.fvd)
        return self.measured(title, frechet(self.model, clips, others, self.classifier, self.sampling, self.fvd))

    def class_conditional(self) -> Figures:
        count, digits = self.args.per_label, self.model.config.labels
        real = held_out(self.videos(digits=digits), self.args.clips)
        figures = class_conditional(self.model, real, self.classifier, self.sampling, count)
        classes = "each digit" if digits == 1 else f"40 random draws of {digits} digits"
        title = (
            f"generated from labels alone, {count} clips of {classes}, seeds 0, 1, ...; whether the classifier reads "
        )
        title += f"the labels; `truth`: on {len(real)} real clips of as many digits, the ceiling"
        return self.measured(title, figures)

    def interpolation(self) -> Figures:
        n, clips = self.args.futures, held_out(self.videos(), self.args.prompts)
        figures = interpolation(self.model, clips, self.classifier, self.sampling, n)
        title = f"6 frames between 4 and 4, {len(clips)} clips; {n} futures, seeds 0 to {n - 1}; `blend` of the two "
        return self.measured(f"{title}ends, `flow`: Farneback's between them", figures)

    def segmentation(self) -> Figures:
        videos = self.videos()
        clips = held_out(videos, self.args.clips)
        figures = segmentation(self.model, videos, clips, self.sampling)
        return self.measured(f"4 frames of {len(clips)} clips; seed k for clip k; `codec`: the ceiling", figures)


# ---- held-out clips ----------------------------------------------------------------------------------


def held_out(videos: MovingMNIST, count: int) -> list[MovingMNISTClip]:
    """The first `count` held-out clips; fewer are the beginning of more."""
    return [videos.sample(1, SEED, index) for index in range(count)]


def official_file(path: Path) -> np.ndarray:
    """The array of `mnist_test_seq.npy`, (20, N, 64, 64) bytes, time first; not read into memory.

    Raises ValueError for another kind, layout or range of values, and for a file that was cut off.
    """
    official = "the official file is a .npy of uint8, (20, 10000, 64, 64), time first, values 0 to 255"
    try:
        stored = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it cannot be read, or is cut off"
        raise ValueError(f"--official {path.name}: {reason}; {official}") from error
    if not isinstance(stored, np.ndarray):
        raise ValueError(f"--official {path.name} is an archive of arrays; {official}")
    if stored.ndim != 4 or stored.dtype != np.uint8 or stored.shape[0] != 20 or stored.shape[2:] != (64, 64):
        raise ValueError(f"--official {path.name} holds {stored.dtype} {stored.shape}; {official}")
    if not stored.shape[1] or (highest := int(stored[:, :100].max())) <= 1:
        values = f"values 0 to {highest}" if stored.shape[1] else "no clips"
        raise ValueError(f"--official {path.name} holds {values}; {official}")
    return stored


def official_clips(stored: np.ndarray, count: int) -> Video:
    """The first clips of `official_file`, (count, 20, 1, 64, 64) in [-1, 1]."""
    clips = torch.from_numpy(stored[:, :count].copy()).float()  # (20, count, 64, 64)
    return (clips / 127.5 - 1).transpose(0, 1)[:, :, None]


def prompts_of(
    videos: MovingMNIST, clips: Sequence[MovingMNISTClip], classifier: DigitClassifier | None, context: int = CONTEXT
) -> list[Prompt]:
    """Prompts for `simulated_futures`. `digits`: whether the classifier, if any, reads just those of the clip."""

    def prompt(index: int, clip: MovingMNISTClip) -> Prompt:
        def simulate(frames: int, count: int) -> Video:
            return videos.futures(clip, context, frames, count, seed=index)[0]

        def preserved(futures: Video) -> dict[str, Tensor]:
            return {} if classifier is None else {"digits": classified_exactly(classifier, futures, clip.labels)}

        return Prompt(clip.video[0, :context], simulate, preserved)

    return [prompt(index, clip) for index, clip in enumerate(clips)]


# ---- protocols ---------------------------------------------------------------------------------------


@torch.inference_mode()
def moving_mnist(model: Predictor, clips: Video, context: int = 10, batch: int = 20, quiet: bool = False) -> Figures:
    """One future at temperature 0 of each clip (N, T, ...): MSE, PSNR, both SSIM per frame, and those of a copy.

    `ssim (OpenSTL)` alone compares with OpenSTL's tables.
    """
    rows = defaultdict(list)
    for part in tqdm(clips.split(batch), desc="Moving MNIST", disable=quiet):
        prompt, true = part[:, :context], unit(part[:, context:])
        predicted = unit(predict_batch(model, prompt, true.shape[1], Sampling(temperature=0.0), range(len(part))))
        copied = unit(prompt[:, -1:]).expand_as(true)
        for name, metric in (FRAME_METRICS | {"ssim (OpenSTL)": frame_ssim_openstl}).items():
            rows[name] += metric(predicted, true).unbind()
            rows[f"{name} copy"] += metric(copied, true).unbind()
    return average(rows)


def label_sets(classes: int, labels: int, count: int) -> list[tuple[int, ...]]:
    """Every class by itself, or, of models with several labels, `count` random draws of so many classes each.

    Drawn as the data set draws them: a digit may occur twice.
    """
    if labels == 1:
        return [(k,) for k in range(classes)]
    return [tuple(row) for row in torch.randint(classes, (count, labels), generator=generator_for("asked")).tolist()]


@torch.inference_mode()
def class_conditional(
    model: Predictor,
    real: list[MovingMNISTClip],
    classifier: DigitClassifier,
    sampling: Sampling,
    count: int = 16,
    sets: int = 40,
    horizon: int = 10,
) -> Figures:
    """Share of frames in which the classifier reads the labels that clips are generated from, without a prompt.

    `count` clips of each of `label_sets`, every one with a seed of its own. `truth` is the classifier's own rate on
    the frames of real clips: the ceiling. Raises ValueError for a model whose classes are not the ten digits.
    """
    c = model.config
    if "labels" not in model.knobs or c.classes != 10:
        raise ValueError(f"the model knows {getattr(c, 'classes', 0)} classes, the classifier reads 10 digits")
    black = torch.full((1, c.channels, c.image_size, c.image_size), -1.0)  # ignored, as any prompt
    rows = defaultdict(list)
    for k, labels in enumerate(tqdm(label_sets(c.classes, c.labels, sets), desc="class-conditional")):
        seeds = range(k * count, (k + 1) * count)
        clips = predict(model, black, horizon, sampling, seeds, Condition(labels=labels))
        rows["digits model"] += classified_exactly(classifier, clips, torch.tensor([labels])).float().unbind()
    for clip in real:
        rows["digits truth"] += classified_exactly(classifier, clip.video[:, :horizon], clip.labels).float().unbind()
    return average(rows)


def motion_likelihood(models: Mapping[str, STT], clips: Sequence[MovingMNISTClip], batch: int = 16) -> Figures:
    """Negative log-likelihood of the layers' displacements from the third frame on, by models of layers, by name.

    In nats per layer and frame: of all, of `turns`, where a displacement differs from the one before, and of those
    that go `on`. `uniform`: under a uniform distribution over the possible displacements. `oracle`: under the true
    dynamics, the floor.
    """
    rows, video = {}, torch.cat([clip.video for clip in clips])
    for name, model in models.items():
        parts = [model.motion_nats(part) for part in video.split(batch)]
        nats, turns = (torch.cat(part) for part in zip(*parts, strict=True))
        rows[name] = {"all": nats.mean(), "turns": nats[turns].mean(), "on": nats[~turns].mean()}
    trajectories = [Trajectory(clip.positions, clip.states) for clip in clips]
    floor = torch.cat([transition_nll(t) for t in trajectories])[:, 1:]
    steps = torch.cat([t.positions for t in trajectories]).diff(dim=1)
    turns = (steps[:, 1:] != steps[:, :-1]).any(dim=-1)
    rows["oracle"] = {"all": floor.mean(), "turns": floor[turns].mean(), "on": floor[~turns].mean()}
    rows["uniform"] = dict.fromkeys(("all", "turns", "on"), math.log((2 * TOP_SPEED + 1) ** 2))
    figures = {name: {at: round(float(value), 3) for at, value in row.items()} for name, row in rows.items()}
    return {"nats a layer and frame": figures, "share of turns": round(float(turns.float().mean()), 3)}
