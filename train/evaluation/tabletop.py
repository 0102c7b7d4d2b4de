"""The evaluation on the tabletop."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stt.api import Predictor
from train.evaluation.manipulation import Agent, ManipulationEvaluation
from train.evaluation.protocols import HORIZON
from train.evaluation.tracking import track_pusher
from train.sim.tabletop.world import Tabletop, TabletopClip, TabletopConfig

PUSHER = Agent("pusher", track_pusher)
GOLDEN_ANGLE, SPEED = 2.4, 0.8  # radians between the straight lines of successive clips; length of their actions


class TabletopEvaluation(ManipulationEvaluation):
    agent, sheet_actions = PUSHER, ((1.0, 0.0), (-1.0, 0.0))

    def __init__(self, model: Predictor, args: argparse.Namespace, world: Mapping[str, Any]) -> None:
        super().__init__(model, args, Tabletop(TabletopConfig(image_size=model.config.image_size, frames=30), "test"))

    def other_actions(self, clips: Sequence[TabletopClip]) -> list[Tensor]:
        """One action all the time, another one each clip, which mostly ends at a wall or with an object there."""
        return [straight_line(clip.index) for clip in clips]


def straight_line(index: int, horizon: int = HORIZON) -> Tensor:
    """(horizon, 2)"""
    angle = torch.tensor(GOLDEN_ANGLE * index)
    return (SPEED * torch.stack([angle.cos(), angle.sin()])).expand(horizon, -1)
