"""Transframer: predicts a target frame, given frames around it, as a sequence of sparse DCT triples (arXiv 2203.09494).

A U-Net encodes the frames, each with its time from the target (`stt.context_unet`); a causal transformer writes the
target as (channel, position, value), one triple after the other, until an end (`stt.triple_decoder`; the sequence is
that of arXiv 2103.03841, `stt.dct`). As the target may be any frame, the same network predicts and fills gaps. Its
target may also be a map of a frame, such as a segmentation.

Where we differ: motion compensation (`stt.dct_motion`) is an input. See also `stt.triple_decoder`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from stt.api import (
    NO_CONDITION,
    Batch,
    Condition,
    Config,
    Loss,
    Noise,
    Predictor,
    PredictorConfig,
    Sampling,
    Surprise,
    Video,
)
from stt.context_unet import Context, ContextUNet, nearest
from stt.dct import DCTConfig, FrameDCT
from stt.dct_motion import motion_evidence
from stt.triple_decoder import Scene, TripleDecoder


@dataclass(frozen=True, kw_only=True)
class TransframerConfig(PredictorConfig):
    dct: DCTConfig = field(default_factory=lambda: DCTConfig(channels=1, block=4, background=0, quality=25))
    context_frames: int = 4  # most frames of a context
    dim: int = 128
    depth: int = 4  # blocks of the decoder
    heads: int = 4
    mlp_ratio: int = 4
    widths: tuple[int, ...] = (64, 128)  # of the U-Net, from the DCT's grid to the resolution of the decoder's memory
    blocks: int = 2  # of the U-Net at its lowest resolution
    draft: int = 48  # width of the decoder's draft network
    max_triples: int = 224  # of a frame; what a longer one has beyond, always fine detail, is left out
    reach: int = 5  # largest motion of the nearest frame, pixels per axis
    interpolate: float = 0.3  # share of training clips whose target has frames on both sides
    short_context: float = 0.1  # share of the others with a random number of context frames
    corrupt_context: float = 0.5  # share of training clips whose context is coded, with errors as predictions have
    corruption: float = 0.5  # largest rate of those errors: missing triples, wrong values
    maps: tuple[str, ...] = ()  # other images of a frame that may be the target, by name
    map_share: float = 0.15  # share of training clips whose target is one

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_frames != 1:
            raise ValueError(f"chunk_frames is {self.chunk_frames}, must be 1: frames are drawn one by one")
        for name in ("image_size", "channels"):
            if getattr(self, name) != getattr(self.dct, name):
                raise ValueError(f"{name} is {getattr(self, name)}, its dct's is {getattr(self.dct, name)}")
        if self.dct.grid % 2 ** (len(self.widths) - 1):
            raise ValueError(f"{len(self.widths)} widths halve a grid of {self.dct.grid} cells too often")
        for name in ("widths", "dim", "draft"):
            value = getattr(self, name)
            if any(width < 16 or width % 16 for width in (value if name == "widths" else (value,))):
                raise ValueError(f"{name} is {value}, must be a multiple of 16")
        if not 1 <= self.max_triples <= self.dct.longest:
            raise ValueError(f"max_triples is {self.max_triples}, must be 1 to {self.dct.longest}, all of a frame")
        for name in ("interpolate", "short_context", "corrupt_context", "corruption", "map_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be between 0 and 1")

    @classmethod
    def nested(cls) -> dict[str, type[Config]]:
        return {"dct": DCTConfig}

    @property
    def num_others(self) -> int:
        """Context frames beside the nearest one."""
        return max(self.context_frames - 1, 1)


class Task(NamedTuple):
    """What a training step predicts of each clip."""

    target: Tensor  # (B,) time of the target frame
    present: Tensor  # (B, T) bool, which frames are the context
    map_index: Tensor  # (B,) 0 for the frame itself, from 1 on for one of the maps


class TransframerState(NamedTuple):
    recent: Video  # (B, 1 ... context_frames, C, H, W): the prompt's end, then predictions


class Transframer(Predictor):
    family: ClassVar[str] = "transframer"
    knobs: frozenset[str] = frozenset({"temperature", "top_k", "top_p"})

    def __init__(self, config: TransframerConfig) -> None:
        super().__init__()
        self.config = c = config
        self.codec = FrameDCT(c.dct)
        k, small = c.dct.dct_channels, c.dct.grid // 2 ** (len(c.widths) - 1)
        self.unet = ContextUNet(2 * k, c.num_others * (2 * c.reach + 1) ** 2, c.widths, c.blocks, c.dim, len(c.maps))
        self.memory, self.memory_note = nn.Linear(c.widths[-1], c.dim), nn.Linear(c.dim, c.dim)
        self.memory_rows = nn.Parameter(0.02 * torch.randn(small, 1, c.dim))
        self.memory_columns = nn.Parameter(0.02 * torch.randn(1, small, c.dim))
        self.decoder = TripleDecoder(
            self.codec, dim=c.dim, depth=c.depth, heads=c.heads, mlp_ratio=c.mlp_ratio, scene_width=c.widths[0],
            draft=c.draft, reach=c.reach, num_others=c.num_others, max_triples=c.max_triples,
        )  # fmt: skip

    def scene(self, context: Context) -> Scene:
        compensated, evidence = motion_evidence(self.codec, context, self.config.reach, self.config.num_others)
        target, low, note = self.unet(self.codec.features(context.dense), context, evidence)
        memory = self.memory(rearrange(low, "b s c h w -> b s h w c"))
        memory = memory + self.memory_note(note)[:, :, None, None] + self.memory_rows + self.memory_columns
        present = F.pad(context.present, (0, 1), value=True)
        mask = repeat(present, "b s -> b 1 1 (s n)", n=low.shape[-2] * low.shape[-1])
        memory = rearrange(memory, "b s h w d -> b (s h w) d")
        layers = tuple(block.cross.remember(memory) for block in self.decoder.blocks)
        return Scene(target, layers, mask, compensated, evidence)

    def context(self, video: Video, offsets: Tensor, present: Tensor, map_index: Tensor | None = None) -> Context:
        """The nearest of the frames that are present; offsets and present are (B, T), map_index (B,) as in `Task`."""
        index = nearest(offsets, present, self.config.context_frames)
        frames = video[torch.arange(len(video), device=video.device)[:, None], index]
        if map_index is None:
            map_index = torch.zeros_like(offsets[:, 0])
        maps = F.one_hot(map_index, len(self.config.maps) + 1)[:, 1:].to(video.dtype)
        return Context(frames, self.codec.encode(frames), offsets.gather(1, index), present.gather(1, index), maps)

    def past_context(self, frames: Video) -> Context:
        """Frames right before the target."""
        offsets = torch.arange(-frames.shape[1], 0, device=frames.device).expand(len(frames), -1)
        return self.context(frames, offsets, torch.ones_like(offsets, dtype=torch.bool))

    # ---- training ------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of one frame of each clip given others, in nats a triple; the parts are nats a triple too."""
        c, video, maps = self.config, batch.video, batch.maps
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        if maps is not None and (maps.shape[1] != len(c.maps) or maps.shape[2:] != video.shape[1:]):
            raise ValueError(f"maps are {tuple(maps.shape)}, must be {len(c.maps)} a frame of {tuple(video.shape)}")
        task = self.task(*video.shape[:2], 0 if maps is None else maps.shape[1], video.device)
        offsets = torch.arange(video.shape[1], device=video.device) - task.target[:, None]
        scene = self.scene(self.context(self.corrupt(video), offsets, task.present, task.map_index))
        images = video[:, None] if maps is None else torch.cat([video[:, None], maps], dim=1)
        targets = images[torch.arange(len(video), device=video.device), task.map_index, task.target]
        scores = self.decoder.scores(scene, self.codec.encode(targets))
        count = scores.valid.sum()
        ce = {name: getattr(scores, name).sum() / count for name in ("channel", "position", "value")}
        bits = scores.nats.detach().sum() / (math.log(2) * video[:, 0].numel())
        parts = {f"ce_{name}": part.detach() for name, part in ce.items()} | {"bits_per_dim": bits}
        return Loss(sum(ce.values()), parts)

    @torch.no_grad()
    def corrupt(self, video: Video) -> Video:
        """Clips, some of them with errors as predictions have: triples are missing, values are wrong."""
        c, dense = self.config, self.codec.encode(video)
        corrupted, rate = torch.rand(2, len(video), 1, 1, 1, 1, device=video.device)
        rate = c.corruption * rate
        error = (rate * (1 + dense.abs()) * torch.randn(dense.shape, device=video.device)).round().long()
        remains = (dense != 0) & (torch.rand(dense.shape, device=video.device) >= rate / 2)
        wrong = ((dense + error) * remains).clamp(-self.codec.limit, self.codec.limit)
        return torch.where(corrupted < c.corrupt_context, self.codec.decode(wrong), video)

    def task(self, batch: int, frames: int, maps: int, device: torch.device) -> Task:
        """Draws a task for each of `batch` clips. A map's own frame mostly is in its context."""
        c = self.config

        def below(ends: Tensor) -> Tensor:
            """Whole numbers 0 ... ends - 1."""
            return (torch.rand(ends.shape, device=device) * ends).long().clamp(max=ends - 1)

        def chance(share: float | Tensor, *shape: int) -> Tensor:
            return torch.rand(shape, device=device) < share

        times = torch.arange(frames, device=device)
        inside = chance(c.interpolate, batch) & (frames > 2)
        target = 1 + below(frames - 1 - inside.long())
        most = torch.full_like(target, c.context_frames)
        count = torch.where(chance(c.short_context, batch), 1 + below(most), most)
        past = (times - target[:, None] + count[:, None] >= 0) & (times < target[:, None])
        # In between: a gap around the target; beyond it all frames are present, or a random part of them. The gap often
        # ends next to the target, as when gaps are filled from their ends.
        left, right = below(target)[:, None], (target + 1 + below((frames - 1 - target).clamp(min=1)))[:, None]
        left = torch.where(chance(0.4, batch, 1), target[:, None] - 1, left)
        right = torch.where(chance(0.4, batch, 1), target[:, None] + 1, right)
        share = 2 * torch.rand(batch, 1, device=device)
        around = (times == left) | (times == right) | ((times < left) | (times > right)) & chance(share, batch, frames)
        present = torch.where(inside[:, None], around, past)
        map_index = torch.zeros_like(target)
        if maps:
            map_index = (1 + below(torch.full_like(target, maps))) * chance(c.map_share, batch)
        own = (times == target[:, None]) & (map_index > 0)[:, None] & chance(0.75, batch, 1)
        return Task(target, present | own, map_index)

    # ---- likelihood ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def surprise(self, video: Video) -> Surprise:
        """Bits of each frame's DCT triples, given the frames before it: exact for triples, not for pixels.

        A triple's bits count in its cell; the end token's are spread evenly over all cells. Triples beyond max_triples
        cost nothing.
        """
        c = self.config
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, a surprise needs at least 2")
        bits = []
        for t in range(1, video.shape[1]):
            scene = self.scene(self.past_context(video[:, max(0, t - c.context_frames) : t]))
            scores = self.decoder.scores(scene, self.codec.encode(video[:, t]))
            cells = scores.nats.new_zeros(len(video), c.dct.positions + 1)
            cells = cells.scatter_add(1, scores.cell, scores.nats)
            cells = cells[:, :-1] + cells[:, -1:] / c.dct.positions
            bits.append(cells.clamp(min=0) / (math.log(2) * c.dct.block**2 * c.channels))
        bits = torch.stack(bits, dim=1).unflatten(-1, (c.dct.grid, c.dct.grid))
        return Surprise(bits.mean(dim=(-2, -1)), bits)

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> TransframerState:
        return TransframerState(context[:, -self.config.context_frames :])

    def step(self, state: TransframerState, sampling: Sampling, noise: Noise) -> tuple[Video, TransframerState]:
        frame = self.draw(self.scene(self.past_context(state.recent)), sampling, noise)
        recent = state.recent.expand(noise.futures, -1, -1, -1, -1)
        return frame, TransframerState(torch.cat([recent, frame], dim=1)[:, -self.config.context_frames :])

    def frame(self, context: Video, offsets: Tensor, sampling: Sampling, noise: Noise, *, map_name: str = "") -> Video:
        """As `Interpolates.frame`; of more than context_frames the nearest on both sides count.

        map_name: a map of the frame in its place; then the frame itself, of time 0, may be in the context.
        """
        if context.shape[1] < 1 or tuple(offsets.shape) != (context.shape[1],):
            raise ValueError(f"context has {context.shape[1]} frames, offsets are {offsets.tolist()}")
        if map_name and map_name not in self.config.maps:
            raise ValueError(f"map_name is {map_name!r}, the model has {list(self.config.maps)}")
        if offsets.is_floating_point() or not (map_name or offsets.all()):
            raise ValueError(f"offsets are {offsets.tolist()}, must be whole and not 0: that is the target frame")
        offsets = offsets.to(context.device).expand(len(context), -1)
        map_index = torch.full_like(offsets[:, 0], 1 + self.config.maps.index(map_name) if map_name else 0)
        scene = self.scene(self.context(context, offsets, torch.ones_like(offsets).bool(), map_index))
        return self.draw(scene, sampling, noise)

    def draw(self, scene: Scene, sampling: Sampling, noise: Noise) -> Video:
        """One frame of every future, (F, 1, C, H, W)."""
        return self.codec.decode(self.decoder.draw(scene.expand(noise.futures), sampling, noise))[:, None]
