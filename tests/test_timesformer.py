"""What is particular to the TimeSformer."""

from __future__ import annotations

import pytest
import torch

import stt
from stt.api import Batch, HasLikelihood, Sampling
from stt.layer_tokens import LayerCourse, LayerScene, layer_course
from stt.layers import patchify, unpatchify
from stt.models.timesformer import TimeSformer, TimeSformerConfig
from stt.motion import Layers, Motion, shape_of
from stt.patch_tokens import PatchTokens
from stt.sampler import SeededNoise
from stt.segmenter import Filtered
from tests.conftest import TINY_TIMESFORMER, clips, lively


def varied(**fields) -> TimeSformer:
    return lively(TimeSformer(TimeSformerConfig.from_dict(TINY_TIMESFORMER.to_dict() | fields))).eval()


@pytest.fixture
def model():
    return varied()


def test_patches_come_back_where_they_were():
    video = torch.rand(2, 3, 1, 16, 16)
    patches = patchify(video, 4)
    assert patches.shape == (2, 3, 16, 4, 4)
    assert torch.equal(unpatchify(patches, 4), video)


def test_a_patch_of_the_prediction_is_made_of_its_own_token():
    """Where nothing mixes places, what changes in one patch of the past changes that patch of the future alone."""
    model = varied(source_frames=(), reach=0)
    with torch.no_grad():
        for unit in model.units:
            unit.mlp.mix.weight.zero_()
            if unit.axis == "s":
                unit.attention.out.weight.zero_()
    context = clips(model, 1, 6)
    other = context.clone()
    other[..., 4:8, 8:12] *= -1  # the patch in row 1 and column 2
    changed = (model.predict(context) != model.predict(other))[0].any(dim=(0, 1))  # (H, W)
    assert changed[4:8, 8:12].all() and changed.sum() == 16


@pytest.mark.parametrize("frames", range(1, 7))
def test_a_shorter_context_is_simply_shorter(model, frames):
    assert model.predict(clips(model, 2, frames)).shape == (2, 4, 1, 16, 16)


def test_times_count_from_the_first_frame_to_come():
    """A frame whose predecessors tell nothing more counts as the same frame however many they were."""
    model = varied(source_frames=(1, 1))
    with torch.no_grad():
        for unit in model.units:
            if unit.axis == "t":
                unit.attention.out.weight.zero_()
    context = clips(model, 1, 6)
    torch.testing.assert_close(model.predict(context), model.predict(context[:, -2:]), atol=1e-4, rtol=1e-4)


def test_every_frame_of_the_context_has_a_say_in_every_frame_to_come(model):
    context = clips(model, 1, 6)
    whole = model.predict(context)
    for t in range(6):
        other = context.clone()
        other[:, t] *= -1
        assert ((model.predict(other) - whole).abs().amax(dim=(0, 2, 3, 4)) > 1e-4).all()


def moving(down: float, right: float, velocity: float = 0.0, log_std: float = -3.0) -> TimeSformer:
    """Moves its context's last frame so many pixels, and down with a velocity; the std is 3 exp(log_std)."""
    model = varied(source_frames=(1, 1))
    head = model.tokens.head
    with torch.no_grad():
        for layer in (head.displacement, head.opacity, head.background, *head.pixel_opacity[::2]):
            layer.weight.zero_()
            layer.bias.zero_()
        normals = torch.tensor([[down / 8, right / 8], [velocity / 4, 0], [log_std, log_std]])
        head.displacement.bias.copy_(normals.flatten().repeat(2))
        head.opacity.bias.fill_(30.0)
        head.background.bias.fill_(-30.0)  # the last frame lies behind
    return model


def test_pixels_go_exactly_where_their_displacement_is_certain():
    context = clips(model := moving(3, -2), 2, 6)
    with torch.no_grad():
        predicted = model.predict(context)
    for frame in predicted.unbind(dim=1):
        torch.testing.assert_close(frame[:, :, 3:, :-2], context[:, -1, :, :-3, 2:], atol=1e-2, rtol=0)


def test_a_velocity_moves_pixels_further_in_every_frame_and_what_lies_behind_shows():
    context = clips(model := moving(0, 0, velocity=2), 1, 6)
    with torch.no_grad():
        predicted = model.predict(context)
    for t in range(4):
        n = 2 * (t + 1)
        torch.testing.assert_close(predicted[:, t, :, n:], context[:, -1, :, :-n], atol=1e-2, rtol=0)
        torch.testing.assert_close(predicted[:, t, :, :n], context[:, -1, :, :n], atol=1e-2, rtol=0)


