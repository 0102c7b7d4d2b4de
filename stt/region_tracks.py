"""Regions and the ground in numbers: how they moved, and which share of their velocity they kept after a prompt."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stt.optical_flow import warp
from stt.persistence import EVIDENCE, NOISE, SHARES

SPEED = 4.0  # pixels a frame, at a longer side of 256, where a token's number is 1
LOST = 0.02  # squared error of a region's colours, on [0, 1], beyond which a future frame does not show it


def motion_features(
    places: np.ndarray, mask: np.ndarray, turn: complex, longer: int, rigidity: float = 1.0
) -> np.ndarray:
    """Numbers (T - 1, 8) of a region that was at places (T, 2) relative to its mask (H, W), in time's order."""
    rows, columns = np.nonzero(mask)
    unit = SPEED * longer / 256
    steps = np.diff(places, axis=0) if len(places) > 1 else np.zeros((1, 2))
    centre = np.array([columns.mean(), rows.mean()]) if len(rows) else np.zeros(2)
    at = (centre + (places[1:] if len(places) > 1 else places)) / longer
    speed = np.log1p(np.hypot(*steps.T) / unit)
    rest = np.array([math.sqrt(len(rows)) / longer, 10 * (abs(turn) - 1), rigidity])
    return np.concatenate([steps / unit, at, speed[:, None], np.broadcast_to(rest, (len(steps), 3))], axis=1)


def ground_features(cameras: list[np.ndarray], mask: np.ndarray, longer: int) -> np.ndarray:
    """The same of the ground under a mask, from T flows of the camera in time's order; the first is not used."""
    pans = [-camera.mean(axis=(0, 1)) for camera in cameras]
    features = motion_features(np.cumsum(pans, axis=0), mask, 1 + 0j, longer)
    if len(cameras) > 1:  # zoom and turns move pixels where the mean stands still
        speeds = np.array([np.hypot(*np.moveaxis(camera, -1, 0)).mean() for camera in cameras[1:]])
        features[:, 4] = np.log1p(speeds / (SPEED * longer / 256))
        right = np.gradient(cameras[-1][..., 0], axis=1).mean()
        features[:, 6] = -10 * (right + np.gradient(cameras[-1][..., 1], axis=0).mean()) / 2
    return features


def visible_frames(mask: np.ndarray, frames: np.ndarray, places: np.ndarray) -> int:
    """How many frames after the first of (T, H, W, 3) show the region there that the first one has under a mask."""
    rows, columns = np.nonzero(mask)
    colours = frames[0][rows, columns].astype(np.float32)
    for k in range(1, len(frames)):
        at = np.round(np.stack([rows + places[k, 1], columns + places[k, 0]])).astype(int)
        inside = (at >= 0).all(axis=0) & (at[0] < mask.shape[0]) & (at[1] < mask.shape[1])
        if inside.mean() < 0.5:
            return k - 1
        there = frames[k][at[0][inside], at[1][inside]].astype(np.float32)
        if np.square((there - colours[inside]) / 255).mean() > LOST:
            return k - 1
    return len(frames) - 1


def share_chances(velocity: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Chances (S,) of shares by how far they lead from the places (T, 2) where a region went, frame by frame."""
    frames = np.arange(1, len(places) + 1)
    motion = np.cumsum(np.array(SHARES)[:, None] ** frames, axis=1)  # (S, T)
    off = np.linalg.norm(motion[..., None] * velocity - places, axis=-1)
    spread = 0.5 + 0.3 * np.hypot(*velocity) * np.sqrt(frames)
    errors = np.square(off / spread).mean(axis=1) * min(len(places), 4) / 2
    chances = np.exp(-(errors - errors.min()))
    return (chances / chances.sum()).astype(np.float32)


def ground_share_chances(ahead: Tensor, flow: Tensor, hidden: Tensor) -> Tensor:
    """Chances (S,) of shares of the ground's velocity by how well they forecast frames.

    ahead (1 + K, C, h, w): a prompt's last frame and those after it. flow (2, h, w): of the ground, to the frame before
    the last. hidden (h, w), bool: where the last frame does not show the ground.
    """
    shares = torch.tensor(SHARES)[:, None, None, None].expand(-1, 1, *flow.shape[-2:])
    velocity, share, path = flow.expand(len(SHARES), -1, -1, -1), shares, torch.zeros(len(SHARES), *flow.shape)
    errors = torch.zeros(len(SHARES))
    first, clear = ahead[:1].expand(len(SHARES), -1, -1, -1), (~hidden).float().expand(len(SHARES), 1, -1, -1)
    for frame in ahead[1:]:
        velocity, share, path = advanced(velocity, share, path)
        visible = warp(clear, path, "bilinear")
        error = (warp(first, path) - frame).square().mean(dim=1, keepdim=True)
        errors += (visible * error).sum(dim=(1, 2, 3)) / visible.sum(dim=(1, 2, 3)).clamp(min=1)
    errors = errors / (len(ahead) - 1) + NOISE**2
    chances = (errors / errors.min()) ** -EVIDENCE
    return chances / chances.sum()


def advanced(velocity: Tensor, share: Tensor, path: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ground one frame later: velocity, the share of it that it keeps and path, all carried along itself.

    velocity (N, 2, h, w): its backward flow. path (N, 2, h, w): from the latest frame to the prompt's last one.
    """
    velocity = share * velocity
    origin = velocity
    for _ in range(2):  # the flow that a pixel arrives with is that of where it comes from
        origin = warp(velocity, origin, "bilinear")
    return origin, warp(share, origin, "bilinear"), origin + warp(path, origin, "bilinear")
