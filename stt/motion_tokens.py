"""Motion tokens: a frame as one token per motion layer, and a distribution over each layer's next displacement.

Pixels are moved and never redrawn, as in the inter blocks of a video codec, so shapes stay as they are.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from stt.api import Condition, Loss, Noise, Sampling, Video
from stt.metrics import unit
from stt.motion import Layers, Match, Motion, composite, features_size
from stt.sampler import sample_logits
from stt.segmenter import Filtered, Segmenter, track
from stt.transformer import Cache, SpaceTimeTransformer, draw_mean

MAX_PROMPT = 8  # frames that layers are made of in training; the rest of a clip is predicted
RECONSTRUCTION_WEIGHT = 100.0  # of the layers' mean squared error beside a nat of motion
SPLIT_WEIGHT = 0.3  # of `split_penalty`
TOLERANCE = 0.5  # squared error of a frame, summed over pixels, that makes a displacement e times less likely
PIXEL_STD = 0.1  # of the normal density of residuals in `nats`
CELL = 8  # pixels a side of a cell of `nats`
FRAMES_PER_PASS = 20  # frames that one pass of the network scores in `nats`


class MotionState(NamedTuple):
    layers: Layers  # of the prompt's last frame
    offset: Tensor  # (B, K, 2) pixels that the layers have moved since that frame
    motion: Motion  # of the latest frame
    remainder: Tensor  # (B, K, 2) fractions of a pixel left over at temperature 0
    cache: Cache | None  # of all frames before the latest
    condition: Condition
    num_frames: int = 0  # predicted so far


class MotionTokens(nn.Module):
    """Segments a clip into layers, embeds their motion, and gives a distribution over their next displacements.

    S = 2 * reach + 1 displacements per axis.
    """

    def __init__(self, count: int, channels: int, reach: int, segmenter_width: int, dim: int) -> None:
        super().__init__()
        self.reach, self.channels = reach, channels
        self.rows, self.columns = 1, count  # of tokens
        self.segmenter = Segmenter(count, channels, segmenter_width)
        self.embed_motion = nn.Linear(features_size(reach), dim)
        self.persistence = nn.Linear(dim, 1)
        self.head = nn.Linear(dim, (2 * reach + 1) ** 2)
        for layer in (self.persistence, self.head):  # an untrained network predicts constant motion
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.persistence.bias, 3.0)
        self.num_prompt = MAX_PROMPT  # frames that the next loss makes layers of

    def embed(self, motion: Motion) -> Tensor:
        """Motion -> tokens (B, T, 1, K, dim): one row a frame, one column a layer."""
        return self.embed_motion(motion.features(self.reach))[:, :, None]

    def logits(self, hidden: Tensor, motion: Motion) -> Tensor:
        """Features (B, T, 1, K, dim) and the motion so far -> logits (B, T, K, S * S) of the next displacements.

        The last displacement gets an extra logit, so that constant motion need not be learned.
        """
        hidden = hidden[:, :, 0]
        same = F.one_hot(motion.indices(self.reach), (2 * self.reach + 1) ** 2) * motion.has_previous
        return self.head(hidden).float() + self.persistence(hidden).float() * same

    def match_nats(self, logits: Tensor, matches: list[Match]) -> Tensor:
        """Negative log-likelihood (B, T, K) of T matches, given logits (B, T, K, S * S).

        The likelihood is a sum over all displacements, each weighted by how well it explains the frame. So an empty
        layer, which any displacement explains, costs nothing.
        """
        errors = torch.stack([m.errors for m in matches], dim=1).flatten(-2)  # (B, T, K, S * S)
        evidence = (errors.amin(dim=-1, keepdim=True) - errors) / TOLERANCE
        return -(logits.log_softmax(dim=-1) + evidence).logsumexp(dim=-1)

    # ---- training ------------------------------------------------------------------------------------

    def begin_step(self, rng: random.Random) -> None:
        self.num_prompt = rng.randint(1, MAX_PROMPT)

    def loss(self, video: Video, network: SpaceTimeTransformer, actions: Tensor | None) -> Loss:
        """The clip's first frames become layers, which reconstruct the other frames by their motion alone.

        The transformer predicts that motion. Displacements come from `stt.motion.match` and carry no gradient.
        """
        frames, num_prompt = unit(video), min(self.num_prompt, video.shape[1] - 1)
        filtered = self.segmenter.filter(frames[:, :num_prompt], self.reach)
        tracked = track(filtered.layers, frames[:, num_prompt:], self.reach)
        future_mse = torch.stack(tracked.residuals).square().mean()
        prompt_mse = torch.stack(filtered.residuals).square().mean() if filtered.residuals else 0 * future_mse
        penalty = split_penalty(filtered.layers)

        shapes, matches = list(filtered.shapes), filtered.matches + tracked.matches
        for m in tracked.matches[:-1]:
            shapes.append(shapes[-1].moved(m.displacement, *video.shape[-2:]))
        motion = Motion.of(shapes, matches[:-1])
        hidden = network(self.embed(motion), draw_mean, actions=actions).hidden
        nats = self.match_nats(self.logits(hidden, motion), matches)

        turned, pixels = turns(matches), video[0, 0].numel()
        parts = {
            "motion": nats.mean(),
            "motion at turns": (nats[:, 1:] * turned).sum() / turned.sum().clamp_min(1),
            "mse ahead": future_mse * pixels,
            "mse of layers": filtered.mismatch * pixels,
            "split": penalty,
        }
        mse = filtered.mismatch + prompt_mse + 2 * future_mse
        total = nats.mean() + RECONSTRUCTION_WEIGHT * mse + SPLIT_WEIGHT * penalty
        return Loss(total, {name: value.detach() for name, value in parts.items()})

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, network: SpaceTimeTransformer, condition: Condition) -> MotionState:
        filtered, cache = self.segmenter.start(unit(context), self.reach), None
        motion = Motion.of(filtered.shapes, filtered.matches)
        if context.shape[1] > 1:
            cache = network(self.embed(motion.during(slice(-1))), draw_mean).cache
        last = motion.during(slice(-1, None))
        offset = torch.zeros_like(last.displacement[:, 0])
        return MotionState(filtered.layers, offset, last, offset.float(), cache, condition)

    def step(
        self,
        state: MotionState,
        network: SpaceTimeTransformer,
        actions: Tensor | None,
        sampling: Sampling,
        noise: Noise,
    ) -> tuple[Video, MotionState]:
        motion, cache = state.motion.expand(noise.futures), state.cache.expand(noise.futures) if state.cache else None
        out = network(self.embed(motion), draw_mean, cache=cache, actions=actions)
        logits = self.logits(out.hidden, motion)  # (futures, 1, K, S * S)
        displacement, remainder = self.draw(logits, state.remainder, sampling, noise)
        offset = state.offset + displacement[:, 0]
        layers = state.layers.expand(noise.futures).moved(offset)
        motion = motion.next(displacement, *layers.background.shape[-2:])
        state = state._replace(
            offset=offset, motion=motion, remainder=remainder, cache=out.cache, num_frames=state.num_frames + 1
        )
        return 2 * composite(layers).clamp(0, 1)[:, None] - 1, state

    def draw(self, logits: Tensor, remainder: Tensor, sampling: Sampling, noise: Noise) -> tuple[Tensor, Tensor]:
        """Logits (futures, 1, K, S * S) -> displacements (futures, 1, K, 2) int64, and the remainder (futures, K, 2).

        At temperature 0 displacements are rounded, and the remainder carries the fractions to the next frame.
        """
        if sampling.temperature:
            index = sample_logits(logits, sampling, noise.gumbel(*logits.shape[1:]))
            return grid_position(index, self.reach), remainder
        exact = remainder + local_mean(logits, self.reach)[:, 0]
        displacement = exact.round().long()[:, None].clamp(-self.reach, self.reach)
        return displacement, exact - displacement[:, 0]

    # ---- likelihood ----------------------------------------------------------------------------------

    def nats(self, video: Video, network: SpaceTimeTransformer) -> tuple[Tensor, int]:
        """Nats of all frames but the first, per cell (B, T - 1, h, w), and a cell's number of pixels times channels.

        A score, not a likelihood of pixels: the nats of the layers' displacements, plus the negative log-density of the
        residual that the moved layers leave, under a normal of PIXEL_STD and relative to a residual of 0. The layers'
        own pixels cost nothing.
        """
        filtered = self.segmenter.filter(unit(video), self.reach)
        motion = self.clip_nats(filtered, network).sum(dim=-1)[..., None, None]  # (B, T - 1, 1, 1)
        residual = torch.stack(filtered.residuals, dim=1).square().sum(dim=2) / (2 * PIXEL_STD**2)
        cells = reduce(residual, "b t (h p) (w q) -> b t h w", "sum", p=CELL, q=CELL)
        return cells + motion / cells[0, 0].numel(), CELL**2 * self.channels

    def clip_nats(self, filtered: Filtered, network: SpaceTimeTransformer) -> Tensor:
        """Nats (B, T - 1, K) of the layers' displacements in a clip."""
        motion, cache, nats = Motion.of(filtered.shapes, filtered.matches), None, []
        for k in range(0, len(filtered.matches), FRAMES_PER_PASS):
            matches = filtered.matches[k : k + FRAMES_PER_PASS]
            past = motion.during(slice(k, k + len(matches)))
            out = network(self.embed(past), draw_mean, cache=cache)
            cache = out.cache
            nats.append(self.match_nats(self.logits(out.hidden, past), matches))
        return torch.cat(nats, dim=1)


