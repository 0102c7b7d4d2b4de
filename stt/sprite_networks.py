"""Networks over sprites: the agent's policy and dynamics, the objects' dynamics, and the compositor.

Velocities and places enter in units of POSE_SCALE and of frames of 64x64, whatever the frames' size (`stt.sprites`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stt.mixture import Mixture
from stt.object_segmenter import light_unet
from stt.sprites import CROP, MAX_SPRITES, POSE_SCALE, Sprites, composite, crop_around, crop_each, warp_masks

POSE = len(POSE_SCALE)
SMALL_ACTION = 0.05  # added to an action's length before a division by it


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
    """Features (N, features) -> (N, out) numbers: a shortcut beside a CropNet."""
    return nn.Sequential(nn.Linear(features, 32), nn.SiLU(), nn.Linear(32, out))


def num_agent_features(action_dim: int) -> int:
    """Numbers that describe the agent: velocity, place, radius, last action and whether there is one."""
    return POSE + 3 + action_dim + 1


class AgentDynamics(nn.Module):
    """The agent's next velocity (N, 4), from its action (N, A), its last one and the scene."""

    def __init__(self, channels: int, action_dim: int, width: int) -> None:
        super().__init__()
        features = num_agent_features(action_dim) + action_dim
        self.crop = CropNet(channels + 5, features, width, 3 * POSE)
        self.direct = mlp(features, 3 * POSE)

    def forward(self, action: Tensor, last: Tensor, sprites: Sprites, poses: Tensor, velocities: Tensor) -> Tensor:
        centroid, maps, features = agent_view(last, sprites, poses, velocities)
        features = torch.cat([features, action], dim=1)
        outputs = self.crop(crop_around(maps, centroid)[:, 0], features) + self.direct(features)
        return gated_velocity(outputs, features[:, :POSE]) * sprites.pose_scale


class Policy(nn.Module):
    """The distribution of the agent's next action, from its last one (N, A), nan if there is none, and the scene."""

    def __init__(self, channels: int, action_dim: int, components: int, width: int) -> None:
        super().__init__()
        features, outputs = num_agent_features(action_dim), Mixture.num_outputs(components, action_dim)
        self.crop = CropNet(channels + 5, features, width, outputs)
        self.direct = mlp(features + 2, outputs)

    def forward(self, last: Tensor, repeated: Tensor, sprites: Sprites, poses: Tensor, velocities: Tensor) -> Mixture:
        """repeated (N, 4): the agent's velocity if it repeats its last action.

        A velocity far below the action's length means that the agent is stuck.
        """
        centroid, maps, features = agent_view(last, sprites, poses, velocities)
        speeds = (torch.stack([velocities[:, 0], repeated], dim=1) / sprites.pose_scale)[..., :2].norm(dim=-1)  # (N, 2)
        progress = speeds / (last.norm(dim=1, keepdim=True) + SMALL_ACTION)
        crops = crop_around(maps, centroid, CROP, 2 * sprites.scale)[:, 0]
        outputs = self.crop(crops, features) + self.direct(torch.cat([features, progress.nan_to_num()], dim=1))
        return Mixture.from_outputs(outputs, last.nan_to_num())


class Dynamics(nn.Module):
    """Velocities of all sprites, given the agent's: rounds of messages (interaction networks, arXiv 1612.00222)."""

    def __init__(self, channels: int, rounds: int, width: int) -> None:
        super().__init__()
        self.rounds = rounds
        self.crop = CropNet(2 * channels + 7, 2 * POSE + 9, width, 3 * POSE)

    def forward(self, sprites: Sprites, poses: Tensor, velocities: Tensor, agent: Tensor) -> list[Tensor]:
        """Poses, last velocities (N, K, 4) and the agent's next velocity (N, 4) -> velocities after each round.

        Each sprite's crop shows the scene without it, and the sprite beside that. Round one assumes that all objects
        keep their velocities; each later round takes the velocities of the one before.
        """
        n, scale, unit = len(poses), sprites.scale, sprites.pose_scale
        centroids = sprites.centroids + poses[..., :2]
        last = velocities / unit
        features = [
            last,
            (agent / unit)[:, None, :2].expand(-1, MAX_SPRITES, -1),
            (centroids[:, :1] - centroids) / scale / 16,
            last[:, :1, :2].expand(-1, MAX_SPRITES, -1),
            (centroids / scale - 32) / 32,
            sprites.radii[..., None] / scale / 8,
        ]
        masks = warp_masks(sprites.masks, sprites.centroids, poses)
        own, textures = crop_each(masks[:, :, None], centroids), crop_each(sprites.textures, sprites.centroids)
        current, outputs = torch.cat([agent[:, None], velocities[:, 1:]], dim=1), []
        for _ in range(self.rounds):
            crops = crop_around(scene_maps(sprites, poses, current, masks, agent), centroids)
            own_maps = torch.cat([own, own * (current[..., :2] / unit[:2])[..., None, None]], dim=2)
            crops = torch.cat([crops[:, :, :3] - own_maps, crops[:, :, 3:], own, textures], dim=2)
            gates = self.crop(crops.flatten(0, 1), torch.cat([*features, current / unit], dim=-1).flatten(0, 1))
            predicted = gated_velocity(gates, last.flatten(0, 1)).unflatten(0, (n, -1)) * unit
            current = torch.cat([agent[:, None], predicted[:, 1:]], dim=1)
            outputs.append(current)
        return outputs


