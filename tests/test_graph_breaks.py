"""Losses compile as a whole: nothing in them makes torch.compile fall back to Python."""

from __future__ import annotations

from dataclasses import replace

import torch

from stt.api import Model
from tests.conftest import TINY, TINY_LAYERS, TINY_TIMESFORMER, batch_of, built, clips

STT_CODES = replace(TINY, depth=1, gaussian_grid=(1,))
STT_MOTION = replace(TINY_LAYERS, depth=1, gaussian_grid=(0,))


def graph_breaks(model: Model, frames: int) -> list[str]:
    """Of a loss in bfloat16, as it trains on a GPU."""
    torch._dynamo.reset()
    batch = batch_of(model, clips(model, 2, frames))
    with torch.autocast("cpu", torch.bfloat16):
        explained = torch._dynamo.explain(model.train().loss)(batch)
    assert explained.graph_count == 1 or explained.break_reasons
    return [str(each.reason) for each in explained.break_reasons]


def test_a_loss_of_codes_has_none_even_with_scheduled_sampling():
    model = built(replace(STT_CODES, scheduled_sampling=1.0, actions=("push",)))
    model.begin_step(0)
    assert model.tokens.use_scheduled_sampling and graph_breaks(model, frames=3) == []


def test_a_loss_of_motion_layers_has_none():
    model = built(STT_MOTION)
    model.tokens.num_prompt = 1
    assert graph_breaks(model, frames=3) == []


def test_a_loss_of_the_timesformer_has_none():
    assert graph_breaks(built(replace(TINY_TIMESFORMER, depth=1)), frames=4) == []
