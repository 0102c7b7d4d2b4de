"""Protocols of a folder of videos: whether futures follow actions, and which way they turn a camera."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import NO_CONDITION, Batch, Predictor, Sampling, Video
from stt.metrics import unit
from stt.sampler import predict
from train.data.account import some
from train.data.arrays import array_options
from train.data.splits import file_of, hashed
from train.data.video_folder import VideoFolder, VideoFolderConfig
from train.evaluation.frechet import st_lpips_frechet
from train.evaluation.optical_flow import sideways_motion
from train.evaluation.protocols import (
    CONTEXT,
    Evaluation,
    Figures,
    action_condition,
    average,
    mean_similarity,
    rounded,
    with_and_without_actions,
)
from train.sheets import contact_sheet

LAGS = (0, 1, 2)  # frames from an action to the motion that it is correlated with


class VideosEvaluation(Evaluation):
    """Held-out clips of --data that share no frame, of CONTEXT + --horizon frames.

    Without their actions where the model takes none or the folder has none. Raises ValueError where --data is missing
    or cannot be read, for videos that are too short and for actions that the model does not take, FileNotFoundError
    where there is no folder.
    """

    def __init__(self, model: Predictor, args: argparse.Namespace, world: Mapping[str, Any]) -> None:
        super().__init__(model, args)
        if not args.data:
            raise ValueError("a folder of videos is needed: give it by --data")
        config = VideoFolderConfig(**world) if world.get("kind") == "folder" else VideoFolderConfig()
        self.horizon = args.horizon
        self.batch, self.source = held_out(model, config, args)

    def clips(self, count: int, frames: int) -> Video:
        return self.batch.video[:count, :frames]

    def sheet(self) -> np.ndarray:
        """Up to 4 clips, also under both ways of steering where the model takes actions; twice as large."""
        clips, ways = self.batch.video[:4], ()
        if self.batch.actions is not None:
            ways = [
                [action_condition(a) for a in both_ways(row[CONTEXT - 1 : -1]).values()] for row in self.batch.actions
            ]
        return contact_sheet(self.model, clips, self.sampling, ways, every=2).repeat(2, axis=0).repeat(2, axis=1)

    def protocols(self) -> dict[str, Callable[[], Figures]]:
        table = super().protocols()
        if self.st_lpips:
            table["frechet"] = partial(st_lpips_frechet, self)
        if self.batch.actions is not None:
            table |= {"action_following": self.action_following, "steering": self.steering}
        return table

    def action_following(self) -> Figures:
        batch = self._prompts()
        title = (
            f"{CONTEXT} -> {self.horizon}, {len(batch)} prompts, seeds 0 to 3; `conditioned`: on the clip's own actions"
        )
        return self.measured(title, action_following(self.model, batch, self.sampling))

    def steering(self) -> Figures:
        batch = self._prompts()
        title = (
            f"{CONTEXT} -> {self.horizon}, {len(batch)} prompts, seeds 0 to 3; pixels that the upper half goes to the "
        )
        title += f"right from frame to frame; `+1`, `-1`: {self.model.config.actions[0]}, other actions as recorded"
        return self.measured(title, steering(self.model, batch, self.sampling))

    def _prompts(self) -> Batch:
        count = self.args.prompts
        return Batch(self.batch.video[:count], self.batch.actions[:count])


def held_out(model: Predictor, config: VideoFolderConfig, args: argparse.Namespace) -> tuple[Batch, str]:
    """Up to --clips held-out clips, with actions where the model takes them, and where they come from, in words.

    Prints what was understood of the folder, where there are fewer clips, and which held-out files the model has
    trained on.
    """
    c, options = model.config, {"fps": config.fps, "stride": config.stride, "fit": config.fit, "device": args.device}
    frames, options = CONTEXT + args.horizon, options | {"arrays": array_options(args)}
    videos = VideoFolder(args.data, "test", frames, c.image_size, c.channels, **options)
    videos.report()
    count, rate = (
        min(args.clips, len(videos)),
        f"{videos.fps:g} frames a second" if videos.fps else f"stride {videos.stride}",
    )
    source = f"{args.data.name}, held out, {rate}"
    if count < args.clips:
        clips = f"{len(videos)} clips of {videos.frames} frames at {rate}"
        print(f"{videos.folder} holds out {clips}, not {args.clips}: all of them are used", file=sys.stderr)
    if trained := trained_on(model.card, videos.names["test"]):
        source += f", {len(trained)} of {len(videos.names['test'])} files trained on"
        print(
            f"the model has trained on files of these names, which {videos.folder} holds out: {some(trained)}",
            file=sys.stderr,
        )
    if unnamed := model.card.get("files", {}).get("more_train", 0):
        print(f"the model's card leaves out {unnamed} of the files that it has trained on", file=sys.stderr)
    batch = videos.held_out(count)
    if batch.actions is None or "actions" not in model.knobs:
        return Batch(batch.video), source
    if videos.actions != len(c.actions):
        raise ValueError(f"the model takes {len(c.actions)} actions, {videos.folder} has {videos.actions}")
    videos.check_actions()
    return batch, source


def trained_on(card: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Those of some files or segments that a model, or one that it builds on, has trained on, by its card."""
    files = set(card.get("files", {}).get("train", ()))
    whole = files | set(map(file_of, files))
    own = [name for name in names if {file_of(name), hashed(file_of(name))} & files or {name, hashed(name)} & whole]
    nested = [name for part in card.values() if isinstance(part, dict) for name in trained_on(part, names)]
    return sorted({*own, *nested})


