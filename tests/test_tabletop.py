"""The simulated tabletop: a seed tells a clip, and states tell its futures. Needs MuJoCo and OpenGL."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tabletop_fixtures import tried, why_not
from train.sim.tabletop.image_motion import AXES, floor_mask, image_poses, project
from train.sim.tabletop.scene import HALF, SHAPES, random_scene
from train.sim.tabletop.world import Tabletop, TabletopConfig

SMALL = TabletopConfig(frames=8, oversampling=2, shadows=256)
FLAT = replace(SMALL, frames=30, image_size=8, shadows=0, oversampling=1)


@pytest.fixture(scope="module")
def tabletop():
    if reason := why_not():
        pytest.skip(reason)
    return Tabletop(SMALL, "test")


@pytest.fixture(scope="module")
def clips(tabletop):
    return [tabletop.clip(seed=0, index=k) for k in range(3)]


# ---- without MuJoCo ----------------------------------------------------------------------------------


def test_a_scene_has_objects_of_distinct_hues_and_depends_on_its_generator_alone():
    scenes = [random_scene(np.random.default_rng(k), 3, 7, 64, 0) for k in range(40)]
    assert {len(scene.colours) for scene in scenes} == {3, 4, 5, 6, 7}
    assert all(len(set(scene.colours)) == len(scene.colours) for scene in scenes)
    assert {int(k) for scene in scenes for k in scene.shapes} == set(range(len(SHAPES)))
    assert random_scene(np.random.default_rng(1), 3, 7, 64, 0).xml == scenes[1].xml != scenes[2].xml


def test_wrong_arguments_are_refused():
    for fields, message in (
        ({"least_objects": 5, "most_objects": 4}, "objects are 5 to 4"),
        ({"fps": 7}, "fps 7"),
        ({"image_size": 4}, "image_size is 4"),
    ):
        with pytest.raises(ValueError, match=message):
            TabletopConfig(**fields)
    with pytest.raises(ValueError, match="split is 'odd', must be one of train, test, straight_line"):
        Tabletop(SMALL, "odd")


def test_importing_the_tabletop_does_not_load_mujoco():
    assert tried().stdout == "False\n"


# ---- clips -------------------------------------------------------------------------------------------


def test_a_clip_has_its_ground_truth(clips):
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


def test_a_longer_or_larger_clip_shows_the_same_events(clips):
    larger = Tabletop(replace(FLAT, frames=10, image_size=128), "test").clip(0, 0)
    assert larger.video.shape == (10, 3, 128, 128)
    assert torch.equal(larger.poses[:8], clips[0].poses) and torch.equal(larger.actions[:8], clips[0].actions)


@pytest.mark.usefixtures("tabletop")
def test_nothing_leaves_the_table_and_the_pusher_moves_objects():
    flat, moved = Tabletop(FLAT, "test"), []
    for clip in (flat.clip(seed=9, index=k) for k in range(6)):
        positions = clip.poses[..., :3]
        assert positions[..., :2].abs().max() < HALF
        assert positions[..., 2].min() > 0.02 and positions[..., 2].max() < 0.4
        assert clip.pusher.abs().max() < HALF and clip.pusher.diff(dim=0).norm(dim=-1).mean() > 0.01
        moved.append((positions[-1] - positions[0]).norm(dim=-1).max())
    assert torch.stack(moved).gt(0.05).sum() >= 4


@pytest.mark.usefixtures("tabletop")
def test_in_straight_line_clips_the_pusher_goes_straight_on_until_something_stops_it():
    clips = [Tabletop(FLAT, "straight_line").clip(seed=0, index=k) for k in range(6)]
    same = torch.stack([(clip.actions.diff(dim=0) == 0).all(dim=1).float().mean() for clip in clips])
    assert same.mean() > 0.85 and len({tuple(clip.actions[0].tolist()) for clip in clips}) == 6
    reached = torch.stack([clip.pusher.abs().amax() for clip in clips])
    assert reached.max() < HALF - 0.05 and reached.gt(HALF - 0.08).sum() >= 3  # it comes to walls, which hold it


# ---- futures -----------------------------------------------------------------------------------------


def test_the_clips_own_actions_give_its_own_frames_to_the_bit(tabletop, clips):
    clip = clips[0]
    for at_frame in (1, 5):
        replayed = tabletop.with_actions(clip, at_frame, clip.actions[at_frame - 1 : -1])
        assert torch.equal(replayed, clip.video[at_frame:])


def test_a_pusher_whose_actions_are_zero_rests(tabletop, clips):
    frames = tabletop.with_actions(clips[1], 4, torch.zeros(12, 2))
    assert (frames[-1] - frames[-2]).abs().mean() < 0.01


def test_simulated_futures_differ_continue_the_prompt_and_depend_on_their_seed_alone(tabletop, clips):
    futures = tabletop.futures(clips[0], at_frame=3, frames=6, count=3, seed=0)
    assert futures.shape == (3, 6, 3, 64, 64) and not torch.equal(futures[0], futures[1])
    assert torch.equal(tabletop.futures(clips[0], 3, 6, 1, 0)[0], futures[0])
    assert not torch.equal(tabletop.futures(clips[0], 3, 6, 1, 1)[0], futures[0])
    assert (futures[:, 0] - clips[0].video[2]).abs().mean(dim=(1, 2, 3)).max() < 0.1
    for at_frame in (0, 9):
        with pytest.raises(ValueError, match=f"at_frame is {at_frame}, must be 1 to 8"):
            tabletop.futures(clips[0], at_frame, 1, 1, 0)


# ---- motion in the image -----------------------------------------------------------------------------


def test_the_floor_mask_is_what_a_camera_shows_of_the_floor(tabletop, clips):
    points = 1.2 * HALF * (2 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 1)
    for clip in clips:
        camera = tabletop.camera(clip)
        at = project(F.pad(points, [0, 1]), camera.expand(400, 13)) + 31.5
        visible = ((at > 0) & (at < 63)).all(dim=1)
        edge = (points.abs().amax(dim=1) - HALF).abs() < 0.03  # where a pixel shows both sides
        row, column = at[visible & ~edge].round().long().unbind(dim=1)
        on = (points[visible & ~edge].abs() < HALF).all(dim=1)
        assert torch.equal(floor_mask(camera[None], 64)[0, row, column], on) and 20 < on.sum() < len(on) - 5


def from_above(poses, axes, centroid=(31.5, 31.5)):
    """Poses in a picture of 64 pixels a side, a centimetre of the floor each, of a body's poses (T, 7)."""
    camera = torch.cat([torch.eye(3).flatten(), torch.tensor([0.0, 0.0, 10.0, 1000.0])])
    centroids = torch.tensor(centroid).expand(1, 1, 1, 2)
    return image_poses(camera[None], poses[None, :, None], torch.tensor(axes).expand(1, 1, 3), centroids, 64)[
        0, 0, :, 0
    ]


