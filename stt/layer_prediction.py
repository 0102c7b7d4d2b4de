"""Layer prediction: the next frame if every motion layer moves as a whole, its displacements drawn or scored.

MotionGPT codes a frame as corrections of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import Sampling
from stt.layer_motion import MotionDecoder, batch_tracks, joined, last_steps, mended, steps_of
from stt.motion import Layers, composite
from stt.motion_tokens import segmentation_loss
from stt.segmenter import Segmenter

DEPTH = 2  # blocks of the motion decoder


class LayerState(NamedTuple):
    """Layers of the latest frame, and how they came there."""

    frame: Tensor  # (B, C, H, W) on [0, 1]
    layers: Layers
    steps: Tensor  # (B, P, K, 2) displacements that led to it, the latest first
    num_steps: int  # how many of them there are

    def expand(self, batch: int) -> LayerState:
        frame, steps = (part.expand(batch, *part.shape[1:]) for part in (self.frame, self.steps))
        return LayerState(frame, self.layers.expand(batch), steps, self.num_steps)


class Scored(NamedTuple):
    """Predictions of all frames of a clip but the first, by the displacements that code them (`chosen`)."""

    nats: Tensor  # (B, T - 1, K) negative log-likelihood of each displacement
    frames: Tensor  # (B, T - 1, C, H, W) on [0, 1]
    segmentation: Tensor  # scalar: the loss of the segmenter, 0 where it is frozen


class LayerPrediction(nn.Module):
    """Frames are on [0, 1]. A segmenter that is not frozen learns to make layers, see `stt.motion_tokens`."""

    def __init__(
        self, count: int, channels: int, reach: int, segmenter_width: int, *, num_steps: int, image_size: int,
        dim: int, heads: int, mlp_ratio: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.count, self.reach, self.num_steps = count, reach, num_steps
        self.segmenter = Segmenter(count, channels, segmenter_width)
        self.motion = MotionDecoder(count, reach, num_steps, image_size, dim, DEPTH, heads, mlp_ratio)

    @property
    def choices(self) -> tuple[int, int]:
        """Layers, and displacements of each: the shape of the noise that a frame takes."""
        return self.count, (2 * self.reach + 1) ** 2

    def score(self, frames: Tensor) -> Scored:
        """Clips (B, T, C, H, W) of two frames or more, each frame given those before it."""
        filtered = self.segmenter.filter(frames, self.reach)
        with torch.no_grad():
            steps = steps_of(filtered, self.num_steps)
            moved = [layers.moved(d) for layers, d in zip(filtered.history, steps.target.unbind(dim=1), strict=False)]
            predicted = torch.stack([composite(layers).clamp(0, 1) for layers in moved], dim=1)
            tracks = joined(
                [
                    batch_tracks(layers, steps.past[:, k], min(k, self.num_steps), self.reach)
                    for k, layers in enumerate(filtered.history[:-1])
                ]
            )
        nats = self.motion.nats(tracks, steps.target.transpose(0, 1).flatten(0, 1))
        loss = nats.new_zeros(()) if self.segmenter.frozen else segmentation_loss(filtered)
        return Scored(nats.unflatten(0, (-1, len(frames))).transpose(0, 1), predicted, loss)

    def start(self, frames: Tensor) -> LayerState:
        """(B, T, C, H, W), T at least 1."""
        filtered = self.segmenter.start(frames, self.reach)
        steps = last_steps(filtered, self.num_steps)
        return LayerState(frames[:, -1], filtered.layers, steps, min(len(filtered.matches), self.num_steps))

    def of_frames(self, frames: Tensor) -> LayerState:
        """A layer for each of up to `count` frames (B, L, C, H, W) of one thing each; their light adds up."""
        colour = F.pad(frames, (0,) * 6 + (0, self.count - frames.shape[1]))
        layers = Layers(torch.zeros_like(frames[:, 0]), colour, torch.zeros_like(colour[:, :, :1]))
        steps = torch.zeros(len(frames), self.num_steps, self.count, 2, dtype=torch.int64, device=frames.device)
        return LayerState(composite(layers).clamp(0, 1), layers, steps, 0)

    def draw(self, state: LayerState, sampling: Sampling, gumbel: Tensor | None) -> tuple[LayerState, Tensor]:
        """gumbel (F, *choices) for a state of F futures -> the state with moved layers, and the predicted frame."""
        tracks = batch_tracks(state.layers, state.steps, state.num_steps, self.reach)
        displacement = self.motion.draw(tracks, sampling, gumbel)
        layers = state.layers.moved(displacement)
        steps = torch.cat([displacement[:, None], state.steps], dim=1)[:, : self.num_steps]
        moved = LayerState(state.frame, layers, steps, min(state.num_steps + 1, self.num_steps))
        return moved, composite(layers).clamp(0, 1)

    def correct(self, moved: LayerState, frame: Tensor, changed: Tensor) -> LayerState:
        """The state after `draw`, given the frame as it came out; `changed` (B, 1, H, W): where it was corrected."""
        layers = moved.layers
        if changed.any():
            layers = mended(self.segmenter, layers, moved.steps[:, 0], moved.frame, frame, changed)
        return moved._replace(frame=frame, layers=layers)
