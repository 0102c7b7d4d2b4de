"""Segmenter: which pixels of a frame belong to which motion layer, learned from how they move."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stt.layers import AttentionBlock, ResBlock, UNet, group_norm
from stt.motion import Layers, Match, Shape, composite, leaky_clamp, match, shape_of, shift

OVERLAP = 0.3  # share of the fainter of two layers' ink that both show; above it they are one thing


class Filtered(NamedTuple):
    """Clips as layers, filtered frame by frame."""

    layers: Layers  # after the last frame
    history: list[Layers]  # after every frame
    shapes: list[Shape]  # of every frame
    matches: list[Match]  # from every frame to the next, (T - 1)
    residuals: list[Tensor]  # (B, C, H, W) of every frame but the first: the frame that the moved layers show, minus it
    mismatch: Tensor  # scalar: mean squared error between each frame and the layers made of it


class Tracked(NamedTuple):
    """Fixed layers, followed through frames."""

    matches: list[Match]
    residuals: list[Tensor]  # (B, C, H, W), as `Filtered.residuals`


class Segmenter(nn.Module):
    """Updates layers by one frame: a recurrent U-Net with attention at its coarsest scale.

    Inputs are the frame, the layers moved to where they match it best, and, for each layer, how far the previous frame
    moved along with it differs from the frame: pixels that move with a layer belong to it. Outputs are masks: each
    layer keeps a share of its own pixels and takes a share of the frame's. Sides of frames are multiples of 8.
    """

    def __init__(self, count: int, channels: int, width: int) -> None:
        super().__init__()
        self.count = count
        widths = width, 2 * width, 3 * width
        self.unet = UNet(
            channels=3 * channels + count * (2 * channels + 1) + 1,
            out=3 * count + 2,
            widths=widths,
            ups=(up(2 * width, width), up(3 * width, 2 * width)),
            decoders=(nn.Sequential(ResBlock(width), group_norm(width), nn.SiLU()), ResBlock(2 * width)),
            bottleneck=nn.Sequential(*(layer(3 * width) for layer in (ResBlock, AttentionBlock) * 2)),
        )

    def forward(self, frame: Tensor, layers: Layers | None, previous: Tensor | None) -> Layers:
        """frame (B, C, H, W), layers moved to it, previous (B, K, C, H, W): the previous frame moved with each layer.

        layers and previous are None at the first frame.
        """
        first = layers is None
        if first:
            previous = torch.zeros_like(frame)[:, None].expand(-1, self.count, -1, -1, -1)
            layers = Layers(torch.zeros_like(frame), previous, torch.zeros_like(previous[:, :, :1]))
        images = [frame, composite(layers), layers.background, layers.colour.flatten(1, 2), layers.alpha.flatten(1, 2)]
        images += [(frame[:, None] - previous).abs().flatten(1, 2), torch.full_like(frame[:, :1], float(not first))]
        masks = self.unet(torch.cat(images, dim=1) - 0.25)[:, :, None]  # (B, 3K + 2, 1, H, W)
        take, keep, opaque = masks.split([self.count + 1, self.count + 1, self.count], dim=1)
        take, opaque = take.softmax(dim=1), opaque.sigmoid()
        keep = torch.zeros_like(keep) if first else keep.sigmoid()
        return Layers(
            keep[:, 0] * layers.background + take[:, 0] * frame,
            keep[:, 1:] * layers.colour + take[:, 1:] * frame[:, None],
            keep[:, 1:] * layers.alpha + take[:, 1:] * opaque,
        )

    @property
    def frozen(self) -> bool:
        return not any(p.requires_grad for p in self.parameters())

    def filter(self, video: Tensor, reach: int) -> Filtered:
        """Frames (B, T, C, H, W) on [0, 1], one after the other. Without gradients where it is frozen."""
        with torch.no_grad() if self.frozen else nullcontext():
            return self._filter(video, reach)

    def _filter(self, video: Tensor, reach: int) -> Filtered:
        layers, previous = None, None
        history, shapes, matches, residuals, mismatch = [], [], [], [], []
        for t, frame in enumerate(video.unbind(dim=1)):
            if t:
                matches.append(match(layers, frame, reach))
                displacement = matches[-1].displacement
                layers = layers.moved(displacement)
                residuals.append(leaky_clamp(composite(layers)) - frame)
                copies = video[:, t - 1].repeat_interleave(self.count, dim=0)
                previous = shift(copies, displacement.flatten(0, 1)).unflatten(0, (-1, self.count))
            layers = self(frame, layers, previous)
            history.append(layers)
            shapes.append(shape_of(layers))
            mismatch.append((leaky_clamp(composite(layers)) - frame).square().mean())
        return Filtered(layers, history, shapes, matches, residuals, torch.stack(mismatch).mean())

    def start(self, prompt: Tensor, reach: int) -> Filtered:
        """As `filter`, of a prompt to predict from; layers of a single frame are `merged`."""
        filtered = self.filter(prompt, reach)
        if prompt.shape[1] > 1:
            return filtered
        layers = merged(filtered.layers)
        return filtered._replace(layers=layers, history=[layers], shapes=[shape_of(layers)])


def merged(layers: Layers) -> Layers:
    """Layers of which neighbours that share their ink, pixel by pixel, are one. Composited they show the same frame.

    A single frame has no motion that tells layers apart: each takes a share of the same thing, and moved apart they
    would be two ghosts of it.
    """
    colour, alpha = list(layers.colour.unbind(dim=1)), list(layers.alpha.unbind(dim=1))
    for back, front in reversed(list(pairwise(range(len(colour))))):
        a, b = (colour[k].mean(dim=1).clamp(0, 1) for k in (back, front))  # (B, H, W)
        ink = torch.minimum(a.sum(dim=(1, 2)), b.sum(dim=(1, 2))).clamp(min=1)
        one = (torch.minimum(a, b).sum(dim=(1, 2)) > OVERLAP * ink)[:, None, None, None]
        both = colour[front] + (1 - alpha[front]) * colour[back]
        opaque = 1 - (1 - alpha[front]) * (1 - alpha[back])
        colour[back], alpha[back] = torch.where(one, both, colour[back]), torch.where(one, opaque, alpha[back])
        colour[front], alpha[front] = colour[front] * ~one, alpha[front] * ~one
    return Layers(layers.background, torch.stack(colour, dim=1), torch.stack(alpha, dim=1))


def check_segmenter(image_size: int, width: int, reach: int) -> None:
    """Raises ValueError for sizes of frames, channels and displacements that a segmenter does not take."""
    if image_size % 8:
        raise ValueError(f"image_size {image_size} is not a multiple of 8, as the layers' segmenter needs")
    if width < 16 or width % 16:
        raise ValueError(f"segmenter_width is {width}, must be a multiple of 16")
    if reach < 1:
        raise ValueError(f"reach is {reach}, must be at least 1 with layers")


def up(coarse: int, fine: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(coarse, fine, 1), nn.Upsample(scale_factor=2.0))


def track(layers: Layers, video: Tensor, reach: int) -> Tracked:
    """Moves layers of one frame to match each of the frames after it, (B, T, C, H, W) on [0, 1]."""
    matches: list[Match] = []
    residuals: list[Tensor] = []
    offset: Tensor | int = 0
    for frame in video.unbind(dim=1):
        current = layers if not matches else layers.moved(offset)
        matches.append(match(current, frame, reach))
        offset = offset + matches[-1].displacement
        residuals.append(leaky_clamp(composite(layers.moved(offset))) - frame)
    return Tracked(matches, residuals)
