"""The evaluation on the robot."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stt.api import Predictor, Video
from train.data.robot import RobotDataset
from train.evaluation.hand_tracking import track_hand
from train.evaluation.manipulation import Agent, ManipulationEvaluation
from train.evaluation.protocols import CONTEXT, HORIZON
from train.sim.robot.world import Robot, RobotClip, RobotConfig

HAND = Agent("hand", track_hand)


class RobotEvaluation(ManipulationEvaluation):
    """With --data, a test split of `train.make_robot`, protocols that need no simulator take its clips."""

    agent, sheet_actions = HAND, ((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0))
    surprise_frames = 30

    def __init__(self, model: Predictor, args: argparse.Namespace, world: Mapping[str, Any]) -> None:
        super().__init__(model, args, Robot(RobotConfig(image_size=model.config.image_size, frames=30), "test"))
        if args.data:
            self.source = "robot, videos of the test split"

    def clips(self, count: int, frames: int) -> Video:
        if not self.args.data:
            return super().clips(count, frames)
        data = RobotDataset(
            self.args.data, image_size=self.model.config.image_size, frames=frames, cache=self.args.simulated
        )
        first = torch.arange(min(count, len(data)))
        return data.cut(first, torch.zeros_like(first)).video.to(self.args.device)

    def other_actions(self, clips: Sequence[RobotClip]) -> list[Tensor]:
        """The next clip's: to follow them it is not enough to know how a hand usually goes on."""
        return [clip.actions[CONTEXT - 1 : CONTEXT - 1 + HORIZON] for clip in [*clips[1:], *clips[:1]]]
