"""Optical flow for regions: of frames, of a camera, and of parts of a frame that one similarity moves."""

from __future__ import annotations

import cmath

import cv2
import numpy as np

from stt.pictures import Array, eroded, lengths, misfit_of, pixels, sample, spread_flow

NOISE = 0.035  # difference of colours, on [0, 1], that is none
CAMERA_SHARE = 0.25  # of a picture's texture that moves as the camera does, at least
SLOWEST_CAMERA = 0.3  # pixels a frame
CELLS = 6  # a side, of which many must tell that the camera moves
RIGID = 0.5  # share of a region's pixels that one similarity explains, at least
MOST_TURN, MOST_GROWTH = 0.3, 0.15  # of a region in one frame: radians, logarithm of its size


def dis_flow(frame: Array, before: Array) -> Array:
    """DIS optical flow (arXiv 1603.03590) of a picture of bytes to the one before."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    height, width = frame.shape[:2]
    bars = [(0, max(16 - side, 0)) for side in (height, width)]  # DIS needs 16 pixels
    gray = [
        np.pad(cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY), bars, mode="edge") for x in (frame, before)
    ]
    return np.asarray(dis.calc(gray[0], gray[1], np.zeros((*gray[0].shape, 2), np.float32)))[:height, :width]


def steadied(flows: list[Array]) -> Array:
    """The last flow, a little like the one before where both agree: their errors are independent."""
    flow = flows[-1]
    if len(flows) < 3:
        return flow
    older = sample(flows[-2], flow)
    agreement = 1 - lengths(older - flow) / (0.3 + 0.4 * lengths(flow))
    return flow + 0.4 * np.clip(agreement, 0, 1)[..., None] * (older - flow)


def camera_flow(frame: Array, before: Array, flow: Array, texture: Array) -> Array:
    """The ground's flow: that of most textured pixels, where it is better than a camera at rest all over the frame."""
    still = np.zeros_like(flow)
    tolerance = 0.4 + 0.05 * float(np.median(lengths(flow)))
    matrix, share = fit_matrix(cv2.estimateAffine2D, flow, texture, tolerance)
    if matrix is None or share < CAMERA_SHARE:
        return still
    at = pixels(*flow.shape[:2])
    affine = at @ matrix[:, :2].T + matrix[:, 2] - at
    near = lengths(flow - affine) < 1 + 0.3 * lengths(affine)  # perspective, not a thing that moves
    camera = (affine + spread_flow(flow - affine, texture * near, 0.06 * flow.shape[1])).astype(np.float32)
    better = misfit_of(frame, before, still) - misfit_of(frame, before, camera)
    votes = [_cells((sign * better > NOISE / 2).astype(np.float32)) for sign in (1, -1)]
    if lengths(camera).mean() < SLOWEST_CAMERA:
        return still
    moving, resting = ((a > b) & (a > 0.01) for a, b in (votes, votes[::-1]))
    extent = [np.ptp(axis) + 1 for axis in np.nonzero(moving)] if moving.any() else [0, 0]
    wide = min(extent) >= CELLS / 2 and max(extent) >= CELLS - 1  # else it is a thing that moves
    return camera if wide and moving.sum() > 2 * resting.sum() else still


def _cells(picture: Array) -> Array:
    return cv2.resize(picture, (CELLS, CELLS), interpolation=cv2.INTER_AREA)


def similarity_of(mask: Array, flow: Array, weight: Array) -> tuple[complex, complex]:
    """turn and shift of a region; where none explains it, its median displacement."""
    speed = float(lengths(flow[mask]).mean())
    core = eroded(mask, 1)
    core = core if core.sum() >= 12 else mask
    matrix, share = fit_matrix(cv2.estimateAffinePartial2D, flow, core * weight, 0.5 + 0.1 * speed)
    if matrix is not None and share > RIGID and mask.sum() > 60:
        turn, shift = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
        growth, angle = cmath.polar(turn)
        if abs(angle) < MOST_TURN and abs(np.log(max(growth, 1e-9))) < MOST_GROWTH:
            return turn, shift
    right, down = np.median(flow[mask], axis=0)
    return 1 + 0j, complex(right, down)


def similarity_flow(turn: complex, shift: complex, height: int, width: int) -> Array:
    """The flow x -> turn * x + shift - x of complex places x."""
    at = pixels(height, width)
    moved = (turn - 1) * (at[..., 0] + 1j * at[..., 1]) + shift
    return np.stack([moved.real, moved.imag], axis=-1).astype(np.float32)


def fit_matrix(estimate: object, flow: Array, weight: Array, tolerance: float) -> tuple[Array | None, float]:
    """A matrix by RANSAC from pixels drawn by weight, and the share of them that it explains."""
    rows, columns = np.nonzero(weight > 0)
    if len(rows) < 20:
        return None, 0.0
    chances = weight[rows, columns].astype(np.float64)
    chosen = np.random.default_rng(0).choice(len(rows), min(len(rows), 2000), replace=False, p=chances / chances.sum())
    places = np.stack([columns[chosen], rows[chosen]], axis=-1).astype(np.float32)
    cv2.setRNGSeed(1)
    matrix, inliers = estimate(  # type: ignore[operator]
        places, places + flow[rows[chosen], columns[chosen]], method=cv2.RANSAC, ransacReprojThreshold=tolerance,
        maxIters=500, confidence=0.995, refineIters=10,
    )  # fmt: skip
    return (None, 0.0) if matrix is None else (matrix.astype(np.float32), float(inliers.mean()))
