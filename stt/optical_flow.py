"""Backward optical flow (N, 2, H, W): for each pixel of a frame, where it was in the frame before, right and down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

FASTEST = 12.0  # pixels of flow beyond which a pixel counts no more than others
MIN_SIDE = 16  # pixels that DIS needs


def optical_flow(frames: Tensor, previous: Tensor) -> Tensor:
    """Flow of frames (N, C, H, W) in [-1, 1] to those before them, by OpenCV's DIS (arXiv 1603.03590) on the CPU."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    dis.setFinestScale(0)
    height, width = frames.shape[-2:]
    gray = ((torch.stack([frames, previous]).mean(dim=2) + 1) * 127.5).clamp(0, 255).round().byte().cpu().numpy()
    bars = [(0, max(MIN_SIDE - side, 0)) for side in (height, width)]
    gray = np.pad(gray, [(0, 0), (0, 0), *bars], mode="edge")
    flows = np.stack(
        [
            dis.calc(frame, before, np.zeros((*frame.shape, 2), np.float32))[:height, :width]
            for frame, before in zip(*gray, strict=True)
        ]
    )
    return rearrange(torch.from_numpy(flows), "n h w c -> n c h w").to(frames)


def warp(frames: Tensor, flow: Tensor, mode: str = "bicubic", corner: tuple[int, int] = (0, 0)) -> Tensor:
    """Frames (N, C, H, W) as seen along backward flow; borders repeat.

    corner: row and column of the flow's first pixel, where it covers a part of the frames alone.
    """
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(
        *(
            torch.arange(first, first + side, device=frames.device)
            for first, side in zip(corner, flow.shape[-2:], strict=True)
        ),
        indexing="ij",
    )
    x = (x + flow[:, 0]) * (2 / max(width - 1, 1)) - 1  # numbers, not a tensor of them: a GPU is not waited for
    y = (y + flow[:, 1]) * (2 / max(height - 1, 1)) - 1
    place = torch.stack([x, y], dim=-1)
    return F.grid_sample(frames, place, mode=mode, padding_mode="border", align_corners=True)


def carry(flow: Tensor) -> Tensor:
    """The flow of the next frame if all that moves keeps its velocity, and its coverage: (N, 2, H, W) -> (N, 3, H, W).

    Softmax splatting (arXiv 2003.05534): each pixel takes its flow along; of several that arrive at a place the fastest
    counts most. Coverage, up to 1, says how many arrive. Where none does, something is uncovered; the flow there
    stays that of what has left, which leads to what lies behind it.
    """
    n, _, height, width = flow.shape
    y, x = torch.meshgrid(*(torch.arange(side, device=flow.device) for side in (height, width)), indexing="ij")
    at_x, at_y = x - flow[:, 0], y - flow[:, 1]
    left, top = at_x.floor(), at_y.floor()
    weight = flow.norm(dim=1).clamp(max=FASTEST).exp()
    sums = flow.new_zeros(n, 4, height * width)  # of weights, of both flows by weight, of pixels
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixels = (1 - (at_x - column).abs()) * (1 - (at_y - row).abs()) * inside
        parts = torch.stack([weight, weight * flow[:, 0], weight * flow[:, 1], torch.ones_like(weight)], dim=1)
        place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
        place = place.flatten(1)[:, None].expand(-1, 4, -1)
        sums = sums.scatter_add(2, place, (parts * pixels[:, None]).flatten(2))
    sums = sums.unflatten(2, (height, width))
    coverage = sums[:, 3:].clamp(max=1)
    moved = sums[:, 1:3] / sums[:, :1].clamp(min=1e-6)
    return torch.cat([torch.lerp(flow, moved, (3 * coverage).clamp(max=1)), coverage], dim=1)


def extrapolated(last: Tensor, velocity: Tensor, frames: int) -> Tensor:
    """The frames (frames, C, H, W) that follow a last one (1, C, H, W) where its flow (1, 2, H, W) goes on.

    Semi-Lagrangian: the flow is carried along itself from frame to frame. Pixels come from the last frame, along the
    flows of all steps, so that they are interpolated once. The border's pixels continue beyond it.
    """
    total, steps = torch.zeros_like(velocity), []
    for _ in range(frames):
        origin = velocity
        for _ in range(3):  # the flow that a pixel arrives with is that of where it comes from
            origin = warp(velocity, origin, "bilinear")
        velocity = origin
        total = velocity + warp(total, velocity, "bilinear")
        steps.append(total)
    return warp(last.expand(frames, -1, -1, -1), torch.cat(steps), "bilinear")


MIXED = 1.0  # pixels between flows of one place that make its origin uncertain


