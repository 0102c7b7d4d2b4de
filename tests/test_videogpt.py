"""VideoGPT beyond the contract: likelihoods, the cache, conditions, sequences that follow each other; VideoVQ."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch

import stt
from stt.api import Batch, Condition, Sampling
from stt.models.videogpt import VideoGPT, VideoGPTConfig
from stt.sampler import SeededNoise
from stt.tokenizer import VideoVQ, VideoVQConfig
from tests.conftest import TINY_VIDEO_TOKENIZER, TINY_VIDEOGPT, clips, lively


def config(**changes) -> VideoGPTConfig:
    return VideoGPTConfig.from_dict(TINY_VIDEOGPT.to_dict() | changes)


def varied(**changes) -> VideoGPT:
    return lively(VideoGPT(config(**changes))).eval()


@pytest.fixture
def model():
    return varied()


@pytest.fixture
def classy():
    return varied(classes=10, labels=2)


def sequence(model: VideoGPT, slices: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random codes (1, S, h, w, 1) and their latents."""
    t = model.config.tokenizer
    ids = torch.randint(
        0, t.codebook_size, (1, slices, t.grid, t.grid, 1), generator=torch.Generator().manual_seed(seed)
    )
    return ids, model.tokenizer.quantizer.embed(ids)


# ---- likelihood ------------------------------------------------------------------------------------------


def test_the_probabilities_of_all_sequences_of_codes_sum_to_one():
    tokenizer = VideoVQConfig(image_size=8, frames=1, patch=4, widths=(16,), codebook_size=3, code_dim=4)
    model = lively(
        VideoGPT(config(image_size=8, tokenizer=tokenizer.to_dict(), chunk_frames=1, slices=1, widths=(16,)))
    ).eval()
    ids = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 1, 2, 2, 1)  # every frame of 2 x 2 codes
    memory = model.remember(clips(model, 1, 3)).expand(len(ids))
    with torch.inference_mode():
        logits, _ = model.logits(model.tokenizer.quantizer.embed(ids), memory)
    chosen = logits.log_softmax(-1).gather(-1, ids.flatten(1)[..., None]).sum(dim=(1, 2))
    assert chosen.exp().sum() == pytest.approx(1, abs=1e-4)
    assert chosen.exp().max() > 1.5 / len(ids)  # not the uniform distribution


def test_what_the_sampler_draws_has_the_likelihood_that_the_network_states(model):
    """A code is drawn as often as its probability says."""
    context = clips(model, 1, 4)
    state = model.start(context)
    futures = 4000
    with torch.inference_mode():
        _, after = model.step(state, Sampling(), SeededNoise(range(futures)))
        first = model.logits(after.latents[:1], state.memory)[0][0, 0].softmax(-1)  # of the first code, seen by all
    ids = torch.cdist(after.latents[:, 0, 0, 0], model.tokenizer.quantizer.codebook).argmin(-1)
    drawn = torch.bincount(ids, minlength=len(first)) / futures
    assert (drawn - first).abs().max() < 5 * (first.max() / futures).sqrt()


def test_the_surprise_is_the_cross_entropy_of_the_codes_in_bits_a_pixel(model):
    video = clips(model, 1, 7)
    with torch.inference_mode():
        codes = model.tokenizer.encode(video[:, 1:])
        logits, _ = model.logits(codes.latents, model.remember(video[:, :1]))
    nats = torch.nn.functional.cross_entropy(logits[0], codes.ids.flatten(), reduction="sum")
    pixels = 6 * 16 * 16
    assert model.surprise(video).bits.mean() == pytest.approx(float(nats) / math.log(2) / pixels, rel=1e-4)


def test_what_it_drew_itself_surprises_it_less_than_noise(model):
    context = clips(model, 1, 4)
    codes = []
    state = model.start(context)
    with torch.inference_mode():
        for _ in range(3):
            _, state = model.step(state, Sampling(temperature=0.5), SeededNoise([0]))
        own, _ = model.logits(state.latents, model.remember(context))
        ids, latents = sequence(model)
        noise, _ = model.logits(latents, model.remember(context))
    drawn = torch.cdist(state.latents.flatten(0, 3), model.tokenizer.quantizer.codebook).argmin(-1)
    for logits, chosen in ((own, drawn), (noise, ids.flatten())):
        codes.append(float(torch.nn.functional.cross_entropy(logits[0], chosen)))
    assert codes[0] < codes[1] - 0.1


