"""MotionVQ: frames as motion-compensated blocks and residuals, and back, as a video codec has P-frames.

Every cell is copied from the frame before, moved by whole pixels, or starts black; residual vectors are added where
the copy differs from the frame. What moves as a whole stays as sharp as it was, however long it moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import Batch, Codes, Config, Loss, Tokenizer, Video
from stt.layers import patchify, unpatchify
from stt.metrics import unit
from stt.quantize import VectorQuantizer

SURROUNDINGS = 0.25  # weight of the errors in the window of twice the cell's side, against those in the cell
LENGTH = 1e-3  # squared error that a pixel of displacement may cost: of equal matches the shortest is taken
BLACK = 0.02  # squared error that a copy may have more than black


@dataclass(frozen=True, kw_only=True)
class MotionVQConfig(Config):
    patch: int = 8  # pixels per side of a cell
    reach: int = 4  # longest displacement per axis, in pixels
    codebook_size: int = 512  # residual vectors of a stage; the first is zero
    stages: int = 2  # of the residual quantizer
    threshold: float = 1.0  # squared error of a cell, on [0, 1], up to which it has no residual
    filter_width: int = 16  # channels of the deblocking filter

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")

    @property
    def grid(self) -> int:
        return self.image_size // self.patch

    @property
    def motions(self) -> int:
        """Displacements, and black as the last."""
        return (2 * self.reach + 1) ** 2 + 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each group: the motion, then the stages of the residual."""
        return (self.motions, *[self.codebook_size] * self.stages)

    @property
    def pixels(self) -> int:
        return self.channels * self.patch**2


class Blocks(NamedTuple):
    """A frame before the deblocking filter."""

    frame: Tensor  # (B, C, H, W) on [0, 1]
    copied: Tensor  # (B, C, H, W) its motion-compensated part


