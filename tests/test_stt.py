"""What is particular to STT."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import stt
from stt.api import NO_CONDITION, Batch, Condition, Sampling
from stt.metrics import unit
from stt.models.stt import STT, STTConfig
from stt.motion import Layers, Match, Motion, Shape, composite, shape_of
from stt.motion_tokens import MotionState, split_penalty
from stt.optical_flow import warp
from stt.sampler import SeededNoise
from stt.transformer import Normal, PriorPosterior, SpaceTimeOutput, draw_mean
from tests.conftest import TINY, TINY_CONFIGS, TINY_FLOWS, TINY_LAYERS, TINY_TOKENIZER, batch_of, built, clips, lively


@pytest.mark.parametrize("name", [name for name, config in TINY_CONFIGS.items() if isinstance(config, STTConfig)])
def test_futures_lie_further_apart_at_a_higher_temperature(name):
    predictor = lively(STT(TINY_CONFIGS[name])).eval()
    context = clips(predictor)[0]
    spreads = []
    for temperature in (0.0, 0.5, 1.0, 2.0):
        futures = stt.predict(predictor, context, 1, Sampling(temperature=temperature), seeds=list(range(8)))
        spreads.append(float(futures.std(dim=0).mean()))
    assert spreads[0] < 1e-6
    assert spreads[0] < spreads[1] < spreads[-1]


def test_a_group_with_fewer_codes_never_names_one_that_does_not_exist(tiny):
    logits = tiny.tokens.logits(torch.randn(50, TINY.dim))
    assert logits.shape == (50, 3, 5)  # FSQ levels 5, 5, 4
    assert logits[:, 2, 4].eq(-torch.inf).all()
    assert logits[:, :2].isfinite().all()


def test_the_prompts_cache_holds_all_frames_but_the_last(tiny):
    for frames in (1, 2, 5):
        state = tiny.start(clips(tiny, 1, frames))
        assert (state.cache.time if state.cache else 0) == frames - 1


def test_the_first_frame_is_embedded_as_if_it_had_stood_still(tiny):
    frame = clips(tiny, 1, 1)
    once = stt.predict(tiny, frame[0], 2, seeds=[3])
    state = tiny.start(frame)
    assert torch.equal(state.recent[:, 0], state.recent[:, 1])
    assert once.isfinite().all()


@pytest.mark.parametrize("name", ["stt", "stt, flows without actions"])
def test_the_kl_of_a_layer_below_its_free_nats_costs_nothing(name):
    config = TINY_CONFIGS[name].to_dict() | {"free_nats": 1e6}
    generous = lively(STT(STTConfig.from_dict(config | {"kl_weight": 1.0}))).train()
    free = lively(STT(STTConfig.from_dict(config | {"kl_weight": 0.0}))).train()
    free.load_state_dict(generous.state_dict())
    gradients = []
    for model in (generous, free):
        torch.manual_seed(0)
        model.loss(Batch(clips(model))).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_the_posterior_tells_the_loss_what_the_prior_cannot_know():
    """With a fair coin deciding the future, a trained model's codes are explained by the chance it drew."""
    torch.manual_seed(0)
    model = STT(STTConfig.from_dict(TINY.to_dict() | {"jitter": 0.0, "scheduled_sampling": 0.0, "free_nats": 0.0}))
    model.train()
    first, left, right = clips(model, 3, 1, seed=5)[:, 0]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(150):
        coin = torch.rand(16) < 0.5
        video = torch.stack([first.expand(16, -1, -1, -1), torch.where(coin[:, None, None, None], left, right)], dim=1)
        loss = model.loss(Batch(video))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    kl = sum(float(value) for name, value in loss.parts.items() if name.startswith("kl"))
    assert 0.3 < kl < 2.0  # one bit is 0.69 nats
    model.eval()
    futures = stt.predict(model, first[None], 1, seeds=list(range(32)))[:, 0]
    decoded = model.tokenizer.decode(model.tokenizer.encode(torch.stack([left, right])[None]).latents)[0].clamp(-1, 1)
    distance = (futures[:, None] - decoded).square().mean(dim=(2, 3, 4))  # (32, 2)
    assert 6 <= int((distance.argmin(dim=1) == 0).sum()) <= 26  # both happen


