"""Flow tokens: a frame as patches, and for each pixel of the next frame where it comes from.

As in the models of Finn et al. (arXiv 1605.07157) and Ebert et al. (arXiv 1710.05268): the next frame is a sum of
sources under masks that add up to 1. Sources are the last frame as it stands, the last frame warped along one of
several flows, the prompt's first frame, which shows what was hidden since, and pixels decoded anew. Where they have a
convolutional LSTM, we have the space-time transformer.

With `optical_flow`, flows begin from the last motion, carried on by splatting, so that untrained networks let things
go on as they went. Flows and masks apply to frames of any size: the network reads them with image_size pixels on the
longer side. In prediction, pixels that are copied from frame to frame are taken from the last true frame, and stay
sharp.

Where the config names actions, chance lies in them: a mixture density network over the next action, the policy, is
sampled where the caller gives none. Else chance enters by the transformer's Gaussian layers and, with `optical_flow`,
by a growth of each future's motion from frame to frame: velocities are perturbed as in STEPS (Bowler, Pierce and Seed
2006).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import Condition, Loss, Noise, PredictedFrames, Sampling, Video
from stt.layers import ConvMLP, ResBlock, SpatialBlock, group_norm, patchify, unpatchify
from stt.metrics import multiscale_error
from stt.mixture import Mixture, Policy
from stt.optical_flow import Origin, carry, compose, optical_flow, resize, resize_flow, warp
from stt.transformer import Cache, Draw, Normal, SpaceTimeTransformer, draw_mean, draw_posterior

TOKEN = 4  # patches a side of a token
DETAIL = 2  # flows and masks a side of a patch
GROWTH = 0.12  # standard deviation of the logarithm of a future's growth of motion a frame
FLOW_SCALE = 4.0  # pixels of a flow where the network's output is 1
MAX_CONTEXT = 4  # frames of context in training; the rest of a clip is predicted from predictions
RECONSTRUCTION_WEIGHT = 100.0  # of the error on [0, 1] beside a nat
FLOW_WEIGHT = 1.0  # of a pixel's distance from the optical flow of the true frames
POLICY_WEIGHT = 0.1
PIXEL_STD = 0.1  # of what is not predicted, for the likelihood

ChooseActions = Callable[[Mixture], Tensor]  # policy of N items -> actions (N, A)


class FlowState(NamedTuple):
    recent: Tensor  # (B, 2, C, H, W) the last two frames
    reference: Tensor  # (B, C, H, W) the prompt's first frame
    flow: Tensor | None  # (B, 2, h, w) backward flow of the last frame, at the network's size
    origin: Origin  # of the last frame's pixels
    action: Tensor | None  # (B, A) that led to the last frame, nan if unknown
    cache: Cache | None  # of all frames before the last
    condition: Condition
    growth: Tensor | None = None  # (B, 1, 1, 1) of each future's motion, from frame to frame
    num_frames: int = 0  # of the future so far


class Features(NamedTuple):
    """A frame at three scales, for patches of p pixels a side."""

    fine: Tensor  # (N, w, H/p, W/p)
    middle: Tensor  # (N, 2 * w, H/2p, W/2p)
    tokens: Tensor  # (N, D, H/4p, W/4p)


class Prediction(NamedTuple):
    """What a step of T frames gives."""

    video: Tensor  # (B, T, C, H, W) each frame's successor
    flow: Tensor | None  # (B, T, 2, H, W) its backward flow, the mean of those under the masks
    origin: Origin | None  # of the successors of B frames
    policy: Mixture | None  # of B * T items: the action that follows each frame
    cache: Cache
    kls: list[Tensor]  # per Gaussian layer: nats of a frame


class FlowTokens(nn.Module):
    """Embeds frames and composes their successors."""

    def __init__(
        self,
        image_size: int,
        channels: int,
        patch: int,
        flows: int,
        width: int,
        has_motion: bool,
        dim: int,
        heads: int,
        num_actions: int,
        has_posterior: bool,
        kl_weight: float,
        free_nats: float,
        scheduled_sampling: float,
    ) -> None:
        super().__init__()
        self.flows, self.channels, self.num_actions = flows, channels, num_actions
        self.image_size, self.patch, self.has_motion = image_size, patch, has_motion
        self.rows = self.columns = image_size // (TOKEN * patch)
        self.enter = nn.Conv2d((3 * channels + has_motion * (2 + channels)) * patch**2, width, 3, padding=1)
        self.fine_in = ResBlock(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle_in = ResBlock(2 * width)
        self.to_tokens = nn.Conv2d(2 * width, dim, 3, stride=2, padding=1)
        self.target = nn.Sequential(nn.LayerNorm(dim), ConvMLP(dim, 2)) if has_posterior else None
        if num_actions:
            self.policy = Policy(self.rows, self.columns, dim, num_actions)
            self.embed_action = nn.Sequential(nn.Linear(num_actions, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.act = nn.ModuleList(SpatialBlock(dim, heads) for _ in range(2))
        self.up = nn.Conv2d(dim, 2 * width, 1)
        self.middle_out = ResBlock(2 * width)
        self.up_again = nn.Conv2d(2 * width, width, 1)
        self.fine_out = nn.Sequential(ResBlock(width), group_norm(width), nn.SiLU())
        self.sizes = [2 * flows, flows + 3, channels]  # flows, masks, pixels
        self.leave = nn.Conv2d(width, DETAIL**2 * sum(self.sizes), 3, padding=1)
        nn.init.zeros_(self.leave.weight)  # at first, the last frame stands still, or its motion goes on
        nn.init.zeros_(self.leave.bias)
        self.kl_weight, self.free_nats = kl_weight, free_nats
        self.scheduled_sampling = scheduled_sampling  # share of steps that predict from predictions
        self.num_context: int | None = None  # true frames before them, None for all

    # ---- one step --------------------------------------------------------------------------------------

    def input_size(self, frames: Tensor) -> tuple[int, int]:
        """Height and width at which the network reads frames (..., H, W): whole patches, nearly of their aspect."""
        scale = self.image_size / max(frames.shape[-2:]) / self.patch
        height, width = (max(round(side * scale), 1) * self.patch for side in frames.shape[-2:])
        return height, width

    def features(self, frames: Tensor, previous: Tensor, reference: Tensor, motion: Tensor | None) -> Features:
        """Frames (N, C, H, W), those before them, the prompts' first ones, and the expected flow of the next ones."""
        size = self.input_size(frames)
        frames, previous, reference = (resize(x, size) for x in (frames, previous, reference))
        parts = [frames, frames - previous, reference]
        if motion is not None:
            flow, coverage = motion.split((2, 1), dim=1)
            parts += [flow / FLOW_SCALE, warp(frames, flow) * coverage]
        fine = self.fine_in(self.enter(patchify(torch.cat(parts, dim=1), self.patch)))
        middle = self.middle_in(self.down(fine))
        return Features(fine, middle, self.to_tokens(middle))

    def predict(
        self,
        network: SpaceTimeTransformer,
        frames: Tensor,  # (B, T, C, H, W)
        previous: Tensor,  # (B, T, C, H, W) the frame before each
        reference: Tensor,  # (B, C, H, W)
        motion: Tensor | None,  # (B, T, 3, h, w), as `expected` returns it
        past_actions: Tensor | None,  # (B, T, A) that led to each frame, nan if unknown
        choose: ChooseActions,
        draw: Draw,
        target: Tensor | None = None,
        cache: Cache | None = None,
        features: Features | None = None,
        origin: Origin | None = None,
    ) -> Prediction:
        """features: of the frames, where the caller has them; origin: of a single frame (T = 1), in prediction."""
        b, t = frames.shape[:2]
        flat, flat_motion = frames.flatten(0, 1), None if motion is None else motion.flatten(0, 1)
        references = reference[:, None].expand(b, t, *reference.shape[1:]).flatten(0, 1)
        f = features or self.features(flat, previous.flatten(0, 1), references, flat_motion)
        tokens = rearrange(f.tokens, "(b t) d h w -> b t h w d", b=b)
        out = network(tokens, draw, target=target, cache=cache, actions=past_actions)
        h, policy = out.hidden.flatten(0, 1), None  # (B * T, h, w, D)
        if self.num_actions:
            policy = self.policy(h, torch.nan_to_num(past_actions).flatten(0, 1))
            h = h + self.embed_action(choose(policy))[:, None, None]
        for block in self.act:
            h = block(h)
        h = rearrange(h, "n h w d -> n d h w")
        middle = self.middle_out(f.middle + F.interpolate(self.up(h), size=f.middle.shape[-2:]))
        fine = self.fine_out(f.fine + F.interpolate(self.up_again(middle), size=f.fine.shape[-2:]))
        with torch.autocast(frames.device.type, enabled=False):  # flows and masks are to be exact
            x = unpatchify(self.leave(fine.float()), DETAIL)
            flows, masks, pixels = x.split(self.sizes, dim=1)
            flows = FLOW_SCALE * flows.unflatten(1, (self.flows, 2))
            motion = None if flat_motion is None else flat_motion[:, :2]
            composed = compose(flows, masks, pixels.tanh(), flat, references, motion, origin)
        kls = [g.posterior.kl(g.prior).sum(dim=(1, 2, 3)).mean() for g in out.gaussians if g.posterior is not None]
        flow = None if composed.flow is None else composed.flow.unflatten(0, (b, t))
        return Prediction(composed.frames.unflatten(0, (b, t)), flow, composed.origin, policy, out.cache, kls)

    def motion_of(self, video: Tensor) -> Tensor | None:
        """Flow (B, T, 2, H, W) of each frame of clips to the one before, 0 for the first; None if not used."""
        if not self.has_motion:
            return None
        b, t, _, height, width = video.shape
        if t == 1:
            return video.new_zeros(b, 1, 2, height, width)
        flow = optical_flow(video[:, 1:].flatten(0, 1), video[:, :-1].flatten(0, 1)).unflatten(0, (b, t - 1))
        return torch.cat([torch.zeros_like(flow[:, :1]), flow], dim=1)

    def expected(self, flow: Tensor | None, size: tuple[int, int]) -> Tensor | None:
        """What `carry` makes of flows (B, T, 2, H, W) of frames of any size at the network's size: (B, T, 3, h, w)."""
        return None if flow is None else carry(resize_flow(flow.flatten(0, 1), size)).unflatten(0, flow.shape[:2])

    # ---- training --------------------------------------------------------------------------------------

    def begin_step(self, rng: random.Random) -> None:
        own = rng.random() < self.scheduled_sampling
        self.num_context = rng.randint(1, MAX_CONTEXT) if own else None

    def loss(
        self,
        video: Video,
        network: SpaceTimeTransformer,
        actions: Tensor | None,
        visible: Tensor | None,
        off_policy: Tensor | None = None,
        flow: Tensor | None = None,
    ) -> Loss:
        """The error of frames predicted from true ones, at times then from predicted ones, and the policy's nats.

        actions (B, T, A): what leads from each frame to the next; visible: the same, nan where a prompt hides them.
        off_policy (B,): clips whose actions the policy does not learn.
        flow: `motion_of` the video, where the caller has it.
        """
        b, t = video.shape[:2]
        num_context = min(self.num_context or t - 1, t - 1)
        past = None
        if actions is not None:
            past = torch.cat([torch.full_like(visible[:, :1], torch.nan), visible[:, :-1]], dim=1)
        target, features, draw = None, None, draw_mean
        true_flow = self.motion_of(video) if flow is None else flow
        size = self.input_size(video)
        motion = self.expected(true_flow, size)
        before = torch.cat([video[:, :1], video[:, :-1]], dim=1)
        if self.target is not None:
            references = video[:, :1].expand_as(video).flatten(0, 1)
            flow = None if motion is None else motion.flatten(0, 1)
            whole = self.features(video.flatten(0, 1), before.flatten(0, 1), references, flow)
            features = Features(*(x.unflatten(0, (b, t))[:, :num_context].flatten(0, 1) for x in whole))
            tokens = rearrange(whole.tokens, "(b t) d h w -> b t h w d", b=b)[:, 1:]
            target, draw = self.target(tokens.flatten(0, 1)).unflatten(0, (b, t - 1)), draw_posterior
        frames, previous = video[:, :num_context], before[:, :num_context]
        motion = None if motion is None else motion[:, :num_context]
        videos, flow_errors, nats, kls, cache, k = [], [], [], [], None, 0
        while k < t - 1:
            n = frames.shape[1]
            true_actions = None if actions is None else actions[:, k : k + n].flatten(0, 1)
            out = self.predict(
                network, frames, previous, video[:, 0], motion,
                None if past is None else past[:, k : k + n],
                lambda policy, true_actions=true_actions: true_actions, draw,
                None if target is None else target[:, k : k + n], cache, features,
            )  # fmt: skip
            videos.append(out.video)
            if true_flow is not None:
                flow_errors.append((out.flow - true_flow[:, k + 1 : k + n + 1]).abs().mean(dim=(0, 2, 3, 4)))
            if true_actions is not None:
                nats.append(out.policy.nll(true_actions).unflatten(0, (b, n)))
            if out.kls:
                kls.append(n * torch.stack(out.kls))
            previous, frames, cache, features, k = frames[:, -1:], out.video[:, -1:], out.cache, None, k + n
            motion = None if motion is None else self.expected(out.flow[:, -1:].detach(), size)
        predicted = PredictedFrames(torch.cat(videos, dim=1), video[:, 1:])
        error = multiscale_error(*predicted)
        total = RECONSTRUCTION_WEIGHT * error.mean()
        parts = {"error at 1": error[0], "error ahead": error[-1]}
        if flow_errors:
            flow = torch.cat(flow_errors).mean()
            total, parts = total + FLOW_WEIGHT * flow, parts | {"flow": flow}
        if nats:
            share = torch.ones(b, device=video.device) if off_policy is None else (~off_policy).float()
            policy = (torch.cat(nats, dim=1).mean(dim=1) * share).mean()
            total, parts = total + POLICY_WEIGHT * policy, parts | {"policy": policy}
        if kls:
            kl = torch.stack(kls).sum(dim=0) / (t - 1)  # per Gaussian layer
            total, parts = total + self.kl_weight * kl.clamp(min=self.free_nats).sum(), parts | {"kl": kl.sum()}
        return Loss(total, {name: value.detach() for name, value in parts.items()}, predicted)

    # ---- prediction ------------------------------------------------------------------------------------

    def start(self, context: Video, network: SpaceTimeTransformer, condition: Condition) -> FlowState:
        b, t = context.shape[:2]
        action = context.new_full((b, self.num_actions), torch.nan) if self.num_actions else None
        size, cache = self.input_size(context), None
        flow = self.motion_of(context[:, max(0, t - 2) :])
        small = resize(context.flatten(0, 1), size).unflatten(0, (b, t))
        flows = self.motion_of(small)
        if t > 1:
            frames = small[:, :-1]
            previous = torch.cat([small[:, :1], small[:, :-2]], dim=1)
            references = small[:, :1].expand_as(frames).flatten(0, 1)
            past = None if flows is None else carry(flows[:, :-1].flatten(0, 1))
            tokens = self.features(frames.flatten(0, 1), previous.flatten(0, 1), references, past).tokens
            tokens = rearrange(tokens, "(b t) d h w -> b t h w d", b=b)
            cache = network(tokens, draw_mean).cache
        recent = torch.cat([context[:, max(0, t - 2) : t - 1] if t > 1 else context, context[:, -1:]], dim=1)
        return FlowState(
            recent,
            context[:, 0],
            None if flow is None else resize_flow(flow[:, -1], size),
            Origin.of(context[:, -1]),
            action,
            cache,
            condition,
        )

    def step(
        self, state: FlowState, network: SpaceTimeTransformer, actions: Tensor | None, sampling: Sampling, noise: Noise
    ) -> tuple[Video, FlowState]:
        n = noise.futures
        previous, frame = (part.expand(n, *part.shape[1:]) for part in state.recent.split(1, dim=1))
        reference = state.reference.expand(n, *state.reference.shape[1:])
        past = None if state.action is None else state.action.expand(n, -1)[:, None]
        chosen = []

        def choose(policy: Mixture) -> Tensor:
            action = policy.sample(sampling.temperature, noise).clamp(-1, 1) if actions is None else actions[:, 0]
            chosen.append(action)
            return action

        def draw(prior: Normal, _: Normal | None) -> Tensor:
            if sampling.temperature == 0:
                return prior.mean
            return prior.sample(sampling.temperature * noise.normal(*prior.mean.shape[1:]))

        cache, growth = state.cache.expand(n) if state.cache else None, state.growth
        flow = None if state.flow is None else state.flow.expand(n, *state.flow.shape[1:])
        motion = None if flow is None else carry(flow)[:, None]
        if motion is not None and not self.num_actions and sampling.temperature:
            if growth is None:
                growth = (GROWTH * sampling.temperature * noise.normal(1, 1, 1)).exp()
            motion = torch.cat([growth[:, None] * motion[:, :, :2], motion[:, :, 2:]], dim=2)
        origin = Origin(*(part.expand(n, *part.shape[1:]) for part in state.origin))
        out = self.predict(network, frame, previous, reference, motion, past, choose, draw, cache=cache, origin=origin)
        video = out.video.clamp(-1, 1)
        recent = torch.cat([frame, video], dim=1)
        action = chosen[0] if chosen else None
        flow = None if out.flow is None else resize_flow(out.flow[:, 0], self.input_size(frame))
        return video, state._replace(
            recent=recent,
            reference=reference,
            flow=flow,
            origin=out.origin,
            action=action,
            cache=out.cache,
            growth=growth,
            num_frames=state.num_frames + 1,
        )

    # ---- likelihood ------------------------------------------------------------------------------------

    def nats(self, video: Video, network: SpaceTimeTransformer) -> tuple[Tensor, int]:
        """Nats of each frame but the first by token (B, T - 1, h, w), and the numbers of a token.

        The squared error of the frame that the likeliest action leads to, as normal noise of PIXEL_STD beyond none.
        """
        video = resize(video.flatten(0, 1), self.input_size(video)).unflatten(0, video.shape[:2])
        frames, previous = video[:, :-1], torch.cat([video[:, :1], video[:, :-2]], dim=1)
        past = frames.new_full((*frames.shape[:2], self.num_actions), torch.nan) if self.num_actions else None
        out = self.predict(
            network, frames, previous, video[:, 0], self.expected(self.motion_of(frames), frames.shape[-2:]), past,
            lambda policy: policy.sample(0.0, None), draw_mean,
        )  # fmt: skip
        size, cell = video.shape[-2:], TOKEN * self.patch
        residual = ((out.video - video[:, 1:]) / 2).square().sum(dim=2) / (2 * PIXEL_STD**2)
        nats = F.adaptive_avg_pool2d(residual, (math.ceil(size[0] / cell), math.ceil(size[1] / cell))) * cell**2
        return nats, cell**2 * self.channels
