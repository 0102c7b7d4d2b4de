"""What is particular to STT."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch

import stt
from stt.api import Sampling
from stt.models.stt import STT, STTConfig, draw_mean
from stt.sampler import SeededNoise
from stt.transformer import Gaussian, Normal, SpaceTimeOutput
from tests.conftest import TINY, TINY_CONFIGS, TINY_TOKENIZER, clips, lively


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
    logits = tiny.logits(torch.randn(50, TINY.dim), torch.zeros(50, 3))
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


def test_noise_on_the_past_is_bounded_by_its_setting():
    still = STT(STTConfig.from_dict(TINY.to_dict() | {"jitter": 0.0}))
    latents = torch.randn(64, 3, 4, 4, 3)
    assert torch.equal(still._jitter(latents), latents)
    noisy = STT(STTConfig.from_dict(TINY.to_dict() | {"jitter": 0.3}))._jitter(latents) - latents
    stds = noisy.flatten(1).std(dim=1)
    assert 0 < stds.min() < stds.max() < 0.45


def test_the_kl_of_a_layer_below_its_free_nats_costs_nothing():
    generous = lively(STT(STTConfig.from_dict(TINY.to_dict() | {"free_nats": 1e6, "kl_weight": 1.0}))).train()
    free = lively(STT(STTConfig.from_dict(TINY.to_dict() | {"free_nats": 1e6, "kl_weight": 0.0}))).train()
    free.load_state_dict(generous.state_dict())
    gradients = []
    for model in (generous, free):
        torch.manual_seed(0)
        model.loss(clips(model)).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_the_posterior_tells_the_loss_what_the_prior_cannot_know():
    """With a fair coin deciding the future, a trained model's codes are explained by the chance it drew."""
    torch.manual_seed(0)
    model = STT(STTConfig.from_dict(TINY.to_dict() | {"jitter": 0.0, "own_past": 0.0, "free_nats": 0.0}))
    model.train()
    first, left, right = clips(model, 3, 1, seed=5)[:, 0]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(150):
        coin = torch.rand(16) < 0.5
        video = torch.stack([first.expand(16, -1, -1, -1), torch.where(coin[:, None, None, None], left, right)], dim=1)
        loss = model.loss(video)
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


@pytest.fixture
def refined():
    return lively(STT(TINY_CONFIGS["stt, refined"])).eval()


def test_a_new_refiner_changes_nothing(tiny):
    refined = STT(TINY_CONFIGS["stt, refined"])
    missing, unexpected = refined.load_state_dict(tiny.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("refiner.") for name in missing)
    context = clips(tiny)[0]
    assert torch.equal(stt.predict(refined.eval(), context, 3), stt.predict(tiny, context, 3))


def test_only_a_refiner_gives_the_passes_knob(tiny, refined):
    assert "steps" in refined.knobs and "steps" not in tiny.knobs
    with pytest.raises(ValueError, match="only a refiner passes twice"):
        STTConfig.from_dict(TINY.to_dict() | {"steps": 4})
    with pytest.raises(ValueError, match="code_temperature is 2"):
        STTConfig.from_dict(TINY.to_dict() | {"code_temperature": 2})


def test_a_model_knows_its_own_number_of_passes(refined):
    four = STT(STTConfig.from_dict(refined.config.to_dict() | {"steps": 4})).eval()
    four.load_state_dict(refined.state_dict())
    context = clips(refined)[0]
    assert torch.equal(stt.predict(four, context, 2), stt.predict(refined, context, 2, Sampling(steps=4)))
    assert torch.equal(stt.predict(four, context, 2, Sampling(steps=1)), stt.predict(refined, context, 2))


@pytest.mark.parametrize("steps", [2, 5, 100])
def test_refined_futures_keep_the_contract(refined, steps):
    context, sampling = clips(refined)[0], Sampling(steps=steps)
    together = stt.predict(refined, context, 3, sampling, seeds=[3, 11])
    torch.testing.assert_close(together[1:], stt.predict(refined, context, 3, sampling, seeds=[11]), atol=1e-4, rtol=0)
    assert not torch.equal(together[0], together[1])
    still = stt.predict(refined, context, 3, Sampling(temperature=0, steps=steps), seeds=[0, 9])
    torch.testing.assert_close(still[0], still[1])