class Origin(NamedTuple):
    """Where the pixels of predicted frames come from, so that they are interpolated once and stay sharp."""

    frames: Tensor  # (N, C, H, W) the last true ones
    flow: Tensor  # (N, 2, H, W) from the predicted frames back to these
    certainty: Tensor  # (N, 1, H, W) 1 where a pixel is a copy, 0 where it is mixed or new

    @classmethod
    def of(cls, frames: Tensor) -> Origin:
        """Of frames that are true."""
        n, _, height, width = frames.shape
        return cls(frames, frames.new_zeros(n, 2, height, width), frames.new_ones(n, 1, height, width))

    def moved(self, flow: Tensor) -> Origin:
        """Of frames that lie along backward flow (N, 2, H, W) of the present ones."""
        carried = warp(torch.cat([self.flow, self.certainty], dim=1), flow, "bilinear")
        return Origin(self.frames, flow + carried[:, :2], carried[:, 2:])

    def pixels(self, others: Tensor) -> Tensor:
        """(N, C, H, W): the true frames' pixels, and others where their origin is uncertain."""
        return torch.lerp(others, warp(self.frames, self.flow), self.certainty)

    @classmethod
    def mixed(cls, origins: list[Origin], shares: Tensor) -> Origin:
        """Of frames that mix others in shares (N, S, H, W): the less certain, the further their origins are apart."""
        flows = torch.stack([one.flow for one in origins], dim=1)  # (N, S, 2, H, W)
        certainty = torch.stack([one.certainty for one in origins], dim=1)
        shares = shares[:, :, None]
        total = shares.sum(dim=1).clamp(min=1e-6)
        flow = (shares * flows).sum(dim=1) / total
        variance = (shares * (flows - flow[:, None]).square()).sum(dim=(1, 2))[:, None] / total
        return cls(origins[0].frames, flow, (shares * certainty).sum(dim=1) * torch.exp(-variance / MIXED**2))


class Composition(NamedTuple):
    """Frames that are composed of sources."""

    frames: Tensor  # (N, C, H, W)
    flow: Tensor | None  # (N, 2, H, W) their mean backward flow, where there is motion to change
    origin: Origin | None


def compose(
    flows: Tensor,
    masks: Tensor,
    pixels: Tensor,
    frames: Tensor,
    reference: Tensor,
    motion: Tensor | None,
    origin: Origin | None = None,
) -> Composition:
    """The next frames (N, C, H, W): the sum of all sources under the softmax of their masks (N, K + 3, h, w).

    Sources are the last frames (N, C, H, W), these warped along K flows (N, K, 2, h, w), the reference frames, and
    decoded pixels (N, C, h, w). motion (N, 2, h', w'): half of the flows, the first included, are changes of it.
    origin: of the last frames; where it is certain, the true frames' pixels take the place of theirs.
    """
    height, width = frames.shape[-2:]
    size, count = (height, width), flows.shape[1]
    bias = masks.new_zeros(count + 3)
    if motion is None:
        bias[0] = 2.0
    else:
        bias[1] = 4.0
    masks = resize(masks + bias[:, None, None], size).softmax(dim=1)
    large = [resize_flow(flow, size) for flow in flows.unbind(dim=1)]
    if motion is not None:
        motion = resize_flow(motion, size)
        large = [flow + motion if k < (count + 1) // 2 else flow for k, flow in enumerate(large)]
    copies, shares = [frames, *(warp(frames, flow) for flow in large)], masks[:, : 1 + count]
    if origin is not None:
        origins = [origin, *(origin.moved(flow) for flow in large)]
        copies = [one.pixels(copy) for one, copy in zip(origins, copies, strict=True)]
        origin = Origin.mixed(origins, shares)
    weights = masks.split(1, dim=1)  # K + 3 of (N, 1, H, W)
    composed = weighted_sum([*copies, reference, resize(pixels, size)], weights)
    if motion is None:
        return Composition(composed, None, origin)
    flow = weighted_sum(large, weights[1 : 1 + count]) / shares.sum(dim=1, keepdim=True)
    return Composition(composed, flow, origin)


def weighted_sum(images: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """The sum of images (N, C, H, W) times weights (N, 1, H, W), without a stack of them all in memory."""
    total = images[0] * weights[0]
    for image, weight in zip(images[1:], weights[1:], strict=True):
        total = torch.addcmul(total, image, weight)
    return total


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Flow (N, 2, H, W) for frames of another size (height, width), in their pixels."""
    height, width = flow.shape[-2:]
    if (height, width) == size:
        return flow
    x, y = resize(flow, size).unbind(dim=1)
    return torch.stack([x * (size[1] / width), y * (size[0] / height)], dim=1)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) at another size (height, width): area averages where it shrinks, else bilinear."""
    if x.shape[-2:] == size:
        return x
    if size[0] <= x.shape[-2] and size[1] <= x.shape[-1]:
        return F.interpolate(x, size=size, mode="area")
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
