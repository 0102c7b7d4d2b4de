"""Region tokens: a frame as the regions that move as wholes and the ground, and which share of its velocity each keeps.

A layered representation (Wang and Adelson 1994) of the prompt's end (`stt.regions`): pixels are moved and never
redrawn, so shapes stay as they are. The transformer reads how each region moved through the prompt, and gives chances
of the share of its velocity that it keeps from frame to frame: it goes on, brakes or stops. They begin from what the
prompt's own frames say (`stt.persistence`). A future draws one share a region.

Frames may have any size: regions are found with the longer side at `image_size` pixels, and move the pixels of the
clip itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import Condition, Loss, Noise, Sampling, Video
from stt.optical_flow import carry, optical_flow, resize, resize_flow, warp
from stt.persistence import SHARES, mean_share, persistence
from stt.pictures import union
from stt.region_course import is_steady
from stt.region_frames import as_bytes, blurred, composed, drift_of, ground_of, power_flow, size_of
from stt.region_masks import follow
from stt.region_tracks import (
    advanced,
    ground_features,
    ground_share_chances,
    motion_features,
    share_chances,
    visible_frames,
)
from stt.regions import Scene, find_regions
from stt.transformer import SpaceTimeTransformer, draw_mean

GROWTH = 0.05  # standard deviation of the logarithm of a region's growth of motion a frame
STEADY = (0.0, 0.0, 0.02, 0.06, 0.92)  # chances of shares of what was steady: 28 real regions went 0.96 as far
LOOSE = (0.4, 0.3, 0.3, 0.0, 0.0)  # the same of what no similarity explains, which it would tear
LEAST_RIGIDITY = 0.3  # share of a region that its similarity explains, below which it is loose
BENDING = 0.8  # share of its bend that a region keeps from frame to frame, beside that of its velocity
PERSISTENCE_SIZE = 128  # pixels of the longer side for `persistence`, and where the ground's share is learned
GROUND_FRAMES = 5  # after the prompt, from which the ground's share is learned
PIXEL_STD = 0.1  # of a forecast, for the likelihood
CELL = 16  # pixels a side of a cell of `nats`
FEATURES = 8 + len(SHARES)  # numbers of a token


class Future(NamedTuple):
    """What N futures draw, and where their ground is."""

    shares: Tensor  # (N, R) of velocity, from frame to frame
    headings: Tensor  # (N, R) change of direction, in radians a frame
    ground_share: Tensor  # (N, 1, h, w)
    velocity: Tensor  # (N, 2, h, w) backward flow of the ground
    path: Tensor  # (N, 2, h, w) from the ground of the latest frame to that of the prompt's last one


class RegionState(NamedTuple):
    """Of B prompts with up to R regions each (others have no mask), then of B futures of one."""

    last: Tensor  # (B, C, H, W) the prompt's last frame
    ground: Tensor  # (B, C, H, W) the same without its regions
    masks: Tensor  # (B, R, h, w) at the size at which regions are found
    turns: Tensor  # (B, R) complex: backward similarities of a frame
    shifts: Tensor  # (B, R) complex
    courses: Tensor  # (B, R, 3) complex: velocity, acceleration and wander of `Course`
    bends: Tensor  # (B, R, 2, h, w)
    chances: Tensor  # (B, R + 1, S) of shares of velocity; the last row is the ground's
    ground_chances: Tensor  # (B, S, h, w) the same for each place of the ground
    ground_flow: Tensor  # (B, 2, h, w)
    condition: Condition
    future: Future | None = None  # once its first frame is drawn
    num_frames: int = 0  # predicted so far


class Tracks(NamedTuple):
    """What tokens are made of."""

    features: Tensor  # (B, T - 1, R + 1, FEATURES)
    log_chances: Tensor  # (B, R + 1, S) from the prompt alone
    known: Tensor  # (B, R + 1) bool: of what is steady or loose, which the network leaves as they are


class RegionTokens(nn.Module):
    """Finds regions, embeds their motion through a prompt, and moves them on."""

    def __init__(self, image_size: int, channels: int, count: int, dim: int) -> None:
        super().__init__()
        self.image_size, self.channels, self.count = image_size, channels, count
        self.rows, self.columns = 1, count + 1
        self.embed = nn.Linear(FEATURES, dim)
        self.head = nn.Linear(dim, len(SHARES))
        nn.init.zeros_(self.head.weight)  # at first, the prompt alone decides
        nn.init.zeros_(self.head.bias)

    def begin_step(self, _: object) -> None:
        """Nothing changes from step to step."""

    def input_size(self, frames: Tensor) -> tuple[int, int]:
        """Height and width at which the regions of frames (..., H, W) are found: never more than they have."""
        scale = min(1.0, self.image_size / max(frames.shape[-2:]))
        height, width = (max(round(side * scale), 1) for side in frames.shape[-2:])
        return height, width

    # ---- reading a prompt ------------------------------------------------------------------------------

    def scenes(self, video: Video) -> list[Scene]:
        """Of clips (B, T, C, H, W), on the CPU."""
        return [find_regions(frames, self.count) for frames in as_bytes(self.resized(video))]

    def resized(self, video: Video) -> Video:
        return resize(video.flatten(0, 1), self.input_size(video)).unflatten(0, video.shape[:2])

    def tracks(self, video: Video, scenes: list[Scene]) -> tuple[Tracks, Tensor]:
        """Of clips (B, T, C, h, w) at the size of their scenes; also chances (B, S, h, w) of each place's shares."""
        b, t, _, height, width = video.shape
        scale = PERSISTENCE_SIZE / max(height, width)
        small = resize(video.flatten(0, 1), (max(round(height * scale), 1), max(round(width * scale), 1)))
        flow = torch.zeros(b * t, 2, *small.shape[-2:], device=video.device)
        small, flow = small.unflatten(0, (b, t)), flow.unflatten(0, (b, t))
        if t > 1:
            found = optical_flow(small[:, 1:].flatten(0, 1), small[:, :-1].flatten(0, 1))
            flow = torch.cat([flow[:, :1], found.unflatten(0, (b, t - 1))], dim=1)
        chances = resize(persistence(small, flow), (height, width))
        features = np.zeros((b, max(t - 1, 1), self.columns, 8), np.float32)
        steady, loose = torch.zeros(2, b, self.columns, dtype=torch.bool)
        pooled = chances.new_zeros(b, self.columns, len(SHARES)) + chances.mean(dim=(2, 3))[:, None]
        longer = max(height, width)
        for k, scene in enumerate(scenes):
            cover = torch.zeros(height, width, dtype=torch.bool)
            for r, region in enumerate(scene.regions):
                mask = torch.from_numpy(region.mask)
                cover |= mask
                pooled[k, r] = chances[k][:, mask.to(chances.device)].mean(dim=1)
                steady[k, r], loose[k, r] = region.course.steady, region.rigidity < LEAST_RIGIDITY
                places = region.places[::-1]
                features[k, :, r] = motion_features(places, region.mask, region.turn, longer, region.rigidity)
            if not cover.all():
                pooled[k, -1] = chances[k][:, ~cover.to(chances.device)].mean(dim=1)
            flows = np.stack(scene.camera[:-1] or scene.camera)
            steady[k, -1] = is_steady((flows[..., 0] + 1j * flows[..., 1]).reshape(len(flows), -1))
            features[k, :, -1] = ground_features(scene.camera[::-1], ~cover.numpy(), longer)
        steady, loose = steady.to(pooled.device), loose.to(pooled.device)
        for which, known in ((steady, STEADY), (loose, LOOSE)):
            pooled = torch.where(which[..., None], pooled.new_tensor(known), pooled)
        log_chances = pooled.clamp(min=1e-4).log()
        tracked = torch.from_numpy(features).to(video.device)
        beside = log_chances[:, None].expand(-1, tracked.shape[1], -1, -1) / 4
        return Tracks(torch.cat([tracked, beside], dim=-1), log_chances, steady | loose), chances

    def logits(self, tracks: Tracks, network: SpaceTimeTransformer) -> Tensor:
        """(B, R + 1, S) of the shares of velocity that regions and ground keep."""
        hidden = network(self.embed(tracks.features)[:, :, None], draw_mean).hidden[:, -1, 0]
        return tracks.log_chances + torch.where(tracks.known[..., None], 0.0, self.head(hidden).float())

    # ---- training --------------------------------------------------------------------------------------

    def loss(self, video: Video, network: SpaceTimeTransformer, *_: object) -> Loss:
        """Cross-entropy of shares of velocity, of which those count most that lead where regions went.

        The first half of a clip is the prompt.
        """
        num_context = max(video.shape[1] // 2, 2)
        if video.shape[1] <= num_context:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 3")
        small = self.resized(video)
        scenes = [find_regions(frames[:num_context], self.count) for frames in as_bytes(small)]
        tracks = self.tracks(small[:, :num_context], scenes)[0]
        target_chances, target_weights = self.targets(as_bytes(small), scenes, num_context)
        targets, weights = (
            torch.from_numpy(target_chances).to(video.device),
            torch.from_numpy(target_weights).to(video.device),
        )
        nats = -(targets * self.logits(tracks, network).log_softmax(dim=-1)).sum(dim=-1)
        before = -(targets * tracks.log_chances.log_softmax(dim=-1)).sum(dim=-1)
        total = weights.sum().clamp(min=1e-3)
        loss, prompt_alone = (weights * nats).sum() / total, (weights * before).sum() / total
        return Loss(loss, {"nats": loss.detach(), "nats of the prompt alone": prompt_alone.detach()})

    def targets(self, clips: np.ndarray, scenes: list[Scene], num_context: int) -> tuple[np.ndarray, np.ndarray]:
        """Chances (B, R + 1, S) of shares by where regions went, and weights (B, R + 1): 0 for those that are lost."""
        chances = np.full((len(clips), self.columns, len(SHARES)), 1 / len(SHARES), np.float32)
        weights = np.zeros((len(clips), self.columns), np.float32)
        for k, (frames, scene) in enumerate(zip(clips, scenes, strict=True)):
            ahead = frames[num_context - 1 :]
            for r, region in enumerate(scene.regions):
                velocity = -region.places[1] if len(region.places) > 1 else np.zeros(2)
                places, _ = follow(region.mask, ahead, np.broadcast_to(velocity, (*region.mask.shape, 2)))
                if visible := visible_frames(region.mask, ahead, places):
                    chances[k, r] = share_chances(velocity, places[1 : visible + 1])
                    weights[k, r] = 0 if region.course.acceleration else min(1.0, float(np.hypot(*velocity)))
            if np.any(scene.camera[0]):
                video = torch.from_numpy(ahead[: GROUND_FRAMES + 1]).movedim(-1, 1).float() / 127.5 - 1
                scale = min(1.0, PERSISTENCE_SIZE / max(video.shape[-2:]))
                size = round(scale * video.shape[-2]), round(scale * video.shape[-1])
                flow = torch.from_numpy(scene.ground_flow).movedim(-1, 0)[None]
                hidden = torch.from_numpy(union([region.mask for region in scene.regions], frames.shape[1:3]))
                chances[k, -1] = ground_share_chances(
                    resize(video, size), resize_flow(flow, size)[0], resize(hidden[None, None].float(), size)[0, 0] > 0
                )
                weights[k, -1] = 1
        return chances, weights

    # ---- prediction ------------------------------------------------------------------------------------

    def start(self, context: Video, network: SpaceTimeTransformer, condition: Condition) -> RegionState:
        small = self.resized(context)
        scenes = self.scenes(context)
        tracks, places = self.tracks(small, scenes)
        logits = self.logits(tracks, network)
        size, device = size_of(small), context.device
        shape = len(scenes), max(len(scene.regions) for scene in scenes)
        masks, bends = torch.zeros(*shape, *size), torch.zeros(*shape, 2, *size)
        turns, shifts = torch.ones(shape, dtype=torch.complex64), torch.zeros(shape, dtype=torch.complex64)
        courses = torch.zeros(*shape, 3, dtype=torch.complex64)
        for k, scene in enumerate(scenes):
            for r, region in enumerate(scene.regions):
                masks[k, r] = torch.from_numpy(region.mask)
                bends[k, r] = torch.from_numpy(region.bend).movedim(-1, 0)
                turns[k, r], shifts[k, r] = torch.tensor(region.turn), torch.tensor(region.shift)
                courses[k, r] = torch.tensor(region.course[:3])
        # where the camera moves, it brakes as a whole
        pans = torch.tensor([bool(np.any(scene.camera[0])) for scene in scenes], device=device)[:, None, None, None]
        change = (logits - tracks.log_chances)[:, -1, :, None, None]
        ground = torch.where(pans, logits[:, -1, :, None, None], places.clamp(min=1e-4).log() + change).softmax(dim=1)
        flow = torch.from_numpy(np.stack([scene.ground_flow for scene in scenes])).movedim(-1, 1)
        return RegionState(
            context[:, -1], torch.stack([ground_of(*pair) for pair in zip(context, scenes, strict=True)]),
            masks.to(device), turns.to(device), shifts.to(device), courses.to(device), bends.to(device),
            logits.softmax(dim=-1), ground, flow.to(device), condition,
        )  # fmt: skip

    def step(
        self, state: RegionState, network: SpaceTimeTransformer, actions: None, sampling: Sampling, noise: Noise
    ) -> tuple[Video, RegionState]:
        n, future = noise.futures, state.future or self.draw(state, sampling, noise)
        frames = torch.arange(1, state.num_frames + 2, device=state.last.device)
        rigid = (future.shares[..., None] ** frames).sum(dim=-1)  # (n, R) last motions so far
        bent = ((BENDING * future.shares[..., None]) ** frames).sum(dim=-1)
        drift = drift_of(future.shares, future.headings, _expanded(state.courses, n), frames)
        velocity, share, path = advanced(future.velocity, future.ground_share, future.path)
        future = future._replace(velocity=velocity, ground_share=share, path=path)
        frame = warp(_expanded(state.ground, n), resize_flow(future.path, size_of(state.last)))
        for r in range(state.masks.shape[1]):
            mask, bend = _expanded(state.masks[:, r : r + 1], n), _expanded(state.bends[:, r], n)
            turns, shifts = _expanded(state.turns[:, r], n), _expanded(state.shifts[:, r], n)
            flow = power_flow(turns, shifts, rigid[:, r], size_of(mask), drift[:, r])
            flow = flow + bent[:, r, None, None, None] * warp(bend, flow, "bilinear")
            frame = composed(frame, _expanded(state.last, n), blurred(mask), flow)
        return frame.clamp(-1, 1)[:, None], state._replace(future=future, num_frames=state.num_frames + 1)

    def draw(self, state: RegionState, sampling: Sampling, noise: Noise) -> Future:
        """One share a region and future: at temperature 0 the mean; else each brakes a region more or less."""
        n, regions = noise.futures, state.masks.shape[1]
        chances, places = _expanded(state.chances, n), _expanded(state.ground_chances, n)
        quantiles, growth = None, torch.ones(n, self.columns, device=chances.device)
        headings = torch.zeros_like(growth)
        if sampling.temperature:
            quantiles = torch.special.ndtr(sampling.temperature * noise.normal(self.columns))
            growth = (GROWTH * sampling.temperature * noise.normal(self.columns)).exp()
            wander = F.pad(_expanded(state.courses[..., 2].real, n), (0, self.columns - regions))
            headings = sampling.temperature * wander * noise.normal(self.columns)
        each = None if quantiles is None else quantiles.flatten()[:, None, None, None]
        shares = mean_share(rearrange(chances, "n r s -> (n r) s 1 1"), each).view(n, self.columns)
        ground = mean_share(places, None if quantiles is None else quantiles[:, -1, None, None, None])
        velocity = _expanded(state.ground_flow, n)
        flies = _expanded(state.courses[..., 1] != 0, n)  # nothing brakes it
        return Future(
            torch.where(flies, 1.0, (growth * shares)[:, :regions]), headings[:, :regions],
            growth[:, -1, None, None, None] * ground, velocity, torch.zeros_like(velocity),
        )  # fmt: skip

    # ---- likelihood ------------------------------------------------------------------------------------

    def nats(self, video: Video, network: SpaceTimeTransformer) -> tuple[Tensor, int]:
        """Nats of each frame but the first by cell (B, T - 1, h, w), and the numbers of a cell.

        The squared error of the frame before, carried on along its optical flow, as normal noise of PIXEL_STD.
        """
        video = self.resized(video)
        frames = video[:, :-1]
        flow = torch.zeros_like(frames[:, :, :1]).expand(-1, -1, 2, -1, -1)
        if frames.shape[1] > 1:
            found = optical_flow(frames[:, 1:].flatten(0, 1), frames[:, :-1].flatten(0, 1))
            flow = torch.cat([flow[:, :1], found.unflatten(0, (len(video), -1))], dim=1)
        expected = warp(frames.flatten(0, 1), carry(flow.flatten(0, 1))[:, :2]).unflatten(0, frames.shape[:2])
        residual = ((expected - video[:, 1:]) / 2).square().sum(dim=2) / (2 * PIXEL_STD**2)
        height, width = video.shape[-2:]
        nats = F.adaptive_avg_pool2d(residual, (math.ceil(height / CELL), math.ceil(width / CELL))) * CELL**2
        return nats, CELL**2 * self.channels


def _expanded(part: Tensor, futures: int) -> Tensor:
    return part.expand(futures, *part.shape[1:])