def split_penalty(layers: Layers) -> Tensor:
    """How evenly K layers share the ink: about 0 if one has all of it or none has any, sqrt(K) - 1 if all are equal.

    The penalty is concave in each share, so of equally good splits the least even one costs least. It keeps an object
    in one layer: two layers whose displacements are sampled independently would tear the object apart.
    """
    ink = layers.colour.sum(dim=(2, 3, 4))  # (B, K)
    share = ink / ink.sum(dim=1, keepdim=True).clamp_min(1e-3)
    return (((share + 1e-3).sqrt().sum(dim=1) - 1) * (ink.sum(dim=1) > 1)).mean()


def segmentation_loss(filtered: Filtered) -> Tensor:
    """What a segmenter learns from, in nats: layers that show each frame, before and after they move to it."""
    mse = filtered.mismatch
    if filtered.residuals:
        mse = mse + torch.stack(filtered.residuals).square().mean()
    return RECONSTRUCTION_WEIGHT * mse + SPLIT_WEIGHT * split_penalty(filtered.layers)


def turns(matches: list[Match]) -> Tensor:
    """Whether each displacement differs from the one before, in T consecutive matches: (B, T - 1, K) bool."""
    displacement = torch.stack([m.displacement for m in matches], dim=1)
    return (displacement[:, 1:] != displacement[:, :-1]).any(dim=-1)


def grid_position(index: Tensor, reach: int) -> Tensor:
    """Indices (...) of a row-major grid of S x S displacements -> displacements (..., 2)."""
    return torch.stack([index // (2 * reach + 1), index % (2 * reach + 1)], dim=-1) - reach


def local_mean(logits: Tensor, reach: int) -> Tensor:
    """Logits (..., S * S) -> the likeliest displacement (..., 2), to a fraction of a pixel.

    It is the mean over the likeliest whole displacement and its eight neighbours, weighted by their probabilities.
    """
    best = logits.argmax(dim=-1)
    cells = grid_position(torch.arange(logits.shape[-1], device=logits.device), reach)  # (S * S, 2)
    difference = cells - grid_position(best, reach)[..., None, :]
    weights = logits.masked_fill(difference.abs().amax(dim=-1) > 1, -torch.inf).softmax(dim=-1)  # (..., S * S)
    return grid_position(best, reach) + (weights[..., None] * difference).sum(dim=-2)
