"""The segmenter: which pixels of a frame belong to which motion layer, learned from nothing but how they move on."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.layers import AttentionBlock, ResBlock, group_norm, patchify, unpatchify
from stt.motion import Layers, Match, Shape, composite, leaky_clamp, match, shape_of, shift

PATCH = 2  # pixels a side that the network takes as one place


class Filtered(NamedTuple):
    """A prompt as layers, frame by frame."""

    layers: Layers  # as the last frame shows them
    shapes: list[Shape]  # of every frame
    matches: list[Match]  # from every frame to the next, (T - 1)
    residuals: list[Tensor]  # (B, C, H, W) of every frame but the first: its moved layers' frame minus it
    mismatch: Tensor  # scalar: mean squared error of each frame and the layers that the segmenter made of it


class Segmenter(nn.Module):
    """Updates layers by one frame: a U-Net (arXiv 1505.04597) with attention at its coarsest scale.

    It sees the frame, the layers as they were, moved to where they match it best, and, for each, how far the frame
    before, moved along, differs: what moves with a layer belongs to it. Each layer keeps a share of its own pixels and
    takes a share of the frame's. Nothing else teaches it which pixels belong together than that layers moved as wholes
    must show the frames to come. Frames' sides are multiples of 8.
    """

    def __init__(self, count: int, channels: int, width: int) -> None:
        super().__init__()
        self.count = count
        seen = PATCH**2 * (3 * channels + count * (2 * channels + 1) + 1)
        self.enter = nn.Conv2d(seen, width, 3, padding=1)
        self.fine = ResBlock(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = ResBlock(2 * width)
        self.down_again = nn.Conv2d(2 * width, 3 * width, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(layer(3 * width) for layer in (ResBlock, AttentionBlock) * 2))
        self.up = nn.Conv2d(3 * width, 2 * width, 1)
        self.middle_again = ResBlock(2 * width)
        self.up_again = nn.Conv2d(2 * width, width, 1)
        self.fine_again = nn.Sequential(ResBlock(width), group_norm(width), nn.SiLU())
        self.leave = nn.Conv2d(width + seen, PATCH**2 * (3 * count + 2), 3, padding=1)

    def forward(self, frame: Tensor, layers: Layers | None, moved: Tensor | None) -> Layers:
        """A frame (B, C, H, W), the layers expected there, and the frame before moved along each (B, K, C, H, W).

        None where the clip begins.
        """
        first = layers is None
        if first:
            b, _, height, width = frame.shape
            moved = frame.new_zeros(b, self.count, *frame.shape[1:])
            layers = Layers(torch.zeros_like(frame), moved, frame.new_zeros(b, self.count, 1, height, width))
        begun = frame.new_full((len(frame), 1, *frame.shape[-2:]), float(not first))
        images = [frame, composite(layers), layers.background, layers.colour.flatten(1, 2), layers.alpha.flatten(1, 2)]
        images += [(frame[:, None] - moved).abs().flatten(1, 2), begun]
        seen = patchify(torch.cat(images, dim=1) - 0.25, PATCH)
        fine = self.fine(self.enter(seen))
        middle = self.middle(self.down(fine))
        coarse = self.coarse(self.down_again(middle))
        middle = self.middle_again(middle + F.interpolate(self.up(coarse), scale_factor=2.0))
        fine = self.fine_again(fine + F.interpolate(self.up_again(middle), scale_factor=2.0))
        with torch.autocast(frame.device.type, enabled=False):  # masks are to be exact
            out = self.leave(torch.cat([fine.float(), seen], dim=1))
        out = unpatchify(out, PATCH)[:, :, None]  # (B, 3K + 2, 1, H, W)
        take, keep, opaque = out.split([self.count + 1, self.count + 1, self.count], dim=1)
        take, opaque = take.softmax(dim=1), opaque.sigmoid()
        keep = torch.zeros_like(keep) if first else keep.sigmoid()
        return Layers(
            keep[:, 0] * layers.background + take[:, 0] * frame,
            keep[:, 1:] * layers.colour + take[:, 1:] * frame[:, None],
            keep[:, 1:] * layers.alpha + take[:, 1:] * opaque,
        )

    def filter(self, video: Tensor, reach: int) -> Filtered:
        """Frames (B, T, C, H, W) on [0, 1], one after the other, each seen once."""
        layers, moved = None, None
        shapes, matches, residuals, mismatch = [], [], [], []
        for t, frame in enumerate(video.unbind(dim=1)):
            if t:
                found = match(layers, frame, reach)
                matches.append(found)
                layers = layers.moved(found.displacement)
                residuals.append(leaky_clamp(composite(layers)) - frame)
                before = video[:, t - 1].repeat_interleave(self.count, dim=0)
                moved = shift(before, found.displacement.flatten(0, 1)).unflatten(0, (-1, self.count))
            layers = self(frame, layers, moved)
            shapes.append(shape_of(layers))
            mismatch.append((leaky_clamp(composite(layers)) - frame).square().mean())
        return Filtered(layers, shapes, matches, residuals, torch.stack(mismatch).mean())


class Tracked(NamedTuple):
    """Layers followed through frames, as they are."""

    matches: list[Match]
    residuals: list[Tensor]  # (B, C, H, W), as `Filtered.residuals`


def track(layers: Layers, video: Tensor, reach: int) -> Tracked:
    """Layers of the frame before frames (B, T, C, H, W) on [0, 1], moved to match each in turn."""
    matches, residuals, offset = [], [], 0
    for frame in video.unbind(dim=1):
        now = layers if not matches else layers.moved(offset)
        matches.append(match(now, frame, reach))
        offset = offset + matches[-1].displacement
        residuals.append(leaky_clamp(composite(layers.moved(offset))) - frame)
    return Tracked(matches, residuals)
