"""Sprites: a frame as rigid layers over a background; their extraction, motion, compositing and matching.

Layered motion after Wang and Adelson, "Representing moving images with layers" (1994).

    pose      (4,) of a sprite since the reference frame: shift down and right in pixels, turn in radians, log of growth
    velocity  (4,) what is added to a pose in one frame

A segmentation holds an integer for each pixel: OUTSIDE, BACKGROUND, AGENT, and from AGENT + 1 on one for each object.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SPRITES = 9  # the agent and at most eight objects
OUTSIDE, BACKGROUND, AGENT = -1, 0, 1  # beyond the floor, where objects can stand, and what acts
POSE_SCALE = (2.0, 2.0, 0.2, 0.05)  # a typical velocity, in frames of 64x64; the unit of networks' velocities
CROP = 32  # places per side of the crop around a sprite; a place is one pixel of 64x64
OCCLUSION = 3  # pixels of 64x64 by which a sprite is extended behind what covers it
MAX_SPEED = 8  # pixels of 64x64 a frame that block matching searches
SHIFT_COST = 0.02  # of the range -1 to 1: cost of each pixel of a shift in block matching


class Sprites(NamedTuple):
    """Layers of N reference frames; the first of the K = MAX_SPRITES is the agent."""

    reference: Tensor  # (N, C, H, W)
    masks: Tensor  # (N, K, H, W) in [0, 1]; 0 for sprites that a reference lacks
    textures: Tensor  # (N, K, C, H, W), multiplied by the masks
    background: Tensor  # (N, C, H, W), inpainted behind the sprites
    floor: Tensor  # (N, 1, H, W) 1 where objects can stand
    centroids: Tensor  # (N, K, 2) pixels down and right
    radii: Tensor  # (N, K) root mean square distance of a sprite's pixels from its centroid

    @property
    def scale(self) -> float:
        """Pixels of these frames for one of 64x64."""
        return self.reference.shape[-1] / 64

    @property
    def pose_scale(self) -> Tensor:
        """POSE_SCALE in pixels of these frames, (4,)."""
        return pose_scale(self.scale, self.reference.device)

    def repeat(self, times: int) -> Sprites:
        """Each reference `times` times, one after the other: N becomes N * times."""
        return Sprites(*(field.repeat_interleave(times, dim=0) for field in self))

    def expand(self, count: int) -> Sprites:
        """One reference as `count` of them, without a copy."""
        return Sprites(*(field.expand(count, *field.shape[1:]) for field in self))


def pose_scale(scale: float, device: torch.device) -> Tensor:
    """POSE_SCALE in pixels of frames of 64 * `scale` pixels per side, (4,)."""
    pixels = torch.tensor(POSE_SCALE) * torch.tensor([scale, scale, 1.0, 1.0])
    return pixels.to(device, non_blocking=True)  # a GPU need not be waited for


def velocities_of(poses: Tensor) -> Tensor:
    """Poses (B, T, K, 4) -> the velocity that led to each, same shape; 0 at the first frame."""
    return torch.cat([torch.zeros_like(poses[:, :1]), poses.diff(dim=1)], dim=1)


# ---- from a segmentation to sprites ------------------------------------------------------------------


def masks_of(segmentation: Tensor) -> Tensor:
    """Segmentation (N, H, W) -> masks (N, MAX_SPRITES, H, W) of 0 and 1."""
    values = torch.arange(AGENT, AGENT + MAX_SPRITES, device=segmentation.device)
    return (segmentation[:, None] == values[:, None, None]).float()


def extract_sprites(reference: Tensor, segmentation: Tensor) -> Sprites:
    """Frames (N, C, H, W) and their segmentation (N, H, W) -> sprites.

    A sprite with pixels on both sides of what covers it is extended behind the cover, in the colours around.
    """
    visible = masks_of(segmentation)
    centroids, radii = moments(visible)
    radius = round(OCCLUSION * segmentation.shape[-1] / 64)
    closed = -box_max(-box_max(visible, radius), radius)  # morphological closing
    masks = torch.maximum(visible, closed * (visible.sum(dim=1, keepdim=True) > 0))
    textures = reference[:, None] * visible[:, :, None]
    around, count = (box_mean(maps.flatten(0, 1), radius) for maps in (textures, visible[:, :, None]))
    around = (around / count.clamp_min(1e-3)).view_as(textures)
    uncovered = (box_max(masks.amax(dim=1, keepdim=True), radius) == 0).to(reference.dtype)
    textures = textures + around * (masks - visible)[:, :, None]
    floor = (segmentation > OUTSIDE)[:, None].to(reference.dtype)
    return Sprites(reference, masks, textures, inpaint(reference, uncovered), floor, centroids, radii)


def moments(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (N, K, H, W) -> centroids (N, K, 2) in pixels, and radii (N, K): see `Sprites`."""
    rows, columns = (torch.arange(side, device=masks.device).float() for side in masks.shape[-2:])
    count = masks.sum(dim=(-2, -1)).clamp_min(1)
    by_row, by_column = masks.sum(dim=-1), masks.sum(dim=-2)  # (N, K, H), (N, K, W)
    centroids = torch.stack([by_row @ rows, by_column @ columns], dim=-1) / count[..., None]
    squares = (rows - centroids[..., :1]).square(), (columns - centroids[..., 1:]).square()
    radii = (((by_row * squares[0]).sum(dim=-1) + (by_column * squares[1]).sum(dim=-1)) / count).sqrt()
    return centroids, radii


