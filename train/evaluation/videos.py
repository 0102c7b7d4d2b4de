"""The yardstick on a folder of videos: how near futures come, which way they turn, and whether as they are told."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Condition, Predictor, Sampling, Tokenizer, Video
from stt.metrics import unit
from stt.sampler import predict
from train.data.video_folder import VideoFolder, VideoFolderBatch, VideoFolderConfig
from train.evaluation.metrics import gradient_energy
from train.evaluation.optical_flow import extrapolated, sideways
from train.evaluation.protocols import (
    CONTEXT,
    Figures,
    compared,
    nearness,
    per_horizon,
    reconstruction,
    rounded,
    spreads,
    steered,
    surprise,
    told_or_free,
)
from train.evaluation.simulated_futures import controls_of

LATER = (0, 1, 2)  # frames after an action at which a turn is looked for


def held_out_videos(model: Predictor, world: VideoFolderConfig, args: argparse.Namespace) -> VideoFolderBatch:
    """Up to --clips held-out clips of --data that share no frame, of CONTEXT + --horizon frames; tells of fewer.

    Without their actions where the model takes none or the folder has none. Raises ValueError for a folder that cannot
    be read, for recordings that are too short and for actions that the model cannot be told, FileNotFoundError where
    there is no folder.
    """
    if args.horizon < 1:
        raise ValueError(f"horizon is {args.horizon}, must be at least 1")
    c = model.config
    options = {"stride": world.stride, "fit": world.fit, "device": args.device}
    videos = VideoFolder(args.data, "test", CONTEXT + args.horizon, c.image_size, c.channels, **options)
    count = min(args.clips, len(videos))
    if count < args.clips:
        held = f"{len(videos)} clips of {videos.frames} frames at stride {videos.stride}"
        print(f"{videos.folder} holds out {held}, not {args.clips}: all of them are used", file=sys.stderr)
    clips = videos.held_out(count)
    if clips.actions is None or "actions" not in model.knobs:
        return clips._replace(actions=None)
    if videos.actions != len(c.actions):
        raise ValueError(f"the model takes {len(c.actions)} actions, {videos.folder} has {videos.actions}")
    if not clips.actions.abs().max() <= 1:
        low, high = clips.actions.aminmax()
        raise ValueError(f"actions of {videos.folder} go from {low:g} to {high:g}, the model is told -1 to 1")
    return clips


def forecasts(
    model: Predictor,
    clips: Sequence[Video],
    sampling: Sampling,
    count: int,
    context: int = CONTEXT,
    controls: Mapping[str, Predictor] = MappingProxyType({}),
) -> Figures:
    """Best and mean of `count` futures per horizon of clips (T, C, H, W), and what else could be said of them.

    `guess`: one future at temperature 0, of models that have one; `copy`: the last frame stays; `flow`: it goes on as
    the prompt's last two do, by `extrapolated`; controls: other models by name, the best of as many futures of each.
    `sharpness`: gradient energy over that of the true futures.
    """
    rows, gradients, seconds = defaultdict(list), defaultdict(list), 0.0
    for clip in tqdm(clips, desc="best of N"):
        prompt, truth = clip[:context], unit(clip[context:])
        begun = time.perf_counter()
        made = {"model": unit(predict(model, prompt, len(truth), sampling, range(count)))}
        seconds += time.perf_counter() - begun
        if "temperature" in model.knobs:
            made["guess"] = unit(predict(model, prompt, len(truth), replace(sampling, temperature=0.0)))
        for name, control in controls.items():
            made[name] = unit(predict(control, prompt, len(truth), sampling, range(count)))
        made["copy"] = unit(prompt[-1:]).expand(1, *truth.shape)
        made["flow"] = extrapolated(*unit(prompt[-2:]), len(truth))[None]
        for name, values in compared(made, truth).items():
            rows[name].append(values)
        for name, frames in (made | {"truth": truth[None]}).items():
            gradients[name].append(gradient_energy(frames).mean(dim=0))
    true = torch.stack(gradients.pop("truth")).mean(dim=0)
    rows |= {f"sharpness {name}": [values / true for values in found] for name, found in gradients.items()}
    frames = len(clips) * count * (len(clips[0]) - context)
    return per_horizon(rows) | {"seconds_per_frame": round(seconds / frames, 4)}


# ---- actions -----------------------------------------------------------------------------------------


def turned(recorded: Tensor) -> dict[str, Tensor]:
    """Actions (T, A) with the first number, what steers, at +1 and at -1, and the others as they are."""
    return {f"{way:+d}": torch.cat([torch.full_like(recorded[:, :1], way), recorded[:, 1:]], dim=1) for way in (1, -1)}


def obedience(
    model: Predictor,
    clips: VideoFolderBatch,
    sampling: Sampling,
    seeds: Sequence[int] = range(4),
    context: int = CONTEXT,
) -> Figures:
    """How near futures come to the clip's own when told the actions that led to it (`told`), and when not (`free`).

    Each a mean over futures of the seeds, of one by one; `copy`: the last frame stays. Raises ValueError for a model
    that takes no actions.
    """
    rows = defaultdict(list)
    for video, actions in zip(tqdm(clips.video, desc="obedience"), clips.actions, strict=True):
        futures = told_or_free(model, video[:context], actions[context - 1 : -1], sampling, seeds)
        for name, values in nearness(futures, video[context:]).items():
            rows[name].append(values)
    return per_horizon(rows)


def turns(
    model: Predictor,
    clips: VideoFolderBatch,
    sampling: Sampling,
    seeds: Sequence[int] = range(4),
    context: int = CONTEXT,
) -> Figures:
    """Which way futures turn, as pixels that the picture goes to the right from one frame to the next (train/flow.py).

    `motion`: the mean over prompts and futures that are free, told the first action at +1 or at -1 and the others as
    recorded, or true. `motion spread free`: standard deviation over the free futures of a prompt, root mean square over
    prompts; `motion spread truth`: over all true clips, whose prompts differ too. `correlation ...`: of the true motion
    with the first action recorded as many frames earlier, and of their means over a clip: what the measure is worth.
    Raises ValueError for a model that takes no actions.
    """
    if "actions" not in model.knobs:
        raise ValueError(f"the model of family {model.family} takes no actions")
    horizon, rows, true = clips.video.shape[1] - context, defaultdict(list), []
    for video, actions in zip(tqdm(clips.video, desc="turns"), clips.actions, strict=True):
        told = {f"told {way}": steered(told) for way, told in turned(actions[context - 1 : -1]).items()}
        for name, how in ({"free": Condition()} | told).items():
            futures = predict(model, video[:context], horizon, sampling, seeds, how)
            found = torch.stack([sideways(unit(torch.cat([video[context - 1 : context], f]))) for f in futures])
            rows[f"motion {name}"].append(found.mean(dim=0))
            if name == "free":
                rows["variance"].append(found.var(dim=0))
        true.append(sideways(unit(video)))
        rows["motion truth"].append(true[-1][context - 1 :])
    variance, motion = torch.stack(rows.pop("variance")), torch.stack(true)  # (N, horizon), (N, T-1)
    figures = per_horizon(rows)
    spread = {"free": variance.mean(dim=0).sqrt(), "truth": motion[:, context - 1 :].std(dim=0)}
    figures["per_horizon"] |= {f"motion spread {name}": rounded(values) for name, values in spread.items()}
    figures["mean"] |= {f"motion spread {name}": rounded(values.mean()[None])[0] for name, values in spread.items()}
    steering, last = clips.actions[:, :-1, 0], motion.shape[1]
    found = {f"{later} later": correlation(motion[:, later:], steering[:, : last - later]) for later in LATER}
    found |= {"over a clip": correlation(motion.mean(dim=1), steering.mean(dim=1))}
    return figures | {f"correlation of true motion with {model.config.actions[0]}": found}


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's, of two tensors of one shape; None where one of them never changes."""
    return rounded(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1:])[0]


