"""Things: what a frame shows, cut into layers that can go their way; how they go, are seen, and were seen to go."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LAYERS = 9  # the guest and at most eight things
BEYOND, FIXED, GUEST = -1, 0, 1  # what a pixel may show: where nothing comes, what things stand on, what moves by its
# own will; from 2 on things
HIDDEN = 3  # pixels of 64x64 from what is seen of a thing that it goes on behind another
CROP = 32  # places a side around a thing that tell where it goes, each a pixel of 64x64
UNITS = (2.0, 2.0, 0.2, 0.05)  # of a pose's step: pixels of 64x64 down and to the right, radians, logarithm of size
PACE = 8  # pixels of 64x64 that things go in a frame at most
SLOW = 0.02  # of the range -1 to 1, what each pixel of a way costs beside unlikeness


class Things(NamedTuple):
    """What references show, as layers; the guest is the first."""

    reference: Tensor  # (N, C, H, W)
    masks: Tensor  # (N, LAYERS, H, W) in [0, 1]; the layers that a reference lacks are 0
    looks: Tensor  # (N, LAYERS, C, H, W) times their masks
    ground: Tensor  # (N, C, H, W) what never moves, guessed behind things
    floor: Tensor  # (N, 1, H, W) 1 where things can stand
    middles: Tensor  # (N, LAYERS, 2) pixels down and to the right
    sizes: Tensor  # (N, LAYERS) root mean square distance of a layer's pixels from its middle


def masks_of(shown: Tensor) -> Tensor:
    """What pixels show (N, H, W) -> masks (N, LAYERS, H, W)."""
    layers = torch.arange(GUEST, GUEST + LAYERS, device=shown.device)
    return (shown[:, None] == layers[:, None, None]).float()


def layered(reference: Tensor, shown: Tensor) -> Things:
    """Things of frames (N, C, H, W) of which it is known what pixels show, (N, H, W).

    What hides a part of a thing, with more of it on both sides, is in front: the thing goes on behind, in the colours
    around.
    """
    seen = masks_of(shown)
    middles, sizes = middles_of(seen)
    radius = round(HIDDEN * shown.shape[-1] / 64)
    closed = -most(-most(seen, radius), radius)
    masks = torch.maximum(seen, closed * (seen.sum(dim=1, keepdim=True) > 0))
    looks = reference[:, None] * seen[:, :, None]
    around, count = (mean(of.flatten(0, 1), radius) for of in (looks, seen[:, :, None]))
    around = (around / count.clamp_min(1e-3)).view_as(looks)
    ground = filled(reference, (most(masks.amax(dim=1, keepdim=True), radius) == 0).to(reference.dtype))
    looks, floor = looks + around * (masks - seen)[:, :, None], (shown > BEYOND)[:, None].to(reference.dtype)
    return Things(reference, masks, looks, ground, floor, middles, sizes)


def middles_of(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (N, K, H, W) -> their middles (N, K, 2), in pixels, and sizes (N, K): see `Things`."""
    rows, columns = (torch.arange(side, device=masks.device).float() for side in masks.shape[-2:])
    count = masks.sum(dim=(-2, -1)).clamp_min(1)
    down, right = masks.sum(dim=-1), masks.sum(dim=-2)  # (N, K, H), (N, K, W)
    middles = torch.stack([down @ rows, right @ columns], dim=-1) / count[..., None]
    apart = (rows - middles[..., :1]).square(), (columns - middles[..., 1:]).square()
    return middles, (((down * apart[0]).sum(dim=-1) + (right * apart[1]).sum(dim=-1)) / count).sqrt()


def filled(frames: Tensor, known: Tensor) -> Tensor:
    """Frames (N, C, H, W) that are known in places (N, 1, H, W), elsewhere of the known ones around."""
    found, sure = frames * known, known
    radius = 1
    while radius < frames.shape[-1]:
        around, count = (mean(of, radius) for of in (found * sure, sure))
        reached = (count > 0) & (sure == 0)
        found = torch.where(reached, around / count.clamp_min(1e-6), found)
        sure, radius = torch.maximum(sure, reached.to(sure.dtype)), 2 * radius
    return found


