"""Scores of predicted videos of the robot: which objects stay, where the hand goes, whether it obeys its actions.

Distances to true futures (energy, coverage, precision, best of N) are in train/truth.py and train/metrics.py, which
take the prompts of `robot_prompts`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from stt.api import Predictor, Sampling, Video
from stt.sampler import predict
from train.metrics import SetDistances, energy
from train.permanence import visible_colours
from train.protocols import Figures, nearness, per_horizon, rounded, steered, told_or_free
from train.sim.robot.scene import COLOURS
from train.sim.robot.world import Robot, RobotClip, hand_pixels
from train.truth import Prompt

# ---- objects -----------------------------------------------------------------------------------------


def object_permanence(prompt: Video, futures: Video) -> tuple[Tensor, Tensor]:
    """Share of the objects in the last frame of a prompt (T, 3, H, W) that each later frame shows, by their hues.

    Futures (..., T', 3, H, W) -> kept (..., T') in [0, 1], and the count of hues that no frame of the prompt shows,
    (..., T'). True futures score less than 1 where objects are occluded, so hold them beside.
    """
    objects = torch.tensor(COLOURS, device=futures.device)
    known, shown = visible_colours(prompt)[..., objects], visible_colours(futures)[..., objects]
    kept = (shown & known[-1]).sum(dim=-1) / known[-1].sum().clamp_min(1)
    return kept, (shown & ~known.any(dim=0)).sum(dim=-1)


def robot_prompts(robot: Robot, clips: Sequence[RobotClip], context: int) -> list[Prompt]:
    """Prompts of the robot for `train.truth.against_truth`.

    `objects`: share of the prompt's objects that are visible; `all objects`: whether all are; `new objects`: hues that
    no frame of the prompt shows.
    """

    def prompt(clip: RobotClip) -> Prompt:
        video = clip.video[:context]

        def truths(frames: int, count: int) -> Video:
            return robot.futures(clip, context, frames, count, seed=0).to(video.device)

        def kept(futures: Video) -> dict[str, Tensor]:
            share, new = object_permanence(video, futures)
            return {"objects": share, "all objects": share == 1, "new objects": new}

        return Prompt(video, truths, kept)

    return [prompt(clip) for clip in clips]


# ---- the hand ----------------------------------------------------------------------------------------

RED, BLACK, WHITE = 0, 1, 2
PARTS = (  # class; left, right, top and bottom from the hand in pixels of 128x128; weight
    (RED, -5.0, 5.0, -22.0, -13.0, 0.7),  # the wrist
    (BLACK, -5.5, 5.5, -11.0, -7.0, 0.5),  # the gripper
    (BLACK, -3.5, 3.5, -7.0, -1.5, 0.7),
    (WHITE, -2.5, 2.5, 0.0, 8.0, 1.0),  # the fingers
    (BLACK, -15.0, -8.0, -11.0, -2.0, -0.4),  # beside the gripper
    (BLACK, 8.0, 15.0, -11.0, -2.0, -0.4),
    (WHITE, -7.0, -3.0, 0.0, 8.0, -0.4),  # beside the fingers
    (WHITE, 3.0, 7.0, 0.0, 8.0, -0.4),
)
BIAS = (0.27, 0.24)  # of the best place in pixels of 128x128, which is subtracted
SEEN = 0.7  # least score of a hand: true frames score 0.9 and more, those with the arm taken away at most 0.55


class Places(NamedTuple):
    """Of the hand, also where an object occludes it."""

    xy: Tensor  # (..., 2) pixels, x to the right, y down, (0, 0) the centre of the first; a best guess if not seen
    seen: Tensor  # (...) bool


def find_hand(frames: Video) -> Places:
    """Frames (..., 3, H, W) in [-1, 1] -> where each shows the hand. Nothing is learned.

    A place scores by how red the picture is where the wrist would be, how black where the gripper and how white where
    the fingers would be, less what is there of the other two. The best is refined by a parabola.

    On 600 frames of 60 held-out clips it is off by 0.66 pixels of 64x64 on average (1.27 of 128x128), 2.3 at most
    (4.5), and none is lost. Blur of sigma 0.8 makes that 0.77 and loses 0.3 %; noise of sigma 0.1 makes it 0.72.
    """
    lead, size = frames.shape[:-3], frames.shape[-1]
    flat = ((frames.float() + 1) / 2).clamp(0, 1).flatten(0, -4) if lead else ((frames.float() + 1) / 2)[None]
    kernel, (left, right, top, bottom) = _template(size / 128)
    padded = F.pad(_classes(flat), [left, right, top, bottom], mode="replicate")
    score = F.conv2d(padded, kernel.to(flat.device))[:, 0]  # (N, H, W)
    best, at = score.flatten(1).max(dim=1)
    y, x = at // size, at % size
    around, n = F.pad(score[:, None], [1] * 4, mode="replicate")[:, 0], torch.arange(len(score), device=at.device)
    across = _summit(around[n, y + 1, x], best, around[n, y + 1, x + 2])
    down = _summit(around[n, y, x + 1], best, around[n, y + 2, x + 1])
    xy = torch.stack([x + across, y + down], dim=-1) - torch.tensor(BIAS, device=at.device) * size / 128
    return Places(xy.reshape(*lead, 2), (best > SEEN).reshape(lead))


def _classes(pixels: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) on [0, 1] -> how red, black and white each is, (N, 3, H, W) on [0, 1]."""
    red, green, blue = pixels.unbind(dim=1)
    high, low = pixels.amax(dim=1), pixels.amin(dim=1)
    redness = ((red - torch.maximum(green, blue)) / red.clamp_min(0.1)).clamp(0, 1)
    blackness = (1 - high / 0.35).clamp(0, 1)
    whiteness = low * (1 - 2 * (high - low) / high.clamp_min(0.1)).clamp(0, 1)
    return torch.stack([redness, blackness, whiteness], dim=1)


@cache
def _template(scale: float, fine: int = 8) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Weights (1, classes, rows, columns) of the hand's parts, and the pixels left, right, above and below the hand."""
    left, top = (int(-min(part[k] for part in PARTS) * scale) + 1 for k in (1, 3))
    right, bottom = (int(max(part[k] for part in PARTS) * scale) + 1 for k in (2, 4))
    x = ((torch.arange((left + 1 + right) * fine) + 0.5) / fine - 0.5 - left) / scale
    y = ((torch.arange((top + 1 + bottom) * fine) + 0.5) / fine - 0.5 - top) / scale
    kernel = torch.zeros(3, len(y), len(x))
    for kind, x0, x1, y0, y1, weight in PARTS:
        inside = ((y > y0) & (y < y1))[:, None] & ((x > x0) & (x < x1))
        signs = torch.full((3, 1, 1), -0.5 if weight > 0 else 0.0)
        signs[kind] = 1.0
        kernel += weight * signs * inside / inside.sum()
    return F.avg_pool2d(kernel[None], fine) * fine**2, (left, right, top, bottom)


def _summit(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    """Where the parabola through three neighbours has its summit, from the middle one, within half a pixel."""
    bend = (2 * at - before - after).clamp_min(1e-6)
    return (0.5 * (after - before) / bend).clamp(-0.5, 0.5)


# ---- futures of a model ------------------------------------------------------------------------------


def hand_spread(
    model: Predictor, prompts: Sequence[Prompt], sampling: Sampling, count: int = 16, horizon: int = 20
) -> Figures:
    """Where the hand goes in `count` futures without given actions, beside where it goes in true ones.

    `hand spread`: standard deviation of its place over those futures of a prompt that show it, in pixels, root mean
    square over prompts. `hand seen`: share of futures that show it. `hand energy`: the normalised energy distance of
    train/metrics.py, of places. `copy`: the last frame stays.
    """
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(horizon, dtype=torch.float64))
    for prompt in tqdm(prompts, desc="hand spread"):
        true, again = (find_hand(part) for part in prompt.truths(horizon, 2 * count).split(count))
        made = find_hand(predict(model, prompt.video, horizon, sampling, range(count)))
        still = find_hand(prompt.video[-1:].expand(count, horizon, -1, -1, -1))
        for name, found in {"model": made, "truth": again, "copy": still}.items():
            excess, within = energy(SetDistances.of(true.xy, found.xy))
            seen = found.seen.sum(dim=0)
            sums[f"energy {name}"] += excess.cpu()
            sums[f"seen {name}"] += seen.cpu()
            sums[f"squares {name}"] += (seen * _variance(found)).cpu()
            sums[f"freedom {name}"] += (seen - 1).clamp_min(0).cpu()
        sums["within"] += within.cpu()
    rows = {}
    for name in ("copy", "model", "truth"):
        rows[f"hand energy {name}"] = sums[f"energy {name}"] / sums["within"]
        rows[f"hand seen {name}"] = sums[f"seen {name}"] / (count * len(prompts))
        rows[f"hand spread {name}"] = (sums[f"squares {name}"] / sums[f"freedom {name}"]).sqrt()
    return {"per_horizon": {name: rounded(values) for name, values in rows.items()}}


def _variance(found: Places) -> Tensor:
    """Mean squared distance of the places (N, T, 2) that are seen from their mean -> (T,); 0 of none."""
    weights = (found.seen / found.seen.sum(dim=0).clamp_min(1))[..., None]
    return (weights * (found.xy - (weights * found.xy).sum(dim=0)).square()).sum(dim=(0, 2))


def action_obedience(
    model: Predictor,
    robot: Robot,
    clips: Sequence[RobotClip],
    sampling: Sampling,
    seeds: Sequence[int] = (0, 1, 2, 3),
    context: int = 5,
    horizon: int = 20,
) -> Figures:
    """How near futures come to the clip's own when given its actions (`told`), and when not (`free`).

    Means over the futures of the seeds. `hand off`: distance in pixels between where the hand is found and where it
    truly is; `copy` from where it truly was at the prompt's end; `detector`: in the true frames, the floor.
    `steered`: under actions of another clip, so that it is not enough to know how a hand usually goes on, against what
    the simulator then shows; `steered copy`: if it stayed.
    Raises ValueError for a model that takes no actions.
    """
    rows = defaultdict(list)
    for clip, other in tqdm(list(zip(clips, [*clips[1:], *clips[:1]], strict=True)), desc="obedience"):
        prompt, true = clip.video[:context], clip.video[context : context + horizon]
        places = hand_pixels(clip.hand_poses, clip.camera, true.shape[-1])[context - 1 : context + horizon]
        places = places.to(true.device)
        futures = told_or_free(model, prompt, clip.actions[context - 1 : context - 1 + horizon], sampling, seeds)
        for name, values in nearness(futures, true).items():
            rows[name].append(values)
        found = {name: find_hand(futures[name]).xy for name in ("told", "free")}
        found |= {"copy": places[None, :1], "detector": find_hand(true).xy[None]}
        for name, xy in found.items():
            rows[f"hand off {name}"].append((xy - places[1:]).norm(dim=-1).mean(dim=0))
        actions = other.actions[context - 1 : context - 1 + horizon]
        reached = find_hand(robot.obeyed(clip, context, actions).to(true.device)).xy
        made = find_hand(predict(model, prompt, horizon, steered(sampling, actions), seeds)).xy
        for name, xy in {"steered": made, "steered copy": places[None, :1]}.items():
            rows[f"hand off {name}"].append((xy - reached).norm(dim=-1).mean(dim=0))
    return per_horizon(rows)
