import pytest
import torch

from stt.api import Sampling
from stt.layers import unpatchify
from stt.models.stt import STT, STTConfig
from stt.sampler import SeededNoise
from stt.transport import (
    REACH,
    SQUARE,
    Things,
    Transport,
    drawing_loss,
    kin_loss,
    motion_loss,
    motion_of,
    pixels,
    pooled,
    splat,
    stiff,
    still,
    unlikeness,
    warp,
)
from tests.conftest import TINY, TINY_CONFIGS, TINY_TOKENIZER, lively

SIDE = 2 * REACH + 1


def place(down, right):
    """Of a displacement, its number among all."""
    return (down + REACH) * SIDE + right + REACH


def noise(*shape):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(0)) - 1


def constant(down, right):
    return torch.tensor([float(down), float(right)])[:, None, None].expand(1, 2, 16, 16)


def things_of(reference):
    """What is brighter than the darkest is one thing, that is the rest; all of it is carried along."""
    shades = torch.nn.functional.avg_pool2d(reference.mean(dim=1, keepdim=True), SQUARE)
    thing = shades > shades.amin(dim=(-2, -1), keepdim=True) + 0.01
    same = (thing.flatten(1)[:, :, None] == thing.flatten(1)[:, None]).float()
    return Things(reference, same / same.sum(dim=-1, keepdim=True), torch.ones_like(thing, dtype=torch.float32))


def logits_of(height, width):
    return torch.full((1, SIDE**2, height, width), -30.0)


def motion_by(logits):
    return motion_of(logits, torch.zeros(1, 1, *logits.shape[2:]))


@pytest.fixture
def moving():
    return lively(STT(TINY_CONFIGS["stt, with transport"])).eval()


@pytest.fixture
def clips():
    return noise(2, 9, 1, 16, 16)


def test_pixels_come_from_where_the_flow_says():
    frames = noise(1, 3, 16, 16)
    moved = warp(frames, constant(2, -3))
    torch.testing.assert_close(moved[..., :14, 3:], frames[..., 2:, :-3], atol=1e-4, rtol=0)
    torch.testing.assert_close(warp(frames, constant(0, 0)), frames, atol=1e-4, rtol=0)


def test_pixels_go_where_their_ways_lead_and_leave_a_hole():
    frames, ones = noise(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    back, covered = splat(constant(2, -3), constant(2, -3), ones, ones)
    torch.testing.assert_close(warp(frames, back)[..., 2:, :-3], frames[..., :14, 3:], atol=1e-4, rtol=0)
    assert covered[..., 2:, :-3].eq(1).all() and covered[..., :2, :].eq(0).all() and covered[..., -3:].eq(0).all()
    back, covered = splat(constant(0.5, 0), constant(0.5, 0), ones, ones)
    torch.testing.assert_close(back[..., 1:, :], constant(-0.5, 0)[..., 1:, :])
    torch.testing.assert_close(covered[0, 0, :, 0], torch.tensor([0.5] + 15 * [1.0]))


def test_of_two_things_that_lie_in_the_same_place_the_heavier_is_seen():
    frames, ways, weight = torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 16, 16), torch.ones(1, 1, 16, 16)
    frames[..., 4:8, 4:8] = 1.0
    ways[:, 1, 4:8, 4:8] = 3.0
    for heavy, seen in ((100.0, 1.0), (0.01, 0.0)):
        weight[..., 4:8, 4:8] = heavy
        back, covered = splat(ways, ways, weight, torch.ones_like(weight))
        assert (warp(frames, back)[..., 5:7, 8:10] - seen).abs().max() < 0.1
        assert covered[..., 4:8, 4:7].eq(0).all()


