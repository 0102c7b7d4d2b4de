"""VideoGPT: a GPT over the codes of a 3D VQ autoencoder, one code after the other (arXiv 2104.10157).

A sequence is conditioned on the frames before it (a small 3D resnet, cross-attention), on classes (gains and biases
of the norms), on both or on neither: training leaves out each at random. Where we differ: frames do not depend on
later codes, so that they come slice by slice; the decoder also takes the codes of the frames before a sequence; every
code also takes its neighbourhood in the slice before; a horizon beyond the trained length begins a new sequence after
its own last frames. A slice is the codes of a few frames that the tokenizer codes together.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
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
from stt.gpt import Block, Memory, Norm, Shift, repeat_rows
from stt.layers import patchify
from stt.sampler import sample_logits
from stt.tokenizer import VideoVQ, VideoVQConfig, frozen_codes, video_encoder


@dataclass(frozen=True, kw_only=True)
class VideoGPTConfig(PredictorConfig):
    tokenizer: VideoVQConfig = field(default_factory=VideoVQConfig)
    context_frames: int = 5  # most frames that a sequence is conditioned on
    chunk_frames: int = 2  # frames of a slice of codes, as the tokenizer's
    slices: int = 5  # of a sequence
    dim: int = 192
    depth: int = 4
    heads: int = 6
    mlp_ratio: int = 4
    frame_conditioning: bool = True  # if not, a prompt's own codes begin the sequence
    widths: tuple[int, ...] = (32, 64)  # of the context's resnet
    classes: int = 0  # 0 for none
    labels: int = 1  # most classes of a clip
    drop_context: float = 0.1  # share of training steps without a context
    drop_labels: float = 0.5  # share of the labels that are hidden
    guidance: float = 1.0  # classifier-free guidance by labels (arXiv 2207.12598); 1 is none
    short_context: float = 0.3  # share of training steps whose context has a random length
    reconstruct_context: float = 0.5  # share of training steps whose context went through the tokenizer

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_frames != self.tokenizer.frames:
            raise ValueError(
                f"chunk_frames is {self.chunk_frames}, its tokenizer's slices have {self.tokenizer.frames}"
            )
        if self.slices < 1 or (not self.frame_conditioning and self.prefix >= self.slices):
            least = 1 if self.frame_conditioning else self.prefix + 1
            raise ValueError(f"slices is {self.slices}, must be at least {least}")
        if self.frame_conditioning and len(self.widths) != len(self.tokenizer.widths):
            raise ValueError(f"widths are {self.widths}, its tokenizer has {len(self.tokenizer.widths)} resolutions")
        if not (math.isfinite(self.guidance) and self.guidance >= 1):
            raise ValueError(f"guidance is {self.guidance}, must be at least 1, which is no guidance")
        self.check_shares("drop_context", "drop_labels", "short_context", "reconstruct_context")
        for name in ("image_size", "channels"):
            if getattr(self, name) != getattr(self.tokenizer, name):
                raise ValueError(f"{name} is {getattr(self, name)}, its tokenizer's is {getattr(self.tokenizer, name)}")

    @classmethod
    def nested(cls) -> dict[str, type[Config]]:
        return {"tokenizer": VideoVQConfig}

    @property
    def cells(self) -> int:
        """Codes of a slice."""
        return self.tokenizer.grid**2

    @property
    def prefix(self) -> int:
        """Slices of a whole context, where its own codes begin the sequence."""
        return -(-self.context_frames // self.chunk_frames)


class VideoGPTState(NamedTuple):
    recent: Video  # (B, 0 ... context_frames, C, H, W) the last frames
    past: Tensor  # (B, S, h, w, D) latents of the frames that condition the sequence
    latents: Tensor  # (B, 0 ... slices, h, w, D) of the sequence so far
    cache: Tensor  # (depth, 2, B, heads, slices * cells, d) its keys and values; with guidance 2 B, then without labels
    memory: Memory | None
    label: Tensor | None  # (1 or B, 1, classes) how often each class is there
    guided: bool = False  # whether there is a class to guide to


class VideoGPT(Predictor):
    family: ClassVar[str] = "videogpt"

    def __init__(self, config: VideoGPTConfig) -> None:
        super().__init__()
        self.config = c = config
        self.knobs = frozenset({"temperature", "top_k", "top_p"} | ({"labels"} if c.classes else set()))
        self.tokenizer = VideoVQ(c.tokenizer).requires_grad_(False)
        codes, side = c.tokenizer.latent_dim, c.tokenizer.grid
        self.begin = nn.Parameter(0.02 * torch.randn(c.dim))  # stands for the code before the first
        self.embed = nn.Linear(codes, c.dim)
        self.before = nn.Conv2d(codes, c.dim, 3, padding=1)  # of the slice before
        self.nothing = nn.Parameter(0.02 * torch.randn(c.cells, c.dim))  # before the first slice
        self.times = nn.Parameter(0.02 * torch.randn(c.slices, 1, 1, c.dim))
        self.rows = nn.Parameter(0.02 * torch.randn(side, 1, c.dim))
        self.columns = nn.Parameter(0.02 * torch.randn(side, c.dim))
        if c.frame_conditioning:
            pixels = c.channels * c.tokenizer.patch**2
            self.context = video_encoder(pixels, c.widths, 1, c.dim)
            self.context_times = nn.Parameter(0.02 * torch.randn(c.context_frames, 1, 1, c.dim))
            self.no_context = nn.Parameter(0.02 * torch.randn(1, 1, c.dim))
            self.last = nn.Linear(c.dim, c.dim)  # of the last frame of the context, before the first slice
        blocks = (Block(c.dim, c.heads, c.mlp_ratio, c.classes, c.frame_conditioning) for _ in range(c.depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = Norm(c.dim, c.classes)
        self.head = nn.Linear(c.dim, c.tokenizer.codebook_size)
        nn.init.normal_(self.head.weight, std=0.02)
        self.num_context = c.context_frames  # most frames of context in the next loss
        self.reconstruct_context = False  # whether they go through the tokenizer first
        self.num_skip = 0  # first frames of a clip that the next loss leaves out, without frame conditioning
        self.compiled_one: Callable[..., Tensor] | None = None

    def train(self, mode: bool = True) -> VideoGPT:
        super().train(mode)
        self.tokenizer.eval()  # frozen: its codebook must not follow this network's data
        return self

    # ---- network -------------------------------------------------------------------------------------

    @property
    def places(self) -> Tensor:
        """Broadcast space-time positions of a sequence (slices * cells, dim)."""
        return rearrange(self.times + self.rows + self.columns, "s h w d -> (s h w) d")

    def label(self, labels: Tensor | None, batch: int = 1) -> Tensor | None:
        """Classes (B, L), -1 for none -> counts of each (B, 1, classes); None if the model has no classes."""
        c = self.config
        if not c.classes:
            return None
        if labels is None:
            labels = torch.full((batch, 1), -1, device=self.begin.device)
        return F.one_hot(labels + 1, c.classes + 1)[..., 1:].sum(dim=1, keepdim=True).to(self.begin.dtype)

    def remember(self, context: Video) -> Memory | None:
        """Frames (B, T >= 0, C, H, W) -> the memory of a sequence after them."""
        c, batch = self.config, len(context)
        if not c.frame_conditioning:
            return None
        before: Tensor = self.nothing[None]
        memory: Tensor = self.no_context
        if context.shape[1]:
            h = rearrange(self.context(patchify(context, c.tokenizer.patch)), "b t d h w -> b t h w d")
            last = self.last(rearrange(h[:, -1], "b h w d -> b (h w) d"))
            h = h + self.context_times[-context.shape[1] :] + self.rows + self.columns
            memory = torch.cat([memory.expand(batch, 1, -1), rearrange(h, "b t h w d -> b (t h w) d")], dim=1)
            before = before + last
        layers = tuple(block.cross.remember(memory.expand(batch, -1, -1)) for block in self.blocks)
        return Memory(before.expand(batch, -1, -1), layers)

    def _before(self, latents: Tensor) -> Tensor:
        """A slice (B, h, w, D) as its successor takes it, (B, cells, dim)."""
        return rearrange(self.before(rearrange(latents, "b h w d -> b d h w")), "b d h w -> b (h w) d")

    def logits(
        self, latents: Tensor, memory: Memory | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Slices (B, S, h, w, D) -> logits of their codes (B, S * cells, K), each given all codes before it.

        Also keys and values (depth, 2, B, heads, S * cells, d).
        """
        b, s = latents.shape[:2]
        tokens = self.embed(rearrange(latents, "b s h w d -> b (s h w) d")[:, :-1])
        x = torch.cat([self.begin.expand(b, 1, -1), tokens], dim=1) + self.places[: s * self.config.cells]
        first = (self.nothing[None] if memory is None else memory.before).expand(b, -1, -1)
        later = rearrange(self._before(latents[:, :-1].flatten(0, 1)), "(b s) n d -> b (s n) d", b=b)
        x = x + torch.cat([first, later], dim=1)
        cache = []
        for i, block in enumerate(self.blocks):
            x, k, v = block(x, memory.layers[i] if memory else None, block.shifts(label))
            cache.append(torch.stack([k, v]))
        return self.head(self.norm(x, self.norm.shift(label))).float(), torch.stack(cache)

    # ---- training ------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        c, rng = self.config, random.Random(step)
        dropped, short = rng.random() < c.drop_context, rng.random() < c.short_context
        self.num_context = 0 if dropped else rng.randint(1, c.context_frames) if short else c.context_frames
        self.reconstruct_context = rng.random() < c.reconstruct_context and not dropped
        self.num_skip = rng.randint(1, c.chunk_frames) if short else 0

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of the codes of a clip's last frames given those before, in nats a code."""
        c, video = self.config, batch.video
        labels = batch.labels if c.classes else None
        needed = c.chunk_frames + c.frame_conditioning
        if video.shape[1] < needed:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least {needed}")
        context, future = self._split(video) if c.frame_conditioning else self._unconditioned(video)
        codes = frozen_codes(self.tokenizer, future)
        if labels is not None:
            labels = labels.masked_fill(torch.rand(labels.shape, device=labels.device) < c.drop_labels, -1)
        logits, _ = self.logits(codes.latents, self.remember(context), self.label(labels, len(video)))
        ids = codes.ids.flatten(1)
        ce = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
        accuracy = (logits.detach().argmax(-1) == ids).float().mean()
        total = ce
        if c.frame_conditioning and not context.shape[1]:  # data-parallel training needs a gradient of all weights
            unused = [*self.context.parameters(), *self.last.parameters(), self.context_times]
            total = ce + 0 * sum(p.sum() for p in unused)
        return Loss(total, {"ce": ce.detach(), "accuracy": accuracy, "bits_per_dim": ce.detach() * self._bits_per_dim})

    def _split(self, video: Video) -> tuple[Video, Video]:
        """Clips (B, T, ...) -> the context and the frames of a sequence."""
        c = self.config
        count = min(c.slices, (video.shape[1] - 1) // c.chunk_frames) * c.chunk_frames
        first = max(0, video.shape[1] - count - self.num_context)
        context, future = video[:, first:-count], video[:, -count:]
        return self.reconstructed(context) if self.reconstruct_context else context, future

    def _unconditioned(self, video: Video) -> tuple[Video, Video]:
        """Clips (B, T, ...) -> no context, and a sequence that begins as a prompt does, with a slice to pad."""
        c = self.config
        if video.shape[1] > c.chunk_frames:
            video = video[:, self.num_skip :]
        return video[:, :0], self._padded(video)[:, : c.slices * c.chunk_frames]

    @torch.no_grad()
    def reconstructed(self, frames: Video) -> Video:
        """Frames through the tokenizer and back, as predictions are."""
        with torch.autocast(frames.device.type, enabled=False):
            decoded = self.tokenizer.reconstructed(self._padded(frames))
        return decoded[:, -frames.shape[1] :].clamp(-1, 1)

    def _padded(self, frames: Video) -> Video:
        """Repeats the first of frames (B, T, ...) until they fill slices."""
        missing = -frames.shape[1] % self.config.chunk_frames
        return torch.cat([frames[:, :1].expand(-1, missing, -1, -1, -1), frames], dim=1)

    # ---- likelihood ----------------------------------------------------------------------------------

    @property
    def _bits_per_dim(self) -> float:
        """Bits per pixel and channel of a nat per code."""
        c = self.config
        return 1 / (math.log(2) * c.chunk_frames * c.tokenizer.downsampling**2 * c.channels)

    @torch.inference_mode()
    def surprise(self, video: Video) -> Surprise:
        """Bits of each frame's codes, given the frames before it: exact for codes, not for pixels.

        A slice's bits are spread evenly over its frames. The last frame is repeated to fill the last slice. Each
        sequence is conditioned on at most context_frames frames before it.
        """
        c = self.config
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, a surprise needs at least 2")
        scored = video.shape[1] - 1
        missing = -scored % c.chunk_frames
        video = torch.cat([video, video[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        label, nats = self.label(None, len(video)), []
        ahead = c.slices if c.frame_conditioning else c.slices - c.prefix
        for start in range(1, video.shape[1], ahead * c.chunk_frames):
            context = video[:, max(0, start - c.context_frames) : start]
            future = video[:, start : start + ahead * c.chunk_frames]
            codes = self.tokenizer.encode(future)
            if c.frame_conditioning:
                logits, _ = self.logits(codes.latents, self.remember(context), label)
            else:
                prefix = self.tokenizer.encode(self._padded(context)).latents
                logits, _ = self.logits(torch.cat([prefix, codes.latents], dim=1), None, label)
            logits = logits[:, -codes.ids[0].numel() :]
            ce = F.cross_entropy(logits.flatten(0, 1), codes.ids.flatten(), reduction="none")
            nats.append(ce.view(codes.ids.shape[:-1]))  # (B, S, h, w)
        bits = repeat(torch.cat(nats, dim=1) * self._bits_per_dim, "b s h w -> b (s f) h w", f=c.chunk_frames)
        bits = bits[:, :scored]
        return Surprise(bits.mean(dim=(-2, -1)), bits)

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> VideoGPTState:
        """With labels a clip is generated from nothing: the context has no part in it."""
        c, labels = self.config, condition.labels
        if labels and (len(labels) > c.labels or max(labels) >= c.classes):
            raise ValueError(f"labels are {labels}, the model takes up to {c.labels} of 0 to {c.classes - 1}")
        label = self.label(torch.tensor([labels], device=self.begin.device) if labels else None)
        state = self._sequence(context[:, : 0 if labels else None], label, label)
        return state._replace(guided=c.guidance > 1 and max(labels, default=-1) >= 0)

    def _sequence(self, recent: Video, label: Tensor | None, guided: Tensor | None = None) -> VideoGPTState:
        """A new sequence after some frames, of which there may be none. guided: `label`, as `step` expands it."""
        c, b, side = self.config, len(recent), self.config.tokenizer.grid
        recent = recent[:, -c.context_frames :]
        batch = b if guided is None else max(b, len(guided))
        cache = self.begin.new_zeros(c.depth, 2, batch, c.heads, c.slices * c.cells, c.dim // c.heads)
        past = latents = self.begin.new_zeros(b, 0, side, side, c.tokenizer.latent_dim)
        if recent.shape[1]:
            past = self.tokenizer.encode(self._padded(recent)).latents
            if not c.frame_conditioning:
                past, latents = latents, past
                _, prefix = self.logits(repeat_rows(latents, batch), None, guided)
                cache[..., : prefix.shape[-2], :] = prefix
        return VideoGPTState(recent, past, latents, cache, self.remember(recent), label)

    def step(self, state: VideoGPTState, sampling: Sampling, noise: Noise) -> tuple[Video, VideoGPTState]:
        c, futures = self.config, noise.futures
        label, batch = state.label, futures
        if state.guided and label is not None:
            label, batch = torch.cat([label, 0 * label]).repeat_interleave(futures, dim=0), 2 * futures
        if state.latents.shape[1] == c.slices:
            state = self._sequence(state.recent, state.label, label)._replace(guided=state.guided)
        done = repeat_rows(state.latents, futures)
        cache = repeat_rows(state.cache.transpose(0, 2), batch).transpose(0, 2).clone()
        memory = state.memory.expand(batch) if state.memory else None
        gumbel = noise.gumbel(c.cells, c.tokenizer.codebook_size) if sampling.temperature else None
        latents = torch.cat([done, self._slice(done, cache, memory, label, sampling, gumbel)[:, None]], dim=1)
        past = repeat_rows(state.past, futures)
        frames = self.tokenizer.decode(torch.cat([past, latents], dim=1))[:, -c.chunk_frames :].clamp(-1, 1)
        recent = torch.cat([repeat_rows(state.recent, futures), frames], dim=1)[:, -c.context_frames :]
        return frames, VideoGPTState(recent, state.past, latents, cache, state.memory, state.label, state.guided)

    def _slice(
        self,
        sequence: Tensor,
        cache: Tensor,
        memory: Memory | None,
        label: Tensor | None,
        sampling: Sampling,
        gumbel: Tensor | None,
    ) -> Tensor:
        """Draws the next slice of (F, s, h, w, D), code by code; its keys and values are added to the cache.

        With guidance, cache, memory and label have 2 F rows; the second half is without labels.
        """
        c, done, batch = self.config, sequence.shape[1] * self.config.cells, cache.shape[2]
        if done:
            before, latent = self._before(sequence[:, -1]), sequence[:, -1, -1, -1]
        else:
            before, latent = self.nothing[None] if memory is None else memory.before, None
        before = before + self.places[done : done + c.cells]
        cache = cache[..., : done + c.cells, :]
        shifts = [block.shifts(label) for block in self.blocks], self.norm.shift(label)
        positions, slice_ = torch.arange(done, done + c.cells, device=cache.device), []
        one = self.compiled_one or VideoGPT.one
        for j in range(c.cells):
            token = self.begin if latent is None else self.embed(latent)
            x = repeat_rows(token + before[: len(sequence), j], batch)[:, None]
            logits = one(self, x, positions[j : j + 1], cache, memory, *shifts)
            if batch > len(sequence):
                labelled, free = logits.chunk(2)
                logits = free + c.guidance * (labelled - free)
            ids = sample_logits(logits, sampling, gumbel[:, j] if gumbel is not None else logits)
            latent = self.tokenizer.quantizer.embed(ids[:, None])
            slice_.append(latent)
        return rearrange(torch.stack(slice_, dim=1), "f (h w) d -> f h w d", h=c.tokenizer.grid)

    def compile_step(self) -> None:
        """Compiles `one`, whose shapes are constant throughout a slice: one program per slice of a sequence.

        Pays on a GPU, where launching kernels takes longer than a step's work. On two CPU cores it is slower.
        """
        self.compiled_one = torch.compile(VideoGPT.one)  # takes the model, so that a copy runs its own weights

    def one(
        self, x: Tensor, at: Tensor, cache: Tensor, memory: Memory | None, shifts: list[list[Shift]], last: Shift
    ) -> Tensor:
        """Logits (F, K) of the code at position `at` (1,) from its embedding (F, 1, dim)."""
        for i, block in enumerate(self.blocks):
            x = block.one(x, memory.layers[i] if memory else None, shifts[i], cache[i], at)
        return self.head(self.norm(x, last))[:, 0].float()
