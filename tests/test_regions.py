"""Regions that move as wholes: found in a prompt, followed, and moved on over the ground behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import stt
from stt.api import Batch, Sampling
from stt.models.stt import STT, STTConfig
from stt.persistence import SHARES
from stt.region_course import course_of
from stt.region_flow import dis_flow
from stt.region_frames import power_flow
from stt.region_masks import follow
from stt.region_tracks import ground_share_chances
from stt.regions import find_regions
from tests.conftest import TINY_REGIONS

SIDES = 96, 128
SIZE = 24  # pixels a side of the thing that moves


def texture(height: int, width: int, seed: int, low: float, high: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    return (low + (high - low) * F.interpolate(coarse, (height, width), mode="bicubic")[0]).clamp(0, 1)


def clip(places: list[tuple[int, int]], camera: int = 0) -> torch.Tensor:
    """A bright square at these places (x, y) before a darker ground that pans, (T, 3, H, W) in [-1, 1]."""
    ground, thing = texture(SIDES[0], 2 * SIDES[1], 0, 0.0, 0.5), texture(SIZE, SIZE, 1, 0.6, 1.0)
    frames = []
    for k, (x, y) in enumerate(places):
        start = 32 + camera * k
        frame = ground[..., start : start + SIDES[1]].clone()
        frame[:, y : y + SIZE, x : x + SIZE] = thing[..., : max(SIDES[1] - x, 0)]
        frames.append(frame)
    return 2 * torch.stack(frames) - 1


def as_pictures(video: torch.Tensor) -> np.ndarray:
    return ((video + 1) * 127.5).round().byte().movedim(1, -1).numpy()


MOVING = [(20 + 3 * k, 36) for k in range(8)]


@pytest.fixture
def model() -> STT:
    torch.manual_seed(0)
    return STT(replace(TINY_REGIONS, image_size=128)).eval()


def test_what_moves_before_a_still_ground_is_one_region_with_its_outline_and_motion():
    scene = find_regions(as_pictures(clip(MOVING)), 4)
    assert len(scene.regions) == 1
    (region,) = scene.regions
    inner, outer = np.zeros((2, *SIDES), bool)
    inner[36 : 36 + SIZE, 41 : 41 + SIZE] = outer[32 : 40 + SIZE, 37 : 45 + SIZE] = True
    assert region.mask[inner].all() and not region.mask[~outer].any()  # 4 pixels around it at most
    steps = np.diff(region.places, axis=0)
    np.testing.assert_allclose(steps, [[-3, 0]] * 7, atol=0.3)
    assert not np.any(scene.camera[0])


def test_earlier_frames_show_the_ground_behind_a_region():
    video = clip(MOVING)
    scene = find_regions(as_pictures(video), 4)
    ground = texture(SIDES[0], 2 * SIDES[1], 0, 0.0, 0.5)[..., 32 : 32 + SIDES[1]].movedim(0, -1).numpy()
    seen = scene.age > 0
    assert seen.sum() > 0.3 * scene.regions[0].mask.sum()  # it has moved 21 of its 24 pixels
    assert np.abs(scene.ground - ground)[seen].mean() < 0.03


def test_a_camera_that_pans_is_no_region():
    scene = find_regions(as_pictures(clip([(SIDES[1], 0)] * 8, camera=2)), 4)
    assert not scene.regions
    np.testing.assert_allclose(np.median(scene.camera[0], axis=(0, 1)), [2, 0], atol=0.2)


def test_a_region_that_leaves_the_picture_is_followed_as_far_as_it_goes():
    frames = as_pictures(clip([(SIDES[1] - SIZE - 4 + 4 * k, 30) for k in range(3)]))
    mask = np.zeros(SIDES, bool)
    mask[30 : 30 + SIZE, SIDES[1] - SIZE - 4 : SIDES[1] - 4] = True
    places, masks = follow(mask, frames, -dis_flow(frames[1], frames[0]))
    assert np.isfinite(places).all() and len(masks) == 3


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 3.0])
def test_a_similarity_is_applied_in_part_and_many_times(power):
    turn, shift = torch.tensor([np.exp(0.02 + 0.1j)]).to(torch.complex64), torch.tensor([3.0 - 2.0j])
    flow = power_flow(turn, shift, torch.tensor([power]), (8, 9))
    fixed = shift / (1 - turn)
    expected = fixed + turn**power * (torch.tensor(4 + 5j) - fixed) - (4 + 5j)
    torch.testing.assert_close(flow[0, :, 5, 4], torch.stack([expected.real[0], expected.imag[0]]), atol=1e-3, rtol=0)
    shifted = power_flow(torch.ones(1, dtype=torch.complex64), shift, torch.tensor([power]), (8, 9))
    torch.testing.assert_close(shifted[0, 0], torch.full((8, 9), 3 * power))


def test_a_thing_goes_on_keeps_its_shape_and_leaves_the_ground_as_it_was(model):
    video = clip([(8 + 3 * k, 36) for k in range(14)])
    ahead = stt.predict(model, video[:8], 6, Sampling(temperature=0.0))[0]
    error, still = ((frames - video[8:]).abs().mean() for frames in (ahead, video[7:8].expand(6, -1, -1, -1)))
    assert error < 0.35 * still, (error, still)


def test_a_thing_in_free_flight_goes_on_along_its_parabola(model):
    video = clip([(8 + 5 * k, 60 - 12 * k + k**2) for k in range(12)])
    (region,) = find_regions(as_pictures(video[:8]), 4).regions
    assert abs(region.course.acceleration - 2j) < 0.1 and abs(region.course.velocity - (5 + 1j)) < 0.3
    futures = stt.predict(model, video[:8], 4, seeds=[0, 1])
    error, still = ((frames - video[8:]).abs().mean() for frames in (futures, video[7:8].expand(4, -1, -1, -1)))
    assert error < 0.35 * still, (error, still)


def test_futures_change_their_direction_as_much_as_the_prompt_did():
    straight = np.array([(-3.0 * k, 0.0) for k in range(8)])
    zigzag = straight + [(0.0, 1.5 * (k % 2)) for k in range(8)]
    calm, restless = (course_of(places, 3 + 0j) for places in (straight, zigzag))
    assert calm.wander < 0.01 and restless.wander > 0.05 and not calm.acceleration and not restless.acceleration


def test_a_region_is_steady_where_it_kept_its_pace_and_direction():
    places = np.array([(-3.0 * k, 1.0 * k) for k in range(8)])
    stop_and_go = places * [[1, 1]] + [(1.5 * (k % 2), 0) for k in range(8)]
    turning = np.array([(30 * np.cos(0.3 * k), 30 * np.sin(0.3 * k)) for k in range(8)])
    steady = [course_of(track, 3 - 1j).steady for track in (places, stop_and_go, turning, places[:4], places / 4)]
    assert steady == [True, False, False, False, False]


def test_a_region_leaves_out_the_ground_that_earlier_frames_show():
    video = clip(MOVING)
    video[..., :40, :] = -0.2  # an even sky, whose motion nothing tells
    video[:, :, 20:40, :] = torch.where(clip(MOVING)[:, :, 20:40, :] > 0.1, clip(MOVING)[:, :, 20:40, :], -0.2)
    (region,) = find_regions(as_pictures(video), 4).regions
    assert not region.mask[:30].any()


def test_a_camera_that_keeps_its_pace_goes_on_as_one_that_stops_and_goes_does_not(model):
    futures = [
        stt.predict(
            model, torch.cat([clip([(SIDES[1], 0)], camera=0).roll(-x, 3) for x in path]), 4, Sampling(temperature=0.0)
        )
        for path in ([2 * k for k in range(8)], [0, 4, 4, 6, 10, 10, 12, 14])
    ]
    last = [clip([(SIDES[1], 0)]).roll(-14, 3)[..., :96]] * 2
    moved = [(frames[0, -1:, ..., :96] - then).abs().mean() for frames, then in zip(futures, last, strict=True)]
    assert moved[0] > 1.2 * moved[1] > 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_a_camera_s_motion_is_read_off_the_frames_after_the_prompt(share):
    motion = np.cumsum([0.0, *(share ** np.arange(1, 5))]) * 4
    wide = F.interpolate(texture(SIDES[0], 2 * SIDES[1], 0, 0.0, 1.0)[None], scale_factor=4, mode="bicubic")[0]
    frames = [wide[:, ::4, round(4 * m) : round(4 * m) + 4 * SIDES[1] : 4] for m in motion]
    flow = torch.tensor([4.0, 0.0])[:, None, None].expand(2, *SIDES)
    chances = ground_share_chances(2 * torch.stack(frames) - 1, flow, torch.zeros(SIDES, dtype=torch.bool))
    assert SHARES[int(chances.argmax())] == share and chances.max() > 0.5


def test_a_still_clip_stays_as_it_is(model):
    video = clip([(50, 36)] * 5)
    torch.testing.assert_close(stt.predict(model, video, 3, seeds=[0, 1])[1], video[:3], atol=0.02, rtol=0)


def test_futures_differ_in_how_far_a_thing_goes_and_at_temperature_zero_do_not(model):
    video = clip([(20 + x, 36) for x in (0, 3, 6, 6, 9, 12, 12, 15)])
    futures = stt.predict(model, video, 6, seeds=range(6))
    differences = (futures[:, -1] - futures[:1, -1]).abs().mean(dim=(1, 2, 3))
    assert (differences[1:] > 0).all()
    same = stt.predict(model, video, 3, Sampling(temperature=0.0), seeds=[0, 1])
    assert torch.equal(same[0], same[1])


def test_training_learns_that_things_go_on(model):
    model.train()
    video = torch.stack([clip([(10 + 4 * k + 2 * (k % 2), 20 + 4 * n) for k in range(10)]) for n in range(3)])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(6):
        loss = model.loss(Batch(video))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    assert losses[0] == pytest.approx(loss.parts["nats of the prompt alone"].item(), abs=1e-4)
    assert losses[-1] < losses[0]


def test_a_clip_too_short_to_learn_from_is_named(model):
    with pytest.raises(ValueError, match="2 frames, training needs at least 3"):
        model.loss(Batch(clip(MOVING)[None, :2]))


@pytest.mark.parametrize("changes", [{"actions": ("push",)}, {"gaussian_grid": (0, 1)}, {"flows": 1}, {"layers": 2}])
def test_regions_stand_alone(changes):
    with pytest.raises(ValueError, match="regions"):
        STTConfig.from_dict(TINY_REGIONS.to_dict() | changes)