def inpaint(frames: Tensor, mask: Tensor) -> Tensor:
    """Fills frames (N, C, H, W) where `mask` (N, 1, H, W) is 0, with the mean of pixels nearby where it is 1."""
    filled, weight = frames * mask, mask
    radius = 1
    while radius < frames.shape[-1]:
        around, count = (box_mean(maps, radius) for maps in (filled * weight, weight))
        new = (count > 0) & (weight == 0)
        filled = torch.where(new, around / count.clamp_min(1e-6), filled)
        weight, radius = torch.maximum(weight, new.to(weight.dtype)), 2 * radius
    return filled


def box_mean(maps: Tensor, radius: int) -> Tensor:
    """Mean of maps (N, D, H, W) over squares of 2 * radius + 1 pixels per side, with 0 beyond the edge."""
    side = 2 * radius + 1  # two passes, which are cheaper than one
    return F.avg_pool2d(F.avg_pool2d(maps, (side, 1), 1, (radius, 0)), (1, side), 1, (0, radius))


def box_max(maps: Tensor, radius: int) -> Tensor:
    """Maximum of maps (N, D, H, W) over squares of 2 * radius + 1 pixels per side (dilation)."""
    side = 2 * radius + 1
    return F.max_pool2d(F.max_pool2d(maps, (side, 1), 1, (radius, 0)), (1, side), 1, (0, radius))


# ---- from sprites to frames --------------------------------------------------------------------------


def sampling_grid(centroids: Tensor, poses: Tensor, height: int, width: int) -> Tensor:
    """Positions in the reference of the pixels of sprites at poses (N, K, 4).

    -> (N, K, H, W, 2) as (x, y) in [-1, 1], for `F.grid_sample`.
    """
    shift, turn, growth = poses.split([2, 1, 1], dim=-1)
    current = centroids + shift
    y = torch.arange(height, device=poses.device)[:, None] - current[..., :1, None]  # (N, K, H, 1)
    x = torch.arange(width, device=poses.device) - current[..., 1:, None]
    cos, sin = (wave[..., None] * (-growth[..., None]).exp() for wave in (turn.cos(), turn.sin()))
    down = cos * y + sin * x + centroids[..., :1, None]
    right = cos * x - sin * y + centroids[..., 1:, None]
    return torch.stack([(2 * right + 1) / width - 1, (2 * down + 1) / height - 1], dim=-1)


def warp_masks(masks: Tensor, centroids: Tensor, poses: Tensor) -> Tensor:
    """Masks (N, K, H, W) with centroids (N, K, 2), moved to poses (N, K, 4)."""
    grid = sampling_grid(centroids, poses, *masks.shape[-2:]).flatten(0, 1)
    return F.grid_sample(masks.flatten(0, 1)[:, None], grid, align_corners=False)[:, 0].unflatten(0, masks.shape[:2])


class Composite(NamedTuple):
    """Sprites over their background, and what each pixel shows."""

    frames: Tensor  # (N, C, H, W)
    agent: Tensor  # (N, 1, H, W) in [0, 1]: visible pixels of the agent
    objects: Tensor  # (N, 1, H, W) in [0, 1]: visible pixels of objects
    inpainted: Tensor  # (N, 1, H, W) in [0, 1]: visible background that the reference hides


def composite(sprites: Sprites, poses: Tensor) -> Composite:
    """Composites sprites at poses (N, K, 4), back to front. A sprite that reaches further down is nearer."""
    masks = sprites.masks
    layers = torch.cat([sprites.textures, masks[:, :, None]], dim=2)  # (N, K, C + 1, H, W)
    grid = sampling_grid(sprites.centroids, poses, *masks.shape[-2:])
    warped = F.grid_sample(
        layers.flatten(0, 1), grid.flatten(0, 1), mode="bicubic", align_corners=False
    ).unflatten(0, masks.shape[:2])  # fmt: skip
    textures, alpha = warped[:, :, :-1], warped[:, :, -1:].clamp(0, 1)
    rows = torch.arange(1, masks.shape[-2] + 1, device=masks.device)
    bottom = (masks.amax(dim=-1) * rows).amax(dim=-1) + poses[..., 0]  # (N, K)
    behind = bottom[:, :, None] < bottom[:, None]  # (N, K, J): J is in front of K
    transmittance = (1 - alpha[:, None] * behind[..., None, None, None]).prod(dim=2)  # (N, K, 1, H, W)
    rim = round(max(1, masks.shape[-1] / 64))  # pixels around a sprite that show a little of it
    before, after = (box_max(maps, rim) for maps in (masks, alpha[:, :, 0]))
    uncovered = torch.maximum(masks, before * (1 - after)).amax(dim=1, keepdim=True)
    background = torch.lerp(sprites.reference, sprites.background, uncovered)
    free = (1 - alpha).prod(dim=1)
    visible = alpha * transmittance
    frames = (textures * transmittance).sum(dim=1) + free * background
    return Composite(frames, visible[:, 0], visible[:, 1:].sum(dim=1), free * uncovered)


