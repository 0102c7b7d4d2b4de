"""What a training step of the Transframer predicts: of which frames the motion, and of which one the DCT triples."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

from stt.api import Video
from stt.dct import FrameDCT
from stt.layer_motion import BEYOND, Steps, Tracks, joined, tracks_of
from stt.metrics import unit
from stt.motion import Layers, shift

TARGETS = 3  # frames whose motion is predicted from both sides
MAX_GAP = 7  # most frames from a target to the nearest one beyond it
WRONG = 3.0  # standard deviation of wrong values, in steps of the lowest frequency


class Plan(NamedTuple):
    """What a step predicts. Numbers in [0, 1) choose among what a clip's length allows."""

    kind: str = "past"  # of the frame with DCT triples: "past", "gap" (also with frames after it) or "map"
    backward: bool = False  # the clip runs backward: the nearest frame comes after the target
    corrupt: bool = False  # the layers have errors
    targets: tuple[float, ...] = (0.5, 0.9, 0.2)  # frames with others beyond them; the first has DCT triples
    gaps: tuple[float, ...] = (0.5, 0.1, 0.9)  # how far the first of these is
    map_index: float = 0.5


def plan_of(step: int, interpolate: float, of_maps: float, backward: float, corrupt: float) -> Plan:
    """The plan of a step, by the shares of steps of each kind."""
    rng = random.Random(step)
    kind = rng.choices(("past", "gap", "map"), (max(1 - interpolate - of_maps, 0), interpolate, of_maps))[0]
    turned, wrong = kind != "map" and rng.random() < backward, rng.random() < corrupt
    targets, gaps = (tuple(rng.random() for _ in range(TARGETS)) for _ in range(2))
    return Plan(kind, turned, wrong, targets, gaps, rng.random())


class Targets(NamedTuple):
    """Tracks of all frames but the last, then of those with frames beyond the target."""

    tracks: Tracks
    displacement: Tensor  # (N, K, 2) to the next frame
    num_past: int  # rows of N without frames beyond


class Clip(NamedTuple):
    """Training clips as layers; backward ones are turned already."""

    video: Video  # (B, T, C, H, W)
    history: list[Layers]  # of every frame, without gradients
    steps: Steps
    plan: Plan
    reach: int

    @property
    def at(self) -> list[int]:
        """The frames before the plan's targets."""
        return [int(share * (self.video.shape[1] - 1)) for share in self.plan.targets]

    @property
    def gaps(self) -> list[int]:
        """From each of these targets to the nearest frame beyond it; 0 where there is none."""
        room = [min(self.video.shape[1] - 2 - k, MAX_GAP) for k in self.at]
        return [1 + int(share * most) if most else 0 for share, most in zip(self.plan.gaps, room, strict=True)]

    def targets(self) -> Targets:
        b, t = self.video.shape[:2]
        between = [(k, gap) for k, gap in zip(self.at, self.gaps, strict=True) if gap]
        all_of_them = [*((k, 0) for k in range(t - 1)), *between]
        displacement = torch.cat([self.steps.target[:, k] for k, _ in all_of_them])
        return Targets(joined([self.tracks(*pair) for pair in all_of_them]), displacement, b * (t - 1))

    def tracks(self, k: int, gap: int) -> Tracks:
        """Of frame k; with a gap, frames lie beyond the target."""
        frames = self.video.shape[1]
        times = range(1 + gap, min(1 + gap + BEYOND, frames - k)) if gap else ()
        beyond = [unit(self.video[:, k + time]) for time in times]
        turned = torch.full_like(self.steps.num_past[:, k], self.plan.backward)
        return tracks_of(
            self.history[k], self.steps.past[:, k], self.steps.num_past[:, k], turned, beyond, times, self.reach
        )


@torch.no_grad()
def corrupted(codec: FrameDCT, layers: Layers, shown: Video, last: Tensor, rate: float) -> tuple[Layers, Video]:
    """Layers and the frames that show them, with errors in a share of the cells, as wrong DCT triples make them.

    The last displacements (B, K, 2) moved the layers there; half of the clips have the errors in the frame before too.
    """
    b, k = layers.colour.shape[:2]
    nothing = torch.zeros_like(layers.colour)
    dense = codec.encode_residual(nothing, nothing)
    scale = WRONG / (1 + torch.arange(dense.shape[2], device=dense.device))[:, None, None]
    here = torch.rand(b, k, 1, *dense.shape[-2:], device=dense.device) < rate / k
    wrong = (scale * torch.randn(dense.shape, device=dense.device)).round().long() * here
    colour = (layers.colour + codec.decode_residual(wrong, nothing) / 2).clamp(0, 1)
    errors = colour - layers.colour
    before = shift(errors.flatten(0, 1), -last.flatten(0, 1)).unflatten(0, (b, k))
    both = torch.rand(b, 1, 1, 1, device=colour.device) < 0.5
    shown = shown.clone()
    shown[:, -1] += 2 * errors.sum(dim=1)
    if shown.shape[1] > 1:
        shown[:, -2] += 2 * before.sum(dim=1) * both
    return layers._replace(colour=colour), shown.clamp(-1, 1)