def test_pixels_of_an_uncertain_displacement_are_the_picture_blurred_by_it():
    model = moving(0, 0, log_std=0.0)  # a standard deviation of 3 pixels
    context = torch.full((1, 6, 1, 16, 16), -1.0)
    context[..., 8, 8] = 1.0
    with torch.no_grad():
        light = (model.predict(context)[0, 0, 0] + 1) / 2
    rows = torch.arange(16.0) - 8
    assert light[8, 8] == light.max() and light.sum() == pytest.approx(1, abs=0.2)
    assert (light.sum(dim=1) * rows.square()).sum() == pytest.approx(9, rel=0.2)


def test_a_horizon_beyond_the_chunk_feeds_predictions_back(model):
    context = clips(model, 1, 5)
    with torch.inference_mode():
        first = model.predict(context).clamp(-1, 1)
        second = model.predict(torch.cat([context, first], dim=1)[:, -6:]).clamp(-1, 1)
    torch.testing.assert_close(stt.predict(model, context[0], 7), torch.cat([first, second], dim=1)[:, :7])


def test_many_futures_cost_one_pass(model, monkeypatch):
    batches = []
    asked = TimeSformer.predict
    monkeypatch.setattr(TimeSformer, "predict", lambda self, c, *n: batches.append(len(c)) or asked(self, c, *n))
    futures = stt.predict(model, clips(model)[0], 9, seeds=[0, 1, 2, 3])
    assert futures.shape[:2] == (4, 9) and batches == [1, 1, 1]


def test_no_chance_has_part_in_a_prediction(model):
    assert not model.knobs and not isinstance(model, HasLikelihood)
    state = torch.get_rng_state()
    with torch.inference_mode():
        hot, _ = model.step(model.start(clips(model, 1)), Sampling(temperature=2.0), SeededNoise([3]))
        cold, _ = model.step(model.start(clips(model, 1)), Sampling(temperature=0.0), SeededNoise([5]))
    assert torch.equal(hot, cold) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("frames", [2, 3, 5, 20])
def test_clips_of_any_length_train_every_layer(frames):
    """The public fork trains its first layer alone."""
    torch.manual_seed(0)
    model = TimeSformer(TINY_TIMESFORMER).train()
    model.loss(Batch(clips(model, 1, frames))).total.backward()
    for name, p in model.named_parameters():
        alone = frames == 2 and "embed_matches" in name  # one frame has none before it to match
        assert p.grad is not None and p.grad.any() != alone


def test_the_loss_names_the_error_as_moving_mnist_reports_it(model):
    from stt.metrics import frame_mse, unit

    video = clips(model, 2, 10)
    exact = varied(short_context=0.0)
    error = exact.loss(Batch(video)).parts["mse"]
    predicted = exact.predict(video[:, :6])
    torch.testing.assert_close(error, frame_mse((predicted + 1) / 2, unit(video[:, 6:])).mean().detach())


def test_a_share_of_the_steps_trains_with_shorter_contexts(monkeypatch):
    lengths = []
    original = PatchTokens.context
    monkeypatch.setattr(PatchTokens, "context", lambda self, c: lengths.append(c.shape[1]) or original(self, c))
    model = varied(short_context=0.5)
    torch.manual_seed(0)
    with torch.no_grad():
        for step in range(100):
            model.begin_step(step)
            model.loss(Batch(clips(model, 1, 12)))
    assert set(lengths) == {1, 2, 3, 4, 5, 6} and 50 <= lengths.count(6) <= 75


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch": 5}, "image_size 16 is not a multiple of patch 5"),
        ({"short_context": 1.5}, "short_context is 1.5"),
        ({"chunk_frames": 0}, "chunk_frames is 0"),
        ({"source_frames": [7]}, "source_frames names frame 7 from the end, a context has 6"),
    ],
)
def test_a_config_that_makes_no_network_says_why(fields, message):
    with pytest.raises(ValueError, match=message):
        TimeSformerConfig.from_dict(TINY_TIMESFORMER.to_dict() | fields)


@pytest.mark.parametrize("frames", [0, 1])
def test_one_frame_is_too_few_to_train_on(model, frames):
    with pytest.raises(ValueError, match=f"clips have {frames} frames, training needs at least 2"):
        model.loss(Batch(clips(model, 1, frames)))


# ---- tokens of motion layers -----------------------------------------------------------------------------


def steps_of(*velocities: tuple[float, float]) -> torch.Tensor:
    """Displacements (P, 2) of a thing at whole pixels, whose velocities between frames are given."""
    places = torch.tensor([[0.0, 0.0], *velocities]).cumsum(dim=0).floor().long()
    return places.diff(dim=0)


def test_a_course_is_the_line_that_whole_positions_lie_on():
    course = layer_course(steps_of(*[(1.3, -0.4)] * 9))
    torch.testing.assert_close(course.velocity, torch.tensor([1.3, -0.4]), atol=0.05, rtol=0)
    assert (course.start.abs() < 0.6).all() and course.frames.tolist() == [10, 10]


