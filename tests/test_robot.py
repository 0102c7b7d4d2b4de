"""The simulated robot: clips that can be simulated again, and their futures. Needs MuJoCo, OpenGL and metaworld."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.robot_fixtures import SMALL, tried, why_not
from train.make_robot import main
from train.sim.environment import AGENT, BACKGROUND
from train.sim.robot.environment import TOP_SPEED
from train.sim.robot.scene import REACH, SHAPES, TRAY, random_scene
from train.sim.robot.world import WARM_UP, Robot, RobotConfig, next_action, straight_action


@pytest.fixture(scope="module")
def robot():
    if reason := why_not():
        pytest.skip(reason)
    return Robot(SMALL, "test")


@pytest.fixture(scope="module")
def clips(robot):
    return [robot.clip(seed=0, index=k) for k in range(3)]


# ---- without MuJoCo ----------------------------------------------------------------------------------


def test_a_config_checks_its_fields():
    for fields, message in (
        ({"min_objects": 5, "max_objects": 4}, "objects are 5 to 4, must be within 1 to 7"),
        ({"fps": 7}, "fps 7"),
        ({"image_size": 100}, "image_size is 100, must be at least 8 and divide render_size 256"),
    ):
        with pytest.raises(ValueError, match=message):
            RobotConfig(**fields)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split is 'odd', must be one of train, test"):
        Robot(SMALL, "odd")


def test_importing_the_robot_loads_neither_mujoco_nor_metaworld():
    assert tried().stdout == "set()\n"


def test_without_metaworld_the_command_says_what_to_install(robot, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="needs the package metaworld: pip install metaworld"):
        main(["--clips", "1", "--out", str(tmp_path)])


# ---- clips -------------------------------------------------------------------------------------------


def test_a_clip_has_video_actions_poses_and_segmentation(clips):
    clip = clips[0]
    count = len(clip.colours)
    assert clip.video.shape == (8, 3, 64, 64) and clip.video.min() >= -1 and clip.video.max() <= 1
    assert clip.actions.shape == (8, 3) and clip.actions.abs().max() <= 1
    assert clip.hand_poses.shape == (8, 7) and clip.object_poses.shape == (8, count, 7)
    assert clip.segmentation.shape == (8, 64, 64) and clip.camera.shape == (13,)
    assert set(clip.segmentation.unique().tolist()) <= {BACKGROUND, AGENT, *range(count)}
    assert {BACKGROUND, AGENT} < set(clip.segmentation.unique().tolist())
    torch.testing.assert_close(clip.object_poses[..., 3:].norm(dim=-1), torch.ones(8, count, dtype=torch.float64))


def test_a_clip_depends_on_split_seed_and_index_alone(robot, clips):
    again = Robot(SMALL, "test").clip(seed=0, index=1)
    assert torch.equal(again.video, clips[1].video) and torch.equal(again.states, clips[1].states)
    flat = replace(SMALL, frames=1, render_size=64, shadow_size=0)
    first = Robot(flat, "test").clip(0, 1)
    others = [Robot(flat, "test").clip(1, 1), Robot(flat, "train").clip(0, 1), Robot(flat, "test").clip(0, 2)]
    assert not any(torch.equal(other.actions, first.actions) for other in others)


def test_a_longer_or_larger_clip_shows_the_same_events(clips):
    config = RobotConfig(image_size=128, render_size=128, shadow_size=0, frames=10)
    larger = Robot(config, "test").clip(0, 0)
    assert larger.video.shape == (10, 3, 128, 128)
    assert torch.equal(larger.object_poses[:8], clips[0].object_poses)
    assert torch.equal(larger.actions[:8], clips[0].actions)


def test_objects_stay_in_the_tray_the_hand_within_reach_and_most_clips_show_a_push(robot):
    pushed = []
    for index in range(12):
        with robot.environment(seed=1, index=index) as env:
            rng, poses = np.random.default_rng(index), []
            for _ in range(WARM_UP + 30):
                env.act(next_action(env, rng))
                poses.append(env.object_poses)
                assert (env.hand_pose[:3] > np.array(REACH[0]) - 0.01).all()
                assert (env.hand_pose[:3] < np.array(REACH[1]) + 0.01).all()
        places = np.stack(poses)[..., :3]
        assert (np.abs(places[..., :2]) < TRAY).all() and places[..., 2].min() > 0.005
        pushed.append(np.abs(places[-1] - places[WARM_UP]).max() > 0.03)
    assert np.mean(pushed) > 0.7


def test_in_straight_line_clips_the_hand_goes_straight_on_to_the_edge_of_its_reach(robot):
    world, same, ways, at_edge = Robot(SMALL, "straight_line"), [], set(), []
    for index in range(8):
        with world.environment(seed=0, index=index) as env:
            rng, actions, edge = np.random.default_rng(index), [], False
            for _ in range(WARM_UP + 30):
                actions.append(straight_action(env, rng))
                env.act(actions[-1])
                x, y = env.hand_pose[:2]
                edge |= min(x - REACH[0][0], REACH[1][0] - x, y - REACH[0][1], REACH[1][1] - y) < 0.01
        same.append(np.mean((np.diff(actions, axis=0) == 0).all(axis=1)))
        ways |= {tuple(action) for action in actions}
        at_edge.append(edge)
    assert np.mean(same) > 0.8 and sum(at_edge) >= 6 and any(abs(right) == 1 for right, _, _ in ways)


def test_the_hand_moves_as_its_actions_say(robot):
    with robot.environment(seed=0, index=0) as env:
        for _ in range(8):
            env.act(np.array([0.0, 0.0, 1.0]))  # above all objects
        for axis, sign in ((0, -1), (0, 1), (1, 1), (1, -1)):
            for _ in range(8):  # to a wall of its reach, then away from it
                env.act(np.eye(3)[axis] * -sign)
            before = env.hand_pose[:3]
            for _ in range(4):
                env.act(np.eye(3)[axis] * sign)
            moved = env.hand_pose[:3] - before
            assert moved[axis] * sign == pytest.approx(4 * TOP_SPEED / 10, rel=0.25)
            assert np.delete(np.abs(moved), axis).max() < 0.015


def test_scenes_show_all_shapes_and_distinct_hues(robot):
    scenes = [random_scene(np.random.default_rng(k), 3, 7, 64, 0) for k in range(16)]
    assert all(len(set(scene.colours)) == len(scene.colours) for scene in scenes)
    assert len({int(k) for scene in scenes for k in scene.shapes}) > 0.7 * len(SHAPES)


# ---- futures -----------------------------------------------------------------------------------------


def test_the_clips_own_actions_give_its_own_frames_to_the_bit(robot, clips):
    for clip in clips:
        assert torch.equal(robot.with_actions(clip, 3, clip.actions[2:-1].float()), clip.video[3:])


def test_simulated_futures_start_from_the_prompt_and_depend_on_their_seed_alone(robot, clips):
    futures = robot.futures(clips[0], 4, 6, 2, seed=0)
    assert futures.shape == (2, 6, 3, 64, 64) and not torch.equal(futures[0], futures[1])
    assert torch.equal(robot.futures(clips[0], 4, 3, 1, seed=0), futures[:1, :3])
    assert not torch.equal(robot.futures(clips[0], 4, 3, 1, seed=1), futures[:1, :3])
    near, far = ((futures[:, t] - clips[0].video[3]).abs().mean() for t in (0, -1))
    assert near < far
    with pytest.raises(ValueError, match="at_frame is 9, must be 1 to 8"):
        robot.futures(clips[0], 9, 1, 1, seed=0)
