"""Transport: a prompt's last frame is cut into things, which go their way as rigid layers and so keep their look."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import Noise, Sampling, Video
from stt.layers import ResBlock, group_norm, patchify, unpatchify
from stt.sampler import sample_logits
from stt.things import (
    BEYOND,
    CROP,
    FIXED,
    GUEST,
    LAYERS,
    UNITS,
    Things,
    composed,
    crops,
    layered,
    masks_of,
    own_crops,
    repeated,
    steps_of,
    units,
    warped,
)

KINDS = 6  # dimensions of what tells pixels of one thing from those of another
WITHIN, BETWEEN = 0.5, 3.0  # how near to their middle the kinds of one thing are to be, and how far those of two
FEWEST = 6  # pixels of 64x64 that make a thing
SQUARE = 2  # pixels a side that the networks over whole frames take as one place
ROUNDS = 2  # in which what pushes passes on what it does
DRAWN, AHEAD = 4, 4  # frames of a clip, and steps ahead of its things, that are learned from
BEGUN, ONWARD = 12, 2  # beginnings of a guest's way, and steps from there
UNSAID = 0.3  # share of the beginnings at which it is not known what the guest did last, as of a prompt
SHAKEN = 0.2  # of UNITS, what poses are off by at most in training, and four times what last steps are
JOLTED = 0.15  # of UNITS, what the guest's last step is off by at most where its way begins, as at a prompt's end
READ, NARROW = 3, 3  # places a side, and channels, of features that tell what the guest does
MIXED, LEAST = 8, 0.02  # normals that what it does is drawn of, and the least deviation of each
SLIGHT = 0.05  # of an action, so little that it is none


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


class CropNet(nn.Module):
    """What surrounds things (M, D, CROP, CROP) and what else is known of them (M, S) -> so many numbers (M, out)."""

    def __init__(self, channels: int, known: int, width: int, out: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 3 * width // 2]
        halves = (nn.Conv2d(*of, 4, stride=2, padding=1) for of in zip(widths[:-1], widths[1:], strict=True))
        self.look = nn.Sequential(*(layer for half in halves for layer in (half, nn.SiLU())), nn.Flatten())
        self.join = nn.Linear(widths[-1] * (CROP // 8) ** 2 + known, 4 * width)
        self.think = nn.Sequential(nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, out))

    def forward(self, around: Tensor, known: Tensor) -> Tensor:
        return self.think(self.join(torch.cat([self.look(around), known], dim=1)))


class Mixture(NamedTuple):
    """Normals of which one is drawn (a mixture density network, Bishop 1994)."""

    logits: Tensor  # (N, MIXED)
    means: Tensor  # (N, MIXED, A)
    deviations: Tensor  # (N, MIXED, A)

    @classmethod
    def of(cls, found: Tensor, last: Tensor) -> Mixture:
        """From a network's MIXED * (1 + 3 A) numbers; each mean is a share of the last value (N, A) and a change."""
        size = last.shape[-1]
        logits, keeps, changes, wide = found.split([MIXED, *(3 * [MIXED * size])], dim=1)
        keeps, changes, wide = (of.unflatten(1, (MIXED, size)) for of in (keeps, changes, wide))
        return cls(logits, keeps.sigmoid() * last[:, None] + changes, LEAST + F.softplus(wide - 2))

    def nats(self, values: Tensor) -> Tensor:
        """Negative logarithm of the density at values (N, A) -> (N,)."""
        normals = torch.distributions.Normal(self.means, self.deviations)
        found = normals.log_prob(values[:, None]).sum(dim=-1)
        return -(self.logits.log_softmax(dim=-1) + found).logsumexp(dim=-1)

    def drawn(self, temperature: float, noise: Noise) -> Tensor:
        """(N, A): one normal for each is drawn, then a value of it, whose deviation is `temperature` times as wide."""
        gumbel = noise.gumbel(MIXED) if temperature else self.logits
        which = sample_logits(self.logits, Sampling(temperature=temperature), gumbel)
        means, deviations = (of[torch.arange(len(of), device=of.device), which] for of in self[1:])
        return means + temperature * deviations * noise.normal(means.shape[-1]) if temperature else means


