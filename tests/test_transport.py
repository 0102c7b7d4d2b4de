import math

import pytest
import torch

from stt.api import Sampling
from stt.models.stt import STT, STTConfig
from stt.sampler import SeededNoise
from stt.things import BEYOND, FIXED, GUEST, LAYERS, UNITS, layered, repeated
from stt.transport import KINDS, MIXED, Mixture, Transport, drawing_loss, grouped, pose_loss
from tests.conftest import TINY, TINY_CONFIGS, TINY_TOKENIZER, lesson, lively
from tests.test_things import at, noise, picture


@pytest.fixture
def moving():
    return lively(STT(TINY_CONFIGS["stt, with transport"])).eval()


@pytest.fixture
def clips():
    return noise(2, 9, 1, 16, 16)


def test_pixels_of_a_kind_become_things_the_largest_first_and_crumbs_join_the_nearest():
    what, kinds = torch.zeros(16, 16, dtype=torch.int64), torch.zeros(KINDS, 16, 16)
    what[2:5, 2:5], what[8:14, 8:14], what[2:5, 10:12], what[12, 2] = 2, 2, 1, 2
    kinds[0, 2:5, 2:5], kinds[1, 8:14, 8:14], kinds[1, 12, 2] = 5.0, 5.0, 2.5
    kinds += 0.1 * noise(KINDS, 16, 16)
    shown = grouped(kinds, what, 4)
    assert (shown[8:14, 8:14] == 2).all() and (shown[2:5, 2:5] == 3).all() and (shown[2:5, 10:12] == 1).all()
    assert shown[12, 2] == 2
    assert shown.flatten().bincount(minlength=4).tolist() == [256 - 9 - 37 - 6, 6, 37, 9]
    assert not grouped(kinds, torch.zeros_like(what), 4).any()
    what[8:14, 8:14], what[0] = FIXED, BEYOND  # what is too small to be a thing is fixed, and what is no floor is known
    assert grouped(kinds, what, 99).flatten().unique().tolist() == [BEYOND, FIXED, GUEST]


def test_it_learns_which_pixels_are_of_one_thing():
    torch.manual_seed(0)
    transport = Transport(3, 8)
    optimizer = torch.optim.Adam(transport.sight.parameters(), lr=5e-3)

    def batch(count):
        """Two things of one hue each and a white guest, on a floor that is grey, and darker where it ends."""
        frames, shown = torch.full((count, 3, 32, 32), -0.4), torch.zeros(count, 32, 32, dtype=torch.int64)
        frames[..., 26:], shown[..., 26:] = -0.9, BEYOND
        for k in range(count):
            for owner, hue in ((2, [0.8, -0.6, -0.6]), (3, [-0.6, 0.2, 0.8]), (1, [1.0, 1.0, 1.0])):
                row, column = torch.randint(0, 24, (2,)).tolist()
                shown[k, row : row + 8, column : column + 8] = owner
                frames[k, :, row : row + 8, column : column + 8] = torch.tensor(hue)[:, None, None]
        return frames + 0.1 * torch.randn(frames.shape), shown

    for _ in range(140):
        optimizer.zero_grad()
        transport.sight_loss(*batch(8)).backward()
        optimizer.step()
    frames, shown = batch(8)
    with torch.no_grad():
        things = transport.things(frames)
    masks = things.masks
    assert (things.floor[:, 0] == (shown != BEYOND)).float().mean() > 0.97
    assert ((masks[:, 0] > 0.5) == (shown == 1)).float().mean() > 0.97
    best = []
    for k in range(8):
        assert 1 <= masks[k, 1:].flatten(1).any(dim=1).sum() <= 4
        for owner in shown[k].unique().tolist():
            true = shown[k] == owner
            if owner >= 2 and true.sum() > 30:
                seen = masks[k, 1:].bool() & (true | (shown[k] <= 0))  # without what goes on behind others
                best.append(max((mask & true).sum() / (mask | true).sum() for mask in seen))
    assert torch.stack(best).mean() > 0.85


def test_a_pose_is_as_far_off_as_its_pixels_are():
    sizes = torch.tensor([[4.0, 0.0, 2.0]])
    found, wanted = torch.zeros(2, 1, 3, 4)
    assert pose_loss(found, wanted, sizes) < 0.02
    found[0, 0, :2] = torch.tensor([3.0, -4.0])
    found[0, 1] = 99.0  # of a layer that is not there
    found[0, 2, 2] = 0.5
    torch.testing.assert_close(pose_loss(found, wanted, sizes), torch.tensor((5 + 1) / 2), atol=0.1, rtol=0)