def test_every_pass_sees_what_the_passes_before_it_settled(refined, monkeypatch):
    seen = []
    asked = STT.logits
    monkeypatch.setattr(STT, "logits", lambda self, *given: seen.append(given[-2:]) or asked(self, *given))
    state = refined.start(clips(refined, 1, 3))
    with torch.inference_mode():
        refined.step(state, Sampling(steps=4), SeededNoise([0, 1]))
    shares = [float(known.float().mean()) for _, known in seen]
    assert len(seen) == 4 and shares[0] == 0 and shares == sorted(shares)
    assert shares[1:] == pytest.approx([1 - math.cos(math.pi / 2 * i / 4) for i in (1, 2, 3)], abs=0.03)
    for (before, known), (after, _) in zip(seen, seen[1:], strict=False):
        assert torch.equal(before[known], after[known])  # settled codes stay


def test_training_shows_the_refiner_nothing_of_some_frames_and_much_of_others(refined):
    refined.train()
    ids = refined.tokenizer.encode(clips(refined, 4, 5)).ids
    torch.manual_seed(0)
    known = refined._shown(ids)
    per_frame = known.flatten(2).float().mean(dim=-1)
    assert (per_frame == 0).float().mean() > 0.1 and per_frame.max() > 0.5


def test_a_step_draws_the_same_noise_whatever_the_device_or_batch(tiny):
    state = tiny.start(clips(tiny, 1, 3))
    with torch.inference_mode():
        three, _ = tiny.step(state, Sampling(), SeededNoise([1, 2, 3]))
        one, _ = tiny.step(state, Sampling(), SeededNoise([3]))
    torch.testing.assert_close(three[2:], one, atol=1e-4, rtol=1e-4)


# ---- surprise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stt", "stt, vector-quantized", "stt, colour"])
def test_the_surprise_is_the_loss_in_bits_per_pixel_and_channel(name, monkeypatch):
    monkeypatch.setattr("stt.models.stt.draw_posterior", draw_mean)
    config = TINY_CONFIGS[name].to_dict() | {"jitter": 0.0, "own_past": 0.0, "free_nats": 0.0}
    model = lively(STT(STTConfig.from_dict(config))).eval()
    video = clips(model, 3, 6)
    codes = model.tokenizer.encode(video).ids[0, 0].numel()  # of a frame, over which the loss is a mean
    bits = model.loss(video).total * codes / math.log(2) / video[0, 0].numel()
    torch.testing.assert_close(model.surprise(video).bits.mean(), bits.detach())


def test_each_part_of_the_kl_lies_where_its_cell_lies(tiny):
    """One layer of 2x2 cells on a 4x4 grid, of which one cell diverges; codes cost the same everywhere."""
    prior = Normal(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    shifted = prior.mean.clone()
    shifted[0, :, 1, 0] = 2.0  # 4 channels of 2 nats each
    hidden = torch.zeros(1, 1, 4, 4, TINY.dim)
    out = SpaceTimeOutput(hidden, [Gaussian(prior, Normal(shifted, prior.logvar))], None)
    nats = tiny._nats(out, torch.zeros(1, 1, 4, 4, 3), torch.zeros(1, 1, 4, 4, 3, dtype=torch.int64))[0, 0]
    expected = torch.zeros(4, 4)
    expected[2:, :2] = 8 / 4
    torch.testing.assert_close(nats - nats[0, 0], expected)


def test_a_surprise_scored_in_strides_equals_one_pass(tiny, monkeypatch):
    """11 frames, more than the window of 6, as a rollout slides it."""
    video = clips(tiny, 2, 11)
    whole = tiny.surprise(video)
    for stride in (1, 3):
        monkeypatch.setattr("stt.models.stt.STRIDE", stride)
        torch.testing.assert_close(tiny.surprise(video).where, whole.where, atol=1e-5, rtol=1e-4)


# ---- actions -----------------------------------------------------------------------------------------


@pytest.fixture
def acting():
    """Half of its clips train without actions."""
    return lively(STT(STTConfig.from_dict(TINY.to_dict() | {"actions": ["right", "up"], "drop_actions": 0.5}))).eval()


def test_an_action_changes_the_future_from_its_frame_on_and_the_last_one_goes_on(acting):
    prompt = clips(acting)[0]

    def drawn(*actions):
        return stt.predict(acting, prompt, 4, Sampling(actions=actions), seeds=[3])[0]

    free, right, left = drawn(), drawn((1.0, 0.0)), drawn((-1.0, 0.0))
    assert not torch.equal(free[0], right[0]) and not torch.equal(right[0], left[0])
    assert torch.equal(drawn((1.0, 0.0), (1.0, 0.0)), right)
    turned = drawn((1.0, 0.0), (1.0, 0.0), (-1.0, 0.0))
    assert torch.equal(turned[:2], right[:2]) and not torch.equal(turned[2], right[2])
    assert "actions" in acting.knobs


def test_actions_of_another_length_or_out_of_range_are_refused_and_ignored_where_there_are_none(acting, tiny):
    prompt = clips(acting)[0]
    with pytest.raises(ValueError, match="an action has 1 numbers, the model takes 2"):
        stt.predict(acting, prompt, 1, Sampling(actions=((1.0,),)))
    with pytest.raises(ValueError, match="must be rows of as many numbers between -1 and 1"):
        Sampling(actions=((1.5, 0.0),))
    with pytest.raises(ValueError, match="must be rows of as many numbers"):
        Sampling(actions=((1.0, 0.0), (1.0,)))
    assert "actions" not in tiny.knobs
    assert torch.equal(stt.predict(tiny, prompt, 2, Sampling(actions=((1.0,),))), stt.predict(tiny, prompt, 2))


def test_training_forgets_the_actions_of_prompts_and_of_some_whole_clips(acting):
    forgotten = acting._forget(torch.zeros(400, 8, 2)).isnan()
    assert torch.equal(forgotten[..., 0], forgotten[..., 1])
    known = (~forgotten[..., 0]).sum(dim=1)  # frames at the end
    assert torch.equal(~forgotten[..., 0], torch.arange(8) >= 8 - known[:, None])
    assert 0.4 < (known == 0).float().mean() < 0.6 and set(known.tolist()) == set(range(9))
    video, actions = clips(acting, 4), torch.zeros(4, 5, 2)
    acting.train().loss(video, actions).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in acting.act.parameters() if p.ndim < 2)
    with pytest.raises(ValueError, match=r"actions have shape \(4, 4, 2\), must be \(4, 5, 2\)"):
        acting.loss(video, actions[:, 1:])