class Compositor(nn.Module):
    """Sprites at poses (N, K, 4) -> frames (N, C, H, W).

    A U-Net (arXiv 1505.04597) repaints shadows and edges of the background, never the sprites.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.unet = light_unet(2 * channels + 5, channels + 1, width, scales=3)
        nn.init.zeros_(self.unet.head.weight)
        nn.init.zeros_(self.unet.head.bias)

    def forward(self, sprites: Sprites, poses: Tensor) -> Tensor:
        frames, agent, objects, inpainted = composite(sprites, poses)
        masks = sprites.masks[:, :1], sprites.masks[:, 1:].amax(dim=1, keepdim=True)
        inputs = torch.cat([frames, sprites.reference, agent, objects, inpainted, *masks], dim=1)
        paint, opacity = self.unet(inputs).split([frames.shape[1], 1], dim=1)
        return frames + (1 - agent - objects) * (paint - opacity * frames)


def agent_view(last: Tensor, sprites: Sprites, poses: Tensor, velocities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The agent's centroid (N, 1, 2), maps of the scene (N, D, H, W), and features of the agent (N, S).

    last (N, A): its last action, nan if there is none; poses and last velocities (N, K, 4).
    """
    maps = scene_maps(sprites, poses, velocities, warp_masks(sprites.masks, sprites.centroids, poses))
    centroid = (sprites.centroids + poses[..., :2])[:, :1]
    exists = (~last.isnan().any(dim=-1, keepdim=True)).to(last.dtype)
    features = [
        velocities[:, 0] / sprites.pose_scale,
        (centroid[:, 0] / sprites.scale - 32) / 32,
        sprites.radii[:, :1] / sprites.scale / 8,
        last.nan_to_num(),
        exists,
    ]
    return centroid, maps, torch.cat(features, dim=1)


def scene_maps(
    sprites: Sprites, poses: Tensor, velocities: Tensor, masks: Tensor, agent: Tensor | None = None
) -> Tensor:
    """Maps (N, D, H, W) of objects, their velocities down and right, the agent, the background and the floor.

    masks (N, K, H, W): the sprites' at poses (N, K, 4). agent (N, 4): its next velocity, for one more map of where it
    will be.
    """
    speeds = velocities[:, 1:, :2] / sprites.pose_scale[:2]
    flow = torch.einsum("nkhw,nkc->nchw", masks[:, 1:], speeds)
    agents = [masks[:, :1]]
    if agent is not None:
        agents.append(warp_masks(sprites.masks[:, :1], sprites.centroids[:, :1], poses[:, :1] + agent[:, None]))
    background = sprites.masks.amax(dim=1, keepdim=True) < 0.5
    still = sprites.reference * background, background * sprites.floor
    return torch.cat([masks[:, 1:].sum(dim=1, keepdim=True), flow, *agents, *still], dim=1)


def gated_velocity(outputs: Tensor, last: Tensor) -> Tensor:
    """Outputs (M, 3 * 4) and last velocities (M, 4) -> next ones (M, 4): gates that stop and keep, and a change."""
    moves, keeps, change = outputs.chunk(3, dim=1)
    return (moves + 2).sigmoid() * ((keeps + 1).sigmoid() * last + change)
