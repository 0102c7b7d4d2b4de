"""Layered: sprites of the prompt's last frame, moved as rigid layers, so that their textures stay as they are.

    segmenter       which pixels are the agent's, and which are one object's (`stt.object_segmenter`)
    policy          the agent's next action if none is given: a mixture density network (Bishop 1994)
    agent_dynamics  the agent's velocity under an action
    dynamics        the objects' velocities: interaction networks (arXiv 1612.00222) on crops around each
    compositor      sprites over an inpainted background (Wang and Adelson 1994), repainted by a U-Net

Only the agent's action is random; the rest of a future is deterministic. Each frame costs the same. The networks learn
from a simulator's poses and segmentations. Networks: `stt.sprite_networks`; geometry and conventions: `stt.sprites`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import NO_CONDITION, Batch, Condition, Loss, Noise, Predictor, PredictorConfig, Sampling, Video
from stt.mixture import Mixture
from stt.object_segmenter import ObjectSegmenter
from stt.sprite_networks import AgentDynamics, Compositor, Dynamics, Policy
from stt.sprites import Sprites, extract_sprites, match_velocities, pose_scale, velocities_of


@dataclass(frozen=True, kw_only=True)
class LayeredConfig(PredictorConfig):
    context_frames: int = 5  # of which the last two are used; in training the reference is one of a clip's first frames
    embedding_dim: int = 6  # of a pixel; pixels of one object have similar embeddings
    rounds: int = 2  # of messages in a frame, so that a pushed object can push another one
    components: int = 8  # normals in the policy's mixture
    segmenter_width: int = 16  # channels of the finest scale
    agent_width: int = 12  # channels of the first convolution, in policy and agent dynamics
    dynamics_width: int = 22  # the same, in the dynamics of objects
    compositor_width: int = 24  # channels of the finest scale
    rollout_steps: int = 4  # frames that the dynamics are unrolled for in training
    agent_starts: int = 12  # frames of a clip from which the agent is learned in a step
    agent_steps: int = 2  # frames that the agent is unrolled for from each
    composited_frames: int = 4  # frames of a clip that are composited in a training step
    hide_action: float = 0.3  # share of the starts that hide the last action, as after a prompt
    pose_noise: float = 0.2  # largest std on poses in training, in POSE_SCALE; a quarter of it on velocities
    agent_noise: float = 0.15  # the same on the agent's velocity where its last action is hidden

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % 8:
            raise ValueError(f"image_size is {self.image_size}, must be a multiple of 8")
        self.check_shares("pose_noise", "agent_noise", "hide_action")

    @property
    def action_dim(self) -> int:
        """Numbers of an action. Without named ones it is the agent's next shift in units of POSE_SCALE."""
        return len(self.actions) or 2


class LayeredState(NamedTuple):
    sprites: Sprites  # of the reference, the prompt's last frame
    poses: Tensor  # (B, K, 4) since the reference
    velocities: Tensor  # (B, K, 4)
    action: Tensor  # (B, A) the agent's last action, nan if there is none
    condition: Condition
    num_frames: int = 0  # predicted so far


