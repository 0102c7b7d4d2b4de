"""What every predictor promises, whatever it is made of. Each test loops over all families, tiny."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

import stt
from stt.api import Condition, HasLikelihood, Interpolates, Predictor, Sampling
from stt.sampler import SeededNoise
from tests.conftest import TINY_CONFIGS, batch_of, built, clips, lively


def families(keep: Callable[[Predictor], bool] = lambda model: True) -> Iterator[tuple[str, Predictor]]:
    """Every family, tiny, in eval mode, with large random weights."""
    for name, config in sorted(TINY_CONFIGS.items()):
        model = lively(built(config)).eval()
        torch.manual_seed(0)
        if keep(model):
            yield name, model


def scored() -> Iterator[tuple[str, HasLikelihood]]:
    return families(lambda model: isinstance(model, HasLikelihood))


def close(a: torch.Tensor, b: torch.Tensor, name: str, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, msg=lambda text: f"{name}: {text}")


# ---- training ----------------------------------------------------------------------------------------


def test_every_trainable_parameter_gets_a_gradient_and_the_frozen_tokenizer_none():
    for name, model in families():
        before = {key: t.clone() for key, t in model.state_dict().items()}
        for _ in range(3):  # tasks that are drawn may leave out a part
            model.train().loss(batch_of(model, clips(model))).total.backward()
        for key, p in model.named_parameters():
            assert p.grad is None if not p.requires_grad else p.grad is not None and p.grad.any(), (name, key)
        assert all(torch.equal(before[key], t) for key, t in model.state_dict().items() if "tokenizer" in key), name


def test_batches_of_one_and_two_clips_train_and_are_left_as_they_were():
    for name, model in families():
        for size in (1, 2):
            video = clips(model, size)
            before = video.clone()
            loss = model.train().loss(batch_of(model, video))
            assert loss.total.isfinite() and loss.total.ndim == 0, name
            assert all(part.isfinite() and not part.requires_grad for part in loss.parts.values()), name
            assert torch.equal(video, before), name


def test_a_step_trains_in_bfloat16_on_a_cpu():
    for name, model in families():
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(batch_of(model, clips(model)))
        loss.total.backward()
        assert loss.total.isfinite() and loss.total.dtype == torch.float32, name
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None), name


def test_the_choices_of_a_step_depend_on_its_number_alone():
    for name, model in families():
        other, video, losses = built(TINY_CONFIGS[name]).train(), clips(model), []
        other.load_state_dict(model.train().state_dict())
        model.begin_step(3)
        torch.rand(5)  # the global generators of two processes differ
        other.begin_step(7)
        other.begin_step(3)
        for each in (model, other):
            torch.manual_seed(0)
            losses.append(each.loss(batch_of(each, video)).total)
        assert torch.equal(*losses), name


@pytest.mark.parametrize(
    "name", ["stt", "stt, layers", "layered", "timesformer", "videogpt", "motion_gpt", "transframer"]
)
def test_a_family_overfits_one_clip_and_is_surprised_by_a_frame_that_does_not_belong(name):
    """The loss is that of training; a frozen random tokenizer cannot give pixels."""
    model = lively(built(TINY_CONFIGS[name])).train()
    clip = clips(model, batch=1, frames=1 + 3 * model.config.chunk_frames)
    video = clip.expand(3, *clip.shape[1:]) if isinstance(model, Interpolates) else clip
    optimizer, losses = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3), []
    for step in range(240 if name in ("transframer", "stt, layers") else 160):  # one frame a step, noise in layers
        model.begin_step(step)
        loss = model.loss(batch_of(model, video)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) / 5 < 0.5 * sum(losses[:5]) / 5
    model.eval()
    if isinstance(model, HasLikelihood):
        usual, odd = model.surprise(clip), clip.clone()
        odd[:, 2] = clips(model, 1, 1, seed=9)[:, 0]
        surprise = model.surprise(odd)
        assert surprise.bits[:, 1] > 2 * usual.bits[:, 1]  # scores begin at frame 1
        assert surprise.bits[:, 1:].mean() > 2 * usual.bits[:, 1:].mean()  # the frames before it score as they did


# ---- futures -----------------------------------------------------------------------------------------


def test_frames_have_the_shape_type_and_range_of_video_and_the_prompt_stays_as_it_was():
    for name, model in families():
        context = clips(model)[0]
        before = context.clone()
        frames = list(stt.rollout(model, context, frames=3, seeds=[0, 1]))
        assert len(frames) == 3 and torch.equal(context, before), name
        for frame in frames:
            assert frame.shape == (2, *context.shape[1:]) and frame.dtype == torch.float32, name
            assert frame.isfinite().all() and frame.abs().max() <= 1, name


def test_a_seed_gives_one_future_and_four_seeds_four_where_the_model_draws():
    for name, model in families():
        context = clips(model)[0]
        futures = stt.predict(model, context, 4, seeds=[0, 1, 2, 3])
        assert torch.equal(stt.predict(model, context, 4, seeds=[0, 1, 2, 3]), futures), name
        for i in range(4):
            for j in range(i):
                assert torch.equal(futures[i], futures[j]) != bool(model.knobs), name


def test_temperature_zero_ignores_the_seed():
    for name, model in families():
        futures = stt.predict(model, clips(model)[0], 4, Sampling(temperature=0), seeds=[0, 99])
        torch.testing.assert_close(*futures, atol=1e-4, rtol=0, msg=name)  # a 78th of a level of 8 bits


def test_an_action_leaves_chance_to_a_model_unless_it_says_that_it_does_not():
    for name, model in families():
        if "actions" not in model.knobs:
            continue
        condition = Condition(actions=((0.5,) * len(model.config.actions),))
        futures = stt.predict(model, clips(model)[0], 4, seeds=[0, 99], condition=condition)
        assert torch.allclose(*futures, atol=1e-4, rtol=0) == model.random_actions_only, name


def test_a_future_alone_equals_the_same_future_in_a_batch():
    for name, model in families():
        context, frames = clips(model)[0], 4
        if "optical flow" in name:
            frames = 2  # random warps make rounding errors ten times larger every frame
        together = stt.predict(model, context, frames, seeds=[3, 11, 4])
        close(together[1], stt.predict(model, context, frames, seeds=[11])[0], name, 2e-4)


def test_a_short_rollout_is_the_beginning_of_a_longer_one_and_the_window_slides():
    for name, model in families():
        context, horizon = clips(model)[0], 3 * model.config.context_frames
        longer = stt.predict(model, context, horizon, seeds=[5])
        assert longer.shape[1] == horizon, name
        close(longer[:, :3], stt.predict(model, context, 3, seeds=[5]), name)


def test_a_prompt_of_any_length_works_and_a_long_one_is_cut_to_its_last_frames():
    for name, model in families():
        for frames in (1, 2, 6):
            assert stt.predict(model, clips(model, frames=frames)[0], 2).isfinite().all(), name
        context = clips(model, frames=model.config.context_frames + 5)[0]
        cut = context[-model.config.context_frames :]
        assert torch.equal(stt.predict(model, context, 2), stt.predict(model, cut, 2)), name


def test_batch_items_of_a_prompt_are_independent():
    sampling = Sampling(temperature=0)
    for name, model in families():
        video = clips(model, batch=2)
        with torch.inference_mode():
            together, _ = model.step(model.start(video), sampling, SeededNoise([0, 0]))
            alone, _ = model.step(model.start(video[1:]), sampling, SeededNoise([0]))
        close(together[1], alone[0], name)


def test_a_step_leaves_its_state_as_it_was():
    for name, model in families():
        with torch.inference_mode():
            state = model.start(clips(model, batch=1))
            first, again = (model.step(state, Sampling(), SeededNoise([4]))[0] for _ in range(2))
        assert torch.equal(first, again), name


def test_a_saved_model_comes_back_bit_for_bit(tmp_path):
    for name, model in families():
        stt.save(model, tmp_path / "model.safetensors")
        loaded = stt.load(tmp_path / "model.safetensors")
        assert loaded.config == model.config and not loaded.training, name
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[key]), (name, key)
        context = clips(model)[0]
        assert torch.equal(stt.predict(model, context, 2), stt.predict(loaded, context, 2)), name
        losses = []
        for each in (model, loaded):
            torch.manual_seed(3)
            losses.append(each.train().loss(batch_of(each, clips(each))).total)
        assert torch.equal(*losses), name


# ---- likelihood --------------------------------------------------------------------------------------


def test_a_surprise_scores_every_frame_but_the_first_by_place_and_draws_nothing():
    for name, model in scored():
        for frames in (2, 5, 15):
            video = clips(model, frames=frames)
            before, state = video.clone(), torch.get_rng_state()
            surprise = model.surprise(video)
            assert torch.equal(video, before) and torch.equal(torch.get_rng_state(), state), name
            assert surprise.bits.shape == (2, frames - 1) and surprise.per_cell.shape[:2] == (2, frames - 1), name
            assert (
                surprise.per_cell.ndim == 4 and surprise.per_cell.isfinite().all() and (surprise.per_cell >= 0).all()
            ), name
            close(surprise.per_cell.mean(dim=(-2, -1)), surprise.bits, name)
            again = model.surprise(video)
            assert torch.equal(again.bits, surprise.bits) and torch.equal(again.per_cell, surprise.per_cell), name
        with pytest.raises(ValueError, match="clips have 1 frames"):
            model.surprise(clips(model, frames=1))


def test_a_clips_surprise_is_the_same_in_any_batch():
    for name, model in scored():
        video = clips(model, batch=3, frames=4)
        close(model.surprise(video).per_cell[1:2], model.surprise(video[1:2]).per_cell, name)


def test_later_frames_never_change_the_surprise_of_earlier_ones():
    for name, model in scored():
        chunk = model.config.chunk_frames
        first = 3 if chunk == 1 else chunk  # frames that are coded together share their bits
        for frames in (6, 25):
            video = clips(model, 1, frames)
            whole, changed = model.surprise(video), video.clone()
            changed[:, 1 + first :] = clips(model, 1, frames - 1 - first, seed=9)
            for other in (model.surprise(changed), model.surprise(video[:, : 1 + first])):
                close(other.per_cell[:, :first], whole.per_cell[:, :first], name)
            later = model.surprise(changed).per_cell[:, first], whole.per_cell[:, first]
            assert not torch.allclose(*later, atol=1e-3), name