def mean(maps: Tensor, radius: int) -> Tensor:
    """Of maps (N, D, H, W) over squares of 2 radius + 1 a side, 0 beyond the edge; in two passes, which is cheaper."""
    wide = 2 * radius + 1
    return F.avg_pool2d(F.avg_pool2d(maps, (wide, 1), 1, (radius, 0)), (1, wide), 1, (0, radius))


def most(maps: Tensor, radius: int) -> Tensor:
    """As `mean`, the greatest."""
    wide = 2 * radius + 1
    return F.max_pool2d(F.max_pool2d(maps, (wide, 1), 1, (radius, 0)), (1, wide), 1, (0, radius))


def repeated(things: Things, times: int) -> Things:
    """Each so many times, one after the other."""
    return Things(*(of.repeat_interleave(times, dim=0) for of in things))


def sources(middles: Tensor, poses: Tensor, height: int, width: int) -> Tensor:
    """Where in a reference the pixels of layers at poses (N, K, 4) come from: (N, K, H, W, 2) as (x, y) in [-1, 1]."""
    shift, turn, growth = poses.split([2, 1, 1], dim=-1)
    now = middles + shift
    y = torch.arange(height, device=poses.device)[:, None] - now[..., :1, None]  # (N, K, H, 1)
    x = torch.arange(width, device=poses.device) - now[..., 1:, None]
    cos, sin = (wave[..., None] * (-growth[..., None]).exp() for wave in (turn.cos(), turn.sin()))
    down = cos * y + sin * x + middles[..., :1, None]
    right = cos * x - sin * y + middles[..., 1:, None]
    return torch.stack([(2 * right + 1) / width - 1, (2 * down + 1) / height - 1], dim=-1)


def warped(masks: Tensor, middles: Tensor, poses: Tensor) -> Tensor:
    """Masks (N, K, H, W) at poses (N, K, 4)."""
    grid = sources(middles, poses, *masks.shape[-2:]).flatten(0, 1)
    return F.grid_sample(masks.flatten(0, 1)[:, None], grid, align_corners=False)[:, 0].unflatten(0, masks.shape[:2])


