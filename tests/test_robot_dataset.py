"""Stored clips of the robot: written in shards, completed, read as batches. Needs MuJoCo, OpenGL and metaworld."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stt.models.stt import STTConfig
from stt.tokenizer import FrameVQConfig
from tests.robot_fixtures import why_not
from tests.tabletop_fixtures import colour_model
from train.data.robot import RobotDataConfig, RobotDataset
from train.data.shards import decompress_segmentation
from train.datasets import open_dataset
from train.evaluate import evaluation_of, parser
from train.make_robot import main
from train.presets import PRESETS
from train.sim.robot.world import Robot, RobotConfig

CONFIG = RobotConfig(image_size=64, frames=4)


def make(out, test_clips: int = 1) -> None:
    main(f"--clips 3 --test-clips {test_clips} --per-shard 2 --size 64 --frames 4 --workers 1 --out {out}".split())


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A set of both splits; three training clips in two shards."""
    if reason := why_not():
        pytest.skip(reason)
    out = tmp_path_factory.mktemp("robot")
    make(out)
    return out


def whole(dataset: RobotDataset) -> torch.Tensor:
    clips = torch.arange(len(dataset))
    return dataset.cut(clips, torch.zeros_like(clips)).video


def test_a_set_holds_the_clips_of_its_split_and_seed(stored):
    dataset = RobotDataset(stored / "train")
    assert len(dataset) == 3 and dataset.split == "train"
    clip = Robot(CONFIG, "train").clip(0, 2)
    assert torch.equal(dataset.actions[2], clip.actions.float())
    count = len(clip.colours)
    for name, true in (("hand_poses", clip.hand_poses), ("cameras", clip.camera), ("shapes", clip.shapes)):
        part = dataset.part(name)[2]
        assert np.allclose(part[: len(true)], true.numpy(), atol=1e-6), name
    assert np.allclose(dataset.part("object_poses")[2][:, :count], clip.object_poses.numpy(), atol=1e-6)
    assert dataset.part("colours")[2].tolist() == clip.colours.tolist() + [-1] * (7 - count)
    packed = np.load(stored / "train" / "shard-00001.npz")["segmentation"]
    assert np.array_equal(decompress_segmentation(packed.tobytes(), (1, 4, 64, 64))[0], clip.segmentation.numpy())
    assert ((whole(dataset)[2] - clip.video) / 2).square().mean().sqrt() < 0.02


def test_a_set_is_read_at_half_its_size_as_area_averages(stored, tmp_path):
    large, small = RobotDataset(stored / "train"), RobotDataset(stored / "train", image_size=32, cache=tmp_path)
    averaged = torch.nn.functional.avg_pool2d(whole(large).flatten(0, 1), 2).unflatten(0, (3, 4))
    assert (whole(small) - averaged).abs().max() <= 0.5 / 127.5 + 1e-6
    with pytest.raises(ValueError, match="image_size is 48, must divide the set's 64"):
        RobotDataset(stored / "train", image_size=48)


def test_batches_are_stretches_of_clips_with_their_actions(stored):
    dataset = RobotDataset(stored / "train", frames=3)
    batch, again = (dataset.batch(5, seed=1, index=0) for _ in range(2))
    assert batch.video.shape == (5, 3, 3, 64, 64) and torch.equal(again.video, batch.video)
    assert not torch.equal(dataset.batch(5, seed=1, index=1).video, batch.video)
    clips = whole(RobotDataset(stored / "train"))
    stretches = [(clips[k, t : t + 3], dataset.actions[k, t : t + 3]) for k in range(3) for t in range(2)]
    for video, actions in zip(batch.video, batch.actions, strict=True):
        source = next(k for k, (frames, _) in enumerate(stretches) if torch.equal(frames, video))
        assert torch.equal(stretches[source][1], actions)


