"""The robot: clips that can be simulated again, true futures, stored sets, scores. Needs MuJoCo and OpenGL."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from stt.api import Sampling
from train.make_robot import main
from train.sim.robot.dataset import RobotSet, decode, encode, pack_segmentation, unpack_segmentation
from train.sim.robot.environment import ARM, BACKGROUND, TOP_SPEED
from train.sim.robot.evaluation import action_obedience, find_hand, hand_spread, object_permanence, robot_prompts
from train.sim.robot.scene import REACH, SHAPES, TRAY, draw_scene
from train.sim.robot.world import WARM_UP, Robot, RobotConfig, hand_pixels, next_action

SMALL = RobotConfig(image_size=64, render_size=128, shadow_size=256, frames=8)


def why_not() -> str | None:
    """What the robot lacks here; asked in another process, since a driver may crash."""
    tried = "from train.table import load_mujoco; from train.sim.robot.arm import arm_folder; "
    tried += "arm_folder(); load_mujoco()"
    done = subprocess.run([sys.executable, "-c", tried], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr else None


@pytest.fixture(scope="module")
def robot():
    if reason := why_not():
        pytest.skip(reason)
    return Robot(SMALL, "test")


@pytest.fixture(scope="module")
def clips(robot):
    return [robot.clip(seed=0, index=k) for k in range(3)]


@pytest.fixture(scope="module")
def stored(robot, tmp_path_factory):
    """A small set of both splits."""
    out = tmp_path_factory.mktemp("robot")
    make(out)
    return out


def make(out, test_clips: int = 1) -> None:
    words = f"--clips 3 --test-clips {test_clips} --per-shard 2 --size 64 --frames 4 --workers 1 --out {out}"
    main(words.split())


# what needs no simulator


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_objects": 5, "max_objects": 4}, "objects are 5 to 4, must be within 1 to 7"),
        ({"fps": 7}, "fps 7"),
        ({"image_size": 100}, "image_size is 100, must be at least 8 and divide render_size 256"),
    ],
)
def test_a_config_checks_its_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        RobotConfig(**fields)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split is 'odd', must be one of train, test"):
        Robot(SMALL, "odd")


def test_importing_the_robot_touches_neither_mujoco_nor_metaworld():
    code = "import sys, train.make_robot, train.sim.robot.evaluation; "
    code += "assert not {'mujoco', 'metaworld'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_metaworld_the_command_says_what_to_install(robot, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs the package metaworld: pip install -r train/requirements.txt"):
        main(["--clips", "1", "--out", str(tmp_path)])


def test_segmentation_survives_packing():
    classes = np.random.default_rng(0).integers(-2, 7, size=(2, 3, 8, 8)).astype(np.int8)
    assert np.array_equal(unpack_segmentation(pack_segmentation(classes), classes.shape), classes)


# clips


def test_a_clip_has_video_actions_poses_and_segmentation(clips):
    clip = clips[0]
    count = len(clip.colours)
    assert clip.video.shape == (8, 3, 64, 64) and clip.video.min() >= -1 and clip.video.max() <= 1
    assert clip.actions.shape == (8, 3) and clip.actions.abs().max() <= 1
    assert clip.hand_poses.shape == (8, 7) and clip.object_poses.shape == (8, count, 7)
    assert clip.segmentation.shape == (8, 64, 64) and clip.camera.shape == (13,)
    assert set(clip.segmentation.unique().tolist()) <= {BACKGROUND, ARM, *range(count)}
    assert {BACKGROUND, ARM} < set(clip.segmentation.unique().tolist())
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
    scenes = [draw_scene(np.random.default_rng(k), 3, 7, 64, 0) for k in range(16)]
    assert all(len(set(scene.colours)) == len(scene.colours) for scene in scenes)
    assert len({int(k) for scene in scenes for k in scene.shapes}) > 0.7 * len(SHAPES)


# true futures


def test_the_recorded_actions_replay_a_clip_to_the_bit(robot, clips):
    for clip in clips:
        assert torch.equal(robot.obeyed(clip, 3, clip.actions[2:-1].float()), clip.video[3:])


def test_futures_start_from_the_prompt_differ_by_seed_and_can_be_drawn_again(robot, clips):
    futures = robot.futures(clips[0], 4, 6, 2, seed=0)
    assert futures.shape == (2, 6, 3, 64, 64) and not torch.equal(futures[0], futures[1])
    assert torch.equal(robot.futures(clips[0], 4, 3, 1, seed=0), futures[:1, :3])
    assert not torch.equal(robot.futures(clips[0], 4, 3, 1, seed=1), futures[:1, :3])
    near, far = ((futures[:, t] - clips[0].video[3]).abs().mean() for t in (0, -1))
    assert near < far
    with pytest.raises(ValueError, match="at_frame is 9, must be 1 to 8"):
        robot.futures(clips[0], 9, 1, 1, seed=0)


# stored sets


def test_a_stored_set_reads_back_what_was_simulated(stored):
    whole = RobotSet(stored / "train")
    assert len(whole) == 3 and whole.split == "train"
    clip = Robot(RobotConfig(image_size=64, frames=4), "train").clip(0, 2)
    assert torch.equal(whole.actions[2], clip.actions.float())
    torch.testing.assert_close(whole.hand_poses[2], clip.hand_poses.float())
    count = len(clip.colours)
    torch.testing.assert_close(whole.object_poses[2, :, :count], clip.object_poses.float())
    assert whole.colours[2].tolist() == clip.colours.tolist() + [-1] * (7 - count)
    assert torch.equal(whole.segmentation(2), clip.segmentation)
    assert ((whole.video(2) - clip.video) / 2).square().mean().sqrt() < 0.02


def test_a_set_is_read_at_half_its_size_as_area_averages(stored, tmp_path):
    whole, half = RobotSet(stored / "train"), RobotSet(stored / "train", image_size=32, cache=tmp_path)
    averaged = torch.nn.functional.avg_pool2d(whole.video(0), 2)
    assert (half.video(0) - averaged).abs().max() <= 0.5 / 127.5 + 1e-6
    assert half.segmentation(0).shape == (4, 32, 32)
    torch.testing.assert_close(
        hand_pixels(half.hand_poses, half.cameras, 32) * 2 + 0.5, hand_pixels(whole.hand_poses, whole.cameras, 64)
    )
    with pytest.raises(ValueError, match="image_size is 48, must divide the set's 64"):
        RobotSet(stored / "train", image_size=48)


def test_batches_are_cuts_of_clips_with_their_actions(stored):
    cuts = RobotSet(stored / "train", frames=3)
    batch = cuts.sample(5, seed=1, index=0)
    assert batch.video.shape == (5, 3, 3, 64, 64) and batch.object_poses.shape == (5, 3, 7, 7)
    for video, actions, clip, start in zip(batch.video, batch.actions, batch.clips, batch.starts, strict=True):
        assert torch.equal(video, cuts.video(int(clip))[start : start + 3])
        assert torch.equal(actions, cuts.actions[clip, start : start + 3])
    assert torch.equal(cuts.batch(5, seed=1, index=0), batch.video)
    assert not torch.equal(cuts.batch(5, seed=1, index=1), batch.video)


def test_an_interrupted_set_can_be_read_in_part_and_is_completed_alike(stored):
    folder = stored / "train"
    shard = folder / "shard-00001.npz"
    before = {key: value.copy() for key, value in np.load(shard).items()}
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001.npz and 0 more are missing"):
        RobotSet(folder)
    assert len(RobotSet(folder, partial=True)) == 2
    make(stored)
    after = np.load(shard)
    assert all(np.array_equal(after[key], value) for key, value in before.items())


def test_a_folder_of_other_clips_is_left_alone(stored, robot):
    with pytest.raises(SystemExit, match="holds a set whose clips is 1, not 2"):
        make(stored, test_clips=2)
    index = json.loads((stored / "test" / "index.json").read_text())
    assert index["world"] == "robot" and set(index["versions"]) == {"mujoco", "metaworld"}


def test_video_of_another_length_is_refused(tmp_path):
    encode(np.zeros((1, 4, 16, 16, 3), np.uint8), tmp_path / "video.mp4", fps=10, crf=16)
    with pytest.raises(ValueError, match="holds 4 frames, expected 6"):
        decode(tmp_path / "video.mp4", (1, 6, 16, 16, 3))


# scores


def test_all_objects_of_a_true_clip_are_found_by_their_hues(clips):
    for clip in clips:
        kept, new = object_permanence(clip.video[:1], clip.video)
        assert kept[0] == 1 and kept.min() >= 0.5 and new.max() <= 1
        gray, _ = object_permanence(clip.video[:1], clip.video.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1))
        assert gray.max() == 0


def test_the_hand_is_found_in_true_frames_and_not_where_there_is_none(clips):
    errors = []
    for clip in clips:
        found = find_hand(clip.video)
        errors.append((found.xy - hand_pixels(clip.hand_poses, clip.camera, 64)).norm(dim=-1))
        assert found.seen.all()
    assert torch.cat(errors).mean() < 1
    assert not find_hand(torch.zeros(2, 3, 64, 64)).seen.any()


def test_a_model_that_is_the_simulator_scores_as_the_truth(robot, clips, monkeypatch):
    """In the place of the model's futures stand true ones, which honour actions if there are any."""

    def simulated(model, prompt, frames, sampling, seeds):
        clip = next(clip for clip in clips if torch.equal(clip.video[: len(prompt)], prompt))
        if sampling.actions:
            actions = torch.tensor(sampling.actions)
            return robot.obeyed(clip, len(prompt), actions)[None].expand(len(seeds), -1, -1, -1, -1)
        return robot.futures(clip, len(prompt), frames, len(seeds), seed=5)

    monkeypatch.setattr("train.sim.robot.evaluation.predict", simulated)
    monkeypatch.setattr("train.protocols.predict", simulated)
    model = type("Steerable", (), {"knobs": {"actions"}, "family": "simulator"})()
    figures = action_obedience(model, robot, clips[:2], Sampling(), seeds=(0, 1), context=2, horizon=6)["mean"]
    assert figures["hand off told"] == figures["hand off detector"] < 1.5 < figures["hand off copy"]
    assert figures["hand off steered"] == 0 < figures["hand off steered copy"]
    assert figures["hand off told"] < figures["hand off free"] and figures["psnr told"] > figures["psnr free"]
    rows = hand_spread(model, robot_prompts(robot, clips[:2], 2), Sampling(), count=3, horizon=6)["per_horizon"]
    assert rows["hand spread copy"] == [0] * 6 and rows["hand spread truth"][-1] > 0.5
    assert rows["hand seen truth"] == rows["hand seen model"] == [1] * 6
    assert rows["hand energy model"][-1] < rows["hand energy copy"][-1]