def composed(things: Things, poses: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Layers over what is fixed -> frames (N, C, H, W), where they show the guest, where other things, and where
    what is fixed was never seen and is guessed, each (N, 1, H, W).

    What reaches further down in the picture is nearer, and in front.
    """
    masks = things.masks
    pictures = torch.cat([things.looks, masks[:, :, None]], dim=2)  # (N, K, C + 1, H, W)
    grid = sources(things.middles, poses, *masks.shape[-2:])
    found = F.grid_sample(
        pictures.flatten(0, 1), grid.flatten(0, 1), mode="bicubic", align_corners=False
    ).unflatten(0, masks.shape[:2])  # fmt: skip
    looks, seen = found[:, :, :-1], found[:, :, -1:].clamp(0, 1)
    rows = torch.arange(1, masks.shape[-2] + 1, device=masks.device)
    bottom = (masks.amax(dim=-1) * rows).amax(dim=-1) + poses[..., 0]  # (N, K)
    behind = bottom[:, :, None] < bottom[:, None]  # (N, K, J): J is in front of K
    left = (1 - seen[:, None] * behind[..., None, None, None]).prod(dim=2)  # (N, K, 1, H, W) of each that is seen
    rim = round(max(1, masks.shape[-1] / 64))  # pixels around a thing that show a little of it
    rims, now = (most(of, rim) for of in (masks, seen[:, :, 0]))
    bare = torch.maximum(masks, rims * (1 - now)).amax(dim=1, keepdim=True)
    ground = torch.lerp(things.reference, things.ground, bare)
    free = (1 - seen).prod(dim=1)
    shown = seen * left
    return (looks * left).sum(dim=1) + free * ground, shown[:, 0], shown[:, 1:].sum(dim=1), free * bare


def crops(maps: Tensor, middles: Tensor, side: int = CROP, step: float | None = None) -> Tensor:
    """Maps (N, D, H, W) around middles (N, K, 2) -> (N, K, D, side, side); 0 beyond the edge.

    step: pixels from place to place, by default a 64th of the maps' side.
    """
    height, width = maps.shape[-2:]
    step = height / 64 if step is None else step
    offsets = (torch.arange(side, device=maps.device) - (side - 1) / 2) * step
    down, right = middles[..., :1] + offsets, middles[..., 1:] + offsets  # (N, K, side)
    grid = torch.stack(
        [
            ((2 * right + 1) / width - 1)[:, :, None, :].expand(-1, -1, side, -1),
            ((2 * down + 1) / height - 1)[:, :, :, None].expand(-1, -1, -1, side),
        ],
        dim=-1,
    )
    found = F.grid_sample(maps, grid.flatten(1, 2), align_corners=False)  # (N, D, K * side, side)
    return found.unflatten(2, (middles.shape[1], side)).transpose(1, 2)


def own_crops(maps: Tensor, middles: Tensor) -> Tensor:
    """Each layer's own maps (N, K, D, H, W) around its middle -> (N, K, D, CROP, CROP)."""
    return crops(maps.flatten(0, 1), middles.flatten(0, 1)[:, None])[:, 0].unflatten(0, maps.shape[:2])


def units(scale: float, device: torch.device) -> Tensor:
    """UNITS in pixels of pictures `scale` times 64 a side, (4,)."""
    return torch.tensor(UNITS, device=device) * torch.tensor([scale, scale, 1.0, 1.0], device=device)


def steps_of(poses: Tensor) -> Tensor:
    """Poses (B, T, LAYERS, 4) -> the steps that led to each, the same shape; to the first none."""
    return torch.cat([torch.zeros_like(poses[:, :1]), poses.diff(dim=1)], dim=1)


def paces_of(before: Tensor, things: Things) -> Tensor:
    """Steps (N, LAYERS, 4) that brought things to where the reference shows them, from the frames before it
    (N, C, H, W): the shift by which these show each as it is (block matching), and no turn."""
    times = max(1, before.shape[-1] // 64)
    seen = things.masks * (things.looks == things.reference[:, None]).all(dim=2)  # and not hidden by another
    before, reference, masks = (F.avg_pool2d(of, times) for of in (before, things.reference, seen))
    reach = max(1, round(PACE * before.shape[-1] / 64))
    share = masks / masks.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
    around, side = F.pad(before, [reach] * 4, mode="replicate"), 2 * reach + 1
    apart = [
        torch.einsum("nhw,nkhw->nk", (around[..., y : y + of, x : x + of] - reference).abs().mean(dim=1), share)
        for of in reference.shape[-1:] for y in range(side) for x in range(side)
    ]  # fmt: skip
    way = torch.arange(-reach, reach + 1.0, device=before.device)
    cost = torch.stack(apart, dim=-1).unflatten(-1, (side, side)) + SLOW * torch.hypot(way[:, None], way)
    best = cost.flatten(2).argmin(dim=-1)
    down, right = best // side, best % side
    rows = cost.gather(3, right[..., None, None].expand(-1, -1, side, 1))[..., 0]
    columns = cost.gather(2, down[..., None, None].expand(-1, -1, 1, side))[:, :, 0]
    found = torch.stack([summit(rows, down), summit(columns, right)], dim=-1) - reach
    rest = (cost[..., reach, reach] < SLOW)[..., None]
    return F.pad(torch.where(rest, 0.0, -found * times), [0, 2])


def summit(cost: Tensor, best: Tensor) -> Tensor:
    """Where costs (..., D) are least, of which `best` (...) is: a parabola through it and its neighbours."""
    padded = F.pad(cost, [1, 1], mode="replicate")
    before, at, after = (padded.gather(-1, best[..., None] + k)[..., 0] for k in range(3))
    bend = (before + after - 2 * at).clamp_min(1e-6)
    return best + (0.5 * (before - after) / bend).clamp(-0.5, 0.5)