class MotionVQ(Tokenizer):
    """Block matching and residual vector quantization (RVQ, arXiv 2107.03312) of one frame given the one before.

    Ids (B, T, h, w, 1 + stages): which displacement, then the residual's codes; a first residual code of 0 is none,
    and then all are 0. The latents are the ids as floats, since they mean nothing without the frame before.
    """

    config: MotionVQConfig
    shifts: Tensor  # (S, 2) displacements as (y, x), in the order of their codes

    def __init__(self, config: MotionVQConfig) -> None:
        super().__init__()
        self.config = c = config
        self.books = nn.ModuleList(VectorQuantizer(c.codebook_size - 1, c.pixels) for _ in range(c.stages))
        width = c.filter_width
        self.filter = nn.Sequential(
            nn.Conv2d(c.channels + 1, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, c.channels, 3, padding=1),
        )
        for parameter in self.filter[-1].parameters():  # at first it changes nothing
            nn.init.zeros_(parameter)
        axis = range(c.reach, -c.reach - 1, -1)  # in the order of `candidates`
        self.register_buffer("shifts", torch.tensor([[y, x] for y in axis for x in axis]), persistent=False)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.config.sizes

    @property
    def still(self) -> int:
        """The motion code of no displacement."""
        return len(self.shifts) // 2

    # ---- one frame given the one before ------------------------------------------------------------------

    def candidates(self, frame: Tensor, scale: int = 1) -> Tensor:
        """Frames (B, C, H, W), black outside -> moved by `scale` times every displacement, (B, S, C, H, W)."""
        c = self.config
        reach, side = scale * c.reach, c.image_size
        moved = F.pad(frame, [reach] * 4).unfold(2, side, scale).unfold(3, side, scale)  # (B, C, 2r+1, 2r+1, H, W)
        return rearrange(moved, "b c y x h w -> b (y x) c h w")

    def match(self, before: Tensor, frame: Tensor) -> Tensor:
        """Motion codes (B, h, w) of frames given those before, by the least squared error of a cell and around it."""
        pairs = zip(before.split(1), frame.split(1), strict=True)  # one by one they stay in the processor's cache
        return torch.cat([self._match(*pair) for pair in pairs])

    def _match(self, before: Tensor, frame: Tensor) -> Tensor:
        patch = self.config.patch
        moved = torch.cat([self.candidates(before), torch.zeros_like(before)[:, None]], dim=1)
        error = summed(moved.sub_(frame[:, None]).square_())
        cost = window_sums(error, patch, 0) + SURROUNDINGS * window_sums(error, patch, patch // 2)
        length = torch.cat(
            [self.shifts.abs().sum(dim=1) * LENGTH, torch.full_like(self.shifts[:1, 0], BLACK, dtype=cost.dtype)]
        )
        return (cost + length[:, None, None]).argmin(dim=1)

    def copied(self, before: Tensor, motion: Tensor) -> Tensor:
        """Every cell's pixels from the frame before (B, C, H, W) by motion codes (B, h, w); black from outside."""
        at = torch.arange(self.config.grid**2, device=before.device).expand(len(before), -1)
        cells = self.copied_cells(before, motion.flatten(1), at)
        return unpatchify(cells.mT.unflatten(2, motion.shape[1:]), self.config.patch)

    def copied_cells(self, before: Tensor, motion: Tensor, at: Tensor) -> Tensor:
        """The same for the cells at some positions in raster order, motion and `at` (B, n): (B, n, pixels)."""
        c, side = self.config, self.config.image_size
        moves = torch.cat([self.shifts, self.shifts.new_full((1, 2), 2 * side)])[motion]  # black: from far outside
        first = torch.stack([at // c.grid, at % c.grid], dim=-1) * c.patch - moves  # (B, n, 2)
        lines = first[..., None] + torch.arange(c.patch, device=at.device)  # (B, n, 2, patch)
        inside = ((lines >= 0) & (lines < side)).unbind(dim=2)
        y, x = lines.clamp(0, side - 1).unbind(dim=2)
        source = (y[..., :, None] * side + x[..., None, :]).flatten(1)[:, None]  # (B, 1, n * patch**2)
        picked = before.flatten(2).gather(2, source.expand(-1, before.shape[1], -1))
        picked = picked * (inside[0][..., :, None] & inside[1][..., None, :]).flatten(1)[:, None]
        return rearrange(picked, "b c (n p) -> b n (p c)", n=at.shape[1])

    def vectors(self, stage: int) -> Tensor:
        """The pixels of a cell that each code of a stage adds, (codebook_size, pixels); the first adds none."""
        codebook = self.books[stage].codebook
        assert isinstance(codebook, Tensor)
        return F.pad(codebook, (0, 0, 1, 0))

    def residual(self, ids: Tensor) -> Tensor:
        """Residual codes (B, h, w, stages) -> pixels (B, C, H, W)."""
        stages = [F.embedding(code, self.vectors(stage)) for stage, code in enumerate(ids.unbind(dim=-1))]
        return unpatchify(torch.stack(stages).sum(dim=0).movedim(-1, 1), self.config.patch)

    def encode_frame(self, before: Tensor, frame: Tensor) -> Tensor:
        """Ids (B, h, w, 1 + stages) of frames (B, C, H, W) on [0, 1] given those before."""
        c = self.config
        motion = self.match(before, frame)
        cells = patchify(frame - self.copied(before, motion), c.patch).movedim(1, -1)  # (B, h, w, pixels)
        ids = torch.zeros(*motion.shape, 1 + c.stages, dtype=torch.int64, device=frame.device)
        ids[..., 0] = motion
        coded = cells.square().sum(dim=-1) > c.threshold
        rest, picked = cells[coded], []
        if not len(rest):
            return ids
        for stage in range(c.stages):
            vectors, first = self.vectors(stage), int(stage == 0)  # a first code of 0 would say that there is none
            nearest = torch.cdist(rest, vectors[first:]).argmin(dim=-1) + first
            rest = rest - vectors[nearest]
            picked.append(nearest)
        ids[coded] = torch.stack([motion[coded], *picked], dim=1)
        return ids

    def blocks(self, before: Tensor, ids: Tensor) -> Blocks:
        copied = self.copied(before, ids[..., 0])
        return Blocks((copied + self.residual(ids[..., 1:])).clamp(0, 1), copied)

    def changed(self, ids: Tensor) -> Tensor:
        """Pixels (B, 1, H, W) that ids (B, h, w, 1 + stages) do not leave as they were in the frame before."""
        cells = (ids[..., 1] > 0) | (ids[..., 0] != self.still)
        pixels = cells[:, None].repeat_interleave(self.config.patch, 2).repeat_interleave(self.config.patch, 3)
        return F.max_pool2d(pixels.float(), 5, stride=1, padding=2).bool()  # with those of the deblocking filter

    def filtered(self, frame: Tensor, ids: Tensor) -> Tensor:
        """The deblocking filter, which changes cells with a residual and two pixels around them; not clamped."""
        coded = (ids[..., 1] > 0)[:, None].to(frame.dtype)
        coded = coded.repeat_interleave(self.config.patch, dim=2).repeat_interleave(self.config.patch, dim=3)
        near = F.max_pool2d(coded, 5, stride=1, padding=2)
        return frame + near * self.filter(torch.cat([frame, coded], dim=1))

    def decode_frame(self, before: Tensor, ids: Tensor) -> Tensor:
        """Ids (B, h, w, 1 + stages) and the frames before -> frames (B, C, H, W) on [0, 1]."""
        return self.filtered(self.blocks(before, ids).frame, ids).clamp(0, 1)

    # ---- clips -------------------------------------------------------------------------------------------

    def closed_loop(self, frames: Tensor, corruption: float = 0.0) -> tuple[Tensor, Tensor]:
        """Frames (B, T, C, H, W) on [0, 1] -> ids of each given the decoded one before, and the decoded frames.

        corruption: share of the cells whose motion is decoded as a random one, so that the ids of the next frame
        repair it, as a predictor must that drew a wrong code.
        """
        ids, decoded = [], [torch.zeros_like(frames[:, 0])]
        for frame in frames.unbind(dim=1):
            ids.append(self.encode_frame(decoded[-1], frame))
            codes = ids[-1]
            if corruption:
                codes, motion = codes.clone(), codes[..., 0]
                other = torch.randint_like(motion, self.config.motions)
                codes[..., 0] = torch.where(torch.rand(motion.shape, device=motion.device) < corruption, other, motion)
            decoded.append(self.decode_frame(decoded[-1], codes))
        return torch.stack(ids, dim=1), torch.stack(decoded[1:], dim=1)

    def encode(self, video: Video) -> Codes:
        """(B, T, C, H, W) -> ids (B, T, h, w, 1 + stages), each frame given the decoded one before; black first."""
        ids = self.closed_loop(unit(video))[0]
        return Codes(ids, ids.to(video.dtype), video.new_zeros(()))

    def decode(self, latents: Tensor) -> Video:
        """(B, T, h, w, 1 + stages) -> (B, T, C, H, W)."""
        c, frames = self.config, []
        before = latents.new_zeros(len(latents), c.channels, c.image_size, c.image_size)
        for ids in latents.long().unbind(dim=1):
            before = self.decode_frame(before, ids)
            frames.append(before)
        return 2 * torch.stack(frames, dim=1) - 1

    def loss(self, batch: Batch) -> Loss:
        """Error of the filtered frames, each given the decoded one before; the codebooks follow the residuals."""
        frames, errors, residuals = unit(batch.video), [], []
        before = torch.zeros_like(frames[:, 0])
        for frame in frames.unbind(dim=1):
            with torch.no_grad(), torch.autocast(frame.device.type, enabled=False):
                ids = self.encode_frame(before, frame)
                cells = patchify(frame - self.copied(before, ids[..., 0]), self.config.patch).movedim(1, -1)
                residuals.append(cells[ids[..., 1] > 0])
                blocks = self.blocks(before, ids).frame
            decoded = self.filtered(blocks, ids).float()
            errors.append(F.mse_loss(decoded, frame))
            before = decoded.detach().clamp(0, 1)
        mse = torch.stack(errors).mean()
        rest = torch.cat(residuals)
        share = len(rest) / (len(frames) * frames.shape[1] * self.config.grid**2)
        if self.training and len(rest):
            for book in self.books:
                rest = rest - book(rest).latents.detach()
        parts = {"mse": 4 * mse.detach(), "residuals": mse.new_tensor(share)}
        return Loss(4 * mse, parts)


def summed(colours: Tensor) -> Tensor:
    """(B, S, C, H, W) -> the sum over channels (B, S, H, W)."""
    return colours.sum(dim=2) if colours.shape[2] > 1 else colours[:, :, 0]


def window_sums(values: Tensor, patch: int, margin: int) -> Tensor:
    """Values of pixels (B, S, H, W), square -> their sums over each cell and `margin` pixels around it.

    Two products with a banded matrix, which on a processor are faster than pooling.
    """
    pixels = torch.arange(values.shape[-1], device=values.device)
    first = pixels[::patch] - margin
    inside = (pixels[:, None] >= first) & (pixels[:, None] < first + patch + 2 * margin)  # (pixels, cells)
    band = inside.to(values.dtype)
    return (band.mT @ values) @ band  # in this order the larger product has the longer rows
