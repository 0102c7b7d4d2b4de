"""Optical flow: interpolation and extrapolation along it, and the sideways motion of whole frames."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stt.api import Video

Flow = Callable[[Tensor, Tensor], Tensor]  # two frames (C, H, W) on [0, 1] -> pixels (H, W, 2) from one to the other


def farneback(first: Tensor, last: Tensor) -> Tensor:
    """Flow from one frame to another, (C, H, W) on [0, 1] each -> (H, W, 2) pixels (x, y).

    OpenCV's Farneback (2003) on gray levels, with its usual settings.
    """
    import cv2  # lazily: nothing else that scores a model needs it

    flow = cv2.calcOpticalFlowFarneback(_gray(first), _gray(last), None, 0.5, 3, 15, 3, 5, 1.2, 0)
    return torch.from_numpy(flow).to(first.device)


def dis(first: Tensor, last: Tensor) -> Tensor:
    """As `farneback`, by dense inverse search (Kroeger et al. 2016, arXiv 1603.03590), OpenCV's preset `medium`."""
    import cv2

    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return torch.from_numpy(method.calc(_gray(first), _gray(last), None)).to(first.device)


def _gray(frame: Tensor) -> np.ndarray:
    return np.ascontiguousarray((255 * frame.mean(dim=0)).byte().cpu().numpy())


def interpolated(first: Tensor, last: Tensor, frames: int) -> Video:
    """Two frames (C, H, W) on [0, 1] -> the frames between them (frames, C, H, W), warped along flow, then blended.

    Flow goes both ways; each end is warped backward to each time, as if the flow there were that at its own pixels.
    """
    ahead, back = farneback(first, last), farneback(last, first)
    share = torch.arange(1, frames + 1, device=first.device)[:, None, None, None] / (frames + 1)
    return (1 - share) * _warped(first, -share * ahead) + share * _warped(last, -(1 - share) * back)


def extrapolated(before: Tensor, last: Tensor, frames: int, flow: Flow = farneback) -> Video:
    """Two successive frames (C, H, W) on [0, 1] -> those that follow at constant velocity: (frames, C, H, W).

    Semi-Lagrangian: flow goes from the last frame back to the one before, and is carried along itself from frame to
    frame. Pixels come from the last frame, along the flows of all steps, so that they are interpolated once. The
    border's pixels continue beyond it.
    """
    velocity = flow(last, before).movedim(-1, 0)  # (2, H, W): from a pixel to where it was a frame ago
    total, steps = torch.zeros_like(velocity), []
    for _ in range(frames):
        origin = velocity
        for _ in range(3):  # the flow that a pixel arrives with is that of where it comes from
            origin = _warped(velocity, origin.movedim(0, -1)[None])[0]
        velocity = origin
        total = velocity + _warped(total, velocity.movedim(0, -1)[None])[0]
        steps.append(total.movedim(0, -1))
    return _warped(last, torch.stack(steps))


def sideways_motion(video: Video) -> Tensor:
    """Motion to the right between frames (T >= 2, C, H, W) on [0, 1], in pixels: (T-1,).

    The mean flow of the upper half, which shows distant things to a camera that looks ahead: it goes left in a right
    turn.
    """
    flows = torch.stack([farneback(*pair) for pair in pairwise(video)])  # (T-1, H, W, 2)
    return flows[:, : flows.shape[1] // 2, :, 0].mean(dim=(1, 2))


def _warped(frame: Tensor, flow: Tensor) -> Video:
    """A frame (C, H, W) sampled where flows (N, H, W, 2) point to from every pixel, in pixels (x, y): (N, C, H, W)."""
    count, height, width, _ = flow.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([x, y], dim=-1).to(flow) + flow
    at = (2 * at + 1) / torch.tensor([width, height]).to(flow) - 1
    return F.grid_sample(frame.expand(count, -1, -1, -1), at, padding_mode="border", align_corners=False)
