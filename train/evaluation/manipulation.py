"""Protocols of simulated worlds in which actions move an agent that moves objects.

Whether objects stay, where the agent goes, and whether it follows actions.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Condition, Predictor, Sampling, Video
from stt.checkpoint import write_whole
from stt.sampler import predict
from train.evaluation.frechet import st_lpips_frechet
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
from train.evaluation.tracking import Track, object_permanence
from train.seeding import generator_for
from train.sheets import contact_sheet
from train.sim.world import World, to_pictures, to_video

MOVES = 1.0  # pixels of 64 from frame to frame, from which on a step has a direction
MAX_ANGLE = 45.0  # degrees between a right direction and the true one


class Agent(NamedTuple):
    """What actions move."""

    name: str  # in figures
    track: Callable[[Video], Track]  # of clips (..., T, 3, H, W)


class ManipulationEvaluation(Evaluation):
    """Held-out clips of a world, simulated once; the folder --simulated stores what is simulated.

    Raises RuntimeError where the simulator is missing, unless that folder holds something.
    """

    horizon = HORIZON
    agent: Agent
    sheet_actions: tuple[tuple[float, ...], ...]  # that futures on the sheet are conditioned on

    def __init__(self, model: Predictor, args: argparse.Namespace, world: World) -> None:
        super().__init__(model, args)
        if model.config.channels != 3:
            raise ValueError(f"the model takes gray frames, the {world.name} is in colour")
        if not any(args.simulated.glob("*.pt")):
            world.require()  # here, so that one message says what is missing
        self.simulator = SimulatedFuturesCache(world, args.simulated)
        self.source = f"{world.name}, held-out seed {SEED}"

    def held_out(self, count: int) -> list[Any]:
        return held_out(self.simulator, count, self.args.device)

    def prompts(self) -> list[Prompt]:
        return prompts_of(self.simulator, self.held_out(self.args.prompts))

    def other_actions(self, clips: Sequence[Any]) -> list[Tensor]:
        """For each clip actions (horizon, A) that are not its own."""
        raise NotImplementedError

    def clips(self, count: int, frames: int) -> Video:
        return torch.stack([clip.video[:frames] for clip in self.held_out(count)])

    def sheet(self) -> np.ndarray:
        """4 clips, also under `sheet_actions` where the model takes actions; twice as large."""
        ways = [Condition(actions=(action,)) for action in self.sheet_actions if "actions" in self.model.knobs]
        clips = self.clips(4, CONTEXT + HORIZON)
        picture = contact_sheet(self.model, clips, self.sampling, [ways] * len(clips), every=2)
        return picture.repeat(2, axis=0).repeat(2, axis=1)

    def protocols(self) -> dict[str, Callable[[], Figures]]:
        table = super().protocols()
        if self.st_lpips:
            table["frechet"] = partial(st_lpips_frechet, self)
        table["simulated_futures"] = self.simulated_futures
        table[f"{self.agent.name}_distribution"] = self.position_distribution
        if "actions" in self.model.knobs:
            table["action_following"] = self.action_following
        return table

    def simulated_futures(self) -> Figures:
        count, prompts = self.args.sets, self.prompts()
        figures = simulated_futures(self.model, prompts, self.sampling, count, controls=self.controls())
        return self.measured(simulation_title(len(prompts), count), figures)

    def position_distribution(self) -> Figures:
        count, prompts = self.args.sets, self.prompts()
        figures = position_distribution(self.model, prompts, self.sampling, self.agent, count)
        return self.measured(simulation_title(len(prompts), count), figures)

    def action_following(self) -> Figures:
        clips = self.held_out(self.args.prompts)
        title = f"{CONTEXT} -> {HORIZON}, {len(clips)} prompts, seeds 0 to 3; `conditioned`: on the clip's own actions"
        figures = action_following(
            self.model, self.simulator, clips, self.sampling, self.agent, self.other_actions(clips)
        )
        return self.measured(title, figures)


# ---- simulation --------------------------------------------------------------------------------------


class SimulatedFuturesCache:
    """A world that simulates everything once and then reads it from a folder, which needs no MuJoCo."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder, self.object_colours = world, folder, world.object_colours

    def clip(self, seed: int, index: int) -> Any:
        def simulate() -> dict[str, Any]:
            clip = self.world.clip(seed, index)
            return clip._asdict() | {"video": _pixels(clip.video)}

        fields = self._cached(simulate, "clip", seed, index)
        return self.world.clip_type(**fields | {"video": to_video(fields["video"])})

    def futures(self, clip: Any, at_frame: int, frames: int, count: int, seed: int) -> Video:
        key = at_frame, frames, count, seed
        simulate = partial(self.world.futures, clip, *key)
        return to_video(self._cached(lambda: _pixels(simulate()), "futures", clip.seed, clip.index, *key))

    def with_actions(self, clip: Any, at_frame: int, actions: Tensor) -> Video:
        simulate, key = partial(self.world.with_actions, clip, at_frame, actions), repr(actions.tolist())
        return to_video(self._cached(lambda: _pixels(simulate()), "obeyed", clip.seed, clip.index, at_frame, key))

    def agent_pixels(self, clip: Any) -> Tensor:
        return self._cached(partial(self.world.agent_pixels, clip), "pusher", clip.seed, clip.index)

    def _cached(self, simulate: Callable[[], Any], *key: str | int) -> Any:
        name = generator_for(repr(self.world.config), self.world.split, *key).initial_seed()
        path = self.folder / f"{name:016x}.pt"
        if not path.is_file():
            value = simulate()
            write_whole(path, lambda file: torch.save(value, file))
        return torch.load(path, weights_only=True)


