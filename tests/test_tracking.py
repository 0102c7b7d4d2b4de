"""Trackers find the pusher and the objects of tabletop frames."""

from __future__ import annotations

import colorsys

import pytest
import torch

from tests.tabletop_fixtures import FakeTabletop, why_not
from train.evaluation.tracking import colour_pixels, object_permanence, track_pusher, visible_colours
from train.sim.tabletop.scene import PALETTE
from train.sim.tabletop.world import Tabletop, TabletopConfig


def shade(colour: int) -> torch.Tensor:
    """A strong colour of PALETTE's hue, (3, 1, 1) on [0, 1]."""
    return torch.tensor(colorsys.hsv_to_rgb(list(PALETTE.values())[colour] / 360, 0.9, 0.95))[:, None, None]


def test_a_patch_of_a_palette_colour_counts_as_that_colour_in_any_light():
    for light in (0.3, 0.6, 1.0):
        for k in range(len(PALETTE)):
            frame = torch.full((3, 64, 64), 0.4 * light)
            frame[:, 10:14, 20:25] = light * shade(k)
            expected = torch.zeros(len(PALETTE), dtype=torch.int64)
            expected[k] = 20
            assert torch.equal(colour_pixels(frame * 2 - 1), expected), (light, k)


def test_permanence_is_the_share_of_the_prompts_objects_and_the_number_of_new_ones():
    def picture(*colours: int) -> torch.Tensor:
        frame = torch.zeros(3, 64, 64)
        for k in colours:
            frame[:, 8 * k : 8 * k + 8, :8] = shade(k)
        return frame * 2 - 1

    prompt = torch.stack([picture(0, 1), picture(0, 1)])
    futures = torch.stack([picture(0, 1), picture(1), picture(0, 2), picture()])
    share, new = object_permanence(prompt, futures)
    assert share.tolist() == [1, 0.5, 0.5, 0] and new.tolist() == [0, 0, 1, 0]


def test_the_pusher_is_tracked_to_parts_of_a_pixel_and_not_visible_where_there_is_none():
    tabletop = FakeTabletop(TabletopConfig(frames=15))
    for clip in (tabletop.clip(2024, index) for index in range(4)):
        track = track_pusher(clip.video)
        assert track.xy.shape == (15, 2) and track.visible.all()
        assert (track.xy - tabletop.agent_pixels(clip)).norm(dim=-1).mean() < 0.5
    assert not track_pusher(torch.full((2, 5, 3, 64, 64), 0.1)).visible.any()


def test_pusher_and_objects_of_the_true_tabletop_are_found():
    if reason := why_not():
        pytest.skip(reason)
    tabletop, errors, visible, agree = Tabletop(TabletopConfig(frames=12), "test"), [], [], []
    for clip in (tabletop.clip(seed=3, index=k) for k in range(4)):
        track = track_pusher(clip.video)
        errors.append((track.xy - tabletop.agent_pixels(clip)).norm(dim=-1))
        visible.append(track.visible)
        segmentation = tabletop.segmentation(clip)  # (T, H, W)
        true = torch.zeros(len(segmentation), len(PALETTE), dtype=torch.int64)
        for k, colour in enumerate(clip.colours):
            true[:, colour] = (segmentation == k).sum(dim=(1, 2))
        agree.append(visible_colours(clip.video) == (true >= 8))
        assert (colour_pixels(clip.video) - true).abs().max() < 0.25 * true.max()
        assert object_permanence(clip.video[:2], clip.video[2:])[1].max() == 0
    assert torch.stack(errors).mean() < 0.6 and torch.stack(errors).max() < 4
    assert torch.stack(visible).float().mean() > 0.97 and torch.stack(agree).float().mean() >= 0.97
