"""STT: a Spatial-Temporal Transformer that continues a clip.

After NITHISHM2410/spatial-temporal-transformer (Flax): spatial attention, causal temporal attention, MLP, Gaussian
layer (`stt.transformer`). The tokens of a frame are of one of four kinds:

    motion (`stt.motion_tokens`)   images that move as wholes; the transformer predicts each one's next displacement
    flows (`stt.flow_tokens`)      patches; the network predicts from where each pixel of the next frame is copied
    regions (`stt.region_tokens`)  what moves as a whole; the transformer predicts how much of its velocity each keeps
    codes (`stt.code_tokens`)      a frozen tokenizer's codes; the transformer predicts the next frame's codes

Where we differ from the original: it regresses; we predict distributions over classes (displacements or codes), or
where pixels come from. Our Gaussian layers have a learned prior, its are N(0, 1).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
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
from stt.code_tokens import CodeState, CodeTokens, CodeTraining
from stt.flow_tokens import FlowState, FlowTokens
from stt.metrics import unit
from stt.motion_tokens import CELL, MotionState, MotionTokens, turns
from stt.region_tokens import RegionState, RegionTokens
from stt.segmenter import Segmenter
from stt.tokenizer import FrameVQ, FrameVQConfig
from stt.transformer import SpaceTimeConfig, SpaceTimeTransformer

State = MotionState | FlowState | RegionState | CodeState


@dataclass(frozen=True, kw_only=True)
class STTConfig(PredictorConfig):
    tokenizer: FrameVQConfig | None = None  # of codes; a model has a tokenizer, layers, flows or regions
    layers: int = 0  # motion layers in front of a background
    reach: int = 5  # largest displacement of a layer, pixels a frame and axis
    flows: int = 0  # along which a pixel can come from the last frame
    flow_width: int = 32  # channels of the flows' convolutions at their finest scale
    patch: int = 2  # pixels a side that the flows' convolutions take as one place; a token has 4 patches a side
    optical_flow: bool = False  # flows begin from the last motion
    regions: int = 0  # that move as wholes in front of the ground, at most
    whole_frames: bool = False  # frames of any size: the longer side has image_size pixels where the model reads them
    segmenter_width: int = 32  # channels of the segmenter at its finest scale
    dim: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    gaussian_grid: tuple[int, ...] = (1, 2, 4, 0)  # cells per side of each block's Gaussian layer; 0 for none
    gaussian_dim: int = 8  # channels of a Gaussian layer
    kl_weight: float = 1.0  # of the KL beside the cross-entropy; with 1 and no free nats the loss is a negative ELBO
    free_nats: float = 0.5  # KL per Gaussian layer and frame that costs nothing, against collapse
    jitter: float = 0.2  # largest std of the noise on the past's latents in training, against drift
    scheduled_sampling: float = 0.3  # share of training steps whose past is predicted, against drift
    drop_actions: float = 0.4  # share of training clips that hide all their actions
    window: int = 0  # frames of temporal attention; 0: context_frames

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.tokenizer is not None) + sum(n != 0 for n in (self.layers, self.flows, self.regions)) != 1:
            raise ValueError(
                f"layers is {self.layers}, flows {self.flows}, regions {self.regions}, tokenizer {self.tokenizer}: "
                "a model has one of the four"
            )
        if self.reach < 1:
            raise ValueError(f"reach is {self.reach}, must be at least 1")
        for name in ("flow_width", "segmenter_width"):
            if getattr(self, name) % 16:
                raise ValueError(f"{name} is {getattr(self, name)}, must be a multiple of 16")
        if self.patch < 1 or (self.flows and self.image_size % (4 * self.patch)):
            raise ValueError(f"image_size {self.image_size} is not a multiple of 4 patches of {self.patch} pixels")
        if self.optical_flow and not self.flows:
            raise ValueError("optical_flow needs flows, which are 0")
        if self.whole_frames and not (self.flows or self.regions):
            raise ValueError("whole_frames needs flows or regions, which are 0")
        if self.regions and (self.actions or any(self.gaussian_grid)):
            raise ValueError(f"regions take no actions {self.actions} and no Gaussian layers {self.gaussian_grid}")
        if self.chunk_frames != 1:
            raise ValueError(f"chunk_frames is {self.chunk_frames}, must be 1: a step predicts one frame")
        if self.layers and any(self.gaussian_grid):
            raise ValueError(f"gaussian_grid is {self.gaussian_grid}, must be 0s with layers: their motion is drawn")
        if self.layers and self.image_size % CELL:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {CELL}")
        for name in ("image_size", "channels"):
            if self.tokenizer and getattr(self, name) != getattr(self.tokenizer, name):
                raise ValueError(f"{name} is {getattr(self, name)}, its tokenizer's is {getattr(self.tokenizer, name)}")

    @classmethod
    def nested(cls) -> dict[str, type[Config]]:
        return {"tokenizer": FrameVQConfig}


class STT(Predictor):
    family: ClassVar[str] = "stt"

    def __init__(self, config: STTConfig) -> None:
        super().__init__()
        self.config = c = config
        self.whole_frames = c.whole_frames
        self.random_actions_only = bool(c.flows and c.actions) and not any(c.gaussian_grid)
        self.knobs = frozenset(
            {"temperature", *(["actions"] if c.actions else []), *(["top_k", "top_p"] if c.layers else [])}
        )
        if c.layers:
            self.tokens: MotionTokens | FlowTokens | RegionTokens | CodeTokens = MotionTokens(
                c.layers, c.channels, c.reach, c.segmenter_width, c.dim
            )
        elif c.flows:
            self.tokens = FlowTokens(
                c.image_size,
                c.channels,
                c.patch,
                c.flows,
                c.flow_width,
                c.optical_flow,
                c.dim,
                c.heads,
                len(c.actions),
                any(c.gaussian_grid),
                c.kl_weight,
                c.free_nats,
                c.scheduled_sampling,
            )
        elif c.regions:
            self.tokens = RegionTokens(c.image_size, c.channels, c.regions, c.dim)
        else:
            training = CodeTraining(
                kl_weight=c.kl_weight, free_nats=c.free_nats, jitter=c.jitter, scheduled_sampling=c.scheduled_sampling
            )
            self.tokens = CodeTokens(c.tokenizer, c.dim, training)
        self.network = SpaceTimeTransformer(
            SpaceTimeConfig(
                rows=self.tokens.rows, columns=self.tokens.columns, dim=c.dim, depth=c.depth, heads=c.heads,
                mlp_ratio=c.mlp_ratio, window=c.window or c.context_frames, gaussian_grid=c.gaussian_grid,
                gaussian_dim=c.gaussian_dim, action_dim=len(c.actions),
            )
        )  # fmt: skip

    @property
    def tokenizer(self) -> FrameVQ | None:
        return self.tokens.tokenizer if isinstance(self.tokens, CodeTokens) else None

    @property
    def segmenter(self) -> Segmenter | None:
        return self.tokens.segmenter if isinstance(self.tokens, MotionTokens) else None

    # ---- training ------------------------------------------------------------------------------------

    def prepare(self, batch: Batch) -> Batch:
        flow = self.tokens.motion_of(batch.video) if isinstance(self.tokens, FlowTokens) else None
        return replace(batch, flow=flow)

    def begin_step(self, step: int) -> None:
        self.tokens.begin_step(random.Random(step))

    def loss(self, batch: Batch) -> Loss:
        """The tokens' loss on clips, with the clips' actions where the config names some."""
        video, actions = batch.video, batch.actions if self.config.actions else None
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        if actions is not None:
            expected = (*video.shape[:2], len(self.config.actions))
            if actions.shape != expected:
                raise ValueError(f"actions have shape {tuple(actions.shape)}, must be {expected}")
        visible = None
        if actions is None and self.config.flows and self.config.actions:
            raise ValueError(f"the model takes {len(self.config.actions)} action(s), the clips have none")
        if actions is not None:
            actions, visible = actions[:, :-1], self.hide_actions(actions)[:, :-1]
        if isinstance(self.tokens, FlowTokens):
            return self.tokens.loss(video, self.network, actions, visible, batch.off_policy, batch.flow)
        return self.tokens.loss(video, self.network, visible)

    def hide_actions(self, actions: Tensor) -> Tensor:
        """Replaces actions (B, T, A) by nan up to a random frame, as in a prompt, or in the whole clip."""
        b, t, _ = actions.shape
        begin = (t * torch.rand(b, 1, device=actions.device)).floor()
        begin = torch.where(torch.rand(b, 1, device=actions.device) < self.config.drop_actions, t, begin)
        hidden = torch.arange(t, device=actions.device) < begin  # (B, T)
        return actions.masked_fill(hidden[..., None], torch.nan)

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> State:
        return self.tokens.start(context, self.network, condition)

    def step(self, state: State, sampling: Sampling, noise: Noise) -> tuple[Video, State]:
        actions = None
        if (action := state.condition.action(state.num_frames)) is not None:
            actions = torch.tensor(action).to(self.network.position.device, non_blocking=True)
            actions = actions.expand(noise.futures, 1, -1)
        return self.tokens.step(state, self.network, actions, sampling, noise)

    # ---- likelihood ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def surprise(self, video: Video) -> Surprise:
        """An estimate: `nats` of the tokens says of what."""
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, a surprise needs at least 2")
        nats, pixels = self.tokens.nats(video, self.network)
        bits = nats / (pixels * math.log(2))
        return Surprise(bits.mean(dim=(-2, -1)), bits)

    @torch.inference_mode()
    def motion_nats(self, video: Video) -> tuple[Tensor, Tensor]:
        """Nats of each motion layer's displacements in clips (B, T >= 3, C, H, W), and whether each is a turn.

        Both (B, T - 2, K), for the displacements that lead to the third frame and to later ones. A turn is a
        displacement other than the one before.
        """
        filtered = self.segmenter.filter(unit(video), self.config.reach)
        return self.tokens.clip_nats(filtered, self.network)[:, 1:], turns(filtered.matches)