def _pixels(video: Video) -> Tensor:
    """(..., H, W, 3) uint8, a quarter of the bytes."""
    return torch.from_numpy(to_pictures(video))


Simulator = World | SimulatedFuturesCache


def held_out(simulator: Simulator, count: int, device: torch.device | str = "cpu") -> list[Any]:
    """The first `count` held-out clips; fewer are the beginning of more."""
    clips = (simulator.clip(SEED, index) for index in tqdm(range(count), desc="held-out clips"))
    return [clip._replace(video=clip.video.to(device)) for clip in clips]


def prompts_of(simulator: Simulator, clips: Sequence[Any], context: int = CONTEXT) -> list[Prompt]:
    """Prompts for `simulated_futures`.

    `objects`: share of the objects in the prompt's last frame that are still visible, by their hues; `all objects`:
    whether they all are; `new objects`: number of visible hues that no frame of the prompt shows.
    """

    def prompt(clip: Any) -> Prompt:
        video = clip.video[:context]

        def simulate(frames: int, count: int) -> Video:
            return simulator.futures(clip, context, frames, count, seed=0).to(video.device)

        def preserved(futures: Video) -> dict[str, Tensor]:
            share, new = object_permanence(video, futures, simulator.object_colours)
            return {"objects": share, "all objects": share == 1, "new objects": new}

        return Prompt(video, simulate, preserved)

    return [prompt(clip) for clip in clips]


# ---- the agent ---------------------------------------------------------------------------------------


def position_distribution(
    model: Predictor,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    agent: Agent,
    count: int = 16,
    horizon: int = HORIZON,
) -> Figures:
    """Where the agent goes in `count` unconditional futures, beside where it goes in simulated ones.

    `spread`: standard deviation of its position over the futures of a prompt that show it, in pixels, root mean square
    over prompts. `visible`: share of futures that show it. `energy`: normalised energy distance of positions, a best
    guess where it is not visible.
    """
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(horizon, dtype=torch.float64))
    for prompt in tqdm(prompts, desc=f"{agent.name} distribution"):
        true, again = (agent.track(part) for part in prompt.simulate(horizon, 2 * count).split(count))
        predicted = agent.track(predict(model, prompt.video, horizon, sampling, range(count)))
        copied = agent.track(prompt.video[-1:].expand(count, horizon, -1, -1, -1))
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
        rows[f"{agent.name} energy {name}"] = sums[f"energy {name}"] / sums["within"]
        rows[f"{agent.name} visible {name}"] = sums[f"visible {name}"] / (count * len(prompts))
        rows[f"{agent.name} spread {name}"] = (sums[f"squares {name}"] / sums[f"freedom {name}"]).sqrt()
    return {"per_horizon": {name: rounded(values) for name, values in rows.items()}}