# ---- crops around a sprite --------------------------------------------------------------------------


def crop_around(maps: Tensor, centroids: Tensor, side: int = CROP, stride: float | None = None) -> Tensor:
    """Maps (N, D, H, W) around centroids (N, K, 2) -> (N, K, D, side, side); 0 beyond the edge.

    stride: pixels between places, a 64th of the maps' side if None.
    """
    height, width = maps.shape[-2:]
    stride = height / 64 if stride is None else stride
    offsets = (torch.arange(side, device=maps.device) - (side - 1) / 2) * stride
    down, right = centroids[..., :1] + offsets, centroids[..., 1:] + offsets  # (N, K, side)
    grid = torch.stack(
        [
            ((2 * right + 1) / width - 1)[:, :, None, :].expand(-1, -1, side, -1),
            ((2 * down + 1) / height - 1)[:, :, :, None].expand(-1, -1, -1, side),
        ],
        dim=-1,
    )
    crops = F.grid_sample(maps, grid.flatten(1, 2), align_corners=False)  # (N, D, K * side, side)
    return crops.unflatten(2, (centroids.shape[1], side)).transpose(1, 2)


def crop_each(maps: Tensor, centroids: Tensor) -> Tensor:
    """Each sprite's own maps (N, K, D, H, W) around its centroid (N, K, 2) -> (N, K, D, CROP, CROP)."""
    return crop_around(maps.flatten(0, 1), centroids.flatten(0, 1)[:, None])[:, 0].unflatten(0, maps.shape[:2])


# ---- block matching ----------------------------------------------------------------------------------


def match_velocities(before: Tensor, sprites: Sprites) -> Tensor:
    """Velocities (N, K, 4) of sprites in the reference, by block matching in the frames before it (N, C, H, W).

    The shift of least absolute difference over a sprite's visible pixels, refined to fractions of a pixel. Turn and
    growth are 0.
    """
    stride = max(1, before.shape[-1] // 64)
    visible = sprites.masks * (sprites.textures == sprites.reference[:, None]).all(dim=2)  # not extended behind others
    before, reference, masks = (F.avg_pool2d(maps, stride) for maps in (before, sprites.reference, visible))
    reach = max(1, round(MAX_SPEED * before.shape[-1] / 64))
    weights = masks / masks.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
    padded, side = F.pad(before, [reach] * 4, mode="replicate"), 2 * reach + 1
    size = reference.shape[-1]
    differences = [
        torch.einsum("nhw,nkhw->nk", (padded[..., y : y + size, x : x + size] - reference).abs().mean(dim=1), weights)
        for y in range(side) for x in range(side)
    ]  # fmt: skip
    shifts = torch.arange(-reach, reach + 1.0, device=before.device)
    cost = torch.stack(differences, dim=-1).unflatten(-1, (side, side))
    cost = cost + SHIFT_COST * torch.hypot(shifts[:, None], shifts)  # (N, K, side, side)
    best = cost.flatten(2).argmin(dim=-1)
    down, right = best // side, best % side
    rows = cost.gather(3, right[..., None, None].expand(-1, -1, side, 1))[..., 0]
    columns = cost.gather(2, down[..., None, None].expand(-1, -1, 1, side))[:, :, 0]
    shift = torch.stack([parabola_minimum(rows, down), parabola_minimum(columns, right)], dim=-1) - reach
    at_rest = (cost[..., reach, reach] < SHIFT_COST)[..., None]
    return F.pad(torch.where(at_rest, 0.0, -shift * stride), [0, 2])


def parabola_minimum(cost: Tensor, best: Tensor) -> Tensor:
    """The minimum of costs (..., D) between samples, by a parabola around the least, at index `best` (...); (...)."""
    padded = F.pad(cost, [1, 1], mode="replicate")
    before, at, after = (padded.gather(-1, best[..., None] + k)[..., 0] for k in range(3))
    curvature = (before + after - 2 * at).clamp_min(1e-6)
    return best + (0.5 * (before - after) / curvature).clamp(-0.5, 0.5)
