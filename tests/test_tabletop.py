"""The tabletop: clips that can be told again, futures from their states, hues, packed sets. Needs MuJoCo and OpenGL."""

from __future__ import annotations

import argparse
import colorsys
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stt.sprites import MAX_SPRITES, composite, extract_sprites
from train.cli import videos_of
from train.data.tabletop import (
    TabletopBatch,
    TabletopDataset,
    pack,
    pack_poses,
    pack_shown,
    unpack,
    unpack_poses,
    unpack_shown,
    write_set,
    write_shard,
)
from train.evaluation.permanence import colour_pixels, permanence, visible_colours
from train.predictor import batches_of
from train.presets import PRESETS
from train.sim.tabletop.image_motion import AXES, floor, paths, projected
from train.sim.tabletop.scene import HALF, PALETTE, SHAPES, draw_scene
from train.sim.tabletop.world import Tabletop, TabletopConfig

SMALL = TabletopConfig(frames=8, oversampling=2, shadows=256)


def why_not() -> str | None:
    """What the tabletop lacks here; asked in another process, since a driver may crash."""
    if importlib.util.find_spec("mujoco") is None:
        return "needs the package mujoco"
    tried = "from train.sim.tabletop.environment import load_mujoco; load_mujoco()"
    done = subprocess.run([sys.executable, "-c", tried], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr else None


@pytest.fixture(scope="module")
def tabletop():
    if reason := why_not():
        pytest.skip(reason)
    return Tabletop(SMALL, "test")


@pytest.fixture(scope="module")
def clips(tabletop):
    return [tabletop.clip(seed=0, index=k) for k in range(3)]


# scenes, which need no MuJoCo


def test_a_scene_has_objects_of_distinct_hues_and_depends_on_its_generator_alone():
    scenes = [draw_scene(np.random.default_rng(k), 3, 7, 64, 0) for k in range(40)]
    assert {len(scene.colours) for scene in scenes} == {3, 4, 5, 6, 7}
    assert all(len(set(scene.colours)) == len(scene.colours) for scene in scenes)
    assert {int(k) for scene in scenes for k in scene.shapes} == set(range(len(SHAPES)))
    assert draw_scene(np.random.default_rng(1), 3, 7, 64, 0).xml == scenes[1].xml != scenes[2].xml


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"least_objects": 5, "most_objects": 4}, "objects are 5 to 4"),
        ({"fps": 7}, "fps 7"),
        ({"image_size": 4}, "image_size is 4"),
    ],
)
def test_a_config_checks_its_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        TabletopConfig(**fields)


def test_importing_the_tabletop_touches_no_mujoco():
    code = "import sys, train.data.tabletop, train.evaluation.permanence; assert 'mujoco' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# hues


def shade(colour: int) -> torch.Tensor:
    """A strong colour of PALETTE's hue, (3, 1, 1) on [0, 1]."""
    return torch.tensor(colorsys.hsv_to_rgb(list(PALETTE.values())[colour] / 360, 0.9, 0.95))[:, None, None]


@pytest.mark.parametrize("light", [0.3, 0.6, 1.0])
def test_a_patch_of_a_palette_colour_counts_as_that_colour_in_any_light(light):
    for k in range(len(PALETTE)):
        frame = torch.full((3, 64, 64), 0.4 * light)
        frame[:, 10:14, 20:25] = light * shade(k)
        expected = torch.zeros(len(PALETTE), dtype=torch.int64)
        expected[k] = 20
        assert torch.equal(colour_pixels(frame * 2 - 1), expected)


def test_permanence_is_the_share_of_the_prompts_objects_and_counts_new_ones():
    def picture(*colours: int) -> torch.Tensor:
        frame = torch.zeros(3, 64, 64)
        for k in colours:
            frame[:, 8 * k : 8 * k + 8, :8] = shade(k)
        return frame * 2 - 1

    prompt = torch.stack([picture(0, 1), picture(0, 1)])
    kept, new = permanence(prompt, torch.stack([picture(0, 1), picture(1), picture(0, 2), picture()]))
    assert kept.tolist() == [1, 0.5, 0.5, 0]
    assert new.tolist() == [0, 0, 1, 0]


