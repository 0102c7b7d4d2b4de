"""Operations of a clip, and what a device reaches."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from stt.api import Batch, Config, Loss, Model
from stt.tokenizer import FrameVQ
from tests.conftest import TINY, TINY_TIMESFORMER, TINY_TOKENIZER, built, clips
from train.throughput import flops_per_clip, peak_flops


class TwoLayers(Model):
    """A frozen layer, then one that trains; on clips of one frame of 4x4."""

    config = Config()

    def __init__(self, layer):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(1, 8, 1).requires_grad_(False), layer

    def loss(self, batch):
        with torch.no_grad():
            h = self.first(batch.video[:, 0])
        return Loss(self.second(h).square().mean(), {})


def test_operations_are_those_of_the_forward_pass_and_of_every_gradient_that_is_needed():
    for groups, inputs in ((1, 8), (8, 1)):
        model = TwoLayers(torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups))
        frozen, layer = 2 * 8 * 16, 2 * 8 * 16 * 9 * inputs
        video = torch.rand(2, 1, 1, 4, 4)
        assert flops_per_clip(model, Batch(video)) == frozen + 2 * layer, groups  # no gradient of the frames


def test_counting_operations_changes_nothing():
    for model in (built(TINY), built(TINY_TIMESFORMER), FrameVQ(TINY_TOKENIZER)):
        video, name = clips(model), type(model).__name__
        before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        flops = flops_per_clip(model, Batch(video))
        assert flops == pytest.approx(flops_per_clip(model, Batch(video[:1])), rel=1e-6), name
        assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in model.parameters()), name
        assert all(torch.equal(before[key], t) for key, t in model.state_dict().items()), name


def test_a_transformers_operations_are_about_six_for_every_weight_and_token():
    config = replace(TINY_TIMESFORMER, dim=128, depth=4, short_context=0.0)
    model = built(config)
    tokens = 10 * math.prod(config.grid)
    matrices = sum(p.numel() for p in model.units.parameters() if p.ndim == 2)
    assert flops_per_clip(model, Batch(clips(model, 1, 10))) == pytest.approx(6 * matrices * tokens, rel=0.15)


def test_a_peak_is_measured_here():
    assert peak_flops(torch.device("cpu"), "no", seconds=0.05) > 1e8
