"""Motion triples: where layers were and will be, and a distribution over where they go."""

from __future__ import annotations

import pytest
import torch

from stt.api import Sampling
from stt.layer_motion import MotionDecoder, Tracks, chosen, tracks_of
from stt.motion import Layers, Match, match
from stt.sampler import SeededNoise
from tests.conftest import lively

REACH, SIDE = 2, 5


def dots(places: list[tuple[int, int]], size: int = 24) -> Layers:
    """A layer for each place, with a square of 4 x 4 pixels there."""
    colour = torch.zeros(1, len(places), 1, size, size)
    for k, (y, x) in enumerate(places):
        colour[0, k, 0, y : y + 4, x : x + 4] = 0.5 + 0.5 * k
    return Layers(torch.zeros(1, 1, size, size), colour, torch.zeros_like(colour))


def frame(places: list[tuple[int, int]]) -> torch.Tensor:
    return dots(places).colour.sum(dim=1)


def tracks(beyond: list[list[tuple[int, int]]] = (), times: list[int] = (), num_steps: int = 3) -> Tracks:
    """Of two layers, which moved by (1, -1) and (0, 2)."""
    steps = torch.tensor([[1, -1], [0, 2]]).expand(1, 3, 2, 2)
    return tracks_of(
        dots([(4, 14), (10, 4)]), steps, torch.tensor([num_steps]), torch.tensor([False]),
        [frame(places) for places in beyond], times, REACH,
    )  # fmt: skip


def decoder(lifelike: bool = False) -> MotionDecoder:
    torch.manual_seed(0)
    model = MotionDecoder(2, REACH, 3, image_size=24, dim=32, depth=1, heads=2, mlp_ratio=2).eval()
    return lively(model) if lifelike else model


def test_layers_are_found_in_the_frames_beyond_the_target():
    found = tracks([[(6, 12), (10, 8)], [(8, 10), (10, 12)]], [2, 4])
    assert found.beyond[0].tolist() == [[[2, -2], [0, 4]], [[4, -4], [0, 8]]]
    assert found.times.tolist() == [[2, 4]] and found.explained.min() > 0.75
    none = tracks()
    assert none.times.tolist() == [[0, 0]] and not none.beyond.any()


def test_a_layer_goes_on_as_it_went_where_that_is_good_enough():
    layers, truth = dots([(4, 14), (10, 4)]), frame([(5, 13), (10, 4)])
    matched = match(layers, truth, REACH)
    ink = torch.full((1, 2), 100.0)
    last = torch.tensor([[[1, -1], [0, 1]]])
    assert chosen(matched, last, ink).tolist() == [[[1, -1], [0, 0]]]  # the second is off, so the best is chosen
    flat = Match(matched.displacement, torch.zeros_like(matched.errors))
    assert torch.equal(chosen(flat, last, ink), last)
    assert torch.equal(chosen(matched, last, torch.zeros(1, 2)), last)  # empty layers have no motion to code


@torch.inference_mode()
def test_an_untrained_network_lets_everything_go_on_and_ends_where_the_frames_beyond_show_it():
    model, still = decoder(), Sampling(temperature=0)
    assert model.draw(tracks(), still, None).tolist() == [[[1, -1], [0, 2]]]
    stopped = tracks([[(4, 14), (10, 6)], [(4, 14), (10, 8)]], [2, 4], num_steps=0)
    assert model.draw(stopped, still, None).tolist() == [[[0, 0], [0, 1]]]


@torch.inference_mode()
def test_an_untrained_network_keeps_layers_in_the_frame():
    shape = tracks().shape  # squares of 4 x 4 pixels of 24 x 24 at (4, 14) and (10, 4)
    assert not decoder().beyond_border(shape).any()
    at_border = tracks_of(
        dots([(19, 14), (0, 4)]), torch.tensor([[2, 0], [-2, 0]]).expand(1, 3, 2, 2), torch.tensor([3]),
        torch.tensor([False]), [], [], REACH,
    )  # fmt: skip
    pixels = decoder().beyond_border(at_border.shape).unflatten(-1, (SIDE, SIDE))[0, :, :, REACH]
    assert pixels.tolist() == [[0, 0, 0, 0, 1], [2, 1, 0, 0, 0]]
    assert decoder().draw(at_border, Sampling(temperature=0), None)[0, :, 0].tolist() == [2, 0]


@torch.inference_mode()
def test_the_probabilities_of_all_displacements_of_both_layers_sum_to_one_and_are_drawn_from():
    model, known = decoder(lifelike=True), tracks([[(6, 12), (10, 8)]], [2])
    axis = torch.arange(-REACH, REACH + 1)
    one = torch.cartesian_prod(axis, axis)
    pairs = torch.stack([one.repeat_interleave(SIDE**2, 0), one.repeat(SIDE**2, 1)], dim=1)  # (S^4, 2, 2)
    nats = model.nats(known.expand(len(pairs)), pairs).sum(dim=1)
    assert torch.exp(-nats).sum() == pytest.approx(1, abs=1e-4)
    futures = 3000
    drawn = model.draw(known.expand(futures), Sampling(), SeededNoise(range(futures)).gumbel(2, SIDE**2))
    index = (drawn + REACH) @ torch.tensor([SIDE, 1])
    often = torch.bincount(index @ torch.tensor([SIDE**2, 1]), minlength=len(pairs)) / futures
    assert (often - torch.exp(-nats)).abs().max() < 0.06


@torch.inference_mode()
def test_the_second_layer_depends_on_the_first_and_not_the_other_way_round():
    model, known = decoder(lifelike=True), tracks()
    base = model.nats(known, torch.tensor([[[0, 0], [1, 1]]]))
    first, second = (model.nats(known, torch.tensor([pair])) for pair in ([[1, 0], [1, 1]], [[0, 0], [0, 1]]))
    assert not torch.allclose(base[:, 1], first[:, 1]) and torch.allclose(base[:, 0], second[:, 0])