# ---- all of it ---------------------------------------------------------------------------------------


def evaluate_videos(
    model: Predictor, clips: VideoFolderBatch, world: VideoFolderConfig, args: argparse.Namespace
) -> Figures:
    """Every chosen protocol's figures that a folder of videos has, each with the manifest that it was measured by.

    args: of the command train.evaluate.
    """
    sampling = Sampling(temperature=args.temperature)
    drawn = f"temperature {args.temperature}"
    source, only = f"{args.data.name}, held out, stride {world.stride}", set(args.only)
    count, length = clips.video.shape[:2]
    ahead = f"{CONTEXT} -> {length - CONTEXT}"
    scores: Figures = {}

    def put(name: str, title: str, figures: Figures) -> None:
        scores[name] = {"protocol": f"{title}, {source}; {drawn}"} | figures

    if "tokenizer" in only and isinstance(getattr(model, "tokenizer", None), Tokenizer):
        frames = clips.video[:64, :15]
        put("tokenizer", f"{len(frames)} clips of {frames.shape[1]} frames", reconstruction(model.tokenizer, frames))
    if "best_of" in only:
        title = f"{ahead}, {count} prompts, {args.futures} futures, seeds 0 to {args.futures - 1}; "
        title += "`guess`: temperature 0; `flow`: the last frame warped on along Farneback's of the prompt's last two"
        controls = controls_of(model) if args.controls else {}
        put("best_of", title, forecasts(model, clips.video, sampling, args.futures, controls=controls))
    if "spread" in only:
        some = clips.video[:32]
        title = f"{ahead}, {len(some)} prompts, 8 futures; standard deviation over futures"
        put("spread", title, {"by_temperature": spreads(model, some, CONTEXT)})
    if "surprise" in only and (figures := surprise(model, clips.video[:, :20])):
        title = f"{count} clips of {min(length, 20)} frames; frames 3 to the last; bits per pixel and channel"
        put("surprise", title, figures)
    if clips.actions is None:
        return scores
    some = VideoFolderBatch(clips.video[: args.prompts], clips.actions[: args.prompts], None)
    prompts = f"{ahead}, {len(some.video)} prompts"
    if "obedience" in only:
        title = f"{prompts}, seeds 0 to 3; `told`: under the recorded actions, `free`: under none given"
        put("obedience", title, obedience(model, some, sampling))
    if "turns" in only:
        title = f"{prompts}, seeds 0 to 3; pixels that the upper half goes to the right from frame to frame; "
        title += f"`told`: {model.config.actions[0]} at +1 or -1, other actions as recorded; `free`: under none given"
        put("turns", title, turns(model, some, sampling))
    return scores
