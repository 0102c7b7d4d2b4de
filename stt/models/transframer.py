"""Transframer: predicts a target frame, given frames around it, as a sequence of sparse triples (arXiv 2203.09494).

A frame is a correction of the nearest one of its context. First come motion triples (channel "motion", position =
motion layer, value = displacement): the layers of the nearest frame move, and make a prediction of the target. Then a
U-Net encodes the prediction and the frames around it (`stt.context_unet`), and a causal transformer writes what the
prediction lacks as DCT triples (channel, position, value), until an end (`stt.triple_decoder`, `stt.dct`; the sequence
is that of arXiv 2103.03841). As the target may be any frame, the same network predicts and fills gaps.

The target may also be a map of a frame, such as a segmentation. Level triples (channel "level", position = layer, value
= gray level) then make the prediction.

Where we differ: the paper codes differences to the frame before; here what moves as a whole moves as a whole, by layers
that a segmenter makes of the context (`stt.segmenter`). See also `stt.triple_decoder`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
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
from stt.layer_levels import LEVELS, LevelDecoder, levels_of, painted
from stt.layer_motion import MotionDecoder, Tracks, batch_tracks, chosen, last_steps, mended, steps_of
from stt.layer_tasks import Clip, Plan, corrupted, plan_of
from stt.layers import patchify
from stt.metrics import unit
from stt.motion import Layers, composite, match
from stt.motion_tokens import segmentation_loss
from stt.segmenter import Filtered, Segmenter
from stt.triple_decoder import Scene, Scores, TripleDecoder


@dataclass(frozen=True, kw_only=True)
class TransframerConfig(PredictorConfig):
    dct: DCTConfig = field(default_factory=lambda: DCTConfig(channels=1, block=4, background=0, quality=25))
    context_frames: int = 6  # most frames of a context before the target, and after it
    near_frames: int = 2  # of the context, which the U-Net sees
    layers: int = 2  # motion layers in front of a background
    reach: int = 5  # largest displacement of a layer, pixels a frame and axis
    segmenter_width: int = 32  # channels of the segmenter at its finest scale
    threshold: float = 1.0  # squared error of a cell, on [0, 1], up to which it has no DCT triples
    dim: int = 128
    depth: int = 2  # blocks of each decoder
    heads: int = 4
    mlp_ratio: int = 4
    widths: tuple[int, ...] = (64, 128)  # of the U-Net, from the DCT's grid to the resolution of the decoder's memory
    blocks: int = 1  # of the U-Net at its lowest resolution
    draft: int = 48  # width of the decoder's draft network
    max_triples: int = 96  # DCT triples of a frame; what a longer one has beyond, always fine detail, is left out
    backward: float = 0.25  # share of training steps whose clips run backward, as when a gap is filled from its end
    interpolate: float = 0.3  # share of training steps whose DCT triples are of a frame between others
    residual_share: float = 0.5  # share of a batch's clips whose DCT triples are learned: most frames need none
    corrupt_context: float = 0.3  # share of training steps whose layers have errors as predictions have
    corruption: float = 0.02  # share of the cells of such layers that have errors
    maps: tuple[str, ...] = ()  # other images of a frame that may be the target, by name
    map_share: float = 0.15  # share of training steps whose target is one

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_frames != 1:
            raise ValueError(f"chunk_frames is {self.chunk_frames}, must be 1: frames are drawn one by one")
        for name in ("image_size", "channels"):
            if getattr(self, name) != getattr(self.dct, name):
                raise ValueError(f"{name} is {getattr(self, name)}, its dct's is {getattr(self.dct, name)}")
        if self.image_size % 8:
            raise ValueError(f"image_size {self.image_size} is not a multiple of 8")
        if self.dct.grid % 2 ** (len(self.widths) - 1):
            raise ValueError(f"{len(self.widths)} widths halve a grid of {self.dct.grid} cells too often")
        if self.reach < 1:
            raise ValueError(f"reach is {self.reach}, must be at least 1")
        for name in ("widths", "dim", "draft", "segmenter_width"):
            value = getattr(self, name)
            if any(width < 16 or width % 16 for width in (value if name == "widths" else (value,))):
                raise ValueError(f"{name} is {value}, must be a multiple of 16")
        if not 1 <= self.max_triples <= self.dct.longest:
            raise ValueError(f"max_triples is {self.max_triples}, must be 1 to {self.dct.longest}, all of a frame")
        self.check_shares("backward", "interpolate", "residual_share", "corrupt_context", "corruption", "map_share")
        if self.threshold < 0:
            raise ValueError(f"threshold is {self.threshold}, must be 0 or more")

    @classmethod
    def nested(cls) -> dict[str, type[Config]]:
        return {"dct": DCTConfig}


class TransframerState(NamedTuple):
    recent: Video  # (B, 1 ... near_frames, C, H, W): the prompt's end, then predictions
    layers: Layers  # of the latest frame
    steps: Tensor  # (B, P, K, 2) displacements that led to it, the latest first
    num_steps: int  # how many of them there are


class Transframer(Predictor):
    family: ClassVar[str] = "transframer"
    knobs: frozenset[str] = frozenset({"temperature", "top_k", "top_p"})

    def __init__(self, config: TransframerConfig) -> None:
        super().__init__()
        self.config = c = config
        self.codec = FrameDCT(c.dct)
        k, small = c.dct.dct_channels, c.dct.grid // 2 ** (len(c.widths) - 1)
        self.segmenter = Segmenter(c.layers, c.channels, c.segmenter_width)
        self.motion = MotionDecoder(
            c.layers, c.reach, self.num_steps, c.image_size, c.dim, c.depth, c.heads, c.mlp_ratio
        )
        if c.maps:
            self.levels = LevelDecoder(c.layers, c.channels, len(c.maps), c.widths[0], c.dim, c.heads, c.mlp_ratio)
        self.unet = ContextUNet(2 * k, c.layers * c.channels * c.dct.block**2, c.widths, c.blocks, c.dim, len(c.maps))
        self.memory, self.memory_note = nn.Linear(c.widths[-1], c.dim), nn.Linear(c.dim, c.dim)
        self.memory_rows = nn.Parameter(0.02 * torch.randn(small, 1, c.dim))
        self.memory_columns = nn.Parameter(0.02 * torch.randn(1, small, c.dim))
        self.decoder = TripleDecoder(
            self.codec, dim=c.dim, depth=c.depth, heads=c.heads, mlp_ratio=c.mlp_ratio, scene_width=c.widths[0],
            draft=c.draft, max_triples=c.max_triples,
        )  # fmt: skip
        self.plan = Plan()

    @property
    def num_steps(self) -> int:
        """Displacements of a track."""
        return max(self.config.context_frames - 1, 1)

    def scene(self, context: Context, layers: Layers, predicted: Tensor) -> Scene:
        """predicted (B, C, H, W) in [-1, 1], made of the layers."""
        images = torch.cat([context.video, predicted[:, None]], dim=1)
        dense = self.codec.features(self.codec.encode(images))
        pixels = patchify(layers.colour.flatten(1, 2), self.config.dct.block)
        target, low, note = self.unet(dense, pixels, context)
        memory = self.memory(rearrange(low, "b s c h w -> b s h w c"))
        memory = memory + self.memory_note(note)[:, None, None] + self.memory_rows + self.memory_columns
        memory = rearrange(memory, "b s h w d -> b (s h w) d")
        return Scene(target, dense[:, -1], tuple(block.remember(memory) for block in self.decoder.blocks))

    def near(self, frames: Video, times: Sequence[int], map_index: int = 0) -> Context:
        """The nearest of frames (B, T, C, H, W), whose times are counted from the target."""
        index = nearest(times, self.config.near_frames)
        return Context(torch.stack([frames[:, k] for k in index], dim=1), tuple(times[k] for k in index), map_index)

    def moved(self, layers: Layers, displacement: Tensor) -> tuple[Layers, Tensor]:
        """Layers moved by (B, K, 2), and the prediction that they make, (B, C, H, W) in [-1, 1]."""
        layers = layers.moved(displacement)
        return layers, 2 * composite(layers).clamp(0, 1) - 1

    def residual(self, frames: Tensor, predicted: Tensor) -> Tensor:
        """What predictions lack, as dense images; nothing in cells that are good enough."""
        c, gap = self.config, self.config.dct.spacing
        error = ((frames - predicted) / 2).square().mean(dim=1, keepdim=True)
        error = F.avg_pool2d(error, c.dct.block) * c.dct.block**2
        coded = (F.max_pool2d(error, gap) > c.threshold).repeat_interleave(gap, 2).repeat_interleave(gap, 3)
        return self.codec.encode_residual(frames, predicted) * coded

    # ---- training ------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        c = self.config
        of_maps = c.map_share if c.maps else 0.0
        self.plan = plan_of(step, c.interpolate, of_maps, c.backward, c.corrupt_context)

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy: of motions in nats a layer, of DCT triples in nats each, of levels in nats a layer.

        The motion of all frames is predicted from those before them, and that of some from both sides. One frame of
        `residual_share` of the clips has DCT triples, and the layers before it have levels. A segmenter that is not
        frozen learns to make layers that reconstruct the clip, see `stt.motion_tokens`.
        """
        self.check(batch)
        video, maps, turned = batch.video, batch.maps, self.plan.backward
        video, maps = video.flip(1) if turned else video, maps.flip(2) if turned and maps is not None else maps
        filtered = self.segmenter.filter(unit(video), self.config.reach)
        history = [Layers(*(part.detach() for part in layers)) for layers in filtered.history]
        clip = Clip(video, history, steps_of(filtered, self.num_steps), self.plan, self.config.reach)

        targets = clip.targets()
        nats = self.motion.nats(targets.tracks, targets.displacement)
        past, between = nats.split([targets.num_past, len(nats) - targets.num_past])
        parts = {"motion": past.mean(), "motion in gaps": between.sum() / max(between.numel(), 1)}
        if maps is not None:
            index, layers = 1 + int(self.plan.map_index * maps.shape[1]), history[clip.at[0]]
            levels = levels_of(layers, maps[:, index - 1, clip.at[0]])
            parts["level"] = self.levels.nats(layers, index, levels).mean()
        scores = self.target_scores(clip, maps)
        parts |= score_parts(scores)
        total = torch.stack(list(parts.values())).sum()
        if not self.segmenter.frozen:
            parts["segmentation"] = segmentation_loss(filtered)
            total = total + parts["segmentation"]
        bits = scores.nats.sum(dim=1).mean() + parts["motion"] * self.config.layers
        parts["bits_per_dim"] = bits / (math.log(2) * video[0, 0].numel())
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def check(self, batch: Batch) -> None:
        video, maps = batch.video, batch.maps
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        names = self.config.maps
        if maps is not None and (maps.shape[1] != len(names) or maps.shape[2:] != video.shape[1:]):
            raise ValueError(f"maps are {tuple(maps.shape)}, must be {len(names)} a frame of {tuple(video.shape)}")

    def target_scores(self, clip: Clip, maps: Tensor | None) -> Scores:
        """Nats of the DCT triples of the plan's first target, of some of the clips."""
        c, plan, at, gap = self.config, clip.plan, clip.at[0], clip.gaps[0]
        count = max(round(c.residual_share * len(clip.video)), 1)
        video, layers = clip.video[:count], Layers(*(part[:count] for part in clip.history[at]))
        if plan.kind == "map" and maps is not None:
            index = int(plan.map_index * maps.shape[1])
            target = maps[:count, index, at]
            predicted = painted(layers, levels_of(layers, target), c.channels)
            context = self.near(video[:, : at + 1], range(-at, 1), 1 + index)
        else:
            shown, target = video[:, max(at - c.near_frames + 1, 0) : at + 1], video[:, at + 1]
            if plan.corrupt:
                layers, shown = corrupted(self.codec, layers, shown, clip.steps.past[:count, at, 0], c.corruption)
            layers, predicted = self.moved(layers, clip.steps.target[:count, at])
            times = list(range(-shown.shape[1], 0))
            if plan.kind == "gap" and gap:
                times, shown = [*times, gap], torch.cat([shown, video[:, at + 1 + gap, None]], dim=1)
            context = self.near(shown, [-time for time in times] if plan.backward else times)
        return self.decoder.scores(self.scene(context, layers, predicted), self.residual(target, predicted))

    # ---- likelihood ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def surprise(self, video: Video) -> Surprise:
        """Bits of each frame's triples, given the frames before it: exact for triples, not for pixels.

        A DCT triple's bits count in its cell; those of the motion and of the end token are spread evenly over all
        cells. Triples beyond max_triples cost nothing.
        """
        c, bits = self.config, []
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, a surprise needs at least 2")
        for t in range(1, video.shape[1]):
            shown = video[:, max(0, t - c.context_frames) : t]
            motion, scores = self.frame_nats(shown, video[:, t])
            cells = scores.nats.new_zeros(len(video), c.dct.positions + 1).scatter_add(1, scores.cell, scores.nats)
            cells = cells[:, :-1] + (cells[:, -1:] + motion.sum(dim=1, keepdim=True)) / c.dct.positions
            bits.append(cells.clamp(min=0) / (math.log(2) * c.dct.block**2 * c.channels))
        bits = torch.stack(bits, dim=1).unflatten(-1, (c.dct.grid, c.dct.grid))
        return Surprise(bits.mean(dim=(-2, -1)), bits)

    def frame_nats(self, shown: Video, target: Tensor) -> tuple[Tensor, Scores]:
        """Nats of the frame (B, C, H, W) after those shown: of its motion (B, K), and of its DCT triples."""
        state = self.start(shown)
        tracks = batch_tracks(state.layers, state.steps, state.num_steps, self.config.reach)
        matched = match(state.layers, unit(target), self.config.reach)
        displacement = chosen(matched, state.steps[:, 0], tracks.shape.ink)
        layers, predicted = self.moved(state.layers, displacement)
        context = self.near(state.recent, range(-state.recent.shape[1], 0))
        scores = self.decoder.scores(self.scene(context, layers, predicted), self.residual(target, predicted))
        return self.motion.nats(tracks, displacement), scores

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> TransframerState:
        shown = context[:, -self.config.context_frames :]
        filtered = self.segmenter.start(unit(shown), self.config.reach)
        return TransframerState(
            shown[:, -self.config.near_frames :],
            filtered.layers,
            last_steps(filtered, self.num_steps),
            len(filtered.matches),
        )

    def step(self, state: TransframerState, sampling: Sampling, noise: Noise) -> tuple[Video, TransframerState]:
        tracks = batch_tracks(state.layers, state.steps, state.num_steps, self.config.reach).expand(noise.futures)
        state = TransframerState(
            state.recent.expand(noise.futures, -1, -1, -1, -1), state.layers.expand(noise.futures),
            state.steps.expand(noise.futures, -1, -1, -1), state.num_steps,
        )  # fmt: skip
        displacement = self.draw_motion(tracks, sampling, noise)
        layers, predicted = self.moved(state.layers, displacement)
        context = self.near(state.recent, range(-state.recent.shape[1], 0))
        dense = self.decoder.draw(self.scene(context, layers, predicted), sampling, noise)
        frame = self.codec.decode_residual(dense, predicted)
        if dense.any():
            before, after = unit(state.recent[:, -1]), unit(frame)
            layers = mended(self.segmenter, layers, displacement, before, after, self.changed(dense))
        steps = torch.cat([displacement[:, None], state.steps], dim=1)[:, : self.num_steps]
        recent = torch.cat([state.recent, frame[:, None]], dim=1)[:, -self.config.near_frames :]
        return frame[:, None], TransframerState(recent, layers, steps, min(state.num_steps + 1, self.num_steps))

    def changed(self, dense: Tensor) -> Tensor:
        """Pixels (B, 1, H, W) of cells that have DCT triples."""
        c = self.config.dct
        cells = F.max_pool2d(dense.ne(0).any(dim=1)[:, None].float(), c.spacing).bool()
        return cells.repeat_interleave(c.block * c.spacing, 2).repeat_interleave(c.block * c.spacing, 3)

    def draw_motion(self, tracks: Tracks, sampling: Sampling, noise: Noise) -> Tensor:
        size = self.config.layers, (2 * self.config.reach + 1) ** 2
        return self.motion.draw(tracks, sampling, noise.gumbel(*size) if sampling.temperature else None)

    def frame(self, context: Video, offsets: Tensor, sampling: Sampling, noise: Noise, *, map_name: str = "") -> Video:
        """As `Interpolates.frame`; of more than context_frames the nearest on each side count.

        Where no frame is next to the target, those between are drawn first. map_name: a map of the frame in its place;
        then the frame itself, of time 0, may be in the context, and is drawn first where it is not.
        """
        if context.shape[1] < 1 or tuple(offsets.shape) != (context.shape[1],):
            raise ValueError(f"context has {context.shape[1]} frames, offsets are {offsets.tolist()}")
        if map_name and map_name not in self.config.maps:
            raise ValueError(f"map_name is {map_name!r}, the model has {list(self.config.maps)}")
        if offsets.is_floating_point() or not (map_name or offsets.all()):
            raise ValueError(f"offsets are {offsets.tolist()}, must be whole and not 0: that is the target frame")
        frames = dict(zip(offsets.tolist(), context.expand(noise.futures, -1, -1, -1, -1).unbind(dim=1), strict=True))
        first = min(frames, key=lambda time: (abs(time), time))
        toward = range(first, 0, 1 if first < 0 else -1)
        for time in (*toward[1:], 0):
            if time not in frames:
                frames[time] = self.draw_frame({at - time: frame for at, frame in frames.items()}, sampling, noise)
        return (self.draw_map(frames, map_name, sampling, noise) if map_name else frames[0])[:, None]

    def sides(self, frames: dict[int, Tensor]) -> tuple[list[int], list[int]]:
        """Times of the nearest frame's side, in order toward time 0, and those beyond it, in order away from it."""
        count, backward = self.config.context_frames, min(frames, key=lambda time: (abs(time), time)) > 0
        before, after = sorted(t for t in frames if t <= 0)[-count:], sorted(t for t in frames if t > 0)[:count]
        return (after[::-1], before[::-1]) if backward else (before, after)

    def filtered(self, frames: dict[int, Tensor], times: list[int]) -> tuple[Filtered, Tensor]:
        """Layers of frames (F, C, H, W) at these times, and the steps to the last of them."""
        gaps = [abs(b - a) for a, b in zip(times, times[1:], strict=False)]
        video = torch.stack([frames[time] for time in times], dim=1)
        filtered = self.segmenter.start(unit(video), self.config.reach * max(gaps, default=1))
        return filtered, last_steps(filtered, self.num_steps, gaps)

    def draw_frame(self, frames: dict[int, Tensor], sampling: Sampling, noise: Noise) -> Tensor:
        """The frame (F, C, H, W) at time 0, given others, one of which is next to it."""
        near, beyond = self.sides(frames)
        filtered, steps = self.filtered(frames, near)
        times = [abs(near[-1]) + abs(time) for time in beyond]
        others = [unit(frames[time]) for time in beyond]
        tracks = batch_tracks(filtered.layers, steps, len(near) - 1, self.config.reach, others, times, near[-1] > 0)
        made = self.moved(filtered.layers, self.draw_motion(tracks, sampling, noise))
        return self.corrected(frames, 0, *made, sampling, noise)

    def draw_map(self, frames: dict[int, Tensor], name: str, sampling: Sampling, noise: Noise) -> Tensor:
        """A map (F, C, H, W) of the frame at time 0, which is one of the frames."""
        c, index = self.config, 1 + self.config.maps.index(name)
        layers = self.filtered(frames, self.sides(frames)[0])[0].layers
        gumbel = noise.gumbel(c.layers, LEVELS) if sampling.temperature else None
        predicted = painted(layers, self.levels.draw(layers, index, sampling, gumbel), c.channels)
        return self.corrected(frames, index, layers, predicted, sampling, noise)

    def corrected(
        self,
        frames: dict[int, Tensor],
        map_index: int,
        layers: Layers,
        predicted: Tensor,
        sampling: Sampling,
        noise: Noise,
    ) -> Tensor:
        """A prediction (F, C, H, W) corrected by DCT triples that are drawn, given frames by their times."""
        context = self.near(torch.stack(list(frames.values()), dim=1), list(frames), map_index)
        dense = self.decoder.draw(self.scene(context, layers, predicted), sampling, noise)
        return self.codec.decode_residual(dense, predicted)

    @torch.inference_mode()
    def coded_map(self, context: Video, true: Tensor) -> Tensor:
        """A map (B, C, H, W) of the last frame of a context as its triples decode: the best that can be drawn."""
        layers = self.start(context).layers
        predicted = painted(layers, levels_of(layers, true), self.config.channels)
        return self.codec.decode_residual(self.residual(true, predicted), predicted)


def score_parts(scores: Scores) -> dict[str, Tensor]:
    """Nats of a frame's first channel, or that it has no triple, and of the rest in nats a triple.

    Apart, since a frame without a triple is one decision: among the many of a long frame it would hardly count.
    """
    later = F.pad(scores.valid[:, 1:], (1, 0))
    count = later.sum().clamp(min=1)
    parts = {name: getattr(scores, name) for name in ("channel", "position", "value")}
    first = {"ce_first": parts["channel"][:, 0].mean()}
    parts["channel"] = parts["channel"] * later
    return first | {f"ce_{name}": nats.sum() / count for name, nats in parts.items()}
