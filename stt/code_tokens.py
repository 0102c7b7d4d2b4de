"""Code tokens: a frame as a frozen tokenizer's codes, a token per position, and a distribution over the next codes.

Pixels are decoded anew in each frame, as in the intra blocks of a video codec. The futures of one prompt differ by the
samples of Gaussian layers, whose posterior sees the next frame in training (SVG, arXiv 1802.07687).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from stt.api import Condition, Loss, Noise, Sampling, Video
from stt.layers import ConvMLP
from stt.tokenizer import FrameVQ, FrameVQConfig, frozen_codes
from stt.transformer import Cache, Normal, SpaceTimeOutput, SpaceTimeTransformer, draw_mean, draw_posterior

FRAMES_PER_PASS = 20  # frames that one pass of the network scores in `nats`


@dataclass(frozen=True, kw_only=True)
class CodeTraining:
    """The options of the loss; `stt.models.stt.STTConfig` says what each means."""

    kl_weight: float
    free_nats: float
    jitter: float
    scheduled_sampling: float  # rate


class CodeState(NamedTuple):
    recent: Tensor  # (B, 2, h, w, D) latents of the last two frames
    cache: Cache | None  # of all frames before the last
    condition: Condition
    num_frames: int = 0  # predicted so far


class CodeTokens(nn.Module):
    """Embeds codes, and gives a distribution over each of the G groups of codes at each position."""

    def __init__(self, tokenizer: FrameVQConfig, dim: int, training: CodeTraining) -> None:
        super().__init__()
        self.settings = training
        self.rows = self.columns = tokenizer.grid
        self.tokenizer = FrameVQ(tokenizer).requires_grad_(False)
        self.embed_codes = nn.Conv2d(2 * tokenizer.latent_dim, dim, 3, padding=1)
        self.target = nn.Sequential(nn.LayerNorm(dim), ConvMLP(dim, 2))
        sizes = self.tokenizer.quantizer.sizes
        self.head = nn.Linear(dim, len(sizes) * max(sizes))
        exists = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]  # (G, K)
        self.register_buffer("code_exists", exists, persistent=False)
        self.use_scheduled_sampling = False  # in the next loss

    def train(self, mode: bool = True) -> CodeTokens:
        super().train(mode)
        self.tokenizer.eval()  # frozen: its codebook must not follow this network's data
        return self

    def embed(self, latents: Tensor, previous: Tensor) -> Tensor:
        """Latents (B, T, h, w, D) and the frame before the first (B, 1, h, w, D) -> tokens (B, T, h, w, dim).

        Each frame is embedded together with the one before, so that motion is visible at once.
        """
        pairs = torch.cat([latents, torch.cat([previous, latents[:, :-1]], dim=1)], dim=-1)
        h = self.embed_codes(rearrange(pairs, "b t h w d -> (b t) d h w"))
        return rearrange(h, "(b t) d h w -> b t h w d", b=latents.shape[0])

    def posterior_features(self, tokens: Tensor) -> Tensor:
        """Tokens of the next frames (B, T, h, w, dim) -> features for the posterior, same shape."""
        h = self.target(rearrange(tokens, "b t h w d -> (b t) h w d"))
        return rearrange(h, "(b t) h w d -> b t h w d", b=tokens.shape[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., dim) -> (..., G, K) code logits; -inf where a group has fewer than K codes."""
        logits = self.head(hidden).float().unflatten(-1, self.code_exists.shape)
        return logits.masked_fill(~self.code_exists, -torch.inf)

    def likeliest(self, hidden: Tensor) -> Tensor:
        """Features (..., dim) -> latents (..., D) of the likeliest codes."""
        return self.tokenizer.quantizer.embed(self.logits(hidden).argmax(dim=-1))

    # ---- training ------------------------------------------------------------------------------------

    def begin_step(self, rng: random.Random) -> None:
        self.use_scheduled_sampling = rng.random() < self.settings.scheduled_sampling

    def loss(self, video: Video, network: SpaceTimeTransformer, actions: Tensor | None) -> Loss:
        """Cross-entropy of a clip's codes plus the weighted KL of the Gaussian layers, in nats a code.

        With kl_weight 1 and no free nats it is the negative ELBO. Free nats (arXiv 1606.04934): a layer's KL, mean over
        clips and frames, costs at least free_nats a frame, so that nothing pushes it below.
        """
        c, codes = self.settings, frozen_codes(self.tokenizer, video)
        std = c.jitter * torch.rand(len(video), 1, 1, 1, 1, device=video.device)
        past = codes.latents + std * torch.randn_like(codes.latents)  # predicted frames are imperfect as well
        target = self.posterior_features(self.embed(codes.latents, codes.latents[:, :1])[:, 1:])
        if self.use_scheduled_sampling:
            past = self._scheduled(past, target, network, actions)
        tokens = self.embed(past[:, :-1], past[:, :1])
        out = network(tokens, draw_posterior, target=target, actions=actions)

        ids, logits = codes.ids[:, 1:], self.logits(out.hidden)  # (B, T-1, h, w, G), and K logits each
        nats = F.cross_entropy(logits.flatten(0, -2), ids.flatten())  # per code
        kls = [g.posterior.kl(g.prior).sum(dim=(1, 2, 3)).mean() for g in out.gaussians]  # nats per frame
        cost = sum(kl.clamp(min=c.free_nats) for kl in kls) / ids[0, 0].numel()
        parts = {f"kl_{i}": kl.detach() for i, kl in enumerate(kls)}
        accuracy = (logits.detach().argmax(-1) == ids).float().mean()
        return Loss(nats + c.kl_weight * cost, parts | {"ce": nats.detach(), "accuracy": accuracy})

    @torch.no_grad()
    def _scheduled(self, past: Tensor, target: Tensor, network: SpaceTimeTransformer, actions: Tensor | None) -> Tensor:
        """Scheduled sampling (arXiv 1506.03099): replaces latents (B, T, h, w, D) by predictions, frame after frame.

        The posterior saw the truth, so predictions follow this clip's future. Half of the clips have all frames after
        the first replaced, the others a random share. The last frame is no frame's past and stays.
        """
        b, t = past.shape[:2]
        share = (2 * torch.rand(b, 1, device=past.device)).clamp(max=1)
        replaced = (torch.rand(b, t, device=past.device) < share)[..., None, None, None]
        frames, cache, previous = [past[:, :1]], None, past[:, :1]
        for k in range(1, t - 1):
            tokens = self.embed(frames[-1], previous)
            action = None if actions is None else actions[:, k - 1 : k]
            out = network(tokens, draw_posterior, target=target[:, k - 1 : k], cache=cache, actions=action)
            cache, previous = out.cache, frames[-1]
            frames.append(torch.where(replaced[:, k : k + 1], self.likeliest(out.hidden), past[:, k : k + 1]))
        return torch.cat([*frames, past[:, max(1, t - 1) :]], dim=1)

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, network: SpaceTimeTransformer, condition: Condition) -> CodeState:
        latents, cache = self.tokenizer.encode(context).latents, None
        if latents.shape[1] > 1:  # the next frame is known inside a prompt, so the posterior's mean serves
            tokens = self.embed(latents, latents[:, :1])
            cache = network(tokens[:, :-1], draw_mean, target=self.posterior_features(tokens[:, 1:])).cache
        recent = latents[:, -2:]
        return CodeState(torch.cat([recent[:, :1], recent[:, -1:]], dim=1), cache, condition)

    def step(
        self, state: CodeState, network: SpaceTimeTransformer, actions: Tensor | None, sampling: Sampling, noise: Noise
    ) -> tuple[Video, CodeState]:
        previous, last = state.recent.expand(noise.futures, *state.recent.shape[1:]).split(1, dim=1)

        def draw(prior: Normal, _: Normal | None) -> Tensor:
            if sampling.temperature == 0:
                return prior.mean
            return prior.sample(sampling.temperature * noise.normal(*prior.mean.shape[1:]))

        cache = state.cache.expand(noise.futures) if state.cache else None
        out = network(self.embed(last, previous), draw, cache=cache, actions=actions)
        latents = self.likeliest(out.hidden)
        recent = torch.cat([last, latents], dim=1)
        return self.tokenizer.decode(latents), CodeState(recent, out.cache, state.condition, state.num_frames + 1)

    # ---- likelihood ----------------------------------------------------------------------------------

    def nats(self, video: Video, network: SpaceTimeTransformer) -> tuple[Tensor, int]:
        """Nats of each frame's codes but the first's, per cell (B, T - 1, h, w), and a cell's pixels times channels.

        An estimate: the negative ELBO at the posterior's mean. At samples of the posterior its mean would be an upper
        bound of the codes' negative log-likelihood.
        """
        codes, c = self.tokenizer.encode(video), self.tokenizer.config
        tokens = self.embed(codes.latents, codes.latents[:, :1])
        steps = tokens[:, :-1], self.posterior_features(tokens[:, 1:]), codes.ids[:, 1:]
        cache, nats = None, []
        for past, target, ids in zip(*(part.split(FRAMES_PER_PASS, dim=1) for part in steps), strict=True):
            out = network(past, draw_mean, target=target, cache=cache)
            cache = out.cache
            nats.append(self.elbo_nats(out, ids))
        return torch.cat(nats, dim=1), c.downsampling**2 * c.channels

    def elbo_nats(self, out: SpaceTimeOutput, ids: Tensor) -> Tensor:
        """Negative ELBO of codes (B, T, h, w, G), per token (B, T, h, w); a KL is spread evenly over its tokens."""
        logits = self.logits(out.hidden)
        nats = F.cross_entropy(logits.flatten(0, -2), ids.flatten(), reduction="none").view_as(ids).sum(dim=-1)
        for gaussian in out.gaussians:
            kl = gaussian.posterior.kl(gaussian.prior).sum(dim=1)  # (B*T, g, g)
            side = ids.shape[2] // kl.shape[-1]
            nats = nats + repeat(kl / side**2, "(b t) g k -> b t (g p) (k q)", b=len(ids), p=side, q=side)
        return nats