def test_the_flow_is_the_mean_displacement():
    logits = logits_of(1, 2)
    logits[0, place(2, -3), 0, 0] = logits[0, place(2, -2), 0, 0] = 5.0  # halfway between two
    logits[0, place(-4, 0), 0, 1] = logits[0, place(0, 0), 0, 1] = 5.0  # it goes or it does not
    motion = motion_by(logits)
    torch.testing.assert_close(motion.flow[0, :, 0].T, torch.tensor([[2.0, -2.5], [-2.0, 0.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(motion.chances.sum(dim=1), torch.ones(1, 1, 2))
    assert motion.weight.eq(1).all()


def test_the_loss_of_a_motion_is_least_where_it_is_surely_what_is_wanted():
    wanted = torch.zeros(1, 2, 16, 16)
    wanted[0, :, 2:12, :12] = torch.tensor([1.0, -2.5])[:, None, None]
    logits = logits_of(16, 16)
    logits[:, place(0, 0)] = 0.0
    logits[0, place(0, 0), 2:12, :12] = -30.0
    logits[0, [place(1, -3), place(1, -2)], 2:12, :12] = 0.0
    least = 120 * torch.log(torch.tensor(2.0))  # of 120 squares that are shared between two displacements
    torch.testing.assert_close(motion_loss(motion_by(logits), wanted), least, atol=1e-3, rtol=0)
    assert motion_loss(motion_by(logits.roll(1, dims=-1)), wanted) > least + 100
    for nothing in (99.0, torch.nan):  # out of reach, and not known
        assert motion_loss(motion_by(logits), torch.full((1, 2, 16, 16), nothing)) == 0


def test_what_moved_weighs_ten_times_as_much_as_what_stands_still():
    before, truth = torch.zeros(2, 1, 1, 16, 16)
    truth[..., :8] = 1.0
    still_, moved = truth.clone(), truth.clone()
    still_[..., 15], moved[..., 0] = 0.5, 0.5
    apart = [drawing_loss(frames, truth, before) for frames in (still_, moved)]
    torch.testing.assert_close(apart[1], 10 * apart[0])


def test_the_likeness_of_a_square_is_looked_for_around_where_it_has_gone():
    reference = noise(1, 3, 16, 16)
    gone = still(reference) + torch.tensor([2.0, -2.0])[:, None, None]
    found = unlikeness(reference.roll((4, -5), dims=(2, 3)), reference, gone)
    assert found.shape == (1, SIDE**2, 8, 8)
    inner = (..., slice(1, 5), slice(4, 7))  # whose surroundings stay in the picture
    assert (found.argmin(dim=1)[inner] == place(2, -3)).all() and found.amin(dim=1)[inner].max() < 1e-5


@pytest.fixture
def block():
    """A picture of a block of 5x5 squares, and which they are."""
    reference = -torch.ones(1, 3, 32, 32)
    reference[..., 8:18, 8:18] = 1.0
    return things_of(reference), torch.nn.functional.max_pool2d(reference[:, :1], SQUARE) > 0


def test_what_is_of_one_thing_votes_as_one(block):
    things, inside = block
    torch.testing.assert_close(things.kin.sum(dim=-1), torch.ones(1, 256))
    squares = torch.zeros(1, 1, 16, 16)
    squares[..., 4, 4] = 25.0  # one square's vote
    votes = pooled(squares, things.kin)
    torch.testing.assert_close(votes[inside], torch.ones(25))
    assert votes[~inside].abs().max() < 1e-6


def test_things_shift_and_turn_and_keep_their_shape(block):
    things, inside = block
    y, x = (torch.arange(16.0) - 6).mul(SQUARE)[:, None], (torch.arange(16.0) - 6).mul(SQUARE)  # from its middle
    sin, cos = torch.tensor(0.6), torch.tensor(0.8)
    turned = torch.stack([cos * y - sin * x - y + 3, sin * y + cos * x - x - 5])[None]
    exact = turned * inside
    torch.testing.assert_close(stiff(exact, things.kin), exact, atol=1e-2, rtol=0)
    shaken = exact + torch.randn(exact.shape, generator=torch.Generator().manual_seed(0)) * inside
    left = (stiff(shaken, things.kin) - exact)[inside.expand_as(exact)]
    assert left.square().mean() < 0.2 * (shaken - exact)[inside.expand_as(exact)].square().mean()


def test_at_first_squares_go_where_the_draft_shows_their_like_and_most_is_the_draft_s():
    before, look = noise(2, 1, 3, 16, 16)
    reference = torch.zeros(1, 3, 16, 16)
    reference[..., 4:10, 6:12] = 1.0
    gone = still(reference) + torch.tensor([2.0, 0.0])[:, None, None]
    transport = Transport(3, 16)
    _, there, _ = transport(
        torch.randn(1, 16, 2, 2), reference.roll((4, -2), dims=(2, 3)), before, things_of(reference), gone
    )
    torch.testing.assert_close(there[0, :, 2, 3], torch.tensor([4.0, -2.0]), atol=0.1, rtol=0)
    draft = reference.roll(2, dims=2)
    frames, there, motion = transport(torch.randn(1, 16, 2, 2), draft, look, things_of(reference), gone)
    torch.testing.assert_close(there, gone, atol=0.3, rtol=0)
    torch.testing.assert_close(frames[..., 4:14, 4:14], draft[..., 4:14, 4:14], atol=0.1, rtol=0)


def test_it_learns_to_carry_what_it_is_told_where_the_draft_shows_nothing():
    torch.manual_seed(0)
    transport = Transport(1, 8)
    optimizer = torch.optim.Adam(transport.parameters(), lr=2e-3, betas=(0.9, 0.98))
    ways = torch.tensor([[0, 3], [0, -3], [3, 0], [-3, 0]])

    def batch(count, frames=3):
        scene, gone = -torch.ones(count, frames, 1, 24, 24), torch.zeros(count, frames, 2, 12, 12)
        hidden = torch.zeros(count, frames, 8, 3, 3)
        for k in range(count):
            row, column = (2 * torch.randint(3, 7, (2,))).tolist()
            look, way, begin = 2 * torch.rand(6, 6) - 0.5, int(torch.randint(4, ())), (row, column)
            for t in range(frames):
                scene[k, t, 0, row : row + 6, column : column + 6] = look
                squares = (slice(begin[0] // 2, begin[0] // 2 + 3), slice(begin[1] // 2, begin[1] // 2 + 3))
                gone[k, t, :, *squares] = torch.tensor([row - begin[0], column - begin[1]])[:, None, None].float()
                hidden[k, t, way] = 1.0
                row, column = row + int(ways[way, 0]), column + int(ways[way, 1])
        return hidden, scene, gone

    def carried(hidden, scene, gone, own):
        nothing, way, apart, losses = -torch.ones_like(scene[:, 0]), gone[:, 0], [], []
        before, things = scene[:, 0], things_of(scene[:, 0])
        for t in range(1, scene.shape[1]):
            true = None if own else gone[:, t]
            frames, there, motion = transport(hidden[:, t - 1], nothing, before, things, way, true)
            losses.append(drawing_loss(frames, scene[:, t], before) + 0.01 * motion_loss(motion, gone[:, t] - way))
            apart.append((frames - scene[:, t]).abs().mean() / (scene[:, 0] - scene[:, t]).abs().mean())
            before, way = (frames.detach(), there.detach()) if own else (scene[:, t], gone[:, t])
        return sum(losses), apart

    for _ in range(250):
        optimizer.zero_grad()
        carried(*batch(8), own=False)[0].backward()
        torch.nn.utils.clip_grad_norm_(transport.parameters(), 1.0)
        optimizer.step()
    assert max(carried(*batch(16), own=True)[1]) < 0.4


def test_what_was_drawn_is_encoded_again_as_the_past(moving, clips):
    state = moving.start(clips[:1, :3])
    assert torch.equal(state.frame, state.reference) and not state.gone.any()
    with torch.inference_mode():
        frames, after = moving.step(state, Sampling(), SeededNoise([0, 1]))
        again = moving.tokenizer.encode(frames.clamp(-1, 1), state.reference).latents
        assert torch.equal(after.frame, frames.clamp(-1, 1))
        assert torch.equal(after.recent[:, 1:], again)
        assert after.gone.shape == (2, 2, 8, 8) and after.gone.any()
        for name, other in {"frame": -state.frame, "gone": state.gone + 2}.items():
            others, _ = moving.step(state._replace(**{name: other}), Sampling(), SeededNoise([0, 1]))
            assert not torch.allclose(frames, others, atol=1e-2)


def test_codes_stay_where_the_frame_shows_what_they_draw(moving, clips):
    torch.nn.init.zeros_(moving.transport.head.weight)
    moving.transport.head.bias.data.view(SQUARE**2, 3)[:, -2] = 50.0  # all is the draft's
    torch.nn.init.zeros_(moving.tokenizer.decoder.head.weight)  # which is half the reference: no other codes' picture
    with torch.inference_mode():
        frames, after = moving.step(moving.start(clips[:1, :3]), Sampling(), SeededNoise([0]))
        again = moving.tokenizer.encode(frames, after.reference).latents
        torch.testing.assert_close(moving.tokenizer.decode(after.recent[:, 1:], after.reference), frames)
    assert not torch.equal(after.recent[:, 1:], again)


def test_its_own_past_is_of_the_frames_that_it_drew(moving, clips):
    torch.manual_seed(0)
    codes, reference, target = moving._told(clips, 3)
    things = moving.transport.things(reference[:, 0])
    past, shown, gone = moving._own_past(codes.latents, clips, target, None, reference, 3, things)
    own = (shown != clips).flatten(2).any(dim=-1)
    assert own[:, 3:8].any() and not own[:, :3].any() and not own[:, 8].any()
    torch.testing.assert_close(moving.tokenizer.encode(shown, reference).latents, past)
    assert gone.shape == (2, 9, 2, 8, 8) and not gone[:, :3].any() and gone[:, 3].any()


@pytest.mark.parametrize("own_past", [0.0, 1.0])
def test_what_is_drawn_and_moved_teaches_the_network_and_not_the_tokenizer(clips, own_past):
    config = TINY_CONFIGS["stt, with transport"].to_dict() | {"own_past": own_past}
    model = lively(STT(STTConfig.from_dict(config)))
    tracks, owners = torch.rand(2, 5, 9, 2, 8, 8), torch.randint(0, 4, (2, 5, 8, 8))
    torch.manual_seed(0)
    loss = model.loss(clips, None, tracks, owners)
    assert min(loss.parts[name] for name in ("drawn", "moved", "kin")) > 0 and loss.total > loss.parts["drawn"]
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.transport.parameters())
    assert model.network.blocks[0].mlp.up.weight.grad.abs().max() > 0
    assert not any(p.requires_grad for p in model.tokenizer.parameters())
    with pytest.raises(ValueError, match="transport learns from tracks of what moves, and got none"):
        model.loss(clips)
    with pytest.raises(ValueError, match="transport learns from tracks of what moves, and got none"):
        model.loss(clips, None, tracks)


@pytest.mark.parametrize("imagined", [0.0, 1.0])
def test_frames_may_be_drawn_of_what_the_prior_makes_of_the_actions(clips, imagined, monkeypatch):
    config = TINY_CONFIGS["stt, with transport"].to_dict() | {"actions": ("push",), "imagined": imagined}
    model, drawn = lively(STT(STTConfig.from_dict(config | {"own_past": 0.0, "drop_actions": 1.0}))), []
    monkeypatch.setattr(model, "_drawing_loss", lambda hidden, *_: drawn.append(hidden) or (hidden.sum(), hidden.sum()))
    tracks, owners = torch.zeros(2, 1, 9, 2, 8, 8), torch.zeros(2, 1, 8, 8)
    told = torch.zeros(2, 9, 1), torch.ones(2, 9, 1)
    for actions in told:
        torch.manual_seed(0)
        model.loss(clips, actions, tracks, owners)
    assert torch.equal(*drawn) == (imagined == 0)  # all actions were dropped, but for what is imagined


def test_frames_are_drawn_of_what_is_where_tracks_say_and_elsewhere_of_where_it_goes(block):
    things, inside = block
    transport, nothing = Transport(3, 16), -torch.ones(1, 3, 32, 32)
    tracks = still(things.reference) + torch.tensor([4.0, 0.0])[:, None, None] * inside
    tracks[..., 12:, :] = torch.nan
    transport.head.bias.data.view(SQUARE**2, 5)[:, -1] = 9.0  # all of what is carried
    rest = transport(torch.randn(1, 16, 4, 4), nothing, nothing, things, still(things.reference))[0]
    moved, there, _ = transport(torch.randn(1, 16, 4, 4), nothing, nothing, things, still(things.reference), tracks)
    torch.testing.assert_close(there, tracks.nan_to_num(), atol=1e-3, rtol=0)
    assert rest[..., 8:18, 8:18].min() > 0.9 and rest[..., 19:22, 8:18].max() < -0.9
    assert moved[..., 19:22, 8:18].mean() > rest[..., 19:22, 8:18].mean() + 0.3  # halfway, as no square is heavier


def test_the_last_frame_given_is_one_that_tracks_begin_in(clips):
    model = lively(STT(TINY_CONFIGS["stt, with transport"]))
    for seed in range(8):
        torch.manual_seed(seed)
        tracks, owners = torch.zeros(2, 1, 9, 2, 8, 8), torch.zeros(2, 1, 8, 8)
        model.loss(clips, None, tracks, owners)  # an index error if it were another


def test_it_learns_which_squares_are_of_one_thing_and_which_are_not_carried():
    torch.manual_seed(0)
    transport = Transport(3, 8)
    optimizer = torch.optim.Adam(transport.kind.parameters(), lr=3e-3)

    def batch(count):
        """Two things of one hue each and a white guest, on what is fixed and grey."""
        frames, owners = torch.full((count, 3, 32, 32), -0.4), torch.zeros(count, 16, 16, dtype=torch.int64)
        frames += 0.1 * torch.randn(frames.shape)
        for k in range(count):
            for owner, hue in ((2, [0.8, -0.6, -0.6]), (3, [-0.6, 0.2, 0.8]), (1, [1.0, 1.0, 1.0])):
                row, column = torch.randint(0, 12, (2,)).tolist()
                owners[k, row : row + 4, column : column + 4] = owner
                look = torch.tensor(hue)[:, None, None] + 0.1 * torch.randn(3, 8, 8)
                frames[k, :, 2 * row : 2 * row + 8, 2 * column : 2 * column + 8] = look
        return frames, owners

    for _ in range(60):
        optimizer.zero_grad()
        frames, owners = batch(8)
        kin_loss(*transport.kinship(frames), owners).backward()
        optimizer.step()
    frames, owners = batch(8)
    with torch.no_grad():
        things = transport.things(frames)
    torch.testing.assert_close(things.kin.sum(dim=-1), torch.ones(8, 256))
    of_thing = owners.flatten(1) >= 2
    same = owners.flatten(1)[:, :, None] == owners.flatten(1)[:, None]
    assert (things.kin * same).sum(dim=-1)[of_thing].mean() > 0.8
    assert (1 / things.kin.square().sum(dim=-1))[of_thing].mean() > 8  # kin, and not each square its own alone
    assert ((things.held[:, 0] > 0.5) == (owners != 1)).float().mean() > 0.98


def test_what_is_not_held_is_left_to_the_draft(block):
    things, inside = block
    transport, nothing = Transport(3, 16), -torch.ones(1, 3, 32, 32)
    told = torch.randn(1, 16, 4, 4), nothing, things.reference, things._replace(held=1.0 - inside.float())
    found = []
    transport.found.register_forward_pre_hook(lambda _, told: found.append(unpatchify(told[0], SQUARE)))
    transport(*told, still(things.reference))
    covered = found[0][:, -1:]
    assert covered[pixels(inside)].max() == 0 and covered[~pixels(inside)].min() == 1


def test_pixels_of_a_square_go_together():
    assert torch.equal(pixels(torch.arange(4.0).view(1, 1, 2, 2))[0, 0, :SQUARE], torch.tensor([[0.0, 0, 1, 1]] * 2))


def test_transport_asks_for_a_reference_and_for_codes():
    with pytest.raises(ValueError, match="transport is True without a tokenizer's reference"):
        STTConfig.from_dict(TINY.to_dict() | {"transport": True})
    tokenizer = TINY_TOKENIZER.to_dict() | {"local": True, "reference": True}
    with pytest.raises(ValueError, match="transport is True with the objective stt_ancestor"):
        STTConfig.from_dict(TINY.to_dict() | {"transport": True, "tokenizer": tokenizer, "objective": "stt_ancestor"})
