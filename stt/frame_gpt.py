"""FrameGPT: draws or scores the codes of a frame, given those before it. The network of MotionGPT.

Each cell has a motion code, then those of its residual (`stt.motion_codes`). Cells come in raster order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import Sampling
from stt.gpt import Block, Norm
from stt.motion_codes import MotionVQ
from stt.motion_networks import MotionHead, Past, ResidualHead, extrapolate, still
from stt.sampler import sample_logits

LOOKAHEAD = 16  # positions that are drawn at once
NONE = 1.3  # first logit of no residual, as a multiple of the logarithm of the number of codes


class Inputs(NamedTuple):
    """What the positions of a frame take from the frames before it."""

    features: Tensor  # (B, cells, dim)
    before: Tensor  # (B, C, H, W) on [0, 1] the frame that codes copy from: the last one, or what layers predict
    guess: Tensor  # (B, h, w) motion codes if everything moves on
    evidence: Tensor | None  # (B, cells, S, 2) of each displacement, see `stt.motion_networks.Motion`

    def take(self, rows: Tensor | tuple[Tensor, ...]) -> Inputs:
        features, before, guess, evidence = (part[rows] if part is not None else None for part in self)
        return Inputs(features, before, guess, evidence)  # type: ignore[arg-type]  # only the evidence may be None

    def expand(self, batch: int) -> Inputs:
        """Of one row, or of `batch` rows."""
        rows = torch.arange(batch, device=self.before.device)
        return self if len(self.before) == batch else self.take(rows.clamp(max=len(self.before) - 1))


class FrameDraft(NamedTuple):
    """Frames that are being drawn. Codes that are not final yet are guesses."""

    ids: Tensor  # (F, cells, G)
    line: Tensor  # (F, grid + 1 + cells, dim / 2) their tokens after those of the border
    inputs: Inputs
    gumbel: Tensor | None  # (F, cells, all codes)
    labels: list[Tensor | None]  # (F, 1, classes); of two, the first guides away from the second
    caches: list[Tensor]  # of each label, (depth, 2, F, heads, cells, d)

    def take(self, rows: Tensor) -> FrameDraft:
        labels = [label[rows] if label is not None else None for label in self.labels]
        gumbel = self.gumbel[rows] if self.gumbel is not None else None
        caches = [cache[:, :, rows] for cache in self.caches]
        return FrameDraft(self.ids[rows], self.line[rows], self.inputs.take(rows), gumbel, labels, caches)


class Embedded(NamedTuple):
    x: Tensor  # (B, n, dim) inputs of the transformer
    pointers: Tensor  # (B, n, 3) motion codes of the cells to the left and above, and of what moves on


class FrameGPT(nn.Module):
    """A causal transformer over the cells of one frame. G codes a cell.

    context_frames: before a frame, inputs of every cell. width: channels of their network. evidence: whether block
    matching of them is an input, see `Past`.
    """

    def __init__(
        self, tokenizer: MotionVQ, context_frames: int, width: int, dim: int, depth: int, heads: int, mlp_ratio: int,
        classes: int, evidence: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokenizer, self.heads, self.classes, codec = tokenizer, heads, classes, tokenizer.config
        side, pixels, half = codec.grid, codec.pixels, dim // 2
        self.past = Past(context_frames, width, dim, codec, evidence)
        self.rows = nn.Parameter(0.02 * torch.randn(side, 1, dim))
        self.columns = nn.Parameter(0.02 * torch.randn(side, dim))
        self.codes = nn.ModuleList(nn.Embedding(size, half) for size in codec.sizes)
        self.pixels = nn.Linear(pixels, half)  # of a decoded cell
        self.begin = nn.Parameter(0.02 * torch.randn(half))  # stands for cells beyond the border
        self.neighbours = nn.Linear(4 * half, dim)
        self.moved_on = nn.Linear(2 * pixels, dim)  # the cell, if it moves as its neighbours
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, classes, False) for _ in range(depth))
        self.norm = Norm(dim, classes)
        self.motion = MotionHead(dim, codec.motions, evidence)
        heads_of_stages = [ResidualHead(dim, pixels, codec.codebook_size) for _ in range(codec.stages)]
        with torch.no_grad():
            heads_of_stages[0].out.bias[0] = NONE * math.log(codec.codebook_size)  # most cells have no residual
        self.residuals = nn.ModuleList(heads_of_stages)

    @property
    def cells(self) -> int:
        """Positions of a frame."""
        return self.tokenizer.config.grid**2

    def label(self, labels: Tensor | None, batch: int = 1) -> Tensor | None:
        """Classes (B, L), -1 for none -> counts of each (B, 1, classes); None if the model has no classes."""
        if not self.classes:
            return None
        if labels is None:
            labels = torch.full((batch, 1), -1, device=self.begin.device)
        return F.one_hot(labels + 1, self.classes + 1)[..., 1:].sum(dim=1, keepdim=True).to(self.begin.dtype)

    def inputs(self, past: Tensor, count: Tensor, predicted: Tensor | None = None) -> Inputs:
        """What the positions of the next frame take from the context; count (B,): the frames of it that there were.

        predicted (B, C, H, W): the frame that layers predict, which stands for the last one of the context.
        """
        with torch.autocast(past.device.type, enabled=False):
            motion = extrapolate(self.tokenizer, past) if predicted is None else still(self.tokenizer, predicted)
        features = self.past(past, count, motion) + (self.rows + self.columns).flatten(0, 1)
        evidence = motion.evidence
        if evidence is not None:
            evidence = rearrange(evidence, "b two s h w -> b (h w) s two")
        before = past[:, -1] if predicted is None else predicted
        return Inputs(features, before, motion.likeliest, evidence)

    def tokens(self, ids: Tensor, copied: Tensor) -> Tensor:
        """Codes of cells (B, n, G) and what they copy (B, n, pixels) -> tokens (B, n, dim / 2)."""
        pixels = copied
        for stage in range(self.tokenizer.config.stages):
            pixels = pixels + F.embedding(ids[..., 1 + stage], self.tokenizer.vectors(stage))
        tokens = self.pixels(pixels.clamp(0, 1))
        for code, table in zip(ids.unbind(dim=-1), self.codes, strict=True):
            tokens = tokens + table(code)
        return tokens

    def line(self, tokens: Tensor) -> Tensor:
        """Tokens of all cells (B, cells, D) after those beyond the border: position j is at grid + 1 + j."""
        border = self.begin.expand(len(tokens), self.tokenizer.config.grid + 1, -1)
        return torch.cat([border.to(tokens.dtype), tokens], dim=1)

    def embedded(self, inputs: Inputs, line: Tensor, motion: Tensor, at: Tensor) -> Embedded:
        """The positions `at` (B, n), given the codes of the cells before each: their tokens in `line`, and motions.

        motion (B, cells).
        """
        grid, rows = self.tokenizer.config.grid, torch.arange(len(at), device=at.device)[:, None]
        near = [line[rows, at + offset] for offset in (grid, 2, 1, 0)]  # left, above on the right, above, on the left
        motions = F.pad(motion, (grid, 0), value=self.tokenizer.config.motions - 1)  # black beyond the border
        pointers = [motions[rows, at + grid - 1], motions[rows, at], inputs.guess.flatten(1)[rows, at]]
        moved = [self.tokenizer.copied_cells(inputs.before, pointer, at) for pointer in pointers[:2]]
        x = self.neighbours(torch.cat(near, dim=-1)) + self.moved_on(torch.cat(moved, dim=-1))
        return Embedded(inputs.features[rows, at] + x, torch.stack(pointers, dim=-1))

    def nats(self, inputs: Inputs, ids: Tensor, label: Tensor | None) -> Tensor:
        """Negative log-likelihood of a frame's codes (B, h, w, G), of motions and of residuals, (2, B, cells)."""
        codes = ids.flatten(1, 2)
        at = torch.arange(self.cells, device=ids.device).expand(len(ids), -1)
        pixels = self.tokenizer.copied_cells(inputs.before, codes[..., 0], at)
        x, pointers = self.embedded(inputs, self.line(self.tokens(codes, pixels)), codes[..., 0], at)
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block(x, None, block.shifts(label))[0]
        h = self.norm(x, self.norm.shift(label))
        logits = self.motion(h, pointers, inputs.evidence)
        motion = F.cross_entropy(logits.mT, codes[..., 0], reduction="none")
        residual = torch.zeros_like(motion)
        for stage, head in enumerate(self.residuals):
            code = codes[..., 1 + stage]
            coded = codes[..., 1] > 0 if stage else torch.ones_like(code, dtype=torch.bool)
            logits = head(h[coded], pixels[coded]).float()
            nats = F.cross_entropy(logits, code[coded], reduction="none")
            residual = residual.masked_scatter(coded, residual[coded] + nats)
            pixels = pixels + F.embedding(code, self.tokenizer.vectors(stage))
        return torch.stack([motion, residual])

    def draw(
        self,
        inputs: Inputs,
        label: Tensor | None,
        samplings: Sequence[Sampling],
        gumbel: Tensor | None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draws a frame's codes (F, h, w, G), exactly as one by one, by fixed-point iteration (arXiv 2002.09928).

        samplings: of motion and of residual codes. guidance: the scale of classifier-free guidance by labels (arXiv
        2207.12598); 1 is none.

        The noise of a position is drawn once, so that its code is a function of those before it. Some positions are
        computed at once, from guesses of those before them. All up to the first that changes are final, and the next
        round begins after it. Each future goes on at its own pace, and mostly several codes a round are final.
        """
        t, cells, futures = self.tokenizer.config, self.cells, len(inputs.before)
        ids = torch.zeros(futures, cells, len(t.sizes), dtype=torch.int64, device=inputs.before.device)
        ids[..., 0] = inputs.guess.flatten(1)
        places = torch.arange(cells, device=ids.device).expand(futures, -1)
        copied = self.tokenizer.copied_cells(inputs.before, ids[..., 0], places)
        labels: list[Tensor | None] = [label, 0 * label] if guidance > 1 and label is not None else [label]
        size = len(self.blocks), 2, futures, self.heads, cells, inputs.features.shape[-1] // self.heads
        caches = [inputs.features.new_zeros(size) for _ in labels]
        draft = FrameDraft(ids.clone(), self.line(self.tokens(ids, copied)), inputs, gumbel, labels, caches)
        rows, start = torch.arange(futures, device=ids.device), torch.zeros_like(places[:, 0])
        while len(rows):
            at = (start[:, None] + torch.arange(LOOKAHEAD, device=ids.device)).clamp(max=cells - 1)  # (F, n)
            changed = self._redraw(draft, at, samplings, guidance)
            first = torch.where(changed.any(dim=1), 1 + changed.int().argmax(dim=1), LOOKAHEAD)
            start = (start + first).clamp(max=cells)
            going = start < cells
            if not going.all():
                ids[rows[~going]] = draft.ids[~going]
                rows, start, draft = rows[going], start[going], draft.take(going)
        return ids.unflatten(1, (t.grid, t.grid))

    def _redraw(self, draft: FrameDraft, at: Tensor, samplings: Sequence[Sampling], guidance: float) -> Tensor:
        """Draws the codes of positions `at` (F, n), each given those before it; writes them into `draft`.

        Returns whether each one is another than before (F, n).
        """
        inputs, rows = draft.inputs, torch.arange(len(at), device=at.device)[:, None]
        embedded, pointers = self.embedded(inputs, draft.line, draft.ids[..., 0], at)
        features = []
        for label, cache in zip(draft.labels, draft.caches, strict=True):
            x = embedded
            for block, kv in zip(self.blocks, cache, strict=True):
                assert isinstance(block, Block)
                x = block.some(x, block.shifts(label), kv, at)
            features.append(self.norm(x, self.norm.shift(label)))
        evidence = inputs.evidence[rows, at] if inputs.evidence is not None else None
        noises = draft.gumbel[rows, at].split(self.tokenizer.config.sizes, dim=-1) if draft.gumbel is not None else None

        def sampled(group: int, head: nn.Module, *pixels_or_motion: Tensor | None) -> Tensor:
            logits, *free = (head(h, *pixels_or_motion).float() for h in features)
            if free:
                logits = free[0] + guidance * (logits - free[0])
            return sample_logits(logits, samplings[min(group, 1)], logits if noises is None else noises[group])

        codes = [sampled(0, self.motion, pointers, evidence)]
        copied = pixels = self.tokenizer.copied_cells(inputs.before, codes[0], at)
        for stage, head in enumerate(self.residuals):
            code = sampled(1 + stage, head, pixels)
            codes.append(code * (codes[1] > 0) if stage else code)
            pixels = pixels + F.embedding(codes[-1], self.tokenizer.vectors(stage))
        ids = torch.stack(codes, dim=-1)
        changed = (ids != draft.ids[rows, at]).any(dim=-1)
        draft.ids[rows, at] = ids
        draft.line[rows, at + self.tokenizer.config.grid + 1] = self.tokens(ids, copied)
        return changed
