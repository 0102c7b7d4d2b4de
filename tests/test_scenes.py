"""Generated scenes: what clips show, and batches of them beside real videos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from train.data.scenes import ScenesConfig, ScenesDataset
from train.sim.scenes import world
from train.sim.scenes.motion import SUBSTEPS, speed, trajectory
from train.sim.scenes.stage import Stage

CONFIG = ScenesConfig(frames=4, workers=0)


def test_every_scene_paints_whole_pictures_of_any_aspect_that_depend_on_the_generator_alone():
    for scene in world.SCENES:
        for height, width in ((48, 64), (64, 40)):
            clips = []
            for _ in range(2):
                stage = Stage.of(np.random.default_rng(3), 2 * SUBSTEPS, height, width)
                layers = scene(stage)
                clips.append([world.painted(layers, stage, step) for step in (0, SUBSTEPS)])
            assert np.array_equal(*clips), scene.__name__
            assert clips[0][0].shape == (height, width, 3) and np.std(clips[0]) > 1, scene.__name__


def test_stills_stand_and_most_clips_move_a_little():
    stage = Stage.of(np.random.default_rng(0), 2 * SUBSTEPS, 64, 64)
    layers = world.still(stage)
    assert np.array_equal(world.painted(layers, stage, 0), world.painted(layers, stage, SUBSTEPS))
    clips = np.stack([world.clip(np.random.default_rng(k), 3, 64, 64) for k in range(24)]).astype(float)
    changes = np.abs(np.diff(clips, axis=1)).mean(axis=(1, 2, 3, 4))
    assert 0.5 < np.median(changes) < 20


def test_speeds_are_mostly_small_with_a_tail_and_objects_visit_the_frame():
    rng = np.random.default_rng(0)
    speeds = np.array([speed(rng) for _ in range(2000)])
    assert 0.6 < (speeds < 2).mean() < 0.85 and 0.005 < (speeds > 8).mean() < 0.06 and speeds.max() <= 12
    for _ in range(200):
        path = trajectory(rng, 12 * SUBSTEPS, 2.0, 128, 72)
        assert path.shape == (48, 2) and np.isfinite(path).all()
        steps = np.linalg.norm(np.diff(path, axis=0), axis=1) * SUBSTEPS
        assert np.median(steps) < 25


def test_batches_depend_on_split_seed_and_index_alone_and_take_their_aspect_by_chance():
    data = ScenesDataset(CONFIG, "train", 64)
    first = data.batch(3, 0, 0).video
    assert torch.equal(first, ScenesDataset(CONFIG, "train", 64).batch(3, 0, 0).video)
    assert first.shape[:3] == (3, 4, 3) and -1 <= first.min() < first.max() <= 1
    for other in (ScenesDataset(CONFIG, "test", 64).batch(3, 0, 0), data.batch(3, 1, 0), data.batch(3, 0, 1)):
        assert other.video.shape != first.shape or not torch.equal(other.video, first)
    shapes = {tuple(data.batch(1, 0, k).video.shape[-2:]) for k in range(12)}
    assert shapes == {(64, 64), (40, 64), (64, 40)}


def test_a_worker_process_makes_the_same_clips():
    data = ScenesDataset(replace(CONFIG, workers=1), "train", 32)
    assert torch.equal(data.batch(2, 0, 5).video, ScenesDataset(CONFIG, "train", 32).batch(2, 0, 5).video)


def test_real_videos_take_their_share_of_a_batch_augmented(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    for name in ("a", "b", "c"):
        np.save(tmp_path / "videos" / f"{name}.npy", rng.integers(0, 255, (20, 48, 64, 3), np.uint8))
    config = replace(CONFIG, oblong=1.0)
    data = ScenesDataset(config, "train", 64, {tmp_path / "videos": 0.5}, cache=tmp_path / "cache")
    batch = data.batch(4, 0, 0).video
    assert batch.shape[:3] == (4, 4, 3) and sorted(batch.shape[-2:]) == [40, 64]
    alone = ScenesDataset(config, "train", 64).batch(4, 0, 0).video
    assert torch.equal(batch[:2], alone[:2]) and not torch.equal(batch[2:], alone[2:])
    assert sorted(data.card()["train"] + data.card()["test"]) == ["a.npy", "b.npy", "c.npy"]
    only = ScenesDataset(config, "train", 64, {tmp_path / "videos": 1.0}, cache=tmp_path / "cache")
    assert only.batch(3, 0, 0).video.shape[0] == 3
    with pytest.raises(ValueError, match="shares"):
        ScenesDataset(config, "train", 64, {tmp_path / "videos": 1.2})
