"""The share of its velocity that a thing keeps is read from the prompt."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stt.optical_flow import optical_flow
from stt.persistence import SHARES, mean_share, persistence

PLACES = {"goes on": [0, 2, 4, 6, 8, 10, 12], "jitters": [0, 2, 0, 2, 0, 2, 0], "stands": [0] * 7}


def panned(places: list[int], noise: float = 0.0) -> torch.Tensor:
    """A soft texture that stands at these places, (T, 3, 48, 64) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    wide = F.interpolate(torch.rand(1, 3, 12, 24, generator=generator), scale_factor=4.0, mode="bicubic")[0] * 1.4 - 0.7
    video = torch.stack([wide[:, :, 16 - place : 80 - place] for place in places])
    return (video + noise * torch.randn(video.shape, generator=generator)).clamp(-1, 1)


def chances_of(video: torch.Tensor) -> torch.Tensor:
    flow = optical_flow(video[1:], video[:-1])
    return persistence(video[None], torch.cat([torch.zeros_like(flow[:1]), flow])[None])


def test_what_keeps_its_pace_goes_on_what_jitters_is_braked_and_what_stands_stands():
    shares = {name: mean_share(chances_of(panned(places, 0.02)))[..., 8:-8, 12:-12] for name, places in PLACES.items()}
    assert shares["goes on"].min() > 0.9
    assert shares["jitters"].max() < 0.3
    assert (shares["stands"] == 0).all()


@pytest.mark.parametrize("frames", [1, 2])
def test_a_prompt_without_a_forecast_says_nothing_of_what_moves(frames):
    video = panned([0, 2][:frames])
    chances = chances_of(video) if frames > 1 else persistence(video[None], torch.zeros(1, 1, 2, *video.shape[-2:]))
    assert chances.shape[1] == len(SHARES)
    torch.testing.assert_close(chances.sum(dim=1), torch.ones_like(chances[:, 0]))
    assert (mean_share(chances) < 0.6).all()


def test_a_quantile_brakes_one_future_more_than_another():
    chances = torch.full((3, len(SHARES), 2, 2), 1 / len(SHARES))
    low, middle, high = (
        mean_share(chances, torch.tensor([0.1, 0.5, 0.9])[:, None, None, None]).mean(dim=(1, 2, 3)).tolist()
    )
    assert low < 0.2 and middle == pytest.approx(0.5) and high > 0.8
