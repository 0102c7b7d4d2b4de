"""MotionVQ, a motion-compensated codec, and MotionGPT over its codes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import stt
from stt import frame_gpt
from stt.api import Batch, Condition, Sampling
from stt.layer_motion import batch_tracks, steps_of
from stt.models.motion_gpt import MotionGPT, MotionGPTConfig
from stt.motion import composite
from stt.motion_codes import MotionVQ, MotionVQConfig
from stt.request import label_space
from stt.sampler import SeededNoise, predict
from tests.conftest import TINY_MOTION_GPT, TINY_MOTION_VQ, lively


def moving_square(frames: int = 5, step: tuple[int, int] = (1, -2)) -> torch.Tensor:
    """A square with random pixels on black, (1, T, 1, 32, 32) on [0, 1], that moves by `step` a frame."""
    texture = torch.rand(10, 10, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.2
    video = torch.zeros(1, frames, 1, 32, 32)
    for t in range(frames):
        y, x = 4 + t * step[0], 16 + t * step[1]
        video[0, t, 0, y : y + 10, x : x + 10] = texture
    return video


def classed(size: int = 16) -> MotionGPT:
    config = TINY_MOTION_GPT.to_dict() | {"classes": 10, "labels": 2, "guidance": 2.0, "drop_labels": 0.0}
    config |= {"image_size": size, "tokenizer": TINY_MOTION_VQ.to_dict() | {"image_size": size}}
    return lively(MotionGPT(MotionGPTConfig.from_dict(config))).eval()


def test_what_moves_by_whole_pixels_is_copied_without_residuals_and_stays_exact():
    codec, video = lively(MotionVQ(MotionVQConfig(image_size=32, threshold=0.01))).eval(), moving_square()
    for t in range(1, 5):
        ids = codec.encode_frame(video[:, t - 1], video[:, t])
        assert not ids[..., 1:].any()
        assert torch.equal(codec.decode_frame(video[:, t - 1], ids), video[:, t])
        moved = codec.shifts[ids[ids[..., 0] < codec.config.motions - 1][:, 0]]
        assert (moved == torch.tensor([1, -2])).all(dim=-1).any()


def test_what_is_not_in_the_frame_before_is_coded_as_a_residual_on_black():
    codec, video = MotionVQ(MotionVQConfig(image_size=32, threshold=0.01)), moving_square(1)
    ids = codec.encode_frame(torch.zeros_like(video[:, 0]), video[:, 0])
    inked = video[:, 0, 0].unflatten(1, (4, 8)).unflatten(3, (4, 8)).amax(dim=(2, 4)) > 0
    assert torch.equal(ids[..., 1] > 0, inked)


def test_ids_and_decoded_frames_belong_together_frame_after_frame():
    codec = MotionVQ(TINY_MOTION_VQ).eval()
    video = torch.rand(2, 4, 1, 16, 16) * 2 - 1
    ids, decoded = codec.closed_loop((video + 1) / 2)
    assert torch.equal(codec.encode(video).ids, ids)
    torch.testing.assert_close(codec.decode(ids.float()), 2 * decoded - 1)
    assert all((ids[..., group] < size).all() for group, size in enumerate(codec.sizes))


def test_a_corrupted_context_is_repaired_by_the_codes_of_the_frame_after_it():
    codec, frames = lively(MotionVQ(MotionVQConfig(image_size=32, reach=2))).eval(), moving_square(3)
    clean, (ids, decoded) = codec.closed_loop(frames)[1], codec.closed_loop(frames, corruption=0.5)
    assert not torch.equal(decoded[:, 1], clean[:, 1])
    assert torch.equal(codec.encode_frame(decoded[:, 1], frames[:, 2]), ids[:, 2])


def test_the_codebooks_follow_the_residuals_they_are_trained_on():
    codec, video = MotionVQ(TINY_MOTION_VQ).train(), torch.rand(2, 6, 1, 16, 16) * 2 - 1
    losses = [float(codec.loss(Batch(video)).parts["mse"]) for _ in range(30)]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(("labels", "lookahead"), [((), 16), ((1, 3), 16), ((), 3), ((1, 3), 2)])
def test_drawing_several_codes_a_round_equals_drawing_them_one_by_one(labels, lookahead, monkeypatch):
    model, noise, seeds = classed(32), SeededNoise([0, 1, 2]), 3
    with torch.inference_mode():
        state = model.start(torch.rand(1, 4, 1, 32, 32) * 2 - 1, Condition(labels=labels))
        inputs = model.gpt.inputs(state.past, torch.tensor([state.length]))
        inputs = inputs.expand(seeds)
        label = state.label.expand(seeds, -1, -1)
        gumbel = noise.gumbel(model.gpt.cells, sum(model.config.tokenizer.sizes))
        drawn = []
        for number in (1, lookahead):
            monkeypatch.setattr(frame_gpt, "LOOKAHEAD", number)
            drawn.append(model.gpt.draw(inputs, label, [Sampling()] * 2, gumbel, 2.0 if state.guided else 1.0))
    assert torch.equal(*drawn)


def test_codes_drawn_with_the_cache_are_the_likeliest_without_it():
    model = classed()
    past = torch.rand(1, 4, 1, 16, 16)
    with torch.inference_mode():
        inputs, label, count = model.gpt.inputs(past, torch.tensor([4])), model.gpt.label(None), torch.tensor([4])
        ids = model.gpt.draw(inputs, label, [Sampling(temperature=0)] * 2, None)
        for j in range(model.gpt.cells):
            y, x = divmod(j, model.config.tokenizer.grid)
            nats = []
            for motion in range(model.config.tokenizer.motions):
                other = ids.clone()
                other[0, y, x, 0] = motion
                nats.append(float(model.gpt.nats(model.gpt.inputs(past, count), other, label)[0, 0, j]))
            assert min(range(len(nats)), key=nats.__getitem__) == ids[0, y, x, 0]


def test_temperatures_of_codes_multiply_the_one_that_is_asked_for():
    model, context = lively(MotionGPT(TINY_MOTION_GPT)).eval(), torch.rand(3, 1, 16, 16) * 2 - 1
    cooler = MotionGPT(replace(TINY_MOTION_GPT, temperatures=(0.5, 0.5))).eval()
    cooler.load_state_dict(model.state_dict())
    assert torch.equal(predict(cooler, context, 3), predict(model, context, 3, Sampling(temperature=0.5)))
    residual = MotionGPT(replace(TINY_MOTION_GPT, temperatures=(1.0, 0.01))).eval()
    residual.load_state_dict(model.state_dict())
    assert not torch.equal(predict(residual, context, 3), predict(model, context, 3))
    with pytest.raises(ValueError, match="temperatures are"):
        replace(TINY_MOTION_GPT, temperatures=(1.0, 0.0))


def test_a_clip_from_labels_ignores_the_prompt_and_shows_the_labels_in_its_first_frame():
    model = classed()
    prompts = torch.rand(2, 3, 1, 16, 16) * 2 - 1
    clips = [stt.predict(model, prompt, 3, condition=Condition(labels=(1, 3))) for prompt in prompts]
    assert torch.equal(*clips)
    other = stt.predict(model, prompts[0], 3, condition=Condition(labels=(2, 4)))
    assert not torch.equal(clips[0][:, 0], other[:, 0])
    with pytest.raises(ValueError, match="labels are"):
        stt.predict(model, prompts[0], 3, condition=Condition(labels=(10,)))


def test_without_labels_to_ask_for_a_model_of_classes_only_continues_clips():
    model = MotionGPT(replace(classed().config, labels=0)).eval()
    assert "labels" not in model.knobs and label_space(model) == (0, 0)
    with pytest.raises(ValueError, match="labels are"):
        model.start(torch.rand(1, 4, 1, 16, 16) * 2 - 1, Condition(labels=(3,)))


def test_a_context_of_a_random_length_hides_the_frames_before_it():
    model, video = classed(), torch.rand(1, 6, 1, 16, 16)
    model.length = 2
    past, count = model._pasts(video)
    assert count.tolist() == [0, 1, 2, 2, 2, 2]
    assert not past[5, :2].any() and torch.equal(past[5, 2:], video[0, 3:5])


def test_the_loss_is_the_mean_of_the_bits_that_a_surprise_names():
    model = lively(MotionGPT(TINY_MOTION_GPT)).eval()
    video = torch.rand(1, 4, 1, 16, 16) * 2 - 1
    whole = model.loss(Batch(video)).parts["bits_per_dim"] * 4
    first = model.loss(Batch(video[:, :1])).parts["bits_per_dim"]
    torch.testing.assert_close(whole - first, model.surprise(video).bits.sum(), rtol=1e-4, atol=1e-4)


# ---- layers ----------------------------------------------------------------------------------------------


def layered(**fields) -> MotionGPT:
    """With motion layers; its codes leave what they predict as it is."""
    config = TINY_MOTION_GPT.to_dict() | {"layers": 2, "segmenter_width": 16, "classes": 10, "labels": 2} | fields
    model = lively(MotionGPT(MotionGPTConfig.from_dict(config))).eval()
    with torch.no_grad():
        model.gpt.motion.out.bias[model.tokenizer.still] = 1e4
        model.gpt.residuals[0].out.bias[0] = 1e4
    return model


@torch.inference_mode()
def test_layers_that_no_code_corrects_move_exactly_however_long():
    model, noise = layered(), SeededNoise([0, 1, 2])
    state = model.start(torch.rand(1, 3, 1, 16, 16) * 2 - 1)
    layers = state.layer_state.layers.expand(3)
    for _ in range(4):
        frame, state = model.step(state, Sampling(), noise)
        layers = layers.moved(state.layer_state.steps[:, 0])
        assert all(torch.equal(*parts) for parts in zip(layers, state.layer_state.layers, strict=True))
        torch.testing.assert_close((frame[:, 0] + 1) / 2, state.layer_state.frame)
        torch.testing.assert_close(state.layer_state.frame, composite(layers).clamp(0, 1))


@torch.inference_mode()
def test_a_corrected_cell_is_segmented_anew_and_the_rest_of_the_layers_stays():
    layers = layered().layer_prediction
    state = layers.start(torch.rand(1, 3, 1, 16, 16))
    moved, predicted = layers.draw(state, Sampling(temperature=0), None)
    changed = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    changed[..., :8, :8] = True
    frame = torch.where(changed, torch.rand_like(predicted), predicted)
    corrected = layers.correct(moved, frame, changed)
    assert torch.equal(corrected.frame, frame) and corrected.num_steps == 3
    for new, old in zip(corrected.layers, moved.layers, strict=True):
        assert torch.equal(new[..., 8:, :], old[..., 8:, :]) and not torch.equal(new[..., :8, :8], old[..., :8, :8])


@torch.inference_mode()
@pytest.mark.parametrize("labels", [(3,), (3, 3), (4, 7)])
def test_every_label_that_is_asked_for_is_drawn_alone_and_moves_as_a_layer_of_its_own(labels):
    model = layered()
    with torch.no_grad():
        model.gpt.residuals[0].out.bias[0] = 0
    state = model.start(torch.rand(1, 3, 1, 16, 16) * 2 - 1, Condition(labels=labels))
    assert state.layer_state is None
    frame, state = model.step(state, Sampling(), SeededNoise([0, 1]))
    colour = state.layer_state.layers.colour  # (2, 2, 1, 16, 16)
    assert colour[:, : len(labels)].flatten(2).any(dim=-1).all() and not colour[:, len(labels) :].any()
    torch.testing.assert_close((frame[:, 0] + 1) / 2, colour.sum(dim=1).clamp(0, 1))
    assert state.layer_state.num_steps == 0
    assert model.step(state, Sampling(), SeededNoise([0, 1]))[1].layer_state.num_steps == 1


@torch.inference_mode()
def test_a_surprise_is_the_nats_of_displacements_and_of_codes():
    model, video = layered(), torch.rand(1, 4, 1, 16, 16) * 2 - 1
    frames = (video + 1) / 2
    scored, label = model.layer_prediction.score(frames), model.gpt.label(None)
    past, count = model._pasts(frames)
    surprise = model.surprise(video)
    for k in range(1, 4):
        predicted = scored.frames[:, k - 1]
        inputs = model.gpt.inputs(past[k, None], count[k, None], predicted)
        codes = model.gpt.nats(inputs, model.tokenizer.encode_frame(predicted, frames[:, k]), label).sum()
        whole = (codes + scored.nats[:, k - 1].sum()) / math.log(2) / 256
        torch.testing.assert_close(surprise.bits[0, k - 1], whole)


@torch.inference_mode()
def test_layers_are_scored_with_the_displacements_before_and_move_by_what_codes_the_frame():
    prediction, video = layered().layer_prediction, moving_square(5)
    scored = prediction.score(video)
    filtered = prediction.segmenter.filter(video, prediction.reach)
    steps = steps_of(filtered, prediction.num_steps)
    for k in range(4):
        moved = filtered.history[k].moved(steps.target[:, k])
        assert torch.equal(scored.frames[:, k], composite(moved).clamp(0, 1))
        tracks = batch_tracks(filtered.history[k], steps.past[:, k], min(k, prediction.num_steps), prediction.reach)
        torch.testing.assert_close(scored.nats[:, k], prediction.motion.nats(tracks, steps.target[:, k]))


@torch.inference_mode()
def test_a_layer_is_that_of_its_label_whatever_else_is_asked_for():
    model = layered(guidance=2.0)
    with torch.no_grad():
        model.gpt.residuals[0].out.bias[0] = 0

    def first_layers(*labels: int, seed: int = 0, temperature: float = 0.0) -> torch.Tensor:
        state = model.start(torch.zeros(1, 1, 1, 16, 16), Condition(labels=labels))
        noise = SeededNoise([seed])
        return model.step(state, Sampling(temperature=temperature), noise)[1].layer_state.layers.colour[0]

    torch.testing.assert_close(first_layers(3, 7), torch.stack([first_layers(3)[0], first_layers(7)[0]]))
    assert not torch.allclose(first_layers(3)[0], first_layers(7)[0])
    plain = layered(guidance=1.0)
    plain.load_state_dict(model.state_dict())
    model, guided = plain, first_layers(3)
    assert not torch.allclose(first_layers(3), guided)


@torch.inference_mode()
def test_any_class_is_one_that_is_drawn():
    model, label_rows = layered(), []
    counts = model.gpt.label
    model.gpt.label = lambda labels, *n: label_rows.append(labels) or counts(labels, *n)
    state = model.start(torch.zeros(1, 1, 1, 16, 16), Condition(labels=(-1, 5)))
    model.step(state, Sampling(), SeededNoise(range(20)))
    first, second = label_rows[1].unflatten(0, (20, 2))[..., 0].unbind(dim=1)
    assert (first >= 0).all() and len(first.unique()) > 3 and (second == 5).all()


def test_first_frames_are_coded_from_nothing_and_later_ones_from_what_layers_predict(monkeypatch):
    model, rows = layered(drop_context=0.5).train(), []
    coded, scored = MotionVQ.encode_frame, model.gpt.nats
    monkeypatch.setattr(MotionVQ, "encode_frame", lambda self, *pair: rows.append(pair) or coded(self, *pair))
    monkeypatch.setattr(model.gpt, "nats", lambda inputs, ids, label: rows.append(label) or scored(inputs, ids, label))
    model.frame, video, labels = 0.5, torch.rand(4, 6, 1, 16, 16), torch.tensor([[1, 1], [2, 2], [3, 3], [4, 4]])
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: torch.ones(*size))  # no label is hidden
    model.loss(Batch(2 * video - 1, labels=labels))
    (predicted, target), label = rows
    assert torch.equal(target, torch.cat([video[2:, 2], video[:2, 3]]))
    assert not predicted[:2].any() and torch.equal(predicted[2:], model.layer_prediction.score(video[:2]).frames[:, 2])
    assert (label[:, 0].argmax(dim=-1) == torch.tensor([3, 4, 1, 2])).all()


def test_clips_of_one_frame_have_nothing_that_layers_could_learn():
    with pytest.raises(ValueError, match="clips have 1 frame, training with layers needs at least 2"):
        layered().loss(Batch(torch.rand(2, 1, 1, 16, 16)))


def test_every_step_learns_first_frames_and_later_ones():
    model = layered(drop_context=0.5).train()
    labels = torch.tensor([[1, 2], [3, -1], [4, 5], [6, 7]])
    parts = model.loss(Batch(torch.rand(4, 6, 1, 16, 16) * 2 - 1, labels=labels)).parts
    assert {"layers", "segmentation", "first frame", "later frames"} <= set(parts)
    model.layer_prediction.segmenter.requires_grad_(False)
    assert "segmentation" not in model.loss(Batch(torch.rand(4, 6, 1, 16, 16) * 2 - 1, labels=labels)).parts


def test_the_labels_of_a_clip_are_hidden_together(monkeypatch):
    """So that one label that is asked for means one digit, and not one of two."""
    label_rows = []
    model = layered(drop_labels=0.5).train()
    counts = model.gpt.label
    monkeypatch.setattr(model.gpt, "label", lambda labels, *n: label_rows.append(labels) or counts(labels, *n))
    torch.manual_seed(0)
    model.loss(Batch(torch.rand(32, 2, 1, 16, 16) * 2 - 1, labels=torch.tensor([[1, 2]]).repeat(32, 1)))
    hidden = label_rows[0] < 0
    assert torch.equal(hidden[:, 0], hidden[:, 1]) and 8 <= hidden[:, 0].sum() <= 24


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="64 is not a multiple of patch 7"):
        MotionVQConfig(patch=7)
    with pytest.raises(ValueError, match="patch is 2, must be a multiple of 4"):
        MotionGPTConfig(tokenizer=MotionVQConfig(patch=2))
    with pytest.raises(ValueError, match="reach is 0, must be at least 1 with layers"):
        MotionGPTConfig(layers=2, tokenizer=MotionVQConfig(reach=0))
    with pytest.raises(ValueError, match="segmenter_width is 24, must be a multiple of 16"):
        MotionGPTConfig(layers=2, segmenter_width=24)
    with pytest.raises(ValueError, match="context_frames is 1, must be at least 2 without layers"):
        MotionGPTConfig(context_frames=1)
    with pytest.raises(ValueError, match="labels are up to 2, each is a layer, of which there are 1"):
        MotionGPTConfig(classes=10, labels=2, layers=1)
    with pytest.raises(ValueError, match="its tokenizer's is 64"):
        MotionGPTConfig(image_size=32)
    with pytest.raises(ValueError, match="chunk_frames is 2"):
        MotionGPTConfig(chunk_frames=2)
