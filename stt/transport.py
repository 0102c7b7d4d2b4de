"""Transport: a prompt's last frame is cut into things, which go their way as rigid layers and so keep their look."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import Video
from stt.layers import ResBlock, group_norm, patchify, unpatchify

LAYERS = 9  # the guest and at most eight things
FIXED, GUEST = 0, 1  # what a pixel may show: what never moves, what moves by its own will; from 2 on things
KINDS = 6  # dimensions of what tells pixels of one thing from those of another
WITHIN, BETWEEN = 0.5, 3.0  # how near to their middle the kinds of one thing are to be, and how far those of two
FEWEST = 6  # pixels of 64x64 that make a thing
HIDDEN = 3  # pixels of 64x64 from what is seen of a thing that it goes on behind another
SQUARE = 2  # pixels a side that the networks over whole frames take as one place
CROP = 32  # places a side around a thing that tell where it goes, each a pixel of 64x64
UNITS = (2.0, 2.0, 0.2, 0.05)  # of a pose's step: pixels of 64x64 down and to the right, radians, logarithm of size
ROUNDS = 2  # in which what pushes passes on what it does
PACE = 8  # pixels of 64x64 that things go in a frame at most
SLOW = 0.02  # of the range -1 to 1, what each pixel of a way costs beside unlikeness
DRAWN, WILLED, AHEAD = 4, 12, 4  # frames of a clip, steps of its guest, and steps ahead that are learned from at a time
SHAKEN, JOLTED = 0.2, 1.0  # of UNITS, what poses, and the guest's last steps, are off by at most in training
READ, NARROW = 5, 8  # places a side, and channels, of features that tell where the guest goes


class Things(NamedTuple):
    """What references show, as layers; the guest is the first."""

    reference: Tensor  # (N, C, H, W)
    masks: Tensor  # (N, LAYERS, H, W) in [0, 1]; the layers that a reference lacks are 0
    looks: Tensor  # (N, LAYERS, C, H, W) times their masks
    ground: Tensor  # (N, C, H, W) what is fixed, guessed behind things
    middles: Tensor  # (N, LAYERS, 2) pixels down and to the right
    sizes: Tensor  # (N, LAYERS) root mean square distance of a layer's pixels from its middle


class UNet(nn.Module):
    """Frames (N, C, H, W) -> (N, D, H, W), with features at so many scales (arXiv 1505.04597)."""

    def __init__(self, channels: int, out: int, width: int, scales: int) -> None:
        super().__init__()
        widths = [width, *(2 * width for _ in range(scales - 1))]
        self.enter = nn.Conv2d(channels * SQUARE**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(each) for each in widths)
        steps = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in steps)
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in steps[:1])
        self.late = nn.Sequential(ResBlock(width), group_norm(width), nn.SiLU())
        self.leave = nn.Conv2d(width + channels * SQUARE**2, out * SQUARE**2, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        squares = patchify(frames, SQUARE)
        found = [self.blocks[0](self.enter(squares))]
        for block, down in zip(self.blocks[1:], self.down, strict=True):
            found.append(block(down(found[-1])))
        x = found.pop()
        while found:
            fine, x = found.pop(), F.interpolate(x, scale_factor=2.0)
            x = fine + (x if found else self.up[0](x))  # only the finest has another width
        return unpatchify(self.leave(torch.cat([self.late(x), squares], dim=1)), SQUARE)


class Mover(nn.Module):
    """What surrounds things (M, D, CROP, CROP) and what is known of them (M, S) -> their next steps, from those before.

    A step goes on as before, fades, or is changed: rest is easy to learn.
    """

    def __init__(self, channels: int, known: int, width: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 3 * width // 2]
        halves = (nn.Conv2d(*of, 4, stride=2, padding=1) for of in zip(widths[:-1], widths[1:], strict=True))
        self.look = nn.Sequential(*(layer for half in halves for layer in (half, nn.SiLU())), nn.Flatten())
        self.join = nn.Linear(widths[-1] * (CROP // 8) ** 2 + known, 4 * width)
        self.think = nn.Sequential(
            nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 3 * len(UNITS))
        )

    def forward(self, around: Tensor, known: Tensor, before: Tensor) -> Tensor:
        """before (M, 4) the last steps, in UNITS."""
        moves, keeps, change = self.think(self.join(torch.cat([self.look(around), known], dim=1))).chunk(3, dim=1)
        return (moves + 2).sigmoid() * ((keeps + 1).sigmoid() * before + change)


class Transport(nn.Module):
    """Cuts references into things, tells where these go, and draws frames of them.

    A thing is a layer whose pose since the reference is a shift, a turn and a growth in the picture (layered motion,
    Wang and Adelson 1994). Which pixels are of one thing, an embedding tells (arXiv 1708.02551). Where things go is
    told from crops around each, and from what touches it, in the manner of interaction networks (arXiv 1612.00222);
    where the guest goes, by whom all is moved, also from a predictor's features and what it is told to do. So things
    neither blur nor break however far they go; what they uncover, shadows and edges are the last network's.
    """

    def __init__(self, channels: int, dim: int, actions: int = 0, width: int = 24) -> None:
        super().__init__()
        self.actions = actions
        self.sight = UNet(channels, KINDS + 3, 16, 2)
        around = channels + 7
        self.physics = Mover(around + channels, 2 * len(UNITS) + 9, 22)
        known = len(UNITS) + 3 + NARROW * READ**2 + actions + 1
        self.will = nn.ModuleDict({"read": nn.Conv2d(dim, NARROW, 1), "mover": Mover(around, known, 16)})
        self.finish = UNet(2 * channels + 5, channels + 1, width, 3)
        nn.init.zeros_(self.finish.leave.weight)
        nn.init.zeros_(self.finish.leave.bias)

    def forward(
        self, hidden: Tensor, actions: Tensor | None, things: Things, poses: Tensor, paces: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A predictor's features (N, dim, g, g), what the guest is told (N, A), the things of one reference or of N,
        their poses and last steps (N or 1, LAYERS, 4) -> frames (N, C, H, W), poses, and steps."""
        n = len(hidden)
        things = Things(*(of.expand(n, *of.shape[1:]) for of in things))
        poses, paces = (of.expand(n, *of.shape[1:]) for of in (poses, paces))
        guest = self.willed(hidden.float(), actions, things, poses, paces)
        paces = self.moves(things, poses, paces, guest)[-1]
        return self.draw(things, poses + paces), poses + paces, paces

    @torch.compiler.disable
    def losses(self, video: Video, begin: int, poses: Tensor, shown: Tensor) -> dict[str, Tensor]:
        """How badly each part but the guest's will does on clips (B, T, C, H, W) whose reference is the frame `begin`.

        poses (B, T, LAYERS, 4): of what the reference shows, by each frame since it; shown (B, H, W): what its pixels
        show. A part whose weights are not trained is left out.
        """
        reference, things, parts = video[:, begin], layered(video[:, begin], shown), {}
        steps, scale = steps_of(poses), video.shape[-1] / 64
        if trained(self.sight):
            parts["cut"] = self.sight_loss(reference, shown)
        if trained(self.physics):
            parts["moved"] = self._physics_loss(things, poses, steps, begin) / scale
        if trained(self.finish):
            few = begin + 1 + torch.randint(0, video.shape[1] - begin - 1, (DRAWN,))
            frames = self.draw(repeated(things, DRAWN), poses[:, few].flatten(0, 1))
            before = reference.repeat_interleave(DRAWN, dim=0)
            parts["drawn"] = drawing_loss(frames, video[:, few].flatten(0, 1), before)
        return parts

    @torch.compiler.disable
    def will_loss(
        self, video: Video, begin: int, poses: Tensor, shown: Tensor, hidden: Tensor, actions: Tensor | None
    ) -> Tensor:
        """How far the guest's steps are off, in pixels of 64x64: of clips as in `losses`, a predictor's features
        (B, T - 1 - begin, dim, g, g) for each frame after the reference, and what the guest is told, of as many."""
        few = torch.randint(0, hidden.shape[1], (WILLED,))
        things, steps = repeated(layered(video[:, begin], shown), WILLED), steps_of(poses)
        of_steps = hidden[:, few], poses[:, begin + few], steps[:, begin + few], steps[:, begin + few + 1, :1]
        hidden, now, before, wanted = (of.flatten(0, 1) for of in of_steps)
        told, scale = None if actions is None else actions[:, few].flatten(0, 1), video.shape[-1] / 64
        found = self.willed(hidden, told, things, *shaken(now, before, scale, JOLTED))  # its pace is no guide for long
        return pose_loss(found[:, None], wanted, things.sizes[:, :1]) / scale

    def _physics_loss(self, things: Things, poses: Tensor, steps: Tensor, begin: int) -> Tensor:
        """How far off things are over a few steps from a random frame on, the guest led as it truly went: poses, and
        the steps that led there (B, T, LAYERS, 4)."""
        span = min(AHEAD, poses.shape[1] - 1 - begin)
        first = begin + int(torch.randint(poses.shape[1] - begin - span, ()))
        now, pace = shaken(poses[:, first], steps[:, first], things.reference.shape[-1] / 64)
        off, far = now - poses[:, first], []
        for k in range(first, first + span):
            rounds = self.moves(things, now.detach(), pace, steps[:, k + 1, 0])
            wanted = poses[:, k + 1] + off
            far += [pose_loss((now + step)[:, 1:], wanted[:, 1:], things.sizes[:, 1:]) for step in rounds]
            now, pace = now + rounds[-1], rounds[-1]
        return sum(far) / len(far)

    # ---- what a reference shows ----------------------------------------------------------------------

    def things(self, reference: Tensor) -> Things:
        """What frames (N, C, H, W) show."""
        *kinds, fixed, guest, thing = self.sight(reference).split(1, dim=1)
        what = torch.cat([fixed, guest, thing], dim=1).argmax(dim=1)
        kinds, least = torch.cat(kinds, dim=1), FEWEST * (reference.shape[-1] / 64) ** 2
        return layered(reference, torch.stack([grouped(*each, least) for each in zip(kinds, what, strict=True)]))

    def sight_loss(self, frames: Tensor, shown: Tensor) -> Tensor:
        """How badly pixels are told to be of FIXED, GUEST or things, and of which (arXiv 1708.02551): frames
        (N, C, H, W), shown (N, H, W)."""
        kinds, what = self.sight(frames).split([KINDS, 3], dim=1)
        told = F.cross_entropy(what, shown.clamp(max=2))
        of = masks_of(shown)[:, GUEST:].flatten(2)  # (N, K, P) of things
        count = of.sum(dim=-1)
        there = count > 0
        kinds = kinds.flatten(2)
        middles = torch.einsum("nkp,ndp->nkd", of, kinds) / count.clamp_min(1)[..., None]
        off = (kinds[:, None] - middles[..., None]).norm(dim=2)  # (N, K, P)
        pull = ((off - WITHIN).clamp_min(0).square() * of).sum(dim=-1) / count.clamp_min(1)
        apart = (middles[:, :, None] - middles[:, None]).square().sum(dim=-1).clamp_min(1e-6).sqrt()
        pairs = (there[:, :, None] & there[:, None]).triu(1)
        push = (BETWEEN - apart).clamp_min(0).square()[pairs]
        return told + pull.sum() / there.sum().clamp_min(1) + push.sum() / pairs.sum().clamp_min(1)

    # ---- where things go -----------------------------------------------------------------------------

    def willed(self, hidden: Tensor, actions: Tensor | None, things: Things, poses: Tensor, paces: Tensor) -> Tensor:
        """The guest's next step (N, 4): of a predictor's features (N, dim, g, g), what it is told (N, A), nan if
        nothing, and poses and last steps (N, LAYERS, 4)."""
        n, scale = len(poses), things.reference.shape[-1] / 64
        masks = warped(things.masks, things.middles, poses)
        at = (things.middles + poses[..., :2])[:, :1]
        around = crops(torch.cat([self._world(things, poses, paces, None, masks), masks[:, :1]], dim=1), at)[:, 0]
        read = crops(self.will["read"](hidden), at * (hidden.shape[-1] / things.reference.shape[-1]), READ, 1.0)
        before = paces[:, 0] / units(scale, poses.device)
        known = [before, (at[:, 0] / scale - 32) / 32, things.sizes[:, :1] / scale / 8, read.flatten(1)]
        if actions is None:
            actions = poses.new_full((n, self.actions), torch.nan)
        told = ~actions.isnan().any(dim=-1, keepdim=True)
        known += [torch.where(told, actions, 0.0), told.to(poses.dtype)]
        return self.will["mover"](around, torch.cat(known, dim=1), before) * units(scale, poses.device)

    def moves(self, things: Things, poses: Tensor, paces: Tensor, guest: Tensor) -> list[Tensor]:
        """Steps (N, LAYERS, 4) after each round, given the guest's (N, 4)."""
        n, scale = len(poses), things.reference.shape[-1] / 64
        unit, rounds = units(scale, poses.device), []
        middles = things.middles + poses[..., :2]
        before, known_guest = paces / unit, (guest / unit)[:, None].expand(-1, LAYERS, -1)[..., :2]
        toward = (middles[:, :1] - middles) / scale / 16
        known = [before, known_guest, toward, (paces[:, :1] / unit).expand_as(paces)[..., :2]]
        known += [(middles / scale - 32) / 32, things.sizes[..., None] / scale / 8]
        masks = warped(things.masks, things.middles, poses)
        own, step = own_crops(masks[:, :, None], middles), torch.cat([guest[:, None], paces[:, 1:]], dim=1)
        look = own_crops(things.looks, things.middles)
        for _ in range(ROUNDS):
            world = self._world(things, poses, step, guest, masks)
            mine = torch.cat([own, own * (step[..., :2] / unit[:2])[..., None, None]], dim=2)  # what is its own of it
            around = crops(world, middles)
            around = torch.cat([around[:, :, :3] - mine, around[:, :, 3:], own, look], dim=2)
            told = torch.cat([*known, step / unit], dim=-1)
            told = self.physics(around.flatten(0, 1), told.flatten(0, 1), before.flatten(0, 1)).unflatten(0, (n, -1))
            step = torch.cat([guest[:, None], (told * unit)[:, 1:]], dim=1)
            rounds.append(step)
        return rounds

    def _world(self, things: Things, poses: Tensor, steps: Tensor, guest: Tensor | None, masks: Tensor) -> Tensor:
        """Maps (N, D, H, W): things, their steps down and right, the guest, the guest after its step, what is fixed."""
        scale = masks.shape[-1] / 64
        speeds = steps[:, 1:, :2] / units(scale, poses.device)[:2]
        going = torch.einsum("nkhw,nkc->nchw", masks[:, 1:], speeds)
        after = torch.zeros_like(masks[:, :1])
        if guest is not None:
            after = warped(things.masks[:, :1], things.middles[:, :1], poses[:, :1] + guest[:, None])
        fixed = things.masks.amax(dim=1, keepdim=True) < 0.5
        ground = things.reference * fixed
        return torch.cat([masks[:, 1:].sum(dim=1, keepdim=True), going, masks[:, :1], after, ground, fixed], dim=1)

    # ---- frames --------------------------------------------------------------------------------------

    def draw(self, things: Things, poses: Tensor) -> Tensor:
        """Frames (N, C, H, W) of things at poses (N, LAYERS, 4)."""
        frames, guest, others, bare = composed(things, poses)
        covered = things.masks[:, :1], things.masks[:, 1:].amax(dim=1, keepdim=True)
        told = torch.cat([frames, things.reference, guest, others, bare, *covered], dim=1)
        *paint, over = self.finish(told).split(1, dim=1)
        return frames + (1 - guest - others) * (torch.cat(paint, dim=1) - over * frames)  # things stay as they are


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


