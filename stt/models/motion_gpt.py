"""MotionGPT: VideoGPT (arXiv 2104.10157) over the codes of a motion-compensated codec, frame by frame.

A GPT draws each frame's codes one after the other: which block of the frame before moves here, then what is added to
it. It takes the last frames and what they say about motion as inputs of each position, so that no code has to repeat
them. With motion layers, things first move as wholes, by displacements that are drawn too (`stt.layer_prediction`), and
codes correct that frame. Where we differ from VideoGPT: the tokenizer codes a frame given the one before; attention
stays within a frame; without a context, classes guide the first frame only, for later ones show it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
from stt.frame_gpt import FrameGPT
from stt.gpt import repeat_rows
from stt.layer_prediction import LayerPrediction, LayerState
from stt.metrics import unit
from stt.motion_codes import MotionVQ, MotionVQConfig
from stt.motion_networks import FINE
from stt.segmenter import check_segmenter

FIRST = 5  # of so many frames of a clip one is learned as a first frame


@dataclass(frozen=True, kw_only=True)
class MotionGPTConfig(PredictorConfig):
    tokenizer: MotionVQConfig = field(default_factory=MotionVQConfig)
    context_frames: int = 5  # frames before a frame that are inputs
    dim: int = 144
    depth: int = 3
    heads: int = 6
    mlp_ratio: int = 4
    width: int = 48  # channels of the context's network at 4x4 pixels
    classes: int = 0  # 0 for none
    labels: int = 0  # most classes of a clip that can be asked for; 0: the model only continues clips
    drop_labels: float = 0.5  # share of the clips whose labels are hidden
    temperatures: tuple[float, float] = (
        1.0,
        1.0,
    )  # of motion and residual codes after the first frame, times what is asked
    guidance: float = 1.0  # classifier-free guidance by labels (arXiv 2207.12598); 1 is none
    drop_context: float = 0.12  # share of training steps without a context; with layers, of the clips of each
    short_context: float = 0.2  # share of training steps whose context has a random length
    closed_loop: float = 0.5  # share of training steps whose context went through the tokenizer; not with layers
    corruption: float = 0.02  # share of the cells of such a context that moved at random
    layers: int = 0  # motion layers, which move as wholes before cells are coded; 0 for none
    segmenter_width: int = 32  # channels of their segmenter at its finest scale

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_frames != 1:
            raise ValueError(f"chunk_frames is {self.chunk_frames}, must be 1")
        if not (math.isfinite(self.guidance) and self.guidance >= 1):
            raise ValueError(f"guidance is {self.guidance}, must be at least 1, which is no guidance")
        self.check_shares("drop_context", "drop_labels", "short_context", "closed_loop", "corruption")
        if len(self.temperatures) != 2 or not all(0 < t <= 1 for t in self.temperatures):
            raise ValueError(f"temperatures are {self.temperatures}, must be two above 0, up to 1")
        if self.tokenizer.patch % FINE:
            raise ValueError(f"patch is {self.tokenizer.patch}, must be a multiple of {FINE}")
        if self.layers:
            check_segmenter(self.image_size, self.segmenter_width, self.tokenizer.reach)
            if self.labels > self.layers:
                raise ValueError(f"labels are up to {self.labels}, each is a layer, of which there are {self.layers}")
        elif self.context_frames < 2:
            raise ValueError("context_frames is 1, must be at least 2 without layers")
        for name in ("image_size", "channels"):
            if getattr(self, name) != getattr(self.tokenizer, name):
                raise ValueError(f"{name} is {getattr(self, name)}, its tokenizer's is {getattr(self.tokenizer, name)}")

    @classmethod
    def nested(cls) -> dict[str, type[Config]]:
        return {"tokenizer": MotionVQConfig}


class MotionGPTState(NamedTuple):
    past: Tensor  # (B, context_frames, C, H, W) on [0, 1] the last frames, black where there were none
    length: int  # frames of it that there were
    labels: Tensor  # (1, L) int64 classes that are asked for, -1 for any
    label: Tensor | None  # (1 or F, 1, classes) how often each class is there
    guided: bool = False  # whether there is a class to guide to
    layer_state: LayerState | None = None  # of the last frame, if there was one


class MotionGPT(Predictor):
    family: ClassVar[str] = "motion_gpt"

    def __init__(self, config: MotionGPTConfig) -> None:
        super().__init__()
        self.config = c = config
        self.knobs = frozenset({"temperature", "top_k", "top_p"} | ({"labels"} if c.classes and c.labels else set()))
        tokenizer = MotionVQ(c.tokenizer).requires_grad_(False)
        self.gpt = FrameGPT(
            tokenizer, c.context_frames, c.width, c.dim, c.depth, c.heads, c.mlp_ratio, c.classes, evidence=not c.layers
        )
        if c.layers:
            self.layer_prediction = LayerPrediction(
                c.layers, c.channels, c.tokenizer.reach, c.segmenter_width, num_steps=max(c.context_frames - 1, 1),
                image_size=c.image_size, dim=c.dim, heads=c.heads, mlp_ratio=c.mlp_ratio,
            )  # fmt: skip
        self.frame = 0.5  # in [0, 1): with layers, which frame of a clip has codes in the next loss
        self.length = c.context_frames  # most frames of context in the next loss
        self.closed_loop = False  # whether they went through the tokenizer

    @property
    def tokenizer(self) -> MotionVQ:
        return self.gpt.tokenizer

    def train(self, mode: bool = True) -> MotionGPT:
        super().train(mode)
        self.tokenizer.eval()  # frozen: its codebooks must not follow this network's data
        return self

    # ---- training ------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        c, rng = self.config, random.Random(step)
        dropped, short = rng.random() < c.drop_context and not c.layers, rng.random() < c.short_context
        self.length = 0 if dropped else rng.randint(1, c.context_frames) if short else c.context_frames
        self.closed_loop = rng.random() < c.closed_loop and not dropped
        self.frame = rng.random()

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of the codes of all frames, each given those before it, in nats a cell; see `_layer_loss`."""
        c, frames = self.config, unit(batch.video)
        b, t = frames.shape[:2]
        labels = batch.labels if c.classes else None
        if labels is not None:
            labels = labels.masked_fill(torch.rand(b, 1, device=labels.device) < c.drop_labels, -1)
        label = self.gpt.label(labels, b)
        if c.layers:
            return self._layer_loss(frames, label)
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            if self.closed_loop:
                codes, before = self.tokenizer.closed_loop(frames, c.corruption)
                ids = codes.flatten(0, 1)
            else:
                before = frames
            past, count = self._pasts(before)
            if not self.closed_loop:
                ids = self.tokenizer.encode_frame(past[:, -1], frames.flatten(0, 1))
        if label is not None:
            label = label.repeat_interleave(t, dim=0)
        motion, residual = self.gpt.nats(self.gpt.inputs(past, count), ids, label).mean(dim=(1, 2))
        total = motion + residual
        parts = {"motion": motion.detach(), "residual": residual.detach()}
        return Loss(total, parts | {"bits_per_dim": total.detach() * self._bits_per_dim})

    def _layer_loss(self, frames: Tensor, label: Tensor | None) -> Loss:
        """With layers: of the displacements of all frames in nats a layer, and of the codes of some in nats a cell.

        The first clips have a context: their displacements are learned, and the codes of one frame, as a correction of
        the one that layers predict. Of the others every FIRST-th frame has codes, each as if it were the first. Each
        kind has one clip at least, so a batch of one is both.
        """
        c, (b, t) = self.config, frames.shape[:2]
        if t < 2:
            raise ValueError(f"clips have {t} frame, training with layers needs at least 2")
        with_context = min(max(round((1 - c.drop_context) * b), 1), max(b - 1, 1))
        rest = slice(with_context if b > 1 else 0, None)
        first = frames[rest, int(self.frame * min(FIRST, t)) :: FIRST]
        scored, k = self.layer_prediction.score(frames[:with_context]), 1 + int(self.frame * (t - 1))
        later, lengths = (part.unflatten(0, (with_context, t))[:, k] for part in self._pasts(frames[:with_context]))
        n, target = first.shape[0] * first.shape[1], torch.cat([first.flatten(0, 1), frames[:with_context, k]])
        predicted = torch.cat([torch.zeros_like(target[:n]), scored.frames[:, k - 1]])
        past = torch.cat([torch.zeros_like(later[:1]).expand(n, *later.shape[1:]), later])
        length = torch.cat([torch.zeros_like(lengths[:1]).expand(n), lengths])
        if label is not None:
            of_first = label[rest].repeat_interleave(first.shape[1], dim=0)
            label = torch.cat([of_first, label[:with_context]])
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            ids = self.tokenizer.encode_frame(predicted, target)
        nats = self.gpt.nats(self.gpt.inputs(past, length, predicted), ids, label).sum(dim=0)  # (frames, cells)
        losses = {"layers": scored.nats.mean(), "first frame": nats[:n].mean(), "later frames": nats[n:].mean()}
        if not self.layer_prediction.segmenter.frozen:
            losses["segmentation"] = scored.segmentation
        parts = {name: part.detach() for name, part in losses.items()}
        bits = parts["later frames"] * self._bits_per_dim
        bits = bits + parts["layers"] * c.layers / (math.log(2) * frames[0, 0].numel())
        return Loss(torch.stack(list(losses.values())).sum(), parts | {"bits_per_dim": bits})

    def _pasts(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (B, T, C, H, W) -> each frame's context (B T, P, C, H, W) and the count of its frames (B T,)."""
        p, (b, t) = self.config.context_frames, frames.shape[:2]
        padded = F.pad(frames, (0,) * 6 + (p, 0))
        past = padded[:, :-1].unfold(1, p, 1)  # (B, T, C, H, W, P)
        count = torch.arange(t, device=frames.device).clamp(max=min(p, self.length))
        used = torch.arange(p, device=frames.device) >= p - count[:, None]  # (T, P)
        past = past.movedim(-1, 2) * used[..., None, None, None]
        return past.flatten(0, 1), count.repeat(b)

    # ---- likelihood ----------------------------------------------------------------------------------

    @property
    def _bits_per_dim(self) -> float:
        """Bits per pixel and channel of a nat per cell."""
        return 1 / (math.log(2) * self.config.tokenizer.pixels)

    @torch.inference_mode()
    def surprise(self, video: Video) -> Surprise:
        """Bits of each frame's codes, given the frames before it: exact for codes, not for pixels.

        Those of the layers' displacements are spread evenly over all cells; layers are made of all frames before.
        """
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, a surprise needs at least 2")
        c, frames = self.config, unit(video)
        p, (b, t) = c.context_frames, frames.shape[:2]
        padded, bits = F.pad(frames, (0,) * 6 + (p, 0)), []
        scored = self.layer_prediction.score(frames) if c.layers else None
        for k in range(1, t):
            past, predicted = padded[:, k : k + p], scored.frames[:, k - 1] if scored else None
            inputs = self.gpt.inputs(past, torch.full((b,), min(k, p), device=video.device), predicted)
            ids = self.tokenizer.encode_frame(inputs.before, frames[:, k])
            nats = self.gpt.nats(inputs, ids, self.gpt.label(None, b)).sum(dim=0)
            if scored:
                nats = nats + scored.nats[:, k - 1].sum(dim=1, keepdim=True) / self.gpt.cells
            bits.append(nats.unflatten(1, (c.tokenizer.grid, -1)) * self._bits_per_dim)
        cells = torch.stack(bits, dim=1)
        return Surprise(cells.mean(dim=(-2, -1)), cells)

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> MotionGPTState:
        """With labels a clip is generated from nothing: the context has no part in it. -1 is any class."""
        c, labels = self.config, condition.labels
        if labels and (len(labels) > c.labels or max(labels) >= c.classes):
            raise ValueError(f"labels are {labels}, the model takes up to {c.labels} of 0 to {c.classes - 1}")
        rows = torch.tensor([labels] if labels else [[-1]]).to(context.device, non_blocking=True)
        frames = unit(context[:, max(0, context.shape[1] - c.context_frames) :])[:, : 0 if labels else None]
        past = F.pad(frames, (0,) * 6 + (c.context_frames - frames.shape[1], 0))
        guided = c.guidance > 1 and max(labels, default=-1) >= 0
        layers = self.layer_prediction.start(frames) if c.layers and frames.shape[1] else None
        return MotionGPTState(past, frames.shape[1], rows, self.gpt.label(rows), guided, layers)

    def step(self, state: MotionGPTState, sampling: Sampling, noise: Noise) -> tuple[Video, MotionGPTState]:
        c, futures = self.config, noise.futures
        draw = self._first_of_layers if c.layers and state.layer_state is None else self._next
        frame, state = draw(state, sampling, noise)
        past = torch.cat([repeat_rows(state.past, futures)[:, 1:], frame[:, None]], dim=1)
        return 2 * frame[:, None] - 1, state._replace(past=past, length=min(state.length + 1, c.context_frames))

    def _next(self, state: MotionGPTState, sampling: Sampling, noise: Noise) -> tuple[Tensor, MotionGPTState]:
        """A frame (F, C, H, W) on [0, 1], and the state with its layers if there are any."""
        c, futures, moved, predicted, past = self.config, noise.futures, None, None, state.past
        if state.layer_state is not None:
            gumbel = noise.gumbel(*self.layer_prediction.choices) if sampling.temperature else None
            moved, predicted = self.layer_prediction.draw(state.layer_state.expand(futures), sampling, gumbel)
            past = repeat_rows(past, futures)
        count = torch.full((len(past),), state.length, device=past.device)
        inputs = self.gpt.inputs(past, count, predicted).expand(futures)
        label = repeat_rows(state.label, futures) if state.label is not None else None
        gumbel = noise.gumbel(self.gpt.cells, sum(c.tokenizer.sizes)) if sampling.temperature else None
        own = c.temperatures if state.length else (1.0, 1.0)  # what comes from nothing takes all of its chance
        samplings = [replace(sampling, temperature=sampling.temperature * factor) for factor in own]
        ids = self.gpt.draw(inputs, label, samplings, gumbel, 1.0 if state.length or not state.guided else c.guidance)
        frame = self.tokenizer.decode_frame(inputs.before, ids)
        if moved is None:
            return frame, state
        changed = self.tokenizer.changed(ids)
        return frame, state._replace(layer_state=self.layer_prediction.correct(moved, frame, changed))

    def _first_of_layers(
        self, state: MotionGPTState, sampling: Sampling, noise: Noise
    ) -> tuple[Tensor, MotionGPTState]:
        """A frame from nothing: every label is drawn as a layer of its own. Of any class, one is drawn first."""
        c, f, count = self.config, noise.futures, state.labels.shape[1]
        labels, gumbel = state.labels, None
        if sampling.temperature:
            any_class = noise.gumbel(count, c.classes).argmax(dim=-1)  # (F, L)
            labels = torch.where(labels < 0, any_class, labels)
            gumbel = noise.gumbel(count, self.gpt.cells, sum(c.tokenizer.sizes)).flatten(0, 1)
        labels = labels.clamp(min=0).expand(f, -1)
        past = state.past.new_zeros(1, *state.past.shape[1:])
        inputs = self.gpt.inputs(past, torch.zeros_like(labels[0, :1]), past[:, -1]).expand(f * count)
        ids = self.gpt.draw(inputs, self.gpt.label(labels.reshape(-1, 1)), [sampling] * 2, gumbel, c.guidance)
        frames = self.tokenizer.decode_frame(inputs.before, ids).unflatten(0, (f, count))  # (F, L, C, H, W)
        layers = self.layer_prediction.of_frames(frames)
        return layers.frame, state._replace(label=self.gpt.label(labels), layer_state=layers)
