"""Which parts of a prompt's last frame move as wholes, and where they were before.

GrabCut (Rother et al. 2004) draws the outlines of what the optical flow says moves otherwise than the camera. What is
too fast for the flow is searched for.
"""

from __future__ import annotations

import cv2
import numpy as np

from stt.pictures import (
    Array,
    blurred,
    closed,
    dilated,
    disk,
    eroded,
    inside_of,
    lengths,
    misfit_of,
    opened,
    pixels,
    sample,
)
from stt.region_flow import NOISE, RIGID, dis_flow, fit_matrix

MOTION = 0.4  # pixels a frame that a region moves otherwise than the ground, at least
PARALLAX = 0.3  # of the camera's motion, by which parts of a still ground differ
FAST = 0.02  # of the longer side, in a frame, from which on a thing is looked for though the flow explains it
FASTEST = 0.15  # the same, at most
LARGEST_FAST = 0.12  # share of the picture of a thing that is looked for so far
SMALLEST = 0.0005  # share of the picture of a region


def moving_parts(
    frames: Array, colours: Array, flow: Array, camera: Array, paths: list[Array], misfit: Array
) -> list[Array]:
    """Masks of the connected parts of the last frame that move otherwise than the camera."""
    last, before = colours[-1], colours[-2]
    height, width = flow.shape[:2]
    speed = lengths(flow - camera)
    least = MOTION + PARALLAX * (lengths(camera) + lengths(camera).mean())
    ahead = dis_flow(frames[-2], frames[-1])
    inside = inside_of(flow)
    there_and_back = lengths(flow + sample(ahead, flow)) < 0.5 + 0.1 * lengths(flow)
    visible = blurred(there_and_back & inside, 1) > 0.5  # else it has just been uncovered
    static_misfit = misfit_of(last, before, camera)
    changed = static_misfit.copy()
    for age in range(2, min(4, len(frames))):
        difference = blurred(np.abs(last - sample(colours[-1 - age], paths[age])).mean(axis=-1), 1)
        changed = np.maximum(changed, np.where(inside_of(paths[age]), difference, 0))
    moving = (speed > least) & (misfit < static_misfit + 0.01) & visible
    sure = moving & (changed > 2 * NOISE) & (static_misfit > NOISE) & (misfit < 0.8 * static_misfit)
    sure = opened(sure, np.ones((2, 2), np.uint8))
    possible = closed(speed > 0.7 * least, np.ones((5, 5), np.uint8))
    count, labels = cv2.connectedComponents(possible.astype(np.uint8))
    seeds = np.bincount(labels[sure & possible], minlength=count)
    seeds[0] = 0
    possible = (seeds >= max(8, 0.4 * SMALLEST * flow[..., 0].size))[labels]
    sure &= possible
    if not sure.any():
        return []
    core = opened(closed(moving & (changed > NOISE) & possible, disk(3)), disk(2))
    hulls = np.zeros((height, width), np.uint8)  # what is even inside of them, such as a white roof, tells no motion
    for outline in cv2.findContours(core.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
        cv2.fillConvexPoly(hulls, cv2.convexHull(outline), 1)
    plain = (speed > least) & (misfit < NOISE) & visible  # the even inside of a thing
    core = closed(core | ((hulls > 0) & (moving | plain)), disk(2))
    guess = np.full((height, width), cv2.GC_BGD, np.uint8)
    guess[dilated(core, 3) | (hulls > 0)] = cv2.GC_PR_BGD
    guess[core] = cv2.GC_PR_FGD
    guess[core & (sure | (eroded(core, 3) & (static_misfit > NOISE)))] = cv2.GC_FGD
    uncovered = ~visible & inside & (speed > least) & (static_misfit > 2 * NOISE)
    guess[uncovered & (guess != cv2.GC_FGD)] = cv2.GC_BGD
    if (guess == cv2.GC_FGD).any() and (guess == cv2.GC_BGD).any():
        cv2.setRNGSeed(1)
        picture = np.ascontiguousarray(frames[-1][..., ::-1])
        cv2.grabCut(picture, guess, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    parts = (guess == cv2.GC_FGD) | (guess == cv2.GC_PR_FGD)
    parts = without_holes(opened(closed(parts, np.ones((3, 3), np.uint8)), np.ones((3, 3), np.uint8)))
    count, labels, figures, _ = cv2.connectedComponentsWithStats(parts.astype(np.uint8))
    smallest = max(16, SMALLEST * parts.size)
    found = []
    for k in range(1, count):
        part, area = labels == k, figures[k, cv2.CC_STAT_AREA]
        clear = static_misfit[part].mean() > max(NOISE, 2 * misfit[part].mean())  # else a small one is a flow's error
        if area >= smallest and (clear or area >= 8 * smallest):
            found.append(dilated(part, 1))  # edges are blurred over a pixel
    return found


def fast_parts(
    frames: Array, colours: Array, cameras: list[Array], paths: list[Array], misfit: Array, known: Array
) -> list[tuple[Array, Array]]:
    """Masks of things too fast for the optical flow, and their displacements (right, down) to the frame before.

    They differ from what the two frames before show in their place, and are found elsewhere in the last of these.
    """
    if len(frames) < 3:
        return []
    new = misfit_of(colours[-1], colours[-2], cameras[-1]) > 2 * NOISE
    new &= blurred(np.abs(colours[-1] - sample(colours[-3], paths[2])).mean(axis=-1), 1) > 2 * NOISE
    new = opened(closed(new & ~dilated(known, 3), disk(2)), disk(1))
    count, labels, figures, _ = cv2.connectedComponentsWithStats(new.astype(np.uint8))
    reach = round(FASTEST * max(new.shape))
    found = []
    for k in range(1, count):
        mask, area = labels == k, figures[k, cv2.CC_STAT_AREA]
        if not max(16, SMALLEST * mask.size) <= area <= LARGEST_FAST * mask.size:
            continue
        rows, columns = np.nonzero(mask)
        box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        weight = np.repeat(mask[box].astype(np.float32)[..., None], 3, axis=2)
        corner, step = (int(columns.min()), int(rows.min())), np.zeros(2)
        for frame in frames[-2:-4:-1]:  # found in both frames before, at about the same pace
            at = corner[0] + round(step[0]), corner[1] + round(step[1])
            near = reach if not step.any() else max(reach // 4, round(0.6 * float(lengths(step / 2))))
            place = np.round(step) + _search(
                frames[-1][box].astype(np.float32), weight, frame, at, near, np.ones(2) * reach
            )
            moved = np.array([[1, 0, place[0]], [0, 1, place[1]]], np.float32)
            there = cv2.warpAffine(colours[-1], moved, mask.shape[::-1], flags=cv2.INTER_LINEAR)
            cover = cv2.warpAffine(mask.astype(np.uint8), moved, mask.shape[::-1], flags=cv2.INTER_NEAREST) > 0
            error = np.abs(there - frame.astype(np.float32) / 255).mean(axis=-1)
            if cover.sum() < 0.5 * area or error[cover].mean() > 1.5 * NOISE:
                break
            step = 2 * place if not step.any() else step
        else:
            if misfit[mask].mean() > 1.5 * NOISE or lengths(step / 2) > FAST * max(mask.shape):
                found.append((mask, (step / 2).astype(np.float32)))
    return found


def without_holes(mask: Array) -> Array:
    """A mask without small holes."""
    count, labels, figures, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8))
    small = figures[:, cv2.CC_STAT_AREA] < max(16, 0.1 * np.count_nonzero(mask))
    return mask | small[labels]


def split_part(mask: Array, flow: Array, texture: Array) -> list[Array]:
    """A part that holds two things which each move as a whole, in opposite ways, becomes two."""
    tolerance = 0.5 + 0.12 * float(lengths(flow[mask]).mean())
    if mask.sum() < 16 * SMALLEST * mask.size or _explained(mask, flow, texture, tolerance) > RIGID:
        return [mask]
    rows, columns = np.nonzero(mask)
    speed = float(lengths(flow[mask]).mean()) + 0.3
    places = np.stack([columns / mask.shape[1], rows / mask.shape[0]], axis=-1)
    features = np.concatenate([1.5 * flow[mask] / speed, 2 * places], axis=-1).astype(np.float32)
    cv2.setRNGSeed(1)
    _, labels, centres = cv2.kmeans(
        features, 2, np.zeros((len(features), 1), np.int32), (3, 20, 0.1), 2, cv2.KMEANS_PP_CENTERS
    )
    first = np.zeros_like(mask)
    first[rows, columns] = labels[:, 0] == 0
    first = (cv2.medianBlur(first.astype(np.uint8), 5) > 0) & mask
    parts = [first, mask & ~first]
    apart = lengths(centres[0, :2] - centres[1, :2]) > 0.6
    if not apart or min(part.sum() for part in parts) < 0.15 * mask.sum():
        return [mask]
    return parts if min(_explained(part, flow, texture, tolerance) for part in parts) > 0.8 else [mask]


def _explained(mask: Array, flow: Array, texture: Array, tolerance: float) -> float:
    return fit_matrix(cv2.estimateAffinePartial2D, flow, mask * texture, tolerance)[1]


def follow(mask: Array, frames: Array, flow: Array) -> tuple[Array, list[Array]]:
    """Where a region of the first of some frames (T, H, W, 3) is in each of them, and masks of it there.

    Places (T, 2) are relative to the first frame's. flow: from the first frame to the second, about. Each frame is
    searched for the region's pixels near where its last step leads.
    """
    rows, columns = np.nonzero(mask)
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    patch = frames[0][box].astype(np.float32)
    weight = np.repeat(mask[box].astype(np.float32)[..., None], 3, axis=2)
    step, place = np.median(flow[mask], axis=0).astype(np.float64), np.zeros(2)
    places, masks = [place], [mask]
    for frame in frames[1:]:
        reach = int(np.ceil(3 + 0.5 * np.abs(step).max()))
        guess = np.round(place + step).astype(int)
        found = guess + _search(patch, weight, frame, (box[1].start + guess[0], box[0].start + guess[1]), reach, step)
        step, place = 0.5 * step + 0.5 * (found - place), found
        places.append(place)
        move = np.array([[1, 0, place[0]], [0, 1, place[1]]], np.float32)
        masks.append(cv2.warpAffine(mask.astype(np.uint8), move, mask.shape[::-1], flags=cv2.INTER_NEAREST) > 0)
    return np.array(places, np.float32), masks


def _search(patch: Array, weight: Array, frame: Array, corner: tuple[int, int], reach: int, step: Array) -> Array:
    """The displacement (right, down), up to `reach` pixels from a corner, at which a frame looks most like a patch."""
    (left, top), (height, width) = (c - reach for c in corner), (side + 2 * reach for side in patch.shape[:2])
    border = max(0, -left, -top, left + width - frame.shape[1], top + height - frame.shape[0])
    if border > max(frame.shape):  # it is far outside of the picture
        return np.zeros(2)
    wide = cv2.copyMakeBorder(frame, border, border, border, border, cv2.BORDER_REPLICATE).astype(np.float32)
    area = wide[top + border : top + border + height, left + border : left + border + width]
    errors = cv2.matchTemplate(area, patch, cv2.TM_SQDIFF, mask=weight) / (255**2 * weight.sum())
    far = lengths(pixels(2 * reach + 1, 2 * reach + 1) - reach)
    errors = errors + 2e-4 * far / max(1.0, float(lengths(step)))
    row, column = (int(k) for k in np.unravel_index(np.argmin(errors), errors.shape))
    offsets = [_vertex(errors[row], column), _vertex(errors[:, column], row)]
    return np.array([column - reach, row - reach]) + offsets


def _vertex(values: Array, at: int) -> float:
    """The fraction of a step from a smallest value to the vertex of a parabola through it and its neighbours."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, least, after = (float(v) for v in values[at - 1 : at + 2])
    curvature = before - 2 * least + after
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature > 1e-9 else 0.0