def units(scale: float, device: torch.device) -> Tensor:
    """UNITS in pixels of pictures `scale` times 64 a side, (4,)."""
    return torch.tensor(UNITS, device=device) * torch.tensor([scale, scale, 1.0, 1.0], device=device)


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
    wide = 2 * radius + 1
    closed = -F.max_pool2d(-F.max_pool2d(seen, wide, 1, radius), wide, 1, radius)
    masks = torch.maximum(seen, closed * (seen.sum(dim=1, keepdim=True) > 0))
    looks = reference[:, None] * seen[:, :, None]
    around, count = (F.avg_pool2d(of.flatten(0, 1), wide, 1, radius) for of in (looks, seen[:, :, None]))
    around = (around / count.clamp_min(1e-3)).view_as(looks)
    ground = filled(
        reference, (F.max_pool2d(masks.amax(dim=1, keepdim=True), wide, 1, radius) == 0).to(reference.dtype)
    )
    return Things(reference, masks, looks + around * (masks - seen)[:, :, None], ground, middles, sizes)


def middles_of(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (N, K, H, W) -> their middles (N, K, 2), in pixels, and sizes (N, K): see `Things`."""
    rows, columns = (torch.arange(side, device=masks.device).float() for side in masks.shape[-2:])
    count = masks.sum(dim=(-2, -1)).clamp_min(1)
    down, right = masks.sum(dim=-1), masks.sum(dim=-2)  # (N, K, H), (N, K, W)
    middles = torch.stack([down @ rows, right @ columns], dim=-1) / count[..., None]
    apart = (rows - middles[..., :1]).square(), (columns - middles[..., 1:]).square()
    return middles, (((down * apart[0]).sum(dim=-1) + (right * apart[1]).sum(dim=-1)) / count).sqrt()


def grouped(kinds: Tensor, what: Tensor, least: float) -> Tensor:
    """Kinds (KINDS, H, W) and whether pixels are FIXED, of the GUEST or of things (H, W) -> what they show (H, W).

    Again and again those that are of a kind with the most others make a thing; all others are of the nearest in kind.
    """
    shown, of_things = (what == GUEST).long() * GUEST, what > GUEST
    kinds = kinds[:, of_things].T  # (P, KINDS)
    alike, free, middles = torch.cdist(kinds, kinds) < BETWEEN / 2, kinds.new_ones(len(kinds)).bool(), []
    while len(middles) < LAYERS - 1:
        votes = (alike & free).sum(dim=1) * free
        if not len(votes) or votes.max() < least:
            break
        members = alike[votes.argmax()] & free
        middles.append(kinds[members].mean(dim=0))
        free &= ~members & ((kinds - middles[-1]).norm(dim=1) > BETWEEN / 2)
    if middles:
        shown[of_things] = GUEST + 1 + torch.cdist(kinds, torch.stack(middles)).argmin(dim=1)
    return shown


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
    rims, now = (F.max_pool2d(of, 2 * rim + 1, 1, rim) for of in (masks, seen[:, :, 0]))
    bare = torch.maximum(masks, rims * (1 - now)).amax(dim=1, keepdim=True)
    ground = torch.lerp(things.reference, things.ground, bare)
    free = (1 - seen).prod(dim=1)
    shown = seen * left
    return (looks * left).sum(dim=1) + free * ground, shown[:, 0], shown[:, 1:].sum(dim=1), free * bare


def filled(frames: Tensor, known: Tensor) -> Tensor:
    """Frames (N, C, H, W) that are known in places (N, 1, H, W), elsewhere of the known ones around."""
    found, sure = frames * known, known
    radius = 1
    while radius < frames.shape[-1]:
        around, count = (F.avg_pool2d(of, 2 * radius + 1, 1, radius) for of in (found * sure, sure))
        reached = (count > 0) & (sure == 0)
        found = torch.where(reached, around / count.clamp_min(1e-6), found)
        sure, radius = torch.maximum(sure, reached.to(sure.dtype)), 2 * radius
    return found


def trained(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())


def steps_of(poses: Tensor) -> Tensor:
    """Poses (B, T, LAYERS, 4) -> the steps that led to each, the same shape; to the first none."""
    return torch.cat([torch.zeros_like(poses[:, :1]), poses.diff(dim=1)], dim=1)


def repeated(things: Things, times: int) -> Things:
    """Each so many times, one after the other."""
    return Things(*(of.repeat_interleave(times, dim=0) for of in things))


def shaken(poses: Tensor, steps: Tensor, scale: float, jolt: float = SHAKEN / 4) -> tuple[Tensor, Tensor]:
    """Poses and last steps (N, LAYERS, 4) as predictions have them: differently far off in each clip."""
    unit = units(scale, poses.device) * torch.rand(len(poses), 1, 1, device=poses.device)
    return poses + SHAKEN * unit * torch.randn_like(poses), steps + jolt * unit * torch.randn_like(steps)


def pose_loss(found: Tensor, wanted: Tensor, sizes: Tensor) -> Tensor:
    """How far layers of some sizes (N, K) are from where they should be, in pixels: poses found and wanted
    (N, K, 4). Mean over the layers that there are."""
    off, there = found - wanted, sizes > 0
    turned = (off[..., 2:] * sizes[..., None]).square()
    far = (off[..., :2].square().sum(dim=-1) + 1e-4).sqrt() + ((turned + 0.04).sqrt() - 0.2).sum(dim=-1)
    return (far * there).sum() / there.sum().clamp_min(1)


def drawing_loss(frames: Video, truth: Video, before: Video) -> Tensor:
    """Mean absolute error of frames (N, C, H, W), ten times as much where the truth is not as before."""
    apart = (truth - before).abs().amax(dim=-3, keepdim=True) > 0.04
    weight = 1 + 9 * F.max_pool2d(apart.to(truth.dtype), 3, stride=1, padding=1)
    return (weight * (frames - truth).abs()).mean()