def test_a_step_draws_the_same_noise_whatever_the_device_or_batch(tiny):
    state = tiny.start(clips(tiny, 1, 3))
    with torch.inference_mode():
        three, _ = tiny.step(state, Sampling(), SeededNoise([1, 2, 3]))
        one, _ = tiny.step(state, Sampling(), SeededNoise([3]))
    torch.testing.assert_close(three[2:], one, atol=1e-4, rtol=1e-4)


# ---- surprise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stt", "stt, colour"])
def test_the_surprise_is_the_loss_in_bits_per_pixel_and_channel(name, monkeypatch):
    monkeypatch.setattr("stt.code_tokens.draw_posterior", draw_mean)
    config = TINY_CONFIGS[name].to_dict() | {"jitter": 0.0, "scheduled_sampling": 0.0, "free_nats": 0.0}
    model = lively(STT(STTConfig.from_dict(config))).eval()
    video = clips(model, 3, 6)
    codes = model.tokenizer.encode(video).ids[0, 0].numel()  # of a frame, over which the loss is a mean
    bits = model.loss(Batch(video)).total * codes / math.log(2) / video[0, 0].numel()
    torch.testing.assert_close(model.surprise(video).bits.mean(), bits.detach())


def test_each_part_of_the_kl_lies_where_its_cell_lies(tiny):
    """One layer of 2x2 cells on a 4x4 grid, of which one cell diverges; codes cost the same everywhere."""
    prior = Normal(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    shifted = prior.mean.clone()
    shifted[0, :, 1, 0] = 2.0  # 4 channels of 2 nats each
    hidden = torch.zeros(1, 1, 4, 4, TINY.dim)
    out = SpaceTimeOutput(hidden, [PriorPosterior(prior, Normal(shifted, prior.logvar))], None)
    nats = tiny.tokens.elbo_nats(out, torch.zeros(1, 1, 4, 4, 3, dtype=torch.int64))[0, 0]
    expected = torch.zeros(4, 4)
    expected[2:, :2] = 8 / 4
    torch.testing.assert_close(nats - nats[0, 0], expected)


def test_a_surprise_scored_in_strides_equals_one_pass(tiny, monkeypatch):
    """11 frames, more than the window of 6, as a rollout slides it."""
    video = clips(tiny, 2, 11)
    whole = tiny.surprise(video)
    for stride in (1, 3):
        monkeypatch.setattr("stt.code_tokens.FRAMES_PER_PASS", stride)
        torch.testing.assert_close(tiny.surprise(video).per_cell, whole.per_cell, atol=1e-5, rtol=1e-4)


# ---- actions -----------------------------------------------------------------------------------------


@pytest.fixture
def acting():
    """Half of its clips train without actions."""
    return lively(STT(STTConfig.from_dict(TINY.to_dict() | {"actions": ["right", "up"], "drop_actions": 0.5}))).eval()


def test_an_action_changes_the_future_from_its_frame_on_and_the_last_one_goes_on(acting):
    prompt = clips(acting)[0]

    def drawn(*actions):
        return stt.predict(acting, prompt, 4, seeds=[3], condition=Condition(actions=actions))[0]

    free, right, left = drawn(), drawn((1.0, 0.0)), drawn((-1.0, 0.0))
    assert not torch.equal(free[0], right[0]) and not torch.equal(right[0], left[0])
    assert torch.equal(drawn((1.0, 0.0), (1.0, 0.0)), right)
    turned = drawn((1.0, 0.0), (1.0, 0.0), (-1.0, 0.0))
    assert torch.equal(turned[:2], right[:2]) and not torch.equal(turned[2], right[2])
    assert "actions" in acting.knobs


def test_actions_of_another_length_or_out_of_range_are_refused_and_any_by_a_model_that_takes_none(acting, tiny):
    prompt = clips(acting)[0]
    with pytest.raises(ValueError, match="an action has 1 numbers, the model takes 2"):
        stt.rollout(acting, prompt, 1, condition=Condition(actions=((1.0,),)))
    with pytest.raises(ValueError, match="must be rows of equal length, of numbers between -1 and 1"):
        Condition(actions=((1.5, 0.0),))
    with pytest.raises(ValueError, match="must be rows of equal length"):
        Condition(actions=((1.0, 0.0), (1.0,)))
    with pytest.raises(ValueError, match="actions are given, a model of family stt like this one takes none"):
        stt.rollout(tiny, prompt, 2, condition=Condition(actions=((1.0,),)))


def test_training_hides_the_actions_of_prompts_and_of_some_whole_clips(acting):
    hidden = acting.hide_actions(torch.zeros(400, 8, 2)).isnan()
    assert torch.equal(hidden[..., 0], hidden[..., 1])
    known = (~hidden[..., 0]).sum(dim=1)  # frames at the end
    assert torch.equal(~hidden[..., 0], torch.arange(8) >= 8 - known[:, None])
    assert 0.4 < (known == 0).float().mean() < 0.6 and set(known.tolist()) == set(range(9))
    video, actions = clips(acting, 4), torch.zeros(4, 5, 2)
    acting.train().loss(Batch(video, actions)).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in acting.network.embed_action.parameters() if p.ndim < 2)
    with pytest.raises(ValueError, match=r"actions have shape \(4, 4, 2\), must be \(4, 5, 2\)"):
        acting.loss(Batch(video, actions[:, 1:]))


