"""Motion of tabletop objects in the image, from their poses in the world: what the family `layered` learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from train.sim.tabletop.scene import HALF

PUSHER_HEIGHT = 0.11  # metres of its ball's centre over the floor, give or take 0.01
AXES = {  # half lengths of a shape's own x, y and z axes that show its rotation, in metres; 0 where it is round
    "box": (0.08, 0.08, 0.08), "tower": (0.05, 0.05, 0.13), "slab": (0.085, 0.135, 0.05), "can": (0.0, 0.0, 0.075),
    "column": (0.0, 0.0, 0.13), "ball": (0.0, 0.0, 0.0), "egg": (0.075, 0.11, 0.075), "ell": (0.08, 0.13, 0.06),
    "rod": (0.0, 0.0, 0.2),
}  # fmt: skip


def image_poses(cameras: Tensor, poses: Tensor, axes: Tensor, centroids: Tensor, size: int) -> Tensor:
    """Poses in the image, as `stt.sprites` has them, of K bodies at T frames since each of the first R frames.

    -> (B, R, T, K, 4): shift down and right in pixels, rotation in radians, logarithm of growth.

    cameras (B, 13): rotation (9) and position (3) in the world, focal length in pixels. poses (B, T, K, 7): position
    and quaternion, w first. axes (B, K, 3): see AXES. centroids (B, R, K, 2): of the bodies' visible pixels, down and
    right, about which they rotate. size: pixels a side.

    The rotation is that of a body's projected axes, step by step: a slab rotates as it does on the floor, a column
    where it falls over, the pusher's rod as it leans away from the image's centre. What rolls keeps its face.
    """
    cameras, positions = cameras[:, None, None], poses[..., :3]
    origins = project(positions, cameras) + (size - 1) / 2  # (B, T, K, 2)
    tips = positions[..., None, :] + (rotation_matrices(poses[..., 3:]) * axes[:, None, :, None]).mT  # (B, T, K, 3, 3)
    tips = project(tips, cameras[..., None, :]) + (size - 1) / 2 - origins[..., None, :]  # (B, T, K, 3, 2)
    (y, x), (v, u) = (part.unbind(dim=-1) for part in (tips[:, :-1], tips[:, 1:]))
    steps = torch.atan2((y * u - x * v).sum(dim=-1), (y * v + x * u).sum(dim=-1))
    rotation = torch.cat([torch.zeros_like(steps[:, :1]), steps], dim=1).cumsum(dim=1)  # (B, T, K)
    growth = -depth(positions, cameras).log()
    first = slice(centroids.shape[1])
    rotation, growth = (part[:, None] - part[:, first, None] for part in (rotation, growth))  # (B, R, T, K)
    arm = (centroids - origins[:, first])[:, :, None]  # (B, R, 1, K, 2) from a body's origin to its visible centroid
    y, x = arm.unbind(dim=-1)
    cos, sin = rotation.cos() * growth.exp(), rotation.sin() * growth.exp()
    moved = origins[:, None] + torch.stack([cos * y - sin * x, sin * y + cos * x], dim=-1)
    return torch.cat([moved - centroids[:, :, None], rotation[..., None], growth[..., None]], dim=-1)


def floor_mask(cameras: Tensor, size: int) -> Tensor:
    """Cameras (B, 13) -> which of size x size pixels show the floor, or would without objects, (B, H, W) bool."""
    across = torch.arange(size, device=cameras.device) - (size - 1) / 2
    rays = torch.stack([across.expand(size, size), -across[:, None].expand(size, size)], dim=-1)  # (H, W, 2)
    rays = torch.cat([rays / cameras[:, None, None, 12:], -torch.ones(len(cameras), size, size, 1).to(rays)], dim=-1)
    rays = (cameras[:, None, None, :9].unflatten(-1, (3, 3)) * rays[..., None, :]).sum(dim=-1)  # in the world
    distance = -cameras[:, None, None, 11:12] / rays[..., 2:].clamp(max=-1e-3)
    return ((cameras[:, None, None, 9:11] + distance * rays[..., :2]).abs() < HALF).all(dim=-1)


def to_camera(points: Tensor, cameras: Tensor) -> Tensor:
    """Points (..., 3) in the world -> in the axes of cameras (..., 13): right, up and, negative, ahead."""
    return ((points - cameras[..., 9:12])[..., None] * cameras[..., :9].unflatten(-1, (3, 3))).sum(dim=-2)


def depth(points: Tensor, cameras: Tensor) -> Tensor:
    """Metres (...) that points (..., 3) lie ahead of cameras (..., 13)."""
    return (-to_camera(points, cameras)[..., 2]).clamp_min(1e-3)


def project(points: Tensor, cameras: Tensor) -> Tensor:
    """Points (..., 3) in the images of cameras (..., 13): (..., 2) pixels down and right of the centre."""
    x, y, z = to_camera(points, cameras).unbind(dim=-1)
    return cameras[..., 12:] * torch.stack([-y, x], dim=-1) / (-z[..., None]).clamp_min(1e-3)


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Quaternions (..., 4), w first -> matrices (..., 3, 3) whose columns are a body's axes."""
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True).clamp_min(1e-9)).unbind(dim=-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
