"""Motion triples of the Transframer: which displacement each motion layer takes from the nearest frame to a target.

They come first in a frame's sequence (channel "motion", position = layer, value = displacement), one layer after the
other. The layers (`stt.segmenter`) are those of the nearest frame; their tracks say where they were in the frames
before it, and where they are in frames beyond the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import Sampling
from stt.motion import FREQUENCIES, PRESENT, Layers, Match, Shape, features_size, match, shape_of, shift, sinusoids
from stt.motion import Motion as ShapeFeatures
from stt.sampler import sample_logits
from stt.segmenter import Filtered, Segmenter
from stt.triple_decoder import Block, cross_entropy

BEYOND = 2  # most frames beyond the target
FAR = 12  # most steps from the nearest frame to one of them
TOLERANCE = 0.5  # squared error that a layer going on as it went may have more than the best displacement
EDGE = 2.0  # logit that a displacement loses at first for each pixel that it moves a layer beyond the border
POINTERS = 3  # displacements that the head points at: the last one, the mean to the frame beyond, what that one leaves


class Tracks(NamedTuple):
    """Where the layers of the nearest frame were and will be. Time runs from the context's far end to the target."""

    shape: Shape  # (B, K, ...) in the nearest frame
    backward: Tensor  # (B,) bool, whether the target comes before the nearest frame
    steps: Tensor  # (B, P, K, 2) int64 displacements of a frame each that led to the nearest frame, the latest first
    num_steps: Tensor  # (B,) int64 how many of them there are
    beyond: Tensor  # (B, BEYOND, K, 2) int64 displacements from the nearest frame to those beyond the target
    times: Tensor  # (B, BEYOND) int64 frames from the nearest one to them; 0 where there is none
    explained: Tensor  # (B, BEYOND, K) share of a layer's energy that is found there

    def expand(self, batch: int) -> Tracks:
        shape = Shape(*(part.expand(batch, *part.shape[1:]) for part in self.shape))
        return Tracks(shape, *(part.expand(batch, *part.shape[1:]) for part in self[1:]))