# ---- cache and order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [True, False], ids=["conditioned on frames", "unconditional"])
def test_one_code_after_the_other_gives_the_logits_of_the_whole_sequence(frames, monkeypatch):
    model = varied(frame_conditioning=frames, slices=4)
    state = model.start(clips(model, 1, 4)[:, : 4 * frames])
    _, latents = sequence(model)
    seen = []
    monkeypatch.setattr(model, "compiled_one", lambda *a: seen.append(VideoGPT.one(*a)) or seen[-1])
    with torch.inference_mode():
        whole, _ = model.logits(latents, state.memory)
        cache = state.cache.clone()
        codes = iter(latents.flatten(1, 3)[0])
        model.tokenizer.quantizer.embed = lambda ids: next(codes)[None]
        for s in range(3):
            model._slice(latents[:, :s], cache, state.memory, None, Sampling(temperature=0), None)
    torch.testing.assert_close(torch.stack(seen, dim=1), whole, atol=1e-4, rtol=1e-4)


def test_no_code_sees_itself_or_what_comes_after(model):
    _, latents = sequence(model)
    with torch.inference_mode():
        before, _ = model.logits(latents, model.remember(clips(model, 1, 4)))
        for place in (0, 5, 16, 30, 47):
            other = latents.clone().flatten(1, 3)
            other[:, place] += 1
            after, _ = model.logits(other.view_as(latents), model.remember(clips(model, 1, 4)))
            torch.testing.assert_close(after[:, : place + 1], before[:, : place + 1], atol=1e-4, rtol=1e-4)
            assert place == 47 or not torch.allclose(after[:, place + 1], before[:, place + 1], atol=1e-3)


def test_compiling_reaches_every_code_and_changes_none(model, monkeypatch):
    context, calls = clips(model)[0], []
    plain = stt.predict(model, context, 4, seeds=[0, 1])
    monkeypatch.setattr(torch, "compile", lambda function: lambda *args: (calls.append(1), function(*args))[1])
    model.compile_step()
    assert torch.equal(stt.predict(model, context, 4, seeds=[0, 1]), plain)
    assert len(calls) == 4 // model.config.chunk_frames * model.config.cells


