"""Transframer beyond the contract: which sequences can be drawn, their likelihood, the cache, frames in between."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import stt
from stt import triple_decoder
from stt.api import Batch, Sampling
from stt.context_unet import nearest
from stt.dct import DCTConfig, Triples
from stt.dct_motion import motion_evidence
from stt.models.transframer import Transframer, TransframerConfig
from stt.sampler import SeededNoise, inwards, sample_logits
from stt.triple_decoder import NEVER
from tests.conftest import TINY_CONFIGS, TINY_TRANSFRAMER, clips, lively


def config(**changes) -> TransframerConfig:
    return TransframerConfig.from_dict(TINY_TRANSFRAMER.to_dict() | changes)


def verbose(model: Transframer) -> Transframer:
    """Random weights that show; few channels are skipped, so that frames do not end early."""
    lively(model)
    with torch.no_grad():
        model.decoder.leave.bias.copy_(-torch.arange(len(model.decoder.leave.bias)))
    return model.eval()


def varied(**changes) -> Transframer:
    return verbose(Transframer(config(**changes)))


@pytest.fixture
def model():
    return varied()


COARSE = DCTConfig(image_size=8, channels=1, block=4, quality=1)


def coarse(max_triples: int) -> Transframer:
    """A model whose frames have 4 positions and values of at most 3, so that their triples can be counted."""
    return varied(image_size=8, dct=COARSE.to_dict(), max_triples=max_triples)


def scene_of(model: Transframer, frames: int = 3, seed: int = 1):
    with torch.inference_mode():
        return model.scene(model.past_context(clips(model, 1, frames, seed)))


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


@pytest.mark.parametrize("temperature", [0, 0.5, 1, 2])
@pytest.mark.parametrize("weights", ["fresh", "lively"])
@pytest.mark.parametrize("name", [name for name in TINY_CONFIGS if name.startswith("transframer")])
def test_every_sequence_that_is_drawn_decodes_wherever_it_is_cut(name, weights, temperature, monkeypatch):
    model = Transframer(replace(TINY_CONFIGS[name], max_triples=24)).eval()
    if weights == "lively":
        verbose(model)
    scene, written = scene_of(model), Recorder(model, monkeypatch)
    with torch.inference_mode():
        dense = model.decoder.draw(scene.expand(3), Sampling(temperature=temperature), SeededNoise([0, 1, 2]))
    counts = (dense != 0).flatten(1).sum(dim=1).tolist()
    assert max(counts) > 3 or weights == "fresh"
    for future, count in enumerate(counts):
        for cut in range(1, count + 1):
            back = model.codec.from_triples(written.sequence(future, cut))  # raises for an invalid one
            assert model.codec.decode(back).isfinite().all()
        assert count == 0 or torch.equal(back, dense[future])


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
    nats = model.decoder.scores(scene_of(model).expand(len(images)), images).nats[:, 0]
    assert torch.exp(-nats).sum() == pytest.approx(1, abs=1e-4)
    assert torch.exp(-nats).max() > 4 / len(images)  # not the uniform distribution


@torch.inference_mode()
@pytest.mark.parametrize("before", [0, 180, 379])
def test_the_probabilities_of_all_second_triples_and_of_the_end_sum_to_one(before):
    model = coarse(2)
    images = single(model)
    first = images[before].flatten()
    later = images.flatten(1).ne(0).int().argmax(dim=1) > first.ne(0).int().argmax()
    images = torch.cat([images[later] + images[before], images[before][None]])
    scores = model.decoder.scores(scene_of(model).expand(len(images)), images)
    torch.testing.assert_close(scores.nats[:, 0], scores.nats[:1, 0].expand(len(images)), atol=1e-4, rtol=1e-4)
    assert torch.exp(-scores.nats[:, 1]).sum() == pytest.approx(1, abs=1e-4)


@torch.inference_mode()
def test_triples_are_drawn_as_often_as_the_network_states():
    model = coarse(1)
    scene, images, futures = scene_of(model), single(model), 2000
    stated = torch.exp(-model.decoder.scores(scene.expand(len(images)), images).nats[:, 0])
    drawn = model.decoder.draw(scene.expand(futures), Sampling(), SeededNoise(range(futures))).flatten(1)
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
        other = random_dense(model, seed=9)
        other.flatten(1)[:, :cut] = dense.flatten(1)[:, :cut]
        same = int((dense.flatten(1)[:, :cut] != 0).sum())
        after = model.decoder.scores(scene, other)
        torch.testing.assert_close(after.nats[:, :same], before.nats[:, :same], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(after.nats[:, same], before.nats[:, same], atol=1e-3)


@torch.inference_mode()
def test_the_surprise_is_the_likelihood_of_triples_in_bits_a_pixel_each_in_its_cell(model):
    video = clips(model, 1, 2)
    scores = model.decoder.scores(model.scene(model.past_context(video[:, :1])), model.codec.encode(video[:, 1]))
    surprise = model.surprise(video)
    bits = scores.nats[0] / math.log(2)
    assert float(surprise.bits[0, 0]) * 256 == pytest.approx(float(bits.sum()), rel=1e-4)
    third = bits[scores.cell[0] == 3].sum() + bits[scores.cell[0] == 16].sum() / 16
    assert float(surprise.where[0, 0].flatten()[3]) * 16 == pytest.approx(float(third), rel=1e-4)


# ---- context ---------------------------------------------------------------------------------------------


def test_the_nearest_frames_on_both_sides_are_seen_and_those_that_are_not_there_come_last():
    offsets = torch.tensor([[-4, -2, -1, 3, 5, 6], [-4, -3, -2, -1, 1, 2]])
    held = torch.tensor([[True] * 6, [False, True, True, True, False, False]])
    chosen = offsets.gather(1, nearest(offsets, held, 4))
    assert chosen.tolist() == [[-1, 3, -2, 5], [-1, -2, -3, chosen[1, 3]]]
    assert nearest(offsets[:, :2], held[:, :2], 4).shape == (2, 2)


@torch.inference_mode()
def test_a_slot_without_a_frame_is_as_if_it_were_not_there(model):
    video = clips(model, 2, 3)
    offsets, held = torch.tensor([[-3, -2, -1]]).expand(2, -1), torch.tensor([[False, True, True]]).expand(2, -1)
    image = random_dense(model, 2)
    padded = model.decoder.scores(model.scene(model.context(video, offsets, held)), image)
    absent = model.decoder.scores(model.scene(model.past_context(video[:, 1:])), image)
    torch.testing.assert_close(padded.nats, absent.nats, atol=1e-4, rtol=1e-4)
    whole = model.decoder.scores(model.scene(model.past_context(video)), image)
    assert not torch.allclose(whole.nats, absent.nats, atol=1e-2)


def test_training_asks_for_frames_with_others_before_them_and_in_between_on_both_sides():
    model = Transframer(config(interpolate=0.5, short_context=0.5))
    asked, held, wanted = model.task(400, 6, 0, torch.device("cpu"))
    times = torch.arange(6)
    before = (held & (times < asked[:, None])).sum(dim=1)
    after = (held & (times > asked[:, None])).sum(dim=1)
    assert not held[torch.arange(400), asked].any() and (before > 0).all()
    assert set(asked.tolist()) == {1, 2, 3, 4, 5} and {0, 1, 2, 3} <= set(before.tolist()) | {0}
    assert 120 < (after > 0).sum() < 280 and not wanted.any()
    assert not model.task(50, 2, 0, torch.device("cpu"))[1][:, 1].any()  # two frames have none in between


def test_training_asks_for_maps_mostly_of_frames_that_are_there():
    asked, held, wanted = Transframer(config(maps=("a", "b"), map_share=0.5)).task(800, 6, 2, torch.device("cpu"))
    its_own = held[torch.arange(800), asked]
    assert 300 < (wanted > 0).sum() < 500 and not its_own[wanted == 0].any()
    assert 0.65 < its_own[wanted > 0].float().mean() < 0.85
    assert 0.35 < (wanted[wanted > 0] == 1).float().mean() < 0.65 and wanted.max() == 2


def test_a_map_is_expected_where_it_is_asked_for_and_the_frame_elsewhere():
    torch.manual_seed(0)
    model = Transframer(config(maps=("dark",), map_share=0.5, corrupt_context=0.0))
    video = clips(model, 2, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(Batch(video, maps=torch.full_like(video, -1.0)[:, None])).total.backward()  # a map without any ink
        optimizer.step()
    model.eval()
    offsets = torch.tensor([[-2, -1]]).expand(2, -1)
    nats = {}
    for wanted in (0, 1):
        context = model.context(video[:, :2], offsets, torch.ones_like(offsets).bool(), torch.tensor([wanted, wanted]))
        with torch.inference_mode():
            for name, images in (("frame", video[:, 2]), ("dark", torch.full_like(video[:, 2], -1))):
                nats[name, wanted] = float(
                    model.decoder.scores(model.scene(context), model.codec.encode(images)).nats.sum()
                )
    # the first triple tells which of the two it is, so the rest costs the same
    assert nats["dark", 1] < nats["dark", 0] - 1 and nats["frame", 0] < nats["frame", 1] - 1


def test_frames_that_train_as_if_drawn_lack_triples_and_keep_their_shape():
    model = Transframer(config(corrupt_context=1.0, corruption=0.6))
    video = clips(model, 40, 3)
    drawn = model.corrupt(video)
    assert drawn.shape == video.shape and drawn.abs().max() <= 1
    coded = model.codec.decode(model.codec.encode(video))
    off = (drawn - coded).square().mean(dim=(1, 2, 3, 4))
    assert off.min() < 0.01 * off.max() and off.mean() < 0.5 * video.var()  # from hardly any corruption to many
    assert torch.equal(Transframer(config(corrupt_context=0.0)).corrupt(video), video)
    assert torch.equal(Transframer(config(corrupt_context=1.0, corruption=0.0)).corrupt(video), coded)


def test_a_motion_that_others_agree_with_is_told_wherever_they_stand(model):
    """A dot moves by (1, 2) a frame; whichever frames are there, that displacement of the nearest agrees best."""
    reach, side = model.config.reach, 2 * model.config.reach + 1
    assert reach >= 2
    video = torch.zeros(1, 7, 1, 16, 16)
    for t in range(7):
        video[0, t, 0, 4 + t : 6 + t, 1 + 2 * t : 3 + 2 * t] = 1
    for times in ((2, 1), (2, 4), (4, 5), (2, 0)):
        offsets = torch.tensor([[t - 3 for t in times]])
        context = model.context(video[:, list(times)], offsets, torch.ones_like(offsets).bool())
        nearest, agreed = motion_evidence(model.codec, context, reach, model.config.num_others)
        best = int(agreed[0, 0].mean(dim=(1, 2)).argmax())
        step = int(context.offsets[0, 0])  # of the nearest; the frame asked for shows it moved back by so much
        assert (best // side - reach, best % side - reach) == (step * 1, step * 2)
        assert nearest.shape == (1, 16, side**2, 16) and not agreed[0, 1:].any()


def test_maps_that_the_config_does_not_name_are_refused(model):
    video = clips(model, 1, 3)
    with pytest.raises(ValueError, match=r"maps are \(1, 1, 3, 1, 16, 16\), must be 0 a frame"):
        model.loss(Batch(video, maps=video[:, None]))
    with pytest.raises(ValueError, match=r"map_name is 'depth', the model has \[\]"):
        model.frame(video, torch.tensor([-2, -1, 0]), Sampling(), SeededNoise([0]), map_name="depth")


@pytest.mark.parametrize("between_share", [0.0, 1.0])
@pytest.mark.parametrize("frames", [2, 3, 6])
def test_every_parameter_gets_a_gradient_whatever_is_drawn(frames, between_share):
    model = Transframer(config(interpolate=between_share, short_context=0.5))
    for seed in range(3):
        torch.manual_seed(seed)
        model.zero_grad()
        model.loss(Batch(clips(model, 1, frames))).total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


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


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"chunk_frames": 2}, "chunk_frames is 2, must be 1"),
        ({"image_size": 32}, "image_size is 32, its dct's is 16"),
        ({"channels": 3}, "channels is 3, its dct's is 1"),
        ({"widths": (16, 16, 16, 16)}, "4 widths halve a grid of 4 cells too often"),
        ({"widths": ()}, "widths is .., must be a list of one or more"),
        ({"widths": (16, 24)}, r"widths is \(16, 24\), must be a multiple of 16"),
        ({"draft": 8}, "draft is 8, must be a multiple of 16"),
        ({"max_triples": 0}, "max_triples is 0, must be a whole number from 1"),
        ({"max_triples": 257}, "max_triples is 257, must be 1 to 256"),
        ({"interpolate": 1.5}, "interpolate is 1.5, must be between 0 and 1"),
        ({"short_context": -1}, "short_context is -1, must be between 0 and 1"),
        ({"corruption": 1.5}, "corruption is 1.5, must be between 0 and 1"),
        ({"map_share": 2}, "map_share is 2, must be between 0 and 1"),
        ({"reach": -1}, "reach is -1, must be a whole number from 0"),
    ],
)
def test_a_config_that_cannot_work_says_why(changes, match):
    with pytest.raises(ValueError, match=match):
        config(**changes)


def test_clips_of_one_frame_cannot_be_learned_from(model):
    with pytest.raises(ValueError, match="clips have 1 frames, training needs at least 2"):
        model.loss(Batch(clips(model, frames=1)))