def tracks_of(
    layers: Layers,
    steps: Tensor,
    num_steps: Tensor,
    backward: Tensor,
    beyond: Sequence[Tensor],
    times: Sequence[int],
    reach: int,
) -> Tracks:
    """Tracks of layers in the frames `beyond`, (B, C, H, W) on [0, 1] each, `times` frames after their own."""
    b, k = layers.colour.shape[:2]
    found, explained, sought, before, moved = [], [], layers, 0, torch.zeros_like(steps[:, 0])
    energy = layers.colour.square().sum(dim=(2, 3, 4))
    for frame, time in list(zip(beyond, times, strict=True))[:BEYOND]:
        radius = min(reach * (time - before), max(frame.shape[-2:]) // 2)
        matched = match(sought, frame, radius)
        moved, before = moved + matched.displacement, time
        sought = layers.moved(moved)
        found.append(moved)
        explained.append((-matched.errors.flatten(2).amin(dim=-1) / (energy + 1)).clamp(-1, 1))
    absent = BEYOND - len(found)
    found += [torch.zeros_like(moved)] * absent
    explained += [torch.zeros_like(energy)] * absent
    known = torch.tensor([*times[: BEYOND - absent], *[0] * absent]).to(moved.device, non_blocking=True).expand(b, -1)
    return Tracks(
        shape_of(layers), backward, steps, num_steps, torch.stack(found, dim=1), known, torch.stack(explained, dim=1)
    )


def batch_tracks(
    layers: Layers, steps: Tensor, num_steps: int, reach: int, beyond: Sequence[Tensor] = (), times: Sequence[int] = (),
    backward: bool = False,
) -> Tracks:  # fmt: skip
    """Tracks of layers, of which all of the batch have as many steps and the same direction; see `tracks_of`."""
    count, turned = (torch.full((len(steps),), value, device=steps.device) for value in (num_steps, backward))
    return tracks_of(layers, steps, count, turned, beyond, times, reach)


def joined(tracks: Sequence[Tracks]) -> Tracks:
    """One batch of several."""
    shape = Shape(*(torch.cat(parts) for parts in zip(*(t.shape for t in tracks), strict=True)))
    return Tracks(shape, *(torch.cat(parts) for parts in zip(*(t[1:] for t in tracks), strict=True)))


def chosen(matched: Match, last: Tensor, ink: Tensor) -> Tensor:
    """The displacements (B, K, 2) that code a frame: the last ones, (B, K, 2), where they are good enough."""
    errors, reach = matched.errors.flatten(2), matched.errors.shape[-1] // 2
    index = (last[..., 0] + reach) * (2 * reach + 1) + last[..., 1] + reach
    excess = errors.gather(2, index[..., None])[..., 0] - errors.amin(dim=-1)
    return torch.where(((excess < TOLERANCE) | (ink < PRESENT))[..., None], last, matched.displacement)


def last_steps(filtered: Filtered, size: int, gaps: Sequence[int] = ()) -> Tensor:
    """Displacements (B, size, K, 2) before the last frame, the latest first, 0 where there were none.

    gaps: frames from each to the next.
    """
    b, k = filtered.layers.colour.shape[:2]
    none = [torch.zeros(b, k, 2, dtype=torch.long, device=filtered.layers.colour.device)] * size
    moved = [m.displacement for m in filtered.matches]
    if any(gap > 1 for gap in gaps):
        moved = [(d / gap).round().long() for d, gap in zip(moved, gaps, strict=True)]
    return torch.stack([*moved[::-1], *none][:size], dim=1)


def mended(
    segmenter: Segmenter, layers: Layers, displacement: Tensor, before: Tensor, frame: Tensor, changed: Tensor
) -> Layers:
    """Moved layers, segmented anew at the pixels `changed` (B, 1, H, W) of the frame; elsewhere they stay exact.

    before, frame (B, C, H, W) on [0, 1]: the layers were moved by `displacement` (B, K, 2) from one to the other.
    """
    count = displacement.shape[1]
    previous = shift(before.repeat_interleave(count, dim=0), displacement.flatten(0, 1)).unflatten(0, (-1, count))
    new = segmenter(frame, layers, previous)
    masks = changed, changed[:, None], changed[:, None]
    return Layers(*(torch.where(mask, *pair) for mask, *pair in zip(masks, new, layers, strict=True)))


class Steps(NamedTuple):
    """Displacements before every frame of a clip of T frames, and those that code the next frame."""

    past: Tensor  # (B, T - 1, P, K, 2) int64, the latest first
    num_past: Tensor  # (B, T - 1) int64 how many of them there are
    target: Tensor  # (B, T - 1, K, 2) int64


def steps_of(filtered: Filtered, size: int) -> Steps:
    moved = torch.stack([m.displacement for m in filtered.matches], dim=1)  # (B, T - 1, K, 2)
    before = F.pad(moved, (0, 0, 0, 0, size, 0))[:, :-1].unfold(1, size, 1)  # (B, T - 1, K, 2, P)
    past = before.movedim(-1, 2).flip(2)
    count = torch.arange(moved.shape[1], device=moved.device).clamp(max=size).expand(len(moved), -1)
    pairs = zip(filtered.matches, past[:, :, 0].unbind(dim=1), filtered.shapes, strict=False)
    target = torch.stack([chosen(m, last, shape.ink) for m, last, shape in pairs], dim=1)
    return Steps(past, count, target)


def by_layer(features: Tensor, there: Tensor) -> Tensor:
    """Features (B, P, K, D) of P times, 0 where there is none, side by side for every layer: (B, K, P D)."""
    return (features * there[:, :, None, None]).transpose(1, 2).flatten(2)


class MotionDecoder(nn.Module):
    """A distribution over each layer's displacement, given those of the layers before it. S = 2 * reach + 1."""

    def __init__(
        self, count: int, reach: int, size: int, image_size: int, dim: int, depth: int, heads: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        self.reach, self.size, self.image_size = reach, size, image_size
        side = 2 * reach + 1
        past = size * (2 * side + 3)
        beyond = BEYOND * (FAR + 1 + 4 * FREQUENCIES + 2 * side + 6)
        self.embed = nn.Sequential(nn.Linear(features_size(reach) + past + beyond + 1, 2 * dim), nn.SiLU())
        self.project = nn.Linear(2 * dim, dim)
        self.layer = nn.Parameter(0.02 * torch.randn(count, dim))
        self.moved = nn.Parameter(0.02 * torch.randn(side**2, 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head, self.weights = nn.Linear(dim, side**2), nn.Linear(dim, POINTERS + 1)
        for layer in (self.head, self.weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.weights.bias.copy_(torch.tensor([3.0, 1.0, 1.0, -3.0]))

    def features(self, tracks: Tracks) -> Tensor:
        """(B, K, inputs): the layers' shapes, their displacements of a frame, and those to the frames beyond."""
        k, there = tracks.steps.shape[2], tracks.times > 0
        has = torch.arange(self.size, device=there.device) < tracks.num_steps[:, None]  # (B, P)
        now = ShapeFeatures(
            Shape(*(part[:, None] for part in tracks.shape)), tracks.steps[:, None, 0], has[:, :1, None, None]
        )
        gap = tracks.times.diff(dim=1, prepend=torch.zeros_like(tracks.times[:, :1]))
        onward = tracks.beyond.diff(dim=1, prepend=torch.zeros_like(tracks.beyond[:, :1]))
        onward = (onward / gap.clamp(min=1)[..., None, None]).round().long()
        when = F.one_hot(tracks.times.clamp(0, FAR), FAR + 1)[:, :, None].expand(-1, -1, k, -1)
        beyond = [when, sinusoids(tracks.beyond / 64), tracks.beyond / 32, tracks.explained[..., None]]
        parts = [
            now.features(self.reach)[:, 0],
            by_layer(self.displacements(tracks.steps), has),
            by_layer(self.displacements(onward), there),
            by_layer(torch.cat(beyond, dim=-1), there),
            tracks.backward[:, None, None].expand(-1, k, -1),
        ]
        return torch.cat([part.to(tracks.shape.ink.dtype) for part in parts], dim=-1)

    def displacements(self, steps: Tensor) -> Tensor:
        """Displacements of a frame (..., 2) -> (..., 2 S + 3)"""
        hot = F.one_hot((steps + self.reach).clamp(0, 2 * self.reach), 2 * self.reach + 1).flatten(-2)
        return torch.cat([steps / self.reach, hot, torch.ones_like(steps[..., :1])], dim=-1)

    def pointers(self, tracks: Tracks) -> tuple[Tensor, Tensor, Tensor]:
        """Displacements (B, K, POINTERS, 2) that are likely, whether each one is known, and the mean (B, K, 2)."""
        time, there = tracks.times[:, 0, None, None].clamp(min=1), tracks.times[:, :1] > 0  # (B, 1, 1), (B, 1)
        mean = tracks.beyond[:, 0] / time
        gap = (tracks.times[:, 1] - tracks.times[:, 0])[:, None, None].clamp(min=1)
        onward = (tracks.beyond[:, 1] - tracks.beyond[:, 0]) / gap
        rest = tracks.beyond[:, 0] - (time - 1) * onward
        likely = torch.stack([tracks.steps[:, 0], mean.round().long(), rest.round().long()], dim=2)
        two = tracks.times[:, 1:2] > 0
        known = torch.stack([tracks.num_steps[:, None] > 0, there, two], dim=-1)  # (B, 1, POINTERS)
        known = known & (likely.abs() <= self.reach).all(dim=-1)
        return likely, known, mean

    def logits(self, hidden: Tensor, tracks: Tracks, first: int = 0) -> Tensor:
        """(B, n, dim) of the layers from `first` on -> (B, n, S * S)."""
        side, layers = 2 * self.reach + 1, slice(first, first + hidden.shape[1])
        likely, known, mean = (part[:, layers] for part in self.pointers(tracks))
        *weights, pull = self.weights(hidden).float().unbind(dim=-1)
        y, x = (likely + self.reach).clamp(0, side - 1).unbind(dim=-1)  # (B, n, POINTERS)
        pointed = torch.stack(weights, dim=-1) * known
        logits = self.head(hidden).float().scatter_add(-1, y * side + x, pointed)
        axis = torch.arange(-self.reach, self.reach + 1, device=hidden.device)
        away = (torch.cartesian_prod(axis, axis) - mean[:, :, None]).square().sum(dim=-1)  # (B, n, S * S)
        there = (tracks.times[:, :1] > 0)[..., None]
        beyond = self.beyond_border(tracks.shape)[:, layers]
        return logits - F.softplus(pull)[..., None] * away * there - EDGE * beyond

    def beyond_border(self, shape: Shape) -> Tensor:
        """Pixels that every displacement moves a layer's bounding box beyond the border, (B, K, S * S)."""
        axis = torch.arange(-self.reach, self.reach + 1, device=shape.ink.device)
        top, bottom, left, right = (self.image_size * shape.coordinates[..., 2:, None]).unbind(dim=-2)
        y, x = (
            F.relu(-low - axis) + F.relu(high + axis - self.image_size + 1)
            for low, high in ((top, bottom), (left, right))
        )
        return (y[..., :, None] + x[..., None, :]).flatten(-2)

    def tokens(self, tracks: Tracks) -> Tensor:
        return self.project(self.embed(self.features(tracks))) + self.layer

    def shifted(self, tokens: Tensor, indices: Tensor) -> Tensor:
        """Adds the displacement of the layer before to each token but the first."""
        before = F.embedding(indices, self.moved.flatten(1))
        return tokens + F.pad(before, (0, 0, 1, 0))[:, : tokens.shape[1]]

    def hidden(self, x: Tensor, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block(x, block.remember(tokens))
        return self.norm(x)

    def nats(self, tracks: Tracks, displacement: Tensor) -> Tensor:
        """Negative log-likelihood of displacements (B, K, 2): (B, K)."""
        tokens, indices = self.tokens(tracks), self.indices(displacement)
        logits = self.logits(self.hidden(self.shifted(tokens, indices[:, :-1]), tokens), tracks)
        return cross_entropy(logits, indices)

    def draw(self, tracks: Tracks, sampling: Sampling, gumbel: Tensor | None) -> Tensor:
        """gumbel (F, K, S * S) -> displacements (F, K, 2)."""
        tokens = self.tokens(tracks)
        indices = tracks.steps.new_zeros(len(tokens), 0)
        for k in range(tokens.shape[1]):
            hidden = self.hidden(self.shifted(tokens[:, : k + 1], indices), tokens)[:, k:]
            logits = self.logits(hidden, tracks, k)[:, 0]
            index = sample_logits(logits, sampling, logits if gumbel is None else gumbel[:, k])
            indices = torch.cat([indices, index[:, None]], dim=1)
        side = 2 * self.reach + 1
        return torch.stack([indices // side, indices % side], dim=-1) - self.reach

    def indices(self, displacement: Tensor) -> Tensor:
        y, x = (displacement + self.reach).unbind(dim=-1)
        return y * (2 * self.reach + 1) + x