# clips


def test_a_clip_tells_its_truth_in_shapes(clips):
    clip = clips[0]
    count = len(clip.colours)
    assert clip.video.shape == (8, 3, 64, 64) and clip.video.dtype == torch.float32
    assert clip.video.min() >= -1 and clip.video.max() <= 1 and clip.video.std() > 0.1
    assert clip.actions.shape == clip.pusher.shape == (8, 2) and clip.actions.norm(dim=-1).max() <= 1
    assert clip.poses.shape == (8, count, 7) and clip.shapes.shape == (count,)
    torch.testing.assert_close(clip.poses[..., 3:].norm(dim=-1), torch.ones(8, count, dtype=torch.float64))


def test_a_clip_depends_on_split_seed_and_index_alone(tabletop, clips):
    again = Tabletop(SMALL, "test").clip(seed=0, index=1)
    assert torch.equal(again.video, clips[1].video) and torch.equal(again.states, clips[1].states)
    others = [tabletop.clip(0, 2), tabletop.clip(1, 1), Tabletop(SMALL, "train").clip(0, 1)]
    assert not any(torch.equal(other.video, again.video) for other in others)


def test_a_steady_pusher_goes_straight_on_until_a_wall_or_something_stops_it():
    flat = Tabletop(replace(SMALL, frames=30, image_size=8, shadows=0, oversampling=1), "steady")
    clips = [flat.clip(seed=0, index=k) for k in range(6)]
    on = torch.stack([(clip.actions.diff(dim=0) == 0).all(dim=1).float().mean() for clip in clips])
    assert on.mean() > 0.85 and len({tuple(clip.actions[0].tolist()) for clip in clips}) == 6
    reached = torch.stack([clip.pusher.abs().amax() for clip in clips])
    assert reached.max() < HALF - 0.05 and reached.gt(HALF - 0.08).sum() >= 3  # walls hold it, and it comes there
    with pytest.raises(ValueError, match="split is 'odd', must be one of train, test, steady"):
        Tabletop(SMALL, "odd")


def test_a_longer_or_larger_clip_shows_the_same_events(clips):
    larger = Tabletop(replace(SMALL, frames=10, image_size=128, shadows=0, oversampling=1), "test").clip(0, 0)
    assert larger.video.shape == (10, 3, 128, 128)
    assert torch.equal(larger.poses[:8], clips[0].poses) and torch.equal(larger.actions[:8], clips[0].actions)


def test_nothing_leaves_the_tray_and_the_pusher_moves(tabletop):
    flat = Tabletop(replace(SMALL, frames=30, image_size=8, shadows=0, oversampling=1), "test")
    moved = []
    for clip in (flat.clip(seed=9, index=k) for k in range(6)):
        places = clip.poses[..., :3]
        assert places[..., :2].abs().max() < HALF and places[..., 2].min() > 0.02 and places[..., 2].max() < 0.4
        assert clip.pusher.abs().max() < HALF
        assert clip.pusher.diff(dim=0).norm(dim=-1).mean() > 0.01
        moved.append((places[-1] - places[0]).norm(dim=-1).max())
    assert torch.stack(moved).gt(0.05).sum() >= 4


# futures


def test_the_clips_own_actions_give_its_own_frames_to_the_bit(tabletop, clips):
    clip = clips[0]
    for at_frame in (1, 5):
        replayed = tabletop.obeyed(clip, at_frame, clip.actions[at_frame - 1 : -1])
        assert torch.equal(replayed, clip.video[at_frame:])


def test_true_futures_differ_from_each_other_and_depend_on_their_seed_alone(tabletop, clips):
    futures = tabletop.futures(clips[0], at_frame=3, frames=6, count=3, seed=0)
    assert futures.shape == (3, 6, 3, 64, 64)
    assert not torch.equal(futures[0], futures[1])
    assert torch.equal(tabletop.futures(clips[0], 3, 6, 1, 0)[0], futures[0])
    assert not torch.equal(tabletop.futures(clips[0], 3, 6, 1, 1)[0], futures[0])
    jump = (futures[:, 0] - clips[0].video[2]).abs().mean(dim=(1, 2, 3))
    assert jump.max() < 0.1  # they go on from the prompt's last frame