def test_it_learns_that_what_the_guest_pushes_goes_along_and_the_rest_stays():
    torch.manual_seed(0)
    transport = Transport(1, 8)
    transport.requires_grad_(False)
    transport.physics.requires_grad_(True)
    optimizer = torch.optim.Adam(transport.physics.parameters(), lr=3e-3)

    def batch(count, times=6):
        """A guest goes right; where it comes upon a thing, that goes along with it."""
        shown, poses = torch.zeros(count, 64, 64, dtype=torch.int64), torch.zeros(count, times, LAYERS, 4)
        for k in range(count):
            row, column, gap, speed = (int(torch.randint(*of, ())) for of in ((8, 50), (4, 20), (0, 8), (1, 4)))
            shown[k, row : row + 6, column : column + 4] = 1
            for thing, down in ((2, 0), (3, 16 if row < 30 else -16)):  # the second is not in its way
                first = column + 4 + gap
                shown[k, row + down : row + down + 6, first : first + 6] = thing
            poses[k, :, 0, 1] = speed * torch.arange(times)
            poses[k, :, 1, 1] = (poses[k, :, 0, 1] - gap).clamp_min(0)
        return shown[:, None].float(), poses, shown

    for _ in range(120):
        optimizer.zero_grad()
        frames, poses, shown = batch(8)
        video = frames[:, None].expand(-1, poses.shape[1], -1, -1, -1)
        transport.losses(video, 0, poses, shown)["moved"].backward()
        optimizer.step()
    frames, poses, shown = batch(32)
    things, now = layered(frames, shown), poses[:, 0]
    paces = torch.zeros_like(now)
    with torch.no_grad():
        for t in range(1, 6):
            paces = transport.moves(things, now, paces, poses[:, t, 0] - poses[:, t - 1, 0])[-1]
            now = now + paces
    pushed = poses[:, 5, 1, 1] > 3
    assert pushed.sum() > 8
    assert (now - poses[:, 5])[pushed, 1, 1].abs().mean() < 0.35 * poses[:, 5][pushed, 1, 1].mean()
    assert now[:, 2, :2].abs().mean() < 0.5


def test_the_guest_learns_what_it_does_from_features_and_where_that_leads_from_what_it_does():
    torch.manual_seed(0)
    transport = Transport(1, 8, actions=2)
    optimizer = torch.optim.Adam(transport.will.parameters(), lr=5e-3)
    look, shown = picture((GUEST, 28, 28, 6, 4), side=64)
    things, rest = repeated(layered(look[:, :1], shown), 16), torch.zeros(16, LAYERS, 4)
    nothing, losses = torch.full((16, 2), torch.nan), []
    for _ in range(160):
        actions = 0.5 * torch.randn(16, 2)
        hidden = 3 * actions[:, :, None, None].repeat(1, 4, 8, 8)
        found = transport.policy(hidden, nothing, things, rest, rest)
        off = transport.willed(actions, nothing, things, rest, rest)[:, :2] - 3 * actions
        losses.append(torch.stack([found.nats(actions).mean(), off.square().mean()]))
        optimizer.zero_grad()
        losses[-1].sum().backward()
        optimizer.step()
    assert (torch.stack(losses[-5:]).mean(dim=0) < torch.tensor([0.0, 0.1])).all()
    drawn = found.drawn(1.0, SeededNoise(range(16)))
    assert (drawn - actions).abs().mean() < 0.2


def test_what_a_guest_was_told_is_not_asked_of_its_policy():
    torch.manual_seed(0)
    transport = lively(Transport(1, 8, actions=2))
    look, shown = picture((GUEST, 28, 28, 6, 4), side=64)
    video, poses = look[:, None, :1].expand(2, 6, -1, -1, -1), torch.zeros(2, 6, LAYERS, 4)
    actions, hidden = torch.zeros(2, 6, 2), torch.zeros(2, 5, 8, 8, 8)

    def chosen(known, actions=actions):
        torch.manual_seed(0)
        found = transport.will_losses(video, 0, poses, shown.expand(2, -1, -1), hidden, actions, known)
        return found["chosen"]

    assert chosen(torch.ones(2, 5, dtype=torch.bool)) == 0
    half = torch.tensor([True, False])[:, None].expand(2, 5)
    other = torch.cat([5 + actions[:1], actions[1:]])
    assert torch.equal(chosen(half), chosen(half, other)) and not torch.equal(chosen(None), chosen(None, other))


