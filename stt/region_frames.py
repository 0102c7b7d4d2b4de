"""Frames of regions: masks and similarity transforms that move a prompt's pixels over its ground."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stt.api import Video
from stt.optical_flow import resize, resize_flow, warp
from stt.regions import Scene

EDGE = 0.7  # pixels of a mask's blur


def as_bytes(video: Video) -> np.ndarray:
    """Clips (B, T, C, H, W) -> (B, T, H, W, 3) of bytes; gray becomes colour."""
    colour = video if video.shape[2] == 3 else video.mean(dim=2, keepdim=True).expand(-1, -1, 3, -1, -1)
    return ((colour.movedim(2, -1) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()


def ground_of(frames: Video, scene: Scene) -> Tensor:
    """The last of frames (T, C, H, W) of any size without its regions.

    Pixels are those of earlier frames where these show the ground, else of the scene's own picture.
    """
    size, device = size_of(frames), frames.device
    picture, channels = frames[-1:], frames.shape[1]
    age = torch.from_numpy(scene.age)[None, None].to(device)
    scenery = torch.from_numpy(scene.ground).movedim(-1, 0)[None].to(device) * 2 - 1
    scenery = scenery if channels == 3 else scenery.mean(dim=1, keepdim=True)
    for k in torch.unique(age).tolist():
        if k:
            path = torch.from_numpy(scene.paths[max(k, 0)]).movedim(-1, 0)[None].to(device)
            visible_ground = resize(scenery, size) if k < 0 else warp(frames[-1 - k][None], resize_flow(path, size))
            picture = torch.lerp(picture, visible_ground, resize((age == k).float(), size))
    return picture[0]


def drift_of(shares: Tensor, headings: Tensor, courses: Tensor, frames: Tensor) -> Tensor:
    """Displacements (N, R), complex, of regions beside those of their similarities after some frames (K,): 1 to K.

    They come from changes of direction (N, R), and from the accelerations of courses (N, R, 3).
    """
    velocity, acceleration = courses[..., 0, None], courses[..., 1, None]
    powers = shares[..., None] ** frames
    turned = torch.polar(powers, headings[..., None] * frames)
    return (turned * (velocity + acceleration * frames) - powers * velocity).sum(dim=-1)


def power_flow(
    turns: Tensor, shifts: Tensor, power: Tensor, size: tuple[int, int], drift: Tensor | None = None
) -> Tensor:
    """The flow (N, 2, h, w) of similarities z -> turn * z + shift (N,), applied `power` times (N,), also in part.

    drift (N,), complex: how far what is moved was displaced after that.
    """
    height, width = size
    y, x = torch.meshgrid(*(torch.arange(side, device=turns.device) for side in size), indexing="ij")
    z, drifted = torch.complex(x.float(), y.float()), torch.zeros_like(shifts) if drift is None else drift
    turned = torch.exp(power * torch.log(turns))
    small = (turns - 1).abs() < 1e-3
    times = torch.where(small, power + 0 * turned, (1 - turned) / torch.where(small, 0.5 + 0j, 1 - turns))
    moved = (turned - 1)[:, None, None] * (z - drifted[:, None, None]) + (shifts * times - drifted)[:, None, None]
    return torch.stack([moved.real, moved.imag], dim=1)


def blurred(mask: Tensor) -> Tensor:
    """Masks (N, 1, h, w) with soft edges."""
    at = torch.arange(-2, 3, device=mask.device, dtype=mask.dtype)
    kernel = torch.exp(-0.5 * (at / EDGE).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(mask, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])


def composed(frame: Tensor, last: Tensor, mask: Tensor, flow: Tensor) -> Tensor:
    """Frames (N, C, H, W) with the last frame's pixels under a mask (N, 1, h, w), both moved along a flow, on top.

    What the picture's border cuts off goes on beyond it as at the border.
    """
    size = size_of(frame)
    moved = warp(mask, flow, "bilinear")
    rows, columns = (slice(0, side) for side in size)
    if mask.device.type == "cpu":  # only where there is something; a GPU would have to be waited for
        rows, columns = (_extent(moved.amax(dim=(0, 1, axis)), side) for axis, side in zip((3, 2), size, strict=True))
    part = ..., rows, columns
    alpha, flow = resize(moved, size)[part], resize_flow(flow, size)[part]
    result = frame.clone()
    result[part] = torch.lerp(frame[part], warp(last, flow, corner=(rows.start, columns.start)), alpha)
    return result


def _extent(weights: Tensor, side: int) -> slice:
    """Where in `side` pixels a line of weights, which covers them, is not 0."""
    at, scale = weights.nonzero(), side / len(weights)
    if not len(at):
        return slice(0, 0)
    return slice(max(int((int(at[0]) - 1) * scale), 0), min(int((int(at[-1]) + 2) * scale) + 1, side))


def size_of(frames: Tensor) -> tuple[int, int]:
    height, width = frames.shape[-2:]
    return height, width
