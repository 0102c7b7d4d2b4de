from __future__ import annotations

from pathlib import Path

import pytest
import torch

import stt
from stt.motion import Layers, composite
from stt.segmenter import Segmenter, merged, track
from stt.video import read_clip
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig

ASSETS = Path(__file__).parent.parent / "assets"


@pytest.fixture
def segmenter():
    return Segmenter(count=2, channels=1, width=16)


def test_a_prompt_of_t_frames_has_t_shapes_and_one_match_less(segmenter):
    video = torch.rand(2, 4, 1, 16, 16)
    filtered = segmenter.filter(video, reach=2)
    assert len(filtered.shapes) == 4 and len(filtered.matches) == len(filtered.residuals) == 3
    assert filtered.layers.colour.shape == (2, 2, 1, 16, 16) and filtered.layers.alpha.shape == (2, 2, 1, 16, 16)
    assert all(part.isfinite().all() and part.min() >= 0 for part in filtered.layers)


def test_later_frames_change_nothing_that_was_filtered_before(segmenter):
    video = torch.rand(1, 5, 1, 16, 16)
    whole, part = segmenter.filter(video, reach=2), segmenter.filter(video[:, :3], reach=2)
    for a, b in zip(whole.shapes[:3], part.shapes, strict=True):
        torch.testing.assert_close(a.coordinates, b.coordinates)
    for a, b in zip(whole.matches[:2], part.matches, strict=True):
        assert torch.equal(a.displacement, b.displacement)


def test_what_leaves_the_frame_comes_back_whole():
    colour = torch.zeros(1, 1, 1, 16, 16)
    colour[..., 2:6, 9:14] = torch.rand(4, 5)
    layers = Layers(torch.zeros(1, 1, 16, 16), colour, torch.zeros(1, 1, 1, 16, 16))
    offsets = torch.tensor([2, 5, 3, 0])  # 3 of its 5 columns leave
    video = torch.stack([composite(layers.moved(torch.tensor([[[0, x]]]))) for x in offsets], dim=1)
    tracked = track(layers, video, reach=3)
    steps = [int(m.displacement[0, 0, 1]) for m in tracked.matches]
    assert steps == [2, 3, -2, -3]
    assert max(float(r.abs().max()) for r in tracked.residuals) < 1e-5


@pytest.mark.slow
def test_layers_are_learned_from_motion_alone():
    """Two digits come apart within 600 clips: moved, they show the future with a tenth of a copy's error."""
    videos = MovingMNIST(MovingMNISTConfig(frames=10, strokes=1.0), None, "train")
    segmenter = Segmenter(count=2, channels=1, width=16)
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=2e-3)
    for step in range(150):
        video = (videos.batch(4, 0, step).video + 1) / 2
        filtered = segmenter.filter(video[:, :4], reach=5)
        ahead = torch.stack(track(filtered.layers, video[:, 4:], reach=5).residuals).square().mean()
        known = torch.stack(filtered.residuals).square().mean()
        optimizer.zero_grad()
        (100 * (filtered.mismatch + known + 2 * ahead)).backward()
        torch.nn.utils.clip_grad_norm_(segmenter.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        video = (videos.batch(16, 1, 0).video + 1) / 2
        filtered = segmenter.filter(video[:, :5], reach=5)
        ahead = torch.stack(track(filtered.layers, video[:, 5:], reach=5).residuals).square().mean()
    copied = (video[:, 5:] - video[:, 4:5]).square().mean()
    assert ahead < 0.1 * copied


def ghosts(overlap: bool) -> Layers:
    """A square of which each of two layers has half the light, or two squares, one in each."""
    colour = torch.zeros(1, 2, 1, 16, 16)
    if overlap:
        colour[..., 4:9, 4:9] = 0.5
    else:
        colour[:, 0, :, 2:7, 2:7], colour[:, 1, :, 5:10, 6:11] = 0.9, 0.9
    return Layers(torch.full((1, 1, 16, 16), 0.1), colour, 0.3 * colour)


def test_layers_that_share_their_ink_become_one_and_show_the_same_frame():
    one = merged(layers := ghosts(overlap=True))
    torch.testing.assert_close(composite(one), composite(layers))
    assert not one.colour[:, 1].any() and not one.alpha[:, 1].any()


def test_layers_that_only_touch_stay_apart():
    for before, after in zip(layers := ghosts(overlap=False), merged(layers), strict=True):
        assert torch.equal(before, after)


def test_a_clip_is_merged_alone_and_in_front_of_others():
    apart, together = ghosts(overlap=False), ghosts(overlap=True)
    batch = Layers(*(torch.cat(parts) for parts in zip(apart, together, strict=True)))
    third = torch.zeros(2, 1, 1, 16, 16)
    third[..., 12:15, 8:15] = 0.7
    layers = Layers(batch.background, torch.cat([third, batch.colour], 1), torch.cat([third, batch.alpha], 1))
    one = merged(layers)
    torch.testing.assert_close(composite(one), composite(layers))
    assert torch.equal(one.colour[0], layers.colour[0]) and not one.colour[1, 2].any()


@pytest.mark.parametrize("model", ["digits-stt", "digits-transframer"])
def test_a_digit_of_a_prompt_of_a_single_frame_is_not_torn_apart(model):
    prompt = read_clip(ASSETS / "prompts/four-falling.mp4", size=64, channels=1).video[:1]
    futures = stt.predict(stt.load(ASSETS / f"models/{model}.safetensors"), prompt, 5, seeds=[0, 1, 2, 3])
    light = ((futures + 1) / 2).square().sum(dim=(2, 3, 4)) / ((prompt + 1) / 2).square().sum()
    assert ((light > 0.85) & (light < 1.1)).all()  # two halves of it, moved apart, have half of the squares
