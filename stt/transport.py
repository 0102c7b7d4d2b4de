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
SURE = 4.0  # times as far apart in kind as was learned: strangers that are kin a little would hold a thing back
KINDS = 8  # dimensions of what tells squares of one thing from those of another
FIXED, GUEST = 0, 1  # who a square may be of: what never moves; what is not carried; from 2 on things


class Motion(NamedTuple):
    """Of squares of a reference (N, C, H, W) that have gone some way already."""

    chances: Tensor  # (N, PLACES, h, w) of the next displacement, rows first, from -REACH to REACH
    flow: Tensor  # (N, 2, h, w) where squares do go, in pixels down and to the right
    weight: Tensor  # (N, 1, h, w) how much a square counts where others lie as well: what is in front, most


class Things(NamedTuple):
    """What a reference shows."""

    reference: Tensor  # (N, C, H, W)
    kin: Tensor  # (N, S, S) how much its squares are of one thing, rows sum to 1
    held: Tensor  # (N, 1, h, w) the chance of each square that it is carried along, and not left to codes


class Transport(nn.Module):
    """Carries squares of a reference along, and draws frames of them and of a draft.

    Each square of the reference has a track: where it lies by now, even if something hides it. Its next displacement
    has a distribution (DNA, arXiv 1605.07157), and a weight tells which of those that lie in one place is seen (softmax
    splatting, arXiv 2003.05534). Where we differ: tracks begin in the prompt's last frame, so that nothing blurs; the
    squares of one thing vote on where it goes and are kept in its shape; and only ways are splatted, from the
    distribution's mean, by which pixels are then taken: where things go half as far as they might, nothing blurs.
    """

    def __init__(self, channels: int, dim: int, width: int = 32) -> None:
        super().__init__()
        of_square = channels * SQUARE**2
        self.kind = nn.Sequential(
            nn.Conv2d(of_square, width, 3, padding=1),
            ResBlock(width), ResBlock(width), group_norm(width), nn.SiLU(), nn.Conv2d(width, KINDS + 1, 1),
        )  # fmt: skip
        self.see = nn.Conv2d(3 * of_square + 2 + PLACES, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.told = nn.Conv2d(dim, 2 * width, 1)
        self.body = nn.Sequential(ResBlock(2 * width), AttentionBlock(2 * width), ResBlock(2 * width))
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.fine = nn.Sequential(ResBlock(width), group_norm(width), nn.SiLU())
        self.turn = nn.Sequential(nn.Conv2d(2 * width + 2, width, 1), nn.SiLU(), nn.Conv2d(width, width, 1))
        self.where = nn.Conv2d(width, PLACES + 1, 1)
        self.likeness = nn.Parameter(torch.tensor(20.0))
        self.found = nn.Conv2d(3 * of_square + SQUARE**2, width, 3, padding=1)
        self.mix = nn.Sequential(ResBlock(width), ResBlock(width), group_norm(width), nn.SiLU())
        self.head = nn.Conv2d(width, of_square + 2 * SQUARE**2, 3, padding=1)
        for layer in (self.turn[-1], self.where, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.where.bias[PLACES // 2] = 6.0  # at first nothing moves that is seen as well where it was
            self.head.bias.view(SQUARE**2, channels + 2)[:, -2] = 2.0  # and most is the draft's

    def kinship(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, C, H, W) -> how far apart squares are in kind (N, S, S), and logits of being held (N, 1, h, w).

        Kinds are places of an embedding that is taught which squares are of one thing (arXiv 1708.02551).
        """
        *kinds, held = self.kind(patchify(reference.float(), SQUARE)).split(1, dim=1)
        return squared(torch.cat(kinds, dim=1).flatten(2).mT), held

    def things(self, reference: Tensor) -> Things:
        """What frames (N, C, H, W) show: squares are of one thing where they are near and of a kind."""
        apart, held = self.kinship(reference)
        near = nearness(*held.shape[-2:], apart.device)
        return Things(reference, (-SURE * apart - near).softmax(dim=-1), held.sigmoid())

    def forward(
        self, hidden: Tensor, draft: Tensor, before: Tensor, things: Things, gone: Tensor, tracks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Motion]:
        """A predictor's features (N, dim, g, g), drafts and the frames before (N, C, H, W), a reference's things, and
        how far its squares have gone (N, 2, h, w), in pixels -> frames, how far they have by then, and the motion.

        Things may be of fewer references: each is of as many frames, one after the other.

        tracks (N, 2, h, w): how far they truly have, nan if not known: frames are drawn of squares there. What is
        carried is as sharp in the wrong place: learning to draw from its own motion, it would blur to be less wrong.
        """
        reference, kin, held = things
        reference, held = (of.repeat_interleave(len(draft) // len(kin), dim=0) for of in (reference, held))
        here = torch.cat([warp(torch.cat([draft, before], dim=1), pixels(gone), "bilinear"), reference], dim=1)
        unlike = pooled(unlikeness(draft, reference, gone), kin)
        seen = self.see(torch.cat([patchify(here, SQUARE), gone / 8, unlike], dim=1))
        coarse = self.down(F.silu(seen))
        scale = reference.shape[-1] / coarse.shape[-1]
        told = F.interpolate(self.told(hidden), size=coarse.shape[-2:], mode="bilinear")
        told = warp(told, F.avg_pool2d(gone, 2) / scale, "bilinear").to(coarse.dtype)
        coarse = self.body(coarse + told)
        own = self.fine(seen + self.up(F.interpolate(coarse, scale_factor=2.0))).float()
        places = squares_of(gone)
        features = pooled(own, kin)
        features = features + self.turn(torch.cat([features, own, (places - pooled(places, kin)) / 4], dim=1))
        chances, weight = self.where(features).float().split([PLACES, 1], dim=1)
        motion = motion_of(chances - self.likeness * unlike, weight)
        there = stiff(gone + motion.flow, kin)
        if tracks is not None:
            there = torch.where(tracks.isnan(), there, tracks)
        motion = motion._replace(flow=there - gone, weight=motion.weight * held)
        back, covered = splat(*(pixels(of) for of in (there, there, motion.weight, held)))
        carried = warp(reference, back)
        found = torch.cat([draft, carried, reference, covered], dim=1)
        out = unpatchify(self.head(self.mix(self.found(patchify(found, SQUARE)))), SQUARE).float()
        change, trust = out[:, :-2], out[:, -2:].softmax(dim=1)
        frames = trust[:, :1] * draft + trust[:, 1:] * carried + change
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


def squared(places: Tensor) -> Tensor:
    """Squared distances (..., S, S) of places (..., S, D)."""
    lengths = places.square().sum(dim=-1)
    return (lengths[..., :, None] + lengths[..., None, :] - 2 * places @ places.mT).clamp_min(0)


def grid_of(height: int, width: int, device: torch.device) -> Tensor:
    """Places of squares (S, 2), down and right, in squares."""
    return torch.cartesian_prod(torch.arange(height, device=device), torch.arange(width, device=device)).float()


def nearness(height: int, width: int, device: torch.device) -> Tensor:
    """How far squares are apart in place (S, S), in nats of their being kin."""
    return squared(grid_of(height, width, device)) / (2 * NEAR**2)


def squares_of(gone: Tensor) -> Tensor:
    """Places of squares that have gone some way (N, 2, h, w), before that, in squares, same shape."""
    height, width = gone.shape[-2:]
    return grid_of(height, width, gone.device).T.view(1, 2, height, width).expand_as(gone)


def pooled(squares: Tensor, kin: Tensor) -> Tensor:
    """The mean of squares (N, D, h, w) and of their kin, same shape: what is of one thing goes as one.

    kin (N or fewer, S, S): each is of as many squares, one after the other.
    """
    return (squares.reshape(len(kin), -1, kin.shape[-1]) @ kin.mT).view(squares.shape)


def stiff(gone: Tensor, kin: Tensor) -> Tensor:
    """How far squares have gone (N, 2, h, w), made a turn and a shift of each with its kin (moving least squares,
    Schaefer et al. 2006): things keep their shape."""
    kin, before = kin.double(), SQUARE * squares_of(gone).double()  # variances are small differences of large squares
    now = before + gone
    (y, x), (v, u) = before.unbind(dim=1), now.unbind(dim=1)
    products = torch.stack([y * v + x * u, y * u - x * v], dim=1)  # and cross products
    middle, centre, turned = pooled(torch.cat([before, now, products], dim=1), kin).split(2, dim=1)
    (y, x), (v, u), (dot, cross) = (of.unbind(dim=1) for of in (middle, centre, turned))
    dot, cross = dot - (y * v + x * u), cross - (y * u - x * v)
    size = (dot.square() + cross.square() + 1e-6).sqrt()
    cos, sin = dot / size, cross / size
    y, x = (before - middle).unbind(dim=1)
    return (centre + torch.stack([cos * y - sin * x, sin * y + cos * x], dim=1) - before).float()


def motion_of(logits: Tensor, weight: Tensor) -> Motion:
    """Logits of displacements (N, PLACES, h, w) and of a weight (N, 1, h, w) -> motion. The flow is the mean."""
    chances = logits.softmax(dim=1)
    flow = torch.einsum("nkhw,kc->nchw", chances, displacements(logits.device).to(chances.dtype))
    return Motion(chances, flow, (HEAVIEST * torch.tanh(weight / HEAVIEST)).exp())


def splat(ways: Tensor, there: Tensor, weight: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Ways (N, D, H, W) of pixels that now lie `there` (N, 2, H, W), in pixels from where they were, with weights
    (N, 1, H, W) -> the ways back from each pixel, and how much that is `held` (N, 1, H, W) came to it."""
    n, count, height, width = ways.shape
    down = torch.arange(height, device=there.device)[:, None] + there[:, 0]
    right = torch.arange(width, device=there.device) + there[:, 1]
    carried = torch.cat([-ways * weight, weight, held], dim=1)  # (N, D + 2, H, W)
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

    Not weighted: most squares rest, and the distribution's mean must be right for them as well. Those that should go
    out of reach, or nobody knows where (nan), teach nothing.
    """
    wanted = wanted.nan_to_num(nan=2 * REACH)
    near = wanted.abs().amax(dim=1) <= REACH
    places = displacements(wanted.device).to(wanted.dtype)  # (K, 2)
    share = (1 - (wanted[:, None] - places[:, :, None, None]).abs()).clamp_min(0).prod(dim=2)  # (N, K, h, w)
    nats = -(share * motion.chances.clamp_min(1e-6).log()).sum(dim=1)
    return (nats * near).sum(dim=(1, 2)).mean()


def kin_loss(apart: Tensor, held: Tensor, owners: Tensor) -> Tensor:
    """Nats of which squares are of one thing and which are held, as in `kinship`, of owners (N, h, w): FIXED, GUEST,
    and things from 2 on. All that are near and of a square's own thing are its kin, not itself alone.

    Squares of things weigh as much as all others.
    """
    near = nearness(*owners.shape[-2:], owners.device)
    owners = owners.flatten(1)
    kin = torch.exp(-near) * (owners[:, :, None] == owners[:, None])
    kin = kin / kin.sum(dim=-1, keepdim=True)
    nats = F.kl_div((-apart - near).log_softmax(dim=-1), kin, reduction="none").sum(dim=-1)  # (N, S)
    moving = (owners != FIXED).to(nats.dtype)
    parts = [(nats * of).sum() / of.sum().clamp_min(1) for of in (moving, 1 - moving)]
    return sum(parts) + F.binary_cross_entropy_with_logits(held.flatten(1), (owners != GUEST).to(held.dtype))


def drawing_loss(frames: Video, truth: Video, before: Video) -> Tensor:
    """Mean absolute error of frames (N, C, H, W), ten times as much where the truth is not as before."""
    apart = (truth - before).abs().amax(dim=-3, keepdim=True) > 0.04
    weight = 1 + 9 * F.max_pool2d(apart.to(truth.dtype), 3, stride=1, padding=1)
    return (weight * (frames - truth).abs()).mean()