def test_a_pusher_that_is_told_to_rest_rests(tabletop, clips):
    rested = tabletop.obeyed(clips[1], 4, torch.zeros(12, 2))
    assert (rested[-1] - rested[-2]).abs().mean() < 0.01


def test_futures_of_frames_that_are_not_there_are_refused(tabletop, clips):
    for at_frame in (0, 9):
        with pytest.raises(ValueError, match=f"at_frame is {at_frame}, must be 1 to 8"):
            tabletop.futures(clips[0], at_frame, 1, 1, 0)


def test_objects_seen_by_their_hues_are_those_that_the_simulator_draws(tabletop, clips):
    agree = []
    for clip in clips:
        named = tabletop.segmentation(clip)  # (T, H, W)
        true = torch.zeros(len(named), len(PALETTE), dtype=torch.int64)
        for k, colour in enumerate(clip.colours):
            true[:, colour] = (named == k).sum(dim=(1, 2))
        agree.append(visible_colours(clip.video) == (true >= 8))
        assert (colour_pixels(clip.video) - true).abs().max() < 0.25 * true.max()
        assert permanence(clip.video[:2], clip.video[2:])[1].max() == 0
    assert torch.stack(agree).float().mean() >= 0.97


# packed sets


def test_packed_poses_are_right_to_a_millimetre():
    generator = torch.Generator().manual_seed(0)
    poses = [torch.rand(5, objects, 7, generator=generator) * 2 - 1 for objects in (3, 7)]
    found = unpack_poses(pack_poses(poses), clips=2, times=5)
    for row, true in zip(found, poses, strict=True):
        assert np.abs(row[:, : true.shape[1]] - true.numpy()).max() <= 0.001 + 1e-6
        assert not row[:, true.shape[1] :].any()


def test_what_pixels_show_is_packed_without_a_loss():
    shown = np.random.default_rng(0).integers(0, 9, (2, 5, 8, 6))
    assert np.array_equal(unpack_shown(pack_shown(shown), shown.shape), shown)


def test_packed_video_is_close_to_what_went_in():
    y, x = np.mgrid[:64, :64]
    frames = np.stack([np.stack([128 + 80 * np.sin((x + 2 * t) / 9), 2 * y, x + y], axis=-1) for t in range(4)])
    frames = np.stack([frames, frames[::-1]]).astype(np.uint8)
    found = unpack(pack(frames, crf=20), frames.shape)
    assert 10 * np.log10(255**2 / ((found.astype(float) - frames) ** 2).mean()) > 38
    with pytest.raises(ValueError, match="the stream holds"):
        unpack(pack(frames, crf=20), (3, *frames.shape[1:]))


@pytest.fixture(scope="module")
def packed(tabletop, tmp_path_factory):
    """A set of three clips in two shards, written here and now, without processes."""
    folder = tmp_path_factory.mktemp("set")
    monkey = pytest.MonkeyPatch()
    monkey.setattr("train.data.tabletop.multiprocessing.get_context", lambda kind: Here())
    write_set(folder, SMALL, "test", seed=0, clips=3, crf=20, per_shard=2, workers=1)
    monkey.undo()
    return folder


class Here:
    """Stands in for a pool of processes."""

    def Pool(self, count):  # noqa: N802
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def imap_unordered(self, function, items):
        return map(function, items)


def test_a_set_holds_the_clips_of_its_split_and_seed(packed, clips, tabletop):
    found = TabletopDataset(packed)
    assert len(found) == 3 and found.split == "test"
    assert found.part("psnr").min() > 35
    for k, clip in enumerate(clips):
        torch.testing.assert_close(found.actions[k], clip.actions.float())
        count = len(clip.colours)
        assert found.part("colours")[k].tolist() == clip.colours.tolist() + [-1] * (8 - count)
        assert np.abs(found.poses()[k][:, 1 : 1 + count] - clip.poses.numpy()).max() < 0.0011
        assert np.abs(found.poses()[k][:, 0, :2] - clip.pusher.numpy()).max() < 0.0011
        assert not found.poses()[k][:, 1 + count :].any()
        assert np.array_equal(found.shown()[k], tabletop.segmentation(clip).numpy() + 2)


