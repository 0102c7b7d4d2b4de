"""VideoGPT: a GPT over the codes of a 3D VQ autoencoder, one code after the other (arXiv 2104.10157).

Conditioned on the frames before a sequence (a small 3D resnet, cross-attention), on classes (gains and biases of the
norms), on both or on neither: training leaves out each at random, so that one network serves all. Where we differ:
frames do not depend on later codes, so that they come slice by slice, and are decoded with those before the sequence
in view; every code also sees its neighbourhood in the slice before; a horizon beyond the trained length begins a new
sequence after its own last frames.
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
from stt.layers import Attention, CrossAttention, patchify
from stt.sampler import sample_logits
from stt.tokenizer import VideoVQ, VideoVQConfig, video_encoder


@dataclass(frozen=True, kw_only=True)
class VideoGPTConfig(PredictorConfig):
    tokenizer: VideoVQConfig = field(default_factory=VideoVQConfig)
    context_frames: int = 5  # that a sequence is conditioned on; any fewer will do
    chunk_frames: int = 2  # frames of a slice of codes, as the tokenizer's
    slices: int = 5  # of a sequence
    dim: int = 192
    depth: int = 4
    heads: int = 6
    mlp_ratio: int = 4
    dropout: float = 0.0  # of attention weights
    frame_conditioning: bool = True  # else a prompt's own codes begin the sequence
    widths: tuple[int, ...] = (32, 64)  # of the resnet that sees the context
    classes: int = 0  # 0 for none
    labels: int = 1  # most classes of a clip
    drop_frames: float = 0.1  # share of training steps without a context
    drop_labels: float = 0.5  # share of the labels that are hidden
    guidance: float = 1.0  # above 1, labels count for more in drawing than they did in training (arXiv 2207.12598)
    short_context: float = 0.3  # share of training steps whose context has a random length
    own_past: float = 0.5  # share of training steps whose context went through the tokenizer, as predictions do

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
            raise ValueError(f"guidance is {self.guidance}, must be at least 1: labels as they are")
        for name in ("drop_frames", "drop_labels", "short_context", "own_past"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be between 0 and 1")
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
        """Slices that a whole context takes where its own codes begin the sequence."""
        return -(-self.context_frames // self.chunk_frames)


Shift = tuple[Tensor, ...] | None  # gain and bias (B, 1, D)


class Norm(nn.Module):
    """Layer norm; classes add to its gain and bias."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=not classes)
        self.adapt = nn.Linear(classes, 2 * dim) if classes else None
        if self.adapt is not None:
            nn.init.normal_(self.adapt.weight, std=0.02)

    def shift(self, label: Tensor | None) -> Shift:
        """How often each class is there (B, 1, classes) -> what `forward` takes; the same for every code."""
        return None if self.adapt is None else self.adapt(label).chunk(2, dim=-1)

    def forward(self, x: Tensor, shift: Shift) -> Tensor:
        x = self.norm(x)
        return x if shift is None else torch.addcmul(x + shift[1], x, shift[0])


class Memory(NamedTuple):
    """What a sequence is conditioned on."""

    before: Tensor  # (B, cells, dim) what the first slice finds in the place of a slice before
    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values of every block, (B, heads, 1 + M, d)

    def expand(self, batch: int) -> Memory:
        return Memory(rows(self.before, batch), tuple((rows(k, batch), rows(v, batch)) for k, v in self.layers))


def rows(x: Tensor, batch: int) -> Tensor:
    """What is one for all (1, ...), one for each future (F, ...) or whole already -> (batch, ...), F or 2 F."""
    if len(x) == 1:
        return x.expand(batch, *x.shape[1:])
    return x if len(x) == batch else torch.cat([x, x])


