from __future__ import annotations

import pytest
import torch

from stt.layers import rotary, rotary_grid
from stt.transformer import GaussianLayer, Normal, SpaceTimeConfig, SpaceTimeTransformer
from tests.conftest import lively

CONFIG = SpaceTimeConfig(
    rows=4, columns=4, dim=16, depth=3, heads=2, mlp_ratio=2, window=4, gaussian_grid=(1, 4, 0), gaussian_dim=3
)  # fmt: skip


class Replay:
    """Gives each frame of each Gaussian layer the same noise, however the frames are fed."""

    def __init__(self, frames: int, seed: int = 0) -> None:
        self.noise = [torch.randn(frames, 3, g, g, generator=torch.Generator().manual_seed(seed)) for g in (1, 4)]
        self.offset, self.calls = 0, 0

    def __call__(self, prior, posterior):
        noise = self.noise[self.calls % 2][self.offset : self.offset + len(prior.mean)]
        self.calls += 1
        return (posterior or prior).sample(noise)


@pytest.fixture
def network():
    return lively(SpaceTimeTransformer(CONFIG)).eval()


@pytest.fixture
def frames():
    return torch.randn(1, 7, 4, 4, 16)


def test_cached_decoding_equals_the_whole_sequence_at_once_even_past_the_window(network, frames):
    whole = network(frames, Replay(7)).hidden
    cache, steps, replay = None, [], Replay(7)
    for t in range(7):
        replay.offset = t
        out = network(frames[:, t : t + 1], replay, cache=cache)
        cache = out.cache
        steps.append(out.hidden)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-4, rtol=1e-4)


def test_a_prompt_at_once_and_then_frame_by_frame_equals_all_at_once(network, frames):
    whole = network(frames, Replay(7)).hidden
    replay = Replay(7)
    prompt = network(frames[:, :5], replay)
    replay.offset = 5
    rest = network(frames[:, 5:], replay, cache=prompt.cache)
    torch.testing.assert_close(torch.cat([prompt.hidden, rest.hidden], dim=1), whole, atol=1e-4, rtol=1e-4)


def test_the_cache_never_holds_more_than_the_window(network, frames):
    cache = network(frames, Replay(7)).cache
    assert cache.keys[0].shape[3] == CONFIG.window - 1 and cache.time == 7


def test_changing_a_later_frame_never_changes_earlier_outputs(network, frames):
    other = frames.clone()
    other[:, 4] += torch.randn(4, 4, 16)
    a, b = network(frames, Replay(7)).hidden, network(other, Replay(7)).hidden
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])


def test_the_posterior_of_a_frame_does_not_reach_earlier_outputs(network, frames):
    target = torch.randn_like(frames)
    other = target.clone()
    other[:, 4] += torch.randn(4, 4, 16)
    a = network(frames, Replay(7), target=target).hidden
    b = network(frames, Replay(7), target=other).hidden
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4], b[:, 4])


def test_frames_that_left_the_window_are_forgotten_by_one_block():
    config = SpaceTimeConfig(**(vars(CONFIG) | {"depth": 1, "gaussian_grid": (0,)}))
    network = lively(SpaceTimeTransformer(config)).eval()
    frames = torch.randn(1, 7, 4, 4, 16)
    other = frames.clone()
    other[:, 1] += torch.randn(4, 4, 16)
    changed = (network(frames, None).hidden - network(other, None).hidden).abs().amax(dim=(0, 2, 3, 4)) > 1e-5
    assert changed.tolist() == [False, True, True, True, True, False, False]


def test_temporal_attention_keeps_to_its_position(network):
    block = network.blocks[0]
    time = rotary(torch.arange(3), 16 // CONFIG.heads, longest=32.0)
    x = torch.randn(1, 3, 4, 4, 16)
    other = x.clone()
    other[:, 0, 1, 2] += torch.randn(16)
    changed = (block.attend_time(x, time, None)[0] - block.attend_time(other, time, None)[0]).abs().amax(dim=-1) > 1e-6
    assert changed[0, :, 1, 2].all() and changed.sum() == 3


def test_spatial_attention_keeps_to_its_frame(network):
    block = network.blocks[0]
    space = rotary_grid(4, 4, 16 // CONFIG.heads, torch.device("cpu"))
    x = torch.randn(1, 3, 4, 4, 16)
    other = x.clone()
    other[0, 1, 0, 0] += torch.randn(16)
    changed = (block.attend_space(x, space) - block.attend_space(other, space))[0].abs().amax(dim=(1, 2, 3)) > 1e-6
    assert changed.tolist() == [False, True, False]


def test_the_expanded_cache_serves_futures_without_a_copy(network, frames):
    cache = network(frames, Replay(7)).cache
    many = cache.expand(5)
    assert many.keys[0].shape[0] == 5 and many.keys[0].data_ptr() == cache.keys[0].data_ptr()


def test_kl_agrees_with_torch():
    p, q = (Normal(torch.randn(3, 2, 2, 2), torch.randn(3, 2, 2, 2)) for _ in range(2))
    a, b = (torch.distributions.Normal(n.mean, (0.5 * n.logvar).exp()) for n in (p, q))
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(a, b))


def test_a_single_cell_moves_the_whole_frame():
    layer = lively(GaussianLayer(8, 2, cells=1))
    x = torch.randn(1, 4, 4, 8)
    still, _ = layer(x, None, lambda prior, _: prior.mean)
    moved, _ = layer(x, None, lambda prior, _: prior.mean + 1)
    delta = (moved - still)[0]
    torch.testing.assert_close(delta, delta[:1, :1].expand_as(delta))
    assert delta.abs().max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gaussian_grid": (1,)}, "names 1 blocks, depth is 3"),
        ({"gaussian_grid": (3, 1, 0)}, "3 does not divide"),
        ({"rows": 1}, "does not divide the frame's 1 x 4 tokens"),
    ],
)
def test_impossible_sizes_are_refused_with_the_numbers(change, message):
    with pytest.raises(ValueError, match=message):
        SpaceTimeConfig(**(vars(CONFIG) | change))