def whole(clips):
    """A batch of all of the first clips, from their first frame on."""
    none = torch.zeros(clips, dtype=torch.int64)
    return TabletopBatch(None, None, torch.arange(clips), none, none > 0, none > 0)


def test_paths_carry_what_a_frame_shows_to_where_later_frames_show_it(packed, clips, tabletop):
    poses, shown = TabletopDataset(packed).paths(whole(3))
    assert poses.shape == (3, 5, 8, MAX_SPRITES, 4) and shown.shape == (3, 5, 64, 64)
    better = []
    for k, clip in enumerate(clips):
        pixels = tabletop.segmentation(clip) + 2
        assert torch.equal(shown[k].clamp(min=0), pixels[:5])
        for r in (0, 4):
            assert poses[k, r, r].abs().max() < 1e-4
            sprites = extract_sprites(clip.video[r : r + 1], shown[k, r : r + 1]).repeat(8)
            frames, agent, objects, _ = composite(sprites, poses[k, r])
            seen = (agent + objects > 0.5) & (pixels[:, None] > 0)  # what sprites cover, and not what they leave behind
            errors = [((of - clip.video).square() * seen).sum() for of in (frames, clip.video[r])]
            better.append(errors[0] / errors[1])
    assert torch.stack(better).mean() < 0.5


def test_paths_of_a_mirrored_clip_are_mirrored(packed):
    found = TabletopDataset(packed, frames=5)
    clips, starts = torch.tensor([1, 1]), torch.tensor([2, 2])
    (plain, other), shown = found.paths(
        TabletopBatch(None, None, clips, starts, torch.tensor([False, True]), clips > 9)
    )
    assert torch.equal(shown[1], shown[0].flip(-1)) and shown[0].unique().numel() > 2
    assert plain.abs().max() > 0.5
    torch.testing.assert_close(other * torch.tensor([1.0, -1.0, -1.0, 1.0]), plain)


def from_above(poses, axes, middle=(31.5, 31.5)):
    """Poses in a picture of 64 pixels a side, of which one is a centimetre on the floor, of a body's poses (T, 7)."""
    camera = torch.cat([torch.eye(3).flatten(), torch.tensor([0.0, 0.0, 10.0, 1000.0])])
    middles = torch.tensor(middle).expand(1, 1, 1, 2)
    return paths(camera[None], poses[None, :, None], torch.tensor(axes).expand(1, 1, 3), middles, 64)[0, 0, :, 0]


def test_floor_is_what_a_camera_shows_of_it(tabletop, clips):
    places = 1.2 * HALF * (2 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 1)
    for k in range(3):
        camera = tabletop.camera(clips[k])
        at = projected(F.pad(places, [0, 1]), camera.expand(400, 13)) + 31.5
        seen = ((at > 0) & (at < 63)).all(dim=1)
        edge = (places.abs().amax(dim=1) - HALF).abs() < 0.03  # of which a pixel shows more than one side
        row, column = at[seen & ~edge].round().long().unbind(dim=1)
        on = (places[seen & ~edge].abs() < HALF).all(dim=1)
        assert torch.equal(floor(camera[None], 64)[0, row, column], on) and 20 < on.sum() < len(on) - 5


def test_what_turns_about_the_vertical_turns_in_the_picture_unless_it_is_round():
    angles, zero = torch.arange(9) * 0.7, torch.zeros(9)
    place = torch.tensor([0.02, -0.05, 0.0]) * torch.arange(9)[:, None]
    turns = torch.stack([(angles / 2).cos(), zero, zero, (angles / 2).sin()], dim=-1)
    found = from_above(torch.cat([place, turns], dim=-1), AXES["slab"])
    torch.testing.assert_close(found[:, 2], angles, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[:, :2], torch.tensor([5.0, 2.0]) * torch.arange(9)[:, None], atol=1e-3, rtol=0)
    assert found[:, 3].abs().max() < 1e-4
    assert from_above(torch.cat([place, turns], dim=-1), AXES["ball"])[:, 2].abs().max() == 0
    beside = from_above(torch.cat([place * 0, turns], dim=-1), AXES["slab"], middle=(31.5, 41.5))
    arm = torch.tensor([0.0, 10.0])  # what is seen of it lies to the right of its middle, and goes around that
    y, x = beside[:, 0], beside[:, 1] + 10
    torch.testing.assert_close((y.square() + x.square()).sqrt(), arm.norm().expand(9), atol=1e-3, rtol=0)