def test_what_rotates_about_the_vertical_rotates_in_the_image_unless_it_is_round():
    angles, zero = torch.arange(9) * 0.7, torch.zeros(9)
    positions = torch.tensor([0.02, -0.05, 0.0]) * torch.arange(9)[:, None]
    quaternions = torch.stack([(angles / 2).cos(), zero, zero, (angles / 2).sin()], dim=-1)
    poses = from_above(torch.cat([positions, quaternions], dim=-1), AXES["slab"])
    torch.testing.assert_close(poses[:, 2], angles, atol=1e-3, rtol=0)
    torch.testing.assert_close(poses[:, :2], torch.tensor([5.0, 2.0]) * torch.arange(9)[:, None], atol=1e-3, rtol=0)
    assert poses[:, 3].abs().max() < 1e-4
    assert from_above(torch.cat([positions, quaternions], dim=-1), AXES["ball"])[:, 2].abs().max() == 0
    beside = from_above(torch.cat([positions * 0, quaternions], dim=-1), AXES["slab"], centroid=(31.5, 41.5))
    radius = torch.hypot(beside[:, 0], beside[:, 1] + 10)  # the visible centroid goes around the body's origin
    torch.testing.assert_close(radius, torch.full((9,), 10.0), atol=1e-3, rtol=0)


def test_what_comes_nearer_grows():
    poses = torch.zeros(3, 7)
    poses[:, 2], poses[:, 3] = torch.tensor([0.0, 5.0, 7.5]), 1.0
    torch.testing.assert_close(from_above(poses, AXES["box"])[:, 3].exp(), torch.tensor([1.0, 2.0, 4.0]))