def test_a_copy_of_a_compiled_model_runs_its_own_weights(model, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    model.compile_step()
    other, context = copy.deepcopy(model), clips(model)[0]
    torch.nn.init.normal_(other.head.weight)
    assert not torch.equal(stt.predict(other, context, 2), stt.predict(model, context, 2))


def test_a_new_sequence_goes_on_after_the_last_frames_of_the_one_before(model):
    """The fourth slice is the first of a new sequence: as if the predicted frames had been the prompt."""
    context = clips(model, 1, 4)
    with torch.inference_mode():
        state, noise = model.start(context), SeededNoise([3])
        frames = []
        for _ in range(3):
            chunk, state = model.step(state, Sampling(), noise)
            frames.append(chunk)
        fourth, _ = model.step(state, Sampling(temperature=0), SeededNoise([0]))
        anew = model.start(torch.cat([context, *frames], dim=1)[:, -4:])
        again, _ = model.step(anew, Sampling(temperature=0), SeededNoise([0]))
    torch.testing.assert_close(fourth, again)


def test_only_the_likeliest_codes_are_drawn_where_top_k_says_so(model):
    context = clips(model)[0]
    greedy = stt.predict(model, context, 6, Sampling(temperature=0))
    assert torch.equal(stt.predict(model, context, 6, Sampling(top_k=1), seeds=[5]), greedy)
    assert torch.equal(stt.predict(model, context, 6, Sampling(top_p=1e-6), seeds=[5]), greedy)
    assert not torch.equal(stt.predict(model, context, 6, Sampling(top_k=8), seeds=[5]), greedy)


# ---- conditions ------------------------------------------------------------------------------------------


def test_what_came_before_a_sequence_changes_what_is_expected_and_how_it_looks(model):
    _, latents = sequence(model)
    contexts = clips(model, 1, 4), clips(model, 1, 4, seed=9), clips(model, 1, 4)[:, :0]
    with torch.inference_mode():
        logits = [model.logits(latents, model.remember(context))[0] for context in contexts]
        pasts = [model._sequence(context, None).past for context in contexts]
        frames = [model.tokenizer.decode(torch.cat([past, latents], dim=1))[:, -6:] for past in pasts]
    for things in (logits, frames):
        assert not any(torch.equal(things[i], things[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_labels_imagine_a_clip_that_the_prompt_has_no_part_in(classy):
    one, other = clips(classy, 1, 4)[0], clips(classy, 1, 3, seed=9)[0]

    def imagined(context, *labels):
        return stt.predict(classy, context, 8, seeds=[2], condition=Condition(labels=labels))

    assert torch.equal(imagined(one, 3, 7), imagined(other, 3, 7))
    assert not torch.equal(imagined(one, 3, 7), imagined(one, 3, 8))
    assert torch.equal(imagined(one, 3, 7), imagined(one, 7, 3))  # two digits have no order
    assert not torch.equal(imagined(one, 3, 3), imagined(one, 3))
    assert torch.equal(imagined(one, -1), imagined(other, -1))
    assert not torch.equal(imagined(one, -1), stt.predict(classy, one, 8, seeds=[2]))


def test_guidance_favours_what_the_labels_make_likelier():
    """Of codes drawn without cutting, log p(code | label) - log p(code) grows with guidance."""
    gains = []
    for guidance in (1.0, 3.0):
        model = varied(classes=10, labels=1, guidance=guidance)
        state = model.start(clips(model, 1, 1), Condition(labels=(3,)))
        with torch.inference_mode():
            _, after = model.step(state, Sampling(), SeededNoise(range(40)))
            ids = (after.latents[:, :, :, :, None] == model.tokenizer.quantizer.codebook).all(dim=-1).long().argmax(-1)
            nats = []
            for labels in ([[3]], [[-1]]):
                memory = model.remember(clips(model, 1, 1)[:, :0]).expand(40)
                logits, _ = model.logits(after.latents, memory, model.label(torch.tensor(labels)).expand(40, -1, -1))
                nats.append(logits.log_softmax(-1).gather(-1, ids.flatten(1)[..., None]).sum(dim=(1, 2)))
        gains.append(float((nats[0] - nats[1]).mean()))
    assert gains[1] > 2 * gains[0] > 0


@pytest.mark.parametrize("frame_conditioning", [True, False])
def test_guided_futures_are_their_own_whatever_is_drawn_beside_them(frame_conditioning):
    model = varied(classes=10, labels=2, guidance=2.5, frame_conditioning=frame_conditioning)
    context, frames = clips(model)[0], 2 * model.config.slices * model.config.chunk_frames
    asked = Condition(labels=(3, -1))
    together = stt.predict(model, context, frames, seeds=[3, 11], condition=asked)
    torch.testing.assert_close(
        stt.predict(model, context, frames, seeds=[11], condition=asked)[0], together[1], atol=1e-4, rtol=1e-4
    )
    plain = copy.deepcopy(model)
    plain.config = replace(model.config, guidance=1.0)
    assert not torch.allclose(stt.predict(plain, context, frames, seeds=[3, 11], condition=asked), together, atol=1e-2)
    for same in (Condition(), Condition(labels=(-1, -1))):  # nothing to be led by
        first, second = (stt.predict(each, context, 4, condition=same) for each in (plain, model))
        assert torch.equal(first, second)


def test_a_model_without_classes_refuses_labels(model):
    assert "labels" not in model.knobs
    with pytest.raises(ValueError, match="labels are given, a model of family videogpt like this one takes none"):
        stt.rollout(model, clips(model)[0], 2, condition=Condition(labels=(3,)))


@pytest.mark.parametrize("labels", [(10,), (1, 2, 3)])
def test_labels_that_the_model_does_not_know_are_refused(classy, labels):
    with pytest.raises(ValueError, match="the model takes up to 2 of 0 to 9"):
        stt.predict(classy, clips(classy)[0], 2, condition=Condition(labels=labels))


def test_labels_train_the_weights_of_their_classes_alone(classy):
    classy.train()
    classy.loss(Batch(clips(classy, 2, 7), labels=torch.tensor([[3, -1], [3, 7]])))
    for _ in range(4):  # half of the clips are learned without
        classy.loss(Batch(clips(classy, 2, 7), labels=torch.tensor([[3, -1], [3, 7]]))).total.backward()
    moved = classy.norm.adapt.weight.grad.abs().sum(dim=0) > 0
    assert moved.nonzero().flatten().tolist() == [3, 7]


def test_short_contexts_and_none_are_part_of_training(model, monkeypatch):
    seen = []
    remember = VideoGPT.remember
    monkeypatch.setattr(VideoGPT, "remember", lambda self, c: seen.append(c.shape[1]) or remember(self, c))
    model.train()
    with torch.no_grad():
        for step in range(60):
            model.begin_step(step)
            model.loss(Batch(clips(model, 2, 10)))
    assert set(seen) == {0, 1, 2, 3, 4} and 0 < seen.count(0) < 20


def test_even_a_step_without_a_context_gives_every_weight_a_gradient():
    """Or processes that train together would wait for each other for ever."""
    model = varied(drop_context=1.0).train()
    model.begin_step(0)
    model.loss(Batch(clips(model, 2, 7))).total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_frames": 3}, "chunk_frames is 3, its tokenizer's slices have 2"),
        ({"frame_conditioning": False, "slices": 2}, "slices is 2, must be at least 3"),
        ({"widths": (8,)}, r"widths are \(8,\), its tokenizer has 2 resolutions"),
        ({"drop_context": 1.5}, "drop_context is 1.5"),
        ({"guidance": 0.5}, "guidance is 0.5, must be at least 1"),
        ({"channels": 3}, "channels is 3, its tokenizer's is 1"),
    ],
)
def test_a_config_that_makes_no_network_says_why(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


# ---- the tokenizer ---------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer():
    return lively(VideoVQ(TINY_VIDEO_TOKENIZER)).eval()


def test_neither_codes_nor_frames_look_ahead(tokenizer):
    video = torch.rand(1, 8, 1, 16, 16) * 2 - 1
    other = video.clone()
    other[:, 4:] = torch.rand(1, 4, 1, 16, 16)
    codes, changed = tokenizer.encode(video), tokenizer.encode(other)
    torch.testing.assert_close(codes.latents[:, :2], changed.latents[:, :2])
    assert not torch.equal(codes.ids[:, 2:], changed.ids[:, 2:])
    frames = tokenizer.decode(codes.latents)
    assert frames.shape == video.shape
    torch.testing.assert_close(tokenizer.decode(codes.latents[:, :2]), frames[:, :4], atol=1e-4, rtol=1e-4)


def test_a_code_is_of_its_own_pixels_alone(tokenizer):
    video = torch.rand(1, 4, 1, 16, 16) * 2 - 1
    other = video.clone()
    other[:, 2:, :, 4:8, 8:12] *= -1  # the second slice, row 1 and column 2
    changed = (tokenizer.encode(video).latents != tokenizer.encode(other).latents).any(dim=-1)
    assert changed.nonzero().tolist() == [[0, 1, 1, 2]]


def test_clips_that_fill_no_slice_are_refused(tokenizer):
    with pytest.raises(ValueError, match="the clip has 5 frames, must be a multiple of 2"):
        tokenizer.encode(torch.zeros(1, 5, 1, 16, 16))


def test_every_weight_of_the_tokenizer_learns_and_its_codes_come_into_use():
    torch.manual_seed(0)
    model = VideoVQ(TINY_VIDEO_TOKENIZER).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    video = torch.rand(4, 6, 1, 4, 4).repeat_interleave(4, -1).repeat_interleave(4, -2) * 2 - 1
    losses = []
    for _ in range(100):
        loss = model.loss(Batch(video))
        optimizer.zero_grad()
        loss.total.backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.parts["mse"]))
    assert losses[-1] < 0.4 * losses[0]
    assert len(model.encode(video).ids.unique()) > TINY_VIDEO_TOKENIZER.codebook_size / 2