def test_what_comes_nearer_grows():
    lift = torch.zeros(3, 7)
    lift[:, 2], lift[:, 3] = torch.tensor([0.0, 5.0, 7.5]), 1.0
    torch.testing.assert_close(from_above(lift, AXES["box"])[:, 3].exp(), torch.tensor([1.0, 2.0, 4.0]))


def test_a_batch_of_a_set_depends_on_seed_and_index_alone(packed, clips):
    found = TabletopDataset(packed, frames=5)
    batch = found.sample(6, seed=1, index=2)
    assert batch.video.shape == (6, 5, 3, 64, 64) and batch.actions.shape == (6, 5, 2)
    again = TabletopDataset(packed, frames=5).sample(6, seed=1, index=2)
    assert torch.equal(again.video, batch.video) and torch.equal(again.actions, batch.actions)
    assert torch.equal(found.batch(6, seed=1, index=2), batch.video)
    assert not torch.equal(found.batch(6, seed=1, index=3), batch.video)
    sources = torch.stack([clip.video[t : t + 5] for clip in clips for t in range(4)])
    apart = (batch.video[:, None] - sources).square().mean(dim=(2, 3, 4, 5)).amin(dim=1)
    assert apart.max() < 0.002  # of 4: every clip of a batch is a stretch of a clip


def test_half_of_the_clips_to_train_on_are_mirrored_and_so_are_their_actions(packed, clips):
    found = TabletopDataset(packed, frames=5)
    found.split = "train"
    batch = found.sample(24, seed=1, index=0)
    sources = torch.stack([clip.video[t : t + 5] for clip in clips for t in range(4)])
    told = torch.stack([clip.actions[t : t + 5].float() for clip in clips for t in range(4)])
    plain, mirrored = (
        (batch.video[:, None] - side).square().mean(dim=(2, 3, 4, 5)).min(dim=1) for side in (sources, sources.flip(-1))
    )
    turned = mirrored.values < plain.values
    assert 4 < turned.sum() < 20 and torch.minimum(plain.values, mirrored.values).max() < 0.002
    source = torch.where(turned, mirrored.indices, plain.indices)
    sign = torch.where(turned, -1.0, 1.0)[:, None]
    torch.testing.assert_close(batch.actions[..., 0], sign * told[source][..., 0])
    torch.testing.assert_close(batch.actions[..., 1], told[source][..., 1])