class Transport(nn.Module):
    """Cuts references into things, tells where these go, and draws frames of them.

    A thing is a layer whose pose since the reference is a shift, a turn and a growth in the picture (layered motion,
    Wang and Adelson 1994). Which pixels are of one thing, an embedding tells (arXiv 1708.02551). Where things go is
    told from crops around each, and from what touches it, in the manner of interaction networks (arXiv 1612.00222). The
    guest, by whom all is moved, goes as its action tells: what it is told to do or, if nothing, what a policy has it
    do, which is drawn given a predictor's features. What follows from that is certain. So things neither blur nor break
    however far they go; what they uncover, shadows and edges are the last network's.

    actions: numbers of an action; with none, the guest's action is its next shift in UNITS.
    """

    def __init__(self, channels: int, dim: int, actions: int = 0, width: int = 24) -> None:
        super().__init__()
        self.actions = actions
        size = actions or 2
        self.sight = UNet(channels, KINDS + 4, 16, 2)
        around, pose = channels + 5, len(UNITS)
        self.physics = CropNet(around + channels + 2, 2 * pose + 9, 22, 3 * pose)
        known, mixed = pose + 3 + size + 1, MIXED * (1 + 3 * size)
        self.will = nn.ModuleDict(
            {
                "read": nn.Conv2d(dim, NARROW, 1),
                "policy": CropNet(around, known + NARROW * READ**2, 12, mixed),
                "habit": nn.Sequential(nn.Linear(known + 2, 32), nn.SiLU(), nn.Linear(32, mixed)),
                "mover": CropNet(around, known + size, 12, 3 * pose),
                "alone": nn.Sequential(nn.Linear(known + size, 32), nn.SiLU(), nn.Linear(32, 3 * pose)),
            }
        )
        self.finish = UNet(2 * channels + 5, channels + 1, width, 3)
        nn.init.zeros_(self.finish.leave.weight)
        nn.init.zeros_(self.finish.leave.bias)

    def forward(
        self,
        hidden: Tensor,
        action: Tensor | None,
        last: Tensor | None,
        things: Things,
        poses: Tensor,
        paces: Tensor,
        temperature: float,
        noise: Noise,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A predictor's features (N, dim, g, g), what the guest is told (N, A), None if nothing, what it did last
        (N, A), None if that is not known, the things of one reference or of N, their poses and last steps (N or 1,
        LAYERS, 4) -> frames (N, C, H, W), poses, steps, and what the guest did (N, A)."""
        n = len(hidden)
        things = Things(*(of.expand(n, *of.shape[1:]) for of in things))
        poses, paces = (of.expand(n, *of.shape[1:]) for of in (poses, paces))
        last = poses.new_full((1, self.actions or 2), torch.nan) if last is None else last
        last = last.expand(n, -1)
        if action is None:
            action = self.policy(hidden.float(), last, things, poses, paces).drawn(temperature, noise)
            action = action.clamp(-1, 1) if self.actions else action
        guest = self.willed(action, last, things, poses, paces)
        paces = self.moves(things, poses, paces, guest)[-1]
        return self.draw(things, poses + paces), poses + paces, paces, action

    @torch.compiler.disable
    def losses(self, video: Video, begin: int, poses: Tensor, shown: Tensor) -> dict[str, Tensor]:
        """How badly each part but the guest's will does on clips (B, T, C, H, W) whose reference is the frame `begin`.

        poses (B, T, LAYERS, 4): of what the reference shows, by each frame since it; shown (B, H, W): what its pixels
        show. A part whose weights are not trained is left out.
        """
        reference, steps, scale, parts = video[:, begin], steps_of(poses), video.shape[-1] / 64, {}
        if trained(self.sight):
            parts["cut"] = self.sight_loss(reference, shown)
        if not (trained(self.physics) or trained(self.finish)):
            return parts
        things = layered(reference, shown)
        if trained(self.physics):
            parts["moved"] = self._physics_loss(things, poses, steps, begin) / scale
        if trained(self.finish):
            few = begin + 1 + torch.randint(0, video.shape[1] - begin - 1, (DRAWN,))
            frames = self.draw(repeated(things, DRAWN), poses[:, few].flatten(0, 1))
            before = reference.repeat_interleave(DRAWN, dim=0)
            parts["drawn"] = drawing_loss(frames, video[:, few].flatten(0, 1), before)
        return parts

    @torch.compiler.disable
    def will_losses(
        self,
        video: Video,
        begin: int,
        poses: Tensor,
        shown: Tensor,
        hidden: Tensor,
        actions: Tensor | None,
        known: Tensor | None,
    ) -> dict[str, Tensor]:
        """`willed`: how far the guest is off, in pixels of 64x64, when it does as it did, over a few steps. `chosen`:
        nats of what it did, given what is seen.

        Of clips as in `losses`; actions (B, T, A) that followed each frame, and a predictor's features (B, T - 1 -
        begin, dim, g, g) for each frame after the reference. known (B, T - 1 - begin): whether these were told the
        action, so that there is nothing to choose; None if none were.
        """
        steps, scale, unit = steps_of(poses), video.shape[-1] / 64, units(video.shape[-1] / 64, video.device)
        if actions is None:  # what the guest does is its next shift
            actions = F.pad(steps[:, 1:, 0, :2] / unit[:2], [0, 0, 0, 1])
        span = min(ONWARD, hidden.shape[1])
        first = torch.randint(hidden.shape[1] - span + 1, (BEGUN,))
        things = repeated(layered(video[:, begin], shown), BEGUN)
        now, pace = shaken(*(of[:, begin + first].flatten(0, 1) for of in (poses, steps)), scale)
        off, far, nats = now - poses[:, begin + first].flatten(0, 1), [], []
        last = actions[:, (begin + first - 1).clamp_min(0)].flatten(0, 1)
        unsaid = (begin + first == 0).repeat(len(video)) | (torch.rand(len(last)) < UNSAID)
        last = last.masked_fill(unsaid.to(last.device)[:, None], torch.nan)
        jolts = JOLTED * unit[:2] * torch.rand(len(pace), 1, device=pace.device) * torch.randn_like(pace[:, 0, :2])
        jolts = jolts * unsaid.to(jolts)[:, None]
        pace = torch.cat([pace[:, :1] + F.pad(jolts, [0, 2])[:, None], pace[:, 1:]], dim=1)
        for k in range(span):
            action = actions[:, begin + first + k].flatten(0, 1)
            told = None if known is None else known[:, first + k].flatten()
            nats.append(self.policy(hidden[:, first + k].flatten(0, 1), last, things, now, pace).nats(action))
            if told is not None:
                nats[-1] = nats[-1] * ~told
            step = self.willed(action, last, things, now, pace)
            there = poses[:, begin + first + k + 1].flatten(0, 1) + off
            far.append(pose_loss((now[:, 0] + step)[:, None], there[:, :1], things.sizes[:, :1]))
            pace = torch.cat([step.detach()[:, None], (there - now)[:, 1:]], dim=1)  # all others go as they went
            now, last = now + pace, action
        free = 1.0 if known is None else (~known[:, first[:, None] + torch.arange(span)]).float().mean().clamp_min(1e-3)
        return {"willed": sum(far) / span / scale, "chosen": torch.cat(nats).mean() / free}

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
        kinds, what = self.sight(reference).split([KINDS, 4], dim=1)
        what, least = what.argmax(dim=1) + BEYOND, FEWEST * (reference.shape[-1] / 64) ** 2
        return layered(reference, torch.stack([grouped(*each, least) for each in zip(kinds, what, strict=True)]))

    def sight_loss(self, frames: Tensor, shown: Tensor) -> Tensor:
        """How badly pixels are told to be BEYOND, FIXED, of the GUEST or of things, and of which (arXiv 1708.02551):
        frames (N, C, H, W), shown (N, H, W)."""
        kinds, what = self.sight(frames).split([KINDS, 4], dim=1)
        told = F.cross_entropy(what, shown.clamp(max=GUEST + 1) - BEYOND)
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

    def policy(self, hidden: Tensor, last: Tensor, things: Things, poses: Tensor, paces: Tensor) -> Mixture:
        """What the guest does next, if it is told nothing: of a predictor's features (N, dim, g, g), what it did last
        (N, A), nan where that is not known, and poses and last steps (N, LAYERS, 4)."""
        at, world, known = self._by_guest(last, things, poses, paces)
        scale = things.reference.shape[-1] / 64
        read = crops(self.will["read"](hidden), at * (hidden.shape[-1] / things.reference.shape[-1]), READ, 1.0)
        with torch.no_grad():  # how far it got by that, and would get by doing it again: it may be stuck
            again = self.willed(last.nan_to_num(), last, things, poses, paces) / units(scale, poses.device)
        got = torch.stack([of[:, :2].norm(dim=1) for of in (paces[:, 0] / units(scale, poses.device), again)], dim=1)
        got = (got / (last.norm(dim=1, keepdim=True) + SLIGHT)).nan_to_num()
        found = self.will["policy"](crops(world, at, CROP, 2 * scale)[:, 0], torch.cat([known, read.flatten(1)], dim=1))
        return Mixture.of(found + self.will["habit"](torch.cat([known, got], dim=1)), last.nan_to_num())

    def willed(self, action: Tensor, last: Tensor, things: Things, poses: Tensor, paces: Tensor) -> Tensor:
        """The guest's next step (N, 4): of its action and the last one (N, A), nan where that is not known, and poses
        and last steps (N, LAYERS, 4)."""
        at, world, known = self._by_guest(last, things, poses, paces)
        told = torch.cat([known, action], dim=1)
        found = self.will["mover"](crops(world, at)[:, 0], told) + self.will["alone"](told)
        return onward(found, known[:, : len(UNITS)]) * units(things.reference.shape[-1] / 64, poses.device)

    def _by_guest(self, last: Tensor, things: Things, poses: Tensor, paces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the guest is (N, 1, 2), maps of the world, and the guest's last step, place, size and action, (N, S):
        a step that falls short of the action tells that it is stuck."""
        scale = things.reference.shape[-1] / 64
        world = self._world(things, poses, paces, None, warped(things.masks, things.middles, poses))
        at = (things.middles + poses[..., :2])[:, :1]
        said = (~last.isnan().any(dim=-1, keepdim=True)).to(last.dtype)
        known = [
            paces[:, 0] / units(scale, poses.device),
            (at[:, 0] / scale - 32) / 32,
            things.sizes[:, :1] / scale / 8,
        ]
        return at, world, torch.cat([*known, last.nan_to_num(), said], dim=1)

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
            told = self.physics(around.flatten(0, 1), told.flatten(0, 1))
            told = onward(told, before.flatten(0, 1)).unflatten(0, (n, -1))
            step = torch.cat([guest[:, None], (told * unit)[:, 1:]], dim=1)
            rounds.append(step)
        return rounds

    def _world(self, things: Things, poses: Tensor, steps: Tensor, guest: Tensor | None, masks: Tensor) -> Tensor:
        """Maps (N, D, H, W): things, their steps down and right, the guest, the guest after its step if that is known,
        and what is fixed: its look, and where it is floor."""
        scale = masks.shape[-1] / 64
        speeds = steps[:, 1:, :2] / units(scale, poses.device)[:2]
        going = torch.einsum("nkhw,nkc->nchw", masks[:, 1:], speeds)
        guests = [masks[:, :1]]
        if guest is not None:
            guests.append(warped(things.masks[:, :1], things.middles[:, :1], poses[:, :1] + guest[:, None]))
        fixed = things.masks.amax(dim=1, keepdim=True) < 0.5
        ground = things.reference * fixed
        return torch.cat([masks[:, 1:].sum(dim=1, keepdim=True), going, *guests, ground, fixed * things.floor], dim=1)

    # ---- frames --------------------------------------------------------------------------------------

    def draw(self, things: Things, poses: Tensor) -> Tensor:
        """Frames (N, C, H, W) of things at poses (N, LAYERS, 4)."""
        frames, guest, others, bare = composed(things, poses)
        covered = things.masks[:, :1], things.masks[:, 1:].amax(dim=1, keepdim=True)
        told = torch.cat([frames, things.reference, guest, others, bare, *covered], dim=1)
        *paint, over = self.finish(told).split(1, dim=1)
        return frames + (1 - guest - others) * (torch.cat(paint, dim=1) - over * frames)  # things stay as they are


def onward(found: Tensor, before: Tensor) -> Tensor:
    """A network's numbers (M, 3 * 4) -> steps (M, 4): one goes on as before, fades, or is changed: rest is easy."""
    moves, keeps, change = found.chunk(3, dim=1)
    return (moves + 2).sigmoid() * ((keeps + 1).sigmoid() * before + change)


def grouped(kinds: Tensor, what: Tensor, least: float) -> Tensor:
    """Kinds (KINDS, H, W) and what pixels are, but for which things' (H, W) -> what they show (H, W).

    Again and again those that are of a kind with the most others make a thing; all others are of the nearest in kind.
    """
    of_things = what > GUEST
    shown = torch.where(of_things, FIXED, what)
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


def trained(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())


def shaken(poses: Tensor, steps: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Poses and last steps (N, LAYERS, 4) as predictions have them: differently far off in each clip."""
    unit = units(scale, poses.device) * torch.rand(len(poses), 1, 1, device=poses.device)
    return poses + SHAKEN * unit * torch.randn_like(poses), steps + SHAKEN / 4 * unit * torch.randn_like(steps)


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
