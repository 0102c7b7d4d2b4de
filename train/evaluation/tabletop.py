"""Protocols of the tabletop: objects that stay, where the pusher goes, and whether it follows actions."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Condition, Predictor, Sampling, Video
from stt.checkpoint import write_whole
from stt.sampler import predict
from train.evaluation.metrics import SetDistances, energy_distance
from train.evaluation.protocols import (
    CONTEXT,
    HORIZON,
    SEED,
    Evaluation,
    Figures,
    action_condition,
    average,
    mean_similarity,
    rounded,
    with_and_without_actions,
)
from train.evaluation.simulated_futures import Prompt, simulated_futures, simulation_title
from train.evaluation.tracking import Track, object_permanence, track_pusher
from train.seeding import generator_for
from train.sheets import contact_sheet
from train.sim.tabletop.world import Tabletop, TabletopClip, TabletopConfig, to_pictures, to_video

GOLDEN_ANGLE, SPEED = 2.4, 0.8  # radians between the straight lines of successive clips; length of their actions


class TabletopEvaluation(Evaluation):
    """Held-out tabletop clips, simulated once; the folder --simulated stores what is simulated."""

    horizon, source = HORIZON, f"tabletop, held-out seed {SEED}"

    def __init__(self, model: Predictor, args: argparse.Namespace, world: Mapping[str, Any]) -> None:
        super().__init__(model, args)
        if model.config.channels != 3:
            raise ValueError("the model takes gray frames, the tabletop is in colour")
        tabletop = Tabletop(TabletopConfig(image_size=model.config.image_size, frames=30), "test")
        self.simulator = SimulatedFuturesCache(tabletop, args.simulated)

    def held_out(self, count: int) -> list[TabletopClip]:
        return held_out(self.simulator, count, self.args.device)

    def clips(self, count: int, frames: int) -> Video:
        return torch.stack([clip.video[:frames] for clip in self.held_out(count)])

    def sheet(self) -> np.ndarray:
        """4 clips, also under actions to the right and to the left where the model takes actions; twice as large."""
        ways = [Condition(actions=(action,)) for action in ((1.0, 0.0), (-1.0, 0.0)) if "actions" in self.model.knobs]
        clips = self.clips(4, CONTEXT + HORIZON)
        picture = contact_sheet(self.model, clips, self.sampling, [ways] * len(clips), every=2)
        return picture.repeat(2, axis=0).repeat(2, axis=1)

    def protocols(self) -> dict[str, Callable[[], Figures]]:
        table = super().protocols()
        table |= {"simulated_futures": self.simulated_futures, "pusher_distribution": self.pusher_distribution}
        if "actions" in self.model.knobs:
            table["action_following"] = self.action_following
        return table

    def simulated_futures(self) -> Figures:
        count, prompts = self.args.sets, prompts_of(self.simulator, self.held_out(self.args.prompts))
        figures = simulated_futures(self.model, prompts, self.sampling, count, controls=self.controls())
        return self.measured(simulation_title(len(prompts), count), figures)

    def pusher_distribution(self) -> Figures:
        count, prompts = self.args.sets, prompts_of(self.simulator, self.held_out(self.args.prompts))
        figures = pusher_distribution(self.model, prompts, self.sampling, count)
        return self.measured(simulation_title(len(prompts), count), figures)

    def action_following(self) -> Figures:
        clips = self.held_out(self.args.prompts)
        title = f"{CONTEXT} -> {HORIZON}, {len(clips)} prompts, seeds 0 to 3; `conditioned`: on the clip's own actions"
        return self.measured(title, action_following(self.model, self.simulator, clips, self.sampling))


def held_out(
    tabletop: Tabletop | SimulatedFuturesCache, count: int, device: torch.device | str = "cpu"
) -> list[TabletopClip]:
    """The first `count` held-out clips; fewer are the beginning of more."""
    clips = (tabletop.clip(SEED, index) for index in tqdm(range(count), desc="held-out clips"))
    return [clip._replace(video=clip.video.to(device)) for clip in clips]


class SimulatedFuturesCache:
    """A tabletop that simulates everything once and then reads it from a folder, which needs no MuJoCo."""

    def __init__(self, tabletop: Tabletop, folder: Path) -> None:
        self.tabletop, self.folder = tabletop, folder

    def clip(self, seed: int, index: int) -> TabletopClip:
        def simulate() -> dict[str, Any]:
            clip = self.tabletop.clip(seed, index)
            return clip._asdict() | {"video": _pixels(clip.video)}

        fields = self._cached(simulate, "clip", seed, index)
        return TabletopClip(**fields | {"video": to_video(fields["video"])})

    def futures(self, clip: TabletopClip, at_frame: int, frames: int, count: int, seed: int) -> Video:
        key = at_frame, frames, count, seed
        simulate = partial(self.tabletop.futures, clip, *key)
        return to_video(self._cached(lambda: _pixels(simulate()), "futures", clip.seed, clip.index, *key))

    def with_actions(self, clip: TabletopClip, at_frame: int, actions: Tensor) -> Video:
        simulate, key = partial(self.tabletop.with_actions, clip, at_frame, actions), repr(actions.tolist())
        return to_video(self._cached(lambda: _pixels(simulate()), "obeyed", clip.seed, clip.index, at_frame, key))

    def pusher_pixels(self, clip: TabletopClip) -> Tensor:
        return self._cached(partial(self.tabletop.pusher_pixels, clip), "pusher", clip.seed, clip.index)

    def _cached(self, simulate: Callable[[], Any], *key: str | int) -> Any:
        name = generator_for(repr(self.tabletop.config), self.tabletop.split, *key).initial_seed()
        path = self.folder / f"{name:016x}.pt"
        if not path.is_file():
            value = simulate()
            write_whole(path, lambda file: torch.save(value, file))
        return torch.load(path, weights_only=True)


def _pixels(video: Video) -> Tensor:
    """(..., H, W, 3) uint8, a quarter of the bytes."""
    return torch.from_numpy(to_pictures(video))


def prompts_of(
    tabletop: Tabletop | SimulatedFuturesCache, clips: Sequence[TabletopClip], context: int = CONTEXT
) -> list[Prompt]:
    """Prompts for `simulated_futures`.

    `objects`: share of the objects in the prompt's last frame that are still visible, by their hues; `all objects`:
    whether they all are; `new objects`: number of visible hues that no frame of the prompt shows.
    """

    def prompt(clip: TabletopClip) -> Prompt:
        video = clip.video[:context]

        def simulate(frames: int, count: int) -> Video:
            return tabletop.futures(clip, context, frames, count, seed=0).to(video.device)

        def preserved(futures: Video) -> dict[str, Tensor]:
            share, new = object_permanence(video, futures)
            return {"objects": share, "all objects": share == 1, "new objects": new}

        return Prompt(video, simulate, preserved)

    return [prompt(clip) for clip in clips]


# ---- the pusher --------------------------------------------------------------------------------------


def pusher_distribution(
    model: Predictor, prompts: Sequence[Prompt], sampling: Sampling, count: int = 16, horizon: int = HORIZON
) -> Figures:
    """Where the pusher goes in `count` unconditional futures, beside where it goes in simulated ones.

    `pusher spread`: standard deviation of its position over the futures of a prompt that show it, in pixels, root mean
    square over prompts. `pusher visible`: share of futures that show it. `pusher energy`: normalised energy distance of
    positions, a best guess where it is not visible.
    """
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(horizon, dtype=torch.float64))
    for prompt in tqdm(prompts, desc="pusher distribution"):
        true, again = (track_pusher(part) for part in prompt.simulate(horizon, 2 * count).split(count))
        predicted = track_pusher(predict(model, prompt.video, horizon, sampling, range(count)))
        copied = track_pusher(prompt.video[-1:].expand(count, horizon, -1, -1, -1))
        for name, track in {"model": predicted, "truth": again, "copy": copied}.items():
            excess, within = energy_distance(SetDistances.of(true.xy, track.xy))
            visible = track.visible.sum(dim=0)
            sums[f"energy {name}"] += excess.cpu()
            sums[f"visible {name}"] += visible.cpu()
            sums[f"squares {name}"] += (visible * _variance(track)).cpu()
            sums[f"freedom {name}"] += (visible - 1).clamp_min(0).cpu()
        sums["within"] += within.cpu()
    rows = {}
    for name in ("copy", "model", "truth"):
        rows[f"pusher energy {name}"] = sums[f"energy {name}"] / sums["within"]
        rows[f"pusher visible {name}"] = sums[f"visible {name}"] / (count * len(prompts))
        rows[f"pusher spread {name}"] = (sums[f"squares {name}"] / sums[f"freedom {name}"]).sqrt()
    return {"per_horizon": {name: rounded(values) for name, values in rows.items()}}


def _variance(track: Track) -> Tensor:
    """Mean squared distance of visible positions (N, T, 2) from their mean -> (T,); 0 of none."""
    weights = (track.visible / track.visible.sum(dim=0).clamp_min(1))[..., None]
    return (weights * (track.xy - (weights * track.xy).sum(dim=0)).square()).sum(dim=(0, 2))


def action_following(
    model: Predictor,
    tabletop: Tabletop | SimulatedFuturesCache,
    clips: Sequence[TabletopClip],
    sampling: Sampling,
    seeds: Sequence[int] = (0, 1, 2, 3),
    context: int = CONTEXT,
    horizon: int = HORIZON,
) -> Figures:
    """Similarity of futures with the clip's own, `conditioned` on the clip's actions and `unconditional`.

    Means over the seeds' futures; `copy`: the last frame stays. `pusher error`: distance in pixels of the tracked from
    the true position; its `copy` is the true position at the prompt's end, `tracker` is tracked in the true frames, the
    floor. Actions leave nothing to chance, so that `conditioned` futures can be right. `straight line`: conditioned on
    one action all the time, another one each clip, which mostly ends at a wall or with an object there; `straight line
    copy`: if the pusher stays. Raises ValueError for a model that takes no actions.
    """
    rows = defaultdict(list)
    for clip in tqdm(clips, desc="action following"):
        prompt, true = clip.video[:context], clip.video[context : context + horizon]
        positions = tabletop.pusher_pixels(clip)[context - 1 : context + horizon].to(true.device)
        actions = clip.actions[context - 1 : context - 1 + horizon]
        futures = with_and_without_actions(model, prompt, actions, sampling, seeds)
        for name, values in mean_similarity(futures, true).items():
            rows[name].append(values)
        tracks = {name: track_pusher(futures[name]).xy for name in ("conditioned", "unconditional")}
        tracks |= {"copy": positions[None, :1], "tracker": track_pusher(true).xy[None]}
        for name, xy in tracks.items():
            rows[f"pusher error {name}"].append((xy - positions[1:]).norm(dim=-1).mean(dim=0))
        angle = torch.tensor(GOLDEN_ANGLE * clip.index)
        actions = (SPEED * torch.stack([angle.cos(), angle.sin()])).expand(horizon, -1)
        end = track_pusher(tabletop.with_actions(clip, context, actions).to(true.device)).xy
        straight = track_pusher(predict(model, prompt, horizon, sampling, seeds, action_condition(actions))).xy
        for name, xy in {"straight line": straight, "straight line copy": positions[None, :1]}.items():
            rows[f"pusher error {name}"].append((xy - end).norm(dim=-1).mean(dim=0))
    return average(rows)
