"""The yardstick on the tabletop: which objects stay, where the pusher goes, and whether it goes where it is told."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stt.api import Predictor, Sampling, Tokenizer, Video
from stt.checkpoint import write_whole
from stt.sampler import predict
from train.evaluation.metrics import SetDistances, energy
from train.evaluation.permanence import permanence
from train.evaluation.protocols import (
    CONTEXT,
    HORIZON,
    SEED,
    Figures,
    best_of,
    nearness,
    per_horizon,
    reconstruction,
    rounded,
    spreads,
    steered,
    surprise,
    told_or_free,
)
from train.evaluation.simulated_futures import Prompt, against_truth, controls_of
from train.evaluation.tracking import Places, find_pusher
from train.seeding import generator_for
from train.sim.tabletop.world import Tabletop, TabletopClip, TabletopConfig, to_pictures, to_video

GOLDEN, SPEED = 2.4, 0.8  # radians from one clip's way to the next one's, so that they go everywhere; of an action


def held_out_clips(
    tabletop: Tabletop | Remembered, count: int, device: torch.device | str = "cpu"
) -> list[TabletopClip]:
    """The first `count` held-out clips; fewer are the beginning of more."""
    clips = (tabletop.clip(SEED, index) for index in tqdm(range(count), desc="held-out clips"))
    return [clip._replace(video=clip.video.to(device)) for clip in clips]


class Remembered:
    """A tabletop that simulates everything once and from then on reads it from a folder, which needs no MuJoCo."""

    def __init__(self, tabletop: Tabletop, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.tabletop, self.folder = tabletop, folder

    def clip(self, seed: int, index: int) -> TabletopClip:
        def simulated() -> dict[str, Any]:
            clip = self.tabletop.clip(seed, index)
            return clip._asdict() | {"video": _pixels(clip.video)}

        fields = self._once(simulated, "clip", seed, index)
        return TabletopClip(**fields | {"video": to_video(fields["video"])})

    def futures(self, clip: TabletopClip, at_frame: int, frames: int, count: int, seed: int) -> Video:
        asked = at_frame, frames, count, seed
        simulate = partial(self.tabletop.futures, clip, *asked)
        return to_video(self._once(lambda: _pixels(simulate()), "futures", clip.seed, clip.index, *asked))

    def obeyed(self, clip: TabletopClip, at_frame: int, actions: Tensor) -> Video:
        simulate = partial(self.tabletop.obeyed, clip, at_frame, actions)
        told = repr(actions.tolist())
        return to_video(self._once(lambda: _pixels(simulate()), "obeyed", clip.seed, clip.index, at_frame, told))

    def pusher_pixels(self, clip: TabletopClip) -> Tensor:
        return self._once(partial(self.tabletop.pusher_pixels, clip), "pusher", clip.seed, clip.index)

    def _once(self, simulate: Callable[[], Any], *words: str | int) -> Any:
        name = generator_for(repr(self.tabletop.config), self.tabletop.split, *words).initial_seed()
        path = self.folder / f"{name:016x}.pt"
        if not path.is_file():
            write_whole(path, lambda file: torch.save(simulate(), file))
        return torch.load(path, weights_only=True)


def _pixels(video: Video) -> Tensor:
    """(..., H, W, 3) uint8, a quarter of the bytes."""
    return torch.from_numpy(to_pictures(video))


def tabletop_prompts(
    tabletop: Tabletop | Remembered, clips: Sequence[TabletopClip], context: int = CONTEXT
) -> list[Prompt]:
    """Prompts of the tabletop.

    `objects`: share of those that the prompt's last frame shows by their hues which are still seen; `all objects`:
    whether they all are; `new objects`: how many hues are seen that no frame of the prompt shows.
    """

    def prompt(clip: TabletopClip) -> Prompt:
        video = clip.video[:context]

        def truths(frames: int, count: int) -> Video:
            return tabletop.futures(clip, context, frames, count, seed=0).to(video.device)

        def kept(futures: Video) -> dict[str, Tensor]:
            there, new = permanence(video, futures)
            return {"objects": there, "all objects": there == 1, "new objects": new}

        return Prompt(video, truths, kept)

    return [prompt(clip) for clip in clips]


# ---- the pusher --------------------------------------------------------------------------------------


def moves(
    model: Predictor, prompts: Sequence[Prompt], sampling: Sampling, count: int = 16, horizon: int = HORIZON
) -> Figures:
    """Where the pusher goes in `count` futures of which no action is given, beside where it goes in true ones.

    `pusher spread`: standard deviation of its place over those futures of a prompt that show it, in pixels, root mean
    square over prompts. `pusher seen`: share of futures that show it. `pusher energy`: the normalised energy distance
    of train/metrics.py, of places; a best guess where none is seen.
    """
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(horizon, dtype=torch.float64))
    for prompt in tqdm(prompts, desc="moves"):
        true, again = (find_pusher(part) for part in prompt.truths(horizon, 2 * count).split(count))
        made = find_pusher(predict(model, prompt.video, horizon, sampling, range(count)))
        stayed = find_pusher(prompt.video[-1:].expand(count, horizon, -1, -1, -1))
        for name, found in {"model": made, "truth": again, "copy": stayed}.items():
            excess, within = energy(SetDistances.of(true.xy, found.xy))
            seen = found.seen.sum(dim=0)
            sums[f"energy {name}"] += excess.cpu()
            sums[f"seen {name}"] += seen.cpu()
            sums[f"squares {name}"] += (seen * _variance(found)).cpu()
            sums[f"freedom {name}"] += (seen - 1).clamp_min(0).cpu()
        sums["within"] += within.cpu()
    rows = {}
    for name in ("copy", "model", "truth"):
        rows[f"pusher energy {name}"] = sums[f"energy {name}"] / sums["within"]
        rows[f"pusher seen {name}"] = sums[f"seen {name}"] / (count * len(prompts))
        rows[f"pusher spread {name}"] = (sums[f"squares {name}"] / sums[f"freedom {name}"]).sqrt()
    return {"per_horizon": {name: rounded(values) for name, values in rows.items()}}


def _variance(found: Places) -> Tensor:
    """Mean squared distance of places (N, T, 2) from their middle, of those that are seen -> (T,); 0 of none."""
    weights = (found.seen / found.seen.sum(dim=0).clamp_min(1))[..., None]
    return (weights * (found.xy - (weights * found.xy).sum(dim=0)).square()).sum(dim=(0, 2))


def obedience(
    model: Predictor,
    tabletop: Tabletop | Remembered,
    clips: Sequence[TabletopClip],
    sampling: Sampling,
    seeds: Sequence[int] = (0, 1, 2, 3),
    context: int = CONTEXT,
    horizon: int = HORIZON,
) -> Figures:
    """How near futures come to the clip's own when told the actions that led to it (`told`), and when not (`free`).

    Each a mean over futures of the seeds, of one by one; `copy`: the last frame stays. `pusher off` is the distance in
    pixels between where the pusher is found and where it truly is: `copy` from where it truly was at the prompt's end,
    `tracker` in the true frames, the floor. What follows under given actions is certain, so that `told` can be right.
    `straight on`: when told to go one way all the time, a different one each clip, which mostly ends at a wall or with
    an object there; `straight copy`: if it stayed.
    Raises ValueError for a model that takes no actions.
    """
    rows = defaultdict(list)
    for clip in tqdm(clips, desc="obedience"):
        prompt, true = clip.video[:context], clip.video[context : context + horizon]
        places = tabletop.pusher_pixels(clip)[context - 1 : context + horizon].to(true.device)
        futures = told_or_free(model, prompt, clip.actions[context - 1 : context - 1 + horizon], sampling, seeds)
        for name, values in nearness(futures, true).items():
            rows[name].append(values)
        found = {name: find_pusher(futures[name]).xy for name in ("told", "free")}
        found |= {"copy": places[None, :1], "tracker": find_pusher(true).xy[None]}
        for name, xy in found.items():
            rows[f"pusher off {name}"].append((xy - places[1:]).norm(dim=-1).mean(dim=0))
        turn = torch.tensor(GOLDEN * clip.index)
        ahead = (SPEED * torch.stack([turn.cos(), turn.sin()])).expand(horizon, -1)
        reached = find_pusher(tabletop.obeyed(clip, context, ahead).to(true.device)).xy
        made = find_pusher(predict(model, prompt, horizon, sampling, seeds, steered(ahead))).xy
        for name, xy in {"straight on": made, "straight copy": places[None, :1]}.items():
            rows[f"pusher off {name}"].append((xy - reached).norm(dim=-1).mean(dim=0))
    return per_horizon(rows)


# ---- all of it ---------------------------------------------------------------------------------------


def tabletop_of(image_size: int, folder: Path) -> Remembered:
    """Where held-out clips come from. The folder keeps what is simulated."""
    return Remembered(Tabletop(TabletopConfig(image_size=image_size, frames=30), "test"), folder)


def evaluate_tabletop(model: Predictor, tabletop: Remembered, args: argparse.Namespace) -> Figures:
    """Every chosen protocol's figures that the tabletop has, each with the manifest that it was measured by.

    args: of the command train.evaluate.
    """
    sampling = Sampling(temperature=args.temperature)
    drawn = f"temperature {args.temperature}"
    source, only = f"tabletop, held-out seed {SEED}", set(args.only)
    many = args.clips if {"tokenizer", "best_of", "spread", "surprise"} & only else 0
    few = args.prompts if {"truth", "moves", "obedience"} & only else 0
    clips = held_out_clips(tabletop, max(many, few), args.device)
    whole = [clip.video[: CONTEXT + HORIZON] for clip in clips[:many]]
    ahead = f"{CONTEXT} -> {HORIZON}"
    scores: Figures = {}

    def put(name: str, title: str, figures: Figures) -> None:
        scores[name] = {"protocol": f"{title}, {source}; {drawn}"} | figures

    if "tokenizer" in only and isinstance(getattr(model, "tokenizer", None), Tokenizer):
        frames = torch.stack([clip[:15] for clip in whole[:64]])
        put("tokenizer", f"{len(frames)} clips of 15 frames", reconstruction(model.tokenizer, frames))
    if "best_of" in only:
        title = f"{ahead}, {len(whole)} prompts, {args.futures} futures, seeds 0 to {args.futures - 1}"
        put("best_of", title, best_of(model, whole, sampling, args.futures, CONTEXT))
    if "spread" in only:
        title = f"{ahead}, {len(whole[:32])} prompts, 8 futures; standard deviation over futures"
        put("spread", title, {"by_temperature": spreads(model, whole[:32], CONTEXT)})
    if "surprise" in only and (figures := surprise(model, torch.stack([clip[:20] for clip in whole]))):
        title = f"{len(whole)} clips of 20 frames; frames 3 to 20; bits per pixel and channel"
        put("surprise", title, figures)
    prompts = tabletop_prompts(tabletop, clips[:few])
    title = f"{ahead}, {few} prompts, {args.sets} model futures, seeds 0 to {args.sets - 1}, against {args.sets} "
    title += f"true ones; `truth`: another {args.sets} true ones, the floor"
    if "truth" in only:
        everyone = "; all prompts count unless a figure says otherwise"
        controls = controls_of(model) if args.controls else {}
        put("truth", title + everyone, against_truth(model, prompts, sampling, args.sets, HORIZON, controls))
    if "moves" in only:
        put("moves", title, moves(model, prompts, sampling, args.sets))
    if "obedience" in only and "actions" in model.knobs:
        title = f"{ahead}, {few} prompts, seeds 0 to 3; `told`: under the recorded actions, `free`: under none given"
        put("obedience", title, obedience(model, tabletop, clips[:few], sampling))
    return scores
