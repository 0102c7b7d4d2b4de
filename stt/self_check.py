"""Whether a model knows a clip: it predicts the clip's own last frames, which are held back.

It works for every family. The error is compared with a copy of the last frame, and with the model's error on its own
example clips, which its card holds as `self_check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stt.api import Predictor, Sampling
from stt.metrics import unit
from stt.prompt import load_clip
from stt.request import Request
from stt.sampler import rollout
from stt.video import LIMITS, Limits

HELD_BACK = 4  # frames
SEEDS = (0, 1, 2)
MIN_FRAMES = HELD_BACK + 2
STILL = 0.004  # of the step from black to white: an error that nobody sees
WORSE = 0.95  # times the error of the copy: a model that knows a clip beats a still picture
COLOURED = 0.02  # of the step from black to white, between the channels: what a gray model loses
FAR = 1.5  # times the largest error on the model's own examples


class SelfCheck(NamedTuple):
    """Root-mean-square errors over the held-back frames, in colour, from 0 to 1."""

    error: float  # of the best of a few futures
    copy: float  # of the last frame repeated
    coloured: bool = False  # whether the model is gray and the clip is not

    @property
    def ratio(self) -> float:
        return self.error / max(self.copy, STILL)

    def passes(self, card: Mapping[str, Any]) -> bool:
        """Whether the model knows such clips."""
        usual = usual_figure(card, "error")
        return self.ratio <= WORSE and (usual is None or self.error <= FAR * max(usual, STILL))


def usual_figure(card: Mapping[str, Any], name: str) -> float | None:
    """ "error": the largest on the model's own examples; "seconds": the CPU seconds of a check."""
    part = card.get("self_check")
    value = part.get(name) if isinstance(part, dict) else None
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e6 else None


def self_check(request: Request, model: Predictor, limits: Limits = LIMITS) -> Iterator[SelfCheck | None]:
    """Yields None after each frame, so that it can be closed, then the result. Nothing for a clip that is too short.

    The held-back frames are the last ones of the clip, wherever the request's future starts.
    """
    size = model.config.image_size  # small, and as the network reads them
    own = load_clip(request, model, limits, whole_size=size).video
    if len(own) < MIN_FRAMES:
        return
    colour = own if model.config.channels == 3 else load_clip(request, model, limits, 3, size).video
    truth, last = unit(colour[-HELD_BACK:]), unit(colour[-HELD_BACK - 1])
    sampling = Sampling() if "temperature" in model.knobs else Sampling(temperature=0)
    frames: list[Tensor] = []
    for frame in rollout(model, own[:-HELD_BACK], HELD_BACK, sampling, SEEDS if "temperature" in model.knobs else (0,)):
        frames.append(frame.float().cpu())
        yield None
    futures = unit(torch.stack(frames, dim=1)).expand(-1, -1, 3, -1, -1)  # (F, T, 3, H, W)
    errors = (futures - truth).square().mean(dim=(1, 2, 3, 4)).sqrt()
    coloured = model.config.channels == 1 and float((truth.amax(dim=1) - truth.amin(dim=1)).mean()) > COLOURED
    yield SelfCheck(float(errors.min()), float((truth - last).square().mean().sqrt()), coloured)
