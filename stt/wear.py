"""Frames as drift leaves them, for a network that is to learn to mend them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stt.api import Video

MOVED = 0.1  # of the range -1 to 1, in any channel
TURN = 0.9  # radians, the largest standard deviation of the hue's turn


def worn(video: Video, given: int) -> Video:
    """Clips (B, T, 3, H, W) in [-1, 1], from frame `given` on softer and of other hues where they are unlike the last
    frame before: a past that is as imperfect as predictions are (conditioning augmentation, arXiv 2106.15282).

    How much is another draw for each clip, which way hues turn for each region of it. What stands still stays.
    """
    b, t, _, height, width = video.shape
    flat = video.flatten(0, 1)
    soft = flat
    for _ in range(2):
        soft = F.avg_pool2d(F.pad(soft, [1] * 4, mode="replicate"), 3, stride=1)
    softness = torch.rand(b, 1, 1, 1, device=video.device)
    angle = TURN * torch.rand(b, 1, 1, 1, device=video.device) * torch.randn(b, 1, 4, 4, device=video.device)
    angle = F.interpolate(angle, size=(height, width), mode="bilinear")
    softness, angle = (of.repeat_interleave(t, dim=0) for of in (softness, angle))
    other = hue_turned(flat + softness * (soft - flat), angle)
    moved = (video - video[:, given - 1 : given]).abs().amax(dim=2, keepdim=True) > MOVED
    moved = F.max_pool2d(moved.flatten(0, 1).to(video.dtype), 3, stride=1, padding=1)
    moved = F.avg_pool2d(moved, 3, stride=1, padding=1)
    late = (torch.arange(t, device=video.device) >= given).repeat(b)[:, None, None, None]
    return torch.where(late, flat + moved * (other - flat), flat).clamp(-1, 1).unflatten(0, (b, t))


def hue_turned(frames: Tensor, angle: Tensor) -> Tensor:
    """Colours (N, 3, H, W) turned around the axis of greys by radians (N, 1, H, W); greys stay."""
    grey = frames.mean(dim=1, keepdim=True)
    across = (frames.roll(1, dims=1) - frames.roll(2, dims=1)) / 3**0.5
    return grey + angle.cos() * (frames - grey) + angle.sin() * across
