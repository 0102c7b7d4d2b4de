"""Predictions of any clips, at their own aspect ratio where the model takes that, beside copies and optical flow."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Predictor, Video
from stt.metrics import unit
from stt.sampler import predict
from train.data.arrays import array_options
from train.data.readers import READ_ERRORS, ReadOptions, read
from train.data.sources import Source, list_sources
from train.data.video_folder import resampled, step_of
from train.evaluation.metrics import gradient_energy
from train.evaluation.optical_flow import carried_on, dis, farneback
from train.evaluation.protocols import Evaluation, Figures, average, compare, rounded
from train.sheets import rows_of_frames
from train.sim.world import to_video

AHEAD = 10  # frames, at most
SIZE = 128  # of the longer side, where there is no model


class ClipWindows(NamedTuple):
    """Parts of one clip, evenly spaced in time."""

    name: str
    video: Video  # (N, T, C, H, W)
    fps: float  # 0 where it is not known


class ClipsEvaluation(Evaluation):
    """Every clip of --data, in --windows parts of --context + --horizon frames, at most 10 ahead, at --fps.

    Frames are whole, with --size pixels on the longer side, for models that take such; others get a square crop of
    their own size. Without a model the baselines alone are scored. Raises ValueError where --data is missing or holds
    no clip that is long enough, FileNotFoundError where there is no folder.
    """

    def __init__(self, model: Predictor | None, args: argparse.Namespace, world: Mapping[str, Any]) -> None:
        super().__init__(model, args)
        if not args.data:
            raise ValueError("a folder of videos is needed: give it by --data")
        if not args.data.exists():
            raise FileNotFoundError(f"{args.data} is not a folder")
        self.context, self.horizon = args.context, min(args.horizon, AHEAD)
        self.whole = model is None or model.whole_frames
        if args.size and not self.whole:
            raise ValueError(f"the model takes squares of {model.config.image_size} pixels alone: leave out --size")
        size = args.size or (model.config.image_size if model else SIZE)
        channels = model.config.channels if model else 3
        fps = args.fps or float(world.get("fps") or 0.0)
        options = ReadOptions(
            size=size, channels=channels, fit="pad" if self.whole else "crop", arrays=array_options(args)
        )
        frames = self.context + self.horizon
        self.windows = list(read_windows(args.data, options, frames, args.windows, fps))
        if not self.windows:
            raise ValueError(f"{args.data} holds no clip of {frames} frames")
        self.source = f"{args.data.name}, {f'{fps:g} frames a second' if fps else 'at their own rates'}"
        self.made: dict[str, Figures] = {}

    def clips(self, count: int, frames: int) -> Video:
        return self.windows[0].video[:count, :frames]

    def protocols(self) -> dict[str, Callable[[], Figures]]:
        """One for all clips, their mean, and one for each."""
        clips = {clip.name: partial(self.scored, clip) for clip in self.windows}
        return {"clips": partial(self.mean, clips)} | {f"clips: {name}": score for name, score in clips.items()}

    def run(self, names: Sequence[str]) -> Figures:
        return {name: score() for name, score in self.protocols().items()} if "clips" in names else {}

    def mean(self, clips: Mapping[str, Callable[[], Figures]]) -> Figures:
        """Every clip counts alike."""
        each = [score() for score in clips.values()]
        rows: dict[str, list[Tensor]] = defaultdict(list)
        for figures in each:
            for name, values in figures["per_horizon"].items():
                rows[name].append(torch.tensor(values, dtype=torch.float64))
        lost = {m: max(f["psnr lost to a copy"][m] for f in each) for m in each[0]["psnr lost to a copy"]}
        return self.measured(self.title(f"{len(each)} clips"), average(rows) | {"psnr lost to a copy": lost})

    def title(self, what: str) -> str:
        title = (
            f"{self.context} -> {self.horizon}, {what}; `farneback`, `dis`: the last frame warped on along such flow"
        )
        n = self.args.futures
        futures = f"; `best`, `mean`: of {n} futures, seeds 0 to {n - 1}; `guess`: temperature 0"
        return title + (futures if self.model else "")

    def scored(self, clip: ClipWindows) -> Figures:
        """Figures of one clip, computed once.

        `psnr lost to a copy`: how far a prediction's mean PSNR falls below that of the last frame, at the worst time.
        """
        if clip.name not in self.made:
            count, *_, height, width = clip.video.shape
            rate = f" at {clip.fps:.3g} frames a second" if clip.fps else ""
            figures = self.window_figures(clip.video)
            rows = {name: torch.tensor(values) for name, values in figures["per_horizon"].items()}
            methods = [name.removeprefix("psnr ") for name in rows if name.startswith("psnr ")]
            lost = {m: rounded((rows["psnr copy"] - rows[f"psnr {m}"]).max()[None])[0] for m in methods if m != "copy"}
            title = self.title(f"{count} windows of {width}x{height}{rate}")
            self.made[clip.name] = self.measured(title, figures | {"psnr lost to a copy": lost})
        return self.made[clip.name]

    def window_figures(self, windows: Video) -> Figures:
        """Mean figures per frame ahead over windows (N, T, C, H, W); `sharpness`: gradient energy over the truth's."""
        rows, gradients = defaultdict(list), defaultdict(list)
        for window in tqdm(windows, desc="clips", disable=None):
            window = window.to(self.args.device)
            made, true = self.predictions(window[: self.context]), unit(window[self.context :])
            for name, values in compare(made, true, self.metrics).items():
                if not name.startswith("mse"):
                    rows[name].append(values)
            for name, frames in (made | {"true": true[None]}).items():
                gradients[name].append(gradient_energy(frames).mean(dim=0))
        sharpness = torch.stack(gradients.pop("true")).mean(dim=0).clamp(min=1e-9)
        rows |= {f"sharpness {name}": [v / sharpness for v in values] for name, values in gradients.items()}
        return average(rows)

    def predictions(self, prompt: Video) -> dict[str, Video]:
        """Futures (N, horizon, C, H, W) on [0, 1] of a prompt (T, C, H, W), by name."""
        made: dict[str, Video] = {}
        if self.model:
            seeds = range(self.args.futures)
            made["model"] = unit(predict(self.model, prompt, self.horizon, self.sampling, seeds))
            if "temperature" in self.model.knobs:
                made["guess"] = unit(predict(self.model, prompt, self.horizon, replace(self.sampling, temperature=0.0)))
        last = unit(prompt[-2:])
        made["copy"] = last[-1].expand(1, self.horizon, *prompt.shape[1:])
        made["farneback"] = carried_on(last[0], last[-1], self.horizon, farneback)[None]
        made["dis"] = carried_on(last[0], last[-1], self.horizon, dis)[None]
        return made

    def sheet(self) -> np.ndarray:
        """Of up to 8 clips one window: the truth, each prediction (of a model the first of its futures)."""
        pictures = []
        for clip in self.windows[:8]:
            window = clip.video[len(clip.video) // 2].to(self.args.device)
            prompt, made = window[: self.context], self.predictions(window[: self.context])
            futures = [2 * futures[0] - 1 for name, futures in made.items() if name != "copy"]
            pictures.append(rows_of_frames([window, *(torch.cat([prompt, future]) for future in futures)]))
        wide = max(picture.shape[1] for picture in pictures)
        return np.concatenate([np.pad(p, ((0, 6), (0, wide - p.shape[1]), (0, 0))) for p in pictures])


# ---- reading -----------------------------------------------------------------------------------------


def read_windows(folder: Path, options: ReadOptions, frames: int, count: int, fps: float) -> list[ClipWindows]:
    """Up to `count` windows of every source in a folder. Prints which sources are passed over.

    fps 0: at each source's own rate. options.fit "pad": whole frames, without the bars.
    """
    sources, skipped = list_sources(folder)
    clips = []
    for name, source in sources.items():
        try:
            clips.append(ClipWindows(name, *windows_of(source, options, frames, count, fps)))
        except READ_ERRORS as error:
            skipped[name] = str(error)
    for name, reason in skipped.items():
        print(f"{folder}: passes over {name}: {reason}", file=sys.stderr)
    return clips


def windows_of(source: Source, options: ReadOptions, frames: int, count: int, fps: float) -> tuple[Video, float]:
    """Windows (N, frames, C, H, W) of a source, and its rate. ValueError where it is too short.

    Cuts count as any other motion: a window may hold one.
    """
    with tempfile.TemporaryDirectory() as scratch:
        video = read(source, options, Path(scratch))
        steps = resampled(frames, step_of(video.fps, fps, 1))
        last = video.count - int(steps[-1]) - 1
        if last < 0:
            raise ValueError(f"it has {video.count} frames, a window takes {steps[-1] + 1}")
        starts = np.unique(np.linspace(0, last, count).round().astype(int))
        numbers = starts[:, None] + steps  # (N, frames)
        needed = set(numbers.flatten().tolist())
        pixels = {k: np.array(frame) for k, frame in enumerate(video.frames) if k in needed}
    windows = np.stack([np.stack([pixels[k] for k in row]) for row in numbers.tolist()])
    if options.fit == "pad":
        windows = without_bars(windows, *video.size)
    return to_video(torch.from_numpy(np.ascontiguousarray(windows))), fps if fps and video.fps else video.fps


def without_bars(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Padded squares (..., S, S, C) of frames of this size -> the frames, cropped to multiples of 8 pixels."""
    side = pixels.shape[-2]
    sizes = [max(8, int(side * n / max(width, height) + 0.01) // 8 * 8) for n in (height, width)]
    y, x = ((side - n) // 2 for n in sizes)
    return pixels[..., y : y + sizes[0], x : x + sizes[1], :]