def test_a_model_learns_to_obey():
    """Left or right halves light up as told; the clip's other frames are black."""
    torch.manual_seed(0)
    model = STT(STTConfig.from_dict(TINY.to_dict() | {"actions": ["side"], "drop_actions": 0.2, "own_past": 0.0}))
    halves = -torch.ones(2, 3, 1, 16, 16)
    halves[0, 1:, ..., :8], halves[1, 1:, ..., 8:] = 1, 1
    actions = torch.tensor([-1.0, 1.0])[:, None, None].expand(2, 3, 1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    model.train()
    for _ in range(240):
        loss = model.loss(halves, actions).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    wanted = model.tokenizer.reconstructed(halves)[:, 1]
    for side, right, wrong in ((-1.0, *wanted), (1.0, *wanted.flip(0))):
        drawn = stt.predict(model, halves[0, :1], 1, Sampling(actions=((side,),)), seeds=range(8))[:, 0]
        assert ((drawn - right).abs().mean(dim=(1, 2, 3)) < 0.5 * (drawn - wrong).abs().mean(dim=(1, 2, 3))).all()


# ---- beside a reference ------------------------------------------------------------------------------


@pytest.fixture
def beside():
    return lively(STT(TINY_CONFIGS["stt, beside a reference"])).eval()


def test_codes_beside_a_reference_are_local_and_those_of_what_did_not_change_are_all_alike(beside):
    video = clips(beside, 1, 3)
    still = beside.tokenizer.encode(video[:, :1].expand(1, 3, -1, -1, -1)).ids
    assert torch.equal(still[:, 1:], still[:, :1].expand_as(still[:, 1:]))
    changed = video[:, :1].repeat(1, 2, 1, 1, 1)
    changed[:, 1, :, :4, :4] = 0.9
    ids = beside.tokenizer.encode(changed).ids
    places = (ids[:, 0] != ids[:, 1]).any(dim=-1)[0]
    assert places[0, 0] and places.sum() == 1


def test_the_reference_is_the_prompts_last_frame_and_the_window_is_wider_than_a_prompt(beside):
    prompt = clips(beside, 1, 3)
    state = beside.start(prompt)
    assert torch.equal(state.reference, prompt[:, -1:]) and state.cache.time == 2
    with torch.inference_mode():
        for _ in range(8):
            _, state = beside.step(state, Sampling(), SeededNoise([0]))
    assert state.cache.time == 10 and state.cache.keys[0].shape[3] == 5  # the next frame is the sixth that it sees


def test_only_frames_after_the_reference_are_asked_for(beside):
    """A clip of 2 frames leaves no choice: the loss is that of its second frame."""
    latents, reference = beside.tokenizer.encode(clips(beside, 2, 4)).latents, clips(beside, 2, 1)
    out = beside._forward_training(latents, seen_by_the_posterior(beside, latents, reference), None, reference)
    late = out.since(2)
    assert late.hidden.shape[1] == 1 and torch.equal(late.hidden, out.hidden[:, 2:])
    for whole, part in zip(out.gaussians, late.gaussians, strict=True):
        assert torch.equal(whole.prior.mean.unflatten(0, (2, 3))[:, 2], part.prior.mean)


def seen_by_the_posterior(model, latents, reference):
    return model.target_features(model._embed(latents, latents[:, :1], reference)[:, 1:])


def always_own():
    return mock.patch("torch.rand", lambda *shape, **options: torch.full(shape, 0.9))


def test_the_own_past_leaves_prompts_true_and_replaces_another_share_of_each_clip(beside):
    latents, reference = beside.tokenizer.encode(clips(beside, 1, 9)).latents, clips(beside, 1, 1)
    true, reference = (of.expand(200, -1, -1, -1, -1) for of in (latents, reference))
    target = seen_by_the_posterior(beside, true, reference)
    own = beside._own_past(true, target, None, reference, given=3)
    same = (own == true).flatten(2).all(dim=2)  # (clips, frames)
    assert same[:, :3].all() and same[:, -1].all()
    assert 0.6 < (~same[:, 3:-1]).float().mean() < 0.9


@torch.no_grad()
def test_the_own_past_is_what_the_network_draws_frame_by_frame(beside):
    """As sampling does: each frame of it is the prediction from the prompt and the frames of it before."""
    latents, reference = beside.tokenizer.encode(clips(beside, 1, 6)).latents, clips(beside, 1, 1)
    target = seen_by_the_posterior(beside, latents, reference)
    with always_own(), mock.patch("stt.models.stt.draw_posterior", draw_mean):
        own = beside._own_past(latents, target, None, reference, given=2)
        whole = beside._forward_training(own, target, None, reference)
    assert not torch.equal(own, latents)
    assert torch.equal(beside._decide(whole.hidden, own[:, :-1])[:, 1:-1], own[:, 2:-1])


@pytest.mark.parametrize("frames", [2, 3])
def test_a_clip_that_is_all_prompt_keeps_its_past(beside, frames):
    latents, reference = beside.tokenizer.encode(clips(beside, 1, frames)).latents, clips(beside, 1, 1)
    target = seen_by_the_posterior(beside, latents, reference)
    assert torch.equal(beside._own_past(latents, target, None, reference, given=frames - 1), latents)


def test_a_tokenizer_beside_a_reference_needs_it_to_decode_and_copies_what_its_mask_keeps(beside):
    tokenizer, video = beside.tokenizer, clips(beside, 2, 3)
    codes = tokenizer.encode(video)
    with pytest.raises(ValueError, match="decodes frames beside a reference"):
        tokenizer.decode(codes.latents)
    head = tokenizer.decoder.head
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(head.bias, 0.0)
    with torch.no_grad():
        head.bias.unflatten(0, (-1, 2))[:, 1] = 50.0  # of every pixel, its color and its mask
    torch.testing.assert_close(tokenizer.decode(codes.latents, video[:, :1]), video[:, :1].expand_as(video))


@pytest.mark.parametrize("levels", [(5, 5, 4), ()])
def test_a_gate_makes_a_code_the_likelier_the_nearer_it_is_to_the_one_before(levels):
    tokenizer = TINY_TOKENIZER.to_dict() | {"levels": levels, "codebook_size": 16}
    model = lively(STT(STTConfig.from_dict(TINY.to_dict() | {"tokenizer": tokenizer, "keep": True}))).eval()
    codes = model.tokenizer.encode(clips(model, 2, 3))
    hidden = torch.randn(*codes.ids.shape[:-1], TINY.dim)
    torch.nn.init.zeros_(model.keep.weight)
    for gate, kept in ((0.0, False), (50.0, True)):
        torch.nn.init.constant_(model.keep.bias, gate)
        same = model.logits(hidden, codes.latents).argmax(dim=-1) == codes.ids
        assert bool(same.all()) == kept
