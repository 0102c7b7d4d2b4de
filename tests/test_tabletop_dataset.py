"""Stored tabletop clips: written in shards, completed, read as batches. Needs MuJoCo and OpenGL."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stt.sprites import MAX_SPRITES, composite, extract_sprites
from tests.tabletop_fixtures import why_not
from train.data.moving_mnist import MovingMNISTConfig
from train.data.shards import (
    compress_frames,
    compress_poses,
    compress_segmentation,
    decompress_frames,
    decompress_poses,
    decompress_segmentation,
)
from train.data.tabletop import Crops, TabletopDataConfig, TabletopDataset, write_set, write_shard
from train.data.video_folder import VideoFolderConfig
from train.datasets import open_dataset
from train.presets import PRESETS
from train.sim.tabletop.world import Tabletop, TabletopConfig

CONFIG = TabletopConfig(frames=8, oversampling=2, shadows=256)
STORED = {"crf": 20, "per_shard": 2, "workers": 1}


@pytest.fixture(scope="module")
def tabletop():
    if reason := why_not():
        pytest.skip(reason)
    return Tabletop(CONFIG, "test")


@pytest.fixture(scope="module")
def clips(tabletop):
    return [tabletop.clip(seed=0, index=k) for k in range(3)]


@pytest.fixture(scope="module")
def stored(tabletop, tmp_path_factory):
    """A set of three clips in two shards."""
    folder = tmp_path_factory.mktemp("set")
    write_set(folder, CONFIG, "test", seed=0, clips=3, **STORED)
    return folder


# ---- compression -------------------------------------------------------------------------------------


def test_compressed_poses_are_right_to_a_millimetre():
    generator = torch.Generator().manual_seed(0)
    poses = [torch.rand(5, objects, 7, generator=generator) * 2 - 1 for objects in (3, 7)]
    restored = decompress_poses(compress_poses(poses, 9), clips=2, times=5, bodies=9)
    for row, true in zip(restored, poses, strict=True):
        assert np.abs(row[:, : true.shape[1]] - true.numpy()).max() <= 0.001 + 1e-6
        assert not row[:, true.shape[1] :].any()


def test_a_compressed_segmentation_is_exact():
    segmentation = np.random.default_rng(0).integers(0, 9, (2, 5, 8, 6))
    assert np.array_equal(decompress_segmentation(compress_segmentation(segmentation), (2, 5, 8, 6)), segmentation)


def test_compressed_frames_are_close_and_their_number_is_checked():
    y, x = np.mgrid[:64, :64]
    frames = np.stack([np.stack([128 + 80 * np.sin((x + 2 * t) / 9), 2 * y, x + y], axis=-1) for t in range(4)])
    frames = np.stack([frames, frames[::-1]]).astype(np.uint8)
    stream = compress_frames(frames, crf=20)
    error = decompress_frames(stream, frames.shape).astype(float) - frames
    assert 10 * np.log10(255**2 / (error**2).mean()) > 38
    with pytest.raises(ValueError, match="holds 8 frames, expected 12"):
        decompress_frames(stream, (3, *frames.shape[1:]))


# ---- sets --------------------------------------------------------------------------------------------


def test_a_set_holds_the_clips_of_its_split_and_seed(stored, clips, tabletop):
    dataset = TabletopDataset(stored)
    assert len(dataset) == 3 and dataset.split == "test" and dataset.part("psnr").min() > 35
    poses, segmentation, colours = dataset.poses(), dataset.segmentation(), dataset.part("colours")
    for k, clip in enumerate(clips):
        torch.testing.assert_close(dataset.actions[k], clip.actions.float())
        count = len(clip.colours)
        assert colours[k].tolist() == clip.colours.tolist() + [-1] * (8 - count)
        assert np.abs(poses[k][:, 1 : 1 + count] - clip.poses.numpy()).max() < 0.0011
        assert np.abs(poses[k][:, 0, :2] - clip.pusher.numpy()).max() < 0.0011
        assert not poses[k][:, 1 + count :].any()
        assert np.array_equal(segmentation[k], tabletop.segmentation(clip).numpy() + 2)


def test_an_incomplete_set_says_what_is_missing_and_is_completed(stored, tmp_path, monkeypatch):
    for name in ("index.json", "shard-00000.npz"):
        (tmp_path / name).write_bytes((stored / name).read_bytes())
    with pytest.raises(FileNotFoundError, match="shard-00001.npz and 0 more are missing"):
        TabletopDataset(tmp_path)
    written, write = [], lambda shard: written.append(shard.path.name) or write_shard(shard)
    monkeypatch.setattr("train.data.tabletop.write_shard", write)
    write_set(tmp_path, CONFIG, "test", seed=0, clips=3, **STORED)
    assert written == ["shard-00001.npz"]
    again, whole = (TabletopDataset(folder).batch(4, 0, 0) for folder in (tmp_path, stored))
    assert torch.equal(again.video, whole.video)


def test_other_sets_are_neither_overwritten_nor_read(stored, tmp_path):
    with pytest.raises(ValueError, match="holds a set whose seed is 0, not 1"):
        write_set(stored, CONFIG, "test", seed=1, clips=3, **STORED)
    with pytest.raises(FileNotFoundError, match="index.json is missing; make the set again"):
        TabletopDataset(stored, tmp_path / "none")
    index = json.loads((stored / "index.json").read_text()) | {"format": 99}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="has format 99, this code reads 3"):
        TabletopDataset(tmp_path)


def test_sets_are_read_as_one_in_which_straight_line_clips_are_off_policy(stored, tmp_path):
    straight = tmp_path / "straight_line"
    write_set(straight, CONFIG, "straight_line", seed=0, clips=2, **STORED)
    dataset = TabletopDataset(stored, straight, frames=5, sprites=True, cache=tmp_path)
    assert len(dataset) == 5 and dataset.off_policy.tolist() == [False] * 3 + [True] * 2
    assert 0 < dataset.batch(16, seed=0, index=0).off_policy.sum() < 16
    crop = Crops(torch.tensor([4]), torch.tensor([2]), torch.tensor([True]))
    alone = TabletopDataset(straight, frames=5, sprites=True).cut(crop._replace(clips=torch.tensor([1])))
    for name, part in vars(dataset.cut(crop)).items():
        assert part is None or torch.equal(part, getattr(alone, name)), name
    write_set(tmp_path / "long", replace(CONFIG, frames=9), "straight_line", seed=0, clips=1, **STORED)
    with pytest.raises(ValueError, match="long holds clips of .*'frames': 9"):
        TabletopDataset(stored, tmp_path / "long")


# ---- batches -----------------------------------------------------------------------------------------


def stretches(clips):
    """All stretches of 5 frames, and their actions."""
    video = torch.stack([clip.video[t : t + 5] for clip in clips for t in range(4)])
    return video, torch.stack([clip.actions[t : t + 5].float() for clip in clips for t in range(4)])


def test_a_batch_depends_on_seed_and_index_alone_and_shows_stretches_of_clips(stored, clips):
    dataset = TabletopDataset(stored, frames=5)
    batch, again = (dataset.batch(6, seed=1, index=2), TabletopDataset(stored, frames=5).batch(6, seed=1, index=2))
    assert batch.video.shape == (6, 5, 3, 64, 64) and batch.actions.shape == (6, 5, 2) and batch.poses is None
    assert torch.equal(again.video, batch.video) and torch.equal(again.actions, batch.actions)
    assert not torch.equal(dataset.batch(6, seed=1, index=3).video, batch.video)
    error = (batch.video[:, None] - stretches(clips)[0]).square().mean(dim=(2, 3, 4, 5)).amin(dim=1)
    assert error.max() < 0.002  # of 4


def test_half_of_the_training_clips_are_mirrored_and_so_are_their_actions(stored, clips):
    dataset = TabletopDataset(stored, frames=5)
    dataset.split = "train"
    batch, (video, actions) = dataset.batch(24, seed=1, index=0), stretches(clips)
    plain, mirrored = (
        (batch.video[:, None] - side).square().mean(dim=(2, 3, 4, 5)).min(dim=1) for side in (video, video.flip(-1))
    )
    flipped = mirrored.values < plain.values
    assert 4 < flipped.sum() < 20 and torch.minimum(plain.values, mirrored.values).max() < 0.002
    source = torch.where(flipped, mirrored.indices, plain.indices)
    torch.testing.assert_close(
        batch.actions[..., 0], torch.where(flipped, -1.0, 1.0)[:, None] * actions[source][..., 0]
    )
    torch.testing.assert_close(batch.actions[..., 1], actions[source][..., 1])


def test_image_poses_carry_what_a_frame_shows_to_where_later_frames_show_it(stored, clips, tabletop):
    none = torch.zeros(3, dtype=torch.int64)
    batch = TabletopDataset(stored, sprites=True).cut(Crops(torch.arange(3), none, none > 0))
    assert batch.poses.shape == (3, 5, 8, MAX_SPRITES, 4) and batch.segmentation.shape == (3, 5, 64, 64)
    ratios = []
    for clip, poses, segmentation in zip(clips, batch.poses, batch.segmentation, strict=True):
        pixels = tabletop.segmentation(clip) + 2
        assert torch.equal(segmentation.clamp(min=0), pixels[:5])
        for r in (0, 4):
            assert poses[r, r].abs().max() < 1e-4
            sprites = extract_sprites(clip.video[r : r + 1], segmentation[r : r + 1]).repeat(8)
            frames, agent, objects, _ = composite(sprites, poses[r])
            covered = (agent + objects > 0.5) & (pixels[:, None] > 0)  # by sprites, not where they were before
            errors = [((image - clip.video).square() * covered).sum() for image in (frames, clip.video[r])]
            ratios.append(errors[0] / errors[1])
    assert torch.stack(ratios).mean() < 0.5


def test_image_poses_of_a_mirrored_clip_are_mirrored(stored):
    crops = Crops(torch.tensor([1, 1]), torch.tensor([2, 2]), torch.tensor([False, True]))
    batch = TabletopDataset(stored, frames=5, sprites=True).cut(crops)
    (plain, mirrored), segmentation = batch.poses, batch.segmentation
    assert torch.equal(segmentation[1], segmentation[0].flip(-1)) and segmentation[0].unique().numel() > 2
    assert plain.abs().max() > 0.5
    torch.testing.assert_close(mirrored * torch.tensor([1.0, -1.0, -1.0, 1.0]), plain)


# ---- training ----------------------------------------------------------------------------------------


def test_presets_get_what_they_learn_from_or_are_refused(stored, tmp_path):
    (tmp_path / "train").symlink_to(stored)
    args, clips = argparse.Namespace(data=tmp_path, preset="NAME", mnist=None), TabletopDataConfig(frames=5)

    def dataset(name: str, data: Any = clips) -> TabletopDataset:
        return open_dataset(replace(PRESETS[name], data=data), args, "train", torch.device("cpu"))

    batch = dataset("tabletop/stt/cpu").batch(2, 0, 0)
    assert batch.actions.shape == (2, 5, 2) and batch.poses is None
    with pytest.raises(SystemExit, match="straight_line/index.json is missing; make the set again"):
        dataset("tabletop/layered/cpu")
    write_set(tmp_path / "straight_line", CONFIG, "straight_line", seed=0, clips=1, **STORED)
    assert dataset("tabletop/layered/cpu").batch(2, 0, 0).poses is not None
    with pytest.raises(SystemExit, match="tabletop clips have no classes and no maps"):
        dataset("moving_mnist/transframer/gpu")
    for data in (MovingMNISTConfig(), VideoFolderConfig()):
        with pytest.raises(SystemExit, match="layered learns from poses, which only tabletop sets have"):
            dataset("tabletop/layered/cpu", data)


@pytest.mark.slow
@pytest.mark.usefixtures("tabletop")
def test_three_commands_make_clips_a_model_and_its_scores(tmp_path):
    def run(*words):
        subprocess.run([sys.executable, "-m", *map(str, words)], check=True, timeout=600)

    clips, out = tmp_path / "clips", tmp_path / "run"
    run("train.make_tabletop", "--clips", 4, "--held-out", 4, "--per-shard", 2, "--out", clips)
    small = ["--steps", 3, "--batch", 2, "--device", "cpu"]
    run("train.predictor", "--preset", "tabletop/layered/cpu", "--data", clips, "--out", out, *small)
    counts = ["--clips", 1, "--prompts", 1, "--futures", 2, "--sets", 4]
    run("train.evaluate", "--model", out, *counts, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {"simulated_futures", "best_of", "spread", "pusher_distribution", "action_following"} <= set(scores)