def action_following(
    model: Predictor, batch: Batch, sampling: Sampling, seeds: Sequence[int] = range(4), context: int = CONTEXT
) -> Figures:
    """Similarity of futures with the clip's own, `conditioned` on the clip's actions and `unconditional`.

    Means over the seeds' futures; `copy`: the last frame stays. Raises ValueError for a model that takes no actions.
    """
    rows = defaultdict(list)
    for video, actions in zip(tqdm(batch.video, desc="action following"), batch.actions, strict=True):
        futures = with_and_without_actions(model, video[:context], actions[context - 1 : -1], sampling, seeds)
        for name, values in mean_similarity(futures, video[context:]).items():
            rows[name].append(values)
    return average(rows)


def both_ways(actions: Tensor) -> dict[str, Tensor]:
    """Actions (T, A) with the first number, which steers, at +1 and at -1, and the others as they are."""
    return {f"{way:+d}": torch.cat([torch.full_like(actions[:, :1], way), actions[:, 1:]], dim=1) for way in (1, -1)}


def steering(
    model: Predictor, batch: Batch, sampling: Sampling, seeds: Sequence[int] = range(4), context: int = CONTEXT
) -> Figures:
    """Which way futures turn the camera, as pixels that the picture moves to the right between frames.

    `motion`: the mean over prompts and futures, `unconditional`, or conditioned on the first action at `+1` or `-1` and
    the others as recorded, or of the clips themselves (`truth`). `motion spread unconditional`: standard deviation over
    the futures of a prompt, root mean square over prompts; `motion spread truth`: over all clips, whose prompts differ
    too. `correlation ...`: of the clips' motion with the first action recorded as many frames earlier, and of their
    means over a clip, which says what the measure is worth. Raises ValueError for a model that takes no actions.
    """
    horizon, rows, true = batch.video.shape[1] - context, defaultdict(list), []
    for video, actions in zip(tqdm(batch.video, desc="steering"), batch.actions, strict=True):
        ways = {way: action_condition(a) for way, a in both_ways(actions[context - 1 : -1]).items()}
        for name, condition in ({"unconditional": NO_CONDITION} | ways).items():
            futures = predict(model, video[:context], horizon, sampling, seeds, condition)
            clips = [torch.cat([video[context - 1 : context], future]) for future in futures]
            motion = torch.stack([sideways_motion(unit(clip)) for clip in clips])
            rows[f"motion {name}"].append(motion.mean(dim=0))
            if name == "unconditional":
                rows["variance"].append(motion.var(dim=0))
        true.append(sideways_motion(unit(video)))
        rows["motion truth"].append(true[-1][context - 1 :])
    variance, motion = torch.stack(rows.pop("variance")), torch.stack(true)  # (N, horizon), (N, T-1)
    figures = average(rows)
    spread = {"unconditional": variance.mean(dim=0).sqrt(), "truth": motion[:, context - 1 :].std(dim=0)}
    figures["per_horizon"] |= {f"motion spread {name}": rounded(values) for name, values in spread.items()}
    figures["mean"] |= {f"motion spread {name}": rounded(values.mean()[None])[0] for name, values in spread.items()}
    steer, last = batch.actions[:, :-1, 0], motion.shape[1]
    correlations = {f"{lag} later": correlation(motion[:, lag:], steer[:, : last - lag]) for lag in LAGS}
    correlations |= {"over a clip": correlation(motion.mean(dim=1), steer.mean(dim=1))}
    return figures | {f"correlation of true motion with {model.config.actions[0]}": correlations}


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's, of two tensors of one shape; None where one of them is constant."""
    return rounded(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1:])[0]