class Block(nn.Module):
    """Causal attention, cross-attention where frames condition, MLP; each residual and pre-normed."""

    def __init__(self, config: VideoGPTConfig) -> None:
        super().__init__()
        c = config
        self.norm = Norm(c.dim, c.classes)
        self.attention = Attention(c.dim, c.heads, c.dropout)
        if c.frame_conditioning:
            self.cross_norm, self.cross = Norm(c.dim, c.classes), CrossAttention(c.dim, c.heads, c.dropout)
        self.mlp_norm = Norm(c.dim, c.classes)
        self.up, self.down = nn.Linear(c.dim, c.dim * c.mlp_ratio), nn.Linear(c.dim * c.mlp_ratio, c.dim)

    def shifts(self, label: Tensor | None) -> list[Shift]:
        norms = (self.norm, self.mlp_norm, getattr(self, "cross_norm", None))
        return [norm.shift(label) for norm in norms if norm is not None]

    def _rest(self, x: Tensor, memory: tuple[Tensor, Tensor] | None, shifts: list[Shift]) -> Tensor:
        if memory is not None:
            x = x + self.cross(self.cross_norm(x, shifts[2]), memory)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x, shifts[1])), approximate="tanh"))

    def forward(
        self, x: Tensor, memory: tuple[Tensor, Tensor] | None, shifts: list[Shift]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A whole sequence (B, N, D) -> the same, and its keys and values (B, heads, N, d)."""
        q, k, v = self.attention.project(self.norm(x, shifts[0]))
        x = x + self.attention.attend(q, k, v, causal=True)
        return self._rest(x, memory, shifts), k, v

    def one(
        self, x: Tensor, memory: tuple[Tensor, Tensor] | None, shifts: list[Shift], cache: Tensor, at: Tensor
    ) -> Tensor:
        """One token (B, 1, D) at position `at` (1,); its key and value are written into the cache (2, B, ..., d)."""
        q, k, v = self.attention.project(self.norm(x, shifts[0]))
        for kept, new in zip(cache, (k, v), strict=True):
            kept.index_copy_(2, at, new)
        seen = torch.arange(cache.shape[-2], device=x.device)[None] <= at
        x = x + self.attention.attend(q, *cache, mask=seen)
        return self._rest(x, memory, shifts)


class VideoGPTState(NamedTuple):
    recent: Video  # (B, 0 ... context_frames, C, H, W) the last frames
    past: Tensor  # (B, S, h, w, D) latents of those that condition the sequence
    latents: Tensor  # (B, 0 ... slices, h, w, D) of the sequence
    cache: Tensor  # (depth, 2, B, heads, slices * cells, d) its keys and values; with guidance 2 B, then without labels
    memory: Memory | None
    label: Tensor | None  # (1 or B, 1, classes) how often each class is there


class VideoGPT(Predictor):
    family: ClassVar[str] = "videogpt"

    def __init__(self, config: VideoGPTConfig) -> None:
        super().__init__()
        self.config = c = config
        self.knobs = frozenset({"temperature", "top_k", "top_p"} | ({"labels"} if c.classes else set()))
        self.tokenizer = VideoVQ(c.tokenizer).requires_grad_(False)
        codes, side = c.tokenizer.latent_dim, c.tokenizer.grid
        self.begin = nn.Parameter(0.02 * torch.randn(c.dim))  # in the place of a code before the first
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
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = Norm(c.dim, c.classes)
        self.head = nn.Linear(c.dim, c.tokenizer.codebook_size)
        nn.init.normal_(self.head.weight, std=0.02)

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
        """Classes (B, L), -1 for none -> how often each is there (B, 1, classes); None where the model knows none."""
        c = self.config
        if not c.classes:
            if labels is not None:
                raise ValueError(f"labels {tuple(labels.shape)} are given, the model knows no classes")
            return None
        if labels is None:
            labels = torch.full((batch, 1), -1, device=self.begin.device)
        if labels.shape[1] > c.labels or labels.max() >= c.classes or labels.min() < -1:
            raise ValueError(f"labels are {labels.tolist()}, the model takes up to {c.labels} of 0 to {c.classes - 1}")
        return F.one_hot(labels + 1, c.classes + 1)[..., 1:].sum(dim=1, keepdim=True).to(self.begin.dtype)

    def remember(self, context: Video) -> Memory | None:
        """Frames (B, T >= 0, C, H, W) -> what a sequence after them is conditioned on."""
        c, batch = self.config, len(context)
        if not c.frame_conditioning:
            return None
        before, memory = self.nothing[None], self.no_context
        if context.shape[1]:
            h = rearrange(self.context(patchify(context, c.tokenizer.patch)), "b t d h w -> b t h w d")
            last = self.last(rearrange(h[:, -1], "b h w d -> b (h w) d"))
            h = h + self.context_times[-context.shape[1] :] + self.rows + self.columns
            memory = torch.cat([memory.expand(batch, 1, -1), rearrange(h, "b t h w d -> b (t h w) d")], dim=1)
            before = before + last
        layers = tuple(block.cross.remember(memory.expand(batch, -1, -1)) for block in self.blocks)
        return Memory(before.expand(batch, -1, -1), layers)

    def _before(self, latents: Tensor) -> Tensor:
        """A slice (B, h, w, D) as its successor sees it, (B, cells, dim)."""
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
        kept = []
        for i, block in enumerate(self.blocks):
            x, k, v = block(x, memory.layers[i] if memory else None, block.shifts(label))
            kept.append(torch.stack([k, v]))
        return self.head(self.norm(x, self.norm.shift(label))).float(), torch.stack(kept)

    # ---- training ------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of the codes of a clip's last frames given those before, in nats a code."""
        c, video = self.config, batch.video
        labels = batch.labels if c.classes else None
        needed = c.chunk_frames + c.frame_conditioning
        if video.shape[1] < needed:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least {needed}")
        context, future = self._conditioned(video) if c.frame_conditioning else self._begun(video)
        with torch.no_grad():
            codes = self.tokenizer.encode(future)
        if labels is not None:
            labels = labels.masked_fill(torch.rand(labels.shape, device=labels.device) < c.drop_labels, -1)
        logits, _ = self.logits(codes.latents, self.remember(context), self.label(labels, len(video)))
        ids = codes.ids.flatten(1)
        ce = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
        accuracy = (logits.detach().argmax(-1) == ids).float().mean()
        total = ce
        if (
            c.frame_conditioning and not context.shape[1]
        ):  # processes that train together want a gradient of all weights
            total = ce + 0 * sum(p.sum() for m in (self.context, self.last) for p in m.parameters())
            total = total + 0 * self.context_times.sum()
        return Loss(total, {"ce": ce.detach(), "accuracy": accuracy, "bits_per_dim": ce.detach() * self._bits_per_dim})

    def _conditioned(self, video: Video) -> tuple[Video, Video]:
        """Clips (B, T, ...) -> as much of their past as this step may see, and the frames of a sequence."""
        c = self.config
        count = min(c.slices, (video.shape[1] - 1) // c.chunk_frames) * c.chunk_frames
        context, future = video[:, :-count][:, -c.context_frames :], video[:, -count:]
        if torch.rand(()) < c.drop_frames:
            return context[:, :0], future
        if torch.rand(()) < c.short_context:
            context = context[:, -int(torch.randint(1, context.shape[1] + 1, ())) :]
        return self.as_predicted(context) if torch.rand(()) < c.own_past else context, future

    def _begun(self, video: Video) -> tuple[Video, Video]:
        """No past, and the frames of a sequence that begins as prompts do: the first may have to fill a slice."""
        c = self.config
        if video.shape[1] > c.chunk_frames and torch.rand(()) < c.short_context:
            video = video[:, int(torch.randint(1, c.chunk_frames + 1, ())) :]
        return video[:, :0], self._whole(video)[:, : c.slices * c.chunk_frames]

    @torch.no_grad()
    def as_predicted(self, frames: Video) -> Video:
        """Frames as the tokenizer gives them back."""
        whole = self._whole(frames)
        return self.tokenizer.decode(self.tokenizer.encode(whole).latents)[:, -frames.shape[1] :].clamp(-1, 1)

    def _whole(self, frames: Video) -> Video:
        """Frames (B, T, ...) whose first is repeated until they fill slices."""
        lacking = -frames.shape[1] % self.config.chunk_frames
        return torch.cat([frames[:, :1].expand(-1, lacking, -1, -1, -1), frames], dim=1)

    # ---- likelihood ----------------------------------------------------------------------------------

    @property
    def _bits_per_dim(self) -> float:
        """Bits per pixel and channel of a nat per code."""
        c = self.config
        return 1 / (math.log(2) * c.chunk_frames * c.tokenizer.downsampling**2 * c.channels)

    @torch.inference_mode()
    def surprise(self, video: Video) -> Surprise:
        """Bits of the codes of every frame given the frames before it: exact for codes, not for pixels.

        A slice's bits are spread evenly over its frames; the last slice is filled up by repeating the last frame. Each
        sequence is conditioned on at most context_frames before it.
        """
        c = self.config
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, a surprise needs at least 2")
        asked = video.shape[1] - 1
        lacking = -asked % c.chunk_frames
        video = torch.cat([video, video[:, -1:].expand(-1, lacking, -1, -1, -1)], dim=1)
        label, nats = self.label(None, len(video)), []
        ahead = c.slices if c.frame_conditioning else c.slices - c.prefix
        for start in range(1, video.shape[1], ahead * c.chunk_frames):
            context = video[:, max(0, start - c.context_frames) : start]
            future = video[:, start : start + ahead * c.chunk_frames]
            codes = self.tokenizer.encode(future)
            if c.frame_conditioning:
                logits, _ = self.logits(codes.latents, self.remember(context), label)
            else:
                given = self.tokenizer.encode(self._whole(context)).latents
                logits, _ = self.logits(torch.cat([given, codes.latents], dim=1), None, label)
            logits = logits[:, -codes.ids[0].numel() :]
            ce = F.cross_entropy(logits.flatten(0, 1), codes.ids.flatten(), reduction="none")
            nats.append(ce.view(codes.ids.shape[:-1]))  # (B, S, h, w)
        where = repeat(torch.cat(nats, dim=1) * self._bits_per_dim, "b s h w -> b (s f) h w", f=c.chunk_frames)
        where = where[:, :asked]
        return Surprise(where.mean(dim=(-2, -1)), where)

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> VideoGPTState:
        """With labels a clip is generated from nothing: the context has no part in it."""
        labels = condition.labels
        label = self.label(torch.tensor([labels], device=self.begin.device) if labels else None)
        return self._sequence(context[:, : 0 if labels else None], label, label)

    def _sequence(self, recent: Video, label: Tensor | None, guided: Tensor | None = None) -> VideoGPTState:
        """A new sequence after some frames, of which there may be none. guided: `label`, as `step` expands it."""
        c, b, side = self.config, len(recent), self.config.tokenizer.grid
        recent = recent[:, -c.context_frames :]
        batch = b if guided is None else max(b, len(guided))
        cache = self.begin.new_zeros(c.depth, 2, batch, c.heads, c.slices * c.cells, c.dim // c.heads)
        past = latents = self.begin.new_zeros(b, 0, side, side, c.tokenizer.latent_dim)
        if recent.shape[1]:
            past = self.tokenizer.encode(self._whole(recent)).latents
            if not c.frame_conditioning:
                past, latents = latents, past
                _, kept = self.logits(rows(latents, batch), None, guided)
                cache[..., : kept.shape[-2], :] = kept
        return VideoGPTState(recent, past, latents, cache, self.remember(recent), label)

    def step(self, state: VideoGPTState, sampling: Sampling, noise: Noise) -> tuple[Video, VideoGPTState]:
        c, futures = self.config, noise.futures
        label, batch = state.label, futures
        if c.guidance > 1 and label is not None and label.any():
            label, batch = torch.cat([label, 0 * label]).repeat_interleave(futures, dim=0), 2 * futures
        if state.latents.shape[1] == c.slices:
            state = self._sequence(state.recent, state.label, label)
        done = rows(state.latents, futures)
        cache = rows(state.cache.transpose(0, 2), batch).transpose(0, 2).clone()
        memory = state.memory.expand(batch) if state.memory else None
        gumbel = noise.gumbel(c.cells, c.tokenizer.codebook_size) if sampling.temperature else None
        latents = torch.cat([done, self._slice(done, cache, memory, label, sampling, gumbel)[:, None]], dim=1)
        past = rows(state.past, futures)
        frames = self.tokenizer.decode(torch.cat([past, latents], dim=1))[:, -c.chunk_frames :].clamp(-1, 1)
        recent = torch.cat([rows(state.recent, futures), frames], dim=1)[:, -c.context_frames :]
        return frames, VideoGPTState(recent, state.past, latents, cache, state.memory, state.label)

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

        With 2 F rows in cache, memory and label the second half lacks the labels: the first is led away from it.
        """
        c, done, batch = self.config, sequence.shape[1] * self.config.cells, cache.shape[2]
        if done:
            before, latent = self._before(sequence[:, -1]), sequence[:, -1, -1, -1]
        else:
            before, latent = self.nothing[None] if memory is None else memory.before, None
        before = before + self.places[done : done + c.cells]
        seen = cache[..., : done + c.cells, :]
        shifts = [block.shifts(label) for block in self.blocks], self.norm.shift(label)
        positions, drawn = torch.arange(done, done + c.cells, device=cache.device), []
        for j in range(c.cells):
            token = self.begin if latent is None else self.embed(latent)
            x = rows(token + before[: len(sequence), j], batch)[:, None]
            logits = self.one(x, positions[j : j + 1], seen, memory, *shifts)
            if batch > len(sequence):
                labelled, free = logits.chunk(2)
                logits = free + c.guidance * (labelled - free)
            ids = sample_logits(logits, sampling, gumbel[:, j] if gumbel is not None else logits)
            latent = self.tokenizer.quantizer.embed(ids[:, None])
            drawn.append(latent)
        return rearrange(torch.stack(drawn, dim=1), "f (h w) d -> f h w d", h=c.tokenizer.grid)

    def compile_step(self) -> None:
        """Of `one`, whose shapes are the same throughout a slice: a program for every slice of a sequence.

        Worth it on a GPU, where launching kernels takes longer than a step's work; on two CPU cores it is slower.
        """
        self.one = torch.compile(self.one)

    def one(
        self, x: Tensor, at: Tensor, cache: Tensor, memory: Memory | None, shifts: list[list[Shift]], last: Shift
    ) -> Tensor:
        """Logits (F, K) of the code at position `at` (1,) from its embedding (F, 1, dim)."""
        for i, block in enumerate(self.blocks):
            x = block.one(x, memory.layers[i] if memory else None, shifts[i], cache[i], at)
        return self.head(self.norm(x, last))[:, 0].float()
