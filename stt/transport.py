"""Transport: what a prompt's last frame shows is carried along its way, so that a thing pushed keeps its look."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import Video
from stt.layers import AttentionBlock, ResBlock, group_norm, patchify, unpatchify

SQUARE = 2  # pixels a side of what is carried as one
REACH = 4  # pixels that it may move between two frames, down or across
PLACES = (2 * REACH + 1) ** 2  # displacements
HEAVIEST = 6.0  # of a weight's logarithm
NEAR = 6.0  # squares, the standard deviation of kin's places
ALIKE = 0.05  # mean squared difference of colours that makes kin e times as distant


class Motion(NamedTuple):
    """Of squares of a reference (N, C, H, W) that have gone some way already."""

    chances: Tensor  # (N, PLACES, h, w) of the next displacement, rows first, from -REACH to REACH
    flow: Tensor  # (N, 2, h, w) where squares do go, in pixels down and to the right
    weight: Tensor  # (N, 1, h, w) how much a square counts where others lie as well: what is in front, most


class Things(NamedTuple):
    """What a reference shows."""

    reference: Tensor  # (N, C, H, W)
    kin: Tensor  # (N, S, S) how much its squares are of one thing, rows sum to 1

    def repeat(self, times: int) -> Things:
        """Each of them so many times, one after the other."""
        return Things(*(of.repeat_interleave(times, dim=0) for of in self))


class Transport(nn.Module):
    """Carries squares of a reference along, and draws frames of them, of the frame before, and of a draft.

    Each square of the reference has a track: where it lies by now, even if something hides it. Its next displacement
    has a distribution (DNA, arXiv 1605.07157), and a weight tells which of those that lie in one place is seen (softmax
    splatting, arXiv 2003.05534). Where we differ: tracks begin in the prompt's last frame, so that nothing blurs; the
    squares of one thing vote on where it goes and are kept in its shape; and only ways are splatted, from the
    distribution's mode, by which pixels are then taken.
    """

    def __init__(self, channels: int, dim: int, width: int = 32) -> None:
        super().__init__()
        of_square = channels * SQUARE**2
        self.see = nn.Conv2d(3 * of_square + 2 + PLACES, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.told = nn.Conv2d(dim, 2 * width, 1)
        self.body = nn.Sequential(ResBlock(2 * width), AttentionBlock(2 * width), ResBlock(2 * width))
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.fine = nn.Sequential(ResBlock(width), group_norm(width), nn.SiLU())
        self.where = nn.Conv2d(width, PLACES + 1, 1)
        self.likeness = nn.Parameter(torch.tensor(20.0))
        self.found = nn.Conv2d(5 * of_square + SQUARE**2, width, 3, padding=1)
        self.mix = nn.Sequential(ResBlock(width), ResBlock(width), group_norm(width), nn.SiLU())
        self.head = nn.Conv2d(width, of_square + 3 * SQUARE**2, 3, padding=1)
        for layer in (self.where, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.where.bias[PLACES // 2] = 6.0  # at first nothing moves that is seen as well where it was
            self.head.bias.view(SQUARE**2, channels + 3)[:, -3] = 2.0  # and most is the draft's

    def forward(
        self, hidden: Tensor, draft: Tensor, before: Tensor, things: Things, gone: Tensor, tracks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Motion]:
        """A predictor's features (N, dim, g, g), drafts and the frames before (N, C, H, W), a reference's things, and
        how far its squares have gone (N, 2, h, w), in pixels -> frames, how far they have by then, and the motion.

        tracks (N, 2, h, w): how far they truly have, nan if not known: frames are drawn of squares there. What is
        carried is as sharp in the wrong place: learning to draw from its own motion, it would blur to be less wrong.
        """
        reference, kin = things
        here = torch.cat([warp(torch.cat([draft, before], dim=1), pixels(gone), "bilinear"), reference], dim=1)
        unlike = pooled(unlikeness(draft, reference, gone), kin)
        seen = self.see(torch.cat([patchify(here, SQUARE), gone / 8, unlike], dim=1))
        coarse = self.down(F.silu(seen))
        scale = reference.shape[-1] / coarse.shape[-1]
        told = F.interpolate(self.told(hidden), size=coarse.shape[-2:], mode="bilinear")
        told = warp(told, F.avg_pool2d(gone, 2) / scale, "bilinear").to(coarse.dtype)
        coarse = self.body(coarse + told)
        features = pooled(self.fine(seen + self.up(F.interpolate(coarse, scale_factor=2.0))).float(), kin)
        chances, weight = self.where(features).float().split([PLACES, 1], dim=1)
        motion = motion_of(chances - self.likeness * unlike, weight)
        there = stiff(gone + motion.flow, kin)
        if tracks is not None:
            there = torch.where(tracks.isnan(), there, tracks)
        motion = motion._replace(flow=there - gone)
        ways = torch.cat([motion.flow, there], dim=1)
        back, covered = splat(*(pixels(of) for of in (ways, there, motion.weight)))
        carried = [warp(of, way) for of, way in zip((before, reference), back.split(2, dim=1), strict=True)]
        found = torch.cat([draft, *carried, before, reference, covered], dim=1)
        out = unpatchify(self.head(self.mix(self.found(patchify(found, SQUARE)))), SQUARE).float()
        change, trust = out[:, :-3], out[:, -3:].softmax(dim=1).split(1, dim=1)
        frames = sum(share * of for share, of in zip(trust, (draft, *carried), strict=True)) + change
        return frames, there, motion


def still(frames: Tensor) -> Tensor:
    """Of frames (N, C, H, W): none of their squares has gone anywhere yet, zeros (N, 2, h, w)."""
    return frames.new_zeros(len(frames), 2, frames.shape[-2] // SQUARE, frames.shape[-1] // SQUARE)


def pixels(squares: Tensor) -> Tensor:
    """(N, D, h, w) -> (N, D, H, W): the same for all pixels of a square."""
    return squares.repeat_interleave(SQUARE, dim=-2).repeat_interleave(SQUARE, dim=-1)


def displacements(device: torch.device) -> Tensor:
    """(PLACES, 2) down and right."""
    steps = torch.arange(-REACH, REACH + 1, device=device)
    return torch.cartesian_prod(steps, steps)


@torch.no_grad()
def unlikeness(draft: Tensor, reference: Tensor, gone: Tensor) -> Tensor:
    """How unlike squares of the reference are to what the draft shows (N, C, H, W) where each displacement would bring
    them: mean absolute difference (N, PLACES, h, w), as in a cost volume (arXiv 1709.02371)."""
    n, _, height, width = draft.shape
    rows = torch.arange(gone.shape[2], device=gone.device)[:, None] * SQUARE + (SQUARE - 1) / 2 + gone[:, 0]
    columns = torch.arange(gone.shape[3], device=gone.device) * SQUARE + (SQUARE - 1) / 2 + gone[:, 1]
    steps = displacements(gone.device)[:, :, None, None]
    down, right = rows[:, None] + steps[:, 0], columns[:, None] + steps[:, 1]  # (N, PLACES, h, w)
    grid = torch.stack([2 * right / (width - 1) - 1, 2 * down / (height - 1) - 1], dim=-1).flatten(1, 2)
    there = F.grid_sample(draft.float(), grid, padding_mode="border", align_corners=True)
    there = there.unflatten(2, down.shape[1:3])
    return (there - F.avg_pool2d(reference.float(), SQUARE)[:, :, None]).abs().mean(dim=1)


@torch.no_grad()
def things_of(reference: Tensor) -> Things:
    """Frames (N, C, H, W) -> what they show: squares are of one thing where they are near and of one colour."""
    colours = F.avg_pool2d(reference.float(), SQUARE).flatten(2)  # (N, C, S)
    height, width = reference.shape[-2] // SQUARE, reference.shape[-1] // SQUARE
    places = grid_of(height, width, reference.device)
    apart = torch.cdist(colours.mT, colours.mT).square() / (colours.shape[1] * ALIKE)
    return Things(reference, (-apart - torch.cdist(places, places).square() / (2 * NEAR**2)).softmax(dim=-1))


def grid_of(height: int, width: int, device: torch.device) -> Tensor:
    """Places of squares (S, 2), down and right, in squares."""
    return torch.cartesian_prod(torch.arange(height, device=device), torch.arange(width, device=device)).float()


def pooled(squares: Tensor, kin: Tensor) -> Tensor:
    """The mean of squares (N, D, h, w) and of their kin, same shape: what is of one thing goes as one."""
    return torch.einsum("nij,ndj->ndi", kin, squares.flatten(2)).view_as(squares)


def stiff(gone: Tensor, kin: Tensor) -> Tensor:
    """How far squares have gone (N, 2, h, w), made a turn and a shift of each with its kin (moving least squares,
    Schaefer et al. 2006): things keep their shape."""
    before = SQUARE * grid_of(*gone.shape[-2:], gone.device).T  # (2, S)
    now = before + gone.flatten(2)  # (N, 2, S)
    middle, centre = kin @ before.T, kin @ now.mT  # (N, S, 2)
    y, x = before
    v, u = now.unbind(dim=1)
    sums = torch.stack([y * v + x * u, y * u - x * v], dim=-1)  # of products and of cross products
    (dot, cross) = (kin @ sums).unbind(dim=-1)
    dot = dot - (middle * centre).sum(dim=-1)
    cross = cross - (middle[..., 0] * centre[..., 1] - middle[..., 1] * centre[..., 0])
    size = (dot.square() + cross.square() + 1e-6).sqrt()
    cos, sin = dot / size, cross / size
    off = before.T - middle
    turned = torch.stack([cos * off[..., 0] - sin * off[..., 1], sin * off[..., 0] + cos * off[..., 1]], dim=-1)
    return (centre + turned - before.T).mT.reshape(gone.shape)


def motion_of(logits: Tensor, weight: Tensor) -> Motion:
    """Logits of displacements (N, PLACES, h, w) and of a weight (N, 1, h, w) -> motion.

    The flow is the likeliest displacement, with its neighbours' share in fractions.
    """
    chances = logits.softmax(dim=1)
    places = displacements(logits.device)  # (K, 2)
    beside = (places[:, None] - places).abs().amax(dim=-1) <= 1  # (K, K)
    peak = beside[chances.argmax(dim=1)].movedim(-1, 1) * chances
    flow = torch.einsum("nkhw,kc->nchw", peak, places.to(peak.dtype)) / peak.sum(dim=1, keepdim=True)
    return Motion(chances, flow, (HEAVIEST * torch.tanh(weight / HEAVIEST)).exp())


def splat(ways: Tensor, there: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Ways (N, D, H, W) of pixels that now lie `there` (N, 2, H, W), in pixels from where they were, with weights
    (N, 1, H, W) -> the ways back from each pixel, and how much of it (N, 1, H, W) something came to."""
    n, count, height, width = ways.shape
    down = torch.arange(height, device=there.device)[:, None] + there[:, 0]
    right = torch.arange(width, device=there.device) + there[:, 1]
    carried = torch.cat([-ways * weight, weight, torch.ones_like(weight)], dim=1)  # (N, D + 2, H, W)
    sums = carried.new_zeros(n, count + 2, height * width)
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = down.floor() + y, right.floor() + x
        share = (1 - (down - row).abs()) * (1 - (right - column).abs())
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().flatten(1)
        brought = (carried * (share * inside)[:, None]).flatten(2)
        sums = sums.scatter_add(2, place[:, None].expand_as(brought), brought)
    sums = sums.view(n, count + 2, height, width)
    return sums[:, :count] / sums[:, count : count + 1].clamp_min(1e-4), sums[:, -1:].clamp(max=1)


