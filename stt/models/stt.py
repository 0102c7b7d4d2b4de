"""STT: a Spatial-Temporal Transformer over the latents of single frames.

After NITHISHM2410/spatial-temporal-transformer (Flax). Where we differ: Gaussian
layers have a learned prior and, in training, a posterior that saw the next frame (as in SVG, arXiv
1802.07687), and the network predicts a distribution over codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from stt.api import Codes, Config, Loss, Noise, Predictor, PredictorConfig, Sampling, Surprise, Video
from stt.layers import ConvMLP, patchify
from stt.sampler import sample_logits
from stt.tokenizer import FrameVQ, FrameVQConfig, frame_encoder
from stt.transformer import Cache, Normal, Refiner, SpaceTimeConfig, SpaceTimeOutput, SpaceTimeTransformer

IGNORED = -100  # as a target: asks nothing
KEEP = 25.0  # nats of a code as far off as the unit of latents; neighbours of FSQ's 8 levels lie 0.29 apart: 2 nats
STRIDE = 20  # frames that surprise scores at a time


@dataclass(frozen=True, kw_only=True)
class STTConfig(PredictorConfig):
    tokenizer: FrameVQConfig = field(default_factory=FrameVQConfig)
    dim: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    gaussian_grid: tuple[int, ...] = (1, 2, 4, 0)  # cells per side of each block's Gaussian layer; 0 for none
    gaussian_dim: int = 8
    kl_weight: float = 1.0  # 1 makes the loss a bound on the likelihood of the codes
    free_nats: float = 0.5  # KL per layer and frame that costs nothing, against collapse
    jitter: float = 0.2  # largest std of the noise on the past's latents in training, against drift
    refine_depth: int = 0  # blocks that see what is known of the frame being predicted; 0 predicts it in one pass
    steps: int = 1  # passes a frame unless Sampling says otherwise; more than one need a refiner
    code_temperature: float = 0.5  # of the codes that passes draw, as a share of the temperature
    own_past: float = 0.3  # share of training steps whose past is predicted upon predictions, against drift
    drop_actions: float = 0.4  # share of training clips whose actions are all left for the model to imagine
    keep: bool = False  # a gate for each code that makes the likelier, the nearer it is to the one in its place before
    window: int = 0  # frames that attention over time sees, those of the future included; 0: as many as of a prompt

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or (self.steps > 1 and not self.refine_depth):
            raise ValueError(
                f"steps is {self.steps} with refine_depth {self.refine_depth}: only a refiner passes twice"
            )
        if not 0 <= self.code_temperature <= 1:
            raise ValueError(f"code_temperature is {self.code_temperature}, must be between 0 and 1")
        for name in ("image_size", "channels"):
            if getattr(self, name) != getattr(self.tokenizer, name):
                raise ValueError(f"{name} is {getattr(self, name)}, its tokenizer's is {getattr(self.tokenizer, name)}")

    @classmethod
    def nested(cls) -> dict[str, type[Config]]:
        return {"tokenizer": FrameVQConfig}


class STTState(NamedTuple):
    recent: Tensor  # (B, 2, h, w, D) latents of the last two frames
    cache: Cache | None  # of all frames before the last
    reference: Video | None  # (B, 1, C, H, W) the prompt's last frame, where codes are relative to it
    drawn: int = 0  # frames of the future so far


class STT(Predictor):
    family: ClassVar[str] = "stt"

    def __init__(self, config: STTConfig) -> None:
        super().__init__()
        self.config = c = config
        knobs = {"temperature": True, "steps": c.refine_depth, "actions": c.actions}
        self.knobs = frozenset(name for name, there in knobs.items() if there)
        self.refiner = None
        self.tokenizer = FrameVQ(c.tokenizer).requires_grad_(False)
        latent_dim = c.tokenizer.latent_dim
        self.embed = nn.Conv2d(2 * latent_dim, c.dim, 3, padding=1)
        if c.tokenizer.reference:
            widths = (c.dim // 2,) * (len(c.tokenizer.widths) - 1) + (c.dim,)
            self.scene = frame_encoder(c.channels * c.tokenizer.patch**2, widths, 1, c.dim)
        if c.actions:
            self.act = nn.Linear(len(c.actions) + 1, c.dim)  # and whether they are known
        self.network = SpaceTimeTransformer(
            SpaceTimeConfig(
                grid=c.tokenizer.grid, dim=c.dim, depth=c.depth, heads=c.heads, mlp_ratio=c.mlp_ratio,
                window=c.window or c.context_frames, gaussian_grid=c.gaussian_grid, gaussian_dim=c.gaussian_dim,
                posterior=True,
            )
        )  # fmt: skip
        self.target = nn.Sequential(nn.LayerNorm(c.dim), ConvMLP(c.dim, 2))
        sizes = self.tokenizer.quantizer.sizes
        self.head = nn.Linear(c.dim, len(sizes) * max(sizes))
        exists = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]  # (G, K)
        self.register_buffer("code_exists", exists, persistent=False)
        if c.keep:
            self.keep = nn.Linear(c.dim, len(sizes))
            nn.init.zeros_(self.keep.weight)
            nn.init.ones_(self.keep.bias)
        if c.refine_depth:
            self.refiner = Refiner(c.dim, c.heads, c.mlp_ratio, c.refine_depth, latent_dim, len(sizes))

    def train(self, mode: bool = True) -> STT:
        super().train(mode)
        self.tokenizer.eval()  # frozen: its codebook must not follow this network's data
        return self

    # ---- network -------------------------------------------------------------------------------------

    def _embed(self, latents: Tensor, before: Tensor, reference: Video | None) -> Tensor:
        """Latents (B, T, h, w, D) and the frame before the first (B, 1, h, w, D) -> (B, T, h, w, dim).

        Each frame is embedded together with its predecessor, so that motion is visible at once; with a reference
        (B, 1, C, H, W) also with what that shows, of which the codes tell no more than changes.
        """
        pairs = torch.cat([latents, torch.cat([before, latents[:, :-1]], dim=1)], dim=-1)
        h = self.embed(rearrange(pairs, "b t h w d -> (b t) d h w"))
        h = rearrange(h, "(b t) d h w -> b t h w d", b=latents.shape[0])
        if reference is None:
            return h
        return h + self.scene(patchify(reference, self.config.tokenizer.patch)).movedim(2, -1)

    def _acted(self, embedded: Tensor, actions: Tensor | None) -> Tensor:
        """Adds what is done after each frame to embedded frames (B, T, h, w, dim): actions (B, T, A), nan if unknown.

        None: nothing is known. The posterior's frames go without.
        """
        if not self.config.actions:
            return embedded
        if actions is None:
            actions = embedded.new_full((*embedded.shape[:2], len(self.config.actions)), torch.nan)
        known = ~actions.isnan().any(dim=-1, keepdim=True)
        told = torch.cat([torch.where(known, actions, 0.0), known.to(actions.dtype)], dim=-1)
        return embedded + self.act(told)[:, :, None, None]

    def logits(self, hidden: Tensor, before: Tensor, ids: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """(..., dim) and the latents in the same places before (..., D) -> (..., G, K) code logits.

        -inf where a group has fewer than K codes. With a refiner, `ids` (..., G) are the frame's codes and `known`
        (..., G) says which of them may be seen.
        """
        if self.refiner is not None:
            if ids is None:
                ids = torch.zeros(*hidden.shape[:-1], len(self.code_exists), dtype=torch.int64, device=hidden.device)
                known = torch.zeros_like(ids, dtype=torch.bool)
            hidden = self.refiner(hidden, self.tokenizer.quantizer.embed(ids), known)
        groups, codes = self.code_exists.shape
        logits = self.head(hidden).float().unflatten(-1, (groups, codes))
        if self.config.keep:
            values = self.tokenizer.quantizer.values(codes)  # (G, K, D/G)
            apart = (before.unflatten(-1, (groups, 1, -1)) - values).square().sum(dim=-1)  # (..., G, K)
            logits = logits - KEEP * self.keep(hidden).float()[..., None] * apart
        return logits.masked_fill(~self.code_exists, -torch.inf)

    # ---- training ------------------------------------------------------------------------------------

    def loss(
        self,
        video: Video,
        actions: Tensor | None = None,
    ) -> Loss:
        """actions (B, T, A): what is done after each frame, of configs that name some; the last one is not used."""
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        own = torch.rand(()) < self.config.own_past
        if actions is not None:
            asked = (*video.shape[:2], len(self.config.actions))
            if actions.shape != asked:
                raise ValueError(f"actions have shape {tuple(actions.shape)}, must be {asked}")
            actions = self._forget(actions)[:, :-1]
        given = 1
        if self.config.tokenizer.reference:
            most = min(self.config.context_frames, video.shape[1] - 1)
            given = int(torch.randint(1, most + 1, ()))
        codes, reference, target = self._told(video, given)
        with torch.no_grad():
            past = self._jitter(codes.latents)
        if own:
            past = self._own_past(past, target, actions, reference, given)
        out = self._forward_training(past, target, actions, reference).since(given - 1)
        return self._elbo(out, past[:, given - 1 : -1], codes.ids[:, given:])

    def _told(self, video: Video, given: int) -> tuple[Codes, Video | None, Tensor]:
        """Clips' codes, the last of the `given` frames where codes are relative to it, and what a posterior sees."""
        reference = video[:, given - 1 : given] if self.config.tokenizer.reference else None
        with torch.no_grad():
            codes = self.tokenizer.encode(video, reference)
        seen = self._embed(codes.latents, codes.latents[:, :1], reference)[:, 1:]
        return codes, reference, self.target_features(seen)

    def _forget(self, actions: Tensor) -> Tensor:
        """Actions (B, T, A), unknown (nan) up to a random frame as those of a prompt, or all of a clip's."""
        b, t, _ = actions.shape
        begin = (t * torch.rand(b, 1, device=actions.device)).floor()
        begin = torch.where(torch.rand(b, 1, device=actions.device) < self.config.drop_actions, t, begin)
        unknown = torch.arange(t, device=actions.device) < begin  # (B, T)
        return actions.masked_fill(unknown[..., None], torch.nan)

    def _forward_training(
        self, past: Tensor, target: Tensor, actions: Tensor | None = None, reference: Video | None = None
    ) -> SpaceTimeOutput:
        """All steps of clips at once: latents (B, T, h, w, D) -> features for frames 1 ... T-1."""
        embedded = self._acted(self._embed(past[:, :-1], past[:, :1], reference), actions)
        return self.network(embedded, draw_posterior, target=target)

    @torch.no_grad()
    @torch.compiler.disable
    def _own_past(
        self, past: Tensor, target: Tensor, actions: Tensor | None, reference: Video | None, given: int
    ) -> Tensor:
        """Latents (B, T, h, w, D) with frames after the `given` ones predicted upon predictions, as in sampling.

        The posterior saw the truth, so they are of this clip's future. Half of the clips have all of them predicted,
        the others any share (scheduled sampling, arXiv 1506.03099). The last frame is no frame's past and stays.
        """
        b, t = past.shape[:2]
        share = (2 * torch.rand(b, 1, device=past.device)).clamp(max=1)
        own = (torch.rand(b, t, device=past.device) < share)[..., None, None, None]
        frames, cache = [past[:, :given]], None
        latents, before = past[:, :given], past[:, :1]  # what the cache has not seen, and the frame before it
        for k in range(given, t - 1):
            seen = slice(k - latents.shape[1], k)
            told = None if actions is None else actions[:, seen]
            embedded = self._acted(self._embed(latents, before, reference), told)
            out = self.network(embedded, draw_posterior, target=target[:, seen], cache=cache)
            cache, before = out.cache, latents[:, -1:]
            latents = torch.where(own[:, k : k + 1], self._decide(out.hidden[:, -1:], before), past[:, k : k + 1])
            frames.append(latents)
        return torch.cat([*frames, past[:, max(given, t - 1) :]], dim=1)

    @torch.no_grad()
    def relived(self, video: Video, given: int) -> tuple[Codes, Tensor]:
        """Clips' own codes, and latents (B, T, h, w, D) of which those after `given` frames are predicted, as drift
        leaves them: predictions upon predictions, with a posterior that saw the truth, so of this clip's future.

        Half of the clips have all of them predicted, the others any share; the last frame is not.
        """
        codes, reference, target = self._told(video, given)
        return codes, self._own_past(codes.latents, target, None, reference, given)

    def _decide(self, hidden: Tensor, before: Tensor) -> Tensor:
        """Features (..., dim) and last latents (..., D) -> next latents: those of the likeliest codes."""
        return self.tokenizer.quantizer.embed(self.logits(hidden, before).argmax(dim=-1))

    def target_features(self, embedded: Tensor) -> Tensor:
        """Features of the next frames for the posterior, (B, T, h, w, dim) -> same."""
        h = self.target(rearrange(embedded, "b t h w d -> (b t) h w d"))
        return rearrange(h, "(b t) h w d -> b t h w d", b=embedded.shape[0])

    def _jitter(self, latents: Tensor) -> Tensor:
        """Noise of a random strength per clip: at sampling time the past is imperfect as well."""
        scale = self.config.jitter * torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
        return latents + scale * torch.randn_like(latents)

    def _elbo(self, out: SpaceTimeOutput, before: Tensor, ids: Tensor) -> Loss:
        known = self._shown(ids)
        logits = self.logits(out.hidden, before, ids, known)  # (B, T-1, h, w, G, K)
        asked = ids.masked_fill(known, IGNORED)
        ce = F.cross_entropy(logits.flatten(0, -2), asked.flatten(), ignore_index=IGNORED)  # nats per code
        kls = [g.posterior.kl(g.prior).sum(dim=(1, 2, 3)).mean() for g in out.gaussians]  # nats per frame
        paid = sum(kl.clamp(min=self.config.free_nats) for kl in kls) / ids[0, 0].numel()
        parts = {f"kl_{i}": kl.detach() for i, kl in enumerate(kls)}
        right = (logits.detach().argmax(-1) == ids)[~known]
        parts |= {"ce": ce.detach(), "accuracy": right.float().mean()}
        return Loss(ce + self.config.kl_weight * paid, parts)

    def _shown(self, ids: Tensor) -> Tensor:
        """Which codes (B, T, h, w, G) the refiner may see: none of a frame, or as many as after a random pass."""
        if self.refiner is None:
            return torch.zeros_like(ids, dtype=torch.bool)
        passed = (1.3 * torch.rand(*ids.shape[:2], 1, 1, 1, device=ids.device) - 0.3).clamp(min=0)
        return torch.rand(ids.shape, device=ids.device) < share_known(passed)

    # ---- likelihood ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def surprise(self, video: Video) -> Surprise:
        """The negative ELBO of every frame's codes given the frames before it, at the posterior's mean.

        An estimate: draws of the posterior would make it an upper bound on the bits of the codes, cost a pass each
        and give the same order (the shipped model's 0.060 bits become 0.059). What the tokenizer cannot tell apart
        costs nothing, so it is no bound on the bits of the pixels.
        """
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, a surprise needs at least 2")
        codes, reference = self.tokenizer.encode(video), video[:, :1] if self.config.tokenizer.reference else None
        embedded = self._embed(codes.latents, codes.latents[:, :1], reference)
        steps = (
            self._acted(embedded[:, :-1], None), self.target_features(embedded[:, 1:]),
            codes.latents[:, :-1], codes.ids[:, 1:],
        )  # fmt: skip
        cache, nats = None, []
        for past, target, before, ids in zip(*(part.split(STRIDE, dim=1) for part in steps), strict=True):
            out = self.network(past, draw_mean, target=target, cache=cache)
            cache = out.cache
            nats.append(self._nats(out, before, ids))
        pixels = self.config.tokenizer.downsampling**2 * self.config.channels  # of one place
        where = torch.cat(nats, dim=1) / (pixels * math.log(2))  # (B, T-1, h, w)
        return Surprise(where.mean(dim=(-2, -1)), where)

    def _nats(self, out: SpaceTimeOutput, before: Tensor, ids: Tensor) -> Tensor:
        """Negative ELBO of codes (B, T, h, w, G) by place (B, T, h, w); a cell's KL spreads over its places."""
        logits = self.logits(out.hidden, before)  # a refiner is shown nothing
        ce = F.cross_entropy(logits.flatten(0, -2), ids.flatten(), reduction="none")
        nats = ce.view_as(ids).sum(dim=-1)
        for gaussian in out.gaussians:
            kl = gaussian.posterior.kl(gaussian.prior).sum(dim=1)  # (B*T, g, g)
            side = ids.shape[2] // kl.shape[-1]
            nats = nats + repeat(kl / side**2, "(b t) g k -> b t (g p) (k q)", b=len(ids), p=side, q=side)
        return nats

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video) -> STTState:
        reference = None
        if self.config.tokenizer.reference:
            reference = context[:, -1:]
        latents = self.tokenizer.encode(context, reference).latents
        cache = None
        if latents.shape[1] > 1:  # what followed each frame but the last is known, so chance has no part in it
            embedded = self._embed(latents, latents[:, :1], reference)
            target = self.target_features(embedded[:, 1:])
            cache = self.network(self._acted(embedded[:, :-1], None), draw_mean, target=target).cache
        recent = latents[:, -2:]
        recent = torch.cat([recent[:, :1], recent[:, -1:]], dim=1)
        return STTState(recent, cache, reference)

    def step(self, state: STTState, sampling: Sampling, noise: Noise) -> tuple[Video, STTState]:
        futures = noise.futures
        before, last = state.recent.expand(futures, *state.recent.shape[1:]).split(1, dim=1)
        cache = state.cache.expand(futures) if state.cache else None

        actions = None
        if self.config.actions and (action := sampling.action(state.drawn)):
            if len(action) != len(self.config.actions):
                raise ValueError(f"an action has {len(action)} numbers, the model takes {len(self.config.actions)}")
            actions = torch.tensor(action, device=last.device).expand(futures, 1, -1)

        def draw(prior: Normal, _: Normal | None) -> Tensor:
            if sampling.temperature == 0:
                return prior.mean
            return prior.sample(sampling.temperature * noise.normal(*prior.mean.shape[1:]))

        out = self.network(self._acted(self._embed(last, before, state.reference), actions), draw, cache=cache)
        steps = (sampling.steps or self.config.steps) if self.refiner is not None else 1
        latents = (
            self._decide(out.hidden, last) if steps == 1 else self._refine(out.hidden, last, steps, sampling, noise)
        )
        frames = self.tokenizer.decode(latents, state.reference)
        recent = torch.cat([last, latents], dim=1)
        return frames, state._replace(recent=recent, cache=out.cache, drawn=state.drawn + 1)

    def _refine(self, hidden: Tensor, before: Tensor, steps: int, sampling: Sampling, noise: Noise) -> Tensor:
        """Features (B, 1, h, w, dim) -> next latents: every pass draws all codes and keeps the surest of them."""
        codes = Sampling(temperature=sampling.temperature * self.config.code_temperature)
        ids = torch.zeros(*hidden.shape[:-1], len(self.code_exists), dtype=torch.int64, device=hidden.device)
        known = torch.zeros_like(ids, dtype=torch.bool)  # (B, 1, h, w, G)
        for i in range(1, steps + 1):
            logits = self.logits(hidden, before, ids, known)
            gumbel = noise.gumbel(*logits.shape[1:]) if codes.temperature else logits
            ids = torch.where(known, ids, sample_logits(logits, codes, gumbel))
            sure = logits.log_softmax(dim=-1).gather(-1, ids[..., None]).squeeze(-1).masked_fill(known, torch.inf)
            count = math.ceil(ids[0].numel() * float(share_known(torch.tensor(i / steps))) - 1e-4)
            kept = sure.flatten(1).topk(count, dim=1).indices
            known = torch.zeros_like(known).flatten(1).scatter(1, kept, True).view_as(known)
        return self.tokenizer.quantizer.embed(ids)


def share_known(passed: Tensor) -> Tensor:
    """Share of a frame's codes that are settled after this share of the passes: few at first (cosine schedule)."""
    return 1 - torch.cos(passed * torch.pi / 2)


def draw_posterior(prior: Normal, posterior: Normal | None) -> Tensor:
    return posterior.sample(torch.randn_like(posterior.mean))


def draw_mean(prior: Normal, posterior: Normal | None) -> Tensor:
    return (posterior or prior).mean