def test_a_mixture_is_drawn_as_densely_as_it_says():
    logits = torch.full((MIXED,), -20.0)
    logits[:2] = torch.tensor([0.25, 0.75]).log()
    means, wide = torch.zeros(MIXED, 1), torch.full((MIXED, 1), 0.1)
    means[:2, 0] = torch.tensor([-1.0, 1.0])
    found = Mixture(*(of.expand(4000, *of.shape) for of in (logits, means, wide)))
    drawn = found.drawn(1.0, SeededNoise(range(4000)))[:, 0]
    assert (drawn > 0).float().mean() == pytest.approx(0.75, abs=0.03)
    assert drawn[drawn > 0].std() == pytest.approx(0.1, rel=0.1)
    entropy = math.log(0.1 * math.sqrt(2 * math.pi * math.e)) - 0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert found.nats(drawn[:, None]).mean() == pytest.approx(entropy, abs=0.05)
    assert found.drawn(0.0, SeededNoise(range(4000))).eq(1).all()  # the likeliest, as it is
    assert found.drawn(0.5, SeededNoise(range(4000)))[:, 0].gt(0).float().mean() > 0.85


def test_what_moved_weighs_ten_times_as_much_as_what_stands_still():
    before, truth = torch.zeros(2, 1, 1, 16, 16)
    truth[..., :8] = 1.0
    still_, moved = truth.clone(), truth.clone()
    still_[..., 15], moved[..., 0] = 0.5, 0.5
    apart = [drawing_loss(frames, truth, before) for frames in (still_, moved)]
    torch.testing.assert_close(apart[1], 10 * apart[0])


def test_what_was_drawn_is_encoded_as_the_past_and_things_go_on_from_where_they_are(moving, clips):
    state = moving.start(clips[:1, :3])
    assert not state.poses.any() and state.paces.any()
    with torch.inference_mode():
        frames, after = moving.step(state, Sampling(), SeededNoise([0, 1]))
        assert torch.equal(after.recent[:, 1:], moving.tokenizer.encode(frames, state.reference).latents)
        assert after.poses.shape == (2, LAYERS, 4) and torch.equal(after.poses, after.paces)
        again, later = moving.step(after, Sampling(), SeededNoise([0, 1]))
        torch.testing.assert_close(later.poses, after.poses + later.paces)
        there = state.things.sizes[0] > 0
        assert there.sum() > 1 and later.paces[:, there].any()
        others, _ = moving.step(state._replace(poses=state.poses + 2), Sampling(), SeededNoise([0, 1]))
        assert not torch.allclose(frames, others, atol=1e-2)


def test_things_of_a_prompt_of_one_frame_rest(moving, clips):
    assert not moving.start(clips[:1, 2:3]).paces.any()
    assert moving.start(clips[:1, 1:3]).paces.any()


@pytest.mark.parametrize("own_past", [0.0, 1.0])
def test_transport_is_taught_beside_the_network_and_the_tokenizer_is_not(clips, own_past):
    config = TINY_CONFIGS["stt, with transport"].to_dict() | {"own_past": own_past}
    model = lively(STT(STTConfig.from_dict(config)))
    torch.manual_seed(0)
    loss = model.loss(*lesson(model, clips))
    assert min(loss.parts[name] for name in ("cut", "moved", "drawn", "willed")) > 0
    assert loss.total > sum(loss.parts[name] for name in ("cut", "moved", "drawn", "willed"))
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.transport.parameters())
    assert model.network.blocks[0].mlp.up.weight.grad.abs().max() > 0
    assert not any(p.requires_grad for p in model.tokenizer.parameters())
    with pytest.raises(ValueError, match="transport learns from poses of what moves, and got none"):
        model.loss(clips)


@pytest.mark.parametrize(
    ("part", "parts"),
    [("sight", {"cut"}), ("physics", {"moved"}), ("finish", {"drawn"}), ("will", {"willed", "chosen"})],
)
def test_of_transport_only_the_parts_that_are_trained_are_computed(clips, part, parts):
    model = lively(STT(TINY_CONFIGS["stt, with transport"])).requires_grad_(False)
    getattr(model.transport, part).requires_grad_(True)
    loss = model.loss(*lesson(model, clips))
    assert set(loss.parts) == parts
    loss.total.backward()
    assert all(p.grad is not None for p in getattr(model.transport, part).parameters())


