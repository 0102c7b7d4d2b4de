"""Layered: the prompt's last frame as sprites, which go their way as rigid layers and so keep their look.

    segmenter       which pixels are the agent's, and which are one object's: class logits and embeddings that a
                    discriminative loss draws together (arXiv 1708.02551)
    policy          the agent's next action where none is given: a mixture density network (Bishop 1994)
    agent_dynamics  how far an action moves the agent
    dynamics        how objects move, pushed by the agent and by each other: messages over crops around each, in the
                    manner of interaction networks (arXiv 1612.00222)
    compositor      sprites over an inpainted background (Wang and Adelson 1994), shadows and edges mended by a U-Net
                    (arXiv 1505.04597)

Only the agent's action is drawn by chance; what follows from it is deterministic. Every frame costs the same. The
networks learn from a simulator's poses and segmentations. Geometry and conventions: `stt.sprites`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import NO_CONDITION, Batch, Condition, Loss, Noise, Predictor, PredictorConfig, Sampling, Video
from stt.layers import UNet
from stt.mixture import Mixture
from stt.sprites import (
    AGENT,
    BACKGROUND,
    CROP,
    MAX_SPRITES,
    OUTSIDE,
    POSE_SCALE,
    Sprites,
    composite,
    crop_around,
    crop_each,
    extract_sprites,
    masks_of,
    match_velocities,
    pose_scale,
    velocities_of,
    warp_masks,
)

POSE = len(POSE_SCALE)
CLASSES = 4  # of a pixel: outside, background, agent, object
PULL_MARGIN, PUSH_MARGIN = 0.5, 3.0  # distances of embeddings: to the object's mean at most, between means at least
MIN_OBJECT = 6  # pixels of 64x64
SMALL_ACTION = 0.05  # added to an action's length before a division by it


@dataclass(frozen=True, kw_only=True)
class LayeredConfig(PredictorConfig):
    context_frames: int = 5  # the last two are seen; in training the reference is any of the first so many
    embedding_dim: int = 6  # of a pixel, which tells objects apart
    rounds: int = 2  # of messages in a frame: what is pushed pushes on
    components: int = 8  # normals in the policy's mixture
    segmenter_width: int = 16  # channels of the finest scale
    agent_width: int = 12  # channels of the first convolution, in policy and agent dynamics
    dynamics_width: int = 22  # the same, in the dynamics of objects
    compositor_width: int = 24  # channels of the finest scale
    rollout_steps: int = 4  # frames that the dynamics are unrolled for in training
    agent_starts: int = 12  # frames of a clip from which the agent is learned in a step
    agent_steps: int = 2  # frames that the agent is unrolled for from each
    drawn_frames: int = 4  # frames of a clip that are drawn in a training step
    hide_action: float = 0.3  # share of the starts where the last action is unknown, as it is after a prompt
    pose_noise: float = 0.2  # largest std on poses in training, in POSE_SCALE; a quarter of it on velocities
    agent_noise: float = 0.15  # the same on the agent's velocity where its last action is unknown

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % 8:
            raise ValueError(f"image_size is {self.image_size}, must be a multiple of 8")
        for name in ("pose_noise", "agent_noise", "hide_action"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be between 0 and 1")

    @property
    def action_dim(self) -> int:
        """Numbers of an action. Without named ones it is the agent's next shift in units of POSE_SCALE."""
        return len(self.actions) or 2

    @property
    def agent_features(self) -> int:
        """Numbers known of the agent: velocity, place, size, last action and whether that is known."""
        return POSE + 3 + self.action_dim + 1


# ---- the parts ---------------------------------------------------------------------------------------


