"""Poses in the picture of what a frame of the tabletop shows, from poses in the world: what `layered` learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from train.sim.tabletop.scene import HALF

PUSHER_HEIGHT = 0.11  # metres of its ball's middle over the tray, give or take 0.01
AXES = {  # half lengths by which a shape's turns are seen, in metres, of its own x, y and z; 0 where it is round
    "box": (0.08, 0.08, 0.08), "tower": (0.05, 0.05, 0.13), "slab": (0.085, 0.135, 0.05), "can": (0.0, 0.0, 0.075),
    "column": (0.0, 0.0, 0.13), "ball": (0.0, 0.0, 0.0), "egg": (0.075, 0.11, 0.075), "ell": (0.08, 0.13, 0.06),
    "rod": (0.0, 0.0, 0.2),
}  # fmt: skip


def paths(cameras: Tensor, poses: Tensor, axes: Tensor, centroids: Tensor, size: int) -> Tensor:
    """Poses in the picture, as `stt.sprites` has them, of what each of the first R of T frames shows, by all frames:
    (B, R, T, K, 4), shift down and right in pixels, turn in radians, logarithm of growth.

    cameras (B, 13): rotation (9) and place (3) in the world, focal length in pixels. poses (B, T, K, 7): place and
    quaternion, w first, of the pusher and the objects; axes (B, K, 3): see AXES. centroids (B, R, K, 2): of the
    pixels that they are shown by, down and to the right, about which they turn. size: pixels a side.

    The turn is that of a body's axes in the picture, step by step: a slab turns as it does on the floor, a column
    where it falls over, the pusher's rod as it leans away from the picture's middle. What rolls keeps its face.
    """
    cameras, place = cameras[:, None, None], poses[..., :3]
    at = projected(place, cameras) + (size - 1) / 2  # (B, T, K, 2)
    tips = place[..., None, :] + (rotations(poses[..., 3:]) * axes[:, None, :, None]).mT  # (B, T, K, 3 axes, 3)
    tips = projected(tips, cameras[..., None, :]) + (size - 1) / 2 - at[..., None, :]
    (y, x), (v, u) = (of.unbind(dim=-1) for of in (tips[:, :-1], tips[:, 1:]))
    steps = torch.atan2((y * u - x * v).sum(dim=-1), (y * v + x * u).sum(dim=-1))
    turn = torch.cat([torch.zeros_like(steps[:, :1]), steps], dim=1).cumsum(dim=1)  # (B, T, K)
    near = -focal_depth(place, cameras).log()
    first = slice(centroids.shape[1])
    turn, growth = (of[:, None] - of[:, first, None] for of in (turn, near))  # (B, R, T, K)
    arm = (centroids - at[:, first])[:, :, None]  # (B, R, 1, K, 2) from the body's middle to that of what is seen of it
    y, x = arm.unbind(dim=-1)
    cos, sin = turn.cos() * growth.exp(), turn.sin() * growth.exp()
    shift = at[:, None] + torch.stack([cos * y - sin * x, sin * y + cos * x], dim=-1) - centroids[:, :, None]
    return torch.cat([shift, turn[..., None], growth[..., None]], dim=-1)


def floor(cameras: Tensor, size: int) -> Tensor:
    """Which pixels of pictures of `size` a side show the tray's floor, or would if nothing stood there, by cameras
    (B, 13): (B, size, size) bool."""
    across = torch.arange(size, device=cameras.device) - (size - 1) / 2
    rays = torch.stack([across.expand(size, size), -across[:, None].expand(size, size)], dim=-1)  # (H, W, 2)
    rays = torch.cat([rays / cameras[:, None, None, 12:], -torch.ones(len(cameras), size, size, 1).to(rays)], dim=-1)
    rays = (cameras[:, None, None, :9].unflatten(-1, (3, 3)) * rays[..., None, :]).sum(dim=-1)
    far = -cameras[:, None, None, 11:12] / rays[..., 2:].clamp(max=-1e-3)
    return ((cameras[:, None, None, 9:11] + far * rays[..., :2]).abs() < HALF).all(dim=-1)


def seen_by(points: Tensor, cameras: Tensor) -> Tensor:
    """Points (..., 3) in the world from cameras (..., 13): to the right, up and, negative, ahead."""
    return ((points - cameras[..., 9:12])[..., None] * cameras[..., :9].unflatten(-1, (3, 3))).sum(dim=-2)


def focal_depth(points: Tensor, cameras: Tensor) -> Tensor:
    """Metres (...) that points (..., 3) lie ahead of cameras (..., 13)."""
    return (-seen_by(points, cameras)[..., 2]).clamp_min(1e-3)


def projected(points: Tensor, cameras: Tensor) -> Tensor:
    """Points (..., 3) as cameras (..., 13) show them: (..., 2) pixels down and right of the picture's middle."""
    x, y, z = seen_by(points, cameras).unbind(dim=-1)
    return cameras[..., 12:] * torch.stack([-y, x], dim=-1) / (-z[..., None]).clamp_min(1e-3)


def rotations(turns: Tensor) -> Tensor:
    """Quaternions (..., 4), w first -> matrices (..., 3, 3) whose columns are a body's axes."""
    w, x, y, z = (turns / turns.norm(dim=-1, keepdim=True).clamp_min(1e-9)).unbind(dim=-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
