"""Clips as drift leaves them."""

from __future__ import annotations

import math

import pytest
import torch

from stt.models.stt import STT, STTConfig
from stt.wear import hue_turned, worn
from tests.conftest import TINY, TINY_CONFIGS, clips, lively
from train.presets import PRESETS


@pytest.fixture
def moving():
    """A red square that wanders over grey, (64, 6, 3, 24, 24)."""
    video = torch.full((64, 6, 3, 24, 24), -0.2)
    for t in range(6):
        video[:, t, :, 8:16, 2 * t : 2 * t + 8] = torch.tensor([0.8, -0.9, -0.9])[:, None, None]
    return video


def test_a_third_of_a_turn_makes_red_green_and_leaves_greys():
    red, grey = torch.tensor([1.0, -1.0, -1.0]), torch.full((3,), 0.3)
    for before, after in ((red, red.roll(1)), (grey, grey)):
        angle = torch.full((1, 1, 1, 1), 2 * math.pi / 3)
        assert torch.allclose(hue_turned(before[None, :, None, None], angle).flatten(), after, atol=1e-6)


def test_only_what_moved_after_the_prompt_wears(moving):
    after = worn(moving, given=3)
    assert torch.equal(after[:, :3], moving[:, :3])
    assert torch.equal(after[..., 20:, :], moving[..., 20:, :])
    square = after[:, 5, :, 9:15, 11:17]
    assert (square - moving[:, 5, :, 9:15, 11:17]).abs().amax(dim=(1, 2, 3)).gt(0.02).float().mean() > 0.9
    assert after.abs().max() <= 1


def test_clips_wear_by_other_amounts_and_stay_of_one_wear(moving):
    green = worn(moving, given=1)[:, 3:, 1, 12, 12]  # within the square
    assert green[:, 0].std() > 0.1
    assert (green[:, 1] - green[:, 2]).abs().max() < green[:, 1].std()


def test_a_worn_past_asks_for_the_true_codes():
    """The same steps with and without: other pasts, equal targets."""
    config = TINY_CONFIGS["stt, beside a reference"].to_dict()
    colours = {"channels": 3, "tokenizer": config["tokenizer"] | {"channels": 3}}
    config = STTConfig.from_dict(config | colours | {"worn_past": 1.0})
    model = lively(STT(config))
    seen = {"past": [], "ids": []}
    forward, elbo = model._forward_training, model._elbo
    model._forward_training = lambda past, *others: seen["past"].append(past) or forward(past, *others)
    model._elbo = lambda out, past, ids: seen["ids"].append(ids) or elbo(out, past, ids)
    video = clips(model, 4, 6)
    for share in (1.0, 0.0):
        object.__setattr__(model.config, "worn_past", share)
        torch.manual_seed(3)
        model.loss(video)
    assert not torch.equal(*seen["past"]) and torch.equal(*seen["ids"])


def test_a_model_without_colours_has_no_hues_to_wear():
    with pytest.raises(ValueError, match="worn_past is 0.5 with channels 1"):
        STTConfig.from_dict(TINY.to_dict() | {"worn_past": 0.5})


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("_ancestor")])
def test_an_ancestor_learns_from_the_true_past_alone(name):
    model = PRESETS[name].model
    assert (model.jitter, model.own_past, model.worn_past) == (0.0, 0.0, 0.0)
