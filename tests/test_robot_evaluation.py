"""Protocols of the robot, with its simulator in the place of a model. Needs MuJoCo, OpenGL and metaworld."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from stt.api import NO_CONDITION, Sampling
from tests.robot_fixtures import SMALL, why_not
from tests.tabletop_fixtures import colour_model
from train.evaluate import evaluation_of, parser
from train.evaluation.hand_tracking import track_hand
from train.evaluation.manipulation import action_following, position_distribution, prompts_of, right_steps
from train.evaluation.robot import HAND, RobotEvaluation
from train.sim.robot.world import Robot


@pytest.fixture(scope="module")
def robot():
    if reason := why_not():
        pytest.skip(reason)
    return Robot(SMALL, "test")


@pytest.fixture(scope="module")
def clips(robot):
    return [robot.clip(seed=0, index=k) for k in range(3)]


def test_the_hand_is_tracked_within_a_pixel_and_not_visible_where_there_is_none(robot, clips):
    errors = []
    for clip in clips:
        track = track_hand(clip.video)
        errors.append((track.xy - robot.agent_pixels(clip)).norm(dim=-1))
        assert track.visible.all()
    assert torch.cat(errors).mean() < 1
    assert not track_hand(torch.zeros(2, 3, 64, 64)).visible.any()


def test_all_objects_of_a_true_clip_are_recognised_by_their_hues(robot, clips):
    for prompt, clip in zip(prompts_of(robot, clips, 1), clips, strict=True):
        figures = prompt.preserved(clip.video)
        assert figures["objects"][0] == 1 and figures["objects"].min() >= 0.5 and figures["new objects"].max() <= 1
        gray = clip.video.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        assert prompt.preserved(gray)["objects"].max() == 0


@pytest.mark.usefixtures("robot")
def test_a_simulator_as_the_model_scores_as_the_floor(monkeypatch):
    robot = Robot(replace(SMALL, render_size=64, shadow_size=0), "test")
    clips = [robot.clip(0, k) for k in range(2)]

    def predict(model, prompt, frames, sampling=None, seeds=(0,), condition=NO_CONDITION):
        clip = next(clip for clip in clips if torch.equal(clip.video[: len(prompt)], prompt))
        if condition.actions:
            future = robot.with_actions(clip, len(prompt), torch.tensor(condition.actions))
            return future.expand(len(seeds), -1, -1, -1, -1)
        return robot.futures(clip, len(prompt), frames, len(seeds), seed=5)

    for module in ("manipulation", "protocols"):
        monkeypatch.setattr(f"train.evaluation.{module}.predict", predict)
    model = SimpleNamespace(knobs={"actions"}, family="simulator")
    others = [clip.actions[1:7] for clip in reversed(clips)]
    options = {"seeds": (0, 1), "context": 2, "horizon": 6}
    mean = action_following(model, robot, clips, Sampling(), HAND, others, **options)["mean"]
    assert mean["hand error conditioned"] == mean["hand error tracker"] < 1.5 < mean["hand error copy"]
    assert mean["hand error other actions"] == 0 < mean["hand error other actions copy"]
    assert mean["hand error conditioned"] < mean["hand error unconditional"]
    assert mean["hand direction conditioned"] == mean["hand direction tracker"] > 0.9
    assert mean["hand direction other actions"] > 0.9 and mean["psnr conditioned"] > mean["psnr unconditional"]
    rows = position_distribution(model, prompts_of(robot, clips, 2), Sampling(), HAND, 3, 6)["per_horizon"]
    assert rows["hand spread copy"] == [0] * 6 and rows["hand spread truth"][-1] > 0.5
    assert rows["hand visible truth"] == rows["hand visible model"] == [1] * 6
    assert rows["hand energy model"][-1] < rows["hand energy copy"][-1]


def test_steps_of_less_than_a_pixel_have_no_direction():
    start, true = torch.zeros(2), torch.tensor([[2.0, 0.0], [2.5, 0.0], [2.5, 3.0]])
    xy = torch.tensor([[[1.0, 0.5], [1.0, 9.0], [1.0, 8.0]], [[-1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]])
    right, moving = right_steps(xy, true, start, scale=1.0)
    assert right.tolist() == [0.5, 0, 0.5] and moving.tolist() == [1, 0, 1]


def test_the_command_scores_the_robot_where_the_model_learned_it(tmp_path):
    (tmp_path / "x.pt").touch()  # so that MuJoCo is not looked for
    words = ["--model", "m", "--device", "cpu", "--simulated", str(tmp_path)]
    models = {names: colour_model(actions=names) for names in ((), ("right", "forward", "up"))}
    for names, model in models.items():
        model.card = {"world": {"kind": "robot", "frames": 20}}
        evaluation = evaluation_of(model, parser().parse_args(words))
        assert isinstance(evaluation, RobotEvaluation)
        protocols = {"simulated_futures", "hand_distribution", "best_of", "spread"}
        assert protocols <= set(evaluation.protocols())
        assert ("action_following" in evaluation.protocols()) == bool(names)