def test_a_model_learns_to_obey():
    """Left or right halves light up as told; the clip's other frames are black."""
    torch.manual_seed(0)
    model = STT(
        STTConfig.from_dict(TINY.to_dict() | {"actions": ["side"], "drop_actions": 0.2, "scheduled_sampling": 0.0})
    )
    halves = -torch.ones(2, 3, 1, 16, 16)
    halves[0, 1:, ..., :8], halves[1, 1:, ..., 8:] = 1, 1
    actions = torch.tensor([-1.0, 1.0])[:, None, None].expand(2, 3, 1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    model.train()
    for _ in range(240):
        loss = model.loss(Batch(halves, actions)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    wanted = model.tokenizer.reconstructed(halves)[:, 1]
    for side, right, wrong in ((-1.0, *wanted), (1.0, *wanted.flip(0))):
        drawn = stt.predict(model, halves[0, :1], 1, seeds=range(8), condition=Condition(actions=((side,),)))[:, 0]
        nearer = (drawn - right).abs().mean(dim=(1, 2, 3)) < 0.5 * (drawn - wrong).abs().mean(dim=(1, 2, 3))
        assert nearer.sum() >= 7  # of 8: chance has its share


# ---- layers ------------------------------------------------------------------------------------------


@pytest.fixture
def layered():
    return lively(STT(TINY_LAYERS)).eval()


def test_a_model_has_one_kind_of_tokens():
    with pytest.raises(ValueError, match="a model has one of the four"):
        STTConfig(image_size=16, layers=2, tokenizer=TINY_TOKENIZER)
    with pytest.raises(ValueError, match="a model has one of the four"):
        STTConfig()
    with pytest.raises(ValueError, match=r"gaussian_grid is \(1, 0\), must be 0s with layers"):
        replace(TINY_LAYERS, gaussian_grid=(1, 0))
    for change, message in (
        ({"image_size": 20}, "image_size 20 is not a multiple of 8"),
        ({"layers": -1}, "layers is -1, must be a whole number from 0"),
        ({"reach": 0}, "reach is 0, must be at least 1"),
        ({"segmenter_width": 24}, "segmenter_width is 24, must be a multiple of 16"),
        ({"segmenter_width": 0}, "segmenter_width is 0, must be a whole number from 1"),
        ({"window": -1}, "window is -1"),
        ({"chunk_frames": 4}, "chunk_frames is 4, must be 1: a step predicts one frame"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(TINY_LAYERS, **change)


def test_an_untrained_transformer_lets_everything_go_on_as_it_went():
    """At temperature 0; the segmenter is given what it would learn: each square is a layer."""
    model = STT(TINY_LAYERS).eval()
    colour = torch.zeros(1, 2, 1, 16, 16)
    colour[0, 0, 0, 1:4, 2:5], colour[0, 1, 0, 9:12, 8:12] = 1.0, 0.7
    layers = Layers(torch.zeros(1, 1, 16, 16), colour, torch.zeros(1, 2, 1, 16, 16))
    velocity = torch.tensor([[[1, 1], [-1, 0]]])  # below the reach, where neighbours lie on all sides
    shape = Shape(*(part[:, None] for part in shape_of(layers)))
    motion = Motion(shape, velocity[:, None], torch.ones(1, 1, 1, 1, dtype=torch.bool))
    still = torch.zeros(1, 2, 2)
    state = MotionState(layers, still.long(), motion, still, None, NO_CONDITION)
    for k in range(1, 5):
        frame, state = model.step(state, Sampling(temperature=0), SeededNoise([0]))
        torch.testing.assert_close(unit(frame[0, 0]), composite(layers.moved(k * velocity))[0].clamp(max=1))


def test_at_temperature_zero_a_speed_between_whole_pixels_is_kept_on_average():
    """Two thirds of a pixel a frame, as a bias tells the untrained head: seven frames go five pixels, not seven."""
    model = STT(replace(TINY_LAYERS, layers=1)).eval()
    torch.nn.init.constant_(model.tokens.persistence.bias, 0.0)
    with torch.no_grad():
        model.tokens.head.bias.fill_(-30.0).view(5, 5)[2, 2:4] = torch.tensor([1 / 3, 2 / 3]).log()
    colour = torch.zeros(1, 1, 1, 16, 16)
    colour[..., 6:9, 2:5] = 1.0
    layers = Layers(torch.zeros(1, 1, 16, 16), colour, torch.zeros(1, 1, 1, 16, 16))
    shape, none = Shape(*(part[:, None] for part in shape_of(layers))), torch.zeros(1, 1, 2, dtype=torch.int64)
    motion = Motion(shape, none[:, None], torch.zeros(1, 1, 1, 1, dtype=torch.bool))
    state = MotionState(layers, none, motion, torch.zeros(1, 1, 2), None, NO_CONDITION)
    gone = []
    for _ in range(7):
        _, state = model.step(state, Sampling(temperature=0), SeededNoise([0]))
        gone.append(int(state.offset[0, 0, 1]))
    assert gone == [1, 1, 2, 3, 3, 4, 5]


def test_layers_keep_their_pixels_however_far_they_go(layered):
    """The background is still; what is seen beside it is the prompt's own light, moved."""
    state = layered.start(clips(layered, 1, 3))
    with torch.inference_mode():
        for _ in range(20):
            _, state = layered.step(state, Sampling(), SeededNoise([0, 1]))
    assert all(torch.equal(a, b) for a, b in zip(state.layers, layered.start(clips(layered, 1, 3)).layers, strict=True))


def test_where_a_layer_that_shows_nothing_goes_costs_nothing(layered):
    logits = torch.randn(1, 1, 2, 25)
    errors = torch.stack([torch.zeros(1, 5, 5), torch.arange(25.0).view(1, 5, 5) * 100], dim=1)  # the second one moves
    nats = layered.tokens.match_nats(logits, [Match(torch.zeros(1, 2, 2, dtype=torch.int64), errors)])
    torch.testing.assert_close(nats[0, 0], torch.stack([torch.zeros(()), -logits[0, 0, 1].log_softmax(-1)[0]]))


def test_tokens_of_training_are_those_of_sampling(layered):
    """Teacher forcing along the displacements that were drawn gives the features that drew them."""
    context, seen, drawn = clips(layered, 1, 3), [], []
    hook = layered.network.register_forward_hook(lambda *call: seen.append(call[-1].hidden))
    with torch.inference_mode():
        state, filtered = layered.start(context), layered.segmenter.filter(unit(context), 2)
        shapes = list(filtered.shapes)
        for _ in range(3):
            _, state = layered.step(state, Sampling(), SeededNoise([5]))
            drawn.append(Match(state.motion.displacement[:, 0], torch.empty(0)))
            shapes.append(shapes[-1].moved(drawn[-1].displacement, 16, 16))
        hook.remove()
        motion = Motion.of(shapes, [*filtered.matches, *drawn])
        whole = layered.network(layered.tokens.embed(motion), draw_mean).hidden
    for k, hidden in enumerate(seen[-3:]):
        torch.testing.assert_close(whole[:, 2 + k], hidden[:, 0], atol=1e-4, rtol=1e-4)


def test_a_split_costs_the_more_the_more_even_it_is_and_nothing_where_one_layer_has_all():
    def cost(*shares):
        colour = torch.tensor(shares).view(1, len(shares), 1, 1, 1).expand(1, -1, 1, 8, 8)
        return float(split_penalty(Layers(torch.zeros(1, 1, 8, 8), colour, torch.zeros_like(colour))))

    assert cost(1.0, 0.0) == pytest.approx(0, abs=0.04) and cost(0.5, 0.5) == pytest.approx(2**0.5 - 1, abs=0.01)
    assert cost(0.0, 0.0) == 0
    assert cost(1.0, 0.0) < cost(0.9, 0.1) < cost(0.6, 0.4) < cost(0.5, 0.5)


@pytest.mark.slow
def test_a_transformer_learns_where_a_wall_turns_a_layer():
    """A dot that turns at the frame's edge: once learned its turn is no surprise, with features of zero it is."""
    torch.manual_seed(0)
    model = STT(replace(TINY_LAYERS, layers=1, context_frames=12))
    video = -torch.ones(8, 12, 1, 16, 16)
    for i in range(8):
        place, step = 1 + i, 2
        for t in range(12):
            video[i, t, 0, 4 + i % 3 : 8 + i % 3, place : place + 3] = 1.0
            step = -step if not 0 <= place + step <= 13 else step
            place += step
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        loss = model.loss(Batch(video))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.parts["motion at turns"] < 0.5
    torch.nn.init.zeros_(model.network.norm.weight)
    torch.nn.init.zeros_(model.network.norm.bias)
    assert model.loss(Batch(video)).parts["motion at turns"] > 2


# ---- flows -------------------------------------------------------------------------------------------


def moving_square(actions: torch.Tensor) -> torch.Tensor:
    """Two frames (B, 2, 3, 16, 16) of a square that goes 2 pixels right for an action (B,) of 1, and left for -1."""
    video = -torch.ones(len(actions), 2, 3, 16, 16)
    for clip, action in enumerate(actions.tolist()):
        for frame, x in enumerate((6, 6 + int(2 * action))):
            video[clip, frame, :, 6:10, x : x + 4] = torch.tensor([1.0, -0.2, 0.4])[:, None, None]
    return video


def test_flows_learn_where_an_action_sends_a_square():
    torch.manual_seed(0)
    model = STT(TINY_FLOWS)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(160):
        actions = torch.randint(0, 2, (8,)).mul(2).sub(1).float()
        loss = model.loss(Batch(moving_square(actions), actions[:, None, None].expand(8, 2, 1))).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    for action in (1.0, -1.0):
        context, true = moving_square(torch.tensor([action]))[0].split(1)
        condition = Condition(actions=((action,),))
        future = stt.predict(model, context, 1, Sampling(temperature=0.0), condition=condition)
        assert (future - true).abs().mean() < 0.5 * (context - true).abs().mean(), action


def test_untrained_flows_let_every_frame_stand_still_but_for_pixels_decoded_anew():
    model = STT(TINY_FLOWS).eval()
    context = torch.rand(3, 3, 16, 16) * 0.1 - 0.05
    future = stt.predict(model, context, 3, Sampling(temperature=0.0))
    assert (future - context[-1]).abs().max() < 0.2


def test_with_optical_flow_an_untrained_model_carries_motion_on_at_the_size_of_the_clip():
    torch.manual_seed(0)
    config = STTConfig.from_dict(TINY_FLOWS.to_dict() | {"actions": (), "optical_flow": True, "whole_frames": True})
    model = STT(config).eval()
    texture = F.interpolate(torch.rand(1, 3, 16, 48) * 1.6 - 0.8, scale_factor=4.0, mode="bicubic")[0]
    video = torch.stack([texture.clamp(-1, 1)[:, 8:40, 16 + 2 * t : 80 + 2 * t] for t in range(6)])
    future = stt.predict(model, video[:3], 3, Sampling(temperature=0.0))[0]
    assert future.shape == (3, 3, 32, 64)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -10))
    moved, still = (future - video[3:])[inner].abs().mean(), (video[2] - video[3:])[inner].abs().mean()
    assert moved < 0.35 * still, (moved, still)


def test_futures_from_optical_flow_go_at_speeds_of_their_own_and_at_temperature_zero_as_before():
    config = TINY_CONFIGS["stt, flows from optical flow"].to_dict() | {"image_size": 48, "gaussian_grid": (0, 0)}
    model, noise = STT(STTConfig.from_dict(config)).eval(), torch.rand(1, 3, 12, 24)
    picture = F.interpolate(noise, size=(48, 96), mode="bilinear")[0] * 2 - 1
    context = torch.stack([picture[:, :, 2 * k : 2 * k + 48] for k in range(4)])  # it goes left by 2 pixels a frame
    true = torch.stack([picture[:, :, 2 * k : 2 * k + 48] for k in range(4, 12)])[..., 8:24]
    still = stt.predict(model, context, 8, Sampling(temperature=0.0), seeds=[0, 1])[..., 8:24]
    assert torch.equal(still[0], still[1]) and (still[0] - true).abs().mean() < 0.2
    futures = stt.predict(model, context, 8, seeds=range(6))[..., 8:24]
    errors = (futures - true).abs().mean(dim=(2, 3, 4))
    assert (errors[:, 0] < 0.2).all() and errors[:, -1].max() > 2 * errors[:, -1].min()


def test_a_policy_does_not_learn_from_clips_off_policy():
    model, actions = STT(TINY_FLOWS), torch.rand(2, 4, 1) * 2 - 1
    batch = Batch(torch.rand(2, 4, 3, 16, 16) * 2 - 1, actions)
    nats = {}
    for name, off in (("none", None), ("both", [True, True]), ("one", [False, True]), ("other", [True, False])):
        off_policy = None if off is None else torch.tensor(off)
        torch.manual_seed(0)
        nats[name] = model.eval().loss(replace(batch, off_policy=off_policy)).parts["policy"]
    assert nats["both"] == 0 and nats["none"] != 0
    torch.testing.assert_close(nats["one"] + nats["other"], nats["none"])


def test_a_model_of_whole_frames_takes_odd_sizes_and_one_of_squares_names_its_size():
    squares = STT(STTConfig.from_dict(TINY_FLOWS.to_dict() | {"actions": ()})).eval()
    whole = STT(STTConfig.from_dict(squares.config.to_dict() | {"optical_flow": True, "whole_frames": True})).eval()
    for height, width in ((16, 16), (31, 57), (9, 130), (200, 6)):
        video = torch.rand(2, 3, height, width) - 0.5
        assert stt.predict(whole, video, 2, seeds=[0, 1]).shape == (2, 2, 3, height, width)
        if (height, width) != (16, 16):
            with pytest.raises(ValueError, match=rf"\(3, {height}, {width}\), the model takes \(3, 16, 16\)"):
                stt.predict(squares, video, 1)


def test_flows_refuse_clips_without_the_actions_that_they_take():
    with pytest.raises(ValueError, match="takes 1 action"):
        STT(TINY_FLOWS).loss(Batch(torch.rand(1, 3, 3, 16, 16)))


def test_a_flow_of_whole_pixels_copies_pixels_exactly():
    frames = torch.rand(2, 3, 8, 8)
    flow = torch.tensor([1.0, -2.0])[:, None, None].expand(2, 2, 8, 8)
    torch.testing.assert_close(warp(frames, flow)[:, :, 2:, :-1], frames[:, :, :-2, 1:])


def test_a_prepared_batch_has_its_optical_flow_and_the_same_loss(monkeypatch):
    model = lively(built(TINY_CONFIGS["stt, flows from optical flow"])).train()
    batch = batch_of(model, clips(model, 2, 4))
    prepared = model.prepare(batch)
    assert prepared.flow.shape == (2, 4, 2, 16, 16) and not prepared.flow[:, 0].any()
    losses = []
    for each in (batch, prepared):
        torch.manual_seed(0)
        losses.append(model.loss(each).total)
        monkeypatch.setattr(model.tokens, "motion_of", None)
    assert torch.equal(*losses)
