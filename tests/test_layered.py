"""What is particular to the family layered."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import stt
from stt.api import Batch, Condition, Sampling
from stt.mixture import Mixture
from stt.models.layered import Layered, LayeredConfig, motion_weighted_l1, pose_distance
from stt.object_segmenter import cluster
from stt.sampler import SeededNoise
from stt.sprites import AGENT, BACKGROUND, MAX_SPRITES, OUTSIDE, POSE_SCALE, extract_sprites
from tests.conftest import TINY_LAYERED, batch_of, lively
from tests.test_sprites import at, noise, picture

LARGE = LayeredConfig(channels=1)  # of the size that ships


@pytest.fixture
def model():
    return lively(Layered(TINY_LAYERED)).eval()


@pytest.fixture
def clips():
    return noise(2, 9, 1, 16, 16)


# ---- segmenter ---------------------------------------------------------------------------------------


def test_pixels_of_like_embeddings_become_objects_the_largest_first_and_crumbs_join_the_nearest():
    classes, embeddings = torch.zeros(16, 16, dtype=torch.int64), torch.zeros(6, 16, 16)
    classes[2:5, 2:5], classes[8:14, 8:14], classes[2:5, 10:12], classes[12, 2] = 2, 2, 1, 2
    embeddings[0, 2:5, 2:5], embeddings[1, 8:14, 8:14], embeddings[1, 12, 2] = 5.0, 5.0, 2.5
    embeddings += 0.1 * noise(6, 16, 16)
    segmentation = cluster(embeddings, classes, 4)
    assert (segmentation[8:14, 8:14] == 2).all() and (segmentation[2:5, 2:5] == 3).all()
    assert (segmentation[2:5, 10:12] == 1).all() and segmentation[12, 2] == 2
    assert segmentation.flatten().bincount(minlength=4).tolist() == [256 - 9 - 37 - 6, 6, 37, 9]
    assert not cluster(embeddings, torch.zeros_like(classes), 4).any()
    classes[8:14, 8:14], classes[0] = BACKGROUND, OUTSIDE  # what is too small to be an object is background
    assert cluster(embeddings, classes, 99).flatten().unique().tolist() == [OUTSIDE, BACKGROUND, AGENT]


def test_it_learns_which_pixels_are_of_one_object():
    torch.manual_seed(0)
    segmenter = Layered(LayeredConfig(channels=3)).segmenter
    optimizer = torch.optim.Adam(segmenter.parameters(), lr=5e-3)

    def batch(count):
        """Two objects of one hue each and a white agent, on a floor that is grey, and darker where it ends."""
        frames, segmentation = torch.full((count, 3, 32, 32), -0.4), torch.zeros(count, 32, 32, dtype=torch.int64)
        frames[..., 26:], segmentation[..., 26:] = -0.9, OUTSIDE
        for k in range(count):
            for owner, hue in ((2, [0.8, -0.6, -0.6]), (3, [-0.6, 0.2, 0.8]), (1, [1.0, 1.0, 1.0])):
                row, column = torch.randint(0, 24, (2,)).tolist()
                segmentation[k, row : row + 8, column : column + 8] = owner
                frames[k, :, row : row + 8, column : column + 8] = torch.tensor(hue)[:, None, None]
        return frames + 0.1 * torch.randn(frames.shape), segmentation

    for _ in range(140):
        optimizer.zero_grad()
        segmenter.loss(*batch(8)).backward()
        optimizer.step()
    frames, truth = batch(8)
    with torch.no_grad():
        found = segmenter.segment(frames)
    assert ((found != OUTSIDE) == (truth != OUTSIDE)).float().mean() > 0.97
    assert ((found == AGENT) == (truth == AGENT)).float().mean() > 0.97
    overlaps = []
    for k in range(8):
        objects = [found[k] == value for value in found[k].unique() if value > AGENT]
        assert 1 <= len(objects) <= 4
        for owner in truth[k].unique().tolist():
            true = truth[k] == owner
            if owner > AGENT and true.sum() > 30:
                overlaps.append(max((mask & true).sum() / (mask | true).sum() for mask in objects))
    assert torch.stack(overlaps).mean() > 0.85


# ---- motion ------------------------------------------------------------------------------------------


def test_a_pose_is_as_far_off_as_its_pixels_are():
    radii = torch.tensor([[4.0, 0.0, 2.0]])
    poses, targets = torch.zeros(2, 1, 3, 4)
    assert pose_distance(poses, targets, radii) < 0.02
    poses[0, 0, :2] = torch.tensor([3.0, -4.0])
    poses[0, 1] = 99.0  # of a sprite that is not there
    poses[0, 2, 2] = 0.5
    torch.testing.assert_close(pose_distance(poses, targets, radii), torch.tensor((5 + 1) / 2), atol=0.1, rtol=0)


def test_it_learns_that_what_the_agent_pushes_goes_along_and_the_rest_stays():
    torch.manual_seed(0)
    model = Layered(LARGE).requires_grad_(False)
    model.dynamics.requires_grad_(True)
    optimizer = torch.optim.Adam(model.dynamics.parameters(), lr=3e-3)

    def batch(count, times=6):
        """An agent goes right; where it comes upon an object, that goes along with it."""
        segmentation = torch.zeros(count, 64, 64, dtype=torch.int64)
        poses = torch.zeros(count, times, MAX_SPRITES, 4)
        for k in range(count):
            bounds = (8, 50), (4, 20), (0, 8), (1, 4)
            row, column, gap, speed = (int(torch.randint(*bound, ())) for bound in bounds)
            segmentation[k, row : row + 6, column : column + 4] = 1
            for value, down in ((2, 0), (3, 16 if row < 30 else -16)):  # the second is not in its way
                first = column + 4 + gap
                segmentation[k, row + down : row + down + 6, first : first + 6] = value
            poses[k, :, 0, 1] = speed * torch.arange(times)
            poses[k, :, 1, 1] = (poses[k, :, 0, 1] - gap).clamp_min(0)
        return segmentation[:, None].float(), poses, segmentation

    for _ in range(120):
        optimizer.zero_grad()
        frames, poses, segmentation = batch(8)
        model._dynamics_loss(extract_sprites(frames, segmentation), 0, poses).backward()
        optimizer.step()
    frames, poses, segmentation = batch(32)
    sprites, now = extract_sprites(frames, segmentation), poses[:, 0]
    velocities = torch.zeros_like(now)
    with torch.no_grad():
        for t in range(1, 6):
            velocities = model.dynamics(sprites, now, velocities, poses[:, t, 0] - poses[:, t - 1, 0])[-1]
            now = now + velocities
    pushed = poses[:, 5, 1, 1] > 3
    assert pushed.sum() > 8
    assert (now - poses[:, 5])[pushed, 1, 1].abs().mean() < 0.35 * poses[:, 5][pushed, 1, 1].mean()
    assert now[:, 2, :2].abs().mean() < 0.5


def test_velocities_are_as_large_in_frames_of_twice_the_side():
    frame, segmentation = picture((2, 20, 20, 8, 8), (AGENT, 20, 14, 6, 4))
    small = extract_sprites(frame, segmentation)
    large = extract_sprites(*(maps.repeat_interleave(2, -1).repeat_interleave(2, -2) for maps in (frame, segmentation)))
    dynamics = lively(Layered(LayeredConfig(channels=3)).dynamics).eval()
    agent, rest = torch.tensor([[0.0, 2.0, 0.0, 0.0]]), torch.zeros(1, MAX_SPRITES, 4)
    double = torch.tensor([2.0, 2.0, 1.0, 1.0])
    with torch.no_grad():
        one = dynamics(small, rest, rest, agent)[-1][0, :2]
        two = dynamics(large, rest, rest, agent * double)[-1][0, :2]
    torch.testing.assert_close(two / double, one, atol=0.15 * POSE_SCALE[0], rtol=0.1)


# ---- agent -------------------------------------------------------------------------------------------


def test_the_policy_learns_what_follows_an_action_and_the_agents_dynamics_where_that_leads():
    torch.manual_seed(0)
    model = Layered(replace(LARGE, actions=("right", "up")))
    parts = [*model.policy.parameters(), *model.agent_dynamics.parameters()]
    optimizer = torch.optim.Adam(parts, lr=5e-3)
    frame, segmentation = picture((AGENT, 28, 28, 6, 4))
    scene = extract_sprites(frame[:, :1], segmentation).repeat(16), *torch.zeros(2, 16, MAX_SPRITES, 4)
    losses = []
    for _ in range(160):
        last = 0.5 * torch.randn(16, 2)
        actions = -last  # it goes back and forth
        policy = model.action_distribution(last, *scene)
        error = model.agent_dynamics(actions, last, *scene)[:, :2] - 3 * actions
        losses.append(torch.stack([policy.nll(actions).mean(), error.square().mean()]))
        optimizer.zero_grad()
        losses[-1].sum().backward()
        optimizer.step()
    assert (torch.stack(losses[-5:]).mean(dim=0) < torch.tensor([0.0, 0.1])).all()
    assert (policy.sample(1.0, SeededNoise(range(16))) - actions).abs().mean() < 0.2


def test_an_agent_without_a_given_action_draws_one_and_goes_as_if_that_were_given(clips):
    model = Layered(replace(TINY_LAYERED, actions=("push",))).eval()
    with torch.inference_mode():
        state = model.start(clips[:1, :3])
        assert state.action.isnan().all()
        free, after = model.step(state, Sampling(), SeededNoise([0, 1]))
        assert after.action.shape == (2, 1) and after.action.abs().max() <= 1 and after.action[0] != after.action[1]
        for k, action in enumerate(after.action.tolist()):
            conditioned = state._replace(condition=Condition(actions=(tuple(action),)))
            given, as_given = model.step(conditioned, Sampling(), SeededNoise([k]))
            torch.testing.assert_close(given[0], free[k])
            assert as_given.action.tolist() == [action]
        one, other = (model.step(after, Sampling(temperature=0), SeededNoise([k, 9]))[1].action for k in (5, 6))
        assert torch.equal(one, other)  # no chance
        frame, segmentation = picture((AGENT, 8, 8, 4, 4), side=16)
        scene = extract_sprites(frame[:, :1], segmentation), *torch.zeros(2, 1, MAX_SPRITES, 4)
        known, unknown = (model.action_distribution(torch.tensor([[a]]), *scene) for a in (0.5, torch.nan))
        assert not torch.allclose(known.means, unknown.means)  # the last action has a say
        with pytest.raises(ValueError, match="an action has 2 numbers, the model takes 1"):
            stt.rollout(model, clips[0], 1, condition=Condition(actions=((0.0, 0.0),)))


def test_the_policy_does_not_learn_from_clips_whose_actions_nobody_would_choose():
    torch.manual_seed(0)
    model = lively(Layered(replace(LARGE, actions=("right", "up"))))
    frame, segmentation = picture((AGENT, 28, 28, 6, 4))
    sprites = extract_sprites(frame[:, :1].expand(2, -1, -1, -1), segmentation.expand(2, -1, -1))
    poses, actions = torch.zeros(2, 6, MAX_SPRITES, 4), torch.zeros(2, 6, 2)

    def policy(off_policy, actions=actions):
        torch.manual_seed(0)
        return model._agent_losses(sprites, 0, actions, poses, off_policy)["policy"]

    assert policy(torch.ones(2, dtype=torch.bool)) == 0
    first = torch.tensor([True, False])
    other = torch.cat([5 + actions[:1], actions[1:]])
    assert torch.equal(policy(first), policy(first, other)) and not torch.equal(policy(None), policy(None, other))


def test_a_mixture_is_sampled_as_densely_as_it_says():
    logits = torch.full((8,), -20.0)
    logits[:2] = torch.tensor([0.25, 0.75]).log()
    means, stds = torch.zeros(8, 1), torch.full((8, 1), 0.1)
    means[:2, 0] = torch.tensor([-1.0, 1.0])
    mixture = Mixture(*(part.expand(4000, *part.shape) for part in (logits, means, stds)))
    drawn = mixture.sample(1.0, SeededNoise(range(4000)))[:, 0]
    assert (drawn > 0).float().mean() == pytest.approx(0.75, abs=0.03)
    assert drawn[drawn > 0].std() == pytest.approx(0.1, rel=0.1)
    entropy = math.log(0.1 * math.sqrt(2 * math.pi * math.e)) - 0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert mixture.nll(drawn[:, None]).mean() == pytest.approx(entropy, abs=0.05)
    assert mixture.sample(0.0, SeededNoise(range(4000))).eq(1).all()  # the mode
    assert mixture.sample(0.5, SeededNoise(range(4000)))[:, 0].gt(0).float().mean() > 0.85


# ---- frames ------------------------------------------------------------------------------------------


def test_what_moved_weighs_ten_times_as_much_as_what_stands_still():
    before, truth = torch.zeros(2, 1, 1, 16, 16)
    truth[..., :8] = 1.0
    still, moved = truth.clone(), truth.clone()
    still[..., 15], moved[..., 0] = 0.5, 0.5
    losses = [motion_weighted_l1(frames, truth, before) for frames in (still, moved)]
    torch.testing.assert_close(losses[1], 10 * losses[0])


def test_the_background_is_repainted_and_sprites_stay_as_they_are():
    frame, segmentation = picture((2, 20, 20, 8, 8), (AGENT, 40, 40, 6, 4))
    compositor = lively(Layered(LayeredConfig(channels=3)).compositor)
    with torch.no_grad():
        frames = compositor(extract_sprites(frame, segmentation), at())
    difference = (frames - frame).abs().amax(dim=1)
    assert difference[segmentation > 0].max() < 1e-5 and difference[segmentation == 0].mean() > 0.05


# ---- the whole ---------------------------------------------------------------------------------------


def test_sprites_go_on_from_where_they_are(model, clips):
    state = model.start(clips[:1, :3])
    assert not state.poses.any() and state.velocities.any()
    with torch.inference_mode():
        frames, after = model.step(state, Sampling(), SeededNoise([0, 1]))
        assert after.poses.shape == (2, MAX_SPRITES, 4) and torch.equal(after.poses, after.velocities)
        _, later = model.step(after, Sampling(), SeededNoise([0, 1]))
        torch.testing.assert_close(later.poses, after.poses + later.velocities)
        exists = state.sprites.radii[0] > 0
        assert exists.sum() > 1 and later.velocities[:, exists].any()
        others, _ = model.step(state._replace(poses=state.poses + 2), Sampling(), SeededNoise([0, 1]))
        assert not torch.allclose(frames, others, atol=1e-2)


def test_sprites_of_a_prompt_of_one_frame_rest(model, clips):
    assert not model.start(clips[:1, 2:3]).velocities.any()
    assert model.start(clips[:1, 1:3]).velocities.any()


def test_only_the_parts_that_are_trained_are_computed(model, clips):
    parts = {
        "segmenter": "segmentation", "agent_dynamics": "agent_motion", "policy": "policy", "dynamics": "object_motion",
        "compositor": "frames",
    }  # fmt: skip
    assert set(model.loss(batch_of(model, clips)).parts) == set(parts.values())
    for part, name in parts.items():
        model.requires_grad_(False)
        getattr(model, part).requires_grad_(True)
        loss = model.loss(batch_of(model, clips))
        assert set(loss.parts) == {name}
        loss.total.backward()
        assert all(p.grad is not None for p in getattr(model, part).parameters())


def test_the_reference_is_a_frame_that_poses_begin_in(model, clips):
    batch = batch_of(model, clips)
    first = replace(batch, poses=batch.poses[:, :1], segmentation=batch.segmentation[:, :1])
    for seed in range(8):
        torch.manual_seed(seed)
        model.loss(first)  # an index error if it were another
    with pytest.raises(ValueError, match="layered learns from poses and segmentations, and got none"):
        model.loss(Batch(clips))


def test_a_frame_costs_the_same_whatever_came_before(model, clips):
    """The state does not grow: it is the reference's sprites and where these are."""
    with torch.inference_mode():
        state = model.start(clips[:1])
        sizes = []
        for _ in range(4):
            _, state = model.step(state, Sampling(), SeededNoise([0]))
            sizes.append([part.shape for part in (*state.sprites, *state[1:4])])
    assert all(size == sizes[0] for size in sizes)