def test_a_set_that_is_not_complete_says_what_is_missing_and_is_completed(packed, tmp_path, monkeypatch):
    for path in packed.glob("*[!y]"):
        if path.name != "shard-00001.npz" and path.suffix in (".npz", ".json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(FileNotFoundError, match="shard-00001.npz and 0 more are missing"):
        TabletopDataset(tmp_path)
    written = []
    monkeypatch.setattr("train.data.tabletop.multiprocessing.get_context", lambda kind: Here())
    monkeypatch.setattr(
        "train.data.tabletop.write_shard", lambda shard: written.append(shard.path.name) or write_shard(shard)
    )
    write_set(tmp_path, SMALL, "test", seed=0, clips=3, crf=20, per_shard=2, workers=1)
    assert written == ["shard-00001.npz"]
    assert torch.equal(TabletopDataset(tmp_path).batch(4, 0, 0), TabletopDataset(packed).batch(4, 0, 0))


def test_sets_are_read_as_one_and_know_which_clips_go_straight_on(packed, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.tabletop.multiprocessing.get_context", lambda kind: Here())
    write_set(tmp_path / "steady", SMALL, "steady", seed=0, clips=2, crf=20, per_shard=2, workers=1)
    found = TabletopDataset(packed, tmp_path / "steady", frames=5, cache=tmp_path)
    assert len(found) == 5 and found.steady.tolist() == [False] * 3 + [True] * 2
    batch, alone = found.sample(16, seed=0, index=0), TabletopDataset(tmp_path / "steady", frames=5)
    assert torch.equal(batch.steady, batch.clips >= 3) and 0 < batch.steady.sum() < 16
    poses, shown = found.paths(batch)
    k = int(batch.steady.int().argmax())
    own = TabletopBatch(None, None, batch.clips[[k]] - 3, batch.starts[[k]], batch.mirrored[[k]], batch.steady[[k]])
    torch.testing.assert_close((poses[[k]], shown[[k]]), alone.paths(own))
    assert torch.equal(batch.actions[k], alone.actions[own.clips[0]][own.starts[0] : own.starts[0] + 5])
    write_set(tmp_path / "long", replace(SMALL, frames=9), "steady", seed=0, clips=1, crf=20, per_shard=2, workers=1)
    with pytest.raises(ValueError, match="long holds clips of .*'frames': 9"):
        TabletopDataset(packed, tmp_path / "long")
    with pytest.raises(FileNotFoundError, match="index.json is missing; run the set's command again"):
        TabletopDataset(packed, tmp_path / "none")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "train").symlink_to(packed)  # as sets were written before there were steady clips
    args = argparse.Namespace(data=tmp_path / "old")
    with pytest.raises(SystemExit, match="old/steady/index.json is missing; run the set's command again"):
        videos_of(PRESETS["cpu_tabletop_layered"], args, "train", torch.device("cpu"))


def test_a_model_with_actions_is_told_what_the_pusher_was(packed):
    preset, layered = PRESETS["cpu_tabletop_stt"], PRESETS["cpu_tabletop_layered"]
    found = TabletopDataset(packed, frames=5)
    batch = batches_of(found, preset)(2, 3)
    video, actions = batch.video, batch.actions
    again = found.sample(2, preset.loop.seed, 3)
    assert torch.equal(video, again.video) and torch.equal(actions, again.actions)
    assert actions.shape[-1] == len(preset.model.actions)
    batch = batches_of(found, layered)(2, 3)
    assert torch.equal(batch.off_policy, again.steady) and not batch.off_policy.any()
    torch.testing.assert_close((batch.poses, batch.segmentation), found.paths(again))
    with pytest.raises(SystemExit, match="layered learns from poses, which only sets of the tabletop have"):
        batches_of(object(), layered)  # videos of any other kind
    silent = batches_of(found, replace(layered, model=replace(layered.model, actions=())))(2, 3)
    assert silent.actions is None and torch.equal(silent.poses, batch.poses)
    assert batches_of(found, replace(preset, model=replace(preset.model, actions=())))(2, 3).actions is None
    with pytest.raises(SystemExit, match="the tabletop has no classes and no maps"):
        batches_of(found, PRESETS["digits_transframer"])


def test_a_folder_with_other_clips_is_not_written_over(packed):
    with pytest.raises(ValueError, match="holds a set whose seed is 0, not 1"):
        write_set(packed, SMALL, "test", seed=1, clips=3, crf=20, per_shard=2, workers=1)


def test_a_set_of_another_format_is_refused(packed, tmp_path):
    index = json.loads((packed / "index.json").read_text()) | {"format": 99}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="has format 99, this code reads 3"):
        TabletopDataset(tmp_path)


@pytest.mark.slow
def test_the_three_commands_of_the_readme_make_clips_a_model_and_its_scores(tabletop, tmp_path):
    def run(*words):
        subprocess.run([sys.executable, "-m", *map(str, words)], check=True, timeout=600)

    run("train.make_tabletop", "--clips", 4, "--held-out", 4, "--per-shard", 2, "--out", tmp_path / "clips")
    small = ["--steps", 3, "--batch", 2, "--device", "cpu"]
    run(
        "train.predictor",
        "--preset",
        "cpu_tabletop_layered",
        "--data",
        tmp_path / "clips",
        *small,
        "--out",
        tmp_path / "run",
    )
    counts = ["--clips", 1, "--prompts", 1, "--futures", 2, "--sets", 4]
    run("train.evaluate", "--model", tmp_path / "run", *counts, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {"truth", "best_of", "spread", "moves", "obedience"} <= set(scores)
