"""STT: a Spatial-Temporal Transformer that continues a clip, by what moves on and by what is new.

After NITHISHM2410/spatial-temporal-transformer (Flax): spatial attention, causal temporal attention, MLP, Gaussian
layer. Its tokens of a frame are of one of two kinds, as a video codec has inter and intra blocks:

- **layers**: the prompt is split into images that move as wholes; each is a token, and the transformer gives a
  distribution over where it moves next. Pixels are carried, never redrawn, so that they stay what they were.
- **codes**: a frozen tokenizer's codes of a frame, a token each place; the transformer gives a distribution over the
  next frame's codes. Chance is the Gaussian layers': they have a learned prior and, in training, a posterior that saw
  the next frame (as in SVG, arXiv 1802.07687), where the original has regression and a KL to N(0, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
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
from stt.layers import ConvMLP
from stt.metrics import unit
from stt.motion import Layers, Match, Motion, composite, features_size
from stt.sampler import sample_logits
from stt.segmenter import Filtered, Segmenter, track
from stt.tokenizer import FrameVQ, FrameVQConfig
from stt.transformer import Cache, Normal, SpaceTimeConfig, SpaceTimeOutput, SpaceTimeTransformer

LONGEST_PROMPT = 8  # frames that layers are learned from at a time; the rest of a clip is what they must explain
RECONSTRUCTION = 100.0  # weight of a layers' frame's mean squared error beside a nat of motion
WHOLENESS = 0.3  # weight of what it costs to split things that move alike between layers
TOLERANCE = 0.5  # squared error of a frame, summed over pixels, that makes a displacement e times less likely
PIXEL_STD = 0.1  # of what layers leave unexplained, for surprise
CELL = 8  # pixels a side of surprise's places
STRIDE = 20  # frames that surprise scores at a time


@dataclass(frozen=True, kw_only=True)
class STTConfig(PredictorConfig):
    tokenizer: FrameVQConfig | None = None  # of codes; a model has codes or layers
    layers: int = 0  # motion layers in front of a background
    reach: int = 5  # largest displacement of a layer, pixels a frame and axis
    segmenter_width: int = 32  # channels of the segmenter at its finest scale
    dim: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    gaussian_grid: tuple[int, ...] = (1, 2, 4, 0)  # cells per side of each block's Gaussian layer; 0 for none
    gaussian_dim: int = 8
    kl_weight: float = 1.0  # 1 makes the loss a bound on the likelihood of the codes
    free_nats: float = 0.5  # KL per Gaussian layer and frame that costs nothing, against collapse
    jitter: float = 0.2  # largest std of the noise on the past's latents in training, against drift
    scheduled_sampling: float = 0.3  # share of training steps whose past is predicted upon predictions, against drift
    drop_actions: float = 0.4  # share of training clips whose actions are all left for the model to imagine
    window: int = 0  # frames that temporal attention sees; 0: context_frames

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.tokenizer is None) == (self.layers == 0):
            raise ValueError(f"layers is {self.layers}, tokenizer is {self.tokenizer}: a model has one of the two")
        if self.layers < 0 or self.reach < 1:
            raise ValueError(f"layers is {self.layers} and reach {self.reach}, must be at least 0 and 1")
        if self.segmenter_width < 16 or self.segmenter_width % 16:
            raise ValueError(f"segmenter_width is {self.segmenter_width}, must be a multiple of 16 and at least that")
        if self.window < 0 or self.chunk_frames != 1:
            raise ValueError(f"window is {self.window} and chunk_frames {self.chunk_frames}, must be at least 0, and 1")
        if self.layers and any(self.gaussian_grid):
            raise ValueError(
                f"gaussian_grid is {self.gaussian_grid} with layers, which draw their displacements: give 0s"
            )
        if self.layers and self.image_size % CELL:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {CELL}")
        for name in ("image_size", "channels"):
            if self.tokenizer and getattr(self, name) != getattr(self.tokenizer, name):
                raise ValueError(f"{name} is {getattr(self, name)}, its tokenizer's is {getattr(self.tokenizer, name)}")

    @classmethod
    def nested(cls) -> dict[str, type[Config]]:
        return {"tokenizer": FrameVQConfig}


class CodesState(NamedTuple):
    recent: Tensor  # (B, 2, h, w, D) latents of the last two frames
    cache: Cache | None  # of all frames before the last
    condition: Condition
    num_frames: int = 0  # of the future so far


class LayersState(NamedTuple):
    layers: Layers  # as the prompt's last frame shows them, and so kept whole even out of sight
    offset: Tensor  # (B, K, 2) where they have gone since, pixels
    motion: Motion  # of the last frame
    rest: Tensor  # (B, K, 2) what they were to go beyond whole pixels so far, where nothing is drawn
    cache: Cache | None  # of all frames before it
    condition: Condition
    num_frames: int = 0  # of the future so far


class STT(Predictor):
    family: ClassVar[str] = "stt"

    def __init__(self, config: STTConfig) -> None:
        super().__init__()
        self.config = c = config
        self.knobs = frozenset(
            {"temperature", *(["actions"] if c.actions else []), *(["top_k", "top_p"] if c.layers else [])}
        )
        self.tokenizer, self.segmenter = None, None
        if c.layers:
            self.segmenter = Segmenter(c.layers, c.channels, c.segmenter_width)
            self.embed = nn.Linear(features_size(c.reach), c.dim)
            self.go_on = nn.Linear(c.dim, 1)
            self.head = nn.Linear(c.dim, (2 * c.reach + 1) ** 2)
            for layer in (self.go_on, self.head):  # at first everything goes on as it went
                nn.init.zeros_(layer.weight)
            nn.init.zeros_(self.head.bias)
            nn.init.constant_(self.go_on.bias, 3.0)
            rows, columns = 1, c.layers
        else:
            self.tokenizer = FrameVQ(c.tokenizer).requires_grad_(False)
            self.embed = nn.Conv2d(2 * c.tokenizer.latent_dim, c.dim, 3, padding=1)
            self.target = nn.Sequential(nn.LayerNorm(c.dim), ConvMLP(c.dim, 2))
            sizes = self.tokenizer.quantizer.sizes
            self.head = nn.Linear(c.dim, len(sizes) * max(sizes))
            exists = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]  # (G, K)
            self.register_buffer("code_exists", exists, persistent=False)
            rows = columns = c.tokenizer.grid
        if c.actions:
            self.act = nn.Linear(len(c.actions) + 1, c.dim)  # and whether they are known
        self.network = SpaceTimeTransformer(
            SpaceTimeConfig(
                rows=rows, columns=columns, dim=c.dim, depth=c.depth, heads=c.heads, mlp_ratio=c.mlp_ratio,
                window=c.window or c.context_frames, gaussian_grid=c.gaussian_grid, gaussian_dim=c.gaussian_dim,
            )
        )  # fmt: skip

    def train(self, mode: bool = True) -> STT:
        super().train(mode)
        if self.tokenizer is not None:
            self.tokenizer.eval()  # frozen: its codebook must not follow this network's data
        return self

    def loss(self, batch: Batch) -> Loss:
        """Of the clips, and of their actions where the config names some."""
        video, actions = batch.video, batch.actions if self.config.actions else None
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        if actions is not None:
            expected = (*video.shape[:2], len(self.config.actions))
            if actions.shape != expected:
                raise ValueError(f"actions have shape {tuple(actions.shape)}, must be {expected}")
            actions = self._hide(actions)[:, :-1]
        return self._layers_loss(video, actions) if self.config.layers else self._codes_loss(video, actions)

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> LayersState | CodesState:
        return (self._start_layers if self.config.layers else self._start_codes)(context, condition)

    def step(
        self, state: LayersState | CodesState, sampling: Sampling, noise: Noise
    ) -> tuple[Video, LayersState | CodesState]:
        step = self._step_layers if self.config.layers else self._step_codes
        return step(state, sampling, noise)

    @torch.inference_mode()
    def surprise(self, video: Video) -> Surprise:
        """Bits of every frame given those before it, an estimate.

        Of codes: the negative ELBO at the posterior's mean; draws of the posterior would make it an upper bound, cost
        a pass each and give the same order. What the tokenizer cannot tell apart costs nothing. Of layers: the nats
        of where they went, and those of what they leave unexplained, as normal noise of PIXEL_STD beyond none.
        """
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, a surprise needs at least 2")
        nats, pixels = self._layers_nats(video) if self.config.layers else self._codes_nats(video)
        where = nats / (pixels * math.log(2))
        return Surprise(where.mean(dim=(-2, -1)), where)

    # ---- actions -------------------------------------------------------------------------------------

    def _add_actions(self, embedded: Tensor, actions: Tensor | None) -> Tensor:
        """Tokens (B, T, h, w, dim) plus what is done after each frame: actions (B, T, A), nan if unknown, or None."""
        if not self.config.actions:
            return embedded
        if actions is None:
            actions = embedded.new_full((*embedded.shape[:2], len(self.config.actions)), torch.nan)
        known = ~actions.isnan().any(dim=-1, keepdim=True)
        actions = torch.cat([torch.where(known, actions, 0.0), known.to(actions.dtype)], dim=-1)
        return embedded + self.act(actions)[:, :, None, None]

    def _hide(self, actions: Tensor) -> Tensor:
        """Actions (B, T, A), unknown (nan) up to a random frame as those of a prompt, or all of a clip's."""
        b, t, _ = actions.shape
        begin = (t * torch.rand(b, 1, device=actions.device)).floor()
        begin = torch.where(torch.rand(b, 1, device=actions.device) < self.config.drop_actions, t, begin)
        unknown = torch.arange(t, device=actions.device) < begin  # (B, T)
        return actions.masked_fill(unknown[..., None], torch.nan)

    def _next_action(self, state: LayersState | CodesState, noise: Noise) -> Tensor | None:
        """The action (futures, 1, A) that leads to the next frame, None where that is left to the model."""
        if (action := state.condition.action(state.num_frames)) is None:
            return None
        return torch.tensor(action, device=self.act.weight.device).expand(noise.futures, 1, -1)

    # ---- layers --------------------------------------------------------------------------------------

    def _layer_tokens(self, motion: Motion, actions: Tensor | None) -> Tensor:
        """(B, T, 1, K, dim): a frame's tokens are one row of its layers."""
        return self._add_actions(self.embed(motion.features(self.config.reach))[:, :, None], actions)

    def _motion_logits(self, hidden: Tensor, motion: Motion) -> Tensor:
        """Features (B, T, 1, K, dim) and the motion so far -> logits (B, T, K, S * S) of the next displacements.

        The last displacement has a logit of its own on top: what goes on as it went need not be learned.
        """
        reach, hidden = self.config.reach, hidden[:, :, 0]
        same = F.one_hot(motion.indices(reach), (2 * reach + 1) ** 2) * motion.known
        return self.head(hidden).float() + self.go_on(hidden).float() * same

    def _motion_nats(self, logits: Tensor, matches: list[Match]) -> Tensor:
        """Negative log-likelihood (B, T, K) of where layers went: logits (B, T, K, S * S) against T matches.

        Summed over all displacements, by how well each explains the frame: a layer that shows nothing costs nothing.
        """
        errors = torch.stack([m.errors for m in matches], dim=1).flatten(-2)  # (B, T, K, S * S)
        evidence = (errors.amin(dim=-1, keepdim=True) - errors) / TOLERANCE
        return -(logits.log_softmax(dim=-1) + evidence).logsumexp(dim=-1)

    @torch.compiler.disable
    def _layers_loss(self, video: Video, actions: Tensor | None) -> Loss:
        """A prompt of random length becomes layers, which must show the rest of the clip by moving alone; and the
        transformer learns where they go. Displacements come from `stt.motion.match` and carry no gradient."""
        reach, frames = self.config.reach, unit(video)
        prompt = int(torch.randint(1, min(LONGEST_PROMPT, video.shape[1] - 1) + 1, ()))
        filtered = self.segmenter.filter(frames[:, :prompt], reach)
        tracked = track(filtered.layers, frames[:, prompt:], reach)
        ahead = torch.stack(tracked.residuals).square().mean()
        within = torch.stack(filtered.residuals).square().mean() if filtered.residuals else torch.zeros_like(ahead)
        shapes, matches = list(filtered.shapes), filtered.matches + tracked.matches
        for m in tracked.matches[:-1]:
            shapes.append(shapes[-1].moved(m.displacement, *video.shape[-2:]))
        motion = Motion.of(shapes, matches[:-1])
        out = self.network(self._layer_tokens(motion, actions), draw_mean)
        nats = self._motion_nats(self._motion_logits(out.hidden, motion), matches)
        turned = turns(matches)
        pixels = video[0, 0].numel()
        parts = {
            "motion": nats.mean(),
            "motion at turns": (nats[:, 1:] * turned).sum() / turned.sum().clamp_min(1),
            "mse ahead": ahead * pixels,
            "mse of layers": filtered.mismatch * pixels,
            "split": split(filtered.layers),
        }
        total = (
            nats.mean() + RECONSTRUCTION * (filtered.mismatch + within + 2 * ahead) + WHOLENESS * split(filtered.layers)
        )
        return Loss(total, {name: value.detach() for name, value in parts.items()})

    def _start_layers(self, context: Video, condition: Condition) -> LayersState:
        filtered, cache = self.segmenter.filter(unit(context), self.config.reach), None
        motion = Motion.of(filtered.shapes, filtered.matches)
        if context.shape[1] > 1:
            cache = self.network(self._layer_tokens(motion.during(slice(-1)), None), draw_mean).cache
        last = motion.during(slice(-1, None))
        offset = torch.zeros_like(last.displacement[:, 0])
        return LayersState(filtered.layers, offset, last, offset.float(), cache, condition)

    def _step_layers(self, state: LayersState, sampling: Sampling, noise: Noise) -> tuple[Video, LayersState]:
        reach, motion = self.config.reach, state.motion.expand(noise.futures)
        tokens = self._layer_tokens(motion, self._next_action(state, noise))
        out = self.network(tokens, draw_mean, cache=state.cache.expand(noise.futures) if state.cache else None)
        logits = self._motion_logits(out.hidden, motion)  # (futures, 1, K, S * S)
        if sampling.temperature:
            index = sample_logits(logits, sampling, noise.gumbel(*logits.shape[1:]))
            displacement = torch.stack([index // (2 * reach + 1), index % (2 * reach + 1)], dim=-1) - reach
            rest = state.rest
        else:
            wanted = state.rest + local_mean(logits, reach)[:, 0]
            displacement = wanted.round().long()[:, None].clamp(-reach, reach)
            rest = wanted - displacement[:, 0]
        offset = state.offset + displacement[:, 0]
        layers = state.layers.expand(noise.futures).moved(offset)
        motion = motion.next(displacement, *layers.background.shape[-2:])
        state = state._replace(
            offset=offset, motion=motion, rest=rest, cache=out.cache, num_frames=state.num_frames + 1
        )
        return 2 * composite(layers).clamp(0, 1)[:, None] - 1, state

    def _layers_nats(self, video: Video) -> tuple[Tensor, int]:
        """Nats of every frame but the first by place (B, T - 1, h, w), and pixels a place."""
        filtered = self.segmenter.filter(unit(video), self.config.reach)
        motion = self._filtered_nats(filtered).sum(dim=-1)[..., None, None]  # (B, T - 1, 1, 1)
        unexplained = torch.stack(filtered.residuals, dim=1).square().sum(dim=2) / (2 * PIXEL_STD**2)
        places = reduce(unexplained, "b t (h p) (w q) -> b t h w", "sum", p=CELL, q=CELL)
        return places + motion / places[0, 0].numel(), CELL**2 * self.config.channels

    def _filtered_nats(self, filtered: Filtered) -> Tensor:
        """Nats (B, T - 1, K) of where the layers of a clip went."""
        motion, cache, nats = Motion.of(filtered.shapes, filtered.matches), None, []
        for k in range(0, len(filtered.matches), STRIDE):
            matches = filtered.matches[k : k + STRIDE]
            past = motion.during(slice(k, k + len(matches)))
            out = self.network(self._layer_tokens(past, None), draw_mean, cache=cache)
            cache = out.cache
            nats.append(self._motion_nats(self._motion_logits(out.hidden, past), matches))
        return torch.cat(nats, dim=1)

    @torch.inference_mode()
    def motion_nats(self, video: Video) -> tuple[Tensor, Tensor]:
        """How little it was expected where each layer of clips (B, T >= 3, C, H, W) went, and whether it turned there.

        Nats (B, T - 2, K) of the displacements from the second frame on, and (B, T - 2, K) bool: whether one differs
        from that before it. Of models of layers.
        """
        filtered = self.segmenter.filter(unit(video), self.config.reach)
        return self._filtered_nats(filtered)[:, 1:], turns(filtered.matches)

    # ---- codes ---------------------------------------------------------------------------------------

    def _embed_codes(self, latents: Tensor, before: Tensor) -> Tensor:
        """Latents (B, T, h, w, D) and the frame before the first (B, 1, h, w, D) -> tokens (B, T, h, w, dim).

        Each frame is embedded together with its predecessor, so that motion is visible at once.
        """
        pairs = torch.cat([latents, torch.cat([before, latents[:, :-1]], dim=1)], dim=-1)
        h = self.embed(rearrange(pairs, "b t h w d -> (b t) d h w"))
        return rearrange(h, "(b t) d h w -> b t h w d", b=latents.shape[0])

    def code_logits(self, hidden: Tensor) -> Tensor:
        """(..., dim) -> (..., G, K) code logits; -inf where a group has fewer than K codes."""
        logits = self.head(hidden).float().unflatten(-1, self.code_exists.shape)
        return logits.masked_fill(~self.code_exists, -torch.inf)

    def _likeliest(self, hidden: Tensor) -> Tensor:
        """Features (..., dim) -> latents (..., D) of the likeliest codes."""
        return self.tokenizer.quantizer.embed(self.code_logits(hidden).argmax(dim=-1))

    def _target(self, embedded: Tensor) -> Tensor:
        """Features of the next frames for the posterior, (B, T, h, w, dim) -> same."""
        h = self.target(rearrange(embedded, "b t h w d -> (b t) h w d"))
        return rearrange(h, "(b t) h w d -> b t h w d", b=embedded.shape[0])

    def _codes_loss(self, video: Video, actions: Tensor | None) -> Loss:
        """The negative ELBO of a clip's codes, in nats a code."""
        with torch.no_grad():
            codes = self.tokenizer.encode(video)
            noise = self.config.jitter * torch.rand(len(video), 1, 1, 1, 1, device=video.device)
            past = codes.latents + noise * torch.randn_like(codes.latents)  # in sampling it is imperfect as well
        target = self._target(self._embed_codes(codes.latents, codes.latents[:, :1])[:, 1:])
        if torch.rand(()) < self.config.scheduled_sampling:
            past = self._scheduled(past, target, actions)
        tokens = self._add_actions(self._embed_codes(past[:, :-1], past[:, :1]), actions)
        out, ids = self.network(tokens, draw_posterior, target=target), codes.ids[:, 1:]
        logits = self.code_logits(out.hidden)  # (B, T-1, h, w, G, K)
        nats = F.cross_entropy(logits.flatten(0, -2), ids.flatten())  # per code
        kls = [g.posterior.kl(g.prior).sum(dim=(1, 2, 3)).mean() for g in out.gaussians]  # nats per frame
        paid = sum(kl.clamp(min=self.config.free_nats) for kl in kls) / ids[0, 0].numel()
        parts = {f"kl_{i}": kl.detach() for i, kl in enumerate(kls)}
        right = (logits.detach().argmax(-1) == ids).float().mean()
        return Loss(nats + self.config.kl_weight * paid, parts | {"ce": nats.detach(), "accuracy": right})

    @torch.no_grad()
    @torch.compiler.disable
    def _scheduled(self, past: Tensor, target: Tensor, actions: Tensor | None) -> Tensor:
        """Scheduled sampling (arXiv 1506.03099): latents (B, T, h, w, D) with frames after the first predicted upon
        predictions.

        The posterior saw the truth, so they are of this clip's future. Half of the clips have all of them predicted,
        the others any share. The last frame is no frame's past and stays.
        """
        b, t = past.shape[:2]
        share = (2 * torch.rand(b, 1, device=past.device)).clamp(max=1)
        own = (torch.rand(b, t, device=past.device) < share)[..., None, None, None]
        frames, cache, before = [past[:, :1]], None, past[:, :1]
        for k in range(1, t - 1):
            tokens = self._embed_codes(frames[-1], before)
            tokens = self._add_actions(tokens, None if actions is None else actions[:, k - 1 : k])
            out = self.network(tokens, draw_posterior, target=target[:, k - 1 : k], cache=cache)
            cache, before = out.cache, frames[-1]
            frames.append(torch.where(own[:, k : k + 1], self._likeliest(out.hidden), past[:, k : k + 1]))
        return torch.cat([*frames, past[:, max(1, t - 1) :]], dim=1)

    def _start_codes(self, context: Video, condition: Condition) -> CodesState:
        latents, cache = self.tokenizer.encode(context).latents, None
        if latents.shape[1] > 1:  # what followed each frame but the last is known, so chance has no part in it
            embedded = self._embed_codes(latents, latents[:, :1])
            tokens, target = self._add_actions(embedded[:, :-1], None), self._target(embedded[:, 1:])
            cache = self.network(tokens, draw_mean, target=target).cache
        recent = latents[:, -2:]
        return CodesState(torch.cat([recent[:, :1], recent[:, -1:]], dim=1), cache, condition)

    def _step_codes(self, state: CodesState, sampling: Sampling, noise: Noise) -> tuple[Video, CodesState]:
        futures = noise.futures
        before, last = state.recent.expand(futures, *state.recent.shape[1:]).split(1, dim=1)

        def draw(prior: Normal, _: Normal | None) -> Tensor:
            if sampling.temperature == 0:
                return prior.mean
            return prior.sample(sampling.temperature * noise.normal(*prior.mean.shape[1:]))

        actions = self._next_action(state, noise)
        tokens = self._add_actions(self._embed_codes(last, before), actions)
        out = self.network(tokens, draw, cache=state.cache.expand(futures) if state.cache else None)
        latents = self._likeliest(out.hidden)
        recent = torch.cat([last, latents], dim=1)
        return self.tokenizer.decode(latents), CodesState(recent, out.cache, state.condition, state.num_frames + 1)

    def _codes_nats(self, video: Video) -> tuple[Tensor, int]:
        """Nats of every frame but the first by place (B, T - 1, h, w), and pixels a place."""
        codes = self.tokenizer.encode(video)
        embedded = self._embed_codes(codes.latents, codes.latents[:, :1])
        steps = self._add_actions(embedded[:, :-1], None), self._target(embedded[:, 1:]), codes.ids[:, 1:]
        cache, nats = None, []
        for past, target, ids in zip(*(part.split(STRIDE, dim=1) for part in steps), strict=True):
            out = self.network(past, draw_mean, target=target, cache=cache)
            cache = out.cache
            nats.append(self._elbo(out, ids))
        return torch.cat(nats, dim=1), self.config.tokenizer.downsampling**2 * self.config.channels

    def _elbo(self, out: SpaceTimeOutput, ids: Tensor) -> Tensor:
        """Negative ELBO of codes (B, T, h, w, G) by place (B, T, h, w); a cell's KL spreads over its places."""
        logits = self.code_logits(out.hidden)
        nats = F.cross_entropy(logits.flatten(0, -2), ids.flatten(), reduction="none").view_as(ids).sum(dim=-1)
        for gaussian in out.gaussians:
            kl = gaussian.posterior.kl(gaussian.prior).sum(dim=1)  # (B*T, g, g)
            side = ids.shape[2] // kl.shape[-1]
            nats = nats + repeat(kl / side**2, "(b t) g k -> b t (g p) (k q)", b=len(ids), p=side, q=side)
        return nats


def split(layers: Layers) -> Tensor:
    """How evenly layers share the light: about 0 if one has it all or none has any, sqrt(K) - 1 if each has as much.

    Concave in each share, so that of all splits which explain a clip as well the least even one costs least: a thing
    that is split between two layers which always moved alike would be torn when their ways are drawn one by one.
    """
    ink = layers.colour.sum(dim=(2, 3, 4))  # (B, K)
    share = ink / ink.sum(dim=1, keepdim=True).clamp_min(1e-3)
    return (((share + 1e-3).sqrt().sum(dim=1) - 1) * (ink.sum(dim=1) > 1)).mean()


def turns(matches: list[Match]) -> Tensor:
    """Whether layers changed their way, (B, T - 1, K) bool, between T matches in turn."""
    displacement = torch.stack([m.displacement for m in matches], dim=1)
    return (displacement[:, 1:] != displacement[:, :-1]).any(dim=-1)


def local_mean(logits: Tensor, reach: int) -> Tensor:
    """The likeliest displacement to a part of a pixel, (..., S * S) logits -> (..., 2).

    The mean over it and its eight neighbours: frames show whole pixels, a speed between them is how likely each is.
    """
    side = 2 * reach + 1
    best = logits.argmax(dim=-1)
    places = torch.arange(side**2, device=logits.device)
    apart = (
        torch.stack([places // side, places % side], dim=-1)
        - torch.stack([best // side, best % side], dim=-1)[..., None, :]
    )
    near = logits.masked_fill(apart.abs().amax(dim=-1) > 1, -torch.inf).softmax(dim=-1)  # (..., S * S)
    mean = (near[..., None] * apart).sum(dim=-2)
    return torch.stack([best // side, best % side], dim=-1) - reach + mean


def draw_posterior(prior: Normal, posterior: Normal | None) -> Tensor:
    return posterior.sample(torch.randn_like(posterior.mean))


def draw_mean(prior: Normal, posterior: Normal | None) -> Tensor:
    return (posterior or prior).mean