def test_sets_are_read_as_one_in_which_straight_line_clips_are_off_policy(stored, tmp_path):
    dataset = RobotDataset(stored / "train", stored / "straight_line", cache=tmp_path)
    assert len(dataset) == 4 and dataset.off_policy.tolist() == [False] * 3 + [True]
    alone, clips = RobotDataset(stored / "straight_line"), torch.tensor([0, 3])
    batch = dataset.cut(clips, torch.zeros_like(clips))
    assert torch.equal(batch.video[1], whole(alone)[0]) and torch.equal(batch.actions[1], alone.actions[0])
    assert batch.off_policy.tolist() == [False, True]
    main(f"--clips 1 --test-clips 1 --size 64 --frames 3 --workers 1 --out {tmp_path / 'short'}".split())
    with pytest.raises(ValueError, match="holds clips of .*'frames': 3.* of .*'frames': 4"):
        RobotDataset(stored / "train", tmp_path / "short" / "straight_line")


def test_a_set_that_is_being_written_is_read_in_part_and_completed_alike(stored):
    folder = stored / "train"
    shard = folder / "shard-00001.npz"
    before = dict(np.load(shard))
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001.npz and 0 more are missing; make the set again"):
        RobotDataset(folder)
    assert len(RobotDataset(folder, partial=True)) == 2
    make(stored)
    after = np.load(shard)
    assert all(np.array_equal(after[name], part) for name, part in before.items())


def test_other_sets_are_neither_overwritten_nor_read(stored, tmp_path):
    with pytest.raises(SystemExit, match="holds a set whose clips is 1, not 2"):
        make(stored, test_clips=2)
    index = json.loads((stored / "test" / "index.json").read_text())
    for changes, message in (
        ({"world": "tabletop"}, "holds clips of the tabletop, not of the robot"),
        ({"format": 9}, "has format 9, this code reads 1"),
    ):
        (tmp_path / "index.json").write_text(json.dumps(index | changes))
        with pytest.raises(ValueError, match=message):
            RobotDataset(tmp_path)


def test_scores_that_need_no_simulator_take_the_clips_of_a_set(stored, tmp_path):
    words = ["--model", "m", "--world", "robot", "--data", str(stored / "test"), "--simulated", str(tmp_path)]
    evaluation = evaluation_of(colour_model(), parser().parse_args([*words, "--device", "cpu"]))
    clips = whole(RobotDataset(stored / "test", image_size=evaluation.model.config.image_size, frames=3))
    assert torch.equal(evaluation.clips(9, 3), clips) and "test split" in evaluation.source


def test_presets_get_the_robots_clips_at_their_size_or_are_refused(stored):
    args = argparse.Namespace(data=stored, preset="NAME", mnist=None)
    tokenizer = FrameVQConfig(image_size=32, channels=3)
    preset = replace(PRESETS["tabletop/frame_vq/cpu"], model=tokenizer, data=RobotDataConfig(frames=3))
    batch = open_dataset(preset, args, "train", torch.device("cpu")).batch(2, 0, 0)
    assert batch.video.shape == (2, 3, 3, 32, 32) and batch.actions.shape == (2, 3, 3)
    robot = STTConfig(image_size=32, channels=3, tokenizer=tokenizer, actions=("right", "forward", "up"))
    assert len(open_dataset(replace(preset, model=robot), args, "train", torch.device("cpu"))) == 4  # straight ones too
    steered = STTConfig(image_size=32, channels=3, tokenizer=tokenizer, actions=("right", "forward"))
    for changes, message in (
        ({"model": steered}, "the model takes 2 actions, robot clips have 3"),
        ({"data": PRESETS["tabletop/stt/cpu"].data}, "holds clips of the robot, not of the tabletop"),
        ({"data": PRESETS["videos/stt/cpu"].data}, "holds robot clips, but the preset NAME learns videos"),
        ({"data": PRESETS["moving_mnist/stt/cpu"].data}, "holds robot clips, but the preset NAME learns digits"),
        ({"data": RobotDataConfig(frames=9)}, "frames is 9, the set's clips have 4"),
    ):
        with pytest.raises(SystemExit, match=message):
            open_dataset(replace(preset, **changes), args, "train", torch.device("cpu"))