def test_a_course_begins_anew_where_a_wall_turned_one_axis():
    course = layer_course(steps_of(*[(2.0, 1.0)] * 5, *[(-2.0, 1.0)] * 4))
    torch.testing.assert_close(course.velocity, torch.tensor([-2.0, 1.0]))
    assert course.frames.tolist() == [5, 10]


def test_a_layer_of_a_single_frame_has_no_velocity():
    course = layer_course(torch.zeros(3, 2, 0, 2, dtype=torch.int64))
    assert course.velocity.shape == (3, 2, 2) and not course.velocity.any() and (course.frames == 1).all()


def layered(**fields) -> TimeSformer:
    return varied(source_frames=(), layers=2, segmenter_width=16, **fields)


def scene_of(frame: torch.Tensor, velocity: tuple[float, float]) -> LayerScene:
    """A frame (1, H, W) on [0, 1] as the first of two layers, which goes on at a velocity."""
    colour = torch.stack([frame, torch.zeros_like(frame)])[None]
    layers = Layers(torch.zeros_like(frame)[None], colour, torch.zeros_like(colour))
    filtered = Filtered(layers, [layers], [shape_of(layers)], [], [], torch.zeros(()))
    still = torch.zeros(1, 2, 2)
    return LayerScene(
        filtered, Motion.of(filtered.shapes, []), LayerCourse(still, still + torch.tensor(velocity), still + 1)
    )


def test_a_layer_goes_on_along_its_course_in_whole_pixels_where_its_place_is_certain():
    tokens = layered().tokens
    with torch.no_grad():
        tokens.displacement.weight.zero_()
        tokens.displacement.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, -3.0, -3.0]))
        frame = torch.zeros(1, 16, 16)
        frame[:, 2:7, 3:8] = torch.rand(5, 5)
        frames = tokens.decode(torch.randn(1, 2, 1, 2, 32), scene_of(frame, (1.0, 2.1)))
    for t, predicted in enumerate(frames.unbind(dim=1), start=1):
        moved = frame.roll((t, 2 * t), dims=(1, 2))
        torch.testing.assert_close((predicted[0] + 1) / 2, moved, atol=0.05, rtol=0)


@torch.no_grad()
def test_a_token_turns_its_layer_back_and_says_how_sure_it_is():
    tokens, frame = layered().tokens, torch.zeros(1, 16, 16)
    frame[:, 6:9, 6:9] = 1.0
    tokens.displacement.weight.zero_()
    back = torch.tensor([0.0, 0.0, -5.0, -5.0, -3.0, -3.0])
    tokens.displacement.bias.copy_(back)  # the velocity times tanh(2.5 - 5) / tanh(2.5) = -1
    turned = tokens.decode(torch.randn(1, 2, 1, 2, 32), scene_of(frame, (2.0, 1.0)))
    torch.testing.assert_close((turned[0, 1] + 1) / 2, frame.roll((-4, -2), dims=(1, 2)), atol=0.05, rtol=0)
    tokens.displacement.weight[4:] = 0.1
    sure, unsure = (tokens.decode(torch.full((1, 1, 1, 2, 32), v), scene_of(frame, (0.0, 0.0))) for v in (-1.0, 1.0))
    assert sure.max() > unsure.max() + 0.1


def test_target_tokens_know_where_their_layer_goes_if_it_keeps_its_course():
    tokens, frame = layered().tokens, torch.rand(1, 16, 16)
    context = torch.randn(1, 3, 2, 32)
    slow, fast = (tokens.targets(context, scene_of(frame, (v, 0.0)), 4) for v in (1.0, 2.0))
    same = scene_of(frame, (1.0, 0.0))
    longer = same._replace(course=same.course._replace(frames=same.course.frames + 5))
    assert not torch.equal(tokens.targets(context, longer, 4), slow)
    assert slow.shape == (1, 4, 2, 32) and ((slow - fast).abs().amax(dim=-1) > 1e-4).all()


def test_a_segmenter_that_is_frozen_stays_as_it_is_and_another_learns():
    for frozen in (True, False):
        model = layered().train()
        if frozen:
            model.tokens.segmenter.requires_grad_(False)
        model.loss(Batch(clips(model, 2, 10))).total.backward()
        grads = [p.grad for p in model.tokens.segmenter.parameters()]
        assert all(g is None for g in grads) if frozen else all(g is not None and g.any() for g in grads)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source_frames": [1]}, r"source_frames are \(1,\), of patches; with 2 layers give none"),
        ({"reach": 0}, "reach is 0, must be at least 1 with layers"),
        ({"image_size": 20}, "image_size 20 is not a multiple of 8"),
    ],
)
def test_a_config_of_layers_that_makes_no_network_says_why(fields, message):
    with pytest.raises(ValueError, match=message):
        TimeSformerConfig.from_dict(TINY_TIMESFORMER.to_dict() | {"source_frames": [], "layers": 2} | fields)
