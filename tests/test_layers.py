from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from stt.api import Batch
from stt.layers import Attention, AttentionBlock, ConvMLP, attend, patchify, rotary, rotate, unpatchify
from stt.object_segmenter import light_unet
from stt.registry import TOKENIZERS
from stt.tokenizer import FrameVQ, FrameVQConfig, frozen_codes
from tests.conftest import TINY_TOKENIZER, TINY_VIDEO_TOKENIZER, lively


def test_unpatchify_is_the_inverse_of_patchify():
    video = torch.randn(2, 3, 3, 16, 24)
    assert torch.equal(unpatchify(patchify(video, 4), 4), video)


def test_a_patch_is_a_square_of_its_frame():
    video = torch.zeros(1, 1, 8, 8)
    video[..., 4:, :4] = 1
    patches = patchify(video, 4)
    assert patches[0, :, 1, 0].eq(1).all() and patches.sum() == 16


def test_frames_that_no_patch_divides_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"\(9, 8\) is not a multiple of patch 4"):
        patchify(torch.zeros(1, 1, 9, 8), 4)


def test_rotary_scores_depend_on_the_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(1, 8), torch.randn(1, 8)

    def score(a: int, b: int) -> torch.Tensor:
        at = [rotary(torch.tensor([p]), 8, longest=32.0) for p in (a, b)]
        return (rotate(q, *at[0]) * rotate(k, *at[1])).sum()

    torch.testing.assert_close(score(3, 1), score(103, 101))
    assert not torch.isclose(score(3, 1), score(4, 1))


def test_attention_blocks_keep_the_shape_and_mix_positions():
    block = AttentionBlock(16)
    x = torch.randn(1, 16, 4, 4)
    other = x.clone()
    other[..., 0, 0] += 1
    changed = (block(x) - block(other)).abs().amax(dim=1)[0]
    assert block(x).shape == x.shape and (changed > 0).all()


@pytest.mark.parametrize("kind", ["all", "causal", "masked"])
def test_attention_in_training_gives_what_the_fused_kernel_gives(kind):
    q, k, v = (torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3))
    mask = torch.rand(2, 1, 9, 9).ge(0.5).logical_or(torch.eye(9, dtype=torch.bool)) if kind == "masked" else None
    ours = attend(q, k, v, mask, causal=kind == "causal")
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=kind == "causal")
    torch.testing.assert_close(ours, fused)
    weights = torch.randn_like(fused)
    gradients = [torch.autograd.grad((weights * out).sum(), (q, k, v)) for out in (ours, fused)]
    torch.testing.assert_close(*gradients)
    assert "Flash" not in type(ours.grad_fn).__name__


def test_the_mlp_reaches_one_position_far():
    mlp = ConvMLP(8, 2)
    x = torch.randn(1, 5, 5, 8)
    other = x.clone()
    other[0, 2, 2] += 1
    changed = (mlp(x) - mlp(other)).abs().amax(dim=-1)[0] > 0
    assert changed[1:4, 1:4].all() and changed.sum() == 9


def test_heads_that_do_not_divide_the_width_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match="dim 20 is not a multiple of 4 x 2 heads"):
        Attention(20, 2)


def test_a_tokenizer_gives_a_grid_of_codes_and_frames_back():
    config = TINY_TOKENIZER
    model = FrameVQ(config).eval()
    video = torch.rand(2, 3, 1, 16, 16) * 2 - 1
    codes = model.encode(video)
    assert codes.ids.shape == (2, 3, 4, 4, 3)
    assert model.decode(codes.latents).shape == video.shape
    torch.testing.assert_close(model.quantizer.embed(codes.ids), codes.latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["frame_vq", "video_vq"])
def test_a_tokenizer_learns_to_reconstruct(name):
    config = {"frame_vq": replace(TINY_TOKENIZER, levels=(8, 8, 8)), "video_vq": TINY_VIDEO_TOKENIZER}[name]
    model = TOKENIZERS[name](config).train()
    frames = torch.zeros(16, 2, 1, 16, 16) - 1
    for i in range(16):
        frames[i, :, :, i // 4 * 4 : i // 4 * 4 + 4, i % 4 * 4 : i % 4 * 4 + 4] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        loss = model.loss(Batch(frames))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.parts["mse"]))
    assert losses[-1] < 0.1 * losses[0]


def test_a_frozen_tokenizer_gives_the_same_codes_under_autocast():
    model, video = lively(FrameVQ(TINY_TOKENIZER)).eval(), torch.rand(8, 3, 1, 16, 16) * 2 - 1
    codes = model.encode(video)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model.encode(video).ids, codes.ids)
        assert torch.equal(frozen_codes(model, video).ids, codes.ids)


def test_tokenizer_frames_do_not_see_each_other():
    model = FrameVQ(TINY_TOKENIZER).eval()
    video = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    torch.testing.assert_close(model.encode(video).latents[:, 1:2], model.encode(video[:, 1:2]).latents)


def test_a_size_that_downsampling_does_not_divide_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="image_size 20 is not a multiple of downsampling 8"):
        FrameVQConfig(image_size=20)


@pytest.mark.parametrize("scales", [2, 3])
def test_a_u_net_keeps_the_frames_size_and_each_pixel_sees_far_more_than_its_neighbours(scales):
    frames = torch.randn(2, 3, 32, 32, requires_grad=True)
    out = light_unet(3, 5, 8, scales)(frames)
    assert out.shape == (2, 5, 32, 32)
    out[0, :, 16, 16].sum().backward()
    assert frames.grad[0, :, 4, 16].any() and not frames.grad[1].any()
