"""Transframer beyond the contract: which sequences can be drawn, their likelihood, the cache, frames in between."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

import stt
from stt import triple_decoder
from stt.api import Batch, Sampling
from stt.context_unet import nearest
from stt.dct import DCTConfig, Triples
from stt.layer_levels import LEVELS, levels_of, painted
from stt.layer_motion import Steps, mended
from stt.layer_tasks import Clip, Plan, corrupted, plan_of
from stt.metrics import unit
from stt.models.transframer import Transframer, TransframerConfig, score_parts
from stt.motion import Layers
from stt.sampler import SeededNoise, inwards, sample_logits
from stt.triple_decoder import NEVER, Scores
from tests.conftest import TINY_CONFIGS, TINY_TRANSFRAMER, clips, lively


def config(**changes) -> TransframerConfig:
    return TransframerConfig.from_dict(TINY_TRANSFRAMER.to_dict() | changes)


def verbose(model: Transframer) -> Transframer:
    """Random weights that show; few frames are empty and few channels skipped, so that frames do not end early."""
    lively(model)
    with torch.no_grad():
        model.decoder.empty.weight.zero_()
        model.decoder.empty.bias.fill_(-4.0)
        model.decoder.leave.bias.copy_(-torch.arange(len(model.decoder.leave.bias)))
    return model.eval()


def varied(**changes) -> Transframer:
    return verbose(Transframer(config(**changes)))


@pytest.fixture
def model():
    return varied()


COARSE = DCTConfig(image_size=8, channels=1, block=4, quality=1)


def coarse(max_triples: int) -> Transframer:
    """A model whose frames have 4 positions and values of at most 4, so that their triples can be counted."""
    return varied(image_size=8, dct=COARSE.to_dict(), max_triples=max_triples)


def scene_after(model: Transframer, video: torch.Tensor):
    """The scene of the frame after clips whose layers stay where they are."""
    with torch.inference_mode():
        state = model.start(video)
        layers, predicted = model.moved(state.layers, torch.zeros_like(state.steps[:, 0]))
        return model.scene(model.near(state.recent, range(-state.recent.shape[1], 0)), layers, predicted)


def scene_of(model: Transframer, batch: int = 1):
    return scene_after(model, clips(model, 1, 3).expand(batch, -1, -1, -1, -1))


def random_dense(model: Transframer, batch: int = 1, density: float = 0.2, seed: int = 0) -> torch.Tensor:
    """Dense images (B, K, h, w) of random values where their channels have cells."""
    g, shape = torch.Generator().manual_seed(seed), (batch, *model.decoder.exists.shape)
    size = torch.randint(1, model.codec.limit + 1, shape, generator=g)
    sign = torch.randint(0, 2, shape, generator=g) * 2 - 1
    here = (torch.rand(shape, generator=g) < density) & model.decoder.exists
    side = model.config.dct.grid
    return (size * sign * here).unflatten(-1, (side, side))


class Recorder:
    """What the sampler chose from, and what it wrote."""

    def __init__(self, model: Transframer, monkeypatch) -> None:
        self.logits, self.chosen, self.triples = [], [], []
        token = model.decoder.token

        def sample(logits, sampling, gumbel):
            self.logits.append(logits)
            self.chosen.append(sample_logits(logits, sampling, gumbel))
            return self.chosen[-1]

        def write(channel, position, value, features):
            self.triples.append(Triples(channel, position, value))
            return token(channel, position, value, features)

        monkeypatch.setattr(triple_decoder, "sample_logits", sample)
        monkeypatch.setattr(model.decoder, "token", write)

    def sequence(self, future: int, count: int) -> Triples:
        """The first triples that a future wrote, in the order in which it did."""
        return Triples(*(torch.stack([t[part][future, 0] for t in self.triples[:count]]) for part in range(3)))


# ---- what can be drawn -----------------------------------------------------------------------------------


@torch.inference_mode()
def test_every_sequence_that_is_drawn_decodes_wherever_it_is_cut(monkeypatch):
    names = [name for name in TINY_CONFIGS if name.startswith("transframer")]
    for name, weights, temperature in product(names, ("fresh", "random"), (0, 0.5, 2)):
        model = Transframer(replace(TINY_CONFIGS[name], max_triples=16)).eval()
        if weights == "random":
            verbose(model)
        scene = scene_of(model, 3)
        with monkeypatch.context() as patch:
            recorder = Recorder(model, patch)
            dense = model.decoder.draw(scene, Sampling(temperature=temperature), SeededNoise([0, 1, 2]))
        counts = (dense != 0).flatten(1).sum(dim=1).tolist()
        assert max(counts) > 3 or weights == "fresh", (name, temperature)
        for future, count in enumerate(counts):
            for cut in range(1, count + 1):
                back = model.codec.from_triples(recorder.sequence(future, cut))  # raises for an invalid one
                assert model.codec.decode(back).isfinite().all()
            assert count == 0 or torch.equal(back, dense[future]), (name, weights, temperature)


def test_a_limit_on_the_triples_leaves_out_the_last_ones(model):
    scene = scene_of(model)
    with torch.inference_mode():
        whole = model.codec.to_triples(model.decoder.draw(scene, Sampling(), SeededNoise([4])))
        model.decoder.max_triples = 9
        cut = model.codec.to_triples(model.decoder.draw(scene, Sampling(), SeededNoise([4])))
    assert whole.channel.shape[1] > 10 == cut.channel.shape[1]
    for long, brief in zip(whole.first(9), cut.first(9), strict=True):
        assert torch.equal(long, brief)


@pytest.mark.parametrize("name", ["transframer", "transframer, colour"])
def test_what_would_make_a_sequence_invalid_is_masked_and_nothing_else(name, monkeypatch):
    model = verbose(Transframer(replace(TINY_CONFIGS[name], max_triples=20)))
    scene, written = scene_of(model), Recorder(model, monkeypatch)
    with torch.inference_mode():
        model.decoder.draw(scene, Sampling(temperature=1.5), SeededNoise([3]))
    channel, position = torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), -1)
    steps = zip(written.logits[::3], written.logits[1::3], written.triples, strict=False)
    for channels, positions, triple in steps:
        allowed = model.codec.open_cells(channel, position)  # (1, 1, K, cells)
        assert torch.equal(channels[..., :-1] > NEVER / 2, allowed.any(dim=-1)) and channels[..., -1] > NEVER / 2
        assert torch.equal(positions > NEVER / 2, allowed[0, 0, triple.channel[0, 0]][None, None])
        channel, position = triple.channel, triple.position


def test_an_untrained_model_draws_frames_too():
    model = Transframer(TINY_TRANSFRAMER).eval()
    assert stt.predict(model, clips(model)[0], 2, Sampling(temperature=2), seeds=[0, 1]).isfinite().all()


# ---- likelihood ------------------------------------------------------------------------------------------


def single(model: Transframer) -> torch.Tensor:
    """Every image of one value, (N, K, h, w)."""
    (k, cells), limit = model.decoder.exists.shape, model.codec.limit
    sizes = [value for value in range(-limit, limit + 1) if value]
    dense = torch.zeros(k * cells * len(sizes), k * cells, dtype=torch.long)
    dense[torch.arange(len(dense)), torch.arange(len(dense)) // len(sizes)] = torch.tensor(sizes).repeat(k * cells)
    side = model.config.dct.grid
    return dense.view(-1, k, side, side)


@torch.inference_mode()
def test_the_probabilities_of_all_first_triples_and_of_the_end_sum_to_one():
    model = coarse(1)
    images = single(model)
    images = torch.cat([images, torch.zeros_like(images[:1])])
    nats = model.decoder.scores(scene_of(model, len(images)), images).nats[:, 0]
    assert torch.exp(-nats).sum() == pytest.approx(1, abs=1e-4)
    assert torch.exp(-nats).max() > 4 / len(images)  # not the uniform distribution


@torch.inference_mode()
@pytest.mark.parametrize("before", [0, 250, 507])
def test_the_probabilities_of_all_second_triples_and_of_the_end_sum_to_one(before):
    model = coarse(2)
    images = single(model)
    first = images[before].flatten()
    later = images.flatten(1).ne(0).int().argmax(dim=1) > first.ne(0).int().argmax()
    images = torch.cat([images[later] + images[before], images[before][None]])
    scores = model.decoder.scores(scene_of(model, len(images)), images)
    torch.testing.assert_close(scores.nats[:, 0], scores.nats[:1, 0].expand(len(images)), atol=1e-4, rtol=1e-4)
    assert torch.exp(-scores.nats[:, 1]).sum() == pytest.approx(1, abs=1e-4)


@torch.inference_mode()
def test_triples_are_drawn_as_often_as_the_network_states():
    model = coarse(1)
    images, futures = single(model), 2000
    stated = torch.exp(-model.decoder.scores(scene_of(model, len(images)), images).nats[:, 0])
    drawn = model.decoder.draw(scene_of(model, futures), Sampling(), SeededNoise(range(futures))).flatten(1)
    often = torch.stack([(drawn == image).all(dim=1).float().mean() for image in images.flatten(1)])
    assert (often - stated).abs().max() < 5 * (stated.max() / futures).sqrt()


@pytest.mark.parametrize("name", ["transframer", "transframer, colour"])
def test_one_triple_after_the_other_costs_what_the_whole_sequence_says(name, monkeypatch):
    model = verbose(Transframer(TINY_CONFIGS[name]))
    scene, written = scene_of(model), Recorder(model, monkeypatch)
    with torch.inference_mode():
        dense = model.decoder.draw(scene, Sampling(), SeededNoise([3]))
        scores = model.decoder.scores(scene, dense)
    chosen = zip(written.logits, written.chosen, strict=True)
    nats = torch.stack([-logits.log_softmax(-1).gather(-1, c[..., None])[0, 0, 0] for logits, c in chosen])
    count = int(scores.valid.sum())
    assert count > 10
    for part, one in zip(
        (scores.channel, scores.position, scores.value), (nats[0::3], nats[1::3], nats[2::3]), strict=True
    ):
        torch.testing.assert_close(part[0, : len(one)], one, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["transframer", "transframer, colour"])
def test_no_triple_sees_itself_or_what_comes_after(name):
    model = verbose(Transframer(TINY_CONFIGS[name]))
    scene, dense = scene_of(model), random_dense(model)
    before = model.decoder.scores(scene, dense)
    for cut in (0, 3, 21, 60, 150):
        other = random_dense(model, seed=6)
        other.flatten(1)[:, :cut] = dense.flatten(1)[:, :cut]
        same = int((dense.flatten(1)[:, :cut] != 0).sum())
        after = model.decoder.scores(scene, other)
        torch.testing.assert_close(after.nats[:, :same], before.nats[:, :same], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(after.nats[:, same], before.nats[:, same], atol=1e-3)


@torch.inference_mode()
def test_the_surprise_is_the_likelihood_of_triples_in_bits_a_pixel_each_in_its_cell(model):
    video = clips(model, 1, 2)
    motion, scores = model.frame_nats(video[:, :1], video[:, 1])
    surprise = model.surprise(video)
    bits = scores.nats[0] / math.log(2)
    whole = bits.sum() + motion.sum() / math.log(2)
    assert float(surprise.bits[0, 0]) * 256 == pytest.approx(float(whole), rel=1e-4)
    third = bits[scores.cell[0] == 3].sum()
    third += (bits[scores.cell[0] == 16].sum() + motion.sum() / math.log(2)) / 16
    assert float(surprise.per_cell[0, 0].flatten()[3]) * 16 == pytest.approx(float(third), rel=1e-4)


# ---- prediction and correction ---------------------------------------------------------------------------


def square(y: int, x: int, size: int = 16, shade: float = 1.0) -> torch.Tensor:
    """A bright square of 5 x 5 pixels on black, (1, size, size)."""
    frame = torch.full((1, size, size), -1.0)
    frame[:, y : y + 5, x : x + 5] = shade
    return frame


def one_layer(model: Transframer, frame: torch.Tensor) -> Layers:
    """Layers of which the first holds all ink of a frame (1, H, W)."""
    colour = torch.zeros(1, model.config.layers, *frame.shape)
    colour[:, 0] = (frame + 1) / 2
    return Layers(torch.zeros_like(frame)[None], colour, torch.zeros_like(colour))


def test_a_frame_in_which_everything_moves_as_a_whole_needs_no_dct_triple(model):
    before, after = square(3, 3), square(4, 5)
    layers = one_layer(model, before)
    _, predicted = model.moved(layers, torch.tensor([[[1, 2], [0, 0]]]))
    assert torch.equal(predicted[0], after) and not model.residual(after[None], predicted).any()
    _, wrong = model.moved(layers, torch.tensor([[[1, 1], [0, 0]]]))
    dense = model.residual(after[None], wrong)
    assert 0 < dense.ne(0).sum() < model.codec.encode(after).ne(0).sum()
    off, corrected = (
        float((image[0] - after).square().mean()) for image in (wrong, model.codec.decode_residual(dense, wrong))
    )
    assert corrected < 0.5 * off


def test_cells_that_are_good_enough_have_no_triples():
    strict, lax = (varied(threshold=threshold) for threshold in (0.0, 100.0))
    frame, other = square(3, 3)[None], square(4, 3)[None]
    assert strict.residual(frame, other).any() and not lax.residual(frame, other).any()


@torch.inference_mode()
def test_layers_stay_exact_where_no_triple_corrects_them(model):
    layers = one_layer(model, square(2, 2))
    displacement = torch.tensor([[[3, 3], [0, 0]]])
    moved, predicted = model.moved(layers, displacement)
    dense = torch.zeros(1, 16, 4, 4, dtype=torch.long)
    dense[:, 0, 0, 3] = 5  # a cell apart from the square
    frame = model.codec.decode_residual(dense, predicted)
    before, after = unit(square(2, 2)[None]), unit(frame)
    new = mended(model.segmenter, moved, displacement, before, after, model.changed(dense))
    cell = (slice(None), slice(None), slice(None), slice(0, 4), slice(12, 16))
    assert not torch.equal(new.colour[cell], moved.colour[cell])
    elsewhere = torch.ones(16, 16, dtype=torch.bool)
    elsewhere[0:4, 12:16] = False
    assert torch.equal(new.colour[..., elsewhere], moved.colour[..., elsewhere])


def test_the_nearest_frames_come_first_before_and_after_in_turn():
    assert [[-4, -2, -1, 3, 5, 6][k] for k in nearest([-4, -2, -1, 3, 5, 6], 4)] == [-1, 3, -2, 5]
    assert [[3, 0, -1][k] for k in nearest([3, 0, -1], 2)] == [0, 3]
    assert nearest([-2, -1], 4) == [1, 0]


# ---- training --------------------------------------------------------------------------------------------


def test_training_asks_for_frames_between_others_for_maps_and_for_clips_that_run_backward():
    plans = [plan_of(step, 0.3, 0.2, 0.25, 0.4) for step in range(600)]
    share = {kind: sum(plan.kind == kind for plan in plans) / 600 for kind in ("past", "gap", "map")}
    assert share == pytest.approx({"past": 0.5, "gap": 0.3, "map": 0.2}, abs=0.06)
    assert 0.15 < sum(plan.backward for plan in plans) / 600 < 0.25  # none of them with maps
    assert 0.33 < sum(plan.corrupt for plan in plans) / 600 < 0.47
    assert plan_of(7, 0.3, 0.2, 0.25, 0.4) == plans[7]


def test_frames_beyond_a_target_lie_in_the_clip():
    video = torch.zeros(2, 9, 1, 16, 16)
    for step in range(200):
        clip = Clip(video, [], Steps(video, video, video), plan_of(step, 0.5, 0, 0, 0), 2)
        assert all(
            0 <= at <= 7 and 0 <= gap <= 7 and at + 1 + gap <= 8 for at, gap in zip(clip.at, clip.gaps, strict=True)
        )
        assert all((gap == 0) == (at == 7) for at, gap in zip(clip.at, clip.gaps, strict=True))


def test_layers_that_train_as_if_drawn_have_errors_that_their_frames_show(model):
    torch.manual_seed(0)
    layers, shown = one_layer(model, square(4, 4)), torch.stack([square(3, 4), square(4, 4)])[None]
    last = torch.tensor([[[1, 0], [0, 0]]])
    wrong, seen = corrupted(model.codec, layers, shown, last, 0.5)
    errors = (wrong.colour - layers.colour).sum(dim=1)
    assert errors.abs().max() > 0.05 and wrong.colour.min() >= 0 and wrong.colour.max() <= 1
    torch.testing.assert_close(seen[:, -1], (shown[:, -1] + 2 * errors).clamp(-1, 1))
    same, unchanged = corrupted(model.codec, layers, shown, last, 0.0)
    assert torch.equal(same.colour, layers.colour) and torch.equal(unchanged, shown)


def test_a_loss_has_the_same_parts_whatever_the_plan(model):
    names = []
    for targets in ((0.0, 0.0, 0.0), (0.99, 0.99, 0.99)):  # the last has no frames beyond it
        model.plan = Plan(targets=targets)
        names.append(list(model.loss(Batch(clips(model))).parts))
    assert names[0] == names[1]


def test_that_a_frame_has_no_triple_counts_as_much_as_that_one_has_many():
    def score(counts: list[int]) -> Scores:
        valid = torch.arange(1 + max(counts)) <= torch.tensor(counts)[:, None]
        nats = torch.where(valid, 2.0, 0.0)
        return Scores(nats, nats, nats, valid, valid.long())

    for counts in ([0, 9], [0, 1], [0, 0]):
        parts = score_parts(score(counts))
        assert parts["ce_first"] == 2 and parts["ce_channel"] == (2 if any(counts) else 0), counts


def test_a_frozen_segmenter_stays_as_it_is_and_another_learns(model):
    model.train()
    assert "segmentation" in model.loss(Batch(clips(model))).parts
    model.segmenter.requires_grad_(False)
    loss = model.loss(Batch(clips(model)))
    loss.total.backward()
    assert "segmentation" not in loss.parts and all(p.grad is None for p in model.segmenter.parameters())


# ---- maps ------------------------------------------------------------------------------------------------


def test_a_map_is_its_layers_in_the_gray_level_that_most_of_their_pixels_have(model):
    layers = one_layer(model, square(3, 3))
    true = torch.where(square(3, 3) > 0, 0.4, -1.0)[None]  # gray level 14 of 0 ... 20
    true[:, :, 3, 3] = 1.0
    levels = levels_of(layers, true)
    assert levels.tolist() == [[14, 0]]
    image = painted(layers, levels, 1)
    assert image[0, 0, 5, 5] == pytest.approx(0.4) and image[0, 0, 0, 0] == -1


@torch.inference_mode()
def test_the_probabilities_of_all_levels_sum_to_one_and_are_those_that_are_drawn_from():
    model, pairs = varied(maps=("digits",)), torch.cartesian_prod(torch.arange(LEVELS), torch.arange(LEVELS))
    layers = model.start(clips(model, 1, 3)).layers
    nats = model.levels.nats(layers.expand(len(pairs)), 1, pairs).sum(dim=1)
    assert torch.exp(-nats).sum() == pytest.approx(1, abs=1e-4)
    drawn = model.levels.draw(layers.expand(2000), 1, Sampling(), SeededNoise(range(2000)).gumbel(2, LEVELS))
    often = torch.bincount(drawn[:, 0] * LEVELS + drawn[:, 1], minlength=len(pairs)) / 2000
    assert (often - torch.exp(-nats)).abs().max() < 0.05


def test_the_levels_of_layers_are_learned():
    torch.manual_seed(0)
    model = Transframer(config(maps=("dark", "bright"), map_share=1.0))
    model.segmenter.requires_grad_(False)
    video = clips(model, 2, 4)
    layers = model.start(video).layers
    optimizer = torch.optim.AdamW(model.levels.parameters(), lr=1e-2)
    for _ in range(150):
        loss = sum(model.levels.nats(layers, k, torch.full((2, 2), level)).mean() for k, level in ((1, 0), (2, 20)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for index, level in ((1, 0), (2, 20)):
        assert (model.levels.draw(layers, index, Sampling(temperature=0), None) == level).all()


@torch.inference_mode()
def test_a_map_of_a_frame_that_is_not_there_is_one_of_the_frame_that_is_drawn():
    model = varied(maps=("digits",))
    video, still = clips(model, 1, 3), Sampling(temperature=0)
    ahead = model.frame(video, torch.tensor([-4, -3, -2]), still, SeededNoise([0]), map_name="digits")
    state, frames = model.start(video), []
    assert ahead.shape == (1, 1, 1, 16, 16)
    for _ in range(2):
        frame, state = model.step(state, still, SeededNoise([0]))
        frames.append(frame)
    assert model.coded_map(torch.cat([video, *frames], dim=1), ahead[:, 0]).shape == (1, 1, 16, 16)


def test_maps_that_the_config_does_not_name_are_refused(model):
    video = clips(model, 1, 3)
    with pytest.raises(ValueError, match=r"maps are \(1, 1, 3, 1, 16, 16\), must be 0 a frame"):
        model.loss(Batch(video, maps=video[:, None]))
    with pytest.raises(ValueError, match=r"map_name is 'depth', the model has \[\]"):
        model.frame(video, torch.tensor([-2, -1, 0]), Sampling(), SeededNoise([0]), map_name="depth")


def test_every_parameter_gets_a_gradient_whatever_the_task():
    for interpolate, frames in product((0.0, 1.0), (2, 3, 6)):
        model = Transframer(config(interpolate=interpolate))
        model.begin_step(0)
        model.loss(Batch(clips(model, 1, frames))).total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), (interpolate, frames)


def test_a_frame_of_more_triples_than_the_longest_sequence_trains():
    model = varied(max_triples=5)
    loss = model.loss(Batch(clips(model)))
    assert loss.total.isfinite() and model.surprise(clips(model)).bits.isfinite().all()


@torch.inference_mode()
def test_the_times_of_frames_change_what_is_drawn(model):
    context = clips(model, 1, 2)

    def drawn(*offsets):
        return model.frame(context, torch.tensor(offsets), Sampling(temperature=0), SeededNoise([0]))

    plain = drawn(-2, -1)
    assert plain.shape == (1, 1, 1, 16, 16) and torch.equal(plain, drawn(-2, -1))
    assert not any(torch.equal(plain, drawn(*other)) for other in ((-3, -1), (-1, 1), (1, 2)))


@torch.inference_mode()
def test_the_order_in_which_frames_are_given_does_not_matter(model):
    context = clips(model, 1, 3)
    noise = (Sampling(), SeededNoise([5])), (Sampling(), SeededNoise([5]))
    one = model.frame(context, torch.tensor([-2, -1, 1]), *noise[0])
    other = model.frame(context[:, [2, 0, 1]], torch.tensor([1, -2, -1]), *noise[1])
    assert torch.equal(one, other)


def test_a_frame_needs_times_that_are_whole_and_not_its_own(model):
    context, rest = clips(model, 1, 2), (Sampling(), SeededNoise([0]))
    for offsets, match in (
        (torch.tensor([-1]), r"context has 2 frames, offsets are \[-1\]"),
        (torch.tensor([0, 1]), r"offsets are \[0, 1\], must be whole and not 0"),
        (torch.tensor([-1.5, 1]), r"must be whole"),
    ):
        with pytest.raises(ValueError, match=match):
            model.frame(context, offsets, *rest)


# ---- in between ------------------------------------------------------------------------------------------


def between(*args, **options) -> torch.Tensor:
    return torch.stack(list(stt.between(*args, **options)), dim=1)


def test_a_gap_is_filled_from_both_ends():
    assert inwards(1) == [0] and inwards(4) == [0, 3, 1, 2] and inwards(5) == [0, 4, 1, 3, 2]


def test_frames_in_between_depend_on_those_before_and_on_those_after(model):
    video = clips(model, 1, 6)[0]
    first, last = video[:3], video[4:]
    still = Sampling(temperature=0)
    filled = between(model, first, last, 3, still)
    assert filled.shape == (1, 3, 1, 16, 16) and filled.abs().max() <= 1
    assert torch.equal(filled, between(model, first, last, 3, still))
    for other in (between(model, first, last.flip(-1), 3, still), between(model, first.flip(-1), last, 3, still)):
        assert not torch.equal(other[:, 0], filled[:, 0]) and not torch.equal(other[:, 2], filled[:, 2])


def test_a_filled_gap_of_one_seed_is_the_same_alone_and_among_others(model):
    video = clips(model, 1, 4)[0]
    together = between(model, video[:2], video[2:], 2, seeds=[3, 11, 4])
    alone = between(model, video[:2], video[2:], 2, seeds=[11])
    torch.testing.assert_close(together[1], alone[0], atol=1e-4, rtol=1e-4)
    assert not torch.equal(together[0], together[2])


def test_a_gap_needs_frames_and_clips_of_the_models_size(model):
    video = clips(model, 1, 4)[0]
    with pytest.raises(ValueError, match="frames is 0, must be at least 1"):
        between(model, video[:2], video[2:], 0)
    with pytest.raises(ValueError, match="context has 0 frames"):
        between(model, video[:2], video[:0], 2)
    with pytest.raises(ValueError, match=r"context frames are \(1, 8, 8\)"):
        between(model, video[:2, :, :8, :8], video[2:], 2)


# ---- futures ---------------------------------------------------------------------------------------------


def test_how_long_others_frames_are_does_not_move_a_futures_noise(model):
    """Every future takes the same count of random numbers for a frame, whenever it ends."""
    context = clips(model, 1, 2)
    noise = SeededNoise([0, 1])
    with torch.inference_mode():
        _, state = model.step(model.start(context), Sampling(), noise)
        together, _ = model.step(state, Sampling(), noise)
        alone_noise = SeededNoise([1])
        _, state = model.step(model.start(context), Sampling(), alone_noise)
        alone, _ = model.step(state, Sampling(), alone_noise)
    torch.testing.assert_close(together[1], alone[0], atol=1e-4, rtol=1e-4)


def test_only_the_likeliest_are_drawn_where_top_k_says_so(model):
    context = clips(model)[0]
    greedy = stt.predict(model, context, 2, Sampling(temperature=0))
    torch.testing.assert_close(stt.predict(model, context, 2, Sampling(top_k=1), seeds=[5]), greedy)
    assert not torch.equal(stt.predict(model, context, 2, Sampling(top_k=3), seeds=[5]), greedy)


# ---- config ----------------------------------------------------------------------------------------------


def test_a_config_that_cannot_work_says_why():
    for changes, match in (
        ({"chunk_frames": 2}, "chunk_frames is 2, must be 1"),
        ({"image_size": 32}, "image_size is 32, its dct's is 16"),
        ({"channels": 3}, "channels is 3, its dct's is 1"),
        ({"widths": (16, 16, 16, 16)}, "4 widths halve a grid of 4 cells too often"),
        ({"widths": ()}, "widths is \\(\\), must be a list of one or more"),
        ({"widths": (16, 24)}, r"widths is \(16, 24\), must be a multiple of 16"),
        ({"draft": 8}, "draft is 8, must be a multiple of 16"),
        ({"max_triples": 0}, "max_triples is 0, must be a whole number from 1"),
        ({"max_triples": 257}, "max_triples is 257, must be 1 to 256"),
        ({"interpolate": 1.5}, "interpolate is 1.5, must be between 0 and 1"),
        ({"backward": -1}, "backward is -1, must be between 0 and 1"),
        ({"residual_share": 2}, "residual_share is 2, must be between 0 and 1"),
        ({"threshold": -0.5}, "threshold is -0.5, must be 0 or more"),
        ({"segmenter_width": 24}, "segmenter_width is 24, must be a multiple of 16"),
        ({"corruption": 1.5}, "corruption is 1.5, must be between 0 and 1"),
        ({"map_share": 2}, "map_share is 2, must be between 0 and 1"),
        ({"reach": 0}, "reach is 0, must be at least 1"),
    ):
        with pytest.raises(ValueError, match=match):
            config(**changes)


def test_clips_of_one_frame_cannot_be_learned_from(model):
    with pytest.raises(ValueError, match="clips have 1 frames, training needs at least 2"):
        model.loss(Batch(clips(model, frames=1)))