class CropNet(nn.Module):
    """Crops (M, D, CROP, CROP) and features (M, S) -> (M, out) numbers."""

    def __init__(self, channels: int, features: int, width: int, out: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 3 * width // 2]
        halves = (nn.Conv2d(*pair, 4, stride=2, padding=1) for pair in zip(widths[:-1], widths[1:], strict=True))
        self.encoder = nn.Sequential(*(layer for half in halves for layer in (half, nn.SiLU())), nn.Flatten())
        self.fuse = nn.Linear(widths[-1] * (CROP // 8) ** 2 + features, 4 * width)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, out))

    def forward(self, crops: Tensor, features: Tensor) -> Tensor:
        return self.head(self.fuse(torch.cat([self.encoder(crops), features], dim=1)))


def mlp(features: int, out: int) -> nn.Sequential:
    """Features (N, features) -> (N, out) numbers: what few numbers tell, beside what crops do."""
    return nn.Sequential(nn.Linear(features, 32), nn.SiLU(), nn.Linear(32, out))


class Segmenter(nn.Module):
    """Frames (N, C, H, W) -> embeddings (N, E, H, W) and class logits (N, CLASSES, H, W)."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        self.unet = UNet(config.channels, config.embedding_dim + CLASSES, config.segmenter_width, scales=2)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        embeddings, logits = self.unet(frames).split([self.embedding_dim, CLASSES], dim=1)
        return embeddings, logits

    def segment(self, frames: Tensor) -> Tensor:
        """Frames (N, C, H, W) -> segmentation (N, H, W)."""
        embeddings, logits = self(frames)
        classes, smallest = logits.argmax(dim=1) + OUTSIDE, MIN_OBJECT * (frames.shape[-1] / 64) ** 2
        return torch.stack([cluster(*each, smallest) for each in zip(embeddings, classes, strict=True)])

    def loss(self, frames: Tensor, segmentation: Tensor) -> Tensor:
        """Cross-entropy of the classes and the discriminative loss (arXiv 1708.02551) of objects' embeddings.

        frames (N, C, H, W), segmentation (N, H, W) -> scalar, nats and squared distances.
        """
        embeddings, logits = self(frames)
        ce = F.cross_entropy(logits, segmentation.clamp(max=AGENT + 1) - OUTSIDE)
        masks = masks_of(segmentation)[:, AGENT:].flatten(2)  # (N, K, P), objects only
        count = masks.sum(dim=-1)
        exists, embeddings = count > 0, embeddings.flatten(2)
        means = torch.einsum("nkp,nep->nke", masks, embeddings) / count.clamp_min(1)[..., None]
        distances = (embeddings[:, None] - means[..., None]).norm(dim=2)  # (N, K, P)
        pull = ((distances - PULL_MARGIN).clamp_min(0).square() * masks).sum(dim=-1) / count.clamp_min(1)
        between = (means[:, :, None] - means[:, None]).square().sum(dim=-1).clamp_min(1e-6).sqrt()
        pairs = (exists[:, :, None] & exists[:, None]).triu(1)
        push = (PUSH_MARGIN - between).clamp_min(0).square()[pairs]
        return ce + pull.sum() / exists.sum().clamp_min(1) + push.sum() / pairs.sum().clamp_min(1)


def cluster(embeddings: Tensor, classes: Tensor, smallest: float) -> Tensor:
    """Embeddings (E, H, W) and pixel classes from OUTSIDE on (H, W) -> segmentation (H, W).

    Greedily, the pixel with the most similar ones makes an object of these, down to `smallest` pixels; the rest join
    the object with the nearest mean.
    """
    of_objects = classes > AGENT
    segmentation = torch.where(of_objects, BACKGROUND, classes)
    points = embeddings[:, of_objects].T  # (P, E)
    similar, free, means = torch.cdist(points, points) < PUSH_MARGIN / 2, points.new_ones(len(points)).bool(), []
    while len(means) < MAX_SPRITES - 1:
        votes = (similar & free).sum(dim=1) * free
        if not len(votes) or votes.max() < smallest:
            break
        members = similar[votes.argmax()] & free
        means.append(points[members].mean(dim=0))
        free &= ~members & ((points - means[-1]).norm(dim=1) > PUSH_MARGIN / 2)
    if means:
        segmentation[of_objects] = AGENT + 1 + torch.cdist(points, torch.stack(means)).argmin(dim=1)
    return segmentation


class AgentDynamics(nn.Module):
    """The agent's velocity (N, 4) from its action (N, A), its last one and the scene."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        features = config.agent_features + config.action_dim
        self.crop = CropNet(config.channels + 5, features, config.agent_width, 3 * POSE)
        self.direct = mlp(features, 3 * POSE)

    def forward(self, action: Tensor, last: Tensor, sprites: Sprites, poses: Tensor, velocities: Tensor) -> Tensor:
        centroid, maps, features = agent_view(last, sprites, poses, velocities)
        features = torch.cat([features, action], dim=1)
        outputs = self.crop(crop_around(maps, centroid)[:, 0], features) + self.direct(features)
        return gated_velocity(outputs, features[:, :POSE]) * sprites.pose_scale


class Policy(nn.Module):
    """The distribution of the agent's next action, from its last one (N, A), nan where unknown, and the scene."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        outputs = Mixture.num_outputs(config.components, config.action_dim)
        self.crop = CropNet(config.channels + 5, config.agent_features, config.agent_width, outputs)
        self.direct = mlp(config.agent_features + 2, outputs)

    def forward(self, last: Tensor, again: Tensor, sprites: Sprites, poses: Tensor, velocities: Tensor) -> Mixture:
        """again (N, 4): the velocity that the last action would give once more.

        How far the agent came by that action, and would come again, tells whether it is stuck.
        """
        centroid, maps, features = agent_view(last, sprites, poses, velocities)
        came = torch.stack([velocities[:, 0], again], dim=1) / sprites.pose_scale  # (N, 2, 4)
        progress = came[..., :2].norm(dim=-1) / (last.norm(dim=1, keepdim=True) + SMALL_ACTION)
        crops = crop_around(maps, centroid, CROP, 2 * sprites.scale)[:, 0]
        outputs = self.crop(crops, features) + self.direct(torch.cat([features, progress.nan_to_num()], dim=1))
        return Mixture.from_outputs(outputs, last.nan_to_num())


class Dynamics(nn.Module):
    """Velocities of all sprites after the agent's, in rounds of messages (arXiv 1612.00222)."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.rounds = config.rounds
        self.crop = CropNet(2 * config.channels + 7, 2 * POSE + 9, config.dynamics_width, 3 * POSE)

    def forward(self, sprites: Sprites, poses: Tensor, velocities: Tensor, agent: Tensor) -> list[Tensor]:
        """Poses, last velocities (N, K, 4) and the agent's next velocity (N, 4) -> velocities after each round.

        Every sprite sees a crop of the scene without itself, and itself beside it. The first round has all objects go
        on; each further one sees the velocities of the one before.
        """
        n, scale, unit = len(poses), sprites.scale, sprites.pose_scale
        centroids = sprites.centroids + poses[..., :2]
        before = velocities / unit
        features = [
            before,
            (agent / unit)[:, None, :2].expand(-1, MAX_SPRITES, -1),
            (centroids[:, :1] - centroids) / scale / 16,
            before[:, :1, :2].expand(-1, MAX_SPRITES, -1),
            (centroids / scale - 32) / 32,
            sprites.radii[..., None] / scale / 8,
        ]
        masks = warp_masks(sprites.masks, sprites.centroids, poses)
        own, textures = crop_each(masks[:, :, None], centroids), crop_each(sprites.textures, sprites.centroids)
        now, outputs = torch.cat([agent[:, None], velocities[:, 1:]], dim=1), []
        for _ in range(self.rounds):
            crops = crop_around(scene_maps(sprites, poses, now, masks, agent), centroids)
            mine = torch.cat([own, own * (now[..., :2] / unit[:2])[..., None, None]], dim=2)
            crops = torch.cat([crops[:, :, :3] - mine, crops[:, :, 3:], own, textures], dim=2)
            gates = self.crop(crops.flatten(0, 1), torch.cat([*features, now / unit], dim=-1).flatten(0, 1))
            found = gated_velocity(gates, before.flatten(0, 1)).unflatten(0, (n, -1)) * unit
            now = torch.cat([agent[:, None], found[:, 1:]], dim=1)
            outputs.append(now)
        return outputs


class Compositor(nn.Module):
    """Sprites at poses (N, K, 4) -> frames (N, C, H, W). The U-Net repaints the background, never the sprites."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.unet = UNet(2 * config.channels + 5, config.channels + 1, config.compositor_width, scales=3)
        nn.init.zeros_(self.unet.head.weight)
        nn.init.zeros_(self.unet.head.bias)

    def forward(self, sprites: Sprites, poses: Tensor) -> Tensor:
        frames, agent, objects, inpainted = composite(sprites, poses)
        masks = sprites.masks[:, :1], sprites.masks[:, 1:].amax(dim=1, keepdim=True)
        inputs = torch.cat([frames, sprites.reference, agent, objects, inpainted, *masks], dim=1)
        paint, opacity = self.unet(inputs).split([frames.shape[1], 1], dim=1)
        return frames + (1 - agent - objects) * (paint - opacity * frames)


def agent_view(last: Tensor, sprites: Sprites, poses: Tensor, velocities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The agent's centroid (N, 1, 2), maps of the scene (N, D, H, W), and features of the agent (N, agent_features).

    last (N, A): its last action, nan where unknown; poses and last velocities (N, K, 4).
    """
    maps = scene_maps(sprites, poses, velocities, warp_masks(sprites.masks, sprites.centroids, poses))
    centroid = (sprites.centroids + poses[..., :2])[:, :1]
    known = (~last.isnan().any(dim=-1, keepdim=True)).to(last.dtype)
    features = [
        velocities[:, 0] / sprites.pose_scale,
        (centroid[:, 0] / sprites.scale - 32) / 32,
        sprites.radii[:, :1] / sprites.scale / 8,
        last.nan_to_num(),
        known,
    ]
    return centroid, maps, torch.cat(features, dim=1)


def scene_maps(
    sprites: Sprites, poses: Tensor, velocities: Tensor, masks: Tensor, agent: Tensor | None = None
) -> Tensor:
    """Maps (N, D, H, W) of objects, their velocities down and right, the agent, the background and the floor.

    masks (N, K, H, W) are the sprites' at poses (N, K, 4). agent (N, 4): its next velocity, for one more map of where
    that leads.
    """
    speeds = velocities[:, 1:, :2] / sprites.pose_scale[:2]
    flow = torch.einsum("nkhw,nkc->nchw", masks[:, 1:], speeds)
    agents = [masks[:, :1]]
    if agent is not None:
        agents.append(warp_masks(sprites.masks[:, :1], sprites.centroids[:, :1], poses[:, :1] + agent[:, None]))
    background = sprites.masks.amax(dim=1, keepdim=True) < 0.5
    still = sprites.reference * background, background * sprites.floor
    return torch.cat([masks[:, 1:].sum(dim=1, keepdim=True), flow, *agents, *still], dim=1)


def gated_velocity(outputs: Tensor, before: Tensor) -> Tensor:
    """Outputs (M, 3 * 4) and last velocities (M, 4) -> next ones (M, 4): kept, changed or, easily, stopped."""
    moves, keeps, change = outputs.chunk(3, dim=1)
    return (moves + 2).sigmoid() * ((keeps + 1).sigmoid() * before + change)


# ---- the model ---------------------------------------------------------------------------------------


class LayeredState(NamedTuple):
    sprites: Sprites  # of the reference, the prompt's last frame
    poses: Tensor  # (B, K, 4) since the reference
    velocities: Tensor  # (B, K, 4)
    action: Tensor  # (B, A) what the agent did last, nan where unknown
    condition: Condition
    num_frames: int = 0  # of the future so far


class Layered(Predictor):
    family: ClassVar[str] = "layered"

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.config = config
        self.knobs = frozenset({"temperature", "actions"} if config.actions else {"temperature"})
        self.segmenter = Segmenter(config)
        self.policy = Policy(config)
        self.agent_dynamics = AgentDynamics(config)
        self.dynamics = Dynamics(config)
        self.compositor = Compositor(config)

    def action_distribution(self, last: Tensor, sprites: Sprites, poses: Tensor, velocities: Tensor) -> Mixture:
        """What the agent does next, from its last action (N, A), nan where unknown, poses and velocities (N, K, 4)."""
        scene = sprites, poses, velocities
        with torch.no_grad():
            again = self.agent_dynamics(last.nan_to_num(), last, *scene)
        return self.policy(last, again, *scene)

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> LayeredState:
        reference = context[:, -1]
        sprites = extract_sprites(reference, self.segmenter.segment(reference))
        velocities = match_velocities(context[:, -2:][:, 0], sprites)
        unknown = reference.new_full((len(reference), self.config.action_dim), torch.nan)
        return LayeredState(sprites, torch.zeros_like(velocities), velocities, unknown, condition)

    def step(self, state: LayeredState, sampling: Sampling, noise: Noise) -> tuple[Video, LayeredState]:
        n = noise.futures
        sprites = state.sprites.expand(n)
        poses, velocities, last = (part.expand(n, *part.shape[1:]) for part in state[1:4])
        action = self._next_action(state, n)
        if action is None:
            action = self.action_distribution(last, sprites, poses, velocities).sample(sampling.temperature, noise)
            action = action.clamp(-1, 1) if self.config.actions else action
        agent = self.agent_dynamics(action, last, sprites, poses, velocities)
        velocities = self.dynamics(sprites, poses, velocities, agent)[-1]
        poses = poses + velocities
        frames = self.compositor(sprites, poses)[:, None].clamp(-1, 1)
        return frames, LayeredState(state.sprites, poses, velocities, action, state.condition, state.num_frames + 1)

    def _next_action(self, state: LayeredState, futures: int) -> Tensor | None:
        """The action (futures, A) that leads to the next frame, None where the model is to draw it."""
        if (action := state.condition.action(state.num_frames)) is None:
            return None
        return torch.tensor(action, device=state.poses.device).expand(futures, -1)

    # ---- training ------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Loss:
        """The sum of each part's own loss; parts whose weights are frozen are left out.

        Learns from poses and segmentations; the reference is one of the frames that have them. Without actions, the
        agent's shifts are its actions.
        """
        video, poses, segmentation = batch.video, batch.poses, batch.segmentation
        actions = batch.actions if self.config.actions else None
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        if poses is None or segmentation is None:
            raise ValueError("the family layered learns from poses and segmentations, and got none")
        choices = min(self.config.context_frames, video.shape[1] - 1, poses.shape[1])
        start = int(torch.randint(choices, ()))
        with torch.autocast(video.device.type, enabled=False):  # places take single precision
            supervision = actions, poses[:, start], segmentation[:, start], batch.off_policy
            parts = self._losses(video.float(), start, *supervision)
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
            count = self.config.drawn_frames
            times = start + 1 + torch.randint(0, video.shape[1] - start - 1, (count,))
            frames = self.compositor(sprites.repeat(count), poses[:, times].flatten(0, 1))
            before = reference.repeat_interleave(count, dim=0)
            parts["frames"] = motion_weighted_l1(frames, video[:, times].flatten(0, 1), before)
        return parts

    def _agent_losses(
        self, sprites: Sprites, start: int, actions: Tensor | None, poses: Tensor, off_policy: Tensor | None
    ) -> dict[str, Tensor]:
        """`agent_motion`: pixels of 64x64 by which the agent is off when it does as it did, over `agent_steps` frames.
        `policy`: nats of what it did. Arguments as in `_losses`."""
        c, scale, unit = self.config, sprites.scale, sprites.pose_scale
        velocities = velocities_of(poses)
        if actions is None:
            actions = F.pad(velocities[:, 1:, 0, :2] / unit[:2], [0, 0, 0, 1])
        span = min(c.agent_steps, poses.shape[1] - 1 - start)
        first = start + torch.randint(poses.shape[1] - start - span, (c.agent_starts,))
        sprites, device = sprites.repeat(c.agent_starts), poses.device
        now, velocity = self._perturb(poses[:, first].flatten(0, 1), velocities[:, first].flatten(0, 1), scale)
        offset = now - poses[:, first].flatten(0, 1)
        last = actions[:, (first - 1).clamp_min(0)].flatten(0, 1)
        unknown = ((first == 0).repeat(len(poses)) | (torch.rand(len(last)) < c.hide_action)).to(device)
        last = last.masked_fill(unknown[:, None], torch.nan)
        noise = c.agent_noise * unit[:2] * torch.rand(len(now), 1, device=device) * torch.randn_like(now[:, 0, :2])
        noise = F.pad(noise * unknown[:, None], [0, 2])[:, None]
        velocity = torch.cat([velocity[:, :1] + noise, velocity[:, 1:]], dim=1)
        distances, nlls = [], []
        for k in range(span):
            action = actions[:, first + k].flatten(0, 1)
            if is_trained(self.policy):
                nlls.append(self.action_distribution(last, sprites, now, velocity).nll(action))
            agent = self.agent_dynamics(action, last, sprites, now, velocity)
            target = poses[:, first + k + 1].flatten(0, 1) + offset
            distances.append(pose_distance((now[:, 0] + agent)[:, None], target[:, :1], sprites.radii[:, :1]))
            velocity = torch.cat([agent.detach()[:, None], (target - now)[:, 1:]], dim=1)  # objects as they truly went
            now, last = now + velocity, action
        parts = {}
        if is_trained(self.agent_dynamics):
            parts["agent_motion"] = sum(distances) / span / scale
        if is_trained(self.policy):
            weights = torch.ones(len(poses), device=device) if off_policy is None else (~off_policy).float()
            weights = weights.repeat_interleave(c.agent_starts).repeat(span)
            parts["policy"] = (torch.cat(nlls) * weights).sum() / weights.sum().clamp_min(1)
        return parts

    def _dynamics_loss(self, sprites: Sprites, start: int, poses: Tensor) -> Tensor:
        """Pixels of 64x64 by which objects are off over `rollout_steps` frames from a random one on, with the agent
        going as it truly went; mean over all rounds of messages. Arguments as in `_losses`."""
        velocities = velocities_of(poses)
        span = min(self.config.rollout_steps, poses.shape[1] - 1 - start)
        first = start + int(torch.randint(poses.shape[1] - start - span, ()))
        now, velocity = self._perturb(poses[:, first], velocities[:, first], sprites.scale)
        offset, distances = now - poses[:, first], []
        for k in range(first, first + span):
            rounds = self.dynamics(sprites, now.detach(), velocity, velocities[:, k + 1, 0])
            target = poses[:, k + 1] + offset
            distances += [pose_distance((now + each)[:, 1:], target[:, 1:], sprites.radii[:, 1:]) for each in rounds]
            now, velocity = now + rounds[-1], rounds[-1]
        return sum(distances) / len(distances) / sprites.scale

    def _perturb(self, poses: Tensor, velocities: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Poses and velocities (N, K, 4) with noise of a random strength per item, as predictions have it."""
        unit = pose_scale(scale, poses.device) * torch.rand(len(poses), 1, 1, device=poses.device)
        std = self.config.pose_noise * unit
        return poses + std * torch.randn_like(poses), velocities + std / 4 * torch.randn_like(velocities)


def is_trained(part: nn.Module) -> bool:
    """Whether any of its weights learns."""
    return any(weight.requires_grad for weight in part.parameters())


def pose_distance(poses: Tensor, targets: Tensor, radii: Tensor) -> Tensor:
    """Mean distance in pixels between the sprites' pixels at two poses (N, K, 4), radii (N, K); 0 is no sprite."""
    difference, exists = poses - targets, radii > 0
    turned = (difference[..., 2:] * radii[..., None]).square()
    distance = (difference[..., :2].square().sum(dim=-1) + 1e-4).sqrt() + ((turned + 0.04).sqrt() - 0.2).sum(dim=-1)
    return (distance * exists).sum() / exists.sum().clamp_min(1)


def motion_weighted_l1(frames: Tensor, truth: Tensor, before: Tensor) -> Tensor:
    """Mean absolute error of frames (N, C, H, W), with weight 10 near pixels where the truth differs from `before`."""
    changed = (truth - before).abs().amax(dim=-3, keepdim=True) > 0.04
    weight = 1 + 9 * F.max_pool2d(changed.to(truth.dtype), 3, stride=1, padding=1)
    return (weight * (frames - truth).abs()).mean()
