"""Optical flow: interpolation and extrapolation along it, and the sideways motion of whole frames."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from stt.api import Video
from stt.optical_flow import extrapolated, optical_flow, warp

Flow = Callable[[Tensor, Tensor], Tensor]  # two frames (C, H, W) on [0, 1] -> pixels (H, W, 2) from one to the other


def farneback(first: Tensor, last: Tensor) -> Tensor:
    """Flow from one frame to another, (C, H, W) on [0, 1] each -> (H, W, 2) pixels (x, y).

    OpenCV's Farneback (2003) on gray levels, with its usual settings.
    """
    import cv2  # lazily: nothing else that scores a model needs it

    flow = cv2.calcOpticalFlowFarneback(_gray(first), _gray(last), None, 0.5, 3, 15, 3, 5, 1.2, 0)
    return torch.from_numpy(flow).to(first.device)


def dis(first: Tensor, last: Tensor) -> Tensor:
    """As `farneback`, by dense inverse search (Kroeger et al. 2016, arXiv 1603.03590) down to single pixels."""
    return optical_flow(2 * first[None] - 1, 2 * last[None] - 1)[0].movedim(0, -1)


def _gray(frame: Tensor) -> np.ndarray:
    return np.ascontiguousarray((255 * frame.mean(dim=0)).byte().cpu().numpy())


def interpolated(first: Tensor, last: Tensor, frames: int) -> Video:
    """Two frames (C, H, W) on [0, 1] -> the frames between them (frames, C, H, W), warped along flow, then blended.

    Flow goes both ways; each end is warped backward to each time, as if the flow there were that at its own pixels.
    """
    ahead, back = farneback(first, last), farneback(last, first)
    share = torch.arange(1, frames + 1, device=first.device)[:, None, None, None] / (frames + 1)
    ahead, back = ahead.movedim(-1, 0), back.movedim(-1, 0)
    first, last = (frame.expand(frames, -1, -1, -1) for frame in (first, last))
    return (1 - share) * warp(first, -share * ahead, "bilinear") + share * warp(last, -(1 - share) * back, "bilinear")


def carried_on(before: Tensor, last: Tensor, frames: int, flow: Flow = farneback) -> Video:
    """Two successive frames (C, H, W) on [0, 1] -> those that follow at constant velocity: (frames, C, H, W)."""
    return extrapolated(last[None], flow(last, before).movedim(-1, 0)[None], frames)


def sideways_motion(video: Video) -> Tensor:
    """Motion to the right between frames (T >= 2, C, H, W) on [0, 1], in pixels: (T-1,).

    The mean flow of the upper half, which shows distant things to a camera that looks ahead: it goes left in a right
    turn.
    """
    flows = torch.stack([farneback(*pair) for pair in pairwise(video)])  # (T-1, H, W, 2)
    return flows[:, : flows.shape[1] // 2, :, 0].mean(dim=(1, 2))
