"""What every predictor promises, whatever it is made of."""

from __future__ import annotations

import pytest
import torch

import stt
from stt.api import HasLikelihood, Interpolates, Sampling
from tests.conftest import clips, lesson


def test_every_trainable_parameter_gets_a_gradient(predictor):
    predictor.train().loss(lesson(predictor, clips(predictor))).total.backward()
    without = [n for n, p in predictor.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without


def test_the_frozen_tokenizer_gets_no_gradient_and_does_not_move_in_training(predictor):
    if getattr(predictor, "tokenizer", None) is None:
        return
    before = {name: t.clone() for name, t in predictor.tokenizer.state_dict().items()}
    predictor.train().loss(lesson(predictor, clips(predictor))).total.backward()
    assert all(p.grad is None for p in predictor.tokenizer.parameters())
    assert all(torch.equal(before[name], t) for name, t in predictor.tokenizer.state_dict().items())


@pytest.mark.parametrize("batch", [1, 2])
def test_any_batch_size_trains_and_inputs_are_left_untouched(predictor, batch):
    video = clips(predictor, batch)
    before = video.clone()
    loss = predictor.train().loss(lesson(predictor, video))
    assert loss.total.isfinite() and loss.total.ndim == 0
    assert all(part.isfinite() and not part.requires_grad for part in loss.parts.values())
    assert torch.equal(video, before)


def test_frames_have_the_shape_type_and_range_of_video(predictor):
    context = clips(predictor)[0]
    frames = list(stt.rollout(predictor, context, frames=3, seeds=[0, 1]))
    assert len(frames) == 3
    for frame in frames:
        assert frame.shape == (2, *context.shape[1:]) and frame.dtype == torch.float32
        assert frame.isfinite().all() and frame.abs().max() <= 1


def test_the_prompt_is_left_untouched_by_a_rollout(predictor):
    context = clips(predictor)[0]
    before = context.clone()
    stt.predict(predictor, context, 2)
    assert torch.equal(context, before)


def test_the_same_seed_gives_the_same_future_twice(predictor):
    context = clips(predictor)[0]
    assert torch.equal(stt.predict(predictor, context, 4, seeds=[7]), stt.predict(predictor, context, 4, seeds=[7]))


def test_four_seeds_give_four_futures_or_one_where_there_is_nothing_to_draw(predictor):
    futures = stt.predict(predictor, clips(predictor)[0], 4, seeds=[0, 1, 2, 3])
    for i in range(4):
        for j in range(i):
            assert torch.equal(futures[i], futures[j]) != bool(predictor.knobs)


def test_temperature_zero_ignores_the_seed(predictor):
    futures = stt.predict(predictor, clips(predictor)[0], 4, Sampling(temperature=0), seeds=[0, 99])
    torch.testing.assert_close(futures[0], futures[1], atol=1e-4, rtol=0)  # a 78th of a level of 8 bits


def test_a_future_alone_equals_the_same_future_in_a_batch(predictor):
    context = clips(predictor)[0]
    together = stt.predict(predictor, context, 4, seeds=[3, 11, 4])
    alone = stt.predict(predictor, context, 4, seeds=[11])
    torch.testing.assert_close(together[1], alone[0], atol=1e-4, rtol=1e-4)


def test_a_short_rollout_is_the_beginning_of_a_longer_one(predictor):
    context = clips(predictor)[0]
    longer = stt.predict(predictor, context, 9, seeds=[5])
    torch.testing.assert_close(longer[:, :3], stt.predict(predictor, context, 3, seeds=[5]))


@pytest.mark.parametrize("frames", [1, 2, 6, 11])
def test_a_prompt_of_any_length_from_one_frame_up_works(predictor, frames):
    context = clips(predictor, frames=frames)[0]
    assert stt.predict(predictor, context, 2).isfinite().all()


def test_a_longer_prompt_is_cut_to_its_last_frames(predictor):
    context = clips(predictor, frames=predictor.config.context_frames + 5)[0]
    cut = context[-predictor.config.context_frames :]
    assert torch.equal(stt.predict(predictor, context, 2), stt.predict(predictor, cut, 2))


def test_horizons_beyond_the_window_slide_it(predictor):
    horizon = 3 * predictor.config.context_frames
    assert stt.predict(predictor, clips(predictor)[0], horizon).shape[1] == horizon


def test_batch_items_of_a_prompt_are_independent(predictor):
    video = clips(predictor, batch=2)
    both, second = predictor.start(video), predictor.start(video[1:])
    sampling, noise = Sampling(temperature=0), stt.sampler.SeededNoise([0, 0])
    with torch.inference_mode():
        together, _ = predictor.step(both, sampling, noise)
        alone, _ = predictor.step(second, sampling, stt.sampler.SeededNoise([0]))
    torch.testing.assert_close(together[1], alone[0], atol=1e-4, rtol=1e-4)


def test_a_step_leaves_its_state_as_it_was(predictor):
    with torch.inference_mode():
        state = predictor.start(clips(predictor, batch=1))
        first, _ = predictor.step(state, Sampling(), stt.sampler.SeededNoise([4]))
        again, _ = predictor.step(state, Sampling(), stt.sampler.SeededNoise([4]))
    assert torch.equal(first, again)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_saved_model_comes_back_bit_for_bit(predictor, mode, tmp_path):
    stt.save(predictor, tmp_path / "model.safetensors")
    loaded = stt.load(tmp_path / "model.safetensors")
    assert loaded.config == predictor.config and not loaded.training
    for name, tensor in predictor.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    video = clips(predictor)
    losses = []
    for model in (predictor, loaded):
        getattr(model, mode)()
        torch.manual_seed(3)
        losses.append(model.loss(lesson(model, video)).total)
    assert torch.equal(*losses)


def overfit(model, video) -> list[float]:
    """Losses on the way; the model is in eval mode after it."""
    model.train()
    steps = 160
    if isinstance(model, Interpolates):  # a step asks for one frame of a clip, not for all
        steps, video = 240, video.expand(3, *video.shape[1:])
    elif getattr(model.config, "layers", 0):  # noise has no layers, so less of it can be learned by heart
        steps = 240
    elif getattr(model.config, "window", 0):  # for those after a random one
        steps = 320
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = model.loss(lesson(model, video)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def test_it_overfits_one_clip_and_is_surprised_by_a_frame_that_does_not_belong(predictor):
    """The loss is what training has; a frozen random tokenizer cannot give pixels."""
    video = clips(predictor, batch=1, frames=1 + 3 * predictor.config.chunk_frames)
    losses = overfit(predictor, video)
    assert sum(losses[-5:]) / 5 < 0.5 * sum(losses[:5]) / 5
    if not isinstance(predictor, HasLikelihood):
        return
    known = predictor.surprise(video)
    odd = video.clone()
    odd[:, 2] = clips(predictor, 1, 1, seed=9)[:, 0]
    surprise = predictor.surprise(odd)
    assert surprise.bits[:, 1] > 2 * known.bits[:, 1]  # scores begin at frame 1
    assert surprise.bits[:, 1:].mean() > 2 * known.bits[:, 1:].mean()  # nothing that came before it changes


# ---- surprise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [2, 5, 15])
def test_a_surprise_scores_every_frame_but_the_first_by_place_or_is_none(predictor, frames):
    video = clips(predictor, frames=frames)
    before, state = video.clone(), torch.get_rng_state()
    if not isinstance(predictor, HasLikelihood):
        return
    surprise = predictor.surprise(video)
    assert torch.equal(video, before) and torch.equal(torch.get_rng_state(), state)
    assert surprise.bits.shape == (2, frames - 1) and surprise.where.shape[:2] == (2, frames - 1)
    assert surprise.where.ndim == 4 and surprise.where.isfinite().all() and (surprise.where >= 0).all()
    torch.testing.assert_close(surprise.where.mean(dim=(-2, -1)), surprise.bits)
    again = predictor.surprise(video)
    assert torch.equal(again.bits, surprise.bits) and torch.equal(again.where, surprise.where)


def test_one_frame_is_too_few_for_a_surprise(predictor):
    if not isinstance(predictor, HasLikelihood):
        return
    with pytest.raises(ValueError, match="clips have 1 frames"):
        predictor.surprise(clips(predictor, frames=1))


def test_a_clips_surprise_is_the_same_in_any_batch(predictor):
    video = clips(predictor, batch=3, frames=4)
    if not isinstance(predictor, HasLikelihood):
        return
    together = predictor.surprise(video)
    alone = predictor.surprise(video[1:2])
    torch.testing.assert_close(together.where[1:2], alone.where, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frames", [6, 25])
def test_later_frames_never_change_the_surprise_of_earlier_ones(predictor, frames):
    video = clips(predictor, 1, frames)
    if not isinstance(predictor, HasLikelihood):
        return
    whole = predictor.surprise(video)
    chunk = predictor.config.chunk_frames
    scored = 3 if chunk == 1 else chunk  # frames that are coded together share their bits
    changed = video.clone()
    changed[:, 1 + scored :] = clips(predictor, 1, frames - 1 - scored, seed=9)
    for other in (predictor.surprise(changed), predictor.surprise(video[:, : 1 + scored])):
        torch.testing.assert_close(other.where[:, :scored], whole.where[:, :scored], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(predictor.surprise(changed).where[:, scored], whole.where[:, scored], atol=1e-3)