def _variance(track: Track) -> Tensor:
    """Mean squared distance of visible positions (N, T, 2) from their mean -> (T,); 0 of none."""
    weights = (track.visible / track.visible.sum(dim=0).clamp_min(1))[..., None]
    return (weights * (track.xy - (weights * track.xy).sum(dim=0)).square()).sum(dim=(0, 2))


def action_following(
    model: Predictor,
    simulator: Simulator,
    clips: Sequence[Any],
    sampling: Sampling,
    agent: Agent,
    other_actions: Sequence[Tensor],
    seeds: Sequence[int] = (0, 1, 2, 3),
    context: int = CONTEXT,
    horizon: int = HORIZON,
) -> Figures:
    """Similarity of futures with the clip's own, `conditioned` on the clip's actions and `unconditional`.

    Means over the seeds' futures; `copy`: the last frame stays. Actions leave nothing to chance, so that `conditioned`
    futures can be right. `error`: distance in pixels of the agent's tracked from its true position; `copy` is the true
    position at the prompt's end, `tracker` is tracked in the true frames, the floor. `other actions`: conditioned on
    those of `other_actions`, (horizon, A) a clip, against what the simulator shows under them; `other actions copy`:
    if the agent stays. `direction`: share of the agent's steps of at least MOVES in truth that go within MAX_ANGLE of
    the true direction. Raises ValueError for a model that takes no actions.
    """
    rows, steps = defaultdict(list), defaultdict(list)
    for clip, actions in zip(tqdm(clips, desc="action following"), other_actions, strict=True):
        prompt, true = clip.video[:context], clip.video[context : context + horizon]
        positions = simulator.agent_pixels(clip)[context - 1 : context + horizon].to(true.device)
        futures = with_and_without_actions(
            model, prompt, clip.actions[context - 1 : context - 1 + horizon], sampling, seeds
        )
        for name, values in mean_similarity(futures, true).items():
            rows[name].append(values)
        tracks = {name: agent.track(futures[name]).xy for name in ("conditioned", "unconditional")}
        tracks |= {"copy": positions[None, :1], "tracker": agent.track(true).xy[None]}
        ends = dict.fromkeys(tracks, positions[1:])
        other = predict(model, prompt, horizon, sampling, seeds, action_condition(actions))
        tracks |= {"other actions": agent.track(other).xy, "other actions copy": positions[None, :1]}
        end = agent.track(simulator.with_actions(clip, context, actions).to(true.device)).xy
        ends |= {"other actions": end, "other actions copy": end}
        for name, xy in tracks.items():
            rows[f"{agent.name} error {name}"].append((xy - ends[name]).norm(dim=-1).mean(dim=0))
            if not name.endswith("copy"):
                steps[f"{agent.name} direction {name}"].append(
                    right_steps(xy, ends[name], positions[0], true.shape[-1] / 64)
                )
    figures = average(rows)
    for name, counts in steps.items():
        right, moving = torch.stack(counts).sum(dim=0)  # (T,) each
        figures["per_horizon"][name] = rounded(right / moving)
        figures["mean"][name] = rounded(right.sum()[None] / moving.sum())[0]
    return figures


def right_steps(xy: Tensor, true: Tensor, start: Tensor, scale: float) -> Tensor:
    """Positions (N, T, 2), true ones (T, 2) and their start (2,) -> (2, T): steps in the right direction, true moves.

    Both are means over N. scale: pixels of a pixel of 64.
    """
    step = torch.cat([start.expand(len(xy), 1, 2), xy], dim=1).diff(dim=1)  # (N, T, 2)
    true_step = torch.cat([start[None], true]).diff(dim=0)
    moves = true_step.norm(dim=-1) >= MOVES * scale  # (T,)
    right = torch.cosine_similarity(step, true_step[None], dim=-1) >= math.cos(math.radians(MAX_ANGLE))
    return torch.stack([(right & moves).double().mean(dim=0), moves.double()]).cpu()