def warp(frames: Tensor, flow: Tensor, mode: str = "bicubic") -> Tensor:
    """Frames (N, C, H, W) and where their pixels come from (N, 2, H, W), in pixels down and right -> moved frames."""
    height, width = frames.shape[-2:]
    down = torch.arange(height, device=flow.device)[:, None] + flow[:, 0]
    right = torch.arange(width, device=flow.device) + flow[:, 1]
    grid = torch.stack([2 * right / (width - 1) - 1, 2 * down / (height - 1) - 1], dim=-1)
    return F.grid_sample(frames.float(), grid.float(), mode=mode, padding_mode="border", align_corners=True)


def motion_loss(motion: Motion, wanted: Tensor) -> Tensor:
    """Nats of a frame's displacements, where squares should go (N, 2, h, w), in pixels, shared among the four around.

    Not weighted: most squares rest, and where the distribution has its mode must be right for them as well. Those that
    should go out of reach, or nobody knows where (nan), teach nothing.
    """
    wanted = wanted.nan_to_num(nan=2 * REACH)
    near = wanted.abs().amax(dim=1) <= REACH
    places = displacements(wanted.device).to(wanted.dtype)  # (K, 2)
    share = (1 - (wanted[:, None] - places[:, :, None, None]).abs()).clamp_min(0).prod(dim=2)  # (N, K, h, w)
    nats = -(share * motion.chances.clamp_min(1e-6).log()).sum(dim=1)
    return (nats * near).sum(dim=(1, 2)).mean()


def drawing_loss(frames: Video, truth: Video, before: Video) -> Tensor:
    """Mean absolute error of frames (N, C, H, W), ten times as much where the truth is not as before."""
    apart = (truth - before).abs().amax(dim=-3, keepdim=True) > 0.04
    weight = 1 + 9 * F.max_pool2d(apart.to(truth.dtype), 3, stride=1, padding=1)
    return (weight * (frames - truth).abs()).mean()
