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
from stt.regions import Scene, find_regions, follow
from stt.transformer import SpaceTimeTransformer, draw_mean

GROWTH = 0.05  # standard deviation of the logarithm of a region's growth of motion a frame
BENDING = 0.8  # share of its bend that a region keeps from frame to frame, beside that of its velocity
EDGE = 0.7  # pixels of a mask's blur
PERSISTENCE_SIZE = 128  # pixels of the longer side for `persistence`
SPEED = 4.0  # pixels a frame, at a longer side of 256, where a token's number is 1
LOST = 0.02  # squared error of a region's colours, on [0, 1], beyond which a future frame does not show it
PIXEL_STD = 0.1  # of a forecast, for the likelihood
CELL = 16  # pixels a side of a cell of `nats`
FEATURES = 8 + len(SHARES)  # numbers of a token


class Future(NamedTuple):
    """What N futures draw, and where their ground is."""

    shares: Tensor  # (N, R) of velocity, from frame to frame
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
        pooled = chances.new_zeros(b, self.columns, len(SHARES)) + chances.mean(dim=(2, 3))[:, None]
        longer = max(height, width)
        for k, scene in enumerate(scenes):
            cover = torch.zeros(height, width, dtype=torch.bool)
            for r, region in enumerate(scene.regions):
                mask = torch.from_numpy(region.mask)
                cover |= mask
                pooled[k, r] = chances[k][:, mask.to(chances.device)].mean(dim=1)
                features[k, :, r] = _motion_features(region.places[::-1], region.mask, region.turn, longer)
            if not cover.all():
                pooled[k, -1] = chances[k][:, ~cover.to(chances.device)].mean(dim=1)
            pans = [-camera.mean(axis=(0, 1)) for camera in scene.camera[::-1]]
            features[k, :, -1] = _motion_features(np.cumsum(pans, axis=0), ~cover.numpy(), 1 + 0j, longer)
        log_chances = pooled.clamp(min=1e-4).log()
        told = torch.from_numpy(features).to(video.device)
        beside = log_chances[:, None].expand(-1, told.shape[1], -1, -1) / 4
        return Tracks(torch.cat([told, beside], dim=-1), log_chances), chances

    def logits(self, tracks: Tracks, network: SpaceTimeTransformer) -> Tensor:
        """(B, R + 1, S) of the shares of velocity that regions and ground keep."""
        hidden = network(self.embed(tracks.features)[:, :, None], draw_mean).hidden[:, -1, 0]
        return tracks.log_chances + self.head(hidden).float()

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
        wanted, counts = self.targets(as_bytes(small), scenes, num_context)
        targets, weights = torch.from_numpy(wanted).to(video.device), torch.from_numpy(counts).to(video.device)
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
                if visible := _frames_that_show(region.mask, ahead, places):
                    chances[k, r] = _share_chances(velocity, places[1 : visible + 1])
                    weights[k, r] = min(1.0, float(np.hypot(*velocity)))
        return chances, weights

    # ---- prediction ------------------------------------------------------------------------------------

    def start(self, context: Video, network: SpaceTimeTransformer, condition: Condition) -> RegionState:
        small = self.resized(context)
        scenes = self.scenes(context)
        tracks, places = self.tracks(small, scenes)
        logits = self.logits(tracks, network)
        size, device = _size(small), context.device
        shape = len(scenes), max(len(scene.regions) for scene in scenes)
        masks, bends = torch.zeros(*shape, *size), torch.zeros(*shape, 2, *size)
        turns, shifts = torch.ones(shape, dtype=torch.complex64), torch.zeros(shape, dtype=torch.complex64)
        for k, scene in enumerate(scenes):
            for r, region in enumerate(scene.regions):
                masks[k, r] = torch.from_numpy(region.mask)
                bends[k, r] = torch.from_numpy(region.bend).movedim(-1, 0)
                turns[k, r], shifts[k, r] = torch.tensor(region.turn), torch.tensor(region.shift)
        # where the camera moves, it brakes as a whole
        pans = torch.tensor([bool(np.any(scene.camera[0])) for scene in scenes], device=device)[:, None, None, None]
        change = (logits - tracks.log_chances)[:, -1, :, None, None]
        ground = torch.where(pans, logits[:, -1, :, None, None], places.clamp(min=1e-4).log() + change).softmax(dim=1)
        flow = torch.from_numpy(np.stack([scene.ground_flow for scene in scenes])).movedim(-1, 1)
        return RegionState(
            context[:, -1], torch.stack([ground_of(*pair) for pair in zip(context, scenes, strict=True)]),
            masks.to(device), turns.to(device), shifts.to(device), bends.to(device), logits.softmax(dim=-1), ground,
            flow.to(device), condition,
        )  # fmt: skip

    def step(
        self, state: RegionState, network: SpaceTimeTransformer, actions: None, sampling: Sampling, noise: Noise
    ) -> tuple[Video, RegionState]:
        n, future = noise.futures, state.future or self.draw(state, sampling, noise)
        frames = torch.arange(1, state.num_frames + 2, device=state.last.device)
        rigid = (future.shares[..., None] ** frames).sum(dim=-1)  # (n, R) last motions so far
        bent = ((BENDING * future.shares[..., None]) ** frames).sum(dim=-1)
        future = future._replace(**_advanced(future))
        frame = warp(_expanded(state.ground, n), resize_flow(future.path, _size(state.last)))
        for r in range(state.masks.shape[1]):
            mask, bend = _expanded(state.masks[:, r : r + 1], n), _expanded(state.bends[:, r], n)
            flow = power_flow(
                _expanded(state.turns[:, r], n), _expanded(state.shifts[:, r], n), rigid[:, r], _size(mask)
            )
            flow = flow + bent[:, r, None, None, None] * warp(bend, flow, "bilinear")
            frame = _composed(frame, _expanded(state.last, n), blurred(mask), flow)
        return frame.clamp(-1, 1)[:, None], state._replace(future=future, num_frames=state.num_frames + 1)

    def draw(self, state: RegionState, sampling: Sampling, noise: Noise) -> Future:
        """One share a region and future: at temperature 0 the mean; else each future brakes a region more or less."""
        n, regions = noise.futures, state.masks.shape[1]
        chances, places = _expanded(state.chances, n), _expanded(state.ground_chances, n)
        quantiles, growth = None, torch.ones(n, self.columns, device=chances.device)
        if sampling.temperature:
            quantiles = torch.special.ndtr(sampling.temperature * noise.normal(self.columns))
            growth = (GROWTH * sampling.temperature * noise.normal(self.columns)).exp()
        each = None if quantiles is None else quantiles.flatten()[:, None, None, None]
        shares = mean_share(rearrange(chances, "n r s -> (n r) s 1 1"), each).view(n, self.columns)
        ground = mean_share(places, None if quantiles is None else quantiles[:, -1, None, None, None])
        velocity = _expanded(state.ground_flow, n)
        return Future(
            (growth * shares)[:, :regions], growth[:, -1, None, None, None] * ground, velocity,
            torch.zeros_like(velocity),
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


# ---- pictures ------------------------------------------------------------------------------------------


def as_bytes(video: Video) -> np.ndarray:
    """Clips (B, T, C, H, W) -> (B, T, H, W, 3) of bytes; gray becomes colour."""
    colour = video if video.shape[2] == 3 else video.mean(dim=2, keepdim=True).expand(-1, -1, 3, -1, -1)
    return ((colour.movedim(2, -1) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()


def ground_of(frames: Video, scene: Scene) -> Tensor:
    """The last of frames (T, C, H, W) of any size without its regions.

    Pixels are those of earlier frames where these show the ground, else of the scene's own picture.
    """
    size, device = _size(frames), frames.device
    picture, channels = frames[-1:], frames.shape[1]
    age = torch.from_numpy(scene.age)[None, None].to(device)
    known = torch.from_numpy(scene.ground).movedim(-1, 0)[None].to(device) * 2 - 1
    known = known if channels == 3 else known.mean(dim=1, keepdim=True)
    for k in torch.unique(age).tolist():
        if k:
            path = torch.from_numpy(scene.paths[max(k, 0)]).movedim(-1, 0)[None].to(device)
            shown = resize(known, size) if k < 0 else warp(frames[-1 - k][None], resize_flow(path, size))
            picture = torch.lerp(picture, shown, resize((age == k).float(), size))
    return picture[0]


def power_flow(turns: Tensor, shifts: Tensor, power: Tensor, size: tuple[int, int]) -> Tensor:
    """The flow (N, 2, h, w) of similarities z -> turn * z + shift (N,), applied `power` times (N,), also in part."""
    height, width = size
    y, x = torch.meshgrid(*(torch.arange(side, device=turns.device) for side in size), indexing="ij")
    z = torch.complex(x.float(), y.float())
    turned = torch.exp(power * torch.log(turns))
    small = (turns - 1).abs() < 1e-3
    times = torch.where(small, power + 0 * turned, (1 - turned) / torch.where(small, 0.5 + 0j, 1 - turns))
    moved = (turned - 1)[:, None, None] * z + (shifts * times)[:, None, None]
    return torch.stack([moved.real, moved.imag], dim=1)


def blurred(mask: Tensor) -> Tensor:
    """Masks (N, 1, h, w) with soft edges."""
    at = torch.arange(-2, 3, device=mask.device, dtype=mask.dtype)
    kernel = torch.exp(-0.5 * (at / EDGE).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(mask, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])


def _composed(frame: Tensor, last: Tensor, mask: Tensor, flow: Tensor) -> Tensor:
    """Frames (N, C, H, W) with the last frame's pixels under a mask (N, 1, h, w), both moved along a flow, on top.

    What the picture's border cuts off goes on beyond it as at the border.
    """
    size = _size(frame)
    moved = warp(mask, flow, "bilinear")
    rows, columns = (slice(0, side) for side in size)
    if mask.device.type == "cpu":  # only where there is something; a GPU would have to be waited for
        rows, columns = (_extent(moved.amax(dim=(0, 1, axis)), side) for axis, side in zip((3, 2), size, strict=True))
    part = ..., rows, columns
    alpha, flow = resize(moved, size)[part], resize_flow(flow, size)[part]
    composed = frame.clone()
    composed[part] = torch.lerp(frame[part], warp(last, flow, corner=(rows.start, columns.start)), alpha)
    return composed


def _extent(weights: Tensor, side: int) -> slice:
    """Where in `side` pixels a line of weights, which covers them, is not 0."""
    at, scale = weights.nonzero(), side / len(weights)
    if not len(at):
        return slice(0, 0)
    return slice(max(int((int(at[0]) - 1) * scale), 0), min(int((int(at[-1]) + 2) * scale) + 1, side))


def _advanced(future: Future) -> dict[str, Tensor]:
    """The ground one frame later: its flow is carried along itself."""
    velocity = future.ground_share * future.velocity
    origin = velocity
    for _ in range(2):  # the flow that a pixel arrives with is that of where it comes from
        origin = warp(velocity, origin, "bilinear")
    path = origin + warp(future.path, origin, "bilinear")
    return {"velocity": origin, "path": path, "ground_share": warp(future.ground_share, origin, "bilinear")}


def _expanded(part: Tensor, futures: int) -> Tensor:
    return part.expand(futures, *part.shape[1:])


def _size(frames: Tensor) -> tuple[int, int]:
    height, width = frames.shape[-2:]
    return height, width


# ---- tracks --------------------------------------------------------------------------------------------


def _motion_features(places: np.ndarray, mask: np.ndarray, turn: complex, longer: int) -> np.ndarray:
    """Numbers (T - 1, 8) of a region that was at places (T, 2) relative to its mask (H, W), in time's order."""
    rows, columns = np.nonzero(mask)
    unit = SPEED * longer / 256
    steps = np.diff(places, axis=0) if len(places) > 1 else np.zeros((1, 2))
    centre = np.array([columns.mean(), rows.mean()]) if len(rows) else np.zeros(2)
    at = (centre + (places[1:] if len(places) > 1 else places)) / longer
    speed = np.log1p(np.hypot(*steps.T) / unit)
    rest = np.array([math.sqrt(len(rows)) / longer, 10 * (abs(turn) - 1), 1.0])
    return np.concatenate([steps / unit, at, speed[:, None], np.broadcast_to(rest, (len(steps), 3))], axis=1)


def _frames_that_show(mask: np.ndarray, frames: np.ndarray, places: np.ndarray) -> int:
    """How many frames after the first of (T, H, W, 3) show the region there that the first one has under a mask."""
    rows, columns = np.nonzero(mask)
    colours = frames[0][rows, columns].astype(np.float32)
    for k in range(1, len(frames)):
        at = np.round(np.stack([rows + places[k, 1], columns + places[k, 0]])).astype(int)
        inside = (at >= 0).all(axis=0) & (at[0] < mask.shape[0]) & (at[1] < mask.shape[1])
        if inside.mean() < 0.5:
            return k - 1
        there = frames[k][at[0][inside], at[1][inside]].astype(np.float32)
        if np.square((there - colours[inside]) / 255).mean() > LOST:
            return k - 1
    return len(frames) - 1


def _share_chances(velocity: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Chances (S,) of shares by how far they lead from the places (T, 2) where a region went, frame by frame."""
    frames = np.arange(1, len(places) + 1)
    motion = np.cumsum(np.array(SHARES)[:, None] ** frames, axis=1)  # (S, T)
    off = np.linalg.norm(motion[..., None] * velocity - places, axis=-1)
    spread = 0.5 + 0.3 * np.hypot(*velocity) * np.sqrt(frames)
    errors = np.square(off / spread).mean(axis=1) * min(len(places), 4) / 2
    chances = np.exp(-(errors - errors.min()))
    return (chances / chances.sum()).astype(np.float32)
