"""Layer tokens of the TimeSformer: a frame as one token per motion layer.

So attention over time follows a thing wherever it goes, where a patch stays in place. After the object tokens of ORViT
(arXiv 2110.06915), with layers of a segmenter (`stt.segmenter`) in place of boxes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import Video
from stt.metrics import unit
from stt.motion import (
    COORDINATES,
    FREQUENCIES,
    Layers,
    Motion,
    composite,
    features_size,
    leaky_clamp,
    sinusoids,
    splat_matrix,
)
from stt.segmenter import Filtered, Segmenter

ROUNDING = 0.6  # pixels that a position may lie off the line; 97 in 100 whole positions on a straight line do not
CERTAIN = 2.5  # a velocity is multiplied by tanh(CERTAIN + output) / tanh(CERTAIN): about -1 to 1, at first 1


class LayerCourse(NamedTuple):
    """A line at constant velocity through a layer's last positions. Rows and columns apart, for a wall turns one."""

    start: Tensor  # (..., 2) pixels from the layer to the line in the last frame
    velocity: Tensor  # (..., 2) pixels a frame
    frames: Tensor  # (..., 2) how many positions lie on it


def layer_course(steps: Tensor) -> LayerCourse:
    """Least-squares lines, each through as many of the last positions as lie within ROUNDING pixels of it.

    steps (..., P, 2): displacements in pixels from each frame to the next.
    """
    back = -steps.float().flip(-2).cumsum(dim=-2)
    places = F.pad(back, (0, 0, 1, 0))  # (..., P + 1, 2), the latest first
    start = velocity = steps.new_zeros((*steps.shape[:-2], 2), dtype=torch.float32)
    frames = torch.ones_like(start)
    for count in range(2, places.shape[-2] + 1):
        time = -torch.arange(count, device=steps.device, dtype=start.dtype)[:, None]
        last, centred = places[..., :count, :], time - time.mean()
        slope = (last * centred).sum(dim=-2) / centred.square().sum()
        begin = last.mean(dim=-2) - time.mean() * slope
        error = (last - begin[..., None, :] - time * slope[..., None, :]).abs().amax(dim=-2)
        fits = error < ROUNDING
        start, velocity = torch.where(fits, begin, start), torch.where(fits, slope, velocity)
        frames = torch.where(fits, count, frames)
    return LayerCourse(start, velocity, frames)


class LayerScene(NamedTuple):
    """A context as layers."""

    filtered: Filtered
    motion: Motion  # of all its frames
    course: LayerCourse  # (B, K, 2) of each layer

    def displacement(self, count: int) -> Tensor:
        """Pixels (B, count, K, 2) from the last frame to each of those after it, if layers keep their courses."""
        ahead = torch.arange(1, count + 1, device=self.course.start.device)[:, None, None]
        return self.course.start[:, None] + ahead * self.course.velocity[:, None]


class LayerTokens(nn.Module):
    """Layers of frames (B, T, C, H, W) in [-1, 1] as tokens (B, T, K, D), and target tokens as frames.

    A target token begins with the place that its layer reaches if it keeps its course. It says where the layer will be:
    a normal distribution, independent in rows and columns, rounded to whole pixels. The decoded frame is the expected
    one, since a squared error asks for that: each layer is a product of three matrices (rows, picture, columns; see
    `splat_matrix`), and the layers are composited. It is sharp where the place is certain.
    """

    def __init__(self, count: int, channels: int, reach: int, segmenter_width: int, dim: int) -> None:
        super().__init__()
        self.reach = reach
        self.segmenter = Segmenter(count, channels, segmenter_width)
        self.embed = nn.Linear(features_size(reach), dim)
        self.embed_course = nn.Sequential(
            nn.Linear(COORDINATES * (1 + 2 * FREQUENCIES) + 8, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim)
        )
        self.displacement = nn.Linear(dim, 6)
        nn.init.normal_(self.displacement.weight, std=0.02)
        with torch.no_grad():
            self.displacement.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, -1.0, -1.0]))

    def scene(self, context: Video) -> LayerScene:
        """Segments a context (B, T, C, H, W), follows its layers and fits their courses."""
        filtered = self.segmenter.filter(unit(context), self.reach)
        motion = Motion.of(filtered.shapes, filtered.matches)
        return LayerScene(filtered, motion, layer_course(motion.displacement[:, 1:].transpose(1, 2)))

    def context(self, scene: LayerScene) -> Tensor:
        """Tokens of the context, (B, T, K, D)."""
        with torch.autocast(scene.course.start.device.type, enabled=False):  # bfloat16 has too few digits for positions
            return self.embed(scene.motion.features(self.reach).float())

    def targets(self, tokens: Tensor, scene: LayerScene, count: int) -> Tensor:
        """What target tokens begin as: the last frame's, and the course up to each one's time. (B, count, K, D)"""
        ahead, (height, width) = scene.displacement(count), scene.filtered.layers.colour.shape[-2:]
        last = scene.motion.during(slice(-1, None)).shape
        coordinates = last.moved(ahead, height, width).coordinates  # (B, count, K, 6)
        start, velocity, frames = scene.course
        course = torch.cat([velocity / self.reach, frames / 10, start], dim=-1)[:, None].expand(-1, count, -1, -1)
        features = torch.cat([coordinates, sinusoids(coordinates), course, ahead / height], dim=-1)
        with torch.autocast(ahead.device.type, enabled=False):
            return tokens[:, -1:] + self.embed_course(features.float())

    def decode(self, tokens: Tensor, scene: LayerScene) -> Video:
        """Target tokens (B, T, 1, K, D) -> (B, T, C, H, W), not yet clamped."""
        tokens, layers = tokens.flatten(2, 3), Layers(*(part.detach().float() for part in scene.filtered.layers))
        with torch.autocast(tokens.device.type, enabled=False):
            shift, turn, spread = self.displacement(tokens.float()).unflatten(-1, (3, 2)).unbind(dim=-2)
            start = scene.course.start[:, None]
            ahead = (scene.displacement(tokens.shape[1]) - start) * (CERTAIN + turn).tanh() / math.tanh(CERTAIN)
            mean, std = start + ahead + 8 * shift, 3 * spread.clamp(-3, 1.8).exp()  # pixels, (B, T, K, 2)
            pixels = torch.cat([layers.colour, layers.alpha], dim=2)  # (B, K, C + 1, H, W)
            rows, columns = (
                splat_matrix(mean[..., axis], std[..., axis], size, size) for axis, size in enumerate(pixels.shape[-2:])
            )
            moved = torch.einsum("btkyp,bkcpq->btkcyq", rows, pixels)
            moved = torch.einsum("btkcyq,btkxq->btkcyx", moved, columns).flatten(0, 1)
            background = layers.background.repeat_interleave(tokens.shape[1], dim=0)
            frames = composite(Layers(background, moved[:, :, :-1], moved[:, :, -1:]))
        return 2 * leaky_clamp(frames).unflatten(0, tokens.shape[:2]) - 1