def test_of_clips_that_are_steered_the_actions_are_always_told(clips, monkeypatch):
    config = TINY_CONFIGS["stt, with transport"].to_dict() | {"actions": ("push",)}
    model, seen = lively(STT(STTConfig.from_dict(config | {"own_past": 0.0, "drop_actions": 1.0}))), []
    monkeypatch.setattr(model.transport, "will_losses", lambda *given: seen.append(given[-2:]) or {})
    video, _, *rest = lesson(model, clips)
    model.loss(video, torch.ones(2, 9, 1), *rest, torch.tensor([True, False]))
    (actions, known), *_ = seen
    assert actions.eq(1).all() and actions.shape == (2, 9, 1)  # the guest is shown to go as it was told in any case
    assert known[0].all() and not known[1].any()


def test_the_last_frame_given_is_one_that_poses_begin_in(clips):
    model = lively(STT(TINY_CONFIGS["stt, with transport"]))
    video, _, poses, shown = lesson(model, clips)
    for seed in range(8):
        torch.manual_seed(seed)
        model.loss(video, None, poses[:, :1], shown[:, :1])  # an index error if it were another


def test_steps_are_as_large_in_pictures_of_twice_the_side():
    look, shown = picture((2, 20, 20, 8, 8), (GUEST, 20, 14, 6, 4))
    small = layered(look, shown)
    large = layered(*(of.repeat_interleave(2, -1).repeat_interleave(2, -2) for of in (look, shown)))
    transport = lively(Transport(3, 8)).eval()
    guest = torch.tensor([[0.0, 2.0, 0.0, 0.0]])
    rest, double = torch.zeros(1, LAYERS, 4), torch.tensor([2.0, 2.0, 1.0, 1.0])
    with torch.no_grad():
        one = transport.moves(small, rest, rest, guest)[-1][0, :2]
        two = transport.moves(large, rest, rest, guest * double)[-1][0, :2]
    torch.testing.assert_close(two / double, one, atol=0.15 * UNITS[0], rtol=0.1)


def test_transport_asks_for_a_reference_and_for_codes():
    with pytest.raises(ValueError, match="transport is True without a tokenizer's reference"):
        STTConfig.from_dict(TINY.to_dict() | {"transport": True})
    tokenizer = TINY_TOKENIZER.to_dict() | {"local": True, "reference": True}
    with pytest.raises(ValueError, match="transport is True with the objective stt_ancestor"):
        STTConfig.from_dict(TINY.to_dict() | {"transport": True, "tokenizer": tokenizer, "objective": "stt_ancestor"})


def test_a_guest_that_is_told_nothing_draws_what_it_does_and_goes_as_if_it_were_told_that(clips):
    model = STT(STTConfig.from_dict(TINY_CONFIGS["stt, with transport"].to_dict() | {"actions": ("push",)})).eval()
    with torch.inference_mode():
        state = model.start(clips[:1, :3])
        assert state.action is None
        free, after = model.step(state, Sampling(), SeededNoise([0, 1]))
        assert after.action.shape == (2, 1) and after.action.abs().max() <= 1 and after.action[0] != after.action[1]
        for k, action in enumerate(after.action.tolist()):
            told, as_told = model.step(state, Sampling(actions=(tuple(action),)), SeededNoise([k]))
            torch.testing.assert_close(told[0], free[k])
            assert as_told.action.tolist() == [action]
        one, other = (model.step(after, Sampling(temperature=0), SeededNoise([k, 9]))[1].action for k in (5, 6))
        assert torch.equal(one, other)  # no chance
        look, shown = picture((GUEST, 8, 8, 4, 4), side=16)
        scene = layered(look[:, :1], shown), torch.zeros(1, LAYERS, 4), torch.zeros(1, LAYERS, 4)
        hidden = torch.zeros(1, model.config.dim, 4, 4)
        before, other = (model.transport.policy(hidden, torch.tensor([[a]]), *scene) for a in (0.5, torch.nan))
        assert not torch.allclose(before.means, other.means)  # what it did last has a say


def test_passes_over_codes_are_not_offered_where_codes_are_not_drawn():
    refined = TINY_CONFIGS["stt, with transport"].to_dict() | {"refine_depth": 1}
    assert "steps" not in STT(STTConfig.from_dict(refined)).knobs
    assert "steps" in STT(STTConfig.from_dict(refined | {"transport": False})).knobs


def test_what_is_mended_is_what_is_fixed_and_things_stay_as_they_are():
    look, shown = picture((2, 20, 20, 8, 8), (GUEST, 40, 40, 6, 4))
    transport, things = lively(Transport(3, 8)), layered(look, shown)
    with torch.no_grad():
        frames = transport.draw(things, at())
    off = (frames - look).abs().amax(dim=1)
    assert off[shown > 0].max() < 1e-5 and off[shown == 0].mean() > 0.05
