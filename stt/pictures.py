"""Pictures and flows as arrays: sampling, differences, masks.

Pictures are (H, W, 3), bytes or floats on [0, 1]. Flows (H, W, 2) lead from a frame's pixels to where they were in the
frame before.
"""

from __future__ import annotations

import cv2
import numpy as np

Array = np.ndarray


def pixels(height: int, width: int) -> Array:
    """The places (x, y) of all pixels, (H, W, 2)."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=-1)


def sample(picture: Array, flow: Array) -> Array:
    """A picture or flow (H, W, ...) as seen along a flow; beyond its borders it is mirrored."""
    at = pixels(*flow.shape[:2]) + flow
    return cv2.remap(picture, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def inside_of(flow: Array) -> Array:
    height, width = flow.shape[:2]
    at = pixels(height, width) + flow
    return (at >= 0).all(axis=-1) & (at[..., 0] <= width - 1) & (at[..., 1] <= height - 1)


def lengths(vectors: Array) -> Array:
    return np.hypot(vectors[..., 0], vectors[..., 1])


def blurred(picture: Array, radius: int) -> Array:
    side = 2 * radius + 1
    return cv2.blur(picture.astype(np.float32), (side, side), borderType=cv2.BORDER_REFLECT)


def misfit_of(frame: Array, before: Array, flow: Array) -> Array:
    return blurred(np.abs(frame - sample(before, flow)).mean(axis=-1), 1)


def texture_of(frame: Array) -> Array:
    """How much a pixel's surroundings tell of its motion, from 0.02 to 1."""
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    return np.clip(blurred(edges, 2) / 80, 0.02, 1)


def even_light(colours: Array) -> Array:
    """Frames (T, H, W, 3), each as bright as the last one."""
    return colours + np.median(colours[-1:] - colours, axis=(1, 2), keepdims=True)


def spread_flow(flow: Array, weight: Array, sigma: float) -> Array:
    """Means of a flow by weight, with a Gaussian window; 0 where there is no weight near."""
    weight = weight.astype(np.float32)
    total = cv2.GaussianBlur(weight, (0, 0), sigma)
    sums = cv2.GaussianBlur((weight[..., None] * flow).astype(np.float32), (0, 0), sigma)
    return np.where(total[..., None] > 1e-3, sums / np.maximum(total, 1e-6)[..., None], 0).astype(np.float32)


def filled(picture: Array, missing: Array) -> Array:
    """A picture (H, W, 3) whose missing pixels are means of what lies around: the nearer it is, the sharper."""
    weight, height = (~missing).astype(np.float32), len(missing)
    result: Array = np.broadcast_to(picture[~missing].mean(axis=0), picture.shape)
    sigma = 2.0 ** int(np.log2(max(height, 4)))
    while sigma >= 1:
        near = np.clip(4 * cv2.GaussianBlur(weight, (0, 0), sigma), 0, 1)[..., None]
        result = result + near * (spread_flow(picture, weight, sigma) - result)
        sigma /= 2
    return result


def union(masks: list[Array], shape: tuple[int, ...]) -> Array:
    return np.logical_or.reduce(masks) if masks else np.zeros(shape, bool)


def disk(radius: int) -> Array:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def dilated(mask: Array, radius: int) -> Array:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0


def eroded(mask: Array, radius: int) -> Array:
    return cv2.erode(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0


def opened(mask: Array, kernel: Array) -> Array:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0


def closed(mask: Array, kernel: Array) -> Array:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0


def touches_border(mask: Array) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