class Layered(Predictor):
    family: ClassVar[str] = "layered"
    random_actions_only = True

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.config = c = config
        self.knobs = frozenset({"temperature", "actions"} if c.actions else {"temperature"})
        self.segmenter = ObjectSegmenter(c.channels, c.embedding_dim, c.segmenter_width)
        self.policy = Policy(c.channels, c.action_dim, c.components, c.agent_width)
        self.agent_dynamics = AgentDynamics(c.channels, c.action_dim, c.agent_width)
        self.dynamics = Dynamics(c.channels, c.rounds, c.dynamics_width)
        self.compositor = Compositor(c.channels, c.compositor_width)
        self.reference = 0  # frame of the clip that the next loss takes sprites from

    def action_distribution(self, last: Tensor, sprites: Sprites, poses: Tensor, velocities: Tensor) -> Mixture:
        """The agent's next action, from its last one (N, A), nan if there is none, poses and velocities (N, K, 4)."""
        scene = sprites, poses, velocities
        with torch.no_grad():
            repeated = self.agent_dynamics(last.nan_to_num(), last, *scene)
        return self.policy(last, repeated, *scene)

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> LayeredState:
        reference = context[:, -1]
        sprites = extract_sprites(reference, self.segmenter.segment(reference))
        velocities = match_velocities(context[:, -2:][:, 0], sprites)
        no_action = reference.new_full((len(reference), self.config.action_dim), torch.nan)
        return LayeredState(sprites, torch.zeros_like(velocities), velocities, no_action, condition)

    def step(self, state: LayeredState, sampling: Sampling, noise: Noise) -> tuple[Video, LayeredState]:
        n = noise.futures
        sprites = state.sprites.expand(n)
        poses, velocities, last = (part.expand(n, *part.shape[1:]) for part in state[1:4])
        if (fixed := state.condition.action(state.num_frames)) is not None:
            action = torch.tensor(fixed).to(poses.device, non_blocking=True).expand(n, -1)
        else:
            action = self.action_distribution(last, sprites, poses, velocities).sample(sampling.temperature, noise)
            action = action.clamp(-1, 1) if self.config.actions else action
        agent = self.agent_dynamics(action, last, sprites, poses, velocities)
        velocities = self.dynamics(sprites, poses, velocities, agent)[-1]
        poses = poses + velocities
        frames = self.compositor(sprites, poses)[:, None].clamp(-1, 1)
        return frames, LayeredState(state.sprites, poses, velocities, action, state.condition, state.num_frames + 1)

    # ---- training ------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        self.reference = random.Random(step).randrange(self.config.context_frames)

    def loss(self, batch: Batch) -> Loss:
        """The sum of each part's own loss; parts whose weights are frozen are left out.

        Learns from poses and segmentations; the reference is one of the frames that have them. Without actions, the
        agent's shifts are its actions.
        """
        video, poses, segmentation = batch.video, batch.poses, batch.segmentation
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        if poses is None or segmentation is None:
            raise ValueError("the family layered learns from poses and segmentations, and got none")
        reference = self.reference % min(self.config.context_frames, video.shape[1] - 1, poses.shape[1])
        actions = batch.actions if self.config.actions else None
        with torch.autocast(video.device.type, enabled=False):  # places take single precision
            supervision = actions, poses[:, reference], segmentation[:, reference], batch.off_policy
            parts = self._losses(video.float(), reference, *supervision)
        return Loss(sum(parts.values()), {name: part.detach() for name, part in parts.items()})

    def _losses(
        self,
        video: Video,
        start: int,
        actions: Tensor | None,
        poses: Tensor,
        segmentation: Tensor,
        off_policy: Tensor | None,
    ) -> dict[str, Tensor]:
        """Losses by name for the reference frame `start`: poses (B, T, K, 4), segmentation (B, H, W)."""
        reference, parts = video[:, start], {}
        sprites = extract_sprites(reference, segmentation)
        if is_trained(self.segmenter):
            parts["segmentation"] = self.segmenter.loss(reference, segmentation)
        if is_trained(self.policy) or is_trained(self.agent_dynamics):
            parts |= self._agent_losses(sprites, start, actions, poses, off_policy)
        if is_trained(self.dynamics):
            parts["object_motion"] = self._dynamics_loss(sprites, start, poses)
        if is_trained(self.compositor):
            count = self.config.composited_frames
            times = start + 1 + torch.randint(0, video.shape[1] - start - 1, (count,), device=video.device)
            frames = self.compositor(sprites.repeat(count), poses[:, times].flatten(0, 1))
            parts["frames"] = motion_weighted_l1(
                frames, video[:, times].flatten(0, 1), reference.repeat_interleave(count, dim=0)
            )
        return parts

    def _agent_losses(
        self, sprites: Sprites, start: int, actions: Tensor | None, poses: Tensor, off_policy: Tensor | None
    ) -> dict[str, Tensor]:
        """`agent_motion`: mean error of the agent under its true actions, pixels of 64x64, over `agent_steps` frames.

        `policy`: nats of its true actions. Arguments as in `_losses`.
        """
        c, scale, unit, device = self.config, sprites.scale, sprites.pose_scale, poses.device
        velocities = velocities_of(poses)
        if actions is None:
            actions = F.pad(velocities[:, 1:, 0, :2] / unit[:2], [0, 0, 0, 1])
        span = min(c.agent_steps, poses.shape[1] - 1 - start)
        first = start + torch.randint(poses.shape[1] - start - span, (c.agent_starts,), device=device)
        sprites = sprites.repeat(c.agent_starts)

        pose, velocity = self._perturb(poses[:, first].flatten(0, 1), velocities[:, first].flatten(0, 1), scale)
        offset = pose - poses[:, first].flatten(0, 1)
        last = actions[:, (first - 1).clamp_min(0)].flatten(0, 1)
        hidden = (first == 0).repeat(len(poses)) | (torch.rand(len(last), device=device) < c.hide_action)
        last = last.masked_fill(hidden[:, None], torch.nan)
        noise = c.agent_noise * unit[:2] * torch.rand(len(pose), 1, device=device) * torch.randn_like(pose[:, 0, :2])
        noise = F.pad(noise * hidden[:, None], [0, 2])[:, None]
        velocity = torch.cat([velocity[:, :1] + noise, velocity[:, 1:]], dim=1)

        distances, nlls = [], []
        for k in range(span):
            action = actions[:, first + k].flatten(0, 1)
            if is_trained(self.policy):
                nlls.append(self.action_distribution(last, sprites, pose, velocity).nll(action))
            agent = self.agent_dynamics(action, last, sprites, pose, velocity)
            target = poses[:, first + k + 1].flatten(0, 1) + offset
            distances.append(pose_distance((pose[:, 0] + agent)[:, None], target[:, :1], sprites.radii[:, :1]))
            velocity = torch.cat([agent.detach()[:, None], (target - pose)[:, 1:]], dim=1)  # objects move as in truth
            pose, last = pose + velocity, action

        parts = {}
        if is_trained(self.agent_dynamics):
            parts["agent_motion"] = sum(distances) / span / scale
        if is_trained(self.policy):
            weights = torch.ones(len(poses), device=device) if off_policy is None else (~off_policy).float()
            weights = weights.repeat_interleave(c.agent_starts).repeat(span)
            parts["policy"] = (torch.cat(nlls) * weights).sum() / weights.sum().clamp_min(1)
        return parts

    def _dynamics_loss(self, sprites: Sprites, start: int, poses: Tensor) -> Tensor:
        """Mean error of objects, pixels of 64x64, over `rollout_steps` frames from a random one, and over all rounds.

        The agent moves as in truth. Arguments as in `_losses`.
        """
        velocities = velocities_of(poses)
        span = min(self.config.rollout_steps, poses.shape[1] - 1 - start)
        first = start + torch.randint(poses.shape[1] - start - span, (1,), device=poses.device)
        pose, velocity = self._perturb(poses[:, first].squeeze(1), velocities[:, first].squeeze(1), sprites.scale)
        offset, distances = pose - poses[:, first].squeeze(1), []
        for k in range(1, span + 1):
            agent = velocities[:, first + k, 0].squeeze(1)
            rounds = self.dynamics(sprites, pose.detach(), velocity, agent)
            target = poses[:, first + k].squeeze(1) + offset
            distances += [pose_distance((pose + each)[:, 1:], target[:, 1:], sprites.radii[:, 1:]) for each in rounds]
            pose, velocity = pose + rounds[-1], rounds[-1]
        return torch.stack(distances).mean(dim=0) / sprites.scale

    def _perturb(self, poses: Tensor, velocities: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Poses and velocities (N, K, 4) with noise of a random strength per item, as predictions have it."""
        unit = pose_scale(scale, poses.device) * torch.rand(len(poses), 1, 1, device=poses.device)
        std = self.config.pose_noise * unit
        return poses + std * torch.randn_like(poses), velocities + std / 4 * torch.randn_like(velocities)


def is_trained(part: nn.Module) -> bool:
    """Whether any of its weights learns."""
    return any(weight.requires_grad for weight in part.parameters())


def pose_distance(poses: Tensor, targets: Tensor, radii: Tensor) -> Tensor:
    """Mean distance in pixels between the sprites' pixels at two poses (N, K, 4); radii (N, K), 0 for no sprite."""
    difference, exists = poses - targets, radii > 0
    turned = (difference[..., 2:] * radii[..., None]).square()
    distance = (difference[..., :2].square().sum(dim=-1) + 1e-4).sqrt() + ((turned + 0.04).sqrt() - 0.2).sum(dim=-1)
    return (distance * exists).sum() / exists.sum().clamp_min(1)


def motion_weighted_l1(frames: Tensor, truth: Tensor, before: Tensor) -> Tensor:
    """Mean absolute error of frames (N, C, H, W), with weight 10 near pixels where the truth differs from `before`."""
    changed = (truth - before).abs().amax(dim=-3, keepdim=True) > 0.04
    weight = 1 + 9 * F.max_pool2d(changed.to(truth.dtype), 3, stride=1, padding=1)
    return (weight * (frames - truth).abs()).mean()
